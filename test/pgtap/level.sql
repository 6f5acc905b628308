-- Levels: what a transaction takes is gone for everybody at once and comes back
-- when it, its savepoint or its exception block fails; what it gives is its own
-- until it commits.
--
-- Runs in a database of its own, because much of it must commit.
\set database inventory_pgtap_level
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

-- The shared level of a SKU: on hand / available before safety stock / pins.
CREATE FUNCTION pg_temp.shared(sku text) RETURNS text
	LANGUAGE sql AS $$
	SELECT format('%s/%s/%s', v.on_hand, v.available, v.pins)
	FROM inventory.levels() v
	JOIN inventory.stock k ON k.stock_id = v.stock_id
	JOIN inventory.sku s ON s.sku_id = k.sku_id
	WHERE s.sku = shared.sku
$$;

INSERT INTO inventory.location (location) VALUES ('L'), ('M');
INSERT INTO inventory.sku (sku) VALUES ('A'), ('B'), ('C'), ('D'), ('E');
SELECT inventory.post('receive', ARRAY['A', 'B'], ARRAY['L', 'L'], ARRAY[10, 10]) AS events \gset

-- Take and give

SELECT is(pg_temp.shared('A'), '10/10/0', 'a committed receipt is in the shared level, and nobody has it pinned');
BEGIN;
SELECT lives_ok($$SELECT inventory.issue('A', 'L', 4)$$, 'an issue is possible');
SELECT is(pg_temp.shared('A'), '6/6/1', 'what is taken is gone from the shared level at once, and the level is pinned');
COMMIT;
SELECT is(pg_temp.shared('A'), '6/6/0', 'commit leaves it gone and unpins');
BEGIN;
SELECT lives_ok($$SELECT inventory.issue('A', 'L', 6)$$, 'the rest can be issued');
SELECT is(pg_temp.shared('A'), '0/0/1', 'nothing is left');
SELECT throws_ok($$SELECT inventory.issue('A', 'L', 1)$$, 'IV001', NULL, 'one more is refused');
ROLLBACK;
SELECT is(pg_temp.shared('A'), '6/6/0', 'rollback brings everything back and unpins');
BEGIN;
SELECT lives_ok($$SELECT inventory.receive('A', 'L', 4)$$, 'a receipt is possible');
SELECT is(pg_temp.shared('A'), '6/6/1', 'what is given is not in the shared level before commit');
SELECT is(inventory.available('A'), 10::bigint, 'but the transaction itself sees it');
SELECT is(inventory.on_hand('A'), 10::bigint, 'on hand too');
COMMIT;
SELECT is(pg_temp.shared('A'), '10/10/0', 'commit gives it to everybody');
BEGIN;
SELECT lives_ok($$SELECT inventory.receive('A', 'L', 4)$$, 'a receipt is possible');
ROLLBACK;
SELECT is(pg_temp.shared('A'), '10/10/0', 'rollback of a receipt gives nobody anything');

-- Which counter a call moves

BEGIN;
SELECT inventory.reserve('A', 'L', 3) AS hold \gset
SELECT is(pg_temp.shared('A'), '10/7/1', 'reserve moves available');
SELECT lives_ok(format('SELECT inventory.confirm(%s)', :hold), 'the hold can be confirmed');
SELECT is(pg_temp.shared('A'), '10/7/1', 'confirm moves neither');
SELECT lives_ok(format($$SELECT inventory.ship(%s, '[{"line_no": 1, "quantity": 1}]')$$, :hold), 'a unit can be shipped');
SELECT is(pg_temp.shared('A'), '9/7/1', 'ship moves on hand');
SELECT lives_ok(format('SELECT inventory.release(%s)', :hold), 'the rest can be released');
COMMIT;
SELECT is(pg_temp.shared('A'), '9/9/0', 'release moves available, at commit');

-- A debit uses the transaction's own credit first

BEGIN;
SELECT inventory.receive('A', 'L', 5) IS NOT NULL AS done \gset
SELECT lives_ok($$SELECT inventory.issue('A', 'L', 5)$$, 'what the transaction received it can issue');
SELECT is(pg_temp.shared('A'), '9/9/1', 'without touching what is shared');
SELECT lives_ok($$SELECT inventory.issue('A', 'L', 2)$$, 'more comes from what is shared');
SELECT is(pg_temp.shared('A'), '7/7/1', 'and only that');
COMMIT;
SELECT is(pg_temp.shared('A'), '7/7/0', 'the sum is right after commit');
BEGIN;
SELECT inventory.receive('A', 'L', 2) IS NOT NULL AS done \gset
SELECT lives_ok($$SELECT inventory.issue('A', 'L', 9)$$, 'own credit and shared stock together cover an issue');
SELECT throws_ok($$SELECT inventory.issue('A', 'L', 1)$$, 'IV001', NULL, 'to the last unit');
ROLLBACK;
SELECT is(pg_temp.shared('A'), '7/7/0', 'rollback gives back what was shared, not what was own');
BEGIN;
SELECT inventory.receive('C', 'L', 3) IS NOT NULL AS done \gset
SELECT lives_ok($$SELECT inventory.transfer('C', 'L', 'M', 2)$$, 'what was received can be transferred in the same transaction');
SELECT lives_ok($$SELECT inventory.reserve('C', 'M', 2)$$, 'and what was transferred can be reserved');
SELECT throws_ok($$SELECT inventory.reserve('C', 'M', 1)$$, 'IV001', NULL, 'to the last unit');
COMMIT;
SELECT is((SELECT string_agg(format('%s/%s/%s', on_hand, available, pins), ' ' ORDER BY stock_id) FROM inventory.levels()
	WHERE stock_id IN (SELECT stock_id FROM inventory.stock_level WHERE sku = 'C')), '1/1/0 2/0/0', 'and the sums are right after commit');

