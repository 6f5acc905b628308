/*-------------------------------------------------------------------------
 *
 * movement.c
 *		receive, issue, adjust, set_on_hand, transfer, reverse, post.
 *
 * Each is a list of movements, executed in one way: look up the stock items,
 * make those that are missing, lock them in order, add up per stock item what
 * must be taken, take it, write the events.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/xid8.h"

#include "call.h"
#include "engine_message.h"
#include "error.h"
#include "lines.h"
#include "query.h"

/* One change of one stock item that a call asks for. */
typedef struct Movement
{
	EventType	type;
	Codes		codes;			/* sku NULL: known by its number alone */
	StockItem		item;
	const EventNote *note;
	int64		on_hand_delta;
	bool		promise;		/* stops at the floor of available */
	bool		counts;			/* on hand becomes quantity, if as expected */
	int64		quantity;
	int64		expected;
	int64		reverses;		/* or 0 */
	int64		event_id;
	LevelTouch *touch;
} Movement;

PG_FUNCTION_INFO_V1(inventory_receive);
PG_FUNCTION_INFO_V1(inventory_issue);
PG_FUNCTION_INFO_V1(inventory_adjust);
PG_FUNCTION_INFO_V1(inventory_set_on_hand);
PG_FUNCTION_INFO_V1(inventory_transfer);
PG_FUNCTION_INFO_V1(inventory_reverse);
PG_FUNCTION_INFO_V1(inventory_post_json);
PG_FUNCTION_INFO_V1(inventory_post_array);

static const char *
movement_describe(const Movement *movement)
{
	return movement->codes.sku ? catalog_describe_codes(&movement->codes) :
		catalog_describe(movement->item.stock_id);
}

/* ---- Looking up ---- */

static void
movement_check_serial(const Movement *movement)
{
	if (movement->item.tracking == SKU_TRACKING_SERIAL &&
		(movement->on_hand_delta > 1 || (movement->counts && movement->quantity > 1)))
		ereport(ERROR,
				(errcode(ERRCODE_IV_LOT_MISMATCH),
				 errmsg("%s is a serial number: there can be only one of it",
						movement_describe(movement))));
}

static int
movement_compare_keys(const void *a, const void *b)
{
	const Movement *x = *(Movement *const *) a;
	const Movement *y = *(Movement *const *) b;

#define COMPARE(field) \
	if (x->item.field != y->item.field) \
		return x->item.field < y->item.field ? -1 : 1
	COMPARE(sku_id);
	COMPARE(location_id);
	COMPARE(lot_id);
#undef COMPARE
	return strcmp(text_to_cstring(x->codes.condition),
				  text_to_cstring(y->codes.condition));
}

/* Makes the stock items that are missing, in an order that all calls keep. */
static void
movement_create_items(Movement *movements, int count)
{
	Movement  **missing = palloc(count * sizeof(Movement *));
	int			n = 0;

	for (int i = 0; i < count; i++)
	{
		if (movements[i].item.stock_id == 0)
			missing[n++] = &movements[i];
	}
	if (n > 1)
		qsort(missing, n, sizeof(Movement *), movement_compare_keys);
	for (int i = 0; i < n; i++)
		catalog_create_item(&missing[i]->codes, &missing[i]->item);
	pfree(missing);
}

/*
 * Finds the stock items of the movements, and checks that they may be moved.
 */
static void
movement_resolve(Movement *movements, int count)
{
	for (int i = 0; i < count; i++)
	{
		Movement   *movement = &movements[i];

		catalog_item(&movement->codes, &movement->item);
		catalog_check_active(&movement->codes, &movement->item);
		if (movement->type == EVENT_ISSUE)
			catalog_check_promisable(&movement->codes, &movement->item);
		movement_check_serial(movement);
	}
	event_prepare();
	movement_create_items(movements, count);
}

/* ---- Taking ---- */

static int
movement_compare_places(const void *a, const void *b)
{
	const Movement *x = *(Movement *const *) a;
	const Movement *y = *(Movement *const *) b;
	int			order = level_compare_places(&x->item.stock_id, &y->item.stock_id);

	if (order != 0)
		return order;
	return x < y ? -1 : x > y;	/* lines of one item in their order */
}

