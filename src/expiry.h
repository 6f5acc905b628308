/*-------------------------------------------------------------------------
 *
 * expiry.h
 *		Holds past their deadline.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_EXPIRY_H
#define INVENTORY_EXPIRY_H

#include "level.h"

extern void expiry_init(void);
extern int64 expiry_write(LevelTouch *touch, int64 stock_id, int64 max_lines);
extern int64 expiry_run(int64 max_lines);
extern TimestampTz expiry_next_deadline(void);
extern int64 expiry_backlog(void);

#endif							/* INVENTORY_EXPIRY_H */
