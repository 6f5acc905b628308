/*-------------------------------------------------------------------------
 *
 * cursor.c
 *		How far each subscription has come: an append-only journal.
 *
 * A cursor that is updated in place leaves a dead row with every step, and while
 * some snapshot is held nobody can remove them.  So a step is a new row, and the
 * row with the largest number counts.  There are two tables; when the one that
 * is written is full, the other one is written, the latest rows of those who
 * have not moved are carried over, and the full one is emptied by TRUNCATE.
 *
 * Which one is written needs no agreement, because readers look into both: it
 * follows from their sizes.  It is the larger one unless that is full; while
 * both are, the smaller one.
 *
 * The tables have no index: a reader reads both, at most a few hundred blocks,
 * when a delivery begins and not with every step.
 *
 * LOCKING: a reader locks both tables before it takes its snapshot, so it finds
 * a row either where it was or where it was carried to.  A writer holds its
 * table's ROW EXCLUSIVE lock until it commits.  One process at a time looks, with
 * SHARE UPDATE EXCLUSIVE, whether a table is to be emptied.  Emptying takes ACCESS
 * EXCLUSIVE if it can be had at once: then all rows are committed, no reader has
 * begun, and what is carried over is the latest.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "funcapi.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "cursor.h"
#include "query.h"
#include "row.h"

/* Columns, as the install script has them. */
enum
{
	CURSOR_SUBSCRIPTION_ID = 1, CURSOR_SLICE, CURSOR_CURSOR_NO, CURSOR_AFTER,
	CURSOR_UPTO, CURSOR_LAST_NUMBER, CURSOR_POSITION, CURSOR_EPOCH,
	CURSOR_TIMELINE, CURSOR_SINCE, CURSOR_UNTIL, CURSOR_WRITTEN_AT,
	CURSOR_SEGMENT
};

#define CURSOR_TABLES 2

PG_FUNCTION_INFO_V1(inventory_cursors);

/* A table is full with so many blocks; 512 kB. */
#define CURSOR_FULL_BLOCKS 64

/* It is emptied when it has so many rows for each one that counts. */
#define CURSOR_FULL_ROWS "4"

/* ---- Epochs ---- */

void
cursor_begin_epoch(Cursor *cursor)
{
	int64		epoch;

	/* A failover may have taken the sequence back. */
	do
	{
		epoch = nextval_internal(catalog_relations()->subscription_sequence, false);
	} while (epoch <= cursor->epoch);
	if (epoch >= INT64CONST(1) << (63 - CURSOR_EPOCH_SHIFT))
		ereport(ERROR,
				(errcode(ERRCODE_SEQUENCE_GENERATOR_LIMIT_EXCEEDED),
				 errmsg("there are no more numbers for positions of subscriptions")));
	cursor->epoch = (int) epoch;
	cursor->position = epoch << CURSOR_EPOCH_SHIFT;
	cursor->timeline = (int) GetWALInsertionTimeLine();
}

/* ---- Reading ---- */

static void
cursor_from_row(HeapTuple tuple, TupleDesc descriptor, Cursor *cursor)
{
	bool		isnull;
	Datum		value;

#define COLUMN(n) heap_getattr(tuple, n, descriptor, &isnull)
	cursor->subscription_id = DatumGetInt32(COLUMN(CURSOR_SUBSCRIPTION_ID));
	cursor->slice = DatumGetInt32(COLUMN(CURSOR_SLICE));
	cursor->cursor_no = DatumGetInt64(COLUMN(CURSOR_CURSOR_NO));
	boundary_from_datum(COLUMN(CURSOR_AFTER), &cursor->after);
	value = COLUMN(CURSOR_UPTO);
	cursor->window = !isnull;
	if (cursor->window)
		boundary_from_datum(value, &cursor->upto);
	cursor->last_number = DatumGetInt64(COLUMN(CURSOR_LAST_NUMBER));
	cursor->position = DatumGetInt64(COLUMN(CURSOR_POSITION));
	cursor->epoch = DatumGetInt32(COLUMN(CURSOR_EPOCH));
	cursor->timeline = DatumGetInt32(COLUMN(CURSOR_TIMELINE));
	value = COLUMN(CURSOR_SINCE);
	cursor->since = isnull ? DT_NOBEGIN : DatumGetTimestampTz(value);
	value = COLUMN(CURSOR_UNTIL);
	cursor->until = isnull ? DT_NOEND : DatumGetTimestampTz(value);
#undef COLUMN
}

