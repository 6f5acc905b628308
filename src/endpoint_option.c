/*-------------------------------------------------------------------------
 *
 * endpoint_option.c
 *		The options that external sinks have: one table, what reads their values,
 *		and the validators of the foreign data wrappers.
 *
 * Everybody can see the options of a server, so what is secret can only be given
 * in a user mapping.  No error here quotes the value of an option that may be
 * given in a user mapping.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/reloptions.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "common/base64.h"
#include "common/string.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "endpoint_option.h"

#define SECOND INT64CONST(1000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)

#define VALUE_MAX_LENGTH 4096

/* The key of a webhook's signature, as Standard Webhooks wants it. */
#define SECRET_PREFIX "whsec_"
#define SECRET_LEAST_BYTES 16
#define SECRET_GREATEST_BYTES 64
#define SECRETS_AT_MOST 8

static char *read_boolean(const EndpointOption *, const char *, const char *);
static char *read_number(const EndpointOption *, const char *, const char *);
static char *read_duration(const EndpointOption *, const char *, const char *);
static char *read_choice(const EndpointOption *, const char *, const char *);
static char *read_text(const EndpointOption *, const char *, const char *);
static char *read_template(const EndpointOption *, const char *, const char *);
static char *read_host(const EndpointOption *, const char *, const char *);
static char *read_url(const EndpointOption *, const char *, const char *);
static char *read_header(const EndpointOption *, const char *, const char *);
static char *read_signing_secret(const EndpointOption *, const char *, const char *);
static char *read_path(const EndpointOption *, const char *, const char *);
static char *read_secret_file(const EndpointOption *, const char *, const char *);

#define AT_SERVER_OR_SUBSCRIPTION (AT_SERVER | AT_SUBSCRIPTION)

