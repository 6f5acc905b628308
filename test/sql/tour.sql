-- The tour of a user: five minutes, from nothing to a shipped order.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS inventory CASCADE;
RESET client_min_messages;
CREATE EXTENSION inventory;
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- So that every run shows the same times.
SELECT inventory.set_test_clock('2026-03-02 09:00:00+00');

-- What is stocked, and where.
INSERT INTO inventory.sku (sku, name, safety_stock) VALUES
	('TEA-100', 'Green tea, 100 g', 5),
	('CUP-BLUE', 'Cup, blue', 0);
INSERT INTO inventory.sku (sku, name, tracking) VALUES ('MILK', 'Milk, 1 l', 'lot');
INSERT INTO inventory.location (location) VALUES ('BERLIN');
INSERT INTO inventory.location (location, parent_id)
SELECT x, location_id FROM inventory.location, unnest(ARRAY['BERLIN-A', 'BERLIN-B']) x WHERE location = 'BERLIN';
INSERT INTO inventory.lot (sku_id, lot, expires_on)
SELECT sku_id, 'M-0305', '2026-03-05' FROM inventory.sku WHERE sku = 'MILK';

-- Goods come in.
SELECT inventory.receive('TEA-100', 'BERLIN-A', 50, reference => 'PO-1') > 0 AS received;
SELECT inventory.receive('CUP-BLUE', 'BERLIN-A', 20, reference => 'PO-1') > 0 AS received;
SELECT inventory.receive('MILK', 'BERLIN-B', 12, lot => 'M-0305', reference => 'PO-2') > 0 AS received;
SELECT inventory.post('[
	{"type": "receive", "sku": "CUP-BLUE", "location": "BERLIN-B", "quantity": 30},
	{"type": "transfer", "sku": "TEA-100", "from_location": "BERLIN-A", "to_location": "BERLIN-B", "quantity": 10}]') AS events;
SELECT inventory.available('CUP-BLUE'), inventory.available('CUP-BLUE', 'BERLIN-A') AS in_a,
	inventory.available('TEA-100', 'BERLIN') AS tea_in_berlin, inventory.on_hand('TEA-100', 'BERLIN') AS on_hand;
SELECT sku, location, lot, on_hand, reserved, committed, available FROM inventory.stock_level ORDER BY sku, location;

-- A customer fills his cart: held for 15 minutes.
SELECT inventory.reserve('CUP-BLUE', 'BERLIN-A', 4, owner => 'cart-7') AS cart \gset
-- He changes his mind; his own hold is not in his way.
SELECT inventory.reserve('CUP-BLUE', 'BERLIN-A', 20, owner => 'cart-7') AS cart \gset
SELECT owner, sku, location, state, quantity, expires_at FROM inventory.open_reservation;
-- Nobody else can have them.
SELECT inventory.try_reserve('CUP-BLUE', 'BERLIN-A', 1, owner => 'cart-8') IS NULL AS sold_out;

-- The cart becomes an order, and leaves in two parcels.
SELECT inventory.confirm(:cart, reference => 'ORDER-7') AS lines;
SELECT inventory.ship(:cart, '[{"sku": "CUP-BLUE", "quantity": 12}]', reference => 'PARCEL-1') AS events;
SELECT sku, state, quantity, shipped, remaining, expires_at FROM inventory.open_reservation;
SELECT inventory.ship(:cart, reference => 'PARCEL-2') AS events;
SELECT count(*) AS open_reservations FROM inventory.open_reservation;

-- A cart that nobody pays for: at the deadline the goods are free, by themselves.
SELECT inventory.reserve('[
	{"sku": "TEA-100", "location": "BERLIN-A", "quantity": 35},
	{"sku": "MILK", "location": "BERLIN-B", "quantity": 6, "lot": "M-0305"}]', ttl => '10 minutes', owner => 'cart-9') AS cart \gset
SELECT inventory.available('TEA-100', 'BERLIN-A') AS tea, inventory.available('MILK') AS milk;
SELECT inventory.set_test_clock('2026-03-02 09:10:00+00');
SELECT inventory.available('TEA-100', 'BERLIN-A') AS tea, inventory.available('MILK') AS milk;
SELECT inventory.expire_due() AS expired_lines;

-- The same request twice: one effect, one answer.
SELECT inventory.issue('MILK', 'BERLIN-B', 2, lot => 'M-0305', reason => 'tasting', request_id => 'till-1-0042') AS first \gset
SELECT inventory.issue('MILK', 'BERLIN-B', 2, lot => 'M-0305', reason => 'tasting', request_id => 'till-1-0042') = :first AS same_answer;
SELECT inventory.on_hand('MILK');

-- Things break, are counted, and were typed wrong.
SELECT inventory.adjust('CUP-BLUE', 'BERLIN-B', -2, 'broken') > 0 AS adjusted;
SELECT inventory.set_on_hand('CUP-BLUE', 'BERLIN-B', 27, expected => 28, reason => 'cycle count') > 0 AS counted;
SELECT inventory.receive('TEA-100', 'BERLIN-B', 100, reference => 'PO-3') AS mistake \gset
SELECT inventory.reverse(:mistake, 'it was coffee') > 0 AS reversed;

-- What happened to the blue cups of BERLIN-A?
SELECT type, on_hand_delta, reserved_delta, committed_delta, on_hand, reserved, committed, reference, recorded_at
FROM inventory.history('CUP-BLUE', 'BERLIN-A');

-- And now?
SELECT sku, name, on_hand, reserved, committed, available FROM inventory.sku_level ORDER BY sku;
SELECT * FROM inventory.verify();

-- Milk on the day after its last.
SELECT inventory.set_test_clock('2026-03-06 00:00:00+00');
SELECT inventory.available('MILK'), inventory.on_hand('MILK');

SELECT inventory.set_test_clock(NULL);
