-- Movements: goods come, go, are transferred, counted and put right; lots,
-- conditions, safety stock and backorder limit are honoured.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:00:00+00'); END $$;
BEGIN;
SELECT no_plan();

-- on hand / reserved / committed / available of a stock item
CREATE FUNCTION pg_temp.level(sku text, location text DEFAULT 'mv-L', lot text DEFAULT NULL, condition text DEFAULT 'good') RETURNS text
	LANGUAGE sql AS $$
	SELECT format('%s/%s/%s/%s', v.on_hand, v.reserved, v.committed, v.available)
	FROM inventory.stock_level v
	WHERE v.sku = level.sku AND v.location = level.location AND v.lot IS NOT DISTINCT FROM level.lot AND v.condition = level.condition
$$;
CREATE FUNCTION pg_temp.last_event(OUT type text, OUT sku text, OUT location text, OUT on_hand_delta bigint, OUT reserved_delta bigint, OUT committed_delta bigint)
	LANGUAGE sql AS $$
	SELECT v.type::text, k.sku COLLATE "default", k.location COLLATE "default", v.on_hand_delta, v.reserved_delta, v.committed_delta
	FROM inventory.event v JOIN inventory.stock_level k USING (stock_id) ORDER BY v.event_id DESC LIMIT 1
$$;

INSERT INTO inventory.location (location, kind) VALUES ('mv-L', 'storage'), ('mv-M', 'storage'), ('mv-ROAD', 'transit');
INSERT INTO inventory.sku (sku) SELECT 'mv-' || x FROM unnest(ARRAY['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H']) x;
INSERT INTO inventory.sku (sku, safety_stock, backorder_limit) VALUES
	('mv-SAFE', 3, 0), ('mv-BACK', 0, 5), ('mv-BOTH', 3, 5), ('mv-ANY', 0, NULL);
INSERT INTO inventory.sku (sku, tracking) VALUES ('mv-LOT', 'lot'), ('mv-SER', 'serial');
INSERT INTO inventory.lot (sku_id, lot, status, expires_on)
SELECT sku_id, x.lot, x.status, x.expires_on
FROM inventory.sku CROSS JOIN (VALUES ('1', 'active', NULL::date), ('2', 'active', '2031-04-10'), ('old', 'active', '2031-04-09'), ('bad', 'blocked', NULL)) x(lot, status, expires_on)
WHERE sku = 'mv-LOT';
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, unnest(ARRAY['S1', 'S2', 'S3']) FROM inventory.sku WHERE sku = 'mv-SER';

-- receive and issue

SELECT inventory.receive('mv-A', 'mv-L', 10) AS received \gset
SELECT is(pg_temp.level('mv-A'), '10/0/0/10', 'receive adds to on hand and to available');
SELECT results_eq('SELECT * FROM pg_temp.last_event()', $$VALUES ('receive', 'mv-A', 'mv-L', 10::bigint, 0::bigint, 0::bigint)$$, 'and writes a receive event');
SELECT is((SELECT max(event_id) FROM inventory.event), :received::bigint, 'and returns its number');
SELECT inventory.issue('mv-A', 'mv-L', 4, reference => 'SO-1', reason => 'sale', metadata => '{"till": 1}') AS issued \gset
SELECT is(pg_temp.level('mv-A'), '6/0/0/6', 'issue takes from on hand and from available');
SELECT results_eq(format('SELECT type::text, on_hand_delta, reference, reason, metadata FROM inventory.event WHERE event_id = %s', :issued),
	$$VALUES ('issue', -4::bigint, 'SO-1', 'sale', '{"till": 1}'::jsonb)$$, 'and writes an issue event with what it was told');
SELECT throws_ok($$SELECT inventory.issue('mv-A', 'mv-L', 7)$$, 'IV001', NULL, 'more than available is not issued');
SELECT lives_ok($$SELECT inventory.issue('mv-A', 'mv-L', 6)$$, 'the last unit is issued');
SELECT throws_ok($$SELECT inventory.issue('mv-A', 'mv-L', 1)$$, 'IV001', NULL, 'and no more');
SELECT throws_ok($$SELECT inventory.issue('mv-B', 'mv-L', 1)$$, 'IV001', NULL, 'nothing is issued that was never received');
SELECT is((SELECT count(*) FROM inventory.stock_level WHERE sku = 'mv-B'), 0::bigint, 'and the refusal creates no stock item');
SELECT lives_ok($$SELECT inventory.receive(sku => 'mv-B', quantity => 2, location => 'mv-L', metadata => '{}')$$, 'arguments can be named in any order');

