/*-------------------------------------------------------------------------
 *
 * reservation.c
 *		reserve, try_reserve, confirm, ship, release, extend, release_owner.
 *
 * Reserving locks no row: it takes from the levels and inserts.  What happens
 * to a reservation afterwards locks its rows first, then looks at the clock,
 * then changes them, and for a hold with a deadline asks the level last
 * whether the deadline has been settled meanwhile (level_claim).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "common/int.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "call.h"
#include "clock.h"
#include "error.h"
#include "expiry.h"
#include "lines.h"
#include "lock.h"
#include "query.h"

/* Columns, as the install script has them. */
enum
{
	RESERVATION_RESERVATION_ID = 1, RESERVATION_LINE_NO, RESERVATION_STATE,
	RESERVATION_STOCK_ID, RESERVATION_QUANTITY, RESERVATION_SHIPPED,
	RESERVATION_RELEASED, RESERVATION_EXPIRES_AT, RESERVATION_CREATED_AT,
	RESERVATION_OWNER, RESERVATION_REFERENCE
};

/* Overdue holds that one reserve gives an expire event. */
#define RESERVE_EXPIRES_LINES 20

typedef enum ReservationState
{
	STATE_HELD,
	STATE_COMMITTED,
	STATE_CLOSED,
	STATE_RELEASED,
	STATE_EXPIRED,
} ReservationState;

static const char *const state_names[] = {
	[STATE_HELD] = "held",
	[STATE_COMMITTED] = "committed",
	[STATE_CLOSED] = "closed",
	[STATE_RELEASED] = "released",
	[STATE_EXPIRED] = "expired",
};

/* A line of a reservation, locked. */
typedef struct ReservationLine
{
	int64		reservation_id;
	int32		line_no;
	ReservationState state;
	int64		stock_id;
	int64		quantity;
	int64		shipped;
	int64		released;
	bool		has_deadline;
	TimestampTz expires_at;
	Codes		codes;
	bool		lot_blocked;
	LevelTouch *touch;
	int64		moving;			/* what this call ships or releases */
} ReservationLine;

PG_FUNCTION_INFO_V1(inventory_reserve);
PG_FUNCTION_INFO_V1(inventory_reserve_lines);
PG_FUNCTION_INFO_V1(inventory_try_reserve);
PG_FUNCTION_INFO_V1(inventory_try_reserve_lines);
PG_FUNCTION_INFO_V1(inventory_confirm);
PG_FUNCTION_INFO_V1(inventory_ship);
PG_FUNCTION_INFO_V1(inventory_release);
PG_FUNCTION_INFO_V1(inventory_extend);
PG_FUNCTION_INFO_V1(inventory_release_owner);

/* ---- Lines of existing reservations ---- */

static int64
line_remaining(const ReservationLine *line)
{
	return line->quantity - line->shipped - line->released;
}

static ReservationState
state_named(const char *name)
{
	for (int i = 0; i < lengthof(state_names); i++)
	{
		if (strcmp(name, state_names[i]) == 0)
			return (ReservationState) i;
	}
	elog(ERROR, "unknown reservation state \"%s\"", name);
}

static text *
row_text(uint64 row, int column)
{
	char	   *value = query_text(row, column);

	return value ? cstring_to_text(value) : NULL;
}

#define LINE_COLUMNS \
	"r.reservation_id, r.line_no, r.state, r.stock_id, r.quantity, r.shipped," \
	" r.released, r.expires_at, s.sku, l.location, t.lot, k.condition," \
	" coalesce(t.status = 'blocked', false)"
#define LINE_TABLES \
	"inventory.reservation r" \
	" JOIN inventory.stock k ON k.stock_id = r.stock_id" \
	" JOIN inventory.sku s ON s.sku_id = k.sku_id" \
	" JOIN inventory.location l ON l.location_id = k.location_id" \
	" LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id"

static void
line_from_row(uint64 row, ReservationLine *line)
{
	bool		isnull;

	line->reservation_id = query_int64(row, 1);
	line->line_no = DatumGetInt32(query_value(row, 2, &isnull));
	line->state = state_named(query_text(row, 3));
	line->stock_id = query_int64(row, 4);
	line->quantity = query_int64(row, 5);
	line->shipped = query_int64(row, 6);
	line->released = query_int64(row, 7);
	line->expires_at = DatumGetTimestampTz(query_value(row, 8, &isnull));
	line->has_deadline = !isnull;
	line->codes.sku = row_text(row, 9);
	line->codes.location = row_text(row, 10);
	line->codes.lot = row_text(row, 11);
	line->codes.condition = row_text(row, 12);
	line->lot_blocked = DatumGetBool(query_value(row, 13, &isnull));
}

/* Runs a query of LINE_COLUMNS, which may wait for the locks of its rows. */
static ReservationLine *
lines_lock(Statement *statement, Datum *values, int *count)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext spi;
	ReservationLine *lines;

	query_begin();
	*count = (int) query_run(statement, values, NULL);
	spi = MemoryContextSwitchTo(caller);
	lines = palloc0(Max(*count, 1) * sizeof(ReservationLine));
	for (int i = 0; i < *count; i++)
		line_from_row(i, &lines[i]);
	MemoryContextSwitchTo(spi);
	query_end();
	return lines;
}

