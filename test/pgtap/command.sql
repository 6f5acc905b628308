-- Commands and sagas, executed by deliver(): once, as who has submitted them, and
-- compensated when they fail.
--
-- Runs in a database of its own: levels move at commit.
\set database inventory_pgtap_command
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
DROP ROLE IF EXISTS inventory_pgtap_clerk, inventory_pgtap_other, inventory_pgtap_boss, inventory_pgtap_reader, inventory_pgtap_leaver, inventory_pgtap_renamed;
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:00:00+00'); END $$;
SELECT no_plan();

CREATE ROLE inventory_pgtap_clerk;
CREATE ROLE inventory_pgtap_other;
CREATE ROLE inventory_pgtap_boss;
CREATE ROLE inventory_pgtap_reader;
SELECT inventory.grant_access('inventory_pgtap_clerk', 'operator') IS NULL AS done \gset
SELECT inventory.grant_access('inventory_pgtap_other', 'operator') IS NULL AS done \gset
SELECT inventory.grant_access('inventory_pgtap_boss', 'manager') IS NULL AS done \gset
SELECT inventory.grant_access('inventory_pgtap_reader', 'reader') IS NULL AS done \gset
INSERT INTO inventory.location (location) VALUES ('L'), ('M');
INSERT INTO inventory.sku (sku) VALUES ('A'), ('B');

CREATE FUNCTION public.at(at timestamptz) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM inventory.set_test_clock(at); END $$;
CREATE FUNCTION public.later(more interval) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM inventory.set_test_clock(inventory.clock_time() + more); END $$;
CREATE FUNCTION public.state(message_id bigint) RETURNS text LANGUAGE sql AS $$ SELECT state FROM inventory.command_result(message_id) $$;
CREATE FUNCTION public.on_hand(sku text) RETURNS bigint LANGUAGE sql AS $$ SELECT coalesce(sum(l.on_hand), 0)::bigint FROM inventory.stock_level l WHERE l.sku = $1 $$;

-- ---- One command ----

SELECT is((SELECT count(*) FROM inventory.subscription), 0::bigint, 'there is no subscription for commands');
SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 10}', key => 'A') AS m \gset
SELECT results_eq($$SELECT name::text COLLATE "default", sink, topics, state FROM inventory.subscription$$, $$VALUES ('inventory.commands'::text, 'command'::text, '{inventory.command.*}'::text[], 'active'::text)$$, 'the first submit makes it');
SELECT is((SELECT owner FROM inventory.subscription), (SELECT extowner FROM pg_extension WHERE extname = 'inventory')::regrole, 'it belongs to the owner of the extension');
SELECT is(public.state(:m), 'pending', 'a submitted command is pending');
SELECT is(public.on_hand('A'), 0::bigint, 'and has had no effect');
SELECT results_eq('SELECT message_id, command, arguments, key COLLATE "default", state, overdue FROM inventory.pending_command',
	format($$VALUES (%s::bigint, 'receive'::text, '{"sku": "A", "location": "L", "quantity": 10}'::jsonb, 'A'::text, 'pending'::text, false)$$, :m), 'pending_command shows it');
SELECT is(inventory.deliver('inventory.commands'), 1::bigint, 'the command that has made the subscription is delivered');
SELECT is(public.on_hand('A'), 10::bigint, 'the command is executed');
SELECT results_eq(format('SELECT state, (result #>> %L)::bigint, error, attempts, finished_at FROM inventory.command_result(%s)', '{}', :m),
	$$SELECT 'done', event_id, NULL::text, 1, '2031-04-10 12:00:00+00'::timestamptz FROM inventory.event$$, 'its result is what the function returned');
SELECT is_empty('SELECT FROM inventory.pending_command', 'it is pending no more');
SELECT is(inventory.deliver('inventory.commands'), 0::bigint, 'and is not executed again');
SELECT results_eq('SELECT state FROM inventory.command_result(999999999)', 'VALUES (NULL::text)', 'a number that is no command has no state');
BEGIN;
SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 1}') AS undone \gset
ROLLBACK;
SELECT is(inventory.deliver('inventory.commands'), 0::bigint, 'a submit that was rolled back is not executed');

-- ---- What is refused ----

