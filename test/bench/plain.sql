-- The same work by hand, as well as plpgsql can do it: copies of the engine's
-- tables with the same columns, indexes and partitions, without its triggers,
-- and the functions that a competent user would write.

CREATE SCHEMA plain;

CREATE SEQUENCE plain.event_id;
CREATE SEQUENCE plain.reservation_id;

-- Room on the page for the next version of the row, so that an UPDATE touches
-- no index: the usual advice for a table of counters.
CREATE TABLE plain.stock (LIKE inventory.stock INCLUDING ALL) WITH (fillfactor = 50);
CREATE TABLE plain.request (LIKE inventory.request INCLUDING ALL);
CREATE TABLE plain.reservation (LIKE inventory.reservation INCLUDING ALL);
CREATE TABLE plain.event (LIKE inventory.event INCLUDING ALL) PARTITION BY RANGE (recorded_at);

ALTER TABLE plain.request ALTER created_at SET DEFAULT now();
ALTER TABLE plain.reservation ALTER created_at SET DEFAULT now(),
	ALTER reservation_id SET DEFAULT nextval('plain.reservation_id');
ALTER TABLE plain.event ALTER recorded_at SET DEFAULT now(),
	ALTER event_id SET DEFAULT nextval('plain.event_id');

DO $$
DECLARE
	partition record;
BEGIN
	FOR partition IN
		SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bound
		FROM pg_inherits i
		JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'inventory.event'::regclass
	LOOP
		EXECUTE format('CREATE TABLE plain.%1$I (LIKE inventory.%1$I INCLUDING ALL)', partition.relname);
		EXECUTE format('ALTER TABLE plain.event ATTACH PARTITION plain.%I %s', partition.relname, partition.bound);
	END LOOP;
END
$$;

-- A table of messages like one of the ring's, with an index like its one.
CREATE SEQUENCE plain.message_id;
CREATE TABLE plain.outbox (LIKE inventory.outbox_0 INCLUDING ALL)
	WITH (fillfactor = 100, autovacuum_enabled = off, toast.autovacuum_enabled = off);
ALTER TABLE plain.outbox ALTER message_id SET DEFAULT nextval('plain.message_id'),
	ALTER created_at SET DEFAULT now(), ALTER segment SET DEFAULT 0;

INSERT INTO plain.stock(stock_id, sku_id, location_id, lot_id, condition, on_hand)
SELECT k.stock_id, k.sku_id, k.location_id, k.lot_id, k.condition, 1000000000
FROM inventory.stock k;

-- One line.  The row of plain.stock is locked last, and so for as short a time
-- as can be: from there to the end of the caller's transaction.
CREATE FUNCTION plain.reserve(
	sku text, location text, quantity bigint, request_id text,
	ttl interval DEFAULT '15 minutes'
) RETURNS bigint
	LANGUAGE plpgsql
AS $$
DECLARE
	fingerprint bigint := hashtextextended(concat_ws('|', sku, location, quantity, ttl), 0);
	reservation bigint := nextval('plain.reservation_id');
	earlier record;
	item record;
BEGIN
	INSERT INTO plain.request(request_id, operation, fingerprint, result)
	VALUES (request_id, 'reserve', fingerprint, reservation)
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		SELECT r.operation, r.fingerprint, r.result INTO earlier
		FROM plain.request r WHERE r.request_id = reserve.request_id;
		IF earlier.operation <> 'reserve' OR earlier.fingerprint <> fingerprint THEN
			RAISE EXCEPTION 'request id "%" was used for something else', request_id;
		END IF;
		RETURN earlier.result;
	END IF;

	SELECT k.stock_id, s.safety_stock - s.backorder_limit AS floor INTO item
	FROM inventory.sku s
	JOIN plain.stock k ON k.sku_id = s.sku_id
	JOIN inventory.location l ON l.location_id = k.location_id
	WHERE s.sku = reserve.sku AND l.location = reserve.location
		AND k.lot_id IS NULL AND k.condition = 'good' AND s.active AND l.active;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'no stock of SKU "%" in location "%"', sku, location;
	END IF;

	INSERT INTO plain.reservation(reservation_id, stock_id, quantity, expires_at)
	VALUES (reservation, item.stock_id, quantity, now() + ttl);

	INSERT INTO plain.event(stock_id, type, reserved_delta, reservation_id, request_id)
	VALUES (item.stock_id, 'reserve', quantity, reservation, request_id);

	UPDATE plain.stock k SET reserved = k.reserved + quantity
	WHERE k.stock_id = item.stock_id AND k.on_hand - k.reserved - k.committed - quantity >= item.floor;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'not enough of SKU "%" in location "%"', sku, location;
	END IF;
	RETURN reservation;
