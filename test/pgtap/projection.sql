-- The projection: each event is added to its stock row once, at one tick, whatever
-- order transactions commit in; and stock row + what is beyond the latest tick is
-- the sum of the events in every state in between.
--
-- What is compared is computed here a second time, from the events alone and with
-- PostgreSQL's own pg_visible_in_snapshot().
--
-- Runs in a database of its own, with other sessions by dblink, and stops the
-- engine's clock.
\set database inventory_pgtap_projection
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
DROP ROLE IF EXISTS inventory_pgtap_projection;
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'UTC';
SET jit = off;
CREATE EXTENSION pgtap;
CREATE EXTENSION dblink;
CREATE EXTENSION inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:00:00+00'); END $$;
CREATE SCHEMA t;

-- The oracle -------------------------------------------------------------

-- Of each tick, the events that are in it and not in the one before.
CREATE VIEW t.batch AS
SELECT k.tick_id, v.*
FROM (SELECT tick_id, snapshot, lag(snapshot) OVER (ORDER BY tick_id) AS before FROM inventory.tick) k
JOIN inventory.event v ON pg_visible_in_snapshot(v.xid, k.snapshot)
	AND NOT coalesce(pg_visible_in_snapshot(v.xid, k.before), false);

CREATE FUNCTION t.canonical(v inventory.event) RETURNS bytea
	LANGUAGE sql IMMUTABLE AS $$
	SELECT string_agg(CASE WHEN x.value IS NULL THEN '\x00'::bytea
			ELSE '\x01'::bytea || CASE WHEN x.counted THEN int4send(octet_length(x.value)) ELSE ''::bytea END || x.value END, '' ORDER BY x.n)
	FROM (VALUES (1, false, int8send(v.event_id)), (2, false, int8send(v.stock_id)), (3, true, textsend(v.type::text)),
		(4, false, int8send(v.on_hand_delta)), (5, false, int8send(v.reserved_delta)), (6, false, int8send(v.committed_delta)),
		(7, false, int8send(v.reservation_id)), (8, true, textsend(v.request_id)), (9, true, textsend(v.reference)),
		(10, true, textsend(v.reason)), (11, true, textsend(v.actor)), (12, false, timestamptz_send(v.recorded_at)),
		(13, false, timestamptz_send(v.effective_at)), (14, false, int8send(v.reverses)), (15, true, textsend(v.metadata::text))) x(n, counted, value)
$$;
CREATE FUNCTION t.hmac(message bytea, key text) RETURNS bytea
	LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
	padded bytea := convert_to(key, 'UTF8');
	inner_pad bytea := '';
	outer_pad bytea := '';
