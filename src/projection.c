/*-------------------------------------------------------------------------
 *
 * projection.c
 *		Adding the events to the stock rows, tick by tick.
 *
 * One run takes the projection lock, then a snapshot, and reads the events that
 * are visible in it and beyond the latest tick, in the order of their
 * transactions.  It adds them up per stock item in memory, and at the end
 * updates each touched stock row once.  The tick that says so is written in the
 * same transaction, so whoever sees the rows sees the tick: readers add what is
 * beyond it, and never count an event twice or not at all.
 *
 * A run is bounded: when it has read enough events it ends at the next
 * transaction, at a tick that is cut there (tick.c).  A transaction's events are
 * never split.  When a tick has enough events, or a stock item has enough for a
 * snapshot, a tick is cut as well, so that snapshots are no further apart than
 * they should be, however hot the item.
 *
 * A run also tells of what has run short, and of what is back: is_short of a stock
 * row says which of the two has been told last.  A tick that is cut may have what
 * was taken without what it was taken from.  So after a run that was cut, an item
 * is short only if it is so with all that the run could have read, too; else it
 * is left to a later run, which will read the rest.
 *
 * The lock is heavyweight and kept until the end of the transaction; it is not
 * in the way of movements, nor of readers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "digest.h"
#include "engine_message.h"
#include "inventory.h"
#include "lock.h"
#include "progress.h"
#include "projection.h"
#include "query.h"
#include "tail.h"
#include "tick.h"

/* Columns, as the install script has them. */
enum
{
	EVENT_EVENT_ID = 1, EVENT_STOCK_ID = 2, EVENT_ON_HAND_DELTA = 4, EVENT_RESERVED_DELTA = 5,
	EVENT_COMMITTED_DELTA = 6, EVENT_RECORDED_AT = 12, EVENT_XID = 14
};

enum
{
	STOCK_STOCK_ID = 1, STOCK_SKU_ID = 2, STOCK_CONDITION = 5, STOCK_ON_HAND,
	STOCK_RESERVED, STOCK_COMMITTED, STOCK_EVENT_COUNT, STOCK_SNAPSHOT_COUNT,
	STOCK_RECORDED_FROM, STOCK_RECORDED_UNTIL, STOCK_IS_SHORT
};

/* Rows fetched at a time. */
#define FETCH_ROWS 1000

/*
 * Events per run of project(), which is one transaction: a row that it updated
 * again and again would be slower each time, as its versions cannot be pruned.
 */
#define PROJECT_EVENTS 1000000

int			projection_tick_events = 10000;
int			projection_snapshot_events = 1000;
char	   *projection_hash_key = NULL;

PG_FUNCTION_INFO_V1(inventory_project);
PG_FUNCTION_INFO_V1(inventory_tick_hash);
PG_FUNCTION_INFO_V1(inventory_hash_key_id);

/* What a run adds to one stock item. */
typedef struct ProjectedItem
{
	int64		stock_id;		/* hash key */
	EventSums	row;			/* the stock row before the run */
	EventSums	sums;			/* what the run adds */
	int64		snapshot_count; /* the event count at the last snapshot */
	TimestampTz recorded_from;	/* of the events since; DT_NOEND: none */
	TimestampTz recorded_until; /* of all; DT_NOBEGIN: none */
	int64		sku_id;
	bool		good;
	bool		due;			/* for a snapshot at the next tick */
	bool		is_short;		/* it was told that nothing is available */
	bool		never_told;		/* nor whether it was short */
} ProjectedItem;

typedef struct Projection
{
	Tick		previous;
	Boundary	now;			/* of the snapshot that the run reads with */
	Boundary	end;			/* of the run */
	bool		cut;			/* there is more between "end" and "now" */
	HTAB	   *items;
	List	   *due;			/* items to be snapshot at the next tick */
	Digest	   *digest;
	int64		tick_events;	/* since the previous tick */
	int64		run_events;
	int64		max_events;		/* when the run has read enough */
	uint64		xid;			/* of the last event */
	int64		last_event_id;	/* the largest one */
} Projection;

/* ---- Reading a batch ---- */

