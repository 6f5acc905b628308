/*-------------------------------------------------------------------------
 *
 * expiry.h
 *		Holds past their deadline.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_EXPIRY_H
#define INVENTORY_EXPIRY_H

#include "engine_message.h"
#include "level.h"

/* What a call, or a piece of the worker's work, has expired; {0} at first. */
typedef struct Settlement
{
	ExpiredLine *lines;
	int			count;
	int			room;
} Settlement;

extern void expiry_init(void);
extern int64 expiry_write(LevelTouch *touch, int64 stock_id, int64 max_lines,
						  Settlement *settlement);
extern void expiry_tell(Settlement *settlement);
extern int64 expiry_run(int64 max_lines);
extern TimestampTz expiry_next_deadline(void);
extern int64 expiry_backlog(void);

#endif							/* INVENTORY_EXPIRY_H */