SELECT throws_ok($$SELECT inventory.submit('rebuild', '{}')$$, 'IV026', 'unknown command "rebuild"', 'only stock operations can be submitted');
SELECT throws_ok($$SELECT inventory.submit('drop', '{}')$$, 'IV026', NULL, 'no other function');
SELECT throws_ok($$SELECT inventory.submit('receive', '{"sku": "A", "place": "L", "quantity": 1}')$$, '22023', 'command "receive" has no argument "place"', 'an unknown argument');
SELECT throws_ok($$SELECT inventory.submit('receive', '{"sku": "A", "quantity": 1}')$$, '22023', 'command "receive" does not go with these arguments: sku, quantity', 'an argument is missing');
SELECT throws_ok($$SELECT inventory.submit('reserve', '{"sku": "A", "location": "L", "quantity": 1, "lines": []}')$$, '22023', NULL, 'arguments of two functions');
SELECT throws_ok($$SELECT inventory.submit('receive', '[1]')$$, '22023', 'the arguments of command "receive" must be a JSON object', 'arguments are an object');
SELECT throws_ok($$SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": "many"}')$$, '22P02', NULL, 'an argument of the wrong type');
SELECT throws_ok($$SELECT inventory.submit('receive', NULL)$$, '22004', NULL, 'no arguments');
SELECT throws_ok($$SELECT inventory.submit(NULL, '{}')$$, '22004', NULL, 'no command');
SELECT throws_ok($$SELECT inventory.submit('release', '{"reservation_id": 1}', not_before => 'infinity')$$, '22023', NULL, 'a time without end');
SELECT throws_ok($$SELECT inventory.submit('release', '{"reservation_id": 1}', not_before => '2031-05-01', deadline => '2031-04-30')$$, '22023', NULL, 'a deadline before its beginning');
SELECT throws_ok($$SELECT inventory.submit('reserve', '{"sku": "A", "location": "L", "quantity": 1}', compensate_with => '{"arguments": {}}')$$, '22023', NULL, 'a compensation without a command');
SELECT throws_ok($$SELECT inventory.submit('reserve', '{"sku": "A", "location": "L", "quantity": 1}', compensate_with => '{"command": "release", "arguments": {"id": "$result"}}')$$, '22023', NULL, 'a compensation with a wrong argument');
SELECT throws_ok($$SELECT inventory.submit('receive', jsonb_build_object('sku', 'A', 'location', 'L', 'quantity', 1, 'reason', repeat('x', 2000000)))$$, '54000', NULL, 'arguments that are too large');
SELECT throws_ok($$SELECT inventory.saga(jsonb_build_array(jsonb_build_object('command', 'receive', 'arguments', jsonb_build_object('sku', 'A', 'location', 'L', 'quantity', 1, 'reason', repeat('x', 2000000)))))$$, '54000', NULL, 'a saga that is too large');
SELECT throws_ok($$SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 1}', key => repeat('k', 5000))$$, 'IV023', NULL, 'a key that is too long');
SELECT throws_ok($$SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 1}', compensate_with => '{"command": "issue", "arguments": {"sku": "A", "location": "L", "quantity": 1, "metadata": {"price": "$5"}}}')$$, 'IV015', 'compensate_with cannot use $5', 'a compensation with a result that there will not be');
SELECT throws_ok($$SELECT inventory.command_append('receive', NULL, '{}')$$, 'IV016', NULL, 'no other way to write a command');
SELECT throws_ok($$INSERT INTO inventory.command_result VALUES (1, 'receive', NULL, 10, now(), 'done', NULL, NULL, NULL, 1, now())$$, 'IV016', NULL, 'no other way to write a result');
SELECT throws_ok($$SELECT inventory.skip('inventory.commands', 1)$$, '0A000', NULL, 'commands are cancelled, not skipped');
SELECT throws_ok($$SELECT inventory.redrive('inventory.commands')$$, '0A000', NULL, 'nor redriven');

-- ---- Request ids ----

SELECT inventory.submit('receive', '{"sku": "B", "location": "L", "quantity": 1}', request_id => 'r-1') AS m \gset
SELECT is(inventory.submit('receive', '{"sku": "B", "location": "L", "quantity": 1}', request_id => 'r-1'), :m::bigint, 'the same request id returns the same command');
SELECT throws_ok($$SELECT inventory.submit('receive', '{"sku": "B", "location": "L", "quantity": 2}', request_id => 'r-1')$$, 'IV010', NULL, 'with other arguments it is refused');
SELECT throws_ok($$SELECT inventory.receive('B', 'L', 1, request_id => 'r-1')$$, 'IV010', NULL, 'by another function too');
SELECT is(inventory.deliver('inventory.commands'), 1::bigint, 'and it is executed once');
SELECT is(public.on_hand('B'), 1::bigint, 'with one effect');

-- ---- As who has submitted it ----

SET ROLE inventory_pgtap_clerk;
SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 1, "reference": "clerk"}') AS m \gset
RESET ROLE;
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT is((SELECT actor FROM inventory.event WHERE reference = 'clerk'), 'inventory_pgtap_clerk', 'the actor is who has submitted it');
SELECT is((SELECT submitted_by FROM inventory.command WHERE message_id = :m), 'inventory_pgtap_clerk'::regrole, 'submitted_by too');
SELECT inventory.receive('A', 'L', 1, reference => 'me') > 0 AS done \gset
SELECT is((SELECT actor FROM inventory.event WHERE reference = 'me'), current_user::text, 'and afterwards it is again who calls');
SET ROLE inventory_pgtap_clerk;
SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 1}') AS lost \gset
RESET ROLE;
REVOKE EXECUTE ON FUNCTION inventory.receive(text, text, bigint, text, text, text, text, text, timestamptz, jsonb) FROM inventory_pgtap_clerk;
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT results_eq(format('SELECT state, sqlstate FROM inventory.command_result(%s)', :lost), $$VALUES ('dead'::text, '42501'::text)$$, 'a command whose submitter has lost the right is dead');
SET ROLE inventory_pgtap_clerk;
SELECT throws_ok($$SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 1}')$$, '42501', NULL, 'and he cannot submit it any more');
SELECT throws_ok($$SELECT inventory.submit('issue', '{"sku": "A", "location": "L", "quantity": 1}', compensate_with => '{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 1}}')$$, '42501', NULL, 'nor as a compensation');
RESET ROLE;
SELECT inventory.grant_access('inventory_pgtap_clerk', 'operator') IS NULL AS done \gset

