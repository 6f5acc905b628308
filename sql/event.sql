-- The event table: append-only, the only truth.  Rows arrive through the
-- functions, or by INSERT and COPY; the AFTER INSERT trigger holds all of them
-- to the same rules.

CREATE TYPE inventory.event_type AS ENUM (
	'receive', 'issue', 'adjust', 'count', 'transfer_out', 'transfer_in',
	'reserve', 'confirm', 'ship', 'release', 'expire', 'reverse', 'rebuild');
COMMENT ON TYPE inventory.event_type IS 'What kind of change an event is.';

CREATE SEQUENCE inventory.event_event_id_seq;

CREATE TABLE inventory.event (
	event_id bigint NOT NULL DEFAULT nextval('inventory.event_event_id_seq'),
	stock_id bigint NOT NULL,
	type inventory.event_type NOT NULL,
	on_hand_delta bigint NOT NULL DEFAULT 0,
	reserved_delta bigint NOT NULL DEFAULT 0,
	committed_delta bigint NOT NULL DEFAULT 0,
	reservation_id bigint,
	request_id text,
	reference text,
	reason text,
	actor text NOT NULL DEFAULT session_user,
	recorded_at timestamptz NOT NULL DEFAULT inventory.transaction_time(),
	effective_at timestamptz,
	xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
	reverses bigint,
	metadata jsonb
) PARTITION BY RANGE (recorded_at);
ALTER SEQUENCE inventory.event_event_id_seq OWNED BY inventory.event.event_id;

-- The indexes are those of the partitions alone, see make_partition(): with
-- indexes of this table, which CREATE EXTENSION makes, a dump could not be
-- loaded, because attaching a partition would make the indexes that the dump
-- makes after it.

COMMENT ON TABLE inventory.event IS
'Every change of every stock item, append-only, one partition per month of recorded_at. Nothing here is ever updated or deleted; a correction is another event.';
COMMENT ON COLUMN inventory.event.event_id IS 'Number of the event; within a stock item, a later event has a larger number.';
COMMENT ON COLUMN inventory.event.stock_id IS 'The stock item that changed.';
COMMENT ON COLUMN inventory.event.type IS 'What kind of change.';
COMMENT ON COLUMN inventory.event.on_hand_delta IS 'Change of on hand, in base units.';
COMMENT ON COLUMN inventory.event.reserved_delta IS 'Change of reserved, in base units.';
COMMENT ON COLUMN inventory.event.committed_delta IS 'Change of committed, in base units.';
COMMENT ON COLUMN inventory.event.reservation_id IS 'The reservation that the event belongs to.';
COMMENT ON COLUMN inventory.event.request_id IS 'The idempotency key of the call that wrote it.';
COMMENT ON COLUMN inventory.event.reference IS 'The business document that caused the change.';
COMMENT ON COLUMN inventory.event.reason IS 'The coded cause.';
COMMENT ON COLUMN inventory.event.actor IS 'The role that made the call.';
COMMENT ON COLUMN inventory.event.recorded_at IS 'When the engine learned it: the start of the writing transaction.';
COMMENT ON COLUMN inventory.event.effective_at IS 'When it happened; NULL when that is recorded_at.';
COMMENT ON COLUMN inventory.event.xid IS 'The writing transaction.';
COMMENT ON COLUMN inventory.event.reverses IS 'For type reverse: the event that is taken back.';
COMMENT ON COLUMN inventory.event.metadata IS 'Anything the application wants to keep with the event.';

CREATE FUNCTION inventory.event_applied() RETURNS trigger
	LANGUAGE c
	AS 'MODULE_PATHNAME', 'inventory_event_applied';
REVOKE ALL ON FUNCTION inventory.event_applied() FROM PUBLIC;
COMMENT ON FUNCTION inventory.event_applied() IS
'Trigger: moves the levels by each inserted event, or refuses it.';

CREATE FUNCTION inventory.event_append_only() RETURNS trigger
	LANGUAGE c SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_event_append_only';
REVOKE ALL ON FUNCTION inventory.event_append_only() FROM PUBLIC;
COMMENT ON FUNCTION inventory.event_append_only() IS
'Trigger: refuses UPDATE, DELETE and TRUNCATE of events, from everyone.';

CREATE TRIGGER event_applied AFTER INSERT ON inventory.event
	FOR EACH ROW EXECUTE FUNCTION inventory.event_applied();
CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE ON inventory.event
	FOR EACH ROW EXECUTE FUNCTION inventory.event_append_only();
CREATE TRIGGER event_no_truncate BEFORE TRUNCATE ON inventory.event
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.event_append_only();
ALTER TABLE inventory.event ENABLE ALWAYS TRIGGER event_applied;
ALTER TABLE inventory.event ENABLE ALWAYS TRIGGER event_append_only;
ALTER TABLE inventory.event ENABLE ALWAYS TRIGGER event_no_truncate;

SELECT pg_extension_config_dump('inventory.event', '');
SELECT pg_extension_config_dump('inventory.event_event_id_seq', '');
