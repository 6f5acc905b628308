/*-------------------------------------------------------------------------
 *
 * worker.c
 *		The worker of one database: projection, expiry, maintenance, and the
 *		delivery processes.
 *
 * The worker sleeps on its latch until there is something to do.  Each task
 * has a moment when it is due: the projection a tick after it last ran, if
 * anything was committed since; expiry at the next deadline; maintenance now
 * and then.  When nothing is due it has no transaction, no snapshot and no lock
 * but the one that says that it is the only one.
 *
 * A task is run piece by piece, each in a transaction of its own, as the owner
 * of the extension.  A task that fails waits longer each time, and does not
 * keep the others from running.
 *
 * Whatever changes for the worker, its version, its settings for the database,
 * the extension: it leaves, and a new one looks.  Leaving is never waiting:
 * who needs the database empty has the worker terminated (lifecycle.c).
 *
 * LOCKING: for the slot see slot.c.  The session holds ENGINE_LOCK_WORKER; a
 * task first locks the extension (extension.c), then what it needs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/int.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "delivery_start.h"
#include "expiry.h"
#include "extension.h"
#include "inventory.h"
#include "lock.h"
#include "maintenance.h"
#include "projection.h"
#include "slot.h"
#include "worker.h"

/* The worker looks at the clock at least so often: it may have been set. */
#define POLL_MS 60000

#define MAINTENANCE_INTERVAL_MS (5 * 60 * 1000)

/* When a task finds that the extension is being dropped, or a hold that it
 * cannot settle yet. */
#define AGAIN_MS 1000

/* Changed subscriptions are looked at no more often. */
#define DELIVERY_PAUSE_MS 20

/* Lines settled in one transaction. */
#define EXPIRY_LINES 1000

/* After so long a worker was not a failure from the start. */
#define HEALTHY_MS 60000

/* When a database that cannot have a worker yet is looked at again. */
#define LOOK_AGAIN_MS 60000


bool		worker_enabled = true;
int			worker_max_databases = 32;
int			worker_tick_interval = 1000;

typedef struct Task
{
	const char *activity;
	int64		(*run) (void);
} Task;

/* What the worker knows of its tasks beyond what it shows. */
typedef struct Schedule
{
	TimestampTz last_start;
	bool		more;			/* the last piece was not all */
	int64		delay_ms;		/* when it could not be run: until it may again */
	TimestampTz delayed_at;
	int			failures_in_row;
	char		last_error[SLOT_ERROR_LENGTH];
} Schedule;

static int64 run_projection(void);
static int64 run_expiry(void);
static int64 run_maintenance(void);
static int64 run_delivery(void);

static const Task tasks[] = {
	[TASK_PROJECTION] = {"inventory: projection", run_projection},
	[TASK_EXPIRY] = {"inventory: expiry", run_expiry},
	[TASK_MAINTENANCE] = {"inventory: maintenance", run_maintenance},
	[TASK_DELIVERY] = {"inventory: delivery processes", run_delivery},
};

StaticAssertDecl(lengthof(tasks) == TASK_COUNT, "every task has a function");

static Schedule schedules[TASK_COUNT];
static TimestampTz next_deadline = DT_NOBEGIN;	/* by clock_time() */
static TimestampTz next_delivery = DT_NOBEGIN;
static ExtensionRow extension;

static int	my_index = -1;
static bool claimed = false;
static WorkerEnd my_end = END_ASKED;
static char my_problem[SLOT_ERROR_LENGTH];
static int	running_task = -1;
static volatile sig_atomic_t terminated = false;

PGDLLEXPORT pg_noreturn void inventory_worker_main(Datum main_arg);

/* ---- Coming and going ---- */

static void
worker_sigterm(SIGNAL_ARGS)
{
	terminated = true;
	die(postgres_signal_arg);
}

pg_noreturn static void
worker_leave(WorkerEnd end)
{
	my_end = end;
	proc_exit(0);
}

static bool
worker_claim(Oid database)
{
	WorkerSlot *slot = &worker_slots[my_index];

	slots_lock(LW_EXCLUSIVE);
	if (slot->database == database && slot->pid == 0 && !slot_must_leave(slot))
	{
		slot->pid = MyProcPid;
		slot->claims++;
		slot->look = false;
		slot->started_at = GetCurrentTimestamp();
		slot_claim_latch(my_index);
		claimed = true;
	}
	slots_unlock();
	return claimed;
}

