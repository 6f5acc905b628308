/*-------------------------------------------------------------------------
 *
 * subscription_option.c
 *		The options of a subscription.
 *
 * One table says what each is, within which bounds, and its default.  They are
 * stored complete, so that another default in a later version changes nothing
 * for subscriptions that there are.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "error.h"
#include "subscription_option.h"

typedef enum OptionType
{
	OPTION_TEXT,				/* bounds: bytes */
	OPTION_INTEGER,
	OPTION_DURATION,			/* bounds: milliseconds */
} OptionType;

#define OF(kind) (1u << (kind))
#define OF_ALL PG_UINT32_MAX

typedef struct OptionRule
{
	const char *name;
	OptionType	type;
	uint32		kinds;			/* that have it */
	int64		least;
	int64		most;
	const char *fallback;		/* as it would be given; NULL: none */
	size_t		field;			/* in Subscription; 0: none */
} OptionRule;

#define FIELD(name) offsetof(Subscription, name)

#define SECOND_MS INT64CONST(1000)
#define MINUTE_MS (60 * SECOND_MS)
#define DAY_MS (24 * 60 * MINUTE_MS)

static const OptionRule rules[] = {
	{"handler", OPTION_TEXT, OF(SINK_KIND_FUNCTION), 3, 2 * NAMEDATALEN * 2, NULL, FIELD(handler)},
	{"channel", OPTION_TEXT, OF(SINK_KIND_NOTIFY), 1, NAMEDATALEN - 1, NULL, FIELD(channel)},
	{"start", OPTION_TEXT, OF_ALL, 1, 100, "now", 0},
	{"key_prefix", OPTION_TEXT, OF_ALL, 1, 1000, NULL, FIELD(key_prefix)},
	{"workers", OPTION_INTEGER, OF(SINK_KIND_FUNCTION), 1, 64, NULL, 0},
	{"batch", OPTION_INTEGER, OF_ALL, 1, 10000, "500", FIELD(batch)},
	{"max_attempts", OPTION_INTEGER, OF_ALL, 1, 1000000, "10", FIELD(max_attempts)},
	{"backoff", OPTION_DURATION, OF_ALL, 1, DAY_MS, "1 second", FIELD(backoff)},
	{"backoff_cap", OPTION_DURATION, OF_ALL, 1, 30 * DAY_MS, "1 hour", FIELD(backoff_cap)},
	{"timeout", OPTION_DURATION, OF(SINK_KIND_FUNCTION) | OF(SINK_KIND_COMMAND), 1, DAY_MS, "30 seconds", FIELD(timeout)},
	{"linger", OPTION_DURATION, OF_ALL, 0, MINUTE_MS, "20 ms", FIELD(linger)},
	{"park_limit", OPTION_INTEGER, OF_ALL, 1, 10000000, "10000", FIELD(park_limit)},
};

/* ---- Values ---- */

typedef struct Reading
{
	const char *name;
	const char *expected;
	const char *value;
} Reading;

/* What an input function says does not name the option. */
static void
name_the_option(void *arg)
{
	const Reading *reading = arg;

	if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_DATA_EXCEPTION)
		return;
	errcode(ERRCODE_IV_INVALID_SUBSCRIPTION);
	errmsg("invalid \"%s\": \"%s\"", reading->name, reading->value);
	errdetail("It must be %s.", reading->expected);
}

static Datum
read_input(const Reading *reading, PGFunction input)
{
	ErrorContextCallback callback = {error_context_stack, name_the_option,
	unconstify(Reading *, reading)};
	Datum		result;

	error_context_stack = &callback;
	result = DirectFunctionCall3(input, CStringGetDatum(reading->value),
								 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	error_context_stack = callback.previous;
	return result;
}

pg_noreturn static void
refuse(const char *name, const char *value, const char *expected)
{
	ereport(ERROR,
			(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
			 errmsg("invalid \"%s\": \"%s\"", name, value),
			 errdetail("It must be %s.", expected)));
}

TimestampTz
subscription_option_time(const char *name, const char *value)
{
	Reading		reading = {name, "now, earliest, or a time", value};
	TimestampTz at = DatumGetTimestampTz(read_input(&reading, timestamptz_in));

	if (TIMESTAMP_NOT_FINITE(at))
		refuse(name, value, reading.expected);
	return at;
}

static int64
read_duration(const OptionRule *rule, const char *value)
{
	Reading		reading = {rule->name, psprintf("an interval from " INT64_FORMAT " ms to " INT64_FORMAT " ms",
												rule->least, rule->most), value};
	Interval   *interval = DatumGetIntervalP(read_input(&reading, interval_in));
	double		ms = ((double) interval->month * 30 + interval->day) * DAY_MS +
		interval->time / 1000.0;

	if (!(ms >= rule->least && ms <= rule->most))
		refuse(rule->name, value, reading.expected);
	return (int64) ms;
}

static int64
read_integer(const OptionRule *rule, const char *value)
{
	char	   *end;
	int64		number;

	errno = 0;
	number = strtoi64(value, &end, 10);
	if (errno != 0 || end == value || *end != '\0' ||
		number < rule->least || number > rule->most)
		refuse(rule->name, value,
			   psprintf("an integer from " INT64_FORMAT " to " INT64_FORMAT,
						rule->least, rule->most));
	return number;
}

static void
check_text(const OptionRule *rule, const char *value)
{
	size_t		length = strlen(value);

	if (length < rule->least || length > rule->most)
		refuse(rule->name, value,
			   psprintf("a string of " INT64_FORMAT " to " INT64_FORMAT " bytes",
						rule->least, rule->most));
}

/* ---- Options ---- */

static const OptionRule *
find_rule(const char *name)
{
	for (int i = 0; i < lengthof(rules); i++)
	{
		if (strcmp(rules[i].name, name) == 0)
			return &rules[i];
	}
	return NULL;
}

/* As text, whatever a caller may have given; NULL if it has not. */
static char *
option_as_given(Jsonb *options, const char *name, enum jbvType *type)
{
	JsonbValue	buffer;
	JsonbValue *value = getKeyJsonValueFromContainer(&options->root, name,
													 strlen(name), &buffer);

	if (value == NULL)
		return NULL;
	*type = value->type;
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return numeric_normalize(value->val.numeric);
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		case jbvNull:
			return pstrdup("null");
		default:
			return pstrdup("{...}");
	}
}