-- adjust

SELECT inventory.receive('mv-C', 'mv-L', 10) IS NOT NULL AS done \gset
SELECT lives_ok($$SELECT inventory.adjust('mv-C', 'mv-L', 2, 'found')$$, 'an adjustment can add');
SELECT lives_ok($$SELECT inventory.adjust('mv-C', 'mv-L', -4, 'broken')$$, 'an adjustment can take');
SELECT is(pg_temp.level('mv-C'), '8/0/0/8', 'and both are counted');
SELECT results_eq('SELECT * FROM pg_temp.last_event()', $$VALUES ('adjust', 'mv-C', 'mv-L', -4::bigint, 0::bigint, 0::bigint)$$, 'an adjustment writes an adjust event');
SELECT is((SELECT reason FROM inventory.event ORDER BY event_id DESC LIMIT 1), 'broken', 'with its reason');
SELECT lives_ok($$SELECT inventory.adjust('mv-D', 'mv-L', 3, 'found')$$, 'an adjustment can be the first movement');
SELECT inventory.reserve('mv-C', 'mv-L', 6) AS hold \gset
SELECT lives_ok($$SELECT inventory.adjust('mv-C', 'mv-L', -5, 'lost')$$, 'an adjustment is not refused because goods are promised');
SELECT is(pg_temp.level('mv-C'), '3/6/0/-3', 'available may become negative by it');
SELECT is(inventory.available('mv-C'), -3::bigint, 'in memory too');
SELECT throws_ok($$SELECT inventory.adjust('mv-C', 'mv-L', -4, 'lost')$$, 'IV001', NULL, 'an adjustment does not push on hand under 0');
SELECT throws_ok($$SELECT inventory.reserve('mv-C', 'mv-L', 1)$$, 'IV001', NULL, 'with more promised than there is nothing can be promised');
SELECT throws_ok($$SELECT inventory.issue('mv-C', 'mv-L', 1)$$, 'IV001', NULL, 'nor issued');
SELECT inventory.receive('mv-C', 'mv-L', 2) IS NOT NULL AS done \gset
SELECT throws_ok($$SELECT inventory.reserve('mv-C', 'mv-L', 1)$$, 'IV001', NULL, 'a receipt first covers what is promised already');
SELECT inventory.receive('mv-C', 'mv-L', 2) IS NOT NULL AS done \gset
SELECT lives_ok($$SELECT inventory.reserve('mv-C', 'mv-L', 1)$$, 'and only what it brings beyond can be promised');

-- set_on_hand

