/*-------------------------------------------------------------------------
 *
 * rabbitmq.c
 *		Messages to RabbitMQ, each confirmed by the server.
 *
 * Messages are persistent and published on a channel in confirm mode: the server
 * answers each with an ack once the queues that it goes to have it, on disk if
 * they are durable.  One that goes to no queue comes back (mandatory) and is dead
 * at once.
 *
 * Many messages are on their way at a time, but of each key only one: a message
 * that the server refuses (nack) could otherwise be followed by one with the same
 * key that it takes.  So each waits until the one before it with its key is
 * confirmed, and those behind one that has failed are not sent.
 *
 * When a message is such that the server closes the channel, it does not say
 * which.  Then the channel is opened again and what was not confirmed is sent
 * again, one message at a time: the one that closes it again is dead.  Those that
 * the server had taken before it closed the channel are duplicates then, with
 * the same message id.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "amqp_session.h"
#include "option.h"

#define CHANNEL 1
#define OPEN_MS 10000

/* So much is encoded ahead of what the socket takes. */
#define OUTPUT_SIZE (1024 * 1024)

/* Of exchanges, routing keys, message ids and names of headers, in bytes. */
#define LONGEST_NAME 255

/* The headers that the envelope needs at most. */
#define ENVELOPE_HEADERS 13

#define DEDUPLICATION_HEADER "x-deduplication-header"

/* That says nothing of a message. */
static const char NO_MEMORY[] = "out of memory";

typedef struct RabbitMQ
{
	AmqpSession session;
	char	   *exchange;
	char	   *routing_key;	/* a pattern */
	char	   *subscription;	/* its name, or NULL */
	bool		mandatory;
	long		timeout_ms;
	uint64_t	last_tag;		/* of the messages published on this channel */
	Buffer		key;			/* a routing key, for a moment */
	amqp_table_entry_t *headers;
	int			headers_size;
} RabbitMQ;

/* What has become of the messages of a call. */
typedef struct Batch
{
	SinkMessage *messages;
	int			count;
	int		   *behind;			/* of each: the next with the same key, or -1 */
	bool	   *is_behind;		/* of each: whether it is the next of another */
	bool	   *settled;		/* of each: the server has answered, or it is not to be sent */
	int		   *queue;			/* those to be published: each once, but when it starts again */
	int			queued;
	int			published;		/* so many from the front of the queue */
	int			oldest;			/* in the queue: before it, all are settled */
	int			waiting;		/* published and not settled */
	uint64_t	first_tag;		/* of the first of the queue */
	bool		returning;		/* a message has just come back: its header is next */
	SinkVerdict returned_verdict;	/* of it */
	char		why_returned[SINK_ERROR_LENGTH];
	bool		one_by_one;		/* to find the one that closes the channel */
	long		until;
} Batch;

static void *rabbitmq_open(const SinkOption *options, int count, const SinkHost *host,
						   SinkVerdict *verdict, char *error);
static SinkVerdict rabbitmq_send(void *sink, SinkMessage *messages, int count, char *error);
static bool rabbitmq_idle(void *sink);
static void rabbitmq_close(void *sink);

static bool open_channel(RabbitMQ *rabbitmq);
static bool publish(RabbitMQ *rabbitmq, SinkMessage *message);
static bool take_frame(RabbitMQ *rabbitmq, Batch *batch, const amqp_frame_t *frame);
static bool start_again(RabbitMQ *rabbitmq, Batch *batch, const amqp_channel_close_t *why);

static const SinkRoutine routine = {
	.abi = SINK_ABI,
	.name = "rabbitmq",
	.in_order = true,
	.open = rabbitmq_open,
	.send = rabbitmq_send,
	.idle = rabbitmq_idle,
	.close = rabbitmq_close,
};

const SinkRoutine *
inventory_sink_routine(void)
{
	return &routine;
}

static char *
copy_option(const SinkOption *options, int count, const char *name, const char *otherwise)
{
	const char *value = option_text(options, count, name);

	return value || otherwise ? strdup(value ? value : otherwise) : NULL;
}

