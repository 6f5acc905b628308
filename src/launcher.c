/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		One worker for every database with the extension, none for others.
 *
 * The launcher compares what should be with what is, whenever somebody sets
 * its latch and once a minute, and does what is missing.  Nothing depends on
 * its having heard of an event, nor on its having started a worker itself: a
 * new launcher finds the workers of the former one in their slots.
 *
 * It is connected to no database, so it cannot see who has the extension.  It
 * starts a worker for a database that it does not know, which looks, and says
 * so when it leaves.  One at a time, because that takes worker processes; a
 * database without the extension is looked at again when CREATE EXTENSION says
 * so, or after an hour.
 *
 * LOCKING: see slot.c.  No lock is held while a process is started.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procsignal.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "delivery_slot.h"
#include "slot.h"
#include "worker.h"

#define POLL_MS 60000

/* A worker that has been started, but has not said anything yet. */
#define STARTING_MS 1000

/* Again after so long, when the extension was not there. */
#define LOOK_AGAIN_MS (60 * 60 * 1000)

/* What this launcher has started, by slot. */
typedef struct Start
{
	BackgroundWorkerHandle *handle; /* until the process has ended */
	int			claims;			/* of the slot, before */
} Start;

typedef struct AbsentDatabase
{
	Oid			database;
	TimestampTz looked_at;
} AbsentDatabase;

static Start *starts;
static List *absent = NIL;
static volatile sig_atomic_t terminated = false;

/* What has been logged, and need not be again. */
static int	process_failures = 0;
static bool logged_no_slot = false;

PGDLLEXPORT pg_noreturn void inventory_launcher_main(Datum main_arg);

/* ---- Which databases there are ---- */

/* The databases that may have a worker. */
static List *
launcher_databases(void)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *databases = NIL;
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!form->datallowconn || form->datistemplate ||
			form->datconnlimit == COMPAT_DATABASE_IS_INVALID)
			continue;
		old = MemoryContextSwitchTo(caller);
		databases = lappend_oid(databases, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return databases;
}

static void
absent_add(Oid database)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	AbsentDatabase *entry = palloc(sizeof(AbsentDatabase));

	entry->database = database;
	entry->looked_at = GetCurrentTimestamp();
	absent = lappend(absent, entry);
	MemoryContextSwitchTo(old);
}

/* Forgets what is not there any more, or has to be looked at again. */
static void
absent_prune(List *databases, bool all)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *cell;

	foreach(cell, absent)
	{
		AbsentDatabase *entry = lfirst(cell);

		if (!all && list_member_oid(databases, entry->database) &&
			entry->looked_at <= now &&
			!TimestampDifferenceExceeds(entry->looked_at, now, LOOK_AGAIN_MS))
			continue;
		absent = foreach_delete_current(absent, cell);
		pfree(entry);
	}
}

static bool
absent_has(Oid database)
{
	ListCell   *cell;

	foreach(cell, absent)
	{
		if (((AbsentDatabase *) lfirst(cell))->database == database)
			return true;
	}
	return false;
}

static void
log_no_slot(void)
{
	if (logged_no_slot)
		return;
	logged_no_slot = true;
	slots_lock(LW_EXCLUSIVE);
	snprintf(launcher_status->last_error, SLOT_ERROR_LENGTH,
			 "more than %d databases have the extension", worker_max_databases);
	slots_unlock();
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("more than %d databases have the extension \"inventory\"",
					worker_max_databases),
			 errdetail("The others have no worker."),
			 errhint("Raise \"inventory.max_databases\" and restart the server.")));
}

/* Gives a slot to every database that has, or may have, the extension. */
static void
launcher_find_databases(List *databases)
{
	ListCell   *cell;
	bool		all;

	slots_lock(LW_EXCLUSIVE);
	all = launcher_status->look_everywhere;
	launcher_status->look_everywhere = false;
	slots_unlock();
	absent_prune(databases, all);

	foreach(cell, databases)
	{
		int			index;
		bool		full;

		if (absent_has(lfirst_oid(cell)))
			continue;
		slots_lock(LW_EXCLUSIVE);
		index = slot_take(lfirst_oid(cell));
		full = index < 0;
		for (int i = 0; full && i < worker_max_databases; i++)
			full = worker_slots[i].present;
		slots_unlock();
		if (full)
			log_no_slot();
		if (index < 0)
			break;
	}
}

