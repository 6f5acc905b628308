-- A level that is not in memory is loaded exactly, whatever meets it first: a
-- function, a plain INSERT of one row or many, COPY, in a transaction or a
-- savepoint, with commit and with rollback.
--
-- Runs in databases of its own: the second is a copy of the first, and so has no
-- level in memory yet.
\set database inventory_pgtap_level_load
\set copy inventory_pgtap_level_load_copy
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
DROP DATABASE IF EXISTS :copy WITH (FORCE);
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:00:00+00'); END $$;
INSERT INTO inventory.location (location) VALUES ('L'), ('M');

-- One SKU for each first meeting: 50 on hand, 5 held for a minute, 5 committed.
CREATE TABLE meeting (n integer PRIMARY KEY, what text, call text, on_hand bigint, available bigint);
INSERT INTO meeting (n, what, call, on_hand, available) VALUES
	(1, 'available()', $$SELECT inventory.available(%1$L)$$, 50, 40),
	(2, 'on_hand()', $$SELECT inventory.on_hand(%1$L)$$, 50, 40),
	(3, 'receive', $$SELECT inventory.receive(%1$L, 'L', 7)$$, 57, 47),
	(4, 'issue', $$SELECT inventory.issue(%1$L, 'L', 40)$$, 10, 0),
	(5, 'adjust', $$SELECT inventory.adjust(%1$L, 'L', -45, 'fire')$$, 5, -5),
	(6, 'set_on_hand', $$SELECT inventory.set_on_hand(%1$L, 'L', 60, 50)$$, 60, 50),
	(7, 'transfer', $$SELECT inventory.transfer(%1$L, 'L', 'M', 10)$$, 50, 40),
	(8, 'reserve', $$SELECT inventory.reserve(%1$L, 'L', 40)$$, 50, 0),
	(9, 'confirm', $$SELECT inventory.confirm(%3$s)$$, 50, 40),
	(10, 'ship', $$SELECT inventory.ship(%4$s)$$, 45, 40),
	(11, 'release of a hold', $$SELECT inventory.release(%3$s)$$, 50, 45),
	(12, 'release of an order', $$SELECT inventory.release(%4$s)$$, 50, 45),
	(13, 'extend', $$SELECT inventory.extend(%3$s, NULL)$$, 50, 40),
	(14, 'release_owner', $$SELECT inventory.release_owner('held ' || %1$L)$$, 50, 45),
	(15, 'reserving again', $$SELECT inventory.reserve(%1$L, 'L', 45, owner => 'held ' || %1$L)$$, 50, 0),
	(16, 'post', $$SELECT inventory.post('receive', ARRAY[%1$L, %1$L], ARRAY['L', 'M'], ARRAY[3, 4])$$, 57, 47),
	(17, 'INSERT of one receive', $$INSERT INTO inventory.event (stock_id, type, on_hand_delta) VALUES (%2$s, 'receive', 10)$$, 60, 50),
	(18, 'INSERT of one issue', $$INSERT INTO inventory.event (stock_id, type, on_hand_delta) VALUES (%2$s, 'issue', -40)$$, 10, 0),
	(19, 'INSERT of many rows', $$INSERT INTO inventory.event (stock_id, type, on_hand_delta) SELECT %2$s, 'issue', -1 FROM generate_series(1, 40)$$, 10, 0),
	(20, 'INSERT of mixed rows', $$INSERT INTO inventory.event (stock_id, type, on_hand_delta) SELECT %2$s, t::inventory.event_type, d FROM (VALUES ('receive', 20), ('issue', -60), ('count', 3)) x(t, d)$$, 13, 3),
	(21, 'COPY', $$COPY inventory.event (stock_id, type, on_hand_delta) FROM PROGRAM 'printf "%2$s\\treceive\\t20\\n%2$s\\tissue\\t-60\\n"'$$, 10, 0),
	(22, 'INSERT in a WITH clause beside a call', $$WITH i AS (INSERT INTO inventory.event (stock_id, type, on_hand_delta) VALUES (%2$s, 'receive', 10) RETURNING 1) SELECT inventory.receive(%1$L, 'L', 1) FROM i$$, 61, 51);
-- S for what stays, U for what is undone.
INSERT INTO inventory.sku (sku) SELECT x || n FROM meeting, unnest(ARRAY['S', 'U']) x;
SELECT inventory.post('receive', array_agg(x || n), array_agg('L'::text), array_agg(50::bigint)) AS events FROM meeting, unnest(ARRAY['S', 'U']) x \gset
CREATE TABLE call AS
SELECT n, what, kept, format(call, sku, (SELECT stock_id FROM inventory.stock_level v WHERE v.sku = x.sku), held, committed) AS call, on_hand, available
FROM (SELECT m.*, s.kept, s.sku, inventory.reserve(s.sku, 'L', 5, ttl => '1 minute', owner => 'held ' || s.sku) AS held,
	inventory.reserve(s.sku, 'L', 5, ttl => NULL) AS committed
	FROM meeting m CROSS JOIN LATERAL (VALUES ('S' || m.n, true), ('U' || m.n, false)) s(sku, kept)) x;
DO $$ BEGIN PERFORM inventory.confirm(reservation_id) FROM inventory.reservation WHERE owner IS NULL; END $$;

\c :home
CREATE DATABASE :copy TEMPLATE :database;
\c :copy
SET client_min_messages = warning;
SELECT no_plan();
CREATE FUNCTION pg_temp.memory(sku text) RETURNS text
	LANGUAGE sql AS $$ SELECT format('%s/%s', inventory.on_hand(sku), inventory.available(sku)) $$;
CREATE FUNCTION pg_temp.undone(call text) RETURNS text
	LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE call;
	RAISE EXCEPTION 'undone';
EXCEPTION WHEN raise_exception THEN
	RETURN SQLERRM;
END
$$;

SELECT is((SELECT count(*) FROM inventory.levels()), 0::bigint, 'a copied database begins with no level in memory');
SELECT lives_ok(c.call, format('%s can be the first to meet a stock item', c.what)) FROM call c WHERE kept ORDER BY n;
SELECT is(pg_temp.memory('S' || c.n), format('%s/%s', c.on_hand, c.available), format('and finds it as it is: %s', c.what)) FROM call c WHERE kept ORDER BY n;
SELECT is(inventory.on_hand('S' || c.n), (SELECT l.on_hand FROM inventory.sku_level l WHERE l.sku = 'S' || c.n), format('and so do the views: %s', c.what)) FROM call c WHERE kept ORDER BY n;
SELECT is(pg_temp.undone(c.call), 'undone', format('%s can be undone', c.what)) FROM call c WHERE NOT kept ORDER BY n;
SELECT is(pg_temp.memory('U' || c.n), '50/40', format('and leaves the level as it was: %s', c.what)) FROM call c WHERE NOT kept ORDER BY n;
SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');

SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
DROP DATABASE :copy;