static Movement **
movement_sort(Movement *movements, int count)
{
	Movement  **sorted = palloc(count * sizeof(Movement *));

	for (int i = 0; i < count; i++)
		sorted[i] = &movements[i];
	if (count > 1)
		qsort(sorted, count, sizeof(Movement *), movement_compare_places);
	return sorted;
}

/* Counting looks at what no other transaction is moving; so do serials. */
static bool
movement_is_exclusive(const Movement *movement)
{
	return movement->counts || movement->reverses != 0 ||
		(movement->item.tracking == SKU_TRACKING_SERIAL &&
		 movement->on_hand_delta > 0);
}

/* Touches the stock items; true if one of them exclusively. */
static bool
movement_touch(Movement **sorted, int count)
{
	bool		any_exclusive = false;

	for (int i = 0; i < count;)
	{
		int			end = i;
		bool		exclusive = false;

		/* One lock is taken once, in the stronger mode. */
		while (end < count && level_same_stripe(sorted[i]->item.stock_id,
												sorted[end]->item.stock_id))
			exclusive |= movement_is_exclusive(sorted[end++]);
		for (; i < end; i++)
			sorted[i]->touch = level_touch(sorted[i]->item.stock_id, exclusive);
		any_exclusive |= exclusive;
	}
	return any_exclusive;
}

/* What the lines of one stock item need from its counters. */
typedef struct Need
{
	LevelTouch *touch;
	const Movement *first;		/* to name in an error */
	int64		floor;			/* of available */
	int64		on_hand;		/* to take */
	int64		available;
	int64		promised;		/* asked for, for the message */
	int64		on_hand_change; /* of all lines so far */
	int64		available_change;
	int64		on_hand_credit; /* added by earlier lines, not used yet */
	int64		available_credit;
	int64		lowest_available_change;	/* after a promise */
	bool		promises;
} Need;

static int64
add_or_fail(int64 a, int64 b)
{
	int64		sum;

	if (pg_add_s64_overflow(a, b, &sum))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("bigint out of range")));
	return sum;
}

static void
need_debit(int64 *need, int64 *credit, int64 quantity)
{
	int64		own = Min(*credit, quantity);

	*credit -= own;
	*need = add_or_fail(*need, quantity - own);
}

/* Sets the delta of a count, given the lines before it. */
static void
movement_count(Movement *movement, const Need *need)
{
	int64		on_hand = level_seen(movement->touch, LEVEL_ON_HAND) +
		need->on_hand_change;

	if (on_hand != movement->expected)
		ereport(ERROR,
				(errcode(ERRCODE_IV_ON_HAND_MISMATCH),
				 errmsg("on hand of %s is " INT64_FORMAT ", not " INT64_FORMAT,
						movement_describe(movement), on_hand, movement->expected),
				 errhint("Count again, and pass what is expected now.")));
	movement->on_hand_delta = movement->quantity - on_hand;
}

static void
need_add(Need *need, Movement *movement)
{
	int64		delta;

	if (movement->counts)
		movement_count(movement, need);
	delta = movement->on_hand_delta;
	if (delta >= 0)
	{
		need->on_hand_credit = add_or_fail(need->on_hand_credit, delta);
		need->available_credit = add_or_fail(need->available_credit, delta);
	}
	else
	{
		if (delta == PG_INT64_MIN)
			add_or_fail(delta, -1);
		need_debit(&need->on_hand, &need->on_hand_credit, -delta);
		if (movement->promise)
		{
			need_debit(&need->available, &need->available_credit, -delta);
			need->promised = add_or_fail(need->promised, -delta);
		}
		else
			need->available_credit -= Min(need->available_credit, -delta);
	}
	need->on_hand_change = add_or_fail(need->on_hand_change, delta);
	need->available_change = add_or_fail(need->available_change, delta);
	if (movement->promise)
	{
		need->lowest_available_change = need->promises ?
			Min(need->lowest_available_change, need->available_change) :
			need->available_change;
		need->promises = true;
		need->floor = movement->item.floor;
	}
}

