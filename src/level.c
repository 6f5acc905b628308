/*-------------------------------------------------------------------------
 *
 * level.c
 *		Levels: the escrow counters of each stock item in shared memory.
 *
 * A level says what can still be taken of a stock item.  A transaction takes
 * from the shared counter at once, by compare-and-swap, and nobody waits for
 * its commit: an abort gives back what was taken, and what the transaction
 * adds reaches the counter only in its commit callback.  So the counter never
 * exceeds what is committed and not yet taken, and nothing is oversold, at any
 * isolation level.  (O'Neil, The Escrow Transactional Method, TODS 11:4, 1986.)
 *
 * THE TABLE is an array of slots and an array of hash chains.  The key has the
 * database and the event table's oid, so that a cloned database or an
 * extension that was dropped and created again never meets old entries.
 * A level is a cache: after a restart or a crash it is loaded from the tables.
 *
 * LOCKING, from the outside in:
 *
 * Work lock (heavyweight, 1,024 stripes of stock items).  Taken at the first
 * touch of a stock item in a transaction, kept until its end; shared to move
 * it, exclusive to count it.  One call takes its locks in the order of stripes
 * (callers sort by level_compare_places()), so calls do not deadlock with each other.
 * It is released after the commit callback: who has it exclusively sees
 * counters that no transaction is moving.
 *
 * Load lock (heavyweight, one per stock item).  Taken exclusively to compute a
 * level or to settle its expired holds, and released when done.  The others
 * that need the level wait on the lock, so a cold hot item costs one query.
 *
 * Pin (atomic count in the slot).  A transaction that has touched an item has
 * it pinned until after its commit or abort is visible, so when an entry is
 * absent, no writer of it is in flight, and a loader that uses a latest
 * snapshot misses nothing.  The top bit is held by who evicts or fills the
 * slot; that takes pins = 0.  A pin may be tried without any lock: who finds
 * the top bit or another key lets go again.
 *
 * Chain lock (64 LWLocks, by bucket).  Shared to walk a chain, exclusive to
 * link or unlink.  Allocation lock (one LWLock) for the free list and the
 * clock hand.  Order: allocation lock before chain lock; neither is held while
 * anything else is waited for.
 *
 * Slot mutex (spinlock): overdue, expiring, settling, settled_until; a few
 * instructions.  on_hand, available, next_expiry and pending are atomics.
 *
 * EXPIRY is exact, and a fact of time, not of a transaction.  A hold past its
 * deadline is in "overdue", which is part of "available", from the first look
 * at the level after the deadline: next_expiry tells that a look is due, and
 * level_settle() then sums the holds with a deadline up to now and replaces
 * "overdue" by the sum.  Who is leaving a hold's state meanwhile?
 *
 *   - A claim (confirm, release, extend of a hold before its deadline) first
 *     updates the row, then asks level_claim() whether the deadline has been
 *     settled.  A settlement publishes settled_until before it looks at the
 *     rows, and does not count a row with an update in flight.  So either the
 *     claim sees the settlement and fails as expired, or the settlement sees
 *     the claim and does not count the hold.
 *   - An expire event in flight ("expiring") changes nothing for others: its
 *     rows count as overdue whether or not its transaction has ended, until
 *     its callback moves the quantity from overdue to what is free.  Only one
 *     transaction at a time expires holds of an item; its xid tells its rows.
 *   - The end of each of these lowers next_expiry to the deadline concerned,
 *     so the next look settles again, from what is committed then; and where
 *     an "expiring" changes, or its transaction ends, while a settlement is
 *     reading, it reads again.
 *
 * TRANSACTION ENDS.  Everything that a callback does is an addition in memory
 * that this process has set aside before; it cannot fail, allocate or wait.
 * A subtransaction's abort restores each touched item as it was when that
 * subtransaction first changed it (the undo list), and forgets the items that
 * it touched first.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/subtrans.h"
#include "access/transam.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "common/int.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "error.h"
#include "inventory.h"
#include "level.h"
#include "lock.h"

#define LEVEL_CHAIN_LOCKS 64

/* How long the callback of a transaction takes to come after its end. */
#define LEVEL_CALLBACK_US 100
#define LEVEL_PIN_OWNED ((uint32) 1 << 31)
#define LEVEL_NO_SLOT (-1)

/* A transaction that has touched more items than this finds them by hash. */
#define LEVEL_LINEAR_TOUCHES 8

/* Where this backend last saw the slot of a stock item: a hint. */
#define LEVEL_HINTS 4096

typedef struct LevelKey
{
	Oid			database;
	Oid			event_table;
	int64		stock_id;
} LevelKey;

typedef struct LevelSlot
{
	LevelKey	key;			/* changes only while owned */
	pg_atomic_uint64 on_hand;
	pg_atomic_uint64 available; /* overdue included */
	pg_atomic_uint64 pending;	/* on hand that transactions in flight add, or
								 * return if they abort: keeps the sum from
								 * overflowing */
	pg_atomic_uint64 next_expiry;	/* look at the holds from then on */
	TimestampTz settled_until;	/* mutex: holds up to here are settled */
	TimestampTz settling_next;	/* mutex: what next_expiry is to become, as
								 * reported during a settlement */
	int64		overdue;		/* mutex */
	int64		expiring;		/* mutex: part of overdue that has expire
								 * events in flight */
	TransactionId expiring_xid; /* mutex: whose */
	uint32		expiring_changes;	/* mutex: counts changes of expiring */
	pg_atomic_uint32 pins;
	int32		chain;			/* chain lock; or next free slot: allocation
								 * lock */
	slock_t		mutex;
	volatile bool settling;		/* mutex to write */
	bool		used;			/* clock sweep; a lost update does no harm */
	volatile bool ready;		/* the counters are true; load lock */
} LevelSlot;

