/*-------------------------------------------------------------------------
 *
 * catalog.c
 *		Codes to stock items, and what may be done with them.
 *
 * Each backend caches what it has looked up.  Two counters in shared memory
 * tell when that is stale: "changed" moves when a transaction that updated or
 * deleted master data commits, "created" when one commits that added a code or
 * a stock item, which matters only to an entry that says that there is none,
 * or lists all there are.  A reader remembers the counters from before its
 * snapshot; a writer moves them after its commit is visible.  So an entry that
 * still has the current counters is true, and a check costs two memory reads.
 *
 * A transaction's own changes, and their abort, move counters of the backend's
 * own in the same way.  On a standby nothing moves the counters, and nothing
 * is cached.
 *
 * Lookups use a latest snapshot: what can be promised does not depend on the
 * caller's isolation level.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "clock.h"
#include "error.h"
#include "inventory.h"
#include "query.h"
#include "row.h"

/* The cache is emptied when it has this many entries. */
#define CATALOG_CACHE_LIMIT 131072

/* Columns, as the install script has them. */
enum
{
	SKU_SKU_ID = 1, SKU_SKU = 2, SKU_TRACKING = 6, SKU_SAFETY_STOCK = 7,
	SKU_BACKORDER_LIMIT = 8, SKU_ACTIVE = 9
};
enum
{
	LOCATION_LOCATION_ID = 1, LOCATION_LOCATION = 2, LOCATION_ACTIVE = 6
};
enum
{
	LOT_LOT_ID = 1, LOT_SKU_ID = 2, LOT_LOT = 3, LOT_EXPIRES_ON = 4,
	LOT_STATUS = 5
};
enum
{
	STOCK_STOCK_ID = 1, STOCK_SKU_ID = 2, STOCK_LOCATION_ID = 3,
	STOCK_LOT_ID = 4, STOCK_CONDITION = 5, STOCK_ON_HAND = 6,
	STOCK_RESERVED = 7, STOCK_COMMITTED = 8, STOCK_EVENT_COUNT = 9
};

typedef struct CatalogShared
{
	pg_atomic_uint64 changed;
	pg_atomic_uint64 created;
} CatalogShared;

/* What an entry was looked up with. */
typedef struct CatalogVersion
{
	uint64		changed;
	uint64		created;
} CatalogVersion;

typedef struct CacheKey
{
	const char *data;
	int			length;
} CacheKey;

typedef struct CacheEntry
{
	CacheKey	key;
	uint32		hash;
	char		status;
	CatalogVersion version;
	void	   *value;			/* a StockItem or a Selection */
} CacheEntry;

#define SH_PREFIX cache
#define SH_ELEMENT_TYPE CacheEntry
#define SH_KEY_TYPE CacheKey
#define SH_KEY key
#define SH_HASH_KEY(tb, k) hash_bytes((const unsigned char *) (k).data, (k).length)
#define SH_EQUAL(tb, a, b) \
	((a).length == (b).length && memcmp((a).data, (b).data, (a).length) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, e) (e)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static CatalogShared *shared = NULL;

static MemoryContext cache_context = NULL;
static cache_hash *cache = NULL;

/* Changes of this backend's own transactions. */
static uint64 local_changed = 0;
static uint64 local_created = 0;
static bool transaction_changed = false;
static bool transaction_created = false;

static CatalogRelations relations;
static bool relations_valid = false;

PG_FUNCTION_INFO_V1(inventory_catalog_changed);

/* ---- Shared memory and transaction ends ---- */

Size
catalog_shmem_size(void)
{
	return sizeof(CatalogShared);
}

void
catalog_shmem_init(void)
{
	bool		found;

	shared = ShmemInitStruct("inventory catalog", catalog_shmem_size(), &found);
	if (!found)
	{
		pg_atomic_init_u64(&shared->changed, 0);
		pg_atomic_init_u64(&shared->created, 0);
	}
}

static void
catalog_forget_own(void)
{
	if (!transaction_changed && !transaction_created)
		return;
	/* What was looked up meanwhile may be what has just been undone. */
	local_changed++;
	local_created++;
}

static void
catalog_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (transaction_changed)
				pg_atomic_fetch_add_u64(&shared->changed, 1);
			if (transaction_created)
				pg_atomic_fetch_add_u64(&shared->created, 1);
			break;
		case XACT_EVENT_ABORT:
			catalog_forget_own();
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (transaction_changed || transaction_created)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has changed inventory master data")));
			return;
		default:
			return;
	}
	transaction_changed = transaction_created = false;
}

