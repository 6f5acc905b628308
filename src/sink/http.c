/*-------------------------------------------------------------------------
 *
 * http.c
 *		Webhooks: each message is posted to a URL, as a CloudEvent, signed as
 *		Standard Webhooks has it.
 *
 * Several requests are under way at a time.  A call has each key once, so they
 * may come in in any order.
 *
 * An answer of 2xx takes the message; others are about the message (4xx), about
 * the sink (it cannot be reached; 429, 503), or leave it open: a receiver, or a
 * proxy before it, that answers 500, hangs or breaks the connection may do so for
 * this message or for all.  What others get, tells: see settle_doubts().
 *
 * Nothing of the environment counts (no proxy, no .netrc), no redirect is
 * followed, and a connection is made only to an address that is public or has
 * been allowed (http_address.c), looked at when the socket is opened: what a name
 * resolved to before says nothing.
 *
 * Threads: libcurl's resolver makes them.  They must have all signals blocked,
 * or the server's signal handlers would run in them; so signals are blocked
 * while libcurl works, though not while it waits.
 *
 *-------------------------------------------------------------------------
 */
#include "sink.h"

#include <curl/curl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "http_address.h"
#include "http_signature.h"

#define SLICE_MS 100
#define ANSWER_MAX_SIZE 65536
/* libcurl has a megabyte for all that comes before the body. */
#define HEADERS_MAX_SIZE (512 * 1024)
#define RETRY_AFTER_MAX_S 3600
#define DOUBTS_TO_STOP 2

typedef struct HttpSink HttpSink;

typedef struct Transfer
{
	HttpSink   *sink;
	CURL	   *easy;
	SinkMessage *message;		/* NULL: free */
	struct curl_slist *headers;
	size_t		received;
	const char *refused;		/* why an address was not connected to */
	bool		tried;			/* another one was */
	char		error[CURL_ERROR_SIZE];
} Transfer;

/* Of the call that is going on. */
typedef struct Call
{
	SinkMessage *messages;
	int			count;
	int			next;			/* the first that was not begun */
	int			active;
	int			answered;
	int			doubts;			/* since the last answer that said something */
	bool	   *doubtful;
	SinkVerdict verdict;		/* of the sink */
	const char *error;
} Call;

struct HttpSink
{
	const SinkHost *host;
	CURLM	   *multi;
	SinkOption *options;
	int			option_count;
	char	   *host_name;
	bool		plain;			/* without TLS */
	bool		structured;
	HttpSecret	secrets[HTTP_MAX_SECRETS];
	int			secret_count;
	int			max_in_flight;
	Transfer   *transfers;
};

typedef struct Headers
{
	struct curl_slist *list;
	size_t		size;
	bool		failed;
} Headers;

static const char *
option(const HttpSink *sink, const char *name)
{
	for (int i = 0; i < sink->option_count; i++)
	{
		if (strcmp(sink->options[i].name, name) == 0)
			return sink->options[i].value;
	}
	return NULL;
}

static long
option_number(const HttpSink *sink, const char *name, long otherwise)
{
	const char *value = option(sink, name);

	return value == NULL ? otherwise : strtol(value, NULL, 10);
}

/* Texts of errors */

static bool
is_secret(const char *name)
{
	static const char *const secrets[] = {
		"url", "secret", "bearer_token", "user", "password"
	};

	for (size_t i = 0; i < sizeof(secrets) / sizeof(secrets[0]); i++)
	{
		if (strcmp(name, secrets[i]) == 0)
			return true;
	}
	return strncmp(name, "header.", 7) == 0;
}

/* libcurl does not write secrets into its errors; it is not relied upon. */
static void
scrub(const HttpSink *sink, char *text)
{
	for (int i = 0; i < sink->option_count; i++)
	{
		const char *value = sink->options[i].value;
		size_t		length = strlen(value);
		char	   *place = text;

		if (length < 4 || !is_secret(sink->options[i].name))
			continue;
		while ((place = strstr(place, value)) != NULL)
			memset(place, '*', length);
	}
}

