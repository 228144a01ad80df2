-- +goose Up

-- Which configuration a process follows, and what became of the tries to
-- replace it while it runs.
ALTER TABLE workers
    ADD COLUMN config_hash    TEXT COLLATE "C",
    ADD COLUMN reloads        BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN reloads_failed BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN reload_error   TEXT COLLATE "C";

-- +goose Down
ALTER TABLE workers
    DROP COLUMN reload_error,
    DROP COLUMN reloads_failed,
    DROP COLUMN reloads,
    DROP COLUMN config_hash;
