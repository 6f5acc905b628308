-- A flash sale on the article that most orders of the month asked for, and the
-- same sale by hand: a stock table with a guarded UPDATE, and the reservation,
-- event and request rows that the engine writes too, in one function.
-- Needs the psql variable pieces: how many there are to sell.

INSERT INTO inventory.location(location, parent_id)
SELECT 'FLASH', l.location_id FROM inventory.location l WHERE l.location = 'WAREHOUSE';

CREATE TABLE demo.hot AS
SELECT v.sku FROM demo.sorted v WHERE v.kind = 'sale'
GROUP BY v.sku ORDER BY count(*) DESC, v.sku LIMIT 1;

SELECT inventory.receive(h.sku, 'FLASH', :pieces, reason => 'flash sale', request_id => 'flash sale')
FROM demo.hot h;

CREATE SCHEMA by_hand;
CREATE SEQUENCE by_hand.event_id;
CREATE SEQUENCE by_hand.reservation_id;
-- Room on the page for the next version of the row: no index is touched.
CREATE TABLE by_hand.stock (
	sku text PRIMARY KEY,
	on_hand bigint NOT NULL,
	reserved bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE by_hand.reservation (
	reservation_id bigint PRIMARY KEY,
	sku text NOT NULL,
	quantity bigint NOT NULL,
	expires_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON by_hand.reservation (sku, expires_at);
CREATE TABLE by_hand.event (
	event_id bigint PRIMARY KEY DEFAULT nextval('by_hand.event_id'),
	sku text NOT NULL,
	type text NOT NULL,
	reserved_delta bigint NOT NULL,
	reservation_id bigint NOT NULL,
	request_id text NOT NULL,
	actor text NOT NULL DEFAULT session_user,
	recorded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON by_hand.event (sku, event_id);
CREATE TABLE by_hand.request (
	request_id text PRIMARY KEY,
	quantity bigint NOT NULL,
	result bigint NOT NULL
);

-- The row of the SKU is locked last, so for as short a time as can be: until
-- commit.  A look without a lock comes first, so that a refusal costs little.
CREATE FUNCTION by_hand.try_reserve(sku text, quantity bigint, request_id text) RETURNS bigint
	LANGUAGE plpgsql AS $$
DECLARE
	reservation bigint;
	earlier record;
BEGIN
	PERFORM FROM by_hand.stock k WHERE k.sku = try_reserve.sku AND k.on_hand - k.reserved >= try_reserve.quantity;
	IF NOT FOUND THEN
		SELECT r.result INTO reservation FROM by_hand.request r
		WHERE r.request_id = try_reserve.request_id AND r.quantity = try_reserve.quantity;
		RETURN reservation;
	END IF;
	reservation := nextval('by_hand.reservation_id');
	INSERT INTO by_hand.request VALUES (request_id, quantity, reservation) ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		SELECT r.quantity, r.result INTO earlier FROM by_hand.request r WHERE r.request_id = try_reserve.request_id;
		IF earlier.quantity <> try_reserve.quantity THEN
			RAISE EXCEPTION 'request id "%" was used for something else', request_id;
		END IF;
		RETURN earlier.result;
	END IF;
	INSERT INTO by_hand.reservation(reservation_id, sku, quantity, expires_at)
	VALUES (reservation, sku, quantity, now() + interval '15 minutes');
	INSERT INTO by_hand.event(sku, type, reserved_delta, reservation_id, request_id)
	VALUES (sku, 'reserve', quantity, reservation, request_id);
	UPDATE by_hand.stock k SET reserved = k.reserved + try_reserve.quantity
	WHERE k.sku = try_reserve.sku AND k.on_hand - k.reserved >= try_reserve.quantity;
	IF NOT FOUND THEN
		-- The last one went meanwhile: undo, and let the caller try again.
		RAISE EXCEPTION 'not enough of SKU "%"', sku USING ERRCODE = 'serialization_failure';
	END IF;
	RETURN reservation;
END
$$;

INSERT INTO by_hand.stock(sku, on_hand) SELECT h.sku, :pieces FROM demo.hot h;

-- What came of both sales, counted from the rows that they left behind.
CREATE VIEW demo.sale AS
SELECT 'row lock' AS method, count(*) AS orders, coalesce(sum(r.quantity), 0)::bigint AS pieces,
	greatest(coalesce(sum(r.quantity), 0)::bigint - :pieces, 0) AS oversold,
	coalesce(sum(r.quantity), 0)::bigint >= :pieces AS sold_out,
	extract(epoch FROM max(r.created_at) - min(r.created_at)) AS seconds
FROM by_hand.reservation r
UNION ALL
SELECT 'inventory', count(*), coalesce(sum(r.quantity), 0)::bigint,
	greatest(coalesce(sum(r.quantity), 0)::bigint - :pieces, 0),
	coalesce(sum(r.quantity), 0)::bigint >= :pieces,
	extract(epoch FROM max(r.created_at) - min(r.created_at))
FROM inventory.reservation r
JOIN inventory.stock k ON k.stock_id = r.stock_id
JOIN inventory.location l ON l.location_id = k.location_id AND l.location = 'FLASH';

CREATE FUNCTION demo.sale_report(asked_row_lock bigint, asked_inventory bigint) RETURNS TABLE (text text)
	LANGUAGE sql AS $$
	WITH row_lock AS (
		SELECT *, orders / nullif(seconds, 0) AS rate FROM demo.sale WHERE method = 'row lock'
	), inventory AS (
		SELECT *, orders / nullif(seconds, 0) AS rate FROM demo.sale WHERE method = 'inventory'
	), verified AS (
		SELECT count(*) AS n FROM inventory.verify()
	)
	SELECT rtrim(format('  %s %s %s  %s', rpad(x.label, 24), lpad(x.left_side, 14), lpad(x.right_side, 14), x.remark))
	FROM row_lock r, inventory i, verified v, LATERAL (VALUES
		('', 'row lock', 'inventory', ''),
		('orders', demo.number(r.orders), demo.number(i.orders), ''),
		('refusals', demo.number(asked_row_lock - r.orders), demo.number(asked_inventory - i.orders), ''),
		('sold out after', CASE WHEN r.sold_out THEN round(r.seconds, 1) || ' s' ELSE '-' END,
			CASE WHEN i.sold_out THEN round(i.seconds, 1) || ' s' ELSE '-' END, ''),
		('orders per second', demo.number(r.rate::bigint), demo.number(i.rate::bigint),
			format('%s times', round(i.rate / r.rate, 1))),
		('oversold pieces', demo.number(r.oversold), demo.number(i.oversold), ''),
		('discrepancies (verify())', '', demo.number(v.n), '')
	) x(label, left_side, right_side, remark)
$$;
