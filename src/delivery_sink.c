/*-------------------------------------------------------------------------
 *
 * delivery_sink.c
 *		Sending messages to a sink outside of the database.
 *
 * The library of a sink is loaded by the delivery process that needs it, never
 * by the postmaster, and talks to its broker while the process has no
 * transaction.  sink/sink.h is all that the two know of each other.
 *
 * Messages go out as CloudEvents 1.0.  The position is the CloudEvents
 * "sequence": it grows with every message of the subscription, so also per key,
 * and is the same when a message is sent again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "storage/procsignal.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "delivery_sink.h"
#include "endpoint.h"

const volatile bool *sink_wanted = NULL;

/* ---- What a library may ask of the process ---- */

/*
 * Whether the process is to leave: also a library that waits by itself must see
 * that the postmaster is gone.  Nothing is thrown through the library's
 * frames; other processes may be waiting for a barrier, so that is done here.
 */
static bool
host_stopping(void)
{
	if (ProcSignalBarrierPending)
		ProcessProcSignalBarrier();
	return ProcDiePending || QueryCancelPending || !PostmasterIsAlive() ||
		(sink_wanted && !*sink_wanted);
}

static int
host_wait(int socket, int events, long timeout_ms)
{
	int			wanted = WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH;
	int			found;
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);

	if (socket >= 0)
		wanted |= (events & SINK_READABLE ? WL_SOCKET_READABLE : 0) |
			(events & SINK_WRITABLE ? WL_SOCKET_WRITEABLE : 0);
	for (;;)
	{
		long		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);

		if (host_stopping())
			return -1;
		found = WaitLatchOrSocket(MyLatch, wanted, socket >= 0 ? socket : PGINVALID_SOCKET,
								  Min(left, 1000), PG_WAIT_EXTENSION);
		if (found & WL_LATCH_SET)
			ResetLatch(MyLatch);
		if (found & (WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE))
			return (found & WL_SOCKET_READABLE ? SINK_READABLE : 0) |
				(found & WL_SOCKET_WRITEABLE ? SINK_WRITABLE : 0);
		if (left <= 0)
			return host_stopping() ? -1 : 0;
	}
}

static void
host_log(const char *message)
{
	ereport(LOG, (errmsg("%s", message), errhidestmt(true)));
}

static const SinkHost host = {host_wait, host_stopping, host_log};

/* ---- The library and its options ---- */

static const SinkRoutine *
sink_load(const char *name)
{
	SinkRoutineFunction function;
	const SinkRoutine *routine;

	function = (SinkRoutineFunction)
		load_external_function(psprintf("$libdir/inventory_sink_%s", name),
							   "inventory_sink_routine", true, NULL);
	routine = function();
	if (routine->abi != SINK_ABI)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("library \"inventory_sink_%s\" is of another version", name)));
	return routine;
}

static char *
copy_string(MemoryContext context, const char *string)
{
	return string ? MemoryContextStrdup(context, string) : NULL;
}

static void
sink_read_options(DeliverySink *sink, const Subscription *subscription)
{
	List	   *options = endpoint_options(subscription->sink, subscription->owner,
										   subscription->options);
	ListCell   *cell;

	if (sink->context == NULL)
		sink->context = AllocSetContextCreate(TopMemoryContext, "inventory sink",
											  ALLOCSET_SMALL_SIZES);
	MemoryContextReset(sink->context);
	sink->option_count = 0;
	sink->options = MemoryContextAlloc(sink->context,
									   (list_length(options) + 1) * sizeof(SinkOption));
	foreach(cell, options)
	{
		SinkOption *option = &sink->options[sink->option_count++];

		option->name = copy_string(sink->context, ((SinkOption *) lfirst(cell))->name);
		option->value = copy_string(sink->context, ((SinkOption *) lfirst(cell))->value);
	}
	sink->options[sink->option_count].name = "subscription";
	sink->options[sink->option_count++].value =
		copy_string(sink->context, subscription->name);
}