static void
catalog_subxact_callback(SubXactEvent event, SubTransactionId subid,
						 SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		catalog_forget_own();
}

/* REINDEX CONCURRENTLY makes another index of the name, so of all of them. */
static bool
is_known_relation(Oid relation_id)
{
	const Oid  *ids = (const Oid *) &relations;

	StaticAssertStmt(sizeof(CatalogRelations) % sizeof(Oid) == 0, "not only Oids");
	for (size_t i = 0; i < sizeof(CatalogRelations) / sizeof(Oid); i++)
	{
		if (ids[i] == relation_id)
			return true;
	}
	return false;
}

static void
catalog_relcache_callback(Datum arg, Oid relation_id)
{
	if (relation_id == InvalidOid || (relations_valid && is_known_relation(relation_id)))
		relations_valid = false;
}

void
catalog_init(void)
{
	RegisterXactCallback(catalog_xact_callback, NULL);
	RegisterSubXactCallback(catalog_subxact_callback, NULL);
}

/* Moves when codes may have been changed: what was read before is stale then. */
uint64
catalog_changes(void)
{
	return pg_atomic_read_u64(&shared->changed) + local_changed;
}

/*
 * Trigger: a statement has changed master data.
 */
Datum
inventory_catalog_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("%s must be called as a trigger", "catalog_changed")));
	if (shared == NULL)
		return PointerGetDatum(NULL);
	if (!TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
	{
		transaction_changed = true;
		local_changed++;
	}
	transaction_created = true;
	local_created++;
	return PointerGetDatum(NULL);
}

/* ---- The extension's relations ---- */

static Oid
relation_named(const char *name, Oid schema)
{
	Oid			id = get_relname_relid(name, schema);

	if (!OidIsValid(id))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"inventory\" is not installed in this database"),
				 errhint("CREATE EXTENSION inventory;")));
	return id;
}

static Oid
relation_owner(Oid relation_id)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation_id));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relation_id);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

static void
catalog_find_outbox(Oid schema, CatalogRelations *r)
{
	r->outbox_segment = get_relname_relid("outbox_segment", schema);
	for (int i = 0; i < OUTBOX_SEGMENTS; i++)
	{
		char		name[NAMEDATALEN];

		snprintf(name, sizeof(name), "outbox_%d", i);
		r->outbox[i] = get_relname_relid(name, schema);
		snprintf(name, sizeof(name), "outbox_%d_xid_idx", i);
		r->outbox_xid[i] = get_relname_relid(name, schema);
	}
}

static void
catalog_find_relations(void)
{
	static bool registered = false;
	Oid			schema = get_namespace_oid("inventory", true);
	CatalogRelations *r = &relations;
	Oid			former_event = r->event;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(catalog_relcache_callback, (Datum) 0);
		registered = true;
	}
	r->sku = relation_named("sku", schema);
	r->sku_key = relation_named("sku_key", schema);
	r->location = relation_named("location", schema);
	r->location_key = relation_named("location_key", schema);
	r->lot = relation_named("lot", schema);
	r->lot_key = relation_named("lot_key", schema);
	r->stock = relation_named("stock", schema);
	r->stock_key = relation_named("stock_key", schema);
	r->stock_id_key = relation_named("stock_pkey", schema);
	r->stock_sequence = relation_named("stock_stock_id_seq", schema);
	r->event = relation_named("event", schema);
	r->event_sequence = relation_named("event_event_id_seq", schema);
	r->request = relation_named("request", schema);
	r->request_key = relation_named("request_pkey", schema);
	r->reservation = relation_named("reservation", schema);
	r->reservation_due = relation_named("reservation_stock_id_expires_at_idx", schema);
	r->reservation_owner = relation_named("reservation_owner_idx", schema);
	r->reservation_sequence = relation_named("reservation_reservation_id_seq", schema);
	r->tick = get_relname_relid("tick", schema);
	r->tick_key = get_relname_relid("tick_pkey", schema);
	r->snapshot = get_relname_relid("snapshot", schema);
	r->snapshot_key = get_relname_relid("snapshot_pkey", schema);
	r->snapshot_recorded = get_relname_relid("snapshot_stock_id_recorded_until_idx", schema);
	r->snapshot_late = get_relname_relid("snapshot_late_idx", schema);
	r->baseline = get_relname_relid("baseline", schema);
	r->baseline_key = get_relname_relid("baseline_pkey", schema);
	r->reservation_deadline = get_relname_relid("reservation_expires_at_idx", schema);
	r->subscription = get_relname_relid("subscription", schema);
	r->subscription_key = get_relname_relid("subscription_pkey", schema);
	r->subscription_sequence = get_relname_relid("subscription_subscription_id_seq", schema);
	r->cursor[0] = get_relname_relid("delivery_cursor_0", schema);
	r->cursor[1] = get_relname_relid("delivery_cursor_1", schema);
	catalog_find_outbox(schema, r);
	r->command_result = get_relname_relid("command_result", schema);
	r->command_result_key = get_relname_relid("command_result_pkey", schema);
	r->event_types = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
									 CStringGetDatum("event_type"),
									 ObjectIdGetDatum(schema));
	r->reservation_states = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
											CStringGetDatum("reservation_state"),
											ObjectIdGetDatum(schema));
	r->owner = relation_owner(r->event);
	if (r->event != former_event)
		local_changed++;		/* the extension was dropped and created again */
	relations_valid = true;
}

