-- Archiving: what old events came to stays, the events go; stock, promises and
-- verify() are the same before and after.
--
-- Runs in a database of its own, and stops the engine's clock.
\set database inventory_pgtap_archive
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
DROP ROLE IF EXISTS inventory_pgtap_archive;
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
SELECT no_plan();

CREATE VIEW public.level AS SELECT sku, on_hand, reserved, committed, available, event_count FROM inventory.stock_level;
CREATE VIEW public.partition AS
SELECT c.relname::text AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'inventory.event'::regclass;

-- Two months and a day of business around a leap day

INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) SELECT 'S' || n FROM generate_series(1, 10) n;
SELECT inventory.set_test_clock('2028-01-31 23:59:59.999999+00') IS NULL AS done \gset
SELECT inventory.post('receive', array_agg('S' || n), array_agg('L'::text), array_agg(100::bigint)) AS done FROM generate_series(1, 10) n \gset
SELECT inventory.receive('S1', 'L', 7) AS january \gset
SELECT inventory.reserve('S1', 'L', 5, ttl => NULL) AS long_hold \gset
SELECT inventory.reserve('S2', 'L', 6, ttl => NULL) AS long_promise \gset
SELECT inventory.confirm(:long_promise) AS done \gset
SELECT inventory.project() AS done \gset
SELECT inventory.set_test_clock('2028-02-29 12:00:00+00') IS NULL AS done \gset
SELECT inventory.issue('S3', 'L', 3) AS leap_day \gset
SELECT inventory.project() AS done \gset
SELECT inventory.issue('S3', 'L', 4) AS leap_day_2 \gset
SELECT inventory.project() AS done \gset
SELECT inventory.set_test_clock('2028-03-01 00:00:00+00') IS NULL AS done \gset
SELECT inventory.issue('S4', 'L', 4) AS march \gset

-- What cannot be archived yet

SELECT is_empty($$SELECT * FROM inventory.archivable('2026-01-01')$$, 'there is nothing before the first partition');
SELECT is((SELECT max(recorded_until) FROM inventory.archivable('infinity')), '2028-03-01 00:00:00+00'::timestamptz, 'the present month is never archived');
SELECT is((SELECT max(recorded_until) FROM inventory.archivable('2028-02-29 23:59:59')), '2028-02-01 00:00:00+00'::timestamptz, 'nor a month that has not ended before the moment asked for');
SELECT is((SELECT max(recorded_until) FROM inventory.archivable('2028-03-01 00:00:00')), '2028-03-01 00:00:00+00'::timestamptz, 'a month that has ended just then is');
SELECT inventory.set_test_clock('2028-02-29 12:30:00+00') IS NULL AS done \gset
SELECT inventory.issue('S5', 'L', 1) AS unprojected \gset
CREATE TABLE public.before AS SELECT * FROM public.level;
SELECT inventory.set_test_clock('2028-03-01 00:00:00+00') IS NULL AS done \gset
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT throws_ok($$SELECT inventory.archive_partition('2028-03-01')$$, '25000', NULL, 'a transaction with an old snapshot cannot archive');
COMMIT;
BEGIN READ ONLY;
SELECT throws_ok($$SELECT inventory.archive_partition('2028-03-01')$$, '25006', NULL, 'nor can one that is read-only');
COMMIT;
SELECT is(inventory.archive_partition(NULL), NULL, 'before nothing there is nothing');


-- January

CALL inventory.archive('2028-01-01') \g /dev/null
SELECT is((SELECT count(*) FROM inventory.archived), 4::bigint, 'months before the first event are archived like others');
SELECT is((SELECT count(kept_as) FROM inventory.archived), 0::bigint, 'but an empty partition is never kept');
CREATE TABLE public.partition_before AS SELECT * FROM public.partition;
BEGIN;
SELECT inventory.archive_partition('2028-02-01') AS name \gset
ROLLBACK;
SELECT is(:'name'::text, 'event_2028_01', 'archive_partition() says what it has archived');
SELECT bag_eq('TABLE public.partition', 'TABLE public.partition_before', 'undone, it has detached nothing');
SELECT is_empty('SELECT * FROM inventory.baseline', 'nor added up anything');
SELECT bag_eq('TABLE public.level', 'TABLE public.before', 'stock is what it was');