StaticAssertDecl(sizeof(LevelSlot) + 2 * sizeof(int32) <= 128,
				 "a stock item costs at most 128 bytes of shared memory");

typedef struct LevelShared
{
	LWLock	   *allocation_lock;
	LWLockPadded *chain_locks;
	int32		capacity;
	int32		buckets;		/* a power of two */
	int32		free_slot;		/* allocation lock */
	int32		hand;			/* allocation lock */
	pg_atomic_uint32 entries;
	pg_atomic_uint64 hits;
	pg_atomic_uint64 misses;
	pg_atomic_uint64 loads;
	pg_atomic_uint64 waits;
	pg_atomic_uint64 evictions;
	pg_atomic_uint64 reset_at;
} LevelShared;

/* What a transaction has done to a counter and not yet handed over. */
typedef struct LevelShare
{
	int64		taken;			/* left the shared counter; an abort returns it */
	int64		granted;		/* of it, not used by an event yet */
	int64		credit;			/* added by events; a commit hands it over */
} LevelShare;

typedef struct LevelState
{
	LevelShare	shares[LEVEL_COUNTERS];
	int64		pending;		/* our part of the slot's */
	int64		expiring;		/* our part of the slot's */
} LevelState;

struct LevelTouch
{
	LevelSlot  *slot;
	int64		stock_id;
	int			touch_level;	/* nesting level that touched it first */
	int			state_level;	/* nesting level that last saved its state */
	LevelState	state;
	TimestampTz deadline;		/* the earliest that we have to do with */
};

/* The state of a touch before a subtransaction changed it. */
typedef struct LevelUndo
{
	slist_node	node;
	LevelTouch *touch;
	int			level;			/* the subtransaction's */
	int			state_level;	/* the touch's before */
	LevelState	state;
} LevelUndo;

typedef struct LevelTouchEntry
{
	int64		stock_id;
	LevelTouch *touch;
} LevelTouchEntry;

int			level_capacity = 131072;
LevelLoader level_loader = NULL;
LevelOverdueReader level_overdue_reader = NULL;

static LevelShared *shared = NULL;
static LevelSlot *slots = NULL;
static int32 *buckets = NULL;

/* The present transaction. */
static MemoryContext touch_context = NULL;
static LevelTouch **touches = NULL;
static int	touch_count = 0;
static int	touch_room = 0;
static HTAB *touch_hash = NULL;
static slist_head undo_list = SLIST_STATIC_INIT(undo_list);

/* Pins of this backend that are not a touch: a reader that loads. */
static LevelSlot *reader_pin = NULL;

static int32 hints[LEVEL_HINTS];

/* Added to the shared counter at the end of the transaction. */
static uint64 unreported_hits = 0;

PG_FUNCTION_INFO_V1(inventory_levels);

/* ---- Shared memory ---- */

static int32
level_bucket_count(void)
{
	return pg_nextpower2_32(level_capacity);
}

Size
level_shmem_size(void)
{
	Size		size = MAXALIGN(sizeof(LevelShared));

	size = add_size(size, mul_size(level_capacity, sizeof(LevelSlot)));
	return add_size(size, mul_size(level_bucket_count(), sizeof(int32)));
}

void
level_shmem_request_locks(void)
{
	RequestNamedLWLockTranche("inventory_level", LEVEL_CHAIN_LOCKS + 1);
}

static void
level_slot_init(LevelSlot *slot, int32 next_free)
{
	memset(slot, 0, sizeof(LevelSlot));
	pg_atomic_init_u64(&slot->on_hand, 0);
	pg_atomic_init_u64(&slot->available, 0);
	pg_atomic_init_u64(&slot->pending, 0);
	pg_atomic_init_u64(&slot->next_expiry, 0);
	pg_atomic_init_u32(&slot->pins, LEVEL_PIN_OWNED);
	SpinLockInit(&slot->mutex);
	slot->chain = next_free;
}

void
level_shmem_init(void)
{
	bool		found;
	char	   *at = ShmemInitStruct("inventory levels", level_shmem_size(),
									 &found);
	LWLockPadded *locks = GetNamedLWLockTranche("inventory_level");

	shared = (LevelShared *) at;
	slots = (LevelSlot *) (at + MAXALIGN(sizeof(LevelShared)));
	buckets = (int32 *) (slots + level_capacity);
	memset(hints, 0, sizeof(hints));
	if (found)
		return;

	memset(shared, 0, sizeof(LevelShared));
	shared->allocation_lock = &locks[0].lock;
	shared->chain_locks = &locks[1];
	shared->capacity = level_capacity;
	shared->buckets = level_bucket_count();
	for (int32 i = 0; i < shared->capacity; i++)
		level_slot_init(&slots[i], i + 1 < shared->capacity ? i + 1 : LEVEL_NO_SLOT);
	for (int32 i = 0; i < shared->buckets; i++)
		buckets[i] = LEVEL_NO_SLOT;
	pg_atomic_init_u32(&shared->entries, 0);
	pg_atomic_init_u64(&shared->hits, 0);
	pg_atomic_init_u64(&shared->misses, 0);
	pg_atomic_init_u64(&shared->loads, 0);
	pg_atomic_init_u64(&shared->waits, 0);
	pg_atomic_init_u64(&shared->evictions, 0);
	pg_atomic_init_u64(&shared->reset_at, (uint64) GetCurrentTimestamp());
}

/* ---- The table ---- */

static void
level_key(LevelKey *key, int64 stock_id)
{
	key->database = MyDatabaseId;
	key->event_table = catalog_relations()->event;
	key->stock_id = stock_id;
}

static inline bool
level_key_is(const LevelSlot *slot, const LevelKey *key)
{
	return slot->key.stock_id == key->stock_id &&
		slot->key.database == key->database &&
		slot->key.event_table == key->event_table;
}

