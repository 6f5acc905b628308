-- Bad input: each kind is refused with its own SQLSTATE and a message that
-- names what was asked, and leaves nothing behind.
SET client_min_messages = warning;
SET timezone = 'UTC';
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS inventory;
DO $$ BEGIN PERFORM inventory.set_test_clock('2031-04-10 12:00:00+00'); END $$;
BEGIN;
SELECT no_plan();

INSERT INTO inventory.location (location, active) VALUES ('bi-L', true), ('bi-M', true), ('bi-CLOSED', false);
INSERT INTO inventory.sku (sku, active) VALUES ('bi-A', true), ('bi-B', true), ('bi-OLD', false), ('bi-MAX', true);
INSERT INTO inventory.sku (sku, tracking) VALUES ('bi-LOT', 'lot'), ('bi-SER', 'serial');
INSERT INTO inventory.lot (sku_id, lot, status, expires_on)
SELECT sku_id, x.lot, x.status, x.expires_on
FROM inventory.sku CROSS JOIN (VALUES ('fresh', 'active', NULL::date), ('expired', 'active', '2031-04-09'), ('blocked', 'blocked', NULL)) x(lot, status, expires_on)
WHERE sku = 'bi-LOT';
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, unnest(ARRAY['S1', 'S2']) FROM inventory.sku WHERE sku = 'bi-SER';
SELECT inventory.receive('bi-A', 'bi-L', 10, request_id => 'bi-used') AS receipt \gset
SELECT inventory.receive('bi-B', 'bi-L', 10) AS receipt_of_b \gset
SELECT inventory.receive('bi-MAX', 'bi-L', 4611686018427387903) AS receipt_of_max \gset
SELECT count(inventory.receive('bi-LOT', 'bi-L', 10, lot => l)) AS receipts FROM unnest(ARRAY['fresh', 'expired', 'blocked']) l \gset
SELECT inventory.receive('bi-SER', 'bi-L', 1, lot => 'S1') AS receipt_of_serial \gset
SELECT inventory.reserve('bi-B', 'bi-L', 2, owner => 'bi-held') AS held \gset
SELECT inventory.reserve('bi-B', 'bi-L', 2, owner => 'bi-committed') AS committed \gset
SELECT inventory.confirm(:committed) AS lines \gset
SELECT inventory.reserve('bi-B', 'bi-L', 1, owner => 'bi-closed') AS closed \gset
SELECT inventory.confirm(:closed) AS lines \gset
SELECT inventory.ship(:closed) AS events \gset
SELECT inventory.reserve('bi-B', 'bi-L', 1, owner => 'bi-released') AS released \gset
SELECT inventory.release(:released) AS events \gset
SELECT inventory.reserve('bi-B', 'bi-L', 1, owner => 'bi-expired', ttl => '1 second') AS expired \gset
SELECT inventory.adjust('bi-A', 'bi-L', 1, 'x') AS adjusted \gset
SELECT inventory.reverse(:adjusted, 'x') AS reversal \gset
SELECT inventory.set_test_clock('2031-04-10 12:01:00+00') IS NULL AS done \gset

-- Everything that a call could leave behind.
CREATE FUNCTION pg_temp.footprint() RETURNS text
	LANGUAGE sql AS $$
	SELECT format('events %s, requests %s, reservations %s, stock %s, shared %s, own %s',
		(SELECT count(*) FROM inventory.event), (SELECT count(*) FROM inventory.request),
		(SELECT count(*) || md5(string_agg(r::text, ',' ORDER BY reservation_id, line_no)) FROM inventory.reservation r),
		(SELECT count(*) || md5(string_agg(v::text, ',' ORDER BY stock_id)) FROM inventory.stock_level v),
		(SELECT md5(string_agg(format('%s/%s/%s', stock_id, v.on_hand, v.available), ',' ORDER BY stock_id)) FROM inventory.levels() v JOIN inventory.stock USING (stock_id)),
		(SELECT string_agg(format('%s/%s', inventory.on_hand(sku), inventory.available(sku)), ',' ORDER BY sku) FROM inventory.sku WHERE sku LIKE 'bi-%'))
$$;

