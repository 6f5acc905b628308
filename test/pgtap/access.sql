-- Trust: nothing is granted to PUBLIC; each level of access may do what it
-- should and no more; and the caller is recorded as actor.
--
-- Runs in a database of its own: levels move at commit.
\set database inventory_pgtap_access
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
DROP ROLE IF EXISTS inventory_pgtap_none, inventory_pgtap_reader, inventory_pgtap_operator, inventory_pgtap_manager;
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock(NULL); END $$;
SELECT no_plan();

CREATE TEMP VIEW member AS
SELECT d.classid::regclass::text AS catalog, d.objid, pg_describe_object(d.classid, d.objid, 0) AS name
FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE e.extname = 'inventory' AND d.deptype = 'e';

-- Nothing for PUBLIC

SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'inventory'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE')$$,
	'PUBLIC executes no function');
SELECT is_empty($$SELECT c.oid::regclass, a.privilege_type FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a WHERE c.relnamespace = 'inventory'::regnamespace AND a.grantee = 0$$,
	'PUBLIC has no right on any table, view or sequence');
SELECT is_empty($$SELECT a.attrelid::regclass, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid CROSS JOIN LATERAL aclexplode(a.attacl) x WHERE c.relnamespace = 'inventory'::regnamespace AND x.grantee = 0$$,
	'nor on any column');
SELECT ok(NOT has_schema_privilege('public', 'inventory', 'USAGE') AND NOT has_schema_privilege('public', 'inventory', 'CREATE'), 'PUBLIC does not even use the schema');

-- How functions run

SELECT bag_eq($$SELECT p.proname::text FROM pg_proc p WHERE p.pronamespace = 'inventory'::regnamespace AND NOT p.prosecdef$$,
	ARRAY['available_of', 'grant_access', 'event_applied', 'available', 'on_hand', 'tail_on_hand', 'tail_reserved', 'tail_committed', 'tail_event_count', 'included', 'included_until', 'xid_ranges', 'progress_row', 'archive', 'publish', 'submit', 'saga', 'cancel', 'command_result', 'may_see_command', 'stat_deliveries', 'first_after', 'http_validator', 'rabbitmq_validator', 'redis_validator', 'kafka_validator',
		'subscribe', 'unsubscribe', 'pause', 'resume', 'seek', 'skip', 'redrive', 'discard', 'replay', 'deliver', 'may_read', 'topic_matches', 'cursors'], 'every function is SECURITY DEFINER, but those that ask who the caller is, the definition of available, grant_access(), and those in C that act as the owner only where they run SQL, what is inlined, and archive(), which commits');
SELECT bag_eq($$SELECT p.proname::text FROM pg_proc p WHERE p.pronamespace = 'inventory'::regnamespace
		AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)$$,
	ARRAY['available_of', 'event_applied', 'available', 'on_hand', 'tail_on_hand', 'tail_reserved', 'tail_committed', 'tail_event_count', 'included', 'included_until', 'xid_ranges', 'progress_row', 'archive', 'publish', 'first_after'], 'every function has its search_path pinned, but those in C that look no name up, those whose names were bound when they were created, and archive(), which commits');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'inventory'::regnamespace AND p.proname IN
		('receive', 'issue', 'adjust', 'set_on_hand', 'transfer', 'reverse', 'post', 'reserve', 'try_reserve', 'confirm', 'ship', 'release', 'extend', 'release_owner', 'expire_due')
		AND (p.provolatile <> 'v' OR p.proparallel <> 'u')$$, 'every function that changes anything is VOLATILE and PARALLEL UNSAFE');

-- The levels of access