/* Returns false when it has had enough. */
typedef bool (*BatchVisitor) (HeapTuple tuple, TupleDesc descriptor, void *state);

/* Visits the next rows of a cursor; false at its end, or when it is enough. */
static bool
batch_fetch(Portal portal, BatchVisitor visit, void *state, bool *enough)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext,
												  "inventory batch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(scratch);
	SPITupleTable *rows;
	uint64		count;

	SPI_cursor_fetch(portal, true, FETCH_ROWS);
	rows = SPI_tuptable;
	count = SPI_processed;
	for (uint64 i = 0; i < count && !*enough; i++)
		*enough = !visit(rows->vals[i], rows->tupdesc, state);
	SPI_freetuptable(rows);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(scratch);
	CHECK_FOR_INTERRUPTS();
	return count > 0 && !*enough;
}

/*
 * Visits the events of the ranges by transaction and number, as the active
 * snapshot sees them.
 */
static void
batch_read(const XidRange *ranges, int count, BatchVisitor visit, void *state)
{
	static Statement statement = {
		"SELECT * FROM inventory.event v WHERE v.xid >= $1 AND v.xid <= $2"
		" ORDER BY v.xid, v.event_id",
		2, {XID8OID, XID8OID}
	};
	bool		enough = false;

	for (int i = 0; i < count && !enough; i++)
	{
		Datum		values[2];
		Portal		portal;

		values[0] = UInt64GetDatum(ranges[i].first);
		values[1] = UInt64GetDatum(ranges[i].last);
		query_begin();
		portal = query_open(&statement, values);
		while (batch_fetch(portal, visit, state, &enough))
			;
		SPI_cursor_close(portal);
		query_end();
	}
}

static int64
event_int64(HeapTuple tuple, TupleDesc descriptor, int column)
{
	bool		isnull;

	return DatumGetInt64(heap_getattr(tuple, column, descriptor, &isnull));
}

/* ---- Snapshots of stock items ---- */

static void
snapshot_insert(const ProjectedItem *item, int64 tick_id)
{
	static Statement statement = {
		"INSERT INTO inventory.snapshot (stock_id, tick_id, previous_tick_id,"
		" on_hand, reserved, committed, event_count, recorded_from, recorded_until, late)"
		" SELECT $1, $2, (SELECT p.tick_id FROM inventory.snapshot p"
		"  WHERE p.stock_id = $1 ORDER BY p.tick_id DESC LIMIT 1),"
		" $3, $4, $5, $6, $7, $8,"
		" coalesce((SELECT p.recorded_until > $7 FROM inventory.snapshot p"
		"  WHERE p.stock_id = $1 ORDER BY p.tick_id DESC OFFSET 1 LIMIT 1), false)",
		8, {INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID,
		TIMESTAMPTZOID, TIMESTAMPTZOID}
	};
	Datum		values[8];

	values[0] = Int64GetDatum(item->stock_id);
	values[1] = Int64GetDatum(tick_id);
	values[2] = Int64GetDatum(item->row.on_hand + item->sums.on_hand);
	values[3] = Int64GetDatum(item->row.reserved + item->sums.reserved);
	values[4] = Int64GetDatum(item->row.committed + item->sums.committed);
	values[5] = Int64GetDatum(item->row.event_count + item->sums.event_count);
	values[6] = TimestampTzGetDatum(item->recorded_from);
	values[7] = TimestampTzGetDatum(item->recorded_until);
	query_begin();
	query_run(&statement, values, NULL);
	query_end();
}

/* Snapshots of the stock items that are due; the number of them. */
static int64
snapshots_write_due(Projection *projection)
{
	int64		tick_id = projection->previous.tick_id + 1;
	int64		count = list_length(projection->due);
	ListCell   *cell;

	foreach(cell, projection->due)
	{
		ProjectedItem *item = lfirst(cell);

		snapshot_insert(item, tick_id);
		item->snapshot_count = item->row.event_count + item->sums.event_count;
		item->recorded_from = DT_NOEND;
		item->due = false;
	}
	list_free(projection->due);
	projection->due = NIL;
	return count;
}