END
$$;

-- Many lines, all or nothing: in the order given, or in the order of the stock
-- items, which is what keeps orders from waiting for each other in a circle.
CREATE FUNCTION plain.reserve(
	lines jsonb, request_id text, sorted boolean,
	ttl interval DEFAULT '15 minutes'
) RETURNS bigint
	LANGUAGE plpgsql
AS $$
DECLARE
	fingerprint bigint := hashtextextended(concat_ws('|', lines, ttl), 0);
	reservation bigint := nextval('plain.reservation_id');
	earlier record;
	line record;
BEGIN
	INSERT INTO plain.request(request_id, operation, fingerprint, result)
	VALUES (request_id, 'reserve', fingerprint, reservation)
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		SELECT r.operation, r.fingerprint, r.result INTO earlier
		FROM plain.request r WHERE r.request_id = reserve.request_id;
		IF earlier.operation <> 'reserve' OR earlier.fingerprint <> fingerprint THEN
			RAISE EXCEPTION 'request id "%" was used for something else', request_id;
		END IF;
		RETURN earlier.result;
	END IF;

	FOR line IN
		SELECT j.value ->> 'sku' AS sku, (j.value ->> 'quantity')::bigint AS quantity,
			j.ordinality AS line_no, k.stock_id, s.safety_stock - s.backorder_limit AS floor
		FROM jsonb_array_elements(lines) WITH ORDINALITY AS j
		JOIN inventory.sku s ON s.sku = j.value ->> 'sku' AND s.active
		JOIN plain.stock k ON k.sku_id = s.sku_id AND k.lot_id IS NULL AND k.condition = 'good'
		JOIN inventory.location l ON l.location_id = k.location_id AND l.active
		WHERE l.location = j.value ->> 'location'
		ORDER BY CASE WHEN sorted THEN k.stock_id END, line_no
	LOOP
		INSERT INTO plain.reservation(reservation_id, line_no, stock_id, quantity, expires_at)
		VALUES (reservation, line.line_no, line.stock_id, line.quantity, now() + ttl);

		INSERT INTO plain.event(stock_id, type, reserved_delta, reservation_id, request_id)
		VALUES (line.stock_id, 'reserve', line.quantity, reservation, request_id);

		UPDATE plain.stock k SET reserved = k.reserved + line.quantity
		WHERE k.stock_id = line.stock_id AND k.on_hand - k.reserved - k.committed - line.quantity >= line.floor;
		IF NOT FOUND THEN
			RAISE EXCEPTION 'not enough of SKU "%"', line.sku;
		END IF;
	END LOOP;
	RETURN reservation;
END
$$;

-- The bare INSERTs of the rows that reserve() writes, and nothing else: no
-- code is looked up, nothing is checked, no stock is counted.
CREATE FUNCTION plain.insert_rows(stock_id bigint, quantity bigint, request_id text) RETURNS bigint
	LANGUAGE plpgsql
AS $$
DECLARE
	reservation bigint := nextval('plain.reservation_id');
BEGIN
	INSERT INTO plain.request(request_id, operation, fingerprint, result)
	VALUES (request_id, 'reserve', 0, reservation);
	INSERT INTO plain.reservation(reservation_id, stock_id, quantity, expires_at)
	VALUES (reservation, stock_id, quantity, now() + interval '15 minutes');
	INSERT INTO plain.event(stock_id, type, reserved_delta, reservation_id, request_id)
	VALUES (stock_id, 'reserve', quantity, reservation, request_id);
	RETURN reservation;
END
$$;

-- The same in C (insert_rows.c), without the executor: as cheap as it gets.
CREATE FUNCTION plain.insert_rows_c(stock_id bigint, quantity bigint, request_id text) RETURNS bigint
	LANGUAGE c STRICT AS :'library', 'insert_rows';

-- What the array form of post() receives, and COPY copies.
CREATE TABLE plain.receipt AS
SELECT k.stock_id, s.sku, 'MAIN'::text AS location, (1 + n % 10)::bigint AS quantity
FROM generate_series(1, 100000) AS n
JOIN inventory.sku s ON s.sku = 'SKU' || (1 + n * 7919 % 10000)
JOIN plain.stock k ON k.sku_id = s.sku_id;
