/*-------------------------------------------------------------------------
 *
 * connection.h
 *		A connection to a server, by TCP, TLS or a socket in the file system,
 *		that never blocks but in host->wait().
 *
 * Client libraries that do their own input and output wait where they like, for
 * a name, for a peer that reads no more.  So sinks use them for their protocol
 * alone, and this for the bytes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_SINK_CONNECTION_H
#define INVENTORY_SINK_CONNECTION_H

#include "buffer.h"
#include "sink.h"

typedef struct ConnectionTarget
{
	const char *path;			/* of a socket in the file system, or NULL */
	const char *host;
	const char *port;
	bool		tls;
	bool		verify;			/* the server's certificate and name */
	const char *ca_file;		/* NULL: the system's authorities */
	long		timeout_ms;
} ConnectionTarget;

typedef struct Connection Connection;

typedef enum ConnectionState
{
	CONNECTION_MOVED,			/* there is input, or everything is written */
	CONNECTION_TIMEOUT,
	CONNECTION_STOPPED,			/* the process is to stop */
	CONNECTION_LOST,
} ConnectionState;

/* NULL with a verdict and an error if it fails. */
extern Connection *connection_open(const ConnectionTarget *target, const SinkHost *host,
								   SinkVerdict *verdict, char *error);
extern void connection_close(Connection *connection);

/* What is to be written: append to it. */
extern Buffer *connection_output(Connection *connection);

/* What has been read: buffer_use() it. */
extern Buffer *connection_input(Connection *connection);

/*
 * Writes what can be written and reads what has come; waits until there is more
 * input, or everything is written that was to be, at most until this time (of
 * connection_time()).
 */
extern ConnectionState connection_exchange(Connection *connection, long until);

/*
 * Whether to go on waiting when what has come is not enough: a peer that never
 * pauses is never waited for.  CONNECTION_MOVED if so.
 */
extern ConnectionState connection_patience(Connection *connection, long until);

/* Why it is lost. */
extern const char *connection_error(const Connection *connection);

/* When something was last written or read. */
extern long connection_written_at(const Connection *connection);
extern long connection_read_at(const Connection *connection);

/* A clock in milliseconds that nobody sets. */
extern long connection_time(void);

#endif							/* INVENTORY_SINK_CONNECTION_H */
