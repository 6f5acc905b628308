/*-------------------------------------------------------------------------
 *
 * request.c
 *		Idempotency keys: the same request id with the same arguments returns
 *		the first result.
 *
 * A call first looks for its request id, and waits if another transaction is
 * just recording it: the other one's commit answers the call, its abort lets
 * it go on.  Then, before it takes anything, it records the id itself, by a
 * speculative insertion as INSERT ... ON CONFLICT does, but deciding by what
 * is committed and not by the caller's snapshot.  So of any number of sessions
 * with the same id one has the effect and all get its result.
 *
 * Waiting is for the other transaction's xid: no lock is kept per request.
 *
 * A call that fails takes its row away with it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "error.h"
#include "request.h"

/* Columns, as the install script has them. */
enum
{
	REQUEST_REQUEST_ID = 1, REQUEST_OPERATION, REQUEST_FINGERPRINT,
	REQUEST_RESULT, REQUEST_CREATED_AT
};
#define REQUEST_COLUMNS REQUEST_CREATED_AT

/* An index entry cannot be much longer. */
#define REQUEST_ID_MAX_BYTES 1024

/* How the arguments of a function are laid out; kept in fn_extra. */
typedef struct ArgumentLayout
{
	int			count;
	struct
	{
		int16		length;
		bool		by_value;
	}			arguments[FUNC_MAX_ARGS];
} ArgumentLayout;

static ArgumentLayout *
argument_layout(FmgrInfo *flinfo)
{
	ArgumentLayout *layout = flinfo->fn_extra;
	Oid		   *types;

	if (layout)
		return layout;
	layout = MemoryContextAlloc(flinfo->fn_mcxt, sizeof(ArgumentLayout));
	get_func_signature(flinfo->fn_oid, &types, &layout->count);
	for (int i = 0; i < layout->count; i++)
		get_typlenbyval(types[i], &layout->arguments[i].length,
						&layout->arguments[i].by_value);
	flinfo->fn_extra = layout;
	return layout;
}

static uint64
hash_argument(uint64 seed, Datum value, bool isnull, int16 length, bool by_value)
{
	const void *data;
	int			size;

	if (isnull)
		return hash_combine64(seed, 1);
	if (by_value)
	{
		data = &value;
		size = sizeof(Datum);
	}
	else if (length > 0)
	{
		data = DatumGetPointer(value);
		size = length;
	}
	else
	{
		struct varlena *v = PG_DETOAST_DATUM_PACKED(value);

		data = VARDATA_ANY(v);
		size = VARSIZE_ANY_EXHDR(v);
	}
	return hash_combine64(hash_combine64(seed, 2),
						  hash_bytes_extended(data, size, seed));
}

/*
 * Makes a call's request: its id, and a hash of all its other arguments.
 */
void
request_make(Request *request, FunctionCallInfo fcinfo, Operation operation,
			 int request_id_argument)
{
	ArgumentLayout *layout;
	uint64		hash = operation;

	request->operation = operation;
	request->request_id = NULL;
	request->fingerprint = 0;
	if (PG_ARGISNULL(request_id_argument))
		return;
	request->request_id = PG_GETARG_TEXT_PP(request_id_argument);
	if (VARSIZE_ANY_EXHDR(request->request_id) == 0 ||
		VARSIZE_ANY_EXHDR(request->request_id) > REQUEST_ID_MAX_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a request id must have 1 to %d bytes",
						REQUEST_ID_MAX_BYTES)));

	layout = argument_layout(fcinfo->flinfo);
	for (int i = 0; i < PG_NARGS(); i++)
	{
		if (i != request_id_argument)
			hash = hash_argument(hash, PG_GETARG_DATUM(i), PG_ARGISNULL(i),
								 layout->arguments[i].length,
								 layout->arguments[i].by_value);
	}
	request->fingerprint = (int64) hash;
}

static void
request_check(const Request *request, HeapTuple tuple, TupleDesc descriptor)
{
	bool		isnull;
	char	   *operation = TextDatumGetCString(heap_getattr(tuple, REQUEST_OPERATION,
															 descriptor, &isnull));
	int64		fingerprint = DatumGetInt64(heap_getattr(tuple, REQUEST_FINGERPRINT,
														 descriptor, &isnull));

	if (strcmp(operation, operation_name(request->operation)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_REQUEST_MISMATCH),
				 errmsg("request id \"%s\" was used for %s()",
						text_to_cstring(request->request_id), operation),
				 errhint("Use a new request id for each request, and the same one only to repeat it.")));
	if (fingerprint != request->fingerprint)
		ereport(ERROR,
				(errcode(ERRCODE_IV_REQUEST_MISMATCH),
				 errmsg("request id \"%s\" was used for %s() with other arguments",
						text_to_cstring(request->request_id), operation),
				 errhint("Use a new request id for each request, and the same one only to repeat it.")));
}

static HeapTuple
request_row(const Request *request, Relation relation)
{
	ScanKeyData key;

	ScanKeyInit(&key, REQUEST_REQUEST_ID, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(request->request_id));
	return row_find_decided(relation, catalog_relations()->request_key, &key, 1);
}

/*
 * Looks for the request, and waits while another transaction is recording it.
 * True and the first result if it has been made before.
 */
bool
request_find(const Request *request, RequestResult *result)
{
	Relation	relation;
	HeapTuple	tuple;

	if (request->request_id == NULL)
		return false;
	relation = table_open(catalog_relations()->request, RowExclusiveLock);
	tuple = request_row(request, relation);
	if (tuple)
	{
		TupleDesc	descriptor = RelationGetDescr(relation);

		request_check(request, tuple, descriptor);
		result->value = DatumGetInt64(heap_getattr(tuple, REQUEST_RESULT,
												   descriptor, &result->isnull));
	}
	table_close(relation, NoLock);
	return tuple != NULL;
}

/*
 * Records the request with its result.  False if another session has done so
 * meanwhile; *result is then that session's.
 */
bool
request_record(const Request *request, RowInserter *inserter,
			   RequestResult *result)
{
	RowTarget  *target;

	if (request->request_id == NULL)
		return true;
	target = row_open(inserter, catalog_relations()->request);
	for (;;)
	{
		TupleTableSlot *slot = row_clear(target);

		memset(slot->tts_isnull, false, REQUEST_COLUMNS * sizeof(bool));
		slot->tts_values[REQUEST_REQUEST_ID - 1] =
			PointerGetDatum(request->request_id);
		slot->tts_values[REQUEST_OPERATION - 1] =
			CStringGetTextDatum(operation_name(request->operation));
		slot->tts_values[REQUEST_FINGERPRINT - 1] =
			Int64GetDatum(request->fingerprint);
		slot->tts_values[REQUEST_RESULT - 1] = Int64GetDatum(result->value);
		slot->tts_isnull[REQUEST_RESULT - 1] = result->isnull;
		slot->tts_values[REQUEST_CREATED_AT - 1] =
			TimestampTzGetDatum(clock_transaction_time());
		if (row_insert_unless_conflict(target, catalog_relations()->request_key))
			return true;
		if (request_find(request, result))
			return false;
	}
}

/*
 * Takes the row away that this command has recorded: the call has no effect
 * after all, and is not an error.
 */
void
request_forget(const Request *request)
{
	Relation	relation;
	HeapTuple	tuple;

	if (request->request_id == NULL)
		return;
	CommandCounterIncrement();
	relation = table_open(catalog_relations()->request, RowExclusiveLock);
	tuple = request_row(request, relation);
	if (tuple)
		simple_heap_delete(relation, &tuple->t_self);
	table_close(relation, NoLock);
}
