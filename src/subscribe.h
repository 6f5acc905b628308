/*-------------------------------------------------------------------------
 *
 * subscribe.h
 *		Making subscriptions and changing them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_SUBSCRIBE_H
#define INVENTORY_SUBSCRIBE_H

#include "fmgr.h"

#include "cursor.h"
#include "subscription.h"

/*
 * Makes a subscription whose cursors are like the given one.  Checks everything
 * but whether the owner may have this kind of sink; an error if the name is
 * taken.  Returns its number.
 */
extern int	subscribe(const char *name, char **topics, int topic_count,
					  const char *sink, Jsonb *options, Oid owner, const Cursor *start);

/* Where a cursor begins that has this as its start: now, earliest, or a time. */
extern void cursor_start(Cursor *cursor, const char *option, const char *start);

/*
 * Looks up the subscription that the first argument names, and locks out whoever
 * delivers it; an error if there is none, or the caller may not change it.
 */
extern Subscription *subscription_to_change(FunctionCallInfo fcinfo, const char *operation);

/* Counts the generation up, and sets the state unless it is NULL. */
extern void subscription_changed(const Subscription *subscription, const char *state);

#endif							/* INVENTORY_SUBSCRIBE_H */
