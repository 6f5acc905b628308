/*-------------------------------------------------------------------------
 *
 * outbox_ring.c
 *		The ring of tables that messages are in.
 *
 * One table is current: it takes messages.  Messages are never removed one by
 * one, which would leave dead rows, and keep them as long as some snapshot is
 * held; a whole table is emptied by TRUNCATE:
 *
 *	 free -> current	when the current one is closed
 *		  -> closed		it has inventory.outbox_segment_size, or is older than a
 *						sixth of inventory.outbox_retention
 *		  -> free		it has been closed for inventory.outbox_retention, all
 *						transactions that have written to it have ended, and
 *						every subscription has passed all of its messages
 *
 * While no table is free the current one goes on growing; publishers never wait.
 *
 * Each backend remembers which table is current until the relcache invalidation
 * of outbox_segment.  What it remembers may be outdated at the moment when it
 * inserts; nothing depends on it.  Readers look into every table of the ring,
 * and whether a table may be emptied is decided by the rows in it: a message in
 * a table that is not current is delivered and kept as any other.
 *
 * LOCKING: whoever closes or empties has SHARE UPDATE EXCLUSIVE on outbox_segment
 * until it commits.  To empty a table it takes ACCESS EXCLUSIVE on it: nobody
 * else has a row of it that is not committed, nobody is reading it, and only
 * then are the cursors read, so no cursor can move back unseen to a message that
 * somebody still finds.  All locks are taken only if they can be had at once: a
 * dump, a reader or a publisher in the way means another time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "outbox.h"
#include "query.h"
#include "slot.h"

/* Columns, as the install script has them. */
enum
{
	SEGMENT_SEGMENT = 1, SEGMENT_STATE, SEGMENT_OPENED_AT, SEGMENT_CLOSED_AT
};

typedef enum SegmentState
{
	SEGMENT_FREE,
	SEGMENT_CURRENT,
	SEGMENT_CLOSED,
} SegmentState;

typedef struct Segment
{
	SegmentState state;
	TimestampTz opened_at;
	TimestampTz closed_at;
} Segment;

/* Segments are closed by age so often within the retention; two fewer than
 * there are, so that one is free. */
#define SEGMENTS_PER_RETENTION (OUTBOX_SEGMENTS - 2)

/* A backend looks at the size after it has added so many bytes. */
#define LOOK_BYTES (1024 * 1024)

int			outbox_segment_size = 256 * 1024;
int			outbox_retention = 24 * 3600;

static int	current_segment = 0;
static Oid	current_segment_of = InvalidOid;	/* outbox_segment, or unknown */

/* ---- The tables ---- */

Oid
outbox_table(int segment)
{
	return catalog_relations()->outbox[segment];
}

Oid
outbox_xid_index(int segment)
{
	return catalog_relations()->outbox_xid[segment];
}

/* With what of it is stored apart. */
static int64
segment_bytes(int segment)
{
	Relation	relation = table_open(outbox_table(segment), AccessShareLock);
	int64		blocks = RelationGetNumberOfBlocks(relation);

	if (OidIsValid(relation->rd_rel->reltoastrelid))
	{
		Relation	toast = table_open(relation->rd_rel->reltoastrelid, AccessShareLock);

		blocks += RelationGetNumberOfBlocks(toast);
		table_close(toast, AccessShareLock);
	}
	table_close(relation, AccessShareLock);
	return blocks * BLCKSZ;
}

static bool
segment_is_full(int segment)
{
	return segment_bytes(segment) >= outbox_segment_size * INT64CONST(1024);
}

/* ---- The state of the ring ---- */

static SegmentState
state_from_text(const char *state)
{
	if (strcmp(state, "current") == 0)
		return SEGMENT_CURRENT;
	return strcmp(state, "closed") == 0 ? SEGMENT_CLOSED : SEGMENT_FREE;
}

static void
segment_from_row(HeapTuple tuple, TupleDesc descriptor, Segment *ring)
{
	bool		isnull;
	int			number = DatumGetInt16(heap_getattr(tuple, SEGMENT_SEGMENT, descriptor, &isnull));
	Segment    *segment;

	if (number < 0 || number >= OUTBOX_SEGMENTS)
		elog(ERROR, "there is no table %d in the ring of messages", number);
	segment = &ring[number];
	segment->state = state_from_text(TextDatumGetCString(heap_getattr(tuple, SEGMENT_STATE, descriptor, &isnull)));
	segment->opened_at = DatumGetTimestampTz(heap_getattr(tuple, SEGMENT_OPENED_AT, descriptor, &isnull));
	segment->closed_at = DatumGetTimestampTz(heap_getattr(tuple, SEGMENT_CLOSED_AT, descriptor, &isnull));
}

