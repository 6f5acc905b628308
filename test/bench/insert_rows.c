/*
 * insert_rows.c
 *		The bare insertion of the rows that a reservation is made of.
 *
 * A yardstick for the engine: the three rows go into the tables of plain.sql
 * the way logical replication applies rows, without parser, planner and
 * executor nodes.  No code is looked up, nothing is counted.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_enum.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(insert_rows);

static Oid	request_table;
static Oid	reservation_table;
static Oid	event_partition;
static Oid	reservation_sequence;
static Oid	event_sequence;
static Oid	held;
static Oid	reserve;

static Oid
enum_value(const char *type, const char *label)
{
	Oid			schema = get_namespace_oid("inventory", false);
	Oid			type_oid = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
										   CStringGetDatum(type),
										   ObjectIdGetDatum(schema));

	return GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid,
						   ObjectIdGetDatum(type_oid),
						   CStringGetDatum(label));
}

static void
look_up(void)
{
	Oid			schema = get_namespace_oid("plain", false);
	pg_time_t	now = timestamptz_to_time_t(GetCurrentTransactionStartTimestamp());
	char		partition[NAMEDATALEN];

	/* the same partition throughout: runs are short, and months are long */
	pg_strftime(partition, sizeof(partition), "event_%Y_%m", pg_gmtime(&now));
	event_partition = get_relname_relid(partition, schema);
	request_table = get_relname_relid("request", schema);
	reservation_table = get_relname_relid("reservation", schema);
	reservation_sequence = get_relname_relid("reservation_id", schema);
	event_sequence = get_relname_relid("event_id", schema);
	held = enum_value("reservation_state", "held");
	reserve = enum_value("event_type", "reserve");
}

/* values and nulls have a member for each of the natts columns */
static void
insert_row(Oid table, int natts, const Datum *values, const bool *nulls)
{
	Relation	rel = table_open(table, RowExclusiveLock);
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *target = makeNode(ResultRelInfo);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(rel),
													&TTSOpsVirtual);

	if (RelationGetDescr(rel)->natts != natts)
		elog(ERROR, "table \"%s\" has changed: insert_rows.c must follow",
			 RelationGetRelationName(rel));
	memcpy(slot->tts_values, values, natts * sizeof(Datum));
	memcpy(slot->tts_isnull, nulls, natts * sizeof(bool));
	ExecStoreVirtualTuple(slot);

	InitResultRelInfo(target, rel, 1, NULL, 0);
	ExecOpenIndices(target, false);
	ExecSimpleRelationInsert(target, estate, slot);
	ExecCloseIndices(target);

	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
	table_close(rel, NoLock);
}

/* insert_rows(stock_id bigint, quantity bigint, request_id text) returns bigint */
Datum
insert_rows(PG_FUNCTION_ARGS)
{
	const Datum zero = Int64GetDatum(0);
	const Datum null = (Datum) 0;
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	Datum		stock_id = PG_GETARG_DATUM(0);
	Datum		quantity = PG_GETARG_DATUM(1);
	Datum		request_id = PG_GETARG_DATUM(2);
	Datum		reservation_id;

	if (!OidIsValid(request_table))
		look_up();
	reservation_id = Int64GetDatum(nextval_internal(reservation_sequence, false));

	{
		Datum		values[] = {
			request_id, CStringGetTextDatum("reserve"), zero, reservation_id,
			TimestampTzGetDatum(now)
		};
		bool		nulls[lengthof(values)] = {false};

		insert_row(request_table, lengthof(values), values, nulls);
	}
	{
		/* without owner and reference */
		Datum		values[] = {
			reservation_id, Int32GetDatum(1), ObjectIdGetDatum(held), stock_id,
			quantity, zero, zero,
			TimestampTzGetDatum(now + 15 * 60 * USECS_PER_SEC),
			TimestampTzGetDatum(now), null, null
		};
		bool		nulls[lengthof(values)] = {[9] = true,[10] = true};

		insert_row(reservation_table, lengthof(values), values, nulls);
	}
	{
		/* without reference, reason, effective_at, reverses and metadata */
		Datum		values[] = {
			Int64GetDatum(nextval_internal(event_sequence, false)), stock_id,
			ObjectIdGetDatum(reserve), zero, quantity, zero, reservation_id,
			request_id, null, null,
			CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), false)),
			TimestampTzGetDatum(now), null,
			UInt64GetDatum(U64FromFullTransactionId(GetCurrentFullTransactionId())),
			null, null
		};
		bool		nulls[lengthof(values)] = {[8] = true,[9] = true,[12] = true,[14] = true,[15] = true};

		insert_row(event_partition, lengthof(values), values, nulls);
	}
	PG_RETURN_DATUM(reservation_id);
}
