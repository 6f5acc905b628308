/*-------------------------------------------------------------------------
 *
 * kafka.c
 *		The sink of Kafka: messages as CloudEvents in binary mode, partitioned by
 *		key.
 *
 * A call gives all of its messages to an idempotent producer (acks=all) and waits
 * for the report on each.  Order within a key, also when something fails:
 *
 * - The client keeps the order within a partition, and a key is always in the same
 *	 partition of a topic.  When the brokers refuse a batch, the client is finished
 *	 (enable.gapless.guarantee), so that nothing behind it is accepted.
 * - A key's message to another topic waits for the report on the one before, while
 *	 other keys go on.
 * - Messages that would have to wait for ever are given up by the sink, all at
 *	 once: what has been sent and not confirmed may have been accepted or not, what
 *	 has not been sent is not.  The client is replaced then.
 *
 * Brokers refuse whole batches, and do not say which message of it they mean.  So
 * what a refused call has left over is sent once more, one message at a time.
 *
 * Everything here runs on the process's own thread; see kafka_producer.c.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kafka_producer.h"

/* Milliseconds: how long all brokers may be out of reach before the sink is
 * down, and how long to wait for the reports on what has been given up. */
#define DOWN_PATIENCE 2000
#define PURGE_PATIENCE 500

#define TIMEOUT_DEFAULT 30000
#define TOPIC_LENGTH 249		/* Kafka's limit */
#define TOPIC_PLACEHOLDER "{topic}"

#define SINK_EXPORT __attribute__((visibility("default")))

typedef enum MessageState
{
	WAITING,					/* not given to the client yet */
	PENDING,					/* given, and not reported */
	ACCEPTED,					/* the brokers have it */
	FAILED,						/* because of itself: verdict and error are set */
	GIVEN_UP,					/* not confirmed, because of something else */
	BEHIND,						/* the one before it with the same key has not gone */
} MessageState;

/* What is wrong with the sink as a whole. */
typedef enum Trouble
{
	NO_TROUBLE,
	TROUBLE_REFUSED_BATCH,		/* see above: to be sent one by one */
	TROUBLE_DOWN,
	TROUBLE_CONFIGURATION,
	TROUBLE_STOPPING,
} Trouble;

typedef struct Item
{
	MessageState state;
	int			previous;		/* message of the call with the same key, or -1 */
} Item;

typedef struct Kafka
{
	const SinkHost *host;
	SinkOption *options;
	int			option_count;
	const char *topic;			/* '{topic}' is the message's */
	const char *subscription;	/* or NULL */
	int64_t		timeout;
	KafkaProducer *producer;	/* NULL: to be made */

	/* The call that is under way. */
	SinkMessage *messages;
	Item	   *items;
	int			count;
	int			pending;
	int64_t		progress_at;
	Trouble		trouble;
	char		words[SINK_ERROR_LENGTH];	/* what the trouble is */
} Kafka;

static int64_t
milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64_C(1000) + now.tv_nsec / 1000000;
}

static void
set_trouble(Kafka *kafka, Trouble trouble, const char *words)
{
	/* The first one counts; but the client may say that a batch was refused before
	 * it reports why. */
	if (kafka->trouble != NO_TROUBLE &&
		!(kafka->trouble == TROUBLE_REFUSED_BATCH && trouble == TROUBLE_CONFIGURATION))
		return;
	kafka->trouble = trouble;
	snprintf(kafka->words, sizeof(kafka->words), "%s", words);
}

/* ---- Topics ---- */

/* Whether all messages go to one topic, which then is a matter of configuration. */
static bool
one_topic(const Kafka *kafka)
{
	return strstr(kafka->topic, TOPIC_PLACEHOLDER) == NULL;
}

