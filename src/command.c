/*-------------------------------------------------------------------------
 *
 * command.c
 *		Stock operations that are handed in, and executed by a worker.
 *
 * A command is a message of topic inventory.command.NAME, delivered to the sink
 * "command" of the subscription inventory.commands, which the first submit()
 * makes.  It is executed as the role that has submitted it, and its result is
 * inserted into command_result in the same subtransaction: whoever comes second
 * with the same number, another executor or cancel(), finds the row.  An executor
 * that has come second is rolled back, and tried again finds it at once.
 *
 * An error is dealt with by the delivery (delivery.c): the message is parked and
 * tried again, or given up; then command_dead() inserts the result.
 *
 * What is not hot is SQL (command.sql), run as the owner of the extension by
 * query.c: checking what is submitted, and what follows in a saga.
 *
 * LOCKING: of two inserters of a result, cancel() waits for the transaction of an
 * executor.  An executor does not wait for cancel(), which may be part of a long
 * transaction: its attempt has failed, and is not counted.  Whoever submits with a
 * request id has ENGINE_LOCK_REQUEST for it while he looks and writes, so that
 * no message is written for one that is not recorded.  Who makes the subscription
 * has ENGINE_LOCK_SUBSCRIPTION 0 until commit.  Parked commands are changed with
 * the subscription locked (subscription.c).  But cancel() locks nothing, so that
 * a session that then goes on sleeping stops nobody: it publishes that it has
 * cancelled, and the delivery makes the parked command due when it meets that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/itemptr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "call.h"
#include "catalog.h"
#include "clock.h"
#include "command.h"
#include "command_call.h"
#include "cursor.h"
#include "delivery_slot.h"
#include "error.h"
#include "inventory.h"
#include "lock.h"
#include "maintenance.h"
#include "outbox.h"
#include "query.h"
#include "row.h"
#include "stat.h"
#include "subscribe.h"
#include "subscription.h"
#include "subscription_option.h"

#define COMMAND_SUBSCRIPTION "inventory.commands"
#define COMMAND_TOPIC "inventory.command."
#define COMMAND_TOPIC_DEAD COMMAND_TOPIC "dead"
#define COMMAND_TOPIC_CANCELLED COMMAND_TOPIC "cancelled"

/* Columns, as the install script has them. */
enum
{
	RESULT_MESSAGE_ID = 1, RESULT_COMMAND, RESULT_KEY, RESULT_SUBMITTED_BY,
	RESULT_SUBMITTED_AT, RESULT_STATE, RESULT_RESULT, RESULT_ERROR,
	RESULT_SQLSTATE, RESULT_ATTEMPTS, RESULT_FINISHED_AT, RESULT_SAGA_ID
};
#define RESULT_COLUMNS RESULT_SAGA_ID

int			command_overdue = 300000;

/* What a message says. */
typedef struct Command
{
	const Message *message;
	char	   *name;
	Jsonb	   *arguments;
	Oid			role;			/* InvalidOid: it is gone */
	char	   *role_name;
	bool		has_not_before;
	TimestampTz not_before;
	bool		has_deadline;
	TimestampTz deadline;
	int64		saga;			/* or 0 */
	int			step;
	bool		compensation;
	bool		compensated;	/* it says what compensates it */
} Command;

/* How one has come to its end. */
typedef struct CommandEnd
{
	const char *state;
	Jsonb	   *result;			/* or NULL */
	const char *error;			/* or NULL */
	int			sqlerrcode;		/* or 0 */
	int			attempts;
} CommandEnd;

PG_FUNCTION_INFO_V1(inventory_command_cluster);
PG_FUNCTION_INFO_V1(inventory_command_append);
PG_FUNCTION_INFO_V1(inventory_command_retry);
PG_FUNCTION_INFO_V1(inventory_submit);
PG_FUNCTION_INFO_V1(inventory_saga);
PG_FUNCTION_INFO_V1(inventory_cancel);

/* ---- What a message says ---- */

