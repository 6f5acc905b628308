-- Time comes from here alone, so that tests can set it.

CREATE FUNCTION inventory.clock_time() RETURNS timestamptz
	LANGUAGE c STABLE PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_clock_time';
COMMENT ON FUNCTION inventory.clock_time() IS
'The engine''s present moment: the wall clock, or the test clock when one is set.';

CREATE FUNCTION inventory.transaction_time() RETURNS timestamptz
	LANGUAGE c STABLE PARALLEL RESTRICTED SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_transaction_time';
COMMENT ON FUNCTION inventory.transaction_time() IS
'What this transaction writes as recorded_at: its start, or the test clock when one is set; the same value throughout the transaction.';

CREATE FUNCTION inventory.set_test_clock(at timestamptz) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_set_test_clock';
COMMENT ON FUNCTION inventory.set_test_clock(timestamptz) IS
'For tests: stops the engine''s clock at this moment for the whole server; NULL returns to the wall clock.';

REVOKE ALL ON FUNCTION inventory.clock_time() FROM PUBLIC;
REVOKE ALL ON FUNCTION inventory.transaction_time() FROM PUBLIC;
REVOKE ALL ON FUNCTION inventory.set_test_clock(timestamptz) FROM PUBLIC;
