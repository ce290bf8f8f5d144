// SPDX-License-Identifier: GPL-2.0-only
/*
 * A server like those written for the original Fastsocket: its ioctl numbers and
 * structure, copied from what it published, and its order of calls. The parent calls
 * SOCKET, LISTEN and SPAWN_LISTEN(-1), and forks; each child calls SPAWN_ALL_LISTEN,
 * pins itself, and then ACCEPTs and CLOSEs. On SIGTERM each child prints the number of
 * connections that it served. Usage: old_server PORT WORKERS
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

typedef unsigned int u32;

struct fsocket_ioctl_arg {
	u32 fd;
	u32 backlog;
	union ops_arg {
		struct socket_accept_op_t {
			void *sockaddr;
			int *sockaddr_len;
			int flags;
		} accept_op;
		struct spawn_op_t {
			int cpu;
		} spawn_op;
		struct io_op_t {
			char *buf;
			u32 buf_len;
		} io_op;
		struct socket_op_t {
			u32 family;
			u32 type;
			u32 protocol;
		} socket_op;
		struct shutdown_op_t {
			int how;
		} shutdown_op;
		struct epoll_op_t {
			u32 epoll_fd;
			u32 size;
			u32 ep_ctl_cmd;
			u32 time_out;
			struct epoll_event *ev;
		} epoll_op;
	} op;
};

#define FSOCKET_IOC_SOCKET		_IO(0xf5, 0x01)
#define FSOCKET_IOC_LISTEN		_IO(0xf5, 0x02)
#define FSOCKET_IOC_ACCEPT		_IO(0xf5, 0x03)
#define FSOCKET_IOC_CLOSE		_IO(0xf5, 0x04)
#define FSOCKET_IOC_SPAWN_LISTEN	_IO(0xf5, 0x06)
#define FSOCKET_IOC_SPAWN_ALL_LISTEN	_IO(0xf5, 0x08)

static int channel;
static volatile sig_atomic_t stopped;

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

static void need(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

static int fsocket(unsigned long call, struct fsocket_ioctl_arg *arg)
{
	return ioctl(channel, call, arg);
}

/* ab leaves connections at its end on which it never sends: none of them may block. */
static void serve(int conn, unsigned long *served)
{
	static const char reply[] = "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold";
	struct fsocket_ioctl_arg arg = { .fd = conn };
	char request[4096];

	if (read(conn, request, sizeof(request)) > 0) {
		need(write(conn, reply, sizeof(reply) - 1) == sizeof(reply) - 1, "write");
		++*served;
	}
	need(!fsocket(FSOCKET_IOC_CLOSE, &arg), "CLOSE");
}

static void watch(int ep, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.fd = fd };

	need(!epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev), "epoll_ctl");
}

static void accept_all(int ep, int listener)
{
	struct fsocket_ioctl_arg arg;
	struct sockaddr_in peer;
	int conn, len;

	for (;;) {
		memset(&arg, 0, sizeof(arg));
		len = sizeof(peer);
		arg.fd = listener;
		arg.op.accept_op.sockaddr = &peer;
		arg.op.accept_op.sockaddr_len = &len;
		conn = fsocket(FSOCKET_IOC_ACCEPT, &arg);
		if (conn < 0)
			break;
		need(len == sizeof(peer) && peer.sin_family == AF_INET, "peer");
		watch(ep, conn);
	}
	need(errno == EAGAIN, "ACCEPT");
}

static void child(int listener, int number)
{
	struct fsocket_ioctl_arg arg = { .fd = listener };
	struct epoll_event events[64];
	unsigned long served = 0;
	int ep, n, i;
	cpu_set_t set;

	need(!fsocket(FSOCKET_IOC_SPAWN_ALL_LISTEN, &arg), "SPAWN_ALL_LISTEN");
	CPU_ZERO(&set);
	CPU_SET(number, &set);
	need(!sched_setaffinity(0, sizeof(set), &set), "sched_setaffinity");
	ep = epoll_create(1);
	watch(ep, listener);
	while (!stopped) {
		n = epoll_wait(ep, events, 64, 100);
		for (i = 0; i < n; i++) {
			if (events[i].data.fd == listener)
				accept_all(ep, listener);
			else
				serve(events[i].data.fd, &served);
		}
	}
	printf("%d served %lu\n", number, served);
	exit(0);
}

int main(int argc, char **argv)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	struct fsocket_ioctl_arg arg = { 0 };
	int listener, workers, i, status, failed = 0, one = 1;
	struct sigaction action = { .sa_handler = stop };

	if (argc != 3)
		return 2;
	workers = atoi(argv[2]);
	addr.sin_port = htons(atoi(argv[1]));
	sigaction(SIGTERM, &action, NULL);
	channel = open("/dev/fastsocket", O_RDONLY);
	need(channel >= 0, "/dev/fastsocket");

	arg.op.socket_op.family = AF_INET;
	arg.op.socket_op.type = SOCK_STREAM;
	listener = fsocket(FSOCKET_IOC_SOCKET, &arg);
	need(listener >= 0, "SOCKET");
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	need(!bind(listener, (struct sockaddr *)&addr, sizeof(addr)), "bind");
	need(!fcntl(listener, F_SETFL, O_NONBLOCK), "fcntl");
	memset(&arg, 0, sizeof(arg));
	arg.fd = listener;
	arg.backlog = 4096;
	need(!fsocket(FSOCKET_IOC_LISTEN, &arg), "LISTEN");
	arg.op.spawn_op.cpu = -1;
	need(!fsocket(FSOCKET_IOC_SPAWN_LISTEN, &arg), "SPAWN_LISTEN");

	for (i = 0; i < workers; i++) {
		pid_t pid = fork();

		need(pid >= 0, "fork");
		if (!pid)
			child(listener, i);
	}
	for (i = 0; i < workers;) {
		if (wait(&status) < 0) {
			if (errno == EINTR)
				kill(0, SIGTERM);
			continue;
		}
		failed |= status;
		i++;
	}
	return failed ? 1 : 0;
}
