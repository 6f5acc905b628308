/*-------------------------------------------------------------------------
 *
 * extension.c
 *		The extension's own row in pg_extension.
 *
 * LOCKING: whoever drops an extension locks it, as an object, exclusively
 * before it touches anything in it.  A worker that holds the object in share
 * mode from the start of its transaction never meets a half-dropped one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "extension.h"

static void
extension_copy(HeapTuple tuple, Relation relation, ExtensionRow *row)
{
	Form_pg_extension form = (Form_pg_extension) GETSTRUCT(tuple);
	bool		isnull;
	Datum		version = heap_getattr(tuple, Anum_pg_extension_extversion,
									   RelationGetDescr(relation), &isnull);

	row->id = form->oid;
	row->owner = form->extowner;
	strlcpy(row->version, TextDatumGetCString(version), sizeof(row->version));
}

/* Whether the extension is in this database. */
bool
extension_find(ExtensionRow *row)
{
	Relation	relation = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum(EXTENSION_NAME));
	scan = systable_beginscan(relation, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		extension_copy(tuple, relation, row);
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return HeapTupleIsValid(tuple);
}

/*
 * Keeps the extension from being dropped until the end of the transaction.
 * Does not wait: false if it is being dropped.
 */
bool
extension_lock(ExtensionRow *row)
{
	ExtensionRow found;

	if (!ConditionalLockDatabaseObject(ExtensionRelationId, row->id, 0,
									   AccessShareLock))
		return false;
	if (extension_find(&found) && found.id == row->id)
	{
		*row = found;
		return true;
	}
	UnlockDatabaseObject(ExtensionRelationId, row->id, 0, AccessShareLock);
	return false;
}

/* Whether it is this extension, also when the transaction itself is making or
 * dropping it. */
bool
extension_is(Oid id)
{
	Relation	relation = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		is = false;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(id));
	scan = systable_beginscan(relation, ExtensionOidIndexId, true, SnapshotSelf,
							  1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		is = strcmp(NameStr(((Form_pg_extension) GETSTRUCT(tuple))->extname),
					EXTENSION_NAME) == 0;
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return is;
}
