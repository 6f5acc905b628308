-- Events are append-only, for everyone and by every way in; and whoever writes
-- them, by function, INSERT or COPY, is held to the same rules.
--
-- Runs in a database of its own, because much of it must commit.
\set database inventory_pgtap_event
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

INSERT INTO inventory.sku (sku, safety_stock) VALUES ('A', 0), ('SAFE', 4);
INSERT INTO inventory.location (location) VALUES ('L');
SELECT inventory.receive('A', 'L', 10) AS first_event \gset
SELECT inventory.receive('SAFE', 'L', 10) IS NOT NULL AS done \gset
SELECT stock_id AS a FROM inventory.stock_level WHERE sku = 'A' \gset
SELECT stock_id AS safe FROM inventory.stock_level WHERE sku = 'SAFE' \gset
SELECT tableoid::regclass AS partition FROM inventory.event LIMIT 1 \gset

-- What the functions write

BEGIN;
SELECT inventory.receive('A', 'L', 1, request_id => 'r1', reference => 'PO-1', reason => 'purchase',
	effective_at => '2020-02-02 02:02:02+00', metadata => '{"dock": 3}') AS event \gset
SELECT results_eq(
	format($$SELECT stock_id, type::text, on_hand_delta, reserved_delta, committed_delta, request_id, reference, reason, actor,
		recorded_at = inventory.transaction_time(), effective_at, xid = pg_current_xact_id(), metadata::text
		FROM inventory.event WHERE event_id = %s$$, :event),
	format($$VALUES (%s::bigint, 'receive', 1::bigint, 0::bigint, 0::bigint, 'r1', 'PO-1', 'purchase', 'postgres',
		true, '2020-02-02 02:02:02+00'::timestamptz, true, '{"dock": 3}')$$, :a),
	'an event carries its stock item, quantities, request id, reference, reason, actor, times, transaction and metadata');
SELECT is((SELECT effective_at FROM inventory.event WHERE event_id = :first_event), NULL,
	'an event that happened when it was recorded has no effective_at');
ROLLBACK;

-- UPDATE, DELETE and TRUNCATE

SELECT is(current_setting('is_superuser'), 'on', 'the caller of what follows is a superuser');
SELECT throws_ok('UPDATE inventory.event SET on_hand_delta = 0', 'IV016', NULL, 'a superuser does not update events');
SELECT throws_ok('UPDATE inventory.event SET reason = reason', 'IV016', NULL, 'not even to the same values');
SELECT throws_ok('DELETE FROM inventory.event', 'IV016', NULL, 'a superuser does not delete events');
SELECT throws_ok('TRUNCATE inventory.event', 'IV016', NULL, 'a superuser does not truncate the events');
SELECT throws_ok(format('UPDATE %s SET on_hand_delta = 0', :'partition'), 'IV016', NULL, 'nor update those of a partition');
SELECT throws_ok(format('DELETE FROM %s', :'partition'), 'IV016', NULL, 'nor delete those of a partition');
SELECT throws_ok(format('TRUNCATE %s', :'partition'), 'IV016', NULL, 'nor truncate a partition');
SELECT throws_ok($$MERGE INTO inventory.event v USING (SELECT 1) x ON true WHEN MATCHED THEN DELETE$$, 'IV016', NULL, 'nor delete events by MERGE');
SELECT throws_ok($$MERGE INTO inventory.event v USING (SELECT 1) x ON true WHEN MATCHED THEN UPDATE SET reason = 'x'$$, 'IV016', NULL, 'nor update events by MERGE');
SELECT throws_ok($$UPDATE inventory.event SET recorded_at = recorded_at + interval '1 month'$$, 'IV016', NULL, 'nor move an event to another month');
SET session_replication_role = replica;
SELECT throws_ok('UPDATE inventory.event SET on_hand_delta = 0', 'IV016', NULL, 'session_replication_role = replica does not open UPDATE');
SELECT throws_ok('DELETE FROM inventory.event', 'IV016', NULL, 'session_replication_role = replica does not open DELETE');
SELECT throws_ok('TRUNCATE inventory.event', 'IV016', NULL, 'session_replication_role = replica does not open TRUNCATE');
SELECT throws_ok(format('UPDATE %s SET on_hand_delta = 0', :'partition'), 'IV016', NULL, 'session_replication_role = replica does not open UPDATE of a partition');
SELECT throws_ok(format('DELETE FROM %s', :'partition'), 'IV016', NULL, 'session_replication_role = replica does not open DELETE from a partition');
SELECT throws_ok(format('TRUNCATE %s', :'partition'), 'IV016', NULL, 'session_replication_role = replica does not open TRUNCATE of a partition');
RESET session_replication_role;
SELECT results_eq('SELECT on_hand_delta FROM inventory.event ORDER BY event_id', 'VALUES (10::bigint), (10)', 'after all of these the events are as they were');

