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
#include "utils/jsonb.h"

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
} Message;

#endif							/* INVENTORY_MESSAGE_H */