static HeapTuple
latest_row(Relation relation, Snapshot snapshot, ScanKey keys, int64 *cursor_no)
{
	SysScanDesc scan = systable_beginscan(relation, InvalidOid, false, snapshot, 2, keys);
	HeapTuple	latest = NULL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		int64		number = DatumGetInt64(heap_getattr(tuple, CURSOR_CURSOR_NO,
														RelationGetDescr(relation), &isnull));

		if (number <= *cursor_no)
			continue;
		if (latest)
			heap_freetuple(latest);
		latest = heap_copytuple(tuple);
		*cursor_no = number;
	}
	systable_endscan(scan);
	return latest;
}

bool
cursor_read(int subscription_id, int slice, Cursor *cursor)
{
	Relation	relations[CURSOR_TABLES];
	ScanKeyData keys[2];
	Snapshot	snapshot;
	int64		cursor_no = -1;

	memset(cursor, 0, sizeof(Cursor));
	ScanKeyInit(&keys[0], CURSOR_SUBSCRIPTION_ID, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(subscription_id));
	ScanKeyInit(&keys[1], CURSOR_SLICE, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(slice));
	for (int i = 0; i < CURSOR_TABLES; i++)
		relations[i] = table_open(catalog_relations()->cursor[i], AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	for (int i = 0; i < CURSOR_TABLES; i++)
	{
		HeapTuple	tuple = latest_row(relations[i], snapshot, keys, &cursor_no);

		if (tuple)
			cursor_from_row(tuple, RelationGetDescr(relations[i]), cursor);
	}
	UnregisterSnapshot(snapshot);
	for (int i = 0; i < CURSOR_TABLES; i++)
		table_close(relations[i], AccessShareLock);
	return cursor_no >= 0;
}

/*
 * All rows that count.  Not a plain query, which has its snapshot before it waits
 * for the lock of a table that is just being emptied.
 */
Datum
inventory_cursors(PG_FUNCTION_ARGS)
{
	static Statement statement = {
		"SELECT DISTINCT ON (c.subscription_id, c.slice) c.*"
		" FROM inventory.delivery_cursor c"
		" JOIN inventory.subscription s ON s.subscription_id = c.subscription_id AND c.slice < s.workers"
		" ORDER BY c.subscription_id, c.slice, c.cursor_no DESC"
	};
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	uint64		count;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < CURSOR_TABLES; i++)
		LockRelationOid(catalog_relations()->cursor[i], AccessShareLock);
	query_begin();
	count = query_run(&statement, NULL, NULL);
	for (uint64 i = 0; i < count; i++)
		tuplestore_puttuple(result->setResult, SPI_tuptable->vals[i]);
	query_end();
	return (Datum) 0;
}

/* ---- Writing ---- */

static void
table_sizes(BlockNumber *blocks)
{
	for (int i = 0; i < CURSOR_TABLES; i++)
	{
		Relation	relation = table_open(catalog_relations()->cursor[i], AccessShareLock);

		blocks[i] = RelationGetNumberOfBlocks(relation);
		table_close(relation, AccessShareLock);
	}
}

static bool
is_full(BlockNumber blocks)
{
	return blocks >= CURSOR_FULL_BLOCKS;
}

static int
table_to_write(void)
{
	BlockNumber blocks[CURSOR_TABLES];
	int			larger;

	table_sizes(blocks);
	larger = blocks[1] > blocks[0] ? 1 : 0;
	return is_full(blocks[larger]) ? 1 - larger : larger;
}

static void
set_time(TupleTableSlot *slot, int column, TimestampTz at)
{
	slot->tts_isnull[column - 1] = TIMESTAMP_NOT_FINITE(at);
	slot->tts_values[column - 1] = TimestampTzGetDatum(at);
}

