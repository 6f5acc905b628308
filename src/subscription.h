/*-------------------------------------------------------------------------
 *
 * subscription.h
 *		Subscriptions: their rows, and their options as C.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_SUBSCRIPTION_H
#define INVENTORY_SUBSCRIPTION_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/jsonb.h"

typedef enum SinkKind
{
	SINK_KIND_FUNCTION,
	SINK_KIND_NOTIFY,
	SINK_KIND_COMMAND,
	SINK_KIND_SERVER,
} SinkKind;

typedef struct Subscription
{
	int			subscription_id;
	char	   *name;
	Oid			owner;
	int			topic_count;
	char	  **topics;
	uint32		interest;		/* topic_interest() of the topics */
	SinkKind	kind;
	char	   *sink;			/* the name of the server, if it is one */
	int			workers;
	bool		active;
	bool		finished;
	int64		generation;

	/* Options; times in milliseconds. */
	char	   *handler;		/* schema.function; NULL unless a function */
	char	   *channel;		/* NULL unless notify */
	char	   *key_prefix;		/* or NULL */
	int			batch;
	int			max_attempts;
	int64		backoff;
	int64		backoff_cap;
	int64		timeout;
	int64		linger;
	int			park_limit;
	bool		replayed;
	Oid			sink_owner;		/* who owned the handler or the server; or invalid */
	Jsonb	   *options;		/* all of them, those of the sink too */
} Subscription;

/* What the name of a sink stands for. */
extern SinkKind sink_kind(const char *sink);

/* Of one by its number, NULL if there is none; of all, a List of them.  In the
 * current memory context, as the latest snapshot sees them. */
extern Subscription *subscription_find(int subscription_id);
extern Subscription *subscription_find_name(const char *name);
extern List *subscription_all(void);

/* Raises an error unless the current user may manage it. */
extern void subscription_check_owner(const Subscription *subscription);

/* Raises an error unless its owner may still subscribe. */
extern void subscription_check_right(const Subscription *subscription);

/* Raises an error if the handler or the server is somebody else's now. */
extern void subscription_check_sink_owner(Oid then, Oid now, const char *sink);

/* Its generation as the latest snapshot sees it; -1 if it is gone.  Cheap. */
extern int64 subscription_generation(int subscription_id);

/* Keeps its row as it is until the end of the transaction (ShareLock), or lets
 * nobody deliver until then (ExclusiveLock). */
extern void subscription_lock(int subscription_id, int lockmode);

/* A replay has come to its end. */
extern void subscription_finish(int subscription_id);

/* How long to wait after so many attempts: exponential, with jitter. */
extern int64 subscription_backoff_ms(const Subscription *subscription, int attempts);

#endif							/* INVENTORY_SUBSCRIPTION_H */
