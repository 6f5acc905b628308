/*-------------------------------------------------------------------------
 *
 * delivery_slot.h
 *		What sessions, workers and delivery processes know of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_DELIVERY_SLOT_H
#define INVENTORY_DELIVERY_SLOT_H

#include "c.h"

/* This transaction has written something that subscriptions may want: bits as
 * in topic.h.  For those who write messages. */
extern void delivery_written(uint32 bits);

/* Subscriptions have been changed by this transaction: the worker looks at them
 * when it commits. */
extern void delivery_changed(void);

#endif							/* INVENTORY_DELIVERY_SLOT_H */
