-- verify() names every difference between what is kept and what the events
-- say, whole or since the last time, and finds none where there is none.
--
-- Runs in a database of its own: levels move at commit.
\set database inventory_pgtap_verify
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
SELECT no_plan();

INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) SELECT 'S' || n FROM generate_series(1, 10) n;
SELECT is_empty('SELECT * FROM inventory.verify()', 'nothing is no discrepancy');
SELECT is_empty($$SELECT * FROM inventory.verify('recent')$$, 'nor since nothing');
SELECT is_empty('SELECT * FROM inventory.verification', 'before the first tick there is nothing to remember');
SELECT throws_ok($$SELECT * FROM inventory.verify('some')$$, 'IV020', NULL, 'a scope is all or recent');
SELECT throws_ok('SELECT * FROM inventory.verify(NULL)', 'IV020', NULL, 'and must be given');

SELECT inventory.set_test_clock('2027-03-31 12:00:00+00') IS NULL AS done \gset
SELECT inventory.post('receive', array_agg('S' || n), array_agg('L'::text), array_agg(1000::bigint)) AS done FROM generate_series(1, 10) n \gset
SELECT is_empty('SELECT * FROM inventory.verify()', 'events that no tick includes yet are no discrepancy');
SELECT inventory.project() AS done \gset
SELECT is_empty('SELECT * FROM inventory.verify()', 'nor are those that a tick includes');
SELECT is((SELECT (tick_id, scope, verified_at)::text FROM inventory.verification), '(1,all,"2027-03-31 12:00:00+00")', 'what was verified is remembered');
SELECT is_empty('SELECT * FROM inventory.verify()', 'verified once more');
SELECT is((SELECT count(*) FROM inventory.verification), 1::bigint, 'a tick is remembered once');
\o /dev/null
SELECT format('SELECT inventory.set_test_clock(%L)', '2027-03-31 12:00:00+00'::timestamptz + n * interval '1 day'),
	format('SELECT inventory.issue(''S1'', ''L'', %s)', n), 'SELECT inventory.project()' FROM generate_series(1, 10) n \gexec
\o
SELECT inventory.reserve('S2', 'L', 7, ttl => NULL) AS held \gset
SELECT inventory.reserve('S2', 'L', 8, ttl => NULL) AS committed \gset
SELECT inventory.confirm(:committed) AS done \gset
SELECT inventory.project() AS done \gset
SELECT count(inventory.issue('S3', 'L', 1)) AS done FROM generate_series(1, 3) n \gset
SELECT cmp_ok((SELECT count(*) FROM inventory.snapshot), '>', 15::bigint, 'there are snapshots to look at');
SELECT is_empty($$SELECT * FROM inventory.verify('recent')$$, 'what is new agrees');
SELECT is((SELECT (tick_id, scope)::text FROM inventory.verification ORDER BY verification_id DESC LIMIT 1), (SELECT format('(%s,recent)', max(tick_id)) FROM inventory.tick), 'and that is remembered too');
SELECT is_empty('SELECT * FROM inventory.verify()', 'all of it agrees');

-- What it finds: each tampering by itself, undone afterwards.

CREATE FUNCTION public.tamper(statement text) RETURNS SETOF text
	LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		SET LOCAL session_replication_role = replica;
		EXECUTE statement;
		SET LOCAL session_replication_role = origin;
		CREATE TEMP TABLE found AS SELECT * FROM inventory.verify();
		RAISE EXCEPTION USING ERRCODE = 'ZZ000', MESSAGE = coalesce((
			SELECT string_agg(concat_ws(' ', f.check_name, f.sku, f.expected, f.found, f.detail), E'\n' ORDER BY f.check_name, f.sku, f.detail COLLATE "C") FROM found f), '');
	EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
		RETURN QUERY SELECT * FROM string_to_table(SQLERRM, E'\n');
	END;
END $$;
CREATE FUNCTION public.of_sku(code text) RETURNS bigint
	LANGUAGE sql AS $$SELECT k.stock_id FROM inventory.stock k JOIN inventory.sku s USING (sku_id) WHERE s.sku = code$$;

