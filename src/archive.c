/*-------------------------------------------------------------------------
 *
 * archive.c
 *		Archiving, as far as SQL cannot: locks, horizons, and the right to
 *		write the engine's tables.
 *
 * The work and its locking protocol are in sql/archive.sql.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "inventory.h"
#include "lock.h"
#include "partition.h"
#include "query.h"

PG_FUNCTION_INFO_V1(inventory_archive_partition);
PG_FUNCTION_INFO_V1(inventory_lock_projection);
PG_FUNCTION_INFO_V1(inventory_seen_by_all);

Datum
inventory_archive_partition(PG_FUNCTION_ARGS)
{
	static Statement statement = {
		"SELECT inventory.archive_oldest($1, $2)",
		2, {TIMESTAMPTZOID, BOOLOID}
	};
	Datum		values[2] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};
	MemoryContext caller = CurrentMemoryContext;
	char	   *name;

	inventory_check_writable("archive");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("%s must run in a READ COMMITTED transaction", "archive()")));
	query_begin();
	query_run(&statement, values, NULL);
	name = query_text(0, 1);
	if (name)
		name = MemoryContextStrdup(caller, name);
	query_end();
	if (name == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(name));
}

Datum
inventory_lock_projection(PG_FUNCTION_ARGS)
{
	inventory_check_loaded();
	engine_lock(ENGINE_LOCK_PROJECTION, 0, ExclusiveLock, true);
	partition_restart_notes();	/* a dump may have been loaded */
	PG_RETURN_VOID();
}

/*
 * Whether every snapshot in use sees what a committed transaction wrote.
 */
Datum
inventory_seen_by_all(PG_FUNCTION_ARGS)
{
	TransactionId xid = PG_GETARG_TRANSACTIONID(0);
	Relation	event = table_open(catalog_relations()->event, AccessShareLock);
	TransactionId horizon = GetOldestNonRemovableTransactionId(event);

	table_close(event, NoLock);
	PG_RETURN_BOOL(!TransactionIdIsNormal(xid) ||
				   TransactionIdPrecedes(xid, horizon));
}
