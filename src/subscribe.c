/*-------------------------------------------------------------------------
 *
 * subscribe.c
 *		Making subscriptions and changing them.
 *
 * Whoever makes a subscription owns it, and needs a right on its sink: EXECUTE
 * on the handler, USAGE on the foreign server.  It is the owner's rights that
 * count when messages are delivered.  It is changed by its owner and who has the
 * privileges of that role, and of the owner of the extension.
 *
 * These functions run as their caller; only the statements in query.c run as the
 * owner of the extension.
 *
 * LOCKING: see subscription.c.  One that is being made is locked by nobody: it
 * is not there until its transaction has committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "call.h"
#include "catalog.h"
#include "clock.h"
#include "compat.h"
#include "delivery_slot.h"
#include "endpoint.h"
#include "error.h"
#include "inventory.h"
#include "query.h"
#include "subscribe.h"
#include "subscription_option.h"
#include "topic.h"

#define NAME_MAX_LENGTH 100
#define NAME_RESERVED "inventory."
#define TOPICS_MAX 100

PG_FUNCTION_INFO_V1(inventory_subscribe);
PG_FUNCTION_INFO_V1(inventory_unsubscribe);
PG_FUNCTION_INFO_V1(inventory_pause);
PG_FUNCTION_INFO_V1(inventory_resume);
PG_FUNCTION_INFO_V1(inventory_seek);
PG_FUNCTION_INFO_V1(inventory_replay);

/* ---- Sinks ---- */

static Oid
message_type(void)
{
	return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("message"),
						   ObjectIdGetDatum(get_namespace_oid("inventory", false)));
}

/* An error unless it can be called like a handler; its name with the schema. */
static char *
handler_name(Oid function, const char *given, Oid *function_owner)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc row;
	char	   *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	row = (Form_pg_proc) GETSTRUCT(tuple);
	if (row->prokind != PROKIND_FUNCTION || row->proretset)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
				 errmsg("%s(inventory.message) cannot be a handler", given),
				 errdetail("It must be a function, and not return a set.")));
	name = quote_qualified_identifier(get_namespace_name(row->pronamespace),
									  NameStr(row->proname));
	*function_owner = row->proowner;
	ReleaseSysCache(tuple);
	return name;
}

/* Checks the handler; its name as it is kept, and whose it is. */
static char *
check_handler(const char *given, Oid owner, Oid *function_owner)
{
	List	   *names = compat_string_to_name_list(given);
	Oid			type = message_type();
	Oid			function;
	char	   *name;

	if (list_length(names) != 2)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
				 errmsg("invalid \"%s\": \"%s\"", "handler", given),
				 errdetail("It must be the name of a schema and of a function, with a dot between.")));
	function = LookupFuncName(names, 1, &type, true);
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("there is no function %s(inventory.message)", given)));
	name = handler_name(function, given, function_owner);
	if (compat_function_aclcheck(function, owner) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not execute function %s(inventory.message)",
						GetUserNameFromId(owner, false), name)));
	return name;
}

/* Checks the server; whose it is. */
static Oid
check_server(const char *sink, Oid owner, Jsonb *options)
{
	Oid			server = get_foreign_server_oid(sink, true);

	if (!OidIsValid(server))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no sink \"%s\"", sink),
				 errhint("A sink is function, notify, or a foreign server of inventory_http, inventory_rabbitmq, inventory_redis or inventory_kafka.")));
	endpoint_check(server, owner, options);
	return GetForeignServer(server)->owner;
}

static Jsonb *
set_sink_owner(Jsonb *options, Oid sink_owner)
{
	JsonbValue	value = {.type = jbvNumeric};

	value.val.numeric = int64_to_numeric(sink_owner);
	return subscription_option_set(options, "sink_owner", &value);
}

pg_noreturn static void
refuse_missing(const char *sink, const char *option)
{
	ereport(ERROR,
			(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
			 errmsg("sink \"%s\" needs the option \"%s\"", sink, option)));
}