/* The Kafka topic of a message; false if there can be none of that name. */
static bool
topic_of(const Kafka *kafka, const SinkMessage *message, char *name)
{
	const char *place = strstr(kafka->topic, TOPIC_PLACEHOLDER);
	int			length;

	if (place == NULL)
		length = snprintf(name, TOPIC_LENGTH + 1, "%s", kafka->topic);
	else
		length = snprintf(name, TOPIC_LENGTH + 1, "%.*s%s%s",
						  (int) (place - kafka->topic), kafka->topic, message->topic,
						  place + strlen(TOPIC_PLACEHOLDER));
	return length > 0 && length <= TOPIC_LENGTH &&
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == (size_t) length &&
		strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

static bool
same_topic(const Kafka *kafka, int one, int other)
{
	return one_topic(kafka) ||
		strcmp(kafka->messages[one].topic, kafka->messages[other].topic) == 0;
}

/* ---- Reports ---- */

static void
fail_message(Kafka *kafka, int index, SinkVerdict verdict, const char *words)
{
	SinkMessage *message = &kafka->messages[index];

	kafka->items[index].state = FAILED;
	message->verdict = verdict;
	snprintf(message->error, sizeof(message->error), "%s", words);
}

static void
fail_topic(Kafka *kafka, int index, const char *words)
{
	if (one_topic(kafka))
	{
		kafka->items[index].state = GIVEN_UP;
		set_trouble(kafka, TROUBLE_CONFIGURATION, words);
	}
	else
		fail_message(kafka, index, SINK_RETRY_MESSAGE, words);
}

/* What has become of a message, or why the client does not take it. */
static void
settle(Kafka *kafka, int index, rd_kafka_resp_err_t error, const char *words)
{
	Item	   *item = &kafka->items[index];

	item->state = GIVEN_UP;
	if (kafka_is_refusal(error) && error != RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED)
	{
		set_trouble(kafka, TROUBLE_CONFIGURATION, words);
		return;
	}
	switch (error)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			item->state = ACCEPTED;
			kafka->progress_at = milliseconds();
			break;
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
			fail_topic(kafka, index, words);
			break;
		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_MSG:
		case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
		case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
		case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
		case RD_KAFKA_RESP_ERR_INVALID_REQUIRED_ACKS:
		case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT:
			fail_message(kafka, index, SINK_FAIL_MESSAGE, words);
			break;
		case RD_KAFKA_RESP_ERR__PURGE_QUEUE:
		case RD_KAFKA_RESP_ERR__PURGE_INFLIGHT:
		case RD_KAFKA_RESP_ERR__FATAL:
			break;
		default:
			set_trouble(kafka, TROUBLE_DOWN, words);
			break;
	}
}

/* A refused batch, unlike a message that the client did not take. */
static void
hear_report(void *receiver, int index, rd_kafka_resp_err_t error, const char *words)
{
	Kafka	   *kafka = receiver;

	kafka->pending--;
	settle(kafka, index, error, words);
	if (kafka->items[index].state == FAILED &&
		kafka->messages[index].verdict == SINK_FAIL_MESSAGE)
		set_trouble(kafka, TROUBLE_REFUSED_BATCH, words);
}

/* ---- Waiting ---- */

static void
look_for_trouble(Kafka *kafka)
{
	KafkaProducer *producer = kafka->producer;
	int64_t		quiet = milliseconds() - kafka->progress_at;
	char		words[SINK_ERROR_LENGTH];

	if (producer->refused)
		set_trouble(kafka, TROUBLE_CONFIGURATION, producer->trouble);
	else if (producer->fatal == RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE)
		set_trouble(kafka, TROUBLE_REFUSED_BATCH, producer->trouble);
	else if (producer->fatal != RD_KAFKA_RESP_ERR_NO_ERROR)
		set_trouble(kafka, TROUBLE_DOWN, producer->trouble);
	else if (producer->all_down && quiet >= DOWN_PATIENCE)
		set_trouble(kafka, TROUBLE_DOWN, producer->trouble);
	else if (quiet >= kafka->timeout)
	{
		snprintf(words, sizeof(words), "no confirmation for %lld ms%s%.180s", (long long) kafka->timeout,
				 producer->trouble[0] != '\0' ? ": " : "", producer->trouble);
		set_trouble(kafka, TROUBLE_DOWN, words);
	}
}

/* Lets the client work; false when there is trouble. */
static bool
serve(Kafka *kafka, bool wait)
{
	if (!kafka_producer_serve(kafka->producer, wait))
		set_trouble(kafka, TROUBLE_STOPPING, "the process is to stop");
	look_for_trouble(kafka);
	return kafka->trouble == NO_TROUBLE;
}

