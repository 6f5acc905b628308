/*-------------------------------------------------------------------------
 *
 * request.h
 *		Idempotency keys.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_REQUEST_H
#define INVENTORY_REQUEST_H

#include "fmgr.h"

#include "row.h"
#include "stat.h"

typedef struct Request
{
	text	   *request_id;		/* NULL: the caller gave none */
	Operation	operation;
	int64		fingerprint;
} Request;

/* What a call returns; NULL only for extend without a deadline. */
typedef struct RequestResult
{
	int64		value;
	bool		isnull;
} RequestResult;

extern void request_make(Request *request, FunctionCallInfo fcinfo,
						 Operation operation, int request_id_argument);
extern bool request_find(const Request *request, RequestResult *result);
extern bool request_record(const Request *request, RowInserter *inserter,
						   RequestResult *result);
extern void request_forget(const Request *request);

#endif							/* INVENTORY_REQUEST_H */