/* Checks what messages are to go to, and returns the options as they are kept. */
static Jsonb *
check_sink(SinkKind kind, const char *sink, Jsonb *options, Oid owner)
{
	JsonbValue	handler = {.type = jbvString};
	Oid			sink_owner;
	char	   *name;

	switch (kind)
	{
		case SINK_KIND_FUNCTION:
			name = subscription_option_text(options, "handler");
			if (name == NULL)
				refuse_missing(sink, "handler");
			handler.val.string.val = check_handler(name, owner, &sink_owner);
			handler.val.string.len = strlen(handler.val.string.val);
			return set_sink_owner(subscription_option_set(options, "handler", &handler),
								  sink_owner);
		case SINK_KIND_NOTIFY:
			if (subscription_option_text(options, "channel") == NULL)
				refuse_missing(sink, "channel");
			return options;
		case SINK_KIND_COMMAND:
			return options;
		case SINK_KIND_SERVER:
			return set_sink_owner(options, check_server(sink, owner, options));
	}
	return options;
}

/* ---- Where cursors begin ---- */

static void
start_now(Cursor *cursor)
{
	PushActiveSnapshot(GetLatestSnapshot());
	boundary_now(&cursor->after);
	PopActiveSnapshot();
}

static void
start_earliest(Cursor *cursor)
{
	cursor->after.xmax = CURSOR_BEGINNING;
	cursor->after.xip_count = 0;
	cursor->after.xip = palloc(sizeof(uint64));
}

/*
 * The transactions of a tick that was written by then have begun before then.
 * The clock may have been put back: no later tick may say otherwise.
 */
static void
start_at(Cursor *cursor, TimestampTz at)
{
	static Statement statement = {
		"SELECT t.snapshot FROM inventory.tick t"
		" WHERE t.tick_id < coalesce((SELECT min(l.tick_id) FROM inventory.tick l WHERE l.ticked_at > $1),"
		"  9223372036854775807)"
		" ORDER BY t.tick_id DESC LIMIT 1",
		1, {TIMESTAMPTZOID}
	};
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[1] = {TimestampTzGetDatum(at)};
	bool		isnull;

	start_earliest(cursor);
	query_begin();
	if (query_run(&statement, values, NULL) > 0)
	{
		MemoryContextSwitchTo(caller);
		boundary_from_datum(query_value(0, 1, &isnull), &cursor->after);
	}
	query_end();
	cursor->since = at;
}

void
cursor_start(Cursor *cursor, const char *option, const char *start)
{
	cursor->since = DT_NOBEGIN;
	if (strcmp(start, "now") == 0)
		start_now(cursor);
	else if (strcmp(start, "earliest") == 0)
		start_earliest(cursor);
	else
		start_at(cursor, subscription_option_time(option, start));
	cursor->window = false;
	cursor->last_number = PG_INT64_MIN;
}

static void
cursor_clear(Cursor *cursor)
{
	memset(cursor, 0, sizeof(Cursor));
	cursor->last_number = PG_INT64_MIN;
	cursor->since = DT_NOBEGIN;
	cursor->until = DT_NOEND;
}

/* ---- Making ---- */

static void
check_name(const char *name)
{
	static const char characters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
	size_t		length = strlen(name);

	if (length == 0 || length > NAME_MAX_LENGTH || strspn(name, characters) != length)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
				 errmsg("invalid name of a subscription \"%s\"", name),
				 errdetail("It must be 1 to %d characters of A-Z, a-z, 0-9, \"_\", \"-\" and \".\".",
						   NAME_MAX_LENGTH)));
}

/* Those of the engine's own: the commands'. */
static void
check_not_reserved(const char *name)
{
	if (pg_strncasecmp(name, NAME_RESERVED, strlen(NAME_RESERVED)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
				 errmsg("the name of subscription \"%s\" is reserved", name),
				 errhint("Names that begin with \"%s\" are those of the engine.",
						 NAME_RESERVED)));
}

static void
check_topics(char **topics, int count)
{
	if (count == 0 || count > TOPICS_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
				 errmsg("a subscription must have 1 to %d patterns of topics, not %d",
						TOPICS_MAX, count)));
	for (int i = 0; i < count; i++)
		topic_check_pattern(topics[i]);
}

