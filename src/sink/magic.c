/*-------------------------------------------------------------------------
 *
 * magic.c
 *		What PostgreSQL wants to see in a library before it loads it; part of
 *		every sink, and all that a sink has of PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

PG_MODULE_MAGIC;
