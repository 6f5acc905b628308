/*-------------------------------------------------------------------------
 *
 * handler.c
 *		Sinks in the database: SQL functions, commands, NOTIFY.
 *
 * Messages are handled in chunks, each in a subtransaction.  When one of a chunk
 * fails, the chunk is rolled back and its messages are handled one by one, so
 * that only the one that fails fails; chunks are as large as what they take is
 * short.
 *
 * A handler runs as the owner of the subscription and in a security-restricted
 * operation: it cannot become anybody else, nor leave behind what would run
 * later, as the process's own user.  For the same reason deferrable constraints
 * are checked at once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parse_func.h"
#include "postmaster/bgworker.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/typcache.h"

#include "command.h"
#include "compat.h"
#include "error.h"
#include "event.h"
#include "handler.h"

/* Messages of one subtransaction, and for how long it is worth it. */
#define CHUNK_MAX 64
#define CHUNK_MS 50

/* No batch goes on for longer: others wait for its locks. */
#define BATCH_MS 1000

/* A deadlock, a serialization failure: this often at once. */
#define TRIES 3

struct Handler
{
	const Subscription *subscription;
	MemoryContext context;		/* of one chunk */
	MemoryContext function_context; /* of one transaction */
	FmgrInfo	function;
	TupleDesc	descriptor;
	int			chunk;
};

/* Whether a handler is being called in this process. */
static bool running = false;

/* What the subtransaction of a chunk has come to. */
typedef struct ChunkError
{
	int			sqlerrcode;
	char	   *message;
} ChunkError;

/* ---- The function ---- */

static Oid
function_owner(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return owner;
}

static Oid
handler_function(const Subscription *subscription, Oid type)
{
	List	   *name = compat_string_to_name_list(subscription->handler);
	Oid			function = LookupFuncName(name, 1, &type, true);

	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("there is no function %s(inventory.message)",
						subscription->handler)));
	if (compat_function_aclcheck(function, subscription->owner) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("role \"%s\" may not execute function %s(inventory.message)",
						GetUserNameFromId(subscription->owner, false),
						subscription->handler)));
	subscription_check_sink_owner(subscription->sink_owner, function_owner(function),
								  psprintf("function %s(inventory.message)", subscription->handler));
	return function;
}

/* In the current memory context. */
Handler *
handler_begin(const Subscription *subscription)
{
	Handler    *handler = palloc0(sizeof(Handler));

	handler->subscription = subscription;
	handler->chunk = 1;
	handler->context = AllocSetContextCreate(CurrentMemoryContext, "inventory handler",
											 ALLOCSET_DEFAULT_SIZES);
	handler->function_context = AllocSetContextCreate(CurrentMemoryContext,
													  "inventory handler function",
													  ALLOCSET_SMALL_SIZES);
	return handler;
}

/* In every transaction: finds the function, which may have been changed. */
void
handler_prepare(Handler *handler)
{
	MemoryContext old;
	Oid			type;

	if (handler->subscription->kind != SINK_KIND_COMMAND)
		subscription_check_right(handler->subscription);
	if (handler->subscription->kind != SINK_KIND_FUNCTION)
		return;
	type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("message"),
						   ObjectIdGetDatum(get_namespace_oid("inventory", false)));
	MemoryContextReset(handler->function_context);
	old = MemoryContextSwitchTo(handler->function_context);
	fmgr_info(handler_function(handler->subscription, type), &handler->function);
	handler->descriptor = BlessTupleDesc(lookup_rowtype_tupdesc_copy(type, -1));
	MemoryContextSwitchTo(old);
}

static Datum
text_datum(const char *string, bool *isnull)
{
	*isnull = string == NULL;
	return string ? CStringGetTextDatum(string) : (Datum) 0;
}

/* The value of type inventory.message. */
static Datum
message_datum(const Handler *handler, const Message *message)
{
	Datum		values[11];
	bool		nulls[11] = {false};

	values[0] = CStringGetTextDatum(message->id);
	values[1] = CStringGetTextDatum(message->topic);
	values[2] = text_datum(message->key, &nulls[2]);
	values[3] = PointerGetDatum(message->payload);
	nulls[3] = message->payload == NULL;
	values[4] = PointerGetDatum(message->headers);
	nulls[4] = message->headers == NULL;
	values[5] = TimestampTzGetDatum(message->created_at);
	values[6] = Int64GetDatum(message->number);
	values[7] = Int64GetDatum(message->position);
	values[8] = Int32GetDatum(message->attempts + 1);
	values[9] = BoolGetDatum(handler->subscription->replayed);
	values[10] = CStringGetTextDatum(handler->subscription->name);
	return HeapTupleGetDatum(heap_form_tuple(handler->descriptor, values, nulls));
}

