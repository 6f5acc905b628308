/*-------------------------------------------------------------------------
 *
 * clock.c
 *		The only source of time, so that tests can set it.
 *
 * The test clock is one atomic in shared memory, for the whole server.  Zero
 * means that there is none and the wall clock counts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "port/atomics.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "inventory.h"
#include "worker.h"

static pg_atomic_uint64 *test_clock = NULL;

/* The time of the current transaction, and whose it is. */
static LocalTransactionId transaction_time_of = InvalidLocalTransactionId;
static TimestampTz transaction_time;

PG_FUNCTION_INFO_V1(inventory_clock_time);
PG_FUNCTION_INFO_V1(inventory_transaction_time);
PG_FUNCTION_INFO_V1(inventory_set_test_clock);

Size
clock_shmem_size(void)
{
	return sizeof(pg_atomic_uint64);
}

void
clock_shmem_init(void)
{
	bool		found;

	test_clock = ShmemInitStruct("inventory clock", clock_shmem_size(), &found);
	if (!found)
		pg_atomic_init_u64(test_clock, 0);
}

static TimestampTz
clock_test_time(void)
{
	return (TimestampTz) pg_atomic_read_u64(test_clock);
}

TimestampTz
clock_time(void)
{
	TimestampTz at = clock_test_time();

	return at != 0 ? at : GetCurrentTimestamp();
}

/*
 * What this transaction writes as recorded_at: the same value throughout.
 */
TimestampTz
clock_transaction_time(void)
{
	LocalTransactionId current = COMPAT_LOCAL_TRANSACTION_ID;

	if (transaction_time_of != current || current == InvalidLocalTransactionId)
	{
		TimestampTz at = clock_test_time();

		transaction_time = at != 0 ? at : GetCurrentTransactionStartTimestamp();
		transaction_time_of = current;
	}
	return transaction_time;
}

Datum
inventory_clock_time(PG_FUNCTION_ARGS)
{
	inventory_check_loaded();
	PG_RETURN_TIMESTAMPTZ(clock_time());
}

Datum
inventory_transaction_time(PG_FUNCTION_ARGS)
{
	inventory_check_loaded();
	PG_RETURN_TIMESTAMPTZ(clock_transaction_time());
}

Datum
inventory_set_test_clock(PG_FUNCTION_ARGS)
{
	inventory_check_loaded();
	if (PG_ARGISNULL(0))
		pg_atomic_write_u64(test_clock, 0);
	else
	{
		TimestampTz at = PG_GETARG_TIMESTAMPTZ(0);

		if (TIMESTAMP_NOT_FINITE(at) || at == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the test clock cannot be set to this moment")));
		pg_atomic_write_u64(test_clock, (uint64) at);
	}
	worker_wake_all();
	PG_RETURN_VOID();
}