-- What a call is refused with, the detail included.
CREATE FUNCTION pg_temp.refusal(call text, OUT sqlstate text, OUT message text)
	LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	EXECUTE 'SELECT inventory.' || call;
	RAISE EXCEPTION 'accepted' USING ERRCODE = 'ZZ000';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	refusal.sqlstate := SQLSTATE;
	refusal.message := concat_ws(' / ', SQLERRM, nullif(detail, ''));
END
$$;

-- kind; call; SQLSTATE; what the message must say
CREATE TEMP TABLE bad (n serial, kind text, call text, sqlstate text, said text[]);
INSERT INTO bad (kind, call, sqlstate, said)
SELECT 'NULL', call, '22004', said
FROM (VALUES
	($$receive(NULL, 'bi-L', 1)$$, '{sku}'::text[]), ($$receive('bi-A', NULL, 1)$$, '{location}'), ($$receive('bi-A', 'bi-L', NULL)$$, '{quantity}'),
	($$issue(NULL, 'bi-L', 1)$$, '{sku}'), ($$issue('bi-A', 'bi-L', NULL)$$, '{quantity}'), ($$receive('bi-A', 'bi-L', 1, condition => NULL)$$, '{condition}'),
	($$adjust('bi-A', 'bi-L', NULL, 'x')$$, '{delta}'), ($$adjust('bi-A', 'bi-L', 1, NULL)$$, '{reason}'),
	($$set_on_hand('bi-A', 'bi-L', NULL, 10)$$, '{quantity}'), ($$set_on_hand('bi-A', 'bi-L', 5, NULL)$$, '{expected}'),
	($$transfer('bi-A', NULL, 'bi-M', 1)$$, '{from_location}'), ($$transfer('bi-A', 'bi-L', NULL, 1)$$, '{to_location}'), ($$transfer('bi-A', 'bi-L', 'bi-M', NULL)$$, '{quantity}'),
	($$reverse(NULL, 'x')$$, '{event_id}'), ($$post(NULL::jsonb)$$, '{movements}'), ($$post(NULL, '{bi-A}'::text[], '{bi-L}'::text[], '{1}'::bigint[])$$, '{type}'),
	($$post('receive', NULL, '{bi-L}'::text[], '{1}'::bigint[])$$, '{skus}'), ($$post('receive', '{bi-A}'::text[], NULL, '{1}'::bigint[])$$, '{locations}'), ($$post('receive', '{bi-A}'::text[], '{bi-L}'::text[], NULL)$$, '{quantities}'),
	($$reserve(NULL, 'bi-L', 1)$$, '{sku}'), ($$reserve('bi-A', NULL, 1)$$, '{location}'), ($$reserve('bi-A', 'bi-L', NULL::bigint)$$, '{quantity}'), ($$reserve(NULL::jsonb)$$, '{lines}'),
	($$reserve('[{"sku": "bi-A", "location": "bi-L", "quantity": 1}]', mode => NULL)$$, '{mode}'),
	($$try_reserve(NULL, 'bi-L', 1)$$, '{sku}'), ($$try_reserve(NULL::jsonb)$$, '{lines}'),
	($$confirm(NULL)$$, '{reservation_id}'), ($$ship(NULL)$$, '{reservation_id}'), ($$release(NULL)$$, '{reservation_id}'), ($$extend(NULL, '1 hour')$$, '{reservation_id}'),
	($$release_owner(NULL)$$, '{owner}')) x(call, said);
INSERT INTO bad (kind, call, sqlstate, said)
SELECT 'quantity', format(call, quantity), 'IV011', ARRAY[quantity::text]
FROM unnest(ARRAY[$$receive('bi-A', 'bi-L', %s)$$, $$issue('bi-A', 'bi-L', %s)$$, $$transfer('bi-A', 'bi-L', 'bi-M', %s)$$, $$reserve('bi-A', 'bi-L', %s)$$, $$try_reserve('bi-A', 'bi-L', %s)$$,
	$$post('receive', '{bi-A,bi-B}'::text[], '{bi-L,bi-L}'::text[], '{1,%s}'::bigint[])$$, $$post('issue', '{bi-A,bi-B}'::text[], '{bi-L,bi-L}'::text[], '{1,%s}'::bigint[])$$]) call, unnest(ARRAY[0, -1, -9223372036854775808]) quantity;
