/*-------------------------------------------------------------------------
 *
 * delivery_slot.h
 *		What sessions, workers and delivery processes know of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_DELIVERY_SLOT_H
#define INVENTORY_DELIVERY_SLOT_H

#include "datatype/timestamp.h"
#include "storage/lwlock.h"

#define DELIVERY_ERROR_LENGTH 256

/* Setting: delivery processes in the server. */
extern int	delivery_max;

typedef enum DeliveryState
{
	DELIVERY_STOPPED,			/* paused, finished, or the server has no process */
	DELIVERY_IDLE,
	DELIVERY_RUNNING,
	DELIVERY_BACKOFF,			/* the sink is down */
	DELIVERY_BROKEN,			/* wrong configuration, missing handler */
	DELIVERY_CRASHED,			/* the process failed and will be started again */
	DELIVERY_NO_PROCESS,		/* no free worker process */
} DeliveryState;

/*
 * One slice of one subscription.  Guarded by the lock; the process alone writes
 * what it shows.
 */
typedef struct DeliverySlot
{
	Oid			database;		/* InvalidOid: free */
	int			subscription_id;
	int			slice;
	bool		wanted;			/* is to have a process, says the worker */
	int64		generation;		/* of the subscription, as the worker saw it */
	Oid			owner;			/* likewise */
	int			pid;			/* 0: no process */
	int			failures;		/* processes in a row that failed soon */
	bool		clean;			/* the process before has left by itself */
	TimestampTz next_start;
	TimestampTz started_at;

	/* What it shows, since the start of the server. */
	DeliveryState state;
	int64		delivered;
	int64		failed;			/* attempts */
	int64		parked;			/* messages that were parked, deferred ones too */
	int64		dead;
	int64		windows;
	int64		backlog;		/* of the open window */
	int64		looked_number;	/* last number given when it last looked; 0: never */
	int64		position;
	int64		delivery_us;	/* time spent in the sink */
	int64		delivery_us_max;	/* of one batch */
	TimestampTz behind_since;	/* of the oldest message not delivered; 0: none */
	TimestampTz last_delivered_at;
	TimestampTz last_error_at;
	TimestampTz retry_at;		/* when the sink is tried again; 0: it is up */
	char		last_error[DELIVERY_ERROR_LENGTH];
} DeliverySlot;

extern Size delivery_shmem_size(void);
extern void delivery_shmem_request_locks(void);
extern void delivery_shmem_init(void);
extern void delivery_slot_init(void);

/* NULL when the library was not preloaded. */
extern DeliverySlot *delivery_slots;

extern void deliveries_lock(LWLockMode mode);
extern void deliveries_unlock(void);

/* With the lock held; -1 if there is none. */
extern int	delivery_slot_find(Oid database, int subscription_id, int slice);
extern int	delivery_slot_take(Oid database, int subscription_id, int slice);
extern void delivery_slot_free(int index);

/* Those of a database that has gone, or does not have the extension any more. */
extern void delivery_slots_free(Oid database);

/* The process's side of waking. */
extern void delivery_claim_latch(int index, uint32 interest);
extern void delivery_release_latch(int index);
extern bool delivery_take_work(int index);
extern bool delivery_has_work(int index);
extern void delivery_set_latch(int index);
extern void delivery_ring(int index);

/* This transaction has written something that subscriptions may want: bits as
 * in topic.h.  For those who write messages. */
extern void delivery_written(uint32 bits);

/* Subscriptions have been changed by this transaction: the worker looks at them
 * when it commits. */
extern void delivery_changed(void);

/* Time has moved. */
extern void delivery_wake_all(void);

#endif							/* INVENTORY_DELIVERY_SLOT_H */
