-- Reconciliation: what is kept is compared with what the events say.

CREATE TYPE inventory.discrepancy AS (
	check_name text,
	stock_id bigint,
	sku text,
	location text,
	lot text,
	condition text,
	expected bigint,
	found bigint,
	detail text
);
COMMENT ON TYPE inventory.discrepancy IS 'One difference that verify() has found.';
COMMENT ON COLUMN inventory.discrepancy.check_name IS 'Which comparison failed.';
COMMENT ON COLUMN inventory.discrepancy.stock_id IS 'The stock item.';
COMMENT ON COLUMN inventory.discrepancy.sku IS 'Its SKU code.';
COMMENT ON COLUMN inventory.discrepancy.location IS 'Its location code.';
COMMENT ON COLUMN inventory.discrepancy.lot IS 'Its lot code; NULL when the SKU is not tracked.';
COMMENT ON COLUMN inventory.discrepancy.condition IS 'Its condition.';
COMMENT ON COLUMN inventory.discrepancy.expected IS 'What the events say, in base units.';
COMMENT ON COLUMN inventory.discrepancy.found IS 'What was found instead.';
COMMENT ON COLUMN inventory.discrepancy.detail IS 'What was compared with what.';

CREATE FUNCTION inventory.level_differs(
	stock_id bigint, OUT expected_on_hand bigint, OUT found_on_hand bigint,
	OUT expected_available bigint, OUT found_available bigint) RETURNS record
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_level_differs';
REVOKE ALL ON FUNCTION inventory.level_differs(bigint) FROM PUBLIC;
COMMENT ON FUNCTION inventory.level_differs(bigint) IS
'Computes a loaded level anew while no transaction is moving it; NULL when it agrees, is not loaded, or is being moved all the time.';

CREATE TABLE inventory.verification (
	verification_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT verification_pkey PRIMARY KEY,
	tick_id bigint NOT NULL,
	scope text COLLATE "C" NOT NULL,
	verified_at timestamptz NOT NULL
);
COMMENT ON TABLE inventory.verification IS 'What verify() has found to be without discrepancy: verify(''recent'') goes on from there.';
COMMENT ON COLUMN inventory.verification.verification_id IS 'Number of the verification.';
COMMENT ON COLUMN inventory.verification.tick_id IS 'The tick up to which everything agreed.';
COMMENT ON COLUMN inventory.verification.scope IS 'What was asked for: all or recent.';
COMMENT ON COLUMN inventory.verification.verified_at IS 'When it was verified.';
COMMENT ON INDEX inventory.verification_pkey IS 'Query: the last verification (verify).';
SELECT pg_extension_config_dump('inventory.verification', '');
SELECT pg_extension_config_dump('inventory.verification_verification_id_seq', '');

-- Where to look in an index for the transactions beyond a tick (NULL: from the
-- beginning) and up to another (NULL: now): one range, or one of restored
-- transactions and one of this cluster's.  Ranges hold others too: filter by
-- included().
CREATE FUNCTION inventory.xid_ranges(after pg_snapshot, upto pg_snapshot, OUT first xid8, OUT last xid8) RETURNS SETOF record
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT coalesce(pg_snapshot_xmin(after), '9223372036854775808'::xid8),
		CASE WHEN pg_snapshot_xmax(upto) >= '9223372036854775808'::xid8 THEN pg_snapshot_xmax(upto) ELSE '18446744073709551615'::xid8 END
	WHERE after IS NULL OR pg_snapshot_xmax(after) >= '9223372036854775808'::xid8
	UNION ALL
	SELECT CASE WHEN pg_snapshot_xmax(after) < '9223372036854775808'::xid8 THEN pg_snapshot_xmin(after) ELSE '0'::xid8 END,
		coalesce(pg_snapshot_xmax(upto), '9223372036854775807'::xid8)
	WHERE upto IS NULL OR pg_snapshot_xmax(upto) < '9223372036854775808'::xid8;
END;
REVOKE ALL ON FUNCTION inventory.xid_ranges(pg_snapshot, pg_snapshot) FROM PUBLIC;
COMMENT ON FUNCTION inventory.xid_ranges(pg_snapshot, pg_snapshot) IS
'The engine''s own: ranges of transaction ids with all that are beyond one tick and included in another.';