/* Gives up what has no report yet, and the client. */
static void
give_up(Kafka *kafka)
{
	int64_t		until = milliseconds() + PURGE_PATIENCE;

	kafka_producer_purge(kafka->producer);
	while (kafka->pending > 0 && milliseconds() < until)
		(void) kafka_producer_serve(kafka->producer, true);
	kafka_producer_close(kafka->producer);
	kafka->producer = NULL;
	kafka->pending = 0;
	for (int i = 0; i < kafka->count; i++)
	{
		if (kafka->items[i].state == PENDING)
			kafka->items[i].state = GIVEN_UP;
	}
}

/* ---- Sending ---- */

static void
add_header(rd_kafka_headers_t *headers, const char *name, const char *value)
{
	if (value != NULL)
		(void) rd_kafka_header_add(headers, name, -1, value, -1);
}

/* Names of the envelope are not the publisher's to use. */
static bool
reserved_header(const char *name)
{
	return strncmp(name, "ce_", 3) == 0 || strcmp(name, "content-type") == 0;
}

static rd_kafka_headers_t *
headers_of(const Kafka *kafka, const SinkMessage *message)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(12 + message->header_count);
	char		number[24];

	snprintf(number, sizeof(number), "%lld", (long long) message->number);
	if (message->data != NULL)
		add_header(headers, "content-type", "application/json");
	add_header(headers, "ce_specversion", "1.0");
	add_header(headers, "ce_id", message->id);
	add_header(headers, "ce_source", message->source);
	add_header(headers, "ce_type", message->topic);
	add_header(headers, "ce_subject", message->key);
	add_header(headers, "ce_time", message->time);
	add_header(headers, "ce_partitionkey", message->key);
	add_header(headers, "ce_sequence", message->sequence);
	add_header(headers, "ce_messagenumber", number);
	add_header(headers, "ce_subscription", kafka->subscription);
	if (message->replayed)
		add_header(headers, "ce_replayed", "true");
	for (int i = 0; i < message->header_count; i++)
	{
		if (!reserved_header(message->headers[i].name))
			add_header(headers, message->headers[i].name, message->headers[i].value);
	}
	return headers;
}

static rd_kafka_resp_err_t
produce(Kafka *kafka, int index, const char *topic)
{
	const SinkMessage *message = &kafka->messages[index];
	rd_kafka_headers_t *headers = headers_of(kafka, message);
	size_t		key_length = message->key != NULL ? strlen(message->key) : 0;
	rd_kafka_resp_err_t error;

	error = rd_kafka_producev(kafka->producer->client,
							  RD_KAFKA_V_TOPIC(topic),
							  RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							  RD_KAFKA_V_KEY(message->key, key_length),
							  RD_KAFKA_V_VALUE((void *) message->data, message->data_length),
							  RD_KAFKA_V_HEADERS(headers),
							  RD_KAFKA_V_OPAQUE((void *) (intptr_t) index),
							  RD_KAFKA_V_END);
	if (error != RD_KAFKA_RESP_ERR_NO_ERROR)
		rd_kafka_headers_destroy(headers);
	return error;
}

/* Gives a message to the client, which may have to make room first. */
static void
give(Kafka *kafka, int index)
{
	char		topic[TOPIC_LENGTH + 1];
	rd_kafka_resp_err_t error;

	if (!topic_of(kafka, &kafka->messages[index], topic))
	{
		fail_message(kafka, index, SINK_FAIL_MESSAGE, "Kafka can have no topic of that name");
		return;
	}
	while ((error = produce(kafka, index, topic)) == RD_KAFKA_RESP_ERR__QUEUE_FULL)
	{
		if (!serve(kafka, true))
			return;
	}
	if (error == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		kafka->items[index].state = PENDING;
		kafka->pending++;
	}
	else
		settle(kafka, index, error, rd_kafka_err2str(error));
}

/*
 * Gives a message to the client if the one before it with the same key lets it
 * go.  False if that is not known yet.
 */
static bool
try_to_give(Kafka *kafka, int index)
{
	Item	   *item = &kafka->items[index];
	MessageState before = item->previous < 0 ? ACCEPTED : kafka->items[item->previous].state;

	if (before == WAITING || (before == PENDING && !same_topic(kafka, index, item->previous)))
		return false;
	if (before == ACCEPTED || before == PENDING)
		give(kafka, index);
	else
		item->state = BEHIND;
	return true;
}

