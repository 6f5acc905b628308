/*-------------------------------------------------------------------------
 *
 * redis_session.c
 *		A conversation with a Redis server: commands and answers.
 *
 *-------------------------------------------------------------------------
 */
#include "redis_session.h"

#include <stdlib.h>

#include "option.h"

/* The longest that logging in, and the answer to a PING, may take. */
#define LOGIN_MS 10000
#define PING_MS 10000

/* The longest that a server is listened to while there is nothing to do. */
#define LISTEN_MS 100

/* The most that an answer may have beside a message that it repeats. */
#define ANSWER_SIZE (64 * 1024 * 1024)

static bool log_in(RedisSession *session, const SinkOption *options, int count);

bool
redis_connect(RedisSession *session, const SinkOption *options, int count,
			  const SinkHost *host, char *error)
{
	const char *server = option_text(options, count, "host");
	const char *port = option_text(options, count, "port");
	ConnectionTarget target = {
		.path = option_text(options, count, "socket"),
		.host = server ? server : "localhost",
		.port = port ? port : "6379",
		.tls = option_switch(options, count, "tls", false),
		.verify = option_switch(options, count, "verify", true),
		.ca_file = option_text(options, count, "ca_file"),
		.timeout_ms = option_time(options, count, "connect_timeout", 5000),
	};

	session->error = error;
	session->reader = redisReaderCreate();
	if (session->reader == NULL)
		return redis_fail(session, SINK_RETRY_SINK, "out of memory");
	session->connection = connection_open(&target, host, &session->verdict, error);
	return session->connection != NULL && log_in(session, options, count);
}

void
redis_disconnect(RedisSession *session)
{
	connection_close(session->connection);
	if (session->reader != NULL)
		redisReaderFree(session->reader);
}

SinkVerdict
redis_verdict(const char *error)
{
	static const char *const fatal[] = {
		"NOAUTH", "WRONGPASS", "NOPERM", "DENIED", "MOVED", "ASK", "CROSSSLOT",
		"ERR invalid password", "ERR AUTH", "ERR Client sent AUTH", "ERR DB index",
		"ERR invalid DB index", "ERR unknown command", "ERR This instance has cluster",
	};
	static const char *const passing[] = {
		"LOADING", "MASTERDOWN", "READONLY", "OOM", "MISCONF", "NOREPLICAS", "CLUSTERDOWN",
		"TRYAGAIN", "BUSY", "UNKILLABLE", "NOMASTERLINK", "ERR max number of clients",
	};

	for (size_t i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++)
		if (begins_with(error, fatal[i]))
			return SINK_FATAL;
	for (size_t i = 0; i < sizeof(passing) / sizeof(passing[0]); i++)
		if (begins_with(error, passing[i]))
			return SINK_RETRY_SINK;
	return SINK_RETRY_MESSAGE;
}

bool
redis_fail(RedisSession *session, SinkVerdict verdict, const char *error)
{
	session->broken = true;
	session->verdict = verdict;
	sink_error(session->error, "%s", error);
	return false;
}

/* An error that concerns no message. */
bool
redis_refused(RedisSession *session, const redisReply *reply)
{
	SinkVerdict verdict = redis_verdict(reply->str);

	return redis_fail(session, verdict == SINK_RETRY_MESSAGE ? SINK_RETRY_SINK : verdict, reply->str);
}

static bool
feed_reader(RedisSession *session)
{
	Buffer	   *input = connection_input(session->connection);

	session->unfinished += buffer_left(input);
	if (session->unfinished > ANSWER_SIZE + session->largest)
		return redis_fail(session, SINK_RETRY_SINK, "the server's answer is too large");
	if (buffer_left(input) > 0 &&
		redisReaderFeed(session->reader, input->data + input->start, buffer_left(input)) != REDIS_OK)
		return redis_fail(session, SINK_RETRY_SINK, session->reader->errstr);
	buffer_clear(input);
	return true;
}

/* Waits for what the server sends next, until the time is over. */
static bool
more_input(RedisSession *session)
{
	ConnectionState state = CONNECTION_MOVED;

	if (session->unfinished > 0)
		state = connection_patience(session->connection, session->until);
	if (state == CONNECTION_MOVED)
		state = connection_exchange(session->connection, session->until);
	switch (state)
	{
		case CONNECTION_MOVED:
			return feed_reader(session);
		case CONNECTION_TIMEOUT:
			return redis_fail(session, SINK_RETRY_SINK, "no answer in time");
		case CONNECTION_STOPPED:
			return redis_fail(session, SINK_RETRY_SINK, "stopped");
		case CONNECTION_LOST:
			break;
	}
	return redis_fail(session, SINK_RETRY_SINK, connection_error(session->connection));
}

bool
redis_may_go_on(RedisSession *session)
{
	if (connection_patience(session->connection, session->until) == CONNECTION_STOPPED)
		return redis_fail(session, SINK_RETRY_SINK, "stopped");
	return true;
}

