-- Every reader tells the same: available(), on_hand(), stock_level, sku_level,
-- open_reservation, history() and the events themselves, whatever has happened,
-- within a transaction, after its commit and after its rollback.
--
-- Runs in a database of its own, because much of it must commit, and stops the
-- engine's clock.
\set database inventory_pgtap_availability
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
-- The comparison is one large query; compiling it takes longer than running it.
SET jit = off;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 23:00:00+00'); END $$;
SELECT no_plan();

-- Where two readers disagree; computed from the tables alone on one side, and
-- with the definition of available written out here once more.
CREATE FUNCTION pg_temp.disagreement() RETURNS SETOF text
	LANGUAGE sql AS $$
	WITH fact AS MATERIALIZED (
		SELECT k.stock_id, s.sku, l.location, t.lot, k.condition::text AS condition, s.safety_stock,
			coalesce(e.on_hand, 0) AS on_hand, coalesce(e.reserved, 0) - coalesce(r.overdue, 0) AS reserved, coalesce(e.committed, 0) AS committed,
			coalesce(r.held, 0) AS held, coalesce(r.promised, 0) AS promised, coalesce(r.overdue, 0) AS overdue,
			s.active AND l.active AND k.condition = 'good' AND t.status IS DISTINCT FROM 'blocked'
				AND (t.expires_on IS NULL OR t.expires_on >= (inventory.clock_time() AT TIME ZONE 'UTC')::date) AS promisable
		FROM inventory.stock k
		JOIN inventory.sku s USING (sku_id)
		JOIN inventory.location l USING (location_id)
		LEFT JOIN inventory.lot t USING (lot_id)
		LEFT JOIN (SELECT stock_id, sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved, sum(committed_delta) AS committed
			FROM inventory.event GROUP BY stock_id) e USING (stock_id)
		LEFT JOIN (SELECT stock_id,
				sum(quantity - shipped - released) FILTER (WHERE state = 'held' AND (expires_at > inventory.clock_time() OR expires_at IS NULL)) AS held,
				sum(quantity - shipped - released) FILTER (WHERE state = 'held' AND expires_at <= inventory.clock_time()) AS overdue,
				sum(quantity - shipped - released) FILTER (WHERE state = 'committed') AS promised
			FROM inventory.reservation GROUP BY stock_id) r USING (stock_id)
	), expected AS MATERIALIZED (
		SELECT f.*, CASE WHEN NOT promisable OR on_hand = 0 AND reserved = 0 AND committed = 0 THEN 0
			ELSE on_hand - reserved - committed - safety_stock END AS available
		FROM fact f
	)
	SELECT format('stock_level of %s: %s', e.stock_id, v) FROM expected e LEFT JOIN inventory.stock_level v USING (stock_id)
	WHERE (e.sku, e.location, e.condition, e.on_hand, e.reserved, e.committed, e.available, e.promisable)
		IS DISTINCT FROM (v.sku, v.location, v.condition, v.on_hand, v.reserved, v.committed, v.available, v.promisable)
	UNION ALL
	SELECT format('reservation lines of %s: %s/%s', e.stock_id, held, promised) FROM expected e WHERE (held, promised) <> (reserved, committed)
	UNION ALL
	SELECT format('sku_level of %s', s.sku)
	FROM inventory.sku s LEFT JOIN inventory.sku_level v USING (sku)
	LEFT JOIN (SELECT sku, sum(on_hand) AS on_hand, sum(reserved) AS reserved, sum(committed) AS committed, sum(available) AS available FROM expected GROUP BY sku) e USING (sku)
	WHERE (coalesce(e.on_hand, 0), coalesce(e.reserved, 0), coalesce(e.committed, 0), coalesce(e.available, 0))
		IS DISTINCT FROM (v.on_hand::numeric, v.reserved::numeric, v.committed::numeric, v.available::numeric)
	UNION ALL
	SELECT format('open_reservation of %s/%s/%s: %s', x.sku, x.location, x.lot, remaining)
	FROM (SELECT sku, location, lot, sum(reserved + committed) AS promised FROM expected WHERE condition = 'good' GROUP BY 1, 2, 3) x
	LEFT JOIN (SELECT sku, location, lot, sum(remaining) AS remaining FROM inventory.open_reservation GROUP BY 1, 2, 3) o
		ON (o.sku, o.location) = (x.sku, x.location) AND o.lot IS NOT DISTINCT FROM x.lot
	WHERE x.promised <> coalesce(o.remaining, 0)
	UNION ALL
	SELECT format('history of %s', e.stock_id)
	FROM expected e
	CROSS JOIN LATERAL (SELECT h.on_hand, h.reserved, h.committed FROM inventory.history(e.sku, e.location, e.lot, e.condition) h ORDER BY h.event_id DESC LIMIT 1) h
	WHERE (h.on_hand, h.reserved, h.committed) IS DISTINCT FROM (e.on_hand::bigint, (e.reserved + e.overdue)::bigint, e.committed::bigint)
	UNION ALL
	SELECT format('available(%s): %s', s.sku, inventory.available(s.sku)) FROM inventory.sku s
	WHERE inventory.available(s.sku) <> (SELECT coalesce(sum(e.available), 0) FROM expected e WHERE e.sku = s.sku)
	UNION ALL
	SELECT format('on_hand(%s): %s', s.sku, inventory.on_hand(s.sku)) FROM inventory.sku s
	WHERE inventory.on_hand(s.sku) <> (SELECT coalesce(sum(e.on_hand), 0) FROM expected e WHERE e.sku = s.sku)
	UNION ALL
	SELECT format('available(%s, %s) and on_hand: %s, %s', s.sku, l.location, inventory.available(s.sku, l.location), inventory.on_hand(s.sku, l.location))
	FROM inventory.sku s CROSS JOIN inventory.location l
	CROSS JOIN LATERAL (
		WITH RECURSIVE inside(location_id) AS (
			SELECT l.location_id UNION SELECT c.location_id FROM inventory.location c JOIN inside i ON c.parent_id = i.location_id)
		SELECT coalesce(sum(e.available), 0) AS available, coalesce(sum(e.on_hand), 0) AS on_hand
		FROM expected e JOIN inventory.location c USING (location) JOIN inside i ON i.location_id = c.location_id WHERE e.sku = s.sku) x
	WHERE inventory.available(s.sku, l.location) <> x.available OR inventory.on_hand(s.sku, l.location) <> x.on_hand
	UNION ALL
	SELECT format('available(%s, lot %s) and on_hand: %s, %s', s.sku, t.lot, inventory.available(s.sku, lot => t.lot), inventory.on_hand(s.sku, lot => t.lot))
	FROM inventory.lot t JOIN inventory.sku s USING (sku_id)
	CROSS JOIN LATERAL (SELECT coalesce(sum(e.available), 0) AS available, coalesce(sum(e.on_hand), 0) AS on_hand FROM expected e WHERE e.sku = s.sku AND e.lot = t.lot) x
	WHERE inventory.available(s.sku, lot => t.lot) <> x.available OR inventory.on_hand(s.sku, lot => t.lot) <> x.on_hand
