-- Repair: what is kept is computed anew from the events, which are the truth.

CREATE FUNCTION inventory.rebuild_snapshots(items bigint[]) RETURNS TABLE (stock_id bigint, snapshots bigint)
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	WITH anew AS MATERIALIZED (
		SELECT * FROM inventory.snapshots_anew(NULL, items)
	), gone AS (
		DELETE FROM inventory.snapshot p USING anew a
		WHERE p.stock_id = a.stock_id AND p.tick_id = a.tick_id AND NOT a.ticked
		RETURNING p.stock_id
	), repaired AS (
		UPDATE inventory.snapshot p SET previous_tick_id = a.previous_tick_id, on_hand = a.on_hand,
			reserved = a.reserved, committed = a.committed, event_count = a.event_count,
			recorded_from = coalesce(a.recorded_from, p.recorded_from),
			recorded_until = coalesce(a.recorded_until, p.recorded_until), late = coalesce(a.late, p.late)
		FROM anew a
		WHERE p.stock_id = a.stock_id AND p.tick_id = a.tick_id AND a.ticked
			AND (p.on_hand, p.reserved, p.committed, p.event_count, p.previous_tick_id, p.recorded_from, p.recorded_until, p.late)
				IS DISTINCT FROM (a.on_hand, a.reserved, a.committed, a.event_count, a.previous_tick_id,
					coalesce(a.recorded_from, p.recorded_from), coalesce(a.recorded_until, p.recorded_until), coalesce(a.late, p.late))
		RETURNING p.stock_id
	)
	SELECT r.stock_id, count(*) FROM (SELECT * FROM gone UNION ALL SELECT * FROM repaired) r GROUP BY r.stock_id
