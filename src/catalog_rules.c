/*-------------------------------------------------------------------------
 *
 * catalog_rules.c
 *		Rules of the master data that no constraint can say.
 *
 * Both look at what is committed now, whatever the isolation level, and after
 * a lock that makes the transactions concerned follow one another.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "inventory.h"
#include "lock.h"
#include "query.h"

PG_FUNCTION_INFO_V1(inventory_check_location_tree);
PG_FUNCTION_INFO_V1(inventory_check_location_parent);
PG_FUNCTION_INFO_V1(inventory_check_sku_tracking);

static TriggerData *
row_trigger(FunctionCallInfo fcinfo, bool before, const char *name)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		TRIGGER_FIRED_BEFORE(trigdata->tg_event) != before ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("%s must be called as %s ROW trigger", name,
						before ? "a BEFORE" : "an AFTER")));
	return trigdata;
}

static HeapTuple
new_row(TriggerData *trigdata)
{
	return TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ?
		trigdata->tg_newtuple : trigdata->tg_trigtuple;
}

static Datum
column(TriggerData *trigdata, HeapTuple tuple, const char *name, bool *isnull)
{
	TupleDesc	descriptor = RelationGetDescr(trigdata->tg_relation);
	int			number = SPI_fnumber(descriptor, name);

	if (number <= 0)
		elog(ERROR, "table \"%s\" has no column \"%s\"",
			 RelationGetRelationName(trigdata->tg_relation), name);
	return heap_getattr(tuple, number, descriptor, isnull);
}

/* A column that is never NULL. */
static Datum
value(TriggerData *trigdata, HeapTuple tuple, const char *name)
{
	bool		isnull;

	return column(trigdata, tuple, name, &isnull);
}

/*
 * Trigger: a location cannot lie inside itself.
 */
Datum
inventory_check_location_tree(PG_FUNCTION_ARGS)
{
	static Statement statement = {
		"WITH RECURSIVE above(location_id) AS ("
		" SELECT $2 UNION"
		" SELECT l.parent_id FROM inventory.location l JOIN above a ON l.location_id = a.location_id)"
		" SELECT FROM above a WHERE a.location_id = $1",
		2, {INT8OID, INT8OID}
	};
	TriggerData *trigdata = row_trigger(fcinfo, true, "check_location_tree");
	HeapTuple	tuple = new_row(trigdata);
	Datum		values[2];

	if (inventory_restoring)
		return PointerGetDatum(tuple);
	values[0] = value(trigdata, tuple, "location_id");
	values[1] = value(trigdata, tuple, "parent_id");
	engine_lock(ENGINE_LOCK_TREE, 0, ExclusiveLock, true);
	query_begin();
	if (query_run(&statement, values, NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("location \"%s\" would lie inside itself",
						TextDatumGetCString(value(trigdata, tuple, "location"))),
				 errhint("The locations form a tree: choose a parent that is not inside this location.")));
	query_end();
	return PointerGetDatum(tuple);
}

static bool
location_exists(Statement *statement, Datum id)
{
	bool		found;

	query_begin();
	found = query_run(statement, &id, NULL) > 0;
	query_end();
	return found;
}

/*
 * Trigger: the parent of a location is there.  A foreign key from a table to
 * itself would say the same, but then pg_dump warns each time that its dump
 * might not be restored.  Who gives a location a parent has locked the tree in
 * check_location_tree(), who takes one away locks it here.
 */
Datum
inventory_check_location_parent(PG_FUNCTION_ARGS)
{
	static Statement here = {
		"SELECT FROM inventory.location l WHERE l.location_id = $1",
		1, {INT8OID}
	};
	static Statement inside = {
		"SELECT FROM inventory.location l WHERE l.parent_id = $1 LIMIT 1",
		1, {INT8OID}
	};
	TriggerData *trigdata = row_trigger(fcinfo, false, "check_location_parent");
	HeapTuple	tuple = trigdata->tg_trigtuple;
	bool		isnull;
	Datum		id;

	if (inventory_restoring)
		return PointerGetDatum(NULL);
	if (!TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
	{
		id = value(trigdata, tuple, "location_id");
		engine_lock(ENGINE_LOCK_TREE, 0, ExclusiveLock, true);
		if (!location_exists(&here, id) && location_exists(&inside, id))
			ereport(ERROR,
					(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
					 errmsg("location \"%s\" has locations inside",
							TextDatumGetCString(value(trigdata, tuple, "location")))));
	}
	if (TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
		return PointerGetDatum(NULL);
	tuple = new_row(trigdata);
	id = column(trigdata, tuple, "parent_id", &isnull);
	if (!isnull && !location_exists(&here, id))
		ereport(ERROR,
				(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
				 errmsg("the parent of location \"%s\" does not exist",
						TextDatumGetCString(value(trigdata, tuple, "location")))));
	return PointerGetDatum(NULL);
}

/*
 * Trigger: whether a SKU is tracked is fixed once it has stock items.  Making
 * a stock item locks its SKU by the foreign key; this lock conflicts with it.
 */
Datum
inventory_check_sku_tracking(PG_FUNCTION_ARGS)
{
	static Statement lock = {
		"SELECT FROM inventory.sku s WHERE s.sku_id = $1 FOR UPDATE",
		1, {INT8OID}
	};
	static Statement look = {
		"SELECT FROM inventory.stock k WHERE k.sku_id = $1 LIMIT 1",
		1, {INT8OID}
	};
	TriggerData *trigdata = row_trigger(fcinfo, true, "check_sku_tracking");
	HeapTuple	tuple = new_row(trigdata);
	char	   *before = TextDatumGetCString(value(trigdata, trigdata->tg_trigtuple,
													"tracking"));
	char	   *after = TextDatumGetCString(value(trigdata, tuple, "tracking"));
	Datum		values[1];

	if (inventory_restoring || strcmp(before, after) == 0)
		return PointerGetDatum(tuple);
	values[0] = value(trigdata, tuple, "sku_id");
	query_begin();
	query_run(&lock, values, NULL);
	if (query_run(&look, values, NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("tracking of SKU \"%s\" cannot change from %s to %s while it has stock items",
						TextDatumGetCString(value(trigdata, tuple, "sku")),
						before, after),
				 errhint("Create a new SKU and move the goods to it.")));
	query_end();
	return PointerGetDatum(tuple);
}