SELECT inventory.receive('mv-E', 'mv-L', 10) IS NOT NULL AS done \gset
SELECT lives_ok($$SELECT inventory.set_on_hand('mv-E', 'mv-L', 7, 10)$$, 'a count sets on hand if it is as expected');
SELECT results_eq('SELECT * FROM pg_temp.last_event()', $$VALUES ('count', 'mv-E', 'mv-L', -3::bigint, 0::bigint, 0::bigint)$$, 'and writes the difference as a count event');
SELECT throws_ok($$SELECT inventory.set_on_hand('mv-E', 'mv-L', 9, 10)$$, 'IV012', NULL, 'a count is refused when on hand is not as expected');
SELECT is(pg_temp.level('mv-E'), '7/0/0/7', 'and changes nothing');
SELECT lives_ok($$SELECT inventory.set_on_hand('mv-E', 'mv-L', 7, 7, 'cycle')$$, 'a count that finds what was expected is recorded');
SELECT results_eq('SELECT * FROM pg_temp.last_event()', $$VALUES ('count', 'mv-E', 'mv-L', 0::bigint, 0::bigint, 0::bigint)$$, 'as a count event of 0');
SELECT inventory.reserve('mv-E', 'mv-L', 5) AS hold \gset
SELECT lives_ok($$SELECT inventory.set_on_hand('mv-E', 'mv-L', 2, 7)$$, 'a count is not refused because goods are promised');
SELECT is(pg_temp.level('mv-E'), '2/5/0/-3', 'available may become negative by it');
SELECT lives_ok($$SELECT inventory.set_on_hand('mv-E', 'mv-L', 0, 2)$$, 'a count may find nothing');
SELECT lives_ok($$SELECT inventory.set_on_hand('mv-F', 'mv-L', 12, 0)$$, 'a count can be the first movement');
SELECT is(pg_temp.level('mv-F'), '12/0/0/12', 'and brings what it found');
SELECT throws_ok($$SELECT inventory.set_on_hand('mv-G', 'mv-L', 12, 1)$$, 'IV012', NULL, 'where nothing ever was, nothing else than 0 is as expected');
SELECT lives_ok($$SELECT inventory.receive('mv-F', 'mv-L', 1), inventory.set_on_hand('mv-F', 'mv-L', 20, 13)$$, 'a count sees what its own transaction has moved');
SELECT is(pg_temp.level('mv-F'), '20/0/0/20', 'and sets it');

-- transfer

SELECT inventory.receive('mv-G', 'mv-L', 10) IS NOT NULL AS done \gset
SELECT inventory.transfer('mv-G', 'mv-L', 'mv-ROAD', 4, reference => 'T-1') AS sent \gset
SELECT is(pg_temp.level('mv-G', 'mv-L'), '6/0/0/6', 'a transfer takes at one location');
SELECT is(pg_temp.level('mv-G', 'mv-ROAD'), '4/0/0/4', 'and brings to the other');
SELECT results_eq($$SELECT v.type::text, k.location COLLATE "default", v.on_hand_delta FROM inventory.event v JOIN inventory.stock_level k USING (stock_id) WHERE v.reference = 'T-1' ORDER BY v.event_id$$,
	$$VALUES ('transfer_out', 'mv-L', -4::bigint), ('transfer_in', 'mv-ROAD', 4)$$, 'by two events, out before in');
SELECT is((SELECT type::text FROM inventory.event WHERE event_id = :sent), 'transfer_out', 'and returns the number of the first');
SELECT throws_ok($$SELECT inventory.transfer('mv-G', 'mv-L', 'mv-M', 7)$$, 'IV001', NULL, 'more than available is not transferred');
SELECT is((SELECT count(*) FROM inventory.stock_level WHERE sku = 'mv-G' AND location = 'mv-M'), 0::bigint, 'and the refusal creates no stock item');
SELECT inventory.reserve('mv-G', 'mv-L', 5) AS hold \gset
SELECT throws_ok($$SELECT inventory.transfer('mv-G', 'mv-L', 'mv-M', 2)$$, 'IV001', NULL, 'what is promised is not transferred');
SELECT lives_ok($$SELECT inventory.transfer('mv-G', 'mv-L', 'mv-M', 1)$$, 'what is not promised is');
SELECT is(inventory.on_hand('mv-G'), 10::bigint, 'a transfer changes no total');

-- reverse

SELECT inventory.receive('mv-H', 'mv-L', 10) AS receipt \gset
SELECT inventory.reverse(:receipt, 'typing error') AS reversal \gset
SELECT is(pg_temp.level('mv-H'), '0/0/0/0', 'the reverse of a receipt takes the goods back');
SELECT results_eq(format('SELECT type::text, on_hand_delta, reverses, reason FROM inventory.event WHERE event_id = %s', :reversal),
	format($$VALUES ('reverse', -10::bigint, %s::bigint, 'typing error')$$, :receipt), 'by a reverse event that names the receipt');