static JsonbValue *
field(Jsonb *object, const char *name, JsonbValue *value)
{
	JsonbValue *found = getKeyJsonValueFromContainer(&object->root, name, strlen(name), value);

	return found && found->type != jbvNull ? found : NULL;
}

static char *
field_text(Jsonb *object, const char *name)
{
	JsonbValue	value;

	if (field(object, name, &value) == NULL || value.type != jbvString)
		return NULL;
	return pnstrdup(value.val.string.val, value.val.string.len);
}

static int64
field_int64(Jsonb *object, const char *name)
{
	JsonbValue	value;

	if (field(object, name, &value) == NULL || value.type != jbvNumeric)
		return 0;
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(value.val.numeric)));
}

static bool
field_bool(Jsonb *object, const char *name)
{
	JsonbValue	value;

	return field(object, name, &value) && value.type == jbvBool && value.val.boolean;
}

static bool
field_time(Jsonb *object, const char *name, TimestampTz *time)
{
	char	   *text = field_text(object, name);

	if (text)
		*time = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
														ObjectIdGetDatum(InvalidOid),
														Int32GetDatum(-1)));
	return text != NULL;
}

static char *
cluster(void)
{
	return psprintf(UINT64_FORMAT, GetSystemIdentifier());
}

/* See command_role() in command.sql. */
static Oid
read_role(Jsonb *payload, const char *name)
{
	char	   *from = field_text(payload, "cluster");
	Oid			role = (Oid) field_int64(payload, "role_id");

	if (from == NULL || strcmp(from, cluster()) != 0)
		return name ? get_role_oid(name, true) : InvalidOid;
	return SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(role)) ? role : InvalidOid;
}

static void
command_read(Command *command, const Message *message)
{
	Jsonb	   *payload = message->payload;
	JsonbValue	value;

	memset(command, 0, sizeof(Command));
	command->message = message;
	if (payload == NULL || !JB_ROOT_IS_OBJECT(payload) ||
		(command->name = field_text(payload, "command")) == NULL ||
		field(payload, "arguments", &value) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IV_UNKNOWN_COMMAND),
				 errmsg("message " INT64_FORMAT " is not a command", message->number)));
	command->arguments = JsonbValueToJsonb(&value);
	command->role_name = field_text(payload, "role");
	command->role = read_role(payload, command->role_name);
	command->saga = field_int64(payload, "saga");
	command->step = (int) field_int64(payload, "step");
	command->compensation = field_bool(payload, "compensation");
	command->compensated = field(payload, "compensate_with", &value) != NULL;
}

static void
command_read_times(Command *command)
{
	Jsonb	   *payload = command->message->payload;

	command->has_not_before = field_time(payload, "not_before", &command->not_before);
	command->has_deadline = field_time(payload, "deadline", &command->deadline);
}

/* What is told of commands has topics beside theirs; all else anybody publishes. */
static bool
is_command(const Message *message)
{
	return strncmp(message->topic, COMMAND_TOPIC, strlen(COMMAND_TOPIC)) == 0 &&
		strcmp(message->topic, COMMAND_TOPIC_DEAD) != 0 &&
		strcmp(message->topic, COMMAND_TOPIC_CANCELLED) != 0;
}

Datum
inventory_command_cluster(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(cluster()));
}

/* ---- Results ---- */

static void
result_key(ScanKey key, int64 message_id)
{
	ScanKeyInit(key, RESULT_MESSAGE_ID, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(message_id));
}

/* Waits for whoever is just deciding it. */
static bool
result_is_decided(int64 message_id)
{
	Relation	relation = table_open(catalog_relations()->command_result, RowExclusiveLock);
	ScanKeyData key;
	HeapTuple	tuple;

	result_key(&key, message_id);
	tuple = row_find_decided(relation, catalog_relations()->command_result_key, &key, 1);
	table_close(relation, NoLock);
	return tuple != NULL;
}

