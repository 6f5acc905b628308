/*-------------------------------------------------------------------------
 *
 * kafka_producer.c
 *		One producer of librdkafka: its configuration, threads and events.
 *
 * The client has threads of its own, one per broker and some more.  They are
 * made with all signals blocked, so that no handler of PostgreSQL's ever runs on
 * one of them, and nothing of ours is called from them: reports, errors and log
 * lines are events in one queue that the process's own thread reads.  The client
 * rings a pipe when the queue is not empty any more, and the process waits for
 * that together with everything else it waits for.
 *
 * A client that ends waits for its threads, and one of them may be in a name
 * look-up for many seconds.  A thread of ours does the waiting; if it takes too
 * long, it is left alone with what it waits for.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "kafka_producer.h"

/* Milliseconds. */
#define SERVE_SLICE 100
#define CLOSE_PATIENCE 800

/* How long a topic may be unknown, at most, in milliseconds: one that has just
 * been made is, for a moment.  Well within the sink's time limit. */
#define UNKNOWN_PATIENCE 3000

/* Log lines from this severity on, as in syslog. */
#define LOG_SEVERITY 3

/*
 * What does not come from options.  Messages never time out in the client: that would
 * leave a gap, which a message behind it of the same key could pass; the sink has
 * a time limit of its own.  For the same reason an error that leaves a gap is
 * fatal to the client.
 */
static const char *const fixed_properties[][2] = {
	{"client.id", "inventory"},
	{"enable.idempotence", "true"},
	{"enable.gapless.guarantee", "true"},
	{"acks", "all"},
	{"message.timeout.ms", "0"},
	{"partitioner", "murmur2_random"},	/* as the Java client's */
	{"linger.ms", "1"},
	{"queue.buffering.max.kbytes", "65536"},	/* would be a gigabyte */
	{"request.timeout.ms", "5000"},
	{"socket.timeout.ms", "10000"},
	{"socket.connection.setup.timeout.ms", "5000"},
	{"socket.keepalive.enable", "true"},
	{"reconnect.backoff.max.ms", "2000"},
	{"topic.metadata.refresh.interval.ms", "10000"},	/* finds new topics */
	{"topic.metadata.propagation.max.ms", "3000"},	/* see UNKNOWN_PATIENCE */
	{"log.queue", "true"},
	{"log.connection.close", "false"},
	{"ssl.endpoint.identification.algorithm", "https"},
	{"sasl.mechanisms", "PLAIN"},	/* unless an option says otherwise */
};

static const char *const option_properties[][2] = {
	{"brokers", "bootstrap.servers"},
	{"compression", "compression.codec"},
	{"security_protocol", "security.protocol"},
	{"sasl_mechanism", "sasl.mechanisms"},
	{"ca_file", "ssl.ca.location"},
	{"user", "sasl.username"},
	{"password", "sasl.password"},
	{"max_message_size", "message.max.bytes"},
};

#define lengthof(array) (sizeof(array) / sizeof((array)[0]))

bool
kafka_is_refusal(rd_kafka_resp_err_t error)
{
	switch (error)
	{
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
		case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM:
		case RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE:
		case RD_KAFKA_RESP_ERR_SECURITY_DISABLED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE:
			return true;
		default:
			return false;
	}
}

/* ---- Configuration ---- */

/* The client's own words may repeat the value, so they are not used. */
static bool
configure(rd_kafka_conf_t *conf, const char *property, const char *value,
		  const char *option, char *error)
{
	char		words[SINK_ERROR_LENGTH];

	if (rd_kafka_conf_set(conf, property, value, words, sizeof(words)) == RD_KAFKA_CONF_OK)
		return true;
	snprintf(error, SINK_ERROR_LENGTH, "the Kafka client refuses the value of \"%s\"",
			 option);
	return false;
}

static bool
configure_timeout(rd_kafka_conf_t *conf, const SinkOption *option, char *error)
{
	char		patience[24];
	long		timeout = strtol(option->value, NULL, 10);

	snprintf(patience, sizeof(patience), "%ld",
			 timeout / 3 < UNKNOWN_PATIENCE ? timeout / 3 : UNKNOWN_PATIENCE);
	return configure(conf, "topic.metadata.propagation.max.ms", patience, option->name, error);
}