/* A sink's options stand together. */
static const EndpointOption option_table[] = {
	{"http", "url", AT_SERVER | AT_MAPPING, read_url, .required = true},
	{"http", "mode", AT_SERVER_OR_SUBSCRIPTION, read_choice, .words = "binary structured", .fallback = "binary"},
	{"http", "timeout", AT_SERVER, read_duration, 10, HOUR, .fallback = "30 seconds"},
	{"http", "connect_timeout", AT_SERVER, read_duration, 10, HOUR, .fallback = "5 seconds"},
	{"http", "max_in_flight", AT_SERVER_OR_SUBSCRIPTION, read_number, 1, 64, .fallback = "8"},
	{"http", "ca_file", AT_SERVER, read_path},
	{"http", "header.*", AT_SERVER | AT_MAPPING | AT_SUBSCRIPTION, read_header},
	{"http", "secret", AT_MAPPING, read_signing_secret},
	{"http", "secret_file", AT_MAPPING, read_secret_file},
	{"http", "bearer_token", AT_MAPPING, read_text},
	{"http", "bearer_token_file", AT_MAPPING, read_secret_file},
	{"http", "user", AT_MAPPING, read_text},
	{"http", "password", AT_MAPPING, read_text},
	{"http", "password_file", AT_MAPPING, read_secret_file},

	{"rabbitmq", "host", AT_SERVER, read_host, .fallback = "localhost"},
	{"rabbitmq", "port", AT_SERVER, read_number, 1, 65535},
	{"rabbitmq", "vhost", AT_SERVER, read_text, .fallback = "/"},
	{"rabbitmq", "exchange", AT_SERVER_OR_SUBSCRIPTION, read_text, .fallback = ""},
	{"rabbitmq", "routing_key", AT_SERVER_OR_SUBSCRIPTION, read_template, .words = "{topic} {key} {sku}", .fallback = "{topic}"},
	{"rabbitmq", "mandatory", AT_SERVER_OR_SUBSCRIPTION, read_boolean, .fallback = "on"},
	{"rabbitmq", "timeout", AT_SERVER, read_duration, 10, HOUR, .fallback = "30 seconds"},
	{"rabbitmq", "connect_timeout", AT_SERVER, read_duration, 10, HOUR, .fallback = "5 seconds"},
	{"rabbitmq", "heartbeat", AT_SERVER, read_duration, 0, HOUR, .fallback = "20 seconds"},
	{"rabbitmq", "tls", AT_SERVER, read_boolean, .fallback = "off"},
	{"rabbitmq", "ca_file", AT_SERVER, read_path},
	{"rabbitmq", "verify", AT_SERVER, read_boolean, .fallback = "on"},
	{"rabbitmq", "user", AT_MAPPING, read_text},
	{"rabbitmq", "password", AT_MAPPING, read_text},
	{"rabbitmq", "password_file", AT_MAPPING, read_secret_file},

	{"redis", "host", AT_SERVER, read_host, .fallback = "localhost"},
	{"redis", "port", AT_SERVER, read_number, 1, 65535, .fallback = "6379"},
	{"redis", "socket", AT_SERVER, read_path},
	{"redis", "database", AT_SERVER, read_number, 0, 65535, .fallback = "0"},
	{"redis", "timeout", AT_SERVER, read_duration, 10, HOUR, .fallback = "30 seconds"},
	{"redis", "connect_timeout", AT_SERVER, read_duration, 10, HOUR, .fallback = "5 seconds"},
	{"redis", "tls", AT_SERVER, read_boolean, .fallback = "off"},
	{"redis", "ca_file", AT_SERVER, read_path},
	{"redis", "verify", AT_SERVER, read_boolean, .fallback = "on"},
	{"redis", "mode", AT_SERVER_OR_SUBSCRIPTION, read_choice, .words = "stream publish cache", .fallback = "stream"},
	{"redis", "name", AT_SERVER_OR_SUBSCRIPTION, read_template, .words = "{topic} {key} {sku}"},
	{"redis", "entry_id", AT_SERVER_OR_SUBSCRIPTION, read_choice, .words = "position auto", .fallback = "position"},
	{"redis", "maxlen", AT_SERVER_OR_SUBSCRIPTION, read_number, 1, PG_INT64_MAX},
	{"redis", "cache", AT_SERVER_OR_SUBSCRIPTION, read_choice, .words = "del set", .fallback = "del"},
	{"redis", "ttl", AT_SERVER_OR_SUBSCRIPTION, read_duration, 1, 3650 * DAY},
	{"redis", "user", AT_MAPPING, read_text},
	{"redis", "password", AT_MAPPING, read_text},
	{"redis", "password_file", AT_MAPPING, read_secret_file},

	{"kafka", "brokers", AT_SERVER, read_text, .required = true},
	{"kafka", "topic", AT_SERVER_OR_SUBSCRIPTION, read_template, .words = "{topic}", .fallback = "{topic}"},
	{"kafka", "timeout", AT_SERVER, read_duration, 10, HOUR, .fallback = "30 seconds"},
	{"kafka", "compression", AT_SERVER, read_choice, .words = "none gzip snappy lz4 zstd", .fallback = "none"},
	{"kafka", "security_protocol", AT_SERVER, read_choice, .words = "plaintext ssl sasl_plaintext sasl_ssl", .fallback = "plaintext"},
	{"kafka", "sasl_mechanism", AT_SERVER, read_choice, .words = "PLAIN SCRAM-SHA-256 SCRAM-SHA-512"},
	{"kafka", "ca_file", AT_SERVER, read_path},
	{"kafka", "verify", AT_SERVER, read_boolean, .fallback = "on"},
	{"kafka", "max_message_size", AT_SERVER, read_number, 1000, 1000000000, .fallback = "1000000"},
	{"kafka", "user", AT_MAPPING, read_text},
	{"kafka", "password", AT_MAPPING, read_text},
	{"kafka", "password_file", AT_MAPPING, read_secret_file},
	{0},
};

PG_FUNCTION_INFO_V1(inventory_http_validator);
PG_FUNCTION_INFO_V1(inventory_rabbitmq_validator);
PG_FUNCTION_INFO_V1(inventory_redis_validator);
PG_FUNCTION_INFO_V1(inventory_kafka_validator);

const EndpointOption *
endpoint_option_first(const char *sink)
{
	const EndpointOption *option = option_table;

	while (option->name != NULL && strcmp(option->sink, sink) != 0)
		option++;
	return option;
}

const EndpointOption *
endpoint_option_next(const EndpointOption *option)
{
	if (option[1].name != NULL && strcmp(option[1].sink, option->sink) == 0)
		return option + 1;
	return &option_table[lengthof(option_table) - 1];
}

