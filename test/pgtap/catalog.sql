-- Master data are ordinary tables with ordinary DML: their constraints hold,
-- the locations stay a tree, stock items come from movements alone, and what is
-- changed here reaches the functions at commit, and only then.
--
-- Runs in a database of its own, because much of it must commit.
\set database inventory_pgtap_catalog
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

-- SKUs

SELECT lives_ok($$INSERT INTO inventory.sku (sku) VALUES ('A')$$, 'a SKU needs no more than a code');
SELECT results_eq(
	$$SELECT unit, decimals::integer, tracking COLLATE "default", safety_stock, backorder_limit, active FROM inventory.sku WHERE sku = 'A'$$,
	$$VALUES ('piece', 0, 'none', 0::bigint, 0::bigint, true)$$,
	'a new SKU counts pieces, is not tracked, keeps no safety stock, takes no backorders and is active');
SELECT throws_ok($$INSERT INTO inventory.sku (sku) VALUES ('A')$$, '23505', NULL, 'a SKU code is unique');
SELECT throws_ok($$INSERT INTO inventory.sku (sku) VALUES (NULL)$$, '23502', NULL, 'a SKU has a code');
SELECT throws_ok($$INSERT INTO inventory.sku (sku) VALUES ('')$$, '23514', NULL, 'a SKU code is not empty');
SELECT throws_ok($$INSERT INTO inventory.sku (sku, decimals) VALUES ('X', -1)$$, '23514', NULL, 'decimals are not negative');
SELECT throws_ok($$INSERT INTO inventory.sku (sku, decimals) VALUES ('X', 19)$$, '23514', NULL, 'decimals are not more than 18');
SELECT throws_ok($$INSERT INTO inventory.sku (sku, tracking) VALUES ('X', 'pallet')$$, '23514', NULL, 'tracking is none, lot or serial');
SELECT throws_ok($$INSERT INTO inventory.sku (sku, safety_stock) VALUES ('X', -1)$$, '23514', NULL, 'safety stock is not negative');
SELECT throws_ok($$INSERT INTO inventory.sku (sku, backorder_limit) VALUES ('X', -1)$$, '23514', NULL, 'the backorder limit is not negative');
SELECT lives_ok($$INSERT INTO inventory.sku (sku, backorder_limit) VALUES ('UNLIMITED', NULL)$$, 'a backorder limit of NULL is allowed');
SELECT lives_ok($$INSERT INTO inventory.sku (sku) VALUES ('a')$$, 'codes that differ in case are different SKUs');

-- Locations

SELECT lives_ok($$INSERT INTO inventory.location (location) VALUES ('SITE')$$, 'a location needs no more than a code');
SELECT throws_ok($$INSERT INTO inventory.location (location) VALUES ('SITE')$$, '23505', NULL, 'a location code is unique');
SELECT throws_ok($$INSERT INTO inventory.location (location) VALUES ('')$$, '23514', NULL, 'a location code is not empty');
SELECT throws_ok($$INSERT INTO inventory.location (location, kind) VALUES ('X', 'moon')$$, '23514', NULL, 'a location is storage or transit');
SELECT throws_ok($$INSERT INTO inventory.location (location, parent_id) VALUES ('X', -1)$$, '23503', NULL, 'the parent of a location exists');
INSERT INTO inventory.location (location, parent_id)
	SELECT 'ZONE', location_id FROM inventory.location WHERE location = 'SITE';
INSERT INTO inventory.location (location, parent_id)
	SELECT 'BIN', location_id FROM inventory.location WHERE location = 'ZONE';
SELECT throws_ok($$UPDATE inventory.location SET parent_id = location_id WHERE location = 'SITE'$$,
	'23514', 'location "SITE" would lie inside itself', 'a location does not lie in itself');
SELECT throws_ok($$UPDATE inventory.location SET parent_id = (SELECT location_id FROM inventory.location WHERE location = 'ZONE') WHERE location = 'SITE'$$,
	'23514', 'location "SITE" would lie inside itself', 'a location does not lie in its child');
SELECT throws_ok($$UPDATE inventory.location SET parent_id = (SELECT location_id FROM inventory.location WHERE location = 'BIN') WHERE location = 'SITE'$$,
	'23514', 'location "SITE" would lie inside itself', 'a location does not lie in its grandchild');
SELECT throws_ok($$INSERT INTO inventory.location (location_id, location, parent_id) VALUES (900, 'SELF', 900)$$,
	'23514', 'location "SELF" would lie inside itself', 'a location is not created inside itself');
SELECT lives_ok($$UPDATE inventory.location SET parent_id = (SELECT location_id FROM inventory.location WHERE location = 'SITE') WHERE location = 'BIN'$$,
	'a location can move within the tree');
SELECT throws_ok($$DELETE FROM inventory.location WHERE location = 'SITE'$$, '23503', NULL, 'a location with others in it is not deleted');

-- Lots