/* Adds up the lines, already sorted, per stock item. */
static Need *
movement_needs(Movement **sorted, int count, int *need_count)
{
	Need	   *needs = palloc0(count * sizeof(Need));
	int			n = 0;

	for (int i = 0; i < count; i++)
	{
		if (n == 0 || needs[n - 1].touch != sorted[i]->touch)
		{
			needs[n].touch = sorted[i]->touch;
			needs[n].first = sorted[i];
			n++;
		}
		need_add(&needs[n - 1], sorted[i]);
	}
	*need_count = n;
	return needs;
}

/* Whether it looks as if the need can be met; taking it will tell. */
static bool
need_is_met(const Need *need)
{
	int64		after;

	if (need->on_hand > 0 &&
		level_seen(need->touch, LEVEL_ON_HAND) < need->on_hand)
		return false;
	if (!need->promises)
		return true;
	return !pg_add_s64_overflow(level_seen(need->touch, LEVEL_AVAILABLE),
								need->lowest_available_change, &after) &&
		after >= need->floor;
}

static bool
need_take(const Need *need)
{
	return level_take(need->touch, LEVEL_ON_HAND, need->on_hand, 0) &&
		level_take(need->touch, LEVEL_AVAILABLE, need->available, need->floor);
}

static void
need_refuse(const Need *need)
{
	int64		on_hand = level_seen(need->touch, LEVEL_ON_HAND);
	int64		available = level_seen(need->touch, LEVEL_AVAILABLE) -
		need->first->item.safety_stock;

	if (!need->promises)
		event_raise_insufficient(movement_describe(need->first), need->on_hand,
								 on_hand, on_hand);
	event_raise_insufficient(movement_describe(need->first), need->promised,
							 Min(available, on_hand), on_hand);
}

static void
movement_check_serials(Movement **sorted, int count, const Need *needs)
{
	const Need *need = needs;

	for (int i = 0; i < count; i++)
	{
		while (need->touch != sorted[i]->touch)
			need++;
		if (sorted[i]->item.tracking == SKU_TRACKING_SERIAL &&
			level_seen(need->touch, LEVEL_ON_HAND) + need->on_hand_change > 1)
			ereport(ERROR,
					(errcode(ERRCODE_IV_LOT_MISMATCH),
					 errmsg("%s is a serial number: there can be only one of it",
							movement_describe(sorted[i]))));
	}
}

/* ---- Writing ---- */

static void
movement_write(EventWriter *writer, Movement **sorted, int count)
{
	Event	   *events = palloc0(count * sizeof(Event));

	for (int i = 0; i < count; i++)
	{
		events[i].event_id = sorted[i]->event_id;
		events[i].stock_id = sorted[i]->item.stock_id;
		events[i].type = sorted[i]->type;
		events[i].on_hand_delta = sorted[i]->on_hand_delta;
		events[i].reverses = sorted[i]->reverses;
		events[i].note = sorted[i]->note;
	}
	event_write_many(writer, events, count);
	pfree(events);
}

/* Publishes what has been put right. */
static void
movement_tell(const Movement *movements, int count, const text *actor)
{
	for (int i = 0; i < count; i++)
	{
		const Movement *movement = &movements[i];

		if (movement->type == EVENT_ADJUST || movement->type == EVENT_COUNT)
			engine_message_adjusted(&(Adjustment) {
				.event_id = movement->event_id,
				.type = movement->type,
				.codes = &movement->codes,
				.on_hand_delta = movement->on_hand_delta,
				.expected = movement->expected,
				.counted = movement->quantity,
				.note = movement->note,
				.actor = actor,
			});
	}
}

/*
 * Executes resolved movements, all or nothing, and sets the call's result: the
 * number of events, or the first event's id.
 */
static void
movement_execute(Call *call, Movement *movements, int count, bool returns_count)
{
	Movement  **sorted = movement_sort(movements, count);
	EventWriter writer;
	Need	   *needs;
	int			need_count;
	bool		recorded;

	/* The wait for an exclusive lock may have been for this very request. */
	if (movement_touch(sorted, count) &&
		request_find(&call->request, &call->result))
		return;
	needs = movement_needs(sorted, count, &need_count);
	movement_check_serials(sorted, count, needs);
	for (int i = 0; i < need_count; i++)
	{
		/* It may be short because this very request has taken the stock. */
		if (!need_is_met(&needs[i]) &&
			request_find(&call->request, &call->result))
			return;
		if (!need_is_met(&needs[i]))
			need_refuse(&needs[i]);
	}

	for (int i = 0; i < count; i++)
		movements[i].event_id = event_next_id();
	call->result.value = returns_count ? count : movements[0].event_id;
	event_writer_begin(&writer);
	recorded = request_record(&call->request, writer.inserter, &call->result);
	if (recorded)
	{
		for (int i = 0; i < need_count; i++)
		{
			if (!need_take(&needs[i]))
				need_refuse(&needs[i]);
		}
		movement_write(&writer, sorted, count);
	}
	event_writer_end(&writer);
	if (recorded)
		movement_tell(movements, count, writer.actor);
}