SELECT throws_ok(format($$SELECT inventory.reverse(%s, 'again')$$, :receipt), 'IV014', NULL, 'an event is reversed once');
SELECT throws_ok(format($$SELECT inventory.reverse(%s, 'again')$$, :reversal), 'IV014', NULL, 'a reversal is not reversed');
SELECT throws_ok($$SELECT inventory.reverse(-1, 'x')$$, 'IV013', NULL, 'an event that does not exist is not reversed');
SELECT inventory.receive('mv-H', 'mv-L', 10) AS receipt \gset
SELECT inventory.issue('mv-H', 'mv-L', 4) AS issued \gset
SELECT throws_ok(format($$SELECT inventory.reverse(%s, 'x')$$, :receipt), 'IV001', NULL, 'a receipt whose goods have left is not reversed');
SELECT lives_ok(format($$SELECT inventory.reverse(%s, 'returned')$$, :issued), 'an issue is reversed');
SELECT is(pg_temp.level('mv-H'), '10/0/0/10', 'and its goods are back');
SELECT inventory.adjust('mv-H', 'mv-L', -3, 'lost') AS adjusted \gset
SELECT lives_ok(format($$SELECT inventory.reverse(%s, 'found')$$, :adjusted), 'an adjustment is reversed');
SELECT inventory.set_on_hand('mv-H', 'mv-L', 6, 10) AS counted \gset
SELECT lives_ok(format($$SELECT inventory.reverse(%s, 'miscounted')$$, :counted), 'a count is reversed');
SELECT is(pg_temp.level('mv-H'), '10/0/0/10', 'and all is as before');
SELECT inventory.transfer('mv-H', 'mv-L', 'mv-M', 3) AS sent \gset
SELECT lives_ok(format($$SELECT inventory.reverse(%s, 'wrong place')$$, :sent), 'a transfer is reversed by its first leg');
SELECT is(pg_temp.level('mv-H', 'mv-L') || ' ' || pg_temp.level('mv-H', 'mv-M'), '10/0/0/10 0/0/0/0', 'both legs are taken back');
SELECT inventory.transfer('mv-H', 'mv-L', 'mv-M', 3, reference => 'T-2') AS sent \gset
SELECT event_id AS arrived FROM inventory.event WHERE reference = 'T-2' AND type = 'transfer_in' \gset
SELECT lives_ok(format($$SELECT inventory.reverse(%s, 'wrong place')$$, :arrived), 'a transfer is reversed by its second leg');
SELECT is(pg_temp.level('mv-H', 'mv-L') || ' ' || pg_temp.level('mv-H', 'mv-M'), '10/0/0/10 0/0/0/0', 'both legs are taken back');
SELECT throws_ok(format($$SELECT inventory.reverse(%s, 'x')$$, :sent), 'IV014', NULL, 'and the first leg is not reversed once more');
SELECT inventory.transfer('mv-H', 'mv-L', 'mv-M', 3) AS sent \gset
SELECT inventory.transfer('mv-H', 'mv-L', 'mv-M', 3) AS sent_too \gset
SELECT lives_ok(format($$SELECT inventory.reverse(%s, 'wrong place')$$, :sent), 'of two equal transfers in one transaction one is reversed');
SELECT is(pg_temp.level('mv-H', 'mv-L') || ' ' || pg_temp.level('mv-H', 'mv-M'), '7/0/0/7 3/0/0/3', 'and the other stays');
SELECT lives_ok(format($$SELECT inventory.reverse(%s, 'wrong place')$$, :sent_too), 'the other can be reversed too');
SELECT inventory.reserve('mv-H', 'mv-L', 4) AS hold \gset
SELECT throws_ok(format($$SELECT inventory.reverse(%s, 'x')$$, (SELECT max(event_id) FROM inventory.event)), 'IV014', NULL, 'an event of a reservation is not reversed');

-- Safety stock and backorder limit

