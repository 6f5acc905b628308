/*-------------------------------------------------------------------------
 *
 * outbox.c
 *		Publishing: messages that become visible with their transaction.
 *
 * A message is one row, inserted into the table of the ring that takes messages
 * (outbox_ring.c).  Nothing is locked but that table, in ROW EXCLUSIVE mode, as
 * INSERT does; publishers never wait for each other, for the ring or for those
 * who deliver.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "catalog.h"
#include "clock.h"
#include "delivery_slot.h"
#include "error.h"
#include "inventory.h"
#include "outbox.h"
#include "row.h"
#include "topic.h"

/* Columns, as the install script has them. */
enum
{
	OUTBOX_MESSAGE_ID = 1, OUTBOX_TOPIC, OUTBOX_KEY, OUTBOX_PAYLOAD,
	OUTBOX_HEADERS, OUTBOX_CREATED_AT, OUTBOX_XID, OUTBOX_SEGMENT
};

#define TOPIC_LENGTH_MAX 255
/* Topics of the engine's own messages, and of events. */
#define TOPIC_RESERVED "inventory."
/* It is part of a btree entry when the message is parked. */
#define KEY_LENGTH_MAX 1024
#define HEADER_NAME_LENGTH_MAX 255
/* What a row has beside payload and headers, about. */
#define ROW_BYTES 128

int			outbox_max_message_size = 1024 * 1024;

PG_FUNCTION_INFO_V1(inventory_publish);

/* ---- Appending ---- */

static int64
append(text *topic, text *key, Jsonb *payload, Jsonb *headers)
{
	int			segment = outbox_current_segment();
	RowInserter *inserter = row_begin();
	RowTarget  *target = row_open(inserter, outbox_table(segment));
	TupleTableSlot *slot = row_clear(target);
	int64		message_id = nextval_internal(catalog_relations()->event_sequence, false);

#define SET(column, datum, is_null) \
	(slot->tts_values[(column) - 1] = (datum), slot->tts_isnull[(column) - 1] = (is_null))
	SET(OUTBOX_MESSAGE_ID, Int64GetDatum(message_id), false);
	SET(OUTBOX_TOPIC, PointerGetDatum(topic), false);
	SET(OUTBOX_KEY, PointerGetDatum(key), key == NULL);
	SET(OUTBOX_PAYLOAD, PointerGetDatum(payload), payload == NULL);
	SET(OUTBOX_HEADERS, PointerGetDatum(headers), headers == NULL);
	SET(OUTBOX_CREATED_AT, TimestampTzGetDatum(clock_transaction_time()), false);
	SET(OUTBOX_XID, FullTransactionIdGetDatum(GetTopFullTransactionId()), false);
	SET(OUTBOX_SEGMENT, Int16GetDatum(segment), false);
#undef SET
	row_insert(target);
	row_end(inserter);
	delivery_written(TOPIC_OUTBOX);
	outbox_grown(segment, ROW_BYTES + (payload ? VARSIZE(payload) : 0) +
				 (headers ? VARSIZE(headers) : 0));
	return message_id;
}

int64
outbox_append(const char *topic, const char *key, Jsonb *payload)
{
	if (!OidIsValid(catalog_relations()->outbox_segment))
		return 0;				/* an older version of the extension */
	return append(cstring_to_text(topic), key ? cstring_to_text(key) : NULL,
				  payload, NULL);
}

/* ---- What applications may publish ---- */

/* Words of letters, digits, "_" and "-", with dots between them. */
static bool
topic_is_valid(const char *topic, int length)
{
	char		before = '.';

	for (int i = 0; i < length; i++)
	{
		char		c = topic[i];

		if (c == '.' ? before == '.' :
			!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			  (c >= '0' && c <= '9') || c == '_' || c == '-'))
			return false;
		before = c;
	}
	return before != '.' && length <= TOPIC_LENGTH_MAX;
}

