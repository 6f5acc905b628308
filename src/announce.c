/*-------------------------------------------------------------------------
 *
 * announce.c
 *		The engine's own messages about stock.
 *
 *	 inventory.adjustment			one per adjust() or set_on_hand()
 *	 inventory.reservation.expired	one per reservation and settlement, with the
 *									lines that it settled
 *	 inventory.stock.shortage		available of a good stock item has come to
 *									zero or below ...
 *	 inventory.stock.back			... and is above it again
 *
 * They are written by the transaction that makes them true, so they are there
 * exactly when that is.  docs/outbox.md has their payloads.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "announce.h"
#include "message.h"
#include "outbox.h"

/* ---- Payloads ---- */

static void
put_name(JsonbParseState **state, const char *name)
{
	JsonbValue	key = {.type = jbvString};

	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	pushJsonbValue(state, WJB_KEY, &key);
}

/* NULLs are left out. */
static void
put_string(JsonbParseState **state, const char *name, const char *string)
{
	JsonbValue	value = {.type = jbvString};

	if (string == NULL)
		return;
	value.val.string.val = unconstify(char *, string);
	value.val.string.len = strlen(string);
	put_name(state, name);
	pushJsonbValue(state, WJB_VALUE, &value);
}

static void
put_text(JsonbParseState **state, const char *name, const text *value)
{
	put_string(state, name, value ? text_to_cstring(value) : NULL);
}

static void
put_number(JsonbParseState **state, const char *name, int64 number)
{
	JsonbValue	value = {.type = jbvNumeric};

	value.val.numeric = int64_to_numeric(number);
	put_name(state, name);
	pushJsonbValue(state, WJB_VALUE, &value);
}

static Jsonb *
payload_end(JsonbParseState **state)
{
	return JsonbValueToJsonb(pushJsonbValue(state, WJB_END_OBJECT, NULL));
}

/* ---- Adjustments ---- */

void
announce_adjustment(const Codes *codes, const Event *event)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	put_number(&state, "event_id", event->event_id);
	put_string(&state, "type", event_type_name(event->type));
	put_text(&state, "sku", codes->sku);
	put_text(&state, "location", codes->location);
	put_text(&state, "lot", codes->lot);
	put_text(&state, "condition", codes->condition);
	put_number(&state, "on_hand_delta", event->on_hand_delta);
	put_text(&state, "reason", event->note->reason);
	put_text(&state, "reference", event->note->reference);
	(void) outbox_append("inventory.adjustment",
						 psprintf("%s@%s", text_to_cstring(codes->sku),
								  text_to_cstring(codes->location)),
						 payload_end(&state));
}

/* ---- Expired reservations ---- */

static int
expired_compare(const void *a, const void *b)
{
	const ExpiredLine *x = a;
	const ExpiredLine *y = b;

	if (x->reservation_id != y->reservation_id)
		return x->reservation_id < y->reservation_id ? -1 : 1;
	return x->line_no < y->line_no ? -1 : x->line_no > y->line_no;
}

static void
put_expired_line(JsonbParseState **state, const ExpiredLine *line)
{
	const ItemCodes *codes = message_item(line->stock_id);

	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	put_number(state, "line_no", line->line_no);
	put_string(state, "sku", codes->sku);
	put_string(state, "location", codes->location);
	put_string(state, "lot", codes->lot);
	put_number(state, "quantity", line->quantity);
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/* The lines of one reservation. */
static void
announce_reservation(const ExpiredLine *lines, int count)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	put_number(&state, "reservation_id", lines[0].reservation_id);
	put_string(&state, "owner", lines[0].owner);
	put_name(&state, "lines");
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < count; i++)
		put_expired_line(&state, &lines[i]);
	pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	(void) outbox_append("inventory.reservation.expired",
						 psprintf(INT64_FORMAT, lines[0].reservation_id),
						 payload_end(&state));
}

void
announce_expired(ExpiredLine *lines, int count)
{
	MemoryContext context;
	MemoryContext caller;

	if (count == 0)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "inventory messages",
									ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	message_forget_items();		/* they may have been renamed */
	qsort(lines, count, sizeof(ExpiredLine), expired_compare);
	for (int start = 0, next; start < count; start = next)
	{
		for (next = start + 1; next < count; next++)
		{
			if (lines[next].reservation_id != lines[start].reservation_id)
				break;
		}
		announce_reservation(&lines[start], next - start);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

/* ---- Shortages ---- */

static void
announce_figures(const char *topic, const StockFigures *figures)
{
	const ItemCodes *codes;
	JsonbParseState *state = NULL;

	message_forget_items();		/* they may have been renamed */
	codes = message_item(figures->stock_id);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	put_string(&state, "sku", codes->sku);
	put_string(&state, "location", codes->location);
	put_string(&state, "lot", codes->lot);
	put_number(&state, "available", figures->on_hand - figures->reserved -
			   figures->committed - figures->safety_stock);
	put_number(&state, "on_hand", figures->on_hand);
	put_number(&state, "reserved", figures->reserved);
	put_number(&state, "committed", figures->committed);
	put_number(&state, "safety_stock", figures->safety_stock);
	(void) outbox_append(topic, codes->key, payload_end(&state));
}

void
announce_shortage(const StockFigures *figures)
{
	announce_figures("inventory.stock.shortage", figures);
}

void
announce_back(const StockFigures *figures)
{
	announce_figures("inventory.stock.back", figures);
}
