/*-------------------------------------------------------------------------
 *
 * row.h
 *		Inserting rows without the planner.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_ROW_H
#define INVENTORY_ROW_H

#include "access/htup.h"
#include "access/skey.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"

typedef struct RowInserter RowInserter;

typedef struct RowTarget
{
	Relation	relation;
	ResultRelInfo *result;
	TupleTableSlot *slot;		/* fill tts_values and tts_isnull, then insert */
	RowInserter *inserter;
} RowTarget;

extern RowInserter *row_begin(void);
extern RowTarget *row_open(RowInserter *inserter, Oid relation_id);
extern TupleTableSlot *row_clear(RowTarget *target);
extern void row_insert(RowTarget *target);
extern void row_insert_many(RowTarget *target, TupleTableSlot **slots, int count);
extern bool row_insert_unless_conflict(RowTarget *target, Oid index_id);
extern HeapTuple row_find_decided(Relation relation, Oid index_id, ScanKey keys,
								  int nkeys);
extern TransactionId row_inserting(Relation relation, Oid index_id, ScanKey keys,
								   int nkeys, ItemPointer tid);
extern void row_end(RowInserter *inserter);

#endif							/* INVENTORY_ROW_H */
