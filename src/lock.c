/*-------------------------------------------------------------------------
 *
 * lock.c
 *		The extension's own space of heavyweight locks.
 *
 * They are advisory locks with a last field (objsubid in pg_locks) that SQL's
 * advisory lock functions never use.  Being heavyweight locks, they come with
 * deadlock detection, lock_timeout, cancellation, and release at the end of
 * the (sub)transaction that took them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "compat.h"
#include "lock.h"

static void
engine_lock_tag(LOCKTAG *tag, EngineLockClass lock_class, uint64 id)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (id >> 32), (uint32) id,
						 lock_class);
}

/*
 * Takes a lock until the end of the transaction.  Returns false only if it is
 * not to wait and would have to.
 */
bool
engine_lock(EngineLockClass lock_class, uint64 id, LOCKMODE mode, bool wait)
{
	LOCKTAG		tag;

	engine_lock_tag(&tag, lock_class, id);
	return LockAcquire(&tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * Takes a lock until the process ends; false if somebody else has it.
 */
bool
engine_lock_session(EngineLockClass lock_class, uint64 id)
{
	LOCKTAG		tag;

	engine_lock_tag(&tag, lock_class, id);
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* Whether this process has it exclusively: pg_advisory_unlock_all() takes a session's. */
bool
engine_lock_is_held(EngineLockClass lock_class, uint64 id)
{
	LOCKTAG		tag;

	engine_lock_tag(&tag, lock_class, id);
	return compat_lock_held_by_me(&tag, ExclusiveLock);
}

void
engine_unlock(EngineLockClass lock_class, uint64 id, LOCKMODE mode)
{
	LOCKTAG		tag;

	engine_lock_tag(&tag, lock_class, id);
	LockRelease(&tag, mode, false);
}
