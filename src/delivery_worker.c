/*-------------------------------------------------------------------------
 *
 * delivery_worker.c
 *		The process that delivers one slice of a subscription.
 *
 * It sleeps until a commit rings its bell, a parked message is due, or the sink
 * is to be tried again.  While it sleeps, and while it talks to a broker, it has
 * no transaction and no snapshot.
 *
 * A sink that is down is tried again after longer and longer times; meanwhile
 * nothing is written.  An error of the database's own does the same.
 *
 * A message that kills the process must not do so for ever.  After a process has
 * not ended by itself, the next one is careful: it handles messages one at a
 * time, and before each it writes down, in a transaction of its own, that it is
 * going to.  Whoever has been tried so CRASHES times is dead.
 *
 * LOCKING: see delivery.c and delivery_slot.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "common/int.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/procarray.h"
#include "storage/procsignal.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "crash_mark.h"
#include "delivery.h"
#include "delivery_sink.h"
#include "delivery_slot.h"
#include "endpoint.h"
#include "extension.h"
#include "handler.h"
#include "inventory.h"
#include "lock.h"
#include "slot.h"
#include "worker.h"

/* The process looks by itself at least so often: what was prepared before may
 * have been committed by a session that rang no bell. */
#define POLL_MS 5000

/* Between two looks at the size of the cursors' journal. */
#define JOURNAL_LOOK_US USECS_PER_SEC

/* A sink that is down. */
#define SINK_BACKOFF_MIN_MS 100
#define SINK_BACKOFF_MAX_MS 60000

/* How often to look, while a sink is down, whether somebody has changed the server
 * or the mapping, and while it is up, whether it still is. */
#define LOOK_MS 1000

/* For so long messages are handled in one transaction. */
#define ROUND_US (50 * 1000)

/* When a process could not begin, somebody else delivers, say; and while a replay
 * comes to its end. */
#define AGAIN_MS 1000

/* A transaction that began so long ago is seen to run, or has ended. */
#define BEGINNING_MS 1000

/* After so long a process was not a failure from the start. */
#define HEALTHY_MS 60000

/* Times that a message may be in the way of a process that does not end by
 * itself. */
#define CRASHES 3

/* Times in a row that the sink is in doubt about a message. */
#define DOUBTS 3

/* After an error at which nobody knows which message it was. */
#define ALONE_MESSAGES 500

/* As many as one batch: it must have been one of these. */
#define CAREFUL_UNKNOWN (-1)

static int	my_index = -1;
static int	my_subscription;
static int	my_slice;
static bool claimed = false;
static bool ever_loaded = false;
static ExtensionRow extension;
static volatile sig_atomic_t terminated = false;

static Delivery delivery;
static bool loaded = false;
static Handler *handler = NULL;
static DeliverySink sink;
static MemoryContext batch_context;
static int	careful = 0;		/* messages left to be careful with */
static int	alone = 0;			/* to be tried one at a time: a batch has failed */
static int64 suspect_position = 0;
static char suspect_error[DELIVERY_ERROR_LENGTH];
static bool preparing = false;
static bool came_back = false;	/* from an error */
static int	failures_in_row = 0;
static int64 my_generation = 0; /* of the slot when it was loaded */
static TimestampTz last_window = 0;

PGDLLEXPORT pg_noreturn void inventory_delivery_main(Datum main_arg);

#define MY_SLOT (&delivery_slots[my_index])

/* ---- Coming and going ---- */

static void
delivery_sigterm(SIGNAL_ARGS)
{
	terminated = true;
	die(postgres_signal_arg);
}

/* However the process ends, short of a crash, which empties the shared memory. */
static void
delivery_exit(int code, Datum arg)
{
	DeliverySlot *slot = MY_SLOT;
	TimestampTz now = GetCurrentTimestamp();

	if (!claimed)
		return;
	sink_close(&sink);			/* before the client library's own clean-up */
	delivery_release_latch(my_index);
	deliveries_lock(LW_EXCLUSIVE);
	slot->pid = 0;
	/* Who was asked to go has not crashed; whoever could not begin may not at once. */
	slot->clean = code == 0 || terminated;
	slot->next_start = code == 0 && ever_loaded ? now :
		TimestampTzPlusMilliseconds(now, AGAIN_MS);
	slot->state = DELIVERY_STOPPED;
	if (code != 0 && !terminated)
	{
		if (TimestampDifferenceExceeds(slot->started_at, now, HEALTHY_MS))
			slot->failures = 0;
		slot->next_start = TimestampTzPlusMilliseconds(now, slot_backoff_ms(++slot->failures));
		slot->state = DELIVERY_CRASHED;
		slot->last_error_at = now;
		strlcpy(slot->last_error, "the process failed; see the server's log",
				DELIVERY_ERROR_LENGTH);
	}
	deliveries_unlock();
	slot_ask(TASK_DELIVERY);
}

