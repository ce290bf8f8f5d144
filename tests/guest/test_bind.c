// SPDX-License-Identifier: GPL-2.0-only
/*
 * Private bind buckets: what others may bind to is the same with local listeners
 * as without, and nothing is left behind. Every test makes the same sockets twice,
 * once without the module. Runs in the guest as root with fastsocket.ko loaded.
 * Usage: test_bind [TEST]
 */
#include "helpers.h"

#define NOBODY		65534
#define CONNECTIONS	3
#define MAX_RESULTS	256

static int dev = -1;
/* A port that the kernel does not give to clients; each situation takes the next one. */
static int next_port;

enum stage { OPEN, CHILDREN, CLOSED_CHILDREN, TIME_WAIT, SHUT_DOWN };
static const char * const stages[] = { "open", "open with children", "closed with children",
				       "closed with TIME_WAIT", "shut down with children" };

struct situation {
	int family;
	/* The options of the listener itself, and whether it is bound to any address. */
	bool any, reuseaddr, reuseport;
	enum stage stage;
};

/* Loopback has many IPv4 addresses; IPv6 listeners get mapped ones, too. */
static const char * const addresses[] = { "127.0.0.1", "127.0.0.2", "127.0.0.9", "0.0.0.0",
					  "::1", "::", "::ffff:127.0.0.1" };

static union address make_address(const char *text, int port)
{
	union address a = { 0 };

	if (strchr(text, ':')) {
		a.in6.sin6_family = AF_INET6;
		a.in6.sin6_port = htons(port);
		assert_int_equal(inet_pton(AF_INET6, text, &a.in6.sin6_addr), 1);
	} else {
		a.in.sin_family = AF_INET;
		a.in.sin_port = htons(port);
		assert_int_equal(inet_pton(AF_INET, text, &a.in.sin_addr), 1);
	}
	return a;
}

static void option(int fd, int level, int name, int value)
{
	assert_ok(setsockopt(fd, level, name, &value, sizeof(value)));
}

static int listen_at(const struct situation *s, int *port)
{
	const char *text = s->family == AF_INET ? (s->any ? "0.0.0.0" : "127.0.0.1") :
						  (s->any ? "::" : "::1");
	union address a = make_address(text, next_port);
	int fd = socket(s->family, SOCK_STREAM, 0);

	assert_ok(fd);
	option(fd, SOL_SOCKET, SO_REUSEADDR, s->reuseaddr);
	option(fd, SOL_SOCKET, SO_REUSEPORT, s->reuseport);
	assert_ok(bind(fd, &a.sa, address_len(&a)));
	assert_ok(listen(fd, 128));
	*port = next_port++;
	return fd;
}

/* Connects to each of the listener's addresses and stores the accepted ends in children[]. */
static int connect_all(const struct situation *s, int fd, int port, int *clients, int *children)
{
	unsigned int i;
	int count = 0;

	for (i = 0; i < sizeof(addresses) / sizeof(*addresses) && count < CONNECTIONS; i++) {
		union address a = make_address(addresses[i], port);

		/* Mapped addresses are IPv4 addresses at the other end. */
		if (i > 4 || a.in.sin_addr.s_addr == 0 ||
		    (s->family == AF_INET && a.sa.sa_family == AF_INET6) ||
		    (!s->any && i != (s->family == AF_INET ? 0 : 4)))
			continue;
		clients[count] = connect_on(0, &a);
		children[count] = accept(fd, NULL, NULL);
		assert_ok(children[count++]);
	}
	return count;
}

/* Returns 0, or the errno of bind(), or 1000 plus the errno of listen(). */
static int try_bind(const char *text, int port, int reuse, bool nobody)
{
	union address a = make_address(text, port);
	int fd, ret = 0;

	if (nobody)
		assert_ok(seteuid(NOBODY));
	fd = socket(a.sa.sa_family, SOCK_STREAM, 0);
	if (nobody)
		assert_ok(seteuid(0));
	assert_ok(fd);
	option(fd, SOL_SOCKET, SO_REUSEADDR, reuse & 1);
	option(fd, SOL_SOCKET, SO_REUSEPORT, !!(reuse & 2));
	if (bind(fd, &a.sa, address_len(&a)))
		ret = errno;
	else if (listen(fd, 1))
		ret = 1000 + errno;
	close(fd);
	return ret;
}