/* Fails rather than waits: others are to be executed meanwhile. */
static bool
result_is_there(int64 message_id)
{
	Relation	relation = table_open(catalog_relations()->command_result, RowExclusiveLock);
	ScanKeyData key;
	ItemPointerData tid;
	TransactionId busy;

	result_key(&key, message_id);
	busy = row_inserting(relation, catalog_relations()->command_result_key, &key, 1, &tid);
	table_close(relation, NoLock);
	if (TransactionIdIsValid(busy))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("command " INT64_FORMAT " is just being cancelled or executed by another transaction",
						message_id)));
	return result_is_decided(message_id);
}

static void
set_text(TupleTableSlot *slot, int column, const char *value)
{
	slot->tts_isnull[column - 1] = value == NULL;
	if (value)
		slot->tts_values[column - 1] = CStringGetTextDatum(value);
}

static void
fill_result(TupleTableSlot *slot, const Command *command, const CommandEnd *end)
{
	const Message *message = command->message;

	memset(slot->tts_isnull, false, RESULT_COLUMNS * sizeof(bool));
	slot->tts_values[RESULT_MESSAGE_ID - 1] = Int64GetDatum(message->number);
	set_text(slot, RESULT_COMMAND, command->name);
	set_text(slot, RESULT_KEY, message->key);
	slot->tts_values[RESULT_SUBMITTED_BY - 1] = ObjectIdGetDatum(command->role);
	slot->tts_values[RESULT_SUBMITTED_AT - 1] = TimestampTzGetDatum(message->created_at);
	set_text(slot, RESULT_STATE, end->state);
	slot->tts_values[RESULT_RESULT - 1] = PointerGetDatum(end->result);
	slot->tts_isnull[RESULT_RESULT - 1] = end->result == NULL;
	set_text(slot, RESULT_ERROR, end->error);
	set_text(slot, RESULT_SQLSTATE,
			 end->sqlerrcode ? unpack_sql_state(end->sqlerrcode) : NULL);
	slot->tts_values[RESULT_ATTEMPTS - 1] = Int32GetDatum(end->attempts);
	slot->tts_values[RESULT_FINISHED_AT - 1] = TimestampTzGetDatum(clock_time());
	slot->tts_values[RESULT_SAGA_ID - 1] = Int64GetDatum(command->saga);
	slot->tts_isnull[RESULT_SAGA_ID - 1] = command->saga == 0;
}

/*
 * False if somebody else has been first.  Waits for whoever is just deciding it,
 * or is not to, and fails.
 */
static bool
result_insert(const Command *command, const CommandEnd *end, bool wait)
{
	int64		message_id = command->message->number;
	RowInserter *inserter = row_begin();
	RowTarget  *target = row_open(inserter, catalog_relations()->command_result);
	bool		inserted;

	do
	{
		fill_result(row_clear(target), command, end);
		inserted = row_insert_unless_conflict(target, catalog_relations()->command_result_key);
	} while (!inserted &&
			 !(wait ? result_is_decided(message_id) : result_is_there(message_id)));
	row_end(inserter);
	return inserted;
}

static void
saga_continue(const Command *command, const char *state)
{
	static Statement statement = {
		"SELECT inventory.saga_continue($1, $2, $3, $4)",
		4, {INT8OID, INT4OID, BOOLOID, TEXTOID}
	};
	Datum		values[4];

	if (command->saga == 0)
		return;
	values[0] = Int64GetDatum(command->saga);
	values[1] = Int32GetDatum(command->step);
	values[2] = BoolGetDatum(command->compensation);
	values[3] = CStringGetTextDatum(state);
	query_begin();
	query_run(&statement, values, NULL);
	query_end();
}

/* ---- Execution ---- */

/*
 * A command runs nobody's code but the engine's.  In a session what its own
 * triggers put off waits for the commit, which a restricted operation refuses.
 */
static Jsonb *
run_as_submitter(const Command *command)
{
	Oid			user;
	int			security_context;
	Jsonb	   *result;

	GetUserIdAndSecContext(&user, &security_context);
	event_actor = command->role;
	SetUserIdAndSecContext(command->role, security_context | SECURITY_LOCAL_USERID_CHANGE |
						   (MyBgworkerEntry ? SECURITY_RESTRICTED_OPERATION : 0));
	result = command_call(command->name, command->arguments);
	SetUserIdAndSecContext(user, security_context);
	event_actor = InvalidOid;
	return result;
}

