/*-------------------------------------------------------------------------
 *
 * engine_message.c
 *		The engine's own messages: what they are about and what they say.
 *
 * They are published by the transaction that does what they tell, so there is
 * one if and only if it has been done; docs/engine_message.md describes them.  An
 * older version of the extension has nowhere to put them, and goes on without.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "engine_message.h"
#include "json_object.h"
#include "message.h"
#include "outbox.h"
#include "query.h"

#define TOPIC_EXPIRED "inventory.reservation.expired"
#define TOPIC_ADJUSTMENT "inventory.adjustment"
#define TOPIC_SHORTAGE "inventory.stock.shortage"
#define TOPIC_BACK "inventory.stock.back"

/* As message_time() writes it. */
#define SQL_TIME(at) \
	"rtrim(rtrim(to_char(" at " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US'), '0'), '.') || 'Z'"

static bool
can_publish(void)
{
	return OidIsValid(catalog_relations()->outbox_segment);
}

static Datum *
make_column(int count)
{
	return MemoryContextAllocHuge(CurrentMemoryContext, count * sizeof(Datum));
}

static Datum
int64_array(Datum *elements, int count)
{
	return PointerGetDatum(construct_array(elements, count, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* ---- Reservations ---- */

/*
 * One message per reservation, however many of its lines there are.
 */
void
engine_message_expired(const ExpiredLine *lines, int count)
{
	static Statement statement = {
		"SELECT d.reservation_id::text, jsonb_strip_nulls(jsonb_build_object("
		"  'reservation_id', d.reservation_id, 'owner', min(r.owner), 'reference', min(r.reference),"
		"  'lines', jsonb_agg(jsonb_build_object('line_no', d.line_no, 'sku', s.sku,"
		"   'location', l.location, 'lot', t.lot, 'condition', k.condition,"
		"   'quantity', d.quantity, 'expires_at', " SQL_TIME("d.deadline") ") ORDER BY d.line_no)))"
		" FROM unnest($1, $2, $3, $4) AS d(reservation_id, line_no, quantity, deadline)"
		" JOIN inventory.reservation r ON r.reservation_id = d.reservation_id AND r.line_no = d.line_no"
		" JOIN inventory.stock k ON k.stock_id = r.stock_id"
		" JOIN inventory.sku s ON s.sku_id = k.sku_id"
		" JOIN inventory.location l ON l.location_id = k.location_id"
		" LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id"
		" GROUP BY d.reservation_id ORDER BY min(d.deadline), d.reservation_id",
		4, {INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID}
	};
	Datum	   *columns[4];
	Datum		values[4];
	uint64		messages;

	if (count == 0 || !can_publish())
		return;
	for (int column = 0; column < 4; column++)
		columns[column] = make_column(count);
	for (int i = 0; i < count; i++)
	{
		columns[0][i] = Int64GetDatum(lines[i].reservation_id);
		columns[1][i] = Int64GetDatum(lines[i].line_no);
		columns[2][i] = Int64GetDatum(lines[i].quantity);
		columns[3][i] = TimestampTzGetDatum(lines[i].deadline);
	}
	for (int column = 0; column < 3; column++)
		values[column] = int64_array(columns[column], count);
	values[3] = PointerGetDatum(construct_array(columns[3], count, TIMESTAMPTZOID,
												sizeof(TimestampTz),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	query_begin();
	messages = query_run(&statement, values, NULL);
	for (uint64 i = 0; i < messages; i++)
	{
		bool		isnull;
		char	   *key = query_text(i, 1);

		(void) outbox_append(TOPIC_EXPIRED, key,
							 DatumGetJsonbP(query_value(i, 2, &isnull)));
		pfree(key);
	}
	query_end();
}

/* ---- Movements ---- */

void
engine_message_adjusted(const Adjustment *adjustment)
{
	const Codes *codes = adjustment->codes;
	const EventNote *note = adjustment->note;
	char	   *key;
	JsonObject	object;

	if (!can_publish())
		return;
	key = psprintf("%s@%s", text_to_cstring(codes->sku),
				   text_to_cstring(codes->location));
	json_object_begin(&object);
	json_object_number(&object, "event_id", adjustment->event_id);
	json_object_string(&object, "type", event_type_name(adjustment->type));
	json_object_text(&object, "sku", codes->sku);
	json_object_text(&object, "location", codes->location);
	json_object_text(&object, "lot", codes->lot);
	json_object_text(&object, "condition", codes->condition);
	json_object_number(&object, "on_hand_delta", adjustment->on_hand_delta);
	if (adjustment->type == EVENT_COUNT)
	{
		json_object_number(&object, "expected", adjustment->expected);
		json_object_number(&object, "counted", adjustment->counted);
	}
	json_object_text(&object, "request_id", note->request_id);
	json_object_text(&object, "reference", note->reference);
	json_object_text(&object, "reason", note->reason);
	json_object_text(&object, "actor", adjustment->actor);
	json_object_string(&object, "recorded_at", message_time(clock_transaction_time()));
	if (note->has_effective_at)
		json_object_string(&object, "effective_at", message_time(note->effective_at));
	json_object_json(&object, "metadata", note->metadata);
	(void) outbox_append(TOPIC_ADJUSTMENT, key, json_object_end(&object));
	pfree(key);
}

/* ---- Shortages ---- */

static void
crossing_publish(const Crossing *crossing, uint64 row)
{
	const EventSums *sums = &crossing->sums;
	char	   *key = psprintf("%s@%s", query_text(row, 2), query_text(row, 3));
	JsonObject	object;

	json_object_begin(&object);
	json_object_string(&object, "sku", query_text(row, 2));
	json_object_string(&object, "location", query_text(row, 3));
	json_object_string(&object, "lot", query_text(row, 4));
	json_object_number(&object, "available", sums->on_hand - sums->reserved -
					   sums->committed - crossing->safety_stock);
	json_object_number(&object, "on_hand", sums->on_hand);
	json_object_number(&object, "reserved", sums->reserved);
	json_object_number(&object, "committed", sums->committed);
	json_object_number(&object, "safety_stock", crossing->safety_stock);
	(void) outbox_append(crossing->is_short ? TOPIC_SHORTAGE : TOPIC_BACK, key,
						 json_object_end(&object));
}

void
engine_message_crossed(const Crossing *crossings, int count)
{
	static Statement statement = {
		"SELECT d.n, s.sku, l.location, t.lot"
		" FROM unnest($1) WITH ORDINALITY AS d(stock_id, n)"
		" JOIN inventory.stock k ON k.stock_id = d.stock_id"
		" JOIN inventory.sku s ON s.sku_id = k.sku_id"
		" JOIN inventory.location l ON l.location_id = k.location_id"
		" LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id"
		" ORDER BY d.stock_id",
		1, {INT8ARRAYOID}
	};
	Datum	   *items;
	Datum		values[1];
	uint64		messages;

	if (count == 0 || !can_publish())
		return;
	items = make_column(count);
	for (int i = 0; i < count; i++)
		items[i] = Int64GetDatum(crossings[i].stock_id);
	values[0] = int64_array(items, count);
	query_begin();
	messages = query_run(&statement, values, NULL);
	for (uint64 i = 0; i < messages; i++)
		crossing_publish(&crossings[query_int64(i, 1) - 1], i);
	query_end();
}
