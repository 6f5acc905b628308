-- What has to be done now and then is done, and no more than that.
--
-- Runs in a database of its own, and stops the engine's clock.
\set database inventory_pgtap_maintenance
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
CREATE FUNCTION public.plan_of(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN RETURN QUERY EXECUTE 'EXPLAIN (COSTS OFF) ' || statement; END $$;
SELECT no_plan();
INSERT INTO inventory.sku (sku) VALUES ('A');
INSERT INTO inventory.location (location) VALUES ('L');

CREATE FUNCTION pg_temp.done(task text) RETURNS bigint
	LANGUAGE sql AS $$SELECT m.done FROM inventory.maintain() m WHERE m.task = done.task$$;

-- Partitions

SELECT inventory.set_test_clock('2031-11-15 12:00:00+00') IS NULL AS done \gset
SELECT is(pg_temp.done('partitions made'), 4::bigint, 'maintain() makes the partitions of this month and of the months ahead');
SELECT isnt(to_regclass('inventory.event_2032_02'), NULL, 'over the end of the year, up to February');
SELECT is(pg_temp.done('partitions made'), 0::bigint, 'and none twice');
SELECT inventory.set_test_clock('2032-02-29 23:59:59+00') IS NULL AS done \gset
SELECT is(pg_temp.done('partitions made'), 3::bigint, 'on a leap day it makes those of the months after it');
SELECT is(pg_get_expr(relpartbound, oid), $$FOR VALUES FROM ('2032-02-01 00:00:00+00') TO ('2032-03-01 00:00:00+00')$$,
	'a leap day lies in its February') FROM pg_class WHERE oid = 'inventory.event_2032_02'::regclass;
SET inventory.partitions_ahead = 5;
SELECT is(pg_temp.done('partitions made'), 2::bigint, 'it looks as far ahead as inventory.partitions_ahead says');
RESET inventory.partitions_ahead;
SELECT inventory.set_test_clock('1999-12-31 12:00:00+00') IS NULL AS done \gset
SELECT is(pg_temp.done('partitions made'), 4::bigint, 'a clock before 2000 is no different');
SELECT isnt(to_regclass('inventory.event_1999_12'), NULL, 'its month is there');

-- Requests

SELECT inventory.set_test_clock('2031-11-15 12:00:00+00') IS NULL AS done \gset
SELECT count(inventory.receive('A', 'L', 1, request_id => 'old ' || n)) AS done FROM generate_series(1, 2000) n \gset
SELECT inventory.set_test_clock('2031-11-30 12:00:00+00') IS NULL AS done \gset
SELECT count(inventory.receive('A', 'L', 1, request_id => 'new ' || n)) AS done FROM generate_series(1, 2000) n \gset
SELECT inventory.set_test_clock('2031-12-15 12:00:00+00') IS NULL AS done \gset
SELECT is(pg_temp.done('requests removed'), 0::bigint, 'a request of exactly its retention stays');
SELECT inventory.set_test_clock('2031-12-15 12:00:01+00') IS NULL AS done \gset
SELECT is(current_setting('inventory.request_retention'), '30', 'that is 30 days by default');
SET inventory.request_retention = -1;
SELECT is(pg_temp.done('requests removed'), 0::bigint, 'a retention of -1 keeps requests for ever');
RESET inventory.request_retention;
SELECT is(pg_temp.done('requests removed'), 2000::bigint, 'maintain() removes the requests past their retention');
SELECT is(pg_temp.done('requests removed'), 0::bigint, 'once');
SELECT is((SELECT count(*) FROM inventory.request WHERE request_id LIKE 'new %'), 2000::bigint, 'and no others');
SELECT lives_ok($$SELECT inventory.receive('A', 'L', 1, request_id => 'old 1')$$, 'a request id that is forgotten can be used again');
SELECT is((SELECT count(*) FROM inventory.event WHERE request_id = 'old 1'), 2::bigint, 'as a new request');

-- Without bloat: vacuum makes the space usable again, for as many new rows.
VACUUM inventory.request;
SELECT pg_relation_size('inventory.request') AS size_before \gset
SELECT count(inventory.receive('A', 'L', 1, request_id => 'more ' || n)) AS done FROM generate_series(1, 1900) n \gset
SELECT is(pg_relation_size('inventory.request'), :size_before::bigint, 'new requests take the space of the removed ones');
SELECT ok(position('Tid Range Scan' IN string_agg(l, E'\n')) > 0, 'requests are looked at by ranges of blocks') FROM (
	SELECT public.plan_of($$DELETE FROM inventory.request q WHERE q.ctid >= '(0,0)' AND q.ctid < '(1024,0)' AND q.created_at < now()$$) AS l) x;

-- The index on event numbers

SELECT cmp_ok(pg_temp.done('index ranges summarized'), '>=', 0::bigint, 'maintain() summarizes the index on event numbers');
SELECT is(pg_temp.done('index ranges summarized'), 0::bigint, 'all of it');

SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
BEGIN READ ONLY;
SELECT throws_ok('SELECT * FROM inventory.maintain()', '25006', NULL, 'a read-only transaction does no maintenance');
COMMIT;
SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
