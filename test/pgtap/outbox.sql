-- Publishing, what cannot be published, and the ring of tables that messages
-- are in.
--
-- Runs in a database of its own, and stops the engine's clock.
\set database inventory_pgtap_outbox
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:00:00+00'); END $$;
SELECT no_plan();

-- ---- A message ----

SELECT inventory.publish('order.placed', 'order-1', '{"total": 12.50}', '{"trace": "abc", "ä": "ö"}') AS first \gset
SELECT results_eq(format('SELECT topic, key, payload, headers, created_at FROM inventory.outbox WHERE message_id = %s', :first),
	$$VALUES ('order.placed' COLLATE "C", 'order-1' COLLATE "C", '{"total": 12.50}'::jsonb, '{"trace": "abc", "ä": "ö"}'::jsonb, '2031-04-10 12:00:00+00'::timestamptz)$$,
	'publish() writes what it is given, at the time of the transaction');
SELECT is((SELECT count(*) FROM inventory.outbox WHERE xid = pg_current_xact_id()), 0::bigint, 'of its own transaction');
SELECT cmp_ok(inventory.publish('order.placed', NULL, NULL), '>', :first::bigint, 'key, payload and headers can be left out, and numbers go up');
SELECT is((SELECT count(*) FROM inventory.outbox WHERE key IS NULL AND payload IS NULL AND headers IS NULL), 1::bigint, 'they are NULL then');
INSERT INTO inventory.sku (sku) VALUES ('A');
INSERT INTO inventory.location (location) VALUES ('L');
SELECT cmp_ok(inventory.receive('A', 'L', 1), '>', (SELECT max(message_id) FROM inventory.outbox), 'events and messages have numbers from one sequence');
SELECT lives_ok(format('SELECT inventory.publish(%L, repeat(''k'', 1024), ''"just a string"'')', rpad('a.', 255, 'b')), 'the longest topic and key, and a payload that is no object');
SELECT lives_ok($$SELECT inventory.publish('A-Z_0.9.x', '', 'null', '{}')$$, 'all that a topic is made of, an empty key, a null, and no header');

-- ---- Nothing is left of what is undone ----

SELECT count(*) AS before FROM inventory.outbox \gset
BEGIN;
SELECT inventory.publish('order.undone', 'k', '{}') > 0 AS published;
ROLLBACK;
SELECT is((SELECT count(*) FROM inventory.outbox), :before::bigint, 'ROLLBACK leaves nothing');
BEGIN;
SELECT inventory.publish('order.kept', 'k', '{}') > 0 AS published;
SAVEPOINT s;
SELECT inventory.publish('order.undone', 'k', '{}') > 0 AS published;
ROLLBACK TO s;
SELECT inventory.publish('order.kept', 'k', '{}') > 0 AS published;
COMMIT;
SELECT is((SELECT array_agg(topic ORDER BY message_id) FROM inventory.outbox WHERE topic IN ('order.kept', 'order.undone')), '{order.kept,order.kept}', 'nor does ROLLBACK TO a savepoint');
SELECT is((SELECT count(DISTINCT xid) FROM inventory.outbox WHERE topic = 'order.kept'), 1::bigint, 'a message is of the whole transaction, also within a savepoint');
BEGIN;
SELECT inventory.publish('order.prepared', 'k', '{}') > 0 AS published;
PREPARE TRANSACTION 'outbox';
SELECT is((SELECT count(*) FROM inventory.outbox WHERE topic = 'order.prepared'), 0::bigint, 'a prepared transaction has not published yet');
COMMIT PREPARED 'outbox';
SELECT is((SELECT count(*) FROM inventory.outbox WHERE topic = 'order.prepared'), 1::bigint, 'and has when it is committed');

-- ---- What cannot be published ----

