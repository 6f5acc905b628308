-- Delivery to SQL handlers, by deliver(): what is delivered, in what order, and
-- what becomes of messages that fail.
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:00:00+00'); END $$;
SELECT no_plan();

CREATE SCHEMA dl;
CREATE TABLE dl.got (
	n bigserial, subscription text, id text, topic text, key text, payload jsonb, headers jsonb,
	created_at timestamptz, number bigint, "position" bigint, attempt integer, replayed boolean, as_role text);
-- What the handler does is told by the payload.
CREATE FUNCTION dl.handle(message inventory.message) RETURNS void
	LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO dl.got (subscription, id, topic, key, payload, headers, created_at, number, "position", attempt, replayed, as_role)
	SELECT message.subscription, message.id, message.topic, message.key, message.payload, message.headers,
		message.created_at, message.number, message.position, message.attempt, message.replayed, current_user;
	IF message.payload ? 'fail' AND message.attempt <= (message.payload->>'fail')::integer THEN
		RAISE EXCEPTION 'attempt % fails', message.attempt;
	END IF;
	IF message.payload ? 'refuse' THEN
		RAISE EXCEPTION 'not this one' USING ERRCODE = 'IV028';
	END IF;
END
$$;
CREATE FUNCTION dl.keys(subscription text) RETURNS text
	LANGUAGE sql AS $$
	SELECT string_agg(g.key || coalesce(g.payload->>'n', ''), ' ' ORDER BY g.n) FROM dl.got g WHERE g.subscription = $1
$$;

-- ---- What is delivered ----

SELECT is(inventory.publish('dl.before', 'k', '{}') > 0, true, 'a message from before the subscription');
SELECT inventory.subscribe('dl-all', '{dl.#}', 'function', '{"handler": "dl.handle", "max_attempts": 3}') > 0 AS subscribed;
SELECT is(inventory.deliver('dl-all'), 0::bigint, 'the subscription begins now');
SELECT inventory.publish('dl.one', 'k', '{"n": 1}', '{"trace": "abc"}') AS one \gset
SELECT is(inventory.deliver('dl-all'), 1::bigint, 'one message is delivered');
SELECT results_eq('SELECT topic, key, payload, headers, number, attempt, replayed FROM dl.got',
	format('VALUES (%L, %L, %L::jsonb, %L::jsonb, %s::bigint, 1, false)', 'dl.one', 'k', '{"n": 1}', '{"trace": "abc"}', :one),
	'with all that belongs to it');
