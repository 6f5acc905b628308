-- The engine's own messages: adjustments, expired reservations, shortages.
--
-- Runs in a database of its own, and stops the engine's clock.
\set database inventory_pgtap_announce
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:00:00+00'); END $$;
SELECT no_plan();

INSERT INTO inventory.location (location) VALUES ('L'), ('M');
INSERT INTO inventory.sku (sku, tracking) VALUES ('A', 'none'), ('B', 'none'), ('milk', 'lot');
INSERT INTO inventory.sku (sku, safety_stock) VALUES ('safe', 5);
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'L1' FROM inventory.sku WHERE sku = 'milk';
-- The messages since the last look.
CREATE TABLE public.looked (message_id bigint);
INSERT INTO public.looked VALUES (0);
CREATE FUNCTION public.news() RETURNS TABLE (topic text, key text, payload jsonb)
	LANGUAGE sql AS $$
	WITH found AS (SELECT o.* FROM inventory.outbox o WHERE o.message_id > (SELECT l.message_id FROM public.looked l)),
	noted AS (UPDATE public.looked l SET message_id = greatest(l.message_id, (SELECT max(f.message_id) FROM found f)))
	SELECT replace(f.topic, 'inventory.', ''), f.key, f.payload FROM found f ORDER BY f.message_id
$$;
CREATE FUNCTION public.figures() RETURNS SETOF text
	LANGUAGE sql AS $$SELECT concat_ws(' ', n.topic, n.key, n.payload->>'lot', n.payload->>'available') FROM public.news() n$$;

-- Adjustments

SELECT inventory.receive('A', 'L', 10) > 0 AS received;
SELECT is_empty('SELECT * FROM public.news()', 'a receipt is an event and no message');
SELECT inventory.adjust('A', 'L', -3, 'broken', reference => 'doc', request_id => 'r1') AS adjusted \gset
SELECT results_eq('SELECT * FROM public.news()', format($$VALUES ('adjustment', 'A@L', '{"event_id": %s, "type": "adjust", "sku": "A", "location": "L", "condition": "good", "on_hand_delta": -3, "reason": "broken", "reference": "doc"}'::jsonb)$$, :adjusted),
	'adjust() has a message');
SELECT is(inventory.adjust('A', 'L', -3, 'broken', reference => 'doc', request_id => 'r1'), :adjusted::bigint, 'a request is repeated');
SELECT is_empty('SELECT * FROM public.news()', 'and has no second message');
SELECT inventory.set_on_hand('A', 'L', 9, 7, 'count') AS counted \gset
SELECT results_eq('SELECT topic, key, payload->''event_id'', payload->''on_hand_delta'', payload->''type'' FROM public.news()', format($$VALUES ('adjustment', 'A@L', '%s'::jsonb, '2'::jsonb, '"count"'::jsonb)$$, :counted),
	'set_on_hand() has a message with the difference');
SELECT inventory.receive('milk', 'L', 4, lot => 'L1') > 0 AS received;
SELECT inventory.adjust('milk', 'L', 1, 'found', lot => 'L1') > 0 AS adjusted;
SELECT results_eq('SELECT key, payload->>''lot'' FROM public.news()', $$VALUES ('milk@L', 'L1')$$, 'with the lot');
SELECT throws_ok($$SELECT inventory.adjust('A', 'L', -10, 'too much')$$, 'IV001', NULL, 'a refused adjustment');
BEGIN;
SELECT inventory.adjust('A', 'L', 1, 'undone') > 0 AS adjusted;
ROLLBACK;
SELECT is_empty('SELECT * FROM public.news()', 'and one that is rolled back have none');

-- Expired reservations