SELECT count(*) AS before FROM inventory.outbox \gset
SELECT throws_ok(format('SELECT inventory.publish(%L, NULL, NULL)', topic), 'IV023', NULL, format('topic %L is refused', left(topic, 20)))
FROM unnest(ARRAY['', '.', 'a.', '.a', 'a..b', 'a b', 'a*', '#', 'order.plätzchen', 'a/b', 'a.b,c', rpad('a', 256, 'a'), rpad('ä', 300, 'ä')]) topic;
SELECT throws_ok(format('SELECT inventory.publish(%L, NULL, NULL)', topic), 'IV023', format('topic "%s" is reserved', topic), format('topic %L is the engine''s', topic))
FROM unnest(ARRAY['inventory.event.receive', 'inventory.x', 'INVENTORY.x']) topic;
SELECT lives_ok($$SELECT inventory.publish('inventory', NULL, NULL)$$, 'topics beside those are free');
SELECT lives_ok($$SELECT inventory.publish('inventory-shop.x', NULL, NULL)$$, 'also those that begin alike');
SELECT throws_ok($$SELECT inventory.publish(NULL, 'k', '{}')$$, '22004', 'topic must not be NULL', 'there is no message without a topic');
SELECT throws_ok($$SELECT inventory.publish('a', repeat('k', 1025), '{}')$$, 'IV023', 'the key of a message can have 1024 bytes at most, not 1025', 'a key has its limit');
SELECT throws_ok(format('SELECT inventory.publish(''a'', ''k'', ''{}'', %L)', headers), 'IV023', 'invalid headers of a message', format('headers %s are refused', left(headers, 40)))
FROM unnest(ARRAY['[]', '"a"', '1', 'null', '[{"a": "b"}]', '{"a": 1}', '{"a": null}', '{"a": true}', '{"a": {"b": "c"}}', '{"a": ["b"]}', '{"": "a"}',
	'{"a": "b", "c": 1}', '{"a": "b\r\nEvil: c"}', '{"a\nb": "c"}', '{"a": "\u0001"}', format('{"%s": "a"}', repeat('n', 256))]) headers;
SELECT throws_ok($$SELECT inventory.publish('a', 'k', to_jsonb(repeat('x', 1024 * 1024)))$$, '54000', NULL, 'a payload above inventory.max_message_size is refused');
SELECT throws_ok($$SELECT inventory.publish('a', 'k', '{}', jsonb_build_object('h', repeat('x', 1024 * 1024)))$$, '54000', NULL, 'so are headers');
SELECT lives_ok($$SELECT inventory.publish('a', 'k', to_jsonb(repeat('x', 1024 * 1024 - 100)))$$, 'one just below is not');
SET inventory.max_message_size = '10kB';
SELECT throws_ok($$SELECT inventory.publish('a', 'k', to_jsonb(repeat('x', 10240)))$$, '54000', NULL, 'the limit is a setting');
RESET inventory.max_message_size;
SELECT is((SELECT count(*) FROM inventory.outbox), :before::bigint + 3, 'nothing is left of what was refused');
BEGIN READ ONLY;
SELECT throws_ok($$SELECT inventory.publish('a', 'k', '{}')$$, '25006', NULL, 'a read-only transaction does not publish');
ROLLBACK;
SELECT throws_ok(statement, 'IV016', NULL, statement || ' is refused, also by a superuser')
FROM unnest(ARRAY['INSERT INTO inventory.outbox (topic, segment) VALUES (''a'', 0)', 'INSERT INTO inventory.outbox_3 (topic, segment) VALUES (''a'', 3)',
	'UPDATE inventory.outbox SET topic = ''b''', 'UPDATE inventory.outbox_0 SET topic = ''b''', 'DELETE FROM inventory.outbox', 'DELETE FROM inventory.outbox_0',
	'TRUNCATE inventory.outbox', 'TRUNCATE inventory.outbox_0', 'UPDATE inventory.outbox_segment SET state = ''free''', 'DELETE FROM inventory.outbox_segment']) statement;
SET session_replication_role = replica;
SELECT throws_ok($$INSERT INTO inventory.outbox (topic, segment) VALUES ('a', 0)$$, 'IV016', NULL, 'INSERT is refused as a replica, too');
SELECT throws_ok($$INSERT INTO inventory.outbox_3 (topic, segment) VALUES ('a', 3)$$, 'IV016', NULL, 'and into a table of the ring');
RESET session_replication_role;

-- ---- The ring ----

CREATE FUNCTION pg_temp.ring() RETURNS text
	LANGUAGE sql AS $$SELECT string_agg(left(s.state, 2), ' ' ORDER BY s.segment) FROM inventory.outbox_segment s$$;
CREATE FUNCTION pg_temp.done() RETURNS bigint
	LANGUAGE sql AS $$SELECT m.done FROM inventory.maintain() m WHERE m.task = 'message tables closed or emptied'$$;
CREATE FUNCTION pg_temp.clock(at timestamptz) RETURNS timestamptz
	LANGUAGE sql AS $$SELECT inventory.set_test_clock(at); SELECT inventory.clock_time()$$;

SELECT is(pg_temp.ring(), 'cu fr fr fr fr fr fr fr', 'one table is current, the others are free');
SELECT is(current_setting('inventory.outbox_retention') || ', ' || current_setting('inventory.outbox_segment_size'), '1d, 256MB', 'the defaults of the ring');
-- Since its creation, which was by the wall clock.
SELECT pg_temp.clock(date_trunc('day', now()) + '1 day') AS day \gset
SELECT pg_temp.done() AS done \gset
SELECT pg_temp.ring() AS ring \gset
SELECT is((SELECT count(*) FROM inventory.outbox_segment WHERE state = 'current'), 1::bigint, 'one is current whatever is done');