INSERT INTO bad (kind, call, sqlstate, said)
VALUES ('quantity', $$adjust('bi-A', 'bi-L', 0, 'x')$$, 'IV011', '{0}'), ('quantity', $$set_on_hand('bi-A', 'bi-L', -1, 10)$$, 'IV011', '{-1}'),
	('quantity', format($$ship(%s, '[{"line_no": 1, "quantity": 0}]')$$, :committed), 'IV011', '{0}'), ('quantity', format($$release(%s, '[{"line_no": 1, "quantity": -2}]')$$, :held), 'IV011', '{-2}');
INSERT INTO bad (kind, call, sqlstate, said)
VALUES ('overflow', $$receive('bi-MAX', 'bi-L', 1)$$, '22003', '{}'), ('overflow', $$receive('bi-MAX', 'bi-L', 9223372036854775807)$$, '22003', '{}'),
	('overflow', $$adjust('bi-MAX', 'bi-L', 1, 'x')$$, '22003', '{}'),
	('overflow', $$post('receive', '{bi-A,bi-A}'::text[], '{bi-L,bi-L}'::text[], '{9223372036854775807,9223372036854775807}'::bigint[])$$, '22003', '{}'),
	('overflow', $$post('[{"type": "receive", "sku": "bi-A", "location": "bi-L", "quantity": 9223372036854775807}, {"type": "receive", "sku": "bi-A", "location": "bi-L", "quantity": 9223372036854775807}]')$$, '22003', '{}'),
	('overflow', $$reserve('[{"sku": "bi-A", "location": "bi-L", "quantity": 9223372036854775807}, {"sku": "bi-A", "location": "bi-L", "quantity": 9223372036854775807}]')$$, '22003', '{}'),
	('overflow', $$post('[{"type": "receive", "sku": "bi-A", "location": "bi-L", "quantity": 9223372036854775808}]')$$, '22003', '{}'),
	('overflow', $$transfer('bi-A', 'bi-L', 'bi-M', 9223372036854775807)$$, 'IV001', '{bi-A,bi-L,9223372036854775807}'),
	('overflow', $$adjust('bi-A', 'bi-L', -9223372036854775807, 'x')$$, 'IV001', '{bi-A,bi-L}');
INSERT INTO bad (kind, call, sqlstate, said)
SELECT 'unknown SKU', format(call, 'bi-NONE'), 'IV002', '{bi-NONE}'
FROM unnest(ARRAY[$$receive(%L, 'bi-L', 1)$$, $$issue(%L, 'bi-L', 1)$$, $$adjust(%L, 'bi-L', 1, 'x')$$, $$set_on_hand(%L, 'bi-L', 1, 0)$$, $$transfer(%L, 'bi-L', 'bi-M', 1)$$,
	$$reserve(%L, 'bi-L', 1)$$, $$try_reserve(%L, 'bi-L', 1)$$, $$available(%L)$$, $$on_hand(%L)$$, $$post('receive', ARRAY['bi-A', %L], '{bi-L,bi-L}', '{1,1}')$$,
	$$reserve(jsonb_build_array(jsonb_build_object('sku', %L, 'location', 'bi-L', 'quantity', 1)))$$, $$post(jsonb_build_array(jsonb_build_object('type', 'receive', 'sku', %L, 'location', 'bi-L', 'quantity', 1)))$$,
	$$receive(%L || '', 'bi-L', 1)$$]) call;
INSERT INTO bad (kind, call, sqlstate, said)
SELECT 'unknown location', format(call, 'bi-NOWHERE'), 'IV002', '{bi-NOWHERE}'
FROM unnest(ARRAY[$$receive('bi-A', %L, 1)$$, $$issue('bi-A', %L, 1)$$, $$adjust('bi-A', %L, 1, 'x')$$, $$set_on_hand('bi-A', %L, 1, 0)$$, $$transfer('bi-A', %L, 'bi-M', 1)$$, $$transfer('bi-A', 'bi-L', %L, 1)$$,
	$$reserve('bi-A', %L, 1)$$, $$try_reserve('bi-A', %L, 1)$$, $$available('bi-A', %L)$$, $$on_hand('bi-A', %L)$$, $$post('receive', '{bi-A,bi-A}', ARRAY['bi-L', %L], '{1,1}')$$]) call;