static void *
rabbitmq_open(const SinkOption *options, int count, const SinkHost *host,
			  SinkVerdict *verdict, char *error)
{
	RabbitMQ   *rabbitmq = calloc(1, sizeof(RabbitMQ));

	*verdict = SINK_RETRY_SINK;
	if (rabbitmq == NULL)
	{
		sink_error(error, "out of memory");
		return NULL;
	}
	rabbitmq->exchange = copy_option(options, count, "exchange", "");
	rabbitmq->routing_key = copy_option(options, count, "routing_key", "{topic}");
	rabbitmq->subscription = copy_option(options, count, "subscription", NULL);
	rabbitmq->mandatory = option_switch(options, count, "mandatory", true);
	rabbitmq->timeout_ms = option_time(options, count, "timeout", 30000);
	if (rabbitmq->exchange == NULL || rabbitmq->routing_key == NULL)
		sink_error(error, "out of memory");
	else if (session_open(&rabbitmq->session, options, count, host, error) && open_channel(rabbitmq))
		return rabbitmq;
	else
		*verdict = rabbitmq->session.verdict;
	rabbitmq_close(rabbitmq);
	return NULL;
}

static bool
open_confirming(AmqpSession *session, long until)
{
	amqp_channel_open_t open = {0};
	amqp_confirm_select_t select = {0};

	session_write_method(session, CHANNEL, AMQP_CHANNEL_OPEN_METHOD, &open);
	if (session_expect(session, CHANNEL, AMQP_CHANNEL_OPEN_OK_METHOD, until) == NULL)
		return false;
	session_write_method(session, CHANNEL, AMQP_CONFIRM_SELECT_METHOD, &select);
	return session_expect(session, CHANNEL, AMQP_CONFIRM_SELECT_OK_METHOD, until) != NULL;
}

/*
 * That there is such an exchange is asked before a message depends on it.  Who may
 * only write to it may not ask, from RabbitMQ 4 on.
 */
static bool
open_channel(RabbitMQ *rabbitmq)
{
	AmqpSession *session = &rabbitmq->session;
	long		until = connection_time() + OPEN_MS;
	amqp_channel_close_t *why = NULL;
	amqp_channel_close_ok_t ok = {0};
	amqp_exchange_declare_t exists = {
		.exchange = amqp_cstring_bytes(rabbitmq->exchange),
		.type = amqp_cstring_bytes("direct"),
		.passive = 1,
	};

	rabbitmq->last_tag = 0;
	if (!open_confirming(session, until))
		return false;
	if (rabbitmq->exchange[0] == '\0')
		return true;
	session_write_method(session, CHANNEL, AMQP_EXCHANGE_DECLARE_METHOD, &exists);
	if (session_ask(session, CHANNEL, AMQP_EXCHANGE_DECLARE_OK_METHOD, until, &why) != NULL)
		return true;
	if (why == NULL)
		return false;
	if (why->reply_code != AMQP_ACCESS_REFUSED)
		return session_refused(session, why);
	session_write_method(session, CHANNEL, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);
	return open_confirming(session, until);
}

static bool
rabbitmq_idle(void *sink)
{
	RabbitMQ   *rabbitmq = sink;

	return session_keep_alive(&rabbitmq->session);
}

static void
rabbitmq_close(void *sink)
{
	RabbitMQ   *rabbitmq = sink;

	session_close(&rabbitmq->session);
	buffer_free(&rabbitmq->key);
	free(rabbitmq->headers);
	free(rabbitmq->exchange);
	free(rabbitmq->routing_key);
	free(rabbitmq->subscription);
	free(rabbitmq);
}

static void
refuse(SinkMessage *message, SinkVerdict verdict, const char *why)
{
	message->verdict = verdict;
	sink_error(message->error, "%s", why);
}

static bool
allocate_batch(Batch *batch)
{
	batch->behind = calloc(batch->count, sizeof(int));
	batch->is_behind = calloc(batch->count, sizeof(bool));
	batch->settled = calloc(batch->count, sizeof(bool));
	batch->queue = calloc(batch->count, sizeof(int));
	return batch->behind && batch->is_behind && batch->settled && batch->queue;
}

