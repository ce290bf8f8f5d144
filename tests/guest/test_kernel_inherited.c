// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: what the members of a group have from their listener, so that a
 * connection is the same whether it has come to the listener or to a member.
 *	[LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel] ./test_kernel_inherited [NAME]
 */
#include "kernel_workers.h"

#include <stdatomic.h>

/* The longest is a key. */
#define MAX_VALUE 64

struct option {
	int level, name;
	socklen_t size;
	unsigned char value[MAX_VALUE];
	bool set;
};

#define OPTIONS 5

static void add_option(struct option *o, int level, int name, const void *value, socklen_t size)
{
	*o = (struct option){ .level = level, .name = name, .size = size };
	memcpy(o->value, value, size);
}

/* An option that this kernel does not have, or that this user may not set, is left out. */
static void set_option(struct option *o)
{
	o->set = !setsockopt(fd, o->level, o->name, o->value, o->size);
	if (!o->set)
		assert_true(errno == ENOPROTOOPT || errno == EPERM);
}

static void set_inherited(int family, struct option all[OPTIONS])
{
	const int tos = 0x10, priority = 3, time[2] = { CLOCK_MONOTONIC };
	const int interface = htonl(if_nametoindex("lo"));

	memset(all, 0, OPTIONS * sizeof(*all));
	/* This changes the priority, which the program sets afterwards. */
	assert_ok(setsockopt(fd, IPPROTO_IP, IP_TOS, &tos, sizeof(tos)));
	add_option(&all[0], SOL_SOCKET, SO_PRIORITY, &priority, sizeof(priority));
	add_option(&all[1], SOL_SOCKET, 61 /* SO_TXTIME */, time, sizeof(time));
	add_option(&all[2], IPPROTO_IP, 50 /* IP_UNICAST_IF */, &interface, sizeof(interface));
	add_option(&all[3], IPPROTO_TCP, 33 /* TCP_FASTOPEN_KEY */, "0123456789abcdef", 16);
	if (family == AF_INET6)
		add_option(&all[4], IPPROTO_IPV6, 76 /* IPV6_UNICAST_IF */, &interface,
			   sizeof(interface));
	for (int i = 0; i < (family == AF_INET6 ? 5 : 4); i++)
		set_option(&all[i]);
}

static void bind_anew(int family)
{
	close(fd);
	fd = bound_socket(family, &a);
	set_nonblock(fd);
}

static void assert_same(int socket, const struct option *o)
{
	unsigned char wanted[MAX_VALUE] = { 0 }, is[MAX_VALUE] = { 0 };
	int len = option_inline(fd, o->level, o->name, wanted, sizeof(wanted));

	assert_true(len > 0);
	assert_int_equal(option_inline(socket, o->level, o->name, is, sizeof(is)), len);
	assert_memory_equal(is, wanted, len);
}

/* Compares all sockets at the listener's port, also hidden ones, and returns their number. */
static int compare_sockets(const struct option *all, int count)
{
	int sockets = 0;

	for (int number = 3; number < 4096; number++) {
		union address here;
		socklen_t len = sizeof(here);

		memset(&here, 0, sizeof(here));
		if (call_inline(SYS_getsockname, number, (long)&here, (long)&len, 0, 0) ||
		    here.sa.sa_family != a.sa.sa_family || here.in.sin_port != a.in.sin_port)
			continue;
		sockets++;
		for (int i = 0; i < count; i++)
			if (all[i].set)
				assert_same(number, &all[i]);
	}
	return sockets;
}

static void sockets_have_the_options(int family)
{
	struct option all[OPTIONS];
	int sockets;

	bind_anew(family);
	set_inherited(family, all);
	assert_ok(listen(fd, 64));
	sockets = compare_sockets(all, OPTIONS);
	assert_true(sockets > (grouped() ? 1 : 0));
}

static void test_sockets_have_the_options(void **state)
{
	(void)state;
	sockets_have_the_options(AF_INET);
}

static void test_ipv6_sockets_have_the_options(void **state)
{
	(void)state;
	sockets_have_the_options(AF_INET6);
}

/* Nothing can be copied to a member here, so there must be none; and no program may demand one. */
static void listen_with(struct option *o)
{
	set_option(o);
	unsetenv("FSOCKET_REQUIRED");
	assert_ok(listen(fd, 64));
	compare_sockets(o, 1);
}