CALL inventory.archive('2028-02-28') \g /dev/null
SELECT is((SELECT array_agg(partition || ' ' || kept_as ORDER BY archive_id) FROM inventory.archived WHERE events > 0), ARRAY['event_2028_01 event_archive_2028_01'],
	'archive() archives whole months only');
SELECT is((SELECT (events, first_event_id, last_event_id, recorded_from, recorded_until)::text FROM inventory.archived WHERE partition = 'event_2028_01'),
	'(14,1,14,"2028-01-01 00:00:00+00","2028-02-01 00:00:00+00")', 'and remembers what was in them');
SELECT is((SELECT count(*) FROM inventory.event_archive_2028_01), 14::bigint, 'the events are kept in a table of their own');
SELECT bag_eq('TABLE public.level', 'TABLE public.before', 'stock is what it was');
SELECT is_empty('SELECT * FROM inventory.verify()', 'and verify() finds no discrepancy');
SELECT is((SELECT (b.on_hand, b.reserved, b.committed, b.event_count)::text FROM inventory.baseline b JOIN inventory.stock_level USING (stock_id) WHERE sku = 'S1'), '(107,5,0,3)',
	'the baseline of a stock item is the sum of its archived events');

-- What holds it up

SELECT throws_like($$SELECT inventory.archive_partition('2028-03-01')$$, '%not all of its events have been projected%', 'events that are not projected are not archived');
SELECT is((SELECT count(*) FROM inventory.archived), 5::bigint, 'and nothing has changed');
SELECT inventory.project() AS done \gset
SET session_replication_role = replica;
UPDATE inventory.stock SET on_hand = on_hand + 1 WHERE stock_id = (SELECT stock_id FROM inventory.stock_level WHERE sku = 'S3');
RESET session_replication_role;
SELECT throws_ok($$SELECT inventory.archive_partition('2028-03-01')$$, 'XX001', NULL, 'stock that does not agree with its events is not archived');
SET session_replication_role = replica;
UPDATE inventory.stock SET on_hand = on_hand - 1 WHERE stock_id = (SELECT stock_id FROM inventory.stock_level WHERE sku = 'S3');
RESET session_replication_role;
-- February, dropped

CALL inventory.archive('2028-03-01', keep => false) \g /dev/null
SELECT is((SELECT kept_as FROM inventory.archived WHERE partition = 'event_2028_02'), NULL, 'a partition that is not kept');
SELECT is((to_regclass('inventory.event_2028_02'), to_regclass('inventory.event_archive_2028_02'))::text, '(,)', 'is gone');
SELECT bag_eq('TABLE public.level', 'TABLE public.before', 'stock is what it was');
SELECT is((SELECT count(*) FROM inventory.event), 1::bigint, 'what is left is the present month');
SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');

-- Life goes on

SELECT is(inventory.ship(:long_promise), 1::bigint, 'an archived promise is shipped');
SELECT is(inventory.release(:long_hold), 1::bigint, 'an archived hold is released');
SELECT is((SELECT (on_hand, reserved, committed)::text FROM inventory.stock_level WHERE sku = 'S2'), '(94,0,0)', 'with the stock that it should leave');
SELECT is_empty('SELECT * FROM inventory.verify()', 'and verify() finds no discrepancy');
SELECT throws_ok(format('SELECT inventory.reverse(%s, ''wrong'')', :january), 'IV013', NULL, 'an archived event cannot be reversed');
SELECT throws_ok(format('SELECT inventory.reverse(%s, ''wrong'')', :leap_day), 'IV013', NULL, 'nor one that was dropped');
SELECT isnt(inventory.reverse(:march, 'wrong'), NULL, 'one that is still there can');
DO $$ DECLARE detail text; hint text; BEGIN
	PERFORM inventory.reverse(1, 'wrong');
