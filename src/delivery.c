/*-------------------------------------------------------------------------
 *
 * delivery.c
 *		Delivering the messages of one slice of a subscription.
 *
 * A delivery goes round: take some messages, hand them to the sink, settle what
 * has become of each.  For a sink in the database all of that is one
 * transaction, so effects and cursor are committed together: exactly once.  For
 * a sink outside, a transaction opens the window and writes the cursor, is
 * flushed to disk, and ends; then the messages are sent; then another
 * transaction settles: at least once, and those that are sent again after a
 * crash have the same ids and positions, because the window is the same.
 *
 * Positions are given in the order of the window.  A message that fails is
 * copied to the parked ones (parked.c) with its position, and the cursor moves
 * on.  So the cursor stops only for a sink that is down, and then nothing is
 * written.
 *
 * What is in memory is what the last committed transaction has left.  After an
 * error it is thrown away, and loaded again.
 *
 * LOCKING: whoever delivers a slice has ENGINE_LOCK_DELIVERY for it, until the
 * process ends (delivery_worker.c) or the transaction (deliver.c).  Each
 * transaction holds ENGINE_LOCK_SUBSCRIPTION shared, against those who change
 * the subscription or its cursors, and first looks whether they have.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "command.h"
#include "delivery.h"
#include "outbox.h"
#include "query.h"

/* A batch has no more than this, of payloads and headers, and one message. */
#define BATCH_BYTES (16 * 1024 * 1024)

/* Somebody has it just now. */
#define AGAIN_MS 1000

/* A cursor that only passes over messages of others is written so often. */
#define IDLE_WRITE_MS 10000

static void close_window(Delivery *delivery);

/* ---- Loading ---- */

/* A failover may have taken positions back that were sent already. */
static void
cursor_check_timeline(Delivery *delivery)
{
	if (delivery->cursor.timeline == (int) GetWALInsertionTimeLine())
		return;
	cursor_begin_epoch(&delivery->cursor);
	delivery->dirty = true;
}

static void
load_window(Delivery *delivery)
{
	window_read(&delivery->window, delivery->subscription, &delivery->cursor);
	delivery->first = 0;
	delivery->base = delivery->cursor.position;
}

/*
 * False if there is no such subscription any more.  Everything is in a memory
 * context of its own, a child of the current one.
 */