static void
set_error(const HttpSink *sink, char *error, const char *text)
{
	char		line[CURL_ERROR_SIZE];

	snprintf(line, sizeof(line), "%s", text);
	scrub(sink, line);
	line[SINK_ERROR_LENGTH - 1] = '\0';
	strcpy(error, line);
}

/* Opening */

static void
block_signals(sigset_t *before)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, before);
}

static void
restore_signals(const sigset_t *before)
{
	pthread_sigmask(SIG_SETMASK, before, NULL);
}

static bool
copy_options(HttpSink *sink, const SinkOption *options, int count)
{
	sink->options = calloc((size_t) count + 1, sizeof(SinkOption));
	if (sink->options == NULL)
		return false;
	for (int i = 0; i < count; i++)
	{
		sink->options[i].name = strdup(options[i].name);
		sink->options[i].value = strdup(options[i].value);
		sink->option_count = i + 1;
		if (sink->options[i].name == NULL || sink->options[i].value == NULL)
			return false;
	}
	return true;
}

/* NULL, or what is wrong with the URL. */
static const char *
read_url(HttpSink *sink)
{
	const char *text = option(sink, "url");
	CURLU	   *url = curl_url();
	char	   *part = NULL;
	const char *wrong = NULL;

	if (text == NULL)
		wrong = "there is no URL";
	else if (url == NULL || curl_url_set(url, CURLUPART_URL, text, 0) != CURLUE_OK)
		wrong = "the URL is not valid";
	else if (curl_url_get(url, CURLUPART_USER, &part, 0) == CURLUE_OK ||
			 curl_url_get(url, CURLUPART_PASSWORD, &part, 0) == CURLUE_OK)
		wrong = "the URL must not have a user or password";
	else if (curl_url_get(url, CURLUPART_SCHEME, &part, 0) != CURLUE_OK)
		wrong = "the URL has no scheme";
	else
	{
		sink->plain = strcmp(part, "http") == 0;
		if (!sink->plain && strcmp(part, "https") != 0)
			wrong = "the URL must begin with https:// or http://";
		else if (curl_url_get(url, CURLUPART_HOST, &sink->host_name, 0) != CURLUE_OK)
			wrong = "the URL has no host";
	}
	curl_free(part);
	curl_url_cleanup(url);
	return wrong;
}

static const char *
read_options(HttpSink *sink)
{
	const char *wrong = read_url(sink);
	const char *mode = option(sink, "mode");

	if (wrong != NULL)
		return wrong;
	sink->structured = mode != NULL && strcmp(mode, "structured") == 0;
	if (option(sink, "secret") != NULL)
		sink->secret_count = http_read_secrets(option(sink, "secret"), sink->secrets);
	if (sink->secret_count < 0)
		return "a secret is not valid";
	sink->max_in_flight = (int) option_number(sink, "max_in_flight", 8);
	if (sink->max_in_flight < 1 || sink->max_in_flight > 64)
		return "max_in_flight is not valid";
	return NULL;
}

static bool
make_transfers(HttpSink *sink)
{
	sink->transfers = calloc((size_t) sink->max_in_flight, sizeof(Transfer));
	if (sink->transfers == NULL)
		return false;
	for (int i = 0; i < sink->max_in_flight; i++)
	{
		sink->transfers[i].sink = sink;
		sink->transfers[i].easy = curl_easy_init();
		if (sink->transfers[i].easy == NULL)
			return false;
	}
	return true;
}

static void
http_close(void *state)
{
	HttpSink   *sink = state;
	sigset_t	before;

	block_signals(&before);
	for (int i = 0; sink->transfers != NULL && i < sink->max_in_flight; i++)
		curl_easy_cleanup(sink->transfers[i].easy);
	curl_multi_cleanup(sink->multi);
	restore_signals(&before);
	free(sink->transfers);
	for (int i = 0; i < sink->option_count; i++)
	{
		free((void *) sink->options[i].name);
		free((void *) sink->options[i].value);
	}
	free(sink->options);
	curl_free(sink->host_name);
	free(sink);
}