INSERT INTO bad (kind, call, sqlstate, said)
SELECT 'unknown lot', format(call, 'bi-nolot'), 'IV002', '{bi-nolot,bi-LOT}'
FROM unnest(ARRAY[$$receive('bi-LOT', 'bi-L', 1, lot => %L)$$, $$issue('bi-LOT', 'bi-L', 1, lot => %L)$$, $$adjust('bi-LOT', 'bi-L', 1, 'x', lot => %L)$$, $$set_on_hand('bi-LOT', 'bi-L', 1, 0, lot => %L)$$,
	$$transfer('bi-LOT', 'bi-L', 'bi-M', 1, lot => %L)$$, $$reserve('bi-LOT', 'bi-L', 1, lot => %L)$$, $$try_reserve('bi-LOT', 'bi-L', 1, lot => %L)$$, $$available('bi-LOT', lot => %L)$$]) call;
INSERT INTO bad (kind, call, sqlstate, said)
SELECT 'inactive SKU', call, 'IV003', '{bi-OLD}'
FROM unnest(ARRAY[$$receive('bi-OLD', 'bi-L', 1)$$, $$issue('bi-OLD', 'bi-L', 1)$$, $$adjust('bi-OLD', 'bi-L', 1, 'x')$$, $$set_on_hand('bi-OLD', 'bi-L', 1, 0)$$, $$transfer('bi-OLD', 'bi-L', 'bi-M', 1)$$,
	$$reserve('bi-OLD', 'bi-L', 1)$$, $$try_reserve('bi-OLD', 'bi-L', 1)$$, $$post('receive', '{bi-A,bi-OLD}'::text[], '{bi-L,bi-L}'::text[], '{1,1}'::bigint[])$$]) call;
INSERT INTO bad (kind, call, sqlstate, said)
SELECT 'inactive location', call, 'IV003', '{bi-CLOSED}'
FROM unnest(ARRAY[$$receive('bi-A', 'bi-CLOSED', 1)$$, $$issue('bi-A', 'bi-CLOSED', 1)$$, $$adjust('bi-A', 'bi-CLOSED', 1, 'x')$$, $$set_on_hand('bi-A', 'bi-CLOSED', 1, 0)$$,
	$$transfer('bi-A', 'bi-L', 'bi-CLOSED', 1)$$, $$transfer('bi-A', 'bi-CLOSED', 'bi-L', 1)$$, $$reserve('bi-A', 'bi-CLOSED', 1)$$, $$try_reserve('bi-A', 'bi-CLOSED', 1)$$]) call;
INSERT INTO bad (kind, call, sqlstate, said)
VALUES ('lot where none is tracked', $$receive('bi-A', 'bi-L', 1, lot => 'fresh')$$, 'IV004', '{bi-A}'), ('lot where none is tracked', $$reserve('bi-A', 'bi-L', 1, lot => 'fresh')$$, 'IV004', '{bi-A}'),
	('lot where none is tracked', $$available('bi-A', lot => 'fresh')$$, 'IV002', '{fresh}'),
	('no lot where one is tracked', $$receive('bi-LOT', 'bi-L', 1)$$, 'IV004', '{bi-LOT}'), ('no lot where one is tracked', $$issue('bi-LOT', 'bi-L', 1)$$, 'IV004', '{bi-LOT}'),
	('no lot where one is tracked', $$reserve('bi-LOT', 'bi-L', 1)$$, 'IV004', '{bi-LOT}'), ('no lot where one is tracked', $$receive('bi-SER', 'bi-L', 1)$$, 'IV004', '{bi-SER}'),
	('serial quantity', $$receive('bi-SER', 'bi-L', 2, lot => 'S2')$$, 'IV004', '{bi-SER,S2}'), ('serial quantity', $$receive('bi-SER', 'bi-L', 1, lot => 'S1')$$, 'IV004', '{bi-SER,S1}'),
	('blocked lot', $$issue('bi-LOT', 'bi-L', 1, lot => 'blocked')$$, 'IV005', '{bi-LOT,blocked}'), ('blocked lot', $$reserve('bi-LOT', 'bi-L', 1, lot => 'blocked')$$, 'IV005', '{bi-LOT,blocked}'),
	('blocked lot', $$try_reserve('bi-LOT', 'bi-L', 1, lot => 'blocked')$$, 'IV005', '{bi-LOT,blocked}'),
	('expired lot', $$issue('bi-LOT', 'bi-L', 1, lot => 'expired')$$, 'IV006', '{bi-LOT,expired,2031-04-09}'), ('expired lot', $$reserve('bi-LOT', 'bi-L', 1, lot => 'expired')$$, 'IV006', '{bi-LOT,expired,2031-04-09}'),
	('short', $$issue('bi-A', 'bi-L', 11)$$, 'IV001', '{bi-A,bi-L,11,10}'), ('short', $$reserve('bi-A', 'bi-L', 11)$$, 'IV001', '{bi-A,bi-L,11,10}'), ('short', $$transfer('bi-A', 'bi-L', 'bi-M', 11)$$, 'IV001', '{bi-A,bi-L,11,10}'),
	('short', $$issue('bi-A', 'bi-M', 1)$$, 'IV001', '{bi-A,bi-M,1,0}'), ('short', $$adjust('bi-A', 'bi-L', -11, 'x')$$, 'IV001', '{bi-A,bi-L,11,10}'),
	('duplicate lines', $$reserve('[{"sku": "bi-A", "location": "bi-L", "quantity": 6}, {"sku": "bi-B", "location": "bi-L", "quantity": 1}, {"sku": "bi-A", "location": "bi-L", "quantity": 6}]')$$, 'IV001', '{bi-A,bi-L,12,10}'),
	('duplicate lines', $$post('issue', '{bi-A,bi-B,bi-A}'::text[], '{bi-L,bi-L,bi-L}'::text[], '{6,1,6}'::bigint[])$$, 'IV001', '{bi-A,bi-L,12,10}'),
	('duplicate lines', $$post('[{"type": "issue", "sku": "bi-A", "location": "bi-L", "quantity": 6}, {"type": "issue", "sku": "bi-A", "location": "bi-L", "quantity": 6}]')$$, 'IV001', '{bi-A,bi-L,12,10}');
