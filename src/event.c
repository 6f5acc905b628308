/*-------------------------------------------------------------------------
 *
 * event.c
 *		Appending events, and the rule that every event is held to.
 *
 * The rule is enforced in one place, the AFTER INSERT ROW trigger of the event
 * table, for the functions and for a plain INSERT or COPY alike: each event
 * moves the levels of its stock item or is refused.  A function that must know
 * before it inserts takes from the level first; the trigger then consumes what
 * was granted.
 *
 * What a plain INSERT may not say: somebody else's transaction or time, and
 * anything about reserved and committed, which belong to reservation rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "common/int.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/xid8.h"

#include "catalog.h"
#include "clock.h"
#include "delivery_slot.h"
#include "error.h"
#include "event.h"
#include "inventory.h"
#include "partition.h"
#include "stat.h"
#include "tail.h"
#include "worker.h"

/* Columns, as the install script has them. */
enum
{
	EVENT_EVENT_ID = 1, EVENT_STOCK_ID, EVENT_TYPE, EVENT_ON_HAND_DELTA,
	EVENT_RESERVED_DELTA, EVENT_COMMITTED_DELTA, EVENT_RESERVATION_ID,
	EVENT_REQUEST_ID, EVENT_REFERENCE, EVENT_REASON, EVENT_ACTOR,
	EVENT_RECORDED_AT, EVENT_EFFECTIVE_AT, EVENT_XID, EVENT_REVERSES,
	EVENT_METADATA
};
#define EVENT_COLUMNS EVENT_METADATA

/* Rows inserted a page at a time. */
#define EVENT_BATCH 500

static const char *const type_names[] = {
	[EVENT_RECEIVE] = "receive",
	[EVENT_ISSUE] = "issue",
	[EVENT_ADJUST] = "adjust",
	[EVENT_COUNT] = "count",
	[EVENT_TRANSFER_OUT] = "transfer_out",
	[EVENT_TRANSFER_IN] = "transfer_in",
	[EVENT_RESERVE] = "reserve",
	[EVENT_CONFIRM] = "confirm",
	[EVENT_SHIP] = "ship",
	[EVENT_RELEASE] = "release",
	[EVENT_EXPIRE] = "expire",
	[EVENT_REVERSE] = "reverse",
	[EVENT_REBUILD] = "rebuild",
};

StaticAssertDecl(lengthof(type_names) == EVENT_TYPES,
				 "every event type has a name");

/* Oids of the enum's labels, and of the enum they were looked up for. */
static Oid	type_oids[EVENT_TYPES];
static Oid	type_oids_of = InvalidOid;

/* True while the rows being inserted are the engine's. */
static bool engine_writing = false;

/* Whether this transaction has inserted an event. */
static bool events_inserted = false;
Oid			event_actor = InvalidOid;

static void event_check_table(TupleDesc descriptor);

PG_FUNCTION_INFO_V1(inventory_event_applied);
PG_FUNCTION_INFO_V1(inventory_event_append_only);
PG_FUNCTION_INFO_V1(inventory_level_differs);

/* ---- Types ---- */

const char *
event_type_name(EventType type)
{
	return type_names[type];
}

static void
event_find_types(void)
{
	Oid			enum_type = catalog_relations()->event_types;

	if (likely(type_oids_of == enum_type))
		return;
	for (int i = 0; i < EVENT_TYPES; i++)
		type_oids[i] = GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid,
									   ObjectIdGetDatum(enum_type),
									   CStringGetDatum(type_names[i]));
	type_oids_of = enum_type;
}

Oid
event_type_oid(EventType type)
{
	event_find_types();
	return type_oids[type];
}

EventType
event_type_from_oid(Oid label)
{
	event_find_types();
	for (int i = 0; i < EVENT_TYPES; i++)
	{
		if (type_oids[i] == label)
			return (EventType) i;
	}
	elog(ERROR, "unknown event type %u", label);
}

/* ---- Writing ---- */

/*
 * Makes sure that the partition is there.  Before any stock item is locked.
 */
void
event_prepare(void)
{
	(void) partition_for(clock_transaction_time());
}