redisReply *
redis_answer(RedisSession *session)
{
	for (;;)
	{
		void	   *reply = NULL;

		if (redisReaderGetReply(session->reader, &reply) != REDIS_OK)
		{
			redis_fail(session, SINK_RETRY_SINK, session->reader->errstr);
			return NULL;
		}
		if (reply == NULL)
		{
			if (!more_input(session))
				return NULL;
			continue;
		}
		session->unfinished = 0;
		if (session->owed > 0)
		{
			session->owed--;
			freeReplyObject(reply);
		}
		else
			return reply;
	}
}

void
command_add_bytes(Command *command, const char *bytes, size_t length)
{
	if (command->count == command->size)
	{
		int			size = command->size ? command->size * 2 : 32;
		const char **words = realloc(command->words, size * sizeof(char *));
		size_t	   *lengths = words ? realloc(command->lengths, size * sizeof(size_t)) : NULL;

		if (words != NULL)
			command->words = words;
		if (lengths != NULL)
			command->lengths = lengths;
		if (words == NULL || lengths == NULL)
		{
			command->failed = true;
			return;
		}
		command->size = size;
	}
	command->words[command->count] = bytes;
	command->lengths[command->count++] = length;
}

void
command_add(Command *command, const char *word)
{
	command_add_bytes(command, word, strlen(word));
}

void
command_write(RedisSession *session, Command *command)
{
	Buffer	   *output = connection_output(session->connection);
	char	   *text = NULL;
	int			length = -1;

	if (!command->failed)
		length = redisFormatCommandArgv(&text, command->count, command->words, command->lengths);
	if (length < 0)
		output->failed = true;
	else
	{
		buffer_append(output, text, length);
		redisFreeCommand(text);
	}
	command->count = 0;
}

void
command_free(Command *command)
{
	free(command->words);
	free(command->lengths);
}

void
redis_write_words(RedisSession *session, int count, const char *const *words)
{
	Command		command = {0};

	for (int i = 0; i < count; i++)
		command_add(&command, words[i]);
	command_write(session, &command);
	command_free(&command);
}

redisReply *
redis_expect(RedisSession *session)
{
	redisReply *reply = redis_answer(session);

	if (reply != NULL && is_error(reply))
	{
		redis_refused(session, reply);
		freeReplyObject(reply);
		return NULL;
	}
	return reply;
}

bool
redis_expect_success(RedisSession *session)
{
	redisReply *reply = redis_expect(session);

	if (reply == NULL)
		return false;
	freeReplyObject(reply);
	return true;
}

/* The server's words may repeat the password: of them only the first is used. */
static bool
expect_welcome(RedisSession *session)
{
	redisReply *reply = redis_answer(session);
	SinkVerdict verdict;

	if (reply == NULL)
		return false;
	if (is_error(reply))
	{
		verdict = redis_verdict(reply->str);
		session->broken = true;
		session->verdict = verdict == SINK_RETRY_MESSAGE ? SINK_RETRY_SINK : verdict;
		sink_error(session->error, "%.*s: the server refuses AUTH",
				   (int) strspn(reply->str, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"), reply->str);
	}
	freeReplyObject(reply);
	return !session->broken;
}

static bool
log_in(RedisSession *session, const SinkOption *options, int count)
{
	const char *user = option_text(options, count, "user");
	const char *password = option_text(options, count, "password");
	const char *database = option_text(options, count, "database");
	redisReply *reply;

	session->until = connection_time() + LOGIN_MS;
	if (password != NULL && user != NULL)
		WRITE(session, "AUTH", user, password);
	else if (password != NULL)
		WRITE(session, "AUTH", password);
	if (password != NULL && !expect_welcome(session))
		return false;
	WRITE(session, "PING");
	if (!redis_expect_success(session))
		return false;
	/* A name for CLIENT LIST is no reason to fail. */
	WRITE(session, "CLIENT", "SETNAME", "inventory");
	reply = redis_answer(session);
	if (reply == NULL)
		return false;
	freeReplyObject(reply);
	if (database == NULL || strcmp(database, "0") == 0)
		return true;
	WRITE(session, "SELECT", database);
	return redis_expect_success(session);
}

/* Takes in what has come; false if it cannot be. */
static bool
take_owed(RedisSession *session)
{
	void	   *reply;

	if (!feed_reader(session))
		return false;
	do
	{
		reply = NULL;
		if (redisReaderGetReply(session->reader, &reply) != REDIS_OK)
			return false;
		if (reply != NULL)
		{
			freeReplyObject(reply);
			session->owed--;
			session->unfinished = 0;
		}
	} while (reply != NULL);
	return session->owed >= 0;
}

/* Sends a PING from time to time, and does not wait for the answer. */
bool
redis_keep_alive(RedisSession *session)
{
	long		now = connection_time();
	ConnectionState state = CONNECTION_MOVED;

	session->error = session->unheard;
	if (session->broken)
		return false;
	if (session->owed == 0)
	{
		WRITE(session, "PING");
		session->owed = 1;
		session->asked_at = now;
	}
	while (state == CONNECTION_MOVED && connection_time() - now < LISTEN_MS)
	{
		state = connection_exchange(session->connection, now);
		if (state == CONNECTION_LOST || !take_owed(session))
			return false;
	}
	return session->owed == 0 || now - session->asked_at < PING_MS;
}