CREATE ROLE inventory_pgtap_leaver;
SELECT inventory.grant_access('inventory_pgtap_leaver', 'operator') IS NULL AS done \gset
SET ROLE inventory_pgtap_leaver;
SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 100}') AS m \gset
RESET ROLE;
DROP OWNED BY inventory_pgtap_leaver;
DROP ROLE inventory_pgtap_leaver;
CREATE ROLE inventory_pgtap_leaver SUPERUSER;
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT results_eq(format('SELECT state, error, sqlstate FROM inventory.command_result(%s)', :m),
	format($$VALUES ('dead'::text, 'role "inventory_pgtap_leaver", which has submitted command %s, does not exist any more'::text, '42704'::text)$$, :m),
	'a command of a role that was dropped is dead, also when there is a new role with its name');
DROP ROLE inventory_pgtap_leaver;
SET ROLE inventory_pgtap_other;
SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 1, "reference": "renamed"}') AS m \gset
RESET ROLE;
ALTER ROLE inventory_pgtap_other RENAME TO inventory_pgtap_renamed;
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT is((SELECT actor FROM inventory.event WHERE reference = 'renamed'), 'inventory_pgtap_renamed', 'a role that was renamed is the same one');
ALTER ROLE inventory_pgtap_renamed RENAME TO inventory_pgtap_other;

-- ---- Who sees them ----

SET ROLE inventory_pgtap_clerk;
SELECT inventory.submit('issue', '{"sku": "A", "location": "L", "quantity": 1}') AS m \gset
SELECT is(public.state(:m), 'pending', 'the submitter sees his command');
SET ROLE inventory_pgtap_other;
SELECT is((SELECT count(*) FROM inventory.pending_command), 0::bigint, 'others do not');
SELECT is(public.state(:m), NULL, 'nor what has become of it');
SELECT throws_ok(format('SELECT inventory.cancel(%s)', :m), '42501', NULL, 'nor can they cancel it');
SELECT throws_ok('SELECT FROM inventory.command_result', '42501', NULL, 'the table is not theirs to read');
SET ROLE inventory_pgtap_reader;
SELECT is((SELECT count(*) FROM inventory.command), 0::bigint, 'a reader sees none');
SELECT throws_ok($$SELECT inventory.submit('issue', '{"sku": "A", "location": "L", "quantity": 1}')$$, '42501', NULL, 'and submits none');
SELECT throws_ok('SELECT inventory.retry_pending()', '42501', NULL, 'and retries none');
SET ROLE inventory_pgtap_boss;
SELECT is(public.state(:m), 'pending', 'a manager sees all');
SELECT is(inventory.cancel(:m), true, 'and cancels them');
RESET ROLE;

-- ---- Cancelling ----

SELECT is(inventory.cancel(:m), false, 'a cancelled command cannot be cancelled again');
SELECT is(inventory.deliver('inventory.commands'), 2::bigint, 'a cancelled command is passed over, and so is the message that tells of it');
SELECT results_eq(format('SELECT state, attempts FROM inventory.command_result(%s)', :m), $$VALUES ('cancelled'::text, 0)$$, 'and stays cancelled');
SELECT inventory.submit('issue', '{"sku": "A", "location": "L", "quantity": 1}') AS m \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT throws_ok(format('SELECT inventory.cancel(%s)', :m), 'IV027', format('command %s is done', :m), 'a command that is done cannot be cancelled');
SELECT throws_ok(format('SELECT inventory.cancel(%s)', :lost), 'IV027', format('command %s is dead', :lost), 'nor one that is dead');
SELECT throws_ok('SELECT inventory.cancel(999999999)', 'IV026', NULL, 'nor one that there is not');
SELECT throws_ok('SELECT inventory.cancel(NULL)', '22004', NULL, 'nor none');

-- ---- Times ----