static ReservationLine *
reservation_lock(int64 reservation_id, int *count)
{
	static Statement statement = {
		"SELECT " LINE_COLUMNS " FROM " LINE_TABLES
		" WHERE r.reservation_id = $1 ORDER BY r.line_no FOR UPDATE OF r",
		1, {INT8OID}
	};
	Datum		values[1];
	ReservationLine *lines;

	values[0] = Int64GetDatum(reservation_id);
	lines = lines_lock(&statement, values, count);
	if (*count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_UNKNOWN_RESERVATION),
				 errmsg("there is no reservation " INT64_FORMAT, reservation_id)));
	return lines;
}

static uint64
owner_lock_id(const text *owner)
{
	return hash_bytes_extended((const unsigned char *) VARDATA_ANY(owner),
							   VARSIZE_ANY_EXHDR(owner), 0);
}

static void
owner_end(const text *owner)
{
	engine_unlock(ENGINE_LOCK_OWNER, owner_lock_id(owner), ExclusiveLock);
}

/*
 * Makes what is done for an owner wait for another session that is reserving
 * for the same one: for its search by a lock, which it releases when its new
 * rows are there, and for the rows' transaction.  The lock is not kept while
 * waiting for that: it may want it again.
 */
static void
owner_begin(const text *owner)
{
	Relation	relation = table_open(catalog_relations()->reservation, AccessShareLock);
	ScanKeyData key;
	TransactionId xid;
	ItemPointerData tid;

	ScanKeyInit(&key, RESERVATION_OWNER, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(owner));
	for (;;)
	{
		engine_lock(ENGINE_LOCK_OWNER, owner_lock_id(owner), ExclusiveLock, true);
		xid = row_inserting(relation, catalog_relations()->reservation_owner,
							&key, 1, &tid);
		if (!TransactionIdIsValid(xid))
			break;
		owner_end(owner);
		XactLockTableWait(xid, relation, &tid, XLTW_FetchUpdated);
	}
	table_close(relation, AccessShareLock);
}

static ReservationLine *
owner_lock(text *owner, int *count)
{
	static Statement statement = {
		"SELECT " LINE_COLUMNS " FROM " LINE_TABLES
		" WHERE r.owner = $1 AND r.state = 'held'"
		" ORDER BY r.reservation_id, r.line_no FOR UPDATE OF r",
		1, {TEXTOID}
	};
	Datum		values[1];

	values[0] = PointerGetDatum(owner);
	return lines_lock(&statement, values, count);
}

static int
line_compare_places(const void *a, const void *b)
{
	const ReservationLine *x = *(ReservationLine *const *) a;
	const ReservationLine *y = *(ReservationLine *const *) b;

	return level_compare_places(&x->stock_id, &y->stock_id);
}

static void
lines_touch(ReservationLine *lines, int count)
{
	ReservationLine **sorted = palloc(Max(count, 1) * sizeof(ReservationLine *));

	for (int i = 0; i < count; i++)
		sorted[i] = &lines[i];
	qsort(sorted, count, sizeof(ReservationLine *), line_compare_places);
	for (int i = 0; i < count; i++)
		sorted[i]->touch = level_touch(sorted[i]->stock_id, false);
	pfree(sorted);
}

/* Whether the line was held and its deadline has passed. */
static bool
line_is_overdue(const ReservationLine *line)
{
	return line->state == STATE_HELD && line->has_deadline &&
		line->expires_at <= level_time(line->touch);
}

static void
raise_expired(const ReservationLine *line)
{
	ereport(ERROR,
			(errcode(ERRCODE_IV_RESERVATION_EXPIRED),
			 errmsg("reservation " INT64_FORMAT " has expired",
					line->reservation_id),
			 line->has_deadline ?
			 errdetail("Line %d was held until %s.", line->line_no,
					   timestamptz_to_str(line->expires_at)) : 0,
			 errhint("Reserve again.")));
}

/* None of the lines is in a state that the operation is for. */
static void
raise_wrong_state(const ReservationLine *lines, int count, const char *wanted)
{
	for (int i = 0; i < count; i++)
	{
		if (lines[i].state == STATE_EXPIRED || line_is_overdue(&lines[i]))
			raise_expired(&lines[i]);
	}
	ereport(ERROR,
			(errcode(ERRCODE_IV_WRONG_STATE),
			 errmsg("reservation " INT64_FORMAT " is %s, not %s",
					lines[0].reservation_id, state_names[lines[0].state],
					wanted)));
}

/* Writes a line's state back; a hold's deadline must not have been settled. */
static void
line_update(ReservationLine *line, ReservationState state,
			const TimestampTz *expires_at)
{
	static Statement statement = {
		"UPDATE inventory.reservation SET state = $3::inventory.reservation_state,"
		" shipped = $4, released = $5, expires_at = $6"
		" WHERE reservation_id = $1 AND line_no = $2",
		6, {INT8OID, INT4OID, TEXTOID, INT8OID, INT8OID, TIMESTAMPTZOID}
	};
	Datum		values[6];
	char		nulls[7] = "      ";

	values[0] = Int64GetDatum(line->reservation_id);
	values[1] = Int32GetDatum(line->line_no);
	values[2] = CStringGetTextDatum(state_names[state]);
	values[3] = Int64GetDatum(line->shipped);
	values[4] = Int64GetDatum(line->released);
	values[5] = expires_at ? TimestampTzGetDatum(*expires_at) : (Datum) 0;
	if (expires_at == NULL)
		nulls[5] = 'n';
	query_begin();
	query_run(&statement, values, nulls);
	query_end();
	if (line->state == STATE_HELD && line->has_deadline &&
		!level_claim(line->touch, line->expires_at))
		raise_expired(line);
	if (expires_at)
		level_deadline(line->touch, *expires_at);
}