-- By age.
SELECT pg_temp.clock(:'day'::timestamptz + '5 hours') AS day \gset
SELECT count(inventory.publish('ring.age', 'k' || n, '{}')) AS published FROM generate_series(1, 100) n \gset
SELECT pg_temp.done() > 0 AS done \gset
SELECT s.segment AS current, s.opened_at AS opened FROM inventory.outbox_segment s WHERE s.state = 'current' \gset
SELECT is(pg_temp.done(), 0::bigint, 'a table without messages is not closed');
SELECT inventory.publish('ring.age', 'last', '{}') AS last \gset
SELECT is((SELECT segment::integer FROM inventory.outbox WHERE message_id = :last), :current, 'messages go into the current table');
SELECT pg_temp.clock(:'opened'::timestamptz + '3:59:59') AS now \gset
SELECT is(pg_temp.done(), 0::bigint, 'one with messages stays open for a sixth of the retention');
SELECT pg_temp.clock(:'opened'::timestamptz + '4 hours') AS now \gset
SELECT is(pg_temp.done(), 1::bigint, 'and is closed then');
SELECT is((SELECT s.state || ' ' || s.closed_at FROM inventory.outbox_segment s WHERE s.segment = :current), 'closed ' || :'now', 'at that time');
SELECT inventory.publish('ring.age', 'next', '{}') AS next \gset
SELECT is((SELECT segment::integer FROM inventory.outbox WHERE message_id = :next), (:current + 1) % 8, 'the next table takes messages');

-- Emptied when the retention is over.
SELECT is((SELECT r.held_by FROM inventory.outbox_ring r WHERE r.segment = :current), 'inventory.outbox_retention', 'outbox_ring says that the retention holds it');
SELECT pg_temp.clock(:'now'::timestamptz + '23:59:59') AS later \gset
SELECT pg_temp.done() AS done \gset
SELECT is((SELECT count(*) FROM inventory.outbox WHERE message_id = :last), 1::bigint, 'a message stays for the retention after its table was closed');
SELECT pg_temp.clock(:'now'::timestamptz + '1 day') AS later \gset
SELECT is((SELECT r.held_by FROM inventory.outbox_ring r WHERE r.segment = :current), 'transactions', 'then nothing but maintenance is to come');
SELECT pg_temp.done() AS done \gset
SELECT is((SELECT count(*) FROM inventory.outbox WHERE message_id = :last), 0::bigint, 'and goes then');
SELECT is((SELECT s.state FROM inventory.outbox_segment s WHERE s.segment = :current), 'free', 'its table is free again');
SELECT is((SELECT count(*) FROM inventory.outbox WHERE message_id = :next), 1::bigint, 'those of the next table are still there');

-- By size, round and round.
SET inventory.outbox_segment_size = '64kB';
SET inventory.outbox_retention = 0;
SELECT is(bool_and(pg_temp.done() >= 0), true, 'the ring goes round') FROM generate_series(1, 3);
CREATE FUNCTION pg_temp.fill(topic text, count integer) RETURNS bigint
	LANGUAGE sql AS $$SELECT count(inventory.publish(topic, 'k', to_jsonb(repeat('x', 1000)))) FROM generate_series(1, count)$$;
SET inventory.outbox_retention = '1d';
SELECT pg_temp.fill('ring.small', 10) AS filled \gset
SELECT is(pg_temp.done(), 0::bigint, 'a table that is not full stays open');
SELECT s.segment AS current FROM inventory.outbox_segment s WHERE s.state = 'current' \gset
CREATE TEMP TABLE filled AS SELECT NULL::integer AS segment, 0::bigint AS done LIMIT 0;
DO $$
BEGIN
	FOR n IN 1..7 LOOP
		PERFORM pg_temp.fill('ring.full', 100);
		INSERT INTO pg_temp.filled SELECT (SELECT s.segment FROM inventory.outbox_segment s WHERE s.state = 'current'), pg_temp.done();
	END LOOP;
END $$;
SELECT is((SELECT count(DISTINCT segment) FROM filled WHERE done = 1), 7::bigint, 'a full table is closed, seven times in a row');
SELECT is((SELECT count(*) FROM inventory.outbox_segment WHERE state = 'closed'), 7::bigint, 'all but the current one are full now');
SELECT count(*) AS before FROM inventory.outbox \gset
SELECT pg_temp.fill('ring.over', 300) AS filled \gset
SELECT is(pg_temp.done(), 0::bigint, 'when none is free the current one is not closed');
SELECT is((SELECT count(*) FROM inventory.outbox), :before::bigint + 300, 'and grows');
SELECT cmp_ok((SELECT bytes FROM inventory.outbox_ring WHERE state = 'current'), '>', 256 * 1024::bigint, 'far above its size');
SET inventory.outbox_retention = 0;
SELECT is(pg_temp.done(), 8::bigint, 'when the retention is over all seven are emptied, and the current one is closed');
SELECT is((SELECT count(*) FROM inventory.outbox WHERE topic = 'ring.over'), 300::bigint, 'what was in the last one is left');
SELECT is(pg_temp.done(), 1::bigint, 'until it is emptied, too');
SELECT is((SELECT count(*) FROM inventory.outbox), 0::bigint, 'nothing is left in the ring');
-- Large payloads lie beside the table.
SELECT count(inventory.publish('ring.large', 'k', jsonb_build_object('x', (SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 1000 + n))))) AS published
FROM generate_series(1, 20) n \gset
SET inventory.outbox_retention = '1d';
SELECT is(pg_temp.done(), 1::bigint, 'what is stored apart counts for the size');

