-- A request id makes a call happen once: the same call again returns the first
-- answer and changes nothing, another call under the same id is an error, and a
-- call that failed has left nothing to be remembered.
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:00:00+00'); END $$;
BEGIN;
SELECT no_plan();

INSERT INTO inventory.location (location) VALUES ('rq-L'), ('rq-M');
INSERT INTO inventory.sku (sku) VALUES ('rq-A'), ('rq-B'), ('rq-NEW');
SELECT inventory.post('receive', ARRAY['rq-A', 'rq-B'], ARRAY['rq-L', 'rq-L'], ARRAY[1000, 1000]) AS events \gset
SELECT inventory.receive('rq-A', 'rq-L', 7) AS receipt \gset
SELECT inventory.reserve('rq-A', 'rq-L', 5, owner => 'to confirm') AS to_confirm \gset
SELECT inventory.reserve('rq-A', 'rq-L', 5, owner => 'to release') AS to_release \gset
SELECT inventory.reserve('rq-A', 'rq-L', 5, owner => 'to extend') AS to_extend \gset
SELECT inventory.reserve('rq-A', 'rq-L', 5, owner => 'to ship') AS to_ship \gset
SELECT inventory.confirm(:to_ship) AS lines \gset
SELECT inventory.reserve('rq-A', 'rq-L', 5, owner => 'rq-owner') AS owned \gset

-- Everything that a call could leave behind.
CREATE FUNCTION pg_temp.footprint() RETURNS text
	LANGUAGE sql AS $$
	SELECT format('%s events, %s requests, %s reservation lines %s, stock %s, available %s',
		(SELECT count(*) FROM inventory.event),
		(SELECT count(*) FROM inventory.request),
		(SELECT count(*) FROM inventory.reservation),
		(SELECT md5(string_agg(r::text, ',' ORDER BY reservation_id, line_no)) FROM inventory.reservation r),
		(SELECT md5(string_agg(v::text, ',' ORDER BY stock_id)) FROM inventory.stock_level v),
		inventory.available('rq-A') || '/' || inventory.available('rq-B'))
$$;
CREATE FUNCTION pg_temp.answer(call text) RETURNS text
	LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE 'SELECT (inventory.' || call || ')::text' INTO result;
	RETURN coalesce(result, 'NULL');
END
$$;

-- One row per function that changes anything: a call, the same call with other
-- arguments, and how many events the call writes.
CREATE TEMP TABLE attempt AS
SELECT row_number() OVER () AS n, format(call, request) AS call, format(other, request) AS other, request, events
FROM (VALUES
	('receive', $$receive('rq-A', 'rq-L', 3, request_id => %L)$$, $$receive('rq-A', 'rq-L', 4, request_id => %L)$$, 1),
	('issue', $$issue('rq-A', 'rq-L', 3, request_id => %L)$$, $$issue('rq-B', 'rq-L', 3, request_id => %L)$$, 1),
	('adjust', $$adjust('rq-A', 'rq-L', -3, 'lost', request_id => %L)$$, $$adjust('rq-A', 'rq-L', 3, 'lost', request_id => %L)$$, 1),
	('set_on_hand', $$set_on_hand('rq-B', 'rq-L', 900, 1000, request_id => %L)$$, $$set_on_hand('rq-B', 'rq-L', 901, 1000, request_id => %L)$$, 1),
	('transfer', $$transfer('rq-A', 'rq-L', 'rq-M', 3, request_id => %L)$$, $$transfer('rq-A', 'rq-M', 'rq-L', 3, request_id => %L)$$, 2),
	('reverse', $$reverse($$ || :receipt || $$, 'error', request_id => %L)$$, $$reverse($$ || :receipt || $$ - 1, 'error', request_id => %L)$$, 1),
	('post json', $$post('[{"type": "receive", "sku": "rq-A", "location": "rq-L", "quantity": 1}, {"type": "issue", "sku": "rq-B", "location": "rq-L", "quantity": 1}]', request_id => %L)$$,
		$$post('[{"type": "receive", "sku": "rq-A", "location": "rq-L", "quantity": 2}, {"type": "issue", "sku": "rq-B", "location": "rq-L", "quantity": 1}]', request_id => %L)$$, 2),
	('post array', $$post('receive', ARRAY['rq-A', 'rq-B'], ARRAY['rq-L', 'rq-L'], ARRAY[1, 2], request_id => %L)$$,
		$$post('receive', ARRAY['rq-A', 'rq-B'], ARRAY['rq-L', 'rq-L'], ARRAY[2, 1], request_id => %L)$$, 2),
	('reserve', $$reserve('rq-A', 'rq-L', 3, request_id => %L)$$, $$reserve('rq-A', 'rq-L', 3, ttl => '1 hour', request_id => %L)$$, 1),
	('reserve lines', $$reserve('[{"sku": "rq-A", "location": "rq-L", "quantity": 1}, {"sku": "rq-B", "location": "rq-L", "quantity": 1}]', request_id => %L)$$,
		$$reserve('[{"sku": "rq-A", "location": "rq-L", "quantity": 1}, {"sku": "rq-B", "location": "rq-L", "quantity": 1}]', mode => 'partial', request_id => %L)$$, 2),
	('try_reserve', $$try_reserve('rq-A', 'rq-L', 3, request_id => %L)$$, $$try_reserve('rq-A', 'rq-L', 3, owner => 'x', request_id => %L)$$, 1),
	('try_reserve lines', $$try_reserve('[{"sku": "rq-A", "location": "rq-L", "quantity": 1}]', request_id => %L)$$, $$try_reserve('[{"sku": "rq-B", "location": "rq-L", "quantity": 1}]', request_id => %L)$$, 1),
	('confirm', $$confirm($$ || :to_confirm || $$, request_id => %L)$$, $$confirm($$ || :to_release || $$, request_id => %L)$$, 1),
	('ship', $$ship($$ || :to_ship || $$, '[{"line_no": 1, "quantity": 2}]', request_id => %L)$$, $$ship($$ || :to_ship || $$, '[{"line_no": 1, "quantity": 1}]', request_id => %L)$$, 1),
	('release', $$release($$ || :to_release || $$, '[{"line_no": 1, "quantity": 2}]', request_id => %L)$$, $$release($$ || :to_release || $$, request_id => %L)$$, 1),
	('extend', $$extend($$ || :to_extend || $$, '1 hour', request_id => %L)$$, $$extend($$ || :to_extend || $$, '2 hours', request_id => %L)$$, 0),
	('release_owner', $$release_owner('rq-owner', request_id => %L)$$, $$release_owner('to extend', request_id => %L)$$, 1)
	) x(request, call, other, events);