CREATE ROLE inventory_pgtap_none;
CREATE ROLE inventory_pgtap_reader;
CREATE ROLE inventory_pgtap_operator;
CREATE ROLE inventory_pgtap_manager;
SELECT inventory.grant_access('inventory_pgtap_reader', 'reader') IS NULL AS done \gset
SELECT inventory.grant_access('inventory_pgtap_operator', 'operator') IS NULL AS done \gset
SELECT inventory.grant_access('inventory_pgtap_manager', 'manager') IS NULL AS done \gset
SELECT throws_ok($$SELECT inventory.grant_access('inventory_pgtap_none', 'emperor')$$, '22023', NULL, 'there is no other level of access');
SELECT throws_ok($$SELECT inventory.grant_access('inventory_pgtap_none', NULL)$$, '22004', NULL, 'a level of access must be named');
SELECT throws_ok($$SELECT inventory.grant_access(NULL, 'reader')$$, '22004', NULL, 'a role must be named');
SELECT throws_ok($$SELECT inventory.grant_access('inventory_pgtap_absent', 'reader')$$, '42704', NULL, 'the role must exist');

INSERT INTO inventory.location (location) VALUES ('L'), ('M');
INSERT INTO inventory.sku (sku) VALUES ('A'), ('B');
SELECT inventory.receive('A', 'L', 900) AS stocked \gset
SELECT inventory.receive('A', 'L', 100) AS receipt \gset
SELECT stock_id AS stock_id FROM inventory.stock_level \gset
SELECT inventory.reserve('A', 'L', 10, owner => 'r') AS reservation \gset

-- What comes of a statement when a role makes it: its SQLSTATE, or ok; undone.
CREATE FUNCTION public.outcome(role text, statement text) RETURNS text
	LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	EXECUTE statement;
	RAISE EXCEPTION 'undo' USING ERRCODE = 'ZZ000';
EXCEPTION WHEN OTHERS THEN
	RETURN CASE SQLSTATE WHEN 'ZZ000' THEN 'ok' ELSE SQLSTATE END;
END
$$;