static ArrayType *
topic_array(char **topics, int count)
{
	Datum	   *elements = palloc(count * sizeof(Datum));

	for (int i = 0; i < count; i++)
		elements[i] = CStringGetTextDatum(topics[i]);
	return construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT);
}

static void
insert_subscription(int subscription_id, const char *name, ArrayType *topics,
					const char *sink, Jsonb *options, int workers, Oid owner)
{
	static Statement statement = {
		"INSERT INTO inventory.subscription (subscription_id, name, owner, topics, sink, options,"
		" workers, state, generation, created_at)"
		" VALUES ($1, $2, $3::oid::regrole, $4, $5, $6, $7, 'active', 1, $8)"
		" ON CONFLICT (name) DO NOTHING",
		8, {INT4OID, TEXTOID, OIDOID, TEXTARRAYOID, TEXTOID, JSONBOID, INT4OID, TIMESTAMPTZOID}
	};
	Datum		values[8];
	uint64		inserted;

	values[0] = Int32GetDatum(subscription_id);
	values[1] = CStringGetTextDatum(name);
	values[2] = ObjectIdGetDatum(owner);
	values[3] = PointerGetDatum(topics);
	values[4] = CStringGetTextDatum(sink);
	values[5] = PointerGetDatum(options);
	values[6] = Int32GetDatum(workers);
	values[7] = TimestampTzGetDatum(clock_transaction_time());
	query_begin();
	inserted = query_run(&statement, values, NULL);
	query_end();
	if (inserted == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("there is a subscription \"%s\" already", name)));
}

static void
insert_cursors(int subscription_id, int slices, const Cursor *start)
{
	Cursor		cursor = *start;

	cursor.subscription_id = subscription_id;
	for (cursor.slice = 0; cursor.slice < slices; cursor.slice++)
	{
		cursor.cursor_no = 0;
		cursor_begin_epoch(&cursor);
		cursor_write(&cursor);
	}
}

static int
option_workers(Jsonb *options)
{
	char	   *workers = subscription_option_text(options, "workers");

	return workers ? pg_strtoint32(workers) : 1;
}

int
subscribe(const char *name, char **topics, int topic_count, const char *sink,
		  Jsonb *options, Oid owner, const Cursor *start)
{
	int			subscription_id;
	int			workers = option_workers(options);

	check_name(name);
	check_topics(topics, topic_count);
	options = check_sink(sink_kind(sink), sink, options, owner);
	subscription_id = (int) nextval_internal(catalog_relations()->subscription_sequence, false);
	insert_subscription(subscription_id, name, topic_array(topics, topic_count),
						sink, options, workers, owner);
	insert_cursors(subscription_id, workers, start);
	delivery_changed();
	return subscription_id;
}

/* ---- Arguments ---- */

static char *
argument_text(FunctionCallInfo fcinfo, int argument, const char *name)
{
	return text_to_cstring(call_text(fcinfo, argument, name));
}

static void
refuse_null(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be NULL", name)));
}

static Jsonb *
argument_options(FunctionCallInfo fcinfo, int argument, SinkKind kind)
{
	if (PG_ARGISNULL(argument))
		refuse_null("options");
	return subscription_options_complete(kind, PG_GETARG_JSONB_P(argument));
}

static char **
argument_topics(FunctionCallInfo fcinfo, int argument, int *count)
{
	ArrayType  *array;
	Datum	   *elements;
	bool	   *nulls;
	char	  **topics;

	if (PG_ARGISNULL(argument))
		refuse_null("topics");
	array = PG_GETARG_ARRAYTYPE_P(argument);
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, count);
	topics = palloc(Max(*count, 1) * sizeof(char *));
	for (int i = 0; i < *count; i++)
	{
		if (nulls[i])
			refuse_null("a topic");
		topics[i] = TextDatumGetCString(elements[i]);
	}
	return topics;
}

static void
check_may_have(SinkKind kind)
{
	if (kind == SINK_KIND_COMMAND && !has_privs_of_role(GetUserId(), catalog_owner()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only the owner of the extension may subscribe with the sink \"command\"")));
}

