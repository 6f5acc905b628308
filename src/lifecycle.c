/*-------------------------------------------------------------------------
 *
 * lifecycle.c
 *		Commands that workers must make room for, or hear of.
 *
 * Commands that need a database without sessions, and those that change the
 * extension, hold the database's worker: it is terminated, the session waits
 * until it has gone, and none is started until the transaction has ended, in
 * whatever way.
 *
 *	 DROP DATABASE, ALTER DATABASE ... RENAME, SET TABLESPACE	hold
 *	 CREATE DATABASE ... TEMPLATE					hold the template's
 *	 DROP EXTENSION, ALTER EXTENSION				hold
 *	 a changed extension, however it was done			a new worker at commit
 *	 ALTER DATABASE ... SET						a new worker at commit
 *	 any change of databases					the launcher looks at commit
 *
 * Only who may do such a thing to a database can disturb its worker by it.
 *
 * LOCKING: see slot.c.  The callbacks at the end of a transaction take the
 * lock of the slots, but only in transactions that had such a command.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/procarray.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "delivery_start.h"
#include "extension.h"
#include "slot.h"
#include "worker.h"

#define HOLD_WAIT_MS 5000
#define HOLD_SLICE_MS 10

static ProcessUtility_hook_type previous_process_utility = NULL;
static object_access_hook_type previous_object_access = NULL;

/* What this transaction has to do when it ends; the first two by slot. */
static bool *held = NULL;
static bool *look = NULL;
static bool any_held = false;
static bool any_look = false;
static bool databases_changed = false;
static bool extension_changed = false;
static bool extension_present = false;

/* ---- Holding ---- */

static void
lifecycle_allocate(void)
{
	if (held != NULL)
		return;
	look = MemoryContextAllocZero(TopMemoryContext, worker_max_databases * sizeof(bool));
	held = MemoryContextAllocZero(TopMemoryContext, worker_max_databases * sizeof(bool));
}

/* Keeps the database without a worker until the transaction ends. */
static int
hold_begin(Oid database)
{
	int			index;
	int			pid = 0;

	lifecycle_allocate();
	slots_lock(LW_EXCLUSIVE);
	index = slot_find(database);
	if (index >= 0)
	{
		if (!held[index])
			worker_slots[index].holds++;
		held[index] = any_held = true;
		pid = worker_slots[index].pid;
		if (pid != 0)
			kill(pid, SIGTERM);
	}
	slots_unlock();
	return pid;
}

/* Delivery processes may be somewhere in a sink, and leave within a second. */
static void
hold_deliveries(Oid database)
{
	for (int waited = 0; waited < HOLD_WAIT_MS; waited += HOLD_SLICE_MS)
	{
		if (!delivery_terminate(database))
			return;
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, HOLD_SLICE_MS,
						 PG_WAIT_EXTENSION);
	}
}

static void
hold_worker(Oid database)
{
	int			pid = hold_begin(database);

	for (int waited = 0; pid != 0 && waited < HOLD_WAIT_MS; waited += HOLD_SLICE_MS)
	{
		bool		gone;
		int			index;

		slots_lock(LW_SHARED);
		index = slot_find(database);
		gone = index < 0 || worker_slots[index].pid != pid;
		slots_unlock();
		if (gone && BackendPidGetProc(pid) == NULL)
			return;
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, HOLD_SLICE_MS,
						 PG_WAIT_EXTENSION);
	}
}

/* Sends the worker away, then those that it has started: it starts no more. */
static void
hold(Oid database)
{
	hold_worker(database);
	hold_deliveries(database);
}

static void
hold_database(const char *name)
{
	Oid			database = name ? get_database_oid(name, true) : InvalidOid;

	if (OidIsValid(database) && compat_is_database_owner(database))
		hold(database);
}

static void
hold_extension(void)
{
	Oid			id = get_extension_oid(EXTENSION_NAME, true);

	if (OidIsValid(id) && compat_is_extension_owner(id))
		hold(MyDatabaseId);
}

/* ---- The commands ---- */

static DefElem *
option_named(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return option;
	}
	return NULL;
}

static bool
names_extension(DropStmt *statement)
{
	ListCell   *cell;

	if (statement->removeType != OBJECT_EXTENSION)
		return false;
	foreach(cell, statement->objects)
	{
		if (strcmp(strVal(lfirst(cell)), EXTENSION_NAME) == 0)
			return true;
	}
	return false;
}