-- The least level of access that may do it; nobody may do what says 'nobody'.
CREATE TEMP TABLE deed AS
SELECT * FROM (VALUES
	('reader', $$SELECT inventory.available('A')$$),
	('reader', $$SELECT inventory.on_hand('A')$$),
	('reader', $$SELECT * FROM inventory.history('A', 'L')$$),
	('reader', $$SELECT * FROM inventory.stock_at(now())$$),
	('reader', $$SELECT * FROM inventory.position(now(), 'A')$$),
	('manager', $$SELECT inventory.project()$$),
	('manager', $$SELECT inventory.tick_hash(1)$$),
	('reader', $$SELECT inventory.version(), inventory.clock_time(), inventory.transaction_time()$$),
	('reader', $$SELECT * FROM inventory.stock_level$$),
	('reader', $$SELECT * FROM inventory.sku_level$$),
	('reader', $$SELECT * FROM inventory.open_reservation$$),
	('reader', $$SELECT * FROM inventory.stat_operation$$),
	('reader', $$SELECT * FROM inventory.stat_worker$$),
	('reader', $$SELECT * FROM inventory.stat_level$$),
	('reader', $$SELECT * FROM inventory.levels()$$),
	('reader', $$SELECT * FROM inventory.event, inventory.stock, inventory.reservation, inventory.request, inventory.sku, inventory.location, inventory.lot$$),
	('operator', $$SELECT inventory.receive('A', 'L', 1)$$),
	('operator', $$SELECT inventory.issue('A', 'L', 1)$$),
	('operator', $$SELECT inventory.adjust('A', 'L', 1, 'x')$$),
	('operator', $$SELECT inventory.set_on_hand('A', 'L', 1, 1000)$$),
	('operator', $$SELECT inventory.transfer('A', 'L', 'M', 1)$$),
	('operator', format($$SELECT inventory.reverse(%s, 'x')$$, :receipt)),
	('operator', $$SELECT inventory.post('[{"type": "receive", "sku": "A", "location": "L", "quantity": 1}]')$$),
	('operator', $$SELECT inventory.post('receive', ARRAY['A'], ARRAY['L'], ARRAY[1])$$),
	('operator', $$SELECT inventory.reserve('A', 'L', 1)$$),
	('operator', $$SELECT inventory.reserve('[{"sku": "A", "location": "L", "quantity": 1}]')$$),
	('operator', $$SELECT inventory.try_reserve('A', 'L', 1)$$),
	('operator', $$SELECT inventory.try_reserve('[{"sku": "A", "location": "L", "quantity": 1}]')$$),
	('operator', format('SELECT inventory.confirm(%1$s), inventory.ship(%1$s)', :reservation)),
	('operator', format('SELECT inventory.release(%s)', :reservation)),
	('operator', format($$SELECT inventory.extend(%s, '1 hour')$$, :reservation)),
	('operator', $$SELECT inventory.release_owner('r')$$),
	('operator', $$SELECT inventory.expire_due()$$),
	('operator', $$SELECT inventory.publish('order.placed', 'k', '{}')$$),
	('manager', $$SELECT * FROM inventory.outbox$$),
	('reader', $$SELECT * FROM inventory.outbox_ring, inventory.outbox_segment, inventory.subscription, inventory.cursors()$$),
	('reader', $$SELECT * FROM inventory.stat_delivery, inventory.parked, inventory.dead_letter$$),
	('manager', $$SELECT inventory.subscribe('s', '{a.#}', 'notify', '{"channel": "c"}'), inventory.deliver('s')$$),
	('nobody', $$SELECT * FROM inventory.outbox_0$$),
	('nobody', $$SELECT * FROM inventory.outbox_7$$),
	('nobody', $$SELECT * FROM inventory.parked_message$$),
	('nobody', $$SELECT * FROM inventory.delivery_cursor$$),
	('nobody', $$SELECT * FROM inventory.delivery_cursor_0$$),
	('nobody', $$INSERT INTO inventory.outbox (topic, segment) VALUES ('a', 0)$$),
	('nobody', $$TRUNCATE inventory.outbox$$),
	('nobody', $$SELECT inventory.empty_segment(0::smallint)$$),
	('operator', $$SELECT inventory.cancel(inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 1}'))$$),
	('operator', $$SELECT inventory.saga('[{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 1}}]')$$),
	('operator', $$SELECT inventory.command_result(1)$$),
	('reader', $$SELECT * FROM inventory.command, inventory.pending_command, inventory.saga, inventory.saga_step$$),
	('manager', $$SELECT inventory.retry_pending()$$),
	('nobody', $$SELECT * FROM inventory.command_result$$),
	('nobody', $$SELECT * FROM inventory.saga_run$$),
	('nobody', $$SELECT inventory.command_append('receive', NULL, '{}')$$),
	('nobody', $$SELECT inventory.command_submit(10, 'receive', '{}', NULL, NULL, NULL, NULL)$$),
	('nobody', $$SELECT inventory.saga_submit(10, '[]')$$),
	('manager', $$INSERT INTO inventory.sku (sku) VALUES ('N')$$),
	('manager', $$UPDATE inventory.sku SET name = 'Apple' WHERE sku = 'A'$$),
	('manager', $$DELETE FROM inventory.sku WHERE sku = 'B'$$),
	('manager', $$INSERT INTO inventory.location (location) VALUES ('N')$$),
	('manager', $$UPDATE inventory.location SET priority = 2, parent_id = (SELECT location_id FROM inventory.location WHERE location = 'M') WHERE location = 'L'$$),
	('manager', $$INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'N' FROM inventory.sku WHERE sku = 'A'$$),
	('reader', $$SELECT * FROM inventory.stat_progress$$),
	('reader', $$SELECT * FROM inventory.tick, inventory.snapshot, inventory.baseline, inventory.archived, inventory.verification$$),
	('manager', $$SELECT * FROM inventory.verify()$$),
	('manager', $$SELECT * FROM inventory.verify('recent')$$),
	('manager', $$SELECT inventory.rebuild()$$),
	('manager', $$SELECT * FROM inventory.verify_chain(), inventory.chain_anchor() a, inventory.check_anchor(1, '')$$),
	('manager', $$SELECT * FROM inventory.maintain()$$),
	('manager', $$SELECT inventory.archive_partition('2000-01-01') FROM inventory.archivable('2000-01-01')$$),
	('manager', $$SELECT inventory.stat_reset()$$),
	('manager', $$SELECT inventory.make_partition('2077-01-01'), inventory.make_partitions('2078-01-01', 2)$$),
	('nobody', format($$INSERT INTO inventory.event (stock_id, type, on_hand_delta) VALUES (%s, 'receive', 1)$$, :stock_id)),
	('nobody', $$UPDATE inventory.event SET on_hand_delta = 1$$),
	('nobody', $$DELETE FROM inventory.event$$),
	('nobody', $$TRUNCATE inventory.event$$),
	('nobody', format('DELETE FROM %s', (SELECT min(tableoid)::regclass FROM inventory.event))),
	('nobody', format('TRUNCATE %s', (SELECT min(tableoid)::regclass FROM inventory.event))),
	('nobody', $$UPDATE inventory.stock SET on_hand = 5$$),
	('nobody', $$INSERT INTO inventory.reservation (stock_id, quantity) VALUES (1, 1)$$),
	('nobody', $$UPDATE inventory.reservation SET quantity = 5$$),
	('nobody', $$DELETE FROM inventory.request$$),
	('nobody', $$TRUNCATE inventory.sku CASCADE$$),
	('nobody', $$SELECT nextval('inventory.event_event_id_seq')$$),
	('nobody', $$SELECT setval('inventory.reservation_reservation_id_seq', 1)$$),
	('nobody', $$UPDATE inventory.baseline SET on_hand = 5$$),
	('nobody', $$DELETE FROM inventory.tick$$),
	('nobody', $$SELECT inventory.archive_oldest('2000-01-01', true)$$),
	('nobody', $$SELECT * FROM inventory.rebuild_tables(NULL)$$),
	('nobody', $$SELECT inventory.set_test_clock(NULL)$$),
	('nobody', $$SELECT inventory.grant_access('inventory_pgtap_none', 'manager')$$),
	('nobody', $$ALTER TABLE inventory.event DISABLE TRIGGER ALL$$),
	('nobody', $$CREATE TABLE inventory.planted ()$$),
	('nobody', $$CREATE FUNCTION inventory.planted() RETURNS void LANGUAGE sql AS ''$$),
	('nobody', $$DROP TABLE inventory.request$$)) x(least, statement);
SELECT is(public.outcome('inventory_pgtap_' || access.level, d.statement),
	CASE WHEN coalesce(array_position(ARRAY['none', 'reader', 'operator', 'manager'], d.least), 9) <= array_position(ARRAY['none', 'reader', 'operator', 'manager'], access.level) THEN 'ok' ELSE '42501' END,
	format('%s %s: %s', access.level, CASE WHEN coalesce(array_position(ARRAY['none', 'reader', 'operator', 'manager'], d.least), 9) <= array_position(ARRAY['none', 'reader', 'operator', 'manager'], access.level) THEN 'may' ELSE 'may not' END, d.statement))
FROM deed d CROSS JOIN unnest(ARRAY['none', 'reader', 'operator', 'manager']) access(level);

-- Nobody is missing from the table above: each function is of a level of
-- access, or nobody's.
SELECT bag_eq($$SELECT p.proname::text FROM pg_proc p WHERE p.pronamespace = 'inventory'::regnamespace AND NOT has_function_privilege('inventory_pgtap_manager', p.oid, 'EXECUTE')
		AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype) AND obj_description(p.oid, 'pg_proc') NOT LIKE 'The engine''s own: %'$$,
	ARRAY['set_test_clock', 'grant_access', 'post_restore'],
	'a manager executes every function but the test clock, grant_access(), post_restore(), the triggers, and what is the engine''s own');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'inventory'::regnamespace AND has_function_privilege('inventory_pgtap_manager', p.oid, 'EXECUTE')
		AND obj_description(p.oid, 'pg_proc') LIKE 'The engine''s own: %' AND p.proname NOT IN ('check_kept', 'may_read', 'included', 'first_after')$$,
	'and nothing of that, but what a view calls');
