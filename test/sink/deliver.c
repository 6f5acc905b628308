/*
 * Drives a sink as a delivery process does, from a script on standard input:
 *
 *		deliver LIBRARY [option=value ...]
 *
 *		position <tab> id <tab> topic <tab> key <tab> sku <tab> data [<tab> header=value ...]
 *					a message of the next call; an empty key or SKU is none, and so is
 *					\N as data
 *		send		sends them: per message "position verdict error", then
 *					"sent verdict milliseconds error"
 *		open		"opened", or "failed verdict error"; also how long it took
 *		close		"closed milliseconds"
 *		idle		"idle 1 milliseconds", or 0: to be opened again
 *		stop MS		from so many milliseconds on, the process is to stop; -1: not
 *		signals		"signals MASK ...": what each other thread has blocked
 *		memory N	the process gets no more than N bytes from here on; -1: it does
 *		size N		what follows has a payload of N bytes instead of its own
 *		fill N T K P	N messages of topic T with K keys, from position P on
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "sink.h"

#define MOST_MESSAGES 100000
#define MOST_HEADERS 16

static const char *const verdicts[] = {
	"not_sent", "ok", "retry_message", "fail_message", "retry_sink", "fatal",
	"doubt"
};

static SinkMessage messages[MOST_MESSAGES];
static int	message_count;
static long stop_at;
static size_t payload_size;
static const SinkRoutine *routine;
static void *sink;

static long
milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000L + now.tv_nsec / 1000000L;
}

static bool
host_stopping(void)
{
	return stop_at != 0 && milliseconds() >= stop_at;
}

static int
host_wait(int socket, int events, long timeout_ms)
{
	struct pollfd waiting = {.fd = socket};
	long		until = milliseconds() + timeout_ms;
	int			ready;

	if (events & SINK_READABLE)
		waiting.events |= POLLIN;
	if (events & SINK_WRITABLE)
		waiting.events |= POLLOUT;
	do
	{
		long		end = stop_at != 0 && stop_at < until ? stop_at : until;
		long		left = end - milliseconds();

		if (host_stopping())
			return -1;
		ready = poll(&waiting, 1, left > 0 ? (int) left : 0);
	} while ((ready < 0 && errno == EINTR) || (ready == 0 && milliseconds() < until));
	if (ready <= 0)
		return 0;
	return ((waiting.revents & (POLLIN | POLLHUP | POLLERR)) ? SINK_READABLE : 0) |
		((waiting.revents & (POLLOUT | POLLERR)) ? SINK_WRITABLE : 0);
}

static void
host_log(const char *message)
{
	printf("log %s\n", message);
}

static const SinkHost host = {host_wait, host_stopping, host_log};

static char *
copy(const char *text)
{
	return text && *text ? strdup(text) : NULL;
}

static void
set_payload(SinkMessage *message, const char *data)
{
	char		structured[512];

	if (payload_size > 0)
	{
		char	   *large = malloc(payload_size + 1);

		memset(large, 'x', payload_size);
		large[0] = large[payload_size - 1] = '"';
		large[payload_size] = '\0';
		message->data = large;
	}
	else
		message->data = strcmp(data, "\\N") == 0 ? NULL : strdup(data);
	message->data_length = message->data ? strlen(message->data) : 0;
	snprintf(structured, sizeof(structured), "{\"specversion\":\"1.0\",\"id\":\"%s\",\"data\":%.200s}",
			 message->id, payload_size ? "\"large\"" : message->data ? message->data : "null");
	message->structured = strdup(structured);
	message->structured_length = strlen(structured);
}

static SinkMessage *
new_message(int64_t position, const char *id)
{
	SinkMessage *message = &messages[message_count++];
	char		sequence[32];

	if (message_count > MOST_MESSAGES)
		abort();
	memset(message, 0, sizeof(SinkMessage));
	snprintf(sequence, sizeof(sequence), "%020" PRId64, position);
	message->position = position;
	message->number = position;
	message->id = strdup(id);
	message->source = "urn:inventory:1:test";
	message->time = "2026-01-02T03:04:05.678901Z";
	message->sequence = strdup(sequence);
	return message;
}

static void
read_message(char *line)
{
	char	   *fields[6 + MOST_HEADERS] = {0};
	SinkOption *headers = calloc(MOST_HEADERS, sizeof(SinkOption));
	SinkMessage *message;
	int			count = 0;

	for (char *field; count < 6 + MOST_HEADERS && (field = strsep(&line, "\t")) != NULL;)
		fields[count++] = field;
	message = new_message(strtoll(fields[0], NULL, 10), fields[1]);
	message->topic = copy(fields[2]);
	message->key = copy(fields[3]);
	message->sku = copy(fields[4]);
	set_payload(message, fields[5] ? fields[5] : "null");
	message->headers = headers;
	for (int i = 6; i < count; i++)
	{
		char	   *value = strchr(fields[i], '=');

		*value++ = '\0';
		headers[message->header_count].name = strdup(fields[i]);
		headers[message->header_count++].value = strdup(value);
	}
}

static void
fill(const char *arguments)
{
	int			count = 0;
	int			keys = 1;
	char		topic[256] = "";
	long long	position = 1;

	sscanf(arguments, "%d %255s %d %lld", &count, topic, &keys, &position);
	for (int i = 0; i < count; i++)
	{
		char		id[64];
		char		key[64];
		char		data[64];
		SinkMessage *message;

		snprintf(id, sizeof(id), "message-%lld-1", position + i);
		snprintf(key, sizeof(key), "k%lld", (position + i) % keys);
		snprintf(data, sizeof(data), "{\"n\": %lld}", position + i);
		message = new_message(position + i, id);
		message->topic = strdup(topic);
		message->key = strdup(key);
		message->sku = strdup(key);
		set_payload(message, data);
	}
}

static void
forget_messages(void)
{
	for (int i = 0; i < message_count; i++)
	{
		SinkMessage *message = &messages[i];

		for (int j = 0; j < message->header_count; j++)
		{
			free((char *) message->headers[j].name);
			free((char *) message->headers[j].value);
		}
		free((SinkOption *) message->headers);
		free((char *) message->id);
		free((char *) message->topic);
		free((char *) message->key);
		free((char *) message->sku);
		free((char *) message->sequence);
		free((char *) message->data);
		free((char *) message->structured);
	}
	message_count = 0;
}

static void
send_messages(void)
{
	char		error[SINK_ERROR_LENGTH] = "";
	long		started = milliseconds();
	SinkVerdict verdict = sink ? routine->send(sink, messages, message_count, error) : SINK_RETRY_SINK;
	long		took = milliseconds() - started;

	for (int i = 0; i < message_count; i++)
		printf("%" PRId64 " %s %s\n", messages[i].position, verdicts[messages[i].verdict], messages[i].error);
	printf("sent %s %ld %s\n", verdicts[verdict], took, verdict == SINK_OK ? "" : error);
	forget_messages();
}

static void
open_sink(const SinkOption *options, int count)
{
	char		error[SINK_ERROR_LENGTH] = "";
	SinkVerdict verdict = SINK_OK;
	long		started = milliseconds();

	sink = routine->open(options, count, &host, &verdict, error);
	if (sink)
		printf("opened %ld\n", milliseconds() - started);
	else
		printf("failed %s %ld %s\n", verdicts[verdict], milliseconds() - started, error);
}

static void
close_sink(void)
{
	long		started = milliseconds();

	if (sink)
		routine->close(sink);
	sink = NULL;
	printf("closed %ld\n", milliseconds() - started);
}

/* As /proc has it. */
static void
show_blocked(const char *thread)
{
	char		name[300];
	char		line[256];
	FILE	   *status;

	snprintf(name, sizeof(name), "/proc/self/task/%s/status", thread);
	status = fopen(name, "r");
	while (status && fgets(line, sizeof(line), status))
	{
		if (strncmp(line, "SigBlk:\t", 8) == 0)
			printf(" %.16s", line + 8);
	}
	if (status)
		fclose(status);
}