static int32
level_bucket(const LevelKey *key)
{
	return hash_bytes((const unsigned char *) key, sizeof(LevelKey)) &
		(shared->buckets - 1);
}

static LWLock *
level_chain_lock(int32 bucket)
{
	return &shared->chain_locks[bucket % LEVEL_CHAIN_LOCKS].lock;
}

static inline void
level_unpin(LevelSlot *slot)
{
	pg_atomic_fetch_sub_u32(&slot->pins, 1);
}

/* Tries to pin a slot that may be anything by now. */
static bool
level_try_pin(LevelSlot *slot, const LevelKey *key)
{
	uint32		before = pg_atomic_fetch_add_u32(&slot->pins, 1);

	if (likely((before & LEVEL_PIN_OWNED) == 0 && level_key_is(slot, key)))
		return true;
	level_unpin(slot);
	return false;
}

static LevelSlot *
level_chain_find(int32 bucket, const LevelKey *key)
{
	for (int32 i = buckets[bucket]; i != LEVEL_NO_SLOT; i = slots[i].chain)
	{
		if (level_key_is(&slots[i], key))
			return &slots[i];
	}
	return NULL;
}

static void
level_unlink(LevelSlot *slot)
{
	int32		bucket = level_bucket(&slot->key);
	int32	   *link = &buckets[bucket];

	while (*link != slot - slots)
	{
		Assert(*link != LEVEL_NO_SLOT);
		link = &slots[*link].chain;
	}
	*link = slot->chain;
}

/* Makes the slot ours if nobody has it pinned or needs it soon. */
static bool
level_try_evict(LevelSlot *slot)
{
	LWLock	   *lock;
	uint32		unpinned = 0;
	bool		evicted;

	if (pg_atomic_read_u32(&slot->pins) != 0)
		return false;
	if (slot->used)
	{
		slot->used = false;
		return false;
	}
	/* The key cannot change: filling a slot takes the allocation lock. */
	lock = level_chain_lock(level_bucket(&slot->key));
	LWLockAcquire(lock, LW_EXCLUSIVE);
	evicted = pg_atomic_compare_exchange_u32(&slot->pins, &unpinned,
											 LEVEL_PIN_OWNED);
	if (evicted)
	{
		slot->ready = false;
		level_unlink(slot);
	}
	LWLockRelease(lock);
	return evicted;
}

/* Returns a slot that is ours: free, or evicted.  Allocation lock held. */
static LevelSlot *
level_allocate(void)
{
	if (shared->free_slot != LEVEL_NO_SLOT)
	{
		LevelSlot  *slot = &slots[shared->free_slot];

		shared->free_slot = slot->chain;
		pg_atomic_fetch_add_u32(&shared->entries, 1);
		return slot;
	}
	/* Two rounds clear every "used"; a third one meets late unpins. */
	for (int64 tries = 0; tries < 3 * (int64) shared->capacity; tries++)
	{
		LevelSlot  *slot = &slots[shared->hand];

		shared->hand = (shared->hand + 1) % shared->capacity;
		if (level_try_evict(slot))
		{
			pg_atomic_fetch_add_u64(&shared->evictions, 1);
			return slot;
		}
	}
	LWLockRelease(shared->allocation_lock);
	ereport(ERROR,
			(errcode(ERRCODE_IV_LEVELS_FULL),
			 errmsg("no room for another stock item in shared memory"),
			 errdetail("All %d levels are in use by open transactions.",
					   shared->capacity),
			 errhint("Increase the configuration parameter \"%s\".",
					 "inventory.max_levels")));
}

/* Fills an owned slot, with one pin for us.  It is not ready yet. */
static void
level_fill(LevelSlot *slot, const LevelKey *key)
{
	slot->key = *key;
	pg_atomic_write_u64(&slot->on_hand, 0);
	pg_atomic_write_u64(&slot->available, 0);
	pg_atomic_write_u64(&slot->pending, 0);
	slot->settled_until = DT_NOBEGIN;
	slot->settling = false;
	slot->overdue = 0;
	slot->expiring = 0;
	slot->expiring_xid = InvalidTransactionId;
	slot->used = true;
	slot->ready = false;
	pg_write_barrier();
	pg_atomic_fetch_sub_u32(&slot->pins, LEVEL_PIN_OWNED - 1);
}

/* Adds an entry for the key, unless another backend has done so just now. */
static LevelSlot *
level_add(const LevelKey *key, int32 bucket)
{
	LevelSlot  *slot;
	LevelSlot  *other;

	LWLockAcquire(shared->allocation_lock, LW_EXCLUSIVE);
	slot = level_allocate();
	LWLockAcquire(level_chain_lock(bucket), LW_EXCLUSIVE);
	other = level_chain_find(bucket, key);
	if (other)
	{
		pg_atomic_fetch_add_u32(&other->pins, 1);
		LWLockRelease(level_chain_lock(bucket));
		slot->chain = shared->free_slot;
		shared->free_slot = slot - slots;
		pg_atomic_fetch_sub_u32(&shared->entries, 1);
		LWLockRelease(shared->allocation_lock);
		return other;
	}
	level_fill(slot, key);
	slot->chain = buckets[bucket];
	buckets[bucket] = slot - slots;
	LWLockRelease(level_chain_lock(bucket));
	LWLockRelease(shared->allocation_lock);
	return slot;
}

/* Finds or adds the entry of a stock item, and pins it. */
static LevelSlot *
level_pin(int64 stock_id)
{
	int32	   *hint = &hints[(uint64) stock_id % LEVEL_HINTS];
	LevelSlot  *slot = &slots[*hint];
	LevelKey	key;
	int32		bucket;

	level_key(&key, stock_id);
	if (level_try_pin(slot, &key))
		return slot;

	bucket = level_bucket(&key);
	LWLockAcquire(level_chain_lock(bucket), LW_SHARED);
	slot = level_chain_find(bucket, &key);
	if (slot)
		pg_atomic_fetch_add_u32(&slot->pins, 1);
	LWLockRelease(level_chain_lock(bucket));
	if (slot == NULL)
		slot = level_add(&key, bucket);
	*hint = slot - slots;
	return slot;
}