static bool
database_is_held(void)
{
	bool		held;
	int			index;

	slots_lock(LW_SHARED);
	index = slot_find(MyDatabaseId);
	held = index < 0 || slot_must_leave(&worker_slots[index]);
	slots_unlock();
	return held;
}

static bool
delivery_claim(Oid database)
{
	DeliverySlot *slot = MY_SLOT;

	deliveries_lock(LW_EXCLUSIVE);
	if (slot->database == database && slot->pid == 0 && slot->wanted)
	{
		slot->pid = MyProcPid;
		slot->started_at = GetCurrentTimestamp();
		slot->state = DELIVERY_IDLE;
		my_subscription = slot->subscription_id;
		my_slice = slot->slice;
		careful = slot->clean ? 0 : CAREFUL_UNKNOWN;
		slot->clean = false;
		claimed = true;
	}
	deliveries_unlock();
	return claimed;
}

/* ---- What it shows ---- */

static void
show_state(DeliveryState state)
{
	deliveries_lock(LW_EXCLUSIVE);
	MY_SLOT->state = state;
	if (state == DELIVERY_IDLE || state == DELIVERY_RUNNING)
		MY_SLOT->retry_at = 0;
	deliveries_unlock();
}

static void
show_progress(int64 us)
{
	DeliverySlot *slot = MY_SLOT;
	const DeliveryCount *count = &delivery.count;
	int64		backlog = delivery_backlog(&delivery);
	TimestampTz now = GetCurrentTimestamp();

	deliveries_lock(LW_EXCLUSIVE);
	slot->delivered += count->delivered;
	slot->failed += count->failed;
	slot->parked += count->parked;
	slot->dead += count->dead;
	slot->delivery_us += us;
	slot->delivery_us_max = Max(slot->delivery_us_max, us);
	slot->backlog = backlog;
	slot->position = delivery.cursor.position;
	if (count->delivered > 0)
		slot->last_delivered_at = now;
	if (backlog == 0)
		slot->behind_since = 0;
	deliveries_unlock();
	memset(&delivery.count, 0, sizeof(DeliveryCount));
}

/* It has looked: what has a number up to this one is in the window, or was not
 * for it, or comes with a later commit. */
static void
show_window(bool opened, int64 looked_number)
{
	deliveries_lock(LW_EXCLUSIVE);
	MY_SLOT->windows += opened;
	MY_SLOT->backlog = delivery_backlog(&delivery);
	MY_SLOT->looked_number = looked_number;
	deliveries_unlock();
}

/* Since when the messages at hand have been waiting. */
static void
show_behind(const DeliveryItem *items, int count)
{
	deliveries_lock(LW_EXCLUSIVE);
	if (count > 0)
		MY_SLOT->behind_since = items[0].message.created_at;
	deliveries_unlock();
}

static void
show_error(DeliveryState state, const char *error, int64 wait_ms)
{
	DeliverySlot *slot = MY_SLOT;
	TimestampTz now = GetCurrentTimestamp();
	char	   *storable = message_error(error, DELIVERY_ERROR_LENGTH - 1);

	deliveries_lock(LW_EXCLUSIVE);
	slot->state = state;
	slot->failed++;
	slot->last_error_at = now;
	slot->retry_at = TimestampTzPlusMilliseconds(now, wait_ms);
	strlcpy(slot->last_error, storable, DELIVERY_ERROR_LENGTH);
	deliveries_unlock();
	pfree(storable);
}

/* ---- Failing ---- */

static int64
sink_backoff_ms(void)
{
	int64		ms = (int64) SINK_BACKOFF_MIN_MS << Min(failures_in_row, 20);

	ms = Min(ms, SINK_BACKOFF_MAX_MS);
	return ms / 2 + (int64) (ms / 2 * pg_prng_double(&pg_global_prng_state));
}

