/*-------------------------------------------------------------------------
 *
 * connection.c
 *		A connection to a server, by TCP, TLS or a socket in the file system,
 *		that never blocks but in host->wait().
 *
 * Names are resolved by threads of the C library, which run no signal handler;
 * when the process is to stop, or the time is over, such a request that cannot be
 * taken back is left to itself, with its memory.
 *
 *-------------------------------------------------------------------------
 */
#include "connection.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "option.h"

/* Read at once: more than a batch of confirmations. */
#define READ_SIZE (64 * 1024)

struct Connection
{
	const SinkHost *host;
	int			socket;
	SSL_CTX    *context;
	SSL		   *tls;
	bool		tls_wants_write;	/* to go on reading */
	bool		tls_wants_read; /* to go on writing */
	Buffer		output;
	Buffer		input;
	long		written_at;
	long		read_at;
	char		error[SINK_ERROR_LENGTH];
};

static bool resolve(const ConnectionTarget *target, const SinkHost *host, long until,
					struct addrinfo **addresses, char *error);
static bool connect_to_path(Connection *connection, const ConnectionTarget *target,
							SinkVerdict *verdict, char *error);
static bool connect_to_any(Connection *connection, const ConnectionTarget *target,
						   const struct addrinfo *addresses, long until, char *error);
static bool start_tls(Connection *connection, const ConnectionTarget *target, long until,
					  SinkVerdict *verdict, char *error);
static bool write_some(Connection *connection);
static bool read_some(Connection *connection);

long
connection_time(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000L + now.tv_nsec / 1000000L;
}

Connection *
connection_open(const ConnectionTarget *target, const SinkHost *host,
				SinkVerdict *verdict, char *error)
{
	long		until = connection_time() + target->timeout_ms;
	struct addrinfo *addresses = NULL;
	Connection *connection = calloc(1, sizeof(Connection));
	bool		connected;

	*verdict = SINK_RETRY_SINK;
	if (connection == NULL)
	{
		sink_error(error, "out of memory");
		return NULL;
	}
	connection->host = host;
	connection->socket = -1;
	if (target->path != NULL)
		connected = connect_to_path(connection, target, verdict, error);
	else
		connected = resolve(target, host, until, &addresses, error) &&
			connect_to_any(connection, target, addresses, until, error);
	if (addresses != NULL)
		freeaddrinfo(addresses);
	if (connected && target->tls)
		connected = start_tls(connection, target, until, verdict, error);
	if (!connected)
	{
		connection_close(connection);
		return NULL;
	}
	connection->written_at = connection->read_at = connection_time();
	return connection;
}

/* TLS is not ended in form: that could wait, and every protocol here has an end
 * of its own. */
void
connection_close(Connection *connection)
{
	if (connection == NULL)
		return;
	SSL_free(connection->tls);
	SSL_CTX_free(connection->context);
	if (connection->socket >= 0)
		close(connection->socket);
	buffer_free(&connection->output);
	buffer_free(&connection->input);
	free(connection);
}

Buffer *
connection_output(Connection *connection)
{
	return &connection->output;
}

Buffer *
connection_input(Connection *connection)
{
	return &connection->input;
}

const char *
connection_error(const Connection *connection)
{
	return connection->error;
}

long
connection_written_at(const Connection *connection)
{
	return connection->written_at;
}

long
connection_read_at(const Connection *connection)
{
	return connection->read_at;
}

static int
wanted_events(const Connection *connection)
{
	int			events = SINK_READABLE;

	if (connection->tls_wants_write ||
		(buffer_left(&connection->output) > 0 && !connection->tls_wants_read))
		events |= SINK_WRITABLE;
	return events;
}

