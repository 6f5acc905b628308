-- Archiving: old event partitions are added up into a baseline and detached.
--
--   stock = baseline + the events that are left, up to the latest tick
--
-- holds before and after, and is checked in between.  A partition is one
-- transaction: it is archived or it is not.  Nobody's reading needs the events
-- of a partition any more when every snapshot in use sees a tick that includes
-- them all: then they are in the stock rows for everybody.
--
-- LOCKING, in this order: SHARE UPDATE EXCLUSIVE on baseline keeps a second
-- archiver out.  SHARE on the partition keeps late events out while it is read;
-- readers do not notice.  The projection lock comes when all has been read and
-- only rows of old snapshots and ticks go.  At the end DETACH takes ACCESS
-- EXCLUSIVE on the event table, for the moment until commit; nobody queues up
-- behind it for longer than its lock_timeout, and it tries again.  (DETACH
-- CONCURRENTLY cannot run inside a function, and would let the baseline and
-- the detaching commit apart.)

CREATE TABLE inventory.baseline (
	stock_id bigint NOT NULL CONSTRAINT baseline_pkey PRIMARY KEY,
	on_hand bigint NOT NULL,
	reserved bigint NOT NULL,
	committed bigint NOT NULL,
	event_count bigint NOT NULL
);
COMMENT ON TABLE inventory.baseline IS 'What the archived events of each stock item came to.';
COMMENT ON COLUMN inventory.baseline.stock_id IS 'The stock item.';
COMMENT ON COLUMN inventory.baseline.on_hand IS 'Sum of on_hand_delta, in base units.';
COMMENT ON COLUMN inventory.baseline.reserved IS 'Sum of reserved_delta, in base units.';
COMMENT ON COLUMN inventory.baseline.committed IS 'Sum of committed_delta, in base units.';
COMMENT ON COLUMN inventory.baseline.event_count IS 'Number of archived events.';
COMMENT ON INDEX inventory.baseline_pkey IS 'Query: the baseline of a stock item (history, verify, rebuild).';
CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.baseline
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

CREATE TABLE inventory.archived (
	archive_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT archived_pkey PRIMARY KEY,
	partition text NOT NULL,
	kept_as text,
	recorded_from timestamptz NOT NULL,
	recorded_until timestamptz NOT NULL,
	events bigint NOT NULL,
	first_event_id bigint,
	last_event_id bigint,
	tick_id bigint,
	archived_at timestamptz NOT NULL
);
COMMENT ON TABLE inventory.archived IS 'The partitions that archive() has detached.';
COMMENT ON COLUMN inventory.archived.archive_id IS 'Number of the row.';
COMMENT ON COLUMN inventory.archived.partition IS 'Name that the partition had in the schema inventory.';
COMMENT ON COLUMN inventory.archived.kept_as IS 'Name of the table that it is now, if it was kept.';
COMMENT ON COLUMN inventory.archived.recorded_from IS 'Its events were recorded from this moment on,';
COMMENT ON COLUMN inventory.archived.recorded_until IS 'and before this one.';
COMMENT ON COLUMN inventory.archived.events IS 'Number of events in it.';
COMMENT ON COLUMN inventory.archived.first_event_id IS 'The smallest event number in it; NULL if it was empty.';
COMMENT ON COLUMN inventory.archived.last_event_id IS 'The largest event number in it; NULL if it was empty.';
COMMENT ON COLUMN inventory.archived.tick_id IS 'The first tick that includes all of its events: the anchor that the rest of the hash chain starts from. NULL if there was none.';
COMMENT ON COLUMN inventory.archived.archived_at IS 'When it was archived.';
COMMENT ON INDEX inventory.archived_pkey IS 'Query: the partitions in the order in which they were archived.';
CREATE TRIGGER engine_only BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON inventory.archived
	FOR EACH STATEMENT EXECUTE FUNCTION inventory.engine_only();

SELECT pg_extension_config_dump('inventory.baseline', '');
SELECT pg_extension_config_dump('inventory.archived', '');
SELECT pg_extension_config_dump('inventory.archived_archive_id_seq', '');

