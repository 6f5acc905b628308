-- What has to be done now and then.  The worker of the database does it by
-- itself; without workers, call maintain() from pg_cron, say once an hour.

CREATE FUNCTION inventory.maintain(OUT task text, OUT done bigint) RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_maintain';
REVOKE ALL ON FUNCTION inventory.maintain() FROM PUBLIC;
COMMENT ON FUNCTION inventory.maintain() IS
'Makes event partitions ahead, removes request rows older than inventory.request_retention, keeps the index on event numbers up, and closes and empties tables of messages; returns how much of each it did. Workers do this by themselves.';