static void
call_function(Handler *handler, const Message *message)
{
	LOCAL_FCINFO(call, 1);

	InitFunctionCallInfoData(*call, &handler->function, 1, InvalidOid, NULL, NULL);
	call->args[0].value = message_datum(handler, message);
	call->args[0].isnull = false;
	(void) FunctionCallInvoke(call);
}

/* ---- One chunk ---- */

/* A sets-returning or ordinary function alike needs the snapshot of now. */
static void
handle_one(Handler *handler, DeliveryItem *item)
{
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (handler->subscription->kind == SINK_KIND_FUNCTION)
	{
		call_function(handler, &item->message);
		item->outcome = OUTCOME_DONE;
	}
	else
		item->outcome = command_execute(&item->message, &item->due_at) == COMMAND_DONE ?
			OUTCOME_DONE : OUTCOME_LATER;
	PopActiveSnapshot();
}

/*
 * What waits is done at once, as the present user: in a session, before the user
 * is changed, so that nobody's triggers run as somebody else.
 */
void
handler_check_constraints(void)
{
	ConstraintsSetStmt *statement = makeNode(ConstraintsSetStmt);

	statement->constraints = NIL;
	statement->deferred = false;
	AfterTriggerSetState(statement);
}

/* In the subtransaction: as the owner, restricted. */
static void
chunk_run(Handler *handler, DeliveryItem *items, int count)
{
	Oid			user;
	int			security_context;
	int			guc_level = NewGUCNestLevel();

	GetUserIdAndSecContext(&user, &security_context);
	if (MyBgworkerEntry != NULL)
		handler_check_constraints();
	if (handler->subscription->kind == SINK_KIND_FUNCTION)
	{
		event_actor = handler->subscription->owner;
		SetUserIdAndSecContext(handler->subscription->owner,
							   security_context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
	}
	for (int i = 0; i < count; i++)
	{
		if (items[i].outcome == OUTCOME_NONE)
			handle_one(handler, &items[i]);
	}
	SetUserIdAndSecContext(user, security_context);
	AtEOXact_GUC(false, guc_level);
}

static void
timeout_begin(const Handler *handler, bool *running)
{
	*running = MyBgworkerEntry != NULL && handler->subscription->timeout > 0;
	if (*running)
		enable_timeout_after(STATEMENT_TIMEOUT,
							 (int) Min(handler->subscription->timeout, INT_MAX));
}

/* If it has fired just now, that is nobody's business any more. */
static void
timeout_end(bool running_timeout)
{
	if (!running_timeout)
		return;
	disable_timeout(STATEMENT_TIMEOUT, true);
	if (get_timeout_indicator(STATEMENT_TIMEOUT, true))
		QueryCancelPending = false;
}

/*
 * Handles the messages in one subtransaction.  If one fails, the outcomes are
 * as before, and *error tells why.
 */
static bool
chunk_try(Handler *handler, DeliveryItem *items, int count, ChunkError *error)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	bool		timed;
	volatile bool succeeded = false;

	BeginInternalSubTransaction(NULL);
	running = true;
	MemoryContextSwitchTo(handler->context);
	timeout_begin(handler, &timed);
	PG_TRY();
	{
		chunk_run(handler, items, count);
		timeout_end(timed);
		ReleaseCurrentSubTransaction();
		succeeded = true;
	}
	PG_CATCH();
	{
		ErrorData  *data;

		timeout_end(timed);
		MemoryContextSwitchTo(caller);
		data = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		error->sqlerrcode = data->sqlerrcode;
		error->message = data->message;
	}
	PG_END_TRY();
	running = false;
	event_actor = InvalidOid;
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	MemoryContextReset(handler->context);
	return succeeded;
}

/* ---- Outcomes ---- */

/* A session that is cancelled, by its statement_timeout too, has no message to blame. */
static bool
is_session_cancelled(const ChunkError *error)
{
	return MyBgworkerEntry == NULL && error->sqlerrcode == ERRCODE_QUERY_CANCELED;
}

pg_noreturn static void
rethrow(const ChunkError *error)
{
	ereport(ERROR,
			(errcode(error->sqlerrcode), errmsg_internal("%s", error->message)));
}

static bool
is_conflict(int sqlerrcode)
{
	return sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ||
		sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;
}

/* A command, by somebody's open transaction, and nobody knows for how long. */
static bool
is_being_cancelled(const Handler *handler, int sqlerrcode)
{
	return handler->subscription->kind == SINK_KIND_COMMAND &&
		sqlerrcode == ERRCODE_OBJECT_IN_USE;
}