int64
event_next_id(void)
{
	return nextval_internal(catalog_relations()->event_sequence, false);
}

/* Who is told as having made a change. */
static Oid
event_actor_id(void)
{
	return OidIsValid(event_actor) ? event_actor : GetOuterUserId();
}

/* The last number that was given to an event or a message. */
int64
event_last_id(void)
{
	LOCAL_FCINFO(call, 1);
	Datum		last;

	InitFunctionCallInfoData(*call, NULL, 1, InvalidOid, NULL, NULL);
	call->args[0].value = ObjectIdGetDatum(catalog_relations()->event_sequence);
	call->args[0].isnull = false;
	last = pg_sequence_last_value(call);
	return call->isnull ? 0 : DatumGetInt64(last);
}

void
event_writer_begin(EventWriter *writer)
{
	event_find_types();
	writer->inserter = row_begin();
	writer->target = row_open(writer->inserter,
							  partition_for(clock_transaction_time()));
	if (!writer->target->relation->rd_rel->relispartition)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the events of this transaction's month have just been archived"),
				 errhint("Try again.")));
	event_check_table(RelationGetDescr(writer->target->relation));
	writer->actor = cstring_to_text(GetUserNameFromId(event_actor_id(), false));
}

static void
set_text(TupleTableSlot *slot, int column, const void *value)
{
	slot->tts_values[column - 1] = PointerGetDatum(value);
	slot->tts_isnull[column - 1] = value == NULL;
}

static void
set_int64(TupleTableSlot *slot, int column, int64 value)
{
	slot->tts_values[column - 1] = Int64GetDatum(value);
	slot->tts_isnull[column - 1] = false;
}

static void
event_fill(EventWriter *writer, TupleTableSlot *slot, const Event *event)
{
	const EventNote *note = event->note;

	set_int64(slot, EVENT_EVENT_ID, event->event_id);
	set_int64(slot, EVENT_STOCK_ID, event->stock_id);
	slot->tts_values[EVENT_TYPE - 1] = ObjectIdGetDatum(type_oids[event->type]);
	slot->tts_isnull[EVENT_TYPE - 1] = false;
	set_int64(slot, EVENT_ON_HAND_DELTA, event->on_hand_delta);
	set_int64(slot, EVENT_RESERVED_DELTA, event->reserved_delta);
	set_int64(slot, EVENT_COMMITTED_DELTA, event->committed_delta);
	set_int64(slot, EVENT_RESERVATION_ID, event->reservation_id);
	slot->tts_isnull[EVENT_RESERVATION_ID - 1] = event->reservation_id == 0;
	set_text(slot, EVENT_REQUEST_ID, note->request_id);
	set_text(slot, EVENT_REFERENCE, note->reference);
	set_text(slot, EVENT_REASON, note->reason);
	set_text(slot, EVENT_ACTOR, writer->actor);
	set_int64(slot, EVENT_RECORDED_AT, clock_transaction_time());
	set_int64(slot, EVENT_EFFECTIVE_AT, note->effective_at);
	slot->tts_isnull[EVENT_EFFECTIVE_AT - 1] = !note->has_effective_at;
	slot->tts_values[EVENT_XID - 1] =
		FullTransactionIdGetDatum(GetTopFullTransactionId());
	slot->tts_isnull[EVENT_XID - 1] = false;
	set_int64(slot, EVENT_REVERSES, event->reverses);
	slot->tts_isnull[EVENT_REVERSES - 1] = event->reverses == 0;
	set_text(slot, EVENT_METADATA, note->metadata);
}

void
event_write(EventWriter *writer, const Event *event)
{
	event_fill(writer, row_clear(writer->target), event);
	row_insert(writer->target);
}

void
event_write_many(EventWriter *writer, const Event *events, int count)
{
	TupleTableSlot **slots;
	int			room = Min(count, EVENT_BATCH);

	if (count == 1)
	{
		event_write(writer, events);
		return;
	}
	slots = palloc(room * sizeof(TupleTableSlot *));
	for (int i = 0; i < room; i++)
		slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(writer->target->relation),
											&TTSOpsHeapTuple);
	for (int start = 0; start < count; start += room)
	{
		int			n = Min(room, count - start);

		for (int i = 0; i < n; i++)
		{
			ExecClearTuple(slots[i]);
			event_fill(writer, slots[i], &events[start + i]);
			ExecStoreVirtualTuple(slots[i]);
		}
		row_insert_many(writer->target, slots, n);
		CHECK_FOR_INTERRUPTS();
	}
	for (int i = 0; i < room; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	pfree(slots);
}