SELECT inventory.reserve('[{"sku": "A", "location": "L", "quantity": 2}, {"sku": "milk", "location": "L", "quantity": 1, "lot": "L1"}]', ttl => '10 minutes', owner => 'cart-1') AS two \gset
SELECT inventory.reserve('A', 'L', 3, ttl => '10 minutes') AS one \gset
SELECT inventory.reserve('A', 'L', 1, ttl => '2 hours', owner => 'cart-2') AS later \gset
SELECT is_empty('SELECT * FROM public.news()', 'reservations are events and no messages');
SELECT inventory.set_test_clock('2031-04-10 12:30:00+00') IS NULL AS done \gset
BEGIN;
SELECT inventory.expire_due() = 3 AS expired;
ROLLBACK;
SELECT is_empty('SELECT * FROM public.news()', 'a settlement that is rolled back says nothing');
SELECT is(inventory.expire_due(), 3::bigint, 'three lines are settled');
SELECT bag_eq('SELECT * FROM public.news()', format($$VALUES
		('reservation.expired', '%1$s', '{"reservation_id": %1$s, "owner": "cart-1", "lines": [{"line_no": 1, "sku": "A", "location": "L", "quantity": 2}, {"line_no": 2, "sku": "milk", "location": "L", "lot": "L1", "quantity": 1}]}'::jsonb),
		('reservation.expired', '%2$s', '{"reservation_id": %2$s, "lines": [{"line_no": 1, "sku": "A", "location": "L", "quantity": 3}]}')$$, :two, :one),
	'each reservation has one message with its lines');
SELECT is(inventory.expire_due(), 0::bigint, 'there is nothing more to settle');
SELECT is_empty('SELECT * FROM public.news()', 'nor to tell');
SELECT inventory.set_test_clock('2031-04-10 15:00:00+00') IS NULL AS done \gset
SELECT inventory.reserve('A', 'L', 9, ttl => NULL, owner => 'cart-3') AS taken \gset
SELECT results_eq('SELECT topic, key, payload->>''owner'' FROM public.news()', format($$VALUES ('reservation.expired', '%s', 'cart-2')$$, :later), 'a reservation that settles another one in its way tells of that');
SELECT inventory.release(:taken) > 0 AS released;
-- In two settlements.
SELECT inventory.reserve('[{"sku": "A", "location": "L", "quantity": 2}, {"sku": "milk", "location": "L", "quantity": 1, "lot": "L1"}]', ttl => '10 minutes') AS split \gset
SELECT inventory.set_test_clock('2031-04-10 16:00:00+00') IS NULL AS done \gset
SELECT is(inventory.expire_due(1), 1::bigint, 'one line is settled first');
SELECT is(inventory.expire_due(), 1::bigint, 'and then the other one');
SELECT results_eq('SELECT key, jsonb_array_length(payload->''lines'') FROM public.news()', format($$VALUES ('%1$s', 1), ('%1$s', 1)$$, :split), 'each settlement has its message');

-- Shortages

SELECT inventory.project() > 0 AS projected;
SELECT is_empty('SELECT * FROM public.figures()', 'the first events of a stock item are no crossing');
SELECT inventory.issue('A', 'L', 8) > 0 AS issued;
SELECT inventory.project() > 0 AS projected;
SELECT is_empty('SELECT * FROM public.figures()', 'less is not none');
SELECT inventory.issue('A', 'L', 1) > 0 AS issued;
SELECT is_empty('SELECT * FROM public.figures()', 'before the projection nothing is told');
SELECT inventory.project() > 0 AS projected;
SELECT results_eq('SELECT * FROM public.news()', $$VALUES ('stock.shortage', 'A@L', '{"sku": "A", "location": "L", "available": 0, "on_hand": 0, "reserved": 0, "committed": 0, "safety_stock": 0}'::jsonb)$$, 'nothing left is a shortage');
SELECT inventory.project() AS projected;
SELECT is_empty('SELECT * FROM public.figures()', 'told once');
SELECT inventory.receive('A', 'L', 5) > 0 AS received;
SELECT inventory.project() > 0 AS projected;
SELECT results_eq('SELECT * FROM public.figures()', $$VALUES ('stock.back A@L 5')$$, 'a receipt brings it back');
SELECT inventory.reserve('A', 'L', 5, ttl => '10 minutes') AS held \gset
SELECT inventory.project() > 0 AS projected;
SELECT results_eq('SELECT * FROM public.figures()', $$VALUES ('stock.shortage A@L 0')$$, 'what is reserved is not available');
SELECT inventory.confirm(:held) > 0 AS confirmed;
SELECT inventory.project() > 0 AS projected;
SELECT is_empty('SELECT * FROM public.figures()', 'confirming changes nothing about that');
SELECT inventory.release(:held) > 0 AS released;
SELECT inventory.project() > 0 AS projected;
SELECT results_eq('SELECT * FROM public.figures()', $$VALUES ('stock.back A@L 5')$$, 'releasing does');
SELECT inventory.issue('A', 'L', 5), inventory.receive('A', 'L', 1) > 0 AS moved \gset
SELECT inventory.project() > 0 AS projected;
SELECT is_empty('SELECT * FROM public.figures()', 'down and up again between two looks is no crossing');
SELECT inventory.reserve('A', 'L', 1, ttl => '10 minutes') > 0 AS held;
SELECT inventory.project() > 0 AS projected;
SELECT results_eq('SELECT * FROM public.figures()', $$VALUES ('stock.shortage A@L 0')$$, 'the last one is held');
SELECT inventory.set_test_clock('2031-04-10 17:00:00+00') IS NULL AS done \gset
SELECT inventory.expire_due() = 1 AS expired;
SELECT inventory.project() > 0 AS projected;
SELECT results_eq('SELECT * FROM public.figures()', $$VALUES ('reservation.expired ' || (SELECT max(reservation_id) FROM inventory.reservation)), ('stock.back A@L 1')$$, 'and comes back when that has expired');

