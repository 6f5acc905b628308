/*-------------------------------------------------------------------------
 *
 * call.h
 *		What all functions that change something do with their arguments.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_CALL_H
#define INVENTORY_CALL_H

#include "fmgr.h"

#include "catalog.h"
#include "event.h"
#include "request.h"

/* Where the arguments that many functions have stand; -1: it has none. */
typedef struct CallLayout
{
	int			request_id;
	int			reference;
	int			reason;
	int			effective_at;
	int			metadata;
} CallLayout;

typedef struct Call
{
	Request		request;
	EventNote	note;
	RequestResult result;
} Call;

extern void call_start(Call *call, FunctionCallInfo fcinfo, Operation operation,
					   const CallLayout *layout);
extern bool call_begin(Call *call, FunctionCallInfo fcinfo, Operation operation,
					   const CallLayout *layout);
extern Datum call_end(Call *call, FunctionCallInfo fcinfo);

extern text *call_text(FunctionCallInfo fcinfo, int argument, const char *name);
extern text *call_optional_text(FunctionCallInfo fcinfo, int argument);
extern int64 call_int64(FunctionCallInfo fcinfo, int argument, const char *name);
extern void call_check_quantity(int64 quantity, const Codes *codes);

#endif							/* INVENTORY_CALL_H */
