-- A real month of sales: what each invoice line is, and how it is booked.

CREATE SCHEMA demo;

CREATE TABLE demo.line (
	line_no integer GENERATED ALWAYS AS IDENTITY,
	invoice text NOT NULL,
	code text NOT NULL,
	description text,
	quantity bigint NOT NULL,
	invoiced_at timestamptz NOT NULL,
	price numeric NOT NULL,
	customer text,
	country text
);

-- Codes that stand for money or service, not for things on a shelf.
CREATE FUNCTION demo.no_goods(sku text) RETURNS text
	LANGUAGE sql IMMUTABLE
	RETURN CASE
		WHEN sku IN ('POST', 'DOT') THEN 'postage'
		WHEN sku = 'C2' THEN 'carriage'
		WHEN sku = 'D' THEN 'discount'
		WHEN sku = 'M' THEN 'manual entry'
		WHEN sku = 'S' THEN 'samples'
		WHEN sku = 'BANK CHARGES' THEN 'bank charges'
		WHEN sku = 'AMAZONFEE' THEN 'marketplace fee'
		WHEN sku LIKE 'GIFT\_%' THEN 'gift voucher'
	END;

-- 85123a and 85123A are the same article; 85123B is another one.
CREATE VIEW demo.sorted AS
SELECT v.*, upper(v.code) AS sku, demo.no_goods(upper(v.code)) AS no_goods,
	CASE
		WHEN demo.no_goods(upper(v.code)) IS NOT NULL THEN 'skipped'
		WHEN v.invoice LIKE 'C%' THEN 'return'
		WHEN v.quantity < 0 THEN 'write-off'
		ELSE 'sale'
	END AS kind
FROM demo.line v;

-- One row per document, in the order of the month.
CREATE VIEW demo.document AS
SELECT v.invoice, v.kind, min(v.invoiced_at) AS invoiced_at,
	array_agg(v.sku ORDER BY v.line_no) AS skus,
	array_agg(abs(v.quantity) ORDER BY v.line_no) AS quantities,
	jsonb_agg(jsonb_build_object('sku', v.sku, 'location', 'WAREHOUSE', 'quantity', v.quantity)
		ORDER BY v.line_no) AS lines,
	min(v.description) AS description
FROM demo.sorted v
WHERE v.kind <> 'skipped'
GROUP BY v.invoice, v.kind;

CREATE TABLE demo.refused (invoice text, kind text, lines bigint, message text);

-- The SKUs, each under the name it has most often, and their opening stock:
-- the data have no receipts, so each SKU opens with what it sells and loses in
-- the month.  One call, one line per SKU.
CREATE PROCEDURE demo.open_stock()
	LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO inventory.location(location) VALUES ('WAREHOUSE');
	INSERT INTO inventory.sku(sku, name)
	-- Without a price the description is a note: "?", "damages", "Found".
	SELECT v.sku, mode() WITHIN GROUP (ORDER BY v.description) FILTER (WHERE v.price > 0)
	FROM demo.sorted v WHERE v.kind <> 'skipped' GROUP BY v.sku;

	PERFORM inventory.post('receive', array_agg(o.sku), array_agg('WAREHOUSE'::text), array_agg(o.quantity),
		request_id => 'opening 2010-12', reason => 'opening stock', effective_at => '2010-12-01 00:00Z')
	FROM (
		SELECT v.sku, sum(abs(v.quantity))::bigint AS quantity
		FROM demo.sorted v WHERE v.kind IN ('sale', 'write-off') GROUP BY v.sku) o;
END
$$;

-- Every document is a transaction of its own, as it was then.
CREATE PROCEDURE demo.replay()
	LANGUAGE plpgsql AS $$
DECLARE
	documents bigint := (SELECT count(*) FROM demo.document);
	done bigint := 0;
	doc record;
	reservation bigint;
BEGIN
	FOR doc IN SELECT * FROM demo.document d ORDER BY d.invoiced_at, d.invoice LOOP
		BEGIN
			CASE doc.kind
			WHEN 'sale' THEN
				reservation := inventory.reserve(doc.lines, owner => doc.invoice,
					request_id => doc.invoice || ' reserve', reference => doc.invoice,
					effective_at => doc.invoiced_at);
				PERFORM inventory.confirm(reservation, request_id => doc.invoice || ' confirm',
					reference => doc.invoice, effective_at => doc.invoiced_at);
				PERFORM inventory.ship(reservation, request_id => doc.invoice || ' ship',
					reference => doc.invoice, effective_at => doc.invoiced_at);
			WHEN 'return' THEN
				PERFORM inventory.post('receive', doc.skus, array_fill('WAREHOUSE'::text, ARRAY[cardinality(doc.skus)]),
					doc.quantities, request_id => doc.invoice, reference => doc.invoice,
					reason => 'return', effective_at => doc.invoiced_at);
			WHEN 'write-off' THEN
				FOR i IN 1 .. cardinality(doc.skus) LOOP
					PERFORM inventory.adjust(doc.skus[i], 'WAREHOUSE', -doc.quantities[i], reason => 'write-off',
						request_id => doc.invoice || ' ' || i, reference => doc.invoice,
						effective_at => doc.invoiced_at,
						metadata => jsonb_build_object('note', doc.description));
				END LOOP;
			END CASE;
		EXCEPTION WHEN SQLSTATE 'IV001' THEN
			INSERT INTO demo.refused VALUES (doc.invoice, doc.kind, cardinality(doc.skus), SQLERRM);
		END;
		COMMIT;
		done := done + 1;
		IF done % greatest(documents / 50, 1) = 0 OR done = documents THEN
			RAISE INFO 'progress % %', done, documents;
		END IF;
	END LOOP;
