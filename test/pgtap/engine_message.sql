-- The engine's own messages: one for each thing that they tell, and none when it
-- has not come to pass.
--
-- Runs in a database of its own, because much of it must commit, and stops the
-- engine's clock.
\set database inventory_pgtap_engine_message
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
DROP ROLE IF EXISTS inventory_pgtap_engine_message;
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'Asia/Kolkata';
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:00:00+00'); END $$;
SELECT no_plan();

CREATE SCHEMA t;
CREATE SEQUENCE t.seen;
SELECT setval('t.seen', 1) AS from_the_beginning \gset
-- The messages since the last look, in their order.
CREATE FUNCTION t.news() RETURNS TABLE (topic text, key text, payload jsonb)
	LANGUAGE plpgsql AS $$
DECLARE
	until bigint := (SELECT last_value FROM inventory.event_event_id_seq);
BEGIN
	RETURN QUERY SELECT o.topic, o.key, o.payload FROM inventory.outbox o
		WHERE o.message_id > (SELECT last_value FROM t.seen) ORDER BY o.message_id;
	PERFORM setval('t.seen', until);
END
$$;
-- topic and key of each, as one line
CREATE FUNCTION t.headlines() RETURNS text
	LANGUAGE sql AS $$ SELECT string_agg(regexp_replace(topic, '^inventory\.', '') || ' ' || key, ', ') FROM t.news() $$;

