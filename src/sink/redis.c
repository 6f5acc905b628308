/*-------------------------------------------------------------------------
 *
 * redis.c
 *		Messages to Redis: as entries of streams, published, or as what a cache
 *		must forget.
 *
 * Every call's commands are sent in transactions (MULTI, EXEC), each of some
 * hundred messages and written at once: a message is taken with all that are
 * before it or not at all, so messages with the same key keep their order
 * whatever fails.
 *
 * Streams.  An entry's id is made of the message's position, "<position>-0".
 * Redis refuses an id that is not larger than all before it, but that alone does
 * not prove that the message is there: others may write to the stream, a parked
 * message comes late, a database may have been restored.  So the sink watches the
 * stream (WATCH), asks for its last id, and looks up what it would not take: an
 * entry with that id, of the same source and with the same message id, has been
 * delivered before.  What is not found gets an id behind the last one,
 * "<milliseconds of the last>-<sequence of the last + 1>": nothing is lost, and
 * a duplicate can only be one of these, or of what has been removed from the
 * stream; both are told by the fields id and sequence.  When somebody writes to
 * the stream meanwhile, EXEC does nothing and it is done again.
 *
 * Cache.  DEL names each key once per call.  A server that has been restarted,
 * or a replica that has taken over, may have values from before a DEL that was
 * confirmed: each run of a server has an id, and so has each history that a
 * replica may copy; when they are not those noted beside the values, all values
 * go before anything else is done.
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "option.h"
#include "redis_session.h"

/* A transaction is held in the server's memory until EXEC, and stops it for
 * everybody while it runs. */
#define MESSAGES_AT_ONCE 500
#define BYTES_AT_ONCE (4 * 1024 * 1024)

/* So often somebody else may be faster at the same stream. */
#define ATTEMPTS 100

typedef enum Mode
{
	MODE_STREAM,
	MODE_PUBLISH,
	MODE_CACHE,
} Mode;

/* An id of an entry. */
typedef struct EntryId
{
	uint64_t	milliseconds;
	uint64_t	sequence;
} EntryId;

/* What a message goes to: a stream, a channel, a key of a cache. */
typedef struct Place
{
	char	   *name;
	size_t		length;
	uint32_t	hash;
	EntryId		last;			/* of a stream */
} Place;

typedef struct Redis
{
	RedisSession session;
	Mode		mode;
	char	   *name;			/* a pattern */
	char	   *subscription;	/* its name, or NULL */
	bool		position_ids;	/* entry_id = position */
	bool		cache_set;		/* cache = set */
	long		maxlen;
	long		ttl_ms;
	long		timeout_ms;
	Buffer		target;			/* a name, for a moment */
} Redis;

/* The messages of one transaction. */
typedef struct Chunk
{
	SinkMessage *messages;
	bool	   *held;			/* behind one that has failed */
	int			count;
	int			left;			/* in the call, from the chunk's first on */
	Place	   *places;
	int			place_count;
	int		   *place_of;		/* of each message: index in places */
	bool	   *sent;			/* is in this attempt */
} Chunk;

static void *redis_open(const SinkOption *options, int count, const SinkHost *host,
						SinkVerdict *verdict, char *error);
static SinkVerdict redis_send(void *sink, SinkMessage *messages, int count, char *error);
static bool redis_idle(void *sink);
static void redis_close(void *sink);

static bool forget_what_another_server_knew(Redis *redis);
static bool send_chunk(Redis *redis, Chunk *chunk);
static bool look_at_streams(Redis *redis, Chunk *chunk);
static bool find_delivered(Redis *redis, Chunk *chunk);
static int	send_transaction(Redis *redis, Chunk *chunk);

static const SinkRoutine routine = {
	.abi = SINK_ABI,
	.name = "redis",
	.in_order = true,
	.open = redis_open,
	.send = redis_send,
	.idle = redis_idle,
	.close = redis_close,
};

