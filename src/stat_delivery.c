/*-------------------------------------------------------------------------
 *
 * stat_delivery.c
 *		The delivery processes, as they show themselves in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "delivery_slot.h"
#include "event.h"
#include "inventory.h"

PG_FUNCTION_INFO_V1(inventory_stat_deliveries);

static const char *const state_names[] = {
	[DELIVERY_STOPPED] = "stopped",
	[DELIVERY_IDLE] = "idle",
	[DELIVERY_RUNNING] = "running",
	[DELIVERY_BACKOFF] = "backoff",
	[DELIVERY_BROKEN] = "broken",
	[DELIVERY_CRASHED] = "crashed",
	[DELIVERY_NO_PROCESS] = "no free worker process",
};

enum
{
	COLUMN_SUBSCRIPTION_ID, COLUMN_SLICE, COLUMN_PID, COLUMN_STATE,
	COLUMN_DELIVERED, COLUMN_FAILED, COLUMN_PARKED, COLUMN_DEAD,
	COLUMN_WINDOWS, COLUMN_BACKLOG, COLUMN_LAG_MESSAGES, COLUMN_BEHIND_SINCE, COLUMN_POSITION,
	COLUMN_DELIVERY_MS, COLUMN_DELIVERY_MS_MAX, COLUMN_LAST_DELIVERED_AT,
	COLUMN_LAST_ERROR, COLUMN_LAST_ERROR_AT, COLUMN_RETRY_AT
};
#define COLUMNS (COLUMN_RETRY_AT + 1)

/* What failed may have said what is in a message. */
static bool
may_read(const DeliverySlot *slot)
{
	return has_privs_of_role(GetUserId(), slot->owner) ||
		has_privs_of_role(GetUserId(), catalog_owner());
}

static void
put_time(Datum *values, bool *nulls, int column, TimestampTz at)
{
	values[column] = TimestampTzGetDatum(at);
	nulls[column] = at == 0;
}

static void
put_row(ReturnSetInfo *result, const DeliverySlot *slot, int64 number)
{
	Datum		values[COLUMNS] = {0};
	bool		nulls[COLUMNS] = {false};

	values[COLUMN_SUBSCRIPTION_ID] = Int32GetDatum(slot->subscription_id);
	values[COLUMN_SLICE] = Int32GetDatum(slot->slice);
	values[COLUMN_PID] = Int32GetDatum(slot->pid);
	nulls[COLUMN_PID] = slot->pid == 0;
	values[COLUMN_STATE] = CStringGetTextDatum(state_names[slot->state]);
	values[COLUMN_DELIVERED] = Int64GetDatum(slot->delivered);
	values[COLUMN_FAILED] = Int64GetDatum(slot->failed);
	values[COLUMN_PARKED] = Int64GetDatum(slot->parked);
	values[COLUMN_DEAD] = Int64GetDatum(slot->dead);
	values[COLUMN_WINDOWS] = Int64GetDatum(slot->windows);
	values[COLUMN_BACKLOG] = Int64GetDatum(slot->backlog);
	values[COLUMN_LAG_MESSAGES] =
		Int64GetDatum(slot->backlog + Max(number - slot->looked_number, 0));
	nulls[COLUMN_LAG_MESSAGES] = slot->looked_number == 0;
	put_time(values, nulls, COLUMN_BEHIND_SINCE, slot->behind_since);
	values[COLUMN_POSITION] = Int64GetDatum(slot->position);
	values[COLUMN_DELIVERY_MS] = Float8GetDatum(slot->delivery_us / 1000.0);
	values[COLUMN_DELIVERY_MS_MAX] = Float8GetDatum(slot->delivery_us_max / 1000.0);
	put_time(values, nulls, COLUMN_LAST_DELIVERED_AT, slot->last_delivered_at);
	values[COLUMN_LAST_ERROR] = CStringGetTextDatum(slot->last_error);
	nulls[COLUMN_LAST_ERROR] = slot->last_error[0] == '\0' || !may_read(slot);
	put_time(values, nulls, COLUMN_LAST_ERROR_AT, slot->last_error_at);
	put_time(values, nulls, COLUMN_RETRY_AT, slot->retry_at);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The caller need not have a right to the sequence. */
static int64
last_number(void)
{
	Oid			user;
	int			security_context;
	int64		number;

	if (RecoveryInProgress())
		return 0;
	GetUserIdAndSecContext(&user, &security_context);
	SetUserIdAndSecContext(catalog_owner(), security_context | SECURITY_LOCAL_USERID_CHANGE);
	number = event_last_id();
	SetUserIdAndSecContext(user, security_context);
	return number;
}

Datum
inventory_stat_deliveries(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int64		number;

	inventory_check_loaded();
	InitMaterializedSRF(fcinfo, 0);
	number = last_number();
	for (int i = 0; i < delivery_max; i++)
	{
		DeliverySlot slot;

		deliveries_lock(LW_SHARED);
		slot = delivery_slots[i];
		deliveries_unlock();
		if (slot.database == MyDatabaseId)
			put_row(result, &slot, number);
	}
	return (Datum) 0;
}