static void
cursor_to_row(const Cursor *cursor, int segment, TupleTableSlot *slot)
{
	Datum	   *values = slot->tts_values;

	memset(slot->tts_isnull, false, CURSOR_SEGMENT * sizeof(bool));
	values[CURSOR_SUBSCRIPTION_ID - 1] = Int32GetDatum(cursor->subscription_id);
	values[CURSOR_SLICE - 1] = Int32GetDatum(cursor->slice);
	values[CURSOR_CURSOR_NO - 1] = Int64GetDatum(cursor->cursor_no);
	values[CURSOR_AFTER - 1] = boundary_to_datum(&cursor->after);
	slot->tts_isnull[CURSOR_UPTO - 1] = !cursor->window;
	if (cursor->window)
		values[CURSOR_UPTO - 1] = boundary_to_datum(&cursor->upto);
	values[CURSOR_LAST_NUMBER - 1] = Int64GetDatum(cursor->last_number);
	values[CURSOR_POSITION - 1] = Int64GetDatum(cursor->position);
	values[CURSOR_EPOCH - 1] = Int32GetDatum(cursor->epoch);
	values[CURSOR_TIMELINE - 1] = Int32GetDatum(cursor->timeline);
	set_time(slot, CURSOR_SINCE, cursor->since);
	set_time(slot, CURSOR_UNTIL, cursor->until);
	values[CURSOR_WRITTEN_AT - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[CURSOR_SEGMENT - 1] = Int16GetDatum(segment);
}

void
cursor_write(Cursor *cursor)
{
	int			segment = table_to_write();
	RowInserter *inserter = row_begin();
	RowTarget  *target = row_open(inserter, catalog_relations()->cursor[segment]);

	cursor->cursor_no++;
	cursor_to_row(cursor, segment, row_clear(target));
	row_insert(target);
	row_end(inserter);
}

/* ---- Keeping it short ---- */

/*
 * Copies the latest rows of a table that are not outdated by the other one.
 * Rows of subscriptions that are gone stay behind.
 */
#define CARRY_OVER(from, to) \
	"INSERT INTO inventory.delivery_cursor_" to " (subscription_id, slice, cursor_no, after, upto," \
	" last_number, position, epoch, timeline, since, until, written_at, segment)" \
	" SELECT DISTINCT ON (o.subscription_id, o.slice) o.subscription_id, o.slice, o.cursor_no," \
	" o.after, o.upto, o.last_number, o.position, o.epoch, o.timeline, o.since, o.until," \
	" o.written_at, " to \
	" FROM inventory.delivery_cursor_" from " o" \
	" JOIN inventory.subscription s ON s.subscription_id = o.subscription_id AND o.slice < s.workers" \
	" WHERE NOT EXISTS (SELECT FROM inventory.delivery_cursor_" to " n" \
	"  WHERE n.subscription_id = o.subscription_id AND n.slice = o.slice AND n.cursor_no > o.cursor_no)" \
	" ORDER BY o.subscription_id, o.slice, o.cursor_no DESC"

/* Where thousands of cursors count, carrying them over must be worth it. */
static bool
has_old_rows(int full)
{
#define HAS_OLD_ROWS(table) \
	"SELECT (SELECT count(*) FROM inventory.delivery_cursor_" table ") >=" \
	" " CURSOR_FULL_ROWS " * (SELECT coalesce(sum(s.workers), 0) FROM inventory.subscription s)"
	static Statement statement[CURSOR_TABLES] = {{HAS_OLD_ROWS("0")}, {HAS_OLD_ROWS("1")}};
	bool		isnull;
	bool		has;

	query_begin();
	query_run(&statement[full], NULL, NULL);
	has = DatumGetBool(query_value(0, 1, &isnull));
	query_end();
	return has;
}

static void
empty_table(int full)
{
	static Statement carry_over[CURSOR_TABLES] = {
		{CARRY_OVER("0", "1")}, {CARRY_OVER("1", "0")}
	};
	static Statement emptying[CURSOR_TABLES] = {
		{"TRUNCATE inventory.delivery_cursor_0"}, {"TRUNCATE inventory.delivery_cursor_1"}
	};

	query_begin();
	query_run(&carry_over[full], NULL, NULL);
	query_run(&emptying[full], NULL, NULL);
	query_end();
}

int64
cursor_maintain(void)
{
	const Oid  *tables = catalog_relations()->cursor;
	BlockNumber blocks[CURSOR_TABLES];
	int			full;

	if (!OidIsValid(tables[0]))
		return 0;				/* an older version of the extension */
	table_sizes(blocks);
	full = blocks[1] > blocks[0] ? 1 : 0;
	if (!is_full(blocks[full]))
		return 0;
	/* Whoever is in the way, a dump for example: another time. */
	if (!ConditionalLockRelationOid(tables[full], ShareUpdateExclusiveLock) ||
		!has_old_rows(full) ||
		!ConditionalLockRelationOid(tables[1 - full], RowExclusiveLock) ||
		!ConditionalLockRelationOid(tables[full], AccessExclusiveLock))
		return 0;
	table_sizes(blocks);
	if (!is_full(blocks[full]))
		return 0;				/* somebody else has done it */
	empty_table(full);
	return 1;
}