static void
free_batch(Batch *batch)
{
	free(batch->behind);
	free(batch->is_behind);
	free(batch->settled);
	free(batch->queue);
}

static uint32_t
hash_of(const char *key)
{
	uint32_t	hash = 2166136261u;

	for (; *key != '\0'; key++)
		hash = (hash ^ (unsigned char) *key) * 16777619u;
	return hash;
}

/* Which message comes behind which.  A table of the last one seen of each key. */
static bool
find_behind(Batch *batch)
{
	size_t		size = 16;
	int		   *last;

	while (size < 2 * (size_t) batch->count)
		size *= 2;
	last = malloc(size * sizeof(int));
	if (last == NULL)
		return false;
	memset(last, -1, size * sizeof(int));
	for (int i = 0; i < batch->count; i++)
	{
		const char *key = batch->messages[i].key;
		size_t		place;

		batch->behind[i] = -1;
		if (key == NULL)
			continue;
		place = hash_of(key) & (size - 1);
		while (last[place] >= 0 && strcmp(batch->messages[last[place]].key, key) != 0)
			place = (place + 1) & (size - 1);
		if (last[place] >= 0)
		{
			batch->behind[last[place]] = i;
			batch->is_behind[i] = true;
		}
		last[place] = i;
	}
	free(last);
	return true;
}

/* From the beginning, on a channel that has published nothing of it: of each key
 * the first message that is left. */
static void
fill_queue(RabbitMQ *rabbitmq, Batch *batch)
{
	batch->queued = batch->published = batch->oldest = batch->waiting = 0;
	batch->first_tag = rabbitmq->last_tag + 1;
	for (int first = 0; first < batch->count; first++)
	{
		int			i = first;

		if (batch->is_behind[first])
			continue;
		while (i >= 0 && batch->settled[i])
			i = batch->behind[i];
		if (i >= 0)
			batch->queue[batch->queued++] = i;
	}
}

/* The server has answered.  Behind a message that it has not taken, none is sent. */
static void
settle(Batch *batch, int i)
{
	int			next = batch->behind[i];

	batch->settled[i] = true;
	if (batch->messages[i].verdict == SINK_OK && next >= 0)
		batch->queue[batch->queued++] = next;
	for (; batch->messages[i].verdict != SINK_OK && next >= 0; next = batch->behind[next])
		batch->settled[next] = true;
}

/* Publishes as much as may be on its way now. */
static bool
publish_some(RabbitMQ *rabbitmq, Batch *batch)
{
	AmqpSession *session = &rabbitmq->session;

	while (batch->published < batch->queued && !session->blocked &&
		   !(batch->one_by_one && batch->waiting > 0) &&
		   buffer_left(connection_output(session->connection)) < OUTPUT_SIZE)
	{
		int			i = batch->queue[batch->published];

		if (publish(rabbitmq, &batch->messages[i]))
		{
			rabbitmq->last_tag++;
			batch->published++;
			batch->waiting++;
		}
		else if (session->broken)
			return false;
		else
		{
			/* It has no tag: it leaves the queue. */
			batch->queued--;
			memmove(&batch->queue[batch->published], &batch->queue[batch->published + 1],
					(batch->queued - batch->published) * sizeof(int));
			settle(batch, i);
		}
	}
	return true;
}

static bool
no_answer(RabbitMQ *rabbitmq)
{
	if (rabbitmq->session.blocked)
		return session_fail(&rabbitmq->session, SINK_RETRY_SINK, "the server takes no messages: %s",
							rabbitmq->session.why_blocked);
	return session_fail(&rabbitmq->session, SINK_RETRY_SINK, "no confirmation for %ld ms",
						rabbitmq->timeout_ms);
}

