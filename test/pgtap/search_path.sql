-- No search_path makes the engine use what a user has planted: functions,
-- operators, types and tables of the names that it uses itself; neither when it
-- has everything in memory, nor when it must ask the tables.
--
-- Runs in databases of its own: the second is a copy of the first, and so has no
-- level in memory yet.
\set database inventory_pgtap_hostile
\set copy inventory_pgtap_hostile_copy
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
DROP DATABASE IF EXISTS :copy WITH (FORCE);
DROP ROLE IF EXISTS inventory_pgtap_hostile;
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock(NULL); END $$;
CREATE ROLE inventory_pgtap_hostile;
SELECT inventory.grant_access('inventory_pgtap_hostile', 'manager') IS NULL AS done \gset
INSERT INTO inventory.location (location) VALUES ('L'), ('M');
INSERT INTO inventory.location (location, parent_id) SELECT 'BIN', location_id FROM inventory.location WHERE location = 'L';
INSERT INTO inventory.sku (sku) VALUES ('A'), ('B'), ('COLD'), ('COLDER'), ('COLDEST');
INSERT INTO inventory.sku (sku, tracking) VALUES ('LOT', 'lot');
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'X' FROM inventory.sku WHERE sku = 'LOT';
SELECT inventory.post('receive', ARRAY['A', 'COLD', 'COLDER', 'COLDEST'], ARRAY['L', 'BIN', 'L', 'L'], ARRAY[1000, 30, 40, 50]) AS events \gset
SELECT inventory.receive('LOT', 'L', 60, lot => 'X') AS event \gset
SELECT inventory.reserve('COLD', 'BIN', 5, owner => 'someone', ttl => '1 microsecond') AS due \gset
SELECT stock_id AS coldest FROM inventory.stock_level WHERE sku = 'COLDEST' \gset

-- What is planted
CREATE SCHEMA hostile;
GRANT ALL ON SCHEMA hostile TO inventory_pgtap_hostile;
CREATE TABLE hostile.trap (what text);
GRANT ALL ON hostile.trap TO PUBLIC;
SET SESSION AUTHORIZATION inventory_pgtap_hostile;
DO $$
DECLARE
	f text;