const SinkRoutine *
inventory_sink_routine(void)
{
	return &routine;
}

/* A cache has names of its own, that can be found by how they begin: all of them
 * may have to go. */
static bool
check_name(Redis *redis)
{
	size_t		fixed = fixed_part(redis->name);

	if (redis->mode == MODE_CACHE && (fixed == 0 || redis->name[fixed] == '\0'))
		return redis_fail(&redis->session, SINK_FATAL,
						 "the name of a cache needs a beginning of its own and {sku} or {key}");
	return true;
}

static bool
configure(Redis *redis, const SinkOption *options, int count)
{
	const char *mode = option_text(options, count, "mode");
	const char *name = option_text(options, count, "name");
	const char *cache = option_text(options, count, "cache");
	const char *ids = option_text(options, count, "entry_id");
	const char *subscription = option_text(options, count, "subscription");

	redis->mode = mode == NULL || strcmp(mode, "stream") == 0 ? MODE_STREAM
		: strcmp(mode, "publish") == 0 ? MODE_PUBLISH : MODE_CACHE;
	if (name == NULL)
		name = redis->mode == MODE_CACHE ? "inventory:{sku}" : "inventory:{topic}";
	redis->name = strdup(name);
	redis->subscription = subscription ? strdup(subscription) : NULL;
	redis->cache_set = cache != NULL && strcmp(cache, "set") == 0;
	redis->position_ids = ids == NULL || strcmp(ids, "auto") != 0;
	redis->maxlen = option_number(options, count, "maxlen", 0);
	redis->ttl_ms = option_time(options, count, "ttl", 0);
	redis->timeout_ms = option_time(options, count, "timeout", 30000);
	return redis->name != NULL;
}

static void *
redis_open(const SinkOption *options, int count, const SinkHost *host,
		   SinkVerdict *verdict, char *error)
{
	Redis	   *redis = calloc(1, sizeof(Redis));

	*verdict = SINK_RETRY_SINK;
	if (redis == NULL || !configure(redis, options, count))
	{
		sink_error(error, "out of memory");
		redis_close(redis);
		return NULL;
	}
	redis->session.error = error;
	if (check_name(redis) && redis_connect(&redis->session, options, count, host, error) &&
		(redis->mode != MODE_CACHE || forget_what_another_server_knew(redis)))
		return redis;
	*verdict = redis->session.verdict;
	redis_close(redis);
	return NULL;
}

static bool
redis_idle(void *sink)
{
	Redis	   *redis = sink;

	return redis_keep_alive(&redis->session);
}

/* Appends a field of INFO's answer. */
static bool
find_info(const redisReply *info, const char *field, char *found, size_t size)
{
	const char *start = info->type == REDIS_REPLY_STRING ? strstr(info->str, field) : NULL;
	size_t		length = strlen(found);

	if (start == NULL)
		return false;
	start += strlen(field);
	snprintf(found + length, size - length, "%.*s ", (int) strcspn(start, "\r\n"), start);
	return true;
}

/* What tells this run of the server, and what it is a copy of, from all others;
 * an empty text if it does not say.  False if it refuses to answer. */
static bool
identify_server(Redis *redis, char *identity, size_t size)
{
	redisReply *info;

	redis->session.until = connection_time() + redis->timeout_ms;
	identity[0] = '\0';
	WRITE(&redis->session, "INFO");
	info = redis_expect(&redis->session);
	if (info == NULL)
		return false;
	if (!find_info(info, "\nrun_id:", identity, size) ||
		!find_info(info, "\nmaster_replid:", identity, size))
		identity[0] = '\0';
	freeReplyObject(info);
	return true;
}

/* What SCAN is to match: the names that begin as the pattern does. */
static void
write_scan_pattern(Redis *redis, Buffer *pattern)
{
	size_t		length = fixed_part(redis->name);

	for (size_t i = 0; i < length; i++)
	{
		if (strchr("*?[]\\", redis->name[i]) != NULL)
			buffer_append_string(pattern, "\\");
		buffer_append(pattern, redis->name + i, 1);
	}
	buffer_append_string(pattern, "*");
	buffer_terminate(pattern);
}

