-- Each index serves the query that its comment names: EXPLAIN shows it for the
-- queries of users, and the index counters show it for the functions.
--
-- Runs in a database of its own, with enough rows that a plan is a choice.
\set database inventory_pgtap_explain
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock(NULL); END $$;
INSERT INTO inventory.location (location_id, location, parent_id) SELECT n, 'L' || n, CASE WHEN n > 20 THEN n % 20 + 1 END FROM generate_series(1, 2000) n;
INSERT INTO inventory.sku (sku) SELECT 'S' || n FROM generate_series(1, 2000) n;
INSERT INTO inventory.sku (sku, tracking) SELECT 'T' || n, 'lot' FROM generate_series(1, 200) n;
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'lot-' || n FROM inventory.sku CROSS JOIN generate_series(1, 10) n WHERE sku LIKE 'T%';
SELECT count(inventory.post('receive', skus, locations, quantities)) AS posts
FROM generate_series(1, 10), (SELECT array_agg('S' || n) AS skus, array_agg('L' || n) AS locations, array_agg(n::bigint) AS quantities FROM generate_series(1, 2000) n) x \gset
SELECT count(inventory.receive('T' || n, 'L' || n, 100, lot => 'lot-1')) AS receipts FROM generate_series(1, 200) n \gset
SELECT count(inventory.reserve('S' || n, 'L' || n, 1, owner => 'owner-' || n, request_id => 'request-' || n)) AS holds FROM generate_series(1, 2000) n \gset
SELECT count(inventory.reserve('S2000', 'L2000', 1, ttl => '1 hour')) AS holds FROM generate_series(1, 500) n \gset
SELECT inventory.receive('S1', 'L1', 1) AS receipt \gset
ANALYZE;

-- The functions: how often an index was used by one call, and how often a table
-- with anything in it was read from end to end.  Of events, all partitions.
CREATE FUNCTION public.scans(index_name text) RETURNS bigint
	LANGUAGE sql VOLATILE AS $$
	SELECT coalesce(sum(pg_stat_get_xact_numscans(i.indexrelid)), 0)::bigint
	FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
	WHERE c.relnamespace = 'inventory'::regnamespace AND c.relname ~ ('^' || index_name || '$')
$$;
CREATE FUNCTION public.whole_scans() RETURNS bigint
	LANGUAGE sql VOLATILE AS $$
	SELECT coalesce(sum(pg_stat_get_xact_numscans(c.oid)), 0)::bigint
	FROM pg_class c WHERE c.relnamespace = 'inventory'::regnamespace AND c.relkind = 'r' AND pg_relation_size(c.oid) > 0
$$;
CREATE FUNCTION public.call_uses(call text, VARIADIC indexes text[]) RETURNS SETOF text
	LANGUAGE plpgsql AS $$
DECLARE
	before bigint[] := ARRAY(SELECT public.scans(i) FROM unnest(indexes) WITH ORDINALITY u(i, n) ORDER BY n);
	whole bigint := public.whole_scans();
BEGIN
	EXECUTE 'SELECT inventory.' || call;
	whole := public.whole_scans() - whole;
	FOR i IN 1 .. cardinality(indexes) LOOP
		RETURN NEXT cmp_ok(public.scans(indexes[i]), '>', before[i], format('%s uses %s', call, indexes[i]));
	END LOOP;
	RETURN NEXT is(whole, 0::bigint, format('%s reads no table from end to end', call));
END
$$;
SELECT reservation_id AS confirming FROM inventory.reservation WHERE owner = 'owner-50' \gset
SELECT reservation_id AS shipping FROM inventory.reservation WHERE owner = 'owner-51' \gset
SELECT reservation_id AS extending FROM inventory.reservation WHERE owner = 'owner-52' \gset
SELECT inventory.confirm(:shipping) AS lines \gset

-- A new session has no code cached.
\c
SET client_min_messages = warning;
SELECT no_plan();
SET enable_seqscan = off;
BEGIN;
SELECT public.call_uses($$receive('S60', 'L60', 1, request_id => 'new')$$, 'sku_key', 'location_key', 'stock_key', 'request_pkey');
SELECT public.call_uses($$reserve('T60', 'L60', 1, lot => 'lot-1', owner => 'owner-61')$$, 'lot_key', 'reservation_owner_idx');
SELECT public.call_uses(format('confirm(%s)', :confirming), 'reservation_pkey');
SELECT public.call_uses(format($$extend(%s, '1 hour')$$, :extending), 'reservation_pkey');
SELECT public.call_uses(format('ship(%s)', :shipping), 'reservation_pkey');
SELECT public.call_uses(format('release(%s)', :extending), 'reservation_pkey');
SELECT public.call_uses($$release_owner('owner-70')$$, 'reservation_owner_idx');
SELECT public.call_uses(format($$reverse(%s, 'x')$$, :receipt), 'event_\d+_\d+_event_id_idx');
SELECT public.call_uses($$tail_on_hand(77)$$, 'tick_pkey', 'event_\d+_\d+_stock_id_xid_idx', 'reservation_stock_id_expires_at_idx');
SELECT public.call_uses($$item_at(77, now())$$, 'snapshot_pkey', 'snapshot_stock_id_recorded_until_idx', 'snapshot_late_idx', 'stock_pkey');
RESET enable_seqscan;

