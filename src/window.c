/*-------------------------------------------------------------------------
 *
 * window.c
 *		The messages between two boundaries, in order.
 *
 * A window's messages are those of transactions that are in its upper boundary
 * and not in its lower one, whatever order they have committed in (tick.c).
 * They are delivered in the order of their numbers: when one transaction had
 * committed before another published, its messages have smaller numbers, and
 * are in the same window or an earlier one.
 *
 * A window is as large as it is: after an hour without delivery it has an hour
 * of messages.  Only their places are kept, of the first ENTRIES_MAX; when these
 * are done the window is read again for what comes after.
 *
 * A slice of a subscription has the keys whose hash says so; of events the hash is
 * of the SKU's and the location's numbers, as their codes may be changed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "event.h"
#include "outbox.h"
#include "tail.h"
#include "topic.h"
#include "window.h"

/* Columns, as the install script has them. */
enum
{
	OUTBOX_MESSAGE_ID = 1, OUTBOX_TOPIC = 2, OUTBOX_KEY = 3,
	OUTBOX_CREATED_AT = 6, OUTBOX_XID = 7
};
enum
{
	EVENT_EVENT_ID = 1, EVENT_STOCK_ID = 2, EVENT_TYPE = 3,
	EVENT_RECORDED_AT = 12, EVENT_XID = 14
};

/* 40 MB. */
#define ENTRIES_MAX 1000000

typedef struct WindowScan
{
	Window	   *window;
	const Subscription *subscription;
	const Cursor *cursor;
	EventSpan	span;
	uint32		event_types;	/* that the subscription wants */
} WindowScan;

/* ---- Choosing ---- */

static bool
scan_wants_key(const WindowScan *scan, const char *key, uint32 hash)
{
	const char *prefix = scan->subscription->key_prefix;

	if (prefix && (key == NULL || strncmp(key, prefix, strlen(prefix)) != 0))
		return false;
	return hash % scan->subscription->workers == scan->cursor->slice;
}

static uint32
key_hash(const char *key)
{
	return key ? hash_bytes((const unsigned char *) key, strlen(key)) : 0;
}

static bool
event_has_key(const WindowScan *scan, int64 stock_id)
{
	const ItemCodes *codes = message_item(stock_id);

	return scan_wants_key(scan, codes->key, codes->key_hash);
}

static bool
message_has_key(const WindowScan *scan, const char *key)
{
	return scan_wants_key(scan, key, key_hash(key));
}

static bool
scan_has_keys(const WindowScan *scan)
{
	return scan->subscription->key_prefix || scan->subscription->workers > 1;
}

static bool
scan_wants_time(const WindowScan *scan, TimestampTz at)
{
	return at >= scan->cursor->since && at < scan->cursor->until;
}

static bool
scan_wants_topic(const WindowScan *scan, const char *topic)
{
	for (int i = 0; i < scan->subscription->topic_count; i++)
	{
		if (topic_matches(scan->subscription->topics[i], topic))
			return true;
	}
	return false;
}

/* ---- Entries ---- */

static int
entry_compare(const void *a, const void *b)
{
	int64		x = ((const WindowEntry *) a)->number;
	int64		y = ((const WindowEntry *) b)->number;

	return x < y ? -1 : x > y;
}

static void
entries_sort(Window *window)
{
	qsort(window->entries, window->count, sizeof(WindowEntry), entry_compare);
}

/* Keeps the smaller half, now and then. */
static void
entries_cut(Window *window)
{
	if (window->count < 2 * ENTRIES_MAX)
		return;
	entries_sort(window);
	window->count = ENTRIES_MAX;
	window->more = true;
}

static void
entries_add(WindowScan *scan, HeapTuple tuple, int64 number, bool event)
{
	Window	   *window = scan->window;
	WindowEntry *entry;

	if (number <= scan->cursor->last_number)
		return;
	entries_cut(window);
	if (window->count == window->allocated)
	{
		window->allocated *= 2;
		window->entries = repalloc_huge(window->entries,
										window->allocated * sizeof(WindowEntry));
	}
	entry = &window->entries[window->count++];
	entry->number = number;
	entry->table = tuple->t_tableOid;
	entry->tid = tuple->t_self;
	entry->event = event;
	entry->done = false;
}

/* ---- The two logs ---- */

static Datum
column(HeapTuple tuple, TupleDesc descriptor, int number, bool *isnull)
{
	return heap_getattr(tuple, number, descriptor, isnull);
}

static void
visit_event(HeapTuple tuple, TupleDesc descriptor, void *state)
{
	WindowScan *scan = state;
	bool		isnull;
	EventType	type = event_type_from_oid(DatumGetObjectId(column(tuple, descriptor, EVENT_TYPE, &isnull)));

	if ((scan->event_types & (1u << type)) == 0 ||
		!span_has_xid(&scan->span, DatumGetInt64(column(tuple, descriptor, EVENT_XID, &isnull))) ||
		!scan_wants_time(scan, DatumGetTimestampTz(column(tuple, descriptor, EVENT_RECORDED_AT, &isnull))))
		return;
	if (scan_has_keys(scan) &&
		!event_has_key(scan, DatumGetInt64(column(tuple, descriptor, EVENT_STOCK_ID, &isnull))))
		return;
	entries_add(scan, tuple,
				DatumGetInt64(column(tuple, descriptor, EVENT_EVENT_ID, &isnull)), true);
}

