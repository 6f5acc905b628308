-- Subscriptions: what subscribe() takes and refuses, who may do what, where
-- cursors begin and go, and what becomes of parked messages.
--
-- Runs in a database of its own: what is delivered has to be committed.
\set database inventory_pgtap_subscription
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
DROP ROLE IF EXISTS inventory_pgtap_owner, inventory_pgtap_member, inventory_pgtap_other, inventory_pgtap_operator;
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
SELECT no_plan();

CREATE ROLE inventory_pgtap_owner;
CREATE ROLE inventory_pgtap_member IN ROLE inventory_pgtap_owner;
CREATE ROLE inventory_pgtap_other;
CREATE ROLE inventory_pgtap_operator;
SELECT inventory.grant_access('inventory_pgtap_owner', 'manager') IS NULL AS done \gset
SELECT inventory.grant_access('inventory_pgtap_other', 'manager') IS NULL AS done \gset
SELECT inventory.grant_access('inventory_pgtap_operator', 'operator') IS NULL AS done \gset

INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) VALUES ('A'), ('B');

CREATE SCHEMA app;
CREATE TABLE app.got (subscription text, position bigint, id text, topic text, key text, payload jsonb, attempt integer, replayed boolean);
CREATE TABLE app.failing (key text);
CREATE FUNCTION app.handle(m inventory.message) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM app.failing f WHERE f.key = m.key) THEN
		RAISE EXCEPTION 'cannot handle %', m.key;
	END IF;
	INSERT INTO app.got VALUES (m.subscription, m.position, m.id, m.topic, m.key, m.payload, m.attempt, m.replayed);
END
$$;
CREATE FUNCTION app.secret(m inventory.message) RETURNS void LANGUAGE sql AS '';
REVOKE EXECUTE ON FUNCTION app.secret(inventory.message) FROM PUBLIC;
CREATE FUNCTION app."Odd name"(m inventory.message) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION app.set(m inventory.message) RETURNS SETOF integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION app.text(m text) RETURNS void LANGUAGE sql AS '';
CREATE PROCEDURE app.proc(m inventory.message) LANGUAGE sql AS '';
GRANT USAGE ON SCHEMA app TO PUBLIC;
GRANT ALL ON app.got, app.failing TO PUBLIC;
CREATE SCHEMA closed;
CREATE FUNCTION closed.handle(m inventory.message) RETURNS void LANGUAGE sql AS '';
CREATE SERVER hook FOREIGN DATA WRAPPER inventory_http OPTIONS (url 'https://example.com/hook');
CREATE FOREIGN DATA WRAPPER other_wrapper;
CREATE SERVER stranger FOREIGN DATA WRAPPER other_wrapper;

-- What is refused