SELECT inventory.post('receive', ARRAY['mv-SAFE', 'mv-BACK', 'mv-BOTH', 'mv-ANY'], array_fill('mv-L'::text, ARRAY[4]), ARRAY[10, 10, 10, 10]) AS events \gset
SELECT is(pg_temp.level('mv-SAFE'), '10/0/0/7', 'safety stock is not available');
SELECT throws_ok($$SELECT inventory.issue('mv-SAFE', 'mv-L', 8)$$, 'IV001', NULL, 'safety stock is not issued');
SELECT throws_ok($$SELECT inventory.transfer('mv-SAFE', 'mv-L', 'mv-M', 8)$$, 'IV001', NULL, 'safety stock is not transferred');
SELECT throws_ok($$SELECT inventory.reserve('mv-SAFE', 'mv-L', 8)$$, 'IV001', NULL, 'safety stock is not reserved');
SELECT lives_ok($$SELECT inventory.reserve('mv-SAFE', 'mv-L', 7)$$, 'what it leaves is');
SELECT is(pg_temp.level('mv-SAFE'), '10/7/0/0', 'and then nothing is available');
SELECT inventory.receive('mv-SAFE', 'mv-L', 5, condition => 'damaged') IS NOT NULL AS done \gset
SELECT lives_ok($$SELECT inventory.issue('mv-SAFE', 'mv-L', 5, condition => 'damaged')$$, 'damaged goods keep no safety stock');

SELECT throws_ok($$SELECT inventory.reserve('mv-BACK', 'mv-L', 16)$$, 'IV001', NULL, 'the backorder limit is a limit');
SELECT inventory.reserve('mv-BACK', 'mv-L', 15, ttl => NULL) AS backorder \gset
SELECT is(pg_temp.level('mv-BACK'), '10/15/0/-5', 'up to the backorder limit goods can be promised that are not there');
SELECT throws_ok($$SELECT inventory.reserve('mv-BACK', 'mv-L', 1)$$, 'IV001', NULL, 'to the last unit');
SELECT lives_ok(format('SELECT inventory.confirm(%s)', :backorder), 'a backorder is confirmed');
SELECT throws_ok(format('SELECT inventory.ship(%s)', :backorder), 'IV001', NULL, 'but goods that are not there are not shipped');
SELECT lives_ok(format($$SELECT inventory.ship(%s, '[{"line_no": 1, "quantity": 10}]')$$, :backorder), 'those that are there are');
SELECT inventory.receive('mv-BACK', 'mv-L', 5) IS NOT NULL AS done \gset
SELECT lives_ok(format('SELECT inventory.ship(%s)', :backorder), 'and the rest when it has come');
SELECT is(pg_temp.level('mv-BACK'), '0/0/0/0', 'then nothing is owed');
SELECT lives_ok($$SELECT inventory.reserve('mv-BACK', 'mv-M', 5)$$, 'a backorder can be the first promise of a stock item');
SELECT is(pg_temp.level('mv-BACK', 'mv-M'), '0/5/0/-5', 'and is owed');
SELECT throws_ok($$SELECT inventory.reserve('mv-BOTH', 'mv-L', 13)$$, 'IV001', NULL, 'safety stock and backorder limit are added up');
SELECT lives_ok($$SELECT inventory.reserve('mv-BOTH', 'mv-L', 12)$$, 'to one floor');
SELECT is(pg_temp.level('mv-BOTH'), '10/12/0/-5', 'and available tells both');
SELECT lives_ok($$SELECT inventory.reserve('mv-ANY', 'mv-L', 1000000000000)$$, 'a backorder limit of NULL is none');
SELECT throws_ok($$SELECT inventory.issue('mv-ANY', 'mv-L', 11)$$, 'IV001', NULL, 'but on hand is never under 0');
SELECT lives_ok($$SELECT inventory.issue('mv-ANY', 'mv-L', 10)$$, 'what is on hand can be issued');

-- Lots