/* Snapshots of all stock items with events since their last one. */
static int64
snapshots_write_all(int64 tick_id)
{
	static Statement insert = {
		"INSERT INTO inventory.snapshot (stock_id, tick_id, previous_tick_id,"
		" on_hand, reserved, committed, event_count, recorded_from, recorded_until, late)"
		" SELECT k.stock_id, $1, (SELECT p.tick_id FROM inventory.snapshot p"
		"  WHERE p.stock_id = k.stock_id ORDER BY p.tick_id DESC LIMIT 1),"
		" k.on_hand, k.reserved, k.committed, k.event_count, k.recorded_from, k.recorded_until,"
		" coalesce((SELECT p.recorded_until > k.recorded_from FROM inventory.snapshot p"
		"  WHERE p.stock_id = k.stock_id ORDER BY p.tick_id DESC OFFSET 1 LIMIT 1), false)"
		" FROM inventory.stock k WHERE k.recorded_from IS NOT NULL",
		1, {INT8OID}
	};
	static Statement update = {
		"UPDATE inventory.stock k SET snapshot_count = k.event_count, recorded_from = NULL"
		" WHERE k.recorded_from IS NOT NULL",
		0, {0}
	};
	Datum		values[1];
	int64		count;

	values[0] = Int64GetDatum(tick_id);
	query_begin();
	count = query_run(&insert, values, NULL);
	query_run(&update, NULL, NULL);
	query_end();
	return count;
}

/* ---- Stock rows ---- */

static int64
row_int64(HeapTuple tuple, TupleDesc descriptor, int column, int64 missing)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, column, descriptor, &isnull);

	return isnull ? missing : DatumGetInt64(value);
}

static bool
row_is_good(HeapTuple tuple, TupleDesc descriptor)
{
	bool		isnull;
	text	   *condition = DatumGetTextPP(heap_getattr(tuple, STOCK_CONDITION,
														descriptor, &isnull));

	return VARSIZE_ANY_EXHDR(condition) == 4 &&
		memcmp(VARDATA_ANY(condition), "good", 4) == 0;
}

/* Reads the stock row as it is before the run. */
static void
item_read(ProjectedItem *item)
{
	const CatalogRelations *relations = catalog_relations();
	Relation	relation = table_open(relations->stock, AccessShareLock);
	TupleDesc	descriptor = RelationGetDescr(relation);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, STOCK_STOCK_ID, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(item->stock_id));
	scan = systable_beginscan(relation, relations->stock_id_key, true,
							  GetActiveSnapshot(), 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		item->row.on_hand = row_int64(tuple, descriptor, STOCK_ON_HAND, 0);
		item->row.reserved = row_int64(tuple, descriptor, STOCK_RESERVED, 0);
		item->row.committed = row_int64(tuple, descriptor, STOCK_COMMITTED, 0);
		item->row.event_count = row_int64(tuple, descriptor, STOCK_EVENT_COUNT, 0);
		item->snapshot_count = row_int64(tuple, descriptor, STOCK_SNAPSHOT_COUNT, 0);
		item->recorded_from = row_int64(tuple, descriptor, STOCK_RECORDED_FROM, DT_NOEND);
		item->recorded_until = row_int64(tuple, descriptor, STOCK_RECORDED_UNTIL, DT_NOBEGIN);
		item->sku_id = row_int64(tuple, descriptor, STOCK_SKU_ID, 0);
		item->good = row_is_good(tuple, descriptor);
		item->is_short = DatumGetBool(heap_getattr(tuple, STOCK_IS_SHORT, descriptor,
												   &item->never_told));
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
}

static ProjectedItem *
projection_item(Projection *projection, int64 stock_id)
{
	bool		found;
	ProjectedItem *item = hash_search(projection->items, &stock_id, HASH_ENTER, &found);

	if (found)
		return item;
	memset(&item->row, 0, sizeof(ProjectedItem) - offsetof(ProjectedItem, row));
	item->recorded_from = DT_NOEND;
	item->recorded_until = DT_NOBEGIN;
	item_read(item);
	return item;
}

static Datum *
make_column(int count)
{
	return MemoryContextAllocHuge(CurrentMemoryContext, Max(count, 1) * sizeof(Datum));
}

