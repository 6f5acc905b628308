/*-------------------------------------------------------------------------
 *
 * query.h
 *		Running the engine's own SQL statements.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_QUERY_H
#define INVENTORY_QUERY_H

#include "executor/spi.h"

#define QUERY_MAX_ARGS 16

/* One statement; static, planned once per backend. */
typedef struct Statement
{
	const char *sql;
	int			nargs;
	Oid			types[QUERY_MAX_ARGS];
	SPIPlanPtr	plan;
} Statement;

extern void query_begin(void);
extern uint64 query_run(Statement *statement, Datum *values, const char *nulls);
extern Portal query_open(Statement *statement, Datum *values);
extern void query_end(void);

extern Datum query_value(uint64 row, int column, bool *isnull);
extern int64 query_int64(uint64 row, int column);
extern char *query_text(uint64 row, int column);

/* True while the engine itself writes: the guards of its tables let it pass. */
extern bool query_engine_writes(void);

#endif							/* INVENTORY_QUERY_H */