CREATE FUNCTION public.finds(statement text, expected text[], name text) RETURNS text
	LANGUAGE sql AS $$SELECT public.set_eq(format('SELECT * FROM public.tamper(%L)', statement), expected, name)$$;

SELECT finds('SELECT 1', '{}', 'what is not tampered with agrees');
SELECT finds($$UPDATE inventory.stock SET on_hand = on_hand + 1 WHERE stock_id = public.of_sku('S4')$$,
	ARRAY['stock row S4 1000 1001 on_hand of the stock row, against the events up to the latest tick',
		'level S4 1001 1000 on hand in shared memory, against the stock row and the events beyond it',
		'level S4 1001 1000 available (before safety stock) in shared memory, against the stock row and the events beyond it'],
	'a stock row with goods that were never received');
SELECT finds($$UPDATE inventory.stock SET event_count = event_count + 1 WHERE stock_id = public.of_sku('S4')$$,
	ARRAY['stock row S4 1 2 event_count of the stock row, against the events up to the latest tick'], 'a wrong number of events');
SELECT finds($$UPDATE inventory.stock SET reserved = reserved + 1, committed = committed - 1 WHERE stock_id = public.of_sku('S2')$$,
	ARRAY['stock row S2 7 8 reserved of the stock row, against the events up to the latest tick',
		'stock row S2 8 7 committed of the stock row, against the events up to the latest tick'],
	'a promise that was moved');
SELECT finds(format('UPDATE inventory.reservation SET quantity = 6 WHERE reservation_id = %s', :held),
	ARRAY['reserved S2 7 6 sum of reserved_delta, against the held reservation lines'], 'a reservation line with another quantity');
SELECT finds(format('DELETE FROM inventory.reservation WHERE reservation_id = %s', :committed),
	ARRAY['committed S2 8 0 sum of committed_delta, against the committed reservation lines'], 'a reservation that is gone');
SELECT finds(format('UPDATE inventory.reservation SET shipped = 7 WHERE reservation_id = %s', :held),
	ARRAY['reserved S2 7 0 sum of reserved_delta, against the held reservation lines',
		format('reservation S2 7 7 reservation %s line 1: shipped + released is out of range for state held', :held)], 'a line that is open and done');
SELECT finds('INSERT INTO inventory.reservation (reservation_id, state, stock_id, quantity) VALUES (1000, ''held'', 99, 1)',
	ARRAY['stock item 1 0 reservation 1000 line 1 of a stock item that does not exist'], 'a reservation of nothing');
SELECT finds($$UPDATE inventory.snapshot SET on_hand = on_hand - 1 WHERE stock_id = public.of_sku('S1') AND tick_id = (SELECT min(tick_id) FROM inventory.snapshot WHERE stock_id = public.of_sku('S1'))$$,
	(SELECT ARRAY[format('snapshot S1 %s %s on_hand of the snapshot at tick %s', on_hand, on_hand - 1, tick_id)] FROM inventory.snapshot WHERE stock_id = public.of_sku('S1') ORDER BY tick_id LIMIT 1),
	'a wrong snapshot, alone');
SELECT finds($$UPDATE inventory.snapshot SET event_count = event_count + 5 WHERE stock_id = public.of_sku('S1') AND tick_id = (SELECT max(tick_id) FROM inventory.snapshot WHERE stock_id = public.of_sku('S1'))$$,
	(SELECT ARRAY[format('snapshot S1 %s %s event_count of the snapshot at tick %s', event_count, event_count + 5, tick_id)] FROM inventory.snapshot WHERE stock_id = public.of_sku('S1') ORDER BY tick_id DESC LIMIT 1),
	'the last snapshot');
SELECT finds($$UPDATE inventory.snapshot SET tick_id = 1000 WHERE stock_id = public.of_sku('S5')$$,
	ARRAY['snapshot S5 0 1 tick of the snapshot at tick 1000'], 'a snapshot at a tick that is not there');