/* ---- Functions of one movement ---- */

static Datum
movement_call(Call *call, FunctionCallInfo fcinfo, Movement *movements, int count)
{
	movement_resolve(movements, count);
	movement_execute(call, movements, count, false);
	return call_end(call, fcinfo);
}

static text *
good_condition(void)
{
	return cstring_to_text("good");
}

static void
movement_codes(Movement *movement, FunctionCallInfo fcinfo, int lot, int condition)
{
	movement->codes.sku = call_text(fcinfo, 0, "sku");
	movement->codes.location = call_text(fcinfo, 1, "location");
	movement->codes.lot = call_optional_text(fcinfo, lot);
	movement->codes.condition = call_text(fcinfo, condition, "condition");
}

/*
 * receive(sku, location, quantity, lot, condition, request_id, reference,
 *		   reason, effective_at, metadata), and issue() likewise
 */
static Datum
movement_simple(FunctionCallInfo fcinfo, Operation operation, EventType type)
{
	static const CallLayout layout = {5, 6, 7, 8, 9};
	Movement	movement = {.type = type};
	Call		call;

	if (call_begin(&call, fcinfo, operation, &layout))
		return call_end(&call, fcinfo);
	movement_codes(&movement, fcinfo, 3, 4);
	movement.quantity = call_int64(fcinfo, 2, "quantity");
	call_check_quantity(movement.quantity, &movement.codes);
	movement.promise = type == EVENT_ISSUE;
	movement.on_hand_delta = type == EVENT_ISSUE ? -movement.quantity :
		movement.quantity;
	movement.note = &call.note;
	return movement_call(&call, fcinfo, &movement, 1);
}

Datum
inventory_receive(PG_FUNCTION_ARGS)
{
	return movement_simple(fcinfo, OPERATION_RECEIVE, EVENT_RECEIVE);
}

Datum
inventory_issue(PG_FUNCTION_ARGS)
{
	return movement_simple(fcinfo, OPERATION_ISSUE, EVENT_ISSUE);
}

static void
check_delta(int64 delta, const Codes *codes)
{
	if (delta == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_QUANTITY),
				 errmsg("delta of %s must not be 0",
						catalog_describe_codes(codes))));
}

/*
 * adjust(sku, location, delta, reason, lot, condition, request_id, reference,
 *		  effective_at, metadata)
 */
Datum
inventory_adjust(PG_FUNCTION_ARGS)
{
	static const CallLayout layout = {6, 7, 3, 8, 9};
	Movement	movement = {.type = EVENT_ADJUST};
	Call		call;

	if (call_begin(&call, fcinfo, OPERATION_ADJUST, &layout))
		return call_end(&call, fcinfo);
	movement_codes(&movement, fcinfo, 4, 5);
	movement.on_hand_delta = call_int64(fcinfo, 2, "delta");
	(void) call_text(fcinfo, 3, "reason");
	check_delta(movement.on_hand_delta, &movement.codes);
	movement.note = &call.note;
	return movement_call(&call, fcinfo, &movement, 1);
}

static void
check_counted(int64 quantity, const Codes *codes)
{
	if (quantity < 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_QUANTITY),
				 errmsg("quantity of %s must not be negative: " INT64_FORMAT,
						catalog_describe_codes(codes), quantity)));
}

/*
 * set_on_hand(sku, location, quantity, expected, reason, lot, condition,
 *			   request_id, reference, effective_at, metadata)
 */