static void
check_role(const Command *command)
{
	if (!OidIsValid(command->role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\", which has submitted command " INT64_FORMAT ", does not exist any more",
						command->role_name ? command->role_name : "",
						command->message->number)));
}

static void
check_deadline(const Command *command)
{
	if (command->has_deadline && command->deadline <= clock_time())
		ereport(ERROR,
				(errcode(ERRCODE_IV_DEADLINE_PASSED),
				 errmsg("the deadline of command " INT64_FORMAT ", %s, has passed",
						command->message->number, timestamptz_to_str(command->deadline))));
}

/*
 * Results are kept for inventory.request_retention, at least a day: who moves the
 * subscription back to before then must not have its commands executed again.
 */
static void
check_age(const Command *command)
{
	const Message *message = command->message;
	TimestampTz since = command->has_not_before ?
		Max(command->not_before, message->created_at) : message->created_at;

	if (maintenance_request_retention >= 0 && !message->parked &&
		since < clock_time() - Max(maintenance_request_retention, 1) * (TimestampTz) USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_IV_COMMAND_TOO_OLD),
				 errmsg("command " INT64_FORMAT " is older than inventory.request_retention",
						message->number),
				 errdetail("Whether it was executed before is not known any more.")));
}

/* What comes next in a saga needs the reservation. */
static void
check_result(const Command *command, const Jsonb *result)
{
	if (command->saga && !command->compensation && result == NULL &&
		strcmp(command->name, "try_reserve") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_MESSAGE_REFUSED),
				 errmsg("try_reserve of command " INT64_FORMAT " found less than it wants",
						command->message->number)));
}

CommandOutcome
command_execute(const Message *message, TimestampTz *due_at)
{
	Command		command;
	CommandEnd	end = {.state = "done", .attempts = message->attempts + 1};

	if (!is_command(message))
		return COMMAND_DONE;
	command_read(&command, message);
	if (result_is_there(message->number))
		return COMMAND_DONE;
	command_read_times(&command);
	check_age(&command);
	check_deadline(&command);
	check_role(&command);
	if (command.has_not_before && command.not_before > clock_time())
	{
		*due_at = command.not_before;
		return COMMAND_LATER;
	}
	end.result = run_as_submitter(&command);
	check_result(&command, end.result);
	if (!result_insert(&command, &end, false))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("command " INT64_FORMAT " has been cancelled or executed meanwhile",
						message->number)));
	saga_continue(&command, "done");
	return COMMAND_DONE;
}

/* ---- Giving up ---- */

/*
 * Of the engine's own errors, what time or a person may change is tried again:
 * stock that is not there yet, codes that are not active, blocked lots.
 */
bool
command_error_is_final(int sqlerrcode)
{
	static const int may_pass[] = {
		ERRCODE_IV_INSUFFICIENT_STOCK, ERRCODE_IV_INACTIVE_CODE,
		ERRCODE_IV_LOT_BLOCKED, ERRCODE_IV_LEVELS_FULL
	};
	static const int final[] = {
		ERRCODE_IV_UNKNOWN_CODE, ERRCODE_DATA_EXCEPTION,
		ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION, ERRCODE_FEATURE_NOT_SUPPORTED,
		ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION
	};

	for (int i = 0; i < lengthof(may_pass); i++)
	{
		if (sqlerrcode == may_pass[i])
			return false;
	}
	for (int i = 0; i < lengthof(final); i++)
	{
		if (ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_TO_CATEGORY(final[i]))
			return true;
	}
	return false;
}

/* A compensation is tried until it succeeds, or cannot any more. */
int
command_max_attempts(const Message *message, int most)
{
	return message->payload && JB_ROOT_IS_OBJECT(message->payload) &&
		field_bool(message->payload, "compensation") ? INT_MAX : most;
}

