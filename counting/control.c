// SPDX-License-Identifier: GPL-2.0-only
#include "control.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int listener;
static control_answer_t answer_to;

/* Reads a line, without its end; returns false if there is none. */
static bool read_line(int fd, char *line, size_t size)
{
	size_t length = 0;
	char c;

	while (length + 1 < size && read(fd, &c, 1) == 1) {
		if (c == '\n') {
			line[length] = 0;
			return true;
		}
		line[length++] = c;
	}
	return false;
}

static void *serve(void *unused)
{
	char line[4200], answer[4500];

	(void)unused;
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			continue;
		if (read_line(fd, line, sizeof(line))) {
			answer_to(line, answer, sizeof(answer) - 1);
			strcat(answer, "\n");
			send(fd, answer, strlen(answer), MSG_NOSIGNAL);
		}
		close(fd);
	}
	return NULL;
}

bool control_start(const char *path, control_answer_t answer)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	sigset_t all, before;
	pthread_t thread;

	answer_to = answer;
	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return false;
	}
	strcpy(address.sun_path, path);
	unlink(path);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) ||
	    listen(listener, 5))
		return false;
	/* QEMU's own threads handle QEMU's signals. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	errno = pthread_create(&thread, NULL, serve, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return !errno;
}
