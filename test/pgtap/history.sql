-- History: what there was at any moment is the sum of the events that had been
-- recorded by then, however many snapshots and ticks lie between; what there
-- really was, the sum of those that had happened.
--
-- A random history, made by the engine's clock: 30 minutes, second by second, into
-- a leap day; over the end of a month; an hour back; days. Sessions (dblink) that
-- record early and commit hundreds of ticks later take part. Each moment is then
-- summed up here a second time, from the events alone.
--
-- Runs in a database of its own.
\set database inventory_pgtap_history
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
SET timezone = 'UTC';
SET jit = off;
CREATE EXTENSION pgtap;
CREATE EXTENSION dblink;
CREATE EXTENSION inventory;
CREATE SCHEMA t;
SELECT no_plan();

-- Other sessions ---------------------------------------------------------

CREATE FUNCTION t.connection() RETURNS text
	LANGUAGE sql AS $$
	SELECT format('host=%s port=%s user=%s dbname=%s', current_setting('unix_socket_directories'), current_setting('port'), current_user, current_database())
$$;
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
CREATE FUNCTION t.await_setting(name text, value text) RETURNS void
	LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		EXIT WHEN (SELECT x FROM dblink(t.connection(), format('SELECT current_setting(%L)', name)) AS d(x text)) = value;
	END LOOP;
END
$$;
ALTER SYSTEM SET inventory.snapshot_events = 10;
SELECT pg_reload_conf() AS done \gset
SELECT t.await_setting('inventory.snapshot_events', '10') IS NULL AS done \gset

-- The oracle -------------------------------------------------------------

CREATE VIEW t.item AS
SELECT k.stock_id, s.sku, l.location, b.lot, k.condition
FROM inventory.stock k JOIN inventory.sku s USING (sku_id) JOIN inventory.location l USING (location_id) LEFT JOIN inventory.lot b USING (lot_id);

CREATE FUNCTION t.recorded_by(at timestamptz) RETURNS SETOF inventory.stock_position
	LANGUAGE sql STABLE AS $$
	SELECT i.sku, i.location, i.lot, i.condition, sum(v.on_hand_delta)::bigint, sum(v.reserved_delta)::bigint, sum(v.committed_delta)::bigint, count(*)
	FROM inventory.event v JOIN t.item i USING (stock_id) WHERE v.recorded_at <= at GROUP BY 1, 2, 3, 4
$$;
CREATE FUNCTION t.happened_by(at timestamptz) RETURNS SETOF inventory.stock_position
	LANGUAGE sql STABLE AS $$
	SELECT i.sku, i.location, i.lot, i.condition, sum(v.on_hand_delta)::bigint, sum(v.reserved_delta)::bigint, sum(v.committed_delta)::bigint, count(*)
	FROM inventory.event v JOIN t.item i USING (stock_id) WHERE CASE WHEN v.effective_at IS NULL THEN v.recorded_at ELSE v.effective_at END <= at GROUP BY 1, 2, 3, 4
$$;

-- Every moment at which something was recorded, and just before it; or some of
-- them.
CREATE FUNCTION t.moments(share float8) RETURNS SETOF timestamptz
	LANGUAGE sql AS $$
	SELECT DISTINCT m FROM (SELECT DISTINCT recorded_at AS at FROM inventory.event) v, unnest(ARRAY[at, at - interval '1 microsecond']) m
	WHERE random() < share
	UNION SELECT unnest(ARRAY['-infinity', '1970-01-01', '2032-02-29', '2032-03-01', '2032-03-02', '2100-01-01', 'infinity']::timestamptz[])
$$;
CREATE FUNCTION t.wrong_history(share float8) RETURNS SETOF text
	LANGUAGE plpgsql AS $$
DECLARE
	at timestamptz;
	found text;