static void *
http_open(const SinkOption *options, int count, const SinkHost *host,
		  SinkVerdict *verdict, char *error)
{
	HttpSink   *sink = calloc(1, sizeof(HttpSink));
	const char *wrong = NULL;
	sigset_t	before;
	bool		made;

	*verdict = SINK_RETRY_SINK;
	strcpy(error, "out of memory");
	if (sink == NULL)
		return NULL;
	sink->host = host;
	block_signals(&before);
	made = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK &&
		copy_options(sink, options, count) &&
		(sink->multi = curl_multi_init()) != NULL;
	if (made)
		wrong = read_options(sink);
	made = made && wrong == NULL && make_transfers(sink);
	restore_signals(&before);
	if (made)
	{
		curl_multi_setopt(sink->multi, CURLMOPT_MAXCONNECTS, (long) sink->max_in_flight);
#if LIBCURL_VERSION_NUM >= 0x081400
		curl_multi_setopt(sink->multi, CURLMOPT_QUICK_EXIT, 1L);
#endif
		*verdict = SINK_OK;
		error[0] = '\0';
		return sink;
	}
	if (wrong != NULL)
	{
		*verdict = SINK_FATAL;
		set_error(sink, error, wrong);
	}
	http_close(sink);
	return NULL;
}

/* A request */

/* CloudEvents has values percent-encoded; others must only not break the line. */
static bool
must_encode(unsigned char c, bool cloud_event)
{
	if (c < ' ' || c == 0x7f)
		return true;
	return cloud_event && (c == ' ' || c == '"' || c == '%' || c > 0x7f);
}

static void
add_header(Headers *headers, const char *name, const char *value, bool cloud_event)
{
	char	   *line = malloc(strlen(name) + 3 * strlen(value) + 3);
	char	   *end = line;
	struct curl_slist *list;

	if (line == NULL)
	{
		headers->failed = true;
		return;
	}
	/* "Name;" is how libcurl wants a header without a value. */
	end += sprintf(end, value[0] == '\0' ? "%s;" : "%s: ", name);
	for (const char *c = value; *c != '\0'; c++)
	{
		if (must_encode((unsigned char) *c, cloud_event))
			end += sprintf(end, "%%%02X", (unsigned char) *c);
		else
			*end++ = *c;
	}
	*end = '\0';
	headers->size += (size_t) (end - line) + 2;
	list = curl_slist_append(headers->list, line);
	free(line);
	if (list == NULL)
		headers->failed = true;
	else
		headers->list = list;
}

static void
add_cloud_event(Headers *headers, const char *name, const char *value)
{
	if (value != NULL)
		add_header(headers, name, value, true);
}

static void
add_cloud_event_headers(Headers *headers, const HttpSink *sink, const SinkMessage *message)
{
	char		number[32];

	snprintf(number, sizeof(number), "%lld", (long long) message->number);
	add_cloud_event(headers, "ce-specversion", "1.0");
	add_cloud_event(headers, "ce-id", message->id);
	add_cloud_event(headers, "ce-source", message->source);
	add_cloud_event(headers, "ce-type", message->topic);
	add_cloud_event(headers, "ce-subject", message->key);
	add_cloud_event(headers, "ce-time", message->time);
	add_cloud_event(headers, "ce-partitionkey", message->key);
	add_cloud_event(headers, "ce-sequence", message->sequence);
	add_cloud_event(headers, "ce-subscription", option(sink, "subscription"));
	add_cloud_event(headers, "ce-messagenumber", number);
	add_cloud_event(headers, "ce-replayed", message->replayed ? "true" : NULL);
}