/* Deletes what a step of SCAN has found; the cursor for the next one. */
static bool
delete_found(Redis *redis, const redisReply *step, char *cursor, size_t size)
{
	const redisReply *names;
	Command		command = {0};

	if (step->type != REDIS_REPLY_ARRAY || step->elements != 2 ||
		step->element[0]->type != REDIS_REPLY_STRING || step->element[1]->type != REDIS_REPLY_ARRAY)
		return redis_fail(&redis->session, SINK_RETRY_SINK, "SCAN has an answer of another form");
	snprintf(cursor, size, "%s", step->element[0]->str);
	names = step->element[1];
	if (names->elements == 0)
		return true;
	command_add(&command, "DEL");
	for (size_t i = 0; i < names->elements; i++)
		command_add_bytes(&command, names->element[i]->str, names->element[i]->len);
	command_write(&redis->session, &command);
	command_free(&command);
	return redis_expect_success(&redis->session);
}

/* Streams and all else that is no value of a cache stay. */
static bool
delete_all_values(Redis *redis)
{
	Buffer		pattern = {0};
	char		cursor[32] = "0";
	bool		deleted;

	write_scan_pattern(redis, &pattern);
	if (pattern.failed)
		return redis_fail(&redis->session, SINK_RETRY_SINK, "out of memory");
	do
	{
		redisReply *step;

		redis->session.until = connection_time() + redis->timeout_ms;
		WRITE(&redis->session, "SCAN", cursor, "MATCH", pattern.data, "COUNT", "1000", "TYPE", "string");
		step = redis_expect(&redis->session);
		deleted = step != NULL && delete_found(redis, step, cursor, sizeof(cursor));
		if (step != NULL)
			freeReplyObject(step);
		deleted = deleted && redis_may_go_on(&redis->session);
	} while (deleted && strcmp(cursor, "0") != 0);
	buffer_free(&pattern);
	return deleted;
}

/* The note is under the pattern itself, which is no name of a value. */
static bool
forget_what_another_server_knew(Redis *redis)
{
	char		identity[128];
	redisReply *noted;
	bool		same;

	if (!identify_server(redis, identity, sizeof(identity)))
		return false;
	WRITE(&redis->session, "GET", redis->name);
	noted = redis_expect(&redis->session);
	if (noted == NULL)
		return false;
	same = identity[0] != '\0' && is_text(noted, identity);
	freeReplyObject(noted);
	if (same)
		return true;
	if (!delete_all_values(redis))
		return false;
	redis->session.until = connection_time() + redis->timeout_ms;
	WRITE(&redis->session, "SET", redis->name, identity);
	return redis_expect_success(&redis->session);
}

static void
redis_close(void *sink)
{
	Redis	   *redis = sink;

	if (redis == NULL)
		return;
	redis_disconnect(&redis->session);
	buffer_free(&redis->target);
	free(redis->name);
	free(redis->subscription);
	free(redis);
}

/* A message that cannot be taken holds back those after it with its key. */
static void
fail_message(Chunk *chunk, int failed, SinkVerdict verdict, const char *error)
{
	SinkMessage *message = &chunk->messages[failed];

	message->verdict = verdict;
	sink_error(message->error, "%s", error);
	for (int i = failed + 1; message->key != NULL && i < chunk->left; i++)
	{
		const char *key = chunk->messages[i].key;

		if (key != NULL && strcmp(key, message->key) == 0)
			chunk->held[i] = true;
	}
}

/* Whether it is still to be sent. */
static bool
is_open(const Chunk *chunk, int i)
{
	return chunk->messages[i].verdict == SINK_NOT_SENT && !chunk->held[i];
}

