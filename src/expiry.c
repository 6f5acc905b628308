/*-------------------------------------------------------------------------
 *
 * expiry.c
 *		Holds past their deadline: how many units they are, and their events.
 *
 * A hold stops counting at its deadline whoever notices; see level.c.  The
 * expire event is written later, in whatever transaction gets to it: the next
 * reserve of the stock item, or expire_due().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/multixact.h"
#include "access/subtrans.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "engine_message.h"
#include "error.h"
#include "event.h"
#include "expiry.h"
#include "inventory.h"
#include "query.h"
#include "stat.h"

/* Columns, as the install script has them. */
enum
{
	RESERVATION_STATE = 3, RESERVATION_STOCK_ID = 4, RESERVATION_QUANTITY = 5,
	RESERVATION_SHIPPED = 6, RESERVATION_RELEASED = 7,
	RESERVATION_EXPIRES_AT = 8
};

PG_FUNCTION_INFO_V1(inventory_expire_due);

static Oid
held_state(void)
{
	static Oid	held = InvalidOid;
	static Oid	held_of = InvalidOid;
	Oid			states = catalog_relations()->reservation_states;

	if (held_of != states)
	{
		held = GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid,
							   ObjectIdGetDatum(states), CStringGetDatum("held"));
		held_of = states;
	}
	return held;
}

/* Whether the row's last update or lock is of the given transaction. */
static bool
row_is_of(HeapTuple tuple, TransactionId covered)
{
	HeapTupleHeader header = tuple->t_data;
	TransactionId xid = HeapTupleHeaderGetRawXmax(header);

	if (!TransactionIdIsValid(covered))
		return false;
	if (header->t_infomask & HEAP_XMAX_IS_MULTI)
	{
		if (HEAP_XMAX_IS_LOCKED_ONLY(header->t_infomask))
			return false;
		xid = HeapTupleHeaderGetUpdateXid(header);
	}
	if (xid == covered)
		return true;
	return TransactionIdIsNormal(xid) &&
		TransactionIdFollowsOrEquals(xid, TransactionXmin) &&
		SubTransGetTopmostTransaction(xid) == covered;
}

/* Whether the row's state is decided: no transaction in flight is making it,
 * updating it, or expiring it. */
static bool
row_is_decided(HeapTuple tuple, const SnapshotData *dirty, TransactionId covered)
{
	return !TransactionIdIsValid(dirty->xmin) &&
		!TransactionIdIsValid(dirty->xmax) &&
		!TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)) &&
		!row_is_of(tuple, covered);
}

/*
 * Sums the overdue holds of a stock item, less those whose fate a transaction
 * in flight decides.  "covered" is the transaction that is expiring holds of
 * the item; the caller counts its rows.
 */
static void
expiry_read_overdue(int64 stock_id, TimestampTz now, TransactionId covered,
					LevelOverdue *overdue)
{
	const CatalogRelations *relations = catalog_relations();
	Relation	relation = table_open(relations->reservation, AccessShareLock);
	TupleDesc	descriptor = RelationGetDescr(relation);
	Oid			held = held_state();
	SnapshotData dirty;
	Snapshot	registered;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	overdue->quantity = 0;
	overdue->next_expiry = DT_NOEND;

	/* Keeps TransactionXmin, and with it pg_subtrans, from moving on. */
	registered = RegisterSnapshot(GetLatestSnapshot());
	InitDirtySnapshot(dirty);
	ScanKeyInit(&key, RESERVATION_STOCK_ID, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(stock_id));
	scan = systable_beginscan(relation, relations->reservation_due, true, &dirty,
							  1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		TimestampTz deadline;

#define COLUMN(n) heap_getattr(tuple, n, descriptor, &isnull)
		deadline = DatumGetTimestampTz(COLUMN(RESERVATION_EXPIRES_AT));
		if (isnull)
			break;				/* the others have no deadline */
		if (!row_is_decided(tuple, &dirty, covered) ||
			DatumGetObjectId(COLUMN(RESERVATION_STATE)) != held)
			continue;
		if (deadline > now)
		{
			overdue->next_expiry = deadline;
			break;
		}
		overdue->quantity += DatumGetInt64(COLUMN(RESERVATION_QUANTITY));
		overdue->quantity -= DatumGetInt64(COLUMN(RESERVATION_SHIPPED));
		overdue->quantity -= DatumGetInt64(COLUMN(RESERVATION_RELEASED));
#undef COLUMN
	}
	systable_endscan(scan);
	UnregisterSnapshot(registered);
	table_close(relation, AccessShareLock);
}