-- ---- Subscriptions hold it ----

SET inventory.outbox_retention = 0;
SELECT pg_temp.done() AS done \gset
CREATE TABLE public.got (topic text);
CREATE FUNCTION public.handle(message inventory.message) RETURNS void LANGUAGE sql AS 'INSERT INTO public.got VALUES (message.topic)';
SELECT inventory.subscribe('held', '{held.#}', 'function', '{"handler": "public.handle"}') > 0 AS subscribed;
SELECT inventory.subscribe('paused', '{held.#}', 'function', '{"handler": "public.handle", "workers": 2}') > 0 AS subscribed;
SELECT inventory.subscribe('events', '{inventory.event.receive}', 'function', '{"handler": "public.handle"}') > 0 AS subscribed;
SELECT inventory.pause('paused') IS NULL AS paused \gset
SELECT count(inventory.publish('held.x', 'k' || n, '{}')) AS published FROM generate_series(1, 10) n \gset
SELECT pg_temp.done() AS done \gset
SELECT is((SELECT r.subscriptions FROM inventory.outbox_ring r WHERE r.segment = (SELECT min(o.segment) FROM inventory.outbox o WHERE o.topic = 'held.x')), '{held,paused}',
	'outbox_ring names the subscriptions that have not passed a table, the paused ones, too, and not those that want events only');
SELECT is((SELECT count(*) FROM inventory.outbox WHERE topic = 'held.x'), 10::bigint, 'their messages stay');
SELECT is((SELECT DISTINCT r.held_by FROM inventory.outbox_ring r WHERE r.state = 'closed'), 'subscriptions', 'because of them');
SELECT is(inventory.deliver('held'), 10::bigint, 'one of them gets the messages');
SELECT pg_temp.done() AS done \gset
SELECT is((SELECT count(*) FROM inventory.outbox WHERE topic = 'held.x'), 10::bigint, 'they stay for the other one');
SELECT is((SELECT r.subscriptions FROM inventory.outbox_ring r WHERE r.state = 'closed'), '{paused}', 'which is named');
SELECT inventory.resume('paused') IS NULL AS resumed \gset
SELECT is(inventory.deliver('paused'), 10::bigint, 'the other one gets them late');
SELECT pg_temp.done() AS done \gset
SELECT is((SELECT count(*) FROM inventory.outbox WHERE topic = 'held.x'), 0::bigint, 'and then they go');
SELECT inventory.publish('held.y', 'k', '{}') > 0 AS published;
SELECT pg_temp.done() AS done \gset
SELECT inventory.deliver('held'), inventory.unsubscribe('paused') IS NULL AS removed \gset
SELECT pg_temp.done() AS done \gset
SELECT is((SELECT count(*) FROM inventory.outbox WHERE topic = 'held.y'), 0::bigint, 'a subscription that is removed holds nothing');

-- ---- Rollback of the maintenance itself ----

SELECT inventory.publish('ring.undone', 'k', '{}') AS kept \gset
SELECT pg_temp.ring() AS ring \gset
BEGIN;
SELECT pg_temp.done() AS done \gset
SELECT isnt(pg_temp.ring(), :'ring', 'the ring is moved');
SELECT inventory.publish('ring.undone', 'k', '{}') AS undone \gset
ROLLBACK;
SELECT is(pg_temp.ring(), :'ring', 'and back again by ROLLBACK');
SELECT inventory.publish('ring.undone', 'k', '{}') AS again \gset
SELECT is((SELECT count(DISTINCT segment) FROM inventory.outbox WHERE message_id IN (:kept, :again)), 1::bigint, 'the session that did it knows, too');

SELECT is((SELECT sum(n_dead_tup) FROM pg_stat_all_tables WHERE schemaname = 'inventory' AND relname ~ '^outbox_[0-7]$' AND n_tup_upd + n_tup_del > 0), NULL, 'no message has been updated or deleted, ever');
SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
SELECT * FROM finish();
\c :home
SET client_min_messages = warning;
DROP DATABASE :database WITH (FORCE);