BEGIN
	FOR at IN SELECT t.moments(share) LOOP
		SELECT string_agg(format('stock_at %s, events %s', a, b), '; ') INTO found
		FROM inventory.stock_at(at) a FULL JOIN t.recorded_by(at) b ON (a.sku, a.location, coalesce(a.lot, ''), a.condition) = (b.sku, b.location, coalesce(b.lot, ''), b.condition)
		WHERE a IS DISTINCT FROM b;
		IF found IS NOT NULL THEN
			RETURN NEXT format('%s: %s', at, found);
		END IF;
	END LOOP;
END
$$;
CREATE FUNCTION t.wrong_position(share float8) RETURNS SETOF text
	LANGUAGE plpgsql AS $$
DECLARE
	at timestamptz;
	found text;
BEGIN
	FOR at IN SELECT t.moments(share) UNION SELECT DISTINCT effective_at FROM inventory.event WHERE effective_at IS NOT NULL AND random() < share LOOP
		SELECT string_agg(format('position %s, events %s', a, b), '; ') INTO found
		FROM inventory.position(at) a FULL JOIN t.happened_by(at) b ON (a.sku, a.location, coalesce(a.lot, ''), a.condition) = (b.sku, b.location, coalesce(b.lot, ''), b.condition)
		WHERE a IS DISTINCT FROM b;
		IF found IS NOT NULL THEN
			RETURN NEXT format('%s: %s', at, found);
		END IF;
	END LOOP;
END
$$;
-- The running balance of each stock item against partial sums.
CREATE FUNCTION t.wrong_balance() RETURNS SETOF text
	LANGUAGE sql AS $$
	SELECT format('%s: history %s, events %s', i, h, e)
	FROM t.item i
	CROSS JOIN LATERAL (SELECT array_agg((x.event_id, x.type, x.on_hand, x.reserved, x.committed, x.recorded_at, x.effective_at)::text ORDER BY x.n) AS h
		FROM (SELECT *, row_number() OVER () AS n FROM inventory.history(i.sku, i.location, i.lot, i.condition)) x) h
	CROSS JOIN LATERAL (SELECT array_agg((v.event_id, v.type, s.on_hand, s.reserved, s.committed, v.recorded_at, coalesce(v.effective_at, v.recorded_at))::text ORDER BY v.event_id) AS e
		FROM inventory.event v
		CROSS JOIN LATERAL (SELECT sum(w.on_hand_delta) AS on_hand, sum(w.reserved_delta) AS reserved, sum(w.committed_delta) AS committed
			FROM inventory.event w WHERE w.stock_id = v.stock_id AND w.event_id <= v.event_id) s
		WHERE v.stock_id = i.stock_id) e
	WHERE h.h IS DISTINCT FROM e.e
$$;
-- Snapshots that are missing, or too many: there is one of each stock item with
-- enough events since its last one, and at the end of a day's first run of those
-- with any.  The ticks of a run are written by one transaction.
CREATE FUNCTION t.wrong_snapshots() RETURNS SETOF text
	LANGUAGE sql AS $$
	WITH tick AS (
		SELECT tick_id, snapshot, lag(snapshot) OVER w AS before, tick_id = max(tick_id) OVER run
			AND coalesce((ticked_at AT TIME ZONE 'UTC')::date > (SELECT (p.ticked_at AT TIME ZONE 'UTC')::date FROM inventory.tick p
				WHERE p.tick_id = (SELECT max(q.tick_id) FROM inventory.tick q WHERE q.tick_id < k.tick_id AND q.xmin <> k.xmin)), false) AS new_day
		FROM inventory.tick k WINDOW w AS (ORDER BY tick_id), run AS (PARTITION BY xmin::text)
	), batch AS MATERIALIZED (
		SELECT t.tick_id, v.stock_id, count(*) AS events FROM tick t
		JOIN inventory.event v ON pg_visible_in_snapshot(v.xid, t.snapshot) AND NOT coalesce(pg_visible_in_snapshot(v.xid, t.before), false)
		GROUP BY t.tick_id, v.stock_id
	)
	SELECT format('stock item %s at tick %s: %s events since the last snapshot, new day: %s', i.stock_id, t.tick_id, e.events, t.new_day)
	FROM inventory.stock i CROSS JOIN tick t
	CROSS JOIN LATERAL (SELECT coalesce(sum(b.events), 0) AS events FROM batch b WHERE b.stock_id = i.stock_id AND b.tick_id <= t.tick_id
		AND b.tick_id > coalesce((SELECT max(p.tick_id) FROM inventory.snapshot p WHERE p.stock_id = i.stock_id AND p.tick_id < t.tick_id), 0)) e
	WHERE (e.events >= 10 OR t.new_day AND e.events > 0) <> EXISTS (SELECT FROM inventory.snapshot p WHERE p.stock_id = i.stock_id AND p.tick_id = t.tick_id)
