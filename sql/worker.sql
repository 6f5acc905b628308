-- The background workers, as they show themselves in shared memory.

CREATE FUNCTION inventory.stat_workers(
	OUT database text, OUT task text, OUT pid integer, OUT state text,
	OUT last_start timestamptz, OUT last_end timestamptz, OUT runs bigint,
	OUT rows bigint, OUT failures bigint, OUT last_failure timestamptz,
	OUT last_error text, OUT next_run timestamptz, OUT backlog bigint,
	OUT lag interval) RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_stat_workers';
REVOKE ALL ON FUNCTION inventory.stat_workers() FROM PUBLIC;
COMMENT ON FUNCTION inventory.stat_workers() IS 'Source of the view stat_worker.';

CREATE VIEW inventory.stat_worker AS SELECT * FROM inventory.stat_workers();
COMMENT ON VIEW inventory.stat_worker IS 'One row for the launcher, and one per task of the worker of each database with the extension, also while there is no worker; since the start of the server.';
COMMENT ON COLUMN inventory.stat_worker.database IS 'The database; NULL for the launcher, which is the server''s.';
COMMENT ON COLUMN inventory.stat_worker.task IS 'launcher, projection, expiry, maintenance or delivery: looking after the delivery processes (see stat_delivery).';
COMMENT ON COLUMN inventory.stat_worker.pid IS 'The process, the same for all tasks of a database; NULL while there is none.';
COMMENT ON COLUMN inventory.stat_worker.state IS 'running; idle; backoff: it failed and waits to try again; stopped: it was asked to; crashed: the process failed and will be started again; needs update: the extension is not of the library''s version; no free worker process: see max_worker_processes.';
COMMENT ON COLUMN inventory.stat_worker.last_start IS 'When it last began to run.';
COMMENT ON COLUMN inventory.stat_worker.last_end IS 'When it last ended, in whatever way.';
COMMENT ON COLUMN inventory.stat_worker.runs IS 'Times it ran without a failure.';
COMMENT ON COLUMN inventory.stat_worker.rows IS 'Events projected, lines expired, units of maintenance, delivery processes started; of the launcher, workers started.';
COMMENT ON COLUMN inventory.stat_worker.failures IS 'Times it failed.';
COMMENT ON COLUMN inventory.stat_worker.last_failure IS 'When it last failed.';
COMMENT ON COLUMN inventory.stat_worker.last_error IS 'Why it last failed, or why there is no worker. Of other databases only for pg_read_all_stats.';
COMMENT ON COLUMN inventory.stat_worker.next_run IS 'When it will run next, if nothing happens before; NULL: when there is something to do. While there is no worker: when one will be started.';
COMMENT ON COLUMN inventory.stat_worker.backlog IS 'What it knows to be left to do; NULL: it has not counted.';
COMMENT ON COLUMN inventory.stat_worker.lag IS 'How long the oldest work has been waiting.';