bool
endpoint_option_is_header(const EndpointOption *option)
{
	return option->read == read_header;
}

char *
endpoint_option_of_file(const EndpointOption *option)
{
	if (option->read != read_secret_file)
		return NULL;
	return pnstrdup(option->name, strlen(option->name) - strlen("_file"));
}

static bool
option_has_name(const EndpointOption *option, const char *name)
{
	if (endpoint_option_is_header(option))
		return strncmp(name, "header.", strlen("header.")) == 0;
	return strcmp(option->name, name) == 0;
}

static const char *
option_place_hint(int places)
{
	if ((places & AT_SERVER) != 0)
		return "It is an option of the server.";
	if ((places & AT_MAPPING) != 0)
		return "It is an option of the user mapping, where others do not see it.";
	return "It is an option of the subscription.";
}

pg_noreturn static void
option_unknown(const char *sink, const char *name, int place, int elsewhere)
{
	StringInfoData names;

	initStringInfo(&names);
	for (const EndpointOption *option = endpoint_option_first(sink);
		 option->name != NULL; option = endpoint_option_next(option))
	{
		if ((option->places & place) != 0)
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", option->name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 elsewhere != 0 && place != 0 ?
			 errhint("%s", option_place_hint(elsewhere)) :
			 names.len > 0 ?
			 errhint("Valid options in this context are: %s", names.data) :
			 errhint("There are no valid options in this context.")));
}

const EndpointOption *
endpoint_option_find(const char *sink, const char *name, int place)
{
	int			elsewhere = 0;

	for (const EndpointOption *option = endpoint_option_first(sink);
		 option->name != NULL; option = endpoint_option_next(option))
	{
		if (!option_has_name(option, name))
			continue;
		if ((option->places & place) != 0)
			return option;
		elsewhere = option->places;
	}
	option_unknown(sink, name, place, elsewhere);
}

static bool
option_given(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		if (strcmp(((DefElem *) lfirst(cell))->defname, name) == 0)
			return true;
	}
	return false;
}

static void
option_exclude(List *options, const char *one, const char *other)
{
	if (option_given(options, one) && option_given(options, other))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options \"%s\" and \"%s\" exclude each other", one, other)));
}

/* What is read or connected to as the operating system's user of the server. */
static void
check_may_name_file(const char *name)
{
	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to set option \"%s\"", name),
				 errdetail("It names a file of the server: only roles with the privileges of \"pg_read_server_files\" may set it.")));
}

static Datum
option_validate(FunctionCallInfo fcinfo, const char *sink)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	int			place = catalog == ForeignServerRelationId ? AT_SERVER :
		catalog == UserMappingRelationId ? AT_MAPPING : 0;
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *given = lfirst(cell);
		const EndpointOption *option = endpoint_option_find(sink, given->defname, place);
		char	   *secret = endpoint_option_of_file(option);

		if (option->read == read_path || option->read == read_secret_file)
			check_may_name_file(given->defname);
		(void) option->read(option, given->defname, defGetString(given));
		if (secret != NULL)
			option_exclude(options, secret, given->defname);
	}
	option_exclude(options, "host", "socket");
	PG_RETURN_VOID();
}

Datum
inventory_http_validator(PG_FUNCTION_ARGS)
{
	return option_validate(fcinfo, "http");
}

Datum
inventory_rabbitmq_validator(PG_FUNCTION_ARGS)
{
	return option_validate(fcinfo, "rabbitmq");
}

Datum
inventory_redis_validator(PG_FUNCTION_ARGS)
{
	return option_validate(fcinfo, "redis");
}

Datum
inventory_kafka_validator(PG_FUNCTION_ARGS)
{
	return option_validate(fcinfo, "kafka");
}

/* What reads values. */

pg_noreturn static void pg_attribute_printf(2, 3)
invalid_value(const char *name, const char *format,...)
{
	char	   *rule;
	va_list		arguments;

	va_start(arguments, format);
	rule = palloc(1024);
	vsnprintf(rule, 1024, format, arguments);
	va_end(arguments);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\"", name),
			 errdetail_internal("%s", rule)));
}