/* Says so in the log when it begins, and now and then. */
static int64
failed(DeliveryState state, const char *error, int64 at_least_ms)
{
	int64		wait = Max(sink_backoff_ms(), at_least_ms);

	if (state == DELIVERY_BROKEN)
		wait = Max(wait, SINK_BACKOFF_MAX_MS / 4);
	if ((failures_in_row & (failures_in_row + 1)) == 0)
		ereport(LOG,
				(errmsg("delivery of subscription %d: %s", my_subscription, error)));
	failures_in_row++;
	show_error(state, error, wait);
	return wait;
}

/* ---- Transactions ---- */

static void
unload(void)
{
	handler = NULL;
	delivery_unload(&delivery);
	loaded = false;
}

pg_noreturn static void
leave(void)
{
	sink_close(&sink);
	proc_exit(0);
}

static void
load(void)
{
	MemoryContextSwitchTo(TopMemoryContext);
	loaded = delivery_load(&delivery, my_subscription, my_slice);
	if (!loaded || !delivery.subscription->active)
		leave();
	delivery_claim_latch(my_index, delivery.subscription->interest);
	ever_loaded = true;
	if (careful == CAREFUL_UNKNOWN)
		careful = delivery.subscription->batch;
}

static void
prepare(void)
{
	preparing = true;
	if (delivery.subscription->kind == SINK_KIND_SERVER)
	{
		subscription_check_right(delivery.subscription);
		sink_prepare(&sink, delivery.subscription);
	}
	else
	{
		MemoryContext old = MemoryContextSwitchTo(delivery.context);

		if (handler == NULL)
			handler = handler_begin(delivery.subscription);
		MemoryContextSwitchTo(old);
		handler_prepare(handler);
	}
	preparing = false;
}

#define MY_LOCK ENGINE_LOCK_DELIVERY, (uint64) my_subscription << 8 | my_slice

/* A handler may have given up all locks of the session: others may have delivered. */
static bool
have_slice(void)
{
	if (engine_lock_is_held(MY_LOCK))
		return true;
	unload();
	return engine_lock_session(MY_LOCK);
}

static void
check_slice(void)
{
	if (!engine_lock_is_held(MY_LOCK))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the handler has released the locks of its process"),
				 errhint("A handler cannot call pg_advisory_unlock_all().")));
}

/*
 * Begins a transaction and loads what is not loaded, or was changed; false if it
 * was: what was taken before is not to be settled.  Leaves if it is not wanted.
 */
static bool
begin(void)
{
	bool		same;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (!extension_lock(&extension) || !have_slice())
		leave();
	same = loaded;
	SetUserIdAndSecContext(extension.owner, SECURITY_LOCAL_USERID_CHANGE);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (loaded && !delivery_is_current(&delivery))
	{
		unload();
		sink_close(&sink);
		same = false;
	}
	my_generation = MY_SLOT->generation;
	if (!loaded)
		load();
	MemoryContextSwitchTo(batch_context);
	prepare();
	return same;
}

static void
commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, 0);
	MemoryContextSwitchTo(batch_context);
}

/* ---- One round ---- */

/* Whoever has been in the way too often is dead, without being tried again. */
static void
condemn(DeliveryItem *item)
{
	if (item->outcome != OUTCOME_NONE)
		return;
	/* An error is not a crash. */
	if (came_back)
		crash_mark_clear(my_subscription, my_slice);
	came_back = false;
	if (crash_mark_count(my_subscription, my_slice, item->message.position) >= CRASHES)
	{
		item->outcome = OUTCOME_DEAD;
		item->error = psprintf("it has ended the process %d times", CRASHES);
	}
	else if (suspect_position == item->message.position && suspect_error[0])
	{
		item->outcome = delivery_failure(delivery.subscription, &item->message);
		item->error = pstrdup(suspect_error);
		suspect_error[0] = '\0';
	}
}

/* Takes a batch of messages, only one when there may be something about it. */
static int
take(DeliveryItem *items, bool once)
{
	bool		single = careful > 0 || alone > 0;
	int			count;

	if (delivery.parked->waiting < delivery.subscription->park_limit &&
		delivery_backlog(&delivery) == 0)
	{
		int64		number = event_last_id();

		show_window(delivery_open_window(&delivery), number);
	}
	count = delivery_take(&delivery, items, single ? 1 : delivery.subscription->batch, once);
	show_behind(items, count);
	if (single && count > 0)
	{
		condemn(&items[0]);
		suspect_position = items[0].message.position;
	}
	return count;
}