/* ---- Loading and settling ---- */

static TimestampTz
level_next_expiry(LevelSlot *slot)
{
	return (TimestampTz) pg_atomic_read_u64(&slot->next_expiry);
}

/* Lowers next_expiry.  Also done in callbacks. */
static void
level_lower_next_expiry(LevelSlot *slot, TimestampTz deadline)
{
	uint64		current;

	/*
	 * Nearly always the deadline is not the next one.  If no settlement is
	 * under way, one that begins later sees what we have committed.
	 */
	pg_memory_barrier();
	if (likely(!slot->settling))
	{
		pg_read_barrier();
		if (likely(level_next_expiry(slot) <= deadline))
			return;
	}

	SpinLockAcquire(&slot->mutex);
	if (slot->settling)
		slot->settling_next = Min(slot->settling_next, deadline);
	SpinLockRelease(&slot->mutex);
	current = pg_atomic_read_u64(&slot->next_expiry);
	while (deadline < (TimestampTz) current &&
		   !pg_atomic_compare_exchange_u64(&slot->next_expiry, &current,
										   (uint64) deadline))
		;
}

static void
level_load_lock(LevelSlot *slot)
{
	if (engine_lock(ENGINE_LOCK_LOAD, slot->key.stock_id, ExclusiveLock, false))
		return;
	pg_atomic_fetch_add_u64(&shared->waits, 1);
	engine_lock(ENGINE_LOCK_LOAD, slot->key.stock_id, ExclusiveLock, true);
}

static void
level_load_unlock(LevelSlot *slot)
{
	engine_unlock(ENGINE_LOCK_LOAD, slot->key.stock_id, ExclusiveLock);
}

/* Computes a pinned level from the tables. */
static void
level_load(LevelSlot *slot)
{
	pg_atomic_fetch_add_u64(&shared->misses, 1);
	level_load_lock(slot);
	if (!slot->ready)
	{
		LevelBase	base;

		level_loader(slot->key.stock_id, &base);
		pg_atomic_write_u64(&slot->on_hand, (uint64) base.on_hand);
		pg_atomic_write_u64(&slot->available, (uint64) base.available);
		pg_atomic_write_u64(&slot->next_expiry, (uint64) DT_NOBEGIN);
		pg_write_barrier();
		slot->ready = true;
		pg_atomic_fetch_add_u64(&shared->loads, 1);
	}
	level_load_unlock(slot);
}

/*
 * Reads the overdue holds and publishes their sum.  Load lock held; now is not
 * before settled_until.
 */
static void
level_settle_locked(LevelSlot *slot, TimestampTz now)
{
	bool		published = false;

	while (!published)
	{
		LevelOverdue overdue;
		TransactionId covered;
		uint32		changes;
		bool		ended;

		SpinLockAcquire(&slot->mutex);
		slot->settled_until = now;
		slot->settling = true;
		slot->settling_next = DT_NOEND;
		covered = slot->expiring_xid;
		changes = slot->expiring_changes;
		SpinLockRelease(&slot->mutex);

		level_overdue_reader(slot->key.stock_id, now, covered, &overdue);

		/* If it has ended, what was read may be its rows as of after its end. */
		ended = TransactionIdIsValid(covered) &&
			!TransactionIdIsCurrentTransactionId(covered) &&
			!TransactionIdIsInProgress(covered);
		if (ended)
			pg_usleep(LEVEL_CALLBACK_US);

		SpinLockAcquire(&slot->mutex);
		if (changes == slot->expiring_changes && !ended)
		{
			int64		sum = overdue.quantity + slot->expiring;

			pg_atomic_fetch_add_u64(&slot->available, sum - slot->overdue);
			slot->overdue = sum;
			pg_atomic_write_u64(&slot->next_expiry,
								(uint64) Min(overdue.next_expiry,
											 slot->settling_next));
			pg_write_barrier();
			slot->settling = false;
			published = true;
		}
		SpinLockRelease(&slot->mutex);
		CHECK_FOR_INTERRUPTS();
	}
}

/* The item's time never steps back behind what has been settled. */
static TimestampTz
level_slot_time(LevelSlot *slot)
{
	TimestampTz now = clock_time();

	SpinLockAcquire(&slot->mutex);
	now = Max(now, slot->settled_until);
	SpinLockRelease(&slot->mutex);
	return now;
}

/* Makes a pinned level true as of now. */
static void
level_refresh(LevelSlot *slot)
{
	if (likely(slot->ready))
		unreported_hits++;
	else
		level_load(slot);
	pg_read_barrier();

	while (unlikely(level_next_expiry(slot) <= clock_time()))
	{
		TimestampTz now;

		level_load_lock(slot);
		now = level_slot_time(slot);
		if (level_next_expiry(slot) <= now)
			level_settle_locked(slot, now);
		level_load_unlock(slot);
		/* Something ended meanwhile whose deadline has passed: look again. */
	}
	if (!slot->used)
		slot->used = true;
}

/* ---- Touching ---- */

/* Items of one stripe share a work lock. */
static uint64
level_stripe(int64 stock_id)
{
	return (uint64) stock_id % ENGINE_LOCK_STRIPES;
}

bool
level_same_stripe(int64 a, int64 b)
{
	return level_stripe(a) == level_stripe(b);
}

