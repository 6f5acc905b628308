/*-------------------------------------------------------------------------
 *
 * parked.c
 *		Messages that could not be delivered.
 *
 * A message that has failed is copied here, and its key is blocked: messages
 * with the same key that come after it are copied behind it as they are met, in
 * the transaction that moves the cursor on.  So neither the cursor nor the
 * outbox waits for a key.  When the first one has been delivered, or given up,
 * the next is tried; after the last one the key is free.
 *
 * The process keeps in memory which keys are blocked, and by how many messages;
 * it reads them again after every change that somebody else has made.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "parked.h"
#include "query.h"

static const char *const state_names[] = {
	[PARKED_RETRY] = "retry",
	[PARKED_DELAYED] = "delayed",
	[PARKED_DEFERRED] = "deferred",
	[PARKED_DEAD] = "dead",
};

/* ---- Blocked keys ---- */

typedef struct BlockedKey
{
	char	   *key;
	int64		messages;
} BlockedKey;

static uint32
key_hash(const void *key, Size size)
{
	const char *string = *(char *const *) key;

	return hash_bytes((const unsigned char *) string, strlen(string));
}

static int
key_compare(const void *a, const void *b, Size size)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

bool
parked_blocks(const Parked *parked, const char *key)
{
	return key != NULL && hash_search(parked->keys, &key, HASH_FIND, NULL) != NULL;
}

static void
key_add(Parked *parked, const char *key, int64 messages)
{
	BlockedKey *entry;
	bool		found;

	parked->waiting += messages;
	if (key == NULL)
		return;
	entry = hash_search(parked->keys, &key, HASH_FIND, &found);
	if (!found)
	{
		char	   *copy = MemoryContextStrdup(parked->context, key);

		entry = hash_search(parked->keys, &copy, HASH_ENTER, NULL);
		entry->messages = 0;
	}
	entry->messages += messages;
	if (entry->messages <= 0)
	{
		char	   *copy = entry->key;

		hash_search(parked->keys, &key, HASH_REMOVE, NULL);
		pfree(copy);
	}
}

/* ---- The table ---- */

static void
load_keys(Parked *parked)
{
	static Statement statement = {
		"SELECT p.key, count(*) FROM inventory.parked_message p"
		" WHERE p.subscription_id = $1 AND p.slice = $2 AND p.state IN ('retry', 'deferred')"
		" GROUP BY p.key",
		2, {INT4OID, INT4OID}
	};
	Datum		values[2];
	uint64		rows;

	values[0] = Int32GetDatum(parked->subscription_id);
	values[1] = Int32GetDatum(parked->slice);
	query_begin();
	rows = query_run(&statement, values, NULL);
	for (uint64 i = 0; i < rows; i++)
		key_add(parked, query_text(i, 1), query_int64(i, 2));
	query_end();
}

static void
find_next_due(Parked *parked)
{
	static Statement statement = {
		"SELECT p.due_at FROM inventory.parked_message p"
		" WHERE p.subscription_id = $1 AND p.slice = $2 AND p.state IN ('retry', 'delayed')"
		" ORDER BY p.due_at LIMIT 1",
		2, {INT4OID, INT4OID}
	};
	Datum		values[2];
	bool		isnull;

	values[0] = Int32GetDatum(parked->subscription_id);
	values[1] = Int32GetDatum(parked->slice);
	parked->next_due = DT_NOEND;
	query_begin();
	if (query_run(&statement, values, NULL) > 0)
		parked->next_due = DatumGetTimestampTz(query_value(0, 1, &isnull));
	query_end();
}

/* In a memory context of its own, a child of the current one. */
Parked *
parked_load(int subscription_id, int slice)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "inventory parked keys",
												  ALLOCSET_DEFAULT_SIZES);
	Parked	   *parked = MemoryContextAllocZero(context, sizeof(Parked));
	HASHCTL		control = {
		.keysize = sizeof(char *), .entrysize = sizeof(BlockedKey),
		.hash = key_hash, .match = key_compare, .hcxt = context
	};

	parked->context = context;
	parked->subscription_id = subscription_id;
	parked->slice = slice;
	parked->keys = hash_create("inventory parked keys", 256, &control,
							   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	load_keys(parked);
	find_next_due(parked);
	return parked;
}