static void
visit_message(HeapTuple tuple, TupleDesc descriptor, WindowScan *scan)
{
	bool		isnull;
	Datum		key;

	if (!span_has_xid(&scan->span, DatumGetInt64(column(tuple, descriptor, OUTBOX_XID, &isnull))) ||
		!scan_wants_time(scan, DatumGetTimestampTz(column(tuple, descriptor, OUTBOX_CREATED_AT, &isnull))) ||
		!scan_wants_topic(scan, TextDatumGetCString(column(tuple, descriptor, OUTBOX_TOPIC, &isnull))))
		return;
	key = column(tuple, descriptor, OUTBOX_KEY, &isnull);
	if (scan_has_keys(scan) &&
		!message_has_key(scan, isnull ? NULL : TextDatumGetCString(key)))
		return;
	entries_add(scan, tuple,
				DatumGetInt64(column(tuple, descriptor, OUTBOX_MESSAGE_ID, &isnull)), false);
}

static void
scan_segment(WindowScan *scan, int segment, const XidRange *ranges, int range_count,
			 Snapshot snapshot)
{
	Relation	relation = table_open(outbox_table(segment), AccessShareLock);
	Oid			index = outbox_xid_index(segment);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "inventory segment",
												  ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < range_count; i++)
	{
		ScanKeyData keys[2];
		SysScanDesc scan_desc;
		HeapTuple	tuple;

		ScanKeyInit(&keys[0], OUTBOX_XID, BTGreaterEqualStrategyNumber, F_XID8GE,
					UInt64GetDatum(ranges[i].first));
		ScanKeyInit(&keys[1], OUTBOX_XID, BTLessEqualStrategyNumber, F_XID8LE,
					UInt64GetDatum(ranges[i].last));
		scan_desc = systable_beginscan(relation, index, true, snapshot, 2, keys);
		while (HeapTupleIsValid(tuple = systable_getnext(scan_desc)))
		{
			MemoryContext old = MemoryContextSwitchTo(context);

			CHECK_FOR_INTERRUPTS();
			visit_message(tuple, RelationGetDescr(relation), scan);
			MemoryContextSwitchTo(old);
			MemoryContextReset(context);
		}
		systable_endscan(scan_desc);
	}
	MemoryContextDelete(context);
	table_close(relation, AccessShareLock);
}

static void
window_clear(Window *window)
{
	MemoryContextReset(window->context);
	window->allocated = 1024;
	window->entries = MemoryContextAlloc(window->context,
										 window->allocated * sizeof(WindowEntry));
	window->count = 0;
	window->more = false;
}

void
window_read(Window *window, const Subscription *subscription, const Cursor *cursor)
{
	WindowScan	scan = {window, subscription, cursor};
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	XidRange   *ranges;
	int			count;

	window_clear(window);
	scan.span.after = &cursor->after;
	scan.span.upto = &cursor->upto;
	scan.event_types = subscription->interest & ~TOPIC_OUTBOX;
	ranges = boundary_ranges(&cursor->after, &cursor->upto, &count);
	if (scan.event_types != 0)
		events_scan(0, ranges, count, snapshot, visit_event, &scan);
	for (int i = 0; i < OUTBOX_SEGMENTS && (subscription->interest & TOPIC_OUTBOX); i++)
		scan_segment(&scan, i, ranges, count, snapshot);
	UnregisterSnapshot(snapshot);
	pfree(ranges);
	entries_sort(window);
	if (window->count > ENTRIES_MAX)
	{
		window->count = ENTRIES_MAX;
		window->more = true;
	}
}

/* ---- Reading messages ---- */

void
window_reader_end(WindowReader *reader)
{
	if (reader->relation == NULL)
		return;
	ExecDropSingleTupleTableSlot(reader->slot);
	table_close(reader->relation, AccessShareLock);
	reader->relation = NULL;
}

/* Reads one message of the window, into the current memory context. */
void
window_message(WindowReader *reader, const WindowEntry *entry, Message *message)
{
	ItemPointerData tid = entry->tid;

	if (reader->relation && RelationGetRelid(reader->relation) != entry->table)
		window_reader_end(reader);
	if (reader->relation == NULL)
	{
		reader->relation = table_open(entry->table, AccessShareLock);
		reader->slot = table_slot_create(reader->relation, NULL);
	}
	/* It was committed when the window was read, and is never changed. */
	if (!table_tuple_fetch_row_version(reader->relation, &tid, SnapshotAny, reader->slot))
		elog(ERROR, "message " INT64_FORMAT " is gone from table \"%s\"",
			 entry->number, RelationGetRelationName(reader->relation));
	if (entry->event)
		message_from_event(reader->slot, message);
	else
		message_from_outbox(reader->slot, message);
	if (message->number != entry->number)
		elog(ERROR, "message " INT64_FORMAT " is not where it was", entry->number);
	ExecClearTuple(reader->slot);
}