/* qsort comparator of stock ids: the order in which a call touches them. */
int
level_compare_places(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	if (level_stripe(x) != level_stripe(y))
		return level_stripe(x) < level_stripe(y) ? -1 : 1;
	return x < y ? -1 : x > y;
}

static LevelTouch *
touch_find(int64 stock_id)
{
	LevelTouchEntry *entry;

	if (touch_count <= LEVEL_LINEAR_TOUCHES)
	{
		for (int i = 0; i < touch_count; i++)
		{
			if (touches[i]->stock_id == stock_id)
				return touches[i];
		}
		return NULL;
	}
	entry = hash_search(touch_hash, &stock_id, HASH_FIND, NULL);
	return entry ? entry->touch : NULL;
}

static void
touch_hash_add(HTAB *hash, LevelTouch *touch)
{
	bool		found;
	LevelTouchEntry *entry = hash_search(hash, &touch->stock_id,
										 HASH_ENTER, &found);

	Assert(!found);
	entry->touch = touch;
}

/* Makes room for one more touch, so that adding it cannot fail. */
static LevelTouch *
touch_prepare(int64 stock_id)
{
	LevelTouch *touch;

	if (touch_context == NULL)
		touch_context = AllocSetContextCreate(TopMemoryContext,
											  "inventory touches",
											  ALLOCSET_DEFAULT_SIZES);
	if (touches == NULL)
	{
		touch_room = 64;
		touches = MemoryContextAlloc(touch_context,
									 touch_room * sizeof(LevelTouch *));
	}
	else if (touch_count == touch_room)
	{
		touches = repalloc_huge(touches, 2 * (Size) touch_room * sizeof(LevelTouch *));
		touch_room *= 2;
	}
	touch = MemoryContextAllocZero(touch_context, sizeof(LevelTouch));
	touch->stock_id = stock_id;
	touch->touch_level = touch->state_level = GetCurrentTransactionNestLevel();
	touch->deadline = DT_NOEND;

	if (touch_hash != NULL || touch_count >= LEVEL_LINEAR_TOUCHES)
	{
		if (touch_hash == NULL)
		{
			HASHCTL		control = {0};
			HTAB	   *hash;

			control.keysize = sizeof(int64);
			control.entrysize = sizeof(LevelTouchEntry);
			control.hcxt = touch_context;
			hash = hash_create("inventory touches", 256, &control,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
			for (int i = 0; i < touch_count; i++)
				touch_hash_add(hash, touches[i]);
			touch_hash = hash;	/* complete, or not there */
		}
		touch_hash_add(touch_hash, touch);
	}
	return touch;
}

/*
 * Touches a stock item: takes its work lock, pins its level and makes it true
 * as of now.  The stock item must exist.  Exclusively, it waits until no other
 * transaction is moving the item, and keeps others from doing so.
 */
LevelTouch *
level_touch(int64 stock_id, bool exclusive)
{
	LevelTouch *touch = touch_find(stock_id);

	if (touch == NULL || exclusive)
		engine_lock(ENGINE_LOCK_WORK, level_stripe(stock_id),
					exclusive ? ExclusiveLock : ShareLock, true);
	if (touch == NULL)
	{
		LevelSlot  *slot = level_pin(stock_id);

		/* An error between the pin and its record would leak the pin. */
		reader_pin = slot;
		touch = touch_prepare(stock_id);
		touch->slot = slot;
		touches[touch_count++] = touch;
		reader_pin = NULL;
	}
	level_refresh(touch->slot);
	return touch;
}

/*
 * Computes the level of a stock item anew, as this transaction sees the tables.
 * Until its end nobody else moves the item, or loads it from what was there
 * before.  Whatever becomes of the transaction, the level is the true one.
 */
void
level_reload(int64 stock_id)
{
	static const LevelState untouched = {0};
	LevelTouch *touch = level_touch(stock_id, true);
	LevelSlot  *slot = touch->slot;
	LevelBase	base;

	if (memcmp(&touch->state, &untouched, sizeof(LevelState)) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s has been moved by this transaction",
						catalog_describe(stock_id)),
				 errhint("Call rebuild() in a transaction of its own.")));
	level_load_lock(slot);
	level_loader(stock_id, &base);
	/* From here on a reader settles first, and waits for the load lock. */
	pg_atomic_write_u64(&slot->next_expiry, (uint64) DT_NOBEGIN);
	SpinLockAcquire(&slot->mutex);
	slot->overdue = 0;
	pg_atomic_write_u64(&slot->on_hand, (uint64) base.on_hand);
	pg_atomic_write_u64(&slot->available, (uint64) base.available);
	SpinLockRelease(&slot->mutex);
	level_load_unlock(slot);
	level_refresh(slot);
}

/* Saves a touch's state before the present subtransaction first changes it. */
static void
touch_change(LevelTouch *touch)
{
	int			level = GetCurrentTransactionNestLevel();
	LevelUndo  *undo;

	if (touch->state_level == level)
		return;
	Assert(touch->state_level < level);
	undo = MemoryContextAlloc(touch_context, sizeof(LevelUndo));
	undo->touch = touch;
	undo->level = level;
	undo->state_level = touch->state_level;
	undo->state = touch->state;
	slist_push_head(&undo_list, &undo->node);
	touch->state_level = level;
}

/* ---- Taking and giving ---- */

static pg_atomic_uint64 *
level_atomic(LevelSlot *slot, LevelCounter counter)
{
	return counter == LEVEL_ON_HAND ? &slot->on_hand : &slot->available;
}

static int64
saturating_add(int64 a, int64 b)
{
	int64		sum;

	if (pg_add_s64_overflow(a, b, &sum))
		return b < 0 ? PG_INT64_MIN : PG_INT64_MAX;
	return sum;
}

static int64
saturating_subtract(int64 a, int64 b)
{
	int64		difference;

	if (pg_sub_s64_overflow(a, b, &difference))
		return b > 0 ? PG_INT64_MIN : PG_INT64_MAX;
	return difference;
}