-- Transaction ids from 2^63 on are of the cluster that a dump was made in (see
-- restore.sql); all of that is before anything that happened here.
CREATE FUNCTION inventory.included(xid xid8, snapshot pg_snapshot) RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN CASE
		WHEN (xid >= '9223372036854775808'::xid8) = (pg_snapshot_xmax(snapshot) >= '9223372036854775808'::xid8)
			THEN pg_visible_in_snapshot(xid, snapshot)
		WHEN snapshot IS NOT NULL THEN xid >= '9223372036854775808'::xid8
	END;
REVOKE ALL ON FUNCTION inventory.included(xid8, pg_snapshot) FROM PUBLIC;
COMMENT ON FUNCTION inventory.included(xid8, pg_snapshot) IS 'The engine''s own: whether a tick with this snapshot includes the events of a transaction.';

CREATE FUNCTION inventory.included_until(last_xid xid8, snapshot pg_snapshot) RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN (pg_snapshot_xmin(snapshot) < '9223372036854775808'::xid8, pg_snapshot_xmin(snapshot)) > (last_xid < '9223372036854775808'::xid8, last_xid);
REVOKE ALL ON FUNCTION inventory.included_until(xid8, pg_snapshot) FROM PUBLIC;
COMMENT ON FUNCTION inventory.included_until(xid8, pg_snapshot) IS 'The engine''s own: whether a tick with this snapshot includes the events of a transaction and of all before it.';

CREATE FUNCTION inventory.lock_projection() RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_lock_projection';
REVOKE ALL ON FUNCTION inventory.lock_projection() FROM PUBLIC;
COMMENT ON FUNCTION inventory.lock_projection() IS
'The engine''s own: lets no tick be written until the end of the transaction. Movements go on.';

CREATE FUNCTION inventory.seen_by_all(xid xid) RETURNS boolean
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_seen_by_all';
REVOKE ALL ON FUNCTION inventory.seen_by_all(xid) FROM PUBLIC;
COMMENT ON FUNCTION inventory.seen_by_all(xid) IS
'The engine''s own: whether every snapshot in use in this database sees what a committed transaction wrote.';

CREATE FUNCTION inventory.oldest_snapshot_holder() RETURNS text
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT h.holder FROM (
		SELECT age(a.backend_xmin) AS age, format('The oldest snapshot is that of process %s (%s, %s), in a transaction since %s.',
			a.pid, coalesce(nullif(a.application_name, ''), a.backend_type), coalesce(a.usename, '-'), a.xact_start) AS holder
		FROM pg_stat_activity a WHERE a.backend_xmin IS NOT NULL AND a.pid <> pg_backend_pid()
		UNION ALL
		SELECT age(a.backend_xid), format('The oldest transaction is that of process %s (%s, %s), open since %s.',
			a.pid, coalesce(nullif(a.application_name, ''), a.backend_type), coalesce(a.usename, '-'), a.xact_start)
		FROM pg_stat_activity a WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_backend_pid()
		UNION ALL
		SELECT age(p.transaction), format('The oldest transaction is the prepared one %L, since %s.', p.gid, p.prepared)
		FROM pg_prepared_xacts p
		UNION ALL
		SELECT age(s.xmin), format('The oldest snapshot is that of replication slot %s.', s.slot_name)
		FROM pg_replication_slots s WHERE s.xmin IS NOT NULL
	) h ORDER BY h.age DESC LIMIT 1
$$;
REVOKE ALL ON FUNCTION inventory.oldest_snapshot_holder() FROM PUBLIC;
COMMENT ON FUNCTION inventory.oldest_snapshot_holder() IS
'The engine''s own: a sentence that names who holds the oldest snapshot or transaction; NULL if nobody.';

-- The first tick that includes every transaction up to the given one.  A tick's
-- oldest open transaction never goes back, so it can be searched by halves.
CREATE FUNCTION inventory.covering_tick(last_xid xid8) RETURNS bigint
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	low bigint := 1;
	high bigint := (SELECT max(t.tick_id) FROM inventory.tick t);
	middle bigint;
