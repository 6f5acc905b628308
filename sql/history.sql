-- Only what has not been archived can be told event by event.
CREATE FUNCTION inventory.check_kept(at timestamptz) RETURNS boolean
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	archived_until timestamptz := (SELECT max(a.recorded_until) FROM inventory.archived a);
BEGIN
	IF at < archived_until THEN
		RAISE EXCEPTION 'the events before % have been archived', archived_until
			USING ERRCODE = 'IV022', HINT = 'The tables named in inventory.archived have them, if they were kept.';
	END IF;
	RETURN at IS NOT NULL;
END
$$;
REVOKE ALL ON FUNCTION inventory.check_kept(timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION inventory.check_kept(timestamptz) IS 'The engine''s own: an error (IV022) if the events of a moment have been archived.';

CREATE FUNCTION inventory.history(
	sku text, location text, lot text DEFAULT NULL, condition text DEFAULT 'good'
) RETURNS TABLE (
	event_id bigint, type inventory.event_type, on_hand_delta bigint, reserved_delta bigint,
	committed_delta bigint, on_hand bigint, reserved bigint, committed bigint,
	reservation_id bigint, request_id text, reference text, reason text, actor text,
	recorded_at timestamptz, effective_at timestamptz, metadata jsonb)
	LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
	SELECT v.event_id, v.type, v.on_hand_delta, v.reserved_delta, v.committed_delta,
		(coalesce(b.on_hand, 0) + sum(v.on_hand_delta) OVER upto)::bigint,
		(coalesce(b.reserved, 0) + sum(v.reserved_delta) OVER upto)::bigint,
		(coalesce(b.committed, 0) + sum(v.committed_delta) OVER upto)::bigint,
		v.reservation_id, v.request_id, v.reference, v.reason, v.actor,
		v.recorded_at, coalesce(v.effective_at, v.recorded_at), v.metadata
	FROM inventory.event v
	LEFT JOIN inventory.baseline b ON b.stock_id = v.stock_id
	WHERE v.stock_id = (
		SELECT k.stock_id
		FROM inventory.stock k
		JOIN inventory.sku s ON s.sku_id = k.sku_id
		JOIN inventory.location l ON l.location_id = k.location_id
		LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id
		WHERE s.sku = history.sku AND l.location = history.location
			AND t.lot IS NOT DISTINCT FROM history.lot AND k.condition = history.condition)
	WINDOW upto AS (ORDER BY v.event_id ROWS UNBOUNDED PRECEDING)
	ORDER BY v.event_id
$$;
REVOKE ALL ON FUNCTION inventory.history(text, text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.history(text, text, text, text) IS
'The events of one stock item, oldest first, each with the quantities after it, in base units; from the end of the archived time on.';

CREATE FUNCTION inventory.item_at(
	stock_id bigint, at timestamptz,
	OUT on_hand bigint, OUT reserved bigint, OUT committed bigint, OUT event_count bigint) RETURNS record
	LANGUAGE c STABLE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_item_at';
REVOKE ALL ON FUNCTION inventory.item_at(bigint, timestamptz) FROM PUBLIC;
COMMENT ON FUNCTION inventory.item_at(bigint, timestamptz) IS
'What the events of a stock item that were recorded up to a moment come to, in base units; from its last snapshot before.';

CREATE TYPE inventory.stock_position AS (
	sku text,
	location text,
	lot text,
	condition text,
	on_hand bigint,
	reserved bigint,
	committed bigint,
	event_count bigint
);
COMMENT ON TYPE inventory.stock_position IS 'What a stock item came to at a moment.';
COMMENT ON COLUMN inventory.stock_position.sku IS 'SKU code.';
COMMENT ON COLUMN inventory.stock_position.location IS 'Location code.';
COMMENT ON COLUMN inventory.stock_position.lot IS 'Lot code; NULL when the SKU is not tracked.';
COMMENT ON COLUMN inventory.stock_position.condition IS 'good, damaged, quality_control or quarantine.';
COMMENT ON COLUMN inventory.stock_position.on_hand IS 'Base units physically there.';
COMMENT ON COLUMN inventory.stock_position.reserved IS 'Base units held; a hold counts until its expire event.';
COMMENT ON COLUMN inventory.stock_position.committed IS 'Base units promised to confirmed orders.';
COMMENT ON COLUMN inventory.stock_position.event_count IS 'Number of events up to the moment.';

-- The stock items that match; no code is all of them.
CREATE FUNCTION inventory.stock_items(sku text, location text) RETURNS SETOF inventory.stock
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF stock_items.sku IS NOT NULL AND NOT EXISTS (SELECT FROM inventory.sku s WHERE s.sku = stock_items.sku) THEN
		RAISE EXCEPTION 'unknown SKU "%"', stock_items.sku USING ERRCODE = 'IV002';
	END IF;
	IF stock_items.location IS NOT NULL AND NOT EXISTS (SELECT FROM inventory.location l WHERE l.location = stock_items.location) THEN
		RAISE EXCEPTION 'unknown location "%"', stock_items.location USING ERRCODE = 'IV002';
	END IF;
	IF stock_items.sku IS NULL THEN
		RETURN QUERY SELECT k.* FROM inventory.stock k JOIN inventory.location l ON l.location_id = k.location_id
			WHERE stock_items.location IS NULL OR l.location = stock_items.location;
	ELSE
		RETURN QUERY SELECT k.* FROM inventory.sku s
			JOIN inventory.stock k ON k.sku_id = s.sku_id
			JOIN inventory.location l ON l.location_id = k.location_id
			WHERE s.sku = stock_items.sku AND (stock_items.location IS NULL OR l.location = stock_items.location);
	END IF;
END
$$;
REVOKE ALL ON FUNCTION inventory.stock_items(text, text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.stock_items(text, text) IS
'The stock items of a SKU, in a location, or both; of all for NULL. Unknown codes: IV002.';

CREATE FUNCTION inventory.stock_at(at timestamptz, sku text DEFAULT NULL, location text DEFAULT NULL)
	RETURNS SETOF inventory.stock_position
	LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s.sku, l.location, t.lot, k.condition, q.on_hand, q.reserved, q.committed, q.event_count
	FROM inventory.stock_items(stock_at.sku, stock_at.location) k
	JOIN inventory.sku s ON s.sku_id = k.sku_id
	JOIN inventory.location l ON l.location_id = k.location_id
	LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id
	CROSS JOIN LATERAL inventory.item_at(k.stock_id, stock_at.at) q
	WHERE (SELECT inventory.check_kept(stock_at.at)) AND q.event_count > 0
$$;
REVOKE ALL ON FUNCTION inventory.stock_at(timestamptz, text, text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.stock_at(timestamptz, text, text) IS
'What there was, as far as the engine had learned it by then: the sum of the events with recorded_at up to the moment, in base units, of all stock items, or those of a SKU, a location, or both. Unknown codes: IV002; archived moments: IV022.';

CREATE FUNCTION inventory.position(effective_at timestamptz, sku text DEFAULT NULL, location text DEFAULT NULL)
	RETURNS SETOF inventory.stock_position
	LANGUAGE sql STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s.sku, l.location, t.lot, k.condition, q.on_hand, q.reserved, q.committed, q.event_count
	FROM inventory.stock_items("position".sku, "position".location) k
	JOIN inventory.sku s ON s.sku_id = k.sku_id
	JOIN inventory.location l ON l.location_id = k.location_id
	LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id
	LEFT JOIN inventory.baseline b ON b.stock_id = k.stock_id
	CROSS JOIN LATERAL (
		SELECT coalesce(sum(v.on_hand_delta), 0) AS on_hand, coalesce(sum(v.reserved_delta), 0) AS reserved,
			coalesce(sum(v.committed_delta), 0) AS committed, count(*) AS event_count
		FROM inventory.event v
		WHERE v.stock_id = k.stock_id
			AND coalesce(v.effective_at, v.recorded_at) <= "position".effective_at) e
	CROSS JOIN LATERAL (
		SELECT (coalesce(b.on_hand, 0) + e.on_hand)::bigint AS on_hand, (coalesce(b.reserved, 0) + e.reserved)::bigint AS reserved,
			(coalesce(b.committed, 0) + e.committed)::bigint AS committed, coalesce(b.event_count, 0) + e.event_count AS event_count) q
	WHERE (SELECT inventory.check_kept("position".effective_at)) AND q.event_count > 0
$$;
REVOKE ALL ON FUNCTION inventory.position(timestamptz, text, text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.position(timestamptz, text, text) IS
'What there really was, as far as is known now: the sum of the events with effective_at up to the moment, in base units, whenever they were recorded; of all stock items, or those of a SKU, a location, or both. Reads all events of them. Unknown codes: IV002; archived moments: IV022.';
