-- The counters count: every call, every refusal and every error of every
-- function, how long they took, and what the levels did for them.
--
-- Runs in a database of its own, whose operation counters nobody else moves.
\set database inventory_pgtap_stat
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock(NULL); END $$;
SELECT no_plan();

CREATE FUNCTION pg_temp.counted(operation text) RETURNS text
	LANGUAGE sql AS $$
	SELECT coalesce((SELECT format('%s/%s/%s', o.calls, o.refusals, o.errors) FROM inventory.stat_operation o WHERE o.operation = counted.operation), '0/0/0')
$$;
CREATE FUNCTION pg_temp.returned(operation text) RETURNS bigint
	LANGUAGE sql AS $$
	SELECT coalesce((SELECT sum(h) FROM inventory.stat_operation o, unnest(o.histogram) h WHERE o.operation = returned.operation), 0)::bigint
$$;
-- Makes a call whatever becomes of it.
CREATE FUNCTION pg_temp.call(call text) RETURNS void
	LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'SELECT inventory.' || call;
EXCEPTION WHEN OTHERS THEN
	NULL;
END
$$;

INSERT INTO inventory.location (location) VALUES ('L'), ('M');
INSERT INTO inventory.sku (sku) VALUES ('A'), ('B'), ('C');
SELECT inventory.stat_reset() IS NULL AS done \gset

SELECT is_empty('SELECT operation FROM inventory.stat_operation WHERE calls <> 0 OR refusals <> 0 OR errors <> 0 OR total_time <> 0', 'after stat_reset() every counter is 0');
SELECT cmp_ok((SELECT stats_reset FROM inventory.stat_level), '<=', clock_timestamp(), 'stat_level says when that was');

SELECT inventory.receive('A', 'L', 100) AS done \gset
SELECT inventory.receive('B', 'L', 100) AS receipt \gset
SELECT is(pg_temp.counted('receive'), '2/0/0', 'calls that succeed are counted');
SELECT is(pg_temp.returned('receive'), 2::bigint, 'the histogram counts those that returned');
SELECT cmp_ok((SELECT total_time FROM inventory.stat_operation WHERE operation = 'receive'), '>', 0::double precision, 'and their time is added up');
SELECT is((SELECT round((mean_time * calls - total_time)::numeric, 6) FROM inventory.stat_operation WHERE operation = 'receive'), 0::numeric, 'the mean is the time per call');
SELECT pg_temp.call($$receive('A', 'L', -1)$$);
SELECT pg_temp.call($$receive('NONE', 'L', 1)$$);
SELECT pg_temp.call($$receive(NULL, 'L', 1)$$);
SELECT is(pg_temp.counted('receive'), '5/0/3', 'calls that fail are counted as errors');
SELECT is(pg_temp.returned('receive'), 2::bigint, 'and not in the histogram');
SELECT pg_temp.call($$issue('A', 'L', 1000)$$);
SELECT inventory.issue('A', 'L', 1) IS NOT NULL AS done \gset
SELECT is(pg_temp.counted('issue'), '2/1/0', 'a call that is short is a refusal and not an error');
SELECT is(pg_temp.returned('issue'), 1::bigint, 'and not in the histogram, for it did not return');
SELECT inventory.try_reserve('A', 'L', 1000) IS NULL AS done \gset
SELECT inventory.try_reserve('A', 'L', 1) IS NULL AS done \gset
SELECT pg_temp.call($$try_reserve('NONE', 'L', 1)$$);
SELECT is(pg_temp.counted('try_reserve'), '3/1/1', 'NULL from try_reserve is a refusal too');
SELECT is(pg_temp.returned('try_reserve'), 2::bigint, 'but it has returned');

BEGIN;
SELECT inventory.receive('C', 'L', 1) IS NOT NULL AS done \gset
ROLLBACK;
SELECT is(pg_temp.counted('receive'), '6/0/3', 'a call counts, also when its transaction is rolled back');
SELECT inventory.receive('A', 'L', 1, request_id => 'once') = inventory.receive('A', 'L', 1, request_id => 'once') AS done \gset
SELECT is(pg_temp.counted('receive'), '8/0/3', 'a repeated request counts as a call');

-- Every function

