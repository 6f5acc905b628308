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

CREATE FUNCTION inventory.verify() RETURNS SETOF inventory.discrepancy
	LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
	SET jit = off
AS $$
	WITH by_event AS MATERIALIZED (
		SELECT v.stock_id, sum(v.on_hand_delta)::bigint AS on_hand,
			sum(v.reserved_delta)::bigint AS reserved,
			sum(v.committed_delta)::bigint AS committed
		FROM inventory.event v GROUP BY v.stock_id
	), by_reservation AS MATERIALIZED (
		SELECT r.stock_id,
			coalesce(sum(r.quantity - r.shipped - r.released) FILTER (WHERE r.state = 'held'), 0)::bigint AS reserved,
			coalesce(sum(r.quantity - r.shipped - r.released) FILTER (WHERE r.state = 'committed'), 0)::bigint AS committed
		FROM inventory.reservation r GROUP BY r.stock_id
	), item AS MATERIALIZED (
		SELECT coalesce(k.stock_id, e.stock_id, r.stock_id) AS stock_id,
			k.stock_id IS NOT NULL AS known,
			coalesce(e.on_hand, 0) AS on_hand, coalesce(e.reserved, 0) AS reserved,
			coalesce(e.committed, 0) AS committed,
			coalesce(r.reserved, 0) AS held, coalesce(r.committed, 0) AS promised
		FROM inventory.stock k
		FULL JOIN by_event e ON e.stock_id = k.stock_id
		FULL JOIN by_reservation r ON r.stock_id = coalesce(k.stock_id, e.stock_id)
	), difference(check_name, stock_id, expected, found, detail) AS (
		SELECT 'stock item', stock_id, 1::bigint, 0::bigint, 'events or reservations of a stock item that does not exist'
		FROM item WHERE NOT known
		UNION ALL
		SELECT 'on hand', stock_id, 0, on_hand, 'on hand is negative' FROM item WHERE on_hand < 0
		UNION ALL
		SELECT 'reserved', stock_id, reserved, held, 'sum of reserved_delta, against the held reservation lines'
		FROM item WHERE reserved <> held
		UNION ALL
		SELECT 'committed', stock_id, committed, promised, 'sum of committed_delta, against the committed reservation lines'
		FROM item WHERE committed <> promised
		UNION ALL
		SELECT 'reservation', r.stock_id, r.quantity, r.shipped + r.released,
			format('reservation %s line %s: shipped + released is out of range for state %s', r.reservation_id, r.line_no, r.state)
		FROM inventory.reservation r
		WHERE r.shipped < 0 OR r.released < 0 OR r.quantity <= 0
			OR CASE WHEN r.state IN ('held', 'committed') THEN r.shipped + r.released >= r.quantity
				ELSE r.shipped + r.released <> r.quantity END
		UNION ALL
		SELECT 'event', d.stock_id, 1, d.n, format('event_id %s stands more than once', d.event_id)
		FROM (SELECT v.event_id, min(v.stock_id) AS stock_id, count(*) AS n
			FROM inventory.event v GROUP BY v.event_id HAVING count(*) > 1) d
		UNION ALL
		SELECT 'level', v.stock_id, x.expected, x.found, x.detail
		FROM inventory.levels() v
		CROSS JOIN LATERAL inventory.level_differs(v.stock_id) d
		CROSS JOIN LATERAL (VALUES
			(d.expected_on_hand, d.found_on_hand, 'on hand in shared memory'),
			(d.expected_available, d.found_available, 'available (before safety stock) in shared memory')
		) x(expected, found, detail)
		WHERE x.expected <> x.found
	)
	SELECT d.check_name, d.stock_id, s.sku, l.location, t.lot, k.condition, d.expected, d.found, d.detail
	FROM difference d
	LEFT JOIN inventory.stock k ON k.stock_id = d.stock_id
	LEFT JOIN inventory.sku s ON s.sku_id = k.sku_id
	LEFT JOIN inventory.location l ON l.location_id = k.location_id
	LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id
$$;
REVOKE ALL ON FUNCTION inventory.verify() FROM PUBLIC;
COMMENT ON FUNCTION inventory.verify() IS
'Compares stock items, reservations and the levels in shared memory with the events; no row means no discrepancy.';