/* Gives what is waiting, from the first that is, and returns which that was. */
static int
give_waiting(Kafka *kafka, int first, bool one_by_one)
{
	int			still_waiting = kafka->count;

	for (int i = first; i < kafka->count && kafka->trouble == NO_TROUBLE; i++)
	{
		if (kafka->items[i].state != WAITING)
			continue;
		if (!try_to_give(kafka, i) && still_waiting == kafka->count)
			still_waiting = i;
		while (one_by_one && kafka->pending > 0 && serve(kafka, true))
			;
		(void) serve(kafka, false);
	}
	return still_waiting;
}

/* Sends what has not been accepted, and waits for all reports. */
static void
send_rest(Kafka *kafka, bool one_by_one)
{
	int			first = 0;

	kafka->trouble = NO_TROUBLE;
	kafka->progress_at = milliseconds();
	while ((first = give_waiting(kafka, first, one_by_one)) < kafka->count &&
		   serve(kafka, true))
		;
	while (kafka->pending > 0 && serve(kafka, true))
		;
	if (kafka->trouble != NO_TROUBLE)
		give_up(kafka);
}

static bool
need_producer(Kafka *kafka, char *error)
{
	if (kafka->producer == NULL)
		kafka->producer = kafka_producer_open(kafka->options, kafka->option_count,
											  kafka->host, hear_report, kafka, error);
	return kafka->producer != NULL;
}

/*
 * Sends what the refused call has left over, one message at a time, each with
 * whatever trouble it makes being its own: the next one gets a new client.
 */
static void
send_one_by_one(Kafka *kafka)
{
	for (int i = 0; i < kafka->count; i++)
	{
		if (kafka->items[i].state == GIVEN_UP || kafka->items[i].state == BEHIND ||
			(kafka->items[i].state == FAILED && kafka->messages[i].verdict == SINK_FAIL_MESSAGE))
			kafka->items[i].state = WAITING;
	}
	do
	{
		if (!need_producer(kafka, kafka->words))
		{
			kafka->trouble = TROUBLE_CONFIGURATION;
			return;
		}
		send_rest(kafka, true);
	} while (kafka->trouble == TROUBLE_REFUSED_BATCH);
}

/* ---- The call ---- */

/* For each message the one before it with the same key. */
static bool
link_keys(Kafka *kafka)
{
	size_t		size = 16;
	int		   *last;

	while (size < 2 * (size_t) kafka->count)
		size *= 2;
	last = malloc(size * sizeof(int));
	if (last == NULL)
		return false;
	for (size_t i = 0; i < size; i++)
		last[i] = -1;
	for (int i = 0; i < kafka->count; i++)
	{
		const char *key = kafka->messages[i].key;
		size_t		place = 2166136261u;

		kafka->items[i].previous = -1;
		if (key == NULL)
			continue;
		for (const char *c = key; *c != '\0'; c++)
			place = (place ^ (unsigned char) *c) * 16777619u;
		for (place &= size - 1; last[place] >= 0; place = (place + 1) & (size - 1))
		{
			if (strcmp(kafka->messages[last[place]].key, key) == 0)
				break;
		}
		kafka->items[i].previous = last[place];
		last[place] = i;
	}
	free(last);
	return true;
}

static SinkVerdict
verdict_of_trouble(Trouble trouble)
{
	switch (trouble)
	{
		case NO_TROUBLE:
			return SINK_OK;
		case TROUBLE_CONFIGURATION:
			return SINK_FATAL;
		default:
			return SINK_RETRY_SINK;
	}
}

static void
set_verdicts(Kafka *kafka, SinkVerdict verdict)
{
	for (int i = 0; i < kafka->count; i++)
	{
		SinkMessage *message = &kafka->messages[i];

		switch (kafka->items[i].state)
		{
			case ACCEPTED:
				message->verdict = SINK_OK;
				break;
			case FAILED:
				break;
			case WAITING:
			case BEHIND:
				message->verdict = SINK_NOT_SENT;
				break;
			default:
				message->verdict = verdict == SINK_OK ? SINK_NOT_SENT : verdict;
				snprintf(message->error, sizeof(message->error), "%s", kafka->words);
				break;
		}
	}
}

