-- The hash chain shows whoever changed the past, the superuser included.
--
-- Runs in a database of its own.
\set database inventory_pgtap_chain
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
SELECT no_plan();

INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) VALUES ('A'), ('B');
SELECT is_empty('SELECT * FROM inventory.verify_chain()', 'an empty chain is whole');
SELECT is((inventory.chain_anchor()).tick_id, NULL, 'and has no anchor');
SELECT inventory.set_test_clock('2027-03-31 12:00:00+00') IS NULL AS done \gset
SELECT inventory.receive('A', 'L', 100, reference => 'PO 1', metadata => '{"a": [1, 2.50]}') AS first \gset
SELECT inventory.project() AS done \gset
SELECT inventory.issue('A', 'L', 3) AS second \gset
SELECT inventory.receive('B', 'L', 3) AS third \gset
SELECT inventory.project() AS done \gset
SELECT inventory.issue('A', 'L', 4) AS fourth \gset
SELECT inventory.project() AS done \gset
SELECT inventory.issue('A', 'L', 5) AS fifth \gset
SELECT inventory.project() AS done \gset
SELECT inventory.issue('A', 'L', 6) AS sixth \gset
SELECT is_empty('SELECT * FROM inventory.verify_chain()', 'a chain that nobody has changed is whole');
SELECT is_empty('SELECT * FROM inventory.verify_chain(2, 3)', 'and so is a part of it');
SELECT tick_id AS anchor, hash AS anchor_hash FROM inventory.chain_anchor() \gset
SELECT is(:anchor::bigint, 4::bigint, 'the anchor is the latest tick');
SELECT is(inventory.check_anchor(:anchor, :'anchor_hash'), true, 'that agrees with the chain');
SELECT is(inventory.check_anchor(:anchor - 1, :'anchor_hash'), false, 'but with no other tick');
SELECT is(inventory.check_anchor(99, :'anchor_hash'), NULL, 'nothing can be said of a tick that is not there');

-- Tampering by the superuser, undone afterwards: which ticks are wrong

CREATE FUNCTION public.broken(statement text) RETURNS SETOF text
	LANGUAGE plpgsql AS $$
DECLARE partition text;
BEGIN
	BEGIN
		SET LOCAL session_replication_role = replica;
		FOR partition IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'inventory.event'::regclass LOOP
			EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', partition);
		END LOOP;
		EXECUTE statement;
		RAISE EXCEPTION USING ERRCODE = 'ZZ000', MESSAGE = coalesce((
			SELECT string_agg(c.tick_id || ' ' || c.detail, E'\n' ORDER BY c.tick_id) FROM inventory.verify_chain() c), '');
	EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
		RETURN QUERY SELECT * FROM string_to_table(SQLERRM, E'\n');
	END;
END $$;
CREATE FUNCTION public.breaks(statement text, ticks integer[], name text) RETURNS text
	LANGUAGE sql AS $$SELECT public.set_eq(format('SELECT split_part(b, '' '', 1)::integer FROM public.broken(%L) b WHERE b <> ''''', statement), ticks, name)$$;

SELECT breaks('SELECT 1', '{}', 'nothing changed, nothing broken');
SELECT breaks(format('UPDATE inventory.event SET on_hand_delta = -5 WHERE event_id = %s', :fourth), '{3}', 'a changed quantity breaks its tick');
SELECT breaks(format('UPDATE inventory.event SET %s WHERE event_id = %s', change, :first), '{1}', 'a changed event breaks its tick: ' || change)
FROM unnest(ARRAY['type = ''adjust''', 'stock_id = 2', 'reserved_delta = 1', 'committed_delta = 1', 'reservation_id = 1', 'request_id = ''x''', 'reference = ''PO 2''',
	'reference = NULL', 'reason = ''''', 'actor = ''somebody''', 'recorded_at = recorded_at + interval ''1 microsecond''', 'effective_at = recorded_at', 'reverses = 1',
	'metadata = ''{"a": [1, 2.5]}''', 'event_id = 1000']) change;