-- First calls, in order; each answer and what it changed is kept.
CREATE TEMP TABLE first_answer (n bigint, answer text, events bigint);
DO $$
DECLARE
	a record;
	before bigint;
BEGIN
	FOR a IN SELECT * FROM attempt ORDER BY n LOOP
		before := (SELECT count(*) FROM inventory.event);
		INSERT INTO first_answer VALUES (a.n, pg_temp.answer(a.call));
		UPDATE first_answer SET events = (SELECT count(*) FROM inventory.event) - before WHERE n = a.n;
	END LOOP;
END
$$;
SELECT is(f.events, a.events::bigint, format('%s with a request id does its work', a.request)) FROM attempt a JOIN first_answer f USING (n) ORDER BY n;
SELECT ok(EXISTS (SELECT FROM inventory.request r WHERE r.request_id = a.request), format('%s stores its request', a.request)) FROM attempt a ORDER BY n;
SELECT is((SELECT r.operation FROM inventory.request r WHERE r.request_id = a.request), split_part(a.call, '(', 1), format('%s stores which function was called', a.request)) FROM attempt a ORDER BY n;
SELECT ok(NOT EXISTS (SELECT FROM inventory.request WHERE created_at <> inventory.transaction_time()), 'a request is as old as its transaction');
SELECT is_empty($$SELECT a.request FROM attempt a JOIN first_answer f USING (n) JOIN inventory.request r ON r.request_id = a.request
	WHERE a.request <> 'extend' AND r.result::text <> f.answer$$, 'a request keeps the answer of the call');
SELECT is_empty($$SELECT a.request FROM attempt a WHERE a.events > 0 AND a.events <> (SELECT count(*) FROM inventory.event v WHERE v.request_id = a.request)$$,
	'the events of a call carry its request id');

-- Again, in another order and at another time.
SELECT inventory.set_test_clock('2031-04-10 14:00:00+00') IS NULL AS done \gset
SELECT pg_temp.footprint() AS before \gset
SELECT is(pg_temp.answer(a.call), f.answer, format('%s again returns the first answer', a.request)) FROM attempt a JOIN first_answer f USING (n) ORDER BY n DESC;
SELECT is(pg_temp.footprint(), :'before', 'and changes nothing');
SELECT is(pg_temp.answer(a.call), f.answer, format('%s a third time returns the first answer', a.request)) FROM attempt a JOIN first_answer f USING (n) ORDER BY n;
SELECT throws_ok('SELECT inventory.' || a.other, 'IV010', NULL, format('%s with other arguments under the same request id is refused', a.request)) FROM attempt a ORDER BY n;
SELECT throws_ok('SELECT inventory.' || replace(a.call, quote_literal(a.request), quote_literal(b.request)), 'IV010', NULL, format('%s under the request id of %s is refused', a.request, b.request))
FROM attempt a JOIN attempt b ON b.n = a.n % (SELECT count(*) FROM attempt) + 1 ORDER BY a.n;
SELECT throws_like($$SELECT inventory.receive('rq-A', 'rq-L', 99, request_id => 'receive')$$, '%receive%', 'the message of the refusal names the request id');
SELECT is(pg_temp.footprint(), :'before', 'none of these refusals has changed anything');
SELECT is(pg_temp.answer($$reserve('[{"quantity": 1, "location": "rq-L", "sku": "rq-A"}, {"location": "rq-L", "sku": "rq-B", "quantity": 1}]', request_id => 'reserve lines')$$),
	(SELECT f.answer FROM first_answer f JOIN attempt a USING (n) WHERE a.request = 'reserve lines'), 'the order of the keys in JSON makes no difference');

