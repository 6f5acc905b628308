/*-------------------------------------------------------------------------
 *
 * announce.h
 *		The engine's own messages about stock.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_ANNOUNCE_H
#define INVENTORY_ANNOUNCE_H

#include "catalog.h"
#include "event.h"

/* A line of a reservation whose hold has been settled after its deadline. */
typedef struct ExpiredLine
{
	int64		reservation_id;
	int32		line_no;
	int64		stock_id;
	int64		quantity;
	char	   *owner;			/* or NULL */
} ExpiredLine;

/* What a stock item has, as the projection sees it. */
typedef struct StockFigures
{
	int64		stock_id;
	int64		on_hand;
	int64		reserved;
	int64		committed;
	int64		safety_stock;
} StockFigures;

/* All with the current transaction. */
extern void announce_adjustment(const Codes *codes, const Event *event);
extern void announce_expired(ExpiredLine *lines, int count);
extern void announce_shortage(const StockFigures *figures);
extern void announce_back(const StockFigures *figures);

#endif							/* INVENTORY_ANNOUNCE_H */