-- What the events of each stock item come to: now, and as of the latest tick,
-- which is what the stock rows should say (row_...).  Of all items or the given
-- ones, from the baseline; or of those with events since a tick, from their last
-- snapshot up to it, which has been verified.
CREATE FUNCTION inventory.booked(since bigint, items bigint[] DEFAULT NULL) RETURNS TABLE (
	stock_id bigint, on_hand bigint, reserved bigint, committed bigint,
	row_on_hand bigint, row_reserved bigint, row_committed bigint, row_event_count bigint)
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	latest pg_snapshot := (SELECT t.snapshot FROM inventory.tick t ORDER BY t.tick_id DESC LIMIT 1);
	verified pg_snapshot := (SELECT t.snapshot FROM inventory.tick t WHERE t.tick_id = since);
BEGIN
	IF verified IS NULL THEN
		RETURN QUERY
		SELECT coalesce(b.stock_id, e.stock_id),
			coalesce(b.on_hand, 0) + coalesce(e.on_hand, 0), coalesce(b.reserved, 0) + coalesce(e.reserved, 0),
			coalesce(b.committed, 0) + coalesce(e.committed, 0),
			coalesce(b.on_hand, 0) + coalesce(e.row_on_hand, 0), coalesce(b.reserved, 0) + coalesce(e.row_reserved, 0),
			coalesce(b.committed, 0) + coalesce(e.row_committed, 0), coalesce(b.event_count, 0) + coalesce(e.row_event_count, 0)
		FROM inventory.baseline b
		FULL JOIN (
			SELECT v.stock_id, sum(v.on_hand_delta)::bigint AS on_hand,
				sum(v.reserved_delta)::bigint AS reserved, sum(v.committed_delta)::bigint AS committed,
				sum(v.on_hand_delta) FILTER (WHERE v.ticked)::bigint AS row_on_hand,
				sum(v.reserved_delta) FILTER (WHERE v.ticked)::bigint AS row_reserved,
				sum(v.committed_delta) FILTER (WHERE v.ticked)::bigint AS row_committed,
				count(*) FILTER (WHERE v.ticked) AS row_event_count
			FROM (SELECT v.*, coalesce(inventory.included(v.xid, latest), false) AS ticked
				FROM inventory.event v
				WHERE (items IS NULL OR v.stock_id = ANY (items)) AND inventory.progress_row() OFFSET 0) v
			GROUP BY v.stock_id) e ON e.stock_id = b.stock_id
		WHERE items IS NULL OR coalesce(b.stock_id, e.stock_id) = ANY (items);
		RETURN;
	END IF;
	RETURN QUERY
	WITH touched AS MATERIALIZED (
		SELECT DISTINCT v.stock_id FROM inventory.xid_ranges(verified, NULL) r
		JOIN inventory.event v ON v.xid >= r.first AND v.xid <= r.last
		WHERE NOT inventory.included(v.xid, verified)
	)
	SELECT d.stock_id,
		coalesce(p.on_hand, b.on_hand, 0) + e.on_hand, coalesce(p.reserved, b.reserved, 0) + e.reserved,
		coalesce(p.committed, b.committed, 0) + e.committed,
		coalesce(p.on_hand, b.on_hand, 0) + e.row_on_hand, coalesce(p.reserved, b.reserved, 0) + e.row_reserved,
		coalesce(p.committed, b.committed, 0) + e.row_committed, coalesce(p.event_count, b.event_count, 0) + e.row_event_count
	FROM touched d
	LEFT JOIN LATERAL (
		SELECT p.*, t.snapshot FROM inventory.snapshot p JOIN inventory.tick t ON t.tick_id = p.tick_id
		WHERE p.stock_id = d.stock_id AND p.tick_id <= since ORDER BY p.tick_id DESC LIMIT 1) p ON true
	LEFT JOIN inventory.baseline b ON b.stock_id = d.stock_id
	CROSS JOIN LATERAL (
		SELECT coalesce(sum(v.on_hand_delta), 0)::bigint AS on_hand,
			coalesce(sum(v.reserved_delta), 0)::bigint AS reserved,
			coalesce(sum(v.committed_delta), 0)::bigint AS committed,
			coalesce(sum(v.on_hand_delta) FILTER (WHERE v.ticked), 0)::bigint AS row_on_hand,
			coalesce(sum(v.reserved_delta) FILTER (WHERE v.ticked), 0)::bigint AS row_reserved,
			coalesce(sum(v.committed_delta) FILTER (WHERE v.ticked), 0)::bigint AS row_committed,
			count(*) FILTER (WHERE v.ticked) AS row_event_count
		FROM (SELECT v.*, coalesce(inventory.included(v.xid, latest), false) AS ticked
			FROM inventory.xid_ranges(p.snapshot, NULL) r
			JOIN inventory.event v ON v.stock_id = d.stock_id AND v.xid >= r.first AND v.xid <= r.last
			WHERE NOT coalesce(inventory.included(v.xid, p.snapshot), false)
				AND inventory.progress_row() OFFSET 0) v) e;