-- Safety stock, lots, conditions
SELECT inventory.receive('safe', 'L', 10), inventory.receive('B', 'L', 5, condition => 'damaged'), inventory.receive('B', 'M', 1) > 0 AS received \gset
SELECT inventory.project() > 0 AS projected;
SELECT inventory.issue('safe', 'L', 4), inventory.issue('B', 'L', 5, condition => 'damaged'), inventory.issue('milk', 'L', 5, lot => 'L1') > 0 AS issued \gset
SELECT inventory.project() > 0 AS projected;
SELECT results_eq('SELECT * FROM public.figures()', $$VALUES ('stock.shortage milk@L L1 0')$$, 'a lot has come to its end; damaged goods are no shortage, and safety stock is not touched yet');
SELECT inventory.issue('safe', 'L', 1) > 0 AS issued;
SELECT inventory.project() > 0 AS projected;
SELECT results_eq('SELECT * FROM public.figures()', $$VALUES ('stock.shortage safe@L 0')$$, 'what is above the safety stock is gone');
SELECT inventory.adjust('safe', 'L', -5, 'broken') > 0 AS issued;
SELECT inventory.project() > 0 AS projected;
SELECT results_eq('SELECT * FROM public.figures()', $$VALUES ('adjustment safe@L')$$, 'below it is not told again');
SELECT inventory.receive('safe', 'L', 5) > 0 AS received;
SELECT inventory.project() > 0 AS projected;
SELECT is_empty('SELECT * FROM public.figures()', 'a receipt up to it is not enough');
SELECT inventory.receive('safe', 'L', 1) > 0 AS received;
SELECT inventory.project() > 0 AS projected;
SELECT results_eq('SELECT * FROM public.figures()', $$VALUES ('stock.back safe@L 1')$$, 'one more is');
-- Many at once, and what is rolled back.
INSERT INTO inventory.sku (sku) SELECT 'S' || n FROM generate_series(1, 500) n;
SELECT inventory.post('receive', array_agg('S' || n), array_agg('L'::text), array_agg(n::bigint)) AS posted FROM generate_series(1, 500) n \gset
SELECT inventory.project() > 0 AS projected;
SELECT inventory.post('issue', array_agg('S' || n), array_agg('L'::text), array_agg(least(n, 250)::bigint)) AS posted FROM generate_series(1, 500) n \gset
BEGIN;
SELECT inventory.project() > 0 AS projected;
ROLLBACK;
SELECT is_empty('SELECT * FROM public.figures()', 'a projection that is rolled back tells nothing');
SELECT inventory.project() > 0 AS projected;
SELECT results_eq('SELECT count(*), count(DISTINCT key), min(topic), max(topic) FROM public.news()', $$VALUES (250::bigint, 250::bigint, 'stock.shortage', 'stock.shortage')$$, 'every stock item of a batch has its message');
UPDATE inventory.sku SET sku = 'renamed' WHERE sku = 'S1';
SELECT inventory.receive('renamed', 'L', 1) > 0 AS received;
SELECT inventory.project() > 0 AS projected;
SELECT results_eq('SELECT * FROM public.figures()', $$VALUES ('stock.back renamed@L 1')$$, 'by the name that it has');

SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
SELECT * FROM finish();
\c :home
SET client_min_messages = warning;
DROP DATABASE :database WITH (FORCE);
