/*-------------------------------------------------------------------------
 *
 * compat.h
 *		The differences between PostgreSQL 15 and later versions, all of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_COMPAT_H
#define INVENTORY_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "inventory needs PostgreSQL 15 or later"
#endif

/* The keyword came with version 18, in front of the declaration. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

#if PG_VERSION_NUM >= 160000
#define compat_insert_index_tuples(rri, slot, estate, no_dup, conflict, arbiters) \
	ExecInsertIndexTuples(rri, slot, estate, false, no_dup, conflict, arbiters, false)
#else
#define compat_insert_index_tuples(rri, slot, estate, no_dup, conflict, arbiters) \
	ExecInsertIndexTuples(rri, slot, estate, false, no_dup, conflict, arbiters)
#endif

#if PG_VERSION_NUM >= 170000
#define COMPAT_LOCAL_TRANSACTION_ID (MyProc->vxid.lxid)
#else
#define COMPAT_LOCAL_TRANSACTION_ID (MyProc->lxid)
#endif

/* pg_snapshot's layout is private to xid8funcs.c, and the same since version 13. */
#include "access/transam.h"
typedef struct CompatSnapshot
{
	int32		vl_len_;
	uint32		nxip;
	FullTransactionId xmin;
	FullTransactionId xmax;
	FullTransactionId xip[FLEXIBLE_ARRAY_MEMBER];
} CompatSnapshot;

#if PG_VERSION_NUM >= 180000
#define COMPAT_MODULE_MAGIC \
	PG_MODULE_MAGIC_EXT(.name = "inventory", .version = INVENTORY_VERSION)
#else
#define COMPAT_MODULE_MAGIC PG_MODULE_MAGIC
#endif

#endif							/* INVENTORY_COMPAT_H */
