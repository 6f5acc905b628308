/*-------------------------------------------------------------------------
 *
 * subscription.c
 *		Subscriptions: their rows, and their options as C.
 *
 * LOCKING: ENGINE_LOCK_SUBSCRIPTION of a subscription is held until the end of
 * the transaction: shared by who delivers it, exclusively by who changes it, its
 * cursors or what is parked (subscribe.c, redrive.c).  Every change counts its
 * generation up.  A delivery looks at the generation with the lock held, so what
 * it then does belongs to the subscription as it is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "delivery_slot.h"
#include "lock.h"
#include "query.h"
#include "subscription_option.h"
#include "topic.h"

/* Columns, as the install script has them. */
enum
{
	SUBSCRIPTION_SUBSCRIPTION_ID = 1, SUBSCRIPTION_GENERATION = 9
};

#define SUBSCRIPTION_COLUMNS \
	"SELECT s.subscription_id, s.name, s.owner::oid, s.topics, s.sink, s.options," \
	" s.workers, s.state, s.generation FROM inventory.subscription s"

/* ---- Rows ---- */

static void
read_topics(ArrayType *topics, Subscription *subscription)
{
	Datum	   *elements;
	int			count;

	deconstruct_array(topics, TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &count);
	subscription->topic_count = count;
	subscription->topics = palloc(count * sizeof(char *));
	for (int i = 0; i < count; i++)
		subscription->topics[i] = TextDatumGetCString(elements[i]);
	subscription->interest = topic_interest(subscription->topics, count);
}

SinkKind
sink_kind(const char *sink)
{
	return strcmp(sink, "function") == 0 ? SINK_KIND_FUNCTION :
		strcmp(sink, "notify") == 0 ? SINK_KIND_NOTIFY :
		strcmp(sink, "command") == 0 ? SINK_KIND_COMMAND : SINK_KIND_SERVER;
}

/* Into the current memory context. */
static Subscription *
subscription_from_row(uint64 row)
{
	Subscription *subscription = palloc0(sizeof(Subscription));
	bool		isnull;
	char	   *state = query_text(row, 8);

	subscription->subscription_id = DatumGetInt32(query_value(row, 1, &isnull));
	subscription->name = pstrdup(query_text(row, 2));
	subscription->owner = DatumGetObjectId(query_value(row, 3, &isnull));
	read_topics(DatumGetArrayTypePCopy(query_value(row, 4, &isnull)), subscription);
	subscription->sink = pstrdup(query_text(row, 5));
	subscription->kind = sink_kind(subscription->sink);
	subscription_options_read(DatumGetJsonbPCopy(query_value(row, 6, &isnull)), subscription);
	subscription->workers = DatumGetInt32(query_value(row, 7, &isnull));
	subscription->active = strcmp(state, "active") == 0;
	subscription->finished = strcmp(state, "finished") == 0;
	subscription->generation = query_int64(row, 9);
	return subscription;
}

/* Runs a statement that returns rows of subscriptions. */
static List *
subscriptions_of(Statement *statement, Datum *values)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *subscriptions = NIL;
	uint64		count;

	if (!OidIsValid(catalog_relations()->subscription))
		return NIL;				/* an older version of the extension */
	query_begin();
	count = query_run(statement, values, NULL);
	MemoryContextSwitchTo(caller);
	for (uint64 i = 0; i < count; i++)
		subscriptions = lappend(subscriptions, subscription_from_row(i));
	query_end();
	return subscriptions;
}

Subscription *
subscription_find(int subscription_id)
{
	static Statement statement = {
		SUBSCRIPTION_COLUMNS " WHERE s.subscription_id = $1", 1, {INT4OID}
	};
	Datum		values[1] = {Int32GetDatum(subscription_id)};
	List	   *found = subscriptions_of(&statement, values);

	return found == NIL ? NULL : linitial(found);
}

Subscription *
subscription_find_name(const char *name)
{
	static Statement statement = {
		SUBSCRIPTION_COLUMNS " WHERE s.name = $1", 1, {TEXTOID}
	};
	Datum		values[1] = {CStringGetTextDatum(name)};
	List	   *found = subscriptions_of(&statement, values);

	return found == NIL ? NULL : linitial(found);
}

List *
subscription_all(void)
{
	static Statement statement = {
		SUBSCRIPTION_COLUMNS " ORDER BY s.subscription_id"
	};

	return subscriptions_of(&statement, NULL);
}

int64
subscription_generation(int subscription_id)
{
	Relation	relation = table_open(catalog_relations()->subscription, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;
	int64		generation = -1;

	ScanKeyInit(&key, SUBSCRIPTION_SUBSCRIPTION_ID, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(subscription_id));
	scan = systable_beginscan(relation, catalog_relations()->subscription_key, true,
							  snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		generation = DatumGetInt64(heap_getattr(tuple, SUBSCRIPTION_GENERATION,
												RelationGetDescr(relation), &isnull));
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(relation, AccessShareLock);
	return generation;
}

/* ---- Rights ---- */

void
subscription_check_right(const Subscription *subscription)
{
	Oid			function = LookupFuncName(list_make2(makeString("inventory"), makeString("subscribe")),
										  -1, NULL, true);

	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(subscription->owner)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the owner of subscription \"%s\" does not exist any more",
						subscription->name)));
	if (OidIsValid(function) &&
		compat_function_aclcheck(function, subscription->owner) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\", the owner of subscription \"%s\", may not subscribe any more",
						GetUserNameFromId(subscription->owner, false), subscription->name)));
}

/*
 * Handlers and servers are found by name, so that they can be made anew.  Not by
 * anybody: the messages would go to him, and the handler run as the owner of the
 * subscription.
 */
void
subscription_check_sink_owner(Oid then, Oid now, const char *sink)
{
	if (OidIsValid(then) && now != then)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("%s belongs to another role than when it was subscribed", sink),
				 errhint("If it may have the messages, pause() and resume() the subscription.")));
}

/* ---- Changes ---- */

void
subscription_lock(int subscription_id, int lockmode)
{
	engine_lock(ENGINE_LOCK_SUBSCRIPTION, subscription_id, lockmode, true);
}

/* The exclusive lock is not needed: it is the delivery itself that ends. */
void
subscription_finish(int subscription_id)
{
	static Statement statement = {
		"UPDATE inventory.subscription s SET state = 'finished', generation = s.generation + 1"
		" WHERE s.subscription_id = $1 AND s.state = 'active'",
		1, {INT4OID}
	};
	Datum		values[1] = {Int32GetDatum(subscription_id)};

	query_begin();
	query_run(&statement, values, NULL);
	query_end();
	delivery_changed();
}

/* ---- Waiting ---- */

int64
subscription_backoff_ms(const Subscription *subscription, int attempts)
{
	double		wait = subscription->backoff;

	for (int i = 1; i < attempts && wait < subscription->backoff_cap; i++)
		wait *= 2;
	wait = Min(wait, subscription->backoff_cap);
	/* So that those which have failed together do not come back together. */
	wait *= 0.75 + 0.25 * pg_prng_double(&pg_global_prng_state);
	return Max((int64) wait, 1);
}
