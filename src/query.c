/*-------------------------------------------------------------------------
 *
 * query.c
 *		Running the engine's own SQL statements.
 *
 * Every statement runs under a latest snapshot, whatever the isolation level:
 * the engine decides by what is committed now, as a foreign key check does.
 * It runs as the owner of the extension with a pinned search_path, also when
 * it was a plain INSERT of somebody else that led here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "error.h"
#include "inventory.h"
#include "query.h"

static int	query_depth = 0;

PG_FUNCTION_INFO_V1(inventory_engine_only);

void
query_begin(void)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

/* What a statement runs as. */
typedef struct QueryIdentity
{
	Oid			user;
	int			security_context;
	int			guc_level;
} QueryIdentity;

static void
query_set(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

static void
query_become_owner(QueryIdentity *caller)
{
	caller->guc_level = NewGUCNestLevel();
	GetUserIdAndSecContext(&caller->user, &caller->security_context);
	SetUserIdAndSecContext(catalog_owner(), caller->security_context |
						   SECURITY_LOCAL_USERID_CHANGE);
	query_set("search_path", "pg_catalog, pg_temp");
}

static void
query_become_caller(const QueryIdentity *caller)
{
	AtEOXact_GUC(true, caller->guc_level);
	SetUserIdAndSecContext(caller->user, caller->security_context);
}

static void
query_prepare(Statement *statement)
{
	SPIPlanPtr	plan;

	if (statement->plan)
		return;
	plan = SPI_prepare(statement->sql, statement->nargs, statement->types);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare: %s", statement->sql);
	statement->plan = plan;
}

/*
 * Runs a statement and returns the number of rows processed; what it returned
 * is in SPI_tuptable until query_end().
 */
uint64
query_run(Statement *statement, Datum *values, const char *nulls)
{
	QueryIdentity caller;
	Snapshot	snapshot;
	int			result;

	query_become_owner(&caller);
	query_depth++;
	PG_TRY();
	{
		query_prepare(statement);
		snapshot = RegisterSnapshot(GetLatestSnapshot());
		result = SPI_execute_snapshot(statement->plan, values, nulls, snapshot,
									  InvalidSnapshot, false, true, 0);
		UnregisterSnapshot(snapshot);
		if (result < 0)
			elog(ERROR, "could not execute: %s", statement->sql);
	}
	PG_FINALLY();
	{
		query_depth--;
	}
	PG_END_TRY();
	query_become_caller(&caller);
	return SPI_processed;
}

/*
 * Opens a cursor over what a statement reads, as the active snapshot sees it.
 * SPI_cursor_close() it before query_end().
 *
 * The caller may stop after any row.  So the rows must come in the order of an
 * index; the planner would rather sort all of them, however many there are.
 */
Portal
query_open(Statement *statement, Datum *values)
{
	QueryIdentity caller;
	Portal		portal;

	query_become_owner(&caller);
	query_set("enable_seqscan", "off");
	query_set("enable_bitmapscan", "off");
	query_set("enable_sort", "off");
	query_set("enable_incremental_sort", "on");
	query_set("enable_indexscan", "on");
	query_set("jit", "off");
	query_set("max_parallel_workers_per_gather", "0");
	query_prepare(statement);
	portal = SPI_cursor_open(NULL, statement->plan, values, NULL, true);
	query_become_caller(&caller);
	return portal;
}

void
query_end(void)
{
	SPI_finish();
}

Datum
query_value(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						 column, isnull);
}

/* A bigint column that cannot be NULL, or is 0 when it is. */
int64
query_int64(uint64 row, int column)
{
	bool		isnull;
	Datum		value = query_value(row, column, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/* A column as text, or NULL; lives until query_end(). */
char *
query_text(uint64 row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						column);
}

bool
query_engine_writes(void)
{
	return query_depth > 0;
}

/*
 * Trigger: refuses writing by anybody but the engine.
 */
Datum
inventory_engine_only(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("%s must be called as a trigger", "engine_only")));
	if (!query_engine_writes() && !inventory_restoring)
		ereport(ERROR,
				(errcode(ERRCODE_IV_ENGINE_ONLY),
				 errmsg("table \"%s\" is written by the engine only",
						RelationGetRelationName(trigdata->tg_relation)),
				 errhint("Use the functions of the schema inventory; a correction is another movement. To load a dump, set inventory.restoring first.")));
	return PointerGetDatum(TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) ?
						   trigdata->tg_trigtuple : NULL);
}