INSERT INTO bad (kind, call, sqlstate, said)
SELECT 'unknown reservation', format(call, 987654321), 'IV007', '{987654321}' FROM unnest(ARRAY['confirm(%s)', 'ship(%s)', 'release(%s)', $$extend(%s, '1 hour')$$]) call
UNION ALL SELECT 'expired reservation', format(call, :expired), 'IV008', ARRAY[:'expired'] FROM unnest(ARRAY['confirm(%s)', 'release(%s)', $$extend(%s, '1 hour')$$]) call
UNION ALL SELECT 'closed reservation', format(call, :closed), 'IV009', ARRAY[:'closed', 'closed'] FROM unnest(ARRAY['confirm(%s)', 'ship(%s)', 'release(%s)', $$extend(%s, '1 hour')$$]) call
UNION ALL SELECT 'released reservation', format(call, :released), 'IV009', ARRAY[:'released', 'released'] FROM unnest(ARRAY['confirm(%s)', 'ship(%s)', 'release(%s)', $$extend(%s, '1 hour')$$]) call
UNION ALL SELECT 'held reservation', format('ship(%s)', :held), 'IV009', ARRAY[:'held', 'held']
UNION ALL SELECT 'committed reservation', format(call, :committed), 'IV009', ARRAY[:'committed', 'committed'] FROM unnest(ARRAY['confirm(%s)', $$extend(%s, '1 hour')$$]) call
UNION ALL SELECT 'more than remains', format($$%s(%s, '[{"line_no": 1, "quantity": 3}]')$$, f, :committed), 'IV009', ARRAY[:'committed', '3', '2'] FROM unnest(ARRAY['ship', 'release']) f;
INSERT INTO bad (kind, call, sqlstate, said)
SELECT 'malformed lines', format(call, lines), 'IV015', said
FROM (VALUES ('reserve(%L)'), ('try_reserve(%L)'), ('post((SELECT jsonb_agg(CASE jsonb_typeof(l) WHEN ''object'' THEN l || ''{"type": "issue"}'' ELSE l END) FROM jsonb_array_elements(%L::jsonb) l))')) f(call),
	(VALUES ('[5]', '{1}'::text[]), ('[[]]', '{1}'), ('[null]', '{1}'),
	('[{"sku": "bi-A", "location": "bi-L", "quantity": 1}, {"location": "bi-L", "quantity": 1}]', '{2,sku}'),
	('[{"sku": "bi-A", "location": "bi-L", "quantity": 1}, {"sku": "bi-A", "quantity": 1}]', '{2,location}'),
	('[{"sku": "bi-A", "location": "bi-L", "quantity": 1}, {"sku": "bi-A", "location": "bi-L"}]', '{2,quantity}'),
	('[{"sku": "bi-A", "location": "bi-L", "quantity": 1}, {"sku": "bi-A", "location": "bi-L", "quantity": null}]', '{2,quantity}'),
	('[{"sku": "bi-A", "location": "bi-L", "quantity": "many"}]', '{1,quantity}'),
	('[{"sku": "bi-A", "location": "bi-L", "quantity": 1.5}]', '{1,quantity}'),
	('[{"sku": "bi-A", "location": "bi-L", "quantity": [1]}]', '{1,quantity}'),
	('[{"sku": 7, "location": "bi-L", "quantity": 1}]', '{1,sku}'),
	('[{"sku": "bi-A", "location": {"a": 1}, "quantity": 1}]', '{1,location}'),
	('[{"sku": "bi-A", "location": "bi-L", "quantity": 1, "lot": 7}]', '{1,lot}'),
	('[{"sku": "bi-A", "location": "bi-L", "quantity": 1}, {"sku": "bi-A", "location": "bi-L", "quantity": 1, "qty": 1}]', '{2,qty}')) x(lines, said);
