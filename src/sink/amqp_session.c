/*-------------------------------------------------------------------------
 *
 * amqp_session.c
 *		A session with a server that speaks AMQP 0-9-1: frames out and in.
 *
 *-------------------------------------------------------------------------
 */
#include "amqp_session.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "option.h"

#define LOGIN_MS 10000

/* Of a frame: type, channel, size; and the octet at its end. */
#define FRAME_HEADER 7
#define FRAME_END 0xCE

/* More than any method that is sent here, a password included. */
#define METHOD_SIZE 16384

/* What rabbitmq-c calls what a server sends that wants another version. */
#define PROTOCOL_HEADER 'A'

/* The longest that a server is listened to while there is nothing to do. */
#define LISTEN_MS 100

#define FRAME_MAX 131072
#define CHANNEL_MAX 1

static bool log_in(AmqpSession *session, const SinkOption *options, int count);
static bool tune(AmqpSession *session, const SinkOption *options, int count);
static bool open_host(AmqpSession *session, const SinkOption *options, int count);
static bool see_to_connection(AmqpSession *session, amqp_frame_t *frame);

bool
session_open(AmqpSession *session, const SinkOption *options, int count,
			 const SinkHost *host, char *error)
{
	bool		tls = option_switch(options, count, "tls", false);
	const char *server = option_text(options, count, "host");
	const char *port = option_text(options, count, "port");
	ConnectionTarget target = {
		.host = server ? server : "localhost",
		.port = port ? port : tls ? "5671" : "5672",
		.tls = tls,
		.verify = option_switch(options, count, "verify", true),
		.ca_file = option_text(options, count, "ca_file"),
		.timeout_ms = option_time(options, count, "connect_timeout", 5000),
	};

	session->error = error;
	session->frame_max = AMQP_FRAME_MIN_SIZE;
	session->codec = amqp_new_connection();
	if (session->codec == NULL)
		return session_fail(session, SINK_RETRY_SINK, "out of memory");
	session->connection = connection_open(&target, host, &session->verdict, error);
	return session->connection != NULL && log_in(session, options, count) &&
		tune(session, options, count) && open_host(session, options, count);
}

void
session_close(AmqpSession *session)
{
	if (session->connection != NULL && !session->broken)
	{
		amqp_connection_close_t goodbye = {
			.reply_code = AMQP_REPLY_SUCCESS,
			.reply_text = amqp_cstring_bytes("goodbye"),
		};

		session_write_method(session, 0, AMQP_CONNECTION_CLOSE_METHOD, &goodbye);
		connection_exchange(session->connection, connection_time());
	}
	connection_close(session->connection);
	if (session->codec != NULL)
		amqp_destroy_connection(session->codec);
}

bool
session_fail(AmqpSession *session, SinkVerdict verdict, const char *format, ...)
{
	va_list		arguments;

	session->broken = true;
	session->verdict = verdict;
	va_start(arguments, format);
	vsnprintf(session->error, SINK_ERROR_LENGTH, format, arguments);
	va_end(arguments);
	return false;
}

/* ---------- Frames out ---------- */

static void
put(char *place, int bytes, uint64_t number)
{
	while (bytes-- > 0)
	{
		place[bytes] = (char) (number & 0xFF);
		number >>= 8;
	}
}

/* A frame whose payload is in the buffer already, behind room for the header. */
static void
finish_frame(Buffer *output, char *frame, int type, amqp_channel_t channel, size_t size)
{
	put(frame, 1, type);
	put(frame + 1, 2, channel);
	put(frame + 3, 4, size);
	put(frame + FRAME_HEADER + size, 1, FRAME_END);
	buffer_extend(output, FRAME_HEADER + size + 1);
}

