/*-------------------------------------------------------------------------
 *
 * maintenance.c
 *		What has to be done now and then: event partitions ahead, old request
 *		rows away, the index on event numbers kept up, the ring of messages
 *		and the journal of cursors emptied.
 *
 * The worker calls maintenance_run() again and again; it does one piece and
 * returns, and once a minute it looks whether there is one.  maintain() does
 * all that there is, for users without workers.
 *
 * REQUESTS past their retention are found by sweeping over the table a range
 * of blocks at a time.  An index on created_at would cost every call that has
 * a request id; a BRIN index would cost next to nothing, but once rows have
 * been removed and their space used again, its ranges span all times, and a
 * range of it never narrows by itself.  The table is read once per sweep, in
 * the order in which it lies on disk, and vacuum makes the space usable again:
 * the table stays as large as the rows of the retention and of the time between
 * two sweeps.  A sweep comes once in a thirtieth of the retention, at most once
 * an hour; where it has come to is remembered by the process.
 *
 * Results of commands are swept in the same way (command.c).
 *
 * A request that is just being repeated while its row goes is a new request
 * afterwards, as it would be a moment later.
 *
 * LOCKING: the locks of make_partition() and of summarizing are ones that only
 * maintenance wants (SHARE UPDATE EXCLUSIVE); what vacuum has is left for
 * another time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/itemptr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "command.h"
#include "cursor.h"
#include "inventory.h"
#include "maintenance.h"
#include "outbox.h"
#include "partition.h"
#include "progress.h"
#include "query.h"

/* Blocks of requests looked at in one piece: 8 MB. */
#define SWEEP_BLOCKS 1024

/* Pauses between looks and between sweeps. */
#define LOOK_PAUSE USECS_PER_MINUTE
#define SWEEP_PAUSE_MIN USECS_PER_HOUR
#define SWEEPS_PER_RETENTION 30

typedef struct Sweep
{
	BlockNumber next;			/* 0: at the beginning */
	TimestampTz due;			/* when the next one begins */
	bool		commands;		/* results of commands rather than requests */
} Sweep;

int			maintenance_request_retention = 30;

PG_FUNCTION_INFO_V1(inventory_maintain);

/* ---- Partitions ahead ---- */

/* Makes the event partitions that are missing; the number of them. */
static int64
maintain_partitions(void)
{
	static Statement statement = {
		"SELECT CASE WHEN EXISTS (SELECT FROM generate_series(0, $2) AS n"
		"  WHERE to_regclass('inventory.event_'"
		"   || to_char(date_trunc('month', $1::timestamp) + n * interval '1 month', 'YYYY_MM')) IS NULL)"
		" THEN inventory.make_partitions($1, $2)::bigint ELSE 0::bigint END",
		2, {DATEOID, INT4OID}
	};
	Datum		values[2];
	TimestampTz now = clock_time();
	int64		made;

	/* Days since 2000, rounded down. */
	values[0] = DateADTGetDatum((DateADT) ((now - (now < 0 ? USECS_PER_DAY - 1 : 0)) /
										   USECS_PER_DAY));
	values[1] = Int32GetDatum(partition_months_ahead);
	query_begin();
	query_run(&statement, values, NULL);
	made = query_int64(0, 1);
	query_end();
	return made;
}

/* ---- Requests and commands ---- */

static int64
remove_requests(BlockNumber first, BlockNumber until, TimestampTz before)
{
	static Statement statement = {
		"DELETE FROM inventory.request q"
		" WHERE q.ctid >= $1 AND q.ctid < $2 AND q.created_at < $3",
		3, {TIDOID, TIDOID, TIMESTAMPTZOID}
	};
	Datum		values[3];
	ItemPointerData from;
	ItemPointerData to;
	int64		removed;

	ItemPointerSet(&from, first, 0);
	ItemPointerSet(&to, until, 0);
	values[0] = PointerGetDatum(&from);
	values[1] = PointerGetDatum(&to);
	values[2] = TimestampTzGetDatum(before);
	query_begin();
	removed = (int64) query_run(&statement, values, NULL);
	query_end();
	return removed;
}

/* What is swept; each remembers where it has come to. */
static Oid
sweep_table(const Sweep *sweep)
{
	return sweep->commands ? catalog_relations()->command_result :
		catalog_relations()->request;
}

static BlockNumber
sweep_table_blocks(const Sweep *sweep)
{
	Relation	relation;
	BlockNumber blocks;

	if (!OidIsValid(sweep_table(sweep)))
		return 0;				/* an older version of the extension */
	relation = table_open(sweep_table(sweep), AccessShareLock);
	blocks = RelationGetNumberOfBlocks(relation);
	table_close(relation, AccessShareLock);
	return blocks;
}

/* Removes what has been kept long enough from the next blocks. */
static int64
sweep_blocks(Sweep *sweep)
{
	BlockNumber until = sweep->next + SWEEP_BLOCKS;
	TimestampTz now = clock_time();
	int			days = maintenance_request_retention;

	/* A command must not be executed again (command.c): at least a day. */
	return sweep->commands ?
		command_sweep(sweep->next, until, now - Max(days, 1) * (TimestampTz) USECS_PER_DAY) :
		remove_requests(sweep->next, until, now - days * (TimestampTz) USECS_PER_DAY);
}

/*
 * Sweeps over the next blocks and adds to what was removed; true when the
 * sweep has come to the end.
 */