static Jsonb *
row_jsonb(uint64 row, int column)
{
	bool		isnull;
	Datum		value = query_value(row, column, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(value);
}

static char *
row_string(uint64 row, int column)
{
	char	   *value = query_text(row, column);

	return value ? pstrdup(value) : NULL;
}

static void
message_from_row(uint64 row, Message *message)
{
	bool		isnull;

	memset(message, 0, sizeof(Message));
	message->position = query_int64(row, 1);
	message->number = query_int64(row, 2);
	message->id = row_string(row, 3);
	message->topic = row_string(row, 4);
	message->key = row_string(row, 5);
	message->sku = row_string(row, 6);
	message->payload = row_jsonb(row, 7);
	message->headers = row_jsonb(row, 8);
	message->created_at = DatumGetTimestampTz(query_value(row, 9, &isnull));
	message->attempts = DatumGetInt32(query_value(row, 10, &isnull));
	message->parked = true;
	message->blocking = strcmp(query_text(row, 11), "retry") == 0;
}

/*
 * The messages that are to be tried now, into the current memory context: so many,
 * and, as they are stored, so many bytes and one message.
 */
int
parked_due(Parked *parked, TimestampTz now, Message *messages, int max, Size max_bytes)
{
	static Statement statement = {
		"SELECT p.position, p.number, p.id, p.topic, p.key, p.sku, p.payload, p.headers,"
		" p.created_at, p.attempts, p.state"
		" FROM (SELECT m.*, sum(coalesce(pg_column_size(m.payload), 0) + coalesce(pg_column_size(m.headers), 0))"
		"   OVER (ORDER BY m.due_at, m.position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before"
		"  FROM (SELECT d.* FROM inventory.parked_message d"
		"   WHERE d.subscription_id = $1 AND d.slice = $2 AND d.state IN ('retry', 'delayed')"
		"   AND d.due_at <= $3 ORDER BY d.due_at, d.position LIMIT $4) m) p"
		" WHERE coalesce(p.bytes_before, 0) < $5 ORDER BY p.due_at, p.position",
		5, {INT4OID, INT4OID, TIMESTAMPTZOID, INT4OID, INT8OID}
	};
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[5];
	int			count;

	if (parked->next_due > now)
		return 0;
	values[0] = Int32GetDatum(parked->subscription_id);
	values[1] = Int32GetDatum(parked->slice);
	values[2] = TimestampTzGetDatum(now);
	values[3] = Int32GetDatum(max);
	values[4] = Int64GetDatum(max_bytes);
	query_begin();
	count = (int) query_run(&statement, values, NULL);
	MemoryContextSwitchTo(caller);
	for (int i = 0; i < count; i++)
		message_from_row(i, &messages[i]);
	query_end();
	if (count == 0)
		find_next_due(parked);
	return count;
}

static bool
is_tried(const ParkedNote *note)
{
	return (note->state == PARKED_RETRY && !note->uncounted) || note->state == PARKED_DEAD;
}

static Datum
text_or_null(const char *string, char *null)
{
	*null = string ? ' ' : 'n';
	return string ? CStringGetTextDatum(string) : (Datum) 0;
}

void
parked_insert(Parked *parked, const Message *message, const ParkedNote *note)
{
	static Statement statement = {
		"INSERT INTO inventory.parked_message (subscription_id, slice, position, state, key,"
		" number, id, topic, sku, payload, headers, created_at, attempts, due_at, last_error,"
		" first_failed_at, last_failed_at)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,"
		" CASE WHEN $13 > 0 THEN $16 END, CASE WHEN $13 > 0 THEN $16 END)",
		16, {INT4OID, INT4OID, INT8OID, TEXTOID, TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID,
		JSONBOID, JSONBOID, TIMESTAMPTZOID, INT4OID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID}
	};
	Datum		values[16];
	char		nulls[17] = "                ";
	bool		tried = is_tried(note);
	bool		due = note->state == PARKED_RETRY || note->state == PARKED_DELAYED;

	values[0] = Int32GetDatum(parked->subscription_id);
	values[1] = Int32GetDatum(parked->slice);
	values[2] = Int64GetDatum(message->position);
	values[3] = CStringGetTextDatum(state_names[note->state]);
	values[4] = text_or_null(message->key, &nulls[4]);
	values[5] = Int64GetDatum(message->number);
	values[6] = CStringGetTextDatum(message->id);
	values[7] = CStringGetTextDatum(message->topic);
	values[8] = text_or_null(message->sku, &nulls[8]);
	values[9] = PointerGetDatum(message->payload);
	nulls[9] = message->payload ? ' ' : 'n';
	values[10] = PointerGetDatum(message->headers);
	nulls[10] = message->headers ? ' ' : 'n';
	values[11] = TimestampTzGetDatum(message->created_at);
	values[12] = Int32GetDatum(message->attempts + (tried ? 1 : 0));
	values[13] = TimestampTzGetDatum(note->due_at);
	nulls[13] = due ? ' ' : 'n';
	values[14] = text_or_null(note->error, &nulls[14]);
	values[15] = TimestampTzGetDatum(clock_time());
	query_begin();
	query_run(&statement, values, nulls);
	query_end();
	if (note->state == PARKED_RETRY || note->state == PARKED_DEFERRED)
		key_add(parked, message->key, 1);
	if (due)
		parked->next_due = Min(parked->next_due, note->due_at);
}

/* The message leaves those that wait: the next one with its key is tried. */
static void
key_release(Parked *parked, const Message *message, TimestampTz now)
{
	static Statement statement = {
		"UPDATE inventory.parked_message q SET state = 'retry', due_at = $4"
		" WHERE q.subscription_id = $1 AND q.position = ("
		"  SELECT p.position FROM inventory.parked_message p"
		"  WHERE p.subscription_id = $1 AND p.key = $3 AND p.slice = $2"
		"  AND p.state IN ('retry', 'deferred') ORDER BY p.position LIMIT 1)"
		" AND q.state = 'deferred'",
		4, {INT4OID, INT4OID, TEXTOID, TIMESTAMPTZOID}
	};
	Datum		values[4];

	if (!message->blocking)
		return;
	key_add(parked, message->key, -1);
	if (!parked_blocks(parked, message->key))
		return;
	values[0] = Int32GetDatum(parked->subscription_id);
	values[1] = Int32GetDatum(parked->slice);
	values[2] = CStringGetTextDatum(message->key);
	values[3] = TimestampTzGetDatum(now);
	query_begin();
	if (query_run(&statement, values, NULL) > 0)
		parked->next_due = Min(parked->next_due, now);
	query_end();
}

/* It has failed again, or is given up, or has to wait longer. */
void
parked_update(Parked *parked, const Message *message, const ParkedNote *note,
			  TimestampTz now)
{
	static Statement statement = {
		"UPDATE inventory.parked_message p SET state = $3, due_at = $4,"
		" attempts = p.attempts + $6, last_error = coalesce($5, p.last_error),"
		" first_failed_at = CASE WHEN $6 > 0 THEN coalesce(p.first_failed_at, $7) ELSE p.first_failed_at END,"
		" last_failed_at = CASE WHEN $6 > 0 THEN $7 ELSE p.last_failed_at END"
		" WHERE p.subscription_id = $1 AND p.position = $2",
		7, {INT4OID, INT8OID, TEXTOID, TIMESTAMPTZOID, TEXTOID, INT4OID, TIMESTAMPTZOID}
	};
	Datum		values[7];
	char		nulls[8] = "       ";
	bool		tried = is_tried(note);

	values[0] = Int32GetDatum(parked->subscription_id);
	values[1] = Int64GetDatum(message->position);
	values[2] = CStringGetTextDatum(state_names[note->state]);
	values[3] = TimestampTzGetDatum(note->due_at);
	nulls[3] = note->state == PARKED_RETRY || note->state == PARKED_DELAYED ? ' ' : 'n';
	values[4] = text_or_null(note->error, &nulls[4]);
	values[5] = Int32GetDatum(tried ? 1 : 0);
	values[6] = TimestampTzGetDatum(now);
	query_begin();
	query_run(&statement, values, nulls);
	query_end();
	if (note->state == PARKED_DEAD)
		key_release(parked, message, now);
	else if (note->state != PARKED_DELAYED && !message->blocking)
		key_add(parked, message->key, 1);
	find_next_due(parked);
}

/* It has been delivered. */
void
parked_delete(Parked *parked, const Message *message, TimestampTz now)
{
	static Statement statement = {
		"DELETE FROM inventory.parked_message p WHERE p.subscription_id = $1 AND p.position = $2",
		2, {INT4OID, INT8OID}
	};
	Datum		values[2];

	values[0] = Int32GetDatum(parked->subscription_id);
	values[1] = Int64GetDatum(message->position);
	query_begin();
	query_run(&statement, values, NULL);
	query_end();
	key_release(parked, message, now);
	find_next_due(parked);
}

/* A message that waits for its time is due. */
void
parked_hasten(Parked *parked, int64 number, TimestampTz now)
{
	static Statement statement = {
		"UPDATE inventory.parked_message p SET due_at = $4"
		" WHERE p.subscription_id = $1 AND p.slice = $2 AND p.number = $3"
		" AND p.state IN ('retry', 'delayed') AND p.due_at > $4",
		4, {INT4OID, INT4OID, INT8OID, TIMESTAMPTZOID}
	};
	Datum		values[4];

	values[0] = Int32GetDatum(parked->subscription_id);
	values[1] = Int32GetDatum(parked->slice);
	values[2] = Int64GetDatum(number);
	values[3] = TimestampTzGetDatum(now);
	query_begin();
	if (query_run(&statement, values, NULL) > 0)
		parked->next_due = Min(parked->next_due, now);
	query_end();
}
