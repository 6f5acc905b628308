/*-------------------------------------------------------------------------
 *
 * delivery.h
 *		Delivering the messages of one slice of a subscription.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_DELIVERY_H
#define INVENTORY_DELIVERY_H

#include "cursor.h"
#include "message.h"
#include "parked.h"
#include "subscription.h"
#include "window.h"

typedef enum Outcome
{
	OUTCOME_NONE,				/* not tried; stays where it is */
	OUTCOME_DONE,
	OUTCOME_RETRY,				/* failed; parked */
	OUTCOME_DEAD,				/* failed, for ever */
	OUTCOME_LATER,				/* its time has not come: due_at */
	OUTCOME_DEFERRED,			/* behind one with its key that has failed */
} Outcome;

typedef struct DeliveryItem
{
	Message		message;
	int			entry;			/* in the window; -1: it was parked */
	Outcome		outcome;
	TimestampTz due_at;
	int64		retry_after_ms; /* at least; or 0 */
	bool		doubtful;		/* it, or the sink is down */
	bool		uncounted;		/* retry: for a moment, and it was not an attempt */
	const char *error;			/* or NULL */
	int			sqlerrcode;		/* of a handler; or 0 */
} DeliveryItem;

/* What settling has come to. */
typedef struct DeliveryCount
{
	int64		delivered;
	int64		failed;
	int64		parked;
	int64		dead;
} DeliveryCount;

typedef struct Delivery
{
	MemoryContext context;
	Subscription *subscription;
	int			slice;
	Cursor		cursor;
	bool		dirty;			/* the cursor is not written */
	TimestampTz written_at;
	Window		window;
	int			first;			/* the first entry that is not done */
	int64		base;			/* position before the window's first entry */
	Parked	   *parked;
	bool		parked_last;	/* what was last taken was parked */
	DeliveryCount count;
} Delivery;

extern bool delivery_load(Delivery *delivery, int subscription_id, int slice);
extern void delivery_unload(Delivery *delivery);
extern bool delivery_is_current(const Delivery *delivery);

extern bool delivery_open_window(Delivery *delivery);
extern int	delivery_take(Delivery *delivery, DeliveryItem *items, int max, bool once);
extern Outcome delivery_failure(const Subscription *subscription, const Message *message);
extern void delivery_settle(Delivery *delivery, DeliveryItem *items, int count);
extern void delivery_flush(Delivery *delivery);

extern int64 delivery_backlog(const Delivery *delivery);

#endif							/* INVENTORY_DELIVERY_H */
