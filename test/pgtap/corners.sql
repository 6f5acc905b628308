-- Corners where several rules meet.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS inventory;
BEGIN;
SELECT no_plan();
INSERT INTO inventory.location (location) VALUES ('co-L');
INSERT INTO inventory.sku (sku) VALUES ('co-A'), ('co-P'), ('co-Q');
INSERT INTO inventory.sku (sku, backorder_limit) VALUES ('co-B', 5);
INSERT INTO inventory.sku (sku, tracking) VALUES ('co-S', 'serial');
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 's1' FROM inventory.sku WHERE sku = 'co-S';

SAVEPOINT undone;
SELECT inventory.receive('co-A', 'co-L', 1) AS first, inventory.receive('co-A', 'co-L', 1) AS second \gset
ROLLBACK TO undone;
SELECT lives_ok($$SELECT inventory.receive('co-A', 'co-L', 5)$$, 'a stock item whose making was undone is made again');
SELECT is((SELECT on_hand FROM inventory.stock_level WHERE sku = 'co-A'), 5::bigint, 'and its events belong to it');

SELECT inventory.receive('co-S', 'co-L', 1, lot => 's1') AS receipt \gset
SELECT inventory.issue('co-S', 'co-L', 1, lot => 's1') AS issue \gset
SELECT inventory.receive('co-S', 'co-L', 1, lot => 's1') AS receipt \gset
SELECT throws_ok(format('SELECT inventory.reverse(%s, %L)', :issue, 'mistake'), 'IV004', NULL, 'a reversal does not bring a serial number twice');

SELECT inventory.receive('co-P', 'co-L', 4) AS receipt \gset
SELECT inventory.reserve('co-P', 'co-L', 4, owner => 'co-cart') AS hold \gset
SELECT inventory.adjust('co-P', 'co-L', -1, 'broken') AS loss \gset
SELECT isnt(inventory.try_reserve('[{"sku": "co-P", "location": "co-L", "quantity": 5}]', owner => 'co-cart', mode => 'partial'), NULL, 'in a shortage an owner gets in part what is left of the own hold');
SELECT is((SELECT quantity FROM inventory.open_reservation WHERE sku = 'co-P'), 3::bigint, 'and no more than that');

SELECT isnt(inventory.try_reserve('[{"sku": "co-B", "location": "co-L", "quantity": 10}]', mode => 'partial'), NULL, 'what was never received can be promised in part by backorder');
SELECT is((SELECT quantity FROM inventory.open_reservation WHERE sku = 'co-B'), 5::bigint, 'up to the limit');

SELECT inventory.receive('co-Q', 'co-L', 1) AS receipt \gset
INSERT INTO inventory.event (event_id, stock_id, type, on_hand_delta)
SELECT 9000000000000000, stock_id, 'receive', 1 FROM inventory.stock_level, generate_series(1, 30) WHERE sku = 'co-Q';
SELECT throws_ok($$SELECT inventory.reverse(9000000000000000, 'mistake')$$, 'IV014', NULL, 'an event number that stands many times is not reversed');

INSERT INTO inventory.sku (sku, backorder_limit) VALUES ('co-U', NULL);
SELECT inventory.receive('co-U', 'co-L', 4611686018427387903) AS receipt \gset
SELECT throws_ok($$SELECT inventory.receive('co-U', 'co-L', 1)$$, '22003', NULL, 'there is a largest quantity on hand');
SELECT inventory.reserve('co-U', 'co-L', 9223372036854775807, ttl => NULL) AS hold \gset
SELECT throws_ok($$SELECT inventory.reserve('co-U', 'co-L', 1)$$, 'IV001', NULL, 'and with an unlimited backorder a largest promise');
SELECT is((SELECT reserved FROM inventory.stock_level WHERE sku = 'co-U'), 9223372036854775807, 'which can be summed up');

SELECT is((SELECT proparallel FROM pg_proc WHERE oid = 'inventory.available(text, text, text)'::regprocedure), 'u', 'available() keeps a query out of parallel workers');
SELECT * FROM finish();
ROLLBACK;