SELECT breaks(format('DELETE FROM inventory.event WHERE event_id = %s', :second), '{2}', 'a deleted event breaks its tick');
SELECT breaks(format('INSERT INTO inventory.event (stock_id, type, on_hand_delta, recorded_at, xid) SELECT stock_id, type, on_hand_delta, recorded_at, xid FROM inventory.event WHERE event_id = %s', :second), '{2}', 'an inserted event breaks its tick');
SELECT breaks(format('UPDATE inventory.event SET xid = (SELECT xid FROM inventory.event WHERE event_id = %s) WHERE event_id = %s', :fifth, :fourth), '{3,4}', 'an event in another place breaks both ticks');
SELECT breaks('DELETE FROM inventory.event', '{1,2,3,4}', 'all events gone break all ticks');
SELECT breaks('UPDATE inventory.tick SET hash = sha256(''x'') WHERE tick_id = 2', '{2,3}', 'a changed hash breaks its tick and the next');
SELECT breaks('UPDATE inventory.tick SET ticked_at = ticked_at - interval ''1 day'' WHERE tick_id = 2', '{2}', 'a changed moment breaks its tick');
SELECT breaks('UPDATE inventory.tick SET events = 7 WHERE tick_id = 2', '{2}', 'a changed number of events breaks its tick');
SELECT breaks('UPDATE inventory.tick SET snapshot = (SELECT snapshot FROM inventory.tick WHERE tick_id = 3) WHERE tick_id = 2', '{2,3}', 'changed transactions break the ticks on both sides');
SELECT breaks('DELETE FROM inventory.tick WHERE tick_id = 2', '{2,3}', 'a missing tick is named, and the next one cannot be told');
SELECT breaks('DELETE FROM inventory.tick WHERE tick_id = 1', '{1,2}', 'also the first one');
SELECT is_empty('SELECT * FROM inventory.verify_chain()', 'undone, the chain is whole');

-- Who can write everything can also write the chain anew; an anchor that was
-- kept somewhere else tells.

BEGIN;
SET LOCAL session_replication_role = replica;
ALTER TABLE inventory.event_2027_03 DISABLE TRIGGER USER;
UPDATE inventory.event SET on_hand_delta = 99 WHERE event_id = :first;
UPDATE inventory.tick SET hash = inventory.tick_hash(1) WHERE tick_id = 1;
UPDATE inventory.tick SET hash = inventory.tick_hash(2) WHERE tick_id = 2;
UPDATE inventory.tick SET hash = inventory.tick_hash(3) WHERE tick_id = 3;
UPDATE inventory.tick SET hash = inventory.tick_hash(4) WHERE tick_id = 4;
SELECT NOT EXISTS (SELECT FROM inventory.verify_chain()) AS whole, inventory.check_anchor(:anchor, :'anchor_hash') AS agrees \gset
ROLLBACK;
SELECT is(:'whole'::boolean, true, 'a chain that was written anew is whole');
SELECT is(:'agrees'::boolean, false, 'but does not agree with an anchor from before');

-- With a key

SET inventory.hash_key = 'secret';
SELECT inventory.issue('A', 'L', 1) AS done \gset
SELECT inventory.project() AS done \gset
SELECT is((SELECT key_id = inventory.hash_key_id() FROM inventory.tick ORDER BY tick_id DESC LIMIT 1), true, 'with inventory.hash_key, ticks are keyed');
SELECT is_empty('SELECT * FROM inventory.verify_chain()', 'and verified with it');
RESET inventory.hash_key;
SELECT is_empty('SELECT * FROM inventory.verify_chain()', 'without the key they are left out');
SELECT is_empty($$SELECT * FROM inventory.verify_chain(key => 'secret')$$, 'but with the key as an argument');
SELECT is((SELECT array_agg(tick_id) FROM inventory.verify_chain(key => 'guess')), ARRAY[5::bigint], 'a wrong key agrees with no keyed tick');
SELECT is_empty('SELECT * FROM inventory.verify_chain(to_tick => 4)', 'ticks from before need none');

-- After archiving

SELECT inventory.set_test_clock('2027-04-01 12:00:00+00') IS NULL AS done \gset
SELECT inventory.issue('A', 'L', 1) AS april \gset
SELECT inventory.project() AS done \gset
CALL inventory.archive('2027-04-01') \g /dev/null
SELECT is_empty('SELECT * FROM inventory.verify_chain()', 'what is left of the chain is whole');
SELECT is(inventory.check_anchor(5, hash), true, 'the last tick of the archived time is its anchor') FROM inventory.tick WHERE tick_id = 5;
SELECT breaks(format('UPDATE inventory.event SET on_hand_delta = -2 WHERE event_id = %s', :april), '{6}', 'and the events that are left are still covered');
SELECT breaks('UPDATE inventory.tick SET hash = sha256(''x'') WHERE tick_id = 5', '{6}', 'and so is the anchor');
SELECT breaks('DELETE FROM inventory.tick WHERE tick_id = 5', '{5,6}', 'and that it is there');

SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
