// SPDX-License-Identifier: GPL-2.0-only
/*
 * SOCK_DESTROY (ss -K) of a listening socket that has local listeners. The kernel looks the
 * socket up by its address, and on a CPU with a local listener finds that. Runs in the
 * guest, as root. Usage: test_abort [TEST]
 */
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>

#include "worker.h"

struct question {
	struct nlmsghdr head;
	struct inet_diag_req_v2 request;
};

struct answer {
	struct nlmsghdr head;
	union {
		struct nlmsgerr error;
		struct inet_diag_msg socket;
	};
	char room[512];
};

/* Sends a message of @type about the socket at @a, and returns the length of the answer. */
static int ask(int type, const union address *a, uint64_t cookie, struct answer *answer)
{
	struct question message = {
		.head = {
			.nlmsg_len = sizeof(message), .nlmsg_type = type,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK,
		},
		.request = {
			.sdiag_family = a->sa.sa_family, .sdiag_protocol = IPPROTO_TCP,
			.idiag_states = ~0U, .id.idiag_sport = a->in.sin_port,
			.id.idiag_cookie = { cookie, cookie >> 32 },
		},
	};
	int netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG), len;

	if (a->sa.sa_family == AF_INET)
		memcpy(message.request.id.idiag_src, &a->in.sin_addr, 4);
	else
		memcpy(message.request.id.idiag_src, &a->in6.sin6_addr, 16);
	assert_ok(netlink);
	assert_int_equal(send(netlink, &message, sizeof(message), 0), sizeof(message));
	len = recv(netlink, answer, sizeof(*answer), 0);
	close(netlink);
	return len;
}

/* Returns the kernel's answer, 0 or -errno. */
static int destroy(const union address *a, uint64_t cookie)
{
	struct answer answer;

	assert_true(ask(SOCK_DESTROY, a, cookie, &answer) >=
		    (int)offsetof(struct nlmsgerr, msg) + NLMSG_HDRLEN);
	assert_int_equal(answer.head.nlmsg_type, NLMSG_ERROR);
	return answer.error.error;
}

static uint64_t cookie_of(int fd)
{
	socklen_t len = sizeof(uint64_t);
	uint64_t cookie;

	assert_ok(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len));
	return cookie;
}

static bool ended(int fd)
{
	return accept(fd, NULL, NULL) == -1 && errno == EINVAL;
}

static int refused(const union address *a)
{
	int fd = socket(a->sa.sa_family, SOCK_STREAM, 0), error;

	assert_ok(fd);
	assert_int_equal(connect(fd, &a->sa, address_len(a)), -1);
	error = errno;
	close(fd);
	return error;
}

/*
 * The listening socket @fd ends, whichever socket the kernel finds, and whether the port is
 * the program's choice or the kernel's. A connection that waits is reset.
 */
static void aborted(int family, bool spawned, bool named, bool chosen)
{
	union address a;
	int fd = bound_socket(family, &a), queued;

	if (chosen) {
		close(fd);
		fd = socket(family, SOCK_STREAM, 0);
		assert_ok(bind(fd, &a.sa, address_len(&a)));
	}
	assert_ok(listen(fd, 16));
	set_nonblock(fd);
	pin(1);
	if (spawned)
		assert_ok(spawn(fd, 1));
	queued = connect_on(1, &a);
	assert_int_equal(destroy(&a, named ? cookie_of(fd) : ~0ULL), 0);
	await(ended(fd));
	assert_int_equal(refused(&a), ECONNREFUSED);
	assert_int_equal(greeting(queued), 0);
	close(queued);
	close(fd);
	/*
	 * The port becomes free, after the work item that ends the listener, and the next
	 * listener is not affected.
	 */
	fd = socket(family, SOCK_STREAM, 0);
	await(!bind(fd, &a.sa, address_len(&a)));
	assert_ok(listen(fd, 16));
	if (spawned)
		assert_ok(spawn(fd, 1));
	queued = connect_on(1, &a);
	accept_and_greet(fd, 'n');
	assert_int_equal(greeting(queued), 'n');
	close(queued);
	close(fd);
	unpin();
}

static void all_ways(int family)
{
	int way;

	for (way = 0; way < 8; way++)
		aborted(family, way & 4, way & 2, way & 1);
}