static int
chunk_end(const SinkMessage *messages, int start, int count)
{
	size_t		bytes = 0;
	int			end = start;

	while (end < count && end - start < MESSAGES_AT_ONCE &&
		   (end == start || bytes + messages[end].data_length <= BYTES_AT_ONCE))
		bytes += messages[end++].data_length;
	return end;
}

static void
free_chunk(Chunk *chunk)
{
	for (int i = 0; i < chunk->place_count; i++)
		free(chunk->places[i].name);
	free(chunk->places);
	free(chunk->place_of);
	free(chunk->sent);
}

static bool
allocate_chunk(Chunk *chunk)
{
	chunk->places = calloc(chunk->count, sizeof(Place));
	chunk->place_of = calloc(chunk->count, sizeof(int));
	chunk->sent = calloc(chunk->count, sizeof(bool));
	return chunk->places != NULL && chunk->place_of != NULL && chunk->sent != NULL;
}

/* Divides the messages into transactions. */
static bool
send_all(Redis *redis, SinkMessage *messages, bool *held, int count)
{
	bool		sent = true;

	for (int start = 0; sent && start < count;)
	{
		int			end = chunk_end(messages, start, count);
		Chunk		chunk = {
			.messages = messages + start,
			.held = held + start,
			.count = end - start,
			.left = count - start,
		};

		redis->session.until = connection_time() + redis->timeout_ms;
		sent = allocate_chunk(&chunk) ? send_chunk(redis, &chunk)
			: redis_fail(&redis->session, SINK_RETRY_SINK, "out of memory");
		free_chunk(&chunk);
		start = end;
	}
	return sent;
}

/* An entry that is looked up has all of its message. */
static size_t
largest_message(const SinkMessage *messages, int count)
{
	size_t		largest = 0;

	for (int i = 0; i < count; i++)
	{
		size_t		size = messages[i].data_length;

		for (int j = 0; j < messages[i].header_count; j++)
			size += strlen(messages[i].headers[j].name) + strlen(messages[i].headers[j].value);
		if (size > largest)
			largest = size;
	}
	return largest;
}

static SinkVerdict
redis_send(void *sink, SinkMessage *messages, int count, char *error)
{
	Redis	   *redis = sink;
	bool	   *held = calloc(count, sizeof(bool));

	redis->session.error = error;
	for (int i = 0; i < count; i++)
		messages[i].verdict = SINK_NOT_SENT;
	redis->session.largest = largest_message(messages, count);
	if (redis->session.broken)
		redis_fail(&redis->session, SINK_RETRY_SINK, "the connection has been lost");
	else if (held == NULL)
		redis_fail(&redis->session, SINK_RETRY_SINK, "out of memory");
	else if (send_all(redis, messages, held, count))
		redis->session.verdict = SINK_OK;
	free(held);
	return redis->session.verdict;
}

/* The name that a message goes to, terminated; NULL if it goes nowhere. */
static const char *
name_for(Redis *redis, const SinkMessage *message)
{
	buffer_clear(&redis->target);
	if (!name_of_message(redis->name, message, &redis->target))
		return NULL;
	buffer_terminate(&redis->target);
	if (redis->target.failed)
		return NULL;
	return redis->target.data;
}

static uint32_t
hash_of(const char *name)
{
	uint32_t	hash = 2166136261u;

	for (; *name != '\0'; name++)
		hash = (hash ^ (unsigned char) *name) * 16777619u;
	return hash;
}

/* The place that a message goes to; -1 if it goes nowhere. */
static int
find_place(Redis *redis, Chunk *chunk, const SinkMessage *message)
{
	const char *name = name_for(redis, message);
	uint32_t	hash;
	Place	   *place;

	if (name == NULL)
		return -1;
	hash = hash_of(name);
	for (int i = 0; i < chunk->place_count; i++)
		if (chunk->places[i].hash == hash && strcmp(chunk->places[i].name, name) == 0)
			return i;
	place = &chunk->places[chunk->place_count];
	place->name = strdup(name);
	place->length = strlen(name);
	place->hash = hash;
	redis->target.failed |= place->name == NULL;
	return chunk->place_count++;
}

