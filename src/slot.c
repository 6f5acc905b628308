/*-------------------------------------------------------------------------
 *
 * slot.c
 *		What the launcher, the workers and the sessions know of each other.
 *
 * Shared memory has one slot per database with the extension (and, for the
 * moment that it takes to find out, per database that may have it).  Only
 * numbers are kept there: a process is found by its number in the array of
 * processes, and a latch that is set for a process that has meanwhile been
 * replaced does no harm.
 *
 * LOCKING: one LWLock guards the slots.  It is held for a few assignments at a
 * time.  worker_wake() takes no lock: the bells, one cache line each, repeat
 * what it needs to know as single words.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "slot.h"
#include "worker.h"

#define SLOT_TRANCHE "inventory_worker"

#define BACKOFF_MAX_MS 60000

/* No process. */
#define NOBODY PG_UINT32_MAX

typedef struct Bell
{
	pg_atomic_uint32 database;
	pg_atomic_uint32 process;	/* of the worker, or NOBODY */
	pg_atomic_uint32 work;		/* one bit per task */
	pg_atomic_uint64 since;		/* first commit that made work */
	char		padding[PG_CACHE_LINE_SIZE - 3 * 4 - 4 - 8];
} Bell;

StaticAssertDecl(sizeof(Bell) == PG_CACHE_LINE_SIZE,
				 "a bell has a cache line of its own");

/* What a commit makes work for. */
#define WORK_OF_COMMIT ((1 << TASK_PROJECTION) | (1 << TASK_EXPIRY))

typedef struct SlotsShared
{
	pg_atomic_uint32 launcher_process;
	LauncherStatus launcher;
	WorkerSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} SlotsShared;

WorkerSlot *worker_slots = NULL;
LauncherStatus *launcher_status = NULL;

static SlotsShared *shared = NULL;
static Bell *bells = NULL;
static LWLock *lock = NULL;

/* ---- Shared memory ---- */

static Size
slots_size(void)
{
	return add_size(offsetof(SlotsShared, slots),
					mul_size(worker_max_databases, sizeof(WorkerSlot)));
}

static Size
bells_size(void)
{
	return mul_size(worker_max_databases, sizeof(Bell));
}

Size
slot_shmem_size(void)
{
	return add_size(MAXALIGN(slots_size()), MAXALIGN(bells_size()));
}

void
slot_shmem_request_locks(void)
{
	RequestNamedLWLockTranche(SLOT_TRANCHE, 1);
}

void
slot_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("inventory workers", slots_size(), &found);
	bells = ShmemInitStruct("inventory worker bells", bells_size(), &found);
	worker_slots = shared->slots;
	launcher_status = &shared->launcher;
	lock = &GetNamedLWLockTranche(SLOT_TRANCHE)[0].lock;
	if (found)
		return;
	memset(shared, 0, slots_size());
	pg_atomic_init_u32(&shared->launcher_process, NOBODY);
	for (int i = 0; i < worker_max_databases; i++)
	{
		pg_atomic_init_u32(&bells[i].database, InvalidOid);
		pg_atomic_init_u32(&bells[i].process, NOBODY);
		pg_atomic_init_u32(&bells[i].work, 0);
		pg_atomic_init_u64(&bells[i].since, 0);
	}
}

/* ---- Slots ---- */

void
slots_lock(LWLockMode mode)
{
	LWLockAcquire(lock, mode);
}

void
slots_unlock(void)
{
	LWLockRelease(lock);
}

int
slot_find(Oid database)
{
	Assert(OidIsValid(database));
	for (int i = 0; i < worker_max_databases; i++)
	{
		if (worker_slots[i].database == database)
			return i;
	}
	return -1;
}

/* The slot of the database, which may be a new one. */
int
slot_take(Oid database)
{
	WorkerSlot *slot;
	int			index = slot_find(database);

	if (index >= 0)
		return index;
	for (index = 0; index < worker_max_databases; index++)
	{
		if (!OidIsValid(worker_slots[index].database))
			break;
	}
	if (index == worker_max_databases)
		return -1;
	slot = &worker_slots[index];
	memset(slot, 0, sizeof(WorkerSlot));
	slot->database = database;
	for (int task = 0; task < TASK_COUNT; task++)
		slot->tasks[task].backlog = -1;
	pg_atomic_write_u64(&bells[index].since, 0);
	pg_atomic_write_u32(&bells[index].work, 0);
	pg_atomic_write_u32(&bells[index].database, database);
	return index;
}

void
slot_free(int index)
{
	Assert(worker_slots[index].pid == 0 && worker_slots[index].holds == 0);
	worker_slots[index].database = InvalidOid;
	pg_atomic_write_u32(&bells[index].database, InvalidOid);
}

/* Whether the worker, which may not be there yet, is not to be there. */
bool
slot_must_leave(const WorkerSlot *slot)
{
	return slot->holds > 0 || !slot->eligible || !worker_enabled;
}