END
$$;

-- What was read, as text for people.
CREATE FUNCTION demo.number(n bigint) RETURNS text
	LANGUAGE sql IMMUTABLE RETURN to_char(n, 'FM999,999,999');

CREATE VIEW demo.input_report AS
SELECT format('  %s %s lines %s documents %s pieces', rpad(k.label, 28),
	lpad(demo.number(count(v.line_no)), 8), lpad(demo.number(count(DISTINCT v.invoice)), 7),
	lpad(demo.number(coalesce(sum(abs(v.quantity)), 0)::bigint), 9)) AS text
FROM (VALUES (1, 'sale', 'sales'), (2, 'return', 'cancellations, as returns'), (3, 'write-off', 'write-offs')) k(n, kind, label)
LEFT JOIN demo.sorted v ON v.kind = k.kind
GROUP BY k.n, k.label ORDER BY k.n;

CREATE VIEW demo.skipped_report AS
SELECT format('    %s %s lines', rpad(v.no_goods || ' (' || string_agg(DISTINCT v.sku, ', ') || ')', 48),
	lpad(demo.number(count(*)), 6)) AS text
FROM demo.sorted v WHERE v.no_goods IS NOT NULL
GROUP BY v.no_goods ORDER BY count(*) DESC, v.no_goods;

CREATE VIEW demo.dirt_report AS
WITH goods AS (SELECT * FROM demo.sorted v WHERE v.kind <> 'skipped')
SELECT format('    %s %s  %s', rpad(d.label, 36), lpad(demo.number(d.n), 6), d.remedy) AS text
FROM (
	SELECT 1 AS no, 'lines with the code in lower case' AS label,
		count(*) FILTER (WHERE code <> sku) AS n, 'booked on the upper-case code' AS remedy FROM goods
	UNION ALL
	SELECT 2, 'lines without a description', count(*) FILTER (WHERE description IS NULL), 'named by the other lines' FROM goods
	UNION ALL
	SELECT 3, 'codes with several descriptions', count(*), 'the most frequent one is the name'
	FROM (SELECT FROM goods WHERE price > 0 GROUP BY sku HAVING count(DISTINCT description) > 1) x
	UNION ALL
	SELECT 4, 'codes that no priced line describes', count(*), 'without a name'
	FROM (SELECT FROM goods GROUP BY sku HAVING count(description) FILTER (WHERE price > 0) = 0) x
	UNION ALL
	SELECT 5, 'negative lines without a C', count(*) FILTER (WHERE kind = 'write-off'), 'booked as write-offs' FROM goods
	UNION ALL
	SELECT 6, 'lines at price 0, not negative', count(*) FILTER (WHERE price = 0 AND quantity > 0), 'booked as sales' FROM goods
	UNION ALL
	SELECT 7, 'lines without a customer', count(*) FILTER (WHERE customer IS NULL), 'booked all the same' FROM goods
	UNION ALL
	SELECT 8, 'lines that repeat another one', coalesce(sum(n - 1), 0)::bigint, 'booked: two lines, two parcels'
	FROM (SELECT count(*) AS n FROM goods GROUP BY invoice, code, description, quantity, invoiced_at, price, customer, country) x
	UNION ALL
	SELECT 9, 'invoices with two times', count(*), 'the first counts'
	FROM (SELECT FROM goods GROUP BY invoice HAVING count(DISTINCT invoiced_at) > 1) x
) d ORDER BY d.no;

-- What was booked, from the events alone.
CREATE VIEW demo.booked_report AS
SELECT format('  %s %s events %s pieces', rpad(k.label, 30),
	lpad(demo.number(count(e.event_id)), 8),
	lpad(demo.number(coalesce(sum(abs(e.on_hand_delta) + greatest(e.reserved_delta, 0) + greatest(e.committed_delta, 0)), 0)::bigint), 9)) AS text
FROM (VALUES (1, 'receive', 'opening stock', 'opening stock received'), (2, 'reserve', NULL, 'reserved'), (3, 'confirm', NULL, 'confirmed'),
	(4, 'ship', NULL, 'shipped'), (5, 'receive', 'return', 'returned'), (6, 'adjust', 'write-off', 'written off')) k(n, type, reason, label)
LEFT JOIN inventory.event e ON e.type::text = k.type AND e.reason IS NOT DISTINCT FROM k.reason
GROUP BY k.n, k.label ORDER BY k.n;

-- SKUs whose on hand is not what the input adds up to, refused documents left
-- out: opening - sold - written off + returned.
CREATE VIEW demo.difference AS
SELECT v.sku, i.expected, l.on_hand
FROM (SELECT DISTINCT sku FROM demo.sorted WHERE kind <> 'skipped') v
CROSS JOIN LATERAL (
	SELECT sum(CASE WHEN s.kind IN ('sale', 'write-off') THEN abs(s.quantity) ELSE 0 END)
		+ sum(CASE WHEN s.kind = 'return' THEN 1 ELSE -1 END * abs(s.quantity)) FILTER (WHERE r.invoice IS NULL) AS expected
	FROM demo.sorted s
	LEFT JOIN demo.refused r ON r.invoice = s.invoice AND r.kind = s.kind
	WHERE s.sku = v.sku AND s.kind <> 'skipped') i
LEFT JOIN inventory.sku_level l ON l.sku = v.sku
WHERE i.expected IS DISTINCT FROM l.on_hand;