/* A message without a key goes to no stream that is named by it; one that is not
 * about a SKU is none that a cache by SKU must know of. */
static bool
find_names(Redis *redis, Chunk *chunk)
{
	for (int i = 0; i < chunk->count; i++)
	{
		SinkMessage *message = &chunk->messages[i];

		if (!is_open(chunk, i))
			continue;
		chunk->place_of[i] = find_place(redis, chunk, message);
		if (redis->target.failed)
			return redis_fail(&redis->session, SINK_RETRY_SINK, "out of memory");
		if (chunk->place_of[i] >= 0)
			continue;
		if (redis->mode == MODE_CACHE)
			message->verdict = SINK_OK;
		else
			fail_message(chunk, i, SINK_FAIL_MESSAGE, "the message has no key or SKU, which the name needs");
	}
	return true;
}

/* Until a transaction has taken what there is to take. */
static bool
send_chunk(Redis *redis, Chunk *chunk)
{
	if (!find_names(redis, chunk))
		return false;
	for (int attempt = 0; attempt < ATTEMPTS; attempt++)
	{
		int			result;

		if (redis->mode == MODE_STREAM &&
			(!look_at_streams(redis, chunk) ||
			 (redis->position_ids && !find_delivered(redis, chunk))))
			return false;
		result = send_transaction(redis, chunk);
		if (result != 0)
			return result > 0;
	}
	return redis_fail(&redis->session, SINK_RETRY_SINK, "others write to the stream all the time; see entry_id");
}

static bool
parse_id(const redisReply *reply, EntryId *id)
{
	return reply->type == REDIS_REPLY_STRING &&
		sscanf(reply->str, "%" SCNu64 "-%" SCNu64, &id->milliseconds, &id->sequence) == 2;
}

static bool
is_behind(const SinkMessage *message, const EntryId *last)
{
	return (uint64_t) message->position > last->milliseconds;
}

/* The largest id that a stream has ever had; none for one that does not exist. */
static void
last_id(const redisReply *reply, EntryId *last)
{
	last->milliseconds = last->sequence = 0;
	if (reply->type != REDIS_REPLY_ARRAY)
		return;
	for (size_t i = 0; i + 1 < reply->elements; i += 2)
		if (is_text(reply->element[i], "last-generated-id"))
			parse_id(reply->element[i + 1], last);
}

/* What a stream's answer means for the messages that go to it. */
static bool
judge_stream(Redis *redis, Chunk *chunk, int stream, const redisReply *reply)
{
	SinkVerdict verdict = SINK_OK;

	last_id(reply, &chunk->places[stream].last);
	if (is_error(reply) && !begins_with(reply->str, "ERR no such key"))
		verdict = redis_verdict(reply->str);
	if (verdict == SINK_FATAL || verdict == SINK_RETRY_SINK)
		return redis_fail(&redis->session, verdict, reply->str);
	for (int i = 0; verdict != SINK_OK && i < chunk->count; i++)
		if (is_open(chunk, i) && chunk->place_of[i] == stream)
			fail_message(chunk, i, verdict, reply->str);
	return true;
}

static bool
look_at_streams(Redis *redis, Chunk *chunk)
{
	bool		looked = true;
	Command		command = {0};

	if (redis->position_ids && chunk->place_count > 0)
	{
		command_add(&command, "WATCH");
		for (int i = 0; i < chunk->place_count; i++)
			command_add_bytes(&command, chunk->places[i].name, chunk->places[i].length);
		command_write(&redis->session, &command);
	}
	for (int i = 0; i < chunk->place_count; i++)
	{
		command_add(&command, "XINFO");
		command_add(&command, "STREAM");
		command_add_bytes(&command, chunk->places[i].name, chunk->places[i].length);
		command_write(&redis->session, &command);
	}
	command_free(&command);
	if (redis->position_ids && chunk->place_count > 0 && !redis_expect_success(&redis->session))
		return false;
	for (int i = 0; looked && i < chunk->place_count; i++)
	{
		redisReply *reply = redis_answer(&redis->session);

		looked = reply != NULL && judge_stream(redis, chunk, i, reply);
		if (reply != NULL)
			freeReplyObject(reply);
	}
	return looked;
}

