/*-------------------------------------------------------------------------
 *
 * stat_worker.c
 *		What the launcher and the workers do, also when they are dead.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "inventory.h"
#include "slot.h"
#include "worker.h"

/* The columns of stat_workers(). */
enum
{
	COLUMN_DATABASE, COLUMN_TASK, COLUMN_PID, COLUMN_STATE, COLUMN_LAST_START,
	COLUMN_LAST_END, COLUMN_RUNS, COLUMN_ROWS, COLUMN_FAILURES,
	COLUMN_LAST_FAILURE, COLUMN_LAST_ERROR, COLUMN_NEXT_RUN, COLUMN_BACKLOG,
	COLUMN_LAG, COLUMN_COUNT
};

typedef struct Row
{
	Datum		values[COLUMN_COUNT];
	bool		nulls[COLUMN_COUNT];
} Row;

static const char *const task_names[] = {
	[TASK_PROJECTION] = "projection",
	[TASK_EXPIRY] = "expiry",
	[TASK_MAINTENANCE] = "maintenance",
	[TASK_DELIVERY] = "delivery",
};

StaticAssertDecl(lengthof(task_names) == TASK_COUNT, "every task has a name");

PG_FUNCTION_INFO_V1(inventory_stat_workers);

static void
row_put(Row *row, int column, Datum value)
{
	row->values[column] = value;
	row->nulls[column] = false;
}

static void
row_put_text(Row *row, int column, const char *value)
{
	if (value != NULL && value[0] != '\0')
		row_put(row, column, CStringGetTextDatum(value));
}

static void
row_put_time(Row *row, int column, TimestampTz value)
{
	if (value != 0 && !TIMESTAMP_NOT_FINITE(value))
		row_put(row, column, TimestampTzGetDatum(value));
}

static const char *
worker_state(const WorkerSlot *slot, const TaskStatus *task)
{
	if (slot->pid != 0)
		return task->running ? "running" :
			task->failures_in_row > 0 ? "backoff" : "idle";
	if (slot_must_leave(slot))
		return "stopped";
	switch (slot->end)
	{
		case END_OTHER_VERSION:
			return "needs update";
		case END_NO_PROCESS:
			return "no free worker process";
		case END_FAILED:
			return "crashed";
		default:
			return "stopped";
	}
}

static Interval *
lag_since(TimestampTz since)
{
	Interval   *lag = palloc0(sizeof(Interval));

	if (since != 0)
		lag->time = Max(GetCurrentTimestamp() - since, 0);
	return lag;
}

/* Since when the task has been behind, or 0. */
static TimestampTz
worker_behind(const WorkerSlot *slot, int index, WorkerTask task)
{
	const TaskStatus *status = &slot->tasks[task];
	TimestampTz now = GetCurrentTimestamp();

	if (task == TASK_PROJECTION)
		return status->behind_since != 0 ? status->behind_since :
			slot_work_since(index, task);
	if (status->next_run == 0 || status->next_run > now)
		return 0;
	return status->next_run;
}

static void
worker_row(Row *row, const WorkerSlot *slot, int index, WorkerTask task,
		   bool show_error)
{
	const TaskStatus *status = &slot->tasks[task];

	row_put_text(row, COLUMN_DATABASE, get_database_name(slot->database));
	row_put_text(row, COLUMN_TASK, task_names[task]);
	if (slot->pid != 0)
		row_put(row, COLUMN_PID, Int32GetDatum(slot->pid));
	row_put_text(row, COLUMN_STATE, worker_state(slot, status));
	row_put_time(row, COLUMN_LAST_START, status->last_start);
	row_put_time(row, COLUMN_LAST_END, status->last_end);
	row_put(row, COLUMN_RUNS, Int64GetDatum(status->runs));
	row_put(row, COLUMN_ROWS, Int64GetDatum(status->rows));
	row_put(row, COLUMN_FAILURES, Int64GetDatum(status->failures));
	row_put_time(row, COLUMN_LAST_FAILURE, status->last_failure);
	if (show_error)
		row_put_text(row, COLUMN_LAST_ERROR, slot->pid == 0 && slot->problem[0] ?
					 slot->problem : status->last_error);
	row_put_time(row, COLUMN_NEXT_RUN, slot->pid != 0 ? status->next_run :
				 slot_must_leave(slot) ? 0 : slot->next_start);
	if (status->backlog >= 0)
		row_put(row, COLUMN_BACKLOG, Int64GetDatum(status->backlog));
	row_put(row, COLUMN_LAG,
			IntervalPGetDatum(lag_since(worker_behind(slot, index, task))));
}

static void
launcher_row(Row *row, const LauncherStatus *status)
{
	row_put_text(row, COLUMN_TASK, "launcher");
	if (status->pid != 0)
		row_put(row, COLUMN_PID, Int32GetDatum(status->pid));
	row_put_text(row, COLUMN_STATE, status->pid == 0 ? "stopped" :
				 status->running ? "running" : "idle");
	row_put_time(row, COLUMN_LAST_START, status->last_start);
	row_put_time(row, COLUMN_LAST_END, status->last_end);
	row_put(row, COLUMN_RUNS, Int64GetDatum(status->runs));
	row_put(row, COLUMN_ROWS, Int64GetDatum(status->started));
	row_put(row, COLUMN_FAILURES, Int64GetDatum(status->failures));
	row_put_time(row, COLUMN_LAST_FAILURE, status->last_failure);
	row_put_text(row, COLUMN_LAST_ERROR, status->last_error);
	row_put_time(row, COLUMN_NEXT_RUN, status->pid == 0 ? 0 : status->next_run);
}

static void
return_row(ReturnSetInfo *result, Row *row)
{
	tuplestore_putvalues(result->setResult, result->setDesc, row->values,
						 row->nulls);
}

Datum
inventory_stat_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		sees_all = has_privs_of_role(GetOuterUserId(),
											 ROLE_PG_READ_ALL_STATS);
	LauncherStatus launcher;
	WorkerSlot *slots;
	Row			row;

	inventory_check_loaded();
	InitMaterializedSRF(fcinfo, 0);
	slots = palloc(worker_max_databases * sizeof(WorkerSlot));
	slots_lock(LW_SHARED);
	launcher = *launcher_status;
	memcpy(slots, worker_slots, worker_max_databases * sizeof(WorkerSlot));
	slots_unlock();

	memset(row.nulls, true, sizeof(row.nulls));
	launcher_row(&row, &launcher);
	return_row(result, &row);
	for (int i = 0; i < worker_max_databases; i++)
	{
		WorkerSlot *slot = &slots[i];

		if (!OidIsValid(slot->database) ||
			!(slot->present || slot->end == END_NO_PROCESS))
			continue;
		for (int task = 0; task < TASK_COUNT; task++)
		{
			memset(row.nulls, true, sizeof(row.nulls));
			worker_row(&row, slot, i, task,
					   sees_all || slot->database == MyDatabaseId);
			return_row(result, &row);
		}
	}
	return (Datum) 0;
}