SELECT inventory.submit('receive', '{"sku": "B", "location": "L", "quantity": 1}', key => 'later', not_before => inventory.clock_time() + '1 hour') AS m \gset
SELECT inventory.submit('receive', '{"sku": "B", "location": "L", "quantity": 1}', key => 'later') AS next \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT results_eq(format('SELECT state, due_at FROM inventory.command_result(%s)', :m), $$SELECT 'delayed', inventory.clock_time() + '1 hour'$$, 'a command is not executed before its time');
SELECT is(public.state(:next), 'done', 'and is in nobody''s way meanwhile');
SELECT public.later('59 minutes') IS NULL AS done \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT is(public.state(:m), 'delayed', 'not a minute before');
SELECT is((SELECT overdue FROM inventory.pending_command WHERE message_id = :m), false, 'it is not overdue while it is delayed');
SELECT public.later('1 minute') IS NULL AS done \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT is(public.state(:m), 'done', 'but then');
SELECT inventory.submit('receive', '{"sku": "B", "location": "L", "quantity": 1}', not_before => inventory.clock_time() + '1 hour') AS m \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT is(inventory.cancel(:m), true, 'a delayed command can be cancelled');
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT is((SELECT count(*) FROM inventory.parked_message WHERE state <> 'dead'), 0::bigint, 'and is parked no more');
SELECT inventory.submit('receive', '{"sku": "B", "location": "L", "quantity": 1}', deadline => inventory.clock_time() + '1 hour',
	compensate_with => '{"command": "receive", "arguments": {"sku": "B", "location": "M", "quantity": 7, "reason": "$$1"}}') AS m \gset
SELECT public.later('1 hour') IS NULL AS done \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT results_eq(format('SELECT state, sqlstate, attempts FROM inventory.command_result(%s)', :m), $$VALUES ('dead'::text, 'IV030'::text, 0)$$, 'a command whose deadline has passed is not tried');
SELECT is(inventory.deliver('inventory.commands'), 2::bigint, 'what compensates it is submitted, and inventory.command.dead published');
SELECT is((SELECT count(*) FROM inventory.event e WHERE e.on_hand_delta = 7 AND e.reason = '$1'), 1::bigint, 'and executed');

-- ---- Failing ----

SELECT is(public.on_hand('B') < 50, true, 'there are less than 50');
SELECT inventory.submit('reserve', '{"sku": "B", "location": "L", "quantity": 50}', key => 'k') AS m \gset
SELECT inventory.submit('receive', '{"sku": "B", "location": "L", "quantity": 1}', key => 'k') AS behind \gset
SELECT inventory.submit('receive', '{"sku": "B", "location": "L", "quantity": 1}', key => 'other') AS beside \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT results_eq(format('SELECT state, attempts, due_at > inventory.clock_time(), sqlstate FROM inventory.command_result(%s)', :m), $$VALUES ('retrying'::text, 1, true, NULL::text)$$, 'for lack of stock a command is tried again');
SELECT matches((SELECT error FROM inventory.command_result(:m)), 'insufficient|available|50', 'and its error is shown');
SELECT is(public.state(:behind), 'pending', 'one behind it with the same key waits');
SELECT is(public.state(:beside), 'done', 'others do not');
SELECT inventory.receive('B', 'L', 50) > 0 AS done \gset
SELECT public.later('2 seconds') IS NULL AS done \gset
SELECT is(inventory.deliver('inventory.commands') >= 2, true, 'when it is due, it is tried again');
SELECT results_eq(format('SELECT state, attempts FROM inventory.command_result(%s)', :m), $$VALUES ('done'::text, 2)$$, 'and done when there is stock');
SELECT is(public.state(:behind), 'done', 'then the one behind it');

SELECT inventory.submit('receive', '{"sku": "NONE", "location": "L", "quantity": 1}', key => 'k') AS m \gset
SELECT inventory.submit('release', '{"reservation_id": 987654321}') AS m2 \gset
SELECT inventory.submit('receive', '{"sku": "B", "location": "L", "quantity": 1}', key => 'k') AS behind \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT results_eq(format('SELECT state, sqlstate, attempts FROM inventory.command_result(%s)', :m), $$VALUES ('dead'::text, 'IV002'::text, 1)$$, 'an unknown SKU is final');
SELECT results_eq(format('SELECT state, sqlstate, attempts FROM inventory.command_result(%s)', :m2), $$VALUES ('dead'::text, 'IV007'::text, 1)$$, 'so is an unknown reservation');
SELECT is(public.state(:behind), 'done', 'and those behind it go on');
SELECT is((SELECT payload - 'error' FROM inventory.outbox WHERE topic = 'inventory.command.dead' AND (payload ->> 'message_id')::bigint = :m),
	jsonb_build_object('message_id', :m, 'command', 'receive', 'key', 'k', 'submitted_by', current_user, 'sqlstate', 'IV002', 'attempts', 1), 'inventory.command.dead tells');
SELECT is((SELECT count(*) FROM inventory.outbox WHERE topic = 'inventory.message.dead'), 0::bigint, 'and there is no other such message');

SELECT inventory.submit('reserve', '{"sku": "B", "location": "L", "quantity": 5000}',
	compensate_with => '{"command": "reserve", "arguments": {"sku": "B", "location": "L", "quantity": 4000}}') AS m \gset