static bool
has_field(const redisReply *fields, const char *name, const char *value)
{
	if (fields->type != REDIS_REPLY_ARRAY || value == NULL)
		return false;
	for (size_t i = 0; i + 1 < fields->elements; i += 2)
		if (is_text(fields->element[i], name))
			return is_text(fields->element[i + 1], value);
	return false;
}

/* Whether the answer of XRANGE has this message. */
static bool
is_this_message(const redisReply *reply, const SinkMessage *message)
{
	const redisReply *entry;

	if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 1)
		return false;
	entry = reply->element[0];
	return entry->type == REDIS_REPLY_ARRAY && entry->elements == 2 &&
		has_field(entry->element[1], "id", message->id) &&
		has_field(entry->element[1], "source", message->source);
}

static bool
may_be_there(const Chunk *chunk, int i)
{
	const SinkMessage *message = &chunk->messages[i];

	return is_open(chunk, i) && !is_behind(message, &chunk->places[chunk->place_of[i]].last) &&
		message->position > 0;
}

static bool
find_delivered(Redis *redis, Chunk *chunk)
{
	bool		found = true;
	Command		command = {0};

	for (int i = 0; i < chunk->count; i++)
		if (may_be_there(chunk, i))
		{
			char		id[32];

			snprintf(id, sizeof(id), "%" PRId64 "-0", chunk->messages[i].position);
			command_add(&command, "XRANGE");
			command_add(&command, chunk->places[chunk->place_of[i]].name);
			command_add(&command, id);
			command_add(&command, id);
			command_write(&redis->session, &command);
			chunk->sent[i] = true;
		}
		else
			chunk->sent[i] = false;
	command_free(&command);
	for (int i = 0; found && i < chunk->count; i++)
	{
		redisReply *reply;

		if (!chunk->sent[i])
			continue;
		reply = redis_answer(&redis->session);
		found = reply != NULL && (!is_error(reply) || redis_refused(&redis->session, reply));
		if (found && is_this_message(reply, &chunk->messages[i]))
			chunk->messages[i].verdict = SINK_OK;
		if (reply != NULL)
			freeReplyObject(reply);
	}
	return found;
}

static void
choose_id(Redis *redis, const SinkMessage *message, EntryId *last, char *id, size_t size)
{
	if (!redis->position_ids)
	{
		snprintf(id, size, "*");
		return;
	}
	if (message->position > 0 && is_behind(message, last))
	{
		last->milliseconds = message->position;
		last->sequence = 0;
	}
	else
		last->sequence++;
	snprintf(id, size, "%" PRIu64 "-%" PRIu64, last->milliseconds, last->sequence);
}

static void
add_field(Command *command, const char *name, const char *value)
{
	if (value == NULL)
		return;
	command_add(command, name);
	command_add(command, value);
}