static Datum
int64_array(Datum *column, int count, Oid type)
{
	return PointerGetDatum(construct_array(column, count, type, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

static Datum
bool_array(Datum *column, int count)
{
	return PointerGetDatum(construct_array(column, count, BOOLOID, sizeof(bool),
										   true, TYPALIGN_CHAR));
}

#define ROW_ARRAYS 9

/* The new contents of the touched stock rows, as one array per column. */
static void
projection_columns(Projection *projection, Datum *arrays)
{
	int			count = hash_get_num_entries(projection->items);
	Datum	   *columns[ROW_ARRAYS];
	HASH_SEQ_STATUS status;
	ProjectedItem *item;
	int			i = 0;

	for (int column = 0; column < ROW_ARRAYS; column++)
		columns[column] = make_column(count);
	hash_seq_init(&status, projection->items);
	while ((item = hash_seq_search(&status)) != NULL)
	{
		columns[0][i] = Int64GetDatum(item->stock_id);
		columns[1][i] = Int64GetDatum(item->row.on_hand + item->sums.on_hand);
		columns[2][i] = Int64GetDatum(item->row.reserved + item->sums.reserved);
		columns[3][i] = Int64GetDatum(item->row.committed + item->sums.committed);
		columns[4][i] = Int64GetDatum(item->row.event_count + item->sums.event_count);
		columns[5][i] = Int64GetDatum(item->snapshot_count);
		columns[6][i] = TimestampTzGetDatum(item->recorded_from);
		columns[7][i] = TimestampTzGetDatum(item->recorded_until);
		columns[8][i] = BoolGetDatum(item->is_short);
		i++;
	}
	for (int column = 0; column < 8; column++)
		arrays[column] = int64_array(columns[column], count,
									 column < 6 ? INT8OID : TIMESTAMPTZOID);
	arrays[8] = bool_array(columns[8], count);
}

static void
projection_update_rows(Projection *projection)
{
	static Statement statement = {
		"UPDATE inventory.stock k SET on_hand = d.on_hand, reserved = d.reserved,"
		" committed = d.committed, event_count = d.event_count,"
		" snapshot_count = d.snapshot_count,"
		" recorded_from = nullif(d.recorded_from, 'infinity'),"
		" recorded_until = nullif(d.recorded_until, '-infinity'), is_short = d.is_short"
		" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9) AS d(stock_id, on_hand, reserved,"
		"  committed, event_count, snapshot_count, recorded_from, recorded_until, is_short)"
		" WHERE k.stock_id = d.stock_id",
		ROW_ARRAYS, {INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID,
		INT8ARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID,
		BOOLARRAYOID}
	};
	Datum		values[ROW_ARRAYS];

	projection_columns(projection, values);
	query_begin();
	query_run(&statement, values, NULL);
	query_end();
}

/* ---- Shortages ---- */

static void
item_sums(const ProjectedItem *item, EventSums *sums)
{
	sums->on_hand = item->row.on_hand + item->sums.on_hand;
	sums->reserved = item->row.reserved + item->sums.reserved;
	sums->committed = item->row.committed + item->sums.committed;
	sums->event_count = item->row.event_count + item->sums.event_count;
}

/* What is there to be promised, safety stock included. */
static int64
sums_unpromised(const EventSums *sums)
{
	return sums->on_hand - sums->reserved - sums->committed;
}

/* The touched stock items that can be promised. */
static ProjectedItem **
projection_good_items(Projection *projection, int *count)
{
	ProjectedItem **items = MemoryContextAllocHuge(CurrentMemoryContext,
												   (hash_get_num_entries(projection->items) + 1) *
												   sizeof(ProjectedItem *));
	HASH_SEQ_STATUS status;
	ProjectedItem *item;

	*count = 0;
	hash_seq_init(&status, projection->items);
	while ((item = hash_seq_search(&status)) != NULL)
	{
		if (item->good)
			items[(*count)++] = item;
	}
	return items;
}

/*
 * Those of the items of which is_short is not true any more, by their place,
 * with the safety stock.  To be read before query_end().
 */
static uint64
crossings_find(ProjectedItem **items, int count)
{
	static Statement statement = {
		"SELECT d.n, s.safety_stock"
		" FROM unnest($1, $2, $3) WITH ORDINALITY AS d(sku_id, unpromised, is_short, n)"
		" JOIN inventory.sku s ON s.sku_id = d.sku_id"
		" WHERE (d.unpromised <= s.safety_stock) <> d.is_short",
		3, {INT8ARRAYOID, INT8ARRAYOID, BOOLARRAYOID}
	};
	Datum	   *columns[3];
	Datum		values[3];

	for (int column = 0; column < 3; column++)
		columns[column] = make_column(count);
	for (int i = 0; i < count; i++)
	{
		EventSums	sums;

		item_sums(items[i], &sums);
		columns[0][i] = Int64GetDatum(items[i]->sku_id);
		columns[1][i] = Int64GetDatum(sums_unpromised(&sums));
		columns[2][i] = BoolGetDatum(items[i]->is_short);
	}
	values[0] = int64_array(columns[0], count, INT8OID);
	values[1] = int64_array(columns[1], count, INT8OID);
	values[2] = bool_array(columns[2], count);
	return query_run(&statement, values, NULL);
}

/* Fills in a crossing; false if it is none with all that there is. */
static bool
crossing_make(Projection *projection, const ProjectedItem *item,
			  int64 safety_stock, Crossing *crossing)
{
	EventSpan	rest = {
		.after = &projection->end,
		.upto = &projection->now,
		.recorded_until = DT_NOEND
	};

	crossing->stock_id = item->stock_id;
	crossing->safety_stock = safety_stock;
	item_sums(item, &crossing->sums);
	if (projection->cut)
		tail_add_item(item->stock_id, &rest, GetActiveSnapshot(), &crossing->sums);
	crossing->is_short = sums_unpromised(&crossing->sums) <= safety_stock;
	return crossing->is_short != item->is_short;
}

/*
 * Notes and tells which stock items have run short, and which are back.  What
 * an item begins with is noted only.
 */
static void
projection_tell(Projection *projection)
{
	int			count;
	ProjectedItem **items = projection_good_items(projection, &count);
	Crossing   *crossings;
	uint64		found;
	int			told = 0;

	if (count == 0)
		return;
	query_begin();
	found = crossings_find(items, count);
	crossings = MemoryContextAllocHuge(GetMemoryChunkContext(projection),
									   (found + 1) * sizeof(Crossing));
	for (uint64 i = 0; i < found; i++)
	{
		ProjectedItem *item = items[query_int64(i, 1) - 1];

		if (!crossing_make(projection, item, query_int64(i, 2), &crossings[told]))
			continue;
		item->is_short = crossings[told].is_short;
		if (!item->never_told)
			told++;
	}
	query_end();
	engine_message_crossed(crossings, told);
}

/* ---- Ticks ---- */

static const char *
projection_key(void)
{
	return projection_hash_key && projection_hash_key[0] ? projection_hash_key : NULL;
}

static void
projection_start_tick(Projection *projection)
{
	projection->digest = digest_begin(projection->previous.hash, projection_key());
	projection->tick_events = 0;
}

/* Writes the tick that ends at the boundary, after its snapshots. */
static void
projection_end_tick(Projection *projection, const Boundary *boundary,
					int64 snapshots)
{
	Tick		tick = {0};

	tick.tick_id = projection->previous.tick_id + 1;
	tick.ticked_at = clock_time();
	tick.boundary = *boundary;
	tick.events = projection->tick_events;
	tick.snapshots = snapshots;
	tick.key_id = digest_key_id(projection_key());
	digest_end(projection->digest, &tick, tick.hash);
	tick_insert(&tick);
	projection->previous = tick;
}

/* Ends the tick before a transaction. */
static void
projection_cut(Projection *projection, uint64 xid)
{
	MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(projection));
	Boundary	boundary;

	boundary_cut(&projection->previous.boundary, &projection->now, xid, &boundary);
	projection_end_tick(projection, &boundary, snapshots_write_due(projection));
	projection_start_tick(projection);
	MemoryContextSwitchTo(old);
}

/* The first tick of a day (UTC) has snapshots of whatever has changed. */
static bool
projection_is_new_day(const Tick *previous)
{
	return previous->tick_id != 0 &&
		clock_time() / USECS_PER_DAY > previous->ticked_at / USECS_PER_DAY;
}

/* ---- A run ---- */

static void
projection_add(Projection *projection, HeapTuple tuple, TupleDesc descriptor)
{
	ProjectedItem *item = projection_item(projection,
										  event_int64(tuple, descriptor, EVENT_STOCK_ID));
	TimestampTz recorded_at = event_int64(tuple, descriptor, EVENT_RECORDED_AT);

	item->sums.on_hand += event_int64(tuple, descriptor, EVENT_ON_HAND_DELTA);
	item->sums.reserved += event_int64(tuple, descriptor, EVENT_RESERVED_DELTA);
	item->sums.committed += event_int64(tuple, descriptor, EVENT_COMMITTED_DELTA);
	item->sums.event_count++;
	item->recorded_from = Min(item->recorded_from, recorded_at);
	item->recorded_until = Max(item->recorded_until, recorded_at);
	digest_event(projection->digest, tuple, descriptor);
	projection->tick_events++;
	projection->run_events++;
	projection->last_event_id = Max(projection->last_event_id,
									event_int64(tuple, descriptor, EVENT_EVENT_ID));

	if (!item->due && item->row.event_count + item->sums.event_count -
		item->snapshot_count >= projection_snapshot_events)
	{
		MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(projection));

		item->due = true;
		projection->due = lappend(projection->due, item);
		MemoryContextSwitchTo(old);
	}
}

/* The run has read enough: it ends before this transaction. */
static void
projection_end_before(Projection *projection, uint64 xid)
{
	MemoryContext old = MemoryContextSwitchTo(GetMemoryChunkContext(projection));

	boundary_cut(&projection->previous.boundary, &projection->now, xid,
				 &projection->end);
	projection->cut = true;
	MemoryContextSwitchTo(old);
}

static bool
projection_visit(HeapTuple tuple, TupleDesc descriptor, void *state)
{
	Projection *projection = state;
	uint64		xid = event_int64(tuple, descriptor, EVENT_XID);

	/* Between the open transactions; or our own, which the tick is without. */
	if (boundary_includes(&projection->previous.boundary, xid) ||
		!boundary_includes(&projection->now, xid))
		return true;
	if (xid != projection->xid && projection->run_events >= projection->max_events)
	{
		projection_end_before(projection, xid);
		return false;
	}
	if (xid != projection->xid && (projection->due != NIL ||
								   projection->tick_events >= projection_tick_events))
		projection_cut(projection, xid);
	projection->xid = xid;
	projection_add(projection, tuple, descriptor);
	return true;
}

static void
projection_read(Projection *projection)
{
	Tick	   *previous = &projection->previous;
	HASHCTL		control = {0};
	XidRange   *ranges;
	int			count;

	control.keysize = sizeof(int64);
	control.entrysize = sizeof(ProjectedItem);
	control.hcxt = CurrentMemoryContext;
	projection->items = hash_create("inventory projection", 1024, &control,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	boundary_now(&projection->now);
	projection->end = projection->now;
	projection_start_tick(projection);
	ranges = boundary_ranges(&previous->boundary, &projection->now, &count);
	batch_read(ranges, count, projection_visit, projection);
}

/* Writes the stock rows, and the last tick with its snapshots. */
static void
projection_finish(Projection *projection, bool new_day)
{
	int64		snapshots;

	projection_tell(projection);
	if (new_day)
	{
		projection_update_rows(projection);
		snapshots = snapshots_write_all(projection->previous.tick_id + 1);
	}
	else
	{
		snapshots = snapshots_write_due(projection);
		projection_update_rows(projection);
	}
	projection_end_tick(projection, &projection->end, snapshots);
}

/*
 * About how many events a run has left for the next one: none if it has reached
 * what is committed, and else the numbers given out since, as if all were used.
 */
static int64
projection_backlog(const Projection *projection)
{
	int64		last_event_id;

	if (projection->run_events < projection->max_events)
		return 0;
	last_event_id = DatumGetInt64(DirectFunctionCall1(pg_sequence_last_value,
													  ObjectIdGetDatum(catalog_relations()->event_sequence)));
	return Max(last_event_id - projection->last_event_id, 0);
}

int64
projection_run(int64 max_events, int64 *backlog)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "inventory projection",
												  ALLOCSET_DEFAULT_SIZES);
	Projection *projection;
	int64		events;
	bool		new_day;

	engine_lock(ENGINE_LOCK_PROJECTION, 0, ExclusiveLock, true);
	MemoryContextSwitchTo(context);
	projection = palloc0(sizeof(Projection));
	projection->max_events = max_events;
	PushActiveSnapshot(GetLatestSnapshot());
	tick_latest(GetActiveSnapshot(), &projection->previous);
	new_day = projection_is_new_day(&projection->previous);
	projection_read(projection);
	if (projection->run_events > 0)
		projection_finish(projection, new_day);
	else
		digest_end(projection->digest, &projection->previous, projection->previous.hash);
	PopActiveSnapshot();
	events = projection->run_events;
	*backlog = projection_backlog(projection);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return events;
}