static bool
send_batch(RabbitMQ *rabbitmq, Batch *batch)
{
	fill_queue(rabbitmq, batch);
	batch->until = connection_time() + rabbitmq->timeout_ms;
	for (;;)
	{
		amqp_frame_t frame;
		AmqpNext	next;

		if (!publish_some(rabbitmq, batch))
			return false;
		if (batch->published == batch->queued && batch->waiting == 0)
			return true;
		next = session_next(&rabbitmq->session, batch->until, &frame);
		if (next == AMQP_NEXT_FRAME)
		{
			int			waiting = batch->waiting;

			if (!take_frame(rabbitmq, batch, &frame))
				return false;
			if (batch->waiting == waiting)
				next = session_patience(&rabbitmq->session, batch->until);
		}
		if (next == AMQP_NEXT_TIMEOUT)
			return no_answer(rabbitmq);
		if (next == AMQP_NEXT_FAILED)
			return false;
	}
}

static SinkVerdict
rabbitmq_send(void *sink, SinkMessage *messages, int count, char *error)
{
	RabbitMQ   *rabbitmq = sink;
	AmqpSession *session = &rabbitmq->session;
	Batch		batch = {.messages = messages, .count = count};

	session->error = error;
	for (int i = 0; i < count; i++)
		messages[i].verdict = SINK_NOT_SENT;
	if (session->broken)
		session_fail(session, SINK_RETRY_SINK, "the connection has been lost");
	else if (!allocate_batch(&batch) || !find_behind(&batch))
		session_fail(session, SINK_RETRY_SINK, "out of memory");
	else if (send_batch(rabbitmq, &batch))
		session->verdict = SINK_OK;
	free_batch(&batch);
	return session->verdict;
}

/* ---------- Publishing ---------- */

static void
add_header(RabbitMQ *rabbitmq, amqp_table_t *table, const char *name, const char *value)
{
	amqp_table_entry_t *entry;

	if (value == NULL)
		return;
	entry = &rabbitmq->headers[table->num_entries++];
	entry->key = amqp_cstring_bytes(name);
	entry->value.kind = AMQP_FIELD_KIND_UTF8;
	entry->value.value.bytes = amqp_cstring_bytes(value);
}

static bool
is_ours(const char *name)
{
	return strncasecmp(name, "cloudEvents_", 12) == 0 || strncasecmp(name, "cloudEvents:", 12) == 0 ||
		strcasecmp(name, DEDUPLICATION_HEADER) == 0;
}

static bool
make_room_for_headers(RabbitMQ *rabbitmq, int count)
{
	amqp_table_entry_t *headers;

	if (count <= rabbitmq->headers_size)
		return true;
	headers = realloc(rabbitmq->headers, count * sizeof(amqp_table_entry_t));
	if (headers == NULL)
		return false;
	rabbitmq->headers = headers;
	rabbitmq->headers_size = count;
	return true;
}

/* CloudEvents in binary mode, and what the publisher gave as it is. */
static const char *
add_headers(RabbitMQ *rabbitmq, const SinkMessage *message, const char *number, amqp_table_t *table)
{
	if (!make_room_for_headers(rabbitmq, ENVELOPE_HEADERS + message->header_count))
		return NO_MEMORY;
	table->entries = rabbitmq->headers;
	add_header(rabbitmq, table, "cloudEvents_specversion", "1.0");
	add_header(rabbitmq, table, "cloudEvents_id", message->id);
	add_header(rabbitmq, table, "cloudEvents_source", message->source);
	add_header(rabbitmq, table, "cloudEvents_type", message->topic);
	add_header(rabbitmq, table, "cloudEvents_subject", message->key);
	add_header(rabbitmq, table, "cloudEvents_partitionkey", message->key);
	add_header(rabbitmq, table, "cloudEvents_time", message->time);
	add_header(rabbitmq, table, "cloudEvents_sequence", message->sequence);
	add_header(rabbitmq, table, "cloudEvents_messagenumber", number);
	add_header(rabbitmq, table, "cloudEvents_subscription", rabbitmq->subscription);
	add_header(rabbitmq, table, "cloudEvents_replayed", message->replayed ? "true" : NULL);
	add_header(rabbitmq, table, DEDUPLICATION_HEADER, message->id);
	for (int i = 0; i < message->header_count; i++)
	{
		if (strlen(message->headers[i].name) > LONGEST_NAME)
			return "the name of a header is longer than 255 bytes";
		if (!is_ours(message->headers[i].name))
			add_header(rabbitmq, table, message->headers[i].name, message->headers[i].value);
	}
	return NULL;
}