static int try_all(int port, int *results)
{
	unsigned int address;
	int count = 0, reuse;

	for (address = 0; address < sizeof(addresses) / sizeof(*addresses); address++)
		for (reuse = 0; reuse < 8; reuse++)
			results[count++] = try_bind(addresses[address], port, reuse & 3, reuse & 4);
	assert_true(count <= MAX_RESULTS);
	return count;
}

static void close_all(int *fds, int count)
{
	while (count)
		close(fds[--count]);
}

static int results_of(const struct situation *s, bool with, int *results)
{
	int clients[CONNECTIONS], children[CONNECTIONS], port, fd, count = 0, all;
	struct fsocket_ioctl_arg arg = { 0 };

	fd = listen_at(s, &port);
	if (with) {
		arg.fd = fd;
		assert_ok(ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg));
	}
	if (s->stage != OPEN)
		count = connect_all(s, fd, port, clients, children);
	if (with && count)
		assert_true(counter("accept_local", 0) > 0);
	if (s->stage == SHUT_DOWN)
		assert_ok(shutdown(fd, SHUT_RD));
	if (s->stage == CLOSED_CHILDREN || s->stage == TIME_WAIT)
		close(fd);
	if (s->stage == TIME_WAIT) {
		/* The end that closes first is in TIME_WAIT. */
		pin(0);
		close_all(children, count);
		close_all(clients, count);
		handle_packets();
		unpin();
		count = 0;
	}
	all = try_all(port, results);
	if (s->stage != CLOSED_CHILDREN && s->stage != TIME_WAIT)
		close(fd);
	close_all(clients, count);
	close_all(children, count);
	return all;
}

static void compare(const struct situation *s)
{
	int without[MAX_RESULTS], with[MAX_RESULTS], count, i;

	count = results_of(s, false, without);
	assert_int_equal(results_of(s, true, with), count);
	for (i = 0; i < count; i++) {
		if (with[i] != without[i])
			fail_msg("listener of IPv%d, any %d, REUSEADDR %d, REUSEPORT %d, %s: bind to %s, REUSEADDR %d, REUSEPORT %d, %s: %d without, %d with local listeners",
				 s->family == AF_INET ? 4 : 6, s->any, s->reuseaddr, s->reuseport,
				 stages[s->stage], addresses[i / 8], i & 1, !!(i & 2),
				 i & 4 ? "another user" : "same user", without[i], with[i]);
	}
}

static void compare_family(int family)
{
	struct situation s = { .family = family };
	int options;

	for (s.stage = OPEN; s.stage <= SHUT_DOWN; s.stage++) {
		for (options = 0; options < 8; options++) {
			s.any = options & 1;
			s.reuseaddr = options & 2;
			s.reuseport = options & 4;
			compare(&s);
		}
	}
}

static void matrix_ipv4(void **state)
{
	(void)state;
	compare_family(AF_INET);
}

static void matrix_ipv6(void **state)
{
	(void)state;
	compare_family(AF_INET6);
}

/* A child that is disconnected can be bound and listen like any other socket. */
static void disconnected_child(void **state)
{
	struct situation s = { .family = AF_INET, .any = true };
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	int clients[CONNECTIONS], children[CONNECTIONS], port, fd, count;
	struct fsocket_ioctl_arg arg = { 0 };
	union address a = make_address("127.0.0.1", 0), b = { 0 };
	socklen_t len = sizeof(b);

	(void)state;
	fd = listen_at(&s, &port);
	arg.fd = fd;
	assert_ok(ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg));
	count = connect_all(&s, fd, port, clients, children);
	assert_int_equal(count, 3);
	/* Do this to one child before the listener is closed, and to another one after that. */
	assert_ok(connect(children[0], &none, sizeof(none)));
	assert_ok(bind(children[0], &a.sa, address_len(&a)));
	assert_ok(listen(children[0], 1));
	assert_ok(getsockname(children[0], &b.sa, &len));
	assert_int_not_equal(ntohs(b.in.sin_port), port);
	close(fd);
	assert_ok(connect(children[1], &none, sizeof(none)));
	assert_ok(connect(children[1], &b.sa, address_len(&b)));
	assert_int_equal(write(children[2], "x", 1), 1);
	assert_int_equal(greeting(clients[2]), 'x');
	close_all(clients, count);
	close_all(children, count);
}