/* Writes down which message is going to be tried; a crash does not undo it. */
static void
mark(const DeliveryItem *items, int count)
{
	if (careful > 0 && count > 0 && items[0].outcome == OUTCOME_NONE)
		crash_mark_set(my_subscription, my_slice, items[0].message.position);
}

static void
settle(DeliveryItem *items, int count)
{
	delivery_settle(&delivery, items, count);
	if (careful > 0 && count > 0)
	{
		crash_mark_clear(my_subscription, my_slice);
		careful--;
	}
	if (alone > 0 && count > 0)
		alone--;
}

/*
 * A sink in the database: all in one transaction, which goes on for a while when
 * there is much, so that a commit is worth it.  Returns how many.
 */
static int
round_inside(DeliveryItem *items)
{
	TimestampTz started = GetCurrentTimestamp();
	int			count;
	int			handled = 0;

	(void) begin();
	do
	{
		MemoryContextReset(batch_context);
		count = take(items, false);
		if (careful > 0 && count > 0)
		{
			mark(items, count);
			delivery_flush(&delivery);
			commit();
			if (!begin())
			{
				commit();
				return count;
			}
		}
		handler_run(handler, items, count);
		settle(items, count);
		handled += count;
	} while (count > 0 && careful == 0 && alone == 0 &&
			 GetCurrentTimestamp() - started < ROUND_US);
	check_slice();
	delivery_flush(&delivery);
	commit();
	show_progress(GetCurrentTimestamp() - started);
	failures_in_row = 0;
	return handled;
}

/* What the sink as a whole has said; returns how long to leave it alone. */
static int64
judge(const SinkResult *result)
{
	if (result->verdict != SINK_OK)
		return failed(result->verdict == SINK_FATAL ? DELIVERY_BROKEN : DELIVERY_BACKOFF,
					  result->error, result->retry_after_ms);
	failures_in_row = 0;
	return 0;
}

/*
 * A sink that is down stops the subscription, a message that cannot be taken must
 * not.  When the sink cannot tell which it is, and it is the same message for
 * several times, it is the message.
 */
static void
settle_doubt(DeliveryItem *items, int count)
{
	/* Of a new message, and of one that was parked: they come in turn. */
	static struct
	{
		int64		position;
		int			doubts;
	}			last[2];

	for (int i = 0; i < count; i++)
	{
		int			parked = items[i].entry < 0;

		if (!items[i].doubtful || items[i].outcome != OUTCOME_NONE)
			continue;
		if (items[i].message.position != last[parked].position)
			last[parked].doubts = 0;
		last[parked].position = items[i].message.position;
		if (++last[parked].doubts >= DOUBTS)
		{
			items[i].outcome = delivery_failure(delivery.subscription, &items[i].message);
			last[parked].doubts = 0;
		}
		return;
	}
}

/* What was sent may be sent again after a crash, so this need not be flushed. */
static void
commit_lazily(void)
{
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	commit();
}

/*
 * Waits for the disk and for synchronous standbys.  Who cancels that wait, or ends
 * the process, would have messages sent that a failover could lose.
 */
static void
commit_before_sending(void)
{
	pqsignal(SIGINT, SIG_IGN);
	QueryCancelPending = false;
	commit();
	pqsignal(SIGINT, StatementCancelHandler);
	CHECK_FOR_INTERRUPTS();
}

/* A sink outside: the transaction ends before anything is sent. */
static int
round_outside(DeliveryItem *items, int64 *wait_ms)
{
	SinkMessage *messages;
	SinkResult	result;
	TimestampTz started;
	int			count;
	int			sent;

	(void) begin();
	count = take(items, !sink.routine->in_order);
	mark(items, count);
	messages = sink_messages(delivery.subscription, items, count, &sent);
	delivery_flush(&delivery);
	commit_before_sending();
	if (count == 0)
	{
		if (sink.lost)
		{
			sink_reopen(&sink, &result);
			*wait_ms = judge(&result);
		}
		return 0;
	}

	started = GetCurrentTimestamp();
	memset(&result, 0, sizeof(result));
	result.verdict = SINK_OK;
	if (sent > 0)
		sink_send(&sink, messages, sent, &result);
	sink_outcomes(delivery.subscription, messages, sent, items, count, &result);
	settle_doubt(items, count);

	if (begin())
	{
		settle(items, count);
		delivery_flush(&delivery);
	}
	commit_lazily();
	show_progress(GetCurrentTimestamp() - started);
	*wait_ms = judge(&result);
	return count;
}

