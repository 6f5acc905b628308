-- rebuild() puts right what somebody wrote past the engine, from the events,
-- and says what it has put right.
--
-- Runs in a database of its own: levels move at commit.
\set database inventory_pgtap_rebuild
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
DROP ROLE IF EXISTS inventory_pgtap_rebuild;
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
SELECT no_plan();

CREATE FUNCTION public.of_sku(code text) RETURNS bigint
	LANGUAGE sql AS $$SELECT k.stock_id FROM inventory.stock k JOIN inventory.sku s USING (sku_id) WHERE s.sku = code$$;
INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) SELECT 'S' || n FROM generate_series(1, 5) n;
SELECT inventory.set_test_clock('2027-03-30 12:00:00+00') IS NULL AS done \gset
SELECT inventory.post('receive', array_agg('S' || n), array_agg('L'::text), array_agg(1000::bigint)) AS done FROM generate_series(1, 5) n \gset
SELECT inventory.project() AS done \gset
\o /dev/null
SELECT format('SELECT inventory.set_test_clock(%L)', '2027-03-31 12:00:00+00'::timestamptz + n * interval '1 day'),
	format('SELECT inventory.issue(''S1'', ''L'', %s)', n), 'SELECT inventory.project()' FROM generate_series(1, 5) n \gexec
\o
SELECT inventory.reserve('S2', 'L', 7) AS held \gset
SELECT inventory.reserve('S2', 'L', 8, ttl => NULL) AS committed \gset
SELECT inventory.confirm(:committed) AS done \gset
SELECT inventory.project() AS done \gset
SELECT inventory.issue('S3', 'L', 3) AS tail \gset
CREATE TABLE public.before AS SELECT sku, on_hand, reserved, committed, available FROM inventory.stock_level;
CREATE TABLE public.rows_before AS SELECT * FROM inventory.stock;
CREATE TABLE public.snapshots_before AS SELECT * FROM inventory.snapshot;
SELECT is_empty('SELECT * FROM inventory.verify()', 'nothing is wrong');
SELECT is(inventory.rebuild(), 0::bigint, 'there is nothing to rebuild');
SELECT is_empty($$SELECT * FROM inventory.event WHERE type = 'rebuild'$$, 'and no event says so');
SELECT throws_ok($$SELECT inventory.rebuild('NONE')$$, 'IV002', NULL, 'an unknown SKU');

-- Rows

SET session_replication_role = replica;
UPDATE inventory.stock SET on_hand = on_hand + 5, committed = 3 WHERE stock_id = public.of_sku('S1');
UPDATE inventory.stock SET reserved = 0, event_count = 0, snapshot_count = 99, recorded_from = NULL, recorded_until = NULL WHERE stock_id = public.of_sku('S2');
RESET session_replication_role;
SELECT is(inventory.rebuild('S2'), 1::bigint, 'rebuild of a SKU repairs its stock items');
SELECT results_eq('SELECT * FROM inventory.stock WHERE stock_id = public.of_sku(''S2'')', 'SELECT * FROM public.rows_before WHERE stock_id = public.of_sku(''S2'')', 'every column of the row is what it was');
SELECT cmp_ok((SELECT count(*) FROM inventory.verify()), '>', 0::bigint, 'and leaves others alone');
SELECT is(inventory.rebuild(), 1::bigint, 'rebuild of everything repairs them');
SELECT is_empty('SELECT * FROM inventory.verify()', 'and then nothing is wrong any more');
SELECT bag_eq('SELECT sku, on_hand, reserved, committed, available FROM inventory.stock_level', 'TABLE public.before', 'stock is what it was');
SELECT is((SELECT metadata FROM inventory.event WHERE type = 'rebuild' AND stock_id = public.of_sku('S1')),
	'{"stock_row": {"on_hand": {"from": 990, "to": 985}, "committed": {"from": 3, "to": 0}}}'::jsonb, 'an event says what was changed');
SELECT is((SELECT (on_hand_delta, reserved_delta, committed_delta, actor)::text FROM inventory.event WHERE type = 'rebuild' AND stock_id = public.of_sku('S1')),
	format('(0,0,0,%s)', session_user), 'by whom, and moves nothing');
SELECT inventory.project() AS done \gset
SELECT is_empty('SELECT * FROM inventory.verify()', 'nor does its projection');

-- The level, too

SET session_replication_role = replica;
UPDATE inventory.stock SET on_hand = on_hand + 500 WHERE stock_id = public.of_sku('S4');
RESET session_replication_role;
SELECT is(inventory.rebuild('S4'), 1::bigint, 'the row is repaired');
SELECT is(inventory.available('S4'), 1000::bigint, 'and the level is');
SELECT isnt(inventory.issue('S4', 'L', 1000), NULL, 'what is there can be sold');
SELECT throws_ok($$SELECT inventory.issue('S4', 'L', 1)$$, 'IV001', NULL, 'and no more');
SELECT isnt(inventory.receive('S4', 'L', 1000), NULL, 'and goods come in again');