/* ---- Starting workers ---- */

static void
log_no_process(void)
{
	/* Once it may be that the process before has not quite ended. */
	if (++process_failures != 2)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("no free worker process for an inventory worker"),
			 errhint("Raise \"max_worker_processes\" (now %d): inventory needs one, and one for every database with the extension.",
					 max_worker_processes)));
}

static void
launcher_start(int index, Oid database)
{
	Start	   *start = &starts[index];
	BackgroundWorker worker;
	MemoryContext old;
	bool		started;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "inventory", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "inventory_worker_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "inventory worker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "inventory worker", BGW_MAXLEN);
	worker.bgw_main_arg = Int32GetDatum(index);
	memcpy(worker.bgw_extra, &database, sizeof(Oid));
	worker.bgw_notify_pid = MyProcPid;

	old = MemoryContextSwitchTo(TopMemoryContext);
	started = RegisterDynamicBackgroundWorker(&worker, &start->handle);
	MemoryContextSwitchTo(old);
	if (started)
	{
		process_failures = 0;
		slots_lock(LW_EXCLUSIVE);
		launcher_status->started++;
		slots_unlock();
		return;
	}
	start->handle = NULL;
	log_no_process();
	slots_lock(LW_EXCLUSIVE);
	worker_slots[index].end = END_NO_PROCESS;
	worker_slots[index].next_start =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									slot_backoff_ms(process_failures));
	slots_unlock();
}

/* One has ended: who waits for a process need not wait longer. */
static void
launcher_process_freed(void)
{
	for (int i = 0; i < worker_max_databases; i++)
	{
		if (worker_slots[i].end == END_NO_PROCESS)
			worker_slots[i].next_start = 0;
	}
}

/* Whether the process that was started for the slot has still to end. */
static bool
launcher_is_starting(int index)
{
	Start	   *start = &starts[index];
	WorkerSlot *slot = &worker_slots[index];
	pid_t		pid;

	if (start->handle == NULL)
		return false;
	switch (GetBackgroundWorkerPid(start->handle, &pid))
	{
		case BGWH_NOT_YET_STARTED:
		case BGWH_STARTED:
			return true;
		case BGWH_POSTMASTER_DIED:
			proc_exit(1);
		case BGWH_STOPPED:
			break;
	}
	pfree(start->handle);
	start->handle = NULL;
	slots_lock(LW_EXCLUSIVE);
	launcher_process_freed();
	if (slot->claims == start->claims && slot->pid == 0 &&
		!slot_must_leave(slot))
	{
		slot->end = END_FAILED;
		strlcpy(slot->problem, "the process did not start", SLOT_ERROR_LENGTH);
		slot->next_start =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
										slot_backoff_ms(++slot->failures));
	}
	slots_unlock();
	return false;
}

/* Nobody has to wait longer than that, unless the clock has been set back. */
static long
milliseconds_until(TimestampTz when)
{
	long		ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), when);

	return ms > POLL_MS ? 0 : ms;
}

/*
 * What is to be done about a slot without a worker: returns how long that can
 * wait, 0 for starting one now.
 */
static long
launcher_judge(int index)
{
	WorkerSlot *slot = &worker_slots[index];
	bool		is_absent = slot->end == END_ABSENT && !slot->look;

	if (!slot->eligible || is_absent)
	{
		if (slot->holds > 0)
			return POLL_MS;
		if (is_absent)
			absent_add(slot->database);
		delivery_slots_free(slot->database);
		slot_free(index);
		SetLatch(MyLatch);		/* another database may have been waiting */
		return POLL_MS;
	}
	if (slot_must_leave(slot))
		return POLL_MS;
	return milliseconds_until(slot->next_start);
}