BEGIN
	IF NOT EXISTS (SELECT FROM inventory.tick t WHERE t.tick_id = high AND inventory.included_until(last_xid, t.snapshot)) THEN
		RETURN NULL;
	END IF;
	WHILE low < high LOOP
		middle := (low + high) / 2;
		IF (SELECT inventory.included_until(last_xid, t.snapshot) FROM inventory.tick t
				WHERE t.tick_id >= middle ORDER BY t.tick_id LIMIT 1) THEN
			high := middle;
		ELSE
			low := middle + 1;
		END IF;
	END LOOP;
	RETURN (SELECT min(t.tick_id) FROM inventory.tick t WHERE t.tick_id >= low);
END
$$;
REVOKE ALL ON FUNCTION inventory.covering_tick(xid8) FROM PUBLIC;
COMMENT ON FUNCTION inventory.covering_tick(xid8) IS
'The engine''s own: the first tick that includes every transaction up to this one; NULL if there is none yet.';

CREATE FUNCTION inventory.archivable(before timestamptz)
	RETURNS TABLE (partition regclass, recorded_from timestamptz, recorded_until timestamptz)
	LANGUAGE sql STABLE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
AS $$
	SELECT c.oid::regclass, b.bounds[1]::timestamptz, b.bounds[2]::timestamptz
	FROM pg_inherits i
	JOIN pg_class c ON c.oid = i.inhrelid
	CROSS JOIN LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid),
		'^FOR VALUES FROM \(''([^'']*)''\) TO \(''([^'']*)''\)$') AS b(bounds)
	WHERE i.inhparent = 'inventory.event'::regclass
		AND b.bounds[2]::timestamptz <= least(before, inventory.clock_time())
	ORDER BY 3