/* The routing key in rabbitmq->key; NULL, or why there is none. */
static const char *
find_routing_key(RabbitMQ *rabbitmq, const SinkMessage *message)
{
	buffer_clear(&rabbitmq->key);
	if (!name_of_message(rabbitmq->routing_key, message, &rabbitmq->key))
		return "the message has no key or SKU, which the routing key needs";
	if (rabbitmq->key.failed)
		return NO_MEMORY;
	if (buffer_left(&rabbitmq->key) > LONGEST_NAME)
		return "the routing key is longer than 255 bytes";
	return NULL;
}

/* Encodes it; false with the message's verdict if it can never be sent, or with
 * the session's. */
static bool
publish(RabbitMQ *rabbitmq, SinkMessage *message)
{
	Buffer	   *output = connection_output(rabbitmq->session.connection);
	size_t		before;
	char		number[24];
	amqp_basic_properties_t properties = {
		._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_HEADERS_FLAG |
		AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
		AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_APP_ID_FLAG,
		.content_type = amqp_cstring_bytes("application/json"),
		.delivery_mode = AMQP_DELIVERY_PERSISTENT,
		.message_id = amqp_cstring_bytes(message->id),
		.type = amqp_cstring_bytes(message->topic),
		.app_id = amqp_cstring_bytes("inventory"),
	};
	amqp_basic_publish_t method = {
		.exchange = amqp_cstring_bytes(rabbitmq->exchange),
		.mandatory = rabbitmq->mandatory,
	};
	const char *why = find_routing_key(rabbitmq, message);

	snprintf(number, sizeof(number), "%lld", (long long) message->number);
	if (why == NULL)
		why = add_headers(rabbitmq, message, number, &properties.headers);
	if (why == NO_MEMORY)
		return session_fail(&rabbitmq->session, SINK_RETRY_SINK, "%s", why);
	if (why != NULL)
	{
		refuse(message, SINK_FAIL_MESSAGE, why);
		return false;
	}
	method.routing_key.bytes = rabbitmq->key.data;
	method.routing_key.len = buffer_left(&rabbitmq->key);
	before = buffer_left(output);
	session_write_method(&rabbitmq->session, CHANNEL, AMQP_BASIC_PUBLISH_METHOD, &method);
	if (session_write_content(&rabbitmq->session, CHANNEL, &properties,
							  message->data ? message->data : "null",
							  message->data ? message->data_length : 4))
		return true;
	output->length = output->start + before;
	refuse(message, SINK_FAIL_MESSAGE, "the headers are larger than a frame");
	return false;
}

/* ---------- What the server says ---------- */

/* The server's answer to a message of the queue. */
static void
answered(Batch *batch, int place, bool taken)
{
	int			i = batch->queue[place];

	if (batch->settled[i])
		return;
	if (batch->messages[i].verdict == SINK_NOT_SENT)	/* it has not come back */
	{
		if (taken)
			batch->messages[i].verdict = SINK_OK;
		else
			refuse(&batch->messages[i], SINK_RETRY_MESSAGE,
				   "the server has refused the message (basic.nack)");
	}
	batch->waiting--;
	settle(batch, i);
}

static void
confirm(RabbitMQ *rabbitmq, Batch *batch, uint64_t tag, bool multiple, bool taken)
{
	int			waiting = batch->waiting;
	int			place;

	if (tag > rabbitmq->last_tag || (tag != 0 && tag < batch->first_tag))
		return;
	/* With "multiple", 0 stands for all. */
	place = tag == 0 ? batch->published - 1 : (int) (tag - batch->first_tag);
	for (int i = multiple ? batch->oldest : place; i >= 0 && i <= place; i++)
		answered(batch, i, taken);
	while (batch->oldest < batch->published && batch->settled[batch->queue[batch->oldest]])
		batch->oldest++;
	if (batch->waiting < waiting)
		batch->until = connection_time() + rabbitmq->timeout_ms;
}

