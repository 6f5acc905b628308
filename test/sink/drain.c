/*
 * Takes all messages out of a queue of RabbitMQ, in order, and prints each on a
 * line: the message id, delivery mode, content type, headers as name=value;...,
 * and the body.
 *
 *		drain PORT QUEUE
 */
#include <stdio.h>
#include <stdlib.h>

#include <amqp.h>
#include <amqp_tcp_socket.h>

static void
require(int good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "%s failed\n", what);
	exit(1);
}

static void
print_bytes(amqp_bytes_t bytes)
{
	fwrite(bytes.bytes, 1, bytes.len, stdout);
}

static void
print_message(const amqp_message_t *message)
{
	const amqp_basic_properties_t *properties = &message->properties;

	print_bytes(properties->message_id);
	printf("\t%d\t", properties->delivery_mode);
	print_bytes(properties->content_type);
	printf("\t");
	for (int i = 0; i < properties->headers.num_entries; i++)
	{
		const amqp_table_entry_t *entry = &properties->headers.entries[i];

		print_bytes(entry->key);
		printf("=");
		print_bytes(entry->value.value.bytes);
		printf(";");
	}
	printf("\t");
	print_bytes(message->body);
	printf("\n");
}

int
main(int argc, char **argv)
{
	amqp_connection_state_t connection = amqp_new_connection();
	amqp_socket_t *socket = amqp_tcp_socket_new(connection);

	require(argc == 3 && socket != NULL, "starting");
	require(amqp_socket_open(socket, "127.0.0.1", atoi(argv[1])) == 0, "connecting");
	require(amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest").reply_type
			== AMQP_RESPONSE_NORMAL, "logging in");
	require(amqp_channel_open(connection, 1) != NULL, "opening a channel");
	for (;;)
	{
		amqp_message_t message;
		amqp_rpc_reply_t reply = amqp_basic_get(connection, 1, amqp_cstring_bytes(argv[2]), 1);

		require(reply.reply_type == AMQP_RESPONSE_NORMAL, "basic.get");
		if (reply.reply.id == AMQP_BASIC_GET_EMPTY_METHOD)
			break;
		require(amqp_read_message(connection, 1, &message, 0).reply_type == AMQP_RESPONSE_NORMAL, "reading");
		print_message(&message);
		amqp_destroy_message(&message);
		amqp_maybe_release_buffers(connection);
	}
	amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
	amqp_destroy_connection(connection);
	return 0;
}