/* Loads the library, and the options if the server may have been changed. */
void
sink_prepare(DeliverySink *sink, const Subscription *subscription)
{
	uint64		changes = endpoint_changes();

	subscription_check_sink_owner(subscription->sink_owner,
								  endpoint_owner(subscription->sink, subscription->owner),
								  psprintf("server \"%s\"", subscription->sink));
	if (sink->routine && sink->options && sink->endpoint_changes == changes)
		return;
	sink_close(sink);
	sink->routine = sink_load(endpoint_sink(subscription->sink));
	sink_read_options(sink, subscription);
	sink->endpoint_changes = changes;
}

/* ---- The envelope ---- */

static const char *
envelope_source(void)
{
	static char *source = NULL;

	if (source == NULL)
		source = MemoryContextStrdup(TopMemoryContext,
									 psprintf("urn:inventory:" UINT64_FORMAT ":%s",
											  GetSystemIdentifier(),
											  get_database_name(MyDatabaseId)));
	return source;
}

static void
append_attribute(StringInfo out, const char *name, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfo(out, "%c\"%s\":", out->len == 0 ? '{' : ',', name);
	escape_json(out, value);
}

/* The whole CloudEvent as JSON. */
static void
envelope_structured(SinkMessage *message, const Subscription *subscription)
{
	StringInfoData out;

	initStringInfo(&out);
	append_attribute(&out, "specversion", "1.0");
	append_attribute(&out, "id", message->id);
	append_attribute(&out, "source", message->source);
	append_attribute(&out, "type", message->topic);
	append_attribute(&out, "subject", message->key);
	append_attribute(&out, "time", message->time);
	append_attribute(&out, "datacontenttype", "application/json");
	append_attribute(&out, "partitionkey", message->key);
	append_attribute(&out, "sequence", message->sequence);
	append_attribute(&out, "messagenumber", psprintf(INT64_FORMAT, message->number));
	append_attribute(&out, "subscription", subscription->name);
	if (message->replayed)
		append_attribute(&out, "replayed", "true");
	if (message->data)
		appendStringInfo(&out, ",\"data\":%s", message->data);
	appendStringInfoChar(&out, '}');
	message->structured = out.data;
	message->structured_length = out.len;
}

static char *
jsonb_string(const JsonbValue *value)
{
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static void
envelope_headers(SinkMessage *message, Jsonb *headers)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	SinkOption *list;
	int			count = 0;

	if (headers == NULL || !JB_ROOT_IS_OBJECT(headers))
		return;
	list = palloc(Max(JB_ROOT_COUNT(headers), 1) * sizeof(SinkOption));
	iterator = JsonbIteratorInit(&headers->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			list[count].name = jsonb_string(&value);
		else if (token == WJB_VALUE && value.type == jbvString)
			list[count++].value = jsonb_string(&value);
	}
	message->headers = list;
	message->header_count = count;
}

static void
envelope(SinkMessage *message, const Subscription *subscription, const Message *from)
{
	memset(message, 0, sizeof(SinkMessage));
	message->id = from->id;
	message->source = envelope_source();
	message->topic = from->topic;
	message->key = from->key;
	message->sku = from->sku;
	message->time = message_time(from->created_at);
	message->sequence = psprintf("%020lld", (long long) from->position);
	message->position = from->position;
	message->number = from->number;
	message->replayed = subscription->replayed;
	if (from->payload)
	{
		message->data = JsonbToCString(NULL, &from->payload->root, VARSIZE(from->payload));
		message->data_length = strlen(message->data);
	}
	envelope_headers(message, from->headers);
	envelope_structured(message, subscription);
}

/* The messages that are to be sent, into the current memory context. */
SinkMessage *
sink_messages(const Subscription *subscription, const DeliveryItem *items, int count,
			  int *sent)
{
	SinkMessage *messages = palloc(Max(count, 1) * sizeof(SinkMessage));

	*sent = 0;
	for (int i = 0; i < count; i++)
	{
		if (items[i].outcome == OUTCOME_NONE)
			envelope(&messages[(*sent)++], subscription, &items[i].message);
	}
	return messages;
}