static void
push_string(JsonbParseState **state, const char *name, const char *string)
{
	JsonbValue	value = {.type = jbvString};

	if (string == NULL)
		return;
	value.val.string.val = unconstify(char *, name);
	value.val.string.len = strlen(name);
	pushJsonbValue(state, WJB_KEY, &value);
	value.val.string.val = unconstify(char *, string);
	value.val.string.len = strlen(string);
	pushJsonbValue(state, WJB_VALUE, &value);
}

static void
push_int64(JsonbParseState **state, const char *name, int64 number)
{
	JsonbValue	value = {.type = jbvString};

	value.val.string.val = unconstify(char *, name);
	value.val.string.len = strlen(name);
	pushJsonbValue(state, WJB_KEY, &value);
	value.type = jbvNumeric;
	value.val.numeric = DatumGetNumeric(DirectFunctionCall1(int8_numeric, Int64GetDatum(number)));
	pushJsonbValue(state, WJB_VALUE, &value);
}

/* Without a key: those of the command's are perhaps behind it. */
static void
announce(const char *topic, const Command *command, const CommandEnd *end)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_int64(&state, "message_id", command->message->number);
	push_string(&state, "command", command->name);
	push_string(&state, "key", command->message->key);
	push_string(&state, "submitted_by", command->role_name);
	push_string(&state, "error", end->error);
	push_string(&state, "sqlstate", end->sqlerrcode ? unpack_sql_state(end->sqlerrcode) : NULL);
	push_int64(&state, "attempts", end->attempts);
	if (command->saga)
		push_int64(&state, "saga_id", command->saga);
	(void) outbox_append(topic, NULL,
						 JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

static void
compensate(const Command *command)
{
	static Statement statement = {
		"SELECT inventory.command_compensate($1, $2, $3)", 3, {INT8OID, TEXTOID, JSONBOID}
	};
	const Message *message = command->message;
	Datum		values[3];
	char		nulls[4] = "   ";

	if (!command->compensated)
		return;
	values[0] = Int64GetDatum(message->number);
	if (message->key)
		values[1] = CStringGetTextDatum(message->key);
	else
		nulls[1] = 'n';
	values[2] = PointerGetDatum(message->payload);
	query_begin();
	query_run(&statement, values, nulls);
	query_end();
}

static void
bury(const Command *command, const CommandEnd *end)
{
	if (!result_insert(command, end, false))
		return;
	announce(COMMAND_TOPIC_DEAD, command, end);
	/* It may have been done, or compensated, long ago. */
	if (end->sqlerrcode != ERRCODE_IV_COMMAND_TOO_OLD)
		compensate(command);
	saga_continue(command, "dead");
}

/* In a subtransaction; the error that it has come to, or NULL. */
static ErrorData *
try_to_bury(const Command *command, const CommandEnd *end)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		bury(command, end);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return error;
}

static bool
was_tried(int sqlerrcode)
{
	return sqlerrcode != ERRCODE_IV_DEADLINE_PASSED && sqlerrcode != ERRCODE_IV_COMMAND_TOO_OLD;
}

/* Somebody else is in the way, at the moment. */
static bool
is_passing(int sqlerrcode)
{
	return ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK ||
		sqlerrcode == ERRCODE_OBJECT_IN_USE || sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
}

static bool
is_of_server(int sqlerrcode)
{
	return ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_SYSTEM_ERROR ||
		ERRCODE_TO_CATEGORY(sqlerrcode) == ERRCODE_INTERNAL_ERROR ||
		sqlerrcode == ERRCODE_QUERY_CANCELED;
}

/*
 * When what is to follow cannot be handed in, the command is dead all the same:
 * others are not to wait for ever.
 */