$$;

-- SITE holds ZONE-1 (BIN-1, BIN-2) and ZONE-2; ELSEWHERE is apart.
INSERT INTO inventory.location (location_id, location, parent_id) VALUES
	(1, 'SITE', NULL), (2, 'ZONE-1', 1), (3, 'ZONE-2', 1), (4, 'BIN-1', 2), (5, 'BIN-2', 2), (6, 'ELSEWHERE', NULL);
INSERT INTO inventory.sku (sku, safety_stock, backorder_limit) VALUES ('A', 0, 0), ('SAFE', 3, 0), ('BACK', 0, 20), ('IDLE', 5, 0);
INSERT INTO inventory.sku (sku, tracking) VALUES ('LOT', 'lot');
INSERT INTO inventory.lot (sku_id, lot, expires_on) SELECT sku_id, 'X', '2031-04-10'::date FROM inventory.sku WHERE sku = 'LOT';
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'Y' FROM inventory.sku WHERE sku = 'LOT';

-- Before anything happened

SELECT is(inventory.available('A'), 0::bigint, 'a SKU that was never received has nothing available');
SELECT is(inventory.on_hand('A'), 0::bigint, 'and nothing on hand');
SELECT is(inventory.available('IDLE', 'BIN-1'), 0::bigint, 'where nothing is kept there is no safety stock to miss');
SELECT results_eq($$SELECT sku COLLATE "default", on_hand, reserved, committed, available FROM inventory.sku_level WHERE sku = 'A'$$, $$VALUES ('A', 0::bigint, 0::bigint, 0::bigint, 0::bigint)$$,
	'sku_level lists a SKU without stock items');