static void abort_ipv4(void **state)
{
	(void)state;
	all_ways(AF_INET);
}

static void abort_ipv6(void **state)
{
	(void)state;
	all_ways(AF_INET6);
}

/* Several workers, and connections that are open; each CPU has another local listener. */
static void abort_of_workers(void **state)
{
	int fd, clients[4], conns[4], i;
	pid_t workers[4];
	union address a;
	char byte;

	(void)state;
	fd = listener(AF_INET, &a);
	for (i = 0; i < 4; i++)
		workers[i] = worker(fd, i, 'a' + i, true);
	for (i = 0; i < 4; i++) {
		clients[i] = connect_on(i, &a);
		conns[i] = accept(fd, NULL, NULL);
		assert_ok(conns[i]);
	}
	set_nonblock(fd);
	pin(2);
	assert_int_equal(destroy(&a, cookie_of(fd)), 0);
	unpin();
	await(ended(fd));
	for (i = 0; i < 4; i++) {
		assert_int_equal(write(clients[i], "x", 1), 1);
		assert_int_equal(read(conns[i], &byte, 1), 1);
		close(clients[i]);
		close(conns[i]);
		kill_worker(workers[i]);
	}
	close(fd);
}

/* A program that asks for the port finds the socket of the process, on each CPU. */
static void found_by_address(void **state)
{
	struct answer answer;
	union address a;
	struct stat st;
	int fd, cpu;

	(void)state;
	assert_ok(seteuid(1000));
	fd = listener(AF_INET, &a);
	assert_ok(seteuid(0));
	assert_ok(fstat(fd, &st));
	assert_ok(spawn(fd, 1));
	for (cpu = 0; cpu < 2; cpu++) {
		pin(cpu);
		assert_true(ask(SOCK_DIAG_BY_FAMILY, &a, ~0ULL, &answer) >=
			    (int)NLMSG_LENGTH(sizeof(answer.socket)));
		assert_int_equal(answer.head.nlmsg_type, SOCK_DIAG_BY_FAMILY);
		assert_int_equal(answer.socket.idiag_inode, st.st_ino);
		assert_int_equal(answer.socket.idiag_uid, 1000);
		assert_int_equal(answer.socket.id.idiag_cookie[0], (uint32_t)cookie_of(fd));
		assert_int_equal(answer.socket.id.idiag_cookie[1], cookie_of(fd) >> 32);
	}
	close(fd);
	unpin();
}

/*
 * The kernel reports the end of each socket with its cookie (ss -E), and tells BPF programs
 * of it. The listening socket, its local listener and the guard end, each under a cookie of
 * its own.
 */
static void ends_once(void **state)
{
	struct sockaddr_nl ends = {
		.nl_family = AF_NETLINK, .nl_groups = 1 << (SKNLGRP_INET_TCP_DESTROY - 1),
	};
	int netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG), sockets = 0, same = 0, fd;
	union address a = { .in.sin_family = AF_INET };
	struct answer event;
	uint64_t cookie;

	(void)state;
	assert_ok(netlink);
	assert_ok(bind(netlink, (struct sockaddr *)&ends, sizeof(ends)));
	fd = socket(AF_INET, SOCK_STREAM, 0);
	/* No other socket has this address. */
	inet_pton(AF_INET, "127.8.7.6", &a.in.sin_addr);
	assert_ok(bind(fd, &a.sa, address_len(&a)));
	assert_ok(listen(fd, 16));
	assert_ok(spawn(fd, 1));
	cookie = cookie_of(fd);
	close(fd);
	while (sockets < 3) {
		assert_int_equal(readable(netlink, 30000), 1);
		assert_true(recv(netlink, &event, sizeof(event), 0) >=
			    (int)NLMSG_LENGTH(sizeof(event.socket)));
		if (event.socket.id.idiag_src[0] != a.in.sin_addr.s_addr)
			continue;
		sockets++;
		same += event.socket.id.idiag_cookie[0] == (uint32_t)cookie &&
			event.socket.id.idiag_cookie[1] == cookie >> 32;
	}
	assert_int_equal(same, 1);
	close(netlink);
	unpin();
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(abort_ipv4),
		T(abort_ipv6),
		T(abort_of_workers),
		T(found_by_address),
		T(ends_once),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