DO $$ BEGIN FOR i IN 1..12 LOOP PERFORM inventory.deliver('inventory.commands'); PERFORM inventory.set_test_clock(inventory.clock_time() + interval '1 hour'); END LOOP; END $$;
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT results_eq(format('SELECT state, sqlstate, attempts FROM inventory.command_result(%s)', :m), $$VALUES ('dead'::text, 'IV001'::text, 10)$$, 'after max_attempts a command is given up');
SELECT message_id AS c FROM inventory.pending_command \gset
DO $$ BEGIN FOR i IN 1..15 LOOP PERFORM inventory.deliver('inventory.commands'); PERFORM inventory.set_test_clock(inventory.clock_time() + interval '2 hours'); END LOOP; END $$;
SELECT results_eq(format('SELECT state, attempts > 12 FROM inventory.command_result(%s)', :c), $$VALUES ('retrying'::text, true)$$, 'a compensation is tried without limit');
SELECT is((SELECT overdue FROM inventory.pending_command), true, 'and shown as overdue');
SELECT is(inventory.cancel(:c), true, 'until it is cancelled');
SELECT inventory.deliver('inventory.commands') AS n \gset

SELECT inventory.submit('issue', '{"sku": "B", "location": "M", "quantity": 5000}', key => 'stuck') AS m \gset
SELECT inventory.submit('receive', '{"sku": "B", "location": "M", "quantity": 1}', key => 'stuck') AS behind \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT is(public.state(:behind), 'pending', 'a command waits behind one with its key');
SELECT is(inventory.cancel(:m), true, 'when that is cancelled');
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT is(public.state(:behind), 'done', 'it is executed at once');

-- ---- What is overdue ----

SELECT inventory.submit('reserve', '{"sku": "A", "location": "M", "quantity": 3}') AS m \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT inventory.receive('A', 'M', 3) > 0 AS done \gset
SELECT is(inventory.retry_pending(), 0::bigint, 'nothing is overdue');
SELECT is(inventory.retry_pending('0'), 1::bigint, 'retry_pending() tries what has failed without waiting');
SELECT is(public.state(:m), 'done', 'in the caller''s session');
SELECT inventory.submit('receive', '{"sku": "A", "location": "M", "quantity": 3}') AS m \gset
SELECT public.later('6 minutes') IS NULL AS done \gset
SELECT results_eq('SELECT message_id, waiting, overdue FROM inventory.pending_command', format($$VALUES (%s::bigint, interval '6 minutes', true)$$, :m), 'after five minutes a command is overdue');
SELECT is(inventory.retry_pending('10 minutes'), 0::bigint, 'retry_pending() leaves what is younger than asked for');
SELECT is(inventory.retry_pending(), 1::bigint, 'and executes what is overdue');
SELECT is(public.state(:m), 'done', 'also what was never tried');

-- ---- Every command ----

SELECT inventory.receive('A', 'L', 500) AS receipt \gset
SELECT inventory.reserve('A', 'L', 2) AS r1 \gset
SELECT inventory.reserve('A', 'L', 2, owner => 'o') AS r2 \gset
SELECT inventory.reserve('A', 'L', 2) AS r3 \gset
CREATE TEMP TABLE submitted AS
SELECT c.command, inventory.submit(c.command, c.arguments) AS message_id
FROM (VALUES
	('receive', '{"sku": "A", "location": "L", "quantity": 1}'::jsonb),
	('issue', '{"sku": "A", "location": "L", "quantity": 1, "lot": null}'),
	('adjust', '{"sku": "A", "location": "L", "delta": 1, "reason": "x"}'),
	('set_on_hand', '{"sku": "A", "location": "M", "quantity": 6, "expected": 6}'),
	('transfer', '{"sku": "A", "from_location": "L", "to_location": "M", "quantity": 1}'),
	('reverse', format('{"event_id": %s, "reason": "x"}', :receipt)::jsonb),
	('post', '{"movements": [{"type": "receive", "sku": "A", "location": "L", "quantity": 1}]}'),
	('post', '{"type": "receive", "skus": ["A", "B"], "locations": ["L", "L"], "quantities": [1, 2]}'),
	('reserve', '{"lines": [{"sku": "A", "location": "L", "quantity": 1}], "ttl": "1 hour"}'),
	('try_reserve', '{"sku": "A", "location": "L", "quantity": 1000000}'),
	('extend', format('{"reservation_id": %s, "ttl": "1 day"}', :r1)::jsonb),
	('confirm', format('{"reservation_id": %s}', :r1)::jsonb),
	('ship', format('{"reservation_id": %s}', :r1)::jsonb),
	('release', format('{"reservation_id": %s}', :r3)::jsonb),
	('release_owner', '{"owner": "o"}')) c(command, arguments);
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT is_empty($$SELECT s.command, c.state, c.error FROM submitted s LEFT JOIN inventory.command c USING (message_id) WHERE c.state IS DISTINCT FROM 'done'$$, 'every command is executed');
SELECT is((SELECT c.result FROM submitted s JOIN inventory.command c USING (message_id) WHERE s.command = 'try_reserve'), NULL, 'try_reserve without success is done with no result');
SELECT is((SELECT array_agg(DISTINCT command ORDER BY command) FROM submitted), (SELECT array_agg(n ORDER BY n) FROM unnest(inventory.command_names()) n), 'these are all commands');

