/*-------------------------------------------------------------------------
 *
 * slot.h
 *		What the launcher, the workers and the sessions know of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_SLOT_H
#define INVENTORY_SLOT_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/lwlock.h"

typedef enum WorkerTask
{
	TASK_PROJECTION,
	TASK_EXPIRY,
	TASK_MAINTENANCE,
	TASK_DELIVERY,
} WorkerTask;

#define TASK_COUNT (TASK_DELIVERY + 1)

/* Why a database has no worker at the moment. */
typedef enum WorkerEnd
{
	END_NOT_STARTED,
	END_ASKED,					/* it was to step aside, or to start afresh */
	END_TERMINATED,				/* pg_terminate_backend() */
	END_ABSENT,					/* the database does not have the extension */
	END_RESTORING,				/* a dump is being loaded into the database */
	END_OTHER_VERSION,			/* the installed SQL is not this library's */
	END_FAILED,
	END_NO_PROCESS,				/* no free worker process */
} WorkerEnd;

#define SLOT_ERROR_LENGTH 256

typedef struct TaskStatus
{
	bool		running;
	int			failures_in_row;
	int64		runs;
	int64		rows;
	int64		failures;
	int64		backlog;		/* -1: unknown */
	TimestampTz last_start;
	TimestampTz last_end;
	TimestampTz last_failure;
	TimestampTz next_run;
	TimestampTz behind_since;	/* 0: not behind */
	char		last_error[SLOT_ERROR_LENGTH];
} TaskStatus;

/*
 * One database.  All guarded by the lock; the worker alone writes its tasks.
 *
 *	 taken by the launcher or by CREATE EXTENSION
 *		-> claimed by a worker (pid)			launcher starts it
 *		-> released by it, with an end			launcher starts it again ...
 *		-> freed by the launcher				... or has no reason to
 */
typedef struct WorkerSlot
{
	Oid			database;		/* InvalidOid: free */
	int			pid;			/* 0: no worker */
	int			claims;			/* workers that there have been */
	int			failures;		/* workers in a row that failed soon */
	int			holds;			/* transactions that need the database empty */
	bool		present;		/* the extension has been seen */
	bool		eligible;		/* may have a worker, says the launcher */
	bool		look;			/* a new worker is to look at everything afresh */
	WorkerEnd	end;
	TimestampTz started_at;
	TimestampTz next_start;
	char		problem[SLOT_ERROR_LENGTH];
	TaskStatus	tasks[TASK_COUNT];
} WorkerSlot;

typedef struct LauncherStatus
{
	int			pid;
	int64		runs;
	int64		started;		/* workers */
	int64		failures;
	TimestampTz last_start;
	TimestampTz last_end;
	TimestampTz last_failure;
	TimestampTz next_run;
	bool		running;
	bool		look_everywhere;	/* a look was asked for, but had no slot */
	char		last_error[SLOT_ERROR_LENGTH];
} LauncherStatus;

extern Size slot_shmem_size(void);
extern void slot_shmem_request_locks(void);
extern void slot_shmem_init(void);

/* NULL when the library was not preloaded. */
extern WorkerSlot *worker_slots;
extern LauncherStatus *launcher_status;

extern void slots_lock(LWLockMode mode);
extern void slots_unlock(void);

/* With the lock held; -1 if there is none. */
extern int	slot_find(Oid database);
extern int	slot_take(Oid database);
extern void slot_free(int index);
extern bool slot_must_leave(const WorkerSlot *slot);
extern void slot_look(Oid database, bool take);

/* The worker's side of worker_wake(). */
extern void slot_claim_latch(int index);
extern void slot_release_latch(int index);
extern bool slot_has_work(int index, WorkerTask task);
extern TimestampTz slot_work_since(int index, WorkerTask task);
extern TimestampTz slot_take_work(int index, WorkerTask task);
extern void slot_add_work(int index, WorkerTask task, TimestampTz since);

/* The task of this database's worker has something to do. */
extern void slot_ask(WorkerTask task);

extern void slot_set_latch(int index);
extern void launcher_claim_latch(void);
extern void launcher_release_latch(void);
extern void launcher_wake(void);

extern int64 slot_backoff_ms(int failures);

#endif							/* INVENTORY_SLOT_H */