$$;

-- Making history ---------------------------------------------------------

INSERT INTO inventory.location (location) VALUES ('L'), ('M');
INSERT INTO inventory.sku (sku, tracking) VALUES ('A', 'none'), ('B', 'none'), ('C', 'none'), ('lots', 'lot'), ('rare', 'none'), ('never', 'none');
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, unnest(ARRAY['one', 'two']) FROM inventory.sku WHERE sku = 'lots';

-- One random movement.
CREATE FUNCTION t.movement() RETURNS text
	LANGUAGE plpgsql AS $$
DECLARE
	sku text := (ARRAY['A', 'A', 'A', 'A', 'B', 'B', 'C', 'lots'])[1 + floor(random() * 8)];
	place text := (ARRAY['L', 'L', 'M'])[1 + floor(random() * 3)];
	lot text := CASE sku WHEN 'lots' THEN (ARRAY['one', 'two'])[1 + floor(random() * 2)] ELSE NULL END;
	happened timestamptz := CASE WHEN random() < .2 THEN inventory.clock_time() - random() * interval '3 hours' ELSE NULL END;
	held bigint := (SELECT reservation_id FROM inventory.reservation WHERE state IN ('held', 'committed') AND random() < .5 LIMIT 1);
	what float8 := random();
BEGIN
	IF random() < .003 THEN
		sku := 'rare';
		lot := NULL;
	END IF;
	BEGIN
		CASE
			WHEN what < .35 THEN PERFORM inventory.receive(sku, place, 1 + floor(random() * 9)::bigint, lot => lot, effective_at => happened);
			WHEN what < .5 THEN PERFORM inventory.issue(sku, place, 1 + floor(random() * 3)::bigint, lot => lot, effective_at => happened);
			WHEN what < .55 THEN PERFORM inventory.adjust(sku, place, 1 - floor(random() * 3)::bigint, 'random', lot => lot, condition => CASE WHEN random() < .5 THEN 'damaged' ELSE 'good' END);
			WHEN what < .6 THEN PERFORM inventory.transfer(sku, 'L', 'M', 2, lot => lot);
			WHEN what < .8 THEN PERFORM inventory.reserve(sku, place, 1 + floor(random() * 4)::bigint, lot => lot, ttl => random() * interval '1 minute');
			WHEN what < .87 THEN PERFORM inventory.confirm(held);
			WHEN what < .92 THEN PERFORM inventory.ship(held);
			WHEN what < .96 THEN PERFORM inventory.release(held);
			ELSE PERFORM inventory.expire_due(5);
		END CASE;
		RETURN 'done';
	EXCEPTION WHEN OTHERS THEN
		-- Not enough, or not in that state; a locked row is a late session's.
		IF SQLSTATE NOT LIKE 'IV0%' AND SQLSTATE NOT IN ('22004', '55P03', '40P01') THEN
			RAISE;
		END IF;
		RETURN SQLSTATE;
	END;
END
$$;
-- Steps of the clock, with movements and projections; sessions begin, write and
-- end much later, or never.
CREATE PROCEDURE t.make(from_moment timestamptz, step interval, steps integer, ticks float8)
	LANGUAGE plpgsql AS $$
