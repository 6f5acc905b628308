-- How far long work has come.  The work reports to shared memory, so that
-- others see it before it commits; whatever ends its transaction ends its
-- report.

CREATE FUNCTION inventory.stat_progresses(
	OUT pid integer, OUT database oid, OUT operation text, OUT phase text,
	OUT done bigint, OUT total bigint, OUT started_at timestamptz) RETURNS SETOF record
	LANGUAGE c VOLATILE PARALLEL RESTRICTED SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_stat_progresses';
REVOKE ALL ON FUNCTION inventory.stat_progresses() FROM PUBLIC;
COMMENT ON FUNCTION inventory.stat_progresses() IS 'Source of the view stat_progress.';

CREATE VIEW inventory.stat_progress AS
SELECT p.pid, d.datname AS database, p.operation, p.phase, p.done, p.total, p.started_at
FROM inventory.stat_progresses() p
LEFT JOIN pg_database d ON d.oid = p.database;
COMMENT ON VIEW inventory.stat_progress IS 'Long work that is going on, in all databases: archive, verify, rebuild, a projection that catches up. pg_cancel_backend(pid) cancels it.';
COMMENT ON COLUMN inventory.stat_progress.pid IS 'The process that works.';
COMMENT ON COLUMN inventory.stat_progress.database IS 'Its database.';
COMMENT ON COLUMN inventory.stat_progress.operation IS 'What it does.';
COMMENT ON COLUMN inventory.stat_progress.phase IS 'Which part of that it is at.';
COMMENT ON COLUMN inventory.stat_progress.done IS 'Units of the phase that are done: rows, events, ticks or stock items.';
COMMENT ON COLUMN inventory.stat_progress.total IS 'Units that the phase has, in part an estimate; NULL when not known.';
COMMENT ON COLUMN inventory.stat_progress.started_at IS 'When the work began.';

CREATE FUNCTION inventory.progress_begin(operation text) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_progress_begin';
REVOKE ALL ON FUNCTION inventory.progress_begin(text) FROM PUBLIC;
COMMENT ON FUNCTION inventory.progress_begin(text) IS 'The engine''s own: begins to report long work.';

CREATE FUNCTION inventory.progress_phase(phase text, total bigint) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_progress_phase';
REVOKE ALL ON FUNCTION inventory.progress_phase(text, bigint) FROM PUBLIC;
COMMENT ON FUNCTION inventory.progress_phase(text, bigint) IS 'The engine''s own: begins a part of the work, of so many units (0: not known).';

CREATE FUNCTION inventory.progress_done(units bigint) RETURNS void
	LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_progress_done';
REVOKE ALL ON FUNCTION inventory.progress_done(bigint) FROM PUBLIC;
COMMENT ON FUNCTION inventory.progress_done(bigint) IS 'The engine''s own: so many more units are done.';

-- Called for every row that is read, so without SECURITY DEFINER and SET, which
-- would cost more than reading it.
CREATE FUNCTION inventory.progress_row() RETURNS boolean
	LANGUAGE c VOLATILE PARALLEL UNSAFE
	AS 'MODULE_PATHNAME', 'inventory_progress_row';
REVOKE ALL ON FUNCTION inventory.progress_row() FROM PUBLIC;
COMMENT ON FUNCTION inventory.progress_row() IS 'The engine''s own: true, and one unit more is done.';

CREATE FUNCTION inventory.progress_end() RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
	AS 'MODULE_PATHNAME', 'inventory_progress_end';
REVOKE ALL ON FUNCTION inventory.progress_end() FROM PUBLIC;
COMMENT ON FUNCTION inventory.progress_end() IS 'The engine''s own: the work is done.';