Datum
inventory_subscribe(PG_FUNCTION_ARGS)
{
	char	   *name;
	char	  **topics;
	int			topic_count;
	char	   *sink;
	SinkKind	kind;
	Jsonb	   *options;
	Cursor		start;

	inventory_check_writable("subscribe");
	name = argument_text(fcinfo, 0, "name");
	topics = argument_topics(fcinfo, 1, &topic_count);
	sink = argument_text(fcinfo, 2, "sink");
	kind = sink_kind(sink);
	check_may_have(kind);
	if (kind != SINK_KIND_COMMAND)
		check_not_reserved(name);
	options = argument_options(fcinfo, 3, kind);
	cursor_clear(&start);
	cursor_start(&start, "start", subscription_option_text(options, "start"));
	PG_RETURN_INT32(subscribe(name, topics, topic_count, sink, options, GetUserId(), &start));
}

/* ---- Changing ---- */

void
subscription_check_owner(const Subscription *subscription)
{
	if (!has_privs_of_role(GetUserId(), subscription->owner) &&
		!has_privs_of_role(GetUserId(), catalog_owner()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of subscription \"%s\"", subscription->name)));
}

static Subscription *
find_or_refuse(const char *name)
{
	Subscription *subscription = subscription_find_name(name);

	if (subscription == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IV_UNKNOWN_SUBSCRIPTION),
				 errmsg("there is no subscription \"%s\"", name)));
	return subscription;
}

Subscription *
subscription_to_change(FunctionCallInfo fcinfo, const char *operation)
{
	char	   *name;
	Subscription *subscription;
	int			subscription_id;

	inventory_check_writable(operation);
	name = argument_text(fcinfo, 0, "name");
	subscription = find_or_refuse(name);
	subscription_check_owner(subscription);
	subscription_id = subscription->subscription_id;
	subscription_lock(subscription_id, ExclusiveLock);
	/* It may have been changed, or gone and made again, while we waited. */
	subscription = find_or_refuse(name);
	if (subscription->subscription_id != subscription_id)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("subscription \"%s\" has just been made anew", name)));
	return subscription;
}

void
subscription_changed(const Subscription *subscription, const char *state)
{
	static Statement statement = {
		"UPDATE inventory.subscription s SET generation = s.generation + 1, state = coalesce($2, s.state)"
		" WHERE s.subscription_id = $1",
		2, {INT4OID, TEXTOID}
	};
	Datum		values[2];
	char		nulls[3] = "  ";

	values[0] = Int32GetDatum(subscription->subscription_id);
	if (state)
		values[1] = CStringGetTextDatum(state);
	else
		nulls[1] = 'n';
	query_begin();
	query_run(&statement, values, nulls);
	query_end();
	delivery_changed();
}

static void
set_options(const Subscription *subscription, Jsonb *options)
{
	static Statement statement = {
		"UPDATE inventory.subscription s SET options = $2 WHERE s.subscription_id = $1",
		2, {INT4OID, JSONBOID}
	};
	Datum		values[2];

	values[0] = Int32GetDatum(subscription->subscription_id);
	values[1] = JsonbPGetDatum(options);
	query_begin();
	query_run(&statement, values, NULL);
	query_end();
}

static void
refuse_finished(const Subscription *subscription)
{
	if (subscription->finished)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" has finished", subscription->name),
				 errhint("It was a replay: replay() makes another one.")));
}

/* Its cursors stay in the journal until it is emptied, and mean nothing. */
Datum
inventory_unsubscribe(PG_FUNCTION_ARGS)
{
	static Statement parked = {
		"DELETE FROM inventory.parked_message p WHERE p.subscription_id = $1", 1, {INT4OID}
	};
	static Statement marks = {
		"DELETE FROM inventory.delivery_mark k WHERE k.subscription_id = $1", 1, {INT4OID}
	};
	static Statement subscription_row = {
		"DELETE FROM inventory.subscription s WHERE s.subscription_id = $1", 1, {INT4OID}
	};
	Subscription *subscription = subscription_to_change(fcinfo, "unsubscribe");
	Datum		values[1] = {Int32GetDatum(subscription->subscription_id)};

	query_begin();
	query_run(&parked, values, NULL);
	query_run(&marks, values, NULL);
	query_run(&subscription_row, values, NULL);
	query_end();
	delivery_changed();
	PG_RETURN_VOID();
}