static void
line_event(EventWriter *writer, const ReservationLine *line, EventType type,
		   int64 on_hand, int64 reserved, int64 committed, const EventNote *note)
{
	Event		event = {0};

	event.event_id = event_next_id();
	event.stock_id = line->stock_id;
	event.type = type;
	event.on_hand_delta = on_hand;
	event.reserved_delta = reserved;
	event.committed_delta = committed;
	event.reservation_id = line->reservation_id;
	event.note = note;
	event_write(writer, &event);
}

/* Gives back what the line is moving. */
static void
line_release(EventWriter *writer, ReservationLine *line, const EventNote *note)
{
	bool		held = line->state == STATE_HELD;
	ReservationState state = line->state;
	const TimestampTz *deadline = NULL;

	line->released += line->moving;
	if (line_remaining(line) == 0)
		state = line->shipped > 0 ? STATE_CLOSED : STATE_RELEASED;
	else if (held && line->has_deadline)
		deadline = &line->expires_at;
	line_update(line, state, deadline);
	line_event(writer, line, EVENT_RELEASE, 0, held ? -line->moving : 0,
			   held ? 0 : -line->moving, note);
}

/* ---- Reserving ---- */

typedef struct Want
{
	Codes		codes;
	StockItem		item;
	int64		quantity;
	int64		granted;
	LevelTouch *touch;
} Want;

typedef struct Wants
{
	Want	   *wants;			/* in the caller's order */
	Want	  **sorted;			/* in the order of locking; the same stock
								 * item's lines together */
	int			count;
	Interval   *ttl;			/* or NULL */
	text	   *owner;			/* or NULL */
	bool		partial;
	bool		try;
	ReservationLine *own;		/* the owner's present holds of these items */
	int			own_count;
} Wants;

static void
want_check(const Want *want)
{
	call_check_quantity(want->quantity, &want->codes);
	if (!want->item.good)
		ereport(ERROR,
				(errcode(ERRCODE_IV_CONDITION),
				 errmsg("goods in condition %s cannot be reserved",
						text_to_cstring(want->codes.condition)),
				 errhint("Only good ones can.")));
	catalog_check_active(&want->codes, &want->item);
	catalog_check_promisable(&want->codes, &want->item);
}

/* Makes the missing stock items that can be promised by backorder alone. */
static void
wants_create_items(Wants *wants)
{
	for (int i = 0; i < wants->count; i++)
	{
		Want	   *want = &wants->wants[i];

		if (want->item.stock_id == 0 &&
			want->item.floor <= (wants->partial ? -1 : -want->quantity))
			catalog_create_item(&want->codes, &want->item);
	}
}

static int
want_compare_places(const void *a, const void *b)
{
	const Want *x = *(Want *const *) a;
	const Want *y = *(Want *const *) b;
	int			order = level_compare_places(&x->item.stock_id, &y->item.stock_id);

	if (order != 0)
		return order;
	return x < y ? -1 : x > y;
}

static void
wants_touch(Wants *wants)
{
	wants->sorted = palloc(wants->count * sizeof(Want *));
	for (int i = 0; i < wants->count; i++)
		wants->sorted[i] = &wants->wants[i];
	if (wants->count > 1)
		qsort(wants->sorted, wants->count, sizeof(Want *), want_compare_places);
	for (int i = 0; i < wants->count; i++)
	{
		if (wants->sorted[i]->item.stock_id != 0)
			wants->sorted[i]->touch =
				level_touch(wants->sorted[i]->item.stock_id, false);
	}
}

static LevelTouch *
wants_touch_of(const Wants *wants, int64 stock_id)
{
	for (int i = 0; i < wants->count; i++)
	{
		if (wants->wants[i].item.stock_id == stock_id)
			return wants->wants[i].touch;
	}
	return NULL;
}

/* Finds what the owner holds of these stock items and is not overdue. */
static void
wants_find_own(Wants *wants)
{
	ReservationLine *lines;
	int			count;

	wants->own_count = 0;
	if (wants->owner == NULL)
		return;
	owner_begin(wants->owner);
	lines = owner_lock(wants->owner, &count);
	for (int i = 0; i < count; i++)
	{
		lines[i].touch = wants_touch_of(wants, lines[i].stock_id);
		if (lines[i].touch == NULL || line_is_overdue(&lines[i]))
			continue;
		lines[i].moving = line_remaining(&lines[i]);
		lines[wants->own_count++] = lines[i];
	}
	wants->own = lines;
}

static int64
wants_own_quantity(const Wants *wants, int64 stock_id)
{
	int64		sum = 0;

	for (int i = 0; i < wants->own_count; i++)
	{
		if (wants->own[i].stock_id == stock_id)
			sum += wants->own[i].moving;
	}
	return sum;
}

/* The end of the group of lines, from start on, that are of one stock item. */
static int
wants_group(const Wants *wants, int start, int64 *quantity)
{
	int64		stock_id = wants->sorted[start]->item.stock_id;
	int			end = start;

	*quantity = 0;
	while (end < wants->count &&
		   wants->sorted[end]->item.stock_id == stock_id &&
		   (stock_id != 0 || end == start))
	{
		if (pg_add_s64_overflow(*quantity, wants->sorted[end]->quantity, quantity))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("quantity of %s is out of range for type bigint",
							catalog_describe_codes(&wants->sorted[end]->codes))));
		end++;
	}
	return end;
}