const CatalogRelations *
catalog_relations(void)
{
	if (!relations_valid)
		catalog_find_relations();
	return &relations;
}

Oid
catalog_owner(void)
{
	return catalog_relations()->owner;
}

/* ---- The cache ---- */

static CatalogVersion
catalog_version(void)
{
	CatalogVersion version;

	(void) catalog_relations();
	version.changed = pg_atomic_read_u64(&shared->changed) + local_changed;
	version.created = pg_atomic_read_u64(&shared->created) + local_created;
	pg_read_barrier();
	return version;
}

/* Appends a code to a key; its length keeps neighbours apart. */
static char *
key_append(char *at, const text *code)
{
	uint32		length = code ? VARSIZE_ANY_EXHDR(code) : PG_UINT32_MAX;

	memcpy(at, &length, sizeof(length));
	at += sizeof(length);
	if (code == NULL)
		return at;
	memcpy(at, VARDATA_ANY(code), length);
	return at + length;
}

static Size
code_size(const text *code)
{
	return sizeof(uint32) + (code ? VARSIZE_ANY_EXHDR(code) : 0);
}

#define KEY_BUFFER 256

/* Writes the cache key into the buffer, or a larger one if it must. */
static CacheKey
cache_key(char kind, const Codes *codes, char *buffer)
{
	Size		size = 1 + code_size(codes->sku) + code_size(codes->location) +
		code_size(codes->lot) + code_size(codes->condition);
	char	   *start = size <= KEY_BUFFER ? buffer : palloc(size);
	char	   *at = start;
	CacheKey	key;

	*at++ = kind;
	at = key_append(at, codes->sku);
	at = key_append(at, codes->location);
	at = key_append(at, codes->lot);
	at = key_append(at, codes->condition);
	key.data = start;
	key.length = at - start;
	return key;
}

static void *
cache_find(CacheKey key, CatalogVersion version, bool lists_absence)
{
	CacheEntry *entry;

	if (cache == NULL || (entry = cache_lookup(cache, key)) == NULL)
		return NULL;
	if (entry->version.changed != version.changed)
		return NULL;
	if (entry->version.created != version.created &&
		(lists_absence || ((StockItem *) entry->value)->stock_id == 0))
		return NULL;
	return entry->value;
}

static void
cache_store(CacheKey key, CatalogVersion version, const void *value, Size size)
{
	CacheEntry *entry;
	MemoryContext old;
	bool		found;

	if (RecoveryInProgress())
		return;
	if (cache != NULL && cache->members >= CATALOG_CACHE_LIMIT)
	{
		cache = NULL;
		MemoryContextReset(cache_context);
	}
	if (cache == NULL)
	{
		if (cache_context == NULL)
			cache_context = AllocSetContextCreate(TopMemoryContext,
												  "inventory codes",
												  ALLOCSET_DEFAULT_SIZES);
		cache = cache_create(cache_context, 256, NULL);
	}
	old = MemoryContextSwitchTo(cache_context);
	value = memcpy(palloc(size), value, size);
	key.data = memcpy(palloc(key.length), key.data, key.length);
	entry = cache_insert(cache, key, &found);
	if (found)
	{
		pfree(entry->value);
		pfree(unconstify(char *, key.data));
	}
	entry->value = unconstify(void *, value);
	entry->version = version;
	MemoryContextSwitchTo(old);
}