-- ---- Sagas ----

SELECT inventory.saga('[
	{"command": "reserve", "arguments": {"sku": "A", "location": "L", "quantity": 3, "reference": "s1"}, "compensate_with": {"command": "release", "arguments": {"reservation_id": "$result"}}},
	{"command": "confirm", "arguments": {"reservation_id": "$1"}},
	{"command": "ship", "arguments": {"reservation_id": "$1", "metadata": {"first": "$1", "list": ["$2", "$$1", "$"]}}}]', 'saga-1') AS s \gset
SELECT is(inventory.saga('[
	{"command": "reserve", "arguments": {"sku": "A", "location": "L", "quantity": 3, "reference": "s1"}, "compensate_with": {"command": "release", "arguments": {"reservation_id": "$result"}}},
	{"command": "confirm", "arguments": {"reservation_id": "$1"}},
	{"command": "ship", "arguments": {"reservation_id": "$1", "metadata": {"first": "$1", "list": ["$2", "$$1", "$"]}}}]', 'saga-1'), :s::bigint, 'a saga with the same request id is the same one');
SELECT results_eq('SELECT state, done, steps FROM inventory.saga WHERE saga_id = ' || :s, $$VALUES ('running'::text, 0, 3)$$, 'a saga is running');
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT results_eq('SELECT state, done, steps FROM inventory.saga WHERE saga_id = ' || :s, $$VALUES ('running'::text, 1, 3)$$, 'one command after the other');
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT results_eq('SELECT state, done, undone, error, finished_at FROM inventory.saga WHERE saga_id = ' || :s, $$VALUES ('done'::text, 3, 0, NULL::text, inventory.clock_time())$$, 'until it is done');
SELECT is((SELECT metadata FROM inventory.event WHERE type = 'ship' ORDER BY event_id DESC LIMIT 1),
	(SELECT jsonb_build_object('first', reservation_id, 'list', jsonb_build_array(1, '$1', '$')) FROM inventory.event WHERE type = 'reserve' AND reference = 's1'), '$1 stands for the first one''s result, $$1 for itself');

SELECT inventory.saga('[
	{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 3, "reference": "s2-1"}, "compensate_with": {"command": "reverse", "arguments": {"event_id": "$result", "reason": "undo 1"}}},
	{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 4}},
	{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 5}, "compensate_with": {"command": "reverse", "arguments": {"event_id": "$3", "reason": "undo 3"}}},
	{"command": "receive", "arguments": {"sku": "NONE", "location": "L", "quantity": 5}, "compensate_with": {"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 1000}}},
	{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 6}}]') AS s \gset
SELECT public.on_hand('A') AS before \gset
DO $$ BEGIN FOR i IN 1..3 LOOP PERFORM inventory.deliver('inventory.commands'); COMMIT; END LOOP; END $$;
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT is((SELECT state FROM inventory.saga WHERE saga_id = :s), 'compensating', 'when a command is dead, those before it are compensated');
DO $$ BEGIN FOR i IN 1..3 LOOP PERFORM inventory.deliver('inventory.commands'); COMMIT; END LOOP; END $$;
SELECT results_eq('SELECT state, done, undone FROM inventory.saga WHERE saga_id = ' || :s, $$VALUES ('compensated'::text, 3, 2)$$, 'until the saga is compensated');
SELECT matches((SELECT error FROM inventory.saga WHERE saga_id = :s), '^command 4: ', 'it tells which has failed');
SELECT results_eq($$SELECT reason FROM inventory.event WHERE reason LIKE 'undo _' ORDER BY event_id$$, $$VALUES ('undo 3'::text), ('undo 1')$$, 'in reverse order, without the one that failed');
SELECT is(public.on_hand('A') - :before, 4::bigint, 'what has no compensation stays');
SELECT is((SELECT count(*) FROM inventory.saga_step WHERE saga_id = :s AND step = 5), 0::bigint, 'those after it are not executed');

SELECT inventory.saga('[
	{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 3}, "compensate_with": {"command": "reverse", "arguments": {"event_id": "$result", "reason": "a"}}},
	{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 3}, "compensate_with": {"command": "receive", "arguments": {"sku": "NONE", "location": "L", "quantity": 3}}},
	{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 3}}]') AS s \gset
DO $$ BEGIN FOR i IN 1..2 LOOP PERFORM inventory.deliver('inventory.commands'); COMMIT; END LOOP; END $$;
SELECT is(inventory.cancel((SELECT message_id FROM inventory.pending_command WHERE saga_id = :s)), true, 'a command of a saga is cancelled');
DO $$ BEGIN FOR i IN 1..3 LOOP PERFORM inventory.deliver('inventory.commands'); COMMIT; END LOOP; END $$;
SELECT results_eq('SELECT state, done, undone FROM inventory.saga WHERE saga_id = ' || :s, $$VALUES ('failed'::text, 2, 1)$$, 'a saga has failed when one of them cannot be compensated; the others are');