char *
subscription_option_text(Jsonb *options, const char *name)
{
	enum jbvType type;

	return option_as_given(options, name, &type);
}

static void
check_option(const OptionRule *rule, SinkKind kind, const char *value, enum jbvType type)
{
	bool		number = rule->type == OPTION_INTEGER;

	if ((rule->kinds & OF(kind)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
				 errmsg("this sink has no option \"%s\"", rule->name)));
	if (type != (number ? jbvNumeric : jbvString))
		refuse(rule->name, value, number ? "a number" : "a string");
	switch (rule->type)
	{
		case OPTION_TEXT:
			check_text(rule, value);
			break;
		case OPTION_INTEGER:
			(void) read_integer(rule, value);
			break;
		case OPTION_DURATION:
			(void) read_duration(rule, value);
			break;
	}
}

/* Foreign servers have options of their own: endpoint.c. */
static void
check_names(SinkKind kind, Jsonb *given)
{
	JsonbIterator *iterator = JsonbIteratorInit(&given->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		char	   *name;

		if (token != WJB_KEY)
			continue;
		name = pnstrdup(value.val.string.val, value.val.string.len);
		if (strcmp(name, "replayed") == 0 || strcmp(name, "sink_owner") == 0 ||
			(kind != SINK_KIND_SERVER && find_rule(name) == NULL))
			ereport(ERROR,
					(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
					 errmsg("there is no option \"%s\"", name)));
	}
}

Jsonb *
subscription_option_set(Jsonb *options, const char *name, JsonbValue *value)
{
	JsonbParseState *state = NULL;
	JsonbIterator *iterator = JsonbIteratorInit(&options->root);
	JsonbIteratorToken token;
	JsonbValue	key = {.type = jbvString};
	JsonbValue	part;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&iterator, &part, true)) != WJB_DONE)
	{
		/* Of the object itself; nested values come whole. */
		if (token == WJB_KEY || token == WJB_VALUE)
			pushJsonbValue(&state, token, &part);
	}
	/* The last one of the same name stays. */
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	pushJsonbValue(&state, WJB_KEY, &key);
	pushJsonbValue(&state, WJB_VALUE, value);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static Jsonb *
set_fallback(const OptionRule *rule, Jsonb *options)
{
	JsonbValue	value;

	if (rule->type == OPTION_INTEGER)
	{
		value.type = jbvNumeric;
		value.val.numeric = int64_to_numeric(read_integer(rule, rule->fallback));
	}
	else
	{
		value.type = jbvString;
		value.val.string.val = unconstify(char *, rule->fallback);
		value.val.string.len = strlen(rule->fallback);
	}
	return subscription_option_set(options, rule->name, &value);
}

static void
check_backoff(Jsonb *options)
{
	Subscription bounds;

	subscription_options_read(options, &bounds);
	if (bounds.backoff_cap < bounds.backoff)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
				 errmsg("\"backoff_cap\" is less than \"backoff\"")));
}

Jsonb *
subscription_options_complete(SinkKind kind, Jsonb *given)
{
	Jsonb	   *options = given;

	if (!JB_ROOT_IS_OBJECT(given))
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_SUBSCRIPTION),
				 errmsg("options must be a JSON object")));
	check_names(kind, given);
	for (int i = 0; i < lengthof(rules); i++)
	{
		const OptionRule *rule = &rules[i];
		enum jbvType type = jbvNull;
		char	   *value = option_as_given(given, rule->name, &type);

		if (value)
			check_option(rule, kind, value, type);
		else if (rule->fallback && (rule->kinds & OF(kind)))
			options = set_fallback(rule, options);
	}
	check_backoff(options);
	return options;
}

void
subscription_options_read(Jsonb *options, Subscription *subscription)
{
	char	   *replayed = subscription_option_text(options, "replayed");
	char	   *sink_owner = subscription_option_text(options, "sink_owner");

	for (int i = 0; i < lengthof(rules); i++)
	{
		const OptionRule *rule = &rules[i];
		char	   *value = subscription_option_text(options, rule->name);
		char	   *field = (char *) subscription + rule->field;

		if (rule->field == 0)
			continue;
		if (value == NULL && rule->fallback)
			value = pstrdup(rule->fallback);
		if (rule->type == OPTION_TEXT)
			*(char **) field = value;
		else if (rule->type == OPTION_INTEGER)
			*(int *) field = (int) read_integer(rule, value);
		else
			*(int64 *) field = read_duration(rule, value);
	}
	subscription->replayed = replayed && strcmp(replayed, "true") == 0;
	subscription->sink_owner = sink_owner ? (Oid) strtoul(sink_owner, NULL, 10) : InvalidOid;
	subscription->options = options;
}