BEGIN
	padded := CASE WHEN octet_length(padded) > 64 THEN sha256(padded) ELSE padded END;
	padded := padded || decode(repeat('00', 64 - octet_length(padded)), 'hex');
	FOR i IN 0..63 LOOP
		inner_pad := inner_pad || set_byte('\x00', 0, get_byte(padded, i) # 54);
		outer_pad := outer_pad || set_byte('\x00', 0, get_byte(padded, i) # 92);
	END LOOP;
	RETURN sha256(outer_pad || sha256(inner_pad || message));
END
$$;
CREATE FUNCTION t.hash_of(id bigint, key text DEFAULT NULL) RETURNS bytea
	LANGUAGE sql AS $$
	SELECT CASE WHEN key IS NULL THEN sha256(message) ELSE t.hmac(message, key) END
	FROM (SELECT coalesce((SELECT hash FROM inventory.tick WHERE tick_id = id - 1), decode(repeat('00', 32), 'hex'))
		|| string_agg(t.canonical((SELECT v FROM inventory.event v WHERE v.event_id = b.event_id)), '' ORDER BY b.xid, b.event_id)
			|| (SELECT int8send(tick_id) || timestamptz_send(ticked_at) || int8send(events) FROM inventory.tick WHERE tick_id = id) AS message
		FROM t.batch b WHERE b.tick_id = id) x
$$;

-- What a stock item comes to: the sum of the events that the caller sees.
CREATE VIEW t.fact AS
SELECT k.stock_id, coalesce(e.on_hand, 0) AS on_hand, coalesce(e.reserved, 0) - coalesce(r.overdue, 0) AS reserved,
	coalesce(e.committed, 0) AS committed, coalesce(e.event_count, 0) AS event_count
FROM inventory.stock k
LEFT JOIN (SELECT stock_id, sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved, sum(committed_delta) AS committed, count(*) AS event_count
	FROM inventory.event GROUP BY stock_id) e USING (stock_id)
LEFT JOIN (SELECT stock_id, sum(quantity - shipped - released) AS overdue
	FROM inventory.reservation WHERE state = 'held' AND expires_at <= inventory.clock_time() GROUP BY stock_id) r USING (stock_id);

-- Reading: the view against the events, one stock item and then all of them.
CREATE FUNCTION t.misread() RETURNS SETOF text
	LANGUAGE plpgsql AS $$
DECLARE
	item bigint;
BEGIN
	FOR item IN SELECT stock_id FROM inventory.stock ORDER BY stock_id LIMIT 3 LOOP
		RETURN QUERY SELECT format('stock_level of one: %s, events: %s', v, f)
			FROM inventory.stock_level v JOIN t.fact f USING (stock_id) WHERE v.stock_id = item
				AND (v.on_hand, v.reserved, v.committed, v.event_count) IS DISTINCT FROM (f.on_hand, f.reserved, f.committed, f.event_count);
	END LOOP;
	RETURN QUERY SELECT format('stock_level: %s, events: %s', v, f)
		FROM inventory.stock_level v FULL JOIN t.fact f USING (stock_id)
		WHERE (v.on_hand, v.reserved, v.committed, v.event_count) IS DISTINCT FROM (f.on_hand, f.reserved, f.committed, f.event_count);
	RETURN QUERY SELECT format('sku_level: %s', v)
		FROM inventory.sku_level v
		JOIN (SELECT s.sku, sum(f.on_hand) AS on_hand, sum(f.reserved) AS reserved, sum(f.committed) AS committed
			FROM t.fact f JOIN inventory.stock USING (stock_id) JOIN inventory.sku s USING (sku_id) GROUP BY s.sku) f USING (sku)
		WHERE (v.on_hand, v.reserved, v.committed) IS DISTINCT FROM (f.on_hand, f.reserved, f.committed);
END
$$;

-- Writing: stock rows, ticks and snapshots against the events.
CREATE FUNCTION t.misprojected() RETURNS SETOF text
	LANGUAGE sql AS $$
	SELECT format('tick %s: %s events, says %s', k.tick_id, count(b.event_id), k.events)
	FROM inventory.tick k LEFT JOIN t.batch b USING (tick_id) GROUP BY k.tick_id HAVING count(b.event_id) <> k.events
	UNION ALL
	SELECT format('ticks %s to %s, %s of them', min(tick_id), max(tick_id), count(*)) FROM inventory.tick
	HAVING count(*) <> 0 AND (min(tick_id) <> 1 OR max(tick_id) <> count(*))
	UNION ALL
	SELECT format('tick %s has no events', tick_id) FROM inventory.tick WHERE events = 0
	UNION ALL
	SELECT format('event %s is in %s ticks', event_id, count(*)) FROM t.batch GROUP BY event_id HAVING count(*) <> 1
	UNION ALL
	SELECT format('stock row %s, batches %s', k, x) FROM inventory.stock k
	LEFT JOIN (SELECT stock_id, sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved, sum(committed_delta) AS committed,
		count(*) AS event_count, max(recorded_at) AS recorded_until FROM t.batch GROUP BY stock_id) x USING (stock_id)
	WHERE (k.on_hand, k.reserved, k.committed, k.event_count)
			IS DISTINCT FROM (coalesce(x.on_hand, 0), coalesce(x.reserved, 0), coalesce(x.committed, 0), coalesce(x.event_count, 0))
		OR k.recorded_until IS DISTINCT FROM x.recorded_until
	UNION ALL
	SELECT format('stock row %s since its last snapshot', k) FROM inventory.stock k
	CROSS JOIN LATERAL (SELECT coalesce(max(p.tick_id), 0) AS tick_id, coalesce(max(p.event_count), 0) AS event_count FROM inventory.snapshot p WHERE p.stock_id = k.stock_id) p
	WHERE coalesce(k.snapshot_count, 0) <> p.event_count
		OR k.recorded_from IS DISTINCT FROM (SELECT min(b.recorded_at) FROM t.batch b WHERE b.stock_id = k.stock_id AND b.tick_id > p.tick_id)
	UNION ALL
	SELECT format('tick %s says %s snapshots', tick_id, snapshots) FROM inventory.tick k
	WHERE snapshots <> (SELECT count(*) FROM inventory.snapshot p WHERE p.tick_id = k.tick_id)
	UNION ALL
	SELECT format('snapshot %s', p)
	FROM (SELECT *, lag(tick_id) OVER item AS previous, coalesce(lag(recorded_until, 2) OVER item > recorded_from, false) AS is_late
		FROM inventory.snapshot WINDOW item AS (PARTITION BY stock_id ORDER BY tick_id)) p
	CROSS JOIN LATERAL (SELECT sum(b.on_hand_delta) AS on_hand, sum(b.reserved_delta) AS reserved, sum(b.committed_delta) AS committed, count(*) AS event_count,
			min(b.recorded_at) FILTER (WHERE b.tick_id > coalesce(p.previous, 0)) AS recorded_from, max(b.recorded_at) AS recorded_until
		FROM t.batch b WHERE b.stock_id = p.stock_id AND b.tick_id <= p.tick_id) x
	WHERE (p.on_hand, p.reserved, p.committed, p.event_count, p.recorded_from, p.recorded_until, p.previous_tick_id, p.late)
		IS DISTINCT FROM (x.on_hand, x.reserved, x.committed, x.event_count, x.recorded_from, x.recorded_until, p.previous, p.is_late)
	UNION ALL
	SELECT format('verify(): %s', d) FROM inventory.verify() d
	UNION ALL
	SELECT format('hash of tick %s', tick_id) FROM inventory.tick WHERE key_id IS NULL AND hash IS DISTINCT FROM inventory.tick_hash(tick_id)
$$;

-- Other sessions ---------------------------------------------------------

CREATE FUNCTION t.connection() RETURNS text
	LANGUAGE sql AS $$
	SELECT format('host=%s port=%s user=%s dbname=%s', current_setting('unix_socket_directories'), current_setting('port'), current_user, current_database())
$$;
-- Runs a statement in another session, made when it is first named.
CREATE FUNCTION t.other(name text, statement text) RETURNS text
	LANGUAGE plpgsql AS $$
BEGIN
	IF NOT coalesce(name = ANY (dblink_get_connections()), false) THEN
		PERFORM dblink_connect(name, t.connection());
	END IF;
	IF statement ~* '^(select|with)' THEN
		RETURN (SELECT x FROM dblink(name, 'SELECT row(x.*)::text FROM (' || statement || ') x') AS d(x text) LIMIT 1);
	END IF;
	RETURN dblink_exec(name, statement);
END
$$;
CREATE FUNCTION t.project() RETURNS bigint
	LANGUAGE sql AS $$ SELECT trim(t.other('projector', 'SELECT inventory.project()'), '()')::bigint $$;
-- The server, too, needs a moment to read its settings.
CREATE FUNCTION t.await_setting(name text, value text) RETURNS void
	LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		EXIT WHEN (SELECT x FROM dblink(t.connection(), format('SELECT current_setting(%L)', name)) AS d(x text)) = value;
	END LOOP;
END
$$;

SELECT no_plan();

-- Nothing happens --------------------------------------------------------

INSERT INTO inventory.location (location) VALUES ('L'), ('M');
INSERT INTO inventory.sku (sku) SELECT 'S' || n FROM generate_series(1, 40) n;
SELECT is(inventory.project(), 0::bigint, 'without events there is nothing to project');
SELECT is_empty('SELECT * FROM inventory.tick', 'and no tick');
SELECT is_empty('SELECT t.misread()', 'and every reader agrees before the first tick');
SELECT inventory.post('receive', array_agg('S' || n), array_agg('L'::text), array_agg(100::bigint)) AS events FROM generate_series(1, 40) n \gset
SELECT is_empty('SELECT t.misread()', 'events count before the first tick');
SELECT is((SELECT sum(on_hand) FROM inventory.stock), 0::numeric, 'though no stock row has them');
SELECT is(inventory.project(), 40::bigint, 'project() returns the number of events');
SELECT is((SELECT row(count(*), sum(events), sum(snapshots))::text FROM inventory.tick), '(1,40,0)', 'and writes one tick');
SELECT is_empty('SELECT t.misprojected()', 'which is what the events say');
SELECT is(inventory.project(), 0::bigint, 'it returns 0 when nothing has happened since');
BEGIN;
SELECT inventory.project() AS nothing \gset
SELECT pg_current_xact_id_if_assigned() IS NULL AS unwritten \gset
COMMIT;
SELECT ok(:'unwritten', 'a transaction in which there was nothing to project has written nothing');
SELECT is((SELECT count(*) FROM inventory.tick), 1::bigint, 'and there is no tick more');
CREATE FUNCTION t.idle_wal() RETURNS numeric
	LANGUAGE plpgsql AS $$
DECLARE
	before pg_lsn;
	least numeric;
BEGIN
	-- Others write now and then; not always.
	FOR i IN 1..50 LOOP
		before := pg_current_wal_insert_lsn();
		PERFORM inventory.project();
		least := least(least, pg_current_wal_insert_lsn() - before);
	END LOOP;
	RETURN least;
END
$$;
SELECT is(t.idle_wal(), 0::numeric, 'nor any WAL');

-- One row, one update ----------------------------------------------------

CREATE FUNCTION t.updates(OUT events bigint, OUT updated bigint, OUT ticks bigint)
	LANGUAGE plpgsql AS $$
DECLARE
	before bigint := (SELECT count(*) FROM inventory.tick);
BEGIN
	updated := pg_stat_get_xact_tuples_updated('inventory.stock'::regclass);
	events := inventory.project();
	updated := pg_stat_get_xact_tuples_updated('inventory.stock'::regclass) - updated;
	ticks := (SELECT count(*) FROM inventory.tick) - before;
END
$$;
DO $$ BEGIN FOR i IN 1..300 LOOP PERFORM inventory.receive('S' || i % 3 + 1, 'L', 1); COMMIT; END LOOP; END $$;
SELECT is((SELECT row(x.*)::text FROM t.updates() x), '(300,3,1)', '300 transactions on 3 stock items are 3 updates and one tick');
SELECT is_empty('SELECT t.misprojected()', 'and everything adds up');

-- Bounded batches --------------------------------------------------------

ALTER SYSTEM SET inventory.tick_events = 100;
SELECT pg_reload_conf() AS done \gset
SELECT t.await_setting('inventory.tick_events', '100') IS NULL AS done \gset
SELECT max(tick_id) AS before FROM inventory.tick \gset
DO $$ BEGIN FOR i IN 1..2000 LOOP PERFORM inventory.receive('S' || i % 40 + 1, 'L', 1); COMMIT; END LOOP; END $$;
SELECT is_empty('SELECT t.misread()', 'readers agree with 2,000 events beyond the tick');
SELECT is(t.project(), 2000::bigint, 'with inventory.tick_events = 100, 2,000 transactions are projected');
SELECT is((SELECT array_agg(DISTINCT events) FROM inventory.tick WHERE tick_id > :before), ARRAY[100::bigint], 'in batches of 100');
SELECT is_empty('SELECT t.misprojected()', 'which add up');
SELECT is_empty('SELECT t.misread()', 'for every reader');
SELECT max(tick_id) AS before FROM inventory.tick \gset
SELECT inventory.receive('S1', 'L', 1) AS done \gset
SELECT inventory.post('receive', array_agg('S' || n % 40 + 1), array_agg('L'::text), array_agg(1::bigint)) AS events FROM generate_series(1, 3000) n \gset
SELECT inventory.receive('S2', 'L', 1) AS done \gset
SELECT is(t.project(), 3002::bigint, 'a transaction with 3,000 events is projected too');
SELECT is((SELECT array_agg(events ORDER BY tick_id) FROM inventory.tick WHERE tick_id > :before), ARRAY[3001, 1]::bigint[], 'and is in one batch, with what came before');
SELECT is_empty('SELECT t.misprojected()', 'which add up');
-- A bounded batch ends in the middle of what is committed, and another one in
-- the middle of transactions that are still open.
DO $$
BEGIN
	FOR i IN 1..500 LOOP
		IF i % 100 = 50 THEN
			PERFORM t.other('open ' || i, 'BEGIN');
			PERFORM t.other('open ' || i, format('SELECT inventory.receive(''S%s'', ''L'', %s)', i / 100 + 1, i));
		END IF;
		PERFORM inventory.receive('S' || i % 40 + 1, 'L', 1);
		COMMIT;
	END LOOP;
END
$$;
SELECT is(t.project(), 500::bigint, 'batches end between transactions that are still open');
SELECT is_empty('SELECT t.misprojected()', 'and add up');
SELECT is_empty('SELECT t.misread()', 'for every reader');
SELECT t.other('open 350', 'COMMIT') || t.other('open 150', 'COMMIT') || t.other('open 250', 'ROLLBACK') AS done \gset
SELECT is_empty('SELECT t.misread()', 'those that commit count at once');
SELECT is(t.project(), 2::bigint, 'and are projected, without those that are open or rolled back');
SELECT is_empty('SELECT t.misprojected()', 'as the next batch');
SELECT t.other('open 50', 'COMMIT') || t.other('open 450', 'COMMIT') AS done \gset
SELECT is(t.project(), 2::bigint, 'and the last ones are the batch after that');
SELECT is_empty('SELECT t.misprojected()', 'everything adds up');
SELECT is_empty('SELECT t.misread()', 'for every reader');

ALTER SYSTEM RESET inventory.tick_events;
SELECT pg_reload_conf() AS done \gset
SELECT t.await_setting('inventory.tick_events', '10000') IS NULL AS done \gset
SELECT dblink_disconnect('projector') AS done \gset

-- Out of order -----------------------------------------------------------

-- Four transactions, committed or rolled back in every order, with a projection
-- between any two.
CREATE FUNCTION t.out_of_order() RETURNS SETOF text
	LANGUAGE plpgsql AS $$
DECLARE
	names text[] := ARRAY['w1', 'w2', 'w3', 'w4'];
	run record;
	name text;
BEGIN
	FOR run IN
		SELECT ARRAY[a, b, c, d] AS ending FROM unnest(names) a, unnest(names) b, unnest(names) c, unnest(names) d
		WHERE a NOT IN (b, c, d) AND b NOT IN (c, d) AND c <> d
	LOOP
		FOREACH name IN ARRAY names LOOP
			PERFORM t.other(name, 'BEGIN');
			PERFORM t.other(name, format('SELECT inventory.receive(''S1'', ''L'', %s), inventory.receive(''S%s'', ''L'', 1)', 10 ^ right(name, 1)::int, right(name, 1)));
			PERFORM t.project();
		END LOOP;
		FOREACH name IN ARRAY run.ending LOOP
			PERFORM t.other(name, format('SELECT inventory.receive(''S1'', ''L'', 7)'));
			PERFORM t.other(name, CASE WHEN name = run.ending[3] THEN 'ROLLBACK' ELSE 'COMMIT' END);
			RETURN QUERY SELECT format('%s, %s, before: %s', run.ending, name, m) FROM t.misread() m;
			PERFORM t.project();
			RETURN QUERY SELECT format('%s, %s, after: %s', run.ending, name, m) FROM t.misread() m;
		END LOOP;
	END LOOP;
END
$$;
SELECT is_empty('SELECT t.out_of_order()', 'four transactions that end in any order are read as they are, projected or not');
SELECT is_empty('SELECT t.misprojected()', 'and each event is in one batch');

-- Open for long ----------------------------------------------------------

-- Three transactions, far from each other, that stay open across 60 ticks.
CREATE PROCEDURE t.burn(transactions integer)
	LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1..transactions LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$;
SELECT t.other('old', 'BEGIN') || t.other('old', $$SELECT inventory.receive('S1', 'L', 1000)$$) AS done \gset
CALL t.burn(1500);
SELECT t.other('older', 'BEGIN') || t.other('older', $$SELECT inventory.receive('S2', 'L', 2000)$$) AS done \gset
CALL t.burn(1500);
SELECT t.other('oldest', 'BEGIN') || t.other('oldest', $$SELECT inventory.receive('S1', 'L', 4000)$$) AS done \gset
CREATE FUNCTION t.many_ticks(ticks integer) RETURNS SETOF text
	LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..ticks LOOP
		PERFORM t.other('w1', format('SELECT inventory.receive(''S1'', ''L'', 1), inventory.receive(''S%s'', ''L'', 1)', i % 40 + 1));
		PERFORM t.other('old', 'SELECT inventory.receive(''S1'', ''L'', 1)') WHERE i % 10 = 0;
		PERFORM t.project();
		RETURN QUERY SELECT format('tick %s: %s', i, m) FROM t.misread() m;
	END LOOP;
END
$$;
SELECT is_empty('SELECT t.many_ticks(60)', 'transactions open across 60 ticks are in nobody''s way');
SELECT is((SELECT count(*) FROM t.batch WHERE on_hand_delta >= 1000 AND stock_id IN (SELECT stock_id FROM inventory.stock_level WHERE sku IN ('S1', 'S2', 'S3'))
	AND tick_id > (SELECT max(tick_id) - 60 FROM inventory.tick)), 0::bigint, 'and in no batch');
SELECT t.other('older', 'COMMIT') AS done \gset
SELECT is_empty('SELECT t.misread()', 'one that commits counts at once, however old');
SELECT is(t.project(), 1::bigint, 'and is projected');
SELECT is_empty('SELECT t.misprojected()', 'at the next tick');
SELECT t.other('old', 'COMMIT') AS done \gset
SELECT is_empty('SELECT t.misread()', 'the oldest, with events from before and after all these ticks, counts at once');
SELECT is(t.project(), 7::bigint, 'and is one batch');
SELECT t.other('oldest', 'ROLLBACK') AS done \gset
SELECT is(t.project(), 0::bigint, 'one that rolls back is no batch');
SELECT is_empty('SELECT t.misprojected()', 'everything adds up');
SELECT is_empty('SELECT t.misread()', 'for every reader');

-- Within a transaction ---------------------------------------------------

BEGIN;
SELECT inventory.receive('S1', 'L', 5), inventory.reserve('S2', 'L', 3, ttl => '1 minute') \g /dev/null
SELECT is_empty('SELECT t.misread()', 'own events count before the commit');
SAVEPOINT a;
SELECT inventory.receive('S1', 'L', 50), inventory.issue('S3', 'L', 1) \g /dev/null
SELECT is_empty('SELECT t.misread()', 'those after a savepoint too');
SELECT is((SELECT on_hand - lag FROM (SELECT on_hand, (SELECT sum(on_hand_delta) FROM inventory.event v WHERE v.stock_id = l.stock_id AND v.xid <> pg_current_xact_id()) AS lag
	FROM inventory.stock_level l WHERE sku = 'S1') x), 55::numeric, 'exactly once');
SELECT t.project() AS done \gset
SELECT is_empty('SELECT t.misread()', 'a projection meanwhile changes nothing');
ROLLBACK TO a;
SELECT is_empty('SELECT t.misread()', 'those after a savepoint that is rolled back to do not count');
SELECT inventory.receive('S1', 'L', 500) \g /dev/null
SAVEPOINT b;
SELECT inventory.receive('S1', 'L', 5000) \g /dev/null
RELEASE b;
SELECT is_empty('SELECT t.misread()', 'those after a savepoint that is released do');
SELECT t.other('w1', $$SELECT inventory.receive('S1', 'L', 70), inventory.receive('S4', 'L', 70)$$) || t.project() AS done \gset
SELECT is_empty('SELECT t.misread()', 'nor does what others commit and what is projected of it');
DO $$
BEGIN
	FOR i IN 1..10 LOOP
		BEGIN
			PERFORM inventory.receive('S' || i, 'L', i);
			IF EXISTS (SELECT t.misread()) THEN RAISE EXCEPTION 'in the block: %', (SELECT t.misread() LIMIT 1) USING ERRCODE = 'ZZ001'; END IF;
			IF i % 2 = 0 THEN
				PERFORM 1 / 0;
			END IF;
		EXCEPTION WHEN division_by_zero THEN
			IF EXISTS (SELECT t.misread()) THEN RAISE EXCEPTION 'after the block: %', (SELECT t.misread() LIMIT 1) USING ERRCODE = 'ZZ001'; END IF;
		END;
	END LOOP;
END
$$;
SELECT is_empty('SELECT t.misread()', 'nor an exception block that is undone, or is not');
COMMIT;
SELECT is_empty('SELECT t.misread()', 'and after the commit all count');
SELECT is(t.project() > 0, true, 'and are projected');
SELECT is_empty('SELECT t.misprojected()', 'once');

BEGIN;
SELECT inventory.receive('S1', 'L', 5) \g /dev/null
SELECT is_empty('SELECT t.misread()', 'own events count');
ROLLBACK;
SELECT is_empty('SELECT t.misread()', 'until the rollback');

-- Reading within a function: with the snapshot of the query, or with its own.
CREATE FUNCTION t.stable_level(item text) RETURNS bigint LANGUAGE plpgsql STABLE AS
	$$ BEGIN RETURN (SELECT on_hand FROM inventory.stock_level WHERE sku = item AND location = 'L'); END $$;
CREATE FUNCTION t.volatile_level(item text) RETURNS bigint LANGUAGE plpgsql VOLATILE AS
	$$ BEGIN RETURN (SELECT on_hand FROM inventory.stock_level WHERE sku = item AND location = 'L'); END $$;
SELECT on_hand AS s5 FROM inventory.stock_level WHERE sku = 'S5' AND location = 'L' \gset
SELECT is((SELECT array_agg(x) FROM (SELECT (CASE n WHEN 2 THEN inventory.receive('S5', 'L', 1) WHEN 4 THEN inventory.receive('S5', 'L', 10) END) AS made,
		t.stable_level('S5') - :s5 AS seen, t.volatile_level('S5') - :s5 AS new FROM generate_series(1, 5) n OFFSET 0) y,
	LATERAL (SELECT y.made IS NOT NULL AS m, y.seen AS s, y.new AS n) z, LATERAL (SELECT (z.s, z.n)::text AS x) w),
	ARRAY['(0,0)', '(0,1)', '(0,1)', '(0,11)', '(0,11)'], 'a stable function reads as its query does, a volatile one what has been written since');
SELECT is(t.stable_level('S5') - :s5, 11::bigint, 'and the next statement reads all');

-- Deadlines that pass within one statement, and a clock that goes back.
SELECT inventory.reserve('S' || n, 'L', 1, ttl => n * interval '1 second') FROM generate_series(1, 40) n \g /dev/null
CREATE FUNCTION t.deadlines(step interval) RETURNS SETOF text
	LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..45 LOOP
		PERFORM inventory.set_test_clock(inventory.clock_time() + step);
		RETURN QUERY SELECT format('%s: %s', inventory.clock_time(), m) FROM t.misread() m;
	END LOOP;
END
$$;
SELECT is_empty($$SELECT t.deadlines('1 second')$$, 'holds stop counting one after the other, within one statement');
SELECT is_empty($$SELECT t.deadlines('-1 second')$$, 'and count again when the clock goes back');
DO $$
BEGIN
	PERFORM t.project();
	FOR i IN 1..45 LOOP
		PERFORM inventory.set_test_clock(inventory.clock_time() + interval '1 second');
		IF EXISTS (SELECT t.misread()) THEN RAISE EXCEPTION '%', (SELECT t.misread() LIMIT 1); END IF;
		IF i % 7 = 0 THEN
			PERFORM t.other('w1', 'SELECT inventory.expire_due(3)');
			IF EXISTS (SELECT t.misread()) THEN RAISE EXCEPTION '%', (SELECT t.misread() LIMIT 1); END IF;
			PERFORM t.project();
		END IF;
		IF EXISTS (SELECT t.misread()) THEN RAISE EXCEPTION '%', (SELECT t.misread() LIMIT 1); END IF;
	END LOOP;
END
$$;
SELECT pass('holds that pass their deadline, are expired, and are projected, count once in every state');
SELECT inventory.expire_due(100) AS done \gset
SELECT t.project() AS done \gset
SELECT is_empty('SELECT t.misprojected()', 'and then the stock rows are what the events say');

-- Cursors: of all stock items, and of a few.
CREATE FUNCTION t.level_sum(item text) RETURNS numeric LANGUAGE sql STABLE AS
	$$ SELECT sum(on_hand) FROM inventory.stock_level WHERE sku = item $$;
SELECT sum(on_hand) AS total FROM t.fact \gset
SELECT sum(on_hand) AS few FROM inventory.stock_level WHERE sku IN ('S1', 'S2', 'S3') \gset
BEGIN;
DECLARE all_items CURSOR FOR SELECT on_hand FROM inventory.stock_level ORDER BY stock_id;
DECLARE a_few CURSOR FOR SELECT on_hand FROM inventory.stock_level WHERE sku IN ('S1', 'S2', 'S3');
CREATE TABLE t.fetched (cursor text, on_hand bigint);
CREATE FUNCTION t.take(rows integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	a refcursor := 'all_items';
	b refcursor := 'a_few';
	n bigint;
BEGIN
	FOR i IN 1..rows LOOP
		FETCH a INTO n;
		IF FOUND THEN INSERT INTO t.fetched VALUES ('all', n); END IF;
		FETCH b INTO n;
		IF FOUND THEN INSERT INTO t.fetched VALUES ('few', n); END IF;
	END LOOP;
END $$;
SELECT t.take(1) IS NULL AS done \gset
SELECT inventory.receive('S' || n, 'L', 1) FROM generate_series(1, 40) n \g /dev/null
SELECT is_empty('SELECT t.misread()', 'beside open cursors, own events count');
SELECT t.take(1) IS NULL AS done \gset
SELECT t.other('w1', 'SELECT sum(inventory.receive(''S'' || n, ''L'', 1)) FROM generate_series(1, 40) n') || t.project() AS done \gset
SELECT t.take(1) IS NULL AS done \gset
SELECT is_empty('SELECT t.misread()', 'so do those of others');
SELECT t.take(100) IS NULL AS done \gset
SELECT is((SELECT sum(on_hand) FROM t.fetched WHERE cursor = 'all'), :total::numeric, 'a cursor over all stock items reads what there was when it was opened');
SELECT is((SELECT sum(on_hand) FROM t.fetched WHERE cursor = 'few'), :few::numeric, 'a cursor over a few does too');
COMMIT;
BEGIN;
SELECT sum(on_hand) AS total FROM t.fact \gset
DECLARE kept CURSOR WITH HOLD FOR SELECT sum(on_hand) AS total FROM inventory.stock_level;
COMMIT;
SELECT inventory.receive('S1', 'L', 1) AS done \gset
SELECT t.project() AS done \gset
FETCH kept \gset held_
SELECT is(:held_total::numeric, :total::numeric, 'a cursor that is held beyond its transaction too');
CLOSE kept;

-- Prepared statements, however they are planned.
PREPARE level_of(text) AS SELECT format('%s <> %s', v.on_hand, f.on_hand) FROM inventory.stock_level v JOIN t.fact f USING (stock_id)
	WHERE v.sku = $1 AND (v.on_hand, v.event_count) IS DISTINCT FROM (f.on_hand, f.event_count);
SELECT format(statement, mode) FROM unnest(ARRAY['auto', 'force_generic_plan', 'force_custom_plan']) mode, unnest(ARRAY[
	'SET plan_cache_mode = %I',
	'DO $$ BEGIN PERFORM inventory.receive(''S1'', ''L'', 1); END $$',
	'SELECT is_empty($$EXECUTE level_of(''S1'')$$, ''a prepared statement reads what has been written since (%s)'')',
	'DO $$ BEGIN PERFORM t.project(); END $$',
	'SELECT is_empty($$EXECUTE level_of(''S1'')$$, ''and projected (%s)'')']) WITH ORDINALITY x(statement, n) ORDER BY mode, n \gexec
RESET plan_cache_mode;

-- Workers of a parallel query read the tail as well.
SELECT set_config(name, 'on', false) AS done FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query') \gset
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
CREATE FUNCTION t.plan(query text) RETURNS text LANGUAGE plpgsql AS
	$$ DECLARE line text; lines text := ''; BEGIN FOR line IN EXECUTE 'EXPLAIN ' || query LOOP lines := lines || line || E'\n'; END LOOP; RETURN lines; END $$;
BEGIN;
SELECT inventory.receive('S' || n, 'L', 1) FROM generate_series(1, 40) n \g /dev/null
SELECT matches(t.plan('SELECT * FROM inventory.stock_level'), 'Gather', 'stock_level can be read by parallel workers');
SELECT is_empty($$SELECT 1 FROM (SELECT stock_id, on_hand, event_count FROM inventory.stock_level) v FULL JOIN t.fact f USING (stock_id)
	WHERE (v.on_hand, v.event_count) IS DISTINCT FROM (f.on_hand, f.event_count)$$, 'who read the same, own events included');
SELECT is((SELECT sum(on_hand) FROM inventory.stock_level), (SELECT sum(on_hand) FROM t.fact), 'and the same sum');
COMMIT;
RESET ALL;
SET client_min_messages = warning;
SET timezone = 'UTC';
SET jit = off;

SELECT throws_ok('SELECT * FROM inventory.stock_level FOR UPDATE', '0A000', NULL, 'stock_level cannot be locked, which would mix two states of a stock row');

-- Who calls project() ----------------------------------------------------

SELECT t.project() AS done \gset
BEGIN;
SELECT inventory.receive('S1', 'L', 1) AS done \gset
SELECT is(inventory.project(), 0::bigint, 'project() leaves the events of its own transaction out');
SELECT is_empty('SELECT t.misread()', 'which still count');
COMMIT;
SELECT is(inventory.project(), 1::bigint, 'until they are committed');

BEGIN;
SELECT inventory.receive('S1', 'L', 1) AS done \gset
SELECT t.other('w1', $$SELECT inventory.receive('S2', 'L', 1)$$) AS done \gset
SELECT is(inventory.project(), 1::bigint, 'also when a later transaction has committed before');
SELECT is_empty('SELECT t.misread()', 'every event still counts');
SELECT inventory.receive('S1', 'L', 1) AS done \gset
SELECT is_empty('SELECT t.misread()', 'and one that is written after it');
COMMIT;
SELECT is_empty('SELECT t.misread()', 'also after the commit');
SELECT is(inventory.project(), 2::bigint, 'and all are projected then');
SELECT is_empty('SELECT t.misread()', 'once');
SELECT is_empty('SELECT t.misprojected()', 'and everything adds up');

-- Its second run within one transaction, when the first has given it an id.
BEGIN;
SELECT t.other('w1', $$SELECT inventory.receive('S2', 'L', 1)$$) AS done \gset
SELECT is(inventory.project(), 1::bigint, 'project() in a transaction');
SELECT t.other('w1', $$SELECT inventory.receive('S2', 'L', 1)$$) AS done \gset
SELECT is(inventory.project(), 1::bigint, 'can be called again');
SELECT inventory.receive('S1', 'L', 1) AS done \gset
COMMIT;
SELECT is(inventory.project(), 1::bigint, 'what the transaction writes afterwards is projected later');
SELECT is_empty('SELECT t.misread()', 'every event counts');
SELECT is_empty('SELECT t.misprojected()', 'once');

BEGIN;
SELECT t.other('w1', $$SELECT inventory.receive('S2', 'L', 1)$$) AS done \gset
SAVEPOINT a;
SELECT is(inventory.project(), 1::bigint, 'a projection');
ROLLBACK TO a;
SELECT is_empty('SELECT t.misread()', 'can be rolled back');
SELECT is(t.project(), 1::bigint, 'and then be made by somebody else');
COMMIT;
SELECT is_empty('SELECT t.misprojected()', 'once');

SELECT t.other('w1', $$SELECT inventory.receive('S2', 'L', 1)$$) AS done \gset
SELECT t.other('prepared', 'BEGIN') || t.other('prepared', 'SELECT inventory.project()') || t.other('prepared', $$PREPARE TRANSACTION 'inventory projection'$$) AS done \gset
SELECT is_empty('SELECT t.misread()', 'a projection that is prepared is not there yet');
SELECT t.other('w1', $$SELECT inventory.receive('S2', 'L', 1)$$) || t.other('projector', $$SET lock_timeout = '10ms'$$) AS done \gset
SELECT throws_ok('SELECT t.project()', '55P03', NULL, 'the next one waits for it');
SELECT t.other('projector', 'RESET lock_timeout') AS done \gset
COMMIT PREPARED 'inventory projection';
SELECT is_empty('SELECT t.misread()', 'until it is committed');
SELECT is(t.project(), 1::bigint, 'and goes on');
SELECT is_empty('SELECT t.misprojected()', 'where it has ended');

-- With a snapshot of the transaction, where it may refuse.
SELECT format(statement, level) FROM unnest(ARRAY['REPEATABLE READ', 'SERIALIZABLE']) level, unnest(ARRAY[
	'BEGIN ISOLATION LEVEL %s',
	'SELECT is_empty(''SELECT t.misread()'', ''every reader agrees (%s)'')',
	'DO $$ BEGIN PERFORM t.other(''w1'', ''SELECT inventory.receive(''''S1'''', ''''L'''', 1)''), t.project(), t.other(''w1'', ''SELECT inventory.receive(''''S2'''', ''''L'''', 1)''); END $$',
	'SELECT is_empty(''SELECT t.misread()'', ''also when others have written and projected since (%s)'')',
	'DO $$ BEGIN PERFORM inventory.project(); EXCEPTION WHEN object_not_in_prerequisite_state OR active_sql_transaction OR feature_not_supported THEN NULL; END $$',
	'SELECT is_empty(''SELECT t.misread()'', ''and when it has called project() itself (%s)'')',
	'DO $$ BEGIN PERFORM inventory.receive(''S1'', ''L'', 1); END $$',
	'SELECT is_empty(''SELECT t.misread()'', ''and written (%s)'')',
	'COMMIT',
	'SELECT is_empty(''SELECT t.misread()'', ''and afterwards (%s)'')',
	'DO $$ BEGIN PERFORM t.project(); END $$',
	'SELECT is_empty(''SELECT t.misprojected()'', ''and everything adds up (%s)'')']) WITH ORDINALITY x(statement, n) ORDER BY level, n \gexec

BEGIN READ ONLY;
SELECT throws_ok('SELECT inventory.project()', '25006', NULL, 'project() is refused in a read-only transaction');
COMMIT;
CREATE ROLE inventory_pgtap_projection;
GRANT USAGE ON SCHEMA inventory TO inventory_pgtap_projection;
SET ROLE inventory_pgtap_projection;
SELECT throws_ok('SELECT inventory.project()', '42501', NULL, 'project() is nothing for everybody');
SELECT throws_ok('SELECT inventory.tick_hash(1)', '42501', NULL, 'nor is tick_hash()');
RESET ROLE;
SELECT inventory.grant_access('inventory_pgtap_projection', 'manager') IS NULL AS done \gset
SET ROLE inventory_pgtap_projection;
SELECT inventory.receive('S1', 'L', 1) AS done \gset
SELECT is(inventory.project(), 1::bigint, 'a manager may call it');
SELECT throws_ok(format('%s inventory.%s %s', a, b, c), '42501', NULL, format('but not %s %s', a, b)) FROM (VALUES
	('UPDATE', 'stock', 'SET on_hand = 0'), ('INSERT INTO', 'tick', 'SELECT * FROM inventory.tick'), ('DELETE FROM', 'snapshot', '')) x(a, b, c);
RESET ROLE;
SELECT throws_like(format('%s inventory.%s %s', a, b, c), '%is written by the engine only', format('not even a superuser may %s %s', a, b)) FROM (VALUES
	('UPDATE', 'stock', 'SET on_hand = 0'), ('INSERT INTO', 'stock', 'SELECT * FROM inventory.stock'), ('DELETE FROM', 'stock', ''),
	('UPDATE', 'tick', 'SET events = 0'), ('INSERT INTO', 'tick', 'SELECT * FROM inventory.tick'), ('DELETE FROM', 'tick', ''), ('TRUNCATE', 'tick', ''),
	('UPDATE', 'snapshot', 'SET on_hand = 0'), ('INSERT INTO', 'snapshot', 'SELECT * FROM inventory.snapshot'), ('DELETE FROM', 'snapshot', ''), ('TRUNCATE', 'snapshot', '')) x(a, b, c);

-- The hash chain ---------------------------------------------------------

SELECT is_empty('SELECT t.misprojected()', 'everything adds up so far');
-- Columns that nothing so far has filled.
SELECT inventory.receive('S1', 'L', 1, request_id => 'r-1', reference => 'Bestellung Nr. 5 äöü', reason => '', effective_at => '1999-12-31 23:59:59.5+00', metadata => '{"b": [1, 2.50, null], "a": {"": "ü"}}') AS received \gset
SELECT inventory.reverse(:received, 'mistake') AS done \gset
SELECT inventory.project() AS done \gset
SELECT max(tick_id) AS last FROM inventory.tick \gset
SELECT is_empty('SELECT tick_id FROM inventory.tick WHERE hash IS DISTINCT FROM t.hash_of(tick_id)', 'each tick''s hash is SHA-256 of the hash before and the events, as documented');
SELECT is(inventory.tick_hash(NULL), NULL, 'no tick has no hash');
SELECT is(inventory.tick_hash(0), NULL, 'nor has tick 0');
SELECT is(inventory.tick_hash(:last + 1), NULL, 'nor one that is not there yet');
SELECT is(inventory.tick_hash(:last, 'a key'), (SELECT hash FROM inventory.tick WHERE tick_id = :last), 'a tick without a key needs none');

-- Whatever is changed, behind the triggers' back, is noticed.
CREATE FUNCTION t.tampered(change text) RETURNS boolean
	LANGUAGE plpgsql AS $$
DECLARE
	differs boolean;
	changed bigint;
BEGIN
	ALTER TABLE inventory.event_2031_04 DISABLE TRIGGER USER;
	ALTER TABLE inventory.tick DISABLE TRIGGER USER;
	EXECUTE change;
	GET DIAGNOSTICS changed = ROW_COUNT;
	differs := EXISTS (SELECT FROM inventory.tick WHERE hash IS DISTINCT FROM inventory.tick_hash(tick_id));
	RAISE EXCEPTION 'undone' USING ERRCODE = 'ZZ001', DETAIL = changed = 1 AND differs;
EXCEPTION WHEN SQLSTATE 'ZZ001' THEN
	GET STACKED DIAGNOSTICS change = PG_EXCEPTION_DETAIL;
	RETURN change::boolean;
END
$$;
SELECT format('event_id = %s', :received) AS received_event \gset
SELECT ok(t.tampered(format('UPDATE inventory.event SET %s WHERE event_id = %s', change, :received)), format('the hash tells: %s', change))
FROM unnest(ARRAY['event_id = event_id + 1000000', 'stock_id = stock_id + 1', 'type = ''adjust''', 'on_hand_delta = on_hand_delta + 1', 'reserved_delta = 1', 'committed_delta = -1',
	'reservation_id = 1', 'request_id = ''r-2''', 'request_id = NULL', 'reference = reference || '' ''', 'reason = NULL', 'reason = ''x''', 'actor = ''somebody''',
	'recorded_at = recorded_at + interval ''1 microsecond''', 'effective_at = NULL', 'effective_at = effective_at - interval ''1 microsecond''', 'reverses = 1', 'metadata = NULL',
	'metadata = ''{}''', 'metadata = jsonb_set(metadata, ''{b,1}'', ''2.5'')', 'reference = '''', reason = ''Bestellung Nr. 5 äöü''', 'xid = ''1''::xid8']) change;
SELECT ok(t.tampered(format('DELETE FROM inventory.event WHERE event_id = %s', :received)), 'the hash tells: a missing event');
SELECT ok(t.tampered(format('INSERT INTO inventory.event (stock_id, type, on_hand_delta, recorded_at, xid) SELECT stock_id, type, 0, recorded_at, xid FROM inventory.event WHERE event_id = %s', :received)), 'the hash tells: an event too many');
SELECT ok(t.tampered(format('UPDATE inventory.tick SET %s WHERE tick_id = %s', change, :last)), format('the hash tells: %s of a tick', change))
FROM unnest(ARRAY['hash = sha256(''x'')', 'ticked_at = ticked_at + interval ''1 microsecond''', 'events = events + 1']) change;
SET session_replication_role = replica;
SELECT throws_like(format('UPDATE inventory.event SET reason = %L WHERE event_id = %s', 'x', :received), '%', 'session_replication_role = replica does not open the event table');
RESET session_replication_role;

-- With a key.
SET inventory.hash_key = 'a secret, äöü';
SELECT inventory.receive('S1', 'L', 1), inventory.receive('S2', 'L', 1) \g /dev/null
SELECT inventory.project() AS done \gset
SELECT inventory.receive('S1', 'L', 1) \g /dev/null
SELECT inventory.project() AS done \gset
SELECT max(tick_id) AS keyed FROM inventory.tick \gset
SELECT is((SELECT array_agg(key_id IS NOT NULL) FROM inventory.tick WHERE tick_id > :last), ARRAY[true, true], 'with inventory.hash_key ticks are keyed');
SELECT is_empty(format('SELECT tick_id FROM inventory.tick WHERE tick_id > %s AND hash IS DISTINCT FROM t.hash_of(tick_id, %L)', :last, 'a secret, äöü'), 'and the hash is HMAC-SHA-256');
SELECT is(inventory.tick_hash(:keyed), (SELECT hash FROM inventory.tick WHERE tick_id = :keyed), 'the setting''s key checks it');
SET inventory.hash_key = '';
SELECT throws_ok(format('SELECT inventory.tick_hash(%s)', :keyed), '22023', NULL, 'without a key it cannot be checked');
SELECT is(inventory.tick_hash(:keyed, 'a secret, äöü'), (SELECT hash FROM inventory.tick WHERE tick_id = :keyed), 'with the key as argument it can');
SELECT isnt(inventory.tick_hash(:keyed, 'a secret'), (SELECT hash FROM inventory.tick WHERE tick_id = :keyed), 'and with a wrong key it differs');
SET inventory.hash_key = 'sixty-five characters are longer than a block of SHA-256 and hashed';
SELECT inventory.receive('S1', 'L', 1) \g /dev/null
SELECT inventory.project() AS done \gset
SELECT is((SELECT hash FROM inventory.tick WHERE tick_id = :keyed + 1), t.hash_of(:keyed + 1, 'sixty-five characters are longer than a block of SHA-256 and hashed'), 'a long key works as in RFC 2104');
RESET inventory.hash_key;
SELECT inventory.receive('S1', 'L', 1) \g /dev/null
SELECT inventory.project() AS done \gset
SELECT is((SELECT row(key_id IS NOT NULL, hash)::text FROM inventory.tick WHERE tick_id = :keyed + 2), row(false, t.hash_of(:keyed + 2))::text, 'without a key the chain goes on');
SET ROLE inventory_pgtap_projection;
SELECT throws_ok($$SET inventory.hash_key = 'x'$$, '42501', NULL, 'a manager cannot set the key');
SELECT throws_ok('SHOW inventory.hash_key', '42501', NULL, 'nor see it');
SELECT is_empty($$SELECT * FROM pg_settings WHERE name = 'inventory.hash_key' AND setting IS NOT NULL$$, 'in pg_settings neither');
RESET ROLE;

SELECT is_empty('SELECT t.misread()', 'at the end every reader agrees');
SELECT is_empty('SELECT t.misprojected()', 'and everything adds up, whatever keys there were');
SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
SELECT * FROM finish();
SELECT count(dblink_disconnect(name)) AS done FROM unnest(dblink_get_connections()) name \gset
\c :home
SET client_min_messages = warning;
DROP DATABASE :database WITH (FORCE);
DROP ROLE inventory_pgtap_projection;