SELECT is_empty('SELECT * FROM inventory.stock_level', 'stock_level has no rows before the first movement');
SELECT is_empty('SELECT * FROM pg_temp.disagreement()', 'all readers agree before anything happened');

-- A subtree of locations

SELECT inventory.post('receive', ARRAY['A', 'A', 'A', 'A', 'A'], ARRAY['SITE', 'ZONE-1', 'BIN-1', 'BIN-2', 'ELSEWHERE'], ARRAY[1, 10, 100, 1000, 10000]) AS events \gset
SELECT is(inventory.available('A'), 11111::bigint, 'without a location available is of all');
SELECT is(inventory.available('A', 'SITE'), 1111::bigint, 'of a site it is of the site and all inside it');
SELECT is(inventory.available('A', 'ZONE-1'), 1110::bigint, 'of a zone it is of the zone and its bins');
SELECT is(inventory.available('A', 'BIN-1'), 100::bigint, 'of a bin it is of the bin');
SELECT is(inventory.available('A', 'ZONE-2'), 0::bigint, 'of an empty zone it is 0');
SELECT is(inventory.on_hand('A', 'ZONE-1'), 1110::bigint, 'on_hand does the same');
SELECT is(inventory.on_hand('A'), 11111::bigint, 'also without a location');
UPDATE inventory.location SET parent_id = 3 WHERE location = 'BIN-2';
SELECT is(inventory.available('A', 'ZONE-2'), 1000::bigint, 'a bin that was moved counts in its new zone');
SELECT is(inventory.available('A', 'ZONE-1'), 110::bigint, 'and not in its old one');
SELECT throws_ok($$SELECT inventory.reserve('A', 'ZONE-1', 101)$$, 'IV001', NULL, 'but a promise is of one location');
SELECT is_empty('SELECT * FROM pg_temp.disagreement()', 'all readers agree on a tree of locations');

-- Unknown codes

SELECT throws_ok(call, 'IV002', NULL, 'unknown code: ' || call) FROM unnest(ARRAY[
	$$SELECT inventory.available('NONE')$$, $$SELECT inventory.available('A', 'NOWHERE')$$, $$SELECT inventory.available('LOT', 'SITE', 'NOLOT')$$,
	$$SELECT inventory.on_hand('NONE')$$, $$SELECT inventory.on_hand('A', 'NOWHERE')$$, $$SELECT inventory.on_hand('LOT', NULL, 'NOLOT')$$]) call;
SELECT throws_ok(call, '22004', NULL, 'a SKU must be named: ' || call) FROM unnest(ARRAY[
	'SELECT inventory.available(NULL)', 'SELECT inventory.on_hand(NULL)']) call;

-- A life of stock; after each step all readers agree, inside the transaction
-- and after it.

