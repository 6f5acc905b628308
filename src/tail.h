/*-------------------------------------------------------------------------
 *
 * tail.h
 *		Sums of the events between two ticks, or since one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_TAIL_H
#define INVENTORY_TAIL_H

#include "access/htup.h"
#include "datatype/timestamp.h"

#include "tick.h"

typedef struct EventSums
{
	int64		on_hand;
	int64		reserved;
	int64		committed;
	int64		event_count;
} EventSums;

/* Which events of a stock item; NULL boundaries are the beginning and now. */
typedef struct EventSpan
{
	const Boundary *after;
	const Boundary *upto;
	uint64		except_xid;		/* or 0 */
	TimestampTz recorded_until; /* or DT_NOEND */
} EventSpan;

/* Ranges of transactions that may be beyond a boundary. */
typedef struct XidRange
{
	uint64		first;
	uint64		last;
} XidRange;

typedef void (*EventVisitor) (HeapTuple tuple, TupleDesc descriptor, void *state);

extern void tail_init(void);
extern bool span_has_xid(const EventSpan *span, uint64 xid);
extern void events_scan(int64 stock_id, const XidRange *ranges, int range_count,
						Snapshot snapshot, EventVisitor visit, void *state);
extern XidRange *boundary_ranges(const Boundary *after, const Boundary *upto,
								 int *count);
extern void tail_add_item(int64 stock_id, const EventSpan *span,
						  Snapshot snapshot, EventSums *sums);
extern bool tail_stock_row(int64 stock_id, Snapshot snapshot, EventSums *sums);

#endif							/* INVENTORY_TAIL_H */