INSERT INTO bad (kind, call, sqlstate, said)
SELECT 'malformed lines', format('%s(%L)', f, lines), 'IV015', said
FROM unnest(ARRAY['reserve', 'try_reserve', 'post']) f, (VALUES ('{}', '{array}'::text[]), ('[]', '{}'), ('5', '{array}'), ('"text"', '{array}'), ('null', '{array}')) x(lines, said);
INSERT INTO bad (kind, call, sqlstate, said)
SELECT 'malformed lines', format('%s(%s, %L)', f, id, lines), 'IV015', said
FROM (VALUES ('ship', :committed), ('release', :held)) f(f, id),
	(VALUES ('{}', '{array}'::text[]), ('[]', '{}'), ('[7]', '{1}'), ('[{"quantity": 1}]', '{1,line_no}'), ('[{"line_no": "x", "quantity": 1}]', '{1,line_no}'),
	('[{"line_no": 1, "quantity": "x"}]', '{1,quantity}'), ('[{"line_no": 99, "quantity": 1}]', '{99}'), ('[{"sku": "bi-A", "quantity": 1}]', '{bi-A}')) x(lines, said);
INSERT INTO bad (kind, call, sqlstate, said)
VALUES ('malformed lines', $$post('[{"sku": "bi-A", "location": "bi-L", "quantity": 1}]')$$, 'IV015', '{1,type}'),
	('malformed lines', $$post('[{"type": "transfer", "sku": "bi-A", "from_location": "bi-L", "quantity": 1}]')$$, 'IV015', '{1,to_location}'),
	('malformed lines', $$post('[{"type": "count", "sku": "bi-A", "location": "bi-L", "quantity": 1}]')$$, 'IV015', '{1,expected}'),
	('malformed arrays', $$post('receive', '{bi-A,bi-B}'::text[], '{bi-L}'::text[], '{1,1}'::bigint[])$$, 'IV015', '{2,1}'), ('malformed arrays', $$post('receive', '{bi-A,bi-B}'::text[], '{bi-L,bi-L}'::text[], '{1}'::bigint[])$$, 'IV015', '{2,1}'),
	('malformed arrays', $$post('receive', '{}'::text[], '{}'::text[], '{}'::bigint[])$$, 'IV015', '{}'), ('malformed arrays', $$post('receive', '{bi-A,NULL}'::text[], '{bi-L,bi-L}'::text[], '{1,1}'::bigint[])$$, '22004', '{skus}'),
	('malformed arrays', $$post('receive', '{bi-A,bi-A}'::text[], '{bi-L,NULL}'::text[], '{1,1}'::bigint[])$$, '22004', '{locations}'), ('malformed arrays', $$post('receive', '{bi-A,bi-A}'::text[], '{bi-L,bi-L}'::text[], '{1,NULL}'::bigint[])$$, '22004', '{quantities}'),
	('type', $$post('explode', '{bi-A}'::text[], '{bi-L}'::text[], '{1}'::bigint[])$$, 'IV020', '{explode}'), ('type', $$post('transfer', '{bi-A}'::text[], '{bi-L}'::text[], '{1}'::bigint[])$$, 'IV020', '{transfer}'), ('type', $$post('reserve', '{bi-A}'::text[], '{bi-L}'::text[], '{1}'::bigint[])$$, 'IV020', '{reserve}'),
	('type', $$post('[{"type": "explode", "sku": "bi-A", "location": "bi-L", "quantity": 1}]')$$, 'IV020', '{explode}'), ('type', $$post('[{"type": "reserve", "sku": "bi-A", "location": "bi-L", "quantity": 1}]')$$, 'IV020', '{reserve}'),
	('mode', $$reserve('[{"sku": "bi-A", "location": "bi-L", "quantity": 1}]', mode => 'some')$$, 'IV020', '{some}'),
	('condition', $$receive('bi-A', 'bi-L', 1, condition => 'shiny')$$, 'IV017', '{shiny}'), ('condition', $$reserve('bi-A', 'bi-L', 1, condition => 'damaged')$$, 'IV017', '{damaged}'), ('condition', $$try_reserve('bi-A', 'bi-L', 1, condition => 'shiny')$$, 'IV017', '{shiny}');
