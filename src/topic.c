/*-------------------------------------------------------------------------
 *
 * topic.c
 *		Topics, and patterns of them.
 *
 * A topic is words with dots between them.  In a pattern "*" stands for one
 * word and "#" for any number of words, none included, as in AMQP.  Matching
 * goes back to the last "#" only, so it takes no more steps than there are words
 * in the pattern times words in the topic.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "error.h"
#include "event.h"
#include "topic.h"

#define TOPIC_MAX_LENGTH 255

PG_FUNCTION_INFO_V1(inventory_topic_matches);
PG_FUNCTION_INFO_V1(inventory_topic_interest);

/* A word's length; the next word, or NULL. */
static size_t
word_length(const char *word)
{
	return strcspn(word, ".");
}

static const char *
word_next(const char *word)
{
	word += word_length(word);
	return *word == '.' ? word + 1 : NULL;
}

static bool
word_is(const char *word, char c)
{
	return word != NULL && word_length(word) == 1 && word[0] == c;
}

static bool
word_matches(const char *pattern, const char *word)
{
	size_t		length;

	if (pattern == NULL)
		return false;
	if (word_is(pattern, '*'))
		return true;
	length = word_length(pattern);
	return length == word_length(word) && memcmp(pattern, word, length) == 0;
}

bool
topic_matches(const char *pattern, const char *topic)
{
	const char *after_any = NULL;	/* in the pattern, behind the last "#" */
	const char *any_until = NULL;	/* in the topic, where that "#" ends */
	bool		any = false;

	while (topic)
	{
		if (word_is(pattern, '#'))
		{
			any = true;
			after_any = pattern = word_next(pattern);
			any_until = topic;
		}
		else if (word_matches(pattern, topic))
		{
			pattern = word_next(pattern);
			topic = word_next(topic);
		}
		else if (any)
		{
			topic = any_until = word_next(any_until);
			pattern = after_any;
		}
		else
			return false;
	}
	while (word_is(pattern, '#'))
		pattern = word_next(pattern);
	return pattern == NULL;
}

static bool
is_pattern(const char *pattern)
{
	static const char characters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";

	if (strlen(pattern) > TOPIC_MAX_LENGTH)
		return false;
	for (const char *word = pattern; word; word = word_next(word))
	{
		size_t		length = word_length(word);

		if (length == 0 ||
			(strspn(word, characters) != length &&
			 !word_is(word, '*') && !word_is(word, '#')))
			return false;
	}
	return true;
}

void
topic_check_pattern(const char *pattern)
{
	if (!is_pattern(pattern))
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
				 errmsg("invalid pattern of topics \"%s\"", pattern),
				 errdetail("A pattern is words of A-Z, a-z, 0-9, \"_\" and \"-\" with dots between them, \"*\" for one word or \"#\" for any number of words, and not longer than %d characters.",
						   TOPIC_MAX_LENGTH)));
	if (topic_interest((char **) &pattern, 1) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
				 errmsg("no message has a topic that matches \"%s\"", pattern),
				 errhint("Topics of events are \"inventory.event.\" and the type of the event.")));
}

/* Whether it can match topics of events only. */
static bool
is_of_events(const char *pattern)
{
	return strncmp(pattern, TOPIC_EVENT_PREFIX, strlen(TOPIC_EVENT_PREFIX)) == 0;
}

uint32
topic_interest(char **patterns, int count)
{
	uint32		interest = 0;
	char		topic[NAMEDATALEN + sizeof(TOPIC_EVENT_PREFIX)];

	for (int i = 0; i < count; i++)
	{
		if (!is_of_events(patterns[i]))
			interest |= TOPIC_OUTBOX;
		for (int type = 0; type < EVENT_TYPES; type++)
		{
			snprintf(topic, sizeof(topic), TOPIC_EVENT_PREFIX "%s",
					 event_type_name(type));
			if (topic_matches(patterns[i], topic))
				interest |= 1u << type;
		}
	}
	return interest;
}

Datum
inventory_topic_matches(PG_FUNCTION_ARGS)
{
	char	   *pattern = text_to_cstring(PG_GETARG_TEXT_PP(0));

	topic_check_pattern(pattern);
	PG_RETURN_BOOL(topic_matches(pattern, text_to_cstring(PG_GETARG_TEXT_PP(1))));
}

/*
 * topic_interest(topics)
 */
Datum
inventory_topic_interest(PG_FUNCTION_ARGS)
{
	Datum	   *topics;
	bool	   *nulls;
	char	  **patterns;
	int			count;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT,
					  &topics, &nulls, &count);
	patterns = palloc(Max(count, 1) * sizeof(char *));
	for (int i = 0; i < count; i++)
		patterns[i] = nulls[i] ? "" : TextDatumGetCString(topics[i]);
	PG_RETURN_INT64(topic_interest(patterns, count));
}
