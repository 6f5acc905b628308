/*-------------------------------------------------------------------------
 *
 * tick.c
 *		Ticks: recorded MVCC snapshots, and which transactions are in them.
 *
 * The events of a batch are those visible in its tick's snapshot and not in the
 * one before: exact, whatever order transactions commit in, without a gap and
 * without waiting for a transaction that stays open.  (Skytools' PgQ.)
 *
 * A tick need not be a snapshot that anybody has seen: cut at a transaction id
 * between two snapshots, it still splits the batch between them exactly, and so
 * bounds it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "compat.h"
#include "row.h"
#include "tick.h"

/* Columns, as the install script has them. */
enum
{
	TICK_TICK_ID = 1, TICK_TICKED_AT, TICK_SNAPSHOT, TICK_EVENTS,
	TICK_SNAPSHOTS, TICK_KEY_ID, TICK_HASH
};
#define TICK_COLUMNS TICK_HASH

static int
xid_compare(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return xid_precedes(x, y) ? -1 : xid_precedes(y, x);
}

bool
boundary_includes(const Boundary *boundary, uint64 xid)
{
	return xid_precedes(xid, boundary->xmax) &&
		(boundary->xip_count == 0 ||
		 bsearch(&xid, boundary->xip, boundary->xip_count, sizeof(uint64),
				 xid_compare) == NULL);
}

void
boundary_from_datum(Datum datum, Boundary *boundary)
{
	CompatSnapshot *snapshot = (CompatSnapshot *) PG_DETOAST_DATUM(datum);

	boundary->xmax = U64FromFullTransactionId(snapshot->xmax);
	boundary->xip_count = (int) snapshot->nxip;
	boundary->xip = palloc(Max(boundary->xip_count, 1) * sizeof(uint64));
	for (int i = 0; i < boundary->xip_count; i++)
		boundary->xip[i] = U64FromFullTransactionId(snapshot->xip[i]);
}

Datum
boundary_to_datum(const Boundary *boundary)
{
	Size		size = offsetof(CompatSnapshot, xip) +
		boundary->xip_count * sizeof(FullTransactionId);
	CompatSnapshot *snapshot = palloc0(size);

	SET_VARSIZE(snapshot, size);
	snapshot->nxip = boundary->xip_count;
	snapshot->xmax = FullTransactionIdFromU64(boundary->xmax);
	snapshot->xmin = FullTransactionIdFromU64(boundary->xip_count > 0 ?
											  boundary->xip[0] : boundary->xmax);
	for (int i = 0; i < boundary->xip_count; i++)
		snapshot->xip[i] = FullTransactionIdFromU64(boundary->xip[i]);
	return PointerGetDatum(snapshot);
}

/*
 * The boundary of the active snapshot.  This transaction is outside: it may
 * write more events.  The snapshot itself does not say that it is open.
 */
void
boundary_now(Boundary *boundary)
{
	uint64		own = U64FromFullTransactionId(GetTopFullTransactionIdIfAny());

	boundary_from_datum(DirectFunctionCall1(pg_current_snapshot, (Datum) 0),
						boundary);
	if (own == 0 || own >= boundary->xmax)
		return;
	boundary->xip = repalloc(boundary->xip, (boundary->xip_count + 1) * sizeof(uint64));
	boundary->xip[boundary->xip_count++] = own;
	qsort(boundary->xip, boundary->xip_count, sizeof(uint64), xid_compare);
}

/*
 * What "previous" includes, and of "next" the transactions before the xid.
 */
void
boundary_cut(const Boundary *previous, const Boundary *next, uint64 xid,
			 Boundary *result)
{
	result->xmax = xid_precedes(previous->xmax, xid) ? xid : previous->xmax;
	result->xip = palloc((previous->xip_count + next->xip_count + 1) * sizeof(uint64));
	result->xip_count = 0;
	/* Those of the previous one that are still open, or not reached yet. */
	for (int i = 0; i < previous->xip_count; i++)
	{
		uint64		open = previous->xip[i];

		if (!xid_precedes(open, xid) || !boundary_includes(next, open))
			result->xip[result->xip_count++] = open;
	}
	for (int i = 0; i < next->xip_count; i++)
	{
		if (!xid_precedes(next->xip[i], previous->xmax) &&
			xid_precedes(next->xip[i], xid))
			result->xip[result->xip_count++] = next->xip[i];
	}
}