-- Plain INSERT is held to the rules

CREATE FUNCTION pg_temp.put(stock_id bigint, type text, delta bigint, more text DEFAULT '', more_values text DEFAULT '') RETURNS text
	LANGUAGE sql AS $$
	SELECT format('INSERT INTO inventory.event (stock_id, type, on_hand_delta%s) VALUES (%s, %L, %s%s)', more, stock_id, type, delta, more_values)
$$;

SELECT lives_ok(pg_temp.put(:a, 'receive', 5), 'an inserted receive is accepted');
SELECT is(inventory.available('A'), 15::bigint, 'and can be promised');
SELECT lives_ok(pg_temp.put(:a, 'issue', -2), 'an inserted issue is accepted');
SELECT is(inventory.available('A'), 13::bigint, 'and is gone from available');
SELECT is(inventory.on_hand('A'), 13::bigint, 'and from on hand');
SELECT throws_ok(pg_temp.put(:a, 'issue', -14), 'IV001', NULL, 'an inserted issue of more than there is is refused');
SELECT throws_ok(pg_temp.put(:safe, 'issue', -7), 'IV001', NULL, 'an inserted issue does not touch the safety stock');
SELECT lives_ok(pg_temp.put(:safe, 'issue', -6), 'an inserted issue can take what the safety stock leaves');
SELECT lives_ok(pg_temp.put(:safe, 'adjust', -1), 'an inserted adjustment is physical truth and may touch the safety stock');
SELECT throws_ok(pg_temp.put(:safe, 'adjust', -4), 'IV001', NULL, 'an inserted adjustment does not push on hand under 0');
SELECT lives_ok(pg_temp.put(:a, 'count', -3), 'an inserted count is accepted');
SELECT lives_ok(pg_temp.put(:a, 'count', 0), 'an inserted count without a difference is accepted');
SELECT is(inventory.on_hand('A'), 10::bigint, 'counts move on hand');
SELECT throws_ok(format($$INSERT INTO inventory.event (stock_id, type, on_hand_delta) SELECT %s, 'issue', -1 FROM generate_series(1, 11)$$, :a),
	'IV001', NULL, 'many inserted rows are refused together when their sum is too much');
SELECT is(inventory.available('A'), 10::bigint, 'and the ones before the last have left nothing behind');
SELECT lives_ok(format($$INSERT INTO inventory.event (stock_id, type, on_hand_delta) SELECT %s, 'issue', -1 FROM generate_series(1, 10)$$, :a),
	'many inserted rows may take exactly what there is');
SELECT lives_ok(format($$WITH r AS (INSERT INTO inventory.event (stock_id, type, on_hand_delta) VALUES (%1$s, 'receive', 10) RETURNING stock_id)
	SELECT stock_id FROM r$$, :a), 'an INSERT in a WITH clause is accepted');
SELECT is(inventory.available('A'), 10::bigint, 'and counts');