/* ---- Lookups ---- */

typedef struct Lookup
{
	Relation	relation;
	SysScanDesc scan;
	HeapTuple	tuple;			/* the row, or NULL */
} Lookup;

static void
lookup_begin(Lookup *lookup, Oid relation_id, Oid index_id, Snapshot snapshot,
			 ScanKey keys, int nkeys)
{
	lookup->relation = table_open(relation_id, AccessShareLock);
	lookup->scan = systable_beginscan(lookup->relation, index_id, true,
									  snapshot, nkeys, keys);
	lookup->tuple = systable_getnext(lookup->scan);
}

static void
lookup_end(Lookup *lookup)
{
	systable_endscan(lookup->scan);
	table_close(lookup->relation, AccessShareLock);
}

static Datum
lookup_column(Lookup *lookup, int column, bool *isnull)
{
	return heap_getattr(lookup->tuple, column,
						RelationGetDescr(lookup->relation), isnull);
}

static Datum
lookup_value(Lookup *lookup, int column)
{
	bool		isnull;

	return lookup_column(lookup, column, &isnull);
}

static bool
text_is(const text *value, const char *string)
{
	int			length = VARSIZE_ANY_EXHDR(value);

	return length == (int) strlen(string) &&
		memcmp(VARDATA_ANY(value), string, length) == 0;
}

static void
text_key(ScanKey key, AttrNumber column, const text *value)
{
	ScanKeyInit(key, column, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(value));
}

static void
id_key(ScanKey key, AttrNumber column, int64 id)
{
	ScanKeyInit(key, column, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(id));
	if (id == 0)
	{
		key->sk_flags = SK_ISNULL | SK_SEARCHNULL;
		key->sk_argument = (Datum) 0;
	}
}

static void
unknown_code(const char *what, const text *code)
{
	ereport(ERROR,
			(errcode(ERRCODE_IV_UNKNOWN_CODE),
			 errmsg("unknown %s \"%s\"", what, text_to_cstring(code)),
			 errhint("Insert it into inventory.%s first.",
					 strcmp(what, "SKU") == 0 ? "sku" : what)));
}

static void
unknown_lot(const Codes *codes)
{
	ereport(ERROR,
			(errcode(ERRCODE_IV_UNKNOWN_CODE),
			 errmsg("unknown lot \"%s\" of SKU \"%s\"",
					text_to_cstring(codes->lot), text_to_cstring(codes->sku)),
			 errhint("Insert it into inventory.lot first.")));
}

static void
find_sku(const Codes *codes, Snapshot snapshot, StockItem *item)
{
	Lookup		lookup;
	ScanKeyData key;
	Datum		limit;
	bool		unlimited;

	text_key(&key, SKU_SKU, codes->sku);
	lookup_begin(&lookup, relations.sku, relations.sku_key, snapshot, &key, 1);
	if (!HeapTupleIsValid(lookup.tuple))
		unknown_code("SKU", codes->sku);
	item->sku_id = DatumGetInt64(lookup_value(&lookup, SKU_SKU_ID));
	item->tracking = VARDATA_ANY(DatumGetTextPP(lookup_value(&lookup, SKU_TRACKING)))[0];
	item->sku_active = DatumGetBool(lookup_value(&lookup, SKU_ACTIVE));
	item->safety_stock = DatumGetInt64(lookup_value(&lookup, SKU_SAFETY_STOCK));
	limit = lookup_column(&lookup, SKU_BACKORDER_LIMIT, &unlimited);
	item->floor = unlimited ? UNLIMITED_FLOOR :
		Max(item->safety_stock - DatumGetInt64(limit), UNLIMITED_FLOOR);
	lookup_end(&lookup);
}

static void
find_location(const Codes *codes, Snapshot snapshot, StockItem *item)
{
	Lookup		lookup;
	ScanKeyData key;

	text_key(&key, LOCATION_LOCATION, codes->location);
	lookup_begin(&lookup, relations.location, relations.location_key, snapshot,
				 &key, 1);
	if (!HeapTupleIsValid(lookup.tuple))
		unknown_code("location", codes->location);
	item->location_id = DatumGetInt64(lookup_value(&lookup, LOCATION_LOCATION_ID));
	item->location_active = DatumGetBool(lookup_value(&lookup, LOCATION_ACTIVE));
	lookup_end(&lookup);
}

