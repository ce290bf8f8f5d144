// SPDX-License-Identifier: GPL-2.0-only
/*
 * Connects to a server from every core at once, and prints the results as JSON.
 *
 *	ask CONNECTIONS REQUEST ANSWER PORT...
 *
 * Each core has one connection after the other, to the ports in turn: it sends the
 * request and reads until the answer has come; both are hexadecimal. With 0 connections
 * it goes on until its standard input ends. A server that does not answer within 20 s
 * has failed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* After this many failures on one core, that core asks no more. */
#define HOPELESS	10
#define LIMIT		20
#define MAX_PORTS	8
#define CLOSED_EARLY	0	/* as the place in errors[]; the others are of errno */

struct text {
	char bytes[2048];
	size_t length;
};

/* The memory that the processes share. */
struct result {
	long connections;
	long errors[200];
};

static struct text request, answer;
static int ports[MAX_PORTS], port_count;

static void parse_hex(const char *hex, struct text *text)
{
	for (; hex[0] && hex[1] && text->length < sizeof(text->bytes); hex += 2) {
		unsigned int byte;

		if (sscanf(hex, "%2x", &byte) != 1)
			break;
		text->bytes[text->length++] = byte;
	}
	if (*hex) {
		fprintf(stderr, "ask: %s: not hexadecimal, or too long\n", hex);
		exit(2);
	}
}

/* Returns whether the answer came; else sets errno, to CLOSED_EARLY if the server ended it. */
static bool converse(int fd)
{
	char got[16384];
	size_t length = 0;
	ssize_t more;

	if (send(fd, request.bytes, request.length, MSG_NOSIGNAL) < 0)
		return false;
	while (!memmem(got, length, answer.bytes, answer.length)) {
		more = length < sizeof(got) ? recv(fd, got + length, sizeof(got) - length, 0) : 0;
		if (!more)
			errno = CLOSED_EARLY;
		if (more <= 0)
			return false;
		length += more;
	}
	return true;
}

static bool ask(int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct timeval limit = { .tv_sec = LIMIT };
	int fd = socket(AF_INET, SOCK_STREAM, 0), error;
	bool good;

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	good = !connect(fd, (struct sockaddr *)&to, sizeof(to)) && converse(fd);
	error = errno;
	close(fd);
	errno = error;
	return good;
}

static bool input_ended(void)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };

	return poll(&input, 1, 0) > 0;
}

/* With -1 connections it goes on until the input ends. */
static void client(int cpu, long connections, struct result *result)
{
	cpu_set_t one;
	int failed = 0;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		abort();
	for (long i = 0; connections < 0 ? !input_ended() : i < connections; i++) {
		bool good = ask(ports[(i + cpu) % port_count]);

		__atomic_add_fetch(&result->connections, 1, __ATOMIC_RELAXED);
		if (good)
			continue;
		__atomic_add_fetch(&result->errors[errno], 1, __ATOMIC_RELAXED);
		if (++failed == HOPELESS)
			break;
	}
	_exit(0);
}

static void print(const struct result *result)
{
	const char *comma = "";
	long failed = 0;

	printf("{\"connections\": %ld, \"errors\": {", result->connections);
	for (int i = 0; i < 200; i++) {
		if (!result->errors[i])
			continue;
		printf("%s\"%s\": %ld", comma, i == CLOSED_EARLY ? "closed early" :
		       strerrorname_np(i), result->errors[i]);
		failed += result->errors[i];
		comma = ", ";
	}
	printf("}, \"failed\": %ld}\n", failed);
}

int main(int argc, char **argv)
{
	struct result *result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	long connections;
	cpu_set_t cpus;
	int left;

	if (argc < 5 || argc > 4 + MAX_PORTS || result == MAP_FAILED) {
		fprintf(stderr, "usage: ask CONNECTIONS REQUEST ANSWER PORT...\n");
		return 2;
	}
	connections = atol(argv[1]) ?: -1;
	parse_hex(argv[2], &request);
	parse_hex(argv[3], &answer);
	while (argv[4 + port_count]) {
		ports[port_count] = atoi(argv[4 + port_count]);
		port_count++;
	}
	sched_getaffinity(0, sizeof(cpus), &cpus);
	left = CPU_COUNT(&cpus);
	for (int cpu = 0; left; cpu++) {
		long share = connections < 0 ? -1 : (connections + left - 1) / left;

		if (!CPU_ISSET(cpu, &cpus))
			continue;
		if (!fork())
			client(cpu, share, result);
		if (connections > 0)
			connections -= share;
		left--;
	}
	while (wait(NULL) > 0)
		;
	print(result);
	return 0;
}