/*
 * Has a database looked at afresh: a running worker makes room for a new one.
 * One without a slot is given one, or, if it need not be, left alone.
 */
void
slot_look(Oid database, bool take)
{
	int			index = take ? slot_take(database) : slot_find(database);

	if (index >= 0)
	{
		worker_slots[index].look = true;
		worker_slots[index].next_start = 0;
		worker_slots[index].failures = 0;
		slot_set_latch(index);
	}
	else if (take)
		launcher_status->look_everywhere = true;
}

/* How long to wait after so many failures in a row. */
int64
slot_backoff_ms(int failures)
{
	double		ms = 1000.0 * (1 << Min(Max(failures, 1) - 1, 6));

	return (int64) (Min(ms, BACKOFF_MAX_MS) *
					(0.75 + 0.25 * pg_prng_double(&pg_global_prng_state)));
}

/* ---- Bells ---- */

static void
wake_process(pg_atomic_uint32 *process)
{
	uint32		number = pg_atomic_read_u32(process);

	if (number != NOBODY)
		SetLatch(&ProcGlobal->allProcs[number].procLatch);
}

void
slot_set_latch(int index)
{
	wake_process(&bells[index].process);
}

void
launcher_wake(void)
{
	wake_process(&shared->launcher_process);
}

void
launcher_claim_latch(void)
{
	pg_atomic_write_u32(&shared->launcher_process, COMPAT_MY_PROCESS_NUMBER);
}

void
launcher_release_latch(void)
{
	pg_atomic_write_u32(&shared->launcher_process, NOBODY);
}

/* A new worker does not know what the one before has left undone. */
void
slot_claim_latch(int index)
{
	if (!slot_has_work(index, TASK_PROJECTION))
		pg_atomic_write_u64(&bells[index].since, GetCurrentTimestamp());
	pg_atomic_write_u32(&bells[index].work, WORK_OF_COMMIT);
	pg_atomic_write_u32(&bells[index].process, COMPAT_MY_PROCESS_NUMBER);
}

void
slot_release_latch(int index)
{
	pg_atomic_write_u32(&bells[index].process, NOBODY);
}

static Bell *
my_bell(void)
{
	static int	index = -1;

	if (index >= 0 &&
		pg_atomic_read_u32(&bells[index].database) == MyDatabaseId)
		return &bells[index];
	for (index = worker_max_databases - 1; index >= 0; index--)
	{
		if (pg_atomic_read_u32(&bells[index].database) == MyDatabaseId)
			return &bells[index];
	}
	return NULL;
}

void
worker_wake(void)
{
	Bell	   *bell = shared ? my_bell() : NULL;

	uint32		work;

	if (bell == NULL)
		return;
	/* Leaving the array of running transactions was a memory barrier. */
	work = pg_atomic_read_u32(&bell->work);
	if ((work & WORK_OF_COMMIT) == WORK_OF_COMMIT)
		return;
	if ((work & (1 << TASK_PROJECTION)) == 0)
		pg_atomic_write_u64(&bell->since, GetCurrentTransactionStopTimestamp());
	work = pg_atomic_fetch_or_u32(&bell->work, WORK_OF_COMMIT);
	if ((work & WORK_OF_COMMIT) != WORK_OF_COMMIT)
		wake_process(&bell->process);
}

void
slot_ask(WorkerTask task)
{
	Bell	   *bell = shared ? my_bell() : NULL;

	if (bell == NULL)
		return;
	pg_atomic_fetch_or_u32(&bell->work, 1 << task);
	wake_process(&bell->process);
}

void
worker_wake_all(void)
{
	for (int i = 0; i < worker_max_databases; i++)
		slot_set_latch(i);
}

bool
slot_has_work(int index, WorkerTask task)
{
	return (pg_atomic_read_u32(&bells[index].work) & (1 << task)) != 0;
}

/* Since when the task has work, or 0. */
TimestampTz
slot_work_since(int index, WorkerTask task)
{
	return slot_has_work(index, task) ?
		(TimestampTz) pg_atomic_read_u64(&bells[index].since) : 0;
}

/*
 * The task is going to look for its work, and finds what was committed before
 * this call.  Returns since when there has been some, or 0.
 */
TimestampTz
slot_take_work(int index, WorkerTask task)
{
	TimestampTz since = (TimestampTz) pg_atomic_read_u64(&bells[index].since);

	if (pg_atomic_fetch_and_u32(&bells[index].work, ~(1 << task)) & (1 << task))
		return since;
	return 0;
}

/* The task could not do all there was. */
void
slot_add_work(int index, WorkerTask task, TimestampTz since)
{
	pg_atomic_write_u64(&bells[index].since, since);
	pg_atomic_fetch_or_u32(&bells[index].work, 1 << task);
}
