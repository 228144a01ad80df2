-- +goose Up

-- The copy that migrate copy makes of this database, and the one it makes into
-- it. While one of them is closed nobody else works here: the queue is only half
-- there, or has moved on.
CREATE TABLE webhook_copies (
    side       TEXT     COLLATE "C" PRIMARY KEY CHECK (side IN ('from', 'to')),
    copy_id    TEXT     COLLATE "C" NOT NULL,
    other      TEXT     COLLATE "C" NOT NULL,
    run_id     TEXT     COLLATE "C" NOT NULL,
    closed     SMALLINT NOT NULL CHECK (closed IN (0, 1)),
    started_at BIGINT   NOT NULL
);

-- For the triggers that come and go with it: they keep out those who had opened
-- the database before.
-- +goose StatementBegin
CREATE FUNCTION webhook_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM webhook_copies WHERE closed = 1) THEN
        RAISE EXCEPTION 'closed by migrate copy' USING ERRCODE = 'OR001';
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION webhook_closed() CASCADE;
DROP TABLE webhook_copies;
