/*-------------------------------------------------------------------------
 *
 * driver.c
 *		A process that sends through a sink, without a database.
 *
 *	 driver LIBRARY [name=value ...]
 *
 * Lines on standard input, answered on standard output, fields between tabs:
 *
 *	 message POSITION KEY TOPIC PAYLOAD [name=value ...]	(\N is NULL)
 *	 send			POSITION VERDICT ERROR of each, then: sent VERDICT ms ERROR
 *	 idle			idle yes|no
 *	 stop MS		from then on the process is to stop; - : it goes on
 *	 signals		signals MASK of each thread that does not block all of them
 *	 close			closed ms; and open again: open VERDICT ERROR
 *
 *-------------------------------------------------------------------------
 */
#include <dirent.h>
#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "sink/sink.h"

#define MAX_MESSAGES 20000
#define MAX_HEADERS 8

static const char *const verdicts[] = {
	"NOT_SENT", "OK", "RETRY_MESSAGE", "FAIL_MESSAGE", "RETRY_SINK", "FATAL"
};

static const SinkRoutine *routine;
static SinkOption options[64];
static int	option_count;
static void *sink;
static SinkMessage messages[MAX_MESSAGES];
static SinkOption headers[MAX_MESSAGES][MAX_HEADERS];
static int	count;
static long long stop_at = -1;

static long long
now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000LL + at.tv_nsec / 1000000;
}

/* ---- The host ---- */

static bool
host_stopping(void)
{
	return stop_at >= 0 && now() >= stop_at;
}

static int
host_wait(int socket, int events, long timeout)
{
	struct pollfd one = {.fd = socket};
	long long	until = now() + timeout;

	one.events = ((events & SINK_READABLE) ? POLLIN : 0) | ((events & SINK_WRITABLE) ? POLLOUT : 0);
	for (;;)
	{
		long long	left = until - now();
		int			ready;

		if (host_stopping())
			return -1;
		if (left < 0)
			left = 0;
		ready = poll(&one, 1, left > 20 ? 20 : (int) left);
		if (ready > 0)
			return ((one.revents & (POLLIN | POLLHUP | POLLERR)) ? SINK_READABLE : 0) |
				((one.revents & (POLLOUT | POLLERR)) ? SINK_WRITABLE : 0);
		if (left == 0)
			return 0;
	}
}

static void
host_log(const char *message)
{
	fprintf(stderr, "%s\n", message);
}

static const SinkHost host = {host_wait, host_stopping, host_log};

/* ---- Commands ---- */

static char *
field(char **line)
{
	char	   *value = strsep(line, "\t");

	if (value == NULL)
	{
		fprintf(stderr, "a field is missing\n");
		exit(2);
	}
	return strcmp(value, "\\N") == 0 ? NULL : strdup(value);
}

static SinkOption
name_and_value(char *text)
{
	SinkOption	option = {.name = strdup(text)};
	char	   *equals = strchr(option.name, '=');

	*equals = '\0';
	option.value = equals + 1;
	return option;
}

static void
add_message(char *line)
{
	SinkMessage *message = &messages[count];
	char	   *more;
	char	   *structured;

	memset(message, 0, sizeof(*message));
	message->position = strtoll(field(&line), NULL, 10);
	message->key = field(&line);
	message->topic = field(&line);
	message->data = field(&line);
	message->data_length = message->data != NULL ? strlen(message->data) : 0;
	message->number = message->position + 1000;
	asprintf((char **) &message->id, "message-%lld-5d5", (long long) message->number);
	asprintf((char **) &message->sequence, "%020lld", (long long) message->position);
	message->source = "urn:inventory:1:test";
	message->time = "2026-11-21T10:00:00Z";
	asprintf(&structured, "{\"specversion\":\"1.0\",\"id\":\"%s\",\"data\":%s}", message->id,
			 message->data != NULL ? message->data : "null");
	message->structured = structured;
	message->structured_length = strlen(structured);
	message->headers = headers[count];
	while ((more = strsep(&line, "\t")) != NULL)
		headers[count][message->header_count++] = name_and_value(more);
	count++;
}

