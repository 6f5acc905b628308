-- The first part of the install script.  Everything is created inside the
-- schema that CREATE EXTENSION has just made; search_path is pinned so that
-- nothing in another schema can stand in for a name used here.
SET LOCAL search_path TO pg_catalog, pg_temp;
SET LOCAL client_min_messages TO warning;

REVOKE ALL ON SCHEMA inventory FROM PUBLIC;
COMMENT ON SCHEMA inventory IS
'Inventory engine: stock, reservations and their history.';

CREATE FUNCTION inventory.version() RETURNS text
	LANGUAGE c STABLE PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_version';
REVOKE ALL ON FUNCTION inventory.version() FROM PUBLIC;
COMMENT ON FUNCTION inventory.version() IS
'Version of the loaded library; an error if it was not preloaded.';

-- Before anything is built: without preloading the extension could only be
-- looked at, and a dump that is loaded without inventory.restoring would lose
-- its events row by row.  pg_dump's scripts are known by row_security = off.
DO $$
DECLARE
	restoring_source text;
BEGIN
	PERFORM inventory.version();
	IF NOT current_setting('inventory.restoring')::boolean THEN
		IF current_setting('row_security')::boolean THEN
			RETURN;
		END IF;
		RAISE EXCEPTION 'this looks like a dump being loaded, but inventory.restoring is off'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = format('ALTER DATABASE %I SET inventory.restoring = on, connect again, load the dump, and then SELECT inventory.post_restore(). To create an empty extension: SET row_security = on.', current_database());
	END IF;
	-- The workers must know, too, or they would write among the rows.
	SELECT source INTO restoring_source FROM pg_settings WHERE name = 'inventory.restoring';
	IF restoring_source NOT IN ('database', 'global', 'configuration file', 'command line') THEN
		RAISE EXCEPTION 'inventory.restoring is on in this session only'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = format('ALTER DATABASE %I SET inventory.restoring = on, and connect again.', current_database());
	END IF;
END
$$;
