/*-------------------------------------------------------------------------
 *
 * kafka_producer.h
 *		One producer of librdkafka: its configuration, threads and events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_SINK_KAFKA_PRODUCER_H
#define INVENTORY_SINK_KAFKA_PRODUCER_H

#include <librdkafka/rdkafka.h>

#include "sink.h"

/* Called for every message that has been given to the client, once. */
typedef void (*KafkaReport) (void *receiver, int index, rd_kafka_resp_err_t error,
							 const char *text);

typedef struct KafkaProducer
{
	rd_kafka_t *client;
	rd_kafka_queue_t *queue;	/* all that the client has to say */
	int			bell[2];		/* a pipe: something is in the queue */
	const SinkHost *host;
	KafkaReport report;
	void	   *receiver;

	/* What the client has said of itself. */
	bool		all_down;		/* no broker can be reached */
	bool		refused;		/* user, password, certificate or rights */
	rd_kafka_resp_err_t fatal;	/* the client is of no use any more */
	char		trouble[SINK_ERROR_LENGTH]; /* the last error in words */
} KafkaProducer;

/* NULL with an error text if the options do not do.  Connects to nobody yet. */
extern KafkaProducer *kafka_producer_open(const SinkOption *options, int count,
										  const SinkHost *host, KafkaReport report,
										  void *receiver, char *error);

/* Reports what has happened; waits for something to happen, for at most a tenth
 * of a second.  False when the process is to stop. */
extern bool kafka_producer_serve(KafkaProducer *producer, bool wait);

/* Gives up what it has not delivered: each message is reported soon. */
extern void kafka_producer_purge(KafkaProducer *producer);

/* Returns within a second.  What has not been reported will not be. */
extern void kafka_producer_close(KafkaProducer *producer);

/* Whether an error says that we are not let in. */
extern bool kafka_is_refusal(rd_kafka_resp_err_t error);

#endif							/* INVENTORY_SINK_KAFKA_PRODUCER_H */