/* Whether it looks as if the quantity can be had; taking it will tell. */
static bool
want_looks_met(const Wants *wants, const Want *want, int64 quantity)
{
	int64		own;
	int64		left;

	if (want->touch == NULL)
		return false;
	own = wants_own_quantity(wants, want->item.stock_id);
	return !pg_sub_s64_overflow(level_seen(want->touch, LEVEL_AVAILABLE) + own,
								quantity, &left) &&
		left >= want->item.floor;
}

/* The first line that is short; in partial mode, only if all of them are. */
static Want *
wants_find_short(const Wants *wants, int64 *quantity)
{
	Want	   *found = NULL;
	int			start = 0;

	while (start < wants->count)
	{
		int64		group;
		Want	   *first = wants->sorted[start];

		start = wants_group(wants, start, &group);
		if (want_looks_met(wants, first, wants->partial ? 1 : group))
		{
			if (wants->partial)
				return NULL;
		}
		else if (found == NULL)
		{
			found = first;
			*quantity = group;
			if (!wants->partial)
				return found;
		}
	}
	return found;
}

static void
want_refuse(const Wants *wants, const Want *want, int64 quantity)
{
	int64		available = 0;
	int64		on_hand = 0;

	if (want->touch)
	{
		on_hand = level_seen(want->touch, LEVEL_ON_HAND);
		available = level_seen(want->touch, LEVEL_AVAILABLE) -
			want->item.safety_stock +
			wants_own_quantity(wants, want->item.stock_id);
	}
	event_raise_insufficient(catalog_describe_codes(&want->codes), quantity,
							 available, on_hand);
}

/* Gives back what the owner holds: the new reservation replaces it. */
static void
wants_release_own(Wants *wants, const EventNote *note)
{
	EventWriter writer;

	if (wants->own_count == 0)
		return;
	event_writer_begin(&writer);
	for (int i = 0; i < wants->own_count; i++)
		line_release(&writer, &wants->own[i], note);
	event_writer_end(&writer);
	wants->own_count = 0;
}

/* Takes what is wanted; the line that could not have it, or NULL. */
static Want *
wants_take(Wants *wants, int64 *quantity)
{
	int64		granted = 0;
	int			start = 0;

	while (start < wants->count)
	{
		Want	   *want = wants->sorted[start];

		if (wants->partial)
		{
			*quantity = want->quantity;
			start++;
			if (want->touch == NULL)
				continue;
			want->granted = level_take_up_to(want->touch, LEVEL_AVAILABLE,
											 want->quantity, want->item.floor);
			granted += want->granted > 0;
			continue;
		}
		{
			int			end = wants_group(wants, start, quantity);

			if (!level_take(want->touch, LEVEL_AVAILABLE, *quantity,
							want->item.floor))
				return want;
			for (; start < end; start++)
				wants->sorted[start]->granted = wants->sorted[start]->quantity;
		}
	}
	return wants->partial && granted == 0 ? wants->sorted[0] : NULL;
}

static void
wants_give_back(Wants *wants)
{
	for (int i = 0; i < wants->count; i++)
	{
		if (wants->wants[i].granted > 0)
			level_give_back(wants->wants[i].touch, LEVEL_AVAILABLE,
							wants->wants[i].granted);
	}
}

/* now + ttl, of all lines the same */
static TimestampTz
deadline_after(TimestampTz now, const Interval *ttl)
{
	TimestampTz deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
																   TimestampTzGetDatum(now),
																   IntervalPGetDatum(ttl)));

	if (deadline <= now || TIMESTAMP_NOT_FINITE(deadline))
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_TTL),
				 errmsg("ttl must be positive and finite, not %s",
						DatumGetCString(DirectFunctionCall1(interval_out,
															IntervalPGetDatum(ttl)))),
				 errhint("NULL means no deadline.")));
	return deadline;
}

static TimestampTz
wants_deadline(const Wants *wants)
{
	TimestampTz now = clock_time();

	for (int i = 0; i < wants->count; i++)
	{
		if (wants->wants[i].touch)
			now = Max(now, level_time(wants->wants[i].touch));
	}
	return deadline_after(now, wants->ttl);
}

static Oid
held_label(void)
{
	return GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid,
						   ObjectIdGetDatum(catalog_relations()->reservation_states),
						   CStringGetDatum(state_names[STATE_HELD]));
}

static void
want_insert(const Wants *wants, const Want *want, RowTarget *target,
			int64 reservation_id, int line_no, const TimestampTz *expires_at,
			text *reference)
{
	TupleTableSlot *slot = row_clear(target);
	Datum	   *values = slot->tts_values;

	memset(slot->tts_isnull, false,
		   RESERVATION_REFERENCE * sizeof(bool));
	values[RESERVATION_RESERVATION_ID - 1] = Int64GetDatum(reservation_id);
	values[RESERVATION_LINE_NO - 1] = Int32GetDatum(line_no);
	values[RESERVATION_STATE - 1] = ObjectIdGetDatum(held_label());
	values[RESERVATION_STOCK_ID - 1] = Int64GetDatum(want->item.stock_id);
	values[RESERVATION_QUANTITY - 1] = Int64GetDatum(want->granted);
	values[RESERVATION_SHIPPED - 1] = Int64GetDatum(0);
	values[RESERVATION_RELEASED - 1] = Int64GetDatum(0);
	values[RESERVATION_EXPIRES_AT - 1] = TimestampTzGetDatum(expires_at ? *expires_at : 0);
	slot->tts_isnull[RESERVATION_EXPIRES_AT - 1] = expires_at == NULL;
	values[RESERVATION_CREATED_AT - 1] = TimestampTzGetDatum(clock_transaction_time());
	values[RESERVATION_OWNER - 1] = PointerGetDatum(wants->owner);
	slot->tts_isnull[RESERVATION_OWNER - 1] = wants->owner == NULL;
	values[RESERVATION_REFERENCE - 1] = PointerGetDatum(reference);
	slot->tts_isnull[RESERVATION_REFERENCE - 1] = reference == NULL;
	row_insert(target);
}