/* Makes room for the command. */
static void
lifecycle_before(Node *statement)
{
	DefElem    *option;

	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			hold_database(((DropdbStmt *) statement)->dbname);
			break;
		case T_CreatedbStmt:
			option = option_named(((CreatedbStmt *) statement)->options, "template");
			hold_database(option ? defGetString(option) : NULL);
			break;
		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
				hold_database(((RenameStmt *) statement)->subname);
			break;
		case T_AlterDatabaseStmt:
			if (option_named(((AlterDatabaseStmt *) statement)->options, "tablespace"))
				hold_database(((AlterDatabaseStmt *) statement)->dbname);
			break;
		case T_AlterExtensionStmt:
			if (strcmp(((AlterExtensionStmt *) statement)->extname, EXTENSION_NAME) == 0)
				hold_extension();
			break;
		case T_DropStmt:
			if (names_extension((DropStmt *) statement))
				hold_extension();
			break;
		default:
			break;
	}
}

/* Remembers to tell of it. */
static void
lifecycle_after(Node *statement)
{
	Oid			database;
	int			index;

	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
		case T_CreatedbStmt:
		case T_RenameStmt:
		case T_AlterDatabaseStmt:
			databases_changed = true;
			break;
		case T_AlterDatabaseSetStmt:
			database = get_database_oid(((AlterDatabaseSetStmt *) statement)->dbname, true);
			if (!OidIsValid(database))
				break;
			lifecycle_allocate();
			slots_lock(LW_SHARED);
			index = slot_find(database);
			slots_unlock();
			if (index >= 0)
				look[index] = any_look = true;
			break;
		default:
			break;
	}
}

static void
lifecycle_process_utility(PlannedStmt *statement, const char *source,
						  bool read_only_tree, ProcessUtilityContext context,
						  ParamListInfo params, QueryEnvironment *environment,
						  DestReceiver *receiver, QueryCompletion *completion)
{
	/* The tree may be gone, or changed, once the command has been run. */
	Node	   *node = statement->utilityStmt;
	bool		concerned = worker_slots != NULL &&
		(IsA(node, DropdbStmt) || IsA(node, CreatedbStmt) || IsA(node, RenameStmt) ||
		 IsA(node, AlterDatabaseStmt) || IsA(node, AlterDatabaseSetStmt) ||
		 IsA(node, AlterExtensionStmt) || IsA(node, DropStmt));

	if (concerned)
	{
		node = copyObject(node);
		lifecycle_before(node);
	}
	if (previous_process_utility)
		previous_process_utility(statement, source, read_only_tree, context,
								 params, environment, receiver, completion);
	else
		standard_ProcessUtility(statement, source, read_only_tree, context,
								params, environment, receiver, completion);
	if (concerned)
		lifecycle_after(node);
}

static void
lifecycle_object_access(ObjectAccessType access, Oid class_id, Oid object_id,
						int sub_id, void *arg)
{
	if (previous_object_access)
		previous_object_access(access, class_id, object_id, sub_id, arg);
	if (class_id == ExtensionRelationId && !extension_changed &&
		(access == OAT_POST_CREATE || access == OAT_DROP || access == OAT_POST_ALTER))
		extension_changed = extension_is(object_id);
}

/* ---- Ends of transactions ---- */

static void
lifecycle_end(bool committed)
{
	slots_lock(LW_EXCLUSIVE);
	for (int i = 0; any_held && i < worker_max_databases; i++)
	{
		if (held[i])
		{
			worker_slots[i].holds--;
			worker_slots[i].next_start = 0;
			held[i] = false;
		}
	}
	for (int i = 0; any_look && i < worker_max_databases; i++)
	{
		if (look[i] && committed && OidIsValid(worker_slots[i].database))
			slot_look(worker_slots[i].database, false);
		look[i] = false;
	}
	if (extension_changed && committed)
		slot_look(MyDatabaseId, extension_present);
	slots_unlock();
	any_held = any_look = databases_changed = extension_changed = false;
	launcher_wake();
}

static void
lifecycle_xact_callback(XactEvent event, void *arg)
{
	if (likely(!any_held && !any_look && !databases_changed && !extension_changed))
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (extension_changed)
				extension_present =
					OidIsValid(get_extension_oid(EXTENSION_NAME, true));
			break;
		case XACT_EVENT_COMMIT:
			lifecycle_end(true);
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			lifecycle_end(false);
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (!any_held && !any_look && !extension_changed)
				break;
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that has changed a database or the extension \"inventory\"")));
			break;
		default:
			break;
	}
}

void
lifecycle_init(void)
{
	if (IsBinaryUpgrade)
		return;
	previous_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = lifecycle_process_utility;
	previous_object_access = object_access_hook;
	object_access_hook = lifecycle_object_access;
	RegisterXactCallback(lifecycle_xact_callback, NULL);
}