static void
find_lot(const Codes *codes, Snapshot snapshot, StockItem *item)
{
	Lookup		lookup;
	ScanKeyData keys[2];
	Datum		expires_on;
	bool		keeps;

	item->lot_id = 0;
	item->lot_blocked = false;
	item->lot_expires_on = DATEVAL_NOEND;
	if (codes->lot == NULL && item->tracking == SKU_TRACKING_NONE)
		return;
	if (codes->lot == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_IV_LOT_MISMATCH),
				 errmsg("SKU \"%s\" is tracked by %s: a lot must be given",
						text_to_cstring(codes->sku),
						item->tracking == SKU_TRACKING_LOT ? "lot" : "serial number")));
	if (item->tracking == SKU_TRACKING_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_IV_LOT_MISMATCH),
				 errmsg("SKU \"%s\" is not tracked by lot, but lot \"%s\" was given",
						text_to_cstring(codes->sku),
						text_to_cstring(codes->lot))));
	id_key(&keys[0], LOT_SKU_ID, item->sku_id);
	text_key(&keys[1], LOT_LOT, codes->lot);
	lookup_begin(&lookup, relations.lot, relations.lot_key, snapshot, keys, 2);
	if (!HeapTupleIsValid(lookup.tuple))
		unknown_lot(codes);
	item->lot_id = DatumGetInt64(lookup_value(&lookup, LOT_LOT_ID));
	item->lot_blocked =
		text_is(DatumGetTextPP(lookup_value(&lookup, LOT_STATUS)), "blocked");
	expires_on = lookup_column(&lookup, LOT_EXPIRES_ON, &keeps);
	if (!keeps)
		item->lot_expires_on = DatumGetDateADT(expires_on);
	lookup_end(&lookup);
}

static void
stock_keys(ScanKey keys, const Codes *codes, const StockItem *item)
{
	id_key(&keys[0], STOCK_SKU_ID, item->sku_id);
	id_key(&keys[1], STOCK_LOCATION_ID, item->location_id);
	id_key(&keys[2], STOCK_LOT_ID, item->lot_id);
	text_key(&keys[3], STOCK_CONDITION, codes->condition);
}

static void
find_stock(const Codes *codes, Snapshot snapshot, StockItem *item)
{
	Lookup		lookup;
	ScanKeyData keys[4];

	stock_keys(keys, codes, item);
	lookup_begin(&lookup, relations.stock, relations.stock_key, snapshot, keys, 4);
	item->stock_id = HeapTupleIsValid(lookup.tuple) ?
		DatumGetInt64(lookup_value(&lookup, STOCK_STOCK_ID)) : 0;
	lookup_end(&lookup);
}

static void
set_condition(StockItem *item, bool good)
{
	item->good = good;
	if (!good)
		item->safety_stock = item->floor = 0;
}

static void
check_condition(const text *condition)
{
	if (!text_is(condition, "good") && !text_is(condition, "damaged") &&
		!text_is(condition, "quality_control") &&
		!text_is(condition, "quarantine"))
		ereport(ERROR,
				(errcode(ERRCODE_IV_CONDITION),
				 errmsg("unknown condition \"%s\"", text_to_cstring(condition)),
				 errhint("The conditions are good, damaged, quality_control and quarantine.")));
}

/*
 * Finds the stock item of the codes if this backend has it at hand.
 */
bool
catalog_item_cached(const Codes *codes, StockItem *item)
{
	char		buffer[KEY_BUFFER];
	StockItem  *cached = cache_find(cache_key('i', codes, buffer),
									catalog_version(), false);

	if (cached)
		*item = *cached;
	return cached != NULL;
}

/*
 * Finds the stock item of the codes.  An unknown code is an error; a stock
 * item that does not exist yet has stock_id 0.
 */
void
catalog_item(const Codes *codes, StockItem *item)
{
	char		buffer[KEY_BUFFER];
	CacheKey	key = cache_key('i', codes, buffer);
	CatalogVersion version = catalog_version();
	StockItem	   *cached = cache_find(key, version, false);
	Snapshot	snapshot;

	if (cached)
	{
		*item = *cached;
		return;
	}
	check_condition(codes->condition);
	catalog_relations();
	memset(item, 0, sizeof(StockItem));
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	find_sku(codes, snapshot, item);
	find_location(codes, snapshot, item);
	find_lot(codes, snapshot, item);
	find_stock(codes, snapshot, item);
	UnregisterSnapshot(snapshot);
	set_condition(item, text_is(codes->condition, "good"));
	cache_store(key, version, item, sizeof(StockItem));
}

