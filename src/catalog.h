/*-------------------------------------------------------------------------
 *
 * catalog.h
 *		Codes to stock items, and what may be done with them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_CATALOG_H
#define INVENTORY_CATALOG_H

#include "datatype/timestamp.h"
#include "utils/date.h"

/* Tables in the ring of messages. */
#define OUTBOX_SEGMENTS 8

/* The tables, sequences and indexes of the extension in this database. */
typedef struct CatalogRelations
{
	Oid			sku;
	Oid			sku_key;
	Oid			location;
	Oid			location_key;
	Oid			lot;
	Oid			lot_key;
	Oid			stock;
	Oid			stock_key;
	Oid			stock_id_key;
	Oid			stock_sequence;
	Oid			event;
	Oid			event_sequence;
	Oid			tick;			/* these are 0 in version 0.1 */
	Oid			tick_key;
	Oid			snapshot;
	Oid			snapshot_key;
	Oid			snapshot_recorded;
	Oid			snapshot_late;
	Oid			baseline;
	Oid			baseline_key;
	Oid			reservation_deadline;
	Oid			subscription;
	Oid			subscription_key;
	Oid			subscription_sequence;
	Oid			cursor[2];
	Oid			outbox[OUTBOX_SEGMENTS];
	Oid			outbox_xid[OUTBOX_SEGMENTS];
	Oid			outbox_segment;
	Oid			command_result;
	Oid			command_result_key;
	Oid			request;
	Oid			request_key;
	Oid			reservation;
	Oid			reservation_due;
	Oid			reservation_owner;
	Oid			reservation_sequence;
	Oid			event_types;
	Oid			reservation_states;
	Oid			owner;
} CatalogRelations;

/* What the caller named. */
typedef struct Codes
{
	text	   *sku;
	text	   *location;
	text	   *lot;			/* or NULL */
	text	   *condition;
} Codes;

#define SKU_TRACKING_NONE	'n'
#define SKU_TRACKING_LOT	'l'
#define SKU_TRACKING_SERIAL	's'

/* What is known of a stock item.  An id of 0 means that there is none. */
typedef struct StockItem
{
	int64		stock_id;
	int64		sku_id;
	int64		location_id;
	int64		lot_id;
	int64		safety_stock;	/* 0 if the condition is not good */
	int64		floor;			/* promises stop here */
	DateADT		lot_expires_on;
	char		tracking;
	bool		sku_active;
	bool		location_active;
	bool		lot_blocked;
	bool		good;
} StockItem;

typedef enum UnknownCode
{
	UNKNOWN_NONE,
	UNKNOWN_SKU,
	UNKNOWN_LOCATION,
	UNKNOWN_LOT,
} UnknownCode;

/* The stock items behind available() and on_hand(). */
typedef struct Selection
{
	UnknownCode unknown;
	int			count;
	StockItem		items[FLEXIBLE_ARRAY_MEMBER];
} Selection;

/* Every unlimited backorder stops here, far from where numbers end. */
#define UNLIMITED_FLOOR (PG_INT64_MIN / 2)

extern Size catalog_shmem_size(void);
extern void catalog_shmem_init(void);
extern void catalog_init(void);

extern uint64 catalog_changes(void);
extern const CatalogRelations *catalog_relations(void);
extern Oid	catalog_owner(void);

extern bool catalog_item_cached(const Codes *codes, StockItem *item);
extern void catalog_item(const Codes *codes, StockItem *item);
extern bool catalog_item_by_id(int64 stock_id, StockItem *item);
extern void catalog_create_item(const Codes *codes, StockItem *item);
extern void catalog_check_promisable(const Codes *codes, const StockItem *item);
extern void catalog_check_active(const Codes *codes, const StockItem *item);
extern const Selection *catalog_selection(const Codes *codes);

extern bool catalog_item_promisable(const StockItem *item);
extern bool catalog_lot_expired(const StockItem *item);
extern char *catalog_describe(int64 stock_id);
extern char *catalog_describe_codes(const Codes *codes);

#endif							/* INVENTORY_CATALOG_H */