static void
add_signature(Headers *headers, const HttpSink *sink, const SinkMessage *message,
			  const char *body, size_t body_length)
{
	char		timestamp[32];
	char		signatures[HTTP_MAX_SECRETS * HTTP_SIGNATURE_LENGTH] = "";

	snprintf(timestamp, sizeof(timestamp), "%lld", (long long) time(NULL));
	add_header(headers, "webhook-id", message->id, false);
	add_header(headers, "webhook-timestamp", timestamp, false);
	for (int i = 0; i < sink->secret_count; i++)
	{
		char		signature[HTTP_SIGNATURE_LENGTH];

		if (!http_sign(&sink->secrets[i], message->id, timestamp, body, body_length, signature))
		{
			headers->failed = true;
			return;
		}
		if (i > 0)
			strcat(signatures, " ");
		strcat(signatures, signature);
	}
	if (sink->secret_count > 0)
		add_header(headers, "webhook-signature", signatures, false);
}

/* What a publisher's header must not say otherwise. */
static bool
is_reserved(const HttpSink *sink, const char *name)
{
	static const char *const reserved[] = {
		"host", "content-length", "content-type", "content-encoding",
		"transfer-encoding", "connection", "keep-alive", "expect", "upgrade",
		"te", "trailer", "authorization", "cookie", "user-agent"
	};

	for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++)
	{
		if (strcasecmp(name, reserved[i]) == 0)
			return true;
	}
	for (int i = 0; i < sink->option_count; i++)
	{
		if (strncmp(sink->options[i].name, "header.", 7) == 0 &&
			strcasecmp(sink->options[i].name + 7, name) == 0)
			return true;
	}
	return strncasecmp(name, "ce-", 3) == 0 || strncasecmp(name, "webhook-", 8) == 0 ||
		strncasecmp(name, "proxy-", 6) == 0;
}

static void
add_other_headers(Headers *headers, const HttpSink *sink, const SinkMessage *message)
{
	const char *token = option(sink, "bearer_token");

	for (int i = 0; i < sink->option_count; i++)
	{
		if (strncmp(sink->options[i].name, "header.", 7) == 0)
			add_header(headers, sink->options[i].name + 7, sink->options[i].value, false);
	}
	for (int i = 0; i < message->header_count; i++)
	{
		const char *name = message->headers[i].name;

		if (name[0] != '\0' && !is_reserved(sink, name) &&
			name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-")] == '\0')
			add_header(headers, name, message->headers[i].value, false);
	}
	if (token != NULL)
	{
		char	   *value = malloc(strlen(token) + 8);

		if (value == NULL)
		{
			headers->failed = true;
			return;
		}
		sprintf(value, "Bearer %s", token);
		add_header(headers, "Authorization", value, false);
		free(value);
	}
	add_header(headers, "User-Agent", "inventory", false);
	/* No waiting for "100 Continue", which many do not send. */
	{
		struct curl_slist *list = curl_slist_append(headers->list, "Expect:");

		if (list == NULL)
			headers->failed = true;
		else
			headers->list = list;
	}
}

/* Nothing of the answer is needed; a small one is read to keep the connection. */
static size_t
receive(char *data, size_t size, size_t count, void *state)
{
	Transfer   *transfer = state;

	transfer->received += size * count;
	return transfer->received > ANSWER_MAX_SIZE ? 0 : size * count;
}

static curl_socket_t
open_socket(void *state, curlsocktype purpose, struct curl_sockaddr *address)
{
	Transfer   *transfer = state;
	const HttpSink *sink = transfer->sink;
	const char *allow = option(sink, "allow");

	(void) purpose;
	if (!http_host_is_allowed(allow, sink->host_name) &&
		!http_address_is_allowed(allow, &address->addr))
	{
		if (!http_address_is_public(&address->addr))
			transfer->refused = "the host has a private address, which inventory.http_allow does not allow";
		else if (sink->plain)
			transfer->refused = "the URL is not https, which inventory.http_allow does not allow";
		if (transfer->refused != NULL)
			return CURL_SOCKET_BAD;
	}
	transfer->tried = true;
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static bool
set_connection(const HttpSink *sink, Transfer *transfer)
{
	CURL	   *easy = transfer->easy;
	bool		set = true;

	set &= curl_easy_setopt(easy, CURLOPT_URL, option(sink, "url")) == CURLE_OK;
#if LIBCURL_VERSION_NUM >= 0x075500
	set &= curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, sink->plain ? "http" : "https") == CURLE_OK;
#else
	set &= curl_easy_setopt(easy, CURLOPT_PROTOCOLS, sink->plain ? CURLPROTO_HTTP : CURLPROTO_HTTPS) == CURLE_OK;
#endif
	set &= curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED) == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket) == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, transfer) == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK;
