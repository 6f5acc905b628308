/*-------------------------------------------------------------------------
 *
 * amqp_session.h
 *		A session with a server that speaks AMQP 0-9-1: frames out and in.
 *
 * rabbitmq-c encodes and decodes; the bytes go by connection.c.  Its own input
 * and output would wait without end for a server that reads no more.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_SINK_AMQP_SESSION_H
#define INVENTORY_SINK_AMQP_SESSION_H

#include "amqp_library.h"

#include "connection.h"
#include "sink.h"

typedef struct AmqpSession
{
	Connection *connection;
	amqp_connection_state_t codec;
	size_t		frame_max;
	long		heartbeat_ms;	/* 0: none */
	bool		blocked;		/* the server takes no messages at the moment */
	char		why_blocked[100];
	bool		broken;			/* it must be opened again */
	SinkVerdict verdict;		/* of the sink as a whole */
	char	   *error;			/* where it is written */
	char		unheard[SINK_ERROR_LENGTH]; /* for who does not ask */
} AmqpSession;

typedef enum AmqpNext
{
	AMQP_NEXT_FRAME,
	AMQP_NEXT_WRITTEN,			/* all that was to be written has been */
	AMQP_NEXT_TIMEOUT,
	AMQP_NEXT_FAILED,
} AmqpNext;

/* Connects, logs in and opens the virtual host; false with the session's verdict
 * and error if it fails. */
extern bool session_open(AmqpSession *session, const SinkOption *options, int count,
						 const SinkHost *host, char *error);

/* Says goodbye without waiting. */
extern void session_close(AmqpSession *session);

/* Keeps it alive without waiting; false if it must be opened again. */
extern bool session_keep_alive(AmqpSession *session);

/* Ends what is being done: sets the verdict and error and is false. */
extern bool session_fail(AmqpSession *session, SinkVerdict verdict, const char *format, ...)
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
;

/* Put a frame behind what is to be written. */
extern void session_write_method(AmqpSession *session, amqp_channel_t channel,
								 amqp_method_number_t method, void *arguments);

/* The header and body of a message; false if the properties do not fit. */
extern bool session_write_content(AmqpSession *session, amqp_channel_t channel,
								  amqp_basic_properties_t *properties,
								  const char *data, size_t length);

/*
 * The next frame, valid until the next call.  Heartbeats are answered, and what
 * concerns the connection is seen to, in here.
 */
extern AmqpNext session_next(AmqpSession *session, long until, amqp_frame_t *frame);

/* Whether to go on when what has come was of no use: AMQP_NEXT_WRITTEN if so. */
extern AmqpNext session_patience(AmqpSession *session, long until);

/* The arguments of the method that must come next on the channel.  NULL if it does
 * not; a channel that the server closes is a failure with this verdict's rules:
 * session_verdict(). */
extern void *session_expect(AmqpSession *session, amqp_channel_t channel,
							amqp_method_number_t method, long until);

/* The same; if the server closes the channel instead, that is no failure yet, and
 * why it does is in *why. */
extern void *session_ask(AmqpSession *session, amqp_channel_t channel,
						 amqp_method_number_t method, long until,
						 amqp_channel_close_t **why);

/* Fails as the server says that closes the channel; false. */
extern bool session_refused(AmqpSession *session, const amqp_channel_close_t *why);

/* What it means that the server closes the connection or a channel. */
extern SinkVerdict session_verdict(int code, amqp_bytes_t text);

#endif							/* INVENTORY_SINK_AMQP_SESSION_H */
