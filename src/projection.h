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

/* Projects at most about tick_events events in the present transaction; returns
 * how many, 0 when there is nothing to do, and about how many are left. */
extern int64 projection_run(int64 *backlog);

#endif							/* INVENTORY_PROJECTION_H */