/* The columns that a query must return to make a StockItem. */
#define ITEM_COLUMNS \
	"k.stock_id, k.sku_id, k.location_id, k.lot_id, s.safety_stock," \
	" s.backorder_limit, t.expires_on, s.tracking, s.active, l.active," \
	" t.status = 'blocked', k.condition = 'good'"
#define ITEM_TABLES \
	"inventory.stock k" \
	" JOIN inventory.sku s ON s.sku_id = k.sku_id" \
	" JOIN inventory.location l ON l.location_id = k.location_id" \
	" LEFT JOIN inventory.lot t ON t.lot_id = k.lot_id"

static bool
query_bool(uint64 row, int column)
{
	bool		isnull;
	Datum		value = query_value(row, column, &isnull);

	return !isnull && DatumGetBool(value);
}

static void
item_from_row(uint64 row, StockItem *item)
{
	bool		isnull;
	Datum		value;

	memset(item, 0, sizeof(StockItem));
	item->stock_id = query_int64(row, 1);
	item->sku_id = query_int64(row, 2);
	item->location_id = query_int64(row, 3);
	item->lot_id = query_int64(row, 4);
	item->safety_stock = query_int64(row, 5);
	value = query_value(row, 6, &isnull);
	item->floor = isnull ? UNLIMITED_FLOOR :
		Max(item->safety_stock - DatumGetInt64(value), UNLIMITED_FLOOR);
	value = query_value(row, 7, &isnull);
	item->lot_expires_on = isnull ? DATEVAL_NOEND : DatumGetDateADT(value);
	item->tracking = query_text(row, 8)[0];
	item->sku_active = query_bool(row, 9);
	item->location_active = query_bool(row, 10);
	item->lot_blocked = query_bool(row, 11);
	set_condition(item, query_bool(row, 12));
}

/*
 * Finds a stock item by its number; false if there is none.
 */
bool
catalog_item_by_id(int64 stock_id, StockItem *item)
{
	static Statement statement = {
		"SELECT " ITEM_COLUMNS " FROM " ITEM_TABLES " WHERE k.stock_id = $1",
		1, {INT8OID}
	};
	char		buffer[1 + sizeof(int64)];
	CacheKey	key = {buffer, sizeof(buffer)};
	CatalogVersion version = catalog_version();
	StockItem	   *cached;
	Datum		values[1];
	bool		found;

	buffer[0] = 'n';
	memcpy(buffer + 1, &stock_id, sizeof(int64));
	cached = cache_find(key, version, false);
	if (cached)
	{
		*item = *cached;
		return true;
	}
	values[0] = Int64GetDatum(stock_id);
	query_begin();
	found = query_run(&statement, values, NULL) > 0;
	if (found)
		item_from_row(0, item);
	query_end();
	if (found)
		cache_store(key, version, item, sizeof(StockItem));
	return found;
}

/* The stock item that another transaction has made, once that is decided. */
static int64
find_decided_stock(const Codes *codes, const StockItem *item)
{
	Relation	relation = table_open(relations.stock, RowExclusiveLock);
	ScanKeyData keys[4];
	HeapTuple	tuple;
	bool		isnull;
	int64		stock_id = 0;

	stock_keys(keys, codes, item);
	tuple = row_find_decided(relation, relations.stock_key, keys, 4);
	if (tuple)
		stock_id = DatumGetInt64(heap_getattr(tuple, STOCK_STOCK_ID,
											  RelationGetDescr(relation), &isnull));
	table_close(relation, NoLock);
	return stock_id;
}