$$;
REVOKE ALL ON FUNCTION inventory.rebuild_snapshots(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION inventory.rebuild_snapshots(bigint[]) IS
'The engine''s own: repairs the snapshots of the given stock items, or of all; returns how many of which.';

-- The row, and what the projection goes on from: the last snapshot, and the
-- times of the events since.
CREATE FUNCTION inventory.rebuild_rows(items bigint[]) RETURNS TABLE (stock_id bigint, changes jsonb)
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	WITH wrong AS MATERIALIZED (
		SELECT k.stock_id, coalesce(b.row_on_hand, 0) AS on_hand, coalesce(b.row_reserved, 0) AS reserved,
			coalesce(b.row_committed, 0) AS committed, coalesce(b.row_event_count, 0) AS event_count,
			k.on_hand AS found_on_hand, k.reserved AS found_reserved, k.committed AS found_committed,
			k.event_count AS found_event_count
		FROM inventory.stock k
		LEFT JOIN inventory.booked(NULL, items) b ON b.stock_id = k.stock_id
		WHERE (items IS NULL OR k.stock_id = ANY (items))
			AND (k.on_hand, k.reserved, k.committed, k.event_count) IS DISTINCT FROM
				(coalesce(b.row_on_hand, 0), coalesce(b.row_reserved, 0), coalesce(b.row_committed, 0), coalesce(b.row_event_count, 0))
	), repaired AS (
		UPDATE inventory.stock k SET on_hand = w.on_hand, reserved = w.reserved, committed = w.committed,
			event_count = w.event_count, snapshot_count = coalesce(p.event_count, 0),
			recorded_from = e.recorded_from, recorded_until = greatest(p.recorded_until, e.recorded_until, b.recorded_until)
		FROM wrong w
		LEFT JOIN LATERAL (
			SELECT p.event_count, p.recorded_until, t.snapshot FROM inventory.snapshot p JOIN inventory.tick t ON t.tick_id = p.tick_id
			WHERE p.stock_id = w.stock_id ORDER BY p.tick_id DESC LIMIT 1) p ON true
		LEFT JOIN LATERAL (
			SELECT max(a.recorded_until) AS recorded_until FROM inventory.archived a, inventory.baseline b
			WHERE b.stock_id = w.stock_id AND a.events > 0) b ON true
		CROSS JOIN LATERAL (
			SELECT min(v.recorded_at) AS recorded_from, max(v.recorded_at) AS recorded_until
			FROM inventory.xid_ranges(p.snapshot, NULL) r
			JOIN inventory.event v ON v.stock_id = w.stock_id AND v.xid >= r.first AND v.xid <= r.last
			WHERE NOT coalesce(inventory.included(v.xid, p.snapshot), false)
				AND inventory.included(v.xid, (SELECT t.snapshot FROM inventory.tick t ORDER BY t.tick_id DESC LIMIT 1))) e
		WHERE k.stock_id = w.stock_id
	)
	SELECT w.stock_id, (
		SELECT jsonb_object_agg(x.name, jsonb_build_object('from', x.found, 'to', x.expected))
		FROM (VALUES ('on_hand', w.found_on_hand, w.on_hand), ('reserved', w.found_reserved, w.reserved),
			('committed', w.found_committed, w.committed), ('event_count', w.found_event_count, w.event_count)) x(name, found, expected)
		WHERE x.found <> x.expected)
	FROM wrong w
$$;
REVOKE ALL ON FUNCTION inventory.rebuild_rows(bigint[]) FROM PUBLIC;
COMMENT ON FUNCTION inventory.rebuild_rows(bigint[]) IS
'The engine''s own: repairs the stock rows of the given stock items, or of all; returns what it has changed.';

-- Under the projection lock, in statements of their own: each sees what the one
-- before has repaired.
CREATE FUNCTION inventory.rebuild_tables(sku text) RETURNS TABLE (stock_id bigint, changes jsonb)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	items bigint[];
	of_snapshots jsonb;
	of_rows jsonb;
	of_levels jsonb;
BEGIN
	IF sku IS NOT NULL THEN
		IF NOT EXISTS (SELECT FROM inventory.sku s WHERE s.sku = rebuild_tables.sku) THEN
			RAISE EXCEPTION 'unknown SKU "%"', sku USING ERRCODE = 'IV002';
		END IF;
		items := ARRAY(SELECT k.stock_id FROM inventory.stock k JOIN inventory.sku s ON s.sku_id = k.sku_id WHERE s.sku = rebuild_tables.sku);
	END IF;
	PERFORM inventory.progress_phase('snapshots', 0);
	SELECT jsonb_object_agg(r.stock_id, r.snapshots) INTO of_snapshots FROM inventory.rebuild_snapshots(items) r;
	PERFORM inventory.progress_phase('stock rows', (
		SELECT sum(greatest(c.reltuples, 0))::bigint FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'inventory.event'::regclass));
	SELECT jsonb_object_agg(r.stock_id, r.changes) INTO of_rows FROM inventory.rebuild_rows(items) r;
	PERFORM inventory.progress_phase('levels', 0);
	SELECT jsonb_object_agg(v.stock_id, jsonb_build_object(
		'on_hand', jsonb_build_object('from', d.found_on_hand, 'to', d.expected_on_hand),
		'available', jsonb_build_object('from', d.found_available, 'to', d.expected_available)))
	INTO of_levels
	FROM inventory.levels() v CROSS JOIN LATERAL inventory.level_differs(v.stock_id) d
	WHERE (items IS NULL OR v.stock_id = ANY (items)) AND d.expected_on_hand IS NOT NULL;

	RETURN QUERY
	SELECT n.id::bigint, jsonb_strip_nulls(jsonb_build_object(
		'snapshots', of_snapshots -> n.id, 'stock_row', of_rows -> n.id, 'level', of_levels -> n.id))
	FROM (SELECT jsonb_object_keys(of_snapshots) UNION SELECT jsonb_object_keys(of_rows)
		UNION SELECT jsonb_object_keys(of_levels)) n(id)
	WHERE EXISTS (SELECT FROM inventory.stock k WHERE k.stock_id = n.id::bigint);
END
$$;
REVOKE ALL ON FUNCTION inventory.rebuild_tables(text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.rebuild_tables(text) IS
'The engine''s own: the part of rebuild() that is SQL.';

CREATE FUNCTION inventory.rebuild(sku text DEFAULT NULL) RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_rebuild';
REVOKE ALL ON FUNCTION inventory.rebuild(text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.rebuild(text) IS
'Repairs stock rows, snapshots and levels of a SKU, or of all, from the events; each stock item that was wrong gets an event of type rebuild with deltas of 0 whose metadata says what was changed. Returns the number of them. Sales go on; the projection waits, and so does, until commit, who moves a stock item that is repaired.';
