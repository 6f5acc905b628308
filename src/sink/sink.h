/*-------------------------------------------------------------------------
 *
 * sink.h
 *		The interface between a delivery process and the library of a sink.
 *
 * A sink is a shared library, inventory_sink_NAME, that a delivery process
 * loads; nothing else does.  It knows a broker and its client library, and
 * nothing of the database: it uses this header, the C library, the client
 * library, and nothing of PostgreSQL.  So no error of PostgreSQL is thrown
 * through the frames of a client library, and nothing of a client library's
 * threads touches PostgreSQL.
 *
 * The process has no transaction and no snapshot while it is in a sink.  It must
 * come back soon when it is to stop: whatever may block, waits through
 * host->wait(), or asks host->stopping() at least five times a second.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_SINK_H
#define INVENTORY_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SINK_ABI 1
#define SINK_ERROR_LENGTH 256

typedef enum SinkVerdict
{
	SINK_NOT_SENT,				/* not tried: something before it has failed */
	SINK_OK,					/* the broker has it, durably as it can */
	SINK_RETRY_MESSAGE,			/* this message cannot be taken now */
	SINK_FAIL_MESSAGE,			/* this message can never be taken */
	SINK_RETRY_SINK,			/* the sink is down; says nothing of the message */
	SINK_FATAL,					/* wrong configuration or credentials */
	SINK_DOUBT,					/* the sink is down, or it is this message's fault */
} SinkVerdict;

typedef struct SinkOption
{
	const char *name;
	const char *value;
} SinkOption;

/* Strings are in the server's encoding, normally UTF-8. */
typedef struct SinkMessage
{
	/* What there is of it; NULL where there is nothing. */
	const char *id;
	const char *source;
	const char *topic;			/* CloudEvents: type */
	const char *key;			/* CloudEvents: subject, partitionkey */
	const char *sku;			/* of messages about a stock item */
	const char *time;			/* RFC 3339 */
	const char *sequence;		/* the position, 20 digits */
	int64_t		position;
	int64_t		number;			/* in the log */
	bool		replayed;
	const char *data;			/* the payload, JSON text */
	size_t		data_length;
	const char *structured;		/* the whole CloudEvent as JSON text */
	size_t		structured_length;
	int			header_count;
	const SinkOption *headers;	/* what the publisher gave */

	/* What the sink says of it. */
	SinkVerdict verdict;
	int			retry_after_ms; /* or 0 */
	char		error[SINK_ERROR_LENGTH];	/* no secrets */
} SinkMessage;

#define SINK_READABLE 1
#define SINK_WRITABLE 2

typedef struct SinkHost
{
	/* Waits until the socket is ready (a set of SINK_READABLE, SINK_WRITABLE;
	 * -1 for no socket) or the time is over: returns what it is ready for, 0
	 * when the time is over, -1 when the process is to stop. */
	int			(*wait) (int socket, int events, long timeout_ms);
	bool		(*stopping) (void);
	/* Writes to the server's log.  Only from the process's own thread. */
	void		(*log) (const char *message);
} SinkHost;

typedef struct SinkRoutine
{
	uint32_t	abi;			/* SINK_ABI */
	const char *name;

	/*
	 * Whether messages with the same key may be given in one call: then they
	 * reach the consumer in the order given, and when one of them fails, none
	 * after it with the same key is accepted.  Otherwise a call has each key
	 * once.
	 */
	bool		in_order;

	/* Connects, or is ready to.  NULL with a verdict and an error if it fails. */
	void	   *(*open) (const SinkOption *options, int count, const SinkHost *host,
						 SinkVerdict *verdict, char *error);

	/*
	 * Sends the messages, waits for their confirmations and sets each one's
	 * verdict.  Returns SINK_OK, or what has happened to the sink as a whole
	 * (SINK_RETRY_SINK, SINK_FATAL) with an error: messages that have been
	 * confirmed before still have the verdict SINK_OK.  SINK_DOUBT is of messages
	 * only, and the sink's verdict is another than SINK_OK then.
	 */
	SinkVerdict (*send) (void *sink, SinkMessage *messages, int count, char *error);

	/* Nothing to send at the moment: heartbeats.  May be NULL.  Called at least
	 * every 5 seconds; false if the sink must be opened again. */
	bool		(*idle) (void *sink);

	/* Returns within a second. */
	void		(*close) (void *sink);
} SinkRoutine;

/* What every library exports. */
extern __attribute__((visibility("default")))
const SinkRoutine *inventory_sink_routine(void);
typedef const SinkRoutine *(*SinkRoutineFunction) (void);

#endif							/* INVENTORY_SINK_H */