static bool
configure_option(rd_kafka_conf_t *conf, const SinkOption *option, char *error)
{
	char		upper[64];
	const char *value = option->value;

	if (strcmp(option->name, "sasl_mechanism") == 0)
	{
		size_t		n;

		for (n = 0; value[n] != '\0' && n < sizeof(upper) - 1; n++)
			upper[n] = value[n] >= 'a' && value[n] <= 'z' ? value[n] - 'a' + 'A' : value[n];
		upper[n] = '\0';
		value = upper;
	}
	for (size_t i = 0; i < lengthof(option_properties); i++)
	{
		if (strcmp(option->name, option_properties[i][0]) == 0)
			return configure(conf, option_properties[i][1], value, option->name, error);
	}
	if (strcmp(option->name, "timeout") == 0)
		return configure_timeout(conf, option, error);
	if (strcmp(option->name, "verify") == 0 && strcasecmp(value, "off") == 0)
		return configure(conf, "enable.ssl.certificate.verification", "false", option->name, error) &&
			configure(conf, "ssl.endpoint.identification.algorithm", "none", option->name, error);
	return true;
}

static rd_kafka_conf_t *
configuration(const SinkOption *options, int count, char *error)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	bool		good = true;

	for (size_t i = 0; good && i < lengthof(fixed_properties); i++)
		good = configure(conf, fixed_properties[i][0], fixed_properties[i][1],
						 fixed_properties[i][0], error);
	for (int i = 0; good && i < count; i++)
		good = configure_option(conf, &options[i], error);
	if (!good)
	{
		rd_kafka_conf_destroy(conf);
		return NULL;
	}
	rd_kafka_conf_set_events(conf, RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG);
	return conf;
}

/* ---- Beginning and end ---- */

static void
block_signals(sigset_t *former)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, former);
}

static bool
make_bell(int bell[2])
{
	if (pipe(bell) != 0)
		return false;
	for (int i = 0; i < 2; i++)
	{
		fcntl(bell[i], F_SETFL, O_NONBLOCK);
		fcntl(bell[i], F_SETFD, FD_CLOEXEC);
	}
	return true;
}

static void
free_producer(KafkaProducer *producer)
{
	close(producer->bell[0]);
	close(producer->bell[1]);
	free(producer);
}

KafkaProducer *
kafka_producer_open(const SinkOption *options, int count, const SinkHost *host,
					KafkaReport report, void *receiver, char *error)
{
	KafkaProducer *producer = calloc(1, sizeof(KafkaProducer));
	rd_kafka_conf_t *conf;
	sigset_t	signals;

	if (producer == NULL || !make_bell(producer->bell))
	{
		snprintf(error, SINK_ERROR_LENGTH, "out of memory or descriptors");
		free(producer);
		return NULL;
	}
	producer->host = host;
	producer->report = report;
	producer->receiver = receiver;
	conf = configuration(options, count, error);
	if (conf == NULL)
	{
		free_producer(producer);
		return NULL;
	}
	block_signals(&signals);
	producer->client = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, SINK_ERROR_LENGTH);
	pthread_sigmask(SIG_SETMASK, &signals, NULL);
	if (producer->client == NULL)
	{
		rd_kafka_conf_destroy(conf);
		free_producer(producer);
		return NULL;
	}
	producer->queue = rd_kafka_queue_get_main(producer->client);
	rd_kafka_set_log_queue(producer->client, producer->queue);
	rd_kafka_queue_io_event_enable(producer->queue, producer->bell[1], "!", 1);
	return producer;
}

typedef struct Farewell
{
	rd_kafka_t *client;
	sem_t		done;
} Farewell;

static void *
say_farewell(void *argument)
{
	Farewell   *farewell = argument;

	rd_kafka_destroy(farewell->client);
	sem_post(&farewell->done);
	return NULL;
}

static bool
await_farewell(Farewell *farewell)
{
	struct timespec until;
	int			result;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += CLOSE_PATIENCE * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	while ((result = sem_timedwait(&farewell->done, &until)) != 0 && errno == EINTR)
		;
	return result == 0;
}