INSERT INTO inventory.sku (sku, tracking) VALUES ('LOTTED', 'lot'), ('LOTTED-2', 'lot'), ('SERIAL', 'serial');
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'L1' FROM inventory.sku WHERE sku = 'LOTTED';
SELECT throws_ok($$INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'L1' FROM inventory.sku WHERE sku = 'LOTTED'$$,
	'23505', NULL, 'a lot code is unique within its SKU');
SELECT lives_ok($$INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'L1' FROM inventory.sku WHERE sku = 'LOTTED-2'$$,
	'two SKUs may have lots of the same code');
SELECT throws_ok($$INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, '' FROM inventory.sku WHERE sku = 'LOTTED'$$,
	'23514', NULL, 'a lot code is not empty');
SELECT throws_ok($$INSERT INTO inventory.lot (sku_id, lot, status) SELECT sku_id, 'L2', 'lost' FROM inventory.sku WHERE sku = 'LOTTED'$$,
	'23514', NULL, 'a lot is active or blocked');
SELECT throws_ok($$INSERT INTO inventory.lot (sku_id, lot) VALUES (-1, 'L2')$$, '23503', NULL, 'the SKU of a lot exists');

-- Stock items

SELECT is((SELECT count(*) FROM inventory.stock), 0::bigint, 'there is no stock item before the first movement');
SELECT lives_ok($$SELECT inventory.receive('A', 'SITE', 5)$$, 'the first movement of a SKU at a location works');
SELECT is((SELECT count(*) FROM inventory.stock), 1::bigint, 'the first movement creates the stock item');
SELECT lives_ok($$SELECT inventory.receive('A', 'SITE', 5)$$, 'the second movement works');
SELECT is((SELECT count(*) FROM inventory.stock), 1::bigint, 'the second movement uses the stock item of the first');
SELECT inventory.receive('A', 'ZONE', 1) IS NOT NULL AS done \gset
SELECT inventory.receive('A', 'SITE', 1, condition => 'damaged') IS NOT NULL AS done \gset
SELECT inventory.receive('LOTTED', 'SITE', 1, lot => 'L1') IS NOT NULL AS done \gset
SELECT is((SELECT count(*) FROM inventory.stock), 4::bigint, 'another location, condition or lot is another stock item');
SELECT throws_ok($$INSERT INTO inventory.stock (sku_id, location_id) SELECT sku_id, location_id FROM inventory.sku, inventory.location WHERE sku = 'a' AND location = 'SITE'$$,
	'IV016', NULL, 'nobody inserts a stock item, the owner included');
SELECT throws_ok($$UPDATE inventory.stock SET on_hand = 1000$$, 'IV016', NULL, 'nobody updates a stock item');
SELECT throws_ok($$DELETE FROM inventory.stock$$, 'IV016', NULL, 'nobody deletes a stock item');
SELECT throws_ok($$TRUNCATE inventory.stock$$, 'IV016', NULL, 'nobody truncates the stock items');
SELECT is(inventory.on_hand('A'), 12::bigint, 'what was refused has changed nothing');
SELECT throws_ok($$DELETE FROM inventory.sku WHERE sku = 'A'$$, '23503', NULL, 'a SKU with stock items is not deleted');
SELECT throws_ok($$DELETE FROM inventory.lot WHERE lot = 'L1'$$, '23503', NULL, 'a lot with stock items is not deleted');
SELECT lives_ok($$DELETE FROM inventory.sku WHERE sku = 'a'$$, 'a SKU without stock items can be deleted');

-- Tracking

SELECT throws_ok($$UPDATE inventory.sku SET tracking = 'lot' WHERE sku = 'A'$$, '23514',
	'tracking of SKU "A" cannot change from none to lot while it has stock items',
	'an untracked SKU with stock items does not become tracked');
SELECT throws_ok($$UPDATE inventory.sku SET tracking = 'none' WHERE sku = 'LOTTED'$$, '23514',
	'tracking of SKU "LOTTED" cannot change from lot to none while it has stock items',
	'a tracked SKU with stock items does not become untracked');
SELECT lives_ok($$UPDATE inventory.sku SET tracking = 'none' WHERE sku = 'LOTTED-2'$$, 'tracking can change while there is no stock item');
SELECT lives_ok($$SELECT inventory.receive('LOTTED-2', 'SITE', 3)$$, 'and the functions follow at once');

-- Codes are found as they stand now

