/*-------------------------------------------------------------------------
 *
 * message.c
 *		Rows of the outbox and events, as messages.
 *
 * A message's id is its number in the log with the time of its transaction: a
 * failover may take the sequence back, and its numbers are given again, but not
 * at the same microsecond.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "json_object.h"
#include "catalog.h"
#include "message.h"
#include "query.h"
#include "topic.h"

/* Columns, as the install script has them. */
enum
{
	OUTBOX_MESSAGE_ID = 1, OUTBOX_TOPIC, OUTBOX_KEY, OUTBOX_PAYLOAD,
	OUTBOX_HEADERS, OUTBOX_CREATED_AT
};
enum
{
	EVENT_EVENT_ID = 1, EVENT_STOCK_ID, EVENT_TYPE, EVENT_ON_HAND_DELTA,
	EVENT_RESERVED_DELTA, EVENT_COMMITTED_DELTA, EVENT_RESERVATION_ID,
	EVENT_REQUEST_ID, EVENT_REFERENCE, EVENT_REASON, EVENT_ACTOR,
	EVENT_RECORDED_AT, EVENT_EFFECTIVE_AT, EVENT_XID, EVENT_REVERSES,
	EVENT_METADATA
};

/* Stock items whose codes are kept. */
#define ITEMS_MAX 100000

/* ---- Codes ---- */

static MemoryContext item_context = NULL;
static HTAB *items = NULL;
static uint64 items_of;		/* catalog_changes() when the first was read */

static void
items_forget(void)
{
	if (item_context)
		MemoryContextDelete(item_context);
	item_context = NULL;
	items = NULL;
}

