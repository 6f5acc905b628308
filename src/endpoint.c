/*-------------------------------------------------------------------------
 *
 * endpoint.c
 *		Where external sinks are: foreign servers of the four foreign data
 *		wrappers, and user mappings.
 *
 * Who may send to a server is who has USAGE on it.  It is asked when a
 * subscription is made and again whenever its sink is opened, for the
 * subscription's owner.  Credentials are those of the owner's user mapping, or
 * of the one for PUBLIC.
 *
 * What the server sets, neither a mapping nor a subscription can set otherwise: so
 * the server's owner decides how much is left to whoever uses it.
 *
 * LOCKING: none.  A server or a mapping that is changed or dropped while it is
 * read is read as it was or as it is then; endpoint_changes() goes up with the
 * invalidation, and the sink is opened again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <sys/socket.h>

#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "compat.h"
#include "endpoint.h"
#include "endpoint_option.h"
#include "secret.h"
#include "sink/sink.h"

/* What has been given, in places of falling precedence. */
typedef struct Given
{
	const char *sink;
	List	   *server;			/* of DefElem */
	List	   *mapping;
	List	   *subscription;
} Given;

char	   *endpoint_http_allow = NULL;
char	   *endpoint_secret_dir = NULL;

static uint64 changes = 0;

/* Options of a subscription that are not the sink's. */
static const char *const subscription_options[] = {
	"handler", "channel", "start", "key_prefix", "workers", "batch",
	"max_attempts", "backoff", "backoff_cap", "timeout", "linger", "park_limit",
	"until", "replayed", "sink_owner"
};

static bool
is_subscription_option(const char *name)
{
	for (size_t i = 0; i < lengthof(subscription_options); i++)
	{
		if (strcmp(subscription_options[i], name) == 0)
			return true;
	}
	return false;
}

static const char *
server_sink(const ForeignServer *server)
{
	const char *wrapper = GetForeignDataWrapper(server->fdwid)->fdwname;

	if (strncmp(wrapper, ENDPOINT_WRAPPER_PREFIX, strlen(ENDPOINT_WRAPPER_PREFIX)) == 0)
	{
		const char *sink = wrapper + strlen(ENDPOINT_WRAPPER_PREFIX);

		if (endpoint_option_first(sink)->name != NULL)
			return endpoint_option_first(sink)->sink;
	}
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("server \"%s\" is not one that messages can be sent to", server->servername),
			 errdetail("Its foreign data wrapper is \"%s\".", wrapper),
			 errhint("The foreign data wrappers for that are inventory_http, inventory_rabbitmq, inventory_redis and inventory_kafka.")));
}

static void
server_check_usage(const ForeignServer *server, Oid user)
{
	AclResult	result = compat_server_aclcheck(server->serverid, user, ACL_USAGE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FOREIGN_SERVER, server->servername);
}

/* The options of the user's mapping, else of the one for PUBLIC; none is fine. */
static List *
mapping_options(Oid server, Oid user)
{
	HeapTuple	tuple = SearchSysCache2(USERMAPPINGUSERSERVER,
										ObjectIdGetDatum(user),
										ObjectIdGetDatum(server));
	List	   *options = NIL;
	Datum		value;
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
		tuple = SearchSysCache2(USERMAPPINGUSERSERVER,
								ObjectIdGetDatum(InvalidOid),
								ObjectIdGetDatum(server));
	if (!HeapTupleIsValid(tuple))
		return NIL;
	value = SysCacheGetAttr(USERMAPPINGUSERSERVER, tuple,
							Anum_pg_user_mapping_umoptions, &isnull);
	if (!isnull)
		options = untransformRelOptions(value);
	ReleaseSysCache(tuple);
	return options;
}

static char *
json_scalar(const char *name, const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return value->val.boolean ? "on" : "off";
		default:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid value for option \"%s\"", name),
					 errdetail("It must be a string, a number or a boolean.")));
	}
}

/* Those that are for the sink, as a List of DefElem. */
static List *
sink_options_of(Jsonb *options)
{
	List	   *result = NIL;
	JsonbIterator *iterator;
	JsonbValue	key;
	JsonbValue	value;

	if (options == NULL || !JB_ROOT_IS_OBJECT(options))
		return NIL;
	iterator = JsonbIteratorInit(&options->root);
	(void) JsonbIteratorNext(&iterator, &key, false);	/* WJB_BEGIN_OBJECT */
	while (JsonbIteratorNext(&iterator, &key, true) == WJB_KEY)
	{
		char	   *name = pnstrdup(key.val.string.val, key.val.string.len);

		(void) JsonbIteratorNext(&iterator, &value, true);
		if (!is_subscription_option(name))
			result = lappend(result,
							 makeDefElem(name, (Node *) makeString(json_scalar(name, &value)), -1));
	}
	return result;
}

/* Names of headers have no case. */
static bool
same_name(const char *one, const char *other)
{
	return pg_strcasecmp(one, other) == 0;
}

static const char *
given_in(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst(cell);

		if (same_name(option->defname, name))
			return defGetString(option);
	}
	return NULL;
}

static const char *
given_value(const Given *given, const char *name)
{
	const char *value = given_in(given->server, name);

	if (value == NULL)
		value = given_in(given->mapping, name);
	if (value == NULL)
		value = given_in(given->subscription, name);
	return value;
}

static Given
given_for(const ForeignServer *server, Oid user, Jsonb *options)
{
	Given		given = {server_sink(server)};

	server_check_usage(server, user);
	given.mapping = mapping_options(server->serverid, user);
	given.server = server->options;
	given.subscription = sink_options_of(options);
	return given;
}