static void
write_entry(Redis *redis, Command *command, const SinkMessage *message, Place *stream, Buffer *names)
{
	char		id[48];
	char		number[24];
	char		maxlen[24];

	choose_id(redis, message, &stream->last, id, sizeof(id));
	snprintf(number, sizeof(number), "%" PRId64, message->number);
	snprintf(maxlen, sizeof(maxlen), "%ld", redis->maxlen);
	command_add(command, "XADD");
	command_add_bytes(command, stream->name, stream->length);
	if (redis->maxlen > 0)
	{
		command_add(command, "MAXLEN");
		command_add(command, "~");
		command_add(command, maxlen);
	}
	command_add(command, id);
	add_field(command, "specversion", "1.0");
	add_field(command, "id", message->id);
	add_field(command, "source", message->source);
	add_field(command, "type", message->topic);
	add_field(command, "subject", message->key);
	add_field(command, "partitionkey", message->key);
	add_field(command, "time", message->time);
	add_field(command, "sequence", message->sequence);
	add_field(command, "messagenumber", number);
	add_field(command, "subscription", redis->subscription);
	add_field(command, "replayed", message->replayed ? "true" : NULL);
	add_field(command, "datacontenttype", "application/json");
	command_add(command, "data");
	command_add_bytes(command, message->data ? message->data : "null", message->data ? message->data_length : 4);
	/* The names are put together first, as a buffer moves when it grows. */
	buffer_clear(names);
	for (int i = 0; i < message->header_count; i++)
	{
		buffer_append_string(names, "header.");
		buffer_append(names, message->headers[i].name, strlen(message->headers[i].name) + 1);
	}
	if (names->failed)
		command->failed = true;
	else if (message->header_count > 0)
	{
		const char *name = names->data;

		for (int i = 0; i < message->header_count; i++)
		{
			add_field(command, name, message->headers[i].value);
			name += strlen(name) + 1;
		}
	}
	command_write(&redis->session, command);
}

static void
write_value(Redis *redis, Command *command, const SinkMessage *message, const Place *key)
{
	char		ttl[24];

	snprintf(ttl, sizeof(ttl), "%ld", redis->ttl_ms);
	command_add(command, redis->cache_set ? "SET" : "DEL");
	command_add_bytes(command, key->name, key->length);
	if (redis->cache_set)
	{
		command_add_bytes(command, message->data ? message->data : "null",
				  message->data ? message->data_length : 4);
		if (redis->ttl_ms > 0)
		{
			command_add(command, "PX");
			command_add(command, ttl);
		}
	}
	command_write(&redis->session, command);
}

static void
write_publication(Redis *redis, Command *command, const SinkMessage *message, const Place *channel)
{
	bool		whole = message->structured != NULL;

	command_add(command, "PUBLISH");
	command_add_bytes(command, channel->name, channel->length);
	command_add_bytes(command, whole ? message->structured : message->data,
			  whole ? message->structured_length : message->data_length);
	command_write(&redis->session, command);
}

/* Whether a later message of the chunk has the same key of the cache: then that
 * one's command is enough. */
static void
find_last_of_each(Chunk *chunk, bool *last)
{
	memset(last, true, chunk->place_count);
	for (int i = chunk->count - 1; i >= 0; i--)
	{
		chunk->sent[i] = is_open(chunk, i) && last[chunk->place_of[i]];
		if (chunk->sent[i])
			last[chunk->place_of[i]] = false;
	}
}

/* Writes the commands; how many. */
static int
write_commands(Redis *redis, Chunk *chunk)
{
	int			written = 0;
	Command		command = {0};
	Buffer		names = {0};

	for (int i = 0; i < chunk->count; i++)
	{
		SinkMessage *message = &chunk->messages[i];
		Place	   *place = &chunk->places[chunk->place_of[i]];

		if (redis->mode != MODE_CACHE)
			chunk->sent[i] = is_open(chunk, i);
		if (!chunk->sent[i])
			continue;
		written++;
		if (redis->mode == MODE_STREAM)
			write_entry(redis, &command, message, place, &names);
		else if (redis->mode == MODE_PUBLISH)
			write_publication(redis, &command, message, place);
		else
			write_value(redis, &command, message, place);
	}
	command_free(&command);
	buffer_free(&names);
	return written;
}

/* Whether each command has been put in the queue.  One that has not been says
 * something of the sink, or of its message. */