/*
 * Turns up to the quantity, at least the minimum, into granted: first our own
 * credit, then what is shared.  What is left, ours and shared together, is not
 * under the floor; where the shared counter is under it, our credit must make
 * up for that first.  Returns what was granted, or -1.
 */
static int64
level_grant(LevelTouch *touch, LevelCounter counter, int64 quantity,
			int64 minimum, int64 floor)
{
	LevelShare *share = &touch->state.shares[counter];
	pg_atomic_uint64 *atomic = level_atomic(touch->slot, counter);
	uint64		current = pg_atomic_read_u64(atomic);
	int64		granted;
	int64		taken;

	touch_change(touch);		/* may allocate: before anything is taken */
	do
	{
		int64		room = saturating_subtract((int64) current, floor);

		granted = Min(quantity, saturating_add(room, share->credit));
		if (granted < Max(minimum, 1))
			return -1;
		taken = granted - Min(share->credit, granted);
	} while (taken > 0 &&
			 !pg_atomic_compare_exchange_u64(atomic, &current,
											 (uint64) ((int64) current - taken)));
	if (counter == LEVEL_ON_HAND && taken > 0)
	{
		/* An abort returns it: nobody may fill its place. */
		pg_atomic_fetch_add_u64(&touch->slot->pending, taken);
		touch->state.pending += taken;
	}
	share->credit -= granted - taken;
	share->taken += taken;
	share->granted += granted;
	return granted;
}

/*
 * Takes a quantity for events that will be inserted; all of it, or nothing and
 * false.
 */
bool
level_take(LevelTouch *touch, LevelCounter counter, int64 quantity, int64 floor)
{
	return quantity == 0 ||
		level_grant(touch, counter, quantity, quantity, floor) == quantity;
}

/* Takes as much as there is, up to the quantity; returns how much. */
int64
level_take_up_to(LevelTouch *touch, LevelCounter counter, int64 quantity,
				 int64 floor)
{
	int64		granted = level_grant(touch, counter, quantity, 1, floor);

	return Max(granted, 0);
}

/*
 * Puts back what was taken and is not wanted after all: ours again, and
 * everybody's at commit.
 */
void
level_give_back(LevelTouch *touch, LevelCounter counter, int64 quantity)
{
	LevelShare *share = &touch->state.shares[counter];

	Assert(share->granted >= quantity);
	touch_change(touch);
	share->granted -= quantity;
	share->credit += quantity;
}

/*
 * An event takes from the counter: what was granted before, or else what is
 * there.  False if that is not enough.
 */
bool
level_debit(LevelTouch *touch, LevelCounter counter, int64 quantity,
			int64 floor)
{
	LevelShare *share = &touch->state.shares[counter];
	int64		missing = quantity - Min(share->granted, quantity);

	if (missing > 0 &&
		level_grant(touch, counter, missing, missing, floor) < 0)
		return false;
	touch_change(touch);
	share->granted -= quantity;
	return true;
}

/*
 * Sets aside room for more on hand, so that no sum of commits overflows.
 */
static bool
level_add_pending(LevelTouch *touch, int64 quantity)
{
	LevelSlot  *slot = touch->slot;
	uint64		pending = pg_atomic_read_u64(&slot->pending);
	int64		sum;

	do
	{
		if (pg_add_s64_overflow((int64) pending, quantity, &sum) ||
			pg_add_s64_overflow(sum, (int64) pg_atomic_read_u64(&slot->on_hand), &sum) ||
			sum > LEVEL_ON_HAND_MAX)
			return false;
	} while (!pg_atomic_compare_exchange_u64(&slot->pending, &pending,
											 pending + quantity));
	touch->state.pending += quantity;
	return true;
}

/*
 * An event adds to the counter: ours at once, shared at commit.  False if on
 * hand would overflow.
 */
bool
level_credit(LevelTouch *touch, LevelCounter counter, int64 quantity)
{
	touch_change(touch);
	if (counter == LEVEL_ON_HAND && !level_add_pending(touch, quantity))
		return false;
	touch->state.shares[counter].credit += quantity;
	return true;
}

/* The counter as this transaction sees it: shared, and what is its own. */
int64
level_seen(LevelTouch *touch, LevelCounter counter)
{
	LevelShare *share = &touch->state.shares[counter];

	return (int64) pg_atomic_read_u64(level_atomic(touch->slot, counter)) +
		share->credit + share->granted;
}

/* ---- Deadlines ---- */

/* The present moment for the stock item. */
TimestampTz
level_time(LevelTouch *touch)
{
	return level_slot_time(touch->slot);
}

/* The transaction leaves a hold with this deadline, if it commits. */
void
level_deadline(LevelTouch *touch, TimestampTz deadline)
{
	touch->deadline = Min(touch->deadline, deadline);
}

/*
 * The transaction has updated a hold with this deadline.  False if the hold
 * has been settled as expired before that.
 */
bool
level_claim(LevelTouch *touch, TimestampTz deadline)
{
	bool		settled;

	level_deadline(touch, deadline);
	pg_memory_barrier();
	SpinLockAcquire(&touch->slot->mutex);
	settled = touch->slot->settled_until >= deadline;
	SpinLockRelease(&touch->slot->mutex);
	return !settled;
}

/* Whether there are settled holds without an expire event that we may write. */
bool
level_has_overdue(LevelTouch *touch)
{
	LevelSlot  *slot = touch->slot;
	bool		result;

	SpinLockAcquire(&slot->mutex);
	result = slot->overdue > slot->expiring &&
		(slot->expiring_xid == InvalidTransactionId ||
		 slot->expiring_xid == GetTopTransactionIdIfAny());
	SpinLockRelease(&slot->mutex);
	return result;
}

