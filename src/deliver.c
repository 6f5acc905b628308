/*-------------------------------------------------------------------------
 *
 * deliver.c
 *		Delivering in the caller's session, for databases without workers.
 *
 * LOCKING: see delivery.c.  Whoever finds that a process delivers the slice does
 * not wait for it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "delivery.h"
#include "error.h"
#include "handler.h"
#include "inventory.h"
#include "lock.h"

PG_FUNCTION_INFO_V1(inventory_deliver);

static void
check_isolation(void)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s cannot run in a transaction with isolation level REPEATABLE READ or SERIALIZABLE", "deliver()"),
				 errdetail("It delivers what has been committed since the transaction began.")));
}

static void
check_active(const Subscription *subscription)
{
	if (!subscription->active)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" is not active", subscription->name)));
}

pg_noreturn static void
raise_unknown(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_IV_UNKNOWN_SUBSCRIPTION),
			 errmsg("there is no subscription \"%s\"", name)));
}

static Subscription *
find(const char *name)
{
	Subscription *subscription = subscription_find_name(name);

	if (subscription == NULL)
		raise_unknown(name);
	subscription_check_owner(subscription);
	if (subscription->kind == SINK_KIND_SERVER)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("subscription \"%s\" delivers to server \"%s\"", name,
						subscription->sink),
				 errdetail("Only a delivery process talks to a sink outside of the database.")));
	check_active(subscription);
	return subscription;
}

/* Until there is nothing left, or enough has been done; returns how many. */
static int64
deliver_slice(Delivery *delivery, int64 max)
{
	Handler    *handler = handler_begin(delivery->subscription);
	DeliveryItem *items = palloc(delivery->subscription->batch * sizeof(DeliveryItem));
	int64		handled = 0;

	handler_prepare(handler);
	while (handled < max)
	{
		int			count;

		CHECK_FOR_INTERRUPTS();
		if (delivery_backlog(delivery) == 0 &&
			delivery->parked->waiting < delivery->subscription->park_limit)
			(void) delivery_open_window(delivery);
		count = delivery_take(delivery, items,
							  (int) Min(delivery->subscription->batch, max - handled),
							  false);
		if (count == 0)
			break;
		handler_run(handler, items, count);
		delivery_settle(delivery, items, count);
		for (int i = 0; i < count; i++)
			handled += items[i].outcome != OUTCOME_NONE;
	}
	delivery_flush(delivery);
	return handled;
}

static int64
deliver(const Subscription *subscription, int64 max)
{
	int64		handled = 0;

	for (int slice = 0; slice < subscription->workers && handled < max; slice++)
	{
		Delivery	delivery;

		if (!engine_lock(ENGINE_LOCK_DELIVERY,
						 (uint64) subscription->subscription_id << 8 | slice,
						 ExclusiveLock, false))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("subscription \"%s\" is being delivered by another process",
							subscription->name)));
		if (!delivery_load(&delivery, subscription->subscription_id, slice))
			raise_unknown(subscription->name);
		check_active(delivery.subscription);
		handled += deliver_slice(&delivery, max - handled);
		delivery_unload(&delivery);
	}
	return handled;
}

/*
 * Handlers have their constraints checked at once, so the caller's own are before;
 * not while he is somebody else, as whom his triggers would run.
 */
static void
prepare_for_handlers(void)
{
	if (InLocalUserIdChange())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s with a handler cannot be called by a SECURITY DEFINER function",
						"deliver()")));
	handler_check_constraints();
}

Datum
inventory_deliver(PG_FUNCTION_ARGS)
{
	Subscription *subscription;
	Oid			user;
	int			security_context;
	int64		handled;

	inventory_check_writable("deliver");
	check_isolation();
	if (handler_is_running())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s cannot be called by a handler", "deliver()")));
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name must not be NULL")));
	subscription = find(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (subscription->kind == SINK_KIND_FUNCTION)
		prepare_for_handlers();
	GetUserIdAndSecContext(&user, &security_context);
	SetUserIdAndSecContext(catalog_owner(), security_context | SECURITY_LOCAL_USERID_CHANGE);
	handled = deliver(subscription, PG_ARGISNULL(1) ? PG_INT64_MAX : PG_GETARG_INT64(1));
	SetUserIdAndSecContext(user, security_context);
	PG_RETURN_INT64(handled);
}
