/*-------------------------------------------------------------------------
 *
 * drive_http.c
 *		Drives the webhook sink without a database, with a resolver that does as
 *		it is told, by lines on the standard input, fields separated by tabs:
 *
 *			resolve NAME ADDRESS	what a name resolves to from here on; "slow":
 *									nothing, after 30 seconds
 *			open NAME=VALUE ...		prints "open VERDICT ERROR"
 *			message ID KEY TOPIC DATA [NAME=VALUE ...]
 *			stop MS					the next send is to stop after that time
 *			send					sends the messages since the last one; prints
 *									"message ID VERDICT RETRY_AFTER_MS ERROR" each,
 *									then "send VERDICT MS ERROR"
 *			idle					prints "idle 1" or "idle 0"
 *			close					prints "close MS"
 *
 * Signals come in all the time, as they do in a server process.  A thread of the
 * library's that does not have them blocked ends the program when it resolves a
 * name.
 *
 *-------------------------------------------------------------------------
 */
#include "sink.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define MAX_FIELDS 64
#define MAX_MESSAGES 1000
#define MAX_NAMES 32

static const char *const verdicts[] = {
	[SINK_NOT_SENT] = "NOT_SENT",
	[SINK_OK] = "OK",
	[SINK_RETRY_MESSAGE] = "RETRY_MESSAGE",
	[SINK_FAIL_MESSAGE] = "FAIL_MESSAGE",
	[SINK_RETRY_SINK] = "RETRY_SINK",
	[SINK_FATAL] = "FATAL",
	[SINK_DOUBT] = "DOUBT",
};

static SinkMessage messages[MAX_MESSAGES];
static int	message_count = 0;
static char *names[MAX_NAMES][2];
static int	name_count = 0;
static double stop_at = 0;
static long stop_after = -1;
static pthread_t first_thread;

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000.0 + t.tv_nsec / 1e6;
}

static void
check_thread(void)
{
	sigset_t	blocked;

	pthread_sigmask(SIG_SETMASK, NULL, &blocked);
	if (pthread_equal(pthread_self(), first_thread) ||
		(sigismember(&blocked, SIGALRM) && sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGUSR1)))
		return;
	printf("a thread has not blocked the signals\n");
	exit(2);
}

/* Stands in front of the C library's, for the libraries too. */
int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
			struct addrinfo **result)
{
	int			(*real) (const char *, const char *, const struct addrinfo *, struct addrinfo **);

	check_thread();
	*(void **) &real = dlsym(RTLD_NEXT, "getaddrinfo");
	for (int i = 0; node != NULL && i < name_count; i++)
	{
		if (strcmp(node, names[i][0]) != 0)
			continue;
		if (strcmp(names[i][1], "slow") == 0)
		{
			sleep(30);
			return EAI_AGAIN;
		}
		node = names[i][1];
	}
	return real(node, service, hints, result);
}

static void
on_signal(int number)
{
	(void) number;
}

static bool
host_stopping(void)
{
	return stop_at != 0 && now() >= stop_at;
}

static int
host_wait(int socket, int events, long timeout_ms)
{
	struct pollfd wanted = {socket, 0, 0};
	double		end = now() + timeout_ms;

	wanted.events = (short) (((events & SINK_READABLE) ? POLLIN : 0) |
							 ((events & SINK_WRITABLE) ? POLLOUT : 0));
	for (;;)
	{
		double		left = end - now();
		int			ready;

		if (host_stopping())
			return -1;
		ready = poll(&wanted, socket >= 0 ? 1 : 0, left > 50 ? 50 : left > 0 ? (int) left + 1 : 0);
		if (ready > 0)
			return ((wanted.revents & (POLLIN | POLLHUP | POLLERR)) && (events & SINK_READABLE) ? SINK_READABLE : 0) |
				((wanted.revents & (POLLOUT | POLLHUP | POLLERR)) && (events & SINK_WRITABLE) ? SINK_WRITABLE : 0);
		if (now() >= end)
			return 0;
	}
}

static void
host_log(const char *text)
{
	printf("log\t%s\n", text);
}

static const SinkHost host = {host_wait, host_stopping, host_log};

static SinkOption
read_option(char *field)
{
	SinkOption	option = {field, ""};
	char	   *equals = strchr(field, '=');

	if (equals != NULL)
	{
		*equals = '\0';
		option.value = equals + 1;
	}
	return option;
}

