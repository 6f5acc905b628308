/*-------------------------------------------------------------------------
 *
 * delivery_slot.c
 *		What sessions, workers and delivery processes know of each other.
 *
 * Shared memory has one slot per slice of a subscription, and a bell for each:
 * a cache line that says which messages the process cares for.  A commit looks
 * at the bells of its database and sets the latch of a process only if it cares
 * for what was written and has not been told already.  Sessions never NOTIFY:
 * that takes a lock of the whole server at commit.
 *
 * LOCKING: one LWLock guards the slots.  Bells are single words.  A process
 * clears its bell before it looks for messages, and what is committed after that
 * rings it again: nothing is missed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/memutils.h"

#include "compat.h"
#include "delivery_slot.h"
#include "slot.h"

#define DELIVERY_TRANCHE "inventory_delivery"

#define NOBODY PG_UINT32_MAX

typedef struct Bell
{
	pg_atomic_uint32 database;
	pg_atomic_uint32 process;	/* number of the process, or NOBODY */
	pg_atomic_uint32 interest;
	pg_atomic_uint32 work;		/* 1: there may be messages */
	char		padding[PG_CACHE_LINE_SIZE - 4 * 4];
} Bell;

StaticAssertDecl(sizeof(Bell) == PG_CACHE_LINE_SIZE,
				 "a bell has a cache line of its own");

typedef struct DeliveriesShared
{
	pg_atomic_uint32 changes;	/* of the bells' databases */
	bool		crashed;		/* the server has not been shut down properly */
	DeliverySlot slots[FLEXIBLE_ARRAY_MEMBER];
} DeliveriesShared;

int			delivery_max = 64;
DeliverySlot *delivery_slots = NULL;

static DeliveriesShared *shared = NULL;
static Bell *bells = NULL;
static LWLock *lock = NULL;

/* Of the present transaction. */
static uint32 written = 0;
static bool changed = false;

/* The bells of this database, as of a count of changes. */
static int *my_bells = NULL;
static int	my_bell_count = 0;
static uint32 my_bells_of = PG_UINT32_MAX;

/* ---- Shared memory ---- */

static Size
slots_size(void)
{
	return add_size(offsetof(DeliveriesShared, slots),
					mul_size(delivery_max, sizeof(DeliverySlot)));
}

static Size
bells_size(void)
{
	return mul_size(delivery_max, sizeof(Bell));
}

Size
delivery_shmem_size(void)
{
	return add_size(MAXALIGN(slots_size()), MAXALIGN(bells_size()));
}

void
delivery_shmem_request_locks(void)
{
	RequestNamedLWLockTranche(DELIVERY_TRANCHE, 1);
}

/* At the start of the postmaster, and when it starts anew after a crash. */
static bool
server_has_crashed(void)
{
	bool		valid;
	ControlFileData *control = get_controlfile(DataDir, &valid);
	bool		clean = valid && (control->state == DB_SHUTDOWNED ||
								  control->state == DB_SHUTDOWNED_IN_RECOVERY);

	pfree(control);
	return !clean;
}

void
delivery_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("inventory deliveries", slots_size(), &found);
	bells = ShmemInitStruct("inventory delivery bells", bells_size(), &found);
	delivery_slots = shared->slots;
	lock = &GetNamedLWLockTranche(DELIVERY_TRANCHE)[0].lock;
	if (found)
		return;
	memset(shared, 0, slots_size());
	shared->crashed = server_has_crashed();
	pg_atomic_init_u32(&shared->changes, 0);
	for (int i = 0; i < delivery_max; i++)
	{
		pg_atomic_init_u32(&bells[i].database, InvalidOid);
		pg_atomic_init_u32(&bells[i].process, NOBODY);
		pg_atomic_init_u32(&bells[i].interest, 0);
		pg_atomic_init_u32(&bells[i].work, 0);
	}
}

/* ---- Slots ---- */

void
deliveries_lock(LWLockMode mode)
{
	LWLockAcquire(lock, mode);
}

void
deliveries_unlock(void)
{
	LWLockRelease(lock);
}

int
delivery_slot_find(Oid database, int subscription_id, int slice)
{
	for (int i = 0; i < delivery_max; i++)
	{
		if (delivery_slots[i].database == database &&
			delivery_slots[i].subscription_id == subscription_id &&
			delivery_slots[i].slice == slice)
			return i;
	}
	return -1;
}