/*
 * project()
 */
Datum
inventory_project(PG_FUNCTION_ARGS)
{
	int64		sum = 0;
	int64		events;
	int64		backlog;

	inventory_check_writable("project");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s cannot run in a transaction with isolation level REPEATABLE READ or SERIALIZABLE", "project()"),
				 errdetail("Its own snapshot would see the new tick with the former stock rows.")));
	progress_begin("project");
	while ((events = projection_run(Max(PROJECT_EVENTS, projection_tick_events), &backlog)) > 0)
	{
		if (sum == 0)
			progress_phase("events", events + backlog);
		sum += events;
		progress_done(events);
		CHECK_FOR_INTERRUPTS();
	}
	progress_end();
	PG_RETURN_INT64(sum);
}

/* ---- Checking a hash ---- */

/*
 * hash_key_id()
 */
Datum
inventory_hash_key_id(PG_FUNCTION_ARGS)
{
	char	   *id = digest_key_id(projection_key());

	inventory_check_loaded();
	if (id == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(id));
}

typedef struct HashVisit
{
	Boundary   *after;
	Boundary   *upto;
	Digest	   *digest;
} HashVisit;

static bool
hash_visit(HeapTuple tuple, TupleDesc descriptor, void *state)
{
	HashVisit  *visit = state;
	uint64		xid = event_int64(tuple, descriptor, EVENT_XID);

	if (!boundary_includes(visit->after, xid) &&
		boundary_includes(visit->upto, xid))
		digest_event(visit->digest, tuple, descriptor);
	return true;
}