CREATE TEMP TABLE step (n integer, what text, call text);
INSERT INTO step VALUES
	(1, 'receive', $$SELECT inventory.receive('SAFE', 'BIN-1', 10)$$),
	(2, 'receive lots', $$SELECT inventory.post('[{"type": "receive", "sku": "LOT", "location": "BIN-1", "quantity": 10, "lot": "X"}, {"type": "receive", "sku": "LOT", "location": "BIN-2", "quantity": 10, "lot": "Y"}]')$$),
	(3, 'receive damaged', $$SELECT inventory.receive('SAFE', 'BIN-1', 4, condition => 'damaged')$$),
	(4, 'issue', $$SELECT inventory.issue('SAFE', 'BIN-1', 2)$$),
	(5, 'hold', $$SELECT inventory.reserve('SAFE', 'BIN-1', 2, owner => 'one', ttl => '10 minutes')$$),
	(6, 'hold of lots', $$SELECT inventory.reserve('[{"sku": "LOT", "location": "BIN-1", "quantity": 3, "lot": "X"}, {"sku": "LOT", "location": "BIN-2", "quantity": 4, "lot": "Y"}]', owner => 'two', ttl => NULL)$$),
	(7, 'backorder', $$SELECT inventory.reserve('BACK', 'BIN-1', 15, owner => 'three', ttl => NULL)$$),
	(8, 'confirm', $$SELECT inventory.confirm(reservation_id) FROM inventory.reservation WHERE owner = 'two' LIMIT 1$$),
	(9, 'ship a part', $$SELECT inventory.ship(reservation_id, '[{"line_no": 1, "quantity": 2}]') FROM inventory.reservation WHERE owner = 'two' LIMIT 1$$),
	(10, 'release a part', $$SELECT inventory.release(reservation_id, '[{"line_no": 2, "quantity": 1}]') FROM inventory.reservation WHERE owner = 'two' LIMIT 1$$),
	(11, 'transfer', $$SELECT inventory.transfer('A', 'BIN-1', 'ELSEWHERE', 30)$$),
	(12, 'adjust under the promises', $$SELECT inventory.adjust('LOT', 'BIN-1', -8, 'fire', lot => 'X')$$),
	(13, 'count', $$SELECT inventory.set_on_hand('A', 'ZONE-1', 7, 10)$$),
	(14, 'replace a hold', $$SELECT inventory.reserve('SAFE', 'BIN-1', 4, owner => 'one', ttl => '10 minutes')$$),
	(15, 'extend', $$SELECT inventory.extend(reservation_id, '20 minutes') FROM inventory.open_reservation WHERE owner = 'one'$$),
	(16, 'reverse', $$SELECT inventory.reverse(max(event_id), 'mistake') FROM inventory.event WHERE type = 'count'$$),
	(17, 'a deadline passes', $$SELECT inventory.set_test_clock('2031-04-10 23:20:00+00')$$),
	(18, 'expire', $$SELECT inventory.expire_due()$$),
	(19, 'take everything', $$SELECT inventory.issue('SAFE', 'BIN-1', inventory.available('SAFE', 'BIN-1'))$$),
	(20, 'plain INSERT', $$INSERT INTO inventory.event (stock_id, type, on_hand_delta) SELECT stock_id, 'receive', 5 FROM inventory.stock_level WHERE sku = 'SAFE' AND condition = 'good'$$),
	(21, 'the last day of a lot ends', $$SELECT inventory.set_test_clock('2031-04-11 00:00:00+00')$$),
	(22, 'a lot is blocked', $$UPDATE inventory.lot SET status = 'blocked' WHERE lot = 'Y'$$),
	(23, 'a SKU becomes inactive', $$UPDATE inventory.sku SET active = false WHERE sku = 'SAFE'$$),
	(24, 'a location becomes inactive', $$UPDATE inventory.location SET active = false WHERE location = 'ELSEWHERE'$$),
	(25, 'safety stock grows over what is there', $$UPDATE inventory.sku SET safety_stock = 2000 WHERE sku = 'A'$$);
-- One statement each, so that a step that writes is one transaction: first
-- tried and rolled back, with a look inside, then done.
CREATE TEMP TABLE finding (n integer, moment text, finding text);
CREATE PROCEDURE pg_temp.walk() LANGUAGE plpgsql AS $$
DECLARE
	s record;