/* Does what the slot needs; returns in how many milliseconds to look again. */
static long
launcher_tend(int index, List *databases, bool *looking)
{
	WorkerSlot *slot = &worker_slots[index];
	bool		known;
	Oid			database;
	long		wait;

	slots_lock(LW_EXCLUSIVE);
	database = slot->database;
	known = slot->present;
	slot->eligible = OidIsValid(database) && list_member_oid(databases, database);
	if (!OidIsValid(database) || slot->pid != 0)
	{
		if (slot->pid != 0 && (slot->look || slot_must_leave(slot)))
			slot_set_latch(index);
		slots_unlock();
		return POLL_MS;
	}
	slots_unlock();
	if (launcher_is_starting(index))
		return STARTING_MS;

	slots_lock(LW_EXCLUSIVE);
	wait = slot->pid != 0 ? POLL_MS : launcher_judge(index);
	starts[index].claims = slot->claims;
	slots_unlock();
	if (wait > 0)
		return wait;
	if (!known && *looking)
		return POLL_MS;			/* the end of that look wakes the launcher */
	*looking |= !known;
	launcher_start(index, database);
	return STARTING_MS;
}

static bool
launcher_is_looking(void)
{
	bool		looking = false;

	slots_lock(LW_SHARED);
	for (int i = 0; i < worker_max_databases; i++)
	{
		if (OidIsValid(worker_slots[i].database) && !worker_slots[i].present)
			looking |= worker_slots[i].pid != 0 || starts[i].handle != NULL;
	}
	slots_unlock();
	return looking;
}

/* Makes what is into what should be; returns in how many milliseconds to look
 * again. */
static long
launcher_reconcile(void)
{
	List	   *databases = launcher_databases();
	bool		looking = launcher_is_looking();
	long		wait = POLL_MS;

	if (worker_enabled)
		launcher_find_databases(databases);
	for (int i = 0; i < worker_max_databases; i++)
		wait = Min(wait, launcher_tend(i, databases, &looking));
	return wait;
}

/* ---- The process ---- */

static void
launcher_sigterm(SIGNAL_ARGS)
{
	terminated = true;
	die(postgres_signal_arg);
}

static void
launcher_exit(int code, Datum arg)
{
	launcher_release_latch();
	slots_lock(LW_EXCLUSIVE);
	launcher_status->pid = 0;
	launcher_status->running = false;
	if (!terminated && code != 0)
	{
		launcher_status->failures++;
		launcher_status->last_failure = GetCurrentTimestamp();
		strlcpy(launcher_status->last_error, "failed; see the server's log",
				SLOT_ERROR_LENGTH);
	}
	slots_unlock();
}

static void
launcher_started(void)
{
	slots_lock(LW_EXCLUSIVE);
	launcher_status->pid = MyProcPid;
	slots_unlock();
	launcher_claim_latch();
}

static void
launcher_report(bool running, long wait)
{
	TimestampTz now = GetCurrentTimestamp();

	slots_lock(LW_EXCLUSIVE);
	launcher_status->running = running;
	if (running)
		launcher_status->last_start = now;
	else
	{
		launcher_status->last_end = now;
		launcher_status->runs++;
		launcher_status->next_run = TimestampTzPlusMilliseconds(now, wait);
	}
	slots_unlock();
	pgstat_report_activity(running ? STATE_RUNNING : STATE_IDLE,
						   "inventory: looking after the workers");
}

void
inventory_launcher_main(Datum main_arg)
{
	uint32		wait_event;
	MemoryContext context;

	pqsignal(SIGTERM, launcher_sigterm);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	before_shmem_exit(launcher_exit, (Datum) 0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	SetConfigOption("application_name", "inventory launcher", PGC_USERSET,
					PGC_S_OVERRIDE);
	wait_event = compat_wait_event("InventoryLauncher");
	starts = MemoryContextAllocZero(TopMemoryContext,
									worker_max_databases * sizeof(Start));
	context = AllocSetContextCreate(TopMemoryContext, "inventory launcher",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	launcher_started();
	for (;;)
	{
		long		wait;

		launcher_report(true, 0);
		wait = launcher_reconcile();
		launcher_report(false, wait);
		pgstat_report_stat(true);
		MemoryContextReset(context);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 wait, wait_event);
		ResetLatch(MyLatch);
		/* The postmaster starts a new one unless it is the one who asks. */
		if (terminated)
			proc_exit(1);
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		ProcessCatchupInterrupt();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
}

void
launcher_register(void)
{
	BackgroundWorker worker;

	if (IsBinaryUpgrade)
		return;
	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "inventory", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "inventory_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "inventory launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "inventory launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