-- Holds past their deadline stay expired

SELECT inventory.set_test_clock('2027-04-06 12:00:00+00') IS NULL AS done \gset
SELECT is(inventory.available('S2'), 992::bigint, 'a hold has passed its deadline');
SET session_replication_role = replica;
UPDATE inventory.stock SET on_hand = 1 WHERE stock_id = public.of_sku('S2');
RESET session_replication_role;
SELECT is(inventory.rebuild('S2'), 1::bigint, 'its stock item is repaired');
SELECT is(inventory.available('S2'), 992::bigint, 'and the hold still does not count');
SELECT inventory.expire_due() AS done \gset
SELECT is(inventory.available('S2'), 992::bigint, 'nor twice after its expire event');
SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');

-- Snapshots

SET session_replication_role = replica;
UPDATE inventory.snapshot SET on_hand = 7, recorded_until = recorded_until + interval '1 hour', late = true WHERE stock_id = public.of_sku('S1') AND tick_id = 4;
UPDATE inventory.snapshot SET previous_tick_id = NULL, reserved = 1 WHERE stock_id = public.of_sku('S1') AND tick_id = 6;
UPDATE inventory.snapshot SET tick_id = 1000 WHERE stock_id = public.of_sku('S5');
RESET session_replication_role;
SELECT cmp_ok((SELECT count(*) FROM inventory.verify() WHERE check_name = 'snapshot'), '>=', 4::bigint, 'wrong snapshots are found');
SELECT is(inventory.rebuild(), 2::bigint, 'and repaired');
SELECT is_empty('SELECT * FROM inventory.verify()', 'and then nothing is wrong any more');
SELECT is_empty($$SELECT * FROM public.snapshots_before p WHERE stock_id <> public.of_sku('S5') AND p IS DISTINCT FROM (SELECT q FROM inventory.snapshot q WHERE q.stock_id = p.stock_id AND q.tick_id = p.tick_id)$$, 'to what they were');
SELECT is_empty('SELECT * FROM inventory.snapshot WHERE tick_id = 1000', 'one without a tick is gone');

-- After archiving

SELECT inventory.project() AS done \gset
CALL inventory.archive('2027-04-01') \g /dev/null
SET session_replication_role = replica;
UPDATE inventory.stock SET on_hand = 0, reserved = 0, committed = 0, event_count = 0;
RESET session_replication_role;
SELECT is(inventory.rebuild(), 5::bigint, 'rows are rebuilt from the baseline and the events that are left');
SELECT is_empty('SELECT * FROM inventory.verify()', 'completely');
SELECT bag_eq('SELECT sku, on_hand, committed FROM inventory.stock_level', 'SELECT sku, on_hand, committed FROM public.before', 'stock is what it was');

-- When not

BEGIN;
SELECT inventory.issue('S1', 'L', 1) AS moved \gset
SET LOCAL session_replication_role = replica;
UPDATE inventory.stock SET on_hand = on_hand + 1 WHERE stock_id = public.of_sku('S1');
SET LOCAL session_replication_role = origin;
SELECT throws_ok('SELECT inventory.rebuild()', '25001', NULL, 'a stock item that the transaction itself has moved is not rebuilt');
COMMIT;
SELECT is(inventory.rebuild(), 1::bigint, 'in a transaction of its own it is');
SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE inventory.stock SET on_hand = on_hand + 1 WHERE stock_id = public.of_sku('S1');
SET LOCAL session_replication_role = origin;
SELECT inventory.rebuild() AS done \gset
SELECT inventory.issue('S1', 'L', 1) AS moved \gset
ROLLBACK;
SELECT is_empty('SELECT * FROM inventory.verify()', 'a rebuild that is undone leaves nothing behind');
BEGIN READ ONLY;
SELECT throws_ok('SELECT inventory.rebuild()', '25006', NULL, 'a read-only transaction rebuilds nothing');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT throws_ok('SELECT inventory.rebuild()', '25000', NULL, 'nor does one with an old snapshot');
COMMIT;
CREATE ROLE inventory_pgtap_rebuild;
SELECT inventory.grant_access('inventory_pgtap_rebuild', 'operator') IS NULL AS done \gset
SET SESSION AUTHORIZATION inventory_pgtap_rebuild;
SELECT throws_ok('SELECT inventory.rebuild()', '42501', NULL, 'nor does an operator');
RESET SESSION AUTHORIZATION;
SELECT inventory.grant_access('inventory_pgtap_rebuild', 'manager') IS NULL AS done \gset
SET SESSION AUTHORIZATION inventory_pgtap_rebuild;
SELECT lives_ok('SELECT inventory.rebuild()', 'a manager does');
RESET SESSION AUTHORIZATION;
DROP OWNED BY inventory_pgtap_rebuild;
DROP ROLE inventory_pgtap_rebuild;
SELECT is_empty('SELECT * FROM inventory.stat_progress', 'nothing is shown as going on');

SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