/* Whether a message that has failed is tried again. */
static Outcome
failure(const Handler *handler, const Message *message, int sqlerrcode)
{
	bool		command = handler->subscription->kind == SINK_KIND_COMMAND;

	if (command ? command_error_is_final(sqlerrcode) : sqlerrcode == ERRCODE_IV_MESSAGE_REFUSED)
		return OUTCOME_DEAD;
	if (is_being_cancelled(handler, sqlerrcode))
		return OUTCOME_RETRY;
	return delivery_failure(handler->subscription, message);
}

static void
handle_alone(Handler *handler, DeliveryItem *item)
{
	ChunkError	error;

	for (int i = 0; i < TRIES; i++)
	{
		if (chunk_try(handler, item, 1, &error))
			return;
		item->outcome = OUTCOME_NONE;
		if (!is_conflict(error.sqlerrcode))
			break;
	}
	if (is_session_cancelled(&error) || !message_is_to_blame(error.sqlerrcode))
		rethrow(&error);
	item->outcome = failure(handler, &item->message, error.sqlerrcode);
	item->uncounted = is_being_cancelled(handler, error.sqlerrcode);
	item->error = error.message;
	item->sqlerrcode = error.sqlerrcode;
}

/* Whether an earlier message with the key has just failed. */
static bool
is_behind(const DeliveryItem *items, int at)
{
	const char *key = items[at].message.key;

	for (int i = 0; key && i < at; i++)
	{
		if (items[i].outcome == OUTCOME_RETRY && items[i].message.key &&
			strcmp(items[i].message.key, key) == 0)
			return true;
	}
	return false;
}

static bool
any_failed(const DeliveryItem *items, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (items[i].outcome == OUTCOME_RETRY)
			return true;
	}
	return false;
}

static void
handle_chunk(Handler *handler, DeliveryItem *items, int from, int count)
{
	ChunkError	error;
	bool		behind = any_failed(items, from);

	for (int i = from; i < from + count; i++)
	{
		if (behind && items[i].outcome == OUTCOME_NONE && is_behind(items, i))
			items[i].outcome = OUTCOME_DEFERRED;
	}
	if (count > 1)
	{
		Outcome		before[CHUNK_MAX];

		for (int i = 0; i < count; i++)
			before[i] = items[from + i].outcome;
		if (chunk_try(handler, items + from, count, &error))
			return;
		if (is_session_cancelled(&error))
			rethrow(&error);
		for (int i = 0; i < count; i++)
			items[from + i].outcome = before[i];
	}
	for (int i = from; i < from + count; i++)
	{
		if (items[i].outcome != OUTCOME_NONE)
			continue;
		if (is_behind(items, i))
			items[i].outcome = OUTCOME_DEFERRED;
		else
			handle_alone(handler, &items[i]);
	}
	handler->chunk = 1;
}

/* ---- NOTIFY ---- */

/* A doorbell: one for all of the messages. */
static void
notify(Handler *handler, DeliveryItem *items, int count)
{
	StringInfoData payload;
	int			waiting = 0;
	int64		last = 0;

	for (int i = 0; i < count; i++)
	{
		if (items[i].outcome != OUTCOME_NONE)
			continue;
		items[i].outcome = OUTCOME_DONE;
		last = items[i].message.position;
		waiting++;
	}
	if (waiting == 0)
		return;
	initStringInfo(&payload);
	appendStringInfoString(&payload, "{\"subscription\": ");
	escape_json(&payload, handler->subscription->name);
	appendStringInfo(&payload, ", \"messages\": %d, \"position\": " INT64_FORMAT "}",
					 waiting, last);
	Async_Notify(handler->subscription->channel, payload.data);
}

bool
handler_is_running(void)
{
	return running;
}

/* ---- Batches ---- */

static long
ms_since(TimestampTz start)
{
	return TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());
}

void
handler_run(Handler *handler, DeliveryItem *items, int count)
{
	TimestampTz started = GetCurrentTimestamp();
	int			done = 0;

	if (handler->subscription->kind == SINK_KIND_NOTIFY)
	{
		notify(handler, items, count);
		return;
	}
	while (done < count && (done == 0 || ms_since(started) < BATCH_MS))
	{
		TimestampTz chunk_started = GetCurrentTimestamp();
		int			size = Min(handler->chunk, count - done);
		long		took;

		handle_chunk(handler, items, done, size);
		done += size;
		took = ms_since(chunk_started);
		if (took * 2 < CHUNK_MS)
			handler->chunk = Min(handler->chunk * 2, CHUNK_MAX);
		else if (took > CHUNK_MS)
			handler->chunk = Max(handler->chunk / 2, 1);
	}
}
