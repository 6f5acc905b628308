-- What psql shows for the errors that users meet: SQLSTATE, message, detail and
-- hint.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS inventory CASCADE;
RESET client_min_messages;
CREATE EXTENSION inventory;
SET timezone = 'UTC';
SET datestyle = 'ISO';
SELECT inventory.set_test_clock('2026-03-02 09:00:00+00');
INSERT INTO inventory.location (location, active) VALUES ('E-SHELF', true), ('E-BIN', true), ('E-CLOSED', false);
INSERT INTO inventory.sku (sku, safety_stock, backorder_limit, active) VALUES
	('E-TEA', 0, 0, true), ('E-SAFE', 3, 0, true), ('E-BACK', 0, 2, true), ('E-OLD', 0, 0, false);
INSERT INTO inventory.sku (sku, tracking) VALUES ('E-MILK', 'lot'), ('E-PHONE', 'serial');
INSERT INTO inventory.lot (sku_id, lot, expires_on, status)
SELECT sku_id, x.lot, x.expires_on, x.status FROM inventory.sku, (VALUES
	('fresh', '2026-03-09'::date, 'active'), ('sour', '2026-03-01', 'active'), ('recalled', NULL, 'blocked')) x(lot, expires_on, status)
WHERE sku = 'E-MILK';
INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, 'IMEI-1' FROM inventory.sku WHERE sku = 'E-PHONE';
SELECT inventory.post('receive', ARRAY['E-TEA', 'E-SAFE', 'E-BACK'], ARRAY['E-SHELF', 'E-SHELF', 'E-SHELF'], ARRAY[10, 10, 10]) AS events;
SELECT inventory.post('receive', ARRAY['E-MILK'], ARRAY['E-SHELF'], ARRAY[10], lot => lot) AS events FROM unnest(ARRAY['fresh', 'sour', 'recalled']) lot;

-- IV001 insufficient stock
SELECT inventory.issue('E-TEA', 'E-SHELF', 11);
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.reserve('E-SAFE', 'E-SHELF', 8);
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.reserve('E-BACK', 'E-SHELF', 13);
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.reserve('E-TEA', 'E-BIN', 1);
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.adjust('E-TEA', 'E-SHELF', -11, 'fire');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.reserve('[{"sku": "E-TEA", "location": "E-SHELF", "quantity": 6}, {"sku": "E-TEA", "location": "E-SHELF", "quantity": 6}]');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO inventory.event (stock_id, type, on_hand_delta)
SELECT stock_id, 'issue', -11 FROM inventory.stock_level WHERE sku = 'E-TEA';
\echo :LAST_ERROR_SQLSTATE

-- IV002 unknown code, IV003 inactive code
SELECT inventory.receive('E-NONE', 'E-SHELF', 1);
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.available('E-TEA', 'E-NOWHERE');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.receive('E-MILK', 'E-SHELF', 1, lot => 'none');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.receive('E-OLD', 'E-SHELF', 1);
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.reserve('E-TEA', 'E-CLOSED', 1);
\echo :LAST_ERROR_SQLSTATE

-- IV004 lot mismatch, IV005 lot blocked, IV006 lot expired
SELECT inventory.receive('E-TEA', 'E-SHELF', 1, lot => 'fresh');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.receive('E-MILK', 'E-SHELF', 1);
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.receive('E-PHONE', 'E-SHELF', 2, lot => 'IMEI-1');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.reserve('E-MILK', 'E-SHELF', 1, lot => 'recalled');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.reserve('E-MILK', 'E-SHELF', 1, lot => 'sour');
\echo :LAST_ERROR_SQLSTATE

-- IV007 unknown, IV008 expired, IV009 wrong state
SELECT inventory.confirm(4000000000);
\echo :LAST_ERROR_SQLSTATE
-- Reservations are numbered on, so their number is left out here.
CREATE FUNCTION pg_temp.attempt(call text) RETURNS text
	LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE 'SELECT inventory.' || call;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN regexp_replace(concat_ws(E'\n', SQLSTATE, message, nullif(detail, ''), nullif(hint, '')), '(reservation|event) \d+', '\1 N', 'g');
END
$$;
SELECT inventory.reserve('E-TEA', 'E-SHELF', 2, ttl => '1 minute') AS id \gset
SELECT pg_temp.attempt(format('ship(%s)', :id));
SELECT inventory.set_test_clock('2026-03-02 09:01:00+00');
SELECT pg_temp.attempt(format('confirm(%s)', :id));
SELECT inventory.reserve('E-TEA', 'E-SHELF', 2) AS id \gset
SELECT inventory.confirm(:id) AS lines;
SELECT pg_temp.attempt(format('ship(%s, %L)', :id, '[{"line_no": 1, "quantity": 3}]'));
SELECT pg_temp.attempt(format('extend(%s, %L)', :id, '1 hour'));
SELECT inventory.ship(:id) AS events;
SELECT pg_temp.attempt(format('release(%s)', :id));

