/*-------------------------------------------------------------------------
 *
 * delivery_start.h
 *		Which delivery processes there should be.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_DELIVERY_START_H
#define INVENTORY_DELIVERY_START_H

#include "datatype/timestamp.h"

/* Makes the processes of this database what they should be; returns how many
 * were started, and when to look again. */
extern int64 delivery_reconcile(TimestampTz *again_at);

/* There are to be none in this database, until delivery_reconcile() has looked. */
extern void delivery_dismiss(void);

/* Asks all delivery processes of a database to leave; whether there are any. */
extern bool delivery_terminate(Oid database);

#endif							/* INVENTORY_DELIVERY_START_H */
