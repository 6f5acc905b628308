-- The first part of the install script.  Everything is created inside the
-- schema that CREATE EXTENSION has just made; search_path is pinned so that
-- nothing in another schema can stand in for a name used here.
SET LOCAL search_path TO pg_catalog, pg_temp;
SET LOCAL client_min_messages TO warning;

REVOKE ALL ON SCHEMA inventory FROM PUBLIC;
COMMENT ON SCHEMA inventory IS
'Inventory engine: stock, reservations and their history.';

-- Fails with a hint when the library is not in shared_preload_libraries, and
-- so makes CREATE EXTENSION fail before anything is built.
CREATE FUNCTION inventory.version() RETURNS text
	LANGUAGE c STABLE PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_version';
REVOKE ALL ON FUNCTION inventory.version() FROM PUBLIC;
COMMENT ON FUNCTION inventory.version() IS
'Version of the loaded library; an error if it was not preloaded.';

DO $$ BEGIN PERFORM inventory.version(); END $$;