/* Fires the triggers, which move the levels. */
void
event_writer_end(EventWriter *writer)
{
	bool		outer = engine_writing;

	engine_writing = true;
	PG_TRY();
	{
		row_end(writer->inserter);
	}
	PG_FINALLY();
	{
		engine_writing = outer;
	}
	PG_END_TRY();
}

/* ---- The rule ---- */

void
event_raise_insufficient(const char *subject, int64 requested, int64 available,
						 int64 on_hand)
{
	stat_refused();
	ereport(ERROR,
			(errcode(ERRCODE_IV_INSUFFICIENT_STOCK),
			 errmsg("insufficient stock of %s: " INT64_FORMAT " requested, "
					INT64_FORMAT " available", subject, requested, available),
			 errdetail("There are " INT64_FORMAT " on hand.", on_hand),
			 errhint("Wait for a receipt or a release, or ask for less.")));
}

static void
event_refuse(LevelTouch *touch, int64 stock_id, LevelCounter counter,
			 int64 quantity, const StockItem *item)
{
	int64		on_hand = level_seen(touch, LEVEL_ON_HAND);
	int64		left = counter == LEVEL_ON_HAND ? on_hand :
		level_seen(touch, LEVEL_AVAILABLE) - item->safety_stock;

	event_raise_insufficient(catalog_describe(stock_id), quantity, left, on_hand);
}

/* Moves one counter by an event. */
static void
event_move(LevelTouch *touch, int64 stock_id, LevelCounter counter, int64 delta,
		   int64 floor, const StockItem *item)
{
	if (delta > 0)
	{
		if (!level_credit(touch, counter, delta))
			ereport(ERROR,
					(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
					 errmsg("on hand of %s would be out of range",
							catalog_describe(stock_id)),
					 errdetail("It can be at most " INT64_FORMAT ".",
							   LEVEL_ON_HAND_MAX)));
	}
	else if (delta < 0)
	{
		if (delta == PG_INT64_MIN || !level_debit(touch, counter, -delta, floor))
			event_refuse(touch, stock_id, counter, -Max(delta, -PG_INT64_MAX), item);
	}
}

/* A plain INSERT meets what the functions check before they insert. */
static void
event_check_item(int64 stock_id, EventType type, StockItem *item)
{
	if (!catalog_item_by_id(stock_id, item))
		ereport(ERROR,
				(errcode(ERRCODE_IV_UNKNOWN_CODE),
				 errmsg("there is no stock item " INT64_FORMAT, stock_id)));
	if (!item->sku_active || !item->location_active)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INACTIVE_CODE),
				 errmsg("%s is not active", catalog_describe(stock_id))));
	if (type == EVENT_ISSUE && item->lot_blocked)
		ereport(ERROR,
				(errcode(ERRCODE_IV_LOT_BLOCKED),
				 errmsg("the lot of %s is blocked", catalog_describe(stock_id))));
	if (type == EVENT_ISSUE && catalog_lot_expired(item))
		ereport(ERROR,
				(errcode(ERRCODE_IV_LOT_EXPIRED),
				 errmsg("the lot of %s has expired", catalog_describe(stock_id))));
}

/*
 * Moves the levels by an event, or refuses it.  The functions have checked the
 * floors and been granted what they need; nothing else is taken for them.
 */