EXCEPTION WHEN SQLSTATE 'IV013' THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	CREATE TABLE public.said AS SELECT detail, hint;
END $$;
SELECT is(detail, 'Events recorded before 2028-03-01 00:00:00+00 have been archived.', 'the error says that it was archived') FROM public.said;
SELECT isnt(hint, '', 'and what to do') FROM public.said;

-- Snapshots and ticks of archived time

SELECT is_empty('SELECT FROM inventory.snapshot p WHERE p.tick_id < (SELECT max(a.tick_id) FROM inventory.archived a)', 'snapshots of archived time are gone');
SELECT results_eq('SELECT count(*), max(t.tick_id) FROM inventory.tick t WHERE t.tick_id <= (SELECT max(a.tick_id) FROM inventory.archived a) GROUP BY (t.ticked_at AT TIME ZONE ''UTC'')::date ORDER BY 2',
	$$VALUES (1::bigint, 1::bigint), (1::bigint, 3::bigint), (1::bigint, 4::bigint)$$, 'one tick a day is left, and the anchor');

-- The archived table

SELECT throws_ok('UPDATE inventory.event_archive_2028_01 SET on_hand_delta = 0', 'IV016', NULL, 'UPDATE of an archived table is refused');
SELECT throws_ok('DELETE FROM inventory.event_archive_2028_01', 'IV016', NULL, 'DELETE is refused');
SELECT throws_ok('TRUNCATE inventory.event_archive_2028_01', 'IV016', NULL, 'TRUNCATE is refused');
SET session_replication_role = replica;
SELECT throws_ok('DELETE FROM inventory.event_archive_2028_01', 'IV016', NULL, 'also under session_replication_role = replica');
RESET session_replication_role;
SELECT throws_ok('DELETE FROM inventory.baseline', 'IV016', NULL, 'the baseline is the engine''s');
SELECT throws_ok('DELETE FROM inventory.archived', 'IV016', NULL, 'and so is the list of what was archived');
SELECT matches(obj_description('inventory.event_archive_2028_01'::regclass), '^Archived: ', 'its comment says what it is');
SELECT is_empty($$SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = 'inventory.event_archive_2028_01'::regclass AND deptype = 'e'$$,
	'it is no member of the extension, so that pg_dump carries it');

-- A clock that is set back into an archived month

SELECT inventory.set_test_clock('2028-01-10 00:00:00+00') IS NULL AS done \gset
SELECT lives_ok($$SELECT inventory.receive('S6', 'L', 11)$$, 'an archived month can be written again');
SELECT is((SELECT count(*) FROM inventory.event_2028_01), 1::bigint, 'it has a partition again');
SELECT inventory.project() AS done \gset
SELECT inventory.set_test_clock('2028-04-01 00:00:00+00') IS NULL AS done \gset
CALL inventory.archive('2028-02-01') \g /dev/null
SELECT is((SELECT kept_as FROM inventory.archived ORDER BY archive_id DESC LIMIT 1), 'event_archive_2028_01_2', 'that is archived beside the first one');
SELECT is((SELECT b.on_hand FROM inventory.baseline b JOIN inventory.stock_level USING (stock_id) WHERE sku = 'S6'), 111::bigint, 'and added to the baseline');
SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');

-- Who may

CREATE ROLE inventory_pgtap_archive;
SELECT inventory.grant_access('inventory_pgtap_archive', 'reader') IS NULL AS done \gset
SELECT inventory.project() AS done \gset
SET SESSION AUTHORIZATION inventory_pgtap_archive;
DO $$ DECLARE n integer; BEGIN
	CALL inventory.archive('2028-04-01', true, n);