ConnectionState
connection_exchange(Connection *connection, long until)
{
	bool		writing = buffer_left(&connection->output) > 0;
	size_t		had = buffer_left(&connection->input);

	if (connection->output.failed || connection->input.failed)
	{
		sink_error(connection->error, "out of memory");
		return CONNECTION_LOST;
	}
	for (;;)
	{
		long		left;

		/* What has come is read even if the peer takes nothing any more: it may
		 * have said why. */
		if (!write_some(connection))
		{
			char		why[SINK_ERROR_LENGTH];

			memcpy(why, connection->error, sizeof(why));
			read_some(connection);
			memcpy(connection->error, why, sizeof(why));
			return buffer_left(&connection->input) > had ? CONNECTION_MOVED : CONNECTION_LOST;
		}
		if (!read_some(connection))
			return buffer_left(&connection->input) > had ? CONNECTION_MOVED : CONNECTION_LOST;
		if (buffer_left(&connection->input) > had)
			return CONNECTION_MOVED;
		if (writing && buffer_left(&connection->output) == 0)
			return CONNECTION_MOVED;
		if (connection->host->stopping())
			return CONNECTION_STOPPED;
		left = until - connection_time();
		if (left <= 0)
			return CONNECTION_TIMEOUT;
		if (connection->host->wait(connection->socket, wanted_events(connection), left) < 0)
			return CONNECTION_STOPPED;
	}
}

ConnectionState
connection_patience(Connection *connection, long until)
{
	if (connection->host->stopping())
		return CONNECTION_STOPPED;
	return connection_time() >= until ? CONNECTION_TIMEOUT : CONNECTION_MOVED;
}

/* The last error of a system call, in words that are safe to give away. */
static bool
failed(Connection *connection, const char *what)
{
	sink_error(connection->error, "%s: %s", what, strerror(errno));
	return false;
}

static bool
tls_failed(Connection *connection, const char *what)
{
	unsigned long code = ERR_get_error();
	char		reason[128] = "the server has closed the connection";

	if (code != 0)
		ERR_error_string_n(code, reason, sizeof(reason));
	sink_error(connection->error, "%s: %s", what, reason);
	return false;
}

