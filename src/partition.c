/*-------------------------------------------------------------------------
 *
 * partition.c
 *		The monthly partitions of the event table.
 *
 * Whoever writes the first event of a month in its session looks whether the
 * months ahead are there, and makes those that are missing.  Making them takes
 * a lock that only another maker wants, so a session that does not get it at
 * once leaves it to the other one.  Only if the present month itself is missing
 * (nothing was written for months) everybody waits for the first; callers get
 * here before they lock any stock item, so nobody waits in a circle.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "port/atomics.h"
#include "storage/lmgr.h"
#include "storage/shmem.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "partition.h"
#include "query.h"
#include "tick.h"

/* Column, as the install script has it. */
#define EVENT_XID 14

/* Partitions share so many entries. */
#define WRITTEN_ENTRIES 256

/*
 * The last transaction that wrote events into a partition.  It is noted before
 * the transaction can commit, so who sees its events sees the note.
 */
typedef struct PartitionShared
{
	pg_atomic_uint64 noted_from;	/* transactions from here on; 0: unknown */
	pg_atomic_uint64 written[WRITTEN_ENTRIES];
} PartitionShared;

static PartitionShared *shared = NULL;

int			partition_months_ahead = 3;

/* The partition last used, valid until the event table changes. */
static Oid	cached_partition = InvalidOid;
static TimestampTz cached_from;
static TimestampTz cached_until;

Size
partition_shmem_size(void)
{
	return sizeof(PartitionShared);
}

void
partition_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("inventory partitions", partition_shmem_size(), &found);
	if (found)
		return;
	pg_atomic_init_u64(&shared->noted_from, 0);
	for (int i = 0; i < WRITTEN_ENTRIES; i++)
		pg_atomic_init_u64(&shared->written[i], 0);
}

/* By its number alone: a clone of a database has its partitions, and their events. */
static pg_atomic_uint64 *
partition_entry(Oid partition)
{
	return &shared->written[murmurhash32(partition) % WRITTEN_ENTRIES];
}

/* This transaction has inserted an event into the partition. */
void
partition_written(Oid partition)
{
	static Oid	last_partition = InvalidOid;
	static uint64 last_xid = 0;
	uint64		xid = U64FromFullTransactionId(GetTopFullTransactionId());
	pg_atomic_uint64 *entry;
	uint64		current;

	if (xid == last_xid && partition == last_partition)
		return;
	entry = partition_entry(partition);
	current = pg_atomic_read_u64(entry);
	while (current < xid && !pg_atomic_compare_exchange_u64(entry, &current, xid))
		;
	last_xid = xid;
	last_partition = partition;
}

/* Rows may have come in without a note; those from now on have one. */
void
partition_restart_notes(void)
{
	pg_atomic_write_u64(&shared->noted_from,
						U64FromFullTransactionId(ReadNextFullTransactionId()));
}

/* What a partition held when its transactions began to be noted. */
typedef struct PartitionFound
{
	Oid			partition;
	uint64		noted_from;
	uint64		last_xid;		/* or a later one */
} PartitionFound;

/* The last transaction of this cluster with a row, dead or alive, in an index. */
static uint64
last_xid_in(Oid partition, Oid xid_index)
{
	Relation	relation = try_relation_open(partition, AccessShareLock);
	Relation	index;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	bool		isnull;
	uint64		xid = 0;

	if (relation == NULL)
		return 0;				/* archived and dropped */
	index = index_open(xid_index, AccessShareLock);
	/* Those of another cluster are after all others in the index: see tick.h. */
	ScanKeyInit(&key, EVENT_XID, BTLessEqualStrategyNumber, F_XID8LE,
				UInt64GetDatum(XID_LAST));
	scan = systable_beginscan_ordered(relation, index, SnapshotAny, 1, &key);
	tuple = systable_getnext_ordered(scan, BackwardScanDirection);
	if (HeapTupleIsValid(tuple))
		xid = DatumGetInt64(heap_getattr(tuple, EVENT_XID, RelationGetDescr(relation),
										 &isnull));
	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	relation_close(relation, AccessShareLock);
	return xid;
}

/* Looks once per session. */
static uint64
last_xid_before_notes(Oid partition, Oid xid_index, uint64 noted_from)
{
	static HTAB *found_before = NULL;
	HASHCTL		control = {.keysize = sizeof(Oid), .entrysize = sizeof(PartitionFound)};
	PartitionFound *entry;
	uint64		last_xid;

	if (found_before == NULL)
		found_before = hash_create("inventory partitions found", 64, &control,
								   HASH_ELEM | HASH_BLOBS);
	entry = hash_search(found_before, &partition, HASH_FIND, NULL);
	if (entry && entry->noted_from == noted_from)
		return entry->last_xid;
	last_xid = last_xid_in(partition, xid_index);
	entry = hash_search(found_before, &partition, HASH_ENTER, NULL);
	entry->noted_from = noted_from;
	entry->last_xid = last_xid;
	return last_xid;
}