static void
items_begin(void)
{
	HASHCTL		control = {.keysize = sizeof(int64), .entrysize = sizeof(ItemCodes)};

	items_of = catalog_changes();
	item_context = AllocSetContextCreate(TopMemoryContext, "inventory message items",
										 ALLOCSET_DEFAULT_SIZES);
	control.hcxt = item_context;
	items = hash_create("inventory message items", 1024, &control,
						HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
item_read(int64 stock_id, ItemCodes *codes)
{
	static Statement statement = {
		"SELECT s.sku, l.location, t.lot, k.condition, k.sku_id, k.location_id FROM inventory.stock k"
		" JOIN inventory.sku s USING (sku_id)"
		" JOIN inventory.location l USING (location_id)"
		" LEFT JOIN inventory.lot t USING (lot_id)"
		" WHERE k.stock_id = $1",
		1, {INT8OID}
	};
	Datum		values[1];
	MemoryContext old;

	values[0] = Int64GetDatum(stock_id);
	query_begin();
	if (query_run(&statement, values, NULL) != 1)
		elog(ERROR, "there is no stock item " INT64_FORMAT, stock_id);
	old = MemoryContextSwitchTo(item_context);
	codes->sku = pstrdup(query_text(0, 1));
	codes->location = pstrdup(query_text(0, 2));
	codes->lot = query_text(0, 3) ? pstrdup(query_text(0, 3)) : NULL;
	codes->condition = pstrdup(query_text(0, 4));
	codes->key = psprintf("%s@%s", codes->sku, codes->location);
	codes->key_hash = hash_combine(murmurhash32((uint32) query_int64(0, 5)),
								   murmurhash32((uint32) query_int64(0, 6)));
	MemoryContextSwitchTo(old);
	query_end();
}

/* Lives until the next call. */
const ItemCodes *
message_item(int64 stock_id)
{
	ItemCodes  *found;
	ItemCodes	codes;

	if (items && (items_of != catalog_changes() ||
				  hash_get_num_entries(items) >= ITEMS_MAX))
		items_forget();
	if (items == NULL)
		items_begin();
	found = hash_search(items, &stock_id, HASH_FIND, NULL);
	if (found)
		return found;
	codes.stock_id = stock_id;
	item_read(stock_id, &codes);
	found = hash_search(items, &stock_id, HASH_ENTER, NULL);
	*found = codes;
	return found;
}

/* ---- Payloads ---- */

static void
put_column_number(JsonObject *object, const char *name, TupleTableSlot *slot, int column)
{
	bool		isnull;
	Datum		datum = slot_getattr(slot, column, &isnull);

	if (!isnull)
		json_object_number(object, name, DatumGetInt64(datum));
}

static void
put_column_text(JsonObject *object, const char *name, TupleTableSlot *slot, int column)
{
	bool		isnull;
	Datum		datum = slot_getattr(slot, column, &isnull);

	if (!isnull)
		json_object_text(object, name, DatumGetTextPP(datum));
}

static void
put_column_time(JsonObject *object, const char *name, TupleTableSlot *slot, int column)
{
	bool		isnull;
	Datum		datum = slot_getattr(slot, column, &isnull);

	if (!isnull)
		json_object_string(object, name, message_time(DatumGetTimestampTz(datum)));
}

static void
put_column_json(JsonObject *object, const char *name, TupleTableSlot *slot, int column)
{
	bool		isnull;
	Datum		datum = slot_getattr(slot, column, &isnull);

	if (!isnull)
		json_object_json(object, name, DatumGetJsonbP(datum));
}

static Jsonb *
event_payload(TupleTableSlot *slot, const ItemCodes *codes, const char *type)
{
	JsonObject	object;

	json_object_begin(&object);
	put_column_number(&object, "event_id", slot, EVENT_EVENT_ID);
	json_object_string(&object, "type", type);
	json_object_string(&object, "sku", codes->sku);
	json_object_string(&object, "location", codes->location);
	json_object_string(&object, "lot", codes->lot);
	json_object_string(&object, "condition", codes->condition);
	put_column_number(&object, "on_hand_delta", slot, EVENT_ON_HAND_DELTA);
	put_column_number(&object, "reserved_delta", slot, EVENT_RESERVED_DELTA);
	put_column_number(&object, "committed_delta", slot, EVENT_COMMITTED_DELTA);
	put_column_number(&object, "reservation_id", slot, EVENT_RESERVATION_ID);
	put_column_text(&object, "request_id", slot, EVENT_REQUEST_ID);
	put_column_text(&object, "reference", slot, EVENT_REFERENCE);
	put_column_text(&object, "reason", slot, EVENT_REASON);
	put_column_text(&object, "actor", slot, EVENT_ACTOR);
	put_column_time(&object, "recorded_at", slot, EVENT_RECORDED_AT);
	put_column_time(&object, "effective_at", slot, EVENT_EFFECTIVE_AT);
	put_column_number(&object, "reverses", slot, EVENT_REVERSES);
	put_column_json(&object, "metadata", slot, EVENT_METADATA);
	return json_object_end(&object);
}

/* ---- Messages ---- */

char *
message_time(TimestampTz at)
{
	static const int utc = 0;
	char		buffer[MAXDATELEN + 1];
	char	   *plus;

	JsonEncodeDateTime(buffer, TimestampTzGetDatum(at), TIMESTAMPTZOID, &utc);
	plus = strstr(buffer, "+00:00");
	if (plus)
		strcpy(plus, "Z");
	return pstrdup(buffer);
}

const char *
message_event_topic(EventType type)
{
	static char *topics[EVENT_TYPES];

	if (topics[type] == NULL)
		topics[type] = MemoryContextStrdup(TopMemoryContext,
										   psprintf(TOPIC_EVENT_PREFIX "%s",
													event_type_name(type)));
	return topics[type];
}

static char *
column_text(TupleTableSlot *slot, int column)
{
	bool		isnull;
	Datum		datum = slot_getattr(slot, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(datum);
}

static Jsonb *
column_json(TupleTableSlot *slot, int column)
{
	bool		isnull;
	Datum		datum = slot_getattr(slot, column, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(datum);
}

/* What the message is about, if the publisher has said so. */
static char *
payload_sku(Jsonb *payload)
{
	JsonbValue	buffer;
	JsonbValue *value;

	if (payload == NULL || !JB_ROOT_IS_OBJECT(payload))
		return NULL;
	value = getKeyJsonValueFromContainer(&payload->root, "sku", 3, &buffer);
	if (value == NULL || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static void
message_set_id(Message *message, const char *log)
{
	message->id = psprintf("%s-" INT64_FORMAT "-%llx", log, message->number,
						   (unsigned long long) message->created_at);
}

void
message_from_outbox(TupleTableSlot *slot, Message *message)
{
	bool		isnull;

	memset(message, 0, sizeof(Message));
	message->number = DatumGetInt64(slot_getattr(slot, OUTBOX_MESSAGE_ID, &isnull));
	message->topic = column_text(slot, OUTBOX_TOPIC);
	message->key = column_text(slot, OUTBOX_KEY);
	message->payload = column_json(slot, OUTBOX_PAYLOAD);
	message->headers = column_json(slot, OUTBOX_HEADERS);
	message->created_at =
		DatumGetTimestampTz(slot_getattr(slot, OUTBOX_CREATED_AT, &isnull));
	message->sku = payload_sku(message->payload);
	message_set_id(message, "message");
}

void
message_from_event(TupleTableSlot *slot, Message *message)
{
	bool		isnull;
	EventType	type = event_type_from_oid(DatumGetObjectId(slot_getattr(slot, EVENT_TYPE, &isnull)));
	const ItemCodes *codes =
		message_item(DatumGetInt64(slot_getattr(slot, EVENT_STOCK_ID, &isnull)));

	memset(message, 0, sizeof(Message));
	message->number = DatumGetInt64(slot_getattr(slot, EVENT_EVENT_ID, &isnull));
	message->topic = pstrdup(message_event_topic(type));
	message->key = pstrdup(codes->key);
	message->sku = pstrdup(codes->sku);
	message->payload = event_payload(slot, codes, event_type_name(type));
	message->created_at =
		DatumGetTimestampTz(slot_getattr(slot, EVENT_RECORDED_AT, &isnull));
	message_set_id(message, "event");
}

/* ---- Failures ---- */

char *
message_error(const char *text, int max)
{
	int			encoding = GetDatabaseEncoding();
	int			length = strlen(text);
	int			left = Min(pg_encoding_mbcliplen(encoding, text, length, max), length);
	char	   *copy = palloc(left + 1);
	char	   *to = copy;

	while (left > 0)
	{
		int			valid = pg_encoding_verifymbstr(encoding, text, left);

		memcpy(to, text, valid);
		to += valid;
		text += valid;
		left -= valid;
		if (left == 0)
			break;
		*to++ = '?';
		text++;
		left--;
	}
	*to = '\0';
	return copy;
}

/* Out of memory or disk space, shutting down: nothing to do with the message. */
bool
message_is_to_blame(int sqlerrcode)
{
	int			category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category != ERRCODE_INSUFFICIENT_RESOURCES &&
		sqlerrcode != ERRCODE_ADMIN_SHUTDOWN &&
		sqlerrcode != ERRCODE_CRASH_SHUTDOWN &&
		sqlerrcode != ERRCODE_IO_ERROR;
}