Datum
inventory_set_on_hand(PG_FUNCTION_ARGS)
{
	static const CallLayout layout = {7, 8, 4, 9, 10};
	Movement	movement = {.type = EVENT_COUNT, .counts = true};
	Call		call;

	if (call_begin(&call, fcinfo, OPERATION_SET_ON_HAND, &layout))
		return call_end(&call, fcinfo);
	movement_codes(&movement, fcinfo, 5, 6);
	movement.quantity = call_int64(fcinfo, 2, "quantity");
	movement.expected = call_int64(fcinfo, 3, "expected");
	check_counted(movement.quantity, &movement.codes);
	movement.note = &call.note;
	return movement_call(&call, fcinfo, &movement, 1);
}

static void
check_transfer(const Movement *legs)
{
	const text *from = legs[0].codes.location;
	const text *to = legs[1].codes.location;

	if (VARSIZE_ANY_EXHDR(from) == VARSIZE_ANY_EXHDR(to) &&
		memcmp(VARDATA_ANY(from), VARDATA_ANY(to), VARSIZE_ANY_EXHDR(from)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a transfer needs two locations, not \"%s\" twice",
						text_to_cstring(from))));
}

/* Makes both legs from the first one; they get successive event ids. */
static void
movement_transfer_legs(Movement *legs, text *to_location)
{
	call_check_quantity(legs[0].quantity, &legs[0].codes);
	legs[0].type = EVENT_TRANSFER_OUT;
	legs[0].promise = true;
	legs[0].on_hand_delta = -legs[0].quantity;
	legs[1] = legs[0];
	legs[1].type = EVENT_TRANSFER_IN;
	legs[1].codes.location = to_location;
	legs[1].promise = false;
	legs[1].on_hand_delta = legs[0].quantity;
	check_transfer(legs);
}

/*
 * transfer(sku, from_location, to_location, quantity, lot, condition,
 *			request_id, reference, reason, effective_at, metadata)
 */
Datum
inventory_transfer(PG_FUNCTION_ARGS)
{
	static const CallLayout layout = {6, 7, 8, 9, 10};
	Movement	legs[2] = {0};
	Call		call;

	if (call_begin(&call, fcinfo, OPERATION_TRANSFER, &layout))
		return call_end(&call, fcinfo);
	legs[0].codes.sku = call_text(fcinfo, 0, "sku");
	legs[0].codes.location = call_text(fcinfo, 1, "from_location");
	legs[0].codes.lot = call_optional_text(fcinfo, 4);
	legs[0].codes.condition = call_text(fcinfo, 5, "condition");
	legs[0].quantity = call_int64(fcinfo, 3, "quantity");
	legs[0].note = &call.note;
	movement_transfer_legs(legs, call_text(fcinfo, 2, "to_location"));
	return movement_call(&call, fcinfo, legs, 2);
}

/* ---- post ---- */

#define POST_FIELDS \
	(LINE_FIELD(LINE_TYPE) | LINE_FIELD(LINE_SKU) | LINE_FIELD(LINE_LOCATION) | \
	 LINE_FIELD(LINE_FROM_LOCATION) | LINE_FIELD(LINE_TO_LOCATION) | \
	 LINE_FIELD(LINE_LOT) | LINE_FIELD(LINE_CONDITION) | \
	 LINE_FIELD(LINE_REFERENCE) | LINE_FIELD(LINE_REASON) | \
	 LINE_FIELD(LINE_EFFECTIVE_AT) | LINE_FIELD(LINE_QUANTITY) | \
	 LINE_FIELD(LINE_EXPECTED) | LINE_FIELD(LINE_METADATA))

/* A line says for itself what it does not leave to the call. */
static const EventNote *
line_note(const Line *line, const EventNote *common)
{
	EventNote  *note;

	if ((line->given & (LINE_FIELD(LINE_REFERENCE) | LINE_FIELD(LINE_REASON) |
						LINE_FIELD(LINE_EFFECTIVE_AT) | LINE_FIELD(LINE_METADATA))) == 0)
		return common;
	note = palloc(sizeof(EventNote));
	*note = *common;
	if (line->texts[LINE_REFERENCE])
		note->reference = line->texts[LINE_REFERENCE];
	if (line->texts[LINE_REASON])
		note->reason = line->texts[LINE_REASON];
	if (line->metadata)
		note->metadata = line->metadata;
	if (line->given & LINE_FIELD(LINE_EFFECTIVE_AT))
	{
		note->has_effective_at = true;
		note->effective_at = line->effective_at;
	}
	return note;
}