static bool
insert_stock(const Codes *codes, const StockItem *item, int64 stock_id)
{
	RowInserter *inserter = row_begin();
	RowTarget  *target = row_open(inserter, relations.stock);
	TupleTableSlot *slot = row_clear(target);
	bool		inserted;

	memset(slot->tts_isnull, false, STOCK_EVENT_COUNT * sizeof(bool));
	slot->tts_values[STOCK_STOCK_ID - 1] = Int64GetDatum(stock_id);
	slot->tts_values[STOCK_SKU_ID - 1] = Int64GetDatum(item->sku_id);
	slot->tts_values[STOCK_LOCATION_ID - 1] = Int64GetDatum(item->location_id);
	slot->tts_values[STOCK_LOT_ID - 1] = Int64GetDatum(item->lot_id);
	slot->tts_isnull[STOCK_LOT_ID - 1] = item->lot_id == 0;
	slot->tts_values[STOCK_CONDITION - 1] = PointerGetDatum(codes->condition);
	slot->tts_values[STOCK_ON_HAND - 1] = Int64GetDatum(0);
	slot->tts_values[STOCK_RESERVED - 1] = Int64GetDatum(0);
	slot->tts_values[STOCK_COMMITTED - 1] = Int64GetDatum(0);
	slot->tts_values[STOCK_EVENT_COUNT - 1] = Int64GetDatum(0);
	inserted = row_insert_unless_conflict(target, relations.stock_key);
	row_end(inserter);
	return inserted;
}

/*
 * Making the stock item has locked its SKU against a change of tracking: if
 * one came before, the codes may not fit any more.
 */
static void
check_codes_again(const Codes *codes)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	StockItem	item = {0};

	find_sku(codes, snapshot, &item);
	find_lot(codes, snapshot, &item);
	UnregisterSnapshot(snapshot);
}

/*
 * Makes the stock item of the codes, unless another session does so first:
 * then waits for that one's end, at every isolation level.
 */
void
catalog_create_item(const Codes *codes, StockItem *item)
{
	int64		stock_id = nextval_internal(catalog_relations()->stock_sequence,
											false);

	while ((item->stock_id = find_decided_stock(codes, item)) == 0)
	{
		if (insert_stock(codes, item, stock_id))
		{
			item->stock_id = stock_id;
			transaction_created = true;
			local_created++;
			check_codes_again(codes);
			return;
		}
	}
}

/* ---- Selections ---- */

static UnknownCode
selection_unknown(const Codes *codes, Datum *values, const char *nulls)
{
	static Statement statement = {
		"SELECT EXISTS (SELECT FROM inventory.sku WHERE sku = $1),"
		" $2 IS NULL OR EXISTS (SELECT FROM inventory.location WHERE location = $2),"
		" $3 IS NULL OR EXISTS (SELECT FROM inventory.lot t JOIN inventory.sku s USING (sku_id)"
		" WHERE s.sku = $1 AND t.lot = $3)",
		3, {TEXTOID, TEXTOID, TEXTOID}
	};

	query_run(&statement, values, nulls);
	return !query_bool(0, 1) ? UNKNOWN_SKU :
		!query_bool(0, 2) ? UNKNOWN_LOCATION :
		!query_bool(0, 3) ? UNKNOWN_LOT : UNKNOWN_NONE;
}

static Selection *
selection_find(const Codes *codes)
{
	static Statement statement = {
		"WITH RECURSIVE inside(location_id) AS ("
		" SELECT l.location_id FROM inventory.location l WHERE l.location = $2"
		" UNION ALL"
		" SELECT l.location_id FROM inventory.location l JOIN inside i ON l.parent_id = i.location_id)"
		" SELECT " ITEM_COLUMNS " FROM " ITEM_TABLES
		" WHERE s.sku = $1 AND ($2 IS NULL OR k.location_id IN (SELECT i.location_id FROM inside i))"
		" AND ($3 IS NULL OR t.lot = $3)",
		3, {TEXTOID, TEXTOID, TEXTOID}
	};
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[3];
	char		nulls[4] = "   ";
	Selection  *selection;
	UnknownCode unknown;
	uint64		count = 0;

	values[0] = PointerGetDatum(codes->sku);
	values[1] = PointerGetDatum(codes->location);
	values[2] = PointerGetDatum(codes->lot);
	if (codes->location == NULL)
		nulls[1] = 'n';
	if (codes->lot == NULL)
		nulls[2] = 'n';

	query_begin();
	unknown = selection_unknown(codes, values, nulls);
	if (unknown == UNKNOWN_NONE)
		count = query_run(&statement, values, nulls);
	selection = MemoryContextAlloc(caller, offsetof(Selection, items) +
								   count * sizeof(StockItem));
	selection->unknown = unknown;
	selection->count = count;
	for (uint64 i = 0; i < count; i++)
		item_from_row(i, &selection->items[i]);
	query_end();
	return selection;
}

/*
 * Finds the stock items of a SKU in a location and all inside it (or
 * everywhere), of a lot (or all).  An unknown code is an error.
 */