/*
 * The transaction is about to update an overdue hold to expired.  False if
 * another one is doing so for this stock item.
 */
bool
level_expire(LevelTouch *touch, int64 quantity, TimestampTz deadline)
{
	LevelSlot  *slot = touch->slot;
	TransactionId xid = GetTopTransactionId();
	bool		ours;

	touch_change(touch);
	SpinLockAcquire(&slot->mutex);
	ours = slot->expiring_xid == InvalidTransactionId ||
		slot->expiring_xid == xid;
	if (ours)
	{
		slot->expiring_xid = xid;
		slot->expiring += quantity;
		slot->expiring_changes++;
		touch->state.expiring += quantity;
	}
	SpinLockRelease(&slot->mutex);
	if (ours)
		level_deadline(touch, deadline);
	return ours;
}

/* Expire events are in flight now: has the holds looked at again. */
void
level_settle_soon(LevelTouch *touch, TimestampTz deadline)
{
	level_lower_next_expiry(touch->slot, deadline);
}

/* Takes back our expire events, or hands them over.  Called in callbacks. */
static void
level_end_expiring(LevelSlot *slot, int64 quantity, bool all, bool commit)
{
	if (quantity == 0)
		return;
	SpinLockAcquire(&slot->mutex);
	slot->expiring -= quantity;
	slot->expiring_changes++;
	if (all)
		slot->expiring_xid = InvalidTransactionId;
	if (commit)
		slot->overdue -= quantity;	/* it is simply free now */
	SpinLockRelease(&slot->mutex);
}

/* ---- Transaction ends: nothing here can fail, allocate or wait ---- */

static void
touch_release(LevelTouch *touch)
{
	level_lower_next_expiry(touch->slot, touch->deadline);
	level_unpin(touch->slot);
}

static void
touch_commit(LevelTouch *touch)
{
	LevelSlot  *slot = touch->slot;

	for (LevelCounter counter = 0; counter < LEVEL_COUNTERS; counter++)
	{
		LevelShare *share = &touch->state.shares[counter];

		if (share->credit + share->granted != 0)
			pg_atomic_fetch_add_u64(level_atomic(slot, counter),
									share->credit + share->granted);
	}
	if (touch->state.pending != 0)
		pg_atomic_fetch_sub_u64(&slot->pending, touch->state.pending);
	level_end_expiring(slot, touch->state.expiring, true, true);
	touch_release(touch);
}

/* Returns what was taken since the given state. */
static void
touch_restore(LevelTouch *touch, const LevelState *state)
{
	LevelSlot  *slot = touch->slot;

	for (LevelCounter counter = 0; counter < LEVEL_COUNTERS; counter++)
	{
		int64		taken = touch->state.shares[counter].taken -
			state->shares[counter].taken;

		if (taken != 0)
			pg_atomic_fetch_add_u64(level_atomic(slot, counter), taken);
	}
	if (touch->state.pending != state->pending)
		pg_atomic_fetch_sub_u64(&slot->pending,
								touch->state.pending - state->pending);
	level_end_expiring(slot, touch->state.expiring - state->expiring,
					   state->expiring == 0, false);
	touch->state = *state;
}

static void
touch_abort(LevelTouch *touch)
{
	static const LevelState untouched = {0};

	touch_restore(touch, &untouched);
	touch_release(touch);
}

static void
level_release_reader_pin(void)
{
	if (reader_pin)
	{
		level_unpin(reader_pin);
		reader_pin = NULL;
	}
}

static void
level_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			for (int i = 0; i < touch_count; i++)
				touch_commit(touches[i]);
			break;
		case XACT_EVENT_ABORT:
			for (int i = 0; i < touch_count; i++)
				touch_abort(touches[i]);
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (touch_count > 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has moved or reserved stock"),
						 errhint("Commit the movement in a transaction of its own; a reservation holds the goods meanwhile.")));
			return;
		default:
			return;
	}
	level_release_reader_pin();
	if (unreported_hits > 0)
		pg_atomic_fetch_add_u64(&shared->hits, unreported_hits);
	unreported_hits = 0;
	if (touch_context == NULL)
		return;
	touches = NULL;
	touch_count = touch_room = 0;
	touch_hash = NULL;
	slist_init(&undo_list);
	MemoryContextReset(touch_context);
}

static void
level_subabort(int level)
{
	while (!slist_is_empty(&undo_list))
	{
		LevelUndo  *undo = slist_head_element(LevelUndo, node, &undo_list);

		if (undo->level < level)
			break;
		touch_restore(undo->touch, &undo->state);
		undo->touch->state_level = undo->state_level;
		slist_pop_head_node(&undo_list);
		pfree(undo);
	}
	while (touch_count > 0 && touches[touch_count - 1]->touch_level >= level)
	{
		LevelTouch *touch = touches[--touch_count];

		touch_abort(touch);
		if (touch_hash)
			hash_search(touch_hash, &touch->stock_id, HASH_REMOVE, NULL);
		pfree(touch);
	}
	/* A hold that was passed over for what is undone now must be seen again. */
	for (int i = 0; i < touch_count; i++)
		level_lower_next_expiry(touches[i]->slot, touches[i]->deadline);
}

static void
level_subcommit(int level)
{
	slist_mutable_iter iter;

	slist_foreach_modify(iter, &undo_list)
	{
		LevelUndo  *undo = slist_container(LevelUndo, node, iter.cur);

		if (undo->level < level)
			break;
		undo->touch->state_level = level - 1;

		/*
		 * The parent needs it only if it has not saved the state itself; the
		 * top level needs none, as its abort returns all that was taken.
		 */
		if (undo->state_level == level - 1 || level - 1 == 1)
		{
			slist_delete_current(&iter);
			pfree(undo);
		}
		else
			undo->level = level - 1;
	}
	for (int i = touch_count - 1; i >= 0 && touches[i]->touch_level == level; i--)
	{
		touches[i]->touch_level = level - 1;
		touches[i]->state_level = Min(touches[i]->state_level, level - 1);
	}
}