DECLARE
	late text;
	late_until integer[] := ARRAY[0, 0, 0, 0];
BEGIN
	FOR i IN 1..steps LOOP
		PERFORM inventory.set_test_clock(from_moment + i * step);
		FOR n IN 1..floor(random() * 3) LOOP
			PERFORM t.movement();
		END LOOP;
		COMMIT;
		FOR n IN 1..4 LOOP
			late := 'late ' || n;
			IF late_until[n] = 0 AND random() < .02 THEN
				late_until[n] := i + (ARRAY[3, 30, 300, 3000])[1 + floor(random() * 4)];
				PERFORM t.other(late, 'BEGIN'), t.other(late, 'SET LOCAL lock_timeout = ''1ms''');
			END IF;
			IF late_until[n] > 0 AND random() < .1 THEN
				PERFORM t.other(late, 'SELECT inventory.receive(''A'', ''L'', 1), inventory.receive(''C'', ''M'', 1)');
			END IF;
			IF late_until[n] > 0 AND (i >= late_until[n] OR i = steps AND random() < .5) THEN
				PERFORM t.other(late, CASE WHEN random() < .8 THEN 'COMMIT' ELSE 'ROLLBACK' END);
				late_until[n] := 0;
			END IF;
		END LOOP;
		IF random() < ticks THEN
			PERFORM t.project();
		END IF;
		COMMIT;
	END LOOP;
	FOR n IN 1..4 LOOP
		IF late_until[n] > 0 THEN
			PERFORM t.other('late ' || n, 'COMMIT');
		END IF;
	END LOOP;
END
$$;

-- Before anything has happened.
DO $$ BEGIN PERFORM inventory.set_test_clock('2032-02-28 23:40:00+00'); END $$;
SELECT is_empty('SELECT inventory.stock_at(x) FROM unnest(ARRAY[NULL, ''-infinity'', inventory.clock_time(), ''infinity'']::timestamptz[]) x', 'before there is a stock item there is no stock');
SELECT is_empty('SELECT inventory.position(x) FROM unnest(ARRAY[NULL, ''-infinity'', inventory.clock_time(), ''infinity'']::timestamptz[]) x', 'nor a position');
SELECT is_empty('SELECT inventory.history(''A'', ''L'')', 'nor a history');

SELECT setseed(.2) IS NULL AS done \gset
SELECT t.project() AS done \gset
SELECT inventory.receive('A', 'L', 100), inventory.receive('A', 'M', 100), inventory.receive('B', 'L', 100), inventory.receive('B', 'M', 100),
	inventory.receive('C', 'L', 100), inventory.receive('C', 'M', 100), inventory.receive('rare', 'L', 100),
	inventory.receive('lots', 'L', 100, lot => 'one'), inventory.receive('lots', 'M', 100, lot => 'two') \g /dev/null
SELECT is_empty('SELECT t.wrong_history(1)', 'history is right before the first tick');

CALL t.make('2032-02-28 23:45:00+00', '1 second', 1800, .3);
SELECT cmp_ok((SELECT count(*) FROM inventory.tick), '>=', 400::bigint, '30 minutes of history, into a leap day, have hundreds of ticks');
SELECT cmp_ok((SELECT count(*) FROM inventory.snapshot), '>=', 100::bigint, 'and snapshots');
SELECT cmp_ok((SELECT count(*) FROM inventory.snapshot WHERE late), '>=', 2::bigint, 'some with events recorded long before');
SELECT cmp_ok((SELECT max(k.ticked_at - v.recorded_at) FROM inventory.event v CROSS JOIN LATERAL (SELECT min(ticked_at) AS ticked_at FROM inventory.tick WHERE pg_visible_in_snapshot(v.xid, snapshot)) k),
	'>=', interval '5 minutes', 'of transactions that were open across hundreds of ticks');