static void
event_apply(int64 stock_id, EventType type, int64 on_hand_delta,
			int64 promised_delta)
{
	LevelTouch *touch;
	StockItem		item;
	int64		available_delta;
	int64		floor = LEVEL_NO_FLOOR;
	bool		serial = false;

	memset(&item, 0, sizeof(item));
	if (!engine_writing)
	{
		event_check_item(stock_id, type, &item);
		serial = item.tracking == SKU_TRACKING_SERIAL;
		if (type == EVENT_ISSUE)
			floor = item.floor;
	}
	touch = level_touch(stock_id, serial);

	/* An expired hold has left the promises at its deadline already. */
	if (type == EVENT_EXPIRE)
		return;
	if (pg_sub_s64_overflow(on_hand_delta, promised_delta, &available_delta))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("bigint out of range")));

	event_move(touch, stock_id, LEVEL_ON_HAND, on_hand_delta, 0, &item);
	event_move(touch, stock_id, LEVEL_AVAILABLE, available_delta, floor, &item);
	if (serial && level_seen(touch, LEVEL_ON_HAND) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_IV_LOT_MISMATCH),
				 errmsg("%s is a serial number: there can be only one of it",
						catalog_describe(stock_id))));
}

static int64
slot_int64(TupleTableSlot *slot, int column)
{
	bool		isnull;

	return DatumGetInt64(slot_getattr(slot, column, &isnull));
}

/* What a plain INSERT or COPY may not say. */
static void
event_check_foreign(EventType type, int64 on_hand_delta, int64 reserved_delta,
					int64 committed_delta)
{
	if (reserved_delta != 0 || committed_delta != 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_ENGINE_ONLY),
				 errmsg("reserved and committed change through reservations only"),
				 errhint("Use reserve(), confirm(), ship() and release().")));
	if ((type == EVENT_RECEIVE && on_hand_delta > 0) ||
		(type == EVENT_ISSUE && on_hand_delta < 0) ||
		(type == EVENT_ADJUST && on_hand_delta != 0) ||
		type == EVENT_COUNT)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_IV_ENGINE_ONLY),
			 errmsg("an event of type %s with on_hand_delta " INT64_FORMAT " cannot be inserted directly",
					type_names[type], on_hand_delta),
			 errhint("Use the function of that name.")));
}

/* The trigger is of no use on a table of another shape. */
static void
event_check_table(TupleDesc descriptor)
{
	if (descriptor->natts != EVENT_COLUMNS ||
		TupleDescAttr(descriptor, EVENT_RECORDED_AT - 1)->atttypid != TIMESTAMPTZOID ||
		TupleDescAttr(descriptor, EVENT_XID - 1)->atttypid != XID8OID)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("%s can be used on the event table only", "event_applied")));
}

static void
event_check_transaction(TupleTableSlot *slot)
{
	bool		isnull;
	Datum		xid = slot_getattr(slot, EVENT_XID, &isnull);

	if (!FullTransactionIdEquals(DatumGetFullTransactionId(xid),
								 GetTopFullTransactionId()))
		ereport(ERROR,
				(errcode(ERRCODE_IV_ENGINE_ONLY),
				 errmsg("xid of an event must be the transaction's own"),
				 errhint("Leave it to the column's default. To load a dump, set inventory.restoring first.")));
	if (slot_int64(slot, EVENT_RECORDED_AT) != clock_transaction_time())
		ereport(ERROR,
				(errcode(ERRCODE_IV_ENGINE_ONLY),
				 errmsg("recorded_at of an event must be the transaction's own"),
				 errhint("Leave it to the column's default; effective_at says when it happened. To load a dump, set inventory.restoring first.")));
}

/*
 * Trigger: an event was inserted.
 */
Datum
inventory_event_applied(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	TupleTableSlot *slot;
	EventType	type;
	bool		isnull;
	int64		stock_id;
	int64		on_hand_delta;
	int64		reserved_delta;
	int64		committed_delta;

	if (inventory_restoring)
		return PointerGetDatum(NULL);
	inventory_check_loaded();
	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BY_INSERT(trigdata->tg_event) ||
		!TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("%s must be called as an AFTER INSERT ROW trigger",
						"event_applied")));

	slot = trigdata->tg_trigslot;
	event_check_table(RelationGetDescr(trigdata->tg_relation));
	stock_id = slot_int64(slot, EVENT_STOCK_ID);
	type = event_type_from_oid(DatumGetObjectId(slot_getattr(slot, EVENT_TYPE, &isnull)));
	on_hand_delta = slot_int64(slot, EVENT_ON_HAND_DELTA);
	reserved_delta = slot_int64(slot, EVENT_RESERVED_DELTA);
	committed_delta = slot_int64(slot, EVENT_COMMITTED_DELTA);

	event_check_transaction(slot);
	events_inserted = true;
	delivery_written(1u << type);
	partition_written(RelationGetRelid(trigdata->tg_relation));
	if (!engine_writing)
		event_check_foreign(type, on_hand_delta, reserved_delta, committed_delta);
	event_apply(stock_id, type, on_hand_delta, reserved_delta + committed_delta);
	return PointerGetDatum(NULL);
}