static void
show_signals(void)
{
	DIR		   *threads = opendir("/proc/self/task");
	struct dirent *thread;

	printf("signals");
	while ((thread = readdir(threads)) != NULL)
	{
		if (thread->d_name[0] != '.' && atoi(thread->d_name) != getpid())
			show_blocked(thread->d_name);
	}
	closedir(threads);
	printf("\n");
}

static void
limit_memory(long bytes)
{
	struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
	FILE	   *status = fopen("/proc/self/statm", "r");
	long		pages = 0;

	if (status == NULL || fscanf(status, "%ld", &pages) != 1)
		abort();
	fclose(status);
	if (bytes >= 0)
		limit.rlim_cur = pages * sysconf(_SC_PAGESIZE) + bytes;
	setrlimit(RLIMIT_AS, &limit);
}

static void
obey(char *line, const SinkOption *options, int count)
{
	if (strcmp(line, "send") == 0)
		send_messages();
	else if (strcmp(line, "open") == 0)
		open_sink(options, count);
	else if (strcmp(line, "close") == 0)
		close_sink();
	else if (strcmp(line, "idle") == 0)
	{
		long		started = milliseconds();
		bool		well = routine->idle == NULL || routine->idle(sink);

		printf("idle %d %ld\n", well, milliseconds() - started);
	}
	else if (strncmp(line, "stop ", 5) == 0)
		stop_at = atol(line + 5) < 0 ? 0 : milliseconds() + atol(line + 5);
	else if (strcmp(line, "signals") == 0)
		show_signals();
	else if (strncmp(line, "memory ", 7) == 0)
		limit_memory(atol(line + 7));
	else if (strncmp(line, "size ", 5) == 0)
		payload_size = atol(line + 5);
	else if (strncmp(line, "fill ", 5) == 0)
		fill(line + 5);
	else
		read_message(line);
}

int
main(int argc, char **argv)
{
	SinkOption	options[64];
	int			count = 0;
	void	   *library;
	SinkRoutineFunction get_routine;
	char	   *line = NULL;
	size_t		size = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
	get_routine = library ? (SinkRoutineFunction) dlsym(library, "inventory_sink_routine") : NULL;
	routine = get_routine ? get_routine() : NULL;
	if (routine == NULL || routine->abi != SINK_ABI)
	{
		fprintf(stderr, "no sink: %s\n", dlerror());
		return 1;
	}
	for (int i = 2; i < argc && count < 64; i++)
	{
		char	   *value = strchr(argv[i], '=');

		*value++ = '\0';
		options[count].name = argv[i];
		options[count++].value = value;
	}
	while (getline(&line, &size, stdin) > 0)
	{
		line[strcspn(line, "\n")] = '\0';
		if (*line != '\0')
			obey(line, options, count);
	}
	forget_messages();
	if (sink)
		routine->close(sink);
	free(line);
	return 0;
}