END
$$;
REVOKE ALL ON FUNCTION inventory.booked(bigint, bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION inventory.booked(bigint, bigint[]) IS
'The engine''s own: what the events of each stock item come to, in base units, now and as of the latest tick: of all, of the given ones, or of those with events since a tick.';

-- What the checks find; verify() adds the codes.
CREATE TYPE inventory.finding AS (check_name text, stock_id bigint, expected bigint, found bigint, detail text);
COMMENT ON TYPE inventory.finding IS 'One difference, before verify() has added the codes.';
COMMENT ON COLUMN inventory.finding.check_name IS 'Which comparison failed.';
COMMENT ON COLUMN inventory.finding.stock_id IS 'The stock item.';
COMMENT ON COLUMN inventory.finding.expected IS 'What the events say.';
COMMENT ON COLUMN inventory.finding.found IS 'What was found instead.';
COMMENT ON COLUMN inventory.finding.detail IS 'What was compared with what.';

CREATE FUNCTION inventory.verify_items(since bigint) RETURNS SETOF inventory.finding
	LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	RETURN QUERY
	WITH booked AS MATERIALIZED (SELECT * FROM inventory.booked(since)),
	item AS MATERIALIZED (
		SELECT coalesce(b.stock_id, k.stock_id) AS stock_id, k.stock_id IS NOT NULL AS known,
			coalesce(b.on_hand, 0) AS on_hand, coalesce(b.reserved, 0) AS reserved, coalesce(b.committed, 0) AS committed,
			coalesce(b.row_on_hand, 0) AS row_on_hand, coalesce(b.row_reserved, 0) AS row_reserved,
			coalesce(b.row_committed, 0) AS row_committed, coalesce(b.row_event_count, 0) AS row_event_count,
			k.on_hand AS found_on_hand, k.reserved AS found_reserved, k.committed AS found_committed, k.event_count AS found_event_count
		FROM booked b
		FULL JOIN (SELECT k.* FROM inventory.stock k
			WHERE since IS NULL OR k.stock_id IN (SELECT b.stock_id FROM booked b)) k ON k.stock_id = b.stock_id
	)
	SELECT 'stock item', i.stock_id, 1::bigint, 0::bigint, 'events of a stock item that does not exist'
	FROM item i WHERE NOT i.known
	UNION ALL
	SELECT 'on hand', i.stock_id, 0, i.on_hand, 'on hand is negative' FROM item i WHERE i.on_hand < 0
	UNION ALL
	SELECT 'stock row', i.stock_id, x.expected, x.found, x.detail
	FROM item i CROSS JOIN LATERAL (VALUES
		(i.row_on_hand, i.found_on_hand, 'on_hand of the stock row, against the events up to the latest tick'),
		(i.row_reserved, i.found_reserved, 'reserved of the stock row, against the events up to the latest tick'),
		(i.row_committed, i.found_committed, 'committed of the stock row, against the events up to the latest tick'),
		(i.row_event_count, i.found_event_count, 'event_count of the stock row, against the events up to the latest tick')
	) x(expected, found, detail)
	WHERE i.known AND x.expected <> x.found
	UNION ALL
	SELECT x.check_name, i.stock_id, x.expected, x.found, x.detail
	FROM item i
	CROSS JOIN LATERAL (
		SELECT coalesce(sum(r.quantity - r.shipped - r.released) FILTER (WHERE r.state = 'held'), 0)::bigint AS reserved,
			coalesce(sum(r.quantity - r.shipped - r.released) FILTER (WHERE r.state = 'committed'), 0)::bigint AS committed
		FROM inventory.reservation r WHERE r.stock_id = i.stock_id) r
	CROSS JOIN LATERAL (VALUES
		('reserved', i.reserved, r.reserved, 'sum of reserved_delta, against the held reservation lines'),
		('committed', i.committed, r.committed, 'sum of committed_delta, against the committed reservation lines')
	) x(check_name, expected, found, detail)
	WHERE x.expected <> x.found;
END
$$;
REVOKE ALL ON FUNCTION inventory.verify_items(bigint) FROM PUBLIC;
COMMENT ON FUNCTION inventory.verify_items(bigint) IS
'The engine''s own: compares stock rows and open reservations with the events: of all stock items, or of those with events since a tick.';

CREATE FUNCTION inventory.verify_lines() RETURNS SETOF inventory.finding
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT 'reservation', r.stock_id, r.quantity, r.shipped + r.released,
		format('reservation %s line %s: shipped + released is out of range for state %s', r.reservation_id, r.line_no, r.state)
	FROM inventory.reservation r
	WHERE inventory.progress_row() AND (r.shipped < 0 OR r.released < 0 OR r.quantity <= 0
		OR CASE WHEN r.state IN ('held', 'committed') THEN r.shipped + r.released >= r.quantity
			ELSE r.shipped + r.released <> r.quantity END)
	UNION ALL
	SELECT 'stock item', r.stock_id, 1, 0,
		format('reservation %s line %s of a stock item that does not exist', r.reservation_id, r.line_no)
	FROM inventory.reservation r
	WHERE NOT EXISTS (SELECT FROM inventory.stock k WHERE k.stock_id = r.stock_id)
	UNION ALL
	SELECT 'event', d.stock_id, 1, d.n, format('event_id %s stands more than once', d.event_id)
	FROM (SELECT v.event_id, min(v.stock_id) AS stock_id, count(*) AS n
		FROM inventory.event v WHERE inventory.progress_row()
		GROUP BY v.event_id HAVING count(*) > 1) d
$$;
REVOKE ALL ON FUNCTION inventory.verify_lines() FROM PUBLIC;
COMMENT ON FUNCTION inventory.verify_lines() IS
'The engine''s own: compares each reservation line with its state, and each event number with all others.';

-- Snapshots computed anew.  Each is the one before it and the events between
-- their ticks; the first one is the baseline and the events up to its tick.  So
-- each event is read about once.  The sums run on, so that a wrong snapshot
-- does not make the next ones wrong.
CREATE FUNCTION inventory.snapshots_anew(since bigint, items bigint[] DEFAULT NULL) RETURNS TABLE (
	stock_id bigint, tick_id bigint, ticked boolean, previous_tick_id bigint,
	on_hand bigint, reserved bigint, committed bigint, event_count bigint,
	recorded_from timestamptz, recorded_until timestamptz, late boolean)
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	WITH step AS MATERIALIZED (
		SELECT p.stock_id, p.tick_id, t.tick_id IS NOT NULL AS ticked, q.tick_id AS previous_tick_id,
			b.stock_id IS NOT NULL AND q.tick_id IS NULL AS based, o.*, e.*,
			q.recorded_until AS previous_until, r.recorded_until AS last_but_one_until
		FROM inventory.snapshot p
		LEFT JOIN inventory.tick t ON t.tick_id = p.tick_id
		LEFT JOIN LATERAL (
			SELECT q.*, u.snapshot FROM inventory.snapshot q JOIN inventory.tick u ON u.tick_id = q.tick_id
			WHERE q.stock_id = p.stock_id AND q.tick_id < p.tick_id ORDER BY q.tick_id DESC LIMIT 1) q ON true
		LEFT JOIN LATERAL (
			SELECT r.recorded_until FROM inventory.snapshot r
			WHERE r.stock_id = p.stock_id AND r.tick_id < q.tick_id ORDER BY r.tick_id DESC LIMIT 1) r ON true
		LEFT JOIN inventory.baseline b ON b.stock_id = p.stock_id
		CROSS JOIN LATERAL (
			SELECT q.on_hand AS from_on_hand, q.reserved AS from_reserved, q.committed AS from_committed, q.event_count AS from_event_count
			WHERE q.tick_id <= since
			UNION ALL
			SELECT coalesce(b.on_hand, 0), coalesce(b.reserved, 0), coalesce(b.committed, 0), coalesce(b.event_count, 0)
			WHERE q.tick_id IS NULL
			UNION ALL
			SELECT 0, 0, 0, 0 WHERE q.tick_id > coalesce(since, 0)) o
		CROSS JOIN LATERAL (
			SELECT coalesce(sum(v.on_hand_delta), 0)::bigint AS more_on_hand,
				coalesce(sum(v.reserved_delta), 0)::bigint AS more_reserved,
				coalesce(sum(v.committed_delta), 0)::bigint AS more_committed, count(*) AS more_event_count,
				min(v.recorded_at) AS first_recorded, max(v.recorded_at) AS last_recorded
			FROM inventory.xid_ranges(q.snapshot, t.snapshot) r
			JOIN inventory.event v ON v.stock_id = p.stock_id AND v.xid >= r.first AND v.xid <= r.last
			WHERE inventory.included(v.xid, t.snapshot) AND NOT coalesce(inventory.included(v.xid, q.snapshot), false)) e
		WHERE p.tick_id > coalesce(since, 0) AND (items IS NULL OR p.stock_id = ANY (items)) AND inventory.progress_row()
	)
	SELECT s.stock_id, s.tick_id, s.ticked, s.previous_tick_id,
		(sum(s.from_on_hand + s.more_on_hand) OVER upto)::bigint,
		(sum(s.from_reserved + s.more_reserved) OVER upto)::bigint,
		(sum(s.from_committed + s.more_committed) OVER upto)::bigint,
		(sum(s.from_event_count + s.more_event_count) OVER upto)::bigint,
		-- Of what was archived, only the sums are known.
		CASE WHEN NOT s.based THEN s.first_recorded END,
		CASE WHEN NOT s.based THEN greatest(s.previous_until, s.last_recorded) END,
		s.last_but_one_until > s.first_recorded
	FROM step s
	WINDOW upto AS (PARTITION BY s.stock_id ORDER BY s.tick_id)
$$;
REVOKE ALL ON FUNCTION inventory.snapshots_anew(bigint, bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION inventory.snapshots_anew(bigint, bigint[]) IS
'The engine''s own: the snapshots of all or the given stock items, or those since a tick, computed anew from the events up to their ticks. NULL where the events that would tell have been archived; ticked is false if its tick is not there.';

CREATE FUNCTION inventory.verify_snapshots(since bigint) RETURNS SETOF inventory.finding
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT 'snapshot', p.stock_id, x.expected, x.found, format('%s of the snapshot at tick %s', x.name, p.tick_id)
	FROM inventory.snapshots_anew(since) a
	JOIN inventory.snapshot p ON p.stock_id = a.stock_id AND p.tick_id = a.tick_id
	CROSS JOIN LATERAL (VALUES
		('on_hand', a.on_hand, p.on_hand), ('reserved', a.reserved, p.reserved),
		('committed', a.committed, p.committed), ('event_count', a.event_count, p.event_count),
		('previous_tick_id', coalesce(a.previous_tick_id, 0), coalesce(p.previous_tick_id, 0)),
		('recorded_from (microseconds)', extract(epoch FROM a.recorded_from)::numeric * 1000000, extract(epoch FROM p.recorded_from)::numeric * 1000000),
		('recorded_until (microseconds)', extract(epoch FROM a.recorded_until)::numeric * 1000000, extract(epoch FROM p.recorded_until)::numeric * 1000000),
		('late', a.late::integer, p.late::integer),
		('tick', a.ticked::integer, 1)
	) x(name, expected, found)
	WHERE x.expected <> x.found AND (a.ticked OR x.name = 'tick')
$$;
REVOKE ALL ON FUNCTION inventory.verify_snapshots(bigint) FROM PUBLIC;
COMMENT ON FUNCTION inventory.verify_snapshots(bigint) IS
'The engine''s own: compares the snapshots, or those since a tick, with the events up to their ticks.';

CREATE FUNCTION inventory.verify_levels() RETURNS SETOF inventory.finding
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'level', v.stock_id, x.expected, x.found, x.detail
	FROM inventory.levels() v
	CROSS JOIN LATERAL inventory.level_differs(v.stock_id) d
	CROSS JOIN LATERAL (VALUES
		(d.expected_on_hand, d.found_on_hand, 'on hand in shared memory, against the stock row and the events beyond it'),
		(d.expected_available, d.found_available, 'available (before safety stock) in shared memory, against the stock row and the events beyond it')
	) x(expected, found, detail)
	WHERE inventory.progress_row() AND x.expected <> x.found
$$;
REVOKE ALL ON FUNCTION inventory.verify_levels() FROM PUBLIC;
COMMENT ON FUNCTION inventory.verify_levels() IS
'The engine''s own: compares the levels in shared memory with the tables, each while no transaction is moving it.';

-- From where verify('recent') goes on: the last verified tick, or the last one
-- that archived time left.
CREATE FUNCTION inventory.verified_tick() RETURNS bigint
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT greatest(v.tick_id, (SELECT max(a.tick_id) FROM inventory.archived a))
	FROM inventory.verification v ORDER BY v.verification_id DESC LIMIT 1
$$;
REVOKE ALL ON FUNCTION inventory.verified_tick() FROM PUBLIC;
COMMENT ON FUNCTION inventory.verified_tick() IS 'The engine''s own: the tick up to which verify() has last found no discrepancy; NULL before the first time.';

CREATE FUNCTION inventory.verify(scope text DEFAULT 'all') RETURNS SETOF inventory.discrepancy
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	SET jit = off
AS $$
DECLARE
	since bigint;
	upto bigint := (SELECT max(t.tick_id) FROM inventory.tick t);
	events bigint := (SELECT sum(greatest(c.reltuples, 0))::bigint FROM pg_inherits i
		JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'inventory.event'::regclass);
	findings inventory.finding[];
BEGIN
	IF scope IS NULL OR scope NOT IN ('all', 'recent') THEN
		RAISE EXCEPTION 'unknown scope "%"', scope
			USING ERRCODE = 'IV020', HINT = 'The scopes are all and recent.';
	END IF;
	PERFORM inventory.progress_begin('verify');
	IF scope = 'recent' THEN
		since := inventory.verified_tick();
	END IF;

	-- One statement, so that all of it sees the same snapshot.
	SELECT array_agg(f) INTO findings FROM (
		SELECT f FROM inventory.progress_phase('stock rows', events), inventory.verify_items(since) f
		UNION ALL
		SELECT f FROM inventory.progress_phase('reservation lines and event numbers', events), inventory.verify_lines() f WHERE since IS NULL
		UNION ALL
		SELECT f FROM inventory.progress_phase('snapshots', 0), inventory.verify_snapshots(since) f
		UNION ALL
		SELECT ROW('tick', NULL, NULL, NULL, format('tick %s: %s', c.tick_id, c.detail))::inventory.finding
		FROM inventory.progress_phase('hash chain', coalesce(upto - coalesce(since, 0), 0)), inventory.verify_chain(since + 1) c) x;
	PERFORM inventory.progress_phase('levels', (SELECT s.entries FROM inventory.stat_levels() s));
	findings := findings || (SELECT array_agg(f) FROM inventory.verify_levels() f);

	IF findings IS NULL AND upto > coalesce(inventory.verified_tick(), 0)
		AND NOT current_setting('transaction_read_only')::boolean
	THEN
		INSERT INTO inventory.verification (tick_id, scope, verified_at)
		VALUES (upto, verify.scope, inventory.clock_time());
	END IF;
	PERFORM inventory.progress_end();
	RETURN QUERY
	SELECT f.check_name, f.stock_id, s.sku, l.location, t.lot, k.condition, f.expected, f.found, f.detail
	FROM unnest(findings) f
	LEFT JOIN inventory.stock k ON k.stock_id = f.stock_id
	LEFT JOIN inventory.sku s ON s.sku_id = k.sku_id
	LEFT JOIN inventory.location l ON l.location_id = k.location_id
	LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id;
END
$$;
REVOKE ALL ON FUNCTION inventory.verify(text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.verify(text) IS
'Compares stock rows, reservations, snapshots, the hash chain and the levels in shared memory with the events; no row means no discrepancy. all: everything; recent: what has changed since the last time that nothing was found. Does not stop anybody; can be cancelled.';
