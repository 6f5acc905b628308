-- The events cannot be dropped by mistake: not with the extension, its schema,
-- its owner or their partition; but what is empty, detached or allowed can.
--
-- Runs in a database of its own.
\set database inventory_pgtap_drop
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
DROP ROLE IF EXISTS inventory_pgtap_owner;
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
CREATE EXTENSION pgtap;
CREATE ROLE inventory_pgtap_owner SUPERUSER;
SET ROLE inventory_pgtap_owner;
SET inventory.allow_drop = off;
SELECT no_plan();

-- Without events

CREATE EXTENSION inventory;
INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) VALUES ('A');
SELECT lives_ok('DROP EXTENSION inventory CASCADE', 'an extension without events is dropped');
SELECT lives_ok('DROP SCHEMA inventory', 'and its schema');

-- With events

CREATE EXTENSION inventory;
INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) VALUES ('A');
SELECT inventory.set_test_clock('2031-05-10 12:00Z') IS NULL AS done \gset
SELECT inventory.receive('A', 'L', 10) > 0 AS done \gset
SELECT throws_ok(statement, 'IV021', 'cannot drop table "event_2031_05" because it has events', statement || ' is refused')
FROM unnest(ARRAY['DROP EXTENSION inventory', 'DROP EXTENSION inventory CASCADE', 'DROP SCHEMA inventory CASCADE',
	'DROP OWNED BY inventory_pgtap_owner CASCADE', 'DROP TABLE inventory.event_2031_05']) statement;
SELECT throws_ok('SET inventory.restoring = on; DROP EXTENSION inventory CASCADE', 'IV021', NULL, 'also while a dump is being loaded');
RESET inventory.restoring;
SELECT lives_ok('DROP TABLE inventory.event_2031_08', 'a partition without events is dropped');
SELECT is(inventory.on_hand('A'), 10::bigint, 'nothing is lost');

-- A table of the same name elsewhere

CREATE SCHEMA other;
CREATE TABLE other.event (LIKE inventory.event) PARTITION BY RANGE (recorded_at);
CREATE TABLE other.event_2031_05 PARTITION OF other.event DEFAULT;
INSERT INTO other.event SELECT * FROM inventory.event;
SELECT lives_ok('DROP TABLE other.event', 'other tables are dropped as ever');

-- Archived events are in the baseline

SELECT inventory.set_test_clock('2031-06-10 12:00Z') IS NULL AS done \gset
SELECT inventory.project() >= 0 AS done \gset
CALL inventory.archive('2031-06-01', false);
SELECT is_empty('SELECT FROM inventory.event', 'all events are archived');
SELECT throws_ok('DROP EXTENSION inventory CASCADE', 'IV021', NULL, 'what the events came to is not dropped either');

-- Detached, or allowed

SELECT inventory.receive('A', 'L', 1) > 0 AS done \gset
SELECT lives_ok('ALTER TABLE inventory.event DETACH PARTITION inventory.event_2031_06; DROP TABLE inventory.event_2031_06', 'who detaches a partition may drop it');
SET inventory.allow_drop = on;
SELECT lives_ok('DROP EXTENSION inventory CASCADE', 'with inventory.allow_drop everything is dropped');
SELECT is_empty($$SELECT FROM pg_class WHERE relnamespace = 'inventory'::regnamespace$$, 'and nothing is left');

RESET ROLE;
SELECT throws_ok('SET SESSION AUTHORIZATION pg_read_all_stats; SET inventory.allow_drop = on', '42501', NULL, 'only a superuser allows it');
RESET SESSION AUTHORIZATION;

-- DROP DATABASE is not affected

CREATE EXTENSION inventory;
INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) VALUES ('A');
SELECT inventory.receive('A', 'L', 10) > 0 AS done \gset
SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
DROP ROLE inventory_pgtap_owner;
