/*-------------------------------------------------------------------------
 *
 * digest.c
 *		The hash chain over the events.
 *
 * A tick's hash is SHA-256, or HMAC-SHA-256 with a key, over the hash of the
 * tick before, then each event of the batch, by transaction and number, then the
 * tick's number, time and number of events.  An event is written in a form that no version, platform or restore changes:
 * numbers as 8 bytes, the highest first; moments as microseconds since
 * 2000-01-01 UTC; codes and texts as a length of 4 bytes and what they say; in
 * front of each column a byte that is 0 for NULL.  The transaction's id is left
 * out, as it is different after a restore.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "common/cryptohash.h"
#include "common/hmac.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "digest.h"
#include "event.h"

/* Columns, as the install script has them. */
enum
{
	EVENT_EVENT_ID = 1, EVENT_STOCK_ID, EVENT_TYPE, EVENT_ON_HAND_DELTA,
	EVENT_RESERVED_DELTA, EVENT_COMMITTED_DELTA, EVENT_RESERVATION_ID,
	EVENT_REQUEST_ID, EVENT_REFERENCE, EVENT_REASON, EVENT_ACTOR,
	EVENT_RECORDED_AT, EVENT_EFFECTIVE_AT, EVENT_XID, EVENT_REVERSES,
	EVENT_METADATA
};

struct Digest
{
	pg_cryptohash_ctx *plain;	/* one of the two */
	pg_hmac_ctx *keyed;
	StringInfoData event;
};

static void
digest_check(int result)
{
	if (result < 0)
		elog(ERROR, "could not compute a hash");
}

static void
digest_update(Digest *digest, const void *data, int size)
{
	digest_check(digest->keyed ?
				 pg_hmac_update(digest->keyed, data, size) :
				 pg_cryptohash_update(digest->plain, data, size));
}

#define KEY_ID_BYTES 8

/* What tells a key from others without telling the key; NULL for none. */
char *
digest_key_id(const char *key)
{
	pg_cryptohash_ctx *context;
	uint8		hash[TICK_HASH_BYTES];
	char	   *id;

	if (key == NULL)
		return NULL;
	context = pg_cryptohash_create(PG_SHA256);
	digest_check(pg_cryptohash_init(context));
	digest_check(pg_cryptohash_update(context, (const uint8 *) key, strlen(key)));
	digest_check(pg_cryptohash_final(context, hash, sizeof(hash)));
	pg_cryptohash_free(context);
	id = palloc0(2 * KEY_ID_BYTES + 1);
	(void) hex_encode((const char *) hash, KEY_ID_BYTES, id);
	return id;
}

/* Without a key, key is NULL. */
Digest *
digest_begin(const uint8 *previous, const char *key)
{
	Digest	   *digest = palloc0(sizeof(Digest));

	if (key)
	{
		digest->keyed = pg_hmac_create(PG_SHA256);
		digest_check(pg_hmac_init(digest->keyed, (const uint8 *) key, strlen(key)));
	}
	else
	{
		digest->plain = pg_cryptohash_create(PG_SHA256);
		digest_check(pg_cryptohash_init(digest->plain));
	}
	initStringInfo(&digest->event);
	digest_update(digest, previous, TICK_HASH_BYTES);
	return digest;
}

static void
append_bytes(StringInfo buffer, const char *data, int size)
{
	pq_sendint32(buffer, size);
	appendBinaryStringInfo(buffer, data, size);
}

static void
append_column(StringInfo buffer, int column, Datum value)
{
	switch (column)
	{
		case EVENT_TYPE:
			{
				const char *name = event_type_name(event_type_from_oid(DatumGetObjectId(value)));

				append_bytes(buffer, name, strlen(name));
				break;
			}
		case EVENT_REQUEST_ID:
		case EVENT_REFERENCE:
		case EVENT_REASON:
		case EVENT_ACTOR:
			{
				text	   *string = DatumGetTextPP(value);

				append_bytes(buffer, VARDATA_ANY(string), VARSIZE_ANY_EXHDR(string));
				break;
			}
		case EVENT_METADATA:
			{
				Jsonb	   *json = DatumGetJsonbP(value);
				char	   *string = JsonbToCString(NULL, &json->root, VARSIZE(json));

				append_bytes(buffer, string, strlen(string));
				pfree(string);
				break;
			}
		default:
			pq_sendint64(buffer, DatumGetInt64(value));
	}
}

void
digest_event(Digest *digest, HeapTuple tuple, TupleDesc descriptor)
{
	Datum		values[EVENT_METADATA];
	bool		nulls[EVENT_METADATA];

	heap_deform_tuple(tuple, descriptor, values, nulls);
	resetStringInfo(&digest->event);
	for (int column = EVENT_EVENT_ID; column <= EVENT_METADATA; column++)
	{
		if (column == EVENT_XID)
			continue;
		appendStringInfoCharMacro(&digest->event, nulls[column - 1] ? '\0' : '\1');
		if (!nulls[column - 1])
			append_column(&digest->event, column, values[column - 1]);
	}
	digest_update(digest, digest->event.data, digest->event.len);
}

void
digest_end(Digest *digest, const Tick *tick, uint8 *hash)
{
	resetStringInfo(&digest->event);
	pq_sendint64(&digest->event, tick->tick_id);
	pq_sendint64(&digest->event, tick->ticked_at);
	pq_sendint64(&digest->event, tick->events);
	digest_update(digest, digest->event.data, digest->event.len);
	if (digest->keyed)
	{
		digest_check(pg_hmac_final(digest->keyed, hash, TICK_HASH_BYTES));
		pg_hmac_free(digest->keyed);
	}
	else
	{
		digest_check(pg_cryptohash_final(digest->plain, hash, TICK_HASH_BYTES));
		pg_cryptohash_free(digest->plain);
	}
	pfree(digest->event.data);
	pfree(digest);
}