SELECT inventory.saga('[
	{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 3}, "compensate_with": {"command": "reverse", "arguments": {"event_id": "$result", "reason": "b"}}},
	{"command": "try_reserve", "arguments": {"sku": "A", "location": "L", "quantity": 3000000}},
	{"command": "confirm", "arguments": {"reservation_id": "$2"}}]') AS s \gset
DO $$ BEGIN FOR i IN 1..4 LOOP PERFORM inventory.deliver('inventory.commands'); COMMIT; END LOOP; END $$;
SELECT is((SELECT state FROM inventory.saga WHERE saga_id = :s), 'compensated', 'in a saga, a try_reserve that finds too little is a failure');

SELECT throws_ok($$SELECT inventory.saga('[]')$$, 'IV015', NULL, 'a saga has commands');
SELECT throws_ok($$SELECT inventory.saga('{}')$$, 'IV015', NULL, 'in an array');
SELECT throws_ok($$SELECT inventory.saga(NULL)$$, '22004', NULL, 'not NULL');
SELECT throws_ok($$SELECT inventory.saga('[{"command": "receive"}]')$$, 'IV015', NULL, 'with arguments');
SELECT throws_ok($$SELECT inventory.saga('[{"command": "release", "arguments": {"reservation_id": "$1"}}]')$$, 'IV015', 'command 1 of the saga cannot use $1', 'that use results of those before');
SELECT throws_ok($$SELECT inventory.saga('[{"command": "release", "arguments": {"reservation_id": "$result"}}]')$$, 'IV015', NULL, 'and no others');
SET ROLE inventory_pgtap_other;
SELECT is((SELECT count(*) FROM inventory.saga), 0::bigint, 'nobody sees the sagas of others');
RESET ROLE;

-- ---- Times are those of who hands in ----

SET datestyle = 'ISO, DMY';
SET timezone = 'Asia/Tokyo';
SELECT inventory.saga('[{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 1, "effective_at": "03/02/2031 01:00"}, "not_before": "13/04/2031 09:00", "deadline": "14/04/2031 09:00",
	"compensate_with": {"command": "issue", "arguments": {"sku": "A", "location": "L", "quantity": 1, "effective_at": "04/02/2031 01:00"}}}]') AS saga \gset
SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 1, "effective_at": "03/02/2031 01:00"}',
	compensate_with => '{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 1, "effective_at": "05/02/2031 01:00"}}') AS m \gset
SELECT results_eq($$SELECT payload #>> '{arguments,effective_at}', payload #>> '{compensate_with,arguments,effective_at}', payload ->> 'not_before', payload ->> 'deadline' FROM inventory.outbox WHERE topic = 'inventory.command.receive' ORDER BY message_id DESC LIMIT 2$$,
	$$VALUES ('2031-02-03T01:00:00+09:00', '2031-02-05T01:00:00+09:00', NULL, NULL), ('2031-02-03T01:00:00+09:00', NULL, '2031-04-13T09:00:00+09:00', '2031-04-14T09:00:00+09:00')$$, 'times are kept as the session means them');
SELECT is((SELECT commands #>> '{0,compensate_with,arguments,effective_at}' FROM inventory.saga_run WHERE saga_id = :saga), '2031-02-04T01:00:00+09:00', 'those of a compensation, too');
SET datestyle = 'ISO, MDY';
SET timezone = 'UTC';
SELECT lives_ok('SELECT * FROM inventory.pending_command', 'and are read with other settings');
SELECT is(inventory.deliver('inventory.commands'), 2::bigint, 'and executed');
SELECT is((SELECT effective_at FROM inventory.event ORDER BY event_id DESC LIMIT 1), '2031-02-02 16:00:00+00'::timestamptz, 'with these times');
SELECT throws_ok($$SELECT inventory.saga('[{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 1}, "deadline": 20310101}]')$$, 'IV015', NULL, 'a time is a string');
SELECT public.later('4 days') IS NULL AS done \gset
SELECT inventory.deliver('inventory.commands') AS n \gset

-- ---- What follows a dead command cannot be handed in ----

SELECT throws_ok(format('SELECT inventory.submit(%L, %L, compensate_with => %L)', 'receive', '{"sku": "A", "location": "L", "quantity": 1}',
	'{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 1, "metadata": {"a": ' || repeat('[', 3000) || repeat(']', 3000) || '}}}'), '54001', NULL, 'a compensation that cannot be handed in later is refused');
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON inventory.saga_step FOR EACH ROW WHEN (NEW.compensation) EXECUTE FUNCTION public.refuse();
SELECT inventory.saga('[{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 1}, "compensate_with": {"command": "issue", "arguments": {"sku": "A", "location": "L", "quantity": 1}}},
	{"command": "receive", "arguments": {"sku": "no such", "location": "L", "quantity": 1}}]') AS saga \gset
SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 1}') AS m \gset
SELECT cmp_ok(inventory.deliver('inventory.commands'), '>=', 2::bigint, 'commands are executed');
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT is(public.state(:m), 'done', 'those behind a dead one whose compensation cannot be handed in, too');
SELECT row_eq(format('SELECT state, error FROM inventory.saga WHERE saga_id = %s', :saga), ROW('failed'::text, 'command 2: unknown SKU "no such"; and what is to follow cannot be handed in: not today'::text), 'and the saga has failed');
DROP TRIGGER refuse ON inventory.saga_step;

-- ---- A saga of somebody whom the cluster does not have ----

SELECT inventory.saga('[{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 1}}, {"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 1}}]') AS saga \gset
-- As if it had been restored where the number of a dropped role is another one's.
SET inventory.restoring = on;
UPDATE inventory.saga_run SET submitted_as = submitted_as || '{"cluster": "elsewhere", "role": "inventory_pgtap_leaver"}', submitted_by = 'inventory_pgtap_boss' WHERE saga_id = :saga;
RESET inventory.restoring;
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT results_eq(format('SELECT state, error FROM inventory.command_result r JOIN inventory.saga_step s USING (message_id) WHERE s.saga_id = %s ORDER BY s.step', :saga),
	$$SELECT v.state, CASE WHEN v.state = 'dead' THEN format('role "inventory_pgtap_leaver", which has submitted command %s, does not exist any more', (SELECT max(message_id) FROM inventory.saga_step)) END FROM (VALUES ('done'), ('dead')) v(state)$$, 'nothing is done as somebody else');

-- ---- Cursors that are before all transactions ----

SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 1}') AS m \gset
SELECT inventory.pause('inventory.commands') IS NULL AND inventory.seek('inventory.commands', 'earliest') IS NULL AS done \gset
SELECT is(public.state(:m), 'pending', 'after seek() to the beginning a command is still pending');
SELECT is((SELECT count(*) FROM inventory.pending_command), 1::bigint, 'and no other is');
SELECT inventory.resume('inventory.commands') IS NULL AS done \gset
SELECT is(inventory.retry_pending('0'), 1::bigint, 'and can be retried');
SELECT is(public.state(:m), 'done', 'which executes it');

