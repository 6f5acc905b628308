/*-------------------------------------------------------------------------
 *
 * stat.c
 *		Counters in shared memory: calls, refusals, errors and times of each
 *		operation of each database.
 *
 * A database takes one of a fixed number of slots when it is first seen, under
 * a spinlock; databases beyond that share the last one.  A slot has several copies of its counters, and
 * a backend adds to the one that its process number falls on, so that busy
 * backends seldom share a cache line.  Counters are atomics and need no lock.
 *
 * An error leaves no call to finish its counting, so the abort of the
 * (sub)transaction does that: whatever call is open then has failed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "port/pg_bitutils.h"
#include "portability/instr_time.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "inventory.h"
#include "level.h"
#include "stat.h"

#define STAT_DATABASES 32
#define STAT_COPIES 8

/* Bucket n counts times under 2^n microseconds; the last has no end. */
#define STAT_BUCKETS 24

typedef struct OperationCounters
{
	pg_atomic_uint64 refusals;
	pg_atomic_uint64 errors;
	pg_atomic_uint64 failures;	/* calls that did not return: an error each */
	pg_atomic_uint64 nanoseconds;
	pg_atomic_uint64 histogram[STAT_BUCKETS];
} OperationCounters;

typedef struct DatabaseCounters
{
	Oid			database;		/* guarded by the mutex; set once */
	OperationCounters operations[STAT_COPIES][OPERATION_COUNT];
} DatabaseCounters;

typedef struct StatShared
{
	slock_t		mutex;
	DatabaseCounters databases[STAT_DATABASES];
} StatShared;

static const char *const operation_names[] = {
	[OPERATION_RECEIVE] = "receive",
	[OPERATION_ISSUE] = "issue",
	[OPERATION_ADJUST] = "adjust",
	[OPERATION_SET_ON_HAND] = "set_on_hand",
	[OPERATION_TRANSFER] = "transfer",
	[OPERATION_REVERSE] = "reverse",
	[OPERATION_POST] = "post",
	[OPERATION_RESERVE] = "reserve",
	[OPERATION_TRY_RESERVE] = "try_reserve",
	[OPERATION_CONFIRM] = "confirm",
	[OPERATION_SHIP] = "ship",
	[OPERATION_RELEASE] = "release",
	[OPERATION_EXTEND] = "extend",
	[OPERATION_RELEASE_OWNER] = "release_owner",
	[OPERATION_EXPIRE_DUE] = "expire_due",
	[OPERATION_SUBMIT] = "submit",
	[OPERATION_SAGA] = "saga",
	[OPERATION_AVAILABLE] = "available",
	[OPERATION_ON_HAND] = "on_hand",
};

StaticAssertDecl(lengthof(operation_names) == OPERATION_COUNT,
				 "every operation has a name");

static StatShared *shared = NULL;
static DatabaseCounters *my_counters = NULL;

/* The open call of this backend. */
static bool call_open = false;
static int	call_level;			/* nesting level of transactions */
static bool call_refused = false;
static Operation call_operation;
static instr_time call_start;

PG_FUNCTION_INFO_V1(inventory_stat_operations);
PG_FUNCTION_INFO_V1(inventory_stat_levels);
PG_FUNCTION_INFO_V1(inventory_stat_reset);

const char *
operation_name(Operation operation)
{
	return operation_names[operation];
}

Size
stat_shmem_size(void)
{
	return sizeof(StatShared);
}

static void
stat_clear(DatabaseCounters *counters)
{
	for (int copy = 0; copy < STAT_COPIES; copy++)
	{
		for (int operation = 0; operation < OPERATION_COUNT; operation++)
		{
			OperationCounters *c = &counters->operations[copy][operation];

			pg_atomic_write_u64(&c->refusals, 0);
			pg_atomic_write_u64(&c->errors, 0);
			pg_atomic_write_u64(&c->failures, 0);
			pg_atomic_write_u64(&c->nanoseconds, 0);
			for (int bucket = 0; bucket < STAT_BUCKETS; bucket++)
				pg_atomic_write_u64(&c->histogram[bucket], 0);
		}
	}
}

void
stat_shmem_init(void)
{
	bool		found;

	my_counters = NULL;
	shared = ShmemInitStruct("inventory counters", stat_shmem_size(), &found);
	if (found)
		return;
	memset(shared, 0, sizeof(StatShared));
	SpinLockInit(&shared->mutex);
	for (int i = 0; i < STAT_DATABASES; i++)
		stat_clear(&shared->databases[i]);
}

static DatabaseCounters *
stat_counters(void)
{
	int			i;

	if (likely(my_counters != NULL))
		return my_counters;
	SpinLockAcquire(&shared->mutex);
	for (i = 0; i < STAT_DATABASES - 1; i++)
	{
		Oid			database = shared->databases[i].database;

		if (database == MyDatabaseId)
			break;
		if (database == InvalidOid)
		{
			shared->databases[i].database = MyDatabaseId;
			break;
		}
	}
	SpinLockRelease(&shared->mutex);
	my_counters = &shared->databases[i];
	return my_counters;
}

static OperationCounters *
stat_operation_counters(Operation operation)
{
	return &stat_counters()->operations[MyProcPid % STAT_COPIES][operation];
}

