/*-------------------------------------------------------------------------
 *
 * row.c
 *		Inserting rows without the planner.
 *
 * This is what ModifyTable does for INSERT, less what the engine's tables do
 * not have (generated columns, identity, row security, partition routing):
 * heap, indexes, AFTER ROW triggers.  The triggers fire in row_end(), which
 * also makes the rows visible to later commands.  After an error the
 * transaction's abort cleans up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "row.h"

struct RowInserter
{
	EState	   *estate;
	List	   *targets;
};

RowInserter *
row_begin(void)
{
	RowInserter *inserter = palloc(sizeof(RowInserter));

	inserter->estate = CreateExecutorState();
	inserter->estate->es_output_cid = GetCurrentCommandId(true);
	inserter->targets = NIL;
	AfterTriggerBeginQuery();
	return inserter;
}

RowTarget *
row_open(RowInserter *inserter, Oid relation_id)
{
	EState	   *estate = inserter->estate;
	RowTarget  *target;
	MemoryContext old;
	ListCell   *cell;

	foreach(cell, inserter->targets)
	{
		target = lfirst(cell);
		if (RelationGetRelid(target->relation) == relation_id)
			return target;
	}

	old = MemoryContextSwitchTo(estate->es_query_cxt);
	target = palloc(sizeof(RowTarget));
	target->inserter = inserter;
	target->relation = table_open(relation_id, RowExclusiveLock);
	target->result = makeNode(ResultRelInfo);
	InitResultRelInfo(target->result, target->relation, 0, NULL, 0);
	estate->es_opened_result_relations =
		lappend(estate->es_opened_result_relations, target->result);
	ExecOpenIndices(target->result, true);
	target->slot = table_slot_create(target->relation, &estate->es_tupleTable);
	MemoryContextSwitchTo(old);
	inserter->targets = lappend(inserter->targets, target);
	return target;
}

/* Empties the slot; every column is NULL until it is set. */
TupleTableSlot *
row_clear(RowTarget *target)
{
	TupleTableSlot *slot = target->slot;

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true,
		   slot->tts_tupleDescriptor->natts * sizeof(bool));
	return slot;
}

static void
row_check(RowTarget *target, TupleTableSlot *slot)
{
	if (target->relation->rd_att->constr)
		ExecConstraints(target->result, slot, target->inserter->estate);
}

static void
row_inserted(RowTarget *target, TupleTableSlot *slot)
{
	EState	   *estate = target->inserter->estate;
	List	   *recheck = NIL;

	if (target->result->ri_NumIndices > 0)
		recheck = compat_insert_index_tuples(target->result, slot, estate,
											 false, NULL, NIL);
	ExecARInsertTriggers(estate, target->result, slot, recheck, NULL);
	list_free(recheck);
	ResetPerTupleExprContext(estate);
}

/* Inserts the row in the target's slot. */
void
row_insert(RowTarget *target)
{
	TupleTableSlot *slot = ExecStoreVirtualTuple(target->slot);

	row_check(target, slot);
	table_tuple_insert(target->relation, slot,
					   target->inserter->estate->es_output_cid, 0, NULL);
	row_inserted(target, slot);
}

/* Inserts several rows, each in a stored slot, a page at a time. */
void
row_insert_many(RowTarget *target, TupleTableSlot **slots, int count)
{
	EState	   *estate = target->inserter->estate;
	MemoryContext old;

	for (int i = 0; i < count; i++)
		row_check(target, slots[i]);
	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
	table_multi_insert(target->relation, slots, count, estate->es_output_cid,
					   0, NULL);
	MemoryContextSwitchTo(old);
	for (int i = 0; i < count; i++)
		row_inserted(target, slots[i]);
}

/*
 * Inserts the row in the target's slot unless the unique index has its key.
 * Waits for a transaction that is inserting the same key; a subtransaction is
 * not needed, and neither is a snapshot that sees the other row.
 */