static char *
read_boolean(const EndpointOption *option, const char *name, const char *value)
{
	bool		result;

	if (!parse_bool(value, &result))
		invalid_value(name, "It must be on or off.");
	return result ? "on" : "off";
}

static char *
read_number(const EndpointOption *option, const char *name, const char *value)
{
	char	   *end;
	int64		number;

	errno = 0;
	number = strtoll(value, &end, 10);
	if (errno != 0 || end == value || *end != '\0' ||
		number < option->least || number > option->greatest)
		invalid_value(name, "It must be a number between " INT64_FORMAT " and " INT64_FORMAT ".",
					  option->least, option->greatest);
	return psprintf(INT64_FORMAT, number);
}

static char *
read_duration(const EndpointOption *option, const char *name, const char *value)
{
	Interval   *interval = DatumGetIntervalP(DirectFunctionCall3(interval_in,
																 CStringGetDatum(value),
																 ObjectIdGetDatum(InvalidOid),
																 Int32GetDatum(-1)));
	int64		days = (int64) interval->month * DAYS_PER_MONTH + interval->day;
	int64		duration = days * DAY + interval->time / 1000;

	if (duration < option->least || duration > option->greatest)
		invalid_value(name, "It must be an interval between " INT64_FORMAT " ms and " INT64_FORMAT " s.",
					  option->least, option->greatest / SECOND);
	return psprintf(INT64_FORMAT, duration);
}

static bool
word_is_one_of(const char *words, const char *word, size_t length)
{
	const char *place = words;

	while (length > 0 && (place = strstr(place, word)) != NULL)
	{
		if ((place == words || place[-1] == ' ') &&
			(place[length] == ' ' || place[length] == '\0'))
			return true;
		place += length;
	}
	return false;
}

static char *
read_choice(const EndpointOption *option, const char *name, const char *value)
{
	if (strchr(value, ' ') != NULL || !word_is_one_of(option->words, value, strlen(value)))
		invalid_value(name, "It must be one of: %s.", option->words);
	return pstrdup(value);
}

static void
check_characters(const char *name, const char *value)
{
	if (strlen(value) > VALUE_MAX_LENGTH)
		invalid_value(name, "It has more than %d bytes.", VALUE_MAX_LENGTH);
	for (const char *c = value; *c != '\0'; c++)
	{
		if ((unsigned char) *c < ' ' || *c == 0x7f)
			invalid_value(name, "It must not have control characters.");
	}
}

static char *
read_text(const EndpointOption *option, const char *name, const char *value)
{
	check_characters(name, value);
	/* The default exchange has no name. */
	if (value[0] == '\0' && (option->fallback == NULL || option->fallback[0] != '\0'))
		invalid_value(name, "It must not be empty.");
	return pstrdup(value);
}

static char *
read_template(const EndpointOption *option, const char *name, const char *value)
{
	const char *open = value;

	(void) read_text(option, name, value);
	while ((open = strchr(open, '{')) != NULL)
	{
		const char *close = strchr(open, '}');
		char	   *word = close == NULL ? pstrdup(open) : pnstrdup(open, close + 1 - open);

		if (close == NULL || !word_is_one_of(option->words, word, strlen(word)))
			invalid_value(name, "Placeholders are: %s.", option->words);
		open = close;
	}
	return pstrdup(value);
}