SELECT finds('DELETE FROM inventory.snapshot', '{}', 'snapshots that are gone are no discrepancy: history starts further back');
SELECT finds('DELETE FROM inventory.tick WHERE tick_id = (SELECT max(tick_id) FROM inventory.tick)',
	(SELECT ARRAY_agg(x) FROM (
		SELECT format('tick tick %s: the tick is missing', max(tick_id)) FROM inventory.tick
		UNION ALL
		SELECT format('stock row %s %s %s %s of the stock row, against the events up to the latest tick', sku, e, f, n)
		FROM (VALUES ('S2', 0, 7, 'reserved'), ('S2', 0, 8, 'committed'), ('S2', 1, 4, 'event_count')) v(sku, e, f, n)
		UNION ALL
		SELECT format('snapshot %s 0 1 tick of the snapshot at tick %s', s.sku, p.tick_id) FROM inventory.snapshot p JOIN inventory.stock k USING (stock_id) JOIN inventory.sku s USING (sku_id)
		WHERE p.tick_id = (SELECT max(tick_id) FROM inventory.tick)
		UNION ALL
		SELECT v FROM public.tamper('DELETE FROM inventory.tick WHERE tick_id = (SELECT max(tick_id) FROM inventory.tick)') v WHERE v LIKE 'level%') y(x)),
	'the latest tick is gone');
SELECT is_empty('SELECT * FROM inventory.verify()', 'undone, nothing is left of it');

-- The events themselves

SELECT finds($$ALTER TABLE inventory.event_2027_03 DISABLE TRIGGER USER; UPDATE inventory.event SET on_hand_delta = on_hand_delta - 1 WHERE event_id = 4$$,
	ARRAY['stock row S4 999 1000 on_hand of the stock row, against the events up to the latest tick',
		'snapshot S4 999 1000 on_hand of the snapshot at tick 2',
		'tick tick 1: its hash does not agree with its events and the hash before'], 'an event that was changed');
SELECT finds($$ALTER TABLE inventory.event_2027_03 DISABLE TRIGGER USER; UPDATE inventory.event SET reference = 'forged' WHERE event_id = 4$$,
	ARRAY['tick tick 1: its hash does not agree with its events and the hash before'], 'only its reference');

SELECT finds($$ALTER TABLE inventory.event_2027_03 DISABLE TRIGGER USER; INSERT INTO inventory.event SELECT * FROM inventory.event WHERE event_id = 4$$,
	ARRAY['event S4 1 2 event_id 4 stands more than once',
		'stock row S4 2000 1000 on_hand of the stock row, against the events up to the latest tick',
		'stock row S4 2 1 event_count of the stock row, against the events up to the latest tick',
		'snapshot S4 2000 1000 on_hand of the snapshot at tick 2', 'snapshot S4 2 1 event_count of the snapshot at tick 2',
		'tick tick 1: its hash does not agree with its events and the hash before'], 'an event that stands twice');

-- Since the last time

SELECT is_empty($$SELECT * FROM inventory.verify('recent')$$, 'everything has been verified');
SELECT inventory.issue('S7', 'L', 5) AS issued \gset
SELECT inventory.project() AS done \gset
SET session_replication_role = replica;
UPDATE inventory.stock SET on_hand = on_hand + 1 WHERE stock_id = public.of_sku('S7');
RESET session_replication_role;
SELECT is((SELECT count(*) FROM inventory.verify('recent') WHERE check_name = 'stock row' AND sku = 'S7' AND expected = 995 AND found = 996), 1::bigint, 'verify(''recent'') finds what is wrong with what has changed');
SELECT is((SELECT max(tick_id) FROM inventory.verification), (SELECT max(tick_id) - 1 FROM inventory.tick), 'and does not remember it as verified');
SET session_replication_role = replica;
UPDATE inventory.stock SET on_hand = on_hand - 1 WHERE stock_id = public.of_sku('S7');
RESET session_replication_role;
BEGIN READ ONLY;
SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() runs in a read-only transaction');
COMMIT;
SELECT is((SELECT max(tick_id) FROM inventory.verification), (SELECT max(tick_id) - 1 FROM inventory.tick), 'which remembers nothing');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT is_empty('SELECT * FROM inventory.verify()', 'and at other isolation levels');
COMMIT;
SELECT is((SELECT max(tick_id) FROM inventory.verification), (SELECT max(tick_id) FROM inventory.tick), 'and there it remembers');
SELECT is_empty('SELECT * FROM inventory.stat_progress', 'nothing is shown as going on');

SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
