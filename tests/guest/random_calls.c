// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes calls at random and prints what each of them did, so that two runs of the same
 * seed can be compared: plain, and with libfsocket.so preloaded.
 *
 *	./random_calls SEED [STEPS]
 *
 * It prints what the kernel promises: results, errnos, and the events of a wait in the
 * order of their data. Both ends of each connection belong to this program, and it
 * waits until sent data has arrived before it goes on, so that nothing depends on time.
 * It also prints numbers of descriptors, since a program may count on them.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST 24
#define EVENTS 64

/*
 * The descriptors that the program believes to be open: a number stays here after a
 * close that it has not seen.
 */
static int fds[MOST];
static int count;
static struct sockaddr_in address;
static uint64_t random_state;
static bool in_thread, in_child;
static sigjmp_buf away;

static unsigned int dice(unsigned int sides)
{
	random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (random_state >> 33) % sides;
}

static void say(const char *what, long a, long b, long ret)
{
	printf("%s(%ld, %ld) = %ld%s%s\n", what, a, b, ret, ret < 0 ? " " : "",
	       ret < 0 ? strerrorname_np(errno) : "");
}

static int any(void)
{
	return count && dice(12) ? fds[dice(count)] : (int)dice(40) - 1;
}

static void keep(int fd)
{
	if (fd >= 0 && count < MOST)
		fds[count++] = fd;
	else if (fd >= 0)
		close(fd);
}

static void do_socket(void)
{
	int fd = socket(dice(8) ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	say("socket", 0, 0, fd);
	keep(fd);
}

static void do_listen(void)
{
	struct sockaddr_in any_port = { .sin_family = AF_INET };
	socklen_t len = sizeof(address);
	int fd = any(), ret;

	/*
	 * A child makes no listener: the parent would not know of it, and then the library
	 * cannot tell which process has set SO_REUSEPORT, a limit that libfsocket(7) names.
	 */
	if (in_child)
		return;
	any_port.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (dice(2))
		say("bind", fd, 0, bind(fd, (struct sockaddr *)&any_port, sizeof(any_port)));
	ret = listen(fd, 16);
	say("listen", fd, 16, ret);
	if (!ret && getsockname(fd, (struct sockaddr *)&address, &len))
		address.sin_port = 0;
}

/* Connects in blocking mode only if that cannot block for long. */
static void do_connect(void)
{
	int fd = any(), ret = -1, flags = fcntl(fd, F_GETFL);
	struct pollfd p = { .fd = fd, .events = POLLOUT };

	if (flags < 0 || !address.sin_port)
		return;
	ret = connect(fd, (struct sockaddr *)&address, sizeof(address));
	say("connect", fd, 0, ret);
	if (ret < 0 && errno == EINPROGRESS)
		syscall(SYS_poll, &p, 1, 1000);
}

static void do_accept(void)
{
	int fd = any(), conn, flags = fcntl(fd, F_GETFL);

	if (flags < 0 || !(flags & O_NONBLOCK))
		return;
	conn = dice(2) ? accept(fd, NULL, NULL) : accept4(fd, NULL, NULL, SOCK_NONBLOCK);
	say("accept", fd, 0, conn);
	if (conn >= 0)
		fcntl(conn, F_SETFL, fcntl(conn, F_GETFL) | O_NONBLOCK);
	keep(conn);
}

static void do_close(void)
{
	int fd = any(), how = dice(8), ret;

	if (fd < 3)
		return;
	if (!how)
		ret = syscall(SYS_close, fd);
	else if (how == 1)
		ret = close_range(fd, fd, 0);
	else
		ret = close(fd);
	say("close", fd, how, ret);
	for (int i = 0; i < count && dice(8); i++)
		if (fds[i] == fd)
			fds[i--] = fds[--count];
}

static void do_dup(void)
{
	int fd = any(), to = any(), ret;

	if (dice(2)) {
		ret = dup(fd);
		say("dup", fd, 0, ret);
		keep(ret);
	} else if (to > 2) {
		ret = dup2(fd, to);
		say("dup2", fd, to, ret);
	}
}

static void do_epoll(void)
{
	int fd = epoll_create1(0);

	say("epoll_create1", 0, 0, fd);
	keep(fd);
}

static void do_ctl(void)
{
	static const uint32_t masks[] = { EPOLLIN, EPOLLIN, EPOLLIN | EPOLLOUT, 0,
					  EPOLLIN | EPOLLRDHUP, EPOLLIN | EPOLLONESHOT };
	struct epoll_event event = { .events = masks[dice(6)] };
	int epoll = any(), fd = any(), op = 1 + dice(3);

	event.data.u64 = fd + 1000 * dice(2);
	say("epoll_ctl", epoll * 1000L + fd, op, epoll_ctl(epoll, op, fd, dice(40) ? &event : NULL));
}

static int by_data(const void *a, const void *b)
{
	const struct epoll_event *one = a, *two = b;

	return (one->data.u64 > two->data.u64) - (one->data.u64 < two->data.u64);
}

static void do_wait(void)
{
	struct epoll_event events[EVENTS];
	int epoll = any(), ret;

	/* Sent data arrives at once on loopback; a stolen connection arrives a bit later. */
	usleep(1000);
	ret = epoll_wait(epoll, events, EVENTS, 0);
	if (!ret)
		ret = epoll_wait(epoll, events, EVENTS, 15);
	say("epoll_wait", epoll, 0, ret);
	if (ret <= 0)
		return;
	qsort(events, ret, sizeof(events[0]), by_data);
	for (int i = 0; i < ret; i++)
		printf("  %#x of %llu\n", events[i].events, (unsigned long long)events[i].data.u64);
}

static void do_talk(void)
{
	int fd = any();
	char byte = 'x';

	if (dice(2))
		say("send", fd, 0, send(fd, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT));
	else
		say("recv", fd, 0, recv(fd, &byte, 1, MSG_DONTWAIT));
}

static void do_option(void)
{
	int fd = any(), value = dice(2);
	socklen_t len = sizeof(value);

	if (!dice(4))
		say("setsockopt", fd, value,
		    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &value, sizeof(value)));
	value = -1;
	say("getsockopt", fd, 0, getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &value, &len));
	printf("  %d\n", value);
}