static void
wants_write(const Wants *wants, EventWriter *writer, int64 reservation_id,
			const EventNote *note)
{
	RowTarget  *target = row_open(writer->inserter,
								  catalog_relations()->reservation);
	TimestampTz deadline = 0;
	int			line_no = 0;

	if (wants->ttl)
		deadline = wants_deadline(wants);
	for (int i = 0; i < wants->count; i++)
	{
		const Want *want = &wants->wants[i];
		Event		event = {0};

		if (want->granted == 0)
			continue;
		want_insert(wants, want, target, reservation_id, ++line_no,
					wants->ttl ? &deadline : NULL, note->reference);
		if (wants->ttl)
			level_deadline(want->touch, deadline);
		event.event_id = event_next_id();
		event.stock_id = want->item.stock_id;
		event.type = EVENT_RESERVE;
		event.reserved_delta = want->granted;
		event.reservation_id = reservation_id;
		event.note = note;
		event_write(writer, &event);
	}
}

/*
 * Overdue holds get their expire event from whoever reserves next.  Not under
 * REPEATABLE READ, where locking a row that has changed is an error.
 */
static void
wants_expire(Wants *wants)
{
	Settlement	settlement = {0};

	if (IsolationUsesXactSnapshot())
		return;
	for (int i = 0; i < wants->count; i++)
	{
		Want	   *want = wants->sorted[i];

		if (want->touch && level_has_overdue(want->touch))
			expiry_write(want->touch, want->item.stock_id, RESERVE_EXPIRES_LINES,
						 &settlement);
	}
	expiry_tell(&settlement);
}

/* Nothing is reserved: NULL for try_reserve, an error for reserve. */
static void
wants_fail(const Wants *wants, Call *call, const Want *want, int64 quantity)
{
	if (!wants->try)
		want_refuse(wants, want, quantity);
	stat_refused();
	call->result.isnull = true;
}

/* Records the request, then takes and writes: the line that was short, or NULL. */
static Want *
wants_book(Wants *wants, Call *call, int64 *quantity)
{
	EventWriter writer;
	Want	   *short_want = NULL;

	event_writer_begin(&writer);
	if (request_record(&call->request, writer.inserter, &call->result))
	{
		wants_release_own(wants, &call->note);
		short_want = wants_take(wants, quantity);
		if (short_want == NULL)
			wants_write(wants, &writer, call->result.value, &call->note);
	}
	event_writer_end(&writer);
	return short_want;
}

/*
 * The same in a subtransaction, which gives the owner his holds back when the
 * new ones cannot be had.
 */
static Want *
wants_book_or_undo(Wants *wants, Call *call, int64 *quantity)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	Want	   *volatile short_want;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		short_want = wants_book(wants, call, quantity);
		if (short_want)
			RollbackAndReleaseCurrentSubTransaction();
		else
			ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return short_want;
}

/* Somebody may still be faster than the look before. */
static void
wants_reserve(Wants *wants, Call *call)
{
	Want	   *short_want;
	int64		quantity;

	call->result.value = nextval_internal(catalog_relations()->reservation_sequence,
										  false);
	if (wants->try && wants->own_count > 0)
		short_want = wants_book_or_undo(wants, call, &quantity);
	else
	{
		short_want = wants_book(wants, call, &quantity);
		if (short_want && wants->try)
		{
			wants_give_back(wants);
			request_forget(&call->request);
		}
	}
	if (short_want)
		wants_fail(wants, call, short_want, quantity);
}

/*
 * Finds the stock items, and checks that they may be promised.  If all is well
 * with the ones at hand, recording the request will tell soon enough whether
 * it is a repetition; before anything is refused it must be known.  True if it
 * is one.
 */
static bool
wants_resolve(Wants *wants, Call *call)
{
	bool		well = true;

	for (int i = 0; well && i < wants->count; i++)
		well = catalog_item_cached(&wants->wants[i].codes, &wants->wants[i].item) &&
			catalog_item_promisable(&wants->wants[i].item) &&
			wants->wants[i].quantity > 0;
	if (well)
		return false;
	if (request_find(&call->request, &call->result))
		return true;
	for (int i = 0; i < wants->count; i++)
	{
		catalog_item(&wants->wants[i].codes, &wants->wants[i].item);
		want_check(&wants->wants[i]);
	}
	return false;
}

static Datum
wants_execute(Wants *wants, Call *call, FunctionCallInfo fcinfo)
{
	Want	   *short_want;
	int64		quantity;

	if (wants->ttl)
		(void) deadline_after(clock_time(), wants->ttl);
	if (wants_resolve(wants, call))
		return call_end(call, fcinfo);
	event_prepare();
	wants_create_items(wants);
	wants_touch(wants);
	wants_find_own(wants);

	/* It may be short because this very request has taken the stock. */
	if (wants_find_short(wants, &quantity) &&
		request_find(&call->request, &call->result))
		;						/* a repetition */
	else if ((short_want = wants_find_short(wants, &quantity)) != NULL)
		wants_fail(wants, call, short_want, quantity);
	else
	{
		wants_expire(wants);
		wants_reserve(wants, call);
	}
	if (wants->owner)
		owner_end(wants->owner);
	return call_end(call, fcinfo);
}