void
expiry_init(void)
{
	level_overdue_reader = expiry_read_overdue;
}

/*
 * Locks overdue lines that nobody else has locked, without what this
 * transaction itself has written: if it rolled back, they would be as before.
 */
static ExpiredLine *
expiry_lock(int64 stock_id, TimestampTz now, int64 max_lines, int *count)
{
	static Statement statement = {
		"SELECT r.reservation_id, r.line_no, r.quantity - r.shipped - r.released, r.expires_at, r.xmin"
		" FROM inventory.reservation r"
		" WHERE r.stock_id = $1 AND r.expires_at <= $2 AND r.state = 'held'"
		" ORDER BY r.expires_at LIMIT $3 FOR UPDATE SKIP LOCKED",
		3, {INT8OID, TIMESTAMPTZOID, INT8OID}
	};
	MemoryContext caller = CurrentMemoryContext;
	ExpiredLine *lines;
	uint64		found;
	Datum		values[3];

	values[0] = Int64GetDatum(stock_id);
	values[1] = TimestampTzGetDatum(now);
	values[2] = Int64GetDatum(max_lines);
	query_begin();
	found = query_run(&statement, values, NULL);
	lines = MemoryContextAlloc(caller, Max(found, 1) * sizeof(ExpiredLine));
	*count = 0;
	for (uint64 i = 0; i < found; i++)
	{
		ExpiredLine *line = &lines[*count];
		bool		isnull;

		line->reservation_id = query_int64(i, 1);
		line->line_no = DatumGetInt32(query_value(i, 2, &isnull));
		line->quantity = query_int64(i, 3);
		line->deadline = query_int64(i, 4);
		if (!TransactionIdIsCurrentTransactionId(DatumGetTransactionId(query_value(i, 5, &isnull))))
			(*count)++;
	}
	query_end();
	return lines;
}

static void
expiry_update(const ExpiredLine *line)
{
	static Statement statement = {
		"UPDATE inventory.reservation SET state = 'expired', released = quantity - shipped,"
		" expires_at = NULL WHERE reservation_id = $1 AND line_no = $2",
		2, {INT8OID, INT4OID}
	};
	Datum		values[2];

	values[0] = Int64GetDatum(line->reservation_id);
	values[1] = Int32GetDatum(line->line_no);
	query_begin();
	query_run(&statement, values, NULL);
	query_end();
}

static void
settlement_add(Settlement *settlement, const ExpiredLine *lines, int count)
{
	int			needed = settlement->count + count;

	if (needed > settlement->room)
	{
		settlement->room = Max(needed, 2 * settlement->room);
		settlement->lines = settlement->lines == NULL ?
			palloc_extended(settlement->room * sizeof(ExpiredLine), MCXT_ALLOC_HUGE) :
			repalloc_huge(settlement->lines, settlement->room * sizeof(ExpiredLine));
	}
	if (count == 0)
		return;
	memcpy(settlement->lines + settlement->count, lines, count * sizeof(ExpiredLine));
	settlement->count += count;
}

/* Tells, once per reservation, what has been expired. */
void
expiry_tell(Settlement *settlement)
{
	engine_message_expired(settlement->lines, settlement->count);
	if (settlement->lines)
		pfree(settlement->lines);
	memset(settlement, 0, sizeof(Settlement));
}

/*
 * Writes expire events for overdue holds of a touched stock item, as far as no
 * other transaction is doing so, and adds them to the settlement.  Returns how
 * many.
 */
