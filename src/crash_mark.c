/*-------------------------------------------------------------------------
 *
 * crash_mark.c
 *		Which message a delivery process was at when it did not come back.
 *
 * One row per slice, written only by a process whose predecessor has not ended
 * by itself, and deleted when the message has been dealt with.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "crash_mark.h"
#include "query.h"

static void
set_key(Datum *values, int subscription_id, int slice)
{
	values[0] = Int32GetDatum(subscription_id);
	values[1] = Int32GetDatum(slice);
}

/* How often a process has been lost at the message. */
int
crash_mark_count(int subscription_id, int slice, int64 position)
{
	static Statement statement = {
		"SELECT m.crashes::bigint FROM inventory.delivery_mark m"
		" WHERE m.subscription_id = $1 AND m.slice = $2 AND m.position = $3",
		3, {INT4OID, INT4OID, INT8OID}
	};
	Datum		values[3];
	int			crashes = 0;

	set_key(values, subscription_id, slice);
	values[2] = Int64GetDatum(position);
	query_begin();
	if (query_run(&statement, values, NULL) > 0)
		crashes = (int) query_int64(0, 1);
	query_end();
	return crashes;
}

/* The message is going to be tried: until it is cleared, that is a crash. */
void
crash_mark_set(int subscription_id, int slice, int64 position)
{
	static Statement statement = {
		"INSERT INTO inventory.delivery_mark AS m (subscription_id, slice, position, crashes)"
		" VALUES ($1, $2, $3, 1) ON CONFLICT (subscription_id, slice) DO UPDATE"
		" SET crashes = CASE WHEN m.position = EXCLUDED.position THEN m.crashes + 1 ELSE 1 END,"
		" position = EXCLUDED.position",
		3, {INT4OID, INT4OID, INT8OID}
	};
	Datum		values[3];

	set_key(values, subscription_id, slice);
	values[2] = Int64GetDatum(position);
	query_begin();
	query_run(&statement, values, NULL);
	query_end();
}

void
crash_mark_clear(int subscription_id, int slice)
{
	static Statement statement = {
		"DELETE FROM inventory.delivery_mark m WHERE m.subscription_id = $1 AND m.slice = $2",
		2, {INT4OID, INT4OID}
	};
	Datum		values[2];

	set_key(values, subscription_id, slice);
	query_begin();
	query_run(&statement, values, NULL);
	query_end();
}