void
session_write_method(AmqpSession *session, amqp_channel_t channel,
					 amqp_method_number_t method, void *arguments)
{
	Buffer	   *output = connection_output(session->connection);
	char	   *frame = buffer_room(output, FRAME_HEADER + METHOD_SIZE + 1);
	amqp_bytes_t room;
	int			size;

	if (frame == NULL)
		return;
	put(frame + FRAME_HEADER, 4, method);
	room.bytes = frame + FRAME_HEADER + 4;
	room.len = METHOD_SIZE - 4;
	size = amqp_encode_method(method, arguments, room);
	if (size < 0)
		output->failed = true;
	else
		finish_frame(output, frame, AMQP_FRAME_METHOD, channel, size + 4);
}

static void
write_heartbeat(AmqpSession *session)
{
	Buffer	   *output = connection_output(session->connection);
	char	   *frame = buffer_room(output, FRAME_HEADER + 1);

	if (frame != NULL)
		finish_frame(output, frame, AMQP_FRAME_HEARTBEAT, 0, 0);
}

static bool
write_properties(AmqpSession *session, amqp_channel_t channel,
				 amqp_basic_properties_t *properties, size_t length)
{
	Buffer	   *output = connection_output(session->connection);
	char	   *frame = buffer_room(output, session->frame_max);
	amqp_bytes_t room;
	int			size;

	if (frame == NULL)
		return true;			/* seen when it is to be written */
	put(frame + FRAME_HEADER, 2, AMQP_BASIC_CLASS);
	put(frame + FRAME_HEADER + 2, 2, 0);
	put(frame + FRAME_HEADER + 4, 8, length);
	room.bytes = frame + FRAME_HEADER + 12;
	room.len = session->frame_max - FRAME_HEADER - 12 - 1;
	size = amqp_encode_properties(AMQP_BASIC_CLASS, properties, room);
	if (size < 0)
		return false;
	finish_frame(output, frame, AMQP_FRAME_HEADER, channel, size + 12);
	return true;
}

bool
session_write_content(AmqpSession *session, amqp_channel_t channel,
					  amqp_basic_properties_t *properties, const char *data, size_t length)
{
	Buffer	   *output = connection_output(session->connection);
	size_t		most = session->frame_max - FRAME_HEADER - 1;

	if (!write_properties(session, channel, properties, length))
		return false;
	while (length > 0)
	{
		size_t		size = length < most ? length : most;
		char	   *frame = buffer_room(output, FRAME_HEADER + size + 1);

		if (frame == NULL)
			return true;
		memcpy(frame + FRAME_HEADER, data, size);
		finish_frame(output, frame, AMQP_FRAME_BODY, channel, size);
		data += size;
		length -= size;
	}
	return true;
}

/* ---------- Frames in ---------- */

/* Decodes a frame from what has come; the frame's type is 0 if there is none. */
static bool
decode(AmqpSession *session, amqp_frame_t *frame)
{
	Buffer	   *input = connection_input(session->connection);

	frame->frame_type = 0;
	amqp_maybe_release_buffers(session->codec);
	while (frame->frame_type == 0 && buffer_left(input) > 0)
	{
		amqp_bytes_t bytes = {buffer_left(input), input->data + input->start};
		int			used = amqp_handle_input(session->codec, bytes, frame);

		if (used < 0)
			return session_fail(session, SINK_RETRY_SINK, "the server does not speak AMQP: %s",
								amqp_error_string2(used));
		buffer_use(input, used);
	}
	return true;
}

/* Half a heartbeat's silence is ended by one; two of the server's are its end. */
static bool
mind_heartbeat(AmqpSession *session)
{
	long		now = connection_time();

	if (session->heartbeat_ms == 0)
		return true;
	if (now - connection_read_at(session->connection) > 2 * session->heartbeat_ms)
		return session_fail(session, SINK_RETRY_SINK, "no heartbeat of the server for %ld s",
							2 * session->heartbeat_ms / 1000);
	if (now - connection_written_at(session->connection) >= session->heartbeat_ms / 2 &&
		buffer_left(connection_output(session->connection)) == 0)
		write_heartbeat(session);
	return true;
}

