-- Counters kept in shared memory, since the server's start or stat_reset().

CREATE FUNCTION inventory.stat_operations(
	OUT operation text, OUT calls bigint, OUT refusals bigint, OUT errors bigint,
	OUT total_time double precision, OUT histogram bigint[]) RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_stat_operations';
REVOKE ALL ON FUNCTION inventory.stat_operations() FROM PUBLIC;
COMMENT ON FUNCTION inventory.stat_operations() IS 'Source of the view stat_operation.';

CREATE VIEW inventory.stat_operation AS
SELECT o.operation, o.calls, o.refusals, o.errors, o.total_time,
	CASE WHEN o.calls > 0 THEN o.total_time / o.calls END AS mean_time, o.histogram
FROM inventory.stat_operations() o;
COMMENT ON VIEW inventory.stat_operation IS 'What each function of this database has done since the start of the server or stat_reset().';
COMMENT ON COLUMN inventory.stat_operation.operation IS 'The function.';
COMMENT ON COLUMN inventory.stat_operation.calls IS 'Calls, the failed ones included.';
COMMENT ON COLUMN inventory.stat_operation.refusals IS 'Calls refused for lack of stock (IV001, or NULL from try_reserve).';
COMMENT ON COLUMN inventory.stat_operation.errors IS 'Calls that failed for another reason.';
COMMENT ON COLUMN inventory.stat_operation.total_time IS 'Milliseconds spent in the calls that returned.';
COMMENT ON COLUMN inventory.stat_operation.mean_time IS 'Milliseconds per call.';
COMMENT ON COLUMN inventory.stat_operation.histogram IS 'Calls that returned, by time: element n counts those under 2^(n-1) microseconds and not counted before; the last element counts all slower ones.';

CREATE FUNCTION inventory.stat_levels(
	OUT capacity bigint, OUT entries bigint, OUT bytes_per_entry integer,
	OUT hits bigint, OUT misses bigint, OUT loads bigint, OUT waits bigint,
	OUT evictions bigint, OUT stats_reset timestamptz) RETURNS record
	LANGUAGE c VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_stat_levels';
REVOKE ALL ON FUNCTION inventory.stat_levels() FROM PUBLIC;
COMMENT ON FUNCTION inventory.stat_levels() IS 'Source of the view stat_level.';

CREATE VIEW inventory.stat_level AS SELECT * FROM inventory.stat_levels();
COMMENT ON VIEW inventory.stat_level IS 'The table of levels in shared memory; of the whole server.';
COMMENT ON COLUMN inventory.stat_level.capacity IS 'Stock items it has room for: inventory.max_levels.';
COMMENT ON COLUMN inventory.stat_level.entries IS 'Stock items in it.';
COMMENT ON COLUMN inventory.stat_level.bytes_per_entry IS 'Shared memory per stock item.';
COMMENT ON COLUMN inventory.stat_level.hits IS 'Times a level was found ready.';
COMMENT ON COLUMN inventory.stat_level.misses IS 'Times it was not.';
COMMENT ON COLUMN inventory.stat_level.loads IS 'Times a level was computed from the tables.';
COMMENT ON COLUMN inventory.stat_level.waits IS 'Times a session waited for another one''s load or settlement.';
COMMENT ON COLUMN inventory.stat_level.evictions IS 'Levels dropped to make room.';
COMMENT ON COLUMN inventory.stat_level.stats_reset IS 'When the counters were last reset.';

CREATE FUNCTION inventory.levels(
	OUT stock_id bigint, OUT on_hand bigint, OUT available bigint, OUT overdue bigint,
	OUT next_expiry timestamptz, OUT pins integer) RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_levels';
REVOKE ALL ON FUNCTION inventory.levels() FROM PUBLIC;
COMMENT ON FUNCTION inventory.levels() IS
'The levels of this database as they stand in shared memory: on hand; available before safety stock; how much of it are holds past their deadline that have no expire event yet; the next deadline; how many transactions have it pinned.';

CREATE FUNCTION inventory.stat_reset() RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_stat_reset';
REVOKE ALL ON FUNCTION inventory.stat_reset() FROM PUBLIC;
COMMENT ON FUNCTION inventory.stat_reset() IS 'Sets this database''s operation counters and the level counters to zero.';