INSERT INTO bad (kind, call, sqlstate, said)
SELECT 'ttl', format(call, ttl), 'IV019', '{}'::text[] FROM unnest(ARRAY[$$reserve('bi-A', 'bi-L', 1, ttl => %L)$$, $$try_reserve('bi-A', 'bi-L', 1, ttl => %L)$$,
		$$reserve('[{"sku": "bi-A", "location": "bi-L", "quantity": 1}]', ttl => %L)$$, format('extend(%s, %%L)', :held)]) call,
	unnest(ARRAY['0', '-1 second', '1 month -31 days', '1 day -24:00:01']) ttl
UNION ALL
-- Before PostgreSQL 17 there is no infinite interval, and PostgreSQL says so.
SELECT 'infinite ttl', call, CASE WHEN current_setting('server_version_num')::integer >= 170000 THEN 'IV019' ELSE '22007' END, '{infinit}'
FROM unnest(ARRAY[$$reserve('bi-A', 'bi-L', 1, ttl => 'infinity')$$, format($$extend(%s, 'infinity')$$, :held)]) call
UNION ALL
SELECT 'endless ttl', $$reserve('bi-A', 'bi-L', 1, ttl => '170000000 years')$$, '22008', '{}';
INSERT INTO bad (kind, call, sqlstate, said)
VALUES ('request id', $$receive('bi-A', 'bi-L', 11, request_id => 'bi-used')$$, 'IV010', '{bi-used}'), ('request id', $$issue('bi-A', 'bi-L', 10, request_id => 'bi-used')$$, 'IV010', '{bi-used}'),
	('on hand', $$set_on_hand('bi-A', 'bi-L', 5, 9)$$, 'IV012', '{bi-A,bi-L,9,10}'), ('on hand', $$set_on_hand('bi-A', 'bi-M', 5, 9)$$, 'IV012', '{bi-A,bi-M,9,0}'),
	('unknown event', $$reverse(987654321, 'x')$$, 'IV013', '{987654321}'), ('reversed event', format($$reverse(%s, 'x')$$, :adjusted), 'IV014', ARRAY[:'adjusted']), ('reversal', format($$reverse(%s, 'x')$$, :reversal), 'IV014', ARRAY[:'reversal']);

-- Every one of them, with nothing left behind.
CREATE TEMP TABLE result (n integer, sqlstate text, message text, untouched boolean);
DO $$
DECLARE
	b record;
	r record;
	before text;
BEGIN
	FOR b IN SELECT * FROM bad ORDER BY n LOOP
		before := pg_temp.footprint();
		SELECT * INTO r FROM pg_temp.refusal(b.call);
		INSERT INTO result VALUES (b.n, r.sqlstate, r.message, pg_temp.footprint() = before);
	END LOOP;
END
$$;
SELECT is(r.sqlstate, b.sqlstate, format('%s is refused with %s: %s (%s)', b.kind, b.sqlstate, b.call, r.message)) FROM bad b JOIN result r USING (n) ORDER BY n;
SELECT ok(s IS NOT NULL AND r.message LIKE '%' || s || '%', format('the message names %s: %s (%s)', s, b.call, r.message)) FROM bad b JOIN result r USING (n) CROSS JOIN unnest(b.said) s ORDER BY n;
SELECT ok(r.untouched, format('nothing is left behind by %s', b.call)) FROM bad b JOIN result r USING (n) ORDER BY n;
SELECT is((SELECT count(*) FROM result), (SELECT count(*) FROM bad), 'every call was made');

