/*-------------------------------------------------------------------------
 *
 * subscription_option.h
 *		The options of a subscription.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_SUBSCRIPTION_OPTION_H
#define INVENTORY_SUBSCRIPTION_OPTION_H

#include "subscription.h"

/* Checks what the caller has given, and fills in the defaults.  Options of a
 * foreign server's sink pass as they are. */
extern Jsonb *subscription_options_complete(SinkKind kind, Jsonb *given);

/* From complete options into the fields. */
extern void subscription_options_read(Jsonb *options, Subscription *subscription);

/* A text option, or NULL. */
extern char *subscription_option_text(Jsonb *options, const char *name);

/* With an option set. */
extern Jsonb *subscription_option_set(Jsonb *options, const char *name, JsonbValue *value);

/* The moment that an option or argument names; an error if it names none. */
extern TimestampTz subscription_option_time(const char *name, const char *value);

#endif							/* INVENTORY_SUBSCRIPTION_OPTION_H */
