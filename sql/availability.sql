-- Reading.  One definition of available, used by every reader:
--
--   available = on hand - reserved - committed - safety stock
--
-- of a stock item that can be promised (good, its SKU, location and lot usable).
-- A stock item that cannot be promised has none available; one that holds and
-- owes nothing keeps no safety stock.  A hold past its deadline is not reserved.

CREATE FUNCTION inventory.available_of(
	on_hand bigint, reserved bigint, committed bigint, safety_stock bigint, promisable boolean
) RETURNS bigint
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
	AS 'MODULE_PATHNAME', 'inventory_available_of';
REVOKE ALL ON FUNCTION inventory.available_of(bigint, bigint, bigint, bigint, boolean) FROM PUBLIC;
COMMENT ON FUNCTION inventory.available_of(bigint, bigint, bigint, bigint, boolean) IS
'The definition of available, in base units.';

-- What is beyond the stock row of a stock item, for the views below.
CREATE FUNCTION inventory.tail_on_hand(stock_id bigint) RETURNS bigint
	LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10
	AS 'MODULE_PATHNAME', 'inventory_tail_on_hand';
CREATE FUNCTION inventory.tail_reserved(stock_id bigint) RETURNS bigint
	LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10
	AS 'MODULE_PATHNAME', 'inventory_tail_reserved';
CREATE FUNCTION inventory.tail_committed(stock_id bigint) RETURNS bigint
	LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10
	AS 'MODULE_PATHNAME', 'inventory_tail_committed';
CREATE FUNCTION inventory.tail_event_count(stock_id bigint) RETURNS bigint
	LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10
	AS 'MODULE_PATHNAME', 'inventory_tail_event_count';