static void
check_topic(const text *topic)
{
	const char *data = VARDATA_ANY(topic);
	int			length = VARSIZE_ANY_EXHDR(topic);

	if (!topic_is_valid(data, length))
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_MESSAGE),
				 errmsg("invalid topic \"%s\"",
						pnstrdup(data, pg_mbcliplen(data, length, TOPIC_LENGTH_MAX))),
				 errdetail("A topic is words of A-Z, a-z, 0-9, \"_\" and \"-\" with dots between them, and not longer than %d characters.",
						   TOPIC_LENGTH_MAX)));
	if (length >= strlen(TOPIC_RESERVED) &&
		pg_strncasecmp(data, TOPIC_RESERVED, strlen(TOPIC_RESERVED)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_MESSAGE),
				 errmsg("topic \"%s\" is reserved", pnstrdup(data, length)),
				 errhint("Topics that begin with \"%s\" are those of the engine.",
						 TOPIC_RESERVED)));
}

static void
check_key(const text *key)
{
	int			length = VARSIZE_ANY_EXHDR(key);

	if (length > KEY_LENGTH_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_MESSAGE),
				 errmsg("the key of a message can have %d bytes at most, not %d",
						KEY_LENGTH_MAX, length)));
}

static void
invalid_headers(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_IV_INVALID_MESSAGE),
			 errmsg("invalid headers of a message"),
			 errdetail("%s", detail)));
}

/* It becomes a line of a protocol; one that it would end is not to be had. */
static bool
has_control_character(const JsonbValue *string)
{
	for (int i = 0; i < string->val.string.len; i++)
	{
		unsigned char c = string->val.string.val[i];

		if (c < ' ' || c == 0x7f)
			return true;
	}
	return false;
}

static void
check_header(const JsonbValue *name, const JsonbValue *value)
{
	if (name->val.string.len == 0 || name->val.string.len > HEADER_NAME_LENGTH_MAX ||
		has_control_character(name))
		invalid_headers(psprintf("A name has 1 to %d bytes, and no control characters.",
								 HEADER_NAME_LENGTH_MAX));
	if (value->type != jbvString)
		invalid_headers(psprintf("Header \"%.*s\" is not a string.",
								 name->val.string.len, name->val.string.val));
	if (has_control_character(value))
		invalid_headers(psprintf("Header \"%.*s\" has a control character.",
								 name->val.string.len, name->val.string.val));
}

static void
check_headers(Jsonb *headers)
{
	JsonbIterator *iterator;
	JsonbValue	name;
	JsonbValue	value;

	if (!JB_ROOT_IS_OBJECT(headers))
		invalid_headers("Headers are a JSON object of strings.");
	iterator = JsonbIteratorInit(&headers->root);
	(void) JsonbIteratorNext(&iterator, &name, true);
	while (JsonbIteratorNext(&iterator, &name, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&iterator, &value, true);
		check_header(&name, &value);
	}
}

static void
check_size(Size size)
{
	if (size > outbox_max_message_size)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the message is too large: %zu bytes, at most %d",
						size, outbox_max_message_size),
				 errhint("Publish where the content is, or raise inventory.max_message_size.")));
}

void
outbox_check(const text *key, size_t size)
{
	if (key)
		check_key(key);
	check_size(size);
}

/*
 * publish(topic, key, payload, headers)
 */
Datum
inventory_publish(PG_FUNCTION_ARGS)
{
	text	   *topic;
	text	   *key = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1);
	Jsonb	   *payload = PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2);
	Jsonb	   *headers = PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3);

	inventory_check_writable("publish");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", "topic")));
	topic = PG_GETARG_TEXT_PP(0);
	check_topic(topic);
	if (headers)
		check_headers(headers);
	outbox_check(key, (payload ? VARSIZE(payload) : 0) + (headers ? VARSIZE(headers) : 0));
	PG_RETURN_INT64(append(topic, key, payload, headers));
}
