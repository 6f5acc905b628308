/*-------------------------------------------------------------------------
 *
 * drop.h
 *		Keeping the events from being dropped by mistake.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_DROP_H
#define INVENTORY_DROP_H

extern bool drop_allowed;

extern void drop_init(void);

#endif							/* INVENTORY_DROP_H */