SELECT is_empty('SELECT t.wrong_history(.1)', 'what there was is right at moments of it');
SELECT t.project() AS done \gset
SELECT is_empty('SELECT t.wrong_history(1)', 'at each moment of it when all is projected');
SELECT is_empty('SELECT t.wrong_position(.05)', 'so is what there really was, with backdated events');
SELECT is_empty('SELECT t.wrong_snapshots()', 'each stock item has a snapshot every 10 events and on the first tick of a day, and no others');

CALL t.make('2032-02-29 23:58:00+00', '1 second', 300, .3);
SELECT is((SELECT array_agg(DISTINCT tableoid::regclass::text ORDER BY tableoid::regclass::text) FROM inventory.event), ARRAY['inventory.event_2032_02', 'inventory.event_2032_03'], 'the leap day ends, and with it the month and its partition');
SELECT is_empty('SELECT t.wrong_history(.1)', 'what there was is right on both sides');
SELECT cmp_ok((SELECT max(snapshots) FROM inventory.tick WHERE ticked_at >= '2032-03-01 00:00:00+00'), '>', 3::bigint, 'with snapshots of what has changed since the last ones');

CALL t.make('2032-02-29 23:05:00+00', '2 seconds', 400, .3);
SELECT is_empty('SELECT t.wrong_history(.1)', 'and after the clock has stepped back an hour, over the end of the month');
SELECT is_empty('SELECT t.wrong_position(.05)', 'so is what there really was');
CALL t.make('2032-03-01 01:00:00+00', '5 hours', 100, .7);
SELECT t.project() AS done \gset
SELECT is_empty('SELECT t.wrong_history(.2)', 'and over days on which little happens');
SELECT is_empty('SELECT t.wrong_snapshots()', 'of each changed stock item there is a snapshot on the first tick of each day');
SELECT cmp_ok((SELECT count(*) FROM inventory.snapshot p JOIN t.item i USING (stock_id) WHERE i.sku = 'rare'), '<', 30::bigint, 'and none of one that has not changed');
SELECT is_empty('SELECT t.wrong_balance()', 'history() has a running balance of each stock item');
SELECT is_empty('SELECT i FROM t.item i, inventory.history(i.sku, i.location, i.lot, i.condition) h WHERE h.on_hand < 0 OR h.reserved < 0 OR h.committed < 0', 'in which nothing is ever negative');
SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds nothing');

-- Both ends --------------------------------------------------------------

SELECT bag_eq($$SELECT * FROM inventory.stock_at('infinity')$$, 'SELECT sku, location, lot, condition, on_hand, (SELECT sum(reserved_delta)::bigint FROM inventory.event v WHERE v.stock_id = l.stock_id), committed, event_count FROM inventory.stock_level l WHERE event_count > 0',
	'what there will be in the end is what there is now');
SELECT bag_eq($$SELECT * FROM inventory.stock_at('infinity')$$, $$SELECT * FROM inventory.stock_at('2200-01-01')$$, 'as it is at any moment to come');
SELECT bag_eq($$SELECT * FROM inventory.position('infinity')$$, $$SELECT * FROM inventory.stock_at('infinity')$$, 'and everything that is recorded has happened by then');
SELECT is_empty($$SELECT * FROM inventory.stock_at('-infinity')$$, 'at the beginning there was nothing');
SELECT is_empty($$SELECT * FROM inventory.stock_at('2032-02-28 23:39:59.999999+00')$$, 'nor just before the first event');
SELECT is((SELECT count(*) FROM inventory.stock_at('2032-02-28 23:40:00+00')), 9::bigint, 'which counts from its own moment on');
SELECT is_empty('SELECT * FROM inventory.stock_at(NULL)', 'NULL is no moment');
SELECT is_empty('SELECT * FROM inventory.position(NULL)', 'for position() neither');

-- Which stock items ------------------------------------------------------

SELECT bag_eq(format('SELECT * FROM inventory.stock_at(%L, %L, %L)', at, sku, location),
	format('SELECT * FROM t.recorded_by(%L) WHERE sku = coalesce(%L, sku) AND location = coalesce(%L, location)', at, sku, location),
	format('stock_at(%s, %s, %s) is of these stock items', at, coalesce(sku, 'NULL'), coalesce(location, 'NULL')))
