// SPDX-License-Identifier: GPL-2.0-only
/*
 * A connection has each option that it would have from an ordinary listener: the test tries
 * all numbers, so it also finds those that nobody thought of. Runs in the guest, as root.
 * Usage: test_inherit [TEST]
 */
#include "worker.h"

/* More than the largest number of an option that takes an int. */
#define NAMES	100

struct option {
	int level, name, value;
	/* Set before listen(). */
	bool early;
};

static int get(int fd, const struct option *o)
{
	socklen_t len = sizeof(int);
	int value = -7;

	return getsockopt(fd, o->level, o->name, &value, &len) ? -errno : value;
}

/* Finds a value that changes the option, and stores it in o->value; returns false if none does. */
static bool changes(int family, struct option *o)
{
	static const int values[] = { 1, 0, 2, 3, 50000, 50000 << 16 | 40000 };
	union address a;
	unsigned int i;
	bool found = false;
	int fd, before;

	for (i = 0; i < sizeof(values) / sizeof(*values) && !found; i++) {
		o->value = values[i];
		fd = bound_socket(family, &a);
		if (!o->early)
			assert_ok(listen(fd, 5));
		before = get(fd, o);
		found = !setsockopt(fd, o->level, o->name, &o->value, sizeof(int)) &&
			get(fd, o) != before;
		close(fd);
	}
	return found;
}

/*
 * Returns in *@value what the option is in a connection, with a local listener if
 * @spawned. Returns false if the listener cannot have local ones.
 */
static bool inherited(int family, const struct option *o, bool spawned, int *value)
{
	union address a;
	int fd = bound_socket(family, &a), client, conn;
	bool can = true;

	if (!o->early)
		assert_ok(listen(fd, 5));
	assert_ok(setsockopt(fd, o->level, o->name, &o->value, sizeof(int)));
	if (o->early)
		assert_ok(listen(fd, 5));
	if (spawned && spawn(fd, 1)) {
		assert_int_equal(errno, EOPNOTSUPP);
		can = false;
	} else {
		client = connect_on(1, &a);
		/*
		 * Only TCP_DEFER_ACCEPT waits for data. After 40 ms without an answer to data,
		 * tcp_delack_timer_handler() changes what TCP_QUICKACK shows.
		 */
		if (o->level == IPPROTO_TCP && o->name == TCP_DEFER_ACCEPT)
			assert_int_equal(write(client, "x", 1), 1);
		conn = accept(fd, NULL, NULL);
		assert_ok(conn);
		*value = get(conn, o);
		close(conn);
		close(client);
	}
	close(fd);
	unpin();
	return can;
}

static int compare(int family, int level, int name, bool early)
{
	struct option o = { .level = level, .name = name, .early = early };
	int stock, ours;

	if (!changes(family, &o) || !inherited(family, &o, true, &ours))
		return 0;
	inherited(family, &o, false, &stock);
	if (ours == stock)
		return 0;
	print_message("family %d, option %d/%d set to %d %s listen(): ordinary %d, local %d\n",
		      family, level, name, o.value, early ? "before" : "after", stock, ours);
	return 1;
}

static void all_options(int family)
{
	static const int levels[] = { SOL_SOCKET, IPPROTO_IP, IPPROTO_TCP, IPPROTO_IPV6 };
	int differ = 0, name, i;

	for (i = 0; i < (family == AF_INET6 ? 4 : 3); i++) {
		for (name = 1; name < NAMES; name++) {
			/* The connection's own CPU. */
			if (levels[i] == SOL_SOCKET && name == SO_INCOMING_CPU)
				continue;
			differ += compare(family, levels[i], name, false);
			differ += compare(family, levels[i], name, true);
		}
	}
	assert_int_equal(differ, 0);
}

static void options_ipv4(void **state)
{
	(void)state;
	all_options(AF_INET);
}

static void options_ipv6(void **state)
{
	(void)state;
	all_options(AF_INET6);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(options_ipv4),
		T(options_ipv6),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