static void steps(int left);

/* A child goes on for a while; a child of vfork() does what programs do before exec. */
static void do_fork(void)
{
	int status = 0, what = in_thread ? 0 : dice(3);
	pid_t pid;

	fflush(stdout);
	if (what == 1) {
		pid = vfork();
		if (!pid) {
			close_range(3, ~0U, 0);
			_exit(7);
		}
	} else {
		pid = fork();
		if (!pid) {
			in_child = true;
			steps(5);
			fflush(stdout);
			_exit(7);
		}
	}
	waitpid(pid, &status, 0);
	say("fork", what, 0, status);
}

static void *thread_main(void *arg)
{
	in_thread = true;
	steps(5);
	return arg;
}

static void do_thread(void)
{
	pthread_t thread;

	if (in_thread)
		return;
	say("thread", 0, 0, pthread_create(&thread, NULL, thread_main, NULL) ||
	    pthread_join(thread, NULL));
	in_thread = false;
}

static void on_signal(int signal)
{
	if (signal == SIGUSR1)
		steps(2);
	else
		siglongjmp(away, 1);
}

static void do_signal(void)
{
	if (in_thread || dice(3))
		return;
	if (!sigsetjmp(away, 1))
		raise(dice(2) ? SIGUSR1 : SIGUSR2);
	say("signal", 0, 0, 0);
}

static void do_limit(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = dice(3) ? 1024 : dice(4);
	if (!dice(10))
		say("setrlimit", limit.rlim_cur, 0, setrlimit(RLIMIT_NOFILE, &limit));
}

static void steps(int left)
{
	static void (*const calls[])(void) = {
		do_socket, do_socket, do_listen, do_connect, do_connect, do_accept, do_accept,
		do_close, do_close, do_dup, do_epoll, do_ctl, do_ctl, do_ctl, do_ctl, do_ctl,
		do_wait, do_wait, do_talk, do_talk, do_option, do_fork, do_thread, do_signal,
		do_limit,
	};
	static int depth;

	if (++depth < 4)
		while (left-- > 0)
			calls[dice(sizeof(calls) / sizeof(calls[0]))]();
	depth--;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };

	random_state = argc > 1 ? strtoull(argv[1], NULL, 10) * 2654435761ULL : 1;
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	alarm(60);
	/* Start with a listener and an instance, so that most calls have something to act on. */
	do_socket();
	do_listen();
	do_epoll();
	steps(argc > 2 ? atoi(argv[2]) : 120);
	return 0;
}
