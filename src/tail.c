/*-------------------------------------------------------------------------
 *
 * tail.c
 *		Sums of the events between two ticks, or since one.
 *
 * What there is now is the stock row plus the events beyond its tick, all as
 * one snapshot sees them: the row, the tick and the events.  The projection
 * changes rows and tick together, so a reader never sees an event twice or not
 * at all.
 *
 * Events beyond a tick are those of transactions that started after it, and of
 * those that it saw open.  The latter may be old, so they are looked up by
 * themselves, and what lies between is not read: a transaction that stays open
 * for an hour costs a look-up, not an hour of events.
 *
 * The views ask for one stock item after another.  After some of them the whole
 * tail is read once, into a table, for as long as the same snapshot asks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_index.h"
#include "fmgr.h"
#include "partitioning/partdesc.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "inventory.h"
#include "partition.h"
#include "tail.h"

/* Columns, as the install script has them. */
enum
{
	EVENT_STOCK_ID = 2, EVENT_ON_HAND_DELTA = 4, EVENT_RESERVED_DELTA = 5,
	EVENT_COMMITTED_DELTA = 6, EVENT_RECORDED_AT = 12, EVENT_XID = 14
};
enum
{
	STOCK_STOCK_ID = 1, STOCK_ON_HAND = 6, STOCK_RESERVED = 7,
	STOCK_COMMITTED = 8, STOCK_EVENT_COUNT = 9
};
enum
{
	RESERVATION_STOCK_ID = 4, RESERVATION_QUANTITY = 5,
	RESERVATION_SHIPPED = 6, RESERVATION_RELEASED = 7,
	RESERVATION_EXPIRES_AT = 8
};

/* Open transactions this close to each other are read as one range. */
#define RANGE_GAP 1000

/* After this many stock items the whole tail is cheaper. */
#define TAIL_ITEMS 32

PG_FUNCTION_INFO_V1(inventory_tail_on_hand);
PG_FUNCTION_INFO_V1(inventory_tail_reserved);
PG_FUNCTION_INFO_V1(inventory_tail_committed);
PG_FUNCTION_INFO_V1(inventory_tail_event_count);

/* ---- The partitions ---- */

typedef struct EventPartition
{
	Oid			table;
	Oid			item_index;
	Oid			xid_index;
} EventPartition;

static MemoryContext partition_context = NULL;
static EventPartition *partitions = NULL;
static int	partition_count = 0;
static Oid	partitions_of = InvalidOid;

static void
partitions_forget(Datum arg, Oid relation_id)
{
	if (relation_id == InvalidOid || relation_id == partitions_of)
		partitions_of = InvalidOid;
}

/* The index of a partition over one column, or two. */
static Oid
partition_index(Relation relation, AttrNumber first, AttrNumber second)
{
	List	   *indexes = RelationGetIndexList(relation);
	Oid			found = InvalidOid;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(cell)));
		Form_pg_index index = (Form_pg_index) GETSTRUCT(tuple);

		if (index->indnatts == (second ? 2 : 1) &&
			index->indkey.values[0] == first &&
			(second == 0 || index->indkey.values[1] == second))
			found = lfirst_oid(cell);
		ReleaseSysCache(tuple);
	}
	list_free(indexes);
	if (!OidIsValid(found))
		elog(ERROR, "an index of table \"%s\" is missing",
			 RelationGetRelationName(relation));
	return found;
}

/* Fills the list of partitions, with the event table locked against changes. */
static Relation
partitions_open(void)
{
	const CatalogRelations *relations = catalog_relations();
	Relation	event = table_open(relations->event, AccessShareLock);
	static bool registered = false;
	PartitionDesc descriptor;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(partitions_forget, (Datum) 0);
		registered = true;
	}
	if (likely(partitions_of == relations->event))
		return event;
	MemoryContextReset(partition_context);
	descriptor = RelationGetPartitionDesc(event, true);
	partitions = MemoryContextAlloc(partition_context,
									Max(descriptor->nparts, 1) * sizeof(EventPartition));
	partition_count = 0;
	for (int i = 0; i < descriptor->nparts; i++)
	{
		Relation	relation = try_relation_open(descriptor->oids[i], AccessShareLock);

		if (relation == NULL)
			continue;
		partitions[partition_count].table = descriptor->oids[i];
		partitions[partition_count].item_index =
			partition_index(relation, EVENT_STOCK_ID, EVENT_XID);
		partitions[partition_count].xid_index =
			partition_index(relation, EVENT_XID, 0);
		partition_count++;
		relation_close(relation, AccessShareLock);
	}
	partitions_of = relations->event;
	return event;
}

/* ---- Ranges ---- */

static void
range_append(XidRange *ranges, int *count, uint64 first, uint64 last)
{
	ranges[*count].first = first;
	ranges[*count].last = last;
	(*count)++;
}