BEGIN
	-- Functions that the engine, its triggers and its views use by name.
	FOREACH f IN ARRAY ARRAY[
		'now() RETURNS timestamptz', 'clock_timestamp() RETURNS timestamptz', 'pg_current_xact_id() RETURNS xid8',
		'to_regclass(text) RETURNS regclass', 'to_char(date, text) RETURNS text', 'to_char(timestamptz, text) RETURNS text',
		'date_trunc(text, timestamp) RETURNS timestamp', 'generate_series(integer, integer) RETURNS SETOF integer',
		'array_position(text[], text) RETURNS integer', 'format(text, text) RETURNS text', 'count() RETURNS bigint',
		'timezone(text, timestamptz) RETURNS timestamp', 'int8pl(bigint, bigint) RETURNS bigint', 'nextval(regclass) RETURNS bigint',
		'transaction_time() RETURNS timestamptz', 'clock_time() RETURNS timestamptz', 'make_partition(date) RETURNS boolean',
		'available_of(bigint, bigint, bigint, bigint, boolean) RETURNS bigint', 'levels() RETURNS SETOF bigint', 'jsonb_array_elements(jsonb) RETURNS SETOF jsonb']
	LOOP
		EXECUTE format($g$CREATE FUNCTION hostile.%s LANGUAGE plpgsql AS $b$ BEGIN INSERT INTO hostile.trap VALUES (%L); %s END $b$ $g$,
			f, f, CASE WHEN f LIKE '%SETOF%' THEN 'RETURN;' ELSE 'RETURN NULL;' END);
	END LOOP;
	-- Operators, with functions that spring the trap.
	EXECUTE $f$CREATE FUNCTION hostile.sprung(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS $b$ BEGIN INSERT INTO hostile.trap VALUES ('operator'); RETURN true; END $b$ $f$;
	EXECUTE $f$CREATE FUNCTION hostile.sprung(text, text) RETURNS boolean LANGUAGE plpgsql AS $b$ BEGIN INSERT INTO hostile.trap VALUES ('operator'); RETURN true; END $b$ $f$;
	EXECUTE $f$CREATE FUNCTION hostile.sprung_sum(bigint, bigint) RETURNS bigint LANGUAGE plpgsql AS $b$ BEGIN INSERT INTO hostile.trap VALUES ('operator'); RETURN 0; END $b$ $f$;
	FOREACH f IN ARRAY ARRAY['=', '<>', '<', '<=', '>', '>='] LOOP
		EXECUTE format('CREATE OPERATOR hostile.%s (FUNCTION = hostile.sprung, LEFTARG = bigint, RIGHTARG = bigint)', f);
		EXECUTE format('CREATE OPERATOR hostile.%s (FUNCTION = hostile.sprung, LEFTARG = text, RIGHTARG = text)', f);
	END LOOP;
	FOREACH f IN ARRAY ARRAY['+', '-', '*'] LOOP
		EXECUTE format('CREATE OPERATOR hostile.%s (FUNCTION = hostile.sprung_sum, LEFTARG = bigint, RIGHTARG = bigint)', f);
	END LOOP;
	-- Tables and types of the engine's and the catalog's names.
	FOREACH f IN ARRAY ARRAY['event', 'stock', 'sku', 'location', 'lot', 'reservation', 'request', 'stock_level', 'pg_class', 'pg_inherits', 'pg_proc'] LOOP
		EXECUTE format('CREATE TABLE hostile.%I (LIKE hostile.trap)', f);
	END LOOP;
	FOREACH f IN ARRAY ARRAY['text', 'bigint', 'jsonb', 'timestamptz', 'interval', 'event_type', 'reservation_state'] LOOP
		EXECUTE format('CREATE DOMAIN hostile.%I AS integer CHECK (false)', f);
	END LOOP;
END
$$;
\c :home
CREATE DATABASE :copy TEMPLATE :database;
\c :copy
SET client_min_messages = warning;
SELECT no_plan();
SELECT is((SELECT count(*) FROM inventory.levels()), 0::bigint, 'a copied database begins with no level in memory');
GRANT INSERT ON inventory.event TO inventory_pgtap_hostile;
GRANT USAGE ON SEQUENCE inventory.event_event_id_seq TO inventory_pgtap_hostile;
SET SESSION AUTHORIZATION inventory_pgtap_hostile;
CREATE TEMP TABLE event (what text);
CREATE TEMP TABLE stock (what text);
CREATE TEMP TABLE reservation (what text);
CREATE TEMP TABLE sku (what text);
SET search_path = hostile, pg_temp, pg_catalog, inventory;
SELECT inventory.available('COLD') AS cold, inventory.available('COLD', 'L') AS cold_inside, inventory.on_hand('COLDER', 'L') AS colder, inventory.available('LOT', 'L', 'X') AS lot \gset
INSERT INTO inventory.event (stock_id, type, on_hand_delta) VALUES (:coldest, 'issue', -1);
SELECT inventory.on_hand('COLDEST') AS coldest_left \gset
SELECT inventory.receive('A', 'L', 100) AS receipt \gset
SELECT inventory.issue('A', 'L', 10) AS issued \gset
SELECT inventory.adjust('A', 'L', -1, 'x') AS adjusted \gset
SELECT inventory.transfer('A', 'L', 'M', 5) AS sent \gset
SELECT inventory.reverse(:sent, 'x') AS reversed \gset
SELECT inventory.post('[{"type": "receive", "sku": "B", "location": "L", "quantity": 20}]') AS posted \gset
SELECT inventory.set_on_hand('B', 'L', 19, 20) AS counted \gset
SELECT inventory.reserve('B', 'L', 4, owner => 'h') AS first \gset
SELECT inventory.reserve('B', 'L', 6, owner => 'h', request_id => 'hostile') AS held \gset
SELECT inventory.extend(:held, '1 hour'::pg_catalog.interval) AS deadline \gset
SELECT inventory.confirm(:held) AS lines \gset
SELECT inventory.ship(:held, '[{"sku": "B", "quantity": 2}]') AS shipped \gset
SELECT inventory.release(:held) AS released \gset
SELECT inventory.release_owner('h') AS released \gset
SELECT inventory.expire_due() AS expired \gset
SELECT inventory.available('B') AS available, inventory.on_hand('B') AS on_hand \gset
SELECT pg_catalog.count(*) AS found FROM inventory.verify() \gset
SELECT pg_catalog.count(*) AS events FROM inventory.history('B', 'L') \gset
SELECT v.on_hand AS seen FROM inventory.stock_level v WHERE v.sku OPERATOR(pg_catalog.=) 'B' \gset
SELECT inventory.make_partitions('2090-01-01', 1) AS made \gset
RESET search_path;
RESET SESSION AUTHORIZATION;
SELECT is_empty('SELECT * FROM hostile.trap', 'under a hostile search_path nothing of what was planted is used');
SELECT is(ARRAY[:cold, :cold_inside, :colder, :lot, :coldest_left]::bigint[], ARRAY[30, 30, 40, 60, 49]::bigint[], 'levels that had to be read from the tables are right');
SELECT is(ARRAY[:available, :on_hand, :seen, :events, :found, :made]::bigint[], ARRAY[17, 17, 17, 8, 0, 2]::bigint[], 'and every result is right');
SELECT is_empty('SELECT * FROM pg_temp.event UNION ALL SELECT * FROM pg_temp.stock UNION ALL SELECT * FROM pg_temp.reservation UNION ALL SELECT * FROM pg_temp.sku', 'and nothing was written into temporary tables of the same names');
SELECT ok(has_schema_privilege('inventory_pgtap_hostile', 'hostile', 'USAGE') AND EXISTS (SELECT FROM pg_operator WHERE oprnamespace = 'hostile'::regnamespace),
	'what was planted was there to be used');
SET search_path = hostile, pg_catalog, public;
SELECT 1::bigint = 2::bigint AS trapped \gset
RESET search_path;
SELECT results_eq('SELECT * FROM hostile.trap', $$VALUES ('operator')$$, 'and springs when somebody uses it');
SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
DROP DATABASE :copy;
DROP ROLE inventory_pgtap_hostile;