static void
level_subxact_callback(SubXactEvent event, SubTransactionId subid,
					   SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		level_release_reader_pin();
		level_subabort(level);
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		level_subcommit(level);
}

void
level_init(void)
{
	RegisterXactCallback(level_xact_callback, NULL);
	RegisterSubXactCallback(level_subxact_callback, NULL);
}

/* ---- Reading ---- */

/* Reads a level that is in memory and true, without a lock or a pin. */
static bool
level_peek(const LevelKey *key, int64 *on_hand, int64 *available)
{
	LevelSlot  *slot = &slots[hints[(uint64) key->stock_id % LEVEL_HINTS]];
	TimestampTz next_expiry;

	if (!slot->ready || !level_key_is(slot, key))
		return false;
	pg_read_barrier();
	next_expiry = level_next_expiry(slot);
	if (next_expiry != DT_NOEND && next_expiry <= clock_time())
		return false;
	*on_hand = (int64) pg_atomic_read_u64(&slot->on_hand);
	*available = (int64) pg_atomic_read_u64(&slot->available);
	pg_read_barrier();
	if ((pg_atomic_read_u32(&slot->pins) & LEVEL_PIN_OWNED) != 0 ||
		!slot->ready || !level_key_is(slot, key))
		return false;
	if (!slot->used)
		slot->used = true;
	unreported_hits++;
	return true;
}

/*
 * The level of a stock item as of now: what is shared, and what is this
 * transaction's own.
 */
void
level_read(int64 stock_id, int64 *on_hand, int64 *available)
{
	LevelTouch *touch = touch_find(stock_id);
	LevelKey	key;

	if (touch)
	{
		level_refresh(touch->slot);
		*on_hand = level_seen(touch, LEVEL_ON_HAND);
		*available = level_seen(touch, LEVEL_AVAILABLE);
		return;
	}
	level_key(&key, stock_id);
	while (!level_peek(&key, on_hand, available))
	{
		reader_pin = level_pin(stock_id);
		level_refresh(reader_pin);
		level_release_reader_pin();
	}
}

/* Keeps everybody from moving the item for a moment, if nobody is. */
bool
level_lock_quiet(int64 stock_id)
{
	return engine_lock(ENGINE_LOCK_WORK, level_stripe(stock_id), ExclusiveLock,
					   false);
}

void
level_unlock_quiet(int64 stock_id)
{
	engine_unlock(ENGINE_LOCK_WORK, level_stripe(stock_id), ExclusiveLock);
}

/*
 * What the events alone should say of an item that nobody is moving; false if
 * its level is not in memory, or this transaction has touched it.
 */
bool
level_peek_base(int64 stock_id, int64 *on_hand, int64 *available)
{
	LevelSlot  *slot;
	LevelKey	key;
	int32		bucket;
	bool		ready = false;

	if (touch_find(stock_id))
		return false;
	level_key(&key, stock_id);
	bucket = level_bucket(&key);
	LWLockAcquire(level_chain_lock(bucket), LW_SHARED);
	slot = level_chain_find(bucket, &key);
	if (slot && slot->ready)
	{
		ready = true;
		*on_hand = (int64) pg_atomic_read_u64(&slot->on_hand);
		SpinLockAcquire(&slot->mutex);
		*available = (int64) pg_atomic_read_u64(&slot->available) -
			slot->overdue;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(level_chain_lock(bucket));
	return ready;
}

/* ---- Views ---- */

void
level_statistics(LevelStatistics *statistics)
{
	statistics->capacity = shared->capacity;
	statistics->entries = pg_atomic_read_u32(&shared->entries);
	statistics->bytes_per_entry = level_shmem_size() / shared->capacity;
	statistics->hits = pg_atomic_read_u64(&shared->hits);
	statistics->misses = pg_atomic_read_u64(&shared->misses);
	statistics->loads = pg_atomic_read_u64(&shared->loads);
	statistics->waits = pg_atomic_read_u64(&shared->waits);
	statistics->evictions = pg_atomic_read_u64(&shared->evictions);
	statistics->reset_at = (TimestampTz) pg_atomic_read_u64(&shared->reset_at);
}

void
level_statistics_reset(void)
{
	pg_atomic_write_u64(&shared->hits, 0);
	pg_atomic_write_u64(&shared->misses, 0);
	pg_atomic_write_u64(&shared->loads, 0);
	pg_atomic_write_u64(&shared->waits, 0);
	pg_atomic_write_u64(&shared->evictions, 0);
	pg_atomic_write_u64(&shared->reset_at, (uint64) GetCurrentTimestamp());
}

Datum
inventory_levels(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	LevelKey	key;

	inventory_check_loaded();
	InitMaterializedSRF(fcinfo, 0);
	for (int32 i = 0; i < shared->capacity; i++)
	{
		LevelSlot  *slot = &slots[i];
		Datum		values[6];
		bool		nulls[6] = {0};
		int64		stock_id = slot->key.stock_id;

		level_key(&key, stock_id);
		if (!slot->ready || !level_try_pin(slot, &key))
			continue;
		values[0] = Int64GetDatum(stock_id);
		values[1] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->on_hand));
		SpinLockAcquire(&slot->mutex);
		values[2] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->available));
		values[3] = Int64GetDatum(slot->overdue);
		SpinLockRelease(&slot->mutex);
		values[4] = TimestampTzGetDatum(level_next_expiry(slot));
		values[5] = Int32GetDatum((pg_atomic_read_u32(&slot->pins) & ~LEVEL_PIN_OWNED) - 1);
		level_unpin(slot);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}
