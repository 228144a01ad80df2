-- +goose Up

-- Which configuration a process follows, and what became of the tries to
-- replace it while it runs.
ALTER TABLE workers ADD COLUMN config_hash TEXT;
ALTER TABLE workers ADD COLUMN reloads INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN reloads_failed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workers ADD COLUMN reload_error TEXT;

-- +goose Down
ALTER TABLE workers DROP COLUMN reload_error;
ALTER TABLE workers DROP COLUMN reloads_failed;
ALTER TABLE workers DROP COLUMN reloads;
ALTER TABLE workers DROP COLUMN config_hash;