-- Where nothing may be written

CREATE TEMP TABLE writing (call text);
INSERT INTO writing VALUES ($$receive('bi-A', 'bi-L', 1)$$), ($$issue('bi-A', 'bi-L', 1)$$), ($$adjust('bi-A', 'bi-L', 1, 'x')$$), ($$set_on_hand('bi-A', 'bi-L', 1, 10)$$), ($$transfer('bi-A', 'bi-L', 'bi-M', 1)$$),
	(format($$reverse(%s, 'x')$$, :receipt)), ($$post('[{"type": "receive", "sku": "bi-A", "location": "bi-L", "quantity": 1}]')$$), ($$post('receive', '{bi-A}'::text[], '{bi-L}'::text[], '{1}'::bigint[])$$),
	($$reserve('bi-A', 'bi-L', 1)$$), ($$reserve('[{"sku": "bi-A", "location": "bi-L", "quantity": 1}]')$$), ($$try_reserve('bi-A', 'bi-L', 1)$$), ($$try_reserve('[{"sku": "bi-A", "location": "bi-L", "quantity": 1}]')$$),
	(format('confirm(%s)', :held)), (format('ship(%s)', :committed)), (format('release(%s)', :held)), (format($$extend(%s, '1 hour')$$, :held)), ($$release_owner('bi-held')$$), ('expire_due()');
CREATE FUNCTION pg_temp.refusal_in(setting text, value text, call text) RETURNS text
	LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config(setting, value, true);
	EXECUTE call;
	RAISE EXCEPTION 'accepted' USING ERRCODE = 'ZZ000';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END
$$;
SELECT pg_temp.footprint() AS before \gset
SELECT is(pg_temp.refusal_in('transaction_read_only', 'on', 'SELECT inventory.' || call), '25006', format('a read-only transaction refuses %s', call)) FROM writing;
SELECT is(pg_temp.refusal_in('transaction_read_only', 'on', $$INSERT INTO inventory.event (stock_id, type, on_hand_delta) SELECT stock_id, 'receive', 1 FROM inventory.stock LIMIT 1$$), '25006', 'a read-only transaction refuses INSERT');
SELECT is(pg_temp.refusal_in('transaction_read_only', 'on', call), 'ZZ000', format('a read-only transaction allows %s', call))
FROM unnest(ARRAY[$$SELECT inventory.available('bi-A')$$, $$SELECT inventory.on_hand('bi-A', 'bi-L')$$, 'SELECT * FROM inventory.stock_level', $$SELECT * FROM inventory.history('bi-A', 'bi-L')$$]) call;

-- A parallel worker: reached through a function that claims to be safe.
CREATE FUNCTION pg_temp.claims_to_be_safe(call text) RETURNS text
	LANGUAGE plpgsql PARALLEL SAFE AS $$
DECLARE
	result text;
BEGIN
	EXECUTE 'SELECT inventory.' || call INTO result;
	RETURN result;
END
$$;
SELECT CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'debug_parallel_query' ELSE 'force_parallel_mode' END AS parallel_setting \gset
SELECT set_config('max_parallel_workers_per_gather', '2', true) AS workers \gset
CREATE FUNCTION pg_temp.explained(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN ' || query; END $$;
SELECT set_config(:'parallel_setting', 'on', true) AS forced \gset
SELECT ok(EXISTS (SELECT FROM pg_temp.explained($$SELECT pg_temp.claims_to_be_safe('x')$$) line WHERE line LIKE '%Gather%'), 'such a function runs in a parallel worker');
SELECT set_config(:'parallel_setting', 'off', true) AS forced \gset
SELECT ok(s LIKE '25%', format('a parallel worker refuses %s (%s)', call, s))
FROM writing CROSS JOIN LATERAL pg_temp.refusal_in(:'parallel_setting', 'on', format('SELECT pg_temp.claims_to_be_safe(%L)', call)) s;
SELECT is(pg_temp.footprint(), :'before', 'none of these has left anything behind');

SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
SELECT * FROM finish();
ROLLBACK;
SELECT inventory.set_test_clock(NULL) IS NULL AS done \gset