static void
add_message(char **fields, int count)
{
	static SinkOption headers[MAX_MESSAGES][MAX_FIELDS];
	SinkMessage *message = &messages[message_count];
	char	   *text;

	if (count < 5 || message_count == MAX_MESSAGES)
	{
		fprintf(stderr, "message ID KEY TOPIC DATA, at most %d of them\n", MAX_MESSAGES);
		exit(1);
	}
	memset(message, 0, sizeof(*message));
	message->id = strdup(fields[1]);
	message->source = "urn:inventory:1:test";
	message->key = fields[2][0] == '\0' ? NULL : strdup(fields[2]);
	message->topic = strdup(fields[3]);
	message->sku = message->key;
	message->time = "2026-11-20T12:00:00Z";
	message->number = message_count + 1;
	message->position = message_count + 1;
	message->data = strdup(fields[4]);
	message->data_length = strlen(message->data);
	message->replayed = strcmp(message->topic, "replayed") == 0;
	text = malloc(64);
	snprintf(text, 64, "%020lld", (long long) message->position);
	message->sequence = text;
	text = malloc(message->data_length + strlen(message->id) + 200);
	sprintf(text, "{\"specversion\": \"1.0\", \"id\": \"%s\", \"type\": \"%s\", \"source\": \"%s\", \"data\": %s}",
			message->id, message->topic, message->source, message->data);
	message->structured = text;
	message->structured_length = strlen(text);
	for (int i = 5; i < count; i++)
		headers[message_count][message->header_count++] = read_option(strdup(fields[i]));
	message->headers = headers[message_count];
	message_count++;
}

static void
send_messages(const SinkRoutine *routine, void *sink)
{
	char		error[SINK_ERROR_LENGTH] = "";
	double		begun = now();
	SinkVerdict verdict;

	stop_at = stop_after >= 0 ? now() + stop_after : 0;
	verdict = routine->send(sink, messages, message_count, error);
	for (int i = 0; i < message_count; i++)
		printf("message\t%s\t%s\t%d\t%s\n", messages[i].id, verdicts[messages[i].verdict],
			   messages[i].retry_after_ms, messages[i].error);
	printf("send\t%s\t%.0f\t%s\n", verdicts[verdict], now() - begun, error);
	stop_at = 0;
	stop_after = -1;
	message_count = 0;
}

static int
split(char *line, char **fields)
{
	int			count = 0;

	line[strcspn(line, "\n")] = '\0';
	while (line != NULL && count < MAX_FIELDS)
		fields[count++] = strsep(&line, "\t");
	return count;
}

static void
run(const SinkRoutine *routine)
{
	void	   *sink = NULL;
	char	   *line = NULL;
	size_t		size = 0;

	while (errno = 0, getline(&line, &size, stdin) >= 0 || errno == EINTR)
	{
		char	   *fields[MAX_FIELDS];
		int			count;

		if (errno == EINTR)
		{
			clearerr(stdin);
			continue;
		}
		count = split(line, fields);
		if (strcmp(fields[0], "resolve") == 0 && count == 3 && name_count < MAX_NAMES)
		{
			names[name_count][0] = strdup(fields[1]);
			names[name_count++][1] = strdup(fields[2]);
		}
		else if (strcmp(fields[0], "open") == 0)
		{
			SinkOption	options[MAX_FIELDS];
			char		error[SINK_ERROR_LENGTH] = "";
			SinkVerdict verdict = SINK_OK;

			for (int i = 1; i < count; i++)
				options[i - 1] = read_option(fields[i]);
			sink = routine->open(options, count - 1, &host, &verdict, error);
			printf("open\t%s\t%s\n", sink != NULL ? "OK" : verdicts[verdict], error);
		}
		else if (strcmp(fields[0], "message") == 0)
			add_message(fields, count);
		else if (strcmp(fields[0], "stop") == 0 && count == 2)
			stop_after = atol(fields[1]);
		else if (strcmp(fields[0], "send") == 0 && sink != NULL)
			send_messages(routine, sink);
		else if (strcmp(fields[0], "idle") == 0 && sink != NULL)
			printf("idle\t%d\n", routine->idle == NULL || routine->idle(sink));
		else if (strcmp(fields[0], "close") == 0 && sink != NULL)
		{
			double		begun = now();

			routine->close(sink);
			sink = NULL;
			printf("close\t%.0f\n", now() - begun);
		}
		else
		{
			fprintf(stderr, "cannot do: %s\n", fields[0]);
			exit(1);
		}
		fflush(stdout);
	}
}

int
main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	struct itimerval often = {{0, 20000}, {0, 20000}};
	void	   *library;
	SinkRoutineFunction routine = NULL;

	if (argc != 2)
	{
		fprintf(stderr, "usage: drive LIBRARY\n");
		return 1;
	}
	library = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL);
	if (library != NULL)
		*(void **) &routine = dlsym(library, "inventory_sink_routine");
	if (routine == NULL || routine()->abi != SINK_ABI)
	{
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	first_thread = pthread_self();
	signal(SIGPIPE, SIG_IGN);
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	run(routine());
	return 0;
}