void
endpoint_check(Oid server_id, Oid user, Jsonb *options)
{
	const ForeignServer *server = GetForeignServer(server_id);
	Given		given = given_for(server, user, options);
	ListCell   *cell;

	foreach(cell, given.subscription)
	{
		DefElem    *set = lfirst(cell);
		const EndpointOption *option = endpoint_option_find(given.sink, set->defname,
															AT_SUBSCRIPTION);

		(void) option->read(option, set->defname, defGetString(set));
		if (given_in(given.server, set->defname) != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("option \"%s\" is set by server \"%s\"",
							set->defname, server->servername)));
	}
	for (const EndpointOption *option = endpoint_option_first(given.sink);
		 option->name != NULL; option = endpoint_option_next(option))
	{
		if (option->required && given_value(&given, option->name) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
					 errmsg("server \"%s\" has no option \"%s\"",
							server->servername, option->name),
					 errhint("ALTER SERVER %s OPTIONS (ADD %s '...');",
							 quote_identifier(server->servername), option->name)));
	}
}

static List *
add_option(List *list, const char *name, const char *value)
{
	SinkOption *option = palloc(sizeof(SinkOption));

	option->name = pstrdup(name);
	option->value = value;
	return lappend(list, option);
}

/* One of the table: its value, or what the file that is named has. */
static List *
add_given(List *list, const Given *given, const EndpointOption *option)
{
	const char *value = given_value(given, option->name);
	const char *name = endpoint_option_of_file(option);

	if (name == NULL)
	{
		if (value == NULL)
			value = option->fallback;
		if (value == NULL)
			return list;
		return add_option(list, option->name, option->read(option, option->name, value));
	}
	if (value == NULL)
		return list;
	option = endpoint_option_find(given->sink, name, AT_MAPPING);
	return add_option(list, name,
					  option->read(option, name, secret_read(endpoint_secret_dir, value)));
}

/* Each once: the first one given counts. */
static List *
add_headers(List *list, const EndpointOption *option, List *given)
{
	ListCell   *cell;

	foreach(cell, given)
	{
		DefElem    *set = lfirst(cell);
		ListCell   *other;
		bool		taken = false;

		if (strncmp(set->defname, "header.", strlen("header.")) != 0)
			continue;
		foreach(other, list)
			taken |= same_name(((SinkOption *) lfirst(other))->name, set->defname);
		if (!taken)
			list = add_option(list, set->defname,
							  option->read(option, set->defname, defGetString(set)));
	}
	return list;
}

static void
count_change(Datum arg, int cache, uint32 hash)
{
	changes++;
}

static void
watch_changes(void)
{
	static bool watching = false;

	if (watching)
		return;
	watching = true;
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, count_change, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, count_change, (Datum) 0);
}

uint64
endpoint_changes(void)
{
	watch_changes();
	return changes;
}

List *
endpoint_options(const char *server_name, Oid user, Jsonb *options)
{
	const ForeignServer *server;
	Given		given;
	List	   *list = NIL;

	watch_changes();
	server = GetForeignServerByName(server_name, false);
	given = given_for(server, user, options);
	for (const EndpointOption *option = endpoint_option_first(given.sink);
		 option->name != NULL; option = endpoint_option_next(option))
	{
		if (endpoint_option_is_header(option))
		{
			list = add_headers(list, option, given.server);
			list = add_headers(list, option, given.mapping);
			list = add_headers(list, option, given.subscription);
		}
		else
			list = add_given(list, &given, option);
	}
	if (strcmp(given.sink, "http") == 0 && endpoint_http_allow != NULL)
		list = add_option(list, "allow", pstrdup(endpoint_http_allow));
	return list;
}

Oid
endpoint_owner(const char *server_name, Oid user)
{
	const ForeignServer *server = GetForeignServerByName(server_name, false);

	server_check_usage(server, user);
	return server->owner;
}

const char *
endpoint_sink(const char *server)
{
	return server_sink(GetForeignServerByName(server, false));
}

/* An address, or a network: an address and after a slash its bits. */
static bool
network_is_valid(const char *entry, int family, int bits)
{
	const char *slash = strchr(entry, '/');
	unsigned char address[16];
	char	   *end;
	long		given;

	if (slash == NULL)
		return inet_pton(family, entry, address) == 1;
	given = strtol(slash + 1, &end, 10);
	return isdigit((unsigned char) slash[1]) && *end == '\0' && given <= bits &&
		inet_pton(family, pnstrdup(entry, slash - entry), address) == 1;
}

/* One entry of inventory.http_allow: a name, *.name, an address, a network. */
static bool
allow_entry_is_valid(const char *entry)
{
	if (strchr(entry, ':') != NULL)
		return network_is_valid(entry, AF_INET6, 128);
	if (strchr(entry, '/') != NULL || entry[strspn(entry, "0123456789.")] == '\0')
		return network_is_valid(entry, AF_INET, 32);
	if (strncmp(entry, "*.", 2) == 0)
		entry += 2;
	return entry[0] != '\0' && entry[0] != '.' &&
		entry[strspn(entry, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_")] == '\0';
}

void
endpoint_assign(const char *value, void *extra)
{
	changes++;
}

bool
endpoint_check_http_allow(char **value, void **extra, GucSource source)
{
	char	   *rest = pstrdup(*value);
	char	   *entry;

	while ((entry = strsep(&rest, ", \t\r\n")) != NULL)
	{
		if (entry[0] != '\0' && !allow_entry_is_valid(entry))
		{
			GUC_check_errdetail("\"%s\" is not a host name, an address or a network.", entry);
			return false;
		}
	}
	return true;
}