INSERT INTO inventory.location (location) VALUES ('L'), ('M');
INSERT INTO inventory.sku (sku, tracking, safety_stock) VALUES
	('A', 'none', 0), ('B', 'none', 0), ('safe', 'none', 5), ('beer', 'lot', 0), ('"ü@\', 'none', 0), ('new', 'none', 0);
INSERT INTO inventory.sku (sku, backorder_limit) VALUES ('backorder', 100);
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'L1' FROM inventory.sku WHERE sku = 'beer';

-- ---- Adjustments ----

SELECT inventory.receive('A', 'L', 100) > 0 AS received;
SELECT is(t.headlines(), NULL, 'receive() has no message of its own');
SELECT inventory.adjust('A', 'L', -3, 'broken', reference => 'doc 1', request_id => 'r1',
	effective_at => '2031-04-09 10:00:00+00', metadata => '{"by": "hand"}') AS adjusted \gset
SELECT results_eq('SELECT * FROM t.news()', format($$VALUES ('inventory.adjustment', 'A@L', jsonb_build_object('event_id', %s, 'type', 'adjust',
	'sku', 'A', 'location', 'L', 'condition', 'good', 'on_hand_delta', -3, 'request_id', 'r1', 'reference', 'doc 1', 'reason', 'broken',
	'actor', current_user, 'recorded_at', '2031-04-10T12:00:00Z', 'effective_at', '2031-04-09T10:00:00Z', 'metadata', '{"by": "hand"}'::jsonb))$$, :adjusted),
	'adjust() has one that says all about it');
SELECT is(inventory.adjust('A', 'L', -3, 'broken', reference => 'doc 1', request_id => 'r1',
	effective_at => '2031-04-09 10:00:00+00', metadata => '{"by": "hand"}'), :adjusted::bigint, 'the same request again');
SELECT is(t.headlines(), NULL, 'has none');
SELECT inventory.set_on_hand('A', 'L', 90, 97, 'counted') AS counted \gset
SELECT results_eq('SELECT * FROM t.news()', format($$VALUES ('inventory.adjustment', 'A@L', jsonb_build_object('event_id', %s, 'type', 'count',
	'sku', 'A', 'location', 'L', 'condition', 'good', 'on_hand_delta', -7, 'expected', 97, 'counted', 90, 'reason', 'counted',
	'actor', current_user, 'recorded_at', '2031-04-10T12:00:00Z'))$$, :counted), 'set_on_hand() has one');
SELECT inventory.set_on_hand('A', 'L', 90, 90, 'counted') > 0 AS counted;
SELECT is(t.headlines(), 'adjustment A@L', 'also when the count was right');
SELECT throws_ok($$SELECT inventory.set_on_hand('A', 'L', 1, 7, 'counted')$$, 'IV012', NULL, 'a count that fails');
SELECT throws_ok($$SELECT inventory.adjust('A', 'L', -91, 'broken')$$, 'IV001', NULL, 'and an adjustment below 0');
SELECT is(t.headlines(), NULL, 'have none');
SELECT inventory.adjust('beer', 'M', 2, 'found', lot => 'L1', condition => 'damaged') > 0 AS adjusted;
SELECT is((SELECT payload ->> 'lot' || ' ' || (payload ->> 'condition') FROM t.news()), 'L1 damaged', 'lot and condition are told');
SELECT inventory.adjust('"ü@\', 'L', 2, 'found') > 0 AS adjusted;
SELECT is((SELECT key || ' ' || (payload ->> 'sku') FROM t.news()), '"ü@\@L "ü@\', 'and codes of any characters');
SELECT inventory.post('[{"type": "receive", "sku": "B", "location": "L", "quantity": 5},
	{"type": "adjust", "sku": "B", "location": "L", "quantity": -1, "reason": "x"},
	{"type": "count", "sku": "A", "location": "L", "quantity": 91, "expected": 90, "reason": "y"},
	{"type": "transfer", "sku": "A", "from_location": "L", "to_location": "M", "quantity": 1}]') > 0 AS posted;
SELECT inventory.post('adjust', '{A,B}', '{L,L}', '{-1,-1}', reason => 'bulk') > 0 AS posted;
SELECT results_eq($$SELECT key, payload -> 'on_hand_delta' FROM t.news()$$,
	$$VALUES ('B@L', '-1'::jsonb), ('A@L', '1'), ('A@L', '-1'), ('B@L', '-1')$$, 'what post() puts right is told line by line');
BEGIN;
SELECT inventory.adjust('A', 'L', 1, 'undone') > 0 AS adjusted;
ROLLBACK;
BEGIN;
SELECT inventory.adjust('A', 'L', 1, 'kept') > 0 AS adjusted;
SAVEPOINT s;
SELECT inventory.adjust('A', 'L', 1, 'undone') > 0 AS adjusted;
ROLLBACK TO s;
COMMIT;
SELECT results_eq($$SELECT payload ->> 'reason' FROM t.news()$$, $$VALUES ('kept')$$, 'what is rolled back, in whole or in part, is not told');
SELECT inventory.reverse((SELECT max(event_id) FROM inventory.event), 'mistake') > 0 AS reversed;
SELECT is(t.headlines(), NULL, 'reverse() has no message of its own');
CREATE ROLE inventory_pgtap_engine_message;
SELECT inventory.grant_access('inventory_pgtap_engine_message', 'operator');
SET ROLE inventory_pgtap_engine_message;
SELECT inventory.adjust('A', 'L', 1, 'by somebody') > 0 AS adjusted;
RESET ROLE;
SELECT is((SELECT payload ->> 'actor' FROM t.news()), 'inventory_pgtap_engine_message', 'the actor is who has called');

-- ---- Expired reservations ----

SELECT inventory.receive('beer', 'M', 50, lot => 'L1') > 0 AS received;
SELECT inventory.reserve('A', 'L', 1, ttl => '1 minute', owner => 'cart 1', reference => 'ref') AS one \gset
SELECT inventory.reserve('[{"sku": "A", "location": "L", "quantity": 2}, {"sku": "beer", "location": "M", "lot": "L1", "quantity": 3}]',
	ttl => '2 minutes') AS two \gset
SELECT inventory.reserve('A', 'L', 4, ttl => '2 minutes', owner => 'kept') AS kept \gset
SELECT inventory.reserve('A', 'L', 5, ttl => '1 hour') AS later \gset
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:01:30.5+00'); END $$;
SELECT is(inventory.expire_due(), 1::bigint, 'a hold expires');
SELECT results_eq('SELECT * FROM t.news()', format($$VALUES ('inventory.reservation.expired', %L, jsonb_build_object('reservation_id', %1$s,
	'owner', 'cart 1', 'reference', 'ref', 'lines', jsonb_build_array(jsonb_build_object('line_no', 1, 'sku', 'A', 'location', 'L',
		'condition', 'good', 'quantity', 1, 'expires_at', '2031-04-10T12:01:00Z'))))$$, :one), 'which is told');
SELECT is(inventory.expire_due(), 0::bigint, 'there is nothing more');
SELECT is(t.headlines(), NULL, 'and nothing is told twice');
SELECT inventory.confirm(:kept) AS confirmed;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:02:00+00'); END $$;
BEGIN;
SELECT is(inventory.expire_due(), 2::bigint, 'two lines of a reservation expire');
ROLLBACK;
SELECT is(t.headlines(), NULL, 'what is rolled back is not told');
SELECT is(inventory.expire_due(), 2::bigint, 'they expire again');
SELECT results_eq('SELECT * FROM t.news()', format($$VALUES ('inventory.reservation.expired', %L, jsonb_build_object('reservation_id', %1$s,
	'lines', '[{"line_no": 1, "sku": "A", "location": "L", "condition": "good", "quantity": 2, "expires_at": "2031-04-10T12:02:00Z"},
		{"line_no": 2, "sku": "beer", "location": "M", "lot": "L1", "condition": "good", "quantity": 3, "expires_at": "2031-04-10T12:02:00Z"}]'::jsonb))$$, :two),
	'and are told in one message, without what is confirmed');
SELECT inventory.reserve('A', 'L', 1, ttl => '10 seconds') AS three \gset
SELECT inventory.reserve('A', 'M', 1, ttl => '5 seconds') AS four \gset
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:03:00+00'); END $$;
SELECT inventory.reserve('[{"sku": "A", "location": "L", "quantity": 1}, {"sku": "A", "location": "M", "quantity": 1}]', ttl => NULL) AS five \gset
SELECT is(t.headlines(), format('reservation.expired %s, reservation.expired %s', :four, :three),
	'who reserves next settles and tells them, in the order of their deadlines');
SELECT inventory.reserve('A', 'L', 1, ttl => '1 second') AS six \gset
SELECT inventory.release(:six) AS released;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:04:00+00'); END $$;
SELECT is(inventory.expire_due(), 0::bigint, 'what was released in time does not expire');
SELECT is(t.headlines(), NULL, 'and is not told');
SELECT count(inventory.reserve('A', 'L', 1, ttl => '1 second')) AS many FROM generate_series(1, 30);
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:05:00+00'); END $$;
SELECT is(inventory.expire_due(7), 7::bigint, 'holds may expire bit by bit');
SELECT is((SELECT count(*) FROM t.news()), 7::bigint, 'and are told bit by bit');
SELECT is(inventory.expire_due(), 23::bigint, 'the rest');
SELECT is((SELECT count(*) FROM t.news()), 23::bigint, 'follows');
SELECT inventory.reserve('[{"sku": "A", "location": "L", "quantity": 1}, {"sku": "B", "location": "L", "quantity": 1}]', ttl => '1 second') AS split \gset
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:05:30+00'); END $$;
SELECT inventory.expire_due(1) + inventory.expire_due(1) AS expired;
SELECT results_eq($$SELECT key, jsonb_array_length(payload -> 'lines') FROM t.news()$$, format('VALUES (%L, 1), (%1$L, 1)', :split),
	'lines of a reservation that are settled one after the other are told one after the other');

-- ---- Shortages ----

SELECT inventory.project() > 0 AS projected;
SELECT is(t.headlines(), NULL, 'what a stock item begins with is not told');
-- to the last one, and beyond
SELECT inventory.receive('new', 'L', 10) > 0 AS received;
SELECT inventory.project() AS events \gset
SELECT is(t.headlines(), NULL, 'a first receipt is not back in stock');
SELECT inventory.issue('new', 'L', 9) > 0 AS issued;
SELECT inventory.project() AS events \gset
SELECT is(t.headlines(), NULL, 'one is left');
SELECT inventory.issue('new', 'L', 1) > 0 AS issued;
SELECT is(t.headlines(), NULL, 'nothing is told before the projection has seen it');
BEGIN;
SELECT inventory.project() AS events \gset
ROLLBACK;
SELECT is(t.headlines(), NULL, 'nor when that is rolled back');
SELECT inventory.project() AS events \gset
SELECT results_eq('SELECT * FROM t.news()', $$VALUES ('inventory.stock.shortage', 'new@L',
	'{"sku": "new", "location": "L", "available": 0, "on_hand": 0, "reserved": 0, "committed": 0, "safety_stock": 0}'::jsonb)$$, 'nothing is left: a shortage');
SELECT inventory.receive('new', 'L', 3) > 0 AS received;
SELECT inventory.issue('new', 'L', 3) > 0 AS issued;
SELECT inventory.project() AS events \gset
SELECT is(t.headlines(), NULL, 'what comes and goes between two ticks is not told');
SELECT inventory.receive('new', 'L', 8) > 0 AS received;
SELECT inventory.reserve('new', 'L', 3, ttl => '1 minute') AS held \gset
SELECT inventory.project() AS events \gset
SELECT results_eq('SELECT * FROM t.news()', $$VALUES ('inventory.stock.back', 'new@L',
	'{"sku": "new", "location": "L", "available": 5, "on_hand": 8, "reserved": 3, "committed": 0, "safety_stock": 0}'::jsonb)$$, 'it is back');
SELECT inventory.confirm(inventory.reserve('new', 'L', 5)) AS confirmed;
SELECT inventory.project() AS events \gset
SELECT results_eq('SELECT * FROM t.news()', $$VALUES ('inventory.stock.shortage', 'new@L',
	'{"sku": "new", "location": "L", "available": 0, "on_hand": 8, "reserved": 3, "committed": 5, "safety_stock": 0}'::jsonb)$$, 'promises make a shortage');
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:07:00+00'); END $$;
SELECT inventory.expire_due() AS expired;
SELECT inventory.project() AS events \gset
SELECT is(t.headlines(), format('reservation.expired %s, stock.back new@L', :held), 'a hold that expires brings it back');
-- safety stock, backorders, conditions, lots
SELECT inventory.receive('safe', 'L', 6) > 0 AS received;
SELECT inventory.receive('backorder', 'L', 1) > 0 AS received;
SELECT inventory.receive('new', 'L', 5, condition => 'damaged') > 0 AS received;
SELECT inventory.project() AS events \gset
SELECT inventory.issue('safe', 'L', 1) > 0 AS issued;
SELECT inventory.confirm(inventory.reserve('backorder', 'L', 10)) AS confirmed;
SELECT inventory.issue('new', 'L', 5, condition => 'damaged') > 0 AS issued;
SELECT inventory.issue('beer', 'M', 50, lot => 'L1') > 0 AS issued;
SELECT inventory.project() AS events \gset
SELECT results_eq($$SELECT topic, key, (payload ->> 'available')::int, payload ->> 'lot' FROM t.news() ORDER BY key$$,
	$$VALUES ('inventory.stock.shortage', 'backorder@L', -9, NULL), ('inventory.stock.shortage', 'beer@M', 0, 'L1'), ('inventory.stock.shortage', 'safe@L', 0, NULL)$$,
	'safety stock cannot be promised, a backorder is a shortage, and other conditions than good are no matter');
SELECT inventory.receive('backorder', 'L', 9) > 0 AS received;
SELECT inventory.project() AS events \gset
SELECT is(t.headlines(), NULL, 'less short is still short');
UPDATE inventory.sku SET safety_stock = 0 WHERE sku = 'safe';
SELECT inventory.receive('B', 'L', 1) > 0 AS received;
SELECT inventory.project() AS events \gset
SELECT is(t.headlines(), NULL, 'a change of the safety stock alone is no event');
SELECT inventory.issue('safe', 'L', 1) > 0 AS issued;
SELECT inventory.project() AS events \gset
SELECT is(t.headlines(), 'stock.back safe@L', 'but counts when the stock item is next moved');
-- An item that is without anything from its first events on.
INSERT INTO inventory.sku (sku) VALUES ('gone');
SELECT inventory.receive('gone', 'L', 1) > 0 AS received;
SELECT inventory.issue('gone', 'L', 1) > 0 AS issued;
SELECT inventory.project() AS events \gset
SELECT is(t.headlines(), NULL, 'a stock item that begins with nothing is not told');
SELECT inventory.receive('gone', 'L', 1) > 0 AS received;
SELECT inventory.project() AS events \gset
SELECT is(t.headlines(), 'stock.back gone@L', 'until there is something');
UPDATE inventory.sku SET sku = 'gone again' WHERE sku = 'gone';
SELECT inventory.issue('gone again', 'L', 1) > 0 AS issued;
SELECT inventory.project() AS events \gset
SELECT is(t.headlines(), 'stock.shortage gone again@L', 'by the name that it has');
SELECT inventory.receive('gone again', 'L', 1) > 0 AS received;
UPDATE inventory.sku SET sku = 'gone' WHERE sku = 'gone again';
SELECT inventory.project() AS events \gset
SELECT is(t.headlines(), 'stock.back gone@L', 'at the time');
-- Many of them, and many in one project().
INSERT INTO inventory.sku (sku) SELECT 'many ' || n FROM generate_series(1, 3000) n;
SELECT inventory.post('receive', array_agg('many ' || n), array_agg('L'::text), array_agg(1::bigint)) AS posted FROM generate_series(1, 3000) n;
SELECT inventory.project() AS events \gset
SELECT inventory.post('issue', array_agg('many ' || n), array_agg('L'::text), array_agg(1::bigint)) AS posted FROM generate_series(1, 2999) n;
SELECT inventory.project() AS events \gset
SELECT is((SELECT count(DISTINCT key) || ' of ' || count(*) FROM t.news() WHERE topic = 'inventory.stock.shortage'), '2999 of 2999', 'each of many is told once');

-- ---- Trust, and what must not be in the way ----

-- A function or a table of the caller's that is called like one of the engine's.
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.jsonb_strip_nulls(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE FUNCTION hostile.unnest(anyarray) RETURNS SETOF anyelement LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'hijacked'; END $$;
CREATE TABLE hostile.outbox ();
GRANT USAGE ON SCHEMA hostile TO PUBLIC;
SET search_path = hostile, pg_catalog, public;
SELECT inventory.reserve('A', 'L', 1, ttl => '1 second') AS hold \gset
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:10:00+00'); END $$;
SELECT inventory.adjust('gone', 'L', -1, 'lost') > 0 AS adjusted;
SELECT inventory.expire_due() AS expired, inventory.project() AS events;
RESET search_path;
SELECT is(t.headlines(), format('adjustment gone@L, reservation.expired %s, stock.shortage gone@L', :hold), 'a hostile search_path changes nothing');
SELECT is(current_setting('search_path'), '"$user", public', 'nor is it changed');
-- A transaction that only reads what is there may not write.
BEGIN READ ONLY;
SELECT throws_ok($$SELECT inventory.adjust('A', 'L', 1, 'x')$$, '25006', NULL, 'nothing is told in a read-only transaction');
ROLLBACK;
-- Under REPEATABLE READ, for what is allowed there.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) AS nothing FROM inventory.outbox WHERE false;
SELECT inventory.adjust('gone', 'L', 1, 'found') > 0 AS adjusted;
COMMIT;
SELECT is(t.headlines(), 'adjustment gone@L', 'every isolation level tells');
SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds nothing');

SELECT * FROM finish();
DO $$ BEGIN PERFORM inventory.set_test_clock(NULL); END $$;
\c :home
SET client_min_messages = warning;
DROP DATABASE inventory_pgtap_engine_message WITH (FORCE);
DROP ROLE inventory_pgtap_engine_message;