-- IV010 request mismatch
SELECT inventory.receive('E-TEA', 'E-SHELF', 1, request_id => 'e-1') > 0 AS received;
SELECT inventory.receive('E-TEA', 'E-SHELF', 2, request_id => 'e-1');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.issue('E-TEA', 'E-SHELF', 1, request_id => 'e-1');
\echo :LAST_ERROR_SQLSTATE

-- IV011 invalid quantity, IV012 on hand mismatch
SELECT inventory.receive('E-TEA', 'E-SHELF', 0);
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.reserve('E-TEA', 'E-SHELF', -3);
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.set_on_hand('E-TEA', 'E-SHELF', 7, 8);
\echo :LAST_ERROR_SQLSTATE

-- IV013 unknown event, IV014 not reversible
SELECT inventory.reverse(4000000000, 'mistake');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.receive('E-TEA', 'E-SHELF', 1) AS event \gset
SELECT inventory.reverse(:event, 'mistake') AS reversal \gset
SELECT pg_temp.attempt(format('reverse(%s, %L)', :event, 'again'));
SELECT pg_temp.attempt(format('reverse(%s, %L)', :reversal, 'again'));

-- IV015 invalid lines
SELECT inventory.reserve('{"sku": "E-TEA"}');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.reserve('[]');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.reserve('[{"sku": "E-TEA", "location": "E-SHELF", "quantity": 1}, {"sku": "E-TEA", "location": "E-SHELF", "qty": 1}]');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.reserve('[{"sku": "E-TEA", "location": "E-SHELF", "quantity": 1}, {"sku": "E-TEA", "location": "E-SHELF"}]');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.post('[{"type": "receive", "sku": "E-TEA", "location": "E-SHELF", "quantity": "a few"}]');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.post('receive', ARRAY['E-TEA', 'E-SAFE'], ARRAY['E-SHELF'], ARRAY[1, 1]);
\echo :LAST_ERROR_SQLSTATE

-- IV016 append-only, written by the engine only
UPDATE inventory.event SET on_hand_delta = 0;
\echo :LAST_ERROR_SQLSTATE
DELETE FROM inventory.event;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE inventory.event;
\echo :LAST_ERROR_SQLSTATE
UPDATE inventory.stock SET on_hand = 1000;
\echo :LAST_ERROR_SQLSTATE
DELETE FROM inventory.reservation;
\echo :LAST_ERROR_SQLSTATE
INSERT INTO inventory.event (stock_id, type, on_hand_delta, recorded_at)
SELECT stock_id, 'receive', 1, '2026-03-01 00:00:00+00' FROM inventory.stock_level WHERE sku = 'E-TEA';
\echo :LAST_ERROR_SQLSTATE

-- IV017 condition, IV019 ttl, IV020 mode and type
SELECT inventory.receive('E-TEA', 'E-SHELF', 1, condition => 'shiny');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.reserve('E-TEA', 'E-SHELF', 1, condition => 'damaged');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.reserve('E-TEA', 'E-SHELF', 1, ttl => '-1 minute');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.reserve('[{"sku": "E-TEA", "location": "E-SHELF", "quantity": 1}]', mode => 'some');
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.post('transfer', ARRAY['E-TEA'], ARRAY['E-SHELF'], ARRAY[1]);
\echo :LAST_ERROR_SQLSTATE

-- IV021 events would be lost; the server of the tests allows it
SET inventory.allow_drop = off;
DROP EXTENSION inventory CASCADE;
\echo :LAST_ERROR_SQLSTATE
DROP TABLE inventory.event_2026_03;
\echo :LAST_ERROR_SQLSTATE
RESET inventory.allow_drop;

-- While a dump is being loaded
SET inventory.restoring = on;
SELECT inventory.receive('E-TEA', 'E-SHELF', 1);
\echo :LAST_ERROR_SQLSTATE
RESET inventory.restoring;

-- PostgreSQL's own
SELECT inventory.receive(NULL, 'E-SHELF', 1);
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.receive('E-TEA', 'E-SHELF', 9223372036854775807);
\echo :LAST_ERROR_SQLSTATE
BEGIN READ ONLY;
SELECT inventory.receive('E-TEA', 'E-SHELF', 1);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- After all of this
SELECT sku, on_hand, reserved, committed, available FROM inventory.stock_level WHERE sku LIKE 'E-%' AND lot IS NULL ORDER BY sku;
SELECT * FROM inventory.verify();
SELECT inventory.set_test_clock(NULL);