/* ---- Between the rounds ---- */

/*
 * Whether every transaction that began before the end of a replay has ended; its
 * messages have the time of its begin, whenever it has written them.  A
 * transaction takes its time just before the server counts it as running; that it
 * takes it long before, the second one of a long string of statements, is not seen.
 */
static bool
early_ones_have_ended(TimestampTz until)
{
	static VirtualTransactionId *early = NULL;
	static int	count;
	MemoryContext old;

	if (clock_time() < TimestampTzPlusMilliseconds(until, BEGINNING_MS))
		return false;
	if (early == NULL)
	{
		old = MemoryContextSwitchTo(TopMemoryContext);
		early = GetCurrentVirtualXIDs(InvalidTransactionId, false, false, 0, &count);
		MemoryContextSwitchTo(old);
	}
	while (count > 0 && VirtualXactLock(early[count - 1], false))
		count--;
	return count == 0;
}

/* Whether a replay has come to its end: nothing before it can come any more. */
static bool
has_finished(void)
{
	static uint64 end_xid = 0;
	const Boundary *after = &delivery.cursor.after;
	uint64		oldest = after->xip_count > 0 ? after->xip[0] : after->xmax;

	if (!loaded || TIMESTAMP_IS_NOEND(delivery.cursor.until) ||
		delivery_backlog(&delivery) > 0 || delivery.parked->waiting > 0)
		return false;
	if (end_xid == 0)
	{
		if (!early_ones_have_ended(delivery.cursor.until))
			return false;
		end_xid = U64FromFullTransactionId(ReadNextFullTransactionId());
	}
	return oldest >= end_xid;
}

static void
finish(void)
{
	if (!has_finished())
		return;
	/* Unless it has just been changed. */
	if (!begin())
	{
		commit();
		return;
	}
	subscription_finish(my_subscription);
	commit();
	leave();
}

/* The database's worker does that, too, but too seldom for one that is busy. */
static void
keep_journal_short(void)
{
	static TimestampTz looked_at = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (now - looked_at >= 0 && now - looked_at < JOURNAL_LOOK_US)
		return;
	looked_at = now;
	(void) begin();
	(void) cursor_maintain();
	commit();
}

static int64
ms_until_parked(void)
{
	int64		us;

	if (!loaded || TIMESTAMP_IS_NOEND(delivery.parked->next_due))
		return POLL_MS;
	if (pg_sub_s64_overflow(delivery.parked->next_due, clock_time(), &us))
		return POLL_MS;
	return us <= 0 ? 0 : us / 1000 + 1;
}

/* Messages that come one by one are not worth a window each. */
static int64
ms_until_window(void)
{
	int64		since = (GetCurrentTimestamp() - last_window) / 1000;
	int64		linger = loaded ? delivery.subscription->linger : 0;

	return since < 0 || since >= linger ? 0 : linger - since;
}

/* After a round that has found nothing. */
static int64
idle(void)
{
	int64		wait = Min(ms_until_parked(), POLL_MS);

	if (!sink_idle(&sink))
		return 0;
	finish();
	if (loaded && clock_time() >= delivery.cursor.until)
		wait = Min(wait, AGAIN_MS);
	show_state(DELIVERY_IDLE);
	if (delivery_has_work(my_index))
		wait = Min(wait, ms_until_window());
	return wait;
}

/* Does what there is; returns how long there is nothing to do. */
static int64
deliver(void)
{
	static DeliveryItem *items = NULL;
	static int	allocated = 0;
	int64		wait = 0;
	int			wanted = loaded ? delivery.subscription->batch : 1;
	int			count;

	if (wanted > allocated)
	{
		if (items)
			pfree(items);
		items = NULL;
		allocated = 0;
		items = MemoryContextAlloc(TopMemoryContext, wanted * sizeof(DeliveryItem));
		allocated = wanted;
	}
	if (!loaded)
	{
		(void) begin();			/* how large is a batch? */
		commit();
		return 0;
	}
	if (delivery_take_work(my_index) || delivery_backlog(&delivery) == 0)
		last_window = GetCurrentTimestamp();
	show_state(DELIVERY_RUNNING);
	pgstat_report_activity(STATE_RUNNING, "inventory: delivering messages");
	if (delivery.subscription->kind == SINK_KIND_SERVER)
		count = round_outside(items, &wait);
	else
		count = round_inside(items);
	pgstat_report_activity(STATE_IDLE, NULL);
	if (wait > 0)
		return wait;
	if (count == 0)
		return idle();
	keep_journal_short();
	return 0;
}