static EventType
line_type(const Line *line, const char *name)
{
	static const EventType types[] = {
		EVENT_RECEIVE, EVENT_ISSUE, EVENT_ADJUST, EVENT_COUNT
	};

	for (int i = 0; i < lengthof(types); i++)
	{
		if (strcmp(name, event_type_name(types[i])) == 0)
			return types[i];
	}
	if (strcmp(name, "transfer") == 0)
		return EVENT_TRANSFER_OUT;
	ereport(ERROR,
			(errcode(ERRCODE_IV_INVALID_CHOICE),
			 errmsg("line %d: unknown movement type \"%s\"", line->number, name),
			 errhint("The types are receive, issue, adjust, transfer and count.")));
}

/* Makes the movements of a line; returns how many: a transfer has two. */
static int
line_movements(const Line *line, Movement *movements, const EventNote *common)
{
	Movement   *movement = &movements[0];
	bool		transfer;

	memset(movements, 0, sizeof(Movement));
	line_require(line, LINE_TYPE);
	line_require(line, LINE_SKU);
	line_require(line, LINE_QUANTITY);
	movement->type = line_type(line, text_to_cstring(line->texts[LINE_TYPE]));
	transfer = movement->type == EVENT_TRANSFER_OUT;
	line_require(line, transfer ? LINE_FROM_LOCATION : LINE_LOCATION);
	movement->codes.sku = line->texts[LINE_SKU];
	movement->codes.location = line->texts[transfer ? LINE_FROM_LOCATION : LINE_LOCATION];
	movement->codes.lot = line->texts[LINE_LOT];
	movement->codes.condition = line->texts[LINE_CONDITION] ?
		line->texts[LINE_CONDITION] : good_condition();
	movement->note = line_note(line, common);
	movement->quantity = line->quantity;

	switch (movement->type)
	{
		case EVENT_TRANSFER_OUT:
			line_require(line, LINE_TO_LOCATION);
			movement_transfer_legs(movements, line->texts[LINE_TO_LOCATION]);
			return 2;
		case EVENT_COUNT:
			line_require(line, LINE_EXPECTED);
			check_counted(line->quantity, &movement->codes);
			movement->counts = true;
			movement->expected = line->expected;
			break;
		case EVENT_ADJUST:
			check_delta(line->quantity, &movement->codes);
			movement->on_hand_delta = line->quantity;
			if (movement->note->reason == NULL)
				line_require(line, LINE_REASON);
			break;
		default:
			call_check_quantity(line->quantity, &movement->codes);
			movement->promise = movement->type == EVENT_ISSUE;
			movement->on_hand_delta = movement->promise ? -line->quantity :
				line->quantity;
	}
	return 1;
}

/*
 * post(movements, request_id, reference, reason, effective_at, metadata)
 */
Datum
inventory_post_json(PG_FUNCTION_ARGS)
{
	static const CallLayout layout = {1, 2, 3, 4, 5};
	Call		call;
	Line	   *lines;
	Movement   *movements;
	int			line_count;
	int			count = 0;

	if (call_begin(&call, fcinfo, OPERATION_POST, &layout))
		return call_end(&call, fcinfo);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", "movements")));
	lines = lines_parse(PG_GETARG_JSONB_P(0), POST_FIELDS, &line_count);
	movements = palloc_extended(2 * (Size) line_count * sizeof(Movement),
								MCXT_ALLOC_HUGE);
	for (int i = 0; i < line_count; i++)
		count += line_movements(&lines[i], &movements[count], &call.note);
	movement_resolve(movements, count);
	movement_execute(&call, movements, count, true);
	return call_end(&call, fcinfo);
}

static Datum *
array_argument(FunctionCallInfo fcinfo, int argument, const char *name,
			   Oid type, int *count)
{
	ArrayType  *array;
	Datum	   *elements;
	bool	   *nulls;
	int16		length;
	bool		by_value;
	char		align;

	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", name)));
	array = PG_GETARG_ARRAYTYPE_P(argument);
	get_typlenbyvalalign(type, &length, &by_value, &align);
	deconstruct_array(array, type, length, by_value, align, &elements, &nulls,
					  count);
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_LINES),
				 errmsg("%s must be a one-dimensional array", name)));
	for (int i = 0; i < *count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("element %d of %s must not be NULL", i + 1, name)));
	}
	return elements;
}

