/*-------------------------------------------------------------------------
 *
 * projection.h
 *		Adding the events to the stock rows, tick by tick.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_PROJECTION_H
#define INVENTORY_PROJECTION_H

/* Settings. */
extern int	projection_tick_events;
extern int	projection_snapshot_events;
extern char *projection_hash_key;

/* Projects about max_events events at most in the present transaction, in ticks
 * of about tick_events; returns how many, 0 when there is nothing to do, and
 * about how many are left. */
extern int64 projection_run(int64 max_events, int64 *backlog);

#endif							/* INVENTORY_PROJECTION_H */
