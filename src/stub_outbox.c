/* Goes when outbox.c comes. */
#include "postgres.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "catalog.h"
#include "clock.h"
#include "delivery_slot.h"
#include "outbox.h"
#include "row.h"
#include "subscription.h"
#include "topic.h"
static Oid
named(const char *format, int n)
{
	return get_relname_relid(psprintf(format, n), get_namespace_oid("inventory", false));
}
Oid
outbox_table(int segment)
{
	return named("outbox_%d", segment);
}
Oid
outbox_xid_index(int segment)
{
	return named("outbox_%d_xid_idx", segment);
}
static int64
append(text *topic, text *key, Jsonb *payload, Jsonb *headers)
{
	RowInserter *inserter = row_begin();
	RowTarget  *target = row_open(inserter, outbox_table(0));
	TupleTableSlot *slot = row_clear(target);
	int64		id = nextval_internal(catalog_relations()->event_sequence, false);

	slot->tts_values[0] = Int64GetDatum(id);
	slot->tts_values[1] = PointerGetDatum(topic);
	slot->tts_values[2] = PointerGetDatum(key);
	slot->tts_values[3] = PointerGetDatum(payload);
	slot->tts_values[4] = PointerGetDatum(headers);
	slot->tts_values[5] = TimestampTzGetDatum(clock_transaction_time());
	slot->tts_values[6] = UInt64GetDatum(U64FromFullTransactionId(GetTopFullTransactionId()));
	slot->tts_values[7] = Int16GetDatum(0);
	memset(slot->tts_isnull, 0, 8);
	slot->tts_isnull[2] = key == NULL;
	slot->tts_isnull[3] = payload == NULL;
	slot->tts_isnull[4] = headers == NULL;
	row_insert(target);
	row_end(inserter);
	delivery_written(TOPIC_OUTBOX);
	return id;
}
int64
outbox_append(const char *topic, const char *key, Jsonb *payload)
{
	return append(cstring_to_text(topic), key ? cstring_to_text(key) : NULL, payload, NULL);
}
PG_FUNCTION_INFO_V1(inventory_stub_publish);
Datum
inventory_stub_publish(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(append(PG_GETARG_TEXT_PP(0), PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1),
						   PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2), PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3)));
}
void __attribute__((weak)) subscription_check_owner(const Subscription *subscription);
void __attribute__((weak)) subscription_check_owner(const Subscription *subscription) {}
