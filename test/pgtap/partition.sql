-- The events lie in monthly partitions that the engine makes by itself: no
-- month begins with an error, and no partition opens what the table closes.
--
-- Runs in a database of its own, and stops the engine's clock.
\set database inventory_pgtap_partition
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
DROP ROLE IF EXISTS inventory_pgtap_partition;
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock(NULL); END $$;
SELECT no_plan();

CREATE VIEW pg_temp.partition AS
SELECT c.oid, c.relname::text AS name, pg_get_expr(c.relpartbound, c.oid) AS bound
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'inventory.event'::regclass;

CREATE FUNCTION pg_temp.month(ahead integer) RETURNS text
	LANGUAGE sql AS $$
	SELECT to_char(date_trunc('month', inventory.clock_time() AT TIME ZONE 'UTC') + ahead * interval '1 month', '"event_"YYYY_MM')
$$;

-- What CREATE EXTENSION leaves

SELECT bag_eq('SELECT name FROM pg_temp.partition', 'SELECT pg_temp.month(n) FROM generate_series(0, 3) n',
	'a new extension has the partitions of this month and of the next three');
SELECT is_empty($$SELECT name FROM pg_temp.partition WHERE bound = 'DEFAULT'$$, 'there is no default partition');
SELECT is_empty($$SELECT p.name FROM pg_temp.partition p JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = p.oid AND d.deptype = 'e'$$,
	'no partition is a member of the extension, so that pg_dump carries its rows');

-- A month that nobody has prepared

INSERT INTO inventory.sku (sku) VALUES ('A');
INSERT INTO inventory.location (location) VALUES ('L'), ('M');
SELECT inventory.set_test_clock('2031-05-31 23:59:59.999999+00') IS NULL AS done \gset
SELECT lives_ok($$SELECT inventory.receive('A', 'L', 10)$$, 'the first movement of a month without a partition works');
SELECT is((SELECT array_agg(DISTINCT tableoid::regclass::text) FROM inventory.event), ARRAY['inventory.event_2031_05'], 'the last microsecond of a month lies in its partition');
SELECT is_empty($$SELECT pg_temp.month(n) FROM generate_series(0, 3) n EXCEPT SELECT name FROM pg_temp.partition$$,
	'the engine has made the months ahead too');
SELECT inventory.set_test_clock('2031-06-01 00:00:00+00') IS NULL AS done \gset
SELECT lives_ok($$SELECT inventory.issue('A', 'L', 1)$$, 'the first moment of the next month works');
SELECT is((SELECT tableoid::regclass::text FROM inventory.event WHERE type = 'issue'), 'inventory.event_2031_06', 'and lies in the partition of the next month');
SELECT inventory.set_test_clock('2033-01-15 12:00:00+00') IS NULL AS done \gset
SELECT lives_ok($$SELECT inventory.reserve('A', 'L', 1, ttl => '1 minute')$$, 'a reservation can be the first of a month without a partition');
SELECT inventory.set_test_clock('2034-01-15 12:00:00+00') IS NULL AS done \gset
SELECT is(inventory.expire_due(), 1::bigint, 'an expiry can be the first of a month without a partition');
SELECT inventory.set_test_clock('2035-01-15 12:00:00+00') IS NULL AS done \gset
SELECT lives_ok($$SELECT inventory.transfer('A', 'L', 'M', 1)$$, 'a transfer can be the first of a month without a partition');
SELECT inventory.set_test_clock('2036-01-15 12:00:00+00') IS NULL AS done \gset
SELECT lives_ok($$SELECT inventory.post('receive', ARRAY['A', 'A'], ARRAY['L', 'M'], ARRAY[1, 1])$$, 'a bulk call can be the first of a month without a partition');
SELECT inventory.set_test_clock('2037-01-15 12:00:00+00') IS NULL AS done \gset
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT is(inventory.on_hand('A'), 11::bigint, 'a REPEATABLE READ transaction has read');
SELECT lives_ok($$SELECT inventory.receive('A', 'L', 1)$$, 'it can be the first of a month without a partition');
SELECT is((SELECT on_hand FROM inventory.stock_level WHERE sku = 'A' AND location = 'L'), 10::bigint, 'and sees its event there');
COMMIT;
SELECT inventory.set_test_clock('2038-01-15 12:00:00+00') IS NULL AS done \gset
BEGIN;
SELECT lives_ok($$SELECT inventory.receive('A', 'L', 100)$$, 'a partition can be made by a transaction');
ROLLBACK;
SELECT is(to_regclass('inventory.event_2038_01'), NULL, 'that then rolls back, and takes the partition with it');
SELECT lives_ok($$SELECT inventory.receive('A', 'L', 1)$$, 'the next transaction makes it again');
SELECT isnt(to_regclass('inventory.event_2038_01'), NULL, 'and it stays');
SELECT inventory.set_test_clock('2001-02-03 04:05:06+00') IS NULL AS done \gset
SELECT lives_ok($$SELECT inventory.receive('A', 'L', 1)$$, 'a clock that was set back finds its partition too');
SELECT is((SELECT count(*) FROM inventory.event_2001_02), 1::bigint, 'and the event lies there');