-- Savepoints

BEGIN;
SAVEPOINT one;
SELECT inventory.issue('A', 'L', 3) IS NOT NULL AS done \gset
SELECT is(pg_temp.shared('A'), '4/4/1', 'a subtransaction takes');
ROLLBACK TO one;
SELECT is(pg_temp.shared('A'), '7/7/0', 'its abort gives back, while the transaction goes on');
SELECT inventory.issue('A', 'L', 1) IS NOT NULL AS done \gset
SAVEPOINT two;
SELECT inventory.issue('A', 'L', 1) IS NOT NULL AS done \gset
SAVEPOINT three;
SELECT inventory.issue('A', 'L', 1) IS NOT NULL AS done \gset
RELEASE three;
SELECT is(pg_temp.shared('A'), '4/4/1', 'three levels have taken');
ROLLBACK TO two;
SELECT is(pg_temp.shared('A'), '6/6/1', 'a rollback takes back a released savepoint inside it, and nothing outside');
COMMIT;
SELECT is(pg_temp.shared('A'), '6/6/0', 'what remains is committed');

BEGIN;
SAVEPOINT one;
SELECT inventory.receive('A', 'L', 4) IS NOT NULL AS done \gset
ROLLBACK TO one;
SELECT throws_ok($$SELECT inventory.issue('A', 'L', 7)$$, 'IV001', NULL, 'a credit that was rolled back cannot be spent');
SAVEPOINT two;
SELECT inventory.receive('A', 'L', 4) IS NOT NULL AS done \gset
RELEASE two;
SELECT lives_ok($$SELECT inventory.issue('A', 'L', 10)$$, 'the credit of a released savepoint can be spent');
ROLLBACK;
SELECT is(pg_temp.shared('A'), '6/6/0', 'after the rollback everything is as before');

BEGIN;
SELECT inventory.receive('A', 'L', 4) IS NOT NULL AS done \gset
SAVEPOINT one;
SELECT inventory.issue('A', 'L', 8) IS NOT NULL AS done \gset
SELECT is(pg_temp.shared('A'), '2/2/1', 'a subtransaction spends the credit of its parent and shared stock');
ROLLBACK TO one;
SELECT is(pg_temp.shared('A'), '6/6/1', 'its abort gives the shared part back to everybody');
SELECT is(inventory.available('A'), 10::bigint, 'and the credit back to the parent');
SELECT lives_ok($$SELECT inventory.issue('A', 'L', 10)$$, 'who can spend it again');
SELECT throws_ok($$SELECT inventory.issue('A', 'L', 1)$$, 'IV001', NULL, 'once');
COMMIT;
SELECT is(pg_temp.shared('A'), '0/0/0', 'and commit leaves the exact rest');

BEGIN;
SAVEPOINT one;
SELECT inventory.receive('D', 'L', 5) IS NOT NULL AS done \gset
ROLLBACK TO one;
SELECT is((SELECT count(*) FROM inventory.stock_level WHERE sku = 'D'), 0::bigint, 'a savepoint that created a stock item takes it back');
SELECT lives_ok($$SELECT inventory.receive('D', 'L', 2)$$, 'the same transaction can create it again');
SELECT lives_ok($$SELECT inventory.issue('D', 'L', 2)$$, 'and take from it');
SELECT throws_ok($$SELECT inventory.issue('D', 'L', 1)$$, 'IV001', NULL, 'no more than is there');
COMMIT;
SELECT is(pg_temp.shared('D'), '0/0/0', 'and it is right after commit');

-- Exception blocks

SELECT inventory.receive('A', 'L', 10) IS NOT NULL AS done \gset
DO $$
BEGIN
	FOR i IN 1 .. 500 LOOP
		BEGIN
			PERFORM inventory.issue('A', 'L', 1 + i % 9);
			IF i % 2 = 0 THEN
				PERFORM inventory.receive('A', 'L', i);
			END IF;
			RAISE EXCEPTION 'undone';
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	END LOOP;
END
$$;
SELECT is(pg_temp.shared('A'), '10/10/0', '500 failed exception blocks in one transaction leave nothing');
DO $$
BEGIN
	FOR i IN 1 .. 500 LOOP
		BEGIN
			PERFORM inventory.receive('A', 'L', 2);
			BEGIN
				PERFORM inventory.issue('A', 'L', 2);
				IF i % 10 <> 0 THEN
					RAISE EXCEPTION 'undone';
				END IF;
			EXCEPTION WHEN raise_exception THEN
				PERFORM inventory.issue('A', 'L', 1);
			END;
		END;
	END LOOP;