static EventType
bulk_type(const text *name)
{
	static const EventType types[] = {EVENT_RECEIVE, EVENT_ISSUE, EVENT_ADJUST};
	char	   *type = text_to_cstring(name);

	for (int i = 0; i < lengthof(types); i++)
	{
		if (strcmp(type, event_type_name(types[i])) == 0)
			return types[i];
	}
	ereport(ERROR,
			(errcode(ERRCODE_IV_INVALID_CHOICE),
			 errmsg("unknown movement type \"%s\"", type),
			 errhint("The types are receive, issue and adjust.")));
}

/*
 * post(type, skus, locations, quantities, lot, condition, request_id,
 *		reference, reason, effective_at, metadata)
 */
Datum
inventory_post_array(PG_FUNCTION_ARGS)
{
	static const CallLayout layout = {6, 7, 8, 9, 10};
	Call		call;
	Movement   *movements;
	EventType	type;
	Datum	   *skus;
	Datum	   *locations;
	Datum	   *quantities;
	text	   *lot;
	text	   *condition;
	int			count;
	int			location_count;
	int			quantity_count;

	if (call_begin(&call, fcinfo, OPERATION_POST, &layout))
		return call_end(&call, fcinfo);
	type = bulk_type(call_text(fcinfo, 0, "type"));
	skus = array_argument(fcinfo, 1, "skus", TEXTOID, &count);
	locations = array_argument(fcinfo, 2, "locations", TEXTOID, &location_count);
	quantities = array_argument(fcinfo, 3, "quantities", INT8OID, &quantity_count);
	if (count != location_count || count != quantity_count)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_LINES),
				 errmsg("skus, locations and quantities must be arrays of equal length, not %d, %d and %d",
						count, location_count, quantity_count)));
	lot = call_optional_text(fcinfo, 4);
	condition = call_text(fcinfo, 5, "condition");
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_LINES),
				 errmsg("there must be at least one line")));
	if (type == EVENT_ADJUST)
		(void) call_text(fcinfo, 8, "reason");

	movements = palloc_extended((Size) count * sizeof(Movement),
								MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (int i = 0; i < count; i++)
	{
		Movement   *movement = &movements[i];

		movement->type = type;
		movement->codes.sku = DatumGetTextPP(skus[i]);
		movement->codes.location = DatumGetTextPP(locations[i]);
		movement->codes.lot = lot;
		movement->codes.condition = condition;
		movement->quantity = DatumGetInt64(quantities[i]);
		movement->note = &call.note;
		movement->promise = type == EVENT_ISSUE;
		if (type == EVENT_ADJUST)
			check_delta(movement->quantity, &movement->codes);
		else
			call_check_quantity(movement->quantity, &movement->codes);
		movement->on_hand_delta = type == EVENT_ISSUE ? -movement->quantity :
			movement->quantity;
	}
	movement_resolve(movements, count);
	movement_execute(&call, movements, count, true);
	return call_end(&call, fcinfo);
}

/* ---- reverse ---- */

pg_noreturn static void
reverse_raise_unknown(int64 event_id)
{
	static Statement statement = {
		"SELECT max(a.recorded_until)::text FROM inventory.archived a WHERE a.last_event_id >= $1",
		1, {INT8OID}
	};
	Datum		values[1];
	char	   *until = NULL;

	values[0] = Int64GetDatum(event_id);
	if (OidIsValid(catalog_relations()->tick) &&
		query_run(&statement, values, NULL) > 0)
		until = query_text(0, 1);
	ereport(ERROR,
			(errcode(ERRCODE_IV_UNKNOWN_EVENT),
			 errmsg("there is no event " INT64_FORMAT, event_id),
			 until ? errdetail("Events recorded before %s have been archived.", until) : 0,
			 until ? errhint("Put the stock right by adjust() or set_on_hand().") : 0));
}