bool
command_dead(const Message *message, const char *reason, int sqlerrcode)
{
	Command		command;
	CommandEnd	end = {.state = "dead", .error = reason, .sqlerrcode = sqlerrcode};
	ErrorData  *error;

	if (!is_command(message))
		return true;
	if (message->payload == NULL || !JB_ROOT_IS_OBJECT(message->payload) ||
		field_text(message->payload, "command") == NULL)
		return true;			/* nobody has submitted that */
	command_read(&command, message);
	end.attempts = message->attempts + (was_tried(sqlerrcode) ? 1 : 0);
	error = try_to_bury(&command, &end);
	if (error == NULL)
		return true;
	if (is_passing(error->sqlerrcode))
		return false;
	if (!message_is_to_blame(error->sqlerrcode) || is_of_server(error->sqlerrcode))
		ReThrowError(error);
	end.error = psprintf("%s; and what is to follow cannot be handed in: %s", reason, error->message);
	if (result_insert(&command, &end, false))
		announce(COMMAND_TOPIC_DEAD, &command, &end);
	return true;
}

/* ---- Handing in ---- */

/*
 * Makes the subscription unless there is one.  A saga's commands come one by one:
 * a lingering delivery would make each of them late.  Its cursor begins before the
 * transactions that are in progress, this one too.
 */
static void
make_subscription(void)
{
	char	   *topics[] = {COMMAND_TOPIC "*"};
	Jsonb	   *options;
	Cursor		start = {.last_number = PG_INT64_MIN, .since = DT_NOBEGIN, .until = DT_NOEND};

	engine_lock(ENGINE_LOCK_SUBSCRIPTION, 0, ExclusiveLock, true);
	if (subscription_find_name(COMMAND_SUBSCRIPTION))
		return;
	options = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{\"linger\": \"0\"}")));
	options = subscription_options_complete(SINK_KIND_COMMAND, options);
	cursor_start(&start, "start", "now");
	subscribe(COMMAND_SUBSCRIPTION, topics, lengthof(topics), "command", options,
			  catalog_owner(), &start);
}

static bool
have_subscription(void)
{
	static Statement statement = {
		"SELECT FROM inventory.subscription s WHERE s.name = '" COMMAND_SUBSCRIPTION "'"
	};
	bool		found;

	query_begin();
	found = query_run(&statement, NULL, NULL) > 0;
	query_end();
	return found;
}

/* command_append(command, key, payload) */
Datum
inventory_command_append(PG_FUNCTION_ARGS)
{
	char	   *topic;

	if (!query_engine_writes())
		ereport(ERROR,
				(errcode(ERRCODE_IV_ENGINE_ONLY),
				 errmsg("commands are written by submit() only")));
	topic = psprintf(COMMAND_TOPIC "%s", text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_INT64(outbox_append(topic,
								  PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)),
								  PG_GETARG_JSONB_P(2)));
}

static int64
run_submit(Statement *statement, Datum *values, const char *nulls)
{
	int64		number;

	if (!have_subscription())
		make_subscription();
	query_begin();
	query_run(statement, values, nulls);
	number = query_int64(0, 1);
	query_end();
	return number;
}

/*
 * Hands in once per request id.  The lock is released as soon as the request is
 * recorded: from there on whoever comes with the same id waits for us.
 */
static int64
submit_once(const Request *request, Statement *statement, Datum *values, const char *nulls)
{
	RequestResult result = {.isnull = false};
	RowInserter *inserter;
	uint64		lock;

	if (request->request_id == NULL)
		return run_submit(statement, values, nulls);
	if (request_find(request, &result))
		return result.value;
	lock = hash_bytes_extended((unsigned char *) VARDATA_ANY(request->request_id),
							   VARSIZE_ANY_EXHDR(request->request_id), 0);
	engine_lock(ENGINE_LOCK_REQUEST, lock, ExclusiveLock, true);
	if (!request_find(request, &result))
	{
		result.value = run_submit(statement, values, nulls);
		inserter = row_begin();
		if (!request_record(request, inserter, &result))
			elog(ERROR, "a request was recorded without its lock");
		row_end(inserter);
	}
	engine_unlock(ENGINE_LOCK_REQUEST, lock, ExclusiveLock);
	return result.value;
}

/* The arguments as they are, from 1 on, behind the caller's role. */
static void
take_argument(FunctionCallInfo fcinfo, int argument, Datum *values, char *nulls, int at)
{
	values[at] = PG_GETARG_DATUM(argument);
	nulls[at] = PG_ARGISNULL(argument) ? 'n' : ' ';
}