SELECT throws_ok($$SELECT inventory.receive('LATE', 'SITE', 1)$$, 'IV002', NULL, 'a SKU that does not exist is unknown');
INSERT INTO inventory.sku (sku) VALUES ('LATE');
SELECT lives_ok($$SELECT inventory.receive('LATE', 'SITE', 1)$$, 'a SKU that was unknown is found once it exists');
SELECT throws_ok($$SELECT inventory.receive('LATE', 'DOCK', 1)$$, 'IV002', NULL, 'a location that does not exist is unknown');
INSERT INTO inventory.location (location) VALUES ('DOCK');
SELECT lives_ok($$SELECT inventory.receive('LATE', 'DOCK', 1)$$, 'a location that was unknown is found once it exists');
SELECT throws_ok($$SELECT inventory.receive('LOTTED', 'SITE', 1, lot => 'NEW')$$, 'IV002', NULL, 'a lot that does not exist is unknown');
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'NEW' FROM inventory.sku WHERE sku = 'LOTTED';
SELECT lives_ok($$SELECT inventory.receive('LOTTED', 'SITE', 1, lot => 'NEW')$$, 'a lot that was unknown is found once it exists');
UPDATE inventory.sku SET sku = 'RENAMED' WHERE sku = 'LATE';
SELECT throws_ok($$SELECT inventory.receive('LATE', 'SITE', 1)$$, 'IV002', NULL, 'the old code of a renamed SKU is unknown');
SELECT is(inventory.on_hand('RENAMED'), 2::bigint, 'the new code of a renamed SKU has its goods');

BEGIN;
INSERT INTO inventory.sku (sku) VALUES ('UNDONE');
SELECT lives_ok($$SELECT inventory.receive('UNDONE', 'SITE', 7)$$, 'a SKU can be used in the transaction that creates it');
SELECT is(inventory.on_hand('UNDONE'), 7::bigint, 'and its goods are seen there');
ROLLBACK;
SELECT throws_ok($$SELECT inventory.receive('UNDONE', 'SITE', 1)$$, 'IV002', NULL, 'a SKU whose creation was rolled back is unknown');
INSERT INTO inventory.sku (sku) VALUES ('UNDONE');
SELECT is(inventory.on_hand('UNDONE'), 0::bigint, 'the same code, created again, begins with nothing');
SELECT lives_ok($$SELECT inventory.receive('UNDONE', 'SITE', 2)$$, 'and can be received');
SELECT is(inventory.on_hand('UNDONE'), 2::bigint, 'and has only what was received since');

-- A change reaches the engine at its commit

INSERT INTO inventory.sku (sku) VALUES ('FLOOR');
SELECT inventory.receive('FLOOR', 'SITE', 10) IS NOT NULL AS done \gset
SELECT lives_ok($$SELECT inventory.reserve('FLOOR', 'SITE', 1)$$, 'before the change the goods can be promised');
BEGIN;
UPDATE inventory.sku SET safety_stock = 9 WHERE sku = 'FLOOR';
ROLLBACK;
SELECT lives_ok($$SELECT inventory.reserve('FLOOR', 'SITE', 1)$$, 'a safety stock that was rolled back is not kept');
UPDATE inventory.sku SET safety_stock = 6 WHERE sku = 'FLOOR';
SELECT throws_ok($$SELECT inventory.reserve('FLOOR', 'SITE', 3)$$, 'IV001', NULL, 'a committed safety stock is kept');
SELECT is(inventory.available('FLOOR'), 2::bigint, 'available is what the safety stock leaves');
SELECT lives_ok($$SELECT inventory.reserve('FLOOR', 'SITE', 2)$$, 'what the safety stock leaves can be promised');
SELECT is(inventory.available('FLOOR'), 0::bigint, 'then nothing is available');
UPDATE inventory.sku SET backorder_limit = 4 WHERE sku = 'FLOOR';
SELECT throws_ok($$SELECT inventory.reserve('FLOOR', 'SITE', 5)$$, 'IV001', NULL, 'a committed backorder limit bounds what is promised');
SELECT lives_ok($$SELECT inventory.reserve('FLOOR', 'SITE', 4)$$, 'the backorder limit can be promised to the last unit');
SELECT throws_ok($$SELECT inventory.reserve('FLOOR', 'SITE', 1)$$, 'IV001', NULL, 'and not one more');
UPDATE inventory.sku SET backorder_limit = NULL WHERE sku = 'FLOOR';
SELECT lives_ok($$SELECT inventory.reserve('FLOOR', 'SITE', 1000000)$$, 'without a limit anything can be promised');
UPDATE inventory.sku SET backorder_limit = 0 WHERE sku = 'FLOOR';
SELECT throws_ok($$SELECT inventory.reserve('FLOOR', 'SITE', 1)$$, 'IV001', NULL, 'a lowered limit stops new promises');
UPDATE inventory.sku SET active = false WHERE sku = 'RENAMED';
SELECT throws_ok($$SELECT inventory.receive('RENAMED', 'SITE', 1)$$, 'IV003', NULL, 'a SKU that was made inactive is refused');
UPDATE inventory.sku SET active = true WHERE sku = 'RENAMED';
SELECT lives_ok($$SELECT inventory.receive('RENAMED', 'SITE', 1)$$, 'a SKU that was made active again is accepted');
UPDATE inventory.location SET active = false WHERE location = 'DOCK';
SELECT throws_ok($$SELECT inventory.receive('RENAMED', 'DOCK', 1)$$, 'IV003', NULL, 'a location that was made inactive is refused');

SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