static TimestampTz
worker_next_start(WorkerSlot *slot)
{
	TimestampTz now = GetCurrentTimestamp();

	switch (slot->end)
	{
		case END_FAILED:
			if (TimestampDifferenceExceeds(slot->started_at, now, HEALTHY_MS))
				slot->failures = 0;
			return TimestampTzPlusMilliseconds(now,
											   slot_backoff_ms(++slot->failures));
		case END_RESTORING:
		case END_OTHER_VERSION:
			return TimestampTzPlusMilliseconds(now, LOOK_AGAIN_MS);
		case END_TERMINATED:
			return TimestampTzPlusMilliseconds(now, AGAIN_MS);
		default:
			return now;
	}
}

/*
 * However the process ends, short of a crash, which empties the shared memory.
 * Registered first, so that it comes last, when the locks are gone.
 */
static void
worker_exit(int code, Datum arg)
{
	WorkerSlot *slot = &worker_slots[my_index];

	if (!claimed)
		return;
	slot_release_latch(my_index);
	slots_lock(LW_EXCLUSIVE);
	slot->pid = 0;
	slot->end = terminated ? END_TERMINATED : code != 0 ? END_FAILED : my_end;
	if (slot->end == END_FAILED)
		strlcpy(slot->problem, "the worker failed; see the server's log",
				SLOT_ERROR_LENGTH);
	else
		strlcpy(slot->problem, my_problem, SLOT_ERROR_LENGTH);
	slot->next_start = slot->look ? 0 : worker_next_start(slot);
	for (int task = 0; task < TASK_COUNT; task++)
		slot->tasks[task].running = false;
	slots_unlock();
	launcher_wake();
}

/* Defaults that somebody may have set for the users of the database. */
void
worker_pin_settings(const char *application_name)
{
	const char *const pinned[][2] = {
		{"application_name", application_name},
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"session_replication_role", "origin"},
		{"statement_timeout", "0"},
		{"lock_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		{"transaction_timeout", "0"},	/* since version 17 */
		{"jit", "off"},
		/* Of a user and a worker that wait for each other, the worker fails. */
		{"deadlock_timeout", "100ms"},
	};

	for (int i = 0; i < lengthof(pinned); i++)
	{
		if (GetConfigOption(pinned[i][0], true, false) != NULL)
			SetConfigOption(pinned[i][0], pinned[i][1], PGC_SUSET,
							PGC_S_OVERRIDE);
	}
}

static void
worker_look_at_extension(void)
{
	bool		present;

	StartTransactionCommand();
	if (!engine_lock_session(ENGINE_LOCK_WORKER, 0))
		worker_leave(END_TERMINATED);
	present = extension_find(&extension);
	CommitTransactionCommand();
	if (!present)
	{
		slots_lock(LW_EXCLUSIVE);
		worker_slots[my_index].present = false;
		slots_unlock();
		worker_leave(END_ABSENT);
	}
	slots_lock(LW_EXCLUSIVE);
	worker_slots[my_index].present = true;
	slots_unlock();
	launcher_wake();
	if (inventory_restoring)
	{
		strlcpy(my_problem, "inventory.restoring is on", SLOT_ERROR_LENGTH);
		worker_leave(END_RESTORING);
	}
	if (strcmp(extension.version, INVENTORY_VERSION) != 0)
	{
		snprintf(my_problem, SLOT_ERROR_LENGTH,
				 "the extension is version %s, the library %s",
				 extension.version, INVENTORY_VERSION);
		worker_leave(END_OTHER_VERSION);
	}
}

/* ---- The tasks ---- */

static int64
run_projection(void)
{
	int64		backlog;
	int64		events = projection_run(projection_tick_events, &backlog);

	worker_report_backlog(backlog);
	schedules[TASK_PROJECTION].more = events >= projection_tick_events;
	return events;
}

static int64
run_expiry(void)
{
	int64		lines = 0;

	next_deadline = expiry_next_deadline();
	if (next_deadline <= clock_time())
	{
		lines = expiry_run(EXPIRY_LINES);
		next_deadline = expiry_next_deadline();
		worker_report_backlog(expiry_backlog());
	}
	schedules[TASK_EXPIRY].more = lines > 0 && next_deadline <= clock_time();
	return lines;
}

static int64
run_maintenance(void)
{
	int64		amount = maintenance_run();

	schedules[TASK_MAINTENANCE].more = amount > 0;
	return amount;
}

static int64
run_delivery(void)
{
	return delivery_reconcile(&next_delivery);
}

void
worker_report_backlog(int64 backlog)
{
	if (running_task < 0)
		return;
	slots_lock(LW_EXCLUSIVE);
	worker_slots[my_index].tasks[running_task].backlog = backlog;
	slots_unlock();
}