REVOKE ALL ON FUNCTION inventory.tail_on_hand(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION inventory.tail_reserved(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION inventory.tail_committed(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION inventory.tail_event_count(bigint) FROM PUBLIC;
COMMENT ON FUNCTION inventory.tail_on_hand(bigint) IS 'Sum of on_hand_delta, in base units, of the events that the stock row does not include yet, as of the caller''s snapshot.';
COMMENT ON FUNCTION inventory.tail_reserved(bigint) IS 'Sum of reserved_delta, in base units, of the events that the stock row does not include yet, less the holds past their deadline, as of the caller''s snapshot.';
COMMENT ON FUNCTION inventory.tail_committed(bigint) IS 'Sum of committed_delta, in base units, of the events that the stock row does not include yet, as of the caller''s snapshot.';
COMMENT ON FUNCTION inventory.tail_event_count(bigint) IS 'Number of events that the stock row does not include yet, as of the caller''s snapshot.';

CREATE VIEW inventory.stock_level AS
SELECT k.stock_id, s.sku, l.location, t.lot, k.condition,
	q.on_hand, q.reserved, q.committed,
	inventory.available_of(q.on_hand, q.reserved, q.committed, s.safety_stock, p.promisable) AS available,
	s.safety_stock, s.backorder_limit, p.promisable, t.expires_on,
	k.event_count + inventory.tail_event_count(k.stock_id) AS event_count
FROM inventory.stock k
JOIN inventory.sku s ON s.sku_id = k.sku_id
JOIN inventory.location l ON l.location_id = k.location_id
LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id
CROSS JOIN LATERAL (
	SELECT k.on_hand + inventory.tail_on_hand(k.stock_id) AS on_hand,
		k.reserved + inventory.tail_reserved(k.stock_id) AS reserved,
		k.committed + inventory.tail_committed(k.stock_id) AS committed) q
CROSS JOIN LATERAL (
	SELECT k.condition = 'good' AND s.active AND l.active
		AND coalesce(t.status = 'active', true)
		AND (t.expires_on IS NULL OR t.expires_on >= (inventory.clock_time() AT TIME ZONE 'UTC')::date) AS promisable) p;
COMMENT ON VIEW inventory.stock_level IS 'What there is, per stock item, as of the caller''s snapshot.';
COMMENT ON COLUMN inventory.stock_level.stock_id IS 'Internal number of the stock item.';
COMMENT ON COLUMN inventory.stock_level.sku IS 'SKU code.';
COMMENT ON COLUMN inventory.stock_level.location IS 'Location code.';
COMMENT ON COLUMN inventory.stock_level.lot IS 'Lot code; NULL when the SKU is not tracked.';
COMMENT ON COLUMN inventory.stock_level.condition IS 'good, damaged, quality_control or quarantine.';
COMMENT ON COLUMN inventory.stock_level.on_hand IS 'Base units physically there.';
COMMENT ON COLUMN inventory.stock_level.reserved IS 'Base units held until a deadline that has not passed.';
COMMENT ON COLUMN inventory.stock_level.committed IS 'Base units promised to confirmed orders.';
COMMENT ON COLUMN inventory.stock_level.available IS 'Base units that can be promised now; negative when more is promised than is there.';
COMMENT ON COLUMN inventory.stock_level.safety_stock IS 'Base units that are never promised.';
COMMENT ON COLUMN inventory.stock_level.backorder_limit IS 'Base units that may be promised beyond available; NULL is unlimited.';
COMMENT ON COLUMN inventory.stock_level.promisable IS 'Whether goods of this stock item can be promised at all: good, SKU and location active, lot neither blocked nor expired.';
COMMENT ON COLUMN inventory.stock_level.expires_on IS 'Last day (UTC) on which the lot can be promised.';
COMMENT ON COLUMN inventory.stock_level.event_count IS 'Number of events of the stock item.';

CREATE VIEW inventory.sku_level AS
SELECT s.sku, s.name, s.unit, s.decimals,
	coalesce(sum(v.on_hand), 0)::bigint AS on_hand,
	coalesce(sum(v.reserved), 0)::bigint AS reserved,
	coalesce(sum(v.committed), 0)::bigint AS committed,
	coalesce(sum(v.available), 0)::bigint AS available
FROM inventory.sku s
LEFT JOIN inventory.stock_level v ON v.sku = s.sku
GROUP BY s.sku_id;
COMMENT ON VIEW inventory.sku_level IS 'What there is, per SKU: the sum over its stock items.';
COMMENT ON COLUMN inventory.sku_level.sku IS 'SKU code.';
COMMENT ON COLUMN inventory.sku_level.name IS 'Name of the SKU.';
COMMENT ON COLUMN inventory.sku_level.unit IS 'The base unit.';
COMMENT ON COLUMN inventory.sku_level.decimals IS 'How many decimals people read.';
COMMENT ON COLUMN inventory.sku_level.on_hand IS 'Base units physically there, in any condition.';
COMMENT ON COLUMN inventory.sku_level.reserved IS 'Base units held until a deadline that has not passed.';
COMMENT ON COLUMN inventory.sku_level.committed IS 'Base units promised to confirmed orders.';
COMMENT ON COLUMN inventory.sku_level.available IS 'Base units that can be promised now.';

CREATE VIEW inventory.open_reservation AS
SELECT r.reservation_id, r.line_no,
	r.state,
	r.owner, r.reference, s.sku, l.location, t.lot,
	r.quantity, r.shipped, r.released, r.quantity - r.shipped - r.released AS remaining,
	r.expires_at, r.created_at
FROM inventory.reservation r
JOIN inventory.stock k ON k.stock_id = r.stock_id
JOIN inventory.sku s ON s.sku_id = k.sku_id
JOIN inventory.location l ON l.location_id = k.location_id
LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id
WHERE r.state IN ('held', 'committed')
	AND NOT coalesce(r.state = 'held' AND r.expires_at <= inventory.clock_time(), false);
COMMENT ON VIEW inventory.open_reservation IS 'Reservation lines that still promise something: held and not past their deadline, or committed.';
COMMENT ON COLUMN inventory.open_reservation.reservation_id IS 'Number of the reservation.';
COMMENT ON COLUMN inventory.open_reservation.line_no IS 'Number of the line in it.';
COMMENT ON COLUMN inventory.open_reservation.state IS 'held or committed.';
COMMENT ON COLUMN inventory.open_reservation.owner IS 'Whom it is for.';
COMMENT ON COLUMN inventory.open_reservation.reference IS 'The business document that caused it.';
COMMENT ON COLUMN inventory.open_reservation.sku IS 'SKU code.';
COMMENT ON COLUMN inventory.open_reservation.location IS 'Location code.';
COMMENT ON COLUMN inventory.open_reservation.lot IS 'Lot code.';
COMMENT ON COLUMN inventory.open_reservation.quantity IS 'Base units reserved.';
COMMENT ON COLUMN inventory.open_reservation.shipped IS 'Base units shipped so far.';
COMMENT ON COLUMN inventory.open_reservation.released IS 'Base units given back so far.';
COMMENT ON COLUMN inventory.open_reservation.remaining IS 'Base units still promised.';
COMMENT ON COLUMN inventory.open_reservation.expires_at IS 'The deadline; NULL for none.';
COMMENT ON COLUMN inventory.open_reservation.created_at IS 'When it was made.';

-- These two do without SECURITY DEFINER and SET search_path, which would cost more
-- than the read itself: the library looks nothing up by name on that path, and
-- where it runs SQL, it does so as the owner and with the path pinned.
CREATE FUNCTION inventory.available(sku text, location text DEFAULT NULL, lot text DEFAULT NULL)
	RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'inventory_available';
REVOKE ALL ON FUNCTION inventory.available(text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.available(text, text, text) IS
'Base units that can be promised now, in one location and all inside it, or everywhere; of one lot, or of all. Read from memory, as of this moment; on a standby from the tables. Unknown codes: IV002.';

CREATE FUNCTION inventory.on_hand(sku text, location text DEFAULT NULL, lot text DEFAULT NULL)
	RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'inventory_on_hand';
REVOKE ALL ON FUNCTION inventory.on_hand(text, text, text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.on_hand(text, text, text) IS
'Base units physically there, in any condition, in one location and all inside it, or everywhere; of one lot, or of all. Unknown codes: IV002.';