SELECT inventory.stat_reset() IS NULL AS done \gset
SELECT inventory.reserve('A', 'L', 1, owner => 'x') AS one \gset
SELECT inventory.reserve('A', 'L', 1, owner => 'y') AS two \gset
SELECT inventory.reserve('A', 'L', 1, owner => 'z') AS three \gset
SELECT pg_temp.call(c) FROM unnest(ARRAY[
	$$receive('A', 'L', 1)$$, $$issue('A', 'L', 1)$$, $$adjust('A', 'L', 1, 'x')$$, $$set_on_hand('C', 'L', 5, 0)$$, $$transfer('A', 'L', 'M', 1)$$,
	format($$reverse(%s, 'x')$$, :receipt), $$post('[{"type": "receive", "sku": "A", "location": "L", "quantity": 1}]')$$, $$post('receive', ARRAY['A'], ARRAY['L'], ARRAY[1])$$,
	$$try_reserve('A', 'L', 1)$$, format($$extend(%s, '1 hour')$$, :one), format('confirm(%s)', :one), format('ship(%s)', :one), format('release(%s)', :two),
	$$release_owner('z')$$, 'expire_due()', $$available('A')$$, $$on_hand('A')$$]) c;
SELECT results_eq($$SELECT operation, calls, refusals, errors FROM inventory.stat_operation WHERE calls > 0 AND operation NOT IN ('available', 'on_hand') ORDER BY operation COLLATE "C"$$,
	$$VALUES ('adjust', 1::bigint, 0::bigint, 0::bigint), ('confirm', 1, 0, 0), ('expire_due', 1, 0, 0), ('extend', 1, 0, 0), ('issue', 1, 0, 0), ('post', 2, 0, 0),
		('receive', 1, 0, 0), ('release', 1, 0, 0), ('release_owner', 1, 0, 0), ('reserve', 3, 0, 0), ('reverse', 1, 0, 0), ('set_on_hand', 1, 0, 0), ('ship', 1, 0, 0),
		('transfer', 1, 0, 0), ('try_reserve', 1, 0, 0)$$, 'every function that changes anything has its own row, and is counted in it');
SELECT is_empty('SELECT operation FROM inventory.stat_operation WHERE cardinality(histogram) <> (SELECT max(cardinality(histogram)) FROM inventory.stat_operation)', 'all histograms have the same buckets');
SELECT is_empty($$SELECT operation FROM inventory.stat_operation WHERE (SELECT sum(h) FROM unnest(histogram) h) <> calls - errors - CASE WHEN operation = 'try_reserve' THEN 0 ELSE refusals END$$,
	'every histogram adds up to the calls that returned');

-- Levels

SELECT is((SELECT capacity FROM inventory.stat_level), current_setting('inventory.max_levels')::bigint, 'stat_level tells the capacity that is set');
SELECT cmp_ok((SELECT bytes_per_entry FROM inventory.stat_level), '<=', 128, 'a stock item takes at most 128 bytes of shared memory');
SELECT cmp_ok((SELECT entries FROM inventory.stat_level), '>=', (SELECT count(*) FROM inventory.levels()), 'entries counts those of this database too');
SELECT hits AS hits, misses AS misses, loads AS loads, evictions AS evictions FROM inventory.stat_level \gset
SELECT inventory.issue('A', 'L', 1) IS NOT NULL AS done \gset
SELECT cmp_ok((SELECT hits FROM inventory.stat_level), '>', :hits::bigint, 'a level that is there is a hit');
INSERT INTO inventory.sku (sku) VALUES ('NEW');
SELECT inventory.receive('NEW', 'L', 1) IS NOT NULL AS done \gset
SELECT cmp_ok((SELECT misses FROM inventory.stat_level), '>', :misses::bigint, 'a level that is not there is a miss');
SELECT cmp_ok((SELECT loads FROM inventory.stat_level), '>', :loads::bigint, 'and is loaded');
SELECT is((SELECT count(*) FROM inventory.levels() v JOIN inventory.stock_level k USING (stock_id) WHERE k.sku = 'NEW'), 1::bigint, 'and is listed by levels()');
SELECT results_eq($$SELECT v.on_hand, v.available, v.overdue, v.pins FROM inventory.levels() v JOIN inventory.stock_level k USING (stock_id) WHERE k.sku = 'NEW'$$,
	$$VALUES (1::bigint, 1::bigint, 0::bigint, 0)$$, 'with what there is of it');

-- Reset

SELECT stats_reset AS stats_reset FROM inventory.stat_level \gset
SELECT inventory.stat_reset() IS NULL AS done \gset
SELECT is_empty('SELECT operation FROM inventory.stat_operation WHERE calls <> 0 OR refusals <> 0 OR errors <> 0 OR total_time <> 0 OR (SELECT sum(h) FROM unnest(histogram) h) <> 0', 'stat_reset() sets the operation counters to 0');
SELECT cmp_ok((SELECT stats_reset FROM inventory.stat_level), '>', :'stats_reset'::timestamptz, 'and notes the time');
SELECT cmp_ok((SELECT loads FROM inventory.stat_level), '<=', :loads::bigint, 'and the level counters too');

SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
