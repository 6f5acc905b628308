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

#if PG_VERSION_NUM >= 170000
#define COMPAT_MY_PROCESS_NUMBER ((uint32) MyProcNumber)
#define compat_wait_event(name) WaitEventExtensionNew(name)
#else
#define COMPAT_MY_PROCESS_NUMBER ((uint32) MyProc->pgprocno)
#define compat_wait_event(name) PG_WAIT_EXTENSION
#endif

#if PG_VERSION_NUM >= 160000
#define compat_is_database_owner(id) \
	object_ownercheck(DatabaseRelationId, id, GetUserId())
#define compat_is_extension_owner(id) \
	object_ownercheck(ExtensionRelationId, id, GetUserId())
#define compat_server_aclcheck(id, user, mode) \
	object_aclcheck(ForeignServerRelationId, id, user, mode)
#else
#define compat_is_database_owner(id) pg_database_ownercheck(id, GetUserId())
#define compat_is_extension_owner(id) pg_extension_ownercheck(id, GetUserId())
#define compat_server_aclcheck(id, user, mode) pg_foreign_server_aclcheck(id, user, mode)
#endif

#if PG_VERSION_NUM >= 160000
#define compat_function_aclcheck(function, role) \
	object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE)
#define compat_string_to_name_list(string) stringToQualifiedNameList(string, NULL)
#else
#define compat_function_aclcheck(function, role) \
	pg_proc_aclcheck(function, role, ACL_EXECUTE)
#define compat_string_to_name_list(string) stringToQualifiedNameList(string)
#endif

#if PG_VERSION_NUM >= 170000
#define compat_lock_held_by_me(tag, mode) LockHeldByMe(tag, mode, false)
#else
#define compat_lock_held_by_me(tag, mode) LockHeldByMe(tag, mode)
#endif

/* datconnlimit of a database that DROP DATABASE has left half dropped; the
 * name came with the minor versions of August 2023. */
#define COMPAT_DATABASE_IS_INVALID (-2)

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