/*
 * Whether all events in the partition are of transactions before this one.
 * Transactions are noted since the server started to write; what there was
 * before is looked for once.  On a standby nothing is noted, so nothing is known.
 */
bool
partition_is_older(Oid partition, Oid xid_index, uint64 xid)
{
	uint64		noted_from;

	if (RecoveryInProgress() || xid_precedes(xid, 0))
		return false;
	if (pg_atomic_read_u64(&shared->noted_from) == 0)
		partition_restart_notes();
	noted_from = pg_atomic_read_u64(&shared->noted_from);
	if (pg_atomic_read_u64(partition_entry(partition)) >= xid)
		return false;
	return xid >= noted_from ||
		last_xid_before_notes(partition, xid_index, noted_from) < xid;
}

static void
partition_forget(Datum arg, Oid relation_id)
{
	cached_partition = InvalidOid;
}

/* The first day of a moment's month and of the one after it, in UTC. */
static void
partition_bounds(TimestampTz at, DateADT *first, DateADT *next)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	*first = date2j(tm.tm_year, tm.tm_mon, 1) - POSTGRES_EPOCH_JDATE;
	*next = (tm.tm_mon == 12 ? date2j(tm.tm_year + 1, 1, 1) :
			 date2j(tm.tm_year, tm.tm_mon + 1, 1)) - POSTGRES_EPOCH_JDATE;
}

static Oid
partition_find(Relation event, TimestampTz at)
{
	PartitionKey key = RelationGetPartitionKey(event);
	PartitionDesc partitions = RelationGetPartitionDesc(event, true);
	PartitionBoundInfo bounds = partitions->boundinfo;
	Datum		value = TimestampTzGetDatum(at);
	bool		equal;
	int			offset;
	int			index;

	if (partitions->nparts == 0)
		return InvalidOid;
	offset = partition_range_datum_bsearch(key->partsupfunc, key->partcollation,
										   bounds, 1, &value, &equal);
	index = bounds->indexes[offset + 1];
	return index < 0 ? InvalidOid : partitions->oids[index];
}

static void
partition_make(DateADT first)
{
	static Statement statement = {
		"SELECT inventory.make_partitions($1, $2)",
		2, {DATEOID, INT4OID}
	};
	Datum		values[2];

	values[0] = DateADTGetDatum(first);
	values[1] = Int32GetDatum(partition_months_ahead);
	query_begin();
	query_run(&statement, values, NULL);
	query_end();
}

/* Makes the months ahead, unless somebody else does or it must wait. */
static void
partition_look_ahead(Oid event_id, TimestampTz at, DateADT first)
{
	Relation	event = table_open(event_id, RowExclusiveLock);
	TimestampTz ahead = at + (TimestampTz) partition_months_ahead * 28 * USECS_PER_DAY;
	bool		missing = !OidIsValid(partition_find(event, ahead));
	bool		busy = event->rd_refcnt > 1 || AfterTriggerPendingOnRel(event_id);

	table_close(event, NoLock);
	if (missing && !busy &&
		ConditionalLockRelationOid(event_id, ShareUpdateExclusiveLock))
		partition_make(first);
}

/*
 * The partition that an event recorded at this moment goes into; made if it
 * is missing.
 */
Oid
partition_for(TimestampTz recorded_at)
{
	static bool registered = false;
	Oid			event_id = catalog_relations()->event;
	Relation	event;
	DateADT		first;
	DateADT		next;
	Oid			partition;

	if (OidIsValid(cached_partition) && recorded_at >= cached_from &&
		recorded_at < cached_until)
		return cached_partition;
	if (!registered)
	{
		CacheRegisterRelcacheCallback(partition_forget, (Datum) 0);
		registered = true;
	}

	partition_bounds(recorded_at, &first, &next);
	event = table_open(event_id, RowExclusiveLock);
	partition = partition_find(event, recorded_at);
	table_close(event, NoLock);
	if (OidIsValid(partition))
		partition_look_ahead(event_id, recorded_at, first);
	else
		partition_make(first);

	event = table_open(event_id, RowExclusiveLock);
	partition = partition_find(event, recorded_at);
	table_close(event, NoLock);
	if (!OidIsValid(partition))
		elog(ERROR, "no partition of the event table for %s",
			 timestamptz_to_str(recorded_at));
	cached_partition = partition;
	cached_from = (TimestampTz) first * USECS_PER_DAY;
	cached_until = (TimestampTz) next * USECS_PER_DAY;
	return partition;
}