static void
destroy_client(rd_kafka_t *client)
{
	Farewell   *farewell = calloc(1, sizeof(Farewell));
	pthread_t	thread;
	sigset_t	signals;
	int			failure;

	if (farewell == NULL)
		return;
	farewell->client = client;
	sem_init(&farewell->done, 0, 0);
	block_signals(&signals);
	failure = pthread_create(&thread, NULL, say_farewell, farewell);
	pthread_sigmask(SIG_SETMASK, &signals, NULL);
	if (failure != 0)
		free(farewell);
	else if (await_farewell(farewell))
	{
		pthread_join(thread, NULL);
		sem_destroy(&farewell->done);
		free(farewell);
	}
	else
		pthread_detach(thread);
}

void
kafka_producer_close(KafkaProducer *producer)
{
	kafka_producer_purge(producer);
	rd_kafka_queue_io_event_enable(producer->queue, -1, NULL, 0);
	rd_kafka_queue_destroy(producer->queue);
	destroy_client(producer->client);
	free_producer(producer);
}

/* ---- Events ---- */

static void
hear_reports(KafkaProducer *producer, rd_kafka_event_t *event)
{
	const rd_kafka_message_t *message;

	while ((message = rd_kafka_event_message_next(event)) != NULL)
	{
		if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
			producer->all_down = false;
		producer->report(producer->receiver, (int) (intptr_t) message->_private,
						 message->err, rd_kafka_err2str(message->err));
	}
}

static void
hear_error(KafkaProducer *producer, rd_kafka_event_t *event)
{
	rd_kafka_resp_err_t error = rd_kafka_event_error(event);
	const char *words = rd_kafka_event_error_string(event);

	if (error == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
	{
		/* The error before it says more. */
		producer->all_down = true;
		if (producer->trouble[0] != '\0')
			return;
	}
	snprintf(producer->trouble, sizeof(producer->trouble), "%s", words);
	if (error == RD_KAFKA_RESP_ERR__FATAL)
		producer->fatal = rd_kafka_fatal_error(producer->client, producer->trouble,
											   sizeof(producer->trouble));
	/* A handshake also fails when a broker goes away in the middle of it. */
	if (kafka_is_refusal(error) || kafka_is_refusal(producer->fatal) ||
		(error == RD_KAFKA_RESP_ERR__SSL && strstr(words, "certificate") != NULL))
		producer->refused = true;
}

/* What is an error too, and comes to the log with the sink's verdict. */
static bool
is_error_too(const char *facility)
{
	return strcmp(facility, "FAIL") == 0 || strcmp(facility, "FATAL") == 0;
}

static void
hear_log(KafkaProducer *producer, rd_kafka_event_t *event)
{
	const char *facility;
	const char *words;
	int			severity;
	char		line[512];

	if (rd_kafka_event_log(event, &facility, &words, &severity) != 0 ||
		severity > LOG_SEVERITY || is_error_too(facility))
		return;
	snprintf(line, sizeof(line), "Kafka client: %s", words);
	producer->host->log(line);
}

static bool
hear(KafkaProducer *producer)
{
	rd_kafka_event_t *event = rd_kafka_queue_poll(producer->queue, 0);

	if (event == NULL)
		return false;
	switch (rd_kafka_event_type(event))
	{
		case RD_KAFKA_EVENT_DR:
			hear_reports(producer, event);
			break;
		case RD_KAFKA_EVENT_ERROR:
			hear_error(producer, event);
			break;
		case RD_KAFKA_EVENT_LOG:
			hear_log(producer, event);
			break;
		default:
			break;
	}
	rd_kafka_event_destroy(event);
	return true;
}

bool
kafka_producer_serve(KafkaProducer *producer, bool wait)
{
	char		rings[64];
	bool		heard = false;

	/* The pipe first: what comes in after the queue was empty rings again. */
	while (read(producer->bell[0], rings, sizeof(rings)) == sizeof(rings))
		;
	while (hear(producer))
		heard = true;
	/* The report on the message that has finished the client may come alone. */
	if (producer->fatal == RD_KAFKA_RESP_ERR_NO_ERROR)
		producer->fatal = rd_kafka_fatal_error(producer->client, producer->trouble,
											   sizeof(producer->trouble));
	if (heard || !wait)
		return !producer->host->stopping();
	return producer->host->wait(producer->bell[0], SINK_READABLE, SERVE_SLICE) >= 0;
}

void
kafka_producer_purge(KafkaProducer *producer)
{
	rd_kafka_purge(producer->client, RD_KAFKA_PURGE_F_QUEUE |
				   RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
}