bool
row_insert_unless_conflict(RowTarget *target, Oid index_id)
{
	EState	   *estate = target->inserter->estate;
	TupleTableSlot *slot = ExecStoreVirtualTuple(target->slot);
	List	   *arbiters = list_make1_oid(index_id);
	bool		conflict = false;
	uint32		token;

	row_check(target, slot);
	token = SpeculativeInsertionLockAcquire(GetCurrentTransactionId());
	table_tuple_insert_speculative(target->relation, slot,
								   estate->es_output_cid, 0, NULL, token);
	(void) compat_insert_index_tuples(target->result, slot, estate, true,
									  &conflict, arbiters);
	table_tuple_complete_speculative(target->relation, slot, token, !conflict);
	SpeculativeInsertionLockRelease(GetCurrentTransactionId());
	if (!conflict)
		ExecARInsertTriggers(estate, target->result, slot, NIL, NULL);
	return !conflict;
}

/* systable_beginscan() writes into the keys that it is given. */
#define ROW_MAX_KEYS 4

static SysScanDesc
row_begin_scan(Relation relation, Oid index_id, Snapshot snapshot,
			   const ScanKeyData *keys, int nkeys)
{
	ScanKeyData copy[ROW_MAX_KEYS];

	Assert(nkeys <= ROW_MAX_KEYS);
	memcpy(copy, keys, nkeys * sizeof(ScanKeyData));
	return systable_beginscan(relation, index_id, true, snapshot, nkeys, copy);
}

/* Looks once; *busy is the transaction to wait for, if any. */
static HeapTuple
row_look(Relation relation, Oid index_id, ScanKey keys, int nkeys,
		 TransactionId *busy, uint32 *token, ItemPointer tid)
{
	SnapshotData dirty;
	SysScanDesc scan;
	HeapTuple	tuple;

	*busy = InvalidTransactionId;
	InitDirtySnapshot(dirty);
	scan = row_begin_scan(relation, index_id, &dirty, keys, nkeys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		*token = dirty.speculativeToken;
		*busy = TransactionIdIsValid(dirty.xmin) ? dirty.xmin : dirty.xmax;
		*tid = tuple->t_self;
		tuple = TransactionIdIsValid(*busy) ? NULL : heap_copytuple(tuple);
	}
	systable_endscan(scan);
	return tuple;
}

/*
 * Finds the row with a unique key, whatever the caller's snapshot, and waits
 * while another transaction is inserting or deleting it.  A copy, or NULL.
 */
HeapTuple
row_find_decided(Relation relation, Oid index_id, ScanKey keys, int nkeys)
{
	TransactionId busy;
	uint32		token;
	ItemPointerData tid;
	HeapTuple	tuple;

	while ((tuple = row_look(relation, index_id, keys, nkeys,
							 &busy, &token, &tid)) == NULL &&
		   TransactionIdIsValid(busy))
	{
		if (token)
			SpeculativeInsertionWait(busy, token);
		else
			XactLockTableWait(busy, relation, &tid, XLTW_InsertIndex);
	}
	return tuple;
}

/* A transaction other than ours that is inserting a row with the key, if any. */
TransactionId
row_inserting(Relation relation, Oid index_id, ScanKey keys, int nkeys,
			  ItemPointer tid)
{
	SnapshotData dirty;
	SysScanDesc scan;
	HeapTuple	tuple;
	TransactionId xid = InvalidTransactionId;

	InitDirtySnapshot(dirty);
	scan = row_begin_scan(relation, index_id, &dirty, keys, nkeys);
	while (!TransactionIdIsValid(xid) &&
		   HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		xid = dirty.xmin;
		*tid = tuple->t_self;
	}
	systable_endscan(scan);
	return xid;
}

void
row_end(RowInserter *inserter)
{
	EState	   *estate = inserter->estate;
	ListCell   *cell;

	AfterTriggerEndQuery(estate);
	ExecResetTupleTable(estate->es_tupleTable, false);
	ExecCloseResultRelations(estate);	/* the indexes, too */
	foreach(cell, inserter->targets)
		table_close(((RowTarget *) lfirst(cell))->relation, NoLock);
	FreeExecutorState(estate);
	list_free(inserter->targets);
	pfree(inserter);
	CommandCounterIncrement();
}