static AmqpNext
wait_for_more(AmqpSession *session, long until)
{
	for (;;)
	{
		long		now = connection_time();
		long		end = until;

		if (!mind_heartbeat(session))
			return AMQP_NEXT_FAILED;
		if (session->heartbeat_ms > 0 && end - now > session->heartbeat_ms / 4)
			end = now + session->heartbeat_ms / 4;
		switch (connection_exchange(session->connection, end))
		{
			case CONNECTION_MOVED:
				return AMQP_NEXT_WRITTEN;
			case CONNECTION_TIMEOUT:
				if (end >= until)
					return AMQP_NEXT_TIMEOUT;
				break;
			case CONNECTION_STOPPED:
				session_fail(session, SINK_RETRY_SINK, "stopped");
				return AMQP_NEXT_FAILED;
			case CONNECTION_LOST:
				session_fail(session, SINK_RETRY_SINK, "%s", connection_error(session->connection));
				return AMQP_NEXT_FAILED;
		}
	}
}

AmqpNext
session_patience(AmqpSession *session, long until)
{
	switch (connection_patience(session->connection, until))
	{
		case CONNECTION_STOPPED:
			session_fail(session, SINK_RETRY_SINK, "stopped");
			return AMQP_NEXT_FAILED;
		case CONNECTION_TIMEOUT:
			return AMQP_NEXT_TIMEOUT;
		default:
			return AMQP_NEXT_WRITTEN;
	}
}

AmqpNext
session_next(AmqpSession *session, long until, amqp_frame_t *frame)
{
	bool		heard = false;

	for (;;)
	{
		AmqpNext	next = AMQP_NEXT_WRITTEN;

		if (!decode(session, frame) || !see_to_connection(session, frame))
			return AMQP_NEXT_FAILED;
		if (frame->frame_type != 0)
			return AMQP_NEXT_FRAME;
		if (buffer_left(connection_input(session->connection)) > 0)
			continue;
		if (heard)
			next = session_patience(session, until);
		if (next == AMQP_NEXT_WRITTEN)
			next = wait_for_more(session, until);
		if (next != AMQP_NEXT_WRITTEN)
			return next;
		if (buffer_left(connection_input(session->connection)) == 0)
			return AMQP_NEXT_WRITTEN;
		heard = true;
	}
}

static bool
mentions(amqp_bytes_t text, const char *word)
{
	size_t		length = strlen(word);

	for (size_t i = 0; i + length <= text.len; i++)
		if (memcmp((char *) text.bytes + i, word, length) == 0)
			return true;
	return false;
}

SinkVerdict
session_verdict(int code, amqp_bytes_t text)
{
	switch (code)
	{
		case AMQP_INVALID_PATH:
		case AMQP_ACCESS_REFUSED:
		case AMQP_NOT_FOUND:
			return SINK_FATAL;
		case AMQP_NOT_ALLOWED:
			/* Of connections, for example: others will end. */
			return mentions(text, "limit") || mentions(text, "down") ? SINK_RETRY_SINK : SINK_FATAL;
		case AMQP_CONTENT_TOO_LARGE:
		case AMQP_PRECONDITION_FAILED:
			return SINK_FAIL_MESSAGE;
		default:
			return SINK_RETRY_SINK;
	}
}

static bool
connection_closed(AmqpSession *session, const amqp_connection_close_t *why)
{
	amqp_connection_close_ok_t ok = {0};
	SinkVerdict verdict = session_verdict(why->reply_code, why->reply_text);

	session_write_method(session, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok);
	connection_exchange(session->connection, connection_time());
	return session_fail(session, verdict == SINK_FATAL ? SINK_FATAL : SINK_RETRY_SINK, "%.*s",
						(int) why->reply_text.len, (char *) why->reply_text.bytes);
}

static void
note_blocked(AmqpSession *session, const amqp_connection_blocked_t *why)
{
	session->blocked = true;
	snprintf(session->why_blocked, sizeof(session->why_blocked), "%.*s",
			 (int) why->reason.len, (char *) why->reason.bytes);
}

