SET LOCAL search_path TO pg_catalog, pg_temp;
SET LOCAL client_min_messages TO warning;

-- The server must have been restarted with the new library: the old one knows
-- neither the new functions nor what the new tables are for.
DO $$
BEGIN
	IF string_to_array(inventory.version(), '.')::integer[] < ARRAY[0, 2] THEN
		RAISE EXCEPTION 'the server runs version % of the library', inventory.version()
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Restart the server, then ALTER EXTENSION inventory UPDATE.';
	END IF;
END
$$;

ALTER TYPE inventory.event_type ADD VALUE 'rebuild';

ALTER TABLE inventory.location DROP CONSTRAINT location_parent_id_fkey;

ALTER TABLE inventory.stock
	ADD COLUMN snapshot_count bigint,
	ADD COLUMN recorded_from timestamptz,
	ADD COLUMN recorded_until timestamptz,
	ADD COLUMN is_short boolean,
	DROP CONSTRAINT stock_on_hand_not_negative,
	DROP CONSTRAINT stock_reserved_not_negative,
	DROP CONSTRAINT stock_committed_not_negative,
	SET (fillfactor = 70);

-- The indexes become the partitions' own: a partition that is detached takes its
-- indexes with it, and attached again it gets none from a table that has none.
DO $$
DECLARE
	partitions oid[];
	bounds text[];
	part record;
	index record;
BEGIN
	SELECT array_agg(c.oid ORDER BY c.relname), array_agg(pg_get_expr(c.relpartbound, c.oid) ORDER BY c.relname)
	INTO partitions, bounds
	FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'inventory.event'::regclass;
	FOR n IN 1 .. coalesce(cardinality(partitions), 0) LOOP
		EXECUTE format('ALTER TABLE inventory.event DETACH PARTITION %s', partitions[n]::regclass);
	END LOOP;
	DROP INDEX inventory.event_stock_id_xid_idx, inventory.event_xid_idx, inventory.event_event_id_idx;
	FOR part IN SELECT id, id::regclass AS name, b.bounds FROM unnest(partitions, bounds) AS b(id, bounds) LOOP
		EXECUTE format('ALTER TABLE inventory.event ATTACH PARTITION %s %s', part.name, part.bounds);
		EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER event_applied', part.name);
		EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER event_append_only', part.name);
		FOR index IN
			SELECT x.indexrelid::regclass AS name, CASE
				WHEN x.indnatts = 2 THEN 'the events of a stock item (level load, stock_level, history)'
				WHEN a.attname = 'xid' THEN 'the events of a range of transactions (the legs of a transfer; batches between two snapshots)'
				ELSE 'an event by its number (reverse)' END AS query
			FROM pg_index x JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
			WHERE x.indrelid = part.id
		LOOP
			EXECUTE format('COMMENT ON INDEX %s IS %L', index.name, 'Query: ' || index.query || '.');
		END LOOP;
	END LOOP;
END
$$;