static void
send_messages(void)
{
	char		error[SINK_ERROR_LENGTH] = "";
	long long	began = now();
	SinkVerdict verdict = routine->send(sink, messages, count, error);
	long long	took = now() - began;

	for (int i = 0; i < count; i++)
		printf("%lld\t%s\t%s\n", (long long) messages[i].position, verdicts[messages[i].verdict], messages[i].error);
	printf("sent\t%s\t%lld\t%s\n", verdicts[verdict], took, error);
	count = 0;
}

/* Which signals each thread but ours lets in, as /proc has it. */
static void
show_signals(void)
{
	DIR		   *threads = opendir("/proc/self/task");
	struct dirent *thread;
	char		path[300];
	char		line[256];

	printf("signals");
	while ((thread = readdir(threads)) != NULL)
	{
		FILE	   *status;
		unsigned long long blocked = 0;

		if (thread->d_name[0] == '.' || atoi(thread->d_name) == (int) syscall(SYS_gettid))
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%s/status", thread->d_name);
		status = fopen(path, "r");
		while (status != NULL && fgets(line, sizeof(line), status) != NULL)
		{
			if (strncmp(line, "SigBlk:", 7) == 0)
				blocked = strtoull(line + 7, NULL, 16);
		}
		if (status != NULL)
			fclose(status);
		printf("\t%016llx", blocked);
	}
	closedir(threads);
	printf("\n");
}

static void
open_sink(void)
{
	char		error[SINK_ERROR_LENGTH] = "";
	SinkVerdict verdict = SINK_OK;

	sink = routine->open(options, option_count, &host, &verdict, error);
	if (sink != NULL)
		verdict = SINK_OK;
	printf("open\t%s\t%s\n", verdicts[verdict], error);
}

static void
close_sink(void)
{
	long long	began = now();

	if (sink != NULL)
		routine->close(sink);
	sink = NULL;
	printf("closed\t%lld\n", now() - began);
}

static void
command(char *line)
{
	char	   *word = strsep(&line, "\t");

	if (strcmp(word, "message") == 0)
		add_message(line);
	else if (strcmp(word, "send") == 0)
		send_messages();
	else if (strcmp(word, "idle") == 0)
		printf("idle\t%s\n", routine->idle == NULL || routine->idle(sink) ? "yes" : "no");
	else if (strcmp(word, "stop") == 0)
		stop_at = line[0] == '-' ? -1 : now() + atoi(line);
	else if (strcmp(word, "signals") == 0)
		show_signals();
	else if (strcmp(word, "close") == 0)
		close_sink();
	else if (strcmp(word, "open") == 0)
		open_sink();
	else
	{
		fprintf(stderr, "unknown command \"%s\"\n", word);
		exit(2);
	}
}

int
main(int argc, char **argv)
{
	void	   *library;
	SinkRoutineFunction function;
	char	   *line = NULL;
	size_t		room = 0;
	ssize_t		length;

	setvbuf(stdout, NULL, _IOLBF, 0);
	library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
	if (library == NULL)
	{
		fprintf(stderr, "%s\n", argc > 1 ? dlerror() : "which library?");
		return 2;
	}
	function = (SinkRoutineFunction) dlsym(library, "inventory_sink_routine");
	routine = function();
	if (routine->abi != SINK_ABI)
		return 2;
	for (int i = 2; i < argc; i++)
		options[option_count++] = name_and_value(argv[i]);
	open_sink();
	while ((length = getline(&line, &room, stdin)) > 0)
	{
		if (line[length - 1] == '\n')
			line[length - 1] = '\0';
		command(line);
	}
	if (sink != NULL)
		routine->close(sink);
	return 0;
}