SELECT is(id, format('message-%s-%s', :one, to_hex((extract(epoch FROM timestamptz '2031-04-10 12:00:00+00' - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint)),
	'its id is its number and its time') FROM dl.got;
SELECT is(inventory.deliver('dl-all'), 0::bigint, 'and only once');

BEGIN;
SELECT inventory.publish('dl.undone', 'k', '{}') > 0 AS published;
ROLLBACK;
BEGIN;
SELECT inventory.publish('dl.kept', 'k', '{"n": 2}') > 0 AS published;
SAVEPOINT s;
SELECT inventory.publish('dl.undone', 'k', '{}') > 0 AS published;
ROLLBACK TO s;
SELECT inventory.publish('dl.kept', 'k', '{"n": 3}') > 0 AS published;
COMMIT;
SELECT inventory.publish('other.topic', 'k', '{}') > 0 AS published;
TRUNCATE dl.got;
SELECT is(inventory.deliver('dl-all'), 2::bigint, 'what was rolled back, in whole or in part, and other topics are not delivered');
SELECT is(dl.keys('dl-all'), 'k2 k3', 'what was committed is, in order');

-- In a transaction that is rolled back, effects and cursor go together.
TRUNCATE dl.got;
SELECT inventory.publish('dl.again', 'k', '{"n": 4}') > 0 AS published;
BEGIN;
SELECT is(inventory.deliver('dl-all'), 1::bigint, 'delivered in a transaction');
ROLLBACK;
SELECT is((SELECT count(*) FROM dl.got), 0::bigint, 'that is rolled back');
SELECT is(inventory.deliver('dl-all'), 1::bigint, 'it is delivered again');
SELECT is(dl.keys('dl-all'), 'k4', 'its effect is there once');
BEGIN;
SELECT inventory.publish('dl.own', 'k', '{}') > 0 AS published;
SELECT is(inventory.deliver('dl-all'), 0::bigint, 'a transaction does not deliver what it has not committed');
COMMIT;
SELECT is(inventory.deliver('dl-all'), 1::bigint, 'but the next one does');

-- Many, in pieces.
TRUNCATE dl.got;
SELECT count(inventory.publish('dl.many', 'k' || n % 7, jsonb_build_object('n', n))) AS published FROM generate_series(1, 2500) n;
SELECT is(inventory.deliver('dl-all', 1000), 1000::bigint, 'no more than asked for');
SELECT is(inventory.deliver('dl-all', 1), 1::bigint, 'one more');
SELECT is(inventory.deliver('dl-all'), 1499::bigint, 'and the rest');
SELECT is((SELECT count(DISTINCT id) FROM dl.got), 2500::bigint, 'each once');
SELECT is_empty('SELECT * FROM (SELECT number, lag(number) OVER (ORDER BY n) AS before FROM dl.got) g WHERE number <= before',
	'in the order of their numbers');
SELECT is_empty('SELECT * FROM (SELECT "position", lag("position") OVER (ORDER BY n) AS before FROM dl.got) g WHERE "position" <> before + 1',
	'with positions without a gap');

-- ---- Events ----

INSERT INTO inventory.location (location) VALUES ('dl-L');
INSERT INTO inventory.sku (sku, tracking) VALUES ('dl-A', 'none'), ('dl-T', 'lot');
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'lot 1' FROM inventory.sku WHERE sku = 'dl-T';
SELECT inventory.subscribe('dl-events', '{inventory.event.*}', 'function', '{"handler": "dl.handle"}') > 0 AS subscribed;
SELECT inventory.subscribe('dl-issues', '{inventory.event.issue}', 'function', '{"handler": "dl.handle", "key_prefix": "dl-A@"}') > 0 AS subscribed;
TRUNCATE dl.got;
SELECT inventory.receive('dl-A', 'dl-L', 10, reference => 'PO 1', metadata => '{"a": 1}') AS receipt \gset
SELECT inventory.receive('dl-T', 'dl-L', 5, lot => 'lot 1') AS lot_receipt \gset
SELECT inventory.issue('dl-A', 'dl-L', 2) AS issued \gset
SELECT inventory.issue('dl-T', 'dl-L', 1, lot => 'lot 1') AS lot_issued \gset
SELECT is(inventory.deliver('dl-events'), 4::bigint, 'events are messages');
SELECT is((SELECT string_agg(topic || ' ' || key || ' ' || (payload->>'on_hand_delta'), ', ' ORDER BY n) FROM dl.got),
	'inventory.event.receive dl-A@dl-L 10, inventory.event.receive dl-T@dl-L 5, inventory.event.issue dl-A@dl-L -2, inventory.event.issue dl-T@dl-L -1',
	'by type, with the stock item as key');
SELECT is((SELECT payload - 'actor' - 'recorded_at' FROM dl.got WHERE number = :receipt),
	jsonb_build_object('event_id', :receipt, 'type', 'receive', 'sku', 'dl-A', 'location', 'dl-L', 'condition', 'good',
		'on_hand_delta', 10, 'reserved_delta', 0, 'committed_delta', 0, 'reference', 'PO 1', 'metadata', '{"a": 1}'::jsonb),
	'the payload is the event');
SELECT is((SELECT payload->>'recorded_at' FROM dl.got WHERE number = :receipt), '2031-04-10T12:00:00Z', 'times are RFC 3339');
SELECT is((SELECT payload->>'lot' FROM dl.got WHERE number = :lot_receipt), 'lot 1', 'with the lot');
TRUNCATE dl.got;
SELECT is(inventory.deliver('dl-issues'), 1::bigint, 'a subscription chooses by type and by prefix of the key');
SELECT is((SELECT number FROM dl.got), :issued::bigint, 'the right one');

-- ---- Messages that fail ----

TRUNCATE dl.got;
SELECT inventory.publish('dl.fail', 'a', '{"n": 1, "fail": 1}') > 0,
	inventory.publish('dl.fail', 'a', '{"n": 2}') > 0,
	inventory.publish('dl.fail', 'b', '{"n": 3}') > 0,
	inventory.publish('dl.fail', NULL, '{"n": 4}') > 0 AS published;
SELECT is(inventory.deliver('dl-all'), 4::bigint, 'all are dealt with');
SELECT is((SELECT string_agg(coalesce(key, '-') || (payload->>'n'), ' ' ORDER BY n) FROM dl.got), 'b3 -4',
	'a message that fails leaves nothing; the others go on, but not those of its key');
SELECT results_eq('SELECT key COLLATE "default", state, attempts FROM inventory.parked_message ORDER BY position',
	$$VALUES ('a', 'retry', 1), ('a', 'deferred', 0)$$, 'it is parked, and what comes after it waits behind it');
SELECT is((SELECT last_error FROM inventory.parked_message WHERE state = 'retry'), 'attempt 1 fails', 'with the error');
SELECT inventory.publish('dl.fail', 'a', '{"n": 5}') > 0 AS published;
SELECT is(inventory.deliver('dl-all'), 1::bigint, 'a later message of the key');
SELECT is((SELECT count(*) FROM inventory.parked_message WHERE state = 'deferred'), 2::bigint, 'waits as well');
TRUNCATE dl.got;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:01:00+00'); END $$;
SELECT is(inventory.deliver('dl-all'), 3::bigint, 'when it is due');
SELECT is(dl.keys('dl-all'), 'a1 a2 a5', 'it is tried again, and then the others, in order');
SELECT is((SELECT string_agg(attempt::text, ' ' ORDER BY n) FROM dl.got), '2 1 1', 'the attempt is told');
SELECT is((SELECT count(*) FROM inventory.parked_message), 0::bigint, 'nothing is parked');

-- One that fails for ever.
TRUNCATE dl.got;
SELECT inventory.publish('dl.fail', 'c', '{"n": 1, "fail": 99}') > 0, inventory.publish('dl.fail', 'c', '{"n": 2}') > 0 AS published;
SELECT is(inventory.deliver('dl-all'), 2::bigint, 'first attempt');
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:02:00+00'); END $$;
SELECT is(inventory.deliver('dl-all'), 1::bigint, 'second attempt');
SELECT is(dl.keys('dl-all'), NULL, 'the one behind it still waits');
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:03:00+00'); END $$;
SELECT is(inventory.deliver('dl-all'), 2::bigint, 'third attempt: it is given up, and the next one goes on');
SELECT is(dl.keys('dl-all'), 'c2', 'in the same call');
SELECT results_eq('SELECT key COLLATE "default", state, attempts, last_error FROM inventory.parked_message',
	$$VALUES ('c', 'dead', 3, 'attempt 3 fails')$$, 'it is a dead letter');
SELECT is((SELECT o.payload - 'id' FROM inventory.outbox o WHERE o.topic = 'inventory.message.dead'),
	'{"subscription": "dl-all", "topic": "dl.fail", "key": "c", "error": "attempt 3 fails"}'::jsonb, 'which is a message itself');
SELECT inventory.publish('dl.fail', 'c', '{"n": 3}') > 0 AS published;
SELECT is(inventory.deliver('dl-all'), 1::bigint, 'its key is free');

-- One that is refused.
TRUNCATE dl.got;
SELECT inventory.publish('dl.fail', 'd', '{"n": 1, "refuse": 1}') > 0, inventory.publish('dl.fail', 'd', '{"n": 2}') > 0 AS published;
SELECT is(inventory.deliver('dl-all'), 2::bigint, 'a handler refuses a message');
SELECT is((SELECT state || ' ' || attempts FROM inventory.parked_message WHERE key = 'd'), 'dead 1', 'it is dead at once');
SELECT is(dl.keys('dl-all'), 'd2', 'and nothing waits');

-- A chunk with some that fail: the others are there once.
TRUNCATE dl.got;
SELECT count(inventory.publish('dl.some', 'e' || n, jsonb_build_object('n', n) || CASE WHEN n % 50 = 0 THEN '{"fail": 1}' ELSE '{}' END::jsonb)) AS published
	FROM generate_series(1, 500) n;
SELECT is(inventory.deliver('dl-all'), 500::bigint, 'ten of five hundred fail');
SELECT is((SELECT count(*) FROM dl.got), 490::bigint, 'the others are handled once');
SELECT is((SELECT count(*) FROM inventory.parked_message WHERE state = 'retry'), 10::bigint, 'the ten are parked');
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:04:00+00'); END $$;
SELECT is(inventory.deliver('dl-all'), 10::bigint, 'and delivered later');
SELECT is((SELECT count(DISTINCT id) FROM dl.got), 500::bigint, 'all in all each once');

-- ---- Slices ----

SELECT inventory.subscribe('dl-slices', '{dl.sliced}', 'function', '{"handler": "dl.handle", "workers": 4}') > 0 AS subscribed;
TRUNCATE dl.got;
SELECT count(inventory.publish('dl.sliced', 's' || n % 40, jsonb_build_object('n', n))) AS published FROM generate_series(1, 400) n;
SELECT is(inventory.deliver('dl-slices'), 400::bigint, 'all slices are delivered');
SELECT is((SELECT count(DISTINCT id) FROM dl.got), 400::bigint, 'each message once');
SELECT is_empty('SELECT * FROM (SELECT number, lag(number) OVER (PARTITION BY key ORDER BY n) AS before FROM dl.got) g WHERE number <= before',
	'in order within each key');
SELECT is((SELECT count(DISTINCT "position") FROM dl.got), 400::bigint, 'and no position twice');

-- ---- Identity ----

DROP ROLE IF EXISTS dl_owner, dl_other, dl_evil;
CREATE ROLE dl_owner;
GRANT USAGE ON SCHEMA inventory, dl TO dl_owner;
CREATE TABLE dl.seen (who text, session text);
GRANT INSERT ON dl.seen TO dl_owner;
CREATE FUNCTION dl.whoami(message inventory.message) RETURNS void
	LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO dl.seen VALUES (current_user, message.payload->>'do');
	IF message.payload ? 'do' THEN
		EXECUTE message.payload->>'do';
	END IF;
END
$$;
REVOKE ALL ON FUNCTION dl.whoami(inventory.message) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION dl.whoami(inventory.message) TO dl_owner;
SELECT inventory.grant_access('dl_owner', 'manager') IS NULL AS granted;
SET ROLE dl_owner;
SELECT inventory.subscribe('dl-owned', '{dl.who}', 'function', '{"handler": "dl.whoami"}') > 0 AS subscribed;
RESET ROLE;
SELECT inventory.publish('dl.who', 'w', '{}') > 0 AS published;
SELECT is(inventory.deliver('dl-owned'), 1::bigint, 'a superuser delivers for another role');
SELECT is((SELECT who FROM dl.seen), 'dl_owner', 'the handler runs as the subscription''s owner');
SELECT inventory.publish('dl.who', 'x' || n, jsonb_build_object('do', c)) > 0 AS published
	FROM unnest(ARRAY['RESET ROLE', 'SET SESSION AUTHORIZATION DEFAULT', 'SET ROLE postgres', 'CREATE ROLE dl_evil SUPERUSER',
		'DECLARE c CURSOR WITH HOLD FOR SELECT 1', 'CREATE TEMP TABLE t (a int)', 'SELECT pg_read_file(''/etc/passwd'')']) WITH ORDINALITY u(c, n);
TRUNCATE dl.seen;
SELECT is(inventory.deliver('dl-owned'), 7::bigint, 'handlers that would be somebody else, or leave something to run later');
SELECT is((SELECT count(*) FROM dl.seen), 0::bigint, 'all fail');
SELECT is((SELECT count(*) FROM inventory.parked_message WHERE state = 'retry'), 7::bigint, 'and are parked');
SELECT is((SELECT count(*) FROM pg_roles WHERE rolname = 'dl_evil'), 0::bigint, 'nothing came of it');

-- The event's actor is the owner.
CREATE FUNCTION dl.issue(message inventory.message) RETURNS void
	LANGUAGE sql AS $$ SELECT inventory.issue('dl-A', 'dl-L', 1) $$;
SET ROLE dl_owner;
SELECT inventory.subscribe('dl-actor', '{dl.actor}', 'function', '{"handler": "dl.issue"}') > 0 AS subscribed;
RESET ROLE;
SELECT inventory.publish('dl.actor', 'w', '{}') > 0 AS published;
SELECT is(inventory.deliver('dl-actor'), 1::bigint, 'a handler moves stock');
SELECT is((SELECT actor FROM inventory.event ORDER BY event_id DESC LIMIT 1), 'dl_owner', 'in the name of the subscription''s owner');

-- EXECUTE is asked for when it is run.
REVOKE ALL ON FUNCTION dl.whoami(inventory.message) FROM dl_owner;
SELECT inventory.publish('dl.who', 'y', '{}') > 0 AS published;
SELECT throws_ok($$SELECT inventory.deliver('dl-owned')$$, '42501', NULL, 'a handler that its owner may not execute any more');
DROP FUNCTION dl.whoami(inventory.message);
SELECT throws_ok($$SELECT inventory.deliver('dl-owned')$$, '42883', NULL, 'a handler that is gone');

-- Constraints that could wait for the commit do not.
CREATE TABLE dl.parent (id int PRIMARY KEY);
CREATE TABLE dl.child (id int REFERENCES dl.parent DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION dl.orphan(message inventory.message) RETURNS void
	LANGUAGE sql AS $$ INSERT INTO dl.child VALUES ((message.payload->>'id')::int) $$;
INSERT INTO dl.parent VALUES (1);
SELECT inventory.subscribe('dl-orphan', '{dl.orphan}', 'function', '{"handler": "dl.orphan"}') > 0 AS subscribed;
SELECT inventory.publish('dl.orphan', 'o' || n, jsonb_build_object('id', n)) > 0 AS published FROM generate_series(1, 2) n;
SELECT is(inventory.deliver('dl-orphan'), 2::bigint, 'a deferred constraint fails for one message');
SELECT results_eq('SELECT id FROM dl.child', 'VALUES (1)', 'and not for the others at commit');

-- What waits for the commit in the caller's transaction is done as the caller.
CREATE TABLE dl.waiting (who text);
CREATE FUNCTION dl.waited() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE dl.waiting SET who = current_user WHERE who = 'nobody'; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER waited AFTER INSERT ON dl.waiting DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dl.waited();
GRANT INSERT, SELECT, UPDATE ON dl.waiting TO dl_owner;
ALTER TABLE dl.waiting OWNER TO dl_owner;
ALTER FUNCTION dl.waited() OWNER TO dl_owner;
SELECT inventory.publish('dl.actor', 'w', '{}') > 0 AS published;
SET ROLE dl_owner;
BEGIN;
INSERT INTO dl.waiting VALUES ('nobody');
SELECT is(inventory.deliver('dl-actor'), 1::bigint, 'with a trigger that waits for the commit');
SELECT is((SELECT who FROM dl.waiting), 'dl_owner', 'it has run, and as nobody else');
COMMIT;
RESET ROLE;

-- Nor as whoever owns a function that delivers.
CREATE FUNCTION dl.deliver() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$ SELECT inventory.deliver('dl-actor') $$;
SELECT throws_ok('SELECT dl.deliver()', '0A000', 'deliver() with a handler cannot be called by a SECURITY DEFINER function', 'a function with other rights cannot deliver to a handler');
GRANT EXECUTE ON FUNCTION inventory.retry_pending(interval) TO dl_owner;
SELECT inventory.submit('issue', '{"sku": "dl-A", "location": "dl-L", "quantity": 999}') AS command \gset
TRUNCATE dl.waiting;
SET ROLE dl_owner;
BEGIN;
INSERT INTO dl.waiting VALUES ('nobody');
SELECT cmp_ok(inventory.retry_pending('0'), '>', 0::bigint, 'retry_pending() can, to commands');
SELECT is((SELECT who FROM dl.waiting), 'nobody', 'and the caller''s trigger still waits');
COMMIT;
RESET ROLE;
SELECT is((SELECT who FROM dl.waiting), 'dl_owner', 'it has run as the caller');
SELECT inventory.cancel(:command) AS cancelled;

-- A session that is cancelled blames no message.
CREATE FUNCTION dl.sleep(message inventory.message) RETURNS void LANGUAGE sql AS $$ SELECT pg_sleep((message.payload->>'sleep')::float8) $$;
SELECT inventory.subscribe('dl-sleep', '{dl.sleep}', 'function', '{"handler": "dl.sleep"}') > 0 AS subscribed;
SELECT inventory.publish('dl.sleep', 's' || n, jsonb_build_object('sleep', CASE n WHEN 4 THEN 3 ELSE 0 END)) > 0 AS published FROM generate_series(1, 5) n;
-- throws_ok() does not catch that.
CREATE FUNCTION dl.is_cancelled() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM inventory.deliver('dl-sleep');
	RETURN false;
EXCEPTION WHEN query_canceled THEN
	RETURN true;
END $$;
SET statement_timeout = '300ms';
SELECT ok(dl.is_cancelled(), 'statement_timeout ends deliver()');
RESET statement_timeout;
SELECT is((SELECT count(*) FROM inventory.parked_message WHERE topic = 'dl.sleep'), 0::bigint, 'no message is parked for it');
SELECT is(inventory.deliver('dl-sleep'), 5::bigint, 'and all are delivered when there is time');

-- Those behind one that failed do not make others wait.
SELECT inventory.subscribe('dl-turn', '{dl.turn}', 'function', '{"handler": "dl.handle", "batch": 1}') > 0 AS subscribed;
SELECT inventory.publish('dl.turn', 'a', jsonb_build_object('n', n) || CASE n WHEN 1 THEN '{"fail": 1}' ELSE '{}' END::jsonb) > 0 AS published FROM generate_series(1, 5) n;
SELECT inventory.deliver('dl-turn') AS first \gset
DO $$ BEGIN PERFORM inventory.set_test_clock(inventory.clock_time() + '1 hour'); END $$;
DELETE FROM dl.got;
SELECT inventory.publish('dl.turn', 'b', jsonb_build_object('n', n)) > 0 AS published FROM generate_series(1, 5) n;
SELECT is(inventory.deliver('dl-turn'), 10::bigint, 'parked messages and new ones are delivered');
SELECT is(dl.keys('dl-turn'), 'a1 b1 a2 b2 a3 b3 a4 b4 a5 b5', 'in turn');

-- What somebody else makes under the handler's name is not run.
CREATE FUNCTION dl.mine(message inventory.message) RETURNS void LANGUAGE sql AS $$ SELECT NULL $$;
SELECT inventory.subscribe('dl-mine', '{dl.mine}', 'function', '{"handler": "dl.mine"}') > 0 AS subscribed;
SELECT inventory.publish('dl.mine', 'm', '{}') > 0 AS published;
DROP FUNCTION dl.mine(inventory.message);
GRANT CREATE ON SCHEMA dl TO dl_owner;
SET ROLE dl_owner;
CREATE FUNCTION dl.mine(message inventory.message) RETURNS void LANGUAGE sql AS $$ INSERT INTO dl.waiting VALUES (current_user) $$;
RESET ROLE;
SELECT throws_ok($$SELECT inventory.deliver('dl-mine')$$, '42501', 'function dl.mine(inventory.message) belongs to another role than when it was subscribed', 'a handler that somebody else has made anew is not run');
SELECT inventory.pause('dl-mine') IS NULL, inventory.resume('dl-mine') IS NULL AS done;
SELECT is(inventory.deliver('dl-mine'), 1::bigint, 'until the subscription is paused and resumed');

-- REINDEX CONCURRENTLY gives the indexes other numbers.
SELECT inventory.receive('dl-A', 'dl-L', 1, request_id => 'before-reindex') > 0 AS received;
REINDEX TABLE CONCURRENTLY inventory.request;
REINDEX INDEX CONCURRENTLY inventory.subscription_pkey;
REINDEX INDEX CONCURRENTLY inventory.outbox_0_xid_idx;
SELECT lives_ok($$SELECT inventory.receive('dl-A', 'dl-L', 1, request_id => 'after-reindex')$$, 'a session goes on after REINDEX CONCURRENTLY of the requests');
SELECT inventory.publish('dl.sleep', 's', '{"sleep": 0}') > 0 AS published;
SELECT is(inventory.deliver('dl-sleep'), 1::bigint, 'and of the messages');

-- A handler leaves no setting behind, and does not deliver.
CREATE FUNCTION dl.meddle(message inventory.message) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	SET work_mem = '1234kB';
	IF message.payload ? 'deliver' THEN PERFORM inventory.deliver('dl-meddle'); END IF;
END $$;
SELECT inventory.subscribe('dl-meddle', '{dl.meddle}', 'function', '{"handler": "dl.meddle"}') > 0 AS subscribed;
SELECT inventory.publish('dl.meddle', 'm1', '{}') > 0, inventory.publish('dl.meddle', 'm2', '{"deliver": 1}') > 0 AS published;
SELECT is(inventory.deliver('dl-meddle'), 2::bigint, 'a handler that changes a setting, and one that delivers');
SELECT isnt(current_setting('work_mem'), '1234kB', 'the setting is as it was');
SELECT is((SELECT last_error FROM inventory.parked_message WHERE topic = 'dl.meddle'), 'deliver() cannot be called by a handler', 'and delivering is refused');

-- Behind a message that was not tried nothing is parked yet.
CREATE FUNCTION dl.slow(message inventory.message) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF message.payload ? 'fail' THEN RAISE EXCEPTION 'no'; END IF;
	PERFORM pg_sleep(0.3);
	INSERT INTO dl.got (subscription, key, id) VALUES (message.subscription, message.key, message.id);
END $$;
SELECT inventory.subscribe('dl-slow', '{dl.slow}', 'function', '{"handler": "dl.slow"}') > 0 AS subscribed;
SELECT inventory.publish('dl.slow', 'blocked', '{"fail": 1}') > 0 AS published;
SELECT is(inventory.deliver('dl-slow'), 1::bigint, 'a key is blocked');
SELECT count(inventory.publish('dl.slow', 'slow ' || n, '{}')) AS published FROM generate_series(1, 6) n;
SELECT inventory.publish('dl.slow', 'blocked', '{}') > 0 AS published;
SELECT is(inventory.deliver('dl-slow'), 7::bigint, 'messages that take more than one round, and one that waits');
SELECT is((SELECT count(DISTINCT id) || ' of ' || count(*) FROM dl.got WHERE subscription = 'dl-slow'), '6 of 6', 'each is handled once');
SELECT is((SELECT count(*) FROM inventory.parked_message WHERE topic = 'dl.slow'), 2::bigint, 'and two are parked');

-- ---- NOTIFY ----

SELECT inventory.subscribe('dl-bell', '{dl.bell}', 'notify', '{"channel": "dl_bell"}') > 0 AS subscribed;
SELECT inventory.publish('dl.bell', 'k', '{}') > 0 AS published FROM generate_series(1, 3);
SELECT is(inventory.deliver('dl-bell'), 3::bigint, 'a doorbell for three messages');

-- ---- Bad calls ----

SELECT throws_ok($$SELECT inventory.deliver('nobody')$$, 'IV024', NULL, 'an unknown subscription');
SELECT throws_ok($$SELECT inventory.deliver(NULL)$$, '22004', NULL, 'no name');
SELECT inventory.pause('dl-bell') IS NULL AS paused;
SELECT throws_ok($$SELECT inventory.deliver('dl-bell')$$, '55000', NULL, 'a paused one');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT throws_ok($$SELECT inventory.deliver('dl-all')$$, '0A000', NULL, 'REPEATABLE READ');
ROLLBACK;
BEGIN READ ONLY;
SELECT throws_ok($$SELECT inventory.deliver('dl-all')$$, '25006', NULL, 'a read-only transaction');
ROLLBACK;
CREATE ROLE dl_other;
GRANT USAGE ON SCHEMA inventory TO dl_other;
SELECT inventory.grant_access('dl_other', 'manager') IS NULL AS granted;
SET ROLE dl_other;
SELECT throws_ok($$SELECT inventory.deliver('dl-actor')$$, '42501', NULL, 'somebody else''s');
RESET ROLE;
REVOKE ALL ON FUNCTION inventory.subscribe(text, text[], text, jsonb) FROM dl_owner;
SET ROLE dl_owner;
SELECT throws_ok($$SELECT inventory.deliver('dl-actor')$$, '42501', 'role "dl_owner", the owner of subscription "dl-actor", may not subscribe any more', 'who may not subscribe any more has nothing delivered');
RESET ROLE;

SELECT * FROM finish();
DO $$ BEGIN PERFORM inventory.set_test_clock(NULL); END $$;
SELECT inventory.unsubscribe('dl-owned') IS NULL, inventory.unsubscribe('dl-actor') IS NULL AS gone;
DROP OWNED BY dl_owner, dl_other;
DROP ROLE dl_owner, dl_other;
