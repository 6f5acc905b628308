-- The monthly partitions of the event table.  The engine calls
-- make_partitions() by itself when the months ahead run short; they are made
-- outside the extension's membership, so that pg_dump carries their rows.

CREATE FUNCTION inventory.make_partition(month date) RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	SET client_min_messages = warning
AS $$
DECLARE
	first_day date := date_trunc('month', month::timestamp)::date;
	next_first_day date := (date_trunc('month', month::timestamp) + interval '1 month')::date;
	partition_name text := 'event_' || to_char(first_day, 'YYYY_MM');
	name text;
	definition text;
	query text;
BEGIN
	-- Not in the way of writers; in the way of another maker.
	LOCK TABLE ONLY inventory.event IN SHARE UPDATE EXCLUSIVE MODE;
	IF to_regclass(format('inventory.%I', partition_name)) IS NOT NULL THEN
		RETURN false;
	END IF;
	EXECUTE format('CREATE TABLE inventory.%I (LIKE inventory.event INCLUDING DEFAULTS INCLUDING COMMENTS)',
		partition_name);
	-- Vacuum summarizes the index on event_id, so that reverse() finds events.
	EXECUTE format('ALTER TABLE inventory.%I SET (autovacuum_vacuum_insert_scale_factor = 0.02)',
		partition_name);
	EXECUTE format('REVOKE ALL ON inventory.%I FROM PUBLIC', partition_name);
	EXECUTE format('COMMENT ON TABLE inventory.%I IS %L', partition_name,
		'Events recorded in ' || to_char(first_day, 'YYYY-MM') || ' (UTC).');
	FOR name, definition, query IN VALUES
		('stock_id_xid', '(stock_id, xid)', 'the events of a stock item (level load, stock_level, history)'),
		('xid', '(xid)', 'the events of a range of transactions (the legs of a transfer; batches between two snapshots)'),
		('event_id', 'USING brin (event_id) WITH (pages_per_range = 16)', 'an event by its number (reverse)')
	LOOP
		EXECUTE format('CREATE INDEX %I ON inventory.%I %s', partition_name || '_' || name || '_idx', partition_name, definition);
		EXECUTE format('COMMENT ON INDEX inventory.%I IS %L', partition_name || '_' || name || '_idx', 'Query: ' || query || '.');
	END LOOP;
	EXECUTE format('ALTER TABLE inventory.event ATTACH PARTITION inventory.%I FOR VALUES FROM (%L) TO (%L)',
		partition_name, first_day::timestamp AT TIME ZONE 'UTC', next_first_day::timestamp AT TIME ZONE 'UTC');
	-- Statement triggers are not cloned to partitions, and the clones of row
	-- triggers must fire always too.
	EXECUTE format('CREATE TRIGGER event_no_truncate BEFORE TRUNCATE ON inventory.%I FOR EACH STATEMENT EXECUTE FUNCTION inventory.event_append_only()',
		partition_name);
	EXECUTE format('ALTER TABLE inventory.%I ENABLE ALWAYS TRIGGER event_no_truncate', partition_name);
	EXECUTE format('ALTER TABLE inventory.%I ENABLE ALWAYS TRIGGER event_applied', partition_name);
	EXECUTE format('ALTER TABLE inventory.%I ENABLE ALWAYS TRIGGER event_append_only', partition_name);
	RETURN true;
END
$$;
REVOKE ALL ON FUNCTION inventory.make_partition(date) FROM PUBLIC;
COMMENT ON FUNCTION inventory.make_partition(date) IS
'Makes the event partition of the month (UTC) that this day lies in; false if it is there already.';

CREATE FUNCTION inventory.make_partitions(from_day date, months integer) RETURNS integer
	LANGUAGE sql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT count(*)::integer
	FROM generate_series(0, months) AS n
	WHERE inventory.make_partition((from_day + n * interval '1 month')::date)
$$;
REVOKE ALL ON FUNCTION inventory.make_partitions(date, integer) FROM PUBLIC;
COMMENT ON FUNCTION inventory.make_partitions(date, integer) IS
'Makes the event partitions of a month and of the given number of months after it, where they are missing; returns how many it made. The engine does this by itself.';
