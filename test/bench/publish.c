/*
 * Publishes persistent messages to a queue of RabbitMQ with rabbitmq-c, the plain
 * way: a window of messages is published, then their confirmations are read.
 * Prints messages per second.  What the sink is compared with.
 *
 *		publish PORT QUEUE MESSAGES WINDOW BYTES
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <amqp.h>
#include <amqp_tcp_socket.h>

static const char *const names[] = {
	"cloudEvents_specversion", "cloudEvents_id", "cloudEvents_source", "cloudEvents_type",
	"cloudEvents_subject", "cloudEvents_partitionkey", "cloudEvents_time", "cloudEvents_sequence",
	"cloudEvents_messagenumber", "cloudEvents_subscription", "x-deduplication-header"
};
#define HEADERS (int) (sizeof(names) / sizeof(names[0]))

static void
require(int good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "%s failed\n", what);
	exit(1);
}

static double
seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

/* Reads confirmations until this tag has been confirmed. */
static void
wait_for(amqp_connection_state_t connection, uint64_t tag)
{
	uint64_t	confirmed = 0;
	static uint64_t total = 0;

	while (total < tag)
	{
		amqp_frame_t frame;
		amqp_basic_ack_t *ack;

		amqp_maybe_release_buffers(connection);
		require(amqp_simple_wait_frame(connection, &frame) == AMQP_STATUS_OK, "reading");
		require(frame.frame_type == AMQP_FRAME_METHOD &&
				frame.payload.method.id == AMQP_BASIC_ACK_METHOD, "confirmation");
		ack = frame.payload.method.decoded;
		confirmed = ack->delivery_tag;
		total = ack->multiple ? (confirmed > total ? confirmed : total) : total + 1;
	}
}

int
main(int argc, char **argv)
{
	amqp_connection_state_t connection = amqp_new_connection();
	amqp_socket_t *socket = amqp_tcp_socket_new(connection);
	amqp_table_entry_t headers[HEADERS];
	amqp_basic_properties_t properties = {
		._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG |
		AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_APP_ID_FLAG | AMQP_BASIC_HEADERS_FLAG,
		.content_type = amqp_cstring_bytes("application/json"),
		.delivery_mode = AMQP_DELIVERY_PERSISTENT,
		.message_id = amqp_cstring_bytes("message-1234567-303c5f35acfeb"),
		.type = amqp_cstring_bytes("bench"),
		.app_id = amqp_cstring_bytes("inventory"),
		.headers = {HEADERS, headers},
	};
	amqp_bytes_t body;
	int			messages,
				window;
	double		started;

	require(argc == 6 && socket != NULL, "starting");
	messages = atoi(argv[3]);
	window = atoi(argv[4]);
	body = amqp_bytes_malloc(atoi(argv[5]));
	memset(body.bytes, 'x', body.len);
	for (int i = 0; i < HEADERS; i++)
	{
		headers[i].key = amqp_cstring_bytes(names[i]);
		headers[i].value.kind = AMQP_FIELD_KIND_UTF8;
		headers[i].value.value.bytes = amqp_cstring_bytes("urn:inventory:7710576104");
	}
	require(amqp_socket_open(socket, "127.0.0.1", atoi(argv[1])) == 0, "connecting");
	require(amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type
			== AMQP_RESPONSE_NORMAL, "logging in");
	require(amqp_channel_open(connection, 1) != NULL, "opening a channel");
	require(amqp_confirm_select(connection, 1) != NULL, "confirm.select");
	started = seconds();
	for (int i = 1; i <= messages; i++)
	{
		require(amqp_basic_publish(connection, 1, amqp_empty_bytes, amqp_cstring_bytes(argv[2]), 1, 0,
								   &properties, body) == AMQP_STATUS_OK, "publishing");
		if (i % window == 0 || i == messages)
			wait_for(connection, i);
	}
	printf("%.0f\n", messages / (seconds() - started));
	return 0;
}
