-- +goose Up

-- The copy that migrate copy makes of this database, and the one it makes into
-- it. While one of them is closed nobody else works here: the queue is only half
-- there, or has moved on. Triggers that come and go with it keep out those who
-- had opened the database before.
CREATE TABLE webhook_copies (
    side       TEXT    PRIMARY KEY CHECK (side IN ('from', 'to')),
    copy_id    TEXT    NOT NULL,
    other      TEXT    NOT NULL,
    run_id     TEXT    NOT NULL,
    closed     INTEGER NOT NULL CHECK (closed IN (0, 1)),
    started_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TRIGGER IF EXISTS webhook_events_closed_insert;
DROP TRIGGER IF EXISTS webhook_events_closed_update;
DROP TRIGGER IF EXISTS webhook_events_closed_delete;
DROP TRIGGER IF EXISTS webhook_payloads_closed_insert;
DROP TRIGGER IF EXISTS webhook_payloads_closed_update;
DROP TRIGGER IF EXISTS webhook_payloads_closed_delete;
DROP TRIGGER IF EXISTS webhook_jobs_closed_insert;
DROP TRIGGER IF EXISTS webhook_jobs_closed_update;
DROP TRIGGER IF EXISTS webhook_jobs_closed_delete;
DROP TRIGGER IF EXISTS webhook_attempts_closed_insert;
DROP TRIGGER IF EXISTS webhook_attempts_closed_update;
DROP TRIGGER IF EXISTS webhook_attempts_closed_delete;
DROP TRIGGER IF EXISTS workers_closed_insert;
DROP TRIGGER IF EXISTS workers_closed_update;
DROP TRIGGER IF EXISTS workers_closed_delete;
DROP TABLE webhook_copies;
