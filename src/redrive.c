/*-------------------------------------------------------------------------
 *
 * redrive.c
 *		What an operator does with messages that could not be delivered.
 *
 * skip() gives one up, redrive() tries those again that were given up, discard()
 * removes them.  Of the messages with the same key that wait, the first is tried
 * and the others are deferred behind it (parked.c); it is so again after each of
 * these.
 *
 * LOCKING: see subscription.c; nobody delivers meanwhile, and who does later
 * reads what is parked again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "error.h"
#include "query.h"
#include "subscribe.h"

PG_FUNCTION_INFO_V1(inventory_skip);
PG_FUNCTION_INFO_V1(inventory_redrive);
PG_FUNCTION_INFO_V1(inventory_discard);

/* What becomes of a command is written down once. */
static void
refuse_commands(const Subscription *subscription, const char *hint)
{
	if (subscription->kind == SINK_KIND_COMMAND)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("subscription \"%s\" executes commands", subscription->name),
				 errhint("%s", hint)));
}

/* The first message of each key is tried, the others wait behind it. */
static void
order_keys(const Subscription *subscription)
{
	static Statement behind = {
		"UPDATE inventory.parked_message q SET state = 'deferred', due_at = NULL"
		" WHERE q.subscription_id = $1 AND q.state = 'retry' AND EXISTS ("
		"  SELECT FROM inventory.parked_message p"
		"  WHERE p.subscription_id = q.subscription_id AND p.key = q.key"
		"  AND p.position < q.position AND p.state IN ('retry', 'deferred'))",
		1, {INT4OID}
	};
	static Statement first = {
		"UPDATE inventory.parked_message q SET state = 'retry', due_at = $2"
		" WHERE q.subscription_id = $1 AND q.state = 'deferred' AND NOT EXISTS ("
		"  SELECT FROM inventory.parked_message p"
		"  WHERE p.subscription_id = q.subscription_id AND p.key = q.key"
		"  AND p.position < q.position AND p.state IN ('retry', 'deferred'))",
		2, {INT4OID, TIMESTAMPTZOID}
	};
	Datum		values[2];

	values[0] = Int32GetDatum(subscription->subscription_id);
	values[1] = TimestampTzGetDatum(clock_time());
	query_run(&behind, values, NULL);
	query_run(&first, values, NULL);
}

/* A statement on one message, or on all for which it is meant; how many. */
static int64
run_on(Statement *statement, const Subscription *subscription, FunctionCallInfo fcinfo)
{
	Datum		values[3];
	char		nulls[4] = "   ";

	values[0] = Int32GetDatum(subscription->subscription_id);
	values[1] = PG_GETARG_DATUM(1);
	if (PG_ARGISNULL(1))
		nulls[1] = 'n';
	values[2] = TimestampTzGetDatum(clock_time());
	return (int64) query_run(statement, values, nulls);
}

static void
refuse_unknown(const Subscription *subscription, int64 position, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_IV_UNKNOWN_PARKED),
			 errmsg("subscription \"%s\" has no %s message at position " INT64_FORMAT,
					subscription->name, what, position),
			 errhint("See the views inventory.parked and inventory.dead_letter.")));
}

Datum
inventory_skip(PG_FUNCTION_ARGS)
{
	static Statement statement = {
		"UPDATE inventory.parked_message p SET state = 'skipped', due_at = NULL"
		" WHERE p.subscription_id = $1 AND p.position = $2"
		" AND p.state IN ('retry', 'delayed', 'deferred')",
		3, {INT4OID, INT8OID, TIMESTAMPTZOID}
	};
	Subscription *subscription = subscription_to_change(fcinfo, "skip");

	refuse_commands(subscription, "Use inventory.cancel().");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", "position")));
	query_begin();
	if (run_on(&statement, subscription, fcinfo) == 0)
		refuse_unknown(subscription, PG_GETARG_INT64(1), "parked");
	order_keys(subscription);
	query_end();
	subscription_changed(subscription, NULL);
	PG_RETURN_VOID();
}

/*
 * All dead ones; or the one at a position, which may also have been skipped, or
 * be waiting for its next attempt.
 */
Datum
inventory_redrive(PG_FUNCTION_ARGS)
{
	static Statement statement = {
		"UPDATE inventory.parked_message p SET state = 'retry', due_at = $3, attempts = 0"
		" WHERE p.subscription_id = $1 AND (p.state = 'dead' AND $2 IS NULL"
		"  OR p.position = $2 AND p.state IN ('dead', 'skipped', 'retry'))",
		3, {INT4OID, INT8OID, TIMESTAMPTZOID}
	};
	Subscription *subscription = subscription_to_change(fcinfo, "redrive");
	int64		count;

	refuse_commands(subscription, "Use inventory.retry_pending(), or submit a dead command again.");
	query_begin();
	count = run_on(&statement, subscription, fcinfo);
	if (count == 0 && !PG_ARGISNULL(1))
		refuse_unknown(subscription, PG_GETARG_INT64(1), "dead");
	order_keys(subscription);
	query_end();
	/* A replay goes on until these have been delivered, too. */
	if (count > 0)
		subscription_changed(subscription, subscription->finished ? "active" : NULL);
	PG_RETURN_INT64(count);
}

Datum
inventory_discard(PG_FUNCTION_ARGS)
{
	static Statement statement = {
		"DELETE FROM inventory.parked_message p"
		" WHERE p.subscription_id = $1 AND p.state IN ('dead', 'skipped')"
		" AND ($2 IS NULL OR p.position = $2) AND $3 IS NOT NULL",
		3, {INT4OID, INT8OID, TIMESTAMPTZOID}
	};
	Subscription *subscription = subscription_to_change(fcinfo, "discard");
	int64		count;

	query_begin();
	count = run_on(&statement, subscription, fcinfo);
	query_end();
	if (count == 0 && !PG_ARGISNULL(1))
		refuse_unknown(subscription, PG_GETARG_INT64(1), "dead");
	PG_RETURN_INT64(count);
}
