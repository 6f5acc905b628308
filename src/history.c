/*-------------------------------------------------------------------------
 *
 * history.c
 *		What a stock item came to at a moment in the past.
 *
 * The sum of its events with recorded_at up to the moment.  A snapshot whose
 * events were all recorded before it is the start; the events since then are
 * read in pieces, from one snapshot to the next, leaving out the pieces that
 * cannot have any: those whose earliest event was recorded later.
 *
 * Events are recorded at the start of their transaction and seen at its end,
 * so a piece can reach back in time.  Usually not behind the snapshot before the
 * one before: the two pieces after the start are looked at, and the rare ones
 * that do reach back further are marked "late" and found by an index.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "inventory.h"
#include "tail.h"
#include "tick.h"

/* Columns, as the install script has them. */
enum
{
	SNAPSHOT_STOCK_ID = 1, SNAPSHOT_TICK_ID, SNAPSHOT_PREVIOUS_TICK_ID,
	SNAPSHOT_ON_HAND, SNAPSHOT_RESERVED, SNAPSHOT_COMMITTED,
	SNAPSHOT_EVENT_COUNT, SNAPSHOT_RECORDED_FROM, SNAPSHOT_RECORDED_UNTIL
};
enum
{
	BASELINE_STOCK_ID = 1, BASELINE_ON_HAND, BASELINE_RESERVED,
	BASELINE_COMMITTED, BASELINE_EVENT_COUNT
};
enum
{
	STOCK_STOCK_ID = 1, STOCK_RECORDED_FROM = 11
};

/* How many pieces after the start are looked at, however late. */
#define NEAR_PIECES 2

PG_FUNCTION_INFO_V1(inventory_item_at);

/* The stretch of events that ends at a snapshot. */
typedef struct Piece
{
	int64		tick_id;
	int64		previous_tick_id;
	TimestampTz recorded_from;
	EventSums	sums;			/* at its end */
} Piece;

static int64
column_int64(HeapTuple tuple, TupleDesc descriptor, int column)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, column, descriptor, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/* Reads up to max snapshots in the order of an index; the number of them. */
static int
pieces_read(Oid index_id, ScanKey keys, int nkeys, ScanDirection direction,
			Snapshot snapshot, Piece *pieces, int max)
{
	Relation	relation = table_open(catalog_relations()->snapshot, AccessShareLock);
	Relation	index = index_open(index_id, AccessShareLock);
	TupleDesc	descriptor = RelationGetDescr(relation);
	SysScanDesc scan = systable_beginscan_ordered(relation, index, snapshot, nkeys, keys);
	HeapTuple	tuple;
	int			count = 0;

	while (count < max &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan, direction)))
	{
		Piece	   *piece = &pieces[count++];

		piece->tick_id = column_int64(tuple, descriptor, SNAPSHOT_TICK_ID);
		piece->previous_tick_id = column_int64(tuple, descriptor, SNAPSHOT_PREVIOUS_TICK_ID);
		piece->recorded_from = column_int64(tuple, descriptor, SNAPSHOT_RECORDED_FROM);
		piece->sums.on_hand = column_int64(tuple, descriptor, SNAPSHOT_ON_HAND);
		piece->sums.reserved = column_int64(tuple, descriptor, SNAPSHOT_RESERVED);
		piece->sums.committed = column_int64(tuple, descriptor, SNAPSHOT_COMMITTED);
		piece->sums.event_count = column_int64(tuple, descriptor, SNAPSHOT_EVENT_COUNT);
	}
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(relation, AccessShareLock);
	return count;
}

static void
key_stock(ScanKey key, int column, int64 stock_id)
{
	ScanKeyInit(key, column, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stock_id));
}

/* The last snapshot all of whose events were recorded up to the moment. */
static bool
piece_before(int64 stock_id, TimestampTz at, Snapshot snapshot, Piece *piece)
{
	ScanKeyData keys[2];

	key_stock(&keys[0], SNAPSHOT_STOCK_ID, stock_id);
	ScanKeyInit(&keys[1], SNAPSHOT_RECORDED_UNTIL, BTLessEqualStrategyNumber,
				F_TIMESTAMPTZ_LE, TimestampTzGetDatum(at));
	return pieces_read(catalog_relations()->snapshot_recorded, keys, 2,
					   BackwardScanDirection, snapshot, piece, 1) > 0;
}

static int
pieces_after(int64 stock_id, int64 tick_id, Snapshot snapshot, Piece *pieces, int max)
{
	ScanKeyData keys[2];

	key_stock(&keys[0], SNAPSHOT_STOCK_ID, stock_id);
	ScanKeyInit(&keys[1], SNAPSHOT_TICK_ID, BTGreaterStrategyNumber, F_INT8GT,
				Int64GetDatum(tick_id));
	return pieces_read(catalog_relations()->snapshot_key, keys, 2,
					   ForwardScanDirection, snapshot, pieces, max);
}

/* The tick of a stock item's last snapshot; 0 if it has none. */
static int64
last_snapshot_tick(int64 stock_id, Snapshot snapshot)
{
	ScanKeyData key;
	Piece		piece;

	key_stock(&key, SNAPSHOT_STOCK_ID, stock_id);
	return pieces_read(catalog_relations()->snapshot_key, &key, 1,
					   BackwardScanDirection, snapshot, &piece, 1) > 0 ?
		piece.tick_id : 0;
}

