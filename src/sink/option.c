/*-------------------------------------------------------------------------
 *
 * option.c
 *		Options of a sink, and names made of a message.
 *
 *-------------------------------------------------------------------------
 */
#include "option.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

const char *
option_text(const SinkOption *options, int count, const char *name)
{
	for (int i = 0; i < count; i++)
		if (strcmp(options[i].name, name) == 0)
			return options[i].value && options[i].value[0] ? options[i].value : NULL;
	return NULL;
}

bool
option_switch(const SinkOption *options, int count, const char *name, bool otherwise)
{
	const char *value = option_text(options, count, name);

	if (value == NULL)
		return otherwise;
	if (strcasecmp(value, "on") == 0 || strcasecmp(value, "true") == 0 ||
		strcasecmp(value, "yes") == 0 || strcmp(value, "1") == 0)
		return true;
	if (strcasecmp(value, "off") == 0 || strcasecmp(value, "false") == 0 ||
		strcasecmp(value, "no") == 0 || strcmp(value, "0") == 0)
		return false;
	return otherwise;
}

long
option_number(const SinkOption *options, int count, const char *name, long otherwise)
{
	const char *value = option_text(options, count, name);
	char	   *end;
	long		number;

	if (value == NULL)
		return otherwise;
	number = strtol(value, &end, 10);
	return *end == '\0' && number >= 0 ? number : otherwise;
}

long
option_time(const SinkOption *options, int count, const char *name, long otherwise)
{
	static const struct
	{
		const char *unit;
		long		milliseconds;
	}			units[] = {{"", 1}, {"ms", 1}, {"s", 1000}, {"min", 60 * 1000}};
	const char *value = option_text(options, count, name);
	char	   *end;
	long		number;

	if (value == NULL)
		return otherwise;
	number = strtol(value, &end, 10);
	end += strspn(end, " ");
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (strcmp(end, units[i].unit) == 0 && number >= 0 &&
			number < LONG_MAX / units[i].milliseconds)
			return number * units[i].milliseconds;
	return otherwise;
}

/* The value that a placeholder at this place stands for, and its length. */
static bool
placeholder(const char *place, const SinkMessage *message, const char **value, size_t *length)
{
	static const char *const names[] = {"{topic}", "{key}", "{sku}"};
	const char *const values[] = {
		message ? message->topic : NULL,
		message ? message->key : NULL,
		message ? message->sku : NULL,
	};

	for (int i = 0; i < 3; i++)
	{
		*length = strlen(names[i]);
		*value = values[i];
		if (strncmp(place, names[i], *length) == 0)
			return true;
	}
	return false;
}

bool
name_of_message(const char *pattern, const SinkMessage *message, Buffer *name)
{
	while (*pattern != '\0')
	{
		const char *value;
		size_t		length;

		if (*pattern == '{' && placeholder(pattern, message, &value, &length))
		{
			if (value == NULL)
				return false;
			buffer_append_string(name, value);
			pattern += length;
		}
		else
			buffer_append(name, pattern++, 1);
	}
	return true;
}

size_t
fixed_part(const char *pattern)
{
	const char *value;
	size_t		length;
	const char *place = pattern;

	while (*place != '\0' && !(*place == '{' && placeholder(place, NULL, &value, &length)))
		place++;
	return place - pattern;
}

void
sink_error(char *error, const char *format, ...)
{
	va_list		arguments;

	va_start(arguments, format);
	vsnprintf(error, SINK_ERROR_LENGTH, format, arguments);
	va_end(arguments);
}