static void
task_begin(WorkerTask task)
{
	TaskStatus *status = &worker_slots[my_index].tasks[task];
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz since = slot_take_work(my_index, task);

	running_task = task;
	schedules[task].last_start = now;
	schedules[task].delay_ms = 0;
	schedules[task].more = false;
	pgstat_report_activity(STATE_RUNNING, tasks[task].activity);
	slots_lock(LW_EXCLUSIVE);
	status->running = true;
	status->last_start = now;
	if (task == TASK_PROJECTION && status->behind_since == 0)
		status->behind_since = since;
	slots_unlock();
}

static void
task_succeeded(WorkerTask task, int64 rows)
{
	TaskStatus *status = &worker_slots[my_index].tasks[task];
	bool		more = schedules[task].more;

	/* What was committed while it ran may have come too late for it. */
	if (task == TASK_PROJECTION && rows > 0)
		slot_add_work(my_index, task, more ? status->behind_since :
					  schedules[task].last_start);
	schedules[task].failures_in_row = 0;
	slots_lock(LW_EXCLUSIVE);
	status->running = false;
	status->failures_in_row = 0;
	status->last_end = GetCurrentTimestamp();
	status->runs++;
	status->rows += rows;
	status->behind_since = 0;
	if (!more)
		status->backlog = 0;
	slots_unlock();
	running_task = -1;
}

static void
task_delay(WorkerTask task, int64 ms)
{
	schedules[task].more = false;
	schedules[task].delay_ms = ms;
	schedules[task].delayed_at = GetCurrentTimestamp();
}

/* It could not be run now, through nobody's fault. */
static void
task_skipped(WorkerTask task)
{
	TaskStatus *status = &worker_slots[my_index].tasks[task];

	slot_add_work(my_index, task, status->behind_since);
	task_delay(task, AGAIN_MS);
	slots_lock(LW_EXCLUSIVE);
	status->running = false;
	slots_unlock();
	running_task = -1;
}

static void
task_failed(WorkerTask task, const char *message)
{
	TaskStatus *status = &worker_slots[my_index].tasks[task];
	Schedule   *schedule = &schedules[task];

	slot_add_work(my_index, task, status->behind_since);
	task_delay(task, slot_backoff_ms(++schedule->failures_in_row));
	strlcpy(schedule->last_error, message, SLOT_ERROR_LENGTH);
	slots_lock(LW_EXCLUSIVE);
	status->running = false;
	status->failures_in_row = schedule->failures_in_row;
	status->failures++;
	status->last_failure = status->last_end = GetCurrentTimestamp();
	strlcpy(status->last_error, message, SLOT_ERROR_LENGTH);
	slots_unlock();
	running_task = -1;
}

static void
task_error_context(void *arg)
{
	errcontext("%s", tasks[*(WorkerTask *) arg].activity);
}

/* Runs one piece in one transaction; false if the extension is going away. */
static bool
task_transaction(WorkerTask task, int64 *rows)
{
	bool		locked;
	Oid			user;
	int			security_context;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	locked = extension_lock(&extension);
	if (locked)
	{
		GetUserIdAndSecContext(&user, &security_context);
		SetUserIdAndSecContext(extension.owner, security_context |
							   SECURITY_LOCAL_USERID_CHANGE);
		PushActiveSnapshot(GetTransactionSnapshot());
		*rows = tasks[task].run();
		PopActiveSnapshot();
		CommitTransactionCommand();
		SetUserIdAndSecContext(user, security_context);
	}
	else
		CommitTransactionCommand();
	return locked;
}

/* Ends the failed transaction and tells of it, but of the same one only once. */
static void
task_clean_up(WorkerTask task, MemoryContext context)
{
	ErrorData  *error;

	HOLD_INTERRUPTS();
	QueryCancelPending = false;
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	if (schedules[task].failures_in_row == 0 ||
		strncmp(schedules[task].last_error, error->message,
				SLOT_ERROR_LENGTH - 1) != 0)
		EmitErrorReport();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	MemoryContextSwitchTo(context);
	task_failed(task, error->message);
	RESUME_INTERRUPTS();
}