static void
boundary_of(int64 tick_id, Snapshot snapshot, Tick *tick)
{
	memset(tick, 0, sizeof(Tick));
	if (tick_id != 0 && !tick_find(tick_id, snapshot, tick))
		elog(ERROR, "tick " INT64_FORMAT " is missing", tick_id);
}

/* Adds the events from one tick to another (0: now) that were recorded in time. */
static void
piece_add(int64 stock_id, int64 after_tick, int64 upto_tick, TimestampTz at,
		  Snapshot snapshot, EventSums *sums)
{
	EventSpan	span = {.recorded_until = at};
	Tick		after;
	Tick		upto;

	boundary_of(after_tick, snapshot, &after);
	boundary_of(upto_tick, snapshot, &upto);
	span.after = &after.boundary;
	span.upto = upto_tick ? &upto.boundary : NULL;
	tail_add_item(stock_id, &span, snapshot, sums);
}

/* The pieces from long before the moment they were seen. */
static void
late_pieces_add(int64 stock_id, int64 after_tick, TimestampTz at,
				Snapshot snapshot, EventSums *sums)
{
	const CatalogRelations *relations = catalog_relations();
	Relation	relation = table_open(relations->snapshot, AccessShareLock);
	TupleDesc	descriptor = RelationGetDescr(relation);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	key_stock(&keys[0], SNAPSHOT_STOCK_ID, stock_id);
	ScanKeyInit(&keys[1], SNAPSHOT_RECORDED_FROM, BTLessEqualStrategyNumber,
				F_TIMESTAMPTZ_LE, TimestampTzGetDatum(at));
	scan = systable_beginscan(relation, relations->snapshot_late, true, snapshot,
							  2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		int64		tick_id = column_int64(tuple, descriptor, SNAPSHOT_TICK_ID);

		if (tick_id > after_tick)
			piece_add(stock_id,
					  column_int64(tuple, descriptor, SNAPSHOT_PREVIOUS_TICK_ID),
					  tick_id, at, snapshot, sums);
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
}

/* What a stock item's row in a table says. */
static bool
row_of_item(Oid table, Oid index, int64 stock_id, Snapshot snapshot,
			const int *columns, int64 *values, int count)
{
	Relation	relation = table_open(table, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	key_stock(&key, STOCK_STOCK_ID, stock_id);
	scan = systable_beginscan(relation, index, true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	for (int i = 0; i < count; i++)
		values[i] = found ? column_int64(tuple, RelationGetDescr(relation), columns[i]) : 0;
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return found;
}

static void
baseline_read(int64 stock_id, Snapshot snapshot, EventSums *sums)
{
	static const int columns[] = {
		BASELINE_ON_HAND, BASELINE_RESERVED, BASELINE_COMMITTED,
		BASELINE_EVENT_COUNT
	};
	int64		values[lengthof(columns)] = {0};

	if (OidIsValid(catalog_relations()->baseline))
		(void) row_of_item(catalog_relations()->baseline, catalog_relations()->baseline_key,
						   stock_id, snapshot, columns, values, lengthof(columns));
	sums->on_hand = values[0];
	sums->reserved = values[1];
	sums->committed = values[2];
	sums->event_count = values[3];
}

/* Where the events after the last snapshot begin that can be of the moment. */
static int64
open_piece_start(int64 stock_id, TimestampTz at, Snapshot snapshot)
{
	static const int columns[] = {STOCK_RECORDED_FROM};
	int64		recorded_from = 0;
	Tick		latest;

	(void) row_of_item(catalog_relations()->stock, catalog_relations()->stock_id_key,
					   stock_id, snapshot, columns, &recorded_from, 1);
	tick_latest(snapshot, &latest);
	if (recorded_from == 0 || recorded_from > at)
		return latest.tick_id;	/* all that has been projected is later */
	return last_snapshot_tick(stock_id, snapshot);
}

/*
 * item_at(stock_id, at)
 */
Datum
inventory_item_at(PG_FUNCTION_ARGS)
{
	int64		stock_id = PG_GETARG_INT64(0);
	TimestampTz at = PG_GETARG_TIMESTAMPTZ(1);
	Snapshot	snapshot = GetActiveSnapshot();
	Piece		start = {0};
	Piece		near[NEAR_PIECES];
	int			count;
	int64		tick_id;
	TupleDesc	descriptor;
	Datum		values[4];
	bool		nulls[4] = {0};

	inventory_check_loaded();
	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!piece_before(stock_id, at, snapshot, &start))
		baseline_read(stock_id, snapshot, &start.sums);
	tick_id = start.tick_id;
	count = pieces_after(stock_id, tick_id, snapshot, near, NEAR_PIECES);
	for (int i = 0; i < count; i++)
	{
		if (near[i].recorded_from <= at)
			piece_add(stock_id, tick_id, near[i].tick_id, at, snapshot, &start.sums);
		tick_id = near[i].tick_id;
	}
	late_pieces_add(stock_id, tick_id, at, snapshot, &start.sums);
	piece_add(stock_id, open_piece_start(stock_id, at, snapshot), 0, at, snapshot,
			  &start.sums);

	values[0] = Int64GetDatum(start.sums.on_hand);
	values[1] = Int64GetDatum(start.sums.reserved);
	values[2] = Int64GetDatum(start.sums.committed);
	values[3] = Int64GetDatum(start.sums.event_count);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(descriptor, values, nulls)));
}