/*
 * A mapped address and its IPv4 address are the same to the bind table. A socket that
 * is bound to one of them can listen, although children have come to it meanwhile. The
 * kernel would warn.
 */
static void mapped_beside(void **state)
{
	static const char * const beside[] = { "127.0.0.1", "::ffff:127.0.0.1" };
	int clients[CONNECTIONS], children[CONNECTIONS], port, fd, count, i;
	struct situation s = { .any = true, .reuseaddr = true };
	struct fsocket_ioctl_arg arg = { 0 };

	(void)state;
	for (i = 0; i < 2; i++) {
		union address a = make_address(beside[i], next_port);
		int other = socket(a.sa.sa_family, SOCK_STREAM, 0);

		assert_ok(other);
		option(other, SOL_SOCKET, SO_REUSEADDR, 1);
		assert_ok(bind(other, &a.sa, address_len(&a)));
		s.family = i ? AF_INET : AF_INET6;
		fd = listen_at(&s, &port);
		arg.fd = fd;
		assert_ok(ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg));
		count = connect_all(&s, fd, port, clients, children);
		assert_true(count > 0);
		close(fd);
		assert_ok(listen(other, 1));
		close_all(clients, count);
		close_all(children, count);
		close(connect_on(0, &a));
		close(other);
	}
}

static unsigned long slab_objects(const char *name)
{
	char line[512], cache[64];
	unsigned long active, found = 0;
	FILE *file;

	/* Without this, objects that KASAN keeps from reuse for a time count as active. */
	snprintf(line, sizeof(line), "/sys/kernel/slab/%s/shrink", name);
	write_file(line, "1");
	file = fopen("/proc/slabinfo", "r");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%63s %lu", cache, &active) == 2 && !strcmp(cache, name))
			found = active;
	fclose(file);
	return found;
}

/* Connections outlive the module, since their buckets belong to the kernel. */
static void unload(void **state)
{
	struct situation s = { .family = AF_INET, .any = true, .reuseaddr = true };
	int clients[CONNECTIONS], children[CONNECTIONS], port, fd, count, i;
	const char *ko = getenv("FASTSOCKET_KO");
	struct fsocket_ioctl_arg arg = { 0 };

	(void)state;
	fd = listen_at(&s, &port);
	arg.fd = fd;
	assert_ok(ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg));
	for (i = 0; i < 50; i++) {
		count = connect_all(&s, fd, port, clients, children);
		close_all(children, count);
		close_all(clients, count);
	}
	count = connect_all(&s, fd, port, clients, children);
	close(fd);
	close(dev);
	/* A work item may still hold the listener. */
	await(!syscall(SYS_delete_module, "fastsocket", O_NONBLOCK));
	for (i = 0; i < count; i++) {
		assert_int_equal(write(children[i], "x", 1), 1);
		assert_int_equal(greeting(clients[i]), 'x');
	}
	assert_int_equal(try_bind("127.0.0.1", port, 0, false), EADDRINUSE);
	close_all(children, count);
	close_all(clients, count);
	assert_int_equal(try_bind("0.0.0.0", port, 1, false), 0);
	assert_non_null(ko);
	assert_ok(load_module(ko, ""));
	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	assert_ok(dev);
}

/* Every bucket of a local listener is freed. */
static void nothing_left(void **state)
{
	struct situation s = { .family = AF_INET6, .any = true };
	unsigned long before = slab_objects("tcp_bind_bucket");
	struct fsocket_ioctl_arg arg = { 0 };
	int port, i;

	(void)state;
	for (i = 0; i < 2000; i++) {
		arg.fd = listen_at(&s, &port);
		assert_ok(ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg));
		close(arg.fd);
	}
	/* The statistics are coarse: a leak would be 2,000 objects. */
	await(slab_objects("tcp_bind_bucket") < before + 1000);
}

/* Each test has a namespace of its own, so no other program has a port there. */
static int setup(void **state)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd;

	(void)state;
	unpin();
	next_port = 10000;
	assert_ok(unshare(CLONE_NEWNET));
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	assert_ok(ioctl(fd, SIOCSIFFLAGS, &lo));
	close(fd);
	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	return dev < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	close(dev);
	return 0;
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(matrix_ipv4),
		T(matrix_ipv6),
		T(disconnected_child),
		T(mapped_beside),
		T(nothing_left),
		T(unload),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