-- ---- Once ----

SELECT count(*) AS events FROM inventory.event \gset
SELECT inventory.seek('inventory.commands', 'earliest') IS NULL AS done \gset
SELECT cmp_ok(inventory.deliver('inventory.commands'), '>', 20::bigint, 'commands come again');
SELECT is((SELECT count(*) FROM inventory.event), :events::bigint, 'commands that are delivered again are not executed again');
SELECT is((SELECT count(*) FROM inventory.parked_message WHERE state <> 'dead'), 0::bigint, 'and nothing is parked');

-- ---- Old results ----

SELECT public.later('31 days') IS NULL AS done \gset
SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 1}') AS m \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT count(*) - 1 AS old FROM inventory.command_result \gset
SELECT is((SELECT done FROM inventory.maintain() WHERE task = 'commands removed'), :old::bigint, 'old results are removed');
SELECT is((SELECT array_agg(message_id) FROM inventory.command_result), ARRAY[:m::bigint], 'new ones stay');
SELECT is((SELECT count(*) FROM inventory.saga_run) + (SELECT count(*) FROM inventory.saga_step) + (SELECT count(*) FROM inventory.parked_message), 0::bigint, 'sagas and dead letters go with them');
SELECT count(*) AS events FROM inventory.event \gset
SELECT inventory.seek('inventory.commands', 'earliest') IS NULL AS done \gset
SELECT cmp_ok(inventory.deliver('inventory.commands'), '>', 20::bigint, 'commands come again');
SELECT is((SELECT count(*) FROM inventory.event), :events::bigint, 'and then what is delivered again is not executed either');
SELECT cmp_ok((SELECT count(*) FROM inventory.command_result WHERE state = 'dead' AND sqlstate = 'IV031'), '>', 20::bigint, 'but dead');
SELECT is((SELECT count(*) FROM inventory.outbox WHERE payload ? 'compensates' AND created_at = inventory.clock_time()), 0::bigint, 'nothing is compensated for that');

-- What waits to be delivered is not forgotten.
SELECT inventory.submit('issue', '{"sku": "A", "location": "L", "quantity": 1000000}', key => 'wait') AS waiting \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT is(inventory.cancel(:waiting), true, 'a parked command is cancelled');
SELECT public.later('31 days') IS NULL AS done \gset
SELECT done > 0 AS done FROM inventory.maintain() WHERE task = 'commands removed' \gset
SELECT is(public.state(:waiting), 'cancelled', 'its result stays while it is parked');
SELECT inventory.receive('A', 'L', 1000000) AS received \gset
SELECT inventory.deliver('inventory.commands') AS n \gset
SELECT is(public.on_hand('A') >= 1000000, true, 'so it is not executed then');
SELECT is((SELECT count(*) FROM inventory.parked_message p WHERE number = :waiting), 0::bigint, 'it is parked no more');


SELECT * FROM finish();
\c :home
DROP DATABASE :database WITH (FORCE);
DROP ROLE inventory_pgtap_clerk, inventory_pgtap_other, inventory_pgtap_boss, inventory_pgtap_reader;