/*
 * tick_hash(tick_id, key)
 */
Datum
inventory_tick_hash(PG_FUNCTION_ARGS)
{
	int64		tick_id = PG_GETARG_INT64(0);
	const char *key = PG_ARGISNULL(1) ? projection_key() :
		text_to_cstring(PG_GETARG_TEXT_PP(1));
	Snapshot	snapshot = GetActiveSnapshot();
	Tick		previous;
	Tick		tick;
	HashVisit	visit = {&previous.boundary, &tick.boundary};
	XidRange   *ranges;
	int			count;
	bytea	   *hash = palloc(VARHDRSZ + TICK_HASH_BYTES);

	inventory_check_loaded();
	if (PG_ARGISNULL(0) || !tick_find(tick_id, snapshot, &tick) ||
		(!tick_find(tick_id - 1, snapshot, &previous) && tick_id != 1))
		PG_RETURN_NULL();
	if (tick.key_id && key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the hash of tick " INT64_FORMAT " can be checked only with its key",
						tick_id),
				 errhint("Give the key, or set inventory.hash_key.")));
	visit.digest = digest_begin(previous.hash, tick.key_id ? key : NULL);
	ranges = boundary_ranges(&previous.boundary, &tick.boundary, &count);
	batch_read(ranges, count, hash_visit, &visit);
	SET_VARSIZE(hash, VARHDRSZ + TICK_HASH_BYTES);
	digest_end(visit.digest, &tick, (uint8 *) VARDATA(hash));
	PG_RETURN_BYTEA_P(hash);
}