static void
tick_from_row(HeapTuple tuple, TupleDesc descriptor, Tick *tick)
{
	bool		isnull;
	Datum		key_id;
	bytea	   *hash;

#define COLUMN(n) heap_getattr(tuple, n, descriptor, &isnull)
	tick->tick_id = DatumGetInt64(COLUMN(TICK_TICK_ID));
	tick->ticked_at = DatumGetTimestampTz(COLUMN(TICK_TICKED_AT));
	boundary_from_datum(COLUMN(TICK_SNAPSHOT), &tick->boundary);
	tick->events = DatumGetInt64(COLUMN(TICK_EVENTS));
	tick->snapshots = DatumGetInt64(COLUMN(TICK_SNAPSHOTS));
	key_id = COLUMN(TICK_KEY_ID);
	tick->key_id = isnull ? NULL : TextDatumGetCString(key_id);
	hash = DatumGetByteaPP(COLUMN(TICK_HASH));
#undef COLUMN
	memset(tick->hash, 0, TICK_HASH_BYTES);
	memcpy(tick->hash, VARDATA_ANY(hash),
		   Min(VARSIZE_ANY_EXHDR(hash), TICK_HASH_BYTES));
}

/* The first tick from the end, or by number; all zeros if there is none. */
static bool
tick_read(ScanKey keys, int nkeys, Snapshot snapshot, Tick *tick)
{
	const CatalogRelations *relations = catalog_relations();
	Relation	relation;
	Relation	index;
	SysScanDesc scan;
	HeapTuple	tuple;

	memset(tick, 0, sizeof(Tick));
	if (!OidIsValid(relations->tick))
		return false;			/* an older version of the extension */
	relation = table_open(relations->tick, AccessShareLock);
	index = index_open(relations->tick_key, AccessShareLock);
	scan = systable_beginscan_ordered(relation, index, snapshot, nkeys, keys);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	if (HeapTupleIsValid(tuple))
		tick_from_row(tuple, RelationGetDescr(relation), tick);
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(relation, AccessShareLock);
	return tick->tick_id != 0;
}

/* The latest tick that the snapshot sees; all zeros before the first. */
void
tick_latest(Snapshot snapshot, Tick *tick)
{
	(void) tick_read(NULL, 0, snapshot, tick);
}

bool
tick_find(int64 tick_id, Snapshot snapshot, Tick *tick)
{
	ScanKeyData key;

	ScanKeyInit(&key, TICK_TICK_ID, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(tick_id));
	return tick_read(&key, 1, snapshot, tick);
}

void
tick_insert(const Tick *tick)
{
	RowInserter *inserter = row_begin();
	RowTarget  *target = row_open(inserter, catalog_relations()->tick);
	TupleTableSlot *slot = row_clear(target);
	bytea	   *hash = palloc(VARHDRSZ + TICK_HASH_BYTES);

	SET_VARSIZE(hash, VARHDRSZ + TICK_HASH_BYTES);
	memcpy(VARDATA(hash), tick->hash, TICK_HASH_BYTES);
	memset(slot->tts_isnull, false, TICK_COLUMNS * sizeof(bool));
	slot->tts_values[TICK_TICK_ID - 1] = Int64GetDatum(tick->tick_id);
	slot->tts_values[TICK_TICKED_AT - 1] = TimestampTzGetDatum(tick->ticked_at);
	slot->tts_values[TICK_SNAPSHOT - 1] = boundary_to_datum(&tick->boundary);
	slot->tts_values[TICK_EVENTS - 1] = Int64GetDatum(tick->events);
	slot->tts_values[TICK_SNAPSHOTS - 1] = Int64GetDatum(tick->snapshots);
	slot->tts_isnull[TICK_KEY_ID - 1] = tick->key_id == NULL;
	if (tick->key_id)
		slot->tts_values[TICK_KEY_ID - 1] = CStringGetTextDatum(tick->key_id);
	slot->tts_values[TICK_HASH - 1] = PointerGetDatum(hash);
	row_insert(target);
	row_end(inserter);
}