/* Takes away what nobody else needs to see. */
static bool
see_to_connection(AmqpSession *session, amqp_frame_t *frame)
{
	if (frame->frame_type == AMQP_FRAME_HEARTBEAT)
		frame->frame_type = 0;
	if (frame->frame_type != AMQP_FRAME_METHOD || frame->channel != 0)
		return true;
	switch (frame->payload.method.id)
	{
		case AMQP_CONNECTION_CLOSE_METHOD:
			return connection_closed(session, frame->payload.method.decoded);
		case AMQP_CONNECTION_BLOCKED_METHOD:
			note_blocked(session, frame->payload.method.decoded);
			frame->frame_type = 0;
			break;
		case AMQP_CONNECTION_UNBLOCKED_METHOD:
			session->blocked = false;
			frame->frame_type = 0;
			break;
	}
	return true;
}

bool
session_refused(AmqpSession *session, const amqp_channel_close_t *why)
{
	SinkVerdict verdict = session_verdict(why->reply_code, why->reply_text);

	return session_fail(session, verdict == SINK_FATAL ? SINK_FATAL : SINK_RETRY_SINK, "%.*s",
						(int) why->reply_text.len, (char *) why->reply_text.bytes);
}

void *
session_expect(AmqpSession *session, amqp_channel_t channel, amqp_method_number_t method, long until)
{
	amqp_channel_close_t *why = NULL;
	void	   *answer = session_ask(session, channel, method, until, &why);

	if (why != NULL)
		session_refused(session, why);
	return answer;
}

void *
session_ask(AmqpSession *session, amqp_channel_t channel, amqp_method_number_t method, long until,
			amqp_channel_close_t **why)
{
	amqp_frame_t frame;
	AmqpNext	next;

	do
		next = session_next(session, until, &frame);
	while (next == AMQP_NEXT_WRITTEN);
	if (next == AMQP_NEXT_TIMEOUT)
		session_fail(session, SINK_RETRY_SINK, "no answer in time");
	if (next != AMQP_NEXT_FRAME)
		return NULL;
	if (frame.frame_type == AMQP_FRAME_METHOD && frame.channel == channel &&
		frame.payload.method.id == method)
		return frame.payload.method.decoded;
	if (frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == AMQP_CHANNEL_CLOSE_METHOD)
		*why = frame.payload.method.decoded;
	else if (frame.frame_type == PROTOCOL_HEADER)
		session_fail(session, SINK_FATAL, "the server speaks another version of AMQP");
	else
		session_fail(session, SINK_RETRY_SINK, "the server's answer is another than %s",
					 amqp_method_name(method));
	return NULL;
}

/* ---------- Opening ---------- */

static amqp_table_entry_t
text_entry(const char *name, const char *value)
{
	amqp_table_entry_t entry = {.key = amqp_cstring_bytes(name)};

	entry.value.kind = AMQP_FIELD_KIND_UTF8;
	entry.value.value.bytes = amqp_cstring_bytes(value);
	return entry;
}

static amqp_table_entry_t
true_entry(const char *name)
{
	amqp_table_entry_t entry = {.key = amqp_cstring_bytes(name)};

	entry.value.kind = AMQP_FIELD_KIND_BOOLEAN;
	entry.value.value.boolean = 1;
	return entry;
}

/* What PLAIN sends: a zero and the user, a zero and the password. */
static void
write_credentials(const char *user, const char *password, Buffer *credentials)
{
	buffer_append(credentials, "", 1);
	buffer_append_string(credentials, user);
	buffer_append(credentials, "", 1);
	buffer_append_string(credentials, password);
}

static void
write_start_ok(AmqpSession *session, const char *user, const char *password)
{
	amqp_table_entry_t capabilities[] = {
		true_entry("publisher_confirms"),
		true_entry("basic.nack"),
		true_entry("connection.blocked"),
		true_entry("authentication_failure_close"),
	};
	amqp_table_entry_t properties[] = {
		text_entry("product", "inventory"),
		text_entry("connection_name", "inventory"),
		{.key = amqp_cstring_bytes("capabilities")},
	};
	amqp_connection_start_ok_t start_ok = {
		.client_properties = {3, properties},
		.mechanism = amqp_cstring_bytes("PLAIN"),
		.locale = amqp_cstring_bytes("en_US"),
	};
	Buffer		credentials = {0};

	properties[2].value.kind = AMQP_FIELD_KIND_TABLE;
	properties[2].value.value.table.num_entries = sizeof(capabilities) / sizeof(capabilities[0]);
	properties[2].value.value.table.entries = capabilities;
	write_credentials(user, password, &credentials);
	start_ok.response.bytes = credentials.data;
	start_ok.response.len = credentials.length;
	if (credentials.failed)
		connection_output(session->connection)->failed = true;
	else
		session_write_method(session, 0, AMQP_CONNECTION_START_OK_METHOD, &start_ok);
	buffer_free(&credentials);
}

