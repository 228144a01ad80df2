-- +goose Up

-- A stored delivery and where it stands. The status is derived from the
-- counters of its jobs, so that the two can't disagree. Times are Unix
-- milliseconds.
CREATE TABLE webhook_events (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    source            TEXT    NOT NULL CHECK (length(source) BETWEEN 1 AND 255),
    delivery_id       TEXT    NOT NULL CHECK (length(delivery_id) BETWEEN 1 AND 300),
    event_type        TEXT    NOT NULL CHECK (length(event_type) BETWEEN 1 AND 255),
    action            TEXT    CHECK (length(action) <= 255),
    repository        TEXT    CHECK (length(repository) <= 255),
    sender            TEXT    CHECK (length(sender) <= 255),
    ref               TEXT    CHECK (length(ref) <= 255),
    number            INTEGER,
    hook_id           INTEGER,
    n_pending         INTEGER NOT NULL DEFAULT 0 CHECK (n_pending >= 0),
    n_processing      INTEGER NOT NULL DEFAULT 0 CHECK (n_processing >= 0),
    n_failed          INTEGER NOT NULL DEFAULT 0 CHECK (n_failed >= 0),
    n_dead            INTEGER NOT NULL DEFAULT 0 CHECK (n_dead >= 0),
    status            TEXT    NOT NULL GENERATED ALWAYS AS (
        CASE WHEN n_processing > 0 THEN 'processing'
             WHEN n_pending > 0    THEN 'pending'
             WHEN n_failed > 0     THEN 'failed'
             WHEN n_dead > 0       THEN 'dead_letter'
             ELSE 'completed' END) STORED,
    retry_count       INTEGER NOT NULL DEFAULT 0 CHECK (retry_count >= 0),
    max_retries       INTEGER NOT NULL DEFAULT 0 CHECK (max_retries >= 0),
    error_message     TEXT,
    next_retry_at     INTEGER,
    received_at       INTEGER NOT NULL,
    processed_at      INTEGER,
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL,
    requeued_at       INTEGER,
    purged_at         INTEGER,
    duplicate_count   INTEGER NOT NULL DEFAULT 0 CHECK (duplicate_count >= 0),
    last_duplicate_at INTEGER,
    conflict_count    INTEGER NOT NULL DEFAULT 0 CHECK (conflict_count >= 0),
    body_size         INTEGER NOT NULL CHECK (body_size >= 0),
    body_sha256       TEXT    NOT NULL CHECK (length(body_sha256) = 64),
    UNIQUE (delivery_id, source)
) STRICT;

-- Apart from the event, so that a change of status never rewrites a payload.
CREATE TABLE webhook_payloads (
    event_id INTEGER PRIMARY KEY REFERENCES webhook_events (id) ON DELETE CASCADE,
    headers  BLOB    NOT NULL,
    codec    INTEGER NOT NULL CHECK (codec IN (0)),
    body     BLOB    NOT NULL
) STRICT;

-- One event times one route: the unit of claim, retry and dead letter.
CREATE TABLE webhook_jobs (
    event_id          INTEGER NOT NULL REFERENCES webhook_events (id) ON DELETE CASCADE,
    route             TEXT    NOT NULL CHECK (length(route) BETWEEN 1 AND 255),
    status            TEXT    NOT NULL
        CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'dead_letter')),
    retry_count       INTEGER NOT NULL DEFAULT 0 CHECK (retry_count BETWEEN 0 AND max_retries),
    max_retries       INTEGER NOT NULL,
    error_message     TEXT,
    due_at            INTEGER NOT NULL,
    claim_seq         INTEGER NOT NULL DEFAULT 0,
    worker_id         TEXT,
    crash_count       INTEGER NOT NULL DEFAULT 0 CHECK (crash_count >= 0),
    unavailable_since INTEGER,
    match_pending     INTEGER NOT NULL DEFAULT 0 CHECK (match_pending IN (0, 1)),
    started_at        INTEGER,
    finished_at       INTEGER,
    PRIMARY KEY (event_id, route),
    CHECK (status <> 'processing' OR worker_id IS NOT NULL)
) STRICT, WITHOUT ROWID;

CREATE INDEX webhook_jobs_due ON webhook_jobs (route, due_at, event_id) WHERE status IN ('pending', 'failed');
CREATE INDEX webhook_jobs_suspect ON webhook_jobs (route, due_at, event_id)
    WHERE status IN ('pending', 'failed') AND crash_count > 0;
CREATE INDEX webhook_jobs_processing ON webhook_jobs (worker_id) WHERE status = 'processing';
CREATE INDEX webhook_jobs_dead ON webhook_jobs (event_id) WHERE status = 'dead_letter';

-- The history of claims: each writes its row once, when it ends.
CREATE TABLE webhook_attempts (
    event_id      INTEGER NOT NULL REFERENCES webhook_events (id) ON DELETE CASCADE,
    route         TEXT    NOT NULL,
    claim_seq     INTEGER NOT NULL,
    worker_id     TEXT,
    outcome       TEXT    NOT NULL CHECK (outcome IN ('completed', 'skipped', 'failed', 'unavailable',
        'dead_letter', 'stopped', 'lost', 'crashed', 'cancelled')),
    started_at    INTEGER,
    finished_at   INTEGER NOT NULL,
    exit_code     INTEGER,
    http_status   INTEGER,
    error_message TEXT,
    output        BLOB CHECK (length(output) <= 65536),
    version       TEXT,
    config_hash   TEXT,
    PRIMARY KEY (event_id, route, claim_seq)
) STRICT, WITHOUT ROWID;

-- Who claims. Others compare beat, never the times.
CREATE TABLE workers (
    id           TEXT    PRIMARY KEY,
    host         TEXT    NOT NULL,
    pid          INTEGER NOT NULL,
    version      TEXT    NOT NULL,
    routes       BLOB    NOT NULL,
    slots        INTEGER NOT NULL,
    started_at   INTEGER NOT NULL,
    beat         INTEGER NOT NULL DEFAULT 0,
    heartbeat_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE workers;
DROP TABLE webhook_attempts;
DROP TABLE webhook_jobs;
DROP TABLE webhook_payloads;
DROP TABLE webhook_events;