SELECT throws_ok($$SELECT inventory.receive('mv-LOT', 'mv-L', 5)$$, 'IV004', NULL, 'a lot-tracked SKU needs a lot');
SELECT throws_ok($$SELECT inventory.receive('mv-A', 'mv-L', 5, lot => '1')$$, 'IV004', NULL, 'an untracked SKU takes no lot');
SELECT throws_ok($$SELECT inventory.receive('mv-LOT', 'mv-L', 5, lot => 'none')$$, 'IV002', NULL, 'a lot must exist');
SELECT count(inventory.receive('mv-LOT', 'mv-L', 5, lot => l)) AS events FROM unnest(ARRAY['1', '2']) l \gset
SELECT is(pg_temp.level('mv-LOT', lot => '1') || ' ' || pg_temp.level('mv-LOT', lot => '2'), '5/0/0/5 5/0/0/5', 'each lot has its own level');
SELECT throws_ok($$SELECT inventory.issue('mv-LOT', 'mv-L', 6, lot => '1')$$, 'IV001', NULL, 'one lot does not stand in for another');
SELECT throws_ok($$SELECT inventory.issue('mv-LOT', 'mv-L', 1)$$, 'IV004', NULL, 'an issue of a tracked SKU names the lot');
SELECT lives_ok($$SELECT inventory.issue('mv-LOT', 'mv-L', 1, lot => '2')$$, 'a lot is issued on its last day');
SELECT lives_ok($$SELECT inventory.transfer('mv-LOT', 'mv-L', 'mv-M', 2, lot => '1')$$, 'a lot is transferred');
SELECT is(pg_temp.level('mv-LOT', 'mv-M', '1'), '2/0/0/2', 'and remains the same lot');
SELECT lives_ok($$SELECT inventory.receive('mv-LOT', 'mv-L', 5, lot => 'old')$$, 'an expired lot can be received');
SELECT throws_ok($$SELECT inventory.issue('mv-LOT', 'mv-L', 1, lot => 'old')$$, 'IV006', NULL, 'an expired lot is not issued');
SELECT throws_ok($$SELECT inventory.reserve('mv-LOT', 'mv-L', 1, lot => 'old')$$, 'IV006', NULL, 'an expired lot is not reserved');
SELECT lives_ok($$SELECT inventory.adjust('mv-LOT', 'mv-L', -5, 'thrown away', lot => 'old')$$, 'an expired lot can be written off');
SELECT lives_ok($$SELECT inventory.receive('mv-LOT', 'mv-L', 5, lot => 'bad')$$, 'a blocked lot can be received');
SELECT throws_ok($$SELECT inventory.issue('mv-LOT', 'mv-L', 1, lot => 'bad')$$, 'IV005', NULL, 'a blocked lot is not issued');
SELECT throws_ok($$SELECT inventory.reserve('mv-LOT', 'mv-L', 1, lot => 'bad')$$, 'IV005', NULL, 'a blocked lot is not reserved');
SELECT is(pg_temp.level('mv-LOT', lot => 'bad'), '5/0/0/0', 'a blocked lot is on hand and not available');
SELECT lives_ok($$SELECT inventory.adjust('mv-LOT', 'mv-L', -5, 'thrown away', lot => 'bad')$$, 'a blocked lot can be written off');

-- Serial numbers

SELECT lives_ok($$SELECT inventory.receive('mv-SER', 'mv-L', 1, lot => 'S1')$$, 'a serial number is received');
SELECT throws_ok($$SELECT inventory.receive('mv-SER', 'mv-L', 2, lot => 'S2')$$, 'IV004', NULL, 'a serial number is one piece');
SELECT throws_ok($$SELECT inventory.receive('mv-SER', 'mv-L', 1, lot => 'S1')$$, 'IV004', NULL, 'a serial number that is there is not received again');
SELECT throws_ok($$SELECT inventory.adjust('mv-SER', 'mv-L', 1, 'found', lot => 'S1')$$, 'IV004', NULL, 'nor found again');
SELECT throws_ok($$SELECT inventory.set_on_hand('mv-SER', 'mv-L', 2, 1, lot => 'S1')$$, 'IV004', NULL, 'nor counted twice');
SELECT throws_ok($$SELECT inventory.receive('mv-SER', 'mv-L', 1)$$, 'IV004', NULL, 'a serial-tracked SKU needs its number');
SELECT lives_ok($$SELECT inventory.issue('mv-SER', 'mv-L', 1, lot => 'S1')$$, 'a serial number is issued');
SELECT lives_ok($$SELECT inventory.receive('mv-SER', 'mv-L', 1, lot => 'S1')$$, 'and can come back');
SELECT is(inventory.on_hand('mv-SER', lot => 'S1'), 1::bigint, 'as one piece');

-- Conditions