const Selection *
catalog_selection(const Codes *codes)
{
	char		buffer[KEY_BUFFER];
	CacheKey	key = cache_key('s', codes, buffer);
	CatalogVersion version = catalog_version();
	const Selection *selection = cache_find(key, version, true);

	if (selection == NULL)
	{
		selection = selection_find(codes);
		cache_store(key, version, selection, offsetof(Selection, items) +
					selection->count * sizeof(StockItem));
	}
	switch (selection->unknown)
	{
		case UNKNOWN_SKU:
			unknown_code("SKU", codes->sku);
			break;
		case UNKNOWN_LOCATION:
			unknown_code("location", codes->location);
			break;
		case UNKNOWN_LOT:
			unknown_lot(codes);
			break;
		case UNKNOWN_NONE:
			break;
	}
	return selection;
}

/* ---- What may be done ---- */

bool
catalog_lot_expired(const StockItem *item)
{
	TimestampTz ends;

	if (DATE_NOT_FINITE(item->lot_expires_on))
		return DATE_IS_NOBEGIN(item->lot_expires_on);
	ends = ((TimestampTz) item->lot_expires_on + 1) * USECS_PER_DAY;
	return clock_time() >= ends;
}

/* Whether goods of the stock item can be promised at all. */
bool
catalog_item_promisable(const StockItem *item)
{
	return item->good && item->sku_active && item->location_active &&
		!item->lot_blocked && !catalog_lot_expired(item);
}

void
catalog_check_active(const Codes *codes, const StockItem *item)
{
	if (!item->sku_active)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INACTIVE_CODE),
				 errmsg("SKU \"%s\" is not active", text_to_cstring(codes->sku))));
	if (!item->location_active)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INACTIVE_CODE),
				 errmsg("location \"%s\" is not active",
						text_to_cstring(codes->location))));
}

/* Raises the error that says why goods of this lot cannot leave. */
void
catalog_check_promisable(const Codes *codes, const StockItem *item)
{
	if (item->lot_blocked)
		ereport(ERROR,
				(errcode(ERRCODE_IV_LOT_BLOCKED),
				 errmsg("lot \"%s\" of SKU \"%s\" is blocked",
						text_to_cstring(codes->lot), text_to_cstring(codes->sku))));
	if (catalog_lot_expired(item))
		ereport(ERROR,
				(errcode(ERRCODE_IV_LOT_EXPIRED),
				 errmsg("lot \"%s\" of SKU \"%s\" has expired",
						text_to_cstring(codes->lot), text_to_cstring(codes->sku)),
				 errdetail("It could be promised until %s (UTC).",
						   DatumGetCString(DirectFunctionCall1(date_out,
															   DateADTGetDatum(item->lot_expires_on))))));
}

/* ---- Names for messages ---- */

char *
catalog_describe_codes(const Codes *codes)
{
	StringInfoData buffer;

	initStringInfo(&buffer);
	appendStringInfo(&buffer, "SKU \"%s\" at location \"%s\"",
					 text_to_cstring(codes->sku),
					 text_to_cstring(codes->location));
	if (codes->lot)
		appendStringInfo(&buffer, ", lot \"%s\"", text_to_cstring(codes->lot));
	if (!text_is(codes->condition, "good"))
		appendStringInfo(&buffer, ", condition %s",
						 text_to_cstring(codes->condition));
	return buffer.data;
}

char *
catalog_describe(int64 stock_id)
{
	static Statement statement = {
		"SELECT s.sku, l.location, t.lot, k.condition FROM " ITEM_TABLES
		" WHERE k.stock_id = $1",
		1, {INT8OID}
	};
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[1];
	char	   *result;

	values[0] = Int64GetDatum(stock_id);
	query_begin();
	if (query_run(&statement, values, NULL) == 0)
		result = MemoryContextStrdup(caller, psprintf("stock item " INT64_FORMAT, stock_id));
	else
	{
		Codes		codes;
		char	   *lot = query_text(0, 3);
		MemoryContext old;

		codes.sku = cstring_to_text(query_text(0, 1));
		codes.location = cstring_to_text(query_text(0, 2));
		codes.lot = lot ? cstring_to_text(lot) : NULL;
		codes.condition = cstring_to_text(query_text(0, 4));
		old = MemoryContextSwitchTo(caller);
		result = catalog_describe_codes(&codes);
		MemoryContextSwitchTo(old);
	}
	query_end();
	return result;
}
