-- PREPARE TRANSACTION is refused after a movement or a change of master data,
-- and takes nothing away; a transaction that only read can be prepared.
-- Needs max_prepared_transactions > 0.
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS inventory CASCADE;
RESET client_min_messages;
CREATE EXTENSION inventory;
INSERT INTO inventory.location (location) VALUES ('P-SHELF');
INSERT INTO inventory.sku (sku) VALUES ('P-TEA'), ('P-CUP');
SELECT inventory.receive('P-TEA', 'P-SHELF', 10) > 0 AS received;

BEGIN;
SELECT inventory.issue('P-TEA', 'P-SHELF', 4) > 0 AS issued;
PREPARE TRANSACTION 'p-issue';
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.available('P-TEA');

BEGIN;
SELECT inventory.receive('P-TEA', 'P-SHELF', 4) > 0 AS received;
PREPARE TRANSACTION 'p-receive';
SELECT inventory.available('P-TEA');

BEGIN;
SELECT inventory.reserve('P-TEA', 'P-SHELF', 4) > 0 AS reserved;
PREPARE TRANSACTION 'p-reserve';
SELECT inventory.available('P-TEA');

BEGIN;
INSERT INTO inventory.event (stock_id, type, on_hand_delta)
SELECT stock_id, 'issue', -4 FROM inventory.stock_level WHERE sku = 'P-TEA';
PREPARE TRANSACTION 'p-insert';
SELECT inventory.available('P-TEA');

-- A movement in a savepoint counts as well.
BEGIN;
SAVEPOINT one;
SELECT inventory.issue('P-TEA', 'P-SHELF', 4) > 0 AS issued;
RELEASE one;
PREPARE TRANSACTION 'p-savepoint';
SELECT inventory.available('P-TEA');

-- Reading is no obstacle.
BEGIN;
SELECT inventory.available('P-TEA'), inventory.on_hand('P-TEA');
PREPARE TRANSACTION 'p-read';
COMMIT PREPARED 'p-read';

-- A change of master data must reach the levels at its commit, whoever that is.
BEGIN;
UPDATE inventory.sku SET safety_stock = 8 WHERE sku = 'P-TEA';
PREPARE TRANSACTION 'p-master';
\echo :LAST_ERROR_SQLSTATE
SELECT inventory.available('P-TEA');

SELECT count(*) AS prepared FROM pg_prepared_xacts;
SELECT type, on_hand_delta, reserved_delta FROM inventory.history('P-TEA', 'P-SHELF');
SELECT * FROM inventory.verify();