/* A message comes back before it is confirmed, as its properties tell.  One that
 * cannot be found must not be confirmed as if it had gone anywhere. */
static bool
take_returned(RabbitMQ *rabbitmq, Batch *batch, const amqp_frame_t *frame)
{
	const amqp_basic_properties_t *properties = frame->payload.properties.decoded;
	bool		named = frame->payload.properties.class_id == AMQP_BASIC_CLASS &&
		(properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG);

	for (int place = batch->oldest; named && place < batch->published; place++)
	{
		SinkMessage *message = &batch->messages[batch->queue[place]];

		if (message->verdict == SINK_NOT_SENT && strlen(message->id) == properties->message_id.len &&
			memcmp(message->id, properties->message_id.bytes, properties->message_id.len) == 0)
		{
			message->verdict = batch->returned_verdict;
			memcpy(message->error, batch->why_returned, SINK_ERROR_LENGTH);
			return true;
		}
	}
	return session_fail(&rabbitmq->session, SINK_RETRY_SINK,
						"the server has returned a message that it was not sent");
}

static void
note_return(Batch *batch, const amqp_basic_return_t *returned)
{
	batch->returning = true;
	batch->returned_verdict = returned->reply_code == AMQP_NO_ROUTE ? SINK_FAIL_MESSAGE : SINK_RETRY_MESSAGE;
	sink_error(batch->why_returned, "returned by the exchange \"%.*s\", routing key \"%.*s\": %.*s",
			   (int) returned->exchange.len, (char *) returned->exchange.bytes,
			   (int) returned->routing_key.len, (char *) returned->routing_key.bytes,
			   (int) returned->reply_text.len, (char *) returned->reply_text.bytes);
}

static bool
take_frame(RabbitMQ *rabbitmq, Batch *batch, const amqp_frame_t *frame)
{
	void	   *method = frame->payload.method.decoded;
	bool		returning = batch->returning;

	batch->returning = false;
	if (frame->channel != CHANNEL)
		return true;
	if (frame->frame_type == AMQP_FRAME_HEADER && returning)
		return take_returned(rabbitmq, batch, frame);
	if (frame->frame_type != AMQP_FRAME_METHOD)
		return true;
	switch (frame->payload.method.id)
	{
		case AMQP_BASIC_ACK_METHOD:
			confirm(rabbitmq, batch, ((amqp_basic_ack_t *) method)->delivery_tag,
					((amqp_basic_ack_t *) method)->multiple, true);
			break;
		case AMQP_BASIC_NACK_METHOD:
			confirm(rabbitmq, batch, ((amqp_basic_nack_t *) method)->delivery_tag,
					((amqp_basic_nack_t *) method)->multiple, false);
			break;
		case AMQP_BASIC_RETURN_METHOD:
			note_return(batch, method);
			break;
		case AMQP_CHANNEL_CLOSE_METHOD:
			return start_again(rabbitmq, batch, method);
	}
	return true;
}

/* The server has closed the channel: because of the sink, or of a message. */
static bool
start_again(RabbitMQ *rabbitmq, Batch *batch, const amqp_channel_close_t *why)
{
	SinkVerdict verdict = session_verdict(why->reply_code, why->reply_text);
	char		text[SINK_ERROR_LENGTH];
	amqp_channel_close_ok_t ok = {0};

	sink_error(text, "%.*s", (int) why->reply_text.len, (char *) why->reply_text.bytes);
	if (verdict != SINK_FAIL_MESSAGE)
		return session_fail(&rabbitmq->session, verdict, "%s", text);
	for (int place = batch->oldest; batch->one_by_one && place < batch->published; place++)
	{
		int			i = batch->queue[place];

		if (batch->settled[i])
			continue;
		refuse(&batch->messages[i], SINK_FAIL_MESSAGE, text);
		settle(batch, i);
	}
	/* Frames of the old channel that are still to be written come before this, and
	 * the server passes over them. */
	session_write_method(&rabbitmq->session, CHANNEL, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);
	if (!open_channel(rabbitmq))
		return false;
	batch->one_by_one = true;
	fill_queue(rabbitmq, batch);
	return true;
}