CREATE FUNCTION pg_temp.handler(options jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql
	AS $$ SELECT '{"handler": "app.handle"}' || options $$;
SELECT throws_ok(format('SELECT inventory.subscribe(%L, %L, %L, %L)', name, topics, sink, options), state, message, why)
FROM (VALUES
	(NULL, '{a}', 'function', '{}', '22004', 'name must not be NULL', 'a subscription must have a name'),
	('s', NULL, 'function', '{}', '22004', 'topics must not be NULL', 'it must have topics'),
	('s', '{a}', NULL, '{}', '22004', 'sink must not be NULL', 'it must have a sink'),
	('s', '{a}', 'function', NULL, '22004', 'options must not be NULL', 'its options must not be NULL'),
	('', '{a}', 'function', pg_temp.handler()::text, 'IV025', NULL, 'its name must not be empty'),
	('a b', '{a}', 'function', pg_temp.handler()::text, 'IV025', 'invalid name of a subscription "a b"', 'nor have a space'),
	(repeat('x', 101), '{a}', 'function', pg_temp.handler()::text, 'IV025', NULL, 'nor be too long'),
	('s', '{}', 'function', pg_temp.handler()::text, 'IV025', NULL, 'there must be a topic'),
	('s', '{a,NULL}', 'function', pg_temp.handler()::text, '22004', 'a topic must not be NULL', 'no topic may be NULL'),
	('s', '{a b}', 'function', pg_temp.handler()::text, 'IV025', 'invalid pattern of topics "a b"', 'each topic must be a pattern'),
	('s', '{inventory.event.sold}', 'function', pg_temp.handler()::text, 'IV025', NULL, 'and one that can match'),
	('s', array_fill('a'::text, ARRAY[101])::text, 'function', pg_temp.handler()::text, 'IV025', NULL, 'there may be 100 topics'),
	('s', '{a}', 'nowhere', '{}', '42704', 'there is no sink "nowhere"', 'the sink must exist'),
	('s', '{a}', 'stranger', '{}', NULL, NULL, 'a foreign server of another wrapper is no sink'),
	('s', '{a}', 'function', '[]', 'IV025', 'options must be a JSON object', 'options must be an object'),
	('s', '{a}', 'function', '7', 'IV025', 'options must be a JSON object', 'not a number'),
	('s', '{a}', 'function', '{}', 'IV025', 'sink "function" needs the option "handler"', 'a function must be named'),
	('s', '{a}', 'notify', '{}', 'IV025', 'sink "notify" needs the option "channel"', 'a channel must be named'),
	('s', '{a}', 'notify', '{"channel": ""}', 'IV025', 'invalid "channel": ""', 'and not be empty'),
	('s', '{a}', 'notify', jsonb_build_object('channel', repeat('c', 64))::text, 'IV025', NULL, 'nor be too long'),
	('s', '{a}', 'notify', '{"channel": "c", "handler": "app.handle"}', 'IV025', 'this sink has no option "handler"', 'a channel has no handler'),
	('s', '{a}', 'notify', '{"channel": "c", "workers": 2}', 'IV025', 'this sink has no option "workers"', 'nor workers'),
	('s', '{a}', 'function', '{"handler": "handle"}', 'IV025', 'invalid "handler": "handle"', 'a handler is named with its schema'),
	('s', '{a}', 'function', '{"handler": "a.b.c"}', 'IV025', NULL, 'and nothing else'),
	('s', '{a}', 'function', '{"handler": "app."}', '42602', NULL, 'it must be a name'),
	('s', '{a}', 'function', '{"handler": 3}', 'IV025', NULL, 'it must be a string'),
	('s', '{a}', 'function', '{"handler": "app.nothing"}', '42883', 'there is no function app.nothing(inventory.message)', 'it must exist'),
	('s', '{a}', 'function', '{"handler": "nowhere.nothing"}', '42883', NULL, 'also its schema'),
	('s', '{a}', 'function', '{"handler": "app.text"}', '42883', NULL, 'with the right argument'),
	('s', '{a}', 'function', '{"handler": "app.set"}', 'IV025', 'app.set(inventory.message) cannot be a handler', 'it must not return a set'),
	('s', '{a}', 'function', '{"handler": "app.proc"}', '42883', 'there is no function app.proc(inventory.message)', 'it must not be a procedure'),
	('s', '{a}', 'function', pg_temp.handler('{"colour": "red"}')::text, 'IV025', 'there is no option "colour"', 'an unknown option is named'),
	('s', '{a}', 'function', pg_temp.handler('{"replayed": true}')::text, 'IV025', 'there is no option "replayed"', 'nobody says that he replays'),
	('s', '{a}', 'hook', '{"replayed": true}', 'IV025', 'there is no option "replayed"', 'not to a server either'),
	('s', '{a}', 'function', pg_temp.handler('{"sink_owner": 10}')::text, 'IV025', 'there is no option "sink_owner"', 'nor whose the handler is'),
	('s', '{a}', 'hook', '{"timeout": "1 second"}', 'IV025', 'this sink has no option "timeout"', 'a server has a timeout of its own'),
	('inventory.commands', '{inventory.command.*}', 'function', pg_temp.handler()::text, 'IV025', 'the name of subscription "inventory.commands" is reserved', 'the name of the commands is reserved'),
	('Inventory.mine', '{a}', 'notify', '{"channel": "c"}', 'IV025', 'the name of subscription "Inventory.mine" is reserved', 'and all that begin like it'),
	('s', '{a}', 'hook', '{"colour": "red"}', NULL, NULL, 'an unknown option of a server is refused'),
	('s', '{a}', 'hook', '{"batch": 0}', 'IV025', 'invalid "batch": "0"', 'options are checked for servers, too'),
	('s', '{a}', 'hook', '{"workers": 2}', 'IV025', 'this sink has no option "workers"', 'a server has one worker')) x(name, topics, sink, options, state, message, why);

SELECT throws_ok(format('SELECT inventory.subscribe(%L, %L, %L, %L)', 's', '{a}', 'function', pg_temp.handler(jsonb_build_object(name, value))), 'IV025', format('invalid "%s": "%s"', name, value #>> '{}'),
	format('%s cannot be %s', name, value))
FROM (VALUES
	('workers', '0'::jsonb), ('workers', '65'), ('workers', '1.5'), ('workers', '-1'), ('workers', '"2"'), ('workers', '1e30'), ('workers', 'true'),
	('batch', '0'), ('batch', '10001'), ('max_attempts', '0'), ('park_limit', '0'), ('park_limit', '99999999999999999999'),
	('backoff', '"0"'), ('backoff', '"soon"'), ('backoff', '"-1 second"'), ('backoff', '5'), ('backoff', '"2 days"'), ('backoff', '"99999999999 years"'),
	('backoff_cap', '"1 year"'), ('timeout', '"0 ms"'), ('timeout', '""'), ('linger', '"2 minutes"'), ('linger', '"-1 ms"'),
	('start', '"yesterday noon or so"'), ('start', '"infinity"'), ('start', '""'), ('start', '7'), ('key_prefix', '""'), ('key_prefix', 'false')) x(name, value);
SELECT throws_ok(format('SELECT inventory.subscribe(%L, %L, %L, %L)', 's', '{a}', 'function', pg_temp.handler('{"batch": null}')), 'IV025', 'invalid "batch": "null"', 'an option cannot be null');
SELECT throws_ok(format('SELECT inventory.subscribe(%L, %L, %L, %L)', 's', '{a}', 'function', pg_temp.handler('{"batch": [1]}')), 'IV025', NULL, 'nor be an array');
SELECT throws_ok(format('SELECT inventory.subscribe(%L, %L, %L, %L)', 's', '{a}', 'function', pg_temp.handler('{"backoff": "10 s", "backoff_cap": "9 s"}')), 'IV025', '"backoff_cap" is less than "backoff"', 'the cap must not be less than the first wait');
SELECT is_empty('SELECT * FROM inventory.subscription', 'nothing of that has left anything behind');
SELECT is_empty('SELECT * FROM inventory.delivery_cursor', 'not even a cursor');

-- What is taken

SELECT lives_ok($$SELECT inventory.subscribe('odd', '{a,b.*}', 'function', '{"handler": "app.\"Odd name\""}')$$, 'a subscription is made');
SELECT is((SELECT options FROM inventory.subscription WHERE name = 'odd'), '{"handler": "app.\"Odd name\"", "start": "now", "batch": 500, "max_attempts": 10, "backoff": "1 second", "backoff_cap": "1 hour", "timeout": "30 seconds", "linger": "20 ms", "park_limit": 10000, "sink_owner": 10}'::jsonb, 'its options have their defaults');
SELECT row_eq($$SELECT owner, topics, sink, workers, state, generation FROM inventory.subscription WHERE name = 'odd'$$, ROW(current_user::regrole, '{a,b.*}'::text[], 'function'::text, 1, 'active'::text, 1::bigint), 'and the row says what was given');
SELECT throws_ok($$SELECT inventory.subscribe('odd', '{a}', 'notify', '{"channel": "c"}')$$, '42710', 'there is a subscription "odd" already', 'not twice with the same name');
SELECT lives_ok($$SELECT inventory.subscribe('sliced', '{#}', 'function', '{"handler": "app.handle", "workers": 3, "batch": 7, "max_attempts": 2, "backoff": "1 minute", "key_prefix": "A"}')$$, 'with three workers');
SELECT results_eq($$SELECT slice, cursor_no, upto IS NULL, since IS NULL FROM inventory.cursors() c JOIN inventory.subscription s USING (subscription_id) WHERE s.name = 'sliced' ORDER BY slice$$,
	'VALUES (0, 1::bigint, true, true), (1, 1, true, true), (2, 1, true, true)', 'there are three cursors');
SELECT is((SELECT count(DISTINCT epoch) FROM inventory.cursors()), 4::bigint, 'each with an epoch of its own');
SELECT ok((SELECT bool_and(position = epoch::bigint << 40) FROM inventory.cursors()), 'in which positions begin');
SELECT lives_ok($$SELECT inventory.subscribe('hooked', '{inventory.event.*}', 'hook')$$, 'to a foreign server');
SELECT lives_ok($$SELECT inventory.subscribe('bell', '{#}', 'notify', '{"channel": "stock"}')$$, 'to a channel');
SELECT lives_ok($$SELECT inventory.unsubscribe(name) FROM inventory.subscription$$, 'subscriptions are removed');
SELECT is_empty('SELECT * FROM inventory.subscription', 'all of them');
SELECT is_empty('SELECT * FROM inventory.cursors()', 'and none has a cursor any more');

-- Unknown ones

SELECT throws_ok(format('SELECT inventory.%s', call), 'IV024', 'there is no subscription "absent"', format('an unknown subscription: %s', call))
FROM unnest(ARRAY[$$unsubscribe('absent')$$, $$pause('absent')$$, $$resume('absent')$$, $$seek('absent', 'now')$$, $$skip('absent', 1)$$, $$redrive('absent')$$, $$discard('absent')$$, $$replay('absent', 'function', now())$$]) call;
SELECT throws_ok(format('SELECT inventory.%s', call), '22004', 'name must not be NULL', format('no name: %s', call))
FROM unnest(ARRAY['unsubscribe(NULL)', 'pause(NULL)', 'resume(NULL)', $$seek(NULL, 'now')$$, 'skip(NULL, 1)', 'redrive(NULL)', 'discard(NULL)', $$replay(NULL, 'function', now())$$]) call;

-- Where it begins

SELECT inventory.receive('A', 'L', 1, reference => 'before') AS event \gset
SELECT inventory.project() AS events \gset
SELECT pg_sleep(0.01), clock_timestamp() AS between_them \gset
SELECT inventory.receive('A', 'L', 2, reference => 'after') AS event \gset
SELECT inventory.project() AS events \gset
BEGIN;
SELECT inventory.receive('A', 'L', 3, reference => 'own, before') AS event \gset
SELECT inventory.subscribe('from-now', '{inventory.event.receive}', 'function', pg_temp.handler()) AS id \gset
SELECT inventory.receive('A', 'L', 4, reference => 'own, after') AS event \gset
COMMIT;
SELECT inventory.subscribe('from-earliest', '{inventory.event.receive}', 'function', pg_temp.handler('{"start": "earliest"}')) AS id \gset
SELECT inventory.subscribe('from-time', '{inventory.event.receive}', 'function', pg_temp.handler(jsonb_build_object('start', :'between_them'))) AS id \gset
SELECT inventory.subscribe('from-past', '{inventory.event.receive}', 'function', pg_temp.handler('{"start": "2001-01-01"}')) AS id \gset
SELECT inventory.deliver(name) FROM inventory.subscription \g /dev/null
CREATE VIEW pg_temp.had AS
SELECT subscription, array_agg(payload->>'reference' ORDER BY position) AS messages FROM app.got GROUP BY subscription;
SELECT is((SELECT messages FROM had WHERE subscription = 'from-now'), '{"own, before","own, after"}', 'now: what is not committed yet is delivered, the own transaction included');
SELECT is((SELECT messages FROM had WHERE subscription = 'from-earliest'), '{before,after,"own, before","own, after"}', 'earliest: all of it');
SELECT is((SELECT messages FROM had WHERE subscription = 'from-time'), '{after,"own, before","own, after"}', 'a time: what is later');
SELECT is((SELECT messages FROM had WHERE subscription = 'from-past'), '{before,after,"own, before","own, after"}', 'a time before everything');
SELECT is((SELECT array_agg(position - (SELECT min(position) FROM app.got WHERE subscription = 'from-earliest') ORDER BY position) FROM app.got WHERE subscription = 'from-earliest'), '{0,1,2,3}', 'positions have no gaps');
SELECT ok((SELECT c.cursor_no > 1 AND c.position & 1099511627775 = 3 FROM inventory.cursors() c JOIN inventory.subscription s USING (subscription_id) WHERE name = 'from-time'), 'the cursor has moved by three messages');

-- seek()

SELECT max(position) AS last FROM app.got WHERE subscription = 'from-now' \gset
TRUNCATE app.got;
SELECT inventory.seek('from-now', 'earliest') IS NULL AS done \gset
SELECT is((SELECT generation FROM inventory.subscription WHERE name = 'from-now'), 2::bigint, 'a change counts the generation up');
SELECT inventory.deliver('from-now') AS messages \gset
SELECT is((SELECT messages FROM had), '{before,after,"own, before","own, after"}', 'seek() to earliest delivers all again');
SELECT cmp_ok((SELECT min(position) FROM app.got), '>', :last, 'with higher positions');
TRUNCATE app.got;
SELECT inventory.seek('from-now', :'between_them') IS NULL AS done \gset
SELECT inventory.deliver('from-now') AS messages \gset
SELECT is((SELECT messages FROM had), '{after,"own, before","own, after"}', 'seek() to a time delivers what is later');
TRUNCATE app.got;
SELECT inventory.seek('from-now', 'earliest') IS NULL AS done \gset
SELECT inventory.seek('from-now', 'now') IS NULL AS done \gset
SELECT is(inventory.deliver('from-now'), 0::bigint, 'seek() to now passes over everything');
SELECT inventory.receive('A', 'L', 5, reference => 'later') AS event \gset
SELECT inventory.deliver('from-now') AS messages \gset
SELECT is((SELECT messages FROM had), '{later}', 'but what comes');
SELECT throws_ok($$SELECT inventory.seek('from-now', 'then')$$, 'IV025', 'invalid "to": "then"', 'seek() to no time');
SELECT throws_ok($$SELECT inventory.seek('from-now', 'infinity')$$, 'IV025', 'invalid "to": "infinity"', 'seek() to infinity');
SELECT throws_ok($$SELECT inventory.seek('from-now', NULL)$$, '22004', 'to must not be NULL', 'seek() to NULL');

-- pause() and resume()

SELECT inventory.pause('from-now') IS NULL AS done \gset
SELECT is((SELECT state FROM inventory.stat_subscription WHERE subscription = 'from-now'), 'paused', 'a subscription is paused');
SELECT generation AS generation FROM inventory.subscription WHERE name = 'from-now' \gset
SELECT lives_ok($$SELECT inventory.pause('from-now')$$, 'pausing it again does nothing');
SELECT is((SELECT generation FROM inventory.subscription WHERE name = 'from-now'), :generation::bigint, 'not even to its generation');
SELECT lives_ok($$SELECT inventory.resume('from-now')$$, 'it goes on');
SELECT is((SELECT state FROM inventory.subscription WHERE name = 'from-now'), 'active', 'and is active');
SELECT lives_ok($$SELECT inventory.resume('from-now')$$, 'resuming it again does nothing');

-- Parked messages

SELECT inventory.subscribe('parking', '{inventory.event.adjust}', 'function', pg_temp.handler('{"max_attempts": 2, "backoff": "1 hour"}')) AS parking \gset
INSERT INTO app.failing VALUES ('A@L');
TRUNCATE app.got;
SELECT inventory.adjust('A', 'L', 1, 'a1') AS event \gset
SELECT inventory.adjust('B', 'L', 1, 'b1') AS event \gset
SELECT inventory.adjust('A', 'L', 2, 'a2') AS event \gset
SELECT inventory.adjust('A', 'L', 3, 'a3') AS event \gset
SELECT inventory.deliver('parking') AS messages \gset
SELECT results_eq('SELECT state, payload->>$$reason$$, attempts, due_at IS NULL FROM inventory.parked ORDER BY position',
	$$VALUES ('retry', 'a1', 1, false), ('deferred', 'a2', 0, true), ('deferred', 'a3', 0, true)$$, 'a message that fails is parked, those with its key behind it');
SELECT is((SELECT array_agg(payload->>'reason') FROM app.got), '{b1}', 'others are delivered');
SELECT row_eq($$SELECT parked, blocked_keys, dead FROM inventory.stat_subscription WHERE subscription = 'parking'$$, ROW(3::bigint, 1::bigint, 0::bigint), 'stat_subscription counts them');
SELECT position AS first FROM inventory.parked ORDER BY position LIMIT 1 \gset
SELECT throws_ok(format($$SELECT inventory.skip('parking', %s)$$, :first - 1000), 'IV029', NULL, 'a position with nothing parked is not skipped');
SELECT throws_ok($$SELECT inventory.skip('parking', NULL)$$, '22004', NULL, 'nor NULL');
SELECT throws_ok(format($$SELECT inventory.redrive('parking', %s)$$, :first + 2), 'IV029', NULL, 'one that waits for another is not redriven');
SELECT is(inventory.redrive('parking'), 0::bigint, 'nothing is dead yet');
SELECT inventory.skip('parking', :first) IS NULL AS done \gset
SELECT results_eq('SELECT state, payload->>$$reason$$, due_at <= clock_timestamp() FROM inventory.parked ORDER BY position',
	$$VALUES ('retry', 'a2', true), ('deferred', 'a3', NULL)$$, 'when the first is skipped, the next is tried');
SELECT results_eq('SELECT state, payload->>$$reason$$ FROM inventory.dead_letter', $$VALUES ('skipped', 'a1')$$, 'the skipped one is a dead letter');
SELECT throws_ok(format($$SELECT inventory.skip('parking', %s)$$, :first), 'IV029', NULL, 'it is not skipped twice');
SELECT is(inventory.redrive('parking', :first), 1::bigint, 'it is redriven by its position');
SELECT results_eq('SELECT state, payload->>$$reason$$, attempts FROM inventory.parked ORDER BY position',
	$$VALUES ('retry', 'a1', 0), ('deferred', 'a2', 0), ('deferred', 'a3', 0)$$, 'and then comes before the others of its key');
SELECT inventory.deliver('parking') AS messages \gset
SELECT inventory.redrive('parking', :first) AS count \gset
SELECT inventory.skip('parking', position) IS NULL AS done FROM inventory.parked WHERE payload->>'reason' = 'a3' \gset
SELECT is((SELECT array_agg(payload->>'reason' ORDER BY position) FROM inventory.parked), '{a1,a2}', 'one in the middle is skipped without the first');
UPDATE app.failing SET key = 'none';
SELECT inventory.deliver('parking') AS messages \gset
SELECT inventory.deliver('parking') AS messages \gset
SELECT is((SELECT array_agg(payload->>'reason' ORDER BY position) FROM app.got WHERE key = 'A@L'), '{a1,a2}', 'when the handler can, they are delivered in order');
SELECT is((SELECT min(position) FROM app.got WHERE key = 'A@L'), :first::bigint, 'with the positions they had');
SELECT is_empty('SELECT * FROM inventory.parked', 'and nothing is parked');
SELECT is(inventory.discard('parking'), 1::bigint, 'dead letters are discarded');
SELECT is_empty('SELECT * FROM inventory.dead_letter', 'and gone');
SELECT throws_ok(format($$SELECT inventory.discard('parking', %s)$$, :first), 'IV029', NULL, 'not again');

-- Dead ones

UPDATE app.failing SET key = 'A@L';
SELECT inventory.adjust('A', 'L', 1, 'a4') AS event \gset
SELECT inventory.adjust('A', 'L', 1, 'a5') AS event \gset
SELECT inventory.deliver('parking') AS messages \gset
SELECT position AS fourth FROM inventory.parked ORDER BY position LIMIT 1 \gset
SELECT inventory.redrive('parking', :fourth) AS count \gset
SELECT inventory.deliver('parking') AS messages \gset
DO $$ BEGIN PERFORM inventory.set_test_clock(clock_timestamp() + interval '1 day'); END $$;
SELECT inventory.deliver('parking') FROM generate_series(1, 6) \g /dev/null
SELECT results_eq('SELECT state, payload->>$$reason$$, attempts FROM inventory.dead_letter ORDER BY position', $$VALUES ('dead', 'a4', 2)$$, 'after max_attempts a message is dead');
SELECT is(inventory.redrive('parking'), 1::bigint, 'dead messages are redriven all at once');
SELECT results_eq('SELECT state, payload->>$$reason$$, attempts FROM inventory.parked ORDER BY position', $$VALUES ('retry', 'a4', 0), ('deferred', 'a5', 1)$$, 'the first of the key before those that have waited');
DELETE FROM app.failing;
SELECT inventory.deliver('parking') FROM generate_series(1, 3) \g /dev/null
SELECT is((SELECT array_agg(payload->>'reason' ORDER BY position) FROM app.got WHERE key = 'A@L'), '{a1,a2,a4,a5}', 'they come in order');
DO $$ BEGIN PERFORM inventory.set_test_clock(NULL); END $$;

-- replay()

TRUNCATE app.got;
SELECT inventory.replay('from-now', 'function', :'between_them', options => pg_temp.handler()) AS replay \gset
SELECT matches(:'replay'::text, '^from-now\.replay-[0-9]+$', 'a replay has a name of its own');
SELECT row_eq(format('SELECT topics, options->%L, state FROM inventory.subscription WHERE name = %L', 'replayed', :'replay'), ROW('{inventory.event.receive}'::text[], 'true'::jsonb, 'active'::text), 'the topics of the original, and says that it is one');
SELECT inventory.deliver(:'replay') AS messages \gset
SELECT inventory.deliver(:'replay') AS messages \gset
SELECT is((SELECT messages FROM had), '{after,"own, before","own, after",later}', 'it delivers what was since');
SELECT ok((SELECT bool_and(replayed) FROM app.got), 'as replayed');
SELECT lives_ok(format('SELECT inventory.unsubscribe(%L)', :'replay'), 'and can be removed');
SELECT throws_ok(format('SELECT inventory.replay(%L, %L, %s, %s, %L)', 'from-now', 'function', since, until, options), state, NULL, why)
FROM (VALUES ('NULL', 'NULL', '{"handler": "app.handle"}', '22004', 'a replay has a beginning'),
	('now()', $$now() - interval '1 day'$$, '{"handler": "app.handle"}', 'IV025', 'before its end'),
	($$now() + interval '1 day'$$, 'NULL', '{"handler": "app.handle"}', 'IV025', 'which is now'),
	($$'-infinity'$$, 'NULL', '{"handler": "app.handle"}', 'IV025', 'it is finite'),
	($$'2001-01-01'$$, 'NULL', '{}', 'IV025', 'its options are those of its sink'),
	($$'2001-01-01'$$, 'NULL', '{"handler": "app.handle", "workers": 2}', 'IV025', 'it has one worker'),
	($$'2001-01-01'$$, 'NULL', '{"handler": "app.handle", "start": "now"}', 'IV025', 'and no other start')) x(since, until, options, state, why);

-- Who may

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
SELECT is(public.outcome(role, format('SELECT inventory.subscribe(%L, %L, %L, %L)', 'x', '{a}', sink, options)), state, why)
FROM (VALUES
	('inventory_pgtap_owner', 'function', '{"handler": "app.handle"}', 'ok', 'a manager subscribes with a handler he may execute'),
	('inventory_pgtap_owner', 'function', '{"handler": "app.secret"}', '42501', 'not with another one'),
	('inventory_pgtap_owner', 'function', '{"handler": "closed.handle"}', '42501', 'nor with one in a schema he may not use'),
	('inventory_pgtap_owner', 'hook', '{}', '42501', 'nor to a server he may not use'),
	('inventory_pgtap_owner', 'command', '{}', '42501', 'nor to the engine''s own sink'),
	('inventory_pgtap_owner', 'notify', '{"channel": "c"}', 'ok', 'but to a channel'),
	('inventory_pgtap_operator', 'notify', '{"channel": "c"}', '42501', 'an operator does not subscribe')) x(role, sink, options, state, why);
GRANT EXECUTE ON FUNCTION app.secret(inventory.message) TO inventory_pgtap_owner;
GRANT USAGE ON FOREIGN SERVER hook TO inventory_pgtap_owner;
SELECT is(public.outcome('inventory_pgtap_owner', $$SELECT inventory.subscribe('x', '{a}', 'function', '{"handler": "app.secret"}')$$), 'ok', 'EXECUTE on the handler is what it takes');
SELECT is(public.outcome('inventory_pgtap_owner', $$SELECT inventory.subscribe('x', '{a}', 'hook')$$), 'ok', 'or USAGE on the server');
SELECT is(public.outcome('inventory_pgtap_other', $$SELECT inventory.subscribe('x', '{a}', 'hook')$$), '42501', 'of one''s own');

SET ROLE inventory_pgtap_owner;
SELECT inventory.subscribe('theirs', '{inventory.event.adjust}', 'function', '{"handler": "app.handle", "backoff": "1 hour"}') AS theirs \gset
SELECT inventory.subscribe('hidden', '{a}', 'function', '{"handler": "app.secret"}') AS hidden \gset
RESET ROLE;
SELECT is((SELECT owner FROM inventory.subscription WHERE name = 'theirs'), 'inventory_pgtap_owner'::regrole, 'who subscribes is the owner');
INSERT INTO app.failing VALUES ('B@L');
SELECT inventory.adjust('B', 'L', 1, 'secret') AS event \gset
SELECT inventory.deliver('theirs') AS messages \gset
SELECT position AS parked FROM inventory.parked WHERE subscription = 'theirs' \gset
SELECT is(public.outcome(role, format(call, 'theirs', :parked)), CASE WHEN may THEN 'ok' ELSE '42501' END, format('%s %s %s', role, CASE WHEN may THEN 'may' ELSE 'may not' END, call))
FROM (VALUES ('inventory_pgtap_owner', true), ('inventory_pgtap_member', true), ('inventory_pgtap_other', false), ('inventory_pgtap_operator', false)) r(role, may),
	unnest(ARRAY['SELECT inventory.pause(%1$L)', 'SELECT inventory.pause(%1$L), inventory.resume(%1$L)', 'SELECT inventory.seek(%1$L, $$now$$)', 'SELECT inventory.skip(%1$L, %2$s)',
		'SELECT inventory.redrive(%1$L)', 'SELECT inventory.discard(%1$L)', 'SELECT inventory.unsubscribe(%1$L)', 'SELECT inventory.replay(%1$L, $$notify$$, $$2001-01-01$$, options => $${"channel": "c"}$$)']) call;
CREATE FUNCTION public.rows_of(role text, query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	EXECUTE query INTO n;
	RESET ROLE;
	RETURN n;
END
$$;
SELECT is(public.rows_of(role, 'SELECT count(*) FROM inventory.parked'), n, format('%s sees %s parked messages', role, n))
FROM (VALUES ('inventory_pgtap_owner', 1::bigint), ('inventory_pgtap_member', 1), ('inventory_pgtap_other', 0), ('inventory_pgtap_operator', 0), (current_user, 1)) r(role, n);
SELECT is(public.outcome(role, 'SELECT * FROM inventory.parked_message'), '42501', format('%s does not read the table', role))
FROM unnest(ARRAY['inventory_pgtap_owner', 'inventory_pgtap_other', 'inventory_pgtap_operator']) role;
CREATE FUNCTION app.peek(payload jsonb) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE EXCEPTION 'seen: %', payload; END $$;
SELECT is(public.outcome('inventory_pgtap_other', 'SELECT * FROM inventory.parked WHERE app.peek(payload)'), 'ok', 'a cheap function in WHERE does not see them either');
SELECT is(public.rows_of('inventory_pgtap_other', 'SELECT parked FROM inventory.stat_subscription WHERE subscription = $$theirs$$'), 1::bigint, 'how many they are is no secret');

-- Nothing by hand

SELECT throws_ok(statement, 'IV016', NULL, format('the engine only: %s', statement))
FROM unnest(ARRAY['UPDATE inventory.subscription SET owner = $$postgres$$', 'DELETE FROM inventory.subscription', 'INSERT INTO inventory.delivery_cursor SELECT * FROM inventory.delivery_cursor LIMIT 1',
	'TRUNCATE inventory.delivery_cursor_0', 'UPDATE inventory.delivery_cursor_1 SET epoch = 1', 'DELETE FROM inventory.parked_message', 'UPDATE inventory.parked_message SET payload = NULL']) statement;
BEGIN TRANSACTION READ ONLY;
SELECT throws_ok(statement, '25006', NULL, format('not in a read-only transaction: %s', statement))
FROM unnest(ARRAY[$$SELECT inventory.subscribe('r', '{a}', 'notify', '{"channel": "c"}')$$, $$SELECT inventory.pause('theirs')$$, $$SELECT inventory.seek('theirs', 'now')$$, $$SELECT inventory.unsubscribe('theirs')$$]) statement;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) AS subscriptions FROM inventory.subscription \gset
SELECT lives_ok($$SELECT inventory.pause('theirs'), inventory.resume('theirs'), inventory.seek('theirs', 'earliest'), inventory.subscribe('r', '{a}', 'notify', '{"channel": "c"}'), inventory.unsubscribe('r')$$, 'everything works in a serializable transaction');
ROLLBACK;

-- What is gone under a subscription

SELECT inventory.pause('hidden') IS NULL AS done \gset
REVOKE EXECUTE ON FUNCTION app.secret(inventory.message) FROM inventory_pgtap_owner;
SELECT throws_ok($$SELECT inventory.resume('hidden')$$, '42501', NULL, 'resume() looks whether the owner may still execute the handler');
GRANT EXECUTE ON FUNCTION app.secret(inventory.message) TO inventory_pgtap_owner;
SELECT lives_ok($$SELECT inventory.resume('hidden')$$, 'and goes on when he may');
DROP FUNCTION app.secret(inventory.message);
SELECT is((SELECT state FROM inventory.stat_subscription WHERE subscription = 'hidden'), 'broken', 'without its handler a subscription is broken');
SELECT inventory.pause('hidden') IS NULL AS done \gset
SELECT throws_ok($$SELECT inventory.resume('hidden')$$, '42883', NULL, 'and does not go on');
SELECT inventory.subscribe('hooked', '{a}', 'hook') AS hooked \gset
ALTER SERVER hook RENAME TO hook2;
SELECT is((SELECT state FROM inventory.stat_subscription WHERE subscription = 'hooked'), 'broken', 'so it is when its server has another name');
ALTER SERVER hook2 RENAME TO hook;
SELECT is((SELECT state FROM inventory.stat_subscription WHERE subscription = 'hooked'), 'stopped', 'and not when it has the old one again');
DROP SERVER hook;
SELECT is((SELECT state FROM inventory.stat_subscription WHERE subscription = 'hooked'), 'broken', 'or none');
SELECT lives_ok($$SELECT inventory.unsubscribe('hooked')$$, 'it can be removed');
DROP OWNED BY inventory_pgtap_owner, inventory_pgtap_member;
DROP ROLE inventory_pgtap_member, inventory_pgtap_owner;
SELECT is((SELECT state FROM inventory.stat_subscription WHERE subscription = 'theirs'), 'broken', 'without its owner a subscription is broken');
SELECT lives_ok($$SELECT * FROM inventory.parked$$, 'what is parked can be read');
SELECT inventory.pause('theirs') IS NULL AS done \gset
SELECT throws_ok($$SELECT inventory.resume('theirs')$$, '42704', 'the owner of subscription "theirs" does not exist any more', 'it does not go on');
SELECT lives_ok($$SELECT inventory.unsubscribe('theirs'), inventory.unsubscribe('hidden')$$, 'and can be removed');

-- The journal

SELECT inventory.subscribe('idle', '{never}', 'notify', '{"channel": "c", "start": "2001-01-01"}') AS idle \gset
CREATE TEMP TABLE idle_cursor AS SELECT * FROM inventory.cursors() WHERE subscription_id = :idle;
SELECT inventory.seek('from-now', 'now') FROM generate_series(1, 9000) \g /dev/null
SELECT cmp_ok((SELECT sum(pg_relation_size(c)) FROM unnest(ARRAY['inventory.delivery_cursor_0', 'inventory.delivery_cursor_1']::regclass[]) c), '>', 512000::numeric, 'a cursor that moves often fills the journal');
CREATE TEMP TABLE cursor_before AS SELECT subscription_id, slice, cursor_no, after::text, position, since FROM inventory.cursors();
SELECT task, done FROM inventory.maintain() \g /dev/null
SELECT cmp_ok((SELECT sum(pg_relation_size(c)) FROM unnest(ARRAY['inventory.delivery_cursor_0', 'inventory.delivery_cursor_1']::regclass[]) c), '<', 540000::numeric, 'maintain() empties it');
SELECT set_eq('SELECT subscription_id, slice, cursor_no, after::text, position, since FROM inventory.cursors()', 'SELECT * FROM cursor_before', 'every cursor is what it was');
SELECT results_eq('SELECT cursor_no, after::text, since FROM inventory.cursors() WHERE subscription_id = ' || :idle, 'SELECT cursor_no, after::text, since FROM idle_cursor', 'also of a subscription that has not moved');
SELECT is_empty('SELECT * FROM inventory.delivery_cursor c WHERE NOT EXISTS (SELECT FROM inventory.subscription s WHERE s.subscription_id = c.subscription_id)', 'those of removed subscriptions are gone');
SELECT inventory.subscribe('many-' || n, '{never}', 'notify', '{"channel": "c"}') FROM generate_series(1, 5000) n \g /dev/null
SELECT cmp_ok((SELECT max(pg_relation_size(c)) FROM unnest(ARRAY['inventory.delivery_cursor_0', 'inventory.delivery_cursor_1']::regclass[]) c), '>=', 64 * 8192::bigint, 'thousands of subscriptions fill it, too');
SELECT is((SELECT sum(done) FROM generate_series(1, 3), inventory.maintain() WHERE task = 'journals of cursors emptied'), 0::numeric, 'they are not carried to and fro');
SELECT inventory.unsubscribe(name) FROM inventory.subscription WHERE name LIKE 'many-%' AND name <> 'many-1' \g /dev/null
SELECT is((SELECT sum(done) FROM inventory.maintain() WHERE task = 'journals of cursors emptied'), 1::numeric, 'until it is worth it');
SELECT is((SELECT count(*) FROM inventory.cursors() JOIN inventory.subscription USING (subscription_id) WHERE name = 'many-1'), 1::bigint, 'and what counts is still there');

DROP OWNED BY inventory_pgtap_other, inventory_pgtap_operator;
DROP ROLE inventory_pgtap_other, inventory_pgtap_operator;
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