int64
expiry_write(LevelTouch *touch, int64 stock_id, int64 max_lines,
			 Settlement *settlement)
{
	EventWriter writer;
	ExpiredLine *lines;
	int			count;
	int			written = 0;

	if (!level_has_overdue(touch))
		return 0;
	lines = expiry_lock(stock_id, level_time(touch), max_lines, &count);
	event_writer_begin(&writer);
	for (; written < count; written++)
	{
		ExpiredLine *line = &lines[written];
		EventNote	note = {0};
		Event		event = {0};

		/* Before the update: see level.c. */
		if (!level_expire(touch, line->quantity, line->deadline))
			break;
		expiry_update(line);
		note.has_effective_at = true;
		note.effective_at = line->deadline;
		event.event_id = event_next_id();
		event.stock_id = stock_id;
		event.type = EVENT_EXPIRE;
		event.reserved_delta = -line->quantity;
		event.reservation_id = line->reservation_id;
		event.note = &note;
		event_write(&writer, &event);
	}
	event_writer_end(&writer);
	if (written > 0)
		level_settle_soon(touch, lines[0].deadline);
	settlement_add(settlement, lines, written);
	pfree(lines);
	return written;
}

/* The stock items of the first overdue holds, in the order of locking. */
static int64 *
expiry_find_items(int64 max_lines, int *count)
{
	static Statement statement = {
		"SELECT DISTINCT d.stock_id FROM (SELECT r.stock_id FROM inventory.reservation r"
		"  WHERE r.expires_at <= $1 AND r.state = 'held' ORDER BY r.expires_at LIMIT $2) d",
		2, {TIMESTAMPTZOID, INT8OID}
	};
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[2];
	int64	   *items;

	values[0] = TimestampTzGetDatum(clock_time());
	values[1] = Int64GetDatum(max_lines);
	query_begin();
	*count = (int) query_run(&statement, values, NULL);
	items = MemoryContextAlloc(caller, Max(*count, 1) * sizeof(int64));
	for (int i = 0; i < *count; i++)
		items[i] = query_int64(i, 1);
	query_end();
	qsort(items, *count, sizeof(int64), level_compare_places);
	return items;
}

/* Writes the expire events of up to max_lines overdue holds; how many. */
int64
expiry_run(int64 max_lines)
{
	Settlement	settlement = {0};
	int64		written = 0;
	int64	   *items;
	int			count;

	event_prepare();
	items = expiry_find_items(max_lines, &count);
	for (int i = 0; i < count && written < max_lines; i++)
		written += expiry_write(level_touch(items[i], false), items[i],
								max_lines - written, &settlement);
	expiry_tell(&settlement);
	pfree(items);
	return written;
}

/* How many overdue holds have no expire event yet; no more than is counted. */
int64
expiry_backlog(void)
{
	static Statement statement = {
		"SELECT count(*) FROM (SELECT FROM inventory.reservation r"
		"  WHERE r.expires_at <= $1 AND r.state = 'held' LIMIT 100000) d",
		1, {TIMESTAMPTZOID}
	};
	Datum		values[1];
	int64		count;

	values[0] = TimestampTzGetDatum(clock_time());
	query_begin();
	query_run(&statement, values, NULL);
	count = query_int64(0, 1);
	query_end();
	return count;
}

/* The first deadline of a hold, passed or not; DT_NOEND if there is none. */
TimestampTz
expiry_next_deadline(void)
{
	static Statement statement = {
		"SELECT coalesce(min(r.expires_at), 'infinity') FROM inventory.reservation r",
		0, {0}
	};
	TimestampTz deadline;

	query_begin();
	query_run(&statement, NULL, NULL);
	deadline = query_int64(0, 1);
	query_end();
	return deadline;
}

/*
 * expire_due(max_lines)
 */
Datum
inventory_expire_due(PG_FUNCTION_ARGS)
{
	int64		max_lines;
	int64		written;

	inventory_check_writable("expire_due");
	stat_begin(OPERATION_EXPIRE_DUE);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", "max_lines")));
	max_lines = PG_GETARG_INT32(0);
	if (max_lines <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_QUANTITY),
				 errmsg("max_lines must be positive, not " INT64_FORMAT, max_lines)));
	written = expiry_run(max_lines);
	stat_end();
	PG_RETURN_INT64(written);
}