FROM unnest(ARRAY['2032-02-29 00:03:00+00', '2032-03-04 05:06:07+00']) at, unnest(ARRAY[NULL, 'A', 'lots', 'never']) sku, unnest(ARRAY[NULL, 'L', 'M']) location;
SELECT bag_eq(format('SELECT * FROM inventory.position(%L, %L, %L)', at, sku, location),
	format('SELECT * FROM t.happened_by(%L) WHERE sku = coalesce(%L, sku) AND location = coalesce(%L, location)', at, sku, location),
	format('position(%s, %s, %s) is of these stock items', at, coalesce(sku, 'NULL'), coalesce(location, 'NULL')))
FROM unnest(ARRAY['2032-02-29 00:03:00+00']) at, unnest(ARRAY[NULL, 'lots']) sku, unnest(ARRAY[NULL, 'M']) location;
SELECT throws_ok(format('SELECT * FROM inventory.%s(''2032-03-01'', %L, %L)', f, sku, location), 'IV002', NULL, format('%s: an unknown code is an error (%s, %s)', f, sku, location))
FROM unnest(ARRAY['stock_at', 'position']) f, (VALUES ('nothing', NULL), (NULL, 'nowhere'), ('nothing', 'nowhere'), ('A', 'nowhere'), ('', NULL), ('a', NULL)) x(sku, location);
SELECT is_empty(format('SELECT * FROM inventory.history(%L, %L, %L, %L)', a, b, c, d), format('history(%s, %s, %s, %s) is empty', a, b, c, d))
FROM (VALUES ('nothing', 'L', NULL, 'good'), ('A', 'nowhere', NULL, 'good'), ('A', 'L', 'one', 'good'), ('lots', 'L', NULL, 'good'), ('A', 'L', NULL, 'odd'), (NULL, NULL, NULL, NULL)) x(a, b, c, d);
SELECT is((SELECT q::text FROM inventory.item_at(1000000, '2032-03-01') q), '(0,0,0,0)', 'a stock item that does not exist has come to nothing');

-- A backdated event ------------------------------------------------------

SELECT inventory.set_test_clock('2032-04-01 12:00:00+00') IS NULL AS done \gset
CREATE TABLE t.told AS SELECT m AS at, x FROM t.moments(.02) m, inventory.stock_at(m) x WHERE m < '2032-04-01';
CREATE TABLE t.kept AS SELECT * FROM inventory.snapshot;
SELECT p.on_hand AS was FROM inventory.position('2032-02-29 12:00:00+00', 'B', 'L') p WHERE condition = 'good' \gset
SELECT inventory.receive('B', 'L', 1000, effective_at => '2032-02-29 12:00:00+00') AS done \gset
SELECT t.project() AS done \gset
SELECT is((SELECT on_hand FROM inventory.position('2032-02-29 12:00:00+00', 'B', 'L') WHERE condition = 'good'), :was + 1000::bigint, 'a backdated event changes what there really was');
SELECT is((SELECT on_hand FROM inventory.position('2032-02-29 11:59:59.999999+00', 'B', 'L') WHERE condition = 'good'),
	(SELECT on_hand FROM t.happened_by('2032-02-29 11:59:59.999999+00') WHERE sku = 'B' AND location = 'L' AND condition = 'good'), 'from its own moment on');
SELECT is_empty('SELECT * FROM t.kept EXCEPT SELECT * FROM inventory.snapshot', 'and rewrites no snapshot');
SELECT bag_eq('SELECT * FROM t.told', 'SELECT m.at, x FROM (SELECT DISTINCT at FROM t.told) m, inventory.stock_at(m.at) x', 'nor what was known at any moment');
SELECT is((SELECT (h.recorded_at, h.effective_at)::text FROM inventory.history('B', 'L') h ORDER BY event_id DESC LIMIT 1), '("2032-04-01 12:00:00+00","2032-02-29 12:00:00+00")', 'history() tells both');

