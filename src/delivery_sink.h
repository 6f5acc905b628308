/*-------------------------------------------------------------------------
 *
 * delivery_sink.h
 *		Sending messages to a sink outside of the database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_DELIVERY_SINK_H
#define INVENTORY_DELIVERY_SINK_H

#include "delivery.h"
#include "sink/sink.h"

/* A loaded library, and the connection that it has open. */
typedef struct DeliverySink
{
	MemoryContext context;		/* of the options */
	const SinkRoutine *routine;
	void	   *connection;		/* NULL: not open */
	bool		lost;			/* it was lost while there was nothing to send */
	SinkOption *options;
	int			option_count;
	uint64		endpoint_changes;	/* when the options were read */
} DeliverySink;

/* What a call has come to. */
typedef struct SinkResult
{
	SinkVerdict verdict;		/* SINK_OK, SINK_RETRY_SINK, SINK_FATAL */
	int64		retry_after_ms;
	char		error[SINK_ERROR_LENGTH];
} SinkResult;

/* Set by the process: whether it is still to deliver. */
extern const volatile bool *sink_wanted;

/* In a transaction. */
extern void sink_prepare(DeliverySink *sink, const Subscription *subscription);
extern SinkMessage *sink_messages(const Subscription *subscription,
								  const DeliveryItem *items, int count, int *sent);

/* Without one. */
extern void sink_send(DeliverySink *sink, SinkMessage *messages, int count,
					  SinkResult *result);
extern bool sink_idle(DeliverySink *sink);
extern void sink_reopen(DeliverySink *sink, SinkResult *result);
extern void sink_close(DeliverySink *sink);

extern void sink_outcomes(const Subscription *subscription, const SinkMessage *messages,
						  int sent, DeliveryItem *items, int count, SinkResult *result);

#endif							/* INVENTORY_DELIVERY_SINK_H */