-- What has changed since does not matter to a repeated call.
UPDATE inventory.sku SET active = false WHERE sku = 'rq-A';
SELECT is(pg_temp.answer(a.call), f.answer, format('%s again, its SKU inactive by now, returns the first answer', a.request))
FROM attempt a JOIN first_answer f USING (n) WHERE a.request IN ('receive', 'reserve', 'try_reserve', 'confirm') ORDER BY n;
UPDATE inventory.sku SET active = true WHERE sku = 'rq-A';
SELECT inventory.adjust('rq-B', 'rq-L', 0 - inventory.on_hand('rq-B', 'rq-L'), 'fire') IS NOT NULL AS done \gset
SELECT is(pg_temp.answer(a.call), f.answer, format('%s again, its goods lost by now, returns the first answer', a.request))
FROM attempt a JOIN first_answer f USING (n) WHERE a.request IN ('post json', 'reserve lines', 'set_on_hand') ORDER BY n;

-- A call that fails stores nothing.
SELECT pg_temp.footprint() AS before \gset
SELECT throws_ok($$SELECT inventory.issue('rq-NEW', 'rq-L', 2, request_id => 'once more')$$, 'IV001', NULL, 'a call with a request id is refused');
SELECT throws_ok($$SELECT inventory.reserve('rq-NEW', 'rq-L', 2, request_id => 'once more')$$, 'IV001', NULL, 'another function may use the id then, and is refused');
SELECT is(inventory.try_reserve('rq-NEW', 'rq-L', 2, request_id => 'once more'), NULL, 'try_reserve returns NULL under the same id');
SELECT is(inventory.try_reserve('[{"sku": "rq-NEW", "location": "rq-L", "quantity": 2}]', request_id => 'once more'), NULL, 'for lines as well');
SELECT is(pg_temp.footprint(), :'before', 'and nothing is stored');
SELECT inventory.receive('rq-NEW', 'rq-L', 2) IS NOT NULL AS done \gset
SELECT inventory.try_reserve('rq-NEW', 'rq-L', 2, request_id => 'once more') AS id \gset
SELECT isnt(:id::bigint, NULL, 'once there are goods, the same call under the same id succeeds');
SELECT is(inventory.try_reserve('rq-NEW', 'rq-L', 2, request_id => 'once more'), :id::bigint, 'and from then on returns that answer');
SAVEPOINT undone;
SELECT inventory.receive('rq-NEW', 'rq-L', 1, request_id => 'undone') IS NOT NULL AS done \gset
ROLLBACK TO undone;
SELECT is((SELECT count(*) FROM inventory.request WHERE request_id = 'undone'), 0::bigint, 'a call that was rolled back is not remembered');
SELECT lives_ok($$SELECT inventory.issue('rq-A', 'rq-L', 1, request_id => 'undone')$$, 'and its id is free');

-- Without a request id every call counts.
SELECT isnt(inventory.receive('rq-NEW', 'rq-L', 1), inventory.receive('rq-NEW', 'rq-L', 1), 'without a request id the same call is made twice');

-- The table itself.
SELECT throws_ok($$INSERT INTO inventory.request (request_id, operation, fingerprint) VALUES ('x', 'receive', 1)$$, 'IV016', NULL, 'nobody inserts a request but the engine');
SELECT throws_ok($$UPDATE inventory.request SET result = 1$$, 'IV016', NULL, 'nobody updates a request');
SELECT lives_ok($$DELETE FROM inventory.request WHERE request_id = 'receive'$$, 'old requests can be deleted');
SELECT isnt(inventory.receive('rq-A', 'rq-L', 3, request_id => 'receive'), (SELECT answer::bigint FROM first_answer WHERE n = 1), 'and are forgotten then');

SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
SELECT * FROM finish();
ROLLBACK;
SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