/*
 * reserve(sku, location, quantity, ttl, owner, lot, condition, request_id,
 *		   reference, reason, effective_at, metadata)
 */
static Datum
reserve_one(FunctionCallInfo fcinfo, bool try)
{
	static const CallLayout layout = {7, 8, 9, 10, 11};
	Want		want = {0};
	Wants		wants = {.wants = &want, .count = 1, .try = try};
	Call		call;

	call_start(&call, fcinfo, try ? OPERATION_TRY_RESERVE : OPERATION_RESERVE,
			   &layout);
	want.codes.sku = call_text(fcinfo, 0, "sku");
	want.codes.location = call_text(fcinfo, 1, "location");
	want.quantity = call_int64(fcinfo, 2, "quantity");
	wants.ttl = PG_ARGISNULL(3) ? NULL : PG_GETARG_INTERVAL_P(3);
	wants.owner = call_optional_text(fcinfo, 4);
	want.codes.lot = call_optional_text(fcinfo, 5);
	want.codes.condition = call_text(fcinfo, 6, "condition");
	return wants_execute(&wants, &call, fcinfo);
}

Datum
inventory_reserve(PG_FUNCTION_ARGS)
{
	return reserve_one(fcinfo, false);
}

Datum
inventory_try_reserve(PG_FUNCTION_ARGS)
{
	return reserve_one(fcinfo, true);
}

static bool
mode_is_partial(const text *mode)
{
	char	   *name = text_to_cstring(mode);

	if (strcmp(name, "partial") == 0)
		return true;
	if (strcmp(name, "all") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_CHOICE),
				 errmsg("unknown mode \"%s\"", name),
				 errhint("The modes are all and partial.")));
	return false;
}

#define RESERVE_FIELDS \
	(LINE_FIELD(LINE_SKU) | LINE_FIELD(LINE_LOCATION) | LINE_FIELD(LINE_LOT) | \
	 LINE_FIELD(LINE_CONDITION) | LINE_FIELD(LINE_QUANTITY))

/*
 * reserve(lines, ttl, owner, mode, request_id, reference, reason,
 *		   effective_at, metadata)
 */
static Datum
reserve_lines(FunctionCallInfo fcinfo, bool try)
{
	static const CallLayout layout = {4, 5, 6, 7, 8};
	Wants		wants = {.try = try};
	Line	   *lines;
	Call		call;

	call_start(&call, fcinfo, try ? OPERATION_TRY_RESERVE : OPERATION_RESERVE,
			   &layout);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", "lines")));
	wants.ttl = PG_ARGISNULL(1) ? NULL : PG_GETARG_INTERVAL_P(1);
	wants.owner = call_optional_text(fcinfo, 2);
	wants.partial = mode_is_partial(call_text(fcinfo, 3, "mode"));
	lines = lines_parse(PG_GETARG_JSONB_P(0), RESERVE_FIELDS, &wants.count);
	wants.wants = palloc0(wants.count * sizeof(Want));
	for (int i = 0; i < wants.count; i++)
	{
		Want	   *want = &wants.wants[i];

		line_require(&lines[i], LINE_SKU);
		line_require(&lines[i], LINE_LOCATION);
		line_require(&lines[i], LINE_QUANTITY);
		want->codes.sku = lines[i].texts[LINE_SKU];
		want->codes.location = lines[i].texts[LINE_LOCATION];
		want->codes.lot = lines[i].texts[LINE_LOT];
		want->codes.condition = lines[i].texts[LINE_CONDITION] ?
			lines[i].texts[LINE_CONDITION] : cstring_to_text("good");
		want->quantity = lines[i].quantity;
	}
	return wants_execute(&wants, &call, fcinfo);
}

Datum
inventory_reserve_lines(PG_FUNCTION_ARGS)
{
	return reserve_lines(fcinfo, false);
}

Datum
inventory_try_reserve_lines(PG_FUNCTION_ARGS)
{
	return reserve_lines(fcinfo, true);
}

/* ---- What happens to a reservation ---- */

/*
 * Starts an operation on a reservation: locks and touches its lines.  True if
 * the call is a repetition after all: the wait was for the first one.
 */
static bool
reservation_begin(Call *call, FunctionCallInfo fcinfo, ReservationLine **lines,
				  int *count)
{
	event_prepare();
	*lines = reservation_lock(call_int64(fcinfo, 0, "reservation_id"), count);
	lines_touch(*lines, *count);
	return request_find(&call->request, &call->result);
}

/* Records the request with the result, and tells whether to go on. */
static bool
reservation_record(Call *call, EventWriter *writer, int64 result)
{
	call->result.value = result;
	call->result.isnull = false;
	event_writer_begin(writer);
	if (request_record(&call->request, writer->inserter, &call->result))
		return true;
	event_writer_end(writer);
	return false;
}

/* How many lines are held and not overdue; one that is overdue is an error. */
static int
count_held(const ReservationLine *lines, int count)
{
	int			held = 0;

	for (int i = 0; i < count; i++)
	{
		if (lines[i].state != STATE_HELD)
			continue;
		if (line_is_overdue(&lines[i]))
			raise_expired(&lines[i]);
		held++;
	}
	if (held == 0)
		raise_wrong_state(lines, count, "held");
	return held;
}