static bool
write_some(Connection *connection)
{
	Buffer	   *output = &connection->output;

	connection->tls_wants_read = false;
	while (buffer_left(output) > 0)
	{
		const char *data = output->data + output->start;
		ssize_t		written;

		if (connection->tls != NULL)
		{
			size_t		bytes = 0;
			int			result;

			ERR_clear_error();
			result = SSL_write_ex(connection->tls, data, buffer_left(output), &bytes);
			if (result <= 0)
			{
				int			reason = SSL_get_error(connection->tls, result);

				connection->tls_wants_read = reason == SSL_ERROR_WANT_READ;
				if (reason == SSL_ERROR_WANT_WRITE || reason == SSL_ERROR_WANT_READ)
					return true;
				return tls_failed(connection, "could not send");
			}
			written = bytes;
		}
		else
		{
			written = send(connection->socket, data, buffer_left(output), MSG_NOSIGNAL);
			if (written < 0 && errno == EINTR)
				continue;
			if (written < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
				return true;
			if (written < 0)
				return failed(connection, "could not send");
		}
		buffer_use(output, written);
		connection->written_at = connection_time();
	}
	return true;
}

/* At most once round: who has much to say is listened to between sending. */
static bool
read_some(Connection *connection)
{
	char	   *room = buffer_room(&connection->input, READ_SIZE);
	ssize_t		bytes;

	connection->tls_wants_write = false;
	if (room == NULL)
	{
		sink_error(connection->error, "out of memory");
		return false;
	}
	if (connection->tls != NULL)
	{
		int			result;
		size_t		count = 0;

		ERR_clear_error();
		result = SSL_read_ex(connection->tls, room, READ_SIZE, &count);
		if (result <= 0)
		{
			int			reason = SSL_get_error(connection->tls, result);

			connection->tls_wants_write = reason == SSL_ERROR_WANT_WRITE;
			if (reason == SSL_ERROR_WANT_WRITE || reason == SSL_ERROR_WANT_READ)
				return true;
			return tls_failed(connection, "could not receive");
		}
		bytes = count;
	}
	else
	{
		do
			bytes = recv(connection->socket, room, READ_SIZE, 0);
		while (bytes < 0 && errno == EINTR);
		if (bytes < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return true;
		if (bytes < 0)
			return failed(connection, "could not receive");
		if (bytes == 0)
		{
			sink_error(connection->error, "the server has closed the connection");
			return false;
		}
	}
	buffer_extend(&connection->input, bytes);
	connection->read_at = connection_time();
	return true;
}

static bool
not_resolved(const ConnectionTarget *target, const char *why, char *error)
{
	sink_error(error, "could not resolve the name \"%s\": %s", target->host, why);
	return false;
}

/* Asks the resolver's own threads; what they need outlives this call if need be. */
#ifdef __GLIBC__
typedef struct Resolution
{
	struct gaicb request;
	struct addrinfo hints;
	char	   *host;
	char	   *port;
} Resolution;

static void
free_resolution(Resolution *resolution)
{
	free(resolution->host);
	free(resolution->port);
	free(resolution);
}

static Resolution *
start_resolution(const ConnectionTarget *target, const struct addrinfo *hints)
{
	Resolution *resolution = calloc(1, sizeof(Resolution));
	struct gaicb *list[1];
	struct sigevent quietly;

	if (resolution == NULL)
		return NULL;
	resolution->host = strdup(target->host);
	resolution->port = strdup(target->port);
	resolution->hints = *hints;
	resolution->request.ar_name = resolution->host;
	resolution->request.ar_service = resolution->port;
	resolution->request.ar_request = &resolution->hints;
	list[0] = &resolution->request;
	memset(&quietly, 0, sizeof(quietly));
	quietly.sigev_notify = SIGEV_NONE;
	if (resolution->host == NULL || resolution->port == NULL ||
		getaddrinfo_a(GAI_NOWAIT, list, 1, &quietly) != 0)
	{
		free_resolution(resolution);
		return NULL;
	}
	return resolution;
}

static bool
resolve_name(const ConnectionTarget *target, const struct addrinfo *hints, const SinkHost *host,
			 long until, struct addrinfo **addresses, char *error)
{
	Resolution *resolution = start_resolution(target, hints);
	bool		over = false;
	int			status;

	if (resolution == NULL)
		return not_resolved(target, "out of memory", error);
	for (long pause = 1; (status = gai_error(&resolution->request)) == EAI_INPROGRESS && !over;
		 pause = pause < 50 ? pause * 2 : 50)
		over = host->wait(-1, 0, pause) < 0 || host->stopping() || connection_time() >= until;
	if (status == EAI_INPROGRESS)
	{
		if (gai_cancel(&resolution->request) == EAI_CANCELED)
			free_resolution(resolution);
		return not_resolved(target, "no answer in time", error);
	}
	*addresses = resolution->request.ar_result;
	free_resolution(resolution);
	return status == 0 || not_resolved(target, gai_strerror(status), error);
}
#else
static bool
resolve_name(const ConnectionTarget *target, const struct addrinfo *hints, const SinkHost *host,
			 long until, struct addrinfo **addresses, char *error)
{
	int			status = getaddrinfo(target->host, target->port, hints, addresses);

	return status == 0 || not_resolved(target, gai_strerror(status), error);
}
#endif

static bool
resolve(const ConnectionTarget *target, const SinkHost *host, long until,
		struct addrinfo **addresses, char *error)
{
	struct addrinfo hints;

	memset(&hints, 0, sizeof(hints));
	hints.ai_socktype = SOCK_STREAM;
	hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
	if (getaddrinfo(target->host, target->port, &hints, addresses) == 0)
		return true;
	*addresses = NULL;
	hints.ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG;
	return resolve_name(target, &hints, host, until, addresses, error);
}

static int
new_socket(int family)
{
	return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* Waits for a connection that has been begun: 0 or an errno. */
static int
finish_connecting(int socket, const SinkHost *host, long until)
{
	for (;;)
	{
		long		left = until - connection_time();
		int			ready;
		int			reason = 0;
		socklen_t	length = sizeof(reason);

		if (left <= 0)
			return ETIMEDOUT;
		ready = host->wait(socket, SINK_WRITABLE, left);
		if (ready < 0 || host->stopping())
			return EINTR;
		if (ready == 0)
			continue;
		return getsockopt(socket, SOL_SOCKET, SO_ERROR, &reason, &length) == 0 ? reason : errno;
	}
}

static int
connect_to(Connection *connection, const struct addrinfo *address, long until)
{
	int			on = 1;
	int			reason = 0;
	int			socket = new_socket(address->ai_family);

	if (socket < 0)
		return errno;
	if (connect(socket, address->ai_addr, address->ai_addrlen) != 0)
		reason = errno == EINPROGRESS ? finish_connecting(socket, connection->host, until) : errno;
	if (reason != 0)
	{
		close(socket);
		return reason;
	}
	setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	connection->socket = socket;
	return 0;
}

/* The time is divided among the addresses, so that a dead one leaves some. */
static bool
connect_to_any(Connection *connection, const ConnectionTarget *target,
			   const struct addrinfo *addresses, long until, char *error)
{
	int			count = 0;
	int			reason = ETIMEDOUT;

	for (const struct addrinfo *a = addresses; a != NULL; a = a->ai_next)
		count++;
	for (const struct addrinfo *a = addresses; a != NULL; a = a->ai_next)
	{
		long		now = connection_time();

		reason = connect_to(connection, a, now + (until - now) / count--);
		if (reason == 0)
			return true;
		if (connection->host->stopping())
			break;
	}
	sink_error(error, "could not connect to \"%s\", port %s: %s",
			   target->host, target->port, strerror(reason));
	return false;
}

static bool
connect_to_path(Connection *connection, const ConnectionTarget *target,
				SinkVerdict *verdict, char *error)
{
	struct sockaddr_un address;

	memset(&address, 0, sizeof(address));
	address.sun_family = AF_UNIX;
	if (strlen(target->path) >= sizeof(address.sun_path))
	{
		sink_error(error, "the path of the socket is too long");
		*verdict = SINK_FATAL;
		return false;
	}
	strcpy(address.sun_path, target->path);
	connection->socket = new_socket(AF_UNIX);
	if (connection->socket >= 0 &&
		connect(connection->socket, (struct sockaddr *) &address, sizeof(address)) == 0)
		return true;
	if (errno == EACCES)
		*verdict = SINK_FATAL;
	sink_error(error, "could not connect to \"%s\": %s", target->path, strerror(errno));
	return false;
}

static bool
misconfigured(const char *why, SinkVerdict *verdict, char *error)
{
	sink_error(error, "%s", why);
	*verdict = SINK_FATAL;
	return false;
}

/* Whom to trust, and what the server's name must be. */
static bool
prepare_tls(Connection *connection, const ConnectionTarget *target,
			SinkVerdict *verdict, char *error)
{
	SSL_CTX    *context = SSL_CTX_new(TLS_client_method());
	X509_VERIFY_PARAM *expected;

	connection->context = context;
	if (context == NULL || !SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION))
		return misconfigured("could not set up TLS", verdict, error);
	SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_verify(context, target->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
	if (target->verify &&
		!(target->ca_file ? SSL_CTX_load_verify_locations(context, target->ca_file, NULL)
		  : SSL_CTX_set_default_verify_paths(context)))
		return misconfigured("could not read the certificates of ca_file", verdict, error);
	connection->tls = SSL_new(context);
	if (connection->tls == NULL || !SSL_set_fd(connection->tls, connection->socket))
		return misconfigured("could not set up TLS", verdict, error);
	expected = SSL_get0_param(connection->tls);
	if (!X509_VERIFY_PARAM_set1_ip_asc(expected, target->host) &&
		(!X509_VERIFY_PARAM_set1_host(expected, target->host, 0) ||
		 !SSL_set_tlsext_host_name(connection->tls, target->host)))
		return misconfigured("could not set up TLS", verdict, error);
	return true;
}

static bool
handshake_failed(Connection *connection, bool verify, SinkVerdict *verdict, char *error)
{
	long		untrusted = SSL_get_verify_result(connection->tls);

	tls_failed(connection, "TLS failed");
	if (verify && untrusted != X509_V_OK)
	{
		*verdict = SINK_FATAL;
		sink_error(error, "the server's certificate is not trusted: %s",
				   X509_verify_cert_error_string(untrusted));
	}
	else
		sink_error(error, "%s", connection->error);
	return false;
}

static bool
start_tls(Connection *connection, const ConnectionTarget *target, long until,
		  SinkVerdict *verdict, char *error)
{
	if (!prepare_tls(connection, target, verdict, error))
		return false;
	for (;;)
	{
		long		left = until - connection_time();
		int			result;
		int			events = SINK_READABLE;

		ERR_clear_error();
		result = SSL_connect(connection->tls);
		if (result == 1)
			return true;
		switch (SSL_get_error(connection->tls, result))
		{
			case SSL_ERROR_WANT_READ:
				break;
			case SSL_ERROR_WANT_WRITE:
				events = SINK_WRITABLE;
				break;
			default:
				return handshake_failed(connection, target->verify, verdict, error);
		}
		if (left <= 0 || connection->host->wait(connection->socket, events, left) < 0 ||
			connection->host->stopping())
		{
			sink_error(error, "TLS failed: no answer in time");
			return false;
		}
	}
}