#if LIBCURL_VERSION_NUM >= 0x075700
	/* Or to give up would mean to wait for the resolver. */
	set &= curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L) == CURLE_OK;
#endif
	set &= curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, option_number(sink, "connect_timeout", 5000)) == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, option_number(sink, "timeout", 30000)) == CURLE_OK;
	if (option(sink, "ca_file") != NULL)
		set &= curl_easy_setopt(easy, CURLOPT_CAINFO, option(sink, "ca_file")) == CURLE_OK;
	if (option(sink, "user") != NULL || option(sink, "password") != NULL)
	{
		set &= curl_easy_setopt(easy, CURLOPT_HTTPAUTH, CURLAUTH_BASIC) == CURLE_OK;
		set &= curl_easy_setopt(easy, CURLOPT_USERNAME, option(sink, "user") ? option(sink, "user") : "") == CURLE_OK;
		set &= curl_easy_setopt(easy, CURLOPT_PASSWORD, option(sink, "password") ? option(sink, "password") : "") == CURLE_OK;
	}
	return set;
}

/* False with the message's verdict if it can never be sent. */
static bool
set_request(const HttpSink *sink, Transfer *transfer, SinkMessage *message)
{
	const char *body = sink->structured ? message->structured : message->data;
	size_t		length = sink->structured ? message->structured_length : message->data_length;
	Headers		headers = {0};
	CURL	   *easy = transfer->easy;
	bool		set = true;

	if (body == NULL)
	{
		body = "";
		length = 0;
	}
	add_header(&headers, "Content-Type",
			   sink->structured ? "application/cloudevents+json; charset=UTF-8" : "application/json", false);
	if (!sink->structured)
		add_cloud_event_headers(&headers, sink, message);
	add_signature(&headers, sink, message, body, length);
	add_other_headers(&headers, sink, message);
	transfer->headers = headers.list;
	if (headers.size > HEADERS_MAX_SIZE)
	{
		message->verdict = SINK_FAIL_MESSAGE;
		set_error(sink, message->error, "the headers are larger than 512 KB");
		return false;
	}
	set &= curl_easy_setopt(easy, CURLOPT_POST, 1L) == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body) == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) length) == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers.list) == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, receive) == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer) == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, receive) == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer) == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error) == CURLE_OK;
	set &= curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer) == CURLE_OK;
	return set && !headers.failed;
}

static void
end_transfer(Transfer *transfer)
{
	curl_multi_remove_handle(transfer->sink->multi, transfer->easy);
	curl_slist_free_all(transfer->headers);
	transfer->headers = NULL;
	transfer->message = NULL;
}

/* False if there is no memory, or with the message's verdict as set_request(). */
static bool
begin_transfer(HttpSink *sink, Transfer *transfer, SinkMessage *message)
{
	curl_easy_reset(transfer->easy);
	transfer->message = message;
	transfer->received = 0;
	transfer->refused = NULL;
	transfer->tried = false;
	transfer->error[0] = '\0';
	if (set_connection(sink, transfer) && set_request(sink, transfer, message) &&
		curl_multi_add_handle(sink->multi, transfer->easy) == CURLM_OK)
		return true;
	end_transfer(transfer);
	return false;
}

/* An answer */