-- The plan of a query, in one line.
CREATE FUNCTION public.plan_of(query text) RETURNS text
	LANGUAGE plpgsql AS $$
DECLARE
	line text;
	plan text := '';
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || query LOOP
		plan := plan || trim(line) || '; ';
	END LOOP;
	RETURN plan;
END
$$;
-- An index, as the plan names it: of events, the index of a partition.  Tables
-- with nothing in them may be scanned.
CREATE FUNCTION public.uses(query text, index_pattern text) RETURNS SETOF text
	LANGUAGE plpgsql AS $$
DECLARE
	plan text := public.plan_of(query);
BEGIN
	RETURN NEXT ok(plan ~ ('(Index|Index Only|Bitmap Index) Scan (Backward )?(using|on) ' || index_pattern || '( |;)'),
		format('%s serves %s (%s)', index_pattern, query, plan));
	RETURN NEXT is_empty(format($q$SELECT c.relname FROM regexp_matches(%L, 'Seq Scan on (\w+)', 'g') m JOIN pg_class c ON c.relname = m[1]
		WHERE c.relnamespace = 'inventory'::regnamespace AND pg_relation_size(c.oid) > 0$q$, plan), format('no table is read from end to end by %s', query));
END
$$;

SELECT line FROM (VALUES
	($$SELECT * FROM inventory.sku WHERE sku = 'S77'$$, 'sku_key'),
	($$SELECT * FROM inventory.sku WHERE sku_id = 77$$, 'sku_pkey'),
	($$SELECT * FROM inventory.location WHERE location = 'L77'$$, 'location_key'),
	($$SELECT * FROM inventory.location WHERE location_id = 77$$, 'location_pkey'),
	($$SELECT * FROM inventory.location WHERE parent_id = 77$$, 'location_parent_id_idx'),
	($$SELECT * FROM inventory.lot WHERE lot_id = 77$$, 'lot_pkey'),
	($$SELECT * FROM inventory.lot WHERE sku_id = 2007 AND lot = 'lot-3'$$, 'lot_key'),
	($$SELECT * FROM inventory.stock WHERE stock_id = 77$$, 'stock_pkey'),
	($$SELECT * FROM inventory.stock WHERE sku_id = 77 AND location_id = 77 AND lot_id IS NULL AND condition = 'good'$$, 'stock_key'),
	($$SELECT * FROM inventory.stock WHERE sku_id = 77$$, 'stock_key'),
	($$SELECT sum(on_hand_delta) FROM inventory.event WHERE stock_id = 77$$, 'event_\d+_\d+_stock_id_xid_idx'),
	($$SELECT sum(on_hand_delta) FROM inventory.event WHERE stock_id = 77 AND xid >= '3'::xid8$$, 'event_\d+_\d+_stock_id_xid_idx'),
	($$SELECT * FROM inventory.event WHERE xid = (SELECT max(xmax) FROM (VALUES ('3'::xid8)) x(xmax))$$, 'event_\d+_\d+_xid_idx'),
	($$SELECT * FROM inventory.event WHERE xid >= pg_snapshot_xmin(pg_current_snapshot())$$, 'event_\d+_\d+_xid_idx'),
	($$SELECT * FROM inventory.reservation WHERE reservation_id = 77$$, 'reservation_pkey'),
	($$SELECT * FROM inventory.reservation WHERE stock_id = 77 ORDER BY expires_at LIMIT 1$$, 'reservation_stock_id_expires_at_idx'),
	($$SELECT min(expires_at) FROM inventory.reservation$$, 'reservation_expires_at_idx'),
	($$SELECT min(expires_at) FROM inventory.reservation WHERE stock_id = 2000 AND expires_at > now()$$, 'reservation_stock_id_expires_at_idx'),
	($$SELECT * FROM inventory.reservation WHERE owner = 'owner-77'$$, 'reservation_owner_idx'),
	($$SELECT * FROM inventory.request WHERE request_id = 'request-77'$$, 'request_pkey'),
	($$SELECT * FROM inventory.stock_level WHERE sku = 'S77'$$, 'sku_key'),
	($$SELECT * FROM inventory.stock_level WHERE sku = 'S77'$$, 'stock_key'),
	($$SELECT * FROM inventory.open_reservation WHERE reservation_id = 77$$, 'reservation_pkey'),
	($$SELECT * FROM inventory.open_reservation WHERE owner = 'owner-77'$$, 'reservation_owner_idx')) x(query, index_pattern) CROSS JOIN LATERAL public.uses(query, index_pattern) line;
-- BRIN pays only from many pages on; the smallest of tables is scanned.
SET enable_seqscan = off;
SELECT public.uses('SELECT * FROM inventory.event WHERE event_id = 77', 'event_\d+_\d+_event_id_idx');
RESET enable_seqscan;

SELECT * FROM finish();
\c :home
DROP DATABASE :database;
