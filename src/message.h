/*-------------------------------------------------------------------------
 *
 * message.h
 *		Rows of the outbox and events, as messages.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_MESSAGE_H
#define INVENTORY_MESSAGE_H

#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "utils/jsonb.h"

#include "event.h"

typedef struct Message
{
	int64		number;			/* in the log */
	int64		position;		/* in the subscription */
	char	   *id;
	char	   *topic;
	char	   *key;			/* or NULL */
	char	   *sku;			/* or NULL */
	Jsonb	   *payload;		/* or NULL */
	Jsonb	   *headers;		/* or NULL */
	TimestampTz created_at;
	int			attempts;		/* so far */
	bool		parked;			/* it comes from the parked messages */
	bool		blocking;		/* and others with its key wait behind it */
} Message;

/* What a stock item is called; kept by the process. */
typedef struct ItemCodes
{
	int64		stock_id;
	char	   *sku;
	char	   *location;
	char	   *lot;			/* or NULL */
	char	   *condition;
	char	   *key;			/* sku@location */
	uint32		key_hash;		/* the same after a code has been changed */
} ItemCodes;

extern const ItemCodes *message_item(int64 stock_id);

/* The topic of events of a type. */
extern const char *message_event_topic(EventType type);

/* From a row of the outbox or an event, into the current memory context. */
extern void message_from_outbox(TupleTableSlot *slot, Message *message);
extern void message_from_event(TupleTableSlot *slot, Message *message);

/* A copy of what a sink or a handler has said, cut to so many bytes, which the
 * database can store: brokers say anything, in any encoding. */
extern char *message_error(const char *text, int max);

/* False if the error says that the database is not able to, not that the message
 * cannot be dealt with. */
extern bool message_is_to_blame(int sqlerrcode);

/* As JSON and CloudEvents have it: RFC 3339, UTC. */
extern char *message_time(TimestampTz at);

#endif							/* INVENTORY_MESSAGE_H */