static bool
log_in(AmqpSession *session, const SinkOption *options, int count)
{
	const char *user = option_text(options, count, "user");
	const char *password = option_text(options, count, "password");
	amqp_connection_start_t *start;

	buffer_append(connection_output(session->connection), "AMQP\0\0\11\1", 8);
	start = session_expect(session, 0, AMQP_CONNECTION_START_METHOD, connection_time() + LOGIN_MS);
	if (start == NULL)
		return false;
	if (!mentions(start->mechanisms, "PLAIN"))
		return session_fail(session, SINK_FATAL, "the server does not let anybody log in by PLAIN");
	write_start_ok(session, user ? user : "guest", password ? password : user ? "" : "guest");
	return true;
}

/* The smaller of two, where 0 is none. */
static long
smaller(long one, long other)
{
	return one == 0 || (other != 0 && other < one) ? other : one;
}

static bool
tune(AmqpSession *session, const SinkOption *options, int count)
{
	amqp_connection_tune_t *offer =
		session_expect(session, 0, AMQP_CONNECTION_TUNE_METHOD, connection_time() + LOGIN_MS);
	amqp_connection_tune_ok_t agreed;
	long		heartbeat;

	if (offer == NULL)
		return false;
	heartbeat = smaller(offer->heartbeat, (option_time(options, count, "heartbeat", 20000) + 999) / 1000);
	agreed.channel_max = smaller(offer->channel_max, CHANNEL_MAX);
	agreed.frame_max = smaller(offer->frame_max, FRAME_MAX);
	agreed.heartbeat = heartbeat;
	session_write_method(session, 0, AMQP_CONNECTION_TUNE_OK_METHOD, &agreed);
	session->frame_max = agreed.frame_max;
	session->heartbeat_ms = heartbeat * 1000;
	if (session->frame_max < AMQP_FRAME_MIN_SIZE ||
		amqp_tune_connection(session->codec, agreed.channel_max, agreed.frame_max, 0) != AMQP_STATUS_OK)
		return session_fail(session, SINK_RETRY_SINK, "the server wants frames that are too small");
	return true;
}

static bool
open_host(AmqpSession *session, const SinkOption *options, int count)
{
	const char *vhost = option_text(options, count, "vhost");
	amqp_connection_open_t open = {
		.virtual_host = amqp_cstring_bytes(vhost ? vhost : "/"),
	};

	session_write_method(session, 0, AMQP_CONNECTION_OPEN_METHOD, &open);
	return session_expect(session, 0, AMQP_CONNECTION_OPEN_OK_METHOD,
						  connection_time() + LOGIN_MS) != NULL;
}

/* ---------- Idle ---------- */

bool
session_keep_alive(AmqpSession *session)
{
	long		now = connection_time();
	amqp_frame_t frame;

	session->error = session->unheard;
	if (session->broken)
		return false;
	while (connection_time() - now < LISTEN_MS)
		switch (session_next(session, now, &frame))
		{
			case AMQP_NEXT_FRAME:
				if (frame.frame_type == AMQP_FRAME_METHOD &&
					frame.payload.method.id == AMQP_CHANNEL_CLOSE_METHOD)
					return session_fail(session, SINK_RETRY_SINK, "the server has closed the channel");
				break;
			case AMQP_NEXT_WRITTEN:
				break;
			case AMQP_NEXT_TIMEOUT:
				return true;
			case AMQP_NEXT_FAILED:
				return false;
		}
	return true;
}