static bool
read_queued(Redis *redis, Chunk *chunk)
{
	SinkVerdict sink = SINK_OK;
	char		why[SINK_ERROR_LENGTH];

	for (int i = 0; i < chunk->count; i++)
	{
		redisReply *reply;

		if (!chunk->sent[i])
			continue;
		reply = redis_answer(&redis->session);
		if (reply == NULL)
			return false;
		if (is_error(reply))
		{
			SinkVerdict verdict = redis_verdict(reply->str);

			if (verdict == SINK_RETRY_MESSAGE)
				fail_message(chunk, i, verdict, reply->str);
			else if (sink == SINK_OK)
			{
				sink = verdict;
				sink_error(why, "%s", reply->str);
			}
		}
		freeReplyObject(reply);
	}
	return sink == SINK_OK || redis_fail(&redis->session, sink, why);
}

/* A command that fails leaves those behind it to be done: what they have done is
 * told, even if it is behind a message with the same key that has not gone.
 * 1: done; 0: nothing has been done, try again; -1: the sink fails. */
static int
judge_result(Redis *redis, Chunk *chunk, const redisReply *reply)
{
	size_t		next = 0;

	if (reply->type == REDIS_REPLY_NIL || (is_error(reply) && begins_with(reply->str, "EXECABORT")))
		return 0;
	if (reply->type != REDIS_REPLY_ARRAY)
	{
		if (is_error(reply))
			redis_refused(&redis->session, reply);
		else
			redis_fail(&redis->session, SINK_RETRY_SINK, "EXEC has an answer of another form");
		return -1;
	}
	for (int i = 0; i < chunk->count; i++)
	{
		const redisReply *answer;

		if (!chunk->sent[i] || next >= reply->elements)
			continue;
		answer = reply->element[next++];
		if (is_error(answer))
			fail_message(chunk, i, SINK_RETRY_MESSAGE, answer->str);
		else if (chunk->messages[i].verdict == SINK_NOT_SENT)
			chunk->messages[i].verdict = SINK_OK;
	}
	return 1;
}

/* What was not sent because a later command does for it too. */
static void
judge_covered(Chunk *chunk)
{
	for (int i = chunk->count - 1; i >= 0; i--)
	{
		if (chunk->sent[i] || !is_open(chunk, i))
			continue;
		for (int j = i + 1; j < chunk->count; j++)
			if (chunk->sent[j] && chunk->place_of[j] == chunk->place_of[i])
			{
				chunk->messages[i].verdict = chunk->messages[j].verdict;
				memcpy(chunk->messages[i].error, chunk->messages[j].error, SINK_ERROR_LENGTH);
				break;
			}
	}
}

static bool
choose_commands(Redis *redis, Chunk *chunk)
{
	bool	   *last;

	if (redis->mode != MODE_CACHE || chunk->place_count == 0)
		return true;
	last = malloc(chunk->place_count);
	if (last == NULL)
		return redis_fail(&redis->session, SINK_RETRY_SINK, "out of memory");
	find_last_of_each(chunk, last);
	free(last);
	return true;
}

/* As judge_result(). */
static int
send_transaction(Redis *redis, Chunk *chunk)
{
	redisReply *reply;
	int			result;

	if (!choose_commands(redis, chunk))
		return -1;
	WRITE(&redis->session, "MULTI");
	if (write_commands(redis, chunk) == 0)
	{
		WRITE(&redis->session, "DISCARD");
		return redis_expect_success(&redis->session) && redis_expect_success(&redis->session) ? 1 : -1;
	}
	WRITE(&redis->session, "EXEC");
	if (!redis_expect_success(&redis->session) || !read_queued(redis, chunk))
		return -1;
	reply = redis_answer(&redis->session);
	if (reply == NULL)
		return -1;
	result = judge_result(redis, chunk, reply);
	freeReplyObject(reply);
	if (result > 0 && redis->mode == MODE_CACHE)
		judge_covered(chunk);
	return result;
}