bool
delivery_load(Delivery *delivery, int subscription_id, int slice)
{
	MemoryContext old;

	memset(delivery, 0, sizeof(Delivery));
	delivery->context = AllocSetContextCreate(CurrentMemoryContext, "inventory delivery",
											  ALLOCSET_DEFAULT_SIZES);
	delivery->window.context = AllocSetContextCreate(delivery->context, "inventory window",
													 ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(delivery->context);
	delivery->slice = slice;
	subscription_lock(subscription_id, ShareLock);
	delivery->subscription = subscription_find(subscription_id);
	if (delivery->subscription == NULL ||
		!cursor_read(subscription_id, slice, &delivery->cursor))
	{
		MemoryContextSwitchTo(old);
		delivery_unload(delivery);
		return false;
	}
	cursor_check_timeline(delivery);
	delivery->parked = parked_load(subscription_id, slice);
	if (delivery->cursor.window)
		load_window(delivery);
	/* Whoever opened it may not have waited for the standby: write it once more. */
	if (delivery->cursor.window && delivery->subscription->kind == SINK_KIND_SERVER)
		delivery->dirty = true;
	if (delivery->cursor.window && delivery->window.count == 0)
	{
		close_window(delivery);
		delivery->dirty = true;
	}
	MemoryContextSwitchTo(old);
	return true;
}

void
delivery_unload(Delivery *delivery)
{
	if (delivery->context)
		MemoryContextDelete(delivery->context);
	memset(delivery, 0, sizeof(Delivery));
}

/* At the start of each transaction: nobody has changed the subscription. */
bool
delivery_is_current(const Delivery *delivery)
{
	subscription_lock(delivery->subscription->subscription_id, ShareLock);
	return subscription_generation(delivery->subscription->subscription_id) ==
		delivery->subscription->generation;
}

/* ---- Windows ---- */

static int
open_entries(const Delivery *delivery)
{
	return delivery->cursor.window ? delivery->window.count - delivery->first : 0;
}

static bool
boundary_is_same(const Boundary *a, const Boundary *b)
{
	return a->xmax == b->xmax && a->xip_count == b->xip_count &&
		(a->xip_count == 0 ||
		 memcmp(a->xip, b->xip, a->xip_count * sizeof(uint64)) == 0);
}

static void
boundary_copy(const Delivery *delivery, Boundary *to, const Boundary *from)
{
	uint64	   *xip = MemoryContextAlloc(delivery->context,
										 Max(from->xip_count, 1) * sizeof(uint64));

	memcpy(xip, from->xip, from->xip_count * sizeof(uint64));
	if (to->xip)
		pfree(to->xip);
	*to = *from;
	to->xip = xip;
}

/* The window has been dealt with: everything up to its end has been. */
static void
close_window(Delivery *delivery)
{
	boundary_copy(delivery, &delivery->cursor.after, &delivery->cursor.upto);
	delivery->cursor.window = false;
	delivery->cursor.last_number = PG_INT64_MIN;
	delivery->window.count = delivery->first = 0;
}

/*
 * Opens a window up to now unless one is open; whether there is anything in it.
 * A window without messages is closed again, and the cursor that has passed it
 * is written only now and then.
 */
bool
delivery_open_window(Delivery *delivery)
{
	Boundary	now;

	if (open_entries(delivery) > 0)
		return true;
	PushActiveSnapshot(GetLatestSnapshot());
	boundary_now(&now);
	PopActiveSnapshot();
	if (boundary_is_same(&now, &delivery->cursor.after))
		return false;
	boundary_copy(delivery, &delivery->cursor.upto, &now);
	delivery->cursor.window = true;
	delivery->cursor.last_number = PG_INT64_MIN;
	load_window(delivery);
	if (delivery->window.count > 0)
	{
		delivery->dirty = true;
		return true;
	}
	close_window(delivery);
	if (TimestampDifferenceExceeds(delivery->written_at, GetCurrentTimestamp(),
								   IDLE_WRITE_MS))
		delivery->dirty = true;
	return false;
}

/* ---- Taking ---- */

static bool
taken_has_key(const DeliveryItem *items, int count, const char *key)
{
	for (int i = 0; key && i < count; i++)
	{
		if (items[i].outcome == OUTCOME_NONE && items[i].message.key &&
			strcmp(items[i].message.key, key) == 0)
			return true;
	}
	return false;
}

static int
take_parked(Delivery *delivery, DeliveryItem *items, int max)
{
	Message    *messages;
	int			count;

	if (delivery->parked->next_due > clock_time())
		return 0;
	messages = palloc(max * sizeof(Message));
	count = parked_due(delivery->parked, clock_time(), messages, max, BATCH_BYTES);
	for (int i = 0; i < count; i++)
	{
		memset(&items[i], 0, sizeof(DeliveryItem));
		items[i].message = messages[i];
		items[i].entry = -1;
	}
	return count;
}

static Size
message_bytes(const Message *message)
{
	return (message->payload ? VARSIZE(message->payload) : 0) +
		(message->headers ? VARSIZE(message->headers) : 0);
}

static int
take_from_window(Delivery *delivery, DeliveryItem *items, int max, bool once)
{
	WindowReader reader = {NULL};
	Size		bytes = 0;
	int			count = 0;

	for (int i = delivery->first;
		 i < delivery->window.count && count < max && bytes < BATCH_BYTES; i++)
	{
		DeliveryItem *item = &items[count];

		if (delivery->window.entries[i].done)
			continue;
		memset(item, 0, sizeof(DeliveryItem));
		window_message(&reader, &delivery->window.entries[i], &item->message);
		bytes += message_bytes(&item->message);
		item->entry = i;
		item->message.position = delivery->base + i + 1;
		if (once && taken_has_key(items, count, item->message.key))
			break;
		if (parked_blocks(delivery->parked, item->message.key))
			item->outcome = OUTCOME_DEFERRED;
		count++;
	}
	window_reader_end(&reader);
	return count;
}

/*
 * Takes messages into the current memory context, those that were parked and are
 * due and those of the window in turn: neither makes the other wait.  Messages
 * behind a blocked key have the outcome already.  With "once" no key comes twice.
 */
int
delivery_take(Delivery *delivery, DeliveryItem *items, int max, bool once)
{
	bool		window = open_entries(delivery) > 0 &&
		delivery->parked->waiting < delivery->subscription->park_limit;
	int			count = 0;

	if (!window || !delivery->parked_last)
		count = take_parked(delivery, items, max);
	delivery->parked_last = count > 0;
	if (count == 0 && window)
		count = take_from_window(delivery, items, max, once);
	return count;
}

/* ---- Settling ---- */

/* What a failure comes to: those behind it wait only if it is tried again. */
Outcome
delivery_failure(const Subscription *subscription, const Message *message)
{
	int			most = subscription->max_attempts;

	if (subscription->kind == SINK_KIND_COMMAND)
		most = command_max_attempts(message, most);
	return message->attempts + 1 < most ? OUTCOME_RETRY : OUTCOME_DEAD;
}

static void
announce_dead(const Delivery *delivery, const DeliveryItem *item)
{
	JsonbParseState *state = NULL;
	const char *pairs[][2] = {
		{"subscription", delivery->subscription->name},
		{"id", item->message.id},
		{"topic", item->message.topic},
		{"key", item->message.key},
		{"error", item->error},
	};

	if (strcmp(item->message.topic, "inventory.message.dead") == 0)
		return;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < lengthof(pairs); i++)
	{
		JsonbValue	value = {.type = jbvString};

		if (pairs[i][1] == NULL)
			continue;
		value.val.string.val = unconstify(char *, pairs[i][0]);
		value.val.string.len = strlen(pairs[i][0]);
		pushJsonbValue(&state, WJB_KEY, &value);
		value.val.string.val = unconstify(char *, pairs[i][1]);
		value.val.string.len = strlen(pairs[i][1]);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	(void) outbox_append("inventory.message.dead", item->message.key,
						 JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/* What is to be written of a message that was not delivered. */
static ParkedNote
note_of(Delivery *delivery, DeliveryItem *item)
{
	const Subscription *subscription = delivery->subscription;
	ParkedNote	note = {PARKED_DEFERRED, 0, item->error};
	int64		wait;

	switch (item->outcome)
	{
		case OUTCOME_RETRY:
			note.state = PARKED_RETRY;
			note.uncounted = item->uncounted;
			wait = item->uncounted ? AGAIN_MS :
				Max(subscription_backoff_ms(subscription, item->message.attempts + 1),
					item->retry_after_ms);
			note.due_at = TimestampTzPlusMilliseconds(clock_time(), wait);
			break;
		case OUTCOME_DEAD:
			note.state = PARKED_DEAD;
			break;
		case OUTCOME_LATER:
			note.state = PARKED_DELAYED;
			note.due_at = item->due_at;
			break;
		default:
			break;
	}
	return note;
}

static void
settle_failed(Delivery *delivery, DeliveryItem *item)
{
	bool		command = delivery->subscription->kind == SINK_KIND_COMMAND;
	ParkedNote	note;

	/* Somebody is just cancelling it, and may yet change his mind.  Those of its key
	 * have not waited, so then it comes after them. */
	if (command && item->outcome == OUTCOME_DEAD &&
		!command_dead(&item->message, item->error, item->sqlerrcode))
	{
		item->outcome = OUTCOME_RETRY;
		item->uncounted = true;
	}
	note = note_of(delivery, item);
	if (item->entry < 0)
		parked_update(delivery->parked, &item->message, &note, clock_time());
	else
		parked_insert(delivery->parked, &item->message, &note);
	if ((item->outcome == OUTCOME_RETRY && !item->uncounted) || item->outcome == OUTCOME_DEAD)
		delivery->count.failed++;
	if (item->entry >= 0)
		delivery->count.parked++;
	if (note.state != PARKED_DEAD)
		return;
	delivery->count.dead++;
	if (!command)
		announce_dead(delivery, item);
}

/* A command that was cancelled while it was parked is in the way no longer. */
static void
settle_cancelled(Delivery *delivery, const Message *message)
{
	int64		number = command_cancelled(message);

	if (number != 0)
		parked_hasten(delivery->parked, number, clock_time());
}

static void
settle_one(Delivery *delivery, DeliveryItem *item)
{
	if (item->outcome == OUTCOME_NONE)
		return;
	if (item->outcome != OUTCOME_DONE)
		settle_failed(delivery, item);
	else
	{
		delivery->count.delivered++;
		if (item->entry < 0)
			parked_delete(delivery->parked, &item->message, clock_time());
		if (delivery->subscription->kind == SINK_KIND_COMMAND)
			settle_cancelled(delivery, &item->message);
	}
	if (item->entry >= 0)
		delivery->window.entries[item->entry].done = true;
}

/* Moves the cursor over what is done, and to the next piece of a large window. */
static void
advance(Delivery *delivery)
{
	Window	   *window = &delivery->window;
	int			first = delivery->first;

	while (delivery->first < window->count && window->entries[delivery->first].done)
		delivery->first++;
	if (delivery->first == first)
		return;
	delivery->cursor.last_number = window->entries[delivery->first - 1].number;
	delivery->cursor.position = delivery->base + delivery->first;
	delivery->dirty = true;
	if (delivery->first < window->count)
		return;
	if (window->more)
		load_window(delivery);
	if (delivery->first == window->count)
		close_window(delivery);
}

/*
 * Writes down what has become of messages, in the order in which they came, and
 * counts them.  The cursor stops at the first one that has come to nothing; what
 * is parked behind it would be met again, so it is not parked yet.
 */
void
delivery_settle(Delivery *delivery, DeliveryItem *items, int count)
{
	bool		stopped = false;

	for (int i = 0; i < count; i++)
	{
		if (items[i].entry >= 0 && items[i].outcome == OUTCOME_NONE)
			stopped = true;
		if (stopped && items[i].entry >= 0 && items[i].outcome != OUTCOME_DONE)
			items[i].outcome = OUTCOME_NONE;
		settle_one(delivery, &items[i]);
	}
	if (delivery->cursor.window)
		advance(delivery);
}

/* Writes the cursor if it has moved. */
void
delivery_flush(Delivery *delivery)
{
	if (!delivery->dirty)
		return;
	cursor_write(&delivery->cursor);
	delivery->dirty = false;
	delivery->written_at = GetCurrentTimestamp();
}

/* ---- What is left ---- */

int64
delivery_backlog(const Delivery *delivery)
{
	return open_entries(delivery);
}
