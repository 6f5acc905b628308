/*-------------------------------------------------------------------------
 *
 * delivery_start.c
 *		Which delivery processes there should be.
 *
 * The database's worker compares the subscriptions with the slots, by level and
 * not by edge: every slice of an active subscription is to have a process.  Who
 * is not wanted any more is woken and leaves by itself; whoever has left, in
 * whatever way, asks the worker to look again.
 *
 * LOCKING: see delivery_slot.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/timestamp.h"

#include "delivery_slot.h"
#include "delivery_start.h"
#include "slot.h"
#include "subscription.h"

/* A process that has not come by then has not been started. */
#define STARTING_MS 5000

/* When there is nothing to start. */
#define LOOK_AGAIN_MS (5 * 60 * 1000)

static void
log_no_process(void)
{
	static bool logged = false;

	if (logged)
		return;
	logged = true;
	ereport(WARNING,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("no free worker process for delivering messages"),
			 errhint("Raise \"max_worker_processes\" (now %d): every slice of an active subscription needs one.",
					 max_worker_processes)));
}

static void
log_no_slot(void)
{
	static bool logged = false;

	if (logged)
		return;
	logged = true;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("more than %d delivery processes are needed", delivery_max),
			 errhint("Raise \"inventory.max_deliveries\" and restart the server.")));
}

static bool
delivery_start(int index)
{
	BackgroundWorker worker;
	Oid			database = MyDatabaseId;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "inventory", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "inventory_delivery_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "inventory delivery", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "inventory delivery", BGW_MAXLEN);
	worker.bgw_main_arg = Int32GetDatum(index);
	memcpy(worker.bgw_extra, &database, sizeof(Oid));
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

/* Gives every slice a slot, and says whether it is to have a process. */
static void
want(const Subscription *subscription)
{
	for (int slice = 0; slice < subscription->workers; slice++)
	{
		int			index = delivery_slot_take(MyDatabaseId,
											   subscription->subscription_id, slice);

		if (index < 0)
		{
			log_no_slot();
			continue;
		}
		delivery_slots[index].wanted = subscription->active;
		if (delivery_slots[index].generation != subscription->generation)
			delivery_ring(index);
		delivery_slots[index].generation = subscription->generation;
		delivery_slots[index].owner = subscription->owner;
	}
}

static bool
is_subscribed(List *subscriptions, const DeliverySlot *slot)
{
	ListCell   *cell;

	foreach(cell, subscriptions)
	{
		Subscription *subscription = lfirst(cell);

		if (subscription->subscription_id == slot->subscription_id)
			return slot->slice < subscription->workers;
	}
	return false;
}

/* Brings slots in line with the subscriptions. */
static void
compare(List *subscriptions)
{
	ListCell   *cell;

	for (int i = 0; i < delivery_max; i++)
	{
		DeliverySlot *slot = &delivery_slots[i];

		if (slot->database != MyDatabaseId || is_subscribed(subscriptions, slot))
			continue;
		slot->wanted = false;
		if (slot->pid == 0)
			delivery_slot_free(i);
	}
	foreach(cell, subscriptions)
		want(lfirst(cell));
}

/* Whether a process is to be started for the slot now; else when. */
static bool
is_due(DeliverySlot *slot, TimestampTz now, TimestampTz *again_at)
{
	if (slot->database != MyDatabaseId || !slot->wanted || slot->pid != 0)
		return false;
	if (slot->next_start <= now)
	{
		slot->next_start = TimestampTzPlusMilliseconds(now, STARTING_MS);
		*again_at = Min(*again_at, slot->next_start);
		return true;
	}
	*again_at = Min(*again_at, slot->next_start);
	return false;
}

int64
delivery_reconcile(TimestampTz *again_at)
{
	List	   *subscriptions = subscription_all();
	TimestampTz now = GetCurrentTimestamp();
	int64		started = 0;

	*again_at = TimestampTzPlusMilliseconds(now, LOOK_AGAIN_MS);
	deliveries_lock(LW_EXCLUSIVE);
	compare(subscriptions);
	for (int i = 0; i < delivery_max; i++)
	{
		DeliverySlot *slot = &delivery_slots[i];

		/* A running process looks whether it has been changed. */
		if (slot->database == MyDatabaseId && slot->pid != 0)
			delivery_set_latch(i);
		if (!is_due(slot, now, again_at))
			continue;
		if (delivery_start(i))
			started++;
		else
		{
			slot->state = DELIVERY_NO_PROCESS;
			log_no_process();
		}
	}
	deliveries_unlock();
	return started;
}

bool
delivery_terminate(Oid database)
{
	bool		any = false;

	deliveries_lock(LW_SHARED);
	for (int i = 0; i < delivery_max; i++)
	{
		if (delivery_slots[i].database != database || delivery_slots[i].pid == 0)
			continue;
		any = true;
		kill(delivery_slots[i].pid, SIGTERM);
	}
	deliveries_unlock();
	return any;
}

void
delivery_dismiss(void)
{
	deliveries_lock(LW_EXCLUSIVE);
	for (int i = 0; i < delivery_max; i++)
	{
		if (delivery_slots[i].database != MyDatabaseId)
			continue;
		delivery_slots[i].wanted = false;
		delivery_set_latch(i);
	}
	deliveries_unlock();
}