static SinkVerdict
judge_status(long status, bool *doubtful)
{
	if (status >= 200 && status < 300)
		return SINK_OK;
	if (status >= 300 && status < 400)
		return SINK_FATAL;
	switch (status)
	{
		case 401:
		case 403:
		case 407:
		case 410:
			return SINK_FATAL;
		case 404:
		case 408:
		case 409:
		case 425:
			return SINK_RETRY_MESSAGE;
		case 429:
		case 503:
			return SINK_RETRY_SINK;
		default:
			*doubtful = status >= 500;
			return status >= 500 ? SINK_RETRY_SINK : SINK_FAIL_MESSAGE;
	}
}

/* A date that is past is negative. */
static int
read_retry_after(const Transfer *transfer)
{
	curl_off_t	seconds = 0;

	curl_easy_getinfo(transfer->easy, CURLINFO_RETRY_AFTER, &seconds);
	if (seconds < 0)
		seconds = 0;
	if (seconds > RETRY_AFTER_MAX_S)
		seconds = RETRY_AFTER_MAX_S;
	return (int) seconds * 1000;
}

/* There was no answer. */
static SinkVerdict
judge_failure(const Transfer *transfer, CURLcode code, bool *doubtful)
{
	curl_off_t	sent_at = 0;

	switch (code)
	{
		case CURLE_URL_MALFORMAT:
		case CURLE_UNSUPPORTED_PROTOCOL:
		case CURLE_SSL_CACERT_BADFILE:
			return SINK_FATAL;
		case CURLE_COULDNT_CONNECT:
			return transfer->refused != NULL && !transfer->tried ? SINK_FATAL : SINK_RETRY_SINK;
		default:
			/* Once it is connected, the message may be at fault. */
			curl_easy_getinfo(transfer->easy, CURLINFO_PRETRANSFER_TIME_T, &sent_at);
			*doubtful = sent_at > 0;
			return SINK_RETRY_SINK;
	}
}

static void
describe(const Transfer *transfer, CURLcode code, long status, char *error)
{
	char		text[CURL_ERROR_SIZE];

	if (status >= 300 && status < 400)
		snprintf(text, sizeof(text), "the answer was %ld, and redirects are not followed", status);
	else if (status >= 200)
		snprintf(text, sizeof(text), "the answer was %ld", status);
	else if (transfer->refused != NULL && !transfer->tried)
		snprintf(text, sizeof(text), "%s", transfer->refused);
	else
		snprintf(text, sizeof(text), "%s",
				 transfer->error[0] != '\0' ? transfer->error : curl_easy_strerror(code));
	set_error(transfer->sink, error, text);
}

static void
finish_transfer(Call *call, Transfer *transfer, CURLcode code)
{
	SinkMessage *message = transfer->message;
	long		status = 0;
	bool		doubtful = false;

	curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
	/* The status counts, even if the rest of the answer did not come. */
	if (status >= 200)
		message->verdict = judge_status(status, &doubtful);
	else
		message->verdict = judge_failure(transfer, code, &doubtful);
	if (message->verdict != SINK_OK)
		describe(transfer, code, status, message->error);
	if (message->verdict == SINK_RETRY_SINK || message->verdict == SINK_RETRY_MESSAGE)
		message->retry_after_ms = read_retry_after(transfer);
	call->active--;
	end_transfer(transfer);

	if (doubtful)
	{
		call->doubtful[message - call->messages] = true;
		call->doubts++;
	}
	else if (message->verdict == SINK_RETRY_SINK || message->verdict == SINK_FATAL)
	{
		if (call->verdict != SINK_FATAL)
		{
			call->verdict = message->verdict;
			call->error = message->error;
		}
	}
	else
	{
		call->answered++;
		call->doubts = 0;
	}
}

/* A call */