static void
check_lot_not_blocked(const ReservationLine *line)
{
	if (line->lot_blocked)
		ereport(ERROR,
				(errcode(ERRCODE_IV_LOT_BLOCKED),
				 errmsg("lot \"%s\" of SKU \"%s\" is blocked",
						text_to_cstring(line->codes.lot),
						text_to_cstring(line->codes.sku))));
}

/*
 * confirm(reservation_id, request_id, reference, reason, effective_at,
 *		   metadata)
 */
Datum
inventory_confirm(PG_FUNCTION_ARGS)
{
	static const CallLayout layout = {1, 2, 3, 4, 5};
	Call		call;
	EventWriter writer;
	ReservationLine *lines;
	int			count;
	int			held;

	if (call_begin(&call, fcinfo, OPERATION_CONFIRM, &layout) ||
		reservation_begin(&call, fcinfo, &lines, &count))
		return call_end(&call, fcinfo);
	held = count_held(lines, count);
	if (reservation_record(&call, &writer, held))
	{
		for (int i = 0; i < count; i++)
		{
			int64		remaining = line_remaining(&lines[i]);

			if (lines[i].state != STATE_HELD)
				continue;
			check_lot_not_blocked(&lines[i]);
			line_update(&lines[i], STATE_COMMITTED, NULL);
			line_event(&writer, &lines[i], EVENT_CONFIRM, 0, -remaining,
					   remaining, &call.note);
		}
		event_writer_end(&writer);
	}
	return call_end(&call, fcinfo);
}

static bool
text_equal(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/* Whether a line that the caller gave means this line of the reservation. */
static bool
line_means(const Line *given, const ReservationLine *line)
{
	if ((given->given & LINE_FIELD(LINE_LINE_NO)) && given->line_no != line->line_no)
		return false;
	if (given->texts[LINE_SKU] && !text_equal(given->texts[LINE_SKU], line->codes.sku))
		return false;
	if (given->texts[LINE_LOCATION] &&
		!text_equal(given->texts[LINE_LOCATION], line->codes.location))
		return false;
	return given->texts[LINE_LOT] == NULL ||
		(line->codes.lot && text_equal(given->texts[LINE_LOT], line->codes.lot));
}

static const char *
line_describe(const Line *given)
{
	StringInfoData buffer;

	initStringInfo(&buffer);
	appendStringInfoString(&buffer, "line");
	if (given->given & LINE_FIELD(LINE_LINE_NO))
		appendStringInfo(&buffer, " " INT64_FORMAT, given->line_no);
	if (given->texts[LINE_SKU])
		appendStringInfo(&buffer, " of SKU \"%s\"",
						 text_to_cstring(given->texts[LINE_SKU]));
	if (given->texts[LINE_LOCATION])
		appendStringInfo(&buffer, " at location \"%s\"",
						 text_to_cstring(given->texts[LINE_LOCATION]));
	if (given->texts[LINE_LOT])
		appendStringInfo(&buffer, ", lot \"%s\"",
						 text_to_cstring(given->texts[LINE_LOT]));
	return buffer.data;
}

/* Spreads a given quantity over the open lines that it means. */
static void
lines_choose_given(const Line *given, ReservationLine *lines, int count,
				   bool (*open) (const ReservationLine *))
{
	bool		all = (given->given & LINE_FIELD(LINE_QUANTITY)) == 0;
	int64		left = given->quantity;
	bool		meant = false;

	if ((given->given & (LINE_FIELD(LINE_LINE_NO) | LINE_FIELD(LINE_SKU))) == 0)
		line_error(given->number, "field \"line_no\" or \"sku\" is missing");
	if (!all && given->quantity <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_QUANTITY),
				 errmsg("line %d: quantity must be positive, not " INT64_FORMAT,
						given->number, given->quantity)));
	for (int i = 0; i < count; i++)
	{
		int64		rest;

		if (!line_means(given, &lines[i]))
			continue;
		meant = true;
		if (!open(&lines[i]))
			continue;
		rest = line_remaining(&lines[i]) - lines[i].moving;
		if (!all)
			rest = Min(rest, left);
		lines[i].moving += rest;
		left -= rest;
	}
	if (!meant)
		line_error(given->number,
				   psprintf("reservation " INT64_FORMAT " has no %s",
							lines[0].reservation_id, line_describe(given)));
	if (!all && left > 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_WRONG_STATE),
				 errmsg("line %d: " INT64_FORMAT " requested, but only " INT64_FORMAT " of reservation " INT64_FORMAT " remain",
						given->number, given->quantity, given->quantity - left,
						lines[0].reservation_id)));
}

#define CHOOSE_FIELDS \
	(LINE_FIELD(LINE_LINE_NO) | LINE_FIELD(LINE_SKU) | LINE_FIELD(LINE_LOCATION) | \
	 LINE_FIELD(LINE_LOT) | LINE_FIELD(LINE_QUANTITY))

/*
 * Decides what is moved of each line: all that remains, or what the caller
 * gave.  Returns the number of lines concerned; none is an error.
 */
static int
lines_choose(FunctionCallInfo fcinfo, ReservationLine *lines, int count,
			 bool (*open) (const ReservationLine *), const char *wanted)
{
	int			chosen = 0;
	bool		any = false;

	for (int i = 0; i < count; i++)
		any |= open(&lines[i]);
	if (!any)
		raise_wrong_state(lines, count, wanted);
	if (PG_ARGISNULL(1))
	{
		for (int i = 0; i < count; i++)
		{
			if (open(&lines[i]))
				lines[i].moving = line_remaining(&lines[i]);
		}
	}
	else
	{
		int			given_count;
		Line	   *given = lines_parse(PG_GETARG_JSONB_P(1), CHOOSE_FIELDS,
										&given_count);

		for (int i = 0; i < given_count; i++)
			lines_choose_given(&given[i], lines, count, open);
	}
	for (int i = 0; i < count; i++)
		chosen += lines[i].moving > 0;
	if (chosen == 0)
		raise_wrong_state(lines, count, wanted);	/* the deadline came */
	return chosen;
}

