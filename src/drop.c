/*-------------------------------------------------------------------------
 *
 * drop.c
 *		Keeping the events from being dropped by mistake.
 *
 * The events are the only record of the stock, and one DROP EXTENSION, DROP
 * SCHEMA CASCADE, DROP OWNED or DROP TABLE takes them away.  Whatever the
 * command was, it comes down to dropping the tables that hold them: the
 * partitions of the event table, and the baseline, which is the sum of those
 * that were archived.  So it is their drop that is refused while there is a
 * row in them.  The extension itself would be too late to look: its tables
 * go before it.
 *
 * A partition that was detached is not looked at any more; DROP DATABASE drops
 * no table.
 *
 * LOCKING: whoever drops a table has it locked exclusively by then, so the
 * rows that a latest snapshot sees are all there are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "commands/extension.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "drop.h"
#include "error.h"

bool		drop_allowed = false;

static object_access_hook_type previous_object_access_hook = NULL;

/* Whether the table is the extension's, or a partition of such a one. */
static bool
drop_of_record(Oid relation_id)
{
	Oid			schema = get_namespace_oid("inventory", true);
	Oid			table = relation_id;
	const char *name = "baseline";

	if (!OidIsValid(schema) || get_rel_namespace(relation_id) != schema)
		return false;
	if (get_rel_relispartition(relation_id))
	{
		table = get_partition_parent(relation_id, true);
		name = "event";
	}
	return table == get_relname_relid(name, schema) &&
		getExtensionOfObject(RelationRelationId, table) ==
		get_extension_oid("inventory", true);
}

static bool
drop_finds_row(Oid relation_id)
{
	Relation	relation = table_open(relation_id, NoLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(relation, snapshot, 0, NULL);
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	bool		found = table_scan_getnextslot(scan, ForwardScanDirection, slot);

	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(relation, NoLock);
	return found;
}

static void
drop_object_access(ObjectAccessType access, Oid class_id, Oid object_id,
				   int sub_id, void *arg)
{
	if (previous_object_access_hook)
		previous_object_access_hook(access, class_id, object_id, sub_id, arg);

	if (access != OAT_DROP || class_id != RelationRelationId || sub_id != 0 ||
		drop_allowed)
		return;
	if (drop_of_record(object_id) && drop_finds_row(object_id))
		ereport(ERROR,
				(errcode(ERRCODE_IV_EVENTS_WOULD_BE_LOST),
				 errmsg("cannot drop table \"%s\" because it has events",
						get_rel_name(object_id)),
				 errdetail("The events are the only record of the stock and of its history."),
				 errhint("Dump the database first; then SET inventory.allow_drop = on to drop them all the same.")));
}

void
drop_init(void)
{
	previous_object_access_hook = object_access_hook;
	object_access_hook = drop_object_access;
}