/*
 * Trigger: an event would be changed.
 */
Datum
inventory_event_append_only(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("%s must be called as a trigger", "event_append_only")));
	if (inventory_restoring)
		return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ?
							   trigdata->tg_newtuple : trigdata->tg_trigtuple);
	ereport(ERROR,
			(errcode(ERRCODE_IV_ENGINE_ONLY),
			 errmsg("table \"%s\" is append-only: %s is not possible",
					RelationGetRelationName(trigdata->tg_relation),
					TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ? "UPDATE" :
					TRIGGER_FIRED_BY_DELETE(trigdata->tg_event) ? "DELETE" : "TRUNCATE"),
			 errhint("Correct an event by another one: reverse(), adjust() or set_on_hand().")));
}

/* ---- Loading a level from the events ---- */

/*
 * What the tables say; false if there is no such stock item.  Without this
 * transaction's own rows: it has not touched the item yet, so their triggers
 * are still to come.
 */
static bool
event_read_level(int64 stock_id, LevelBase *base)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EventSpan	span = {.recorded_until = DT_NOEND};
	EventSums	sums;
	Tick		tick;
	bool		found = tail_stock_row(stock_id, snapshot, &sums);

	tick_latest(snapshot, &tick);
	span.after = tick.tick_id ? &tick.boundary : NULL;
	span.except_xid = U64FromFullTransactionId(GetTopFullTransactionIdIfAny());
	if (found)
		tail_add_item(stock_id, &span, snapshot, &sums);
	UnregisterSnapshot(snapshot);
	base->on_hand = sums.on_hand;
	base->available = sums.on_hand - sums.reserved - sums.committed;
	return found;
}

static void
event_load_level(int64 stock_id, LevelBase *base)
{
	inventory_check_not_restoring();
	if (!event_read_level(stock_id, base))
		ereport(ERROR,
				(errcode(ERRCODE_IV_UNKNOWN_CODE),
				 errmsg("there is no stock item " INT64_FORMAT, stock_id)));
}

static void
event_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && events_inserted)
		worker_wake();
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
		events_inserted = false;
}

void
event_init(void)
{
	level_loader = event_load_level;
	RegisterXactCallback(event_xact_callback, NULL);
}

/*
 * Computes a level anew and compares, while no transaction is moving it.  NULLs
 * when it agrees, is not in memory, or is being moved.
 */
Datum
inventory_level_differs(PG_FUNCTION_ARGS)
{
	int64		stock_id = PG_GETARG_INT64(0);
	TupleDesc	descriptor;
	Datum		values[4];
	bool		nulls[4] = {true, true, true, true};
	int64		on_hand;
	int64		available;
	bool		quiet = false;

	inventory_check_loaded();
	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	for (int tries = 0; !quiet && tries < 10; tries++)
		quiet = level_lock_quiet(stock_id);
	if (quiet && level_peek_base(stock_id, &on_hand, &available))
	{
		LevelBase	base;

		/* An item whose creation was rolled back has nothing. */
		(void) event_read_level(stock_id, &base);
		if (base.on_hand != on_hand || base.available != available)
		{
			memset(nulls, false, sizeof(nulls));
			values[0] = Int64GetDatum(base.on_hand);
			values[1] = Int64GetDatum(on_hand);
			values[2] = Int64GetDatum(base.available);
			values[3] = Int64GetDatum(available);
		}
	}
	if (quiet)
		level_unlock_quiet(stock_id);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(descriptor, values, nulls)));
}