-- A clock that goes back far, and a transaction of that time ---------------

SELECT t.other('late 1', 'BEGIN') || t.other('late 1', $$SELECT inventory.receive('rare', 'L', 1)$$) AS done \gset
SELECT inventory.set_test_clock('2031-12-31 23:59:59+00') IS NULL AS done \gset
SELECT inventory.receive('rare', 'L', 2), inventory.receive('A', 'L', 2) \g /dev/null
SELECT t.project() AS done \gset
SELECT is_empty('SELECT t.wrong_history(.05)', 'events recorded before all others, after them, are found');
SELECT inventory.set_test_clock('2032-05-01 12:00:00+00') IS NULL AS done \gset
DO $$ BEGIN FOR i IN 1..200 LOOP PERFORM inventory.receive('rare', 'L', 1); IF i % 3 = 0 THEN PERFORM t.project(); END IF; COMMIT; END LOOP; END $$;
SELECT t.other('late 1', $$SELECT inventory.receive('rare', 'L', 1)$$) || t.other('late 1', 'COMMIT') AS done \gset
SELECT is_empty('SELECT t.wrong_history(.05)', 'and those of a transaction that was open for a month, before they are projected');
SELECT t.project() AS done \gset
DO $$ BEGIN FOR i IN 1..30 LOOP PERFORM inventory.receive('rare', 'L', 1); PERFORM t.project(); COMMIT; END LOOP; END $$;
SELECT is_empty('SELECT t.wrong_history(.05)', 'and afterwards');

-- As the caller sees it --------------------------------------------------

BEGIN;
SELECT inventory.receive('A', 'L', 77) AS done \gset
SELECT is_empty('SELECT t.wrong_history(.01)', 'own events count');
SAVEPOINT a;
SELECT inventory.receive('A', 'L', 777) AS done \gset
SELECT is_empty('SELECT t.wrong_history(.01)', 'until they are undone');
ROLLBACK TO a;
SELECT is_empty('SELECT t.wrong_history(.01)', 'and then not');
ROLLBACK;
SELECT format(statement, level) FROM unnest(ARRAY['REPEATABLE READ', 'SERIALIZABLE']) level, unnest(ARRAY[
	'BEGIN ISOLATION LEVEL %s',
	'CREATE TEMP TABLE seen ON COMMIT DROP AS SELECT m AS at, x FROM t.moments(.02) m, inventory.stock_at(m) x',
	'DO $$ BEGIN FOR i IN 1..50 LOOP PERFORM t.other(''w1'', ''SELECT inventory.receive(''''A'''', ''''L'''', 1), inventory.receive(''''rare'''', ''''L'''', 1)''), t.project(); END LOOP; END $$',
	'SELECT bag_eq(''SELECT * FROM seen'', ''SELECT m.at, x FROM (SELECT DISTINCT at FROM seen) m, inventory.stock_at(m.at) x'', ''history is the same throughout a transaction, whatever is written and projected (%s)'')',
	'SELECT is_empty(''SELECT t.wrong_history(.02)'', ''and the sum of the events that it sees (%s)'')',
	'COMMIT']) WITH ORDINALITY x(statement, n) ORDER BY level, n \gexec

SELECT is_empty('SELECT t.wrong_history(.1)', 'at the end history is right');
SELECT is_empty('SELECT * FROM inventory.verify()', 'and verify() finds nothing');
ALTER SYSTEM RESET inventory.snapshot_events;
SELECT pg_reload_conf() AS done \gset
SELECT t.await_setting('inventory.snapshot_events', '1000') IS NULL AS done \gset
SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
SELECT * FROM finish();
SELECT count(dblink_disconnect(name)) AS done FROM unnest(dblink_get_connections()) name \gset
\c :home
SET client_min_messages = warning;
DROP DATABASE :database WITH (FORCE);
