/*-------------------------------------------------------------------------
 *
 * call.c
 *		What all functions that change something do with their arguments.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "call.h"
#include "error.h"
#include "inventory.h"
#include "stat.h"

/*
 * Starts a call: checks that something can be written here, and reads what the
 * caller says about the change.
 */
void
call_start(Call *call, FunctionCallInfo fcinfo, Operation operation,
		   const CallLayout *layout)
{
	EventNote  *note = &call->note;

	inventory_check_writable(operation_name(operation));
	stat_begin(operation);
	request_make(&call->request, fcinfo, operation, layout->request_id);
	note->request_id = call->request.request_id;
	note->reference = call_optional_text(fcinfo, layout->reference);
	note->reason = layout->reason < 0 ? NULL :
		call_optional_text(fcinfo, layout->reason);
	note->metadata = PG_ARGISNULL(layout->metadata) ? NULL :
		PG_GETARG_JSONB_P(layout->metadata);
	note->has_effective_at = !PG_ARGISNULL(layout->effective_at);
	note->effective_at = 0;
	if (note->has_effective_at)
	{
		note->effective_at = PG_GETARG_TIMESTAMPTZ(layout->effective_at);
		if (TIMESTAMP_NOT_FINITE(note->effective_at))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("effective_at must be finite")));
	}
	call->result.isnull = false;
}

/*
 * Starts a call and looks whether it is a repetition: if so, return call_end()
 * at once.
 */
bool
call_begin(Call *call, FunctionCallInfo fcinfo, Operation operation,
		   const CallLayout *layout)
{
	call_start(call, fcinfo, operation, layout);
	return request_find(&call->request, &call->result);
}

Datum
call_end(Call *call, FunctionCallInfo fcinfo)
{
	stat_end();
	if (call->result.isnull)
		PG_RETURN_NULL();
	PG_RETURN_INT64(call->result.value);
}

static void
call_null(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be NULL", name)));
}

text *
call_text(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		call_null(name);
	return PG_GETARG_TEXT_PP(argument);
}

text *
call_optional_text(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL : PG_GETARG_TEXT_PP(argument);
}

int64
call_int64(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		call_null(name);
	return PG_GETARG_INT64(argument);
}

void
call_check_quantity(int64 quantity, const Codes *codes)
{
	if (quantity <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_QUANTITY),
				 errmsg("quantity of %s must be positive, not " INT64_FORMAT,
						catalog_describe_codes(codes), quantity)));
}