static void test_locked_filter(void **state)
{
	const int on = 1;
	struct option lock;

	(void)state;
	bind_anew(AF_INET);
	add_option(&lock, SOL_SOCKET, SO_LOCK_FILTER, &on, sizeof(on));
	listen_with(&lock);
}

static void test_ipv6_headers(void **state)
{
	/* Options of no kind, 8 bytes. */
	static const unsigned char padding[8] = { 0, 0, 1, 4 };
	static const int names[] = { IPV6_HOPOPTS, IPV6_DSTOPTS };
	struct option header;

	(void)state;
	for (int i = 0; i < 2; i++) {
		bind_anew(AF_INET6);
		add_option(&header, IPPROTO_IPV6, names[i], padding, sizeof(padding));
		listen_with(&header);
	}
}

/* Accepts the next connection of which this process is told; the other worker takes others. */
static int accept_next(int epoll)
{
	struct epoll_event event;
	int conn = -1;

	for (int i = 0; i < 4000 && conn < 0; i++) {
		int client = connect_on(i % 2, &a);

		if (epoll_wait(epoll, &event, 1, 1) == 1)
			conn = accept(fd, NULL, NULL);
		close(client);
	}
	assert_ok(conn);
	return conn;
}

/*
 * What a connection has that has come to the listener, those have that come to members. The kernel
 * says which of the options that is.
 */
static void connections_have_the_options(int family)
{
	unsigned char wanted[OPTIONS][MAX_VALUE] = { 0 }, is[MAX_VALUE];
	int epoll, conn, len[OPTIONS], found = 0;
	struct option all[OPTIONS];

	bind_anew(family);
	set_inherited(family, all);
	assert_ok(listen(fd, 64));
	epoll = watch_listener();
	conn = accept_next(epoll);
	for (int i = 0; i < OPTIONS; i++)
		len[i] = option_inline(conn, all[i].level, all[i].name, wanted[i], MAX_VALUE);
	close(conn);
	start_worker(1, accept_by_name);
	for (int round = 0; round < 4000 && found < 10; round++) {
		conn = accept_next(epoll);
		for (int i = 0; i < OPTIONS; i++) {
			memset(is, 0, sizeof(is));
			assert_int_equal(option_inline(conn, all[i].level, all[i].name, is,
						       MAX_VALUE), len[i]);
			assert_memory_equal(is, wanted[i], MAX_VALUE);
		}
		close(conn);
		found += pinned_cpu() >= 0 || !grouped();
	}
	assert_int_equal(found, 10);
	close(epoll);
}

static void test_connections_have_the_options(void **state)
{
	(void)state;
	connections_have_the_options(AF_INET);
}

static void test_ipv6_connections_have_the_options(void **state)
{
	(void)state;
	connections_have_the_options(AF_INET6);
}

/* A worker that has registered the listener as some do, and reports all other events. */
static void start_worker_for_normal_data(int i, atomic_uint *others)
{
	struct epoll_event event;
	int epoll = epoll_create1(0);

	if (!is_worker(i)) {
		close(epoll);
		return;
	}
	watch_for(epoll, fd, EPOLLIN | EPOLLRDNORM);
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) != 1)
			continue;
		if (event.events != (EPOLLIN | EPOLLRDNORM))
			atomic_store(others, event.events);
		greet_all('0' + i, accept_by_name);
	}
}

/* Also for the connections of a worker that is stopped, which the other one takes. */
static void test_events_of_normal_data(void **state)
{
	atomic_uint *others = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
				   -1, 0);

	(void)state;
	assert_ptr_not_equal(others, MAP_FAILED);
	for (int i = 0; i < 2; i++)
		start_worker_for_normal_data(i, others);
	if (grouped()) {
		await_workers(0, 1);
		await_local(0, 1);
	}
	pause_worker(1);
	for (int i = 0; i < 8; i++)
		assert_int_equal(ask(i % 2), '0');
	assert_int_equal(atomic_load(others), 0);
	munmap(others, 4096);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_sockets_have_the_options),
		T(test_ipv6_sockets_have_the_options),
		T(test_locked_filter),
		T(test_ipv6_headers),
		T(test_connections_have_the_options),
		T(test_ipv6_connections_have_the_options),
		T(test_events_of_normal_data),
	};

	alarm(90);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