/* The slot, which may be a new one. */
int
delivery_slot_take(Oid database, int subscription_id, int slice)
{
	int			index = delivery_slot_find(database, subscription_id, slice);
	DeliverySlot *slot;

	if (index >= 0)
		return index;
	for (index = 0; index < delivery_max; index++)
	{
		if (!OidIsValid(delivery_slots[index].database))
			break;
	}
	if (index == delivery_max)
		return -1;
	slot = &delivery_slots[index];
	memset(slot, 0, sizeof(DeliverySlot));
	slot->database = database;
	slot->subscription_id = subscription_id;
	slot->slice = slice;
	slot->clean = !shared->crashed;
	return index;
}

void
delivery_slot_free(int index)
{
	Assert(delivery_slots[index].pid == 0);
	delivery_slots[index].database = InvalidOid;
}

void
delivery_slots_free(Oid database)
{
	deliveries_lock(LW_EXCLUSIVE);
	for (int i = 0; i < delivery_max; i++)
	{
		if (delivery_slots[i].database == database && delivery_slots[i].pid == 0)
			delivery_slot_free(i);
	}
	deliveries_unlock();
}

/* ---- Bells ---- */

void
delivery_set_latch(int index)
{
	uint32		process = pg_atomic_read_u32(&bells[index].process);

	if (process != NOBODY)
		SetLatch(&ProcGlobal->allProcs[process].procLatch);
}

/* A new process does not know what there is. */
void
delivery_claim_latch(int index, uint32 interest)
{
	pg_atomic_write_u32(&bells[index].work, 1);
	pg_atomic_write_u32(&bells[index].interest, interest);
	pg_atomic_write_u32(&bells[index].database, MyDatabaseId);
	pg_atomic_write_u32(&bells[index].process, COMPAT_MY_PROCESS_NUMBER);
	pg_atomic_fetch_add_u32(&shared->changes, 1);
}

void
delivery_release_latch(int index)
{
	pg_atomic_write_u32(&bells[index].process, NOBODY);
	pg_atomic_write_u32(&bells[index].database, InvalidOid);
	pg_atomic_fetch_add_u32(&shared->changes, 1);
}

/* The process is going to look, and finds what was committed before this call. */
bool
delivery_take_work(int index)
{
	return pg_atomic_exchange_u32(&bells[index].work, 0) != 0;
}

bool
delivery_has_work(int index)
{
	return pg_atomic_read_u32(&bells[index].work) != 0;
}

/* There is something to look at, although no message. */
void
delivery_ring(int index)
{
	pg_atomic_write_u32(&bells[index].work, 1);
	delivery_set_latch(index);
}

void
delivery_wake_all(void)
{
	for (int i = 0; i < delivery_max; i++)
		delivery_set_latch(i);
}

/* ---- The sessions ---- */

void
delivery_written(uint32 bits)
{
	written |= bits;
}

void
delivery_changed(void)
{
	changed = true;
}

/* No memory is taken here: this is done at a commit. */
static void
find_my_bells(uint32 changes)
{
	my_bell_count = 0;
	for (int i = 0; i < delivery_max; i++)
	{
		if (pg_atomic_read_u32(&bells[i].database) == MyDatabaseId)
			my_bells[my_bell_count++] = i;
	}
	my_bells_of = changes;
}

static void
ring(uint32 bits)
{
	uint32		changes = pg_atomic_read_u32(&shared->changes);

	if (changes != my_bells_of)
		find_my_bells(changes);
	for (int i = 0; i < my_bell_count; i++)
	{
		Bell	   *bell = &bells[my_bells[i]];

		if ((pg_atomic_read_u32(&bell->interest) & bits) == 0 ||
			pg_atomic_read_u32(&bell->work) != 0)
			continue;
		if (pg_atomic_exchange_u32(&bell->work, 1) == 0)
			delivery_set_latch(my_bells[i]);
	}
}

static void
delivery_xact_callback(XactEvent event, void *arg)
{
	if (likely(written == 0 && !changed))
		return;
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (my_bells == NULL)
				my_bells = MemoryContextAlloc(TopMemoryContext,
											  delivery_max * sizeof(int));
			return;
		case XACT_EVENT_COMMIT:
			/* Leaving the array of running transactions was a memory barrier. */
			if (written != 0 && my_bells != NULL)
				ring(written);
			if (changed)
				slot_ask(TASK_DELIVERY);
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			break;
		default:
			return;
	}
	written = 0;
	changed = false;
}

void
delivery_slot_init(void)
{
	RegisterXactCallback(delivery_xact_callback, NULL);
}