END
$$;
SELECT is(pg_temp.shared('A'), '460/460/0', 'nested exception blocks leave exactly what succeeded');
SELECT is(inventory.on_hand('A'), (SELECT sum(on_hand_delta)::bigint FROM inventory.history('A', 'L')), 'which is the sum of the events');
DO $$
BEGIN
	PERFORM inventory.issue('A', 'L', 461);
EXCEPTION WHEN SQLSTATE 'IV001' THEN
	PERFORM inventory.issue('A', 'L', 450);
END
$$;
SELECT is(pg_temp.shared('A'), '10/10/0', 'a refusal can be caught by its SQLSTATE, and another try made');

-- A call that fails halfway

SELECT throws_ok($$SELECT inventory.reserve('[{"sku": "A", "location": "L", "quantity": 5}, {"sku": "B", "location": "L", "quantity": 11}]')$$,
	'IV001', NULL, 'an order with one line too much is refused');
SELECT is(pg_temp.shared('A'), '10/10/0', 'and its other line is free');
SELECT throws_ok($$SELECT inventory.post('issue', ARRAY['A', 'B', 'A'], ARRAY['L', 'L', 'L'], ARRAY[6, 1, 5])$$,
	'IV001', NULL, 'the same stock item twice in one call is added up first');
SELECT is(pg_temp.shared('A'), '10/10/0', 'and the refusal has taken nothing');
BEGIN;
SELECT inventory.issue('A', 'L', 3) IS NOT NULL AS done \gset
\set ON_ERROR_STOP off
\set ON_ERROR_ROLLBACK off
SELECT 1 / 0 FROM (SELECT inventory.issue('A', 'L', 3)) x WHERE current_setting('is_superuser') = 'on' \g /dev/null
COMMIT;
\set ON_ERROR_STOP on
\set ON_ERROR_ROLLBACK on
SELECT is(pg_temp.shared('A'), '10/10/0', 'a transaction that failed gives everything back, though it ends in COMMIT');

-- Transactions inside a procedure

CREATE PROCEDURE pg_temp.commits_and_rolls_back() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 6 LOOP
		PERFORM inventory.issue('A', 'L', 1);
		IF i % 2 = 0 THEN
			COMMIT;
		ELSE
			ROLLBACK;
		END IF;
	END LOOP;
END
$$;
CALL pg_temp.commits_and_rolls_back();
SELECT is(pg_temp.shared('A'), '7/7/0', 'a procedure that commits and rolls back keeps what it committed');
BEGIN;
SELECT inventory.issue('A', 'L', 1) IS NOT NULL AS done \gset
COMMIT AND CHAIN;
SELECT inventory.issue('A', 'L', 1) IS NOT NULL AS done \gset
ROLLBACK AND CHAIN;
SELECT inventory.issue('A', 'L', 1) IS NOT NULL AS done \gset
COMMIT;
SELECT is(pg_temp.shared('A'), '5/5/0', 'chained transactions keep what they committed');

-- Isolation levels

BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT inventory.issue('A', 'L', 2) IS NOT NULL AS done \gset
SELECT throws_ok($$SELECT inventory.issue('A', 'L', 4)$$, 'IV001', NULL, 'SERIALIZABLE refuses as READ COMMITTED does');
SAVEPOINT one;
SELECT inventory.issue('A', 'L', 3) IS NOT NULL AS done \gset
ROLLBACK TO one;
COMMIT;
SELECT is(pg_temp.shared('A'), '3/3/0', 'and counts as READ COMMITTED does');

-- Many stock items in one transaction

INSERT INTO inventory.sku (sku) SELECT 'MANY-' || n FROM generate_series(1, 3000) n;
BEGIN;
SELECT is(inventory.post('receive', array_agg('MANY-' || n), array_agg('L'::text), array_agg(n::bigint)), 3000::bigint, 'a transaction moves 3,000 stock items')
FROM generate_series(1, 3000) n;
SELECT cmp_ok((SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype NOT IN ('relation', 'virtualxid', 'transactionid')), '<=', 1024::bigint,
	'and holds no more than 1,024 locks for them');
COMMIT;
SELECT is((SELECT sum(on_hand) FROM inventory.levels() v JOIN inventory.stock_level k USING (stock_id, on_hand) WHERE k.sku LIKE 'MANY-%'), 4501500::numeric, 'and all of them are right');
SELECT is((SELECT sum(pins) FROM inventory.levels()), 0::bigint, 'nothing is pinned at the end');

SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
