/*-------------------------------------------------------------------------
 *
 * handler.h
 *		Sinks in the database: SQL functions, commands, NOTIFY.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_HANDLER_H
#define INVENTORY_HANDLER_H

#include "delivery.h"

typedef struct Handler Handler;

extern Handler *handler_begin(const Subscription *subscription);

/* In every transaction; raises an error if the function cannot be called. */
extern void handler_prepare(Handler *handler);

/*
 * Handles the messages in the present transaction and sets their outcomes, as
 * many as fit into some time.
 */
extern void handler_run(Handler *handler, DeliveryItem *items, int count);

/* Before the user is changed, in somebody's session. */
extern void handler_check_constraints(void);

/* In a handler, or in what it calls. */
extern bool handler_is_running(void);

#endif							/* INVENTORY_HANDLER_H */