/* submit(command, arguments, request_id, not_before, deadline, compensate_with, key) */
Datum
inventory_submit(PG_FUNCTION_ARGS)
{
	static Statement statement = {
		"SELECT inventory.command_submit($1, $2, $3, $4, $5, $6, $7)",
		7, {OIDOID, TEXTOID, JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID, JSONBOID, TEXTOID}
	};
	Request		request;
	Datum		values[7];
	char		nulls[8] = "       ";
	int64		number;

	inventory_check_writable("submit");
	stat_begin(OPERATION_SUBMIT);
	(void) call_text(fcinfo, 0, "command");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", "arguments")));
	outbox_check(PG_ARGISNULL(6) ? NULL : PG_GETARG_TEXT_PP(6),
				 VARSIZE(PG_GETARG_JSONB_P(1)) +
				 (PG_ARGISNULL(5) ? 0 : VARSIZE(PG_GETARG_JSONB_P(5))));
	request_make(&request, fcinfo, OPERATION_SUBMIT, 2);
	values[0] = ObjectIdGetDatum(GetUserId());
	take_argument(fcinfo, 0, values, nulls, 1);
	take_argument(fcinfo, 1, values, nulls, 2);
	take_argument(fcinfo, 3, values, nulls, 3);
	take_argument(fcinfo, 4, values, nulls, 4);
	take_argument(fcinfo, 5, values, nulls, 5);
	take_argument(fcinfo, 6, values, nulls, 6);
	number = submit_once(&request, &statement, values, nulls);
	stat_end();
	PG_RETURN_INT64(number);
}

/* saga(commands, request_id) */
Datum
inventory_saga(PG_FUNCTION_ARGS)
{
	static Statement statement = {
		"SELECT inventory.saga_submit($1, $2)", 2, {OIDOID, JSONBOID}
	};
	Request		request;
	Datum		values[2];
	int64		number;

	inventory_check_writable("saga");
	stat_begin(OPERATION_SAGA);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", "commands")));
	outbox_check(NULL, VARSIZE(PG_GETARG_JSONB_P(0)));
	request_make(&request, fcinfo, OPERATION_SAGA, 1);
	values[0] = ObjectIdGetDatum(GetUserId());
	values[1] = PG_GETARG_DATUM(0);
	number = submit_once(&request, &statement, values, NULL);
	stat_end();
	PG_RETURN_INT64(number);
}

/* ---- Cancelling and retrying ---- */

/* command_retry(before): makes due what has failed and was to be executed before. */
Datum
inventory_command_retry(PG_FUNCTION_ARGS)
{
	static Statement statement = {
		"UPDATE inventory.parked_message p SET due_at = $3"
		" WHERE p.subscription_id = $1 AND p.due_at > $3 AND p.state = 'retry'"
		" AND greatest(p.created_at, (p.payload ->> 'not_before')::timestamptz) <= $2",
		3, {INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID}
	};
	Subscription *subscription = subscription_find_name(COMMAND_SUBSCRIPTION);
	Datum		values[3];
	int64		count;

	if (subscription == NULL)
		PG_RETURN_INT64(0);
	subscription_lock(subscription->subscription_id, ExclusiveLock);
	values[0] = Int32GetDatum(subscription->subscription_id);
	values[1] = PG_GETARG_DATUM(0);
	values[2] = TimestampTzGetDatum(clock_time());
	query_begin();
	count = (int64) query_run(&statement, values, NULL);
	query_end();
	if (count > 0)
		subscription_changed(subscription, NULL);
	PG_RETURN_INT64(count);
}

typedef struct Found
{
	Message		message;
	char	   *state;
	Oid			submitted_by;
} Found;

