-- Idempotency: one row per request id, written by the call itself.

CREATE TABLE inventory.request (
	request_id text COLLATE "C" NOT NULL CONSTRAINT request_pkey PRIMARY KEY,
	operation text COLLATE "C" NOT NULL,
	fingerprint bigint NOT NULL,
	result bigint,
	created_at timestamptz NOT NULL DEFAULT inventory.transaction_time()
);
COMMENT ON TABLE inventory.request IS
'What each request id has done: the same id with the same arguments returns the first result, with other arguments it is an error.';
COMMENT ON COLUMN inventory.request.request_id IS 'The caller''s idempotency key.';
COMMENT ON COLUMN inventory.request.operation IS 'The function that was called.';
COMMENT ON COLUMN inventory.request.fingerprint IS 'Hash of the arguments.';
COMMENT ON COLUMN inventory.request.result IS 'What the call returned; for extend, microseconds since 2000-01-01 UTC, or NULL for no deadline.';
COMMENT ON COLUMN inventory.request.created_at IS 'When the call was made.';
COMMENT ON INDEX inventory.request_pkey IS 'Query: a request by its id (every call that has one).';
CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE ON inventory.request
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

SELECT pg_extension_config_dump('inventory.request', '');
