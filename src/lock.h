/*-------------------------------------------------------------------------
 *
 * lock.h
 *		The extension's own space of heavyweight locks.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_LOCK_H
#define INVENTORY_LOCK_H

#include "storage/lock.h"

typedef enum EngineLockClass
{
	ENGINE_LOCK_WORK = 0x4956,	/* transactions that move a stock item: shared;
								 * counting it: exclusive; until commit */
	ENGINE_LOCK_LOAD,			/* computing one level; released at once */
	ENGINE_LOCK_OWNER,			/* looking for an owner's holds and adding to
								 * them; released at once */
	ENGINE_LOCK_TREE,			/* changing the tree of locations; until commit */
	ENGINE_LOCK_PROJECTION,		/* writing stock rows, ticks, snapshots; until
								 * commit */
	ENGINE_LOCK_WORKER,			/* being the database's worker; until its end */
	ENGINE_LOCK_SUBSCRIPTION,	/* delivering: shared; changing the subscription or
								 * its cursors: exclusive; until commit */
	ENGINE_LOCK_DELIVERY,		/* being the one who delivers a slice; until the
								 * process or the transaction ends */
	ENGINE_LOCK_REQUEST,		/* recording a request after its effect; released at
								 * once */
} EngineLockClass;

/* Stock items share this many work locks, so that no transaction holds more. */
#define ENGINE_LOCK_STRIPES 1024

extern bool engine_lock(EngineLockClass lock_class, uint64 id, LOCKMODE mode,
						bool wait);
extern bool engine_lock_session(EngineLockClass lock_class, uint64 id);
extern bool engine_lock_is_held(EngineLockClass lock_class, uint64 id);
extern void engine_unlock(EngineLockClass lock_class, uint64 id, LOCKMODE mode);

#endif							/* INVENTORY_LOCK_H */