SELECT count(inventory.receive('mv-A', 'mv-L', 3, condition => c)) AS events FROM unnest(ARRAY['good', 'damaged', 'quality_control']) c \gset
SELECT inventory.receive('mv-A', 'mv-L', 3, condition => 'quarantine') IS NOT NULL AS done \gset
SELECT is(inventory.on_hand('mv-A'), 6::bigint + 6, 'on hand is of every condition');
SELECT is(inventory.available('mv-A'), 3::bigint, 'available is good only');
SELECT is(pg_temp.level('mv-A', condition => 'damaged'), '3/0/0/0', 'damaged goods are not available');
SELECT throws_ok(format($$SELECT inventory.reserve('mv-A', 'mv-L', 1, condition => %L)$$, c), 'IV017', NULL, format('%s goods are not reserved', c))
FROM unnest(ARRAY['damaged', 'quality_control', 'quarantine']) c;
SELECT throws_ok($$SELECT inventory.receive('mv-A', 'mv-L', 1, condition => 'shiny')$$, 'IV017', NULL, 'a condition that does not exist is refused');
SELECT lives_ok($$SELECT inventory.issue('mv-A', 'mv-L', 3, condition => 'damaged')$$, 'damaged goods can be issued');
SELECT throws_ok($$SELECT inventory.issue('mv-A', 'mv-L', 1, condition => 'damaged')$$, 'IV001', NULL, 'to the last unit');
SELECT lives_ok($$SELECT inventory.transfer('mv-A', 'mv-L', 'mv-M', 1, condition => 'quarantine')$$, 'quarantined goods can be transferred');
SELECT is(pg_temp.level('mv-A', 'mv-M', condition => 'quarantine'), '1/0/0/0', 'and stay in quarantine');

-- post, as JSON

INSERT INTO inventory.sku (sku) VALUES ('mv-P'), ('mv-Q');
SELECT is(inventory.post('[
	{"type": "receive", "sku": "mv-P", "location": "mv-L", "quantity": 10},
	{"type": "receive", "sku": "mv-Q", "location": "mv-L", "quantity": 10},
	{"type": "receive", "sku": "mv-LOT", "location": "mv-M", "quantity": 4, "lot": "2"},
	{"type": "receive", "sku": "mv-P", "location": "mv-M", "quantity": 2, "condition": "damaged"}]',
	reference => 'POST-1', reason => 'opening'), 4::bigint, 'post() of receipts returns the number of events');