/*
 * The transactions beyond one boundary and, as far as ranges tell, within
 * another; ascending.  Ranges hold others too: filter by span_has_xid().
 * Indexes have the ids as unsigned numbers, so no range goes across 0; the open
 * transactions of a boundary are all on the same side of it.
 */
XidRange *
boundary_ranges(const Boundary *after, const Boundary *upto, int *count)
{
	int			open = after ? after->xip_count : 0;
	XidRange   *ranges = palloc((open + 2) * sizeof(XidRange));
	uint64		first = after ? after->xmax : XID_FIRST;
	uint64		last = upto ? upto->xmax - 1 : XID_LAST;

	*count = 0;
	for (int i = 0; i < open && !xid_precedes(last, after->xip[i]); i++)
	{
		if (*count > 0 && after->xip[i] - ranges[*count - 1].last <= RANGE_GAP)
			ranges[*count - 1].last = after->xip[i];
		else
			range_append(ranges, count, after->xip[i], after->xip[i]);
	}
	if (xid_precedes(first, 0) && !xid_precedes(last, 0))
	{
		range_append(ranges, count, first, PG_UINT64_MAX);
		first = 0;
	}
	if (!xid_precedes(last, first))
		range_append(ranges, count, first, last);
	return ranges;
}

bool
span_has_xid(const EventSpan *span, uint64 xid)
{
	return xid != span->except_xid &&
		(span->after == NULL || !boundary_includes(span->after, xid)) &&
		(span->upto == NULL || boundary_includes(span->upto, xid));
}

/* ---- Reading events ---- */