static void
task_run(WorkerTask task)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorContextCallback callback = {error_context_stack, task_error_context, &task};
	int64		rows = 0;

	task_begin(task);
	PG_TRY();
	{
		error_context_stack = &callback;
		if (task_transaction(task, &rows))
			task_succeeded(task, rows);
		else
			task_skipped(task);
	}
	PG_CATCH();
	{
		task_clean_up(task, context);
	}
	PG_END_TRY();
	error_context_stack = callback.previous;
	pgstat_report_activity(STATE_IDLE, NULL);
	pgstat_report_stat(false);
	MemoryContextSwitchTo(context);
	MemoryContextReset(context);
}

/* ---- When the tasks are due ---- */

/* So long after a moment; at once if the clock has been set back since. */
static TimestampTz
moment_after(TimestampTz moment, int64 ms, TimestampTz now)
{
	return moment > now ? now : TimestampTzPlusMilliseconds(moment, ms);
}

/* The wall clock's time of the next deadline. */
static TimestampTz
deadline_due(TimestampTz now)
{
	TimestampTz present = clock_time();
	int64		left;

	if (TIMESTAMP_IS_NOEND(next_deadline))
		return DT_NOEND;
	if (next_deadline <= present)
		return now;
	if (pg_sub_s64_overflow(next_deadline, present, &left) ||
		pg_add_s64_overflow(now, left, &left))
		return DT_NOEND;
	return left;
}

static TimestampTz
task_due(WorkerTask task, TimestampTz now)
{
	Schedule   *schedule = &schedules[task];
	TimestampTz last = schedule->last_start;
	TimestampTz due = DT_NOEND;

	if (schedule->more)
		return now;
	if (schedule->delay_ms > 0)
		return moment_after(schedule->delayed_at, schedule->delay_ms, now);
	if (slot_has_work(my_index, task))
		due = moment_after(last, task == TASK_DELIVERY ? DELIVERY_PAUSE_MS :
						   worker_tick_interval, now);
	if (task == TASK_EXPIRY)
		due = Min(due, Max(deadline_due(now), moment_after(last, AGAIN_MS, now)));
	if (task == TASK_MAINTENANCE)
		due = Min(due, moment_after(last, MAINTENANCE_INTERVAL_MS, now));
	if (task == TASK_DELIVERY)
		due = Min(due, next_delivery);
	return due;
}

/* Runs what is due; returns how many milliseconds there is nothing to do. */
static long
worker_run_due(void)
{
	TimestampTz next = DT_NOEND;
	TimestampTz due[TASK_COUNT];
	TimestampTz now;

	for (int task = 0; task < TASK_COUNT; task++)
	{
		now = GetCurrentTimestamp();
		if (task_due(task, now) <= now)
			task_run(task);
	}
	now = GetCurrentTimestamp();
	for (int task = 0; task < TASK_COUNT; task++)
	{
		due[task] = task_due(task, now);
		next = Min(next, due[task]);
	}
	slots_lock(LW_EXCLUSIVE);
	for (int task = 0; task < TASK_COUNT; task++)
		worker_slots[my_index].tasks[task].next_run = due[task];
	slots_unlock();
	if (TIMESTAMP_IS_NOEND(next))
		return POLL_MS;
	return Min(TimestampDifferenceMilliseconds(now, next), POLL_MS);
}

/* ---- The process ---- */

static void
worker_attend(void)
{
	WorkerSlot *slot = &worker_slots[my_index];
	bool		leave;

	if (terminated)
		worker_leave(END_TERMINATED);
	QueryCancelPending = false; /* there is nothing to cancel */
	CHECK_FOR_INTERRUPTS();
	ProcessCatchupInterrupt();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	slots_lock(LW_SHARED);
	leave = slot->look || slot_must_leave(slot);
	slots_unlock();
	if (leave)
	{
		/* One that is waiting for a broker does not read the settings. */
		if (!worker_enabled)
			delivery_dismiss();
		worker_leave(END_ASKED);
	}
}

void
inventory_worker_main(Datum main_arg)
{
	Oid			database;
	uint32		wait_event;
	MemoryContext context;

	my_index = DatumGetInt32(main_arg);
	memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(Oid));
	pqsignal(SIGTERM, worker_sigterm);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	before_shmem_exit(worker_exit, (Datum) 0);
	if (!worker_claim(database))
		proc_exit(0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	worker_pin_settings("inventory worker");
	wait_event = compat_wait_event("InventoryWorker");
	worker_look_at_extension();
	context = AllocSetContextCreate(TopMemoryContext, "inventory worker",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	for (;;)
	{
		long		wait = worker_run_due();

		if (wait > 0)
		{
			pgstat_report_stat(true);
			(void) WaitLatch(MyLatch,
							 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 wait, wait_event);
		}
		ResetLatch(MyLatch);
		worker_attend();
	}
}