Datum
inventory_pause(PG_FUNCTION_ARGS)
{
	Subscription *subscription = subscription_to_change(fcinfo, "pause");

	refuse_finished(subscription);
	if (subscription->active)
		subscription_changed(subscription, "paused");
	PG_RETURN_VOID();
}

Datum
inventory_resume(PG_FUNCTION_ARGS)
{
	Subscription *subscription = subscription_to_change(fcinfo, "resume");

	refuse_finished(subscription);
	if (subscription->active)
		PG_RETURN_VOID();
	subscription_check_right(subscription);
	set_options(subscription, check_sink(subscription->kind, subscription->sink,
										 subscription->options, subscription->owner));
	subscription_changed(subscription, "active");
	PG_RETURN_VOID();
}

Datum
inventory_seek(PG_FUNCTION_ARGS)
{
	Subscription *subscription = subscription_to_change(fcinfo, "seek");
	char	   *to = argument_text(fcinfo, 1, "to");

	refuse_finished(subscription);
	for (int slice = 0; slice < subscription->workers; slice++)
	{
		Cursor		cursor;

		if (!cursor_read(subscription->subscription_id, slice, &cursor))
			elog(ERROR, "subscription \"%s\" has no cursor for slice %d",
				 subscription->name, slice);
		cursor_start(&cursor, "to", to);
		cursor_begin_epoch(&cursor);
		cursor_write(&cursor);
	}
	subscription_changed(subscription, NULL);
	PG_RETURN_VOID();
}

/* ---- Replaying ---- */

static void
check_replay_times(TimestampTz since, TimestampTz until)
{
	if (TIMESTAMP_NOT_FINITE(since) || TIMESTAMP_NOT_FINITE(until))
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
				 errmsg("since and until must be finite")));
	if (until <= since)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
				 errmsg("until must be later than since")));
}

/* What a replay has of the subscription that it replays. */
static Jsonb *
replay_options(const Subscription *original, Jsonb *options)
{
	JsonbValue	value;

	if (option_workers(options) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
				 errmsg("a replay has one worker")));
	value.type = jbvBool;
	value.val.boolean = true;
	options = subscription_option_set(options, "replayed", &value);
	if (original->key_prefix == NULL ||
		subscription_option_text(options, "key_prefix") != NULL)
		return options;
	value.type = jbvString;
	value.val.string.val = original->key_prefix;
	value.val.string.len = strlen(original->key_prefix);
	return subscription_option_set(options, "key_prefix", &value);
}

static char *
replay_name(const char *name)
{
	return psprintf("%.*s.replay-" INT64_FORMAT, NAME_MAX_LENGTH - 20, name,
					nextval_internal(catalog_relations()->subscription_sequence, false));
}

Datum
inventory_replay(PG_FUNCTION_ARGS)
{
	Subscription *original;
	char	   *sink;
	char	   *name;
	SinkKind	kind;
	Jsonb	   *options;
	Cursor		start;

	inventory_check_writable("replay");
	original = find_or_refuse(argument_text(fcinfo, 0, "name"));
	subscription_check_owner(original);
	sink = argument_text(fcinfo, 1, "sink");
	kind = sink_kind(sink);
	check_may_have(kind);
	if (PG_ARGISNULL(2))
		refuse_null("since");
	options = argument_options(fcinfo, 4, kind);
	if (subscription_option_text(PG_GETARG_JSONB_P(4), "start"))
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
				 errmsg("a replay has no option \"%s\"", "start")));
	options = replay_options(original, options);
	cursor_clear(&start);
	start.until = PG_ARGISNULL(3) ? clock_time() : PG_GETARG_TIMESTAMPTZ(3);
	check_replay_times(PG_GETARG_TIMESTAMPTZ(2), start.until);
	start_at(&start, PG_GETARG_TIMESTAMPTZ(2));
	name = replay_name(original->name);
	subscribe(name, original->topics, original->topic_count, sink, options, GetUserId(), &start);
	PG_RETURN_TEXT_P(cstring_to_text(name));
}