/* Visits the events with matching keys; the last two are the range's. */
static void
partition_scan(Oid table, Oid index, ScanKeyData *keys, int nkeys,
			   Snapshot snapshot, EventVisitor visit, void *state)
{
	Relation	relation = try_relation_open(table, AccessShareLock);
	SysScanDesc scan;
	HeapTuple	tuple;

	if (relation == NULL)
		return;					/* archived and dropped */
	scan = systable_beginscan(relation, index, true, snapshot, nkeys, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		visit(tuple, RelationGetDescr(relation), state);
	systable_endscan(scan);
	relation_close(relation, AccessShareLock);
}

/* Visits the events of a stock item, or of all (0), in the ranges. */
void
events_scan(int64 stock_id, const XidRange *ranges, int range_count,
			Snapshot snapshot, EventVisitor visit, void *state)
{
	Relation	event = partitions_open();
	EventPartition *list;
	int			count = partition_count;

	/* Opening a partition may make the list anew. */
	list = palloc(Max(count, 1) * sizeof(EventPartition));
	memcpy(list, partitions, count * sizeof(EventPartition));
	for (int i = 0; i < count; i++)
	{
		for (int j = 0; j < range_count; j++)
		{
			ScanKeyData keys[3];
			int			n = 0;

			if (partition_is_older(list[i].table, list[i].xid_index, ranges[j].first))
				continue;
			if (stock_id != 0)
				ScanKeyInit(&keys[n++], EVENT_STOCK_ID, BTEqualStrategyNumber,
							F_INT8EQ, Int64GetDatum(stock_id));
			ScanKeyInit(&keys[n++], EVENT_XID, BTGreaterEqualStrategyNumber,
						F_XID8GE, UInt64GetDatum(ranges[j].first));
			ScanKeyInit(&keys[n++], EVENT_XID, BTLessEqualStrategyNumber,
						F_XID8LE, UInt64GetDatum(ranges[j].last));
			partition_scan(list[i].table,
						   stock_id ? list[i].item_index : list[i].xid_index,
						   keys, n, snapshot, visit, state);
		}
	}
	pfree(list);
	table_close(event, AccessShareLock);
}

static int64
event_int64(HeapTuple tuple, TupleDesc descriptor, int column)
{
	bool		isnull;

	return DatumGetInt64(heap_getattr(tuple, column, descriptor, &isnull));
}

static void
sums_add(EventSums *sums, HeapTuple tuple, TupleDesc descriptor)
{
	sums->on_hand += event_int64(tuple, descriptor, EVENT_ON_HAND_DELTA);
	sums->reserved += event_int64(tuple, descriptor, EVENT_RESERVED_DELTA);
	sums->committed += event_int64(tuple, descriptor, EVENT_COMMITTED_DELTA);
	sums->event_count++;
}

typedef struct ItemVisit
{
	const EventSpan *span;
	EventSums  *sums;
} ItemVisit;

static void
item_visit(HeapTuple tuple, TupleDesc descriptor, void *state)
{
	ItemVisit  *visit = state;

	if (span_has_xid(visit->span, event_int64(tuple, descriptor, EVENT_XID)) &&
		event_int64(tuple, descriptor, EVENT_RECORDED_AT) <= visit->span->recorded_until)
		sums_add(visit->sums, tuple, descriptor);
}

/* Adds the events of a stock item that lie in the span and are visible. */
void
tail_add_item(int64 stock_id, const EventSpan *span, Snapshot snapshot,
			  EventSums *sums)
{
	ItemVisit	visit = {span, sums};
	int			count;
	XidRange   *ranges = boundary_ranges(span->after, span->upto, &count);

	events_scan(stock_id, ranges, count, snapshot, item_visit, &visit);
	pfree(ranges);
}

/* Reads the stock row; false if there is none. */
bool
tail_stock_row(int64 stock_id, Snapshot snapshot, EventSums *sums)
{
	const CatalogRelations *relations = catalog_relations();
	Relation	relation = table_open(relations->stock, AccessShareLock);
	TupleDesc	descriptor = RelationGetDescr(relation);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	ScanKeyInit(&key, STOCK_STOCK_ID, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(stock_id));
	scan = systable_beginscan(relation, relations->stock_id_key, true, snapshot,
							  1, &key);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	memset(sums, 0, sizeof(EventSums));
	if (found)
	{
		sums->on_hand = event_int64(tuple, descriptor, STOCK_ON_HAND);
		sums->reserved = event_int64(tuple, descriptor, STOCK_RESERVED);
		sums->committed = event_int64(tuple, descriptor, STOCK_COMMITTED);
		sums->event_count = event_int64(tuple, descriptor, STOCK_EVENT_COUNT);
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return found;
}

/* ---- The tail of the latest tick, for the views ---- */

typedef struct TailEntry
{
	int64		stock_id;
	EventSums	sums;			/* reserved less what is overdue */
} TailEntry;

/* Everything lives in the context, which goes when the transaction changes. */
static MemoryContext tail_context = NULL;
static struct
{
	bool		known;
	TransactionId xmin;			/* of the snapshot */
	TransactionId xmax;
	uint32		running;
	CommandId	command_id;
	Tick		tick;
	TimestampTz known_from;		/* what is known is true in [from, until) */
	TimestampTz known_until;
	int			items;			/* asked for one by one */
	HTAB	   *all;			/* once they were many */
	int64		stock_id;		/* the last one, 0 for none */
	EventSums	sums;
} tail;

static void
tail_forget(void)
{
	if (!tail.known)
		return;
	memset(&tail, 0, sizeof(tail));
	MemoryContextReset(tail_context);
}

static void
tail_xact_callback(XactEvent event, void *arg)
{
	tail_forget();
}

static void
tail_subxact_callback(SubXactEvent event, SubTransactionId subid,
					  SubTransactionId parent, void *arg)
{
	tail_forget();
}

void
tail_init(void)
{
	RegisterXactCallback(tail_xact_callback, NULL);
	RegisterSubXactCallback(tail_subxact_callback, NULL);
	tail_context = AllocSetContextCreate(TopMemoryContext, "inventory tail",
										 ALLOCSET_DEFAULT_SIZES);
	partition_context = AllocSetContextCreate(TopMemoryContext,
											  "inventory partitions",
											  ALLOCSET_SMALL_SIZES);
}

/* How many transactions below xmax the snapshot sees running. */
static uint32
snapshot_running(Snapshot snapshot)
{
	return snapshot->takenDuringRecovery ? snapshot->subxcnt : snapshot->xcnt;
}

/*
 * Whether what is known is what the snapshot sees.  Of the transactions below
 * xmax none starts to run any more, so the same number of them is the same ones.
 */
static bool
tail_is_of(Snapshot snapshot)
{
	return tail.known &&
		tail.xmin == snapshot->xmin && tail.xmax == snapshot->xmax &&
		tail.running == snapshot_running(snapshot) &&
		tail.command_id == snapshot->curcid;
}

/* Forgets, and starts anew with what the snapshot sees. */
static void
tail_start(Snapshot snapshot, TimestampTz now)
{
	MemoryContext old;

	tail_forget();
	old = MemoryContextSwitchTo(tail_context);
	tick_latest(snapshot, &tail.tick);
	MemoryContextSwitchTo(old);
	tail.xmin = snapshot->xmin;
	tail.xmax = snapshot->xmax;
	tail.running = snapshot_running(snapshot);
	tail.command_id = snapshot->curcid;
	tail.known_from = now;
	tail.known_until = DT_NOEND;
	tail.known = true;
}

static EventSums *
tail_entry(int64 stock_id)
{
	bool		found;
	TailEntry  *entry = hash_search(tail.all, &stock_id, HASH_ENTER, &found);

	if (!found)
		memset(&entry->sums, 0, sizeof(EventSums));
	return &entry->sums;
}

/* Takes the overdue holds of a stock item, or of all (0), off its reserved. */
static void
tail_subtract_overdue(int64 stock_id, Snapshot snapshot, TimestampTz now)
{
	const CatalogRelations *relations = catalog_relations();
	Relation	relation = table_open(relations->reservation, AccessShareLock);
	TupleDesc	descriptor = RelationGetDescr(relation);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, RESERVATION_STOCK_ID, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(stock_id));
	scan = systable_beginscan(relation, stock_id ? relations->reservation_due :
							  relations->reservation_deadline,
							  true, snapshot, stock_id ? 1 : 0, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		TimestampTz deadline = DatumGetTimestampTz(heap_getattr(tuple, RESERVATION_EXPIRES_AT,
																descriptor, &isnull));
		EventSums  *sums;

		if (isnull)
			break;				/* no deadline, or not held any more */
		if (deadline > now)
		{
			tail.known_until = Min(tail.known_until, deadline);
			break;
		}
		sums = stock_id ? &tail.sums :
			tail_entry(event_int64(tuple, descriptor, RESERVATION_STOCK_ID));
		sums->reserved -= event_int64(tuple, descriptor, RESERVATION_QUANTITY) -
			event_int64(tuple, descriptor, RESERVATION_SHIPPED) -
			event_int64(tuple, descriptor, RESERVATION_RELEASED);
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
}

static void
all_visit(HeapTuple tuple, TupleDesc descriptor, void *state)
{
	if (span_has_xid(state, event_int64(tuple, descriptor, EVENT_XID)))
		sums_add(tail_entry(event_int64(tuple, descriptor, EVENT_STOCK_ID)),
				 tuple, descriptor);
}

static void
tail_read_all(const EventSpan *span, Snapshot snapshot, TimestampTz now)
{
	HASHCTL		control = {0};
	XidRange   *ranges;
	int			count;

	control.keysize = sizeof(int64);
	control.entrysize = sizeof(TailEntry);
	control.hcxt = tail_context;
	tail.all = hash_create("inventory tail", 1024, &control,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ranges = boundary_ranges(span->after, NULL, &count);
	events_scan(0, ranges, count, snapshot, all_visit, unconstify(EventSpan *, span));
	pfree(ranges);
	tail_subtract_overdue(0, snapshot, now);
}

/* Makes sure of the sums of a stock item as of this moment. */
static void
tail_read(int64 stock_id, Snapshot snapshot)
{
	TimestampTz now = clock_time();
	EventSpan	span = {0};

	if (!tail_is_of(snapshot) || now < tail.known_from || now >= tail.known_until)
		tail_start(snapshot, now);
	span.after = &tail.tick.boundary;
	span.recorded_until = DT_NOEND;
	if (tail.all == NULL && ++tail.items > TAIL_ITEMS)
		tail_read_all(&span, snapshot, now);
	tail.stock_id = 0;
	memset(&tail.sums, 0, sizeof(tail.sums));
	if (tail.all)
	{
		TailEntry  *entry = hash_search(tail.all, &stock_id, HASH_FIND, NULL);

		if (entry)
			tail.sums = entry->sums;
	}
	else
	{
		tail_add_item(stock_id, &span, snapshot, &tail.sums);
		tail_subtract_overdue(stock_id, snapshot, now);
	}
	tail.stock_id = stock_id;
}

/*
 * What is beyond the stock row, as the active snapshot sees it.  The columns of
 * one row are asked for one after the other; time passes for reserved only.
 */
static const EventSums *
tail_of(int64 stock_id, bool timed)
{
	Snapshot	snapshot = GetActiveSnapshot();
	TimestampTz now = timed ? clock_time() : tail.known_from;

	if (tail.stock_id != stock_id || !tail_is_of(snapshot) ||
		now < tail.known_from || now >= tail.known_until)
		tail_read(stock_id, snapshot);
	return &tail.sums;
}

Datum
inventory_tail_on_hand(PG_FUNCTION_ARGS)
{
	inventory_check_loaded();
	PG_RETURN_INT64(tail_of(PG_GETARG_INT64(0), false)->on_hand);
}

Datum
inventory_tail_reserved(PG_FUNCTION_ARGS)
{
	inventory_check_loaded();
	PG_RETURN_INT64(tail_of(PG_GETARG_INT64(0), true)->reserved);
}

Datum
inventory_tail_committed(PG_FUNCTION_ARGS)
{
	inventory_check_loaded();
	PG_RETURN_INT64(tail_of(PG_GETARG_INT64(0), false)->committed);
}

Datum
inventory_tail_event_count(PG_FUNCTION_ARGS)
{
	inventory_check_loaded();
	PG_RETURN_INT64(tail_of(PG_GETARG_INT64(0), false)->event_count);
}