static bool
begin_transfers(HttpSink *sink, Call *call)
{
	for (int i = 0; i < sink->max_in_flight; i++)
	{
		SinkMessage *message;

		if (call->next == call->count || call->verdict != SINK_OK ||
			call->doubts >= DOUBTS_TO_STOP)
			return true;
		if (sink->transfers[i].message != NULL)
			continue;
		message = &call->messages[call->next];
		if (begin_transfer(sink, &sink->transfers[i], message))
			call->active++;
		else if (message->verdict != SINK_FAIL_MESSAGE)
			return false;
		call->next++;
	}
	return true;
}

static void
drive(HttpSink *sink, Call *call)
{
	CURLMsg    *report;
	int			left;

	curl_multi_perform(sink->multi, &left);
	while ((report = curl_multi_info_read(sink->multi, &left)) != NULL)
	{
		CURLcode	code = report->data.result;
		char	   *transfer = NULL;

		if (report->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(report->easy_handle, CURLINFO_PRIVATE, &transfer);
		finish_transfer(call, (Transfer *) transfer, code);
	}
}

/* The signals are blocked only while libcurl works. */
static void
transfer_all(HttpSink *sink, Call *call)
{
	for (;;)
	{
		sigset_t	before;
		bool		begun;

		block_signals(&before);
		begun = begin_transfers(sink, call);
		drive(sink, call);
		restore_signals(&before);
		if (!begun && call->verdict == SINK_OK)
		{
			call->verdict = SINK_RETRY_SINK;
			call->error = "out of memory";
		}
		if (sink->host->stopping())
		{
			call->verdict = SINK_RETRY_SINK;
			call->error = "the process is to stop";
			break;
		}
		if (call->active > 0)
			curl_multi_poll(sink->multi, NULL, 0, SLICE_MS, NULL);
		else if (call->next == call->count || call->verdict != SINK_OK ||
				 call->doubts >= DOUBTS_TO_STOP)
			break;
	}
}

static void
abandon_transfers(HttpSink *sink)
{
	sigset_t	before;

	block_signals(&before);
	for (int i = 0; i < sink->max_in_flight; i++)
	{
		if (sink->transfers[i].message == NULL)
			continue;
		sink->transfers[i].message->verdict = SINK_NOT_SENT;
		end_transfer(&sink->transfers[i]);
	}
	restore_signals(&before);
}

/*
 * If others got an answer, then the receiver is up, and it is the messages that
 * it cannot take now: however they ended, a slow one ends last.  Otherwise, or
 * when something else says that it is down, nobody knows.
 */
static void
settle_doubts(Call *call)
{
	bool		message_at_fault = call->verdict == SINK_OK && call->answered > 0;

	for (int i = 0; i < call->count; i++)
	{
		if (!call->doubtful[i])
			continue;
		call->messages[i].verdict = message_at_fault ? SINK_RETRY_MESSAGE : SINK_DOUBT;
		if (!message_at_fault && call->verdict == SINK_OK)
		{
			call->verdict = SINK_RETRY_SINK;
			call->error = call->messages[i].error;
		}
	}
}

static SinkVerdict
http_send(void *state, SinkMessage *messages, int count, char *error)
{
	HttpSink   *sink = state;
	Call		call = {messages, count, .verdict = SINK_OK};

	for (int i = 0; i < count; i++)
	{
		messages[i].verdict = SINK_NOT_SENT;
		messages[i].retry_after_ms = 0;
		messages[i].error[0] = '\0';
	}
	call.doubtful = calloc((size_t) count + 1, sizeof(bool));
	if (call.doubtful == NULL)
	{
		strcpy(error, "out of memory");
		return SINK_RETRY_SINK;
	}
	transfer_all(sink, &call);
	abandon_transfers(sink);
	settle_doubts(&call);
	free(call.doubtful);
	if (call.verdict != SINK_OK)
		snprintf(error, SINK_ERROR_LENGTH, "%s", call.error);
	return call.verdict;
}

const SinkRoutine *
inventory_sink_routine(void)
{
	static const SinkRoutine routine = {
		.abi = SINK_ABI,
		.name = "http",
		.in_order = false,
		.open = http_open,
		.send = http_send,
		.close = http_close,
	};

	return &routine;
}