/* The event to be reversed; the other leg of a transfer as the second one. */
static int
reverse_find(int64 event_id, Movement *movements)
{
	static Statement statement = {
		"SELECT o.event_id, o.stock_id, o.on_hand_delta, o.xid, o.type::text"
		" FROM inventory.event v"
		" JOIN LATERAL (SELECT * FROM inventory.event o WHERE o.xid = v.xid"
		" AND (o.event_id = v.event_id"
		" OR v.type = 'transfer_out' AND o.event_id = (SELECT min(p.event_id) FROM inventory.event p"
		" WHERE p.xid = v.xid AND p.event_id > v.event_id)"
		" OR v.type = 'transfer_in' AND o.event_id = (SELECT max(p.event_id) FROM inventory.event p"
		" WHERE p.xid = v.xid AND p.event_id < v.event_id))) o ON true"
		" WHERE v.event_id = $1 ORDER BY o.event_id <> v.event_id LIMIT 3",
		1, {INT8OID}
	};
	Datum		values[1];
	bool		transfer;
	int			count;

	values[0] = Int64GetDatum(event_id);
	query_begin();
	count = (int) query_run(&statement, values, NULL);
	if (count == 0)
		reverse_raise_unknown(event_id);
	transfer = strcmp(query_text(0, 5), "transfer_out") == 0 ||
		strcmp(query_text(0, 5), "transfer_in") == 0;
	if (!transfer && strcmp(query_text(0, 5), "receive") != 0 &&
		strcmp(query_text(0, 5), "issue") != 0 &&
		strcmp(query_text(0, 5), "adjust") != 0 &&
		strcmp(query_text(0, 5), "count") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_NOT_REVERSIBLE),
				 errmsg("event " INT64_FORMAT " of type %s cannot be reversed",
						event_id, query_text(0, 5)),
				 errhint("Only movements can; give back a reservation by release().")));
	/* Whoever inserts events directly can give a number twice. */
	if (count != (transfer ? 2 : 1))
		ereport(ERROR,
				(errcode(ERRCODE_IV_NOT_REVERSIBLE),
				 errmsg("the number " INT64_FORMAT " does not stand for one event",
						event_id),
				 errhint("verify() lists event numbers that stand more than once.")));
	for (int i = 0; i < count; i++)
	{
		movements[i].type = EVENT_REVERSE;
		movements[i].reverses = query_int64(i, 1);
		movements[i].item.stock_id = query_int64(i, 2);
		movements[i].on_hand_delta = -query_int64(i, 3);
	}
	query_end();
	return count;
}

/* Under the exclusive lock of the stock item, nobody else can reverse it now. */
static void
reverse_check(const Movement *movement)
{
	static Statement statement = {
		"SELECT v.event_id FROM inventory.event v"
		" WHERE v.stock_id = $1 AND v.type = 'reverse' AND v.reverses = $2"
		" AND v.event_id > $2",
		2, {INT8OID, INT8OID}
	};
	Datum		values[2];

	values[0] = Int64GetDatum(movement->item.stock_id);
	values[1] = Int64GetDatum(movement->reverses);
	query_begin();
	if (query_run(&statement, values, NULL) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_NOT_REVERSIBLE),
				 errmsg("event " INT64_FORMAT " has been reversed by event " INT64_FORMAT,
						movement->reverses, query_int64(0, 1))));
	query_end();
}

/*
 * reverse(event_id, reason, request_id, reference, effective_at, metadata)
 */
Datum
inventory_reverse(PG_FUNCTION_ARGS)
{
	static const CallLayout layout = {2, 3, 1, 4, 5};
	Movement	movements[2] = {0};
	Movement  **sorted;
	Call		call;
	int			count;

	if (call_begin(&call, fcinfo, OPERATION_REVERSE, &layout))
		return call_end(&call, fcinfo);
	(void) call_text(fcinfo, 1, "reason");
	count = reverse_find(call_int64(fcinfo, 0, "event_id"), movements);
	for (int i = 0; i < count; i++)
	{
		(void) catalog_item_by_id(movements[i].item.stock_id, &movements[i].item);
		movements[i].note = &call.note;
	}
	event_prepare();
	sorted = movement_sort(movements, count);
	(void) movement_touch(sorted, count);
	if (request_find(&call.request, &call.result))
		return call_end(&call, fcinfo);
	for (int i = 0; i < count; i++)
		reverse_check(&movements[i]);
	movement_execute(&call, movements, count, false);
	return call_end(&call, fcinfo);
}