static SinkVerdict
kafka_send(void *sink, SinkMessage *messages, int count, char *error)
{
	Kafka	   *kafka = sink;
	SinkVerdict verdict;

	kafka->messages = messages;
	kafka->count = count;
	kafka->items = calloc(count > 0 ? count : 1, sizeof(Item));
	if (kafka->items == NULL || !link_keys(kafka))
	{
		free(kafka->items);
		snprintf(error, SINK_ERROR_LENGTH, "out of memory");
		return SINK_RETRY_SINK;
	}
	kafka->trouble = NO_TROUBLE;
	kafka->words[0] = '\0';
	if (!need_producer(kafka, kafka->words))
		kafka->trouble = TROUBLE_CONFIGURATION;
	else
	{
		send_rest(kafka, false);
		if (kafka->trouble == TROUBLE_REFUSED_BATCH)
			send_one_by_one(kafka);
	}
	verdict = verdict_of_trouble(kafka->trouble);
	set_verdicts(kafka, verdict);
	if (verdict != SINK_OK)
		snprintf(error, SINK_ERROR_LENGTH, "%s", kafka->words);
	free(kafka->items);
	kafka->items = NULL;
	return verdict;
}

static bool
kafka_idle(void *sink)
{
	Kafka	   *kafka = sink;

	if (kafka->producer == NULL)
		return true;
	(void) kafka_producer_serve(kafka->producer, false);
	return kafka->producer->fatal == RD_KAFKA_RESP_ERR_NO_ERROR && !kafka->producer->refused;
}

/* ---- Beginning and end ---- */

static void
free_kafka(Kafka *kafka)
{
	for (int i = 0; kafka->options != NULL && i < kafka->option_count; i++)
	{
		free((char *) kafka->options[i].name);
		free((char *) kafka->options[i].value);
	}
	free(kafka->options);
	free(kafka);
}

static void
kafka_close(void *sink)
{
	Kafka	   *kafka = sink;

	if (kafka->producer != NULL)
		kafka_producer_close(kafka->producer);
	free_kafka(kafka);
}

/* A client that is made later needs them again. */
static bool
copy_options(Kafka *kafka, const SinkOption *options, int count)
{
	kafka->options = calloc(count > 0 ? count : 1, sizeof(SinkOption));
	if (kafka->options == NULL)
		return false;
	kafka->option_count = count;
	for (int i = 0; i < count; i++)
	{
		kafka->options[i].name = strdup(options[i].name);
		kafka->options[i].value = strdup(options[i].value);
		if (kafka->options[i].name == NULL || kafka->options[i].value == NULL)
			return false;
	}
	return true;
}

static const char *
option_value(const Kafka *kafka, const char *name, const char *otherwise)
{
	for (int i = 0; i < kafka->option_count; i++)
	{
		if (strcmp(kafka->options[i].name, name) == 0)
			return kafka->options[i].value;
	}
	return otherwise;
}

static void *
kafka_open(const SinkOption *options, int count, const SinkHost *host,
		   SinkVerdict *verdict, char *error)
{
	Kafka	   *kafka = calloc(1, sizeof(Kafka));

	*verdict = SINK_FATAL;
	if (kafka == NULL || !copy_options(kafka, options, count))
	{
		if (kafka != NULL)
			free_kafka(kafka);
		snprintf(error, SINK_ERROR_LENGTH, "out of memory");
		return NULL;
	}
	kafka->host = host;
	kafka->topic = option_value(kafka, "topic", TOPIC_PLACEHOLDER);
	kafka->subscription = option_value(kafka, "subscription", NULL);
	kafka->timeout = strtoll(option_value(kafka, "timeout", "0"), NULL, 10);
	if (kafka->timeout <= 0)
		kafka->timeout = TIMEOUT_DEFAULT;
	if (option_value(kafka, "brokers", NULL) == NULL)
		snprintf(error, SINK_ERROR_LENGTH, "option \"brokers\" is missing");
	else if (need_producer(kafka, error))
	{
		*verdict = SINK_OK;
		return kafka;
	}
	free_kafka(kafka);
	return NULL;
}

static const SinkRoutine routine = {
	.abi = SINK_ABI,
	.name = "kafka",
	.in_order = true,
	.open = kafka_open,
	.send = kafka_send,
	.idle = kafka_idle,
	.close = kafka_close,
};

SINK_EXPORT const SinkRoutine *
inventory_sink_routine(void)
{
	return &routine;
}