/* ---- Sending ---- */

/* Before it is opened again, sink_prepare() reads the options: a secret may have
 * been changed in its file. */
void
sink_close(DeliverySink *sink)
{
	if (sink->connection)
		sink->routine->close(sink->connection);
	sink->connection = NULL;
	sink->options = NULL;
}

static bool
sink_open(DeliverySink *sink, SinkResult *result)
{
	if (sink->connection)
		return true;
	sink->connection = sink->routine->open(sink->options, sink->option_count, &host,
										   &result->verdict, result->error);
	if (sink->connection == NULL)
		sink->options = NULL;
	else
		sink->lost = false;
	return sink->connection != NULL;
}

void
sink_send(DeliverySink *sink, SinkMessage *messages, int count, SinkResult *result)
{
	memset(result, 0, sizeof(SinkResult));
	result->verdict = SINK_OK;
	if (!sink_open(sink, result))
		return;
	result->verdict = sink->routine->send(sink->connection, messages, count, result->error);
	if (result->verdict != SINK_OK)
		sink_close(sink);
}

/* Nothing to send: heartbeats.  False if the connection has been lost. */
bool
sink_idle(DeliverySink *sink)
{
	if (sink->connection && sink->routine->idle && !sink->routine->idle(sink->connection))
	{
		sink_close(sink);
		sink->lost = true;
	}
	return !sink->lost;
}

/* A broker that has come back may have to be told so: a cache has old values. */
void
sink_reopen(DeliverySink *sink, SinkResult *result)
{
	memset(result, 0, sizeof(SinkResult));
	result->verdict = SINK_OK;
	(void) sink_open(sink, result);
}

/* ---- What has become of them ---- */

static bool
is_behind(const DeliveryItem *items, int at)
{
	const char *key = items[at].message.key;

	for (int i = 0; key && i < at; i++)
	{
		if (items[i].outcome == OUTCOME_RETRY && items[i].message.key &&
			strcmp(items[i].message.key, key) == 0)
			return true;
	}
	return false;
}

static void
sink_outcome(const Subscription *subscription, const SinkMessage *message,
			 DeliveryItem *item, SinkResult *result)
{
	item->error = message->error[0] ? message_error(message->error, SINK_ERROR_LENGTH) : NULL;
	item->retry_after_ms = message->retry_after_ms;
	switch (message->verdict)
	{
		case SINK_OK:
			item->outcome = OUTCOME_DONE;
			break;
		case SINK_RETRY_MESSAGE:
			item->outcome = delivery_failure(subscription, &item->message);
			break;
		case SINK_FAIL_MESSAGE:
			item->outcome = OUTCOME_DEAD;
			break;
		case SINK_DOUBT:
			item->doubtful = true;
			/* FALLTHROUGH */
		case SINK_RETRY_SINK:
		case SINK_FATAL:
			/* The sink as a whole, although the library has not said so. */
			result->retry_after_ms = Max(result->retry_after_ms, message->retry_after_ms);
			if (result->verdict == SINK_OK)
			{
				result->verdict = message->verdict == SINK_FATAL ? SINK_FATAL : SINK_RETRY_SINK;
				strlcpy(result->error, message->error, SINK_ERROR_LENGTH);
			}
			break;
		case SINK_NOT_SENT:
			break;
	}
}

void
sink_outcomes(const Subscription *subscription, const SinkMessage *messages, int sent,
			  DeliveryItem *items, int count, SinkResult *result)
{
	int			next = 0;
	bool		any_failed = false;

	for (int i = 0; i < count && next < sent; i++)
	{
		if (items[i].outcome != OUTCOME_NONE)
			continue;
		sink_outcome(subscription, &messages[next++], &items[i], result);
		/* Whatever the sink says of those behind it: they wait for it. */
		if (any_failed && is_behind(items, i))
			items[i].outcome = OUTCOME_DEFERRED;
		any_failed |= items[i].outcome == OUTCOME_RETRY;
	}
}
