/*-------------------------------------------------------------------------
 *
 * rebuild.c
 *		Repairing what is kept from the events.
 *
 * Stock rows and snapshots are repaired by SQL (sql/rebuild.sql), under the
 * projection lock, so that no tick comes in between.  Then each stock item
 * that was wrong is locked against movements until the end of the transaction,
 * and its level is computed anew from the repaired row: nobody may move the
 * item, or load its level from the row as it was, before the repair is
 * committed.  An event remembers what was changed.
 *
 * LOCKING: the projection lock, then work locks, exclusively, in the order in
 * which all calls take them (level.c).  Whoever holds a work lock never waits
 * for the projection lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "event.h"
#include "inventory.h"
#include "level.h"
#include "lock.h"
#include "progress.h"
#include "query.h"

typedef struct Repair
{
	int64		stock_id;		/* first: sorted by level_compare_places() */
	Jsonb	   *changes;
} Repair;

PG_FUNCTION_INFO_V1(inventory_rebuild);

/* Repairs the tables; returns what was wrong, in the order of locking. */
static Repair *
rebuild_tables(Datum sku, bool all, int *count)
{
	static Statement statement = {
		"SELECT r.stock_id, r.changes FROM inventory.rebuild_tables($1) r",
		1, {TEXTOID}
	};
	MemoryContext caller = CurrentMemoryContext;
	Repair	   *repairs;

	query_begin();
	*count = (int) query_run(&statement, &sku, all ? "n" : " ");
	repairs = MemoryContextAllocHuge(caller, Max(*count, 1) * sizeof(Repair));
	for (int i = 0; i < *count; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(caller);
		bool		isnull;

		repairs[i].stock_id = query_int64(i, 1);
		repairs[i].changes = DatumGetJsonbPCopy(query_value(i, 2, &isnull));
		MemoryContextSwitchTo(old);
	}
	query_end();
	qsort(repairs, *count, sizeof(Repair), level_compare_places);
	return repairs;
}

static void
rebuild_record(const Repair *repairs, int count)
{
	EventWriter writer;

	event_writer_begin(&writer);
	for (int i = 0; i < count; i++)
	{
		EventNote	note = {.metadata = repairs[i].changes};
		Event		event = {
			.event_id = event_next_id(),
			.stock_id = repairs[i].stock_id,
			.type = EVENT_REBUILD,
			.note = &note,
		};

		event_write(&writer, &event);
	}
	event_writer_end(&writer);
}

Datum
inventory_rebuild(PG_FUNCTION_ARGS)
{
	bool		all = PG_ARGISNULL(0);
	Repair	   *repairs;
	int			count;

	inventory_check_writable("rebuild");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("%s must run in a READ COMMITTED transaction", "rebuild()")));
	progress_begin("rebuild");
	event_prepare();
	engine_lock(ENGINE_LOCK_PROJECTION, 0, ExclusiveLock, true);
	repairs = rebuild_tables(all ? (Datum) 0 : PG_GETARG_DATUM(0), all, &count);

	progress_phase("reloading levels", count);
	for (int i = 0; i < count; i++)
	{
		level_reload(repairs[i].stock_id);
		progress_done(1);
		CHECK_FOR_INTERRUPTS();
	}
	if (count > 0)
		rebuild_record(repairs, count);
	progress_end();
	PG_RETURN_INT64(count);
}
