/*-------------------------------------------------------------------------
 *
 * engine_message.h
 *		The engine's own messages: what they are about and what they say.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_ENGINE_MESSAGE_H
#define INVENTORY_ENGINE_MESSAGE_H

#include "catalog.h"
#include "event.h"
#include "tail.h"

/* A line of a reservation that has been expired. */
typedef struct ExpiredLine
{
	int64		reservation_id;
	int32		line_no;
	int64		quantity;
	TimestampTz deadline;
} ExpiredLine;

/* What is on hand has been put right, by a difference or by a count. */
typedef struct Adjustment
{
	int64		event_id;
	EventType	type;			/* adjust or count */
	const Codes *codes;
	int64		on_hand_delta;
	int64		expected;		/* of a count */
	int64		counted;
	const EventNote *note;
	const text *actor;
} Adjustment;

/* A stock item of which nothing is available any more, or something again. */
typedef struct Crossing
{
	int64		stock_id;
	bool		is_short;
	int64		safety_stock;
	EventSums	sums;
} Crossing;

extern void engine_message_expired(const ExpiredLine *lines, int count);
extern void engine_message_adjusted(const Adjustment *adjustment);
extern void engine_message_crossed(const Crossing *crossings, int count);

#endif							/* INVENTORY_ENGINE_MESSAGE_H */