EXCEPTION WHEN insufficient_privilege THEN NULL; END $$;
RESET SESSION AUTHORIZATION;
SELECT isnt(to_regclass('inventory.event_2028_03'), NULL, 'a reader archives nothing');
SELECT inventory.grant_access('inventory_pgtap_archive', 'manager') IS NULL AS done \gset
SET SESSION AUTHORIZATION inventory_pgtap_archive;
CALL inventory.archive('2028-04-01') \g /dev/null
RESET SESSION AUTHORIZATION;
SELECT is(to_regclass('inventory.event_2028_03'), NULL, 'a manager does');
SELECT ok(has_table_privilege('inventory_pgtap_archive', 'inventory.event_archive_2028_03', 'SELECT'), 'who reads events reads archived ones');
SELECT ok(NOT has_table_privilege('inventory_pgtap_archive', 'inventory.event_archive_2028_03', 'INSERT'), 'and no more than that');
SELECT is_empty('SELECT FROM inventory.event', 'everything is archived');
SELECT bag_eq('SELECT sku, on_hand, available FROM public.level', $$
	VALUES ('S1', 107::bigint, 107::bigint), ('S2', 94, 94), ('S3', 93, 93), ('S4', 100, 100), ('S5', 99, 99), ('S6', 111, 111), ('S7', 100, 100), ('S8', 100, 100), ('S9', 100, 100), ('S10', 100, 100)$$,
	'and stock is what was booked');
SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
SELECT isnt(inventory.issue('S1', 'L', 107), NULL, 'all of it can be sold');
SELECT throws_ok($$SELECT inventory.issue('S1', 'L', 1)$$, 'IV001', NULL, 'and no more');
SELECT is_empty('SELECT * FROM inventory.stat_progress', 'nothing is shown as going on');

-- What a subscription has not had yet

CREATE FUNCTION public.handle(message inventory.message) RETURNS void LANGUAGE sql AS '';
SELECT inventory.subscribe('late', '{inventory.event.issue, inventory.event.adjust}', 'function', '{"handler": "public.handle"}') AS late \gset
SELECT inventory.subscribe('done', '{inventory.event.*}', 'function', '{"handler": "public.handle"}') AS done \gset
SELECT inventory.subscribe('other', '{order.#, inventory.event.ship}', 'function', '{"handler": "public.handle"}') AS other \gset
SELECT inventory.set_test_clock('2028-05-10 12:00:00+00') IS NULL AS done \gset
SELECT inventory.receive('S1', 'L', 50) AS received \gset
SELECT inventory.issue('S1', 'L', 20) AS issued \gset
SELECT inventory.publish('order.placed', 'k', '{}') AS published \gset
SELECT inventory.set_test_clock('2028-06-01 00:00:00+00') IS NULL AS done \gset
SELECT inventory.project() AS done \gset
SELECT is(inventory.deliver('done'), 2::bigint, 'one subscription has had the events of May');
SELECT is(inventory.archive_partition('2028-05-01'), 'event_2028_04', 'a month before them is archived') WHERE to_regclass('inventory.event_2028_04') IS NOT NULL;
SELECT throws_ok($$SELECT inventory.archive_partition('2028-06-01')$$, '55006', 'cannot archive inventory.event_2028_05: a subscription has not had all of its events', 'a month with events that a subscription has not had is not archived');
SELECT is(inventory.unread_by('inventory.event_2028_05'), '{late}', 'that is the one that wants them, and not one of other types or topics');
SELECT inventory.pause('late') IS NULL AS paused \gset
SELECT throws_ok($$SELECT inventory.archive_partition('2028-06-01')$$, '55006', NULL, 'also while it is paused');
SELECT inventory.resume('late') IS NULL AS resumed \gset
SELECT is(inventory.deliver('late'), 1::bigint, 'when it has had them');
SELECT is(inventory.archive_partition('2028-06-01'), 'event_2028_05', 'the month is archived');
SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy then');

DROP OWNED BY inventory_pgtap_archive;
DROP ROLE inventory_pgtap_archive;
SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