SELECT bag_eq($$SELECT p.proname::text FROM pg_proc p WHERE p.pronamespace = 'inventory'::regnamespace AND has_function_privilege('inventory_pgtap_reader', p.oid, 'EXECUTE')$$,
	ARRAY['available', 'on_hand', 'history', 'stock_at', 'position', 'item_at', 'stock_items', 'check_kept', 'available_of', 'tail_on_hand', 'tail_reserved', 'tail_committed', 'tail_event_count', 'version', 'clock_time', 'transaction_time', 'stat_operations', 'stat_levels', 'stat_progresses', 'stat_workers', 'levels', 'cursors', 'may_read', 'topic_matches', 'unread_by', 'stat_deliveries', 'command_role', 'may_see_command', 'included', 'first_after'],
	'a reader executes what reads');

CREATE TEMP TABLE planted (xid xid8);
SELECT throws_ok($$SELECT inventory.unread_by('planted')$$, '42809', NULL, 'unread_by() looks into the tables of the engine alone');
SELECT throws_ok($$SELECT inventory.unread_by('inventory.event')$$, '42809', NULL, 'and of these into those with messages');

-- A role that was given a right on events is held to their rules

GRANT USAGE ON SCHEMA inventory TO inventory_pgtap_none;
GRANT INSERT, SELECT, UPDATE, DELETE, TRUNCATE ON inventory.event TO inventory_pgtap_none;
GRANT USAGE ON SEQUENCE inventory.event_event_id_seq TO inventory_pgtap_none;
GRANT EXECUTE ON FUNCTION inventory.transaction_time() TO inventory_pgtap_none;
SELECT is(public.outcome('inventory_pgtap_none', format($$INSERT INTO inventory.event (stock_id, type, on_hand_delta) VALUES (%s, 'issue', -1)$$, :stock_id)), 'ok', 'a role with INSERT on events inserts one');
SELECT is(public.outcome('inventory_pgtap_none', format($$INSERT INTO inventory.event (stock_id, type, on_hand_delta) VALUES (%s, 'issue', -1000)$$, :stock_id)), 'IV001', 'but not one too much');
SELECT is(public.outcome('inventory_pgtap_none', 'DELETE FROM inventory.event'), 'IV016', 'and deletes none, whatever it was granted');
SELECT is(public.outcome('inventory_pgtap_none', 'TRUNCATE inventory.event'), 'IV016', 'and truncates none');

-- The actor

SET SESSION AUTHORIZATION inventory_pgtap_operator;
SELECT inventory.receive('A', 'L', 1) AS by_operator \gset
SELECT inventory.reserve('A', 'L', 1) AS reserved_by_operator \gset
RESET SESSION AUTHORIZATION;
SELECT is((SELECT actor FROM inventory.event WHERE event_id = :by_operator), 'inventory_pgtap_operator', 'the caller is the actor of a movement');
SELECT is((SELECT actor FROM inventory.event WHERE reservation_id = :reserved_by_operator), 'inventory_pgtap_operator', 'and of a reservation');
SELECT is((SELECT actor FROM inventory.event WHERE event_id = :receipt), session_user::text, 'not the owner of the functions');

SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
DROP OWNED BY inventory_pgtap_none, inventory_pgtap_reader, inventory_pgtap_operator, inventory_pgtap_manager;
DROP ROLE inventory_pgtap_none, inventory_pgtap_reader, inventory_pgtap_operator, inventory_pgtap_manager;
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
