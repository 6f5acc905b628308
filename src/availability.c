/*-------------------------------------------------------------------------
 *
 * availability.c
 *		available, on_hand: the levels, added up.
 *
 * The one definition of available is available_of(), here and for the views.
 * On a standby, where levels are not kept, the answer comes from the view.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "call.h"
#include "catalog.h"
#include "inventory.h"
#include "level.h"
#include "query.h"
#include "stat.h"

PG_FUNCTION_INFO_V1(inventory_available);
PG_FUNCTION_INFO_V1(inventory_on_hand);
PG_FUNCTION_INFO_V1(inventory_available_of);

typedef struct Amounts
{
	int64		on_hand;
	int64		available;
} Amounts;

/*
 * A stock item that cannot be promised has none available; one that holds and
 * owes nothing keeps no safety stock.
 */
static int64
available_of(int64 on_hand, int64 promised, int64 safety_stock, bool promisable)
{
	if (!promisable || (on_hand == 0 && promised == 0))
		return 0;
	return on_hand - promised - safety_stock;
}

static Amounts
item_amounts(const StockItem *item)
{
	Amounts		amounts;

	level_read(item->stock_id, &amounts.on_hand, &amounts.available);
	amounts.available = available_of(amounts.on_hand,
									 amounts.on_hand - amounts.available,
									 item->safety_stock,
									 catalog_item_promisable(item));
	return amounts;
}

static Amounts
selection_amounts(const Selection *selection)
{
	Amounts		sum = {0, 0};

	for (int i = 0; i < selection->count; i++)
	{
		Amounts		amounts = item_amounts(&selection->items[i]);

		sum.on_hand += amounts.on_hand;
		sum.available += amounts.available;
	}
	return sum;
}

/* The same from the tables. */
static Amounts
table_amounts(const Selection *selection)
{
	static Statement statement = {
		"SELECT coalesce(sum(v.on_hand), 0)::bigint, coalesce(sum(v.available), 0)::bigint"
		" FROM inventory.stock_level v WHERE v.stock_id = ANY ($1)",
		1, {INT8ARRAYOID}
	};
	Datum	   *ids = palloc(Max(selection->count, 1) * sizeof(Datum));
	Amounts		amounts;
	Datum		values[1];

	for (int i = 0; i < selection->count; i++)
		ids[i] = Int64GetDatum(selection->items[i].stock_id);
	values[0] = PointerGetDatum(construct_array(ids, selection->count, INT8OID,
												sizeof(int64), FLOAT8PASSBYVAL,
												TYPALIGN_DOUBLE));
	query_begin();
	query_run(&statement, values, NULL);
	amounts.on_hand = query_int64(0, 1);
	amounts.available = query_int64(0, 2);
	query_end();
	return amounts;
}

static Amounts
read_amounts(FunctionCallInfo fcinfo, Operation operation)
{
	const Selection *selection;
	Codes		codes;
	Amounts		amounts;

	inventory_check_loaded();
	stat_begin(operation);
	codes.sku = call_text(fcinfo, 0, "sku");
	codes.location = call_optional_text(fcinfo, 1);
	codes.lot = call_optional_text(fcinfo, 2);
	codes.condition = NULL;
	selection = catalog_selection(&codes);
	amounts = RecoveryInProgress() ? table_amounts(selection) :
		selection_amounts(selection);
	stat_end();
	return amounts;
}

/*
 * available(sku, location, lot)
 */
Datum
inventory_available(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(read_amounts(fcinfo, OPERATION_AVAILABLE).available);
}

/*
 * on_hand(sku, location, lot)
 */
Datum
inventory_on_hand(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(read_amounts(fcinfo, OPERATION_ON_HAND).on_hand);
}

/*
 * available_of(on_hand, reserved, committed, safety_stock, promisable)
 */
Datum
inventory_available_of(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(available_of(PG_GETARG_INT64(0),
								 PG_GETARG_INT64(1) + PG_GETARG_INT64(2),
								 PG_GETARG_INT64(3), PG_GETARG_BOOL(4)));
}