static bool
line_can_ship(const ReservationLine *line)
{
	return line->state == STATE_COMMITTED;
}

static bool
line_can_release(const ReservationLine *line)
{
	return line->state == STATE_COMMITTED ||
		(line->state == STATE_HELD && !line_is_overdue(line));
}

static void
line_ship(EventWriter *writer, ReservationLine *line, const EventNote *note)
{
	check_lot_not_blocked(line);
	if (!level_take(line->touch, LEVEL_ON_HAND, line->moving, 0))
	{
		int64		on_hand = level_seen(line->touch, LEVEL_ON_HAND);

		event_raise_insufficient(catalog_describe_codes(&line->codes),
								 line->moving, on_hand, on_hand);
	}
	line->shipped += line->moving;
	line_update(line, line_remaining(line) == 0 ? STATE_CLOSED : STATE_COMMITTED,
				NULL);
	line_event(writer, line, EVENT_SHIP, -line->moving, 0, -line->moving, note);
}

/*
 * ship(reservation_id, lines, request_id, reference, reason, effective_at,
 *		metadata), and release() likewise
 */
static Datum
ship_or_release(FunctionCallInfo fcinfo, Operation operation)
{
	static const CallLayout layout = {2, 3, 4, 5, 6};
	bool		ship = operation == OPERATION_SHIP;
	Call		call;
	EventWriter writer;
	ReservationLine *lines;
	int			count;
	int			chosen;

	if (call_begin(&call, fcinfo, operation, &layout) ||
		reservation_begin(&call, fcinfo, &lines, &count))
		return call_end(&call, fcinfo);
	chosen = lines_choose(fcinfo, lines, count,
						  ship ? line_can_ship : line_can_release,
						  ship ? "committed" : "held or committed");
	if (reservation_record(&call, &writer, chosen))
	{
		for (int i = 0; i < count; i++)
		{
			if (lines[i].moving == 0)
				continue;
			if (ship)
				line_ship(&writer, &lines[i], &call.note);
			else
				line_release(&writer, &lines[i], &call.note);
		}
		event_writer_end(&writer);
	}
	return call_end(&call, fcinfo);
}

Datum
inventory_ship(PG_FUNCTION_ARGS)
{
	return ship_or_release(fcinfo, OPERATION_SHIP);
}

Datum
inventory_release(PG_FUNCTION_ARGS)
{
	return ship_or_release(fcinfo, OPERATION_RELEASE);
}

/*
 * extend(reservation_id, ttl, request_id, reference, reason, effective_at,
 *		  metadata)
 */
Datum
inventory_extend(PG_FUNCTION_ARGS)
{
	static const CallLayout layout = {2, 3, 4, 5, 6};
	Call		call;
	EventWriter writer;
	ReservationLine *lines;
	Interval   *ttl = PG_ARGISNULL(1) ? NULL : PG_GETARG_INTERVAL_P(1);
	TimestampTz deadline = 0;
	int			count;

	if (call_begin(&call, fcinfo, OPERATION_EXTEND, &layout) ||
		reservation_begin(&call, fcinfo, &lines, &count))
		return call_end(&call, fcinfo);
	(void) count_held(lines, count);
	if (ttl)
	{
		TimestampTz now = clock_time();

		for (int i = 0; i < count; i++)
			now = Max(now, level_time(lines[i].touch));
		deadline = deadline_after(now, ttl);
	}
	call.result.value = deadline;
	call.result.isnull = ttl == NULL;
	event_writer_begin(&writer);
	if (request_record(&call.request, writer.inserter, &call.result))
	{
		for (int i = 0; i < count; i++)
		{
			if (lines[i].state == STATE_HELD)
				line_update(&lines[i], STATE_HELD, ttl ? &deadline : NULL);
		}
	}
	event_writer_end(&writer);
	return call_end(&call, fcinfo);
}

/*
 * release_owner(owner, request_id, reference, reason, effective_at, metadata)
 */
Datum
inventory_release_owner(PG_FUNCTION_ARGS)
{
	static const CallLayout layout = {1, 2, 3, 4, 5};
	Call		call;
	EventWriter writer;
	ReservationLine *lines;
	text	   *owner;
	int			count;
	int			releasing = 0;

	if (call_begin(&call, fcinfo, OPERATION_RELEASE_OWNER, &layout))
		return call_end(&call, fcinfo);
	event_prepare();
	owner = call_text(fcinfo, 0, "owner");
	owner_begin(owner);
	lines = owner_lock(owner, &count);
	owner_end(owner);
	lines_touch(lines, count);
	if (request_find(&call.request, &call.result))
		return call_end(&call, fcinfo);
	for (int i = 0; i < count; i++)
	{
		if (line_is_overdue(&lines[i]))
			continue;
		lines[i].moving = line_remaining(&lines[i]);
		releasing++;
	}
	if (reservation_record(&call, &writer, releasing))
	{
		for (int i = 0; i < count; i++)
		{
			if (lines[i].moving > 0)
				line_release(&writer, &lines[i], &call.note);
		}
		event_writer_end(&writer);
	}
	return call_end(&call, fcinfo);
}