SELECT is(pg_temp.level('mv-P') || ' ' || pg_temp.level('mv-P', 'mv-M', condition => 'damaged') || ' ' || pg_temp.level('mv-LOT', 'mv-M', '2'), '10/0/0/10 2/0/0/0 4/0/0/4', 'each with its lot and condition');
SELECT is((SELECT count(*) FROM inventory.event WHERE reference = 'POST-1' AND reason = 'opening'), 4::bigint, 'the reference and reason are on every event');
SELECT is(inventory.post('[
	{"type": "issue", "sku": "mv-P", "location": "mv-L", "quantity": 1},
	{"type": "adjust", "sku": "mv-P", "location": "mv-L", "quantity": -2, "reason": "shelf check"},
	{"type": "transfer", "sku": "mv-P", "from_location": "mv-L", "to_location": "mv-M", "quantity": 3},
	{"type": "count", "sku": "mv-Q", "location": "mv-L", "quantity": 8, "expected": 10}]'), 5::bigint, 'post() of every type returns the number of events, two for a transfer');
SELECT is(pg_temp.level('mv-P') || ' ' || pg_temp.level('mv-P', 'mv-M') || ' ' || pg_temp.level('mv-Q'), '4/0/0/4 3/0/0/3 8/0/0/8', 'and each is done');
SELECT throws_ok($$SELECT inventory.post('[
	{"type": "receive", "sku": "mv-P", "location": "mv-L", "quantity": 10},
	{"type": "issue", "sku": "mv-Q", "location": "mv-L", "quantity": 9}]')$$, 'IV001', NULL, 'post() with one movement too much is refused');
SELECT is(pg_temp.level('mv-P') || ' ' || pg_temp.level('mv-Q'), '4/0/0/4 8/0/0/8', 'as a whole');
SELECT throws_ok($$SELECT inventory.post('[
	{"type": "issue", "sku": "mv-P", "location": "mv-L", "quantity": 3},
	{"type": "issue", "sku": "mv-P", "location": "mv-L", "quantity": 2}]')$$, 'IV001', NULL, 'the same stock item twice is added up');
SELECT is(inventory.post('[
	{"type": "issue", "sku": "mv-P", "location": "mv-L", "quantity": 3},
	{"type": "issue", "sku": "mv-P", "location": "mv-L", "quantity": 1}]'), 2::bigint, 'and may take all there is');
SELECT throws_ok($$SELECT inventory.post('[{"type": "count", "sku": "mv-Q", "location": "mv-L", "quantity": 8, "expected": 10}]')$$, 'IV012', NULL, 'a count in post() compares too');

-- post, as arrays

SELECT is(inventory.post('receive', ARRAY['mv-P', 'mv-Q'], ARRAY['mv-L', 'mv-L'], ARRAY[6, 2], reference => 'POST-2'), 2::bigint, 'the array form receives');
SELECT is(inventory.post('issue', ARRAY['mv-P', 'mv-Q'], ARRAY['mv-L', 'mv-L'], ARRAY[1, 2]), 2::bigint, 'the array form issues');
SELECT is(inventory.post('adjust', ARRAY['mv-P', 'mv-Q'], ARRAY['mv-L', 'mv-L'], ARRAY[-1, 2], reason => 'shelf check'), 2::bigint, 'the array form adjusts');
SELECT is(pg_temp.level('mv-P') || ' ' || pg_temp.level('mv-Q'), '4/0/0/4 10/0/0/10', 'and each is done');
SELECT throws_ok($$SELECT inventory.post('issue', ARRAY['mv-Q', 'mv-P'], ARRAY['mv-L', 'mv-L'], ARRAY[1, 5])$$, 'IV001', NULL, 'the array form is refused as a whole');
SELECT throws_ok($$SELECT inventory.post('issue', ARRAY['mv-P', 'mv-P'], ARRAY['mv-L', 'mv-L'], ARRAY[3, 2])$$, 'IV001', NULL, 'the array form adds the same stock item up');
SELECT is(inventory.post('receive', ARRAY['mv-LOT', 'mv-LOT'], ARRAY['mv-L', 'mv-M'], ARRAY[1, 1], lot => '1', condition => 'damaged'), 2::bigint, 'the array form takes a lot and a condition for all');
SELECT is(pg_temp.level('mv-LOT', 'mv-M', '1', 'damaged'), '1/0/0/0', 'and applies them');

-- Inactive

UPDATE inventory.sku SET active = false WHERE sku = 'mv-Q';
UPDATE inventory.location SET active = false WHERE location = 'mv-M';
SELECT throws_ok(call, 'IV003', NULL, 'refused for an inactive SKU or location: ' || call)
FROM unnest(ARRAY[
	$$SELECT inventory.receive('mv-Q', 'mv-L', 1)$$,
	$$SELECT inventory.issue('mv-Q', 'mv-L', 1)$$,
	$$SELECT inventory.adjust('mv-Q', 'mv-L', 1, 'x')$$,
	$$SELECT inventory.set_on_hand('mv-Q', 'mv-L', 1, 10)$$,
	$$SELECT inventory.reserve('mv-Q', 'mv-L', 1)$$,
	$$SELECT inventory.try_reserve('mv-Q', 'mv-L', 1)$$,
	$$SELECT inventory.transfer('mv-P', 'mv-L', 'mv-M', 1)$$,
	$$SELECT inventory.transfer('mv-P', 'mv-M', 'mv-L', 1)$$,
	$$SELECT inventory.receive('mv-P', 'mv-M', 1)$$,
	$$SELECT inventory.post('receive', ARRAY['mv-P'], ARRAY['mv-M'], ARRAY[1])$$,
	$$SELECT inventory.post('[{"type": "receive", "sku": "mv-Q", "location": "mv-L", "quantity": 1}]')$$]) call;

-- Nothing drifted

SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
SELECT * FROM finish();
ROLLBACK;
SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
