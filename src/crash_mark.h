/*-------------------------------------------------------------------------
 *
 * crash_mark.h
 *		Which message a delivery process was at when it did not come back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_CRASH_MARK_H
#define INVENTORY_CRASH_MARK_H

#include "c.h"

extern int	crash_mark_count(int subscription_id, int slice, int64 position);
extern void crash_mark_set(int subscription_id, int slice, int64 position);
extern void crash_mark_clear(int subscription_id, int slice);

#endif							/* INVENTORY_CRASH_MARK_H */