SELECT inventory.set_test_clock('2041-03-15 12:00:00+00') IS NULL AS done \gset
BEGIN;
SELECT inventory.receive('A', 'L', 1) AS before_jump \gset
SELECT inventory.set_test_clock('2042-03-15 12:00:00+00') IS NULL AS done \gset
SELECT inventory.receive('A', 'L', 1) AS after_jump \gset
SELECT is((SELECT count(DISTINCT recorded_at) FROM inventory.event WHERE event_id IN (:before_jump, :after_jump)), 1::bigint,
	'a transaction has one recorded_at, also when the month ends meanwhile');
COMMIT;

CREATE ROLE inventory_pgtap_partition;
SELECT inventory.grant_access('inventory_pgtap_partition', 'operator') IS NULL AS done \gset
SELECT inventory.set_test_clock('2043-03-15 12:00:00+00') IS NULL AS done \gset
SET SESSION AUTHORIZATION inventory_pgtap_partition;
SELECT inventory.receive('A', 'L', 1) AS by_operator \gset
RESET SESSION AUTHORIZATION;
SELECT is((SELECT tableoid::regclass::text FROM inventory.event WHERE event_id = :by_operator), 'inventory.event_2043_03',
	'an operator without any right to create tables can be the first of a month');
SELECT is((SELECT relowner FROM pg_class WHERE oid = 'inventory.event_2043_03'::regclass), (SELECT relowner FROM pg_class WHERE oid = 'inventory.event'::regclass),
	'and the partition belongs to the owner of the events');
DROP OWNED BY inventory_pgtap_partition;
DROP ROLE inventory_pgtap_partition;
SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset

-- Made by hand

SELECT is(inventory.make_partition('2050-11-17'), true, 'make_partition() makes a missing partition');
SELECT is(inventory.make_partition('2050-11-01'), false, 'and says so when it is there');
SELECT is(inventory.make_partitions('2050-10-31', 5), 5, 'make_partitions() makes a month and those after it, where they are missing');
SELECT is(inventory.make_partitions('2050-10-31', 5), 0, 'and none twice');
SELECT isnt(to_regclass('inventory.event_2050_10'), NULL, 'the first month is there');
SELECT isnt(to_regclass('inventory.event_2051_03'), NULL, 'the last month, in the next year, is there');
SELECT is(to_regclass('inventory.event_2051_04'), NULL, 'and no more');
SET timezone = 'Asia/Tokyo';
SELECT is(inventory.make_partition('2060-01-01'), true, 'a session with another time zone makes a partition');
SET timezone = 'UTC';
SELECT is((SELECT bound FROM pg_temp.partition WHERE name = 'event_2060_01'),
	$$FOR VALUES FROM ('2060-01-01 00:00:00+00') TO ('2060-02-01 00:00:00+00')$$, 'its bounds are the month of UTC');
SELECT is_empty($$SELECT name, bound FROM pg_temp.partition
	WHERE bound <> format('FOR VALUES FROM (%L) TO (%L)', to_date(right(name, 7), 'YYYY_MM')::timestamptz, to_date(right(name, 7), 'YYYY_MM')::timestamptz + interval '1 month')$$,
	'the bounds of every partition are the month that its name says');

-- Every partition is as closed as the table

SELECT cmp_ok((SELECT count(*) FROM pg_temp.partition), '>=', 20::bigint, 'there are partitions of every making to look at');
SELECT is_empty($$
	SELECT p.name, t.tgname FROM pg_temp.partition p
	CROSS JOIN (VALUES ('event_applied'), ('event_append_only'), ('event_no_truncate')) t(tgname)
	WHERE NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = p.oid AND g.tgname = t.tgname AND g.tgenabled = 'A')$$,
	'every partition has the three triggers, and they fire always');
SELECT is_empty($$
	SELECT p.name FROM pg_temp.partition p JOIN pg_class c ON c.oid = p.oid CROSS JOIN LATERAL aclexplode(c.relacl) a WHERE a.grantee = 0$$,
	'no partition grants anything to PUBLIC');
SELECT is_empty($$SELECT name FROM pg_temp.partition WHERE obj_description(oid, 'pg_class') IS NULL$$, 'every partition has a comment');
SELECT is_empty($$
	SELECT p.name FROM pg_temp.partition p
	CROSS JOIN (VALUES ('stock_id_xid'), ('xid'), ('event_id')) x(name)
	WHERE to_regclass(format('inventory.%s_%s_idx', p.name, x.name)) IS NULL$$,
	'every partition has the three indexes');
SELECT is_empty($$SELECT FROM pg_index i WHERE i.indrelid = 'inventory.event'::regclass$$,
	'the table itself has none: a dump that is loaded brings those of its partitions');
SELECT throws_ok('TRUNCATE inventory.event_2031_05', 'IV016', NULL, 'TRUNCATE of a partition is refused');
SELECT throws_ok('TRUNCATE inventory.event_2060_01', 'IV016', NULL, 'TRUNCATE of an empty partition made by hand is refused');
SELECT throws_ok('DELETE FROM inventory.event_2031_05', 'IV016', NULL, 'DELETE from a partition is refused');
SELECT throws_ok('UPDATE inventory.event_2031_05 SET on_hand_delta = 1', 'IV016', NULL, 'UPDATE of a partition is refused');
SET session_replication_role = replica;
SELECT throws_ok('TRUNCATE inventory.event_2031_05', 'IV016', NULL, 'TRUNCATE of a partition is refused under session_replication_role = replica');
RESET session_replication_role;

SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