BEGIN
	FOR s IN SELECT * FROM step ORDER BY n LOOP
		-- The clock knows no rollback.
		IF s.call NOT LIKE '%clock%' THEN
			BEGIN
				EXECUTE s.call;
				RAISE EXCEPTION USING MESSAGE = (SELECT coalesce(string_agg(d, '; '), 'agreed') FROM pg_temp.disagreement() d);
			EXCEPTION WHEN raise_exception THEN
				-- A change of master data reaches the levels at its commit.
				IF s.call NOT LIKE 'UPDATE%' THEN
					INSERT INTO finding VALUES (s.n, 'in its transaction', SQLERRM);
				END IF;
			END;
			INSERT INTO finding SELECT s.n, 'after a rollback', coalesce(string_agg(d, '; '), 'agreed') FROM pg_temp.disagreement() d;
			COMMIT;
		END IF;
		EXECUTE s.call;
		COMMIT;
		INSERT INTO finding SELECT s.n, 'after its commit', coalesce(string_agg(d, '; '), 'agreed') FROM pg_temp.disagreement() d;
		INSERT INTO finding SELECT s.n, 'verified', coalesce(string_agg(v::text, '; '), 'agreed') FROM inventory.verify() v;
		COMMIT;
	END LOOP;
END
$$;
CALL pg_temp.walk();
SELECT is((SELECT count(*) FROM finding), 92::bigint, 'every step was looked at');
SELECT is(f.finding, 'agreed', format('all readers agree %s: %s', f.moment, s.what)) FROM finding f JOIN step s USING (n) ORDER BY n, f.moment;

-- Some of it spelt out

SELECT results_eq($$SELECT sku COLLATE "default", location COLLATE "default", lot COLLATE "default", condition COLLATE "default", on_hand, reserved, committed, available, promisable FROM inventory.stock_level WHERE sku <> 'A' ORDER BY sku COLLATE "C", location, condition$$,
	$$VALUES ('BACK', 'BIN-1', NULL, 'good', 0::bigint, 15::bigint, 0::bigint, -15::bigint, true),
		('LOT', 'BIN-1', 'X', 'good', 0, 0, 1, 0, false),
		('LOT', 'BIN-2', 'Y', 'good', 10, 0, 3, 0, false),
		('SAFE', 'BIN-1', NULL, 'damaged', 4, 0, 0, 0, false),
		('SAFE', 'BIN-1', NULL, 'good', 8, 0, 0, 0, false)$$, 'stock_level tells each stock item as it stands');
SELECT is(inventory.available('SAFE'), 0::bigint, 'nothing of an inactive SKU is available');
SELECT is(inventory.on_hand('SAFE'), 12::bigint, 'though it is on hand');
SELECT is(inventory.available('A', 'ELSEWHERE'), 0::bigint, 'nothing at an inactive location is available');
SELECT is(inventory.on_hand('A', 'ELSEWHERE'), 10030::bigint, 'though it is on hand');
SELECT is(inventory.available('LOT'), 0::bigint, 'nothing of a blocked or expired lot is available');
SELECT is(inventory.available('A', 'BIN-1'), -1930::bigint, 'available is negative where safety stock is missing');
SELECT results_eq($$SELECT type::text, on_hand_delta, reserved_delta, committed_delta, on_hand, reserved, committed FROM inventory.history('LOT', 'BIN-2', 'Y')$$,
	$$VALUES ('receive', 10::bigint, 0::bigint, 0::bigint, 10::bigint, 0::bigint, 0::bigint), ('reserve', 0, 4, 0, 10, 4, 0), ('confirm', 0, -4, 4, 10, 0, 4), ('release', 0, 0, -1, 10, 0, 3)$$,
	'history() tells each event of a stock item with the quantities after it');
SELECT is_empty($$SELECT * FROM inventory.history('LOT', 'BIN-2')$$, 'history() of a stock item that does not exist is empty');

-- What is loaded again is the same

SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