SELECT throws_ok(pg_temp.put(:a, 'receive', -1), 'IV016', NULL, 'an inserted receive cannot be negative');
SELECT throws_ok(pg_temp.put(:a, 'receive', 0), 'IV016', NULL, 'an inserted receive cannot be zero');
SELECT throws_ok(pg_temp.put(:a, 'issue', 1), 'IV016', NULL, 'an inserted issue cannot be positive');
SELECT throws_ok(pg_temp.put(:a, 'issue', 0), 'IV016', NULL, 'an inserted issue cannot be zero');
SELECT throws_ok(pg_temp.put(:a, t, 1), 'IV016', NULL, format('nobody inserts an event of type %s', t))
FROM unnest(ARRAY['transfer_out', 'transfer_in', 'reserve', 'confirm', 'ship', 'release', 'expire', 'reverse']) t;
SELECT throws_ok(pg_temp.put(:a, 'receive', 1, ', reserved_delta', ', 1'), 'IV016', NULL, 'nobody inserts a reserved_delta');
SELECT throws_ok(pg_temp.put(:a, 'receive', 1, ', committed_delta', ', -1'), 'IV016', NULL, 'nobody inserts a committed_delta');
SELECT throws_ok(pg_temp.put(:a, 'receive', 1, ', recorded_at', $$, inventory.transaction_time() - interval '1 second'$$), 'IV016', NULL, 'nobody inserts another recorded_at than the transaction''s');
SELECT throws_ok(pg_temp.put(:a, 'receive', 1, ', xid', $$, '3'$$), 'IV016', NULL, 'nobody inserts the xid of another transaction');
SELECT throws_ok(pg_temp.put(-1, 'receive', 1), 'IV002', NULL, 'nobody inserts an event of a stock item that does not exist');
SET session_replication_role = replica;
SELECT throws_ok(pg_temp.put(:a, 'issue', -11), 'IV001', NULL, 'session_replication_role = replica does not open INSERT');
SELECT lives_ok(pg_temp.put(:a, 'issue', -1), 'an event inserted with session_replication_role = replica is accepted');
RESET session_replication_role;
SELECT is(inventory.available('A'), 9::bigint, 'and is counted');
SELECT throws_ok(replace(pg_temp.put(:a, 'issue', -10), 'inventory.event ', :'partition' || ' '), 'IV001', NULL, 'a row inserted into a partition is held to the rules');
SELECT lives_ok(replace(pg_temp.put(:a, 'issue', -1), 'inventory.event ', :'partition' || ' '), 'a row inserted into a partition is accepted');
SELECT is(inventory.available('A'), 8::bigint, 'and is counted');

BEGIN;
SELECT lives_ok(pg_temp.put(:a, 'issue', -8), 'within a transaction a row is inserted');
SELECT throws_ok(pg_temp.put(:a, 'issue', -1), 'IV001', NULL, 'the next one is refused if the first took all');
ROLLBACK;
SELECT is(inventory.available('A'), 8::bigint, 'a rollback gives everything back');

-- COPY is held to the rules

SELECT lives_ok(format($$COPY inventory.event (stock_id, type, on_hand_delta) FROM PROGRAM 'printf "%1$s\\treceive\\t4\\n%1$s\\tissue\\t-2\\n"'$$, :a), 'COPY of allowed events is accepted');
SELECT is(inventory.available('A'), 10::bigint, 'and every row is counted');
SELECT throws_ok(format($$COPY inventory.event (stock_id, type, on_hand_delta) FROM PROGRAM 'printf "%1$s\\tissue\\t-6\\n%1$s\\tissue\\t-6\\n"'$$, :a),
	'IV001', NULL, 'COPY of more than there is is refused');
SELECT is(inventory.available('A'), 10::bigint, 'and leaves nothing behind');
SELECT throws_ok(format($$COPY inventory.event (stock_id, type, reserved_delta) FROM PROGRAM 'printf "%1$s\\treserve\\t-6\\n"'$$, :a),
	'IV016', NULL, 'COPY of an engine''s event is refused');
SELECT throws_ok(format($$COPY inventory.event (stock_id, type, on_hand_delta, xid) FROM PROGRAM 'printf "%1$s\\treceive\\t6\\t3\\n"'$$, :a),
	'IV016', NULL, 'COPY with another xid is refused');
SELECT throws_ok(format($$COPY inventory.event (stock_id, type, on_hand_delta, recorded_at) FROM PROGRAM 'printf "%1$s\\treceive\\t6\\t%2$s\\n"'$$, :a, to_char(now(), 'YYYY-MM-01')),
	'IV016', NULL, 'COPY with another recorded_at is refused');
SELECT is(inventory.on_hand('A'), 10::bigint, 'no refused COPY has moved on hand');

-- The order of a stock item's events

SELECT is((SELECT count(*) FROM inventory.event v
	JOIN inventory.event w ON w.stock_id = v.stock_id AND w.event_id > v.event_id AND w.recorded_at < v.recorded_at), 0::bigint,
	'a later event of a stock item has a larger number');
SELECT is((SELECT count(*) - count(DISTINCT event_id) FROM inventory.event), 0::bigint, 'every event has a number of its own');

SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
