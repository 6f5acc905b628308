/*-------------------------------------------------------------------------
 *
 * command_call.c
 *		Calling the function of a command, with arguments from JSON.
 *
 * An SQL statement does it, whose parameter is the JSON object; command.sql makes
 * its text.  It depends on the command and the names of the arguments only, and
 * finding the function, parsing and planning take longer than most functions.  So
 * plans are kept by these names, as many as there is room for.
 *
 * A plan is planned again by itself after its function has been changed, and the
 * right to execute the function is looked at in every execution.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "command_call.h"
#include "query.h"

/* The name of a command and those of its arguments; longer ones are not kept. */
#define CALL_NAMES_LENGTH 256

/* Plans kept; when there are more, all of them are made again. */
#define CALLS_MAX 256

typedef struct Call
{
	char		names[CALL_NAMES_LENGTH];	/* the key; must be first */
	SPIPlanPtr	plan;
} Call;

static HTAB *calls = NULL;

/* ---- Plans ---- */

/* A JSON object has its keys in an order of its own: equal sets, equal names. */
static char *
call_names(const char *command, Jsonb *arguments)
{
	JsonbIterator *iterator = JsonbIteratorInit(&arguments->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	StringInfoData names;

	initStringInfo(&names);
	appendStringInfoString(&names, command);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		appendStringInfoChar(&names, '\n');
		appendBinaryStringInfo(&names, value.val.string.val, value.val.string.len);
	}
	return names.data;
}

/* In the current memory context. */
static char *
call_statement(const char *command, Jsonb *arguments)
{
	static Statement statement = {
		"SELECT inventory.command_statement($1, $2)", 2, {TEXTOID, JSONBOID}
	};
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[2];
	char	   *sql;

	values[0] = CStringGetTextDatum(command);
	values[1] = PointerGetDatum(arguments);
	query_begin();
	query_run(&statement, values, NULL);
	sql = MemoryContextStrdup(caller, query_text(0, 1));
	query_end();
	return sql;
}

static void
calls_make(void)
{
	HASHCTL		control = {.keysize = CALL_NAMES_LENGTH, .entrysize = sizeof(Call)};

	calls = hash_create("inventory calls of commands", CALLS_MAX, &control,
						HASH_ELEM | HASH_STRINGS);
}

static void
calls_forget(void)
{
	HASH_SEQ_STATUS sequence;
	Call	   *call;

	hash_seq_init(&sequence, calls);
	while ((call = hash_seq_search(&sequence)) != NULL)
	{
		SPI_freeplan(call->plan);
		hash_search(calls, call->names, HASH_REMOVE, NULL);
	}
}

static void
call_keep(const char *names, SPIPlanPtr plan)
{
	Call	   *call;

	if (strlen(names) >= CALL_NAMES_LENGTH)
		return;
	if (hash_get_num_entries(calls) >= CALLS_MAX)
		calls_forget();
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not keep a plan");
	call = hash_search(calls, names, HASH_ENTER, NULL);
	call->plan = plan;
}

/* Connected to SPI; the text of the statement is that of an unknown one. */
static SPIPlanPtr
call_find(const char *names)
{
	Call	   *call;

	if (calls == NULL)
		calls_make();
	if (strlen(names) >= CALL_NAMES_LENGTH)
		return NULL;
	call = hash_search(calls, names, HASH_FIND, NULL);
	return call ? call->plan : NULL;
}

static SPIPlanPtr
call_prepare(const char *names, const char *sql)
{
	Oid			types[1] = {JSONBOID};
	SPIPlanPtr	plan = SPI_prepare(sql, 1, types);

	if (plan == NULL)
		elog(ERROR, "could not prepare: %s", sql);
	call_keep(names, plan);
	return plan;
}

/* ---- Calling ---- */

Jsonb *
command_call(const char *command, Jsonb *arguments)
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *names = call_names(command, arguments);
	SPIPlanPtr	plan = call_find(names);
	char	   *sql = plan ? NULL : call_statement(command, arguments);
	Datum		values[1] = {PointerGetDatum(arguments)};
	Jsonb	   *result;
	Datum		value;
	bool		isnull;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (plan == NULL)
		plan = call_prepare(names, sql);
	if (SPI_execute_plan(plan, values, NULL, false, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not execute command \"%s\"", command);
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	MemoryContextSwitchTo(caller);
	result = isnull ? NULL : DatumGetJsonbPCopy(value);
	SPI_finish();
	return result;
}