$$;
REVOKE ALL ON FUNCTION inventory.archivable(timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION inventory.archivable(timestamptz) IS
'The event partitions that have ended at or before a moment, oldest first, with their bounds.';

-- Detaches a partition.  Waits for its lock a moment at a time, because while
-- it waits everybody else waits behind it.
CREATE FUNCTION inventory.detach_partition(partition regclass) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms'
AS $$
BEGIN
	FOR attempt IN 1 .. 20 LOOP
		BEGIN
			EXECUTE format('ALTER TABLE inventory.event DETACH PARTITION %s', partition);
			RETURN;
		EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
			NULL;
		END;
		PERFORM pg_sleep(0.01 * attempt);
	END LOOP;
	RAISE EXCEPTION 'cannot archive %: the event table is in use all the time', partition
		USING ERRCODE = 'lock_not_available',
			DETAIL = inventory.oldest_snapshot_holder(),
			HINT = 'Call archive() again when no long transaction is reading or writing events.';
END
$$;
REVOKE ALL ON FUNCTION inventory.detach_partition(regclass) FROM PUBLIC;
COMMENT ON FUNCTION inventory.detach_partition(regclass) IS
'The engine''s own: detaches an event partition without keeping others waiting for long.';

-- What a subscription has not had yet must stay where it is read.
CREATE FUNCTION inventory.check_delivered(partition regclass) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	names constant text[] := inventory.unread_by(partition);
BEGIN
	IF names IS NOT NULL THEN
		RAISE EXCEPTION 'cannot archive %: a subscription has not had all of its events', partition
			USING ERRCODE = 'object_in_use',
				DETAIL = format('Subscriptions: %s.', array_to_string(names, ', ')),
				HINT = 'Wait until it has been delivered to, resume() it if it is paused, or seek() or unsubscribe() it.';
	END IF;
END
$$;
REVOKE ALL ON FUNCTION inventory.check_delivered(regclass) FROM PUBLIC;
COMMENT ON FUNCTION inventory.check_delivered(regclass) IS
'The engine''s own: an error unless every subscription has had the events of a partition that it wants.';

-- Fails, and says what holds it up, unless every event of the partition is in
-- the stock rows for everybody.  Returns the first tick that includes them all.
CREATE FUNCTION inventory.check_archivable(partition regclass, recorded_until timestamptz) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	last_xid xid8;
	anchor bigint;
BEGIN
	EXECUTE format($sql$
		SELECT coalesce((SELECT v.xid FROM %1$s v WHERE v.xid < '9223372036854775808'::xid8 ORDER BY v.xid DESC LIMIT 1),
			(SELECT v.xid FROM %1$s v ORDER BY v.xid DESC LIMIT 1))
	$sql$, partition) INTO last_xid;
	IF last_xid IS NULL THEN
		RETURN (SELECT max(t.tick_id) FROM inventory.tick t WHERE t.ticked_at < recorded_until);
	END IF;
	anchor := inventory.covering_tick(last_xid);
	IF anchor IS NULL THEN
		RAISE EXCEPTION 'cannot archive %: not all of its events have been projected', partition
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = coalesce(inventory.oldest_snapshot_holder(), 'No tick includes transaction ' || last_xid || '.'),
				HINT = 'Call project(), or wait for the worker, after the transactions older than its last event have ended.';
	END IF;
	IF NOT EXISTS (SELECT FROM inventory.tick t WHERE t.tick_id = anchor AND inventory.seen_by_all(t.xmin))
		AND NOT (SELECT inventory.seen_by_all(t.xmin) FROM inventory.tick t ORDER BY t.tick_id DESC LIMIT 1)
	THEN
		RAISE EXCEPTION 'cannot archive %: a transaction is older than the projection of its events', partition
			USING ERRCODE = 'object_in_use',
				DETAIL = inventory.oldest_snapshot_holder(),
				HINT = 'Call archive() again when it has ended.';
	END IF;
	RETURN anchor;
END
$$;
REVOKE ALL ON FUNCTION inventory.check_archivable(regclass, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION inventory.check_archivable(regclass, timestamptz) IS
'The engine''s own: an error unless every event of a partition is in the stock rows for everybody; otherwise the first tick that includes them all.';

-- baseline + the events that are left = stock, for every stock item with a
-- baseline.  The partition and all before it end where the rest begins.  The
-- baseline has just been filled and has no statistics: a nested loop would look
-- cheap.
CREATE FUNCTION inventory.check_baseline(partition regclass, recorded_until timestamptz) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET enable_nestloop = off
AS $$
DECLARE
	wrong record;
BEGIN
	SELECT b.stock_id,
		format('on hand %s, reserved %s, committed %s', b.on_hand + coalesce(e.on_hand, 0),
			b.reserved + coalesce(e.reserved, 0), b.committed + coalesce(e.committed, 0)) AS expected,
		format('on hand %s, reserved %s, committed %s', k.on_hand, k.reserved, k.committed) AS found
	INTO wrong
	FROM inventory.baseline b
	LEFT JOIN inventory.stock k ON k.stock_id = b.stock_id
	LEFT JOIN (
		SELECT v.stock_id, sum(v.on_hand_delta)::bigint AS on_hand,
			sum(v.reserved_delta)::bigint AS reserved,
			sum(v.committed_delta)::bigint AS committed, count(*) AS event_count
		FROM inventory.event v
		WHERE v.recorded_at >= check_baseline.recorded_until AND inventory.progress_row()
			AND inventory.included(v.xid, (SELECT t.snapshot FROM inventory.tick t ORDER BY t.tick_id DESC LIMIT 1))
		GROUP BY v.stock_id) e ON e.stock_id = b.stock_id
	WHERE (b.on_hand + coalesce(e.on_hand, 0), b.reserved + coalesce(e.reserved, 0),
			b.committed + coalesce(e.committed, 0), b.event_count + coalesce(e.event_count, 0))
		IS DISTINCT FROM (k.on_hand, k.reserved, k.committed, k.event_count)
	ORDER BY b.stock_id LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'cannot archive %: stock item % does not agree with its events', partition, wrong.stock_id
			USING ERRCODE = 'data_corrupted',
				DETAIL = format('Its events say %s; its row says %s.', wrong.expected, wrong.found),
				HINT = 'verify() shows all differences, rebuild() repairs them.';
	END IF;
END
$$;
REVOKE ALL ON FUNCTION inventory.check_baseline(regclass, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION inventory.check_baseline(regclass, timestamptz) IS
'The engine''s own: an error unless baseline and the events recorded from a moment on come to the stock rows.';

-- What the time before the anchor keeps: no snapshot, and one tick a day.
CREATE FUNCTION inventory.thin_ticks(anchor bigint) RETURNS void
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM inventory.snapshot p WHERE p.tick_id < anchor;
	UPDATE inventory.snapshot p SET previous_tick_id = NULL WHERE p.previous_tick_id < anchor;
	DELETE FROM inventory.tick t
	WHERE t.tick_id < anchor AND t.tick_id NOT IN (
		SELECT max(d.tick_id) FROM inventory.tick d WHERE d.tick_id < anchor
		GROUP BY (d.ticked_at AT TIME ZONE 'UTC')::date)
$$;
REVOKE ALL ON FUNCTION inventory.thin_ticks(bigint) FROM PUBLIC;
COMMENT ON FUNCTION inventory.thin_ticks(bigint) IS
'The engine''s own: removes the snapshots before a tick, and all ticks before it but the last of each day.';

-- Makes a detached partition a table of its own, or drops it.  Returns its name.
CREATE FUNCTION inventory.put_away(partition regclass, keep boolean) RETURNS text
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
DECLARE
	former text := (SELECT c.relname FROM pg_class c WHERE c.oid = partition);
	base text := 'event_archive_' || regexp_replace(former, '^event_', '');
	kept text := base;
	reader record;
	index record;
BEGIN
	IF NOT keep THEN
		EXECUTE format('DROP TABLE %s', partition);
		RETURN NULL;
	END IF;
	-- The clock was set back, and the month was written anew.
	FOR n IN 2 .. 1000 LOOP
		EXIT WHEN to_regclass(format('inventory.%I', kept)) IS NULL;
		kept := base || '_' || n;
	END LOOP;
	EXECUTE format('ALTER TABLE %s RENAME TO %I', partition, kept);
	-- A month that is made anew needs the names.
	FOR index IN
		SELECT c.oid::regclass AS name, overlay(c.relname PLACING kept FROM 1 FOR length(former)) AS new_name
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
		WHERE i.indrelid = partition AND starts_with(c.relname, former)
	LOOP
		EXECUTE format('ALTER INDEX %s RENAME TO %I', index.name, index.new_name);
	END LOOP;
	EXECUTE format('COMMENT ON TABLE inventory.%I IS %L', kept,
		'Archived: ' || coalesce(obj_description(partition, 'pg_class'), former));
	-- It has lost the triggers that it had from the event table.
	EXECUTE format('CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE ON inventory.%I FOR EACH ROW EXECUTE FUNCTION inventory.event_append_only()', kept);
	EXECUTE format('ALTER TABLE inventory.%I ENABLE ALWAYS TRIGGER event_append_only', kept);
	-- Who reads events reads them there too.
	FOR reader IN
		SELECT a.grantee FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
		WHERE c.oid = 'inventory.event'::regclass AND a.privilege_type = 'SELECT' AND a.grantee <> 0
	LOOP
		EXECUTE format('GRANT SELECT ON inventory.%I TO %s', kept, reader.grantee::regrole);
	END LOOP;
	RETURN kept;
END
$$;
REVOKE ALL ON FUNCTION inventory.put_away(regclass, boolean) FROM PUBLIC;
COMMENT ON FUNCTION inventory.put_away(regclass, boolean) IS
'The engine''s own: keeps a detached partition as a table that can only be read, or drops it.';

CREATE FUNCTION inventory.archive_oldest(before timestamptz, keep boolean) RETURNS text
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	part record;
	name text;
	anchor bigint;
	summed record;
	kept text;
BEGIN
	PERFORM inventory.progress_begin('archive');
	LOCK TABLE inventory.baseline IN SHARE UPDATE EXCLUSIVE MODE;
	SELECT * INTO part FROM inventory.archivable(before) LIMIT 1;
	IF NOT FOUND THEN
		PERFORM inventory.progress_end();
		RETURN NULL;
	END IF;
	SELECT c.relname INTO name FROM pg_class c WHERE c.oid = part.partition;
	EXECUTE format('LOCK TABLE %s IN SHARE MODE', part.partition);
	anchor := inventory.check_archivable(part.partition, part.recorded_until);
	PERFORM inventory.check_delivered(part.partition);

	PERFORM inventory.progress_phase('adding up ' || name,
		(SELECT c.reltuples::bigint FROM pg_class c WHERE c.oid = part.partition));
	EXECUTE format($sql$
		WITH summed AS MATERIALIZED (
			SELECT v.stock_id, sum(v.on_hand_delta)::bigint AS on_hand,
				sum(v.reserved_delta)::bigint AS reserved,
				sum(v.committed_delta)::bigint AS committed, count(*) AS event_count,
				min(v.event_id) AS first_event_id, max(v.event_id) AS last_event_id
			FROM %s v WHERE inventory.progress_row() GROUP BY v.stock_id
		), written AS (
			INSERT INTO inventory.baseline AS b (stock_id, on_hand, reserved, committed, event_count)
			SELECT s.stock_id, s.on_hand, s.reserved, s.committed, s.event_count FROM summed s
			ON CONFLICT (stock_id) DO UPDATE SET on_hand = b.on_hand + excluded.on_hand,
				reserved = b.reserved + excluded.reserved, committed = b.committed + excluded.committed,
				event_count = b.event_count + excluded.event_count
		)
		SELECT coalesce(sum(s.event_count), 0)::bigint AS events,
			min(s.first_event_id) AS first_event_id, max(s.last_event_id) AS last_event_id FROM summed s
	$sql$, part.partition) INTO summed;

	PERFORM inventory.progress_phase('checking ' || name, (
		SELECT sum(greatest(c.reltuples, 0))::bigint FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'inventory.event'::regclass AND c.oid <> part.partition));
	PERFORM inventory.check_baseline(part.partition, part.recorded_until);

	PERFORM inventory.progress_phase('detaching ' || name, 0);
	PERFORM inventory.lock_projection();
	PERFORM inventory.thin_ticks(anchor);
	PERFORM inventory.detach_partition(part.partition);
	kept := inventory.put_away(part.partition, keep AND summed.events > 0);
	INSERT INTO inventory.archived (partition, kept_as, recorded_from, recorded_until, events,
		first_event_id, last_event_id, tick_id, archived_at)
	VALUES (name, kept, part.recorded_from, part.recorded_until, summed.events,
		summed.first_event_id, summed.last_event_id, anchor, inventory.clock_time());
	PERFORM inventory.progress_end();
	RETURN name;
END
$$;
REVOKE ALL ON FUNCTION inventory.archive_oldest(timestamptz, boolean) FROM PUBLIC;
COMMENT ON FUNCTION inventory.archive_oldest(timestamptz, boolean) IS
'The engine''s own: the work of archive_partition().';

CREATE FUNCTION inventory.archive_partition(before timestamptz, keep boolean DEFAULT true) RETURNS text
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_archive_partition';
REVOKE ALL ON FUNCTION inventory.archive_partition(timestamptz, boolean) FROM PUBLIC;
COMMENT ON FUNCTION inventory.archive_partition(timestamptz, boolean) IS
'Archives the oldest event partition that has ended at or before a moment: adds it up into the baseline, checks, detaches it, and keeps it as table event_archive_YYYY_MM or drops it (also if it is empty). Returns the name that it had; NULL if there is none. The event table is locked until the end of the transaction.';

-- Not SECURITY DEFINER and without SET: either would forbid the COMMIT.  It
-- acts as the caller.
CREATE PROCEDURE inventory.archive(before timestamptz, keep boolean DEFAULT true, INOUT archived integer DEFAULT 0)
	LANGUAGE plpgsql
AS $$
BEGIN
	archived := 0;
	WHILE inventory.archive_partition(before, keep) IS NOT NULL LOOP
		archived := archived OPERATOR(pg_catalog.+) 1;
		COMMIT;
	END LOOP;
END
$$;
REVOKE ALL ON PROCEDURE inventory.archive(timestamptz, boolean, integer) FROM PUBLIC;
COMMENT ON PROCEDURE inventory.archive(timestamptz, boolean, integer) IS
'Archives the event partitions that have ended at or before a moment, oldest first, each in a transaction of its own, and returns how many. Cancelled or failed, it has archived the ones before; call it again. CALL it outside of a transaction block.';
