-- Ticks and snapshots: what the projection has written down.  A tick is a
-- recorded MVCC snapshot; the events visible in it and not in the tick before
-- are its batch, exactly, whatever order transactions have committed in.

CREATE TABLE inventory.tick (
	tick_id bigint NOT NULL CONSTRAINT tick_pkey PRIMARY KEY,
	ticked_at timestamptz NOT NULL,
	snapshot pg_snapshot NOT NULL,
	events bigint NOT NULL,
	snapshots bigint NOT NULL,
	key_id text,
	hash bytea NOT NULL
);
COMMENT ON TABLE inventory.tick IS
'Batches of events that have been added to the stock rows. Written only when there are events.';
COMMENT ON COLUMN inventory.tick.tick_id IS 'Number of the tick, from 1, without gaps until old ones are thinned.';
COMMENT ON COLUMN inventory.tick.ticked_at IS 'When it was written.';
COMMENT ON COLUMN inventory.tick.snapshot IS 'The transactions whose events are in this tick or one before it.';
COMMENT ON COLUMN inventory.tick.events IS 'Number of events in the batch.';
COMMENT ON COLUMN inventory.tick.snapshots IS 'Number of rows of the table snapshot that were made at this tick.';
COMMENT ON COLUMN inventory.tick.key_id IS 'Which inventory.hash_key the hash was made with: the first 16 digits of the key''s SHA-256; NULL for none.';
COMMENT ON COLUMN inventory.tick.hash IS 'SHA-256 (HMAC-SHA-256 with a key) of the hash before and the events of the batch.';
COMMENT ON INDEX inventory.tick_pkey IS 'Query: the latest tick (stock_level, level load), and a tick by its number (history, verify).';
CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.tick
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

CREATE TABLE inventory.snapshot (
	stock_id bigint NOT NULL,
	tick_id bigint NOT NULL,
	previous_tick_id bigint,
	on_hand bigint NOT NULL,
	reserved bigint NOT NULL,
	committed bigint NOT NULL,
	event_count bigint NOT NULL,
	recorded_from timestamptz NOT NULL,
	recorded_until timestamptz NOT NULL,
	late boolean NOT NULL,
	CONSTRAINT snapshot_pkey PRIMARY KEY (stock_id, tick_id)
);
CREATE INDEX snapshot_stock_id_recorded_until_idx ON inventory.snapshot (stock_id, recorded_until, tick_id);
CREATE INDEX snapshot_late_idx ON inventory.snapshot (stock_id, recorded_from) WHERE late;
COMMENT ON TABLE inventory.snapshot IS
'What a stock item came to at a tick: every inventory.snapshot_events events, and once a day. History starts from the last one before the moment asked for.';
COMMENT ON COLUMN inventory.snapshot.stock_id IS 'The stock item.';
COMMENT ON COLUMN inventory.snapshot.tick_id IS 'The tick; its batch is included.';
COMMENT ON COLUMN inventory.snapshot.previous_tick_id IS 'The tick of the stock item''s snapshot before this one; NULL for the first.';
COMMENT ON COLUMN inventory.snapshot.on_hand IS 'Sum of on_hand_delta up to the tick, in base units.';
COMMENT ON COLUMN inventory.snapshot.reserved IS 'Sum of reserved_delta up to the tick, in base units.';
COMMENT ON COLUMN inventory.snapshot.committed IS 'Sum of committed_delta up to the tick, in base units.';
COMMENT ON COLUMN inventory.snapshot.event_count IS 'Number of events up to the tick.';
COMMENT ON COLUMN inventory.snapshot.recorded_from IS 'Earliest recorded_at of the events since the snapshot before.';
COMMENT ON COLUMN inventory.snapshot.recorded_until IS 'Latest recorded_at of all events up to the tick.';
COMMENT ON COLUMN inventory.snapshot.late IS 'Whether an event since the snapshot before was recorded earlier than what the snapshot two before includes: its transaction was open for that long.';
COMMENT ON INDEX inventory.snapshot_pkey IS 'Query: the snapshots of a stock item in order (projection, history, verify).';
COMMENT ON INDEX inventory.snapshot_stock_id_recorded_until_idx IS 'Query: the last snapshot of a stock item before a moment (stock_at).';
COMMENT ON INDEX inventory.snapshot_late_idx IS 'Query: the snapshots of a stock item with events from long before (stock_at).';
CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.snapshot
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

SELECT pg_extension_config_dump('inventory.tick', '');
SELECT pg_extension_config_dump('inventory.snapshot', '');