/* ---- Errors ---- */

/* Ends the failed transaction; what is in memory is loaded again. */
static int64
recover(MemoryContext context)
{
	ErrorData  *error;
	int64		wait;

	HOLD_INTERRUPTS();
	pqsignal(SIGINT, StatementCancelHandler);
	QueryCancelPending = false;
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	AbortOutOfAnyTransaction();
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, 0);
	event_actor = InvalidOid;
	MemoryContextSwitchTo(context);
	unload();
	sink_close(&sink);
	/* At the commit, or in a message: which is it? */
	if (!preparing && message_is_to_blame(error->sqlerrcode))
	{
		if (alone > 0)
			strlcpy(suspect_error, message_error(error->message, sizeof(suspect_error) - 1),
					sizeof(suspect_error));
		alone = ALONE_MESSAGES;
	}
	came_back = true;
	wait = failed(preparing ? DELIVERY_BROKEN : DELIVERY_BACKOFF, error->message, 0);
	preparing = false;
	RESUME_INTERRUPTS();
	return wait;
}

static int64
deliver_safely(void)
{
	MemoryContext context = CurrentMemoryContext;
	volatile int64 wait = 0;

	PG_TRY();
	{
		wait = deliver();
	}
	PG_CATCH();
	{
		wait = recover(context);
	}
	PG_END_TRY();
	pgstat_report_stat(false);
	MemoryContextSwitchTo(context);
	MemoryContextReset(context);
	return wait;
}

/* Nothing may be sent that a crash could lose, whatever the setting becomes. */
static void
commit_durably(void)
{
	if (synchronous_commit < SYNCHRONOUS_COMMIT_REMOTE_FLUSH)
		SetConfigOption("synchronous_commit", "on", PGC_SUSET, PGC_S_OVERRIDE);
}

/* ---- The process ---- */

static void
attend(void)
{
	if (terminated)
		leave();
	QueryCancelPending = false; /* there is nothing to cancel */
	CHECK_FOR_INTERRUPTS();
	ProcessCatchupInterrupt();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		commit_durably();
	}
	if (!MY_SLOT->wanted || database_is_held())
		leave();
}

static void
pause_for(int64 wait, uint32 wait_event)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait);

	uint64		endpoints = endpoint_changes();

	for (;;)
	{
		int64		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);

		attend();
		if (left <= 0)
			return;
		if (failures_in_row > 0 || sink.connection)
			left = Min(left, LOOK_MS);
		pgstat_report_stat(true);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 left, wait_event);
		ResetLatch(MyLatch);
		if (!sink_idle(&sink) && failures_in_row == 0)
			return;
		if (failures_in_row > 0)
		{
			AcceptInvalidationMessages();
			if (endpoint_changes() != endpoints)
				return;
		}
		/* Somebody has changed something: perhaps what was wrong. */
		if (MY_SLOT->generation != my_generation)
			return;
		/* A sink that is down stays so, whatever is published. */
		if (failures_in_row == 0 && delivery_has_work(my_index))
			end = Min(end, TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   ms_until_window()));
	}
}

static void
connect_to(Oid database)
{
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	worker_pin_settings("inventory delivery");
	commit_durably();
	StartTransactionCommand();
	if (!extension_find(&extension) || database_is_held() || inventory_restoring ||
		strcmp(extension.version, INVENTORY_VERSION) != 0 ||
		!engine_lock_session(MY_LOCK))
		leave();
	CommitTransactionCommand();
}

void
inventory_delivery_main(Datum main_arg)
{
	Oid			database;
	uint32		wait_event;

	my_index = DatumGetInt32(main_arg);
	memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(Oid));
	pqsignal(SIGTERM, delivery_sigterm);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	before_shmem_exit(delivery_exit, (Datum) 0);
	if (!delivery_claim(database))
		proc_exit(0);
	BackgroundWorkerUnblockSignals();
	connect_to(database);
	sink_wanted = &MY_SLOT->wanted;
	wait_event = compat_wait_event("InventoryDelivery");
	batch_context = AllocSetContextCreate(TopMemoryContext, "inventory batch",
										  ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(batch_context);
	for (;;)
		pause_for(deliver_safely(), wait_event);
}