static bool
sweep_step(Sweep *sweep, int64 *removed)
{
	BlockNumber blocks = sweep_table_blocks(sweep);

	if (maintenance_request_retention < 0)
		return true;
	if (sweep->next < blocks)
	{
		*removed += sweep_blocks(sweep);
		sweep->next += SWEEP_BLOCKS;
	}
	if (sweep->next < blocks)
		return false;
	sweep->next = 0;
	return true;
}

/* ---- The journal of cursors ---- */

static int64
maintain_cursors(void)
{
	int64		emptied = 0;

	/* Either of the two at most once. */
	while (emptied < 2 && cursor_maintain() > 0)
		emptied++;
	return emptied;
}

/* ---- The index on event numbers ---- */

/*
 * Summarizes what was added to a BRIN index of a partition; the number of its
 * ranges, 0 when somebody else (vacuum) is at the partition.
 */
static int64
summarize(Oid partition, Oid index)
{
	static Statement statement = {
		"SELECT pg_catalog.brin_summarize_new_values($1)::bigint",
		1, {REGCLASSOID}
	};
	Datum		values[1];
	int64		ranges;

	if (!ConditionalLockRelationOid(partition, ShareUpdateExclusiveLock))
		return 0;
	values[0] = ObjectIdGetDatum(index);
	query_begin();
	query_run(&statement, values, NULL);
	ranges = query_int64(0, 1);
	query_end();
	UnlockRelationOid(partition, ShareUpdateExclusiveLock);
	return ranges;
}

/* Events arrive in this month's partition, and at its turn in the last one's. */
static int64
maintain_indexes(void)
{
	static Statement statement = {
		"SELECT i.indrelid, i.indexrelid"
		" FROM pg_index i"
		" JOIN pg_class c ON c.oid = i.indexrelid"
		" JOIN pg_am a ON a.oid = c.relam"
		" WHERE a.amname = 'brin' AND i.indisvalid AND i.indrelid IN ("
		"  SELECT to_regclass('inventory.event_' || to_char(at AT TIME ZONE 'UTC', 'YYYY_MM'))"
		"  FROM unnest(ARRAY[$1, $1 - interval '1 day']) AS at)",
		1, {TIMESTAMPTZOID}
	};
	Datum		values[1];
	Oid			(*found)[2];
	int			count;
	int64		ranges = 0;
	MemoryContext caller = CurrentMemoryContext;

	values[0] = TimestampTzGetDatum(clock_time());
	query_begin();
	count = (int) query_run(&statement, values, NULL);
	found = MemoryContextAlloc(caller, Max(count, 1) * sizeof(*found));
	for (int i = 0; i < count; i++)
	{
		bool		isnull;

		found[i][0] = DatumGetObjectId(query_value(i, 1, &isnull));
		found[i][1] = DatumGetObjectId(query_value(i, 2, &isnull));
	}
	query_end();
	for (int i = 0; i < count; i++)
		ranges += summarize(found[i][0], found[i][1]);
	pfree(found);
	return ranges;
}

/* ---- Messages ---- */

static int64
maintain_messages(void)
{
	int64		done = 0;

	while (outbox_empty() > 0)
		done++;
	return done + outbox_close();
}

/* ---- The worker's piece ---- */

static TimestampTz
sweep_pause(void)
{
	return Max(SWEEP_PAUSE_MIN, maintenance_request_retention *
			   (TimestampTz) USECS_PER_DAY / SWEEPS_PER_RETENTION);
}

int64
maintenance_run(void)
{
	static TimestampTz look_due = 0;
	static Sweep sweeps[] = {{.commands = false}, {.commands = true}};
	TimestampTz now = GetCurrentTimestamp();
	int64		removed = 0;

	if (cursor_maintain() > 0 || outbox_empty() > 0 || outbox_close() > 0)
		return 1;
	if (now >= look_due)
	{
		look_due = now + LOOK_PAUSE;
		return maintain_partitions() + maintain_indexes();
	}
	for (int i = 0; i < lengthof(sweeps); i++)
	{
		if (now < sweeps[i].due)
			continue;
		if (!sweep_step(&sweeps[i], &removed))
			return removed + 1; /* there is more to look at */
		sweeps[i].due = now + sweep_pause();
	}
	return removed;
}

/* ---- All of it, for users ---- */

static void
report(ReturnSetInfo *result, const char *task, int64 done)
{
	Datum		values[2] = {CStringGetTextDatum(task), Int64GetDatum(done)};
	bool		nulls[2] = {false, false};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static int64
sweep_all(const char *phase, bool commands)
{
	Sweep		sweep = {.commands = commands};
	int64		removed = 0;

	progress_phase(phase, sweep_table_blocks(&sweep));
	while (!sweep_step(&sweep, &removed))
	{
		progress_done(SWEEP_BLOCKS);
		CHECK_FOR_INTERRUPTS();
	}
	return removed;
}

Datum
inventory_maintain(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	inventory_check_writable("maintain");
	InitMaterializedSRF(fcinfo, 0);
	progress_begin("maintain");
	progress_phase("partitions", 0);
	report(result, "partitions made", maintain_partitions());
	report(result, "requests removed", sweep_all("requests", false));
	report(result, "commands removed", sweep_all("commands", true));
	progress_phase("cursors", 0);
	report(result, "journals of cursors emptied", maintain_cursors());
	progress_phase("index ranges", 0);
	report(result, "index ranges summarized", maintain_indexes());
	progress_phase("messages", 0);
	report(result, "message tables closed or emptied", maintain_messages());
	progress_end();
	return (Datum) 0;
}