void
stat_begin(Operation operation)
{
	call_open = true;
	call_level = GetCurrentTransactionNestLevel();
	call_refused = false;
	call_operation = operation;
	INSTR_TIME_SET_CURRENT(call_start);
}

void
stat_refused(void)
{
	call_refused = true;
}

void
stat_end(void)
{
	OperationCounters *c = stat_operation_counters(call_operation);
	instr_time	elapsed;
	uint64		microseconds;
	int			bucket;

	INSTR_TIME_SET_CURRENT(elapsed);
	INSTR_TIME_SUBTRACT(elapsed, call_start);
	microseconds = INSTR_TIME_GET_MICROSEC(elapsed);
	bucket = microseconds == 0 ? 0 : pg_leftmost_one_pos64(microseconds) + 1;
	pg_atomic_fetch_add_u64(&c->histogram[Min(bucket, STAT_BUCKETS - 1)], 1);
	pg_atomic_fetch_add_u64(&c->nanoseconds,
							(uint64) (INSTR_TIME_GET_DOUBLE(elapsed) * 1e9));
	if (call_refused)
		pg_atomic_fetch_add_u64(&c->refusals, 1);
	call_open = false;
}

static void
stat_failed(void)
{
	OperationCounters *c;

	if (!call_open)
		return;
	call_open = false;
	c = stat_operation_counters(call_operation);
	pg_atomic_fetch_add_u64(&c->failures, 1);
	pg_atomic_fetch_add_u64(call_refused ? &c->refusals : &c->errors, 1);
}

static void
stat_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		stat_failed();
}

static void
stat_subxact_callback(SubXactEvent event, SubTransactionId subid,
					  SubTransactionId parent, void *arg)
{
	/* A subtransaction of the call's own is not the call. */
	if (event == SUBXACT_EVENT_ABORT_SUB &&
		GetCurrentTransactionNestLevel() <= call_level)
		stat_failed();
}

void
stat_init(void)
{
	RegisterXactCallback(stat_xact_callback, NULL);
	RegisterSubXactCallback(stat_subxact_callback, NULL);
}

/* ---- Views ---- */

typedef struct OperationTotals
{
	uint64		calls;
	uint64		refusals;
	uint64		errors;
	uint64		nanoseconds;
	uint64		histogram[STAT_BUCKETS];
} OperationTotals;

static void
stat_sum(Operation operation, OperationTotals *totals)
{
	memset(totals, 0, sizeof(OperationTotals));
	for (int copy = 0; copy < STAT_COPIES; copy++)
	{
		OperationCounters *c = &stat_counters()->operations[copy][operation];

		totals->calls += pg_atomic_read_u64(&c->failures);
		totals->refusals += pg_atomic_read_u64(&c->refusals);
		totals->errors += pg_atomic_read_u64(&c->errors);
		totals->nanoseconds += pg_atomic_read_u64(&c->nanoseconds);
		for (int bucket = 0; bucket < STAT_BUCKETS; bucket++)
		{
			uint64		n = pg_atomic_read_u64(&c->histogram[bucket]);

			totals->histogram[bucket] += n;
			totals->calls += n;
		}
	}
}

static ArrayType *
stat_histogram(const OperationTotals *totals)
{
	Datum		elements[STAT_BUCKETS];

	for (int i = 0; i < STAT_BUCKETS; i++)
		elements[i] = Int64GetDatum((int64) totals->histogram[i]);
	return construct_array(elements, STAT_BUCKETS, INT8OID, sizeof(int64),
						   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
}

Datum
inventory_stat_operations(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	inventory_check_loaded();
	InitMaterializedSRF(fcinfo, 0);
	for (int operation = 0; operation < OPERATION_COUNT; operation++)
	{
		OperationTotals totals;
		Datum		values[6];
		bool		nulls[6] = {0};

		stat_sum(operation, &totals);
		values[0] = CStringGetTextDatum(operation_names[operation]);
		values[1] = Int64GetDatum(totals.calls);
		values[2] = Int64GetDatum(totals.refusals);
		values[3] = Int64GetDatum(totals.errors);
		values[4] = Float8GetDatum(totals.nanoseconds / 1e6);
		values[5] = PointerGetDatum(stat_histogram(&totals));
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

Datum
inventory_stat_levels(PG_FUNCTION_ARGS)
{
	TupleDesc	descriptor;
	LevelStatistics s;
	Datum		values[9];
	bool		nulls[9] = {0};

	inventory_check_loaded();
	if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	level_statistics(&s);
	values[0] = Int64GetDatum(s.capacity);
	values[1] = Int64GetDatum(s.entries);
	values[2] = Int32GetDatum(s.bytes_per_entry);
	values[3] = Int64GetDatum(s.hits);
	values[4] = Int64GetDatum(s.misses);
	values[5] = Int64GetDatum(s.loads);
	values[6] = Int64GetDatum(s.waits);
	values[7] = Int64GetDatum(s.evictions);
	values[8] = TimestampTzGetDatum(s.reset_at);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(descriptor, values, nulls)));
}

Datum
inventory_stat_reset(PG_FUNCTION_ARGS)
{
	inventory_check_loaded();
	stat_clear(stat_counters());
	level_statistics_reset();
	PG_RETURN_VOID();
}
