/*-------------------------------------------------------------------------
 *
 * redis_session.h
 *		A conversation with a Redis server: commands and answers.
 *
 * hiredis speaks the protocol; the bytes go by connection.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_SINK_REDIS_SESSION_H
#define INVENTORY_SINK_REDIS_SESSION_H

#include <string.h>

#include <hiredis/hiredis.h>

#include "connection.h"
#include "sink.h"

typedef struct RedisSession
{
	Connection *connection;
	redisReader *reader;
	size_t		unfinished;		/* bytes of an answer that is not complete */
	size_t		largest;		/* that an answer may repeat of a message */
	int			owed;			/* answers that nobody waits for */
	long		asked_at;		/* the PING that they belong to */
	long		until;			/* the end of the time for what is being done */
	bool		broken;			/* it must be opened again */
	SinkVerdict verdict;		/* of the sink as a whole */
	char	   *error;			/* where it is written */
	char		unheard[SINK_ERROR_LENGTH]; /* for who does not ask */
} RedisSession;

/* A command that is being put together; what it names must stay until it is
 * written. */
typedef struct Command
{
	int			count;
	int			size;
	const char **words;
	size_t	   *lengths;
	bool		failed;			/* there was no memory */
} Command;

/* Connects and logs in; false with the session's verdict and error if it fails. */
extern bool redis_connect(RedisSession *session, const SinkOption *options, int count,
						  const SinkHost *host, char *error);
extern void redis_disconnect(RedisSession *session);

/* Keeps it alive without waiting; false if it must be opened again. */
extern bool redis_keep_alive(RedisSession *session);

/* These end what is being done: they set the verdict and error and are false. */
extern bool redis_fail(RedisSession *session, SinkVerdict verdict, const char *error);
extern bool redis_refused(RedisSession *session, const redisReply *reply);

/* What an error of the server says of the sink; what is not known says something
 * of the message alone: SINK_RETRY_MESSAGE. */
extern SinkVerdict redis_verdict(const char *error);

extern void command_add(Command *command, const char *word);
extern void command_add_bytes(Command *command, const char *bytes, size_t length);
extern void command_free(Command *command);

/* Puts the command behind what is to be written, and makes it empty. */
extern void command_write(RedisSession *session, Command *command);
extern void redis_write_words(RedisSession *session, int count, const char *const *words);

#define WRITE(session, ...) \
	redis_write_words(session, sizeof((const char *[]) {__VA_ARGS__}) / sizeof(char *), \
					  (const char *const[]) {__VA_ARGS__})

/* The next answer, to be freed; NULL if there is none in time. */
extern redisReply *redis_answer(RedisSession *session);

/* The same, of a command that must succeed. */
extern redisReply *redis_expect(RedisSession *session);
extern bool redis_expect_success(RedisSession *session);

/* False when the process is to stop: asked between many answers. */
extern bool redis_may_go_on(RedisSession *session);

static inline bool
begins_with(const char *text, const char *start)
{
	return strncmp(text, start, strlen(start)) == 0;
}

static inline bool
is_error(const redisReply *reply)
{
	return reply->type == REDIS_REPLY_ERROR;
}

static inline bool
is_text(const redisReply *reply, const char *text)
{
	return (reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS) &&
		reply->len == strlen(text) && memcmp(reply->str, text, reply->len) == 0;
}

#endif							/* INVENTORY_SINK_REDIS_SESSION_H */