/* Into the current memory context. */
static void
find_command(int64 message_id, Found *found)
{
	static Statement statement = {
		"SELECT f.payload, f.key, f.submitted_by::oid, f.submitted_at, f.state, f.attempts"
		" FROM inventory.command_find($1) f",
		1, {INT8OID}
	};
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[1] = {Int64GetDatum(message_id)};
	Message    *message = &found->message;
	Datum		payload;
	bool		isnull;

	memset(found, 0, sizeof(Found));
	query_begin();
	if (query_run(&statement, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_UNKNOWN_COMMAND),
				 errmsg("there is no command " INT64_FORMAT, message_id)));
	MemoryContextSwitchTo(caller);
	message->number = message_id;
	payload = query_value(0, 1, &isnull);
	message->payload = isnull ? NULL : DatumGetJsonbPCopy(payload);
	message->key = query_text(0, 2);
	message->key = message->key ? MemoryContextStrdup(caller, message->key) : NULL;
	found->submitted_by = DatumGetObjectId(query_value(0, 3, &isnull));
	message->created_at = DatumGetTimestampTz(query_value(0, 4, &isnull));
	found->state = MemoryContextStrdup(caller, query_text(0, 5));
	message->attempts = DatumGetInt32(query_value(0, 6, &isnull));
	query_end();
}

static bool
may_cancel(Oid submitted_by)
{
	static Statement statement = {
		"SELECT has_function_privilege($1, 'inventory.retry_pending(interval)', 'EXECUTE')",
		1, {OIDOID}
	};
	Datum		values[1] = {ObjectIdGetDatum(GetUserId())};
	bool		isnull;
	bool		may;

	if (OidIsValid(submitted_by) && has_privs_of_role(GetUserId(), submitted_by))
		return true;
	query_begin();
	query_run(&statement, values, NULL);
	may = DatumGetBool(query_value(0, 1, &isnull));
	query_end();
	return may;
}

/* False if it has been cancelled before. */
static bool
refuse_finished(const Found *found)
{
	if (strcmp(found->state, "cancelled") == 0)
		return false;
	ereport(ERROR,
			(errcode(ERRCODE_IV_COMMAND_FINISHED),
			 errmsg("command " INT64_FORMAT " is %s", found->message.number, found->state),
			 errhint("See inventory.command_result(" INT64_FORMAT ").", found->message.number)));
}

static bool
cancel(int64 message_id)
{
	Found		found;
	Command		command;
	CommandEnd	end = {.state = "cancelled"};

	find_command(message_id, &found);
	if (!may_cancel(found.submitted_by))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("command " INT64_FORMAT " was submitted by another role", message_id)));
	if (found.message.payload == NULL)
		return refuse_finished(&found);
	command_read(&command, &found.message);
	end.attempts = found.message.attempts;
	if (!result_insert(&command, &end, true))
	{
		find_command(message_id, &found);
		return refuse_finished(&found);
	}
	announce(COMMAND_TOPIC_CANCELLED, &command, &end);
	saga_continue(&command, "cancelled");
	return true;
}

Datum
inventory_cancel(PG_FUNCTION_ARGS)
{
	inventory_check_writable("cancel");
	PG_RETURN_BOOL(cancel(call_int64(fcinfo, 0, "message_id")));
}

int64
command_cancelled(const Message *message)
{
	if (strcmp(message->topic, COMMAND_TOPIC_CANCELLED) != 0 ||
		message->payload == NULL || !JB_ROOT_IS_OBJECT(message->payload))
		return 0;
	return field_int64(message->payload, "message_id");
}

/* ---- Old results ---- */

int64
command_sweep(BlockNumber first, BlockNumber until, TimestampTz before)
{
	static Statement statement = {
		"SELECT inventory.command_sweep($1, $2, $3)", 3, {TIDOID, TIDOID, TIMESTAMPTZOID}
	};
	ItemPointerData from;
	ItemPointerData to;
	Datum		values[3];
	int64		removed;

	ItemPointerSet(&from, first, 0);
	ItemPointerSet(&to, until, 0);
	values[0] = PointerGetDatum(&from);
	values[1] = PointerGetDatum(&to);
	values[2] = TimestampTzGetDatum(before);
	query_begin();
	query_run(&statement, values, NULL);
	removed = query_int64(0, 1);
	query_end();
	return removed;
}
