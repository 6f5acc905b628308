-- The projection: adds the events to the stock rows, tick by tick.

CREATE FUNCTION inventory.project() RETURNS bigint
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_project';
REVOKE ALL ON FUNCTION inventory.project() FROM PUBLIC;
COMMENT ON FUNCTION inventory.project() IS
'Adds all committed events to the stock rows, makes the snapshots that are due and extends the hash chain; returns the number of events. The worker does this by itself; without workers, schedule it.';

CREATE FUNCTION inventory.tick_hash(tick_id bigint, key text DEFAULT NULL) RETURNS bytea
	LANGUAGE c STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_tick_hash';
REVOKE ALL ON FUNCTION inventory.tick_hash(bigint, text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.tick_hash(bigint, text) IS
'The hash of a tick, computed anew from its events and the stored hash of the tick before; with this key, or inventory.hash_key, if the tick is keyed. NULL if the tick or the one before is not there.';

CREATE FUNCTION inventory.hash_key_id() RETURNS text
	LANGUAGE c STABLE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_hash_key_id';
REVOKE ALL ON FUNCTION inventory.hash_key_id() FROM PUBLIC;
COMMENT ON FUNCTION inventory.hash_key_id() IS
'Which key inventory.hash_key is, as in tick.key_id; NULL for none.';
