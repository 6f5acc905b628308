/*-------------------------------------------------------------------------
 *
 * progress.c
 *		What long work has done so far, for others to see.
 *
 * A fixed number of slots in shared memory.  Work that finds none free goes on
 * unseen: to be watched is never a reason to fail or to wait.  Work inside of
 * other work adds nothing: the outer one is what somebody waits for.
 *
 * LOCKING: a slot is claimed and freed by compare-and-swap of its process id.
 * Only its owner writes the rest, under the slot's spinlock, which readers
 * take too; "done" is an atomic, because it changes all the time.
 *
 * A slot is freed at the end of the transaction, or of the subtransaction that
 * began the work if that aborts, and when the process exits: nothing that
 * fails is shown as going on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "inventory.h"
#include "progress.h"

#define PROGRESS_SLOTS 64
#define PROGRESS_NAME_LENGTH 64

/* Rows counted by progress_row() between two looks of others. */
#define PROGRESS_ROWS 1024

typedef struct ProgressSlot
{
	pg_atomic_uint32 pid;		/* 0 when free */
	pg_atomic_uint64 done;
	slock_t		mutex;			/* guards the rest */
	Oid			database;
	TimestampTz started_at;
	int64		total;
	char		operation[PROGRESS_NAME_LENGTH];
	char		phase[PROGRESS_NAME_LENGTH];
} ProgressSlot;

static ProgressSlot *slots = NULL;

/* This backend's work. */
static ProgressSlot *my_slot = NULL;
static int	my_depth = 0;
static SubTransactionId my_subtransaction = InvalidSubTransactionId;
static int64 my_rows = 0;

PG_FUNCTION_INFO_V1(inventory_progress_begin);
PG_FUNCTION_INFO_V1(inventory_progress_phase);
PG_FUNCTION_INFO_V1(inventory_progress_row);
PG_FUNCTION_INFO_V1(inventory_progress_done);
PG_FUNCTION_INFO_V1(inventory_progress_end);
PG_FUNCTION_INFO_V1(inventory_stat_progresses);

Size
progress_shmem_size(void)
{
	return PROGRESS_SLOTS * sizeof(ProgressSlot);
}

void
progress_shmem_init(void)
{
	bool		found;

	slots = ShmemInitStruct("inventory progress", progress_shmem_size(), &found);
	if (found)
		return;
	memset(slots, 0, progress_shmem_size());
	for (int i = 0; i < PROGRESS_SLOTS; i++)
	{
		pg_atomic_init_u32(&slots[i].pid, 0);
		pg_atomic_init_u64(&slots[i].done, 0);
		SpinLockInit(&slots[i].mutex);
	}
}

/* ---- The work's side ---- */

static void
progress_free(void)
{
	if (my_slot)
		pg_atomic_write_u32(&my_slot->pid, 0);
	my_slot = NULL;
	my_depth = 0;
	my_subtransaction = InvalidSubTransactionId;
}

static void
progress_at_exit(int code, Datum arg)
{
	progress_free();
}

static void
progress_claim(void)
{
	static bool registered = false;

	if (!registered)
	{
		before_shmem_exit(progress_at_exit, (Datum) 0);
		registered = true;
	}
	for (int i = 0; i < PROGRESS_SLOTS; i++)
	{
		uint32		nobody = 0;

		if (pg_atomic_compare_exchange_u32(&slots[i].pid, &nobody,
										   (uint32) MyProcPid))
		{
			my_slot = &slots[i];
			return;
		}
	}
}

void
progress_begin(const char *operation)
{
	if (slots == NULL || my_depth++ > 0)
		return;
	my_subtransaction = GetCurrentSubTransactionId();
	progress_claim();
	if (my_slot == NULL)
		return;
	pg_atomic_write_u64(&my_slot->done, 0);
	SpinLockAcquire(&my_slot->mutex);
	my_slot->database = MyDatabaseId;
	my_slot->started_at = GetCurrentTimestamp();
	my_slot->total = 0;
	strlcpy(my_slot->operation, operation, PROGRESS_NAME_LENGTH);
	my_slot->phase[0] = '\0';
	SpinLockRelease(&my_slot->mutex);
}

void
progress_phase(const char *phase, int64 total)
{
	if (my_slot == NULL || my_depth != 1)
		return;
	my_rows = 0;
	pg_atomic_write_u64(&my_slot->done, 0);
	SpinLockAcquire(&my_slot->mutex);
	my_slot->total = total;
	strlcpy(my_slot->phase, phase, PROGRESS_NAME_LENGTH);
	SpinLockRelease(&my_slot->mutex);
}

void
progress_done(int64 units)
{
	if (my_slot == NULL || my_depth != 1)
		return;
	pg_atomic_fetch_add_u64(&my_slot->done, units);
}

void
progress_end(void)
{
	if (my_depth > 0 && --my_depth == 0)
		progress_free();
}

static void
progress_xact_callback(XactEvent event, void *arg)
{
	if (my_depth > 0 &&
		(event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		 event == XACT_EVENT_PREPARE))
		progress_free();
}

static void
progress_subxact_callback(SubXactEvent event, SubTransactionId subid,
						  SubTransactionId parent, void *arg)
{
	if (my_depth == 0 || subid != my_subtransaction)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		progress_free();
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		my_subtransaction = parent;
}

void
progress_init(void)
{
	RegisterXactCallback(progress_xact_callback, NULL);
	RegisterSubXactCallback(progress_subxact_callback, NULL);
}

/* ---- For work that is written in SQL ---- */

Datum
inventory_progress_begin(PG_FUNCTION_ARGS)
{
	inventory_check_loaded();
	progress_begin(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_VOID();
}

Datum
inventory_progress_phase(PG_FUNCTION_ARGS)
{
	int64		total = PG_GETARG_INT64(1);

	progress_phase(text_to_cstring(PG_GETARG_TEXT_PP(0)), Max(total, 0));
	PG_RETURN_VOID();
}

/* In a WHERE clause: true, and one row more. */
Datum
inventory_progress_row(PG_FUNCTION_ARGS)
{
	if (++my_rows % PROGRESS_ROWS == 0)
		progress_done(PROGRESS_ROWS);
	PG_RETURN_BOOL(true);
}

Datum
inventory_progress_done(PG_FUNCTION_ARGS)
{
	progress_done(PG_GETARG_INT64(0));
	PG_RETURN_VOID();
}

Datum
inventory_progress_end(PG_FUNCTION_ARGS)
{
	progress_end();
	PG_RETURN_VOID();
}

/* ---- The watcher's side ---- */

Datum
inventory_stat_progresses(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	inventory_check_loaded();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < PROGRESS_SLOTS; i++)
	{
		ProgressSlot *slot = &slots[i];
		uint32		pid = pg_atomic_read_u32(&slot->pid);
		ProgressSlot copy;
		Datum		values[7];
		bool		nulls[7] = {0};

		if (pid == 0)
			continue;
		SpinLockAcquire(&slot->mutex);
		copy = *slot;
		SpinLockRelease(&slot->mutex);
		if (pg_atomic_read_u32(&slot->pid) != pid)
			continue;
		values[0] = Int32GetDatum((int32) pid);
		values[1] = ObjectIdGetDatum(copy.database);
		values[2] = CStringGetTextDatum(copy.operation);
		values[3] = CStringGetTextDatum(copy.phase);
		values[4] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->done));
		values[5] = Int64GetDatum(copy.total);
		nulls[5] = copy.total == 0;
		values[6] = TimestampTzGetDatum(copy.started_at);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