/* A name or an address; what a client library resolves. */
static char *
read_host(const EndpointOption *option, const char *name, const char *value)
{
	if (value[0] == '\0' || strlen(value) > 255 ||
		value[strspn(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:%")] != '\0')
		invalid_value(name, "It must be a host name or an address.");
	return pstrdup(value);
}

static void
check_authority(const char *name, const char *authority)
{
	const char *host_end;
	char	   *end;
	long		port;

	if (authority[0] == '[')
	{
		host_end = strchr(authority, ']');
		host_end = host_end == NULL ? authority : host_end + 1;
	}
	else
		host_end = authority + strcspn(authority, ":");
	if (host_end == authority)
		invalid_value(name, "The URL has no host.");
	if (*host_end == '\0')
		return;
	port = strtol(host_end + 1, &end, 10);
	if (*host_end != ':' || !isdigit((unsigned char) host_end[1]) || *end != '\0' ||
		port < 1 || port > 65535)
		invalid_value(name, "The URL has no valid port.");
}

static char *
read_url(const EndpointOption *option, const char *name, const char *value)
{
	const char *authority;

	check_characters(name, value);
	for (const char *c = value; *c != '\0'; c++)
	{
		if (*c == ' ' || *c == '\\' || IS_HIGHBIT_SET(*c))
			invalid_value(name, "The URL has a character that must be percent-encoded.");
	}
	if (pg_strncasecmp(value, "https://", 8) == 0)
		authority = value + 8;
	else if (pg_strncasecmp(value, "http://", 7) == 0)
		authority = value + 7;
	else
		invalid_value(name, "The URL must begin with https:// or http://.");
	if (strchr(value, '#') != NULL)
		invalid_value(name, "The URL must not have a fragment.");
	authority = pnstrdup(authority, strcspn(authority, "/?"));
	if (strchr(authority, '@') != NULL)
		invalid_value(name, "The URL must not have a user or password: they are options of the user mapping.");
	check_authority(name, authority);
	return pstrdup(value);
}

/* Headers that the sink sets itself. */
static bool
header_is_reserved(const char *header)
{
	static const char *const reserved[] = {
		"host", "content-length", "content-type", "content-encoding",
		"transfer-encoding", "connection", "keep-alive", "expect", "upgrade",
		"te", "trailer"
	};

	for (size_t i = 0; i < lengthof(reserved); i++)
	{
		if (pg_strcasecmp(header, reserved[i]) == 0)
			return true;
	}
	return pg_strncasecmp(header, "ce-", 3) == 0 ||
		pg_strncasecmp(header, "webhook-", 8) == 0;
}

static char *
read_header(const EndpointOption *option, const char *name, const char *value)
{
	const char *header = name + strlen("header.");

	if (header[0] == '\0' || strlen(header) > 100 ||
		header[strspn(header, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-")] != '\0')
		invalid_value(name, "After the dot comes the header's name: letters, digits and -.");
	if (header_is_reserved(header))
		invalid_value(name, "The sink sets this header itself.");
	check_characters(name, value);
	return pstrdup(value);
}

static void
check_signing_secret(const char *name, const char *secret)
{
	const char *text = secret + strlen(SECRET_PREFIX);
	int			length;
	char	   *key;
	int			key_length = -1;

	if (strncmp(secret, SECRET_PREFIX, strlen(SECRET_PREFIX)) == 0)
	{
		length = strlen(text);
		key = palloc(pg_b64_dec_len(length) + 1);
		key_length = pg_b64_decode(text, length, (void *) key, pg_b64_dec_len(length) + 1);
	}
	if (key_length < SECRET_LEAST_BYTES || key_length > SECRET_GREATEST_BYTES)
		invalid_value(name, "A secret is \"" SECRET_PREFIX "\" and %d to %d bytes in base64; several are separated by a space.",
					  SECRET_LEAST_BYTES, SECRET_GREATEST_BYTES);
}

/* While secrets are being changed there are several. */
static char *
read_signing_secret(const EndpointOption *option, const char *name, const char *value)
{
	StringInfoData secrets;
	char	   *rest = pstrdup(value);
	char	   *secret;
	int			count = 0;

	initStringInfo(&secrets);
	while ((secret = strsep(&rest, " \t\r\n")) != NULL)
	{
		if (secret[0] == '\0')
			continue;
		check_signing_secret(name, secret);
		if (++count > SECRETS_AT_MOST)
			invalid_value(name, "It has more than %d secrets.", SECRETS_AT_MOST);
		appendStringInfo(&secrets, "%s%s", secrets.len > 0 ? " " : "", secret);
	}
	if (secrets.len == 0)
		invalid_value(name, "It must not be empty.");
	return secrets.data;
}

static char *
read_path(const EndpointOption *option, const char *name, const char *value)
{
	check_characters(name, value);
	if (!is_absolute_path(value))
		invalid_value(name, "It must be an absolute path on the server.");
	return pstrdup(value);
}

static char *
read_secret_file(const EndpointOption *option, const char *name, const char *value)
{
	check_characters(name, value);
	if (value[0] == '\0')
		invalid_value(name, "It must not be empty.");
	return pstrdup(value);
}