/* Returns the current one. */
static int
ring_read(Segment *ring)
{
	Relation	relation = table_open(catalog_relations()->outbox_segment, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(relation, InvalidOid, false, snapshot, 0, NULL);
	HeapTuple	tuple;

	memset(ring, 0, OUTBOX_SEGMENTS * sizeof(Segment));
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		segment_from_row(tuple, RelationGetDescr(relation), ring);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
	for (int i = 0; i < OUTBOX_SEGMENTS; i++)
	{
		if (ring[i].state == SEGMENT_CURRENT)
			return i;
	}
	elog(ERROR, "no table in the ring of messages is current");
}

static void
current_segment_callback(Datum arg, Oid relation_id)
{
	if (relation_id == InvalidOid || relation_id == current_segment_of)
		current_segment_of = InvalidOid;
}

int
outbox_current_segment(void)
{
	static bool registered = false;
	Oid			table = catalog_relations()->outbox_segment;
	Segment		ring[OUTBOX_SEGMENTS];

	if (likely(current_segment_of == table && OidIsValid(table)))
		return current_segment;
	if (!OidIsValid(table))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this version of extension \"inventory\" has no messages"),
				 errhint("ALTER EXTENSION inventory UPDATE;")));
	if (!registered)
	{
		CacheRegisterRelcacheCallback(current_segment_callback, (Datum) 0);
		registered = true;
	}
	/* An invalidation that comes while it is read counts. */
	current_segment_of = table;
	current_segment = ring_read(ring);
	return current_segment;
}

void
outbox_grown(int segment, Size bytes)
{
	static Size grown = 0;

	grown += bytes;
	if (likely(grown < Min(LOOK_BYTES, outbox_segment_size * (Size) 1024 / 8)))
		return;
	grown = 0;
	if (segment_is_full(segment))
		slot_ask(TASK_MAINTENANCE);
}

/* ---- Closing ---- */

/* The next free table of the ring, or -1. */
static int
ring_next(const Segment *ring, int current)
{
	for (int i = 1; i < OUTBOX_SEGMENTS; i++)
	{
		int			next = (current + i) % OUTBOX_SEGMENTS;

		if (ring[next].state == SEGMENT_FREE)
			return next;
	}
	return -1;
}

static bool
segment_is_due(const Segment *ring, int current)
{
	if (segment_bytes(current) == 0)
		return false;
	return segment_is_full(current) ||
		clock_time() >= ring[current].opened_at + outbox_retention * USECS_PER_SEC / SEGMENTS_PER_RETENTION;
}

/* Those who have remembered which one is current look again. */
static void
ring_changed(void)
{
	CacheInvalidateRelcacheByRelid(catalog_relations()->outbox_segment);
	CommandCounterIncrement();
}

static int64
ring_close(const Segment *ring, int current)
{
	static Statement statement = {
		"UPDATE inventory.outbox_segment SET"
		" state = CASE segment WHEN $1 THEN 'closed' ELSE 'current' END,"
		" opened_at = CASE segment WHEN $1 THEN opened_at ELSE $3 END,"
		" closed_at = CASE segment WHEN $1 THEN $3 END"
		" WHERE segment IN ($1, $2)",
		3, {INT2OID, INT2OID, TIMESTAMPTZOID}
	};
	int			next = ring_next(ring, current);
	Datum		values[3];

	if (next < 0 || !segment_is_due(ring, current))
		return 0;
	values[0] = Int16GetDatum(current);
	values[1] = Int16GetDatum(next);
	values[2] = TimestampTzGetDatum(clock_time());
	query_begin();
	query_run(&statement, values, NULL);
	query_end();
	ring_changed();
	return 1;
}

/* ---- Emptying ---- */

static bool
segment_is_passed(int segment)
{
	static Statement statement = {
		"SELECT inventory.unread_by($1) IS NULL",
		1, {REGCLASSOID}
	};
	Datum		values[1];
	bool		isnull;
	bool		passed;

	values[0] = ObjectIdGetDatum(outbox_table(segment));
	query_begin();
	query_run(&statement, values, NULL);
	passed = DatumGetBool(query_value(0, 1, &isnull));
	query_end();
	return passed;
}

static void
segment_truncate(int segment)
{
	static Statement truncate = {
		"SELECT inventory.empty_segment($1)",
		1, {INT2OID}
	};
	Datum		values[1];

	values[0] = Int16GetDatum(segment);
	query_begin();
	query_run(&truncate, values, NULL);
	query_end();
	ring_changed();
}

/* Before the snapshot: a rotation of the cursors must not come between. */
static bool
lock_cursors(void)
{
	const CatalogRelations *relations = catalog_relations();

	for (int i = 0; i < lengthof(relations->cursor); i++)
	{
		if (!ConditionalLockRelationOid(relations->cursor[i], AccessShareLock))
			return false;
	}
	return true;
}

static int64
ring_empty(const Segment *ring)
{
	TimestampTz kept = clock_time() - outbox_retention * USECS_PER_SEC;

	for (int i = 0; i < OUTBOX_SEGMENTS; i++)
	{
		if (ring[i].state != SEGMENT_CLOSED || ring[i].closed_at > kept)
			continue;
		/* Nobody is kept waiting in vain. */
		if (!lock_cursors() || !segment_is_passed(i) ||
			!ConditionalLockRelationOid(outbox_table(i), AccessExclusiveLock) ||
			!segment_is_passed(i))
			continue;
		segment_truncate(i);
		return 1;
	}
	return 0;
}

/* Whether this transaction can work on the ring. */
static bool
ring_lock(void)
{
	Oid			table = catalog_relations()->outbox_segment;

	return OidIsValid(table) && /* else an older version of the extension */
		ConditionalLockRelationOid(table, ShareUpdateExclusiveLock);
}

int64
outbox_empty(void)
{
	Segment		ring[OUTBOX_SEGMENTS];

	if (!ring_lock())
		return 0;
	(void) ring_read(ring);
	return ring_empty(ring);
}

int64
outbox_close(void)
{
	Segment		ring[OUTBOX_SEGMENTS];

	if (!ring_lock())
		return 0;
	return ring_close(ring, ring_read(ring));
}
