// SPDX-License-Identifier: GPL-2.0-only
/*
 * Connection locality: the established tables, and all switches at once (Direct-TCP
 * does nothing on loopback, whose packets have their route). Like test_module it runs
 * in the guest, as root, on loopback, where the CPU that sends a packet also handles it
 * unless it is redispatched. Usage: test_locality [TEST]
 */
#include "locality.h"

/* --- the established table -------------------------------------- */

static void talk(int family, int connections)
{
	union address a;
	int fd = listener(family, &a), i;

	for (i = 0; i < connections; i++) {
		int client = connect_on(i % 4, &a), conn = accept(fd, NULL, NULL);

		assert_ok(conn);
		pin(i % 4);
		say(client, conn, 5);
		say(conn, client, 5);
		unpin();
		/* Each way to end a connection. */
		if (i % 3 == 1) {
			struct linger reset = { .l_onoff = 1 };

			setsockopt(conn, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		}
		close(i % 2 ? client : conn);
		close(i % 2 ? conn : client);
	}
	close(fd);
}

static void established(int family)
{
	unsigned long long hits = counter("established_hit", -1), in, out;

	talk(family, 8);
	assert_int_equal(counter("established_hit", -1), hits);

	in = counter("established_add", -1);
	out = counter("established_del", -1);
	write_file(switches[0], "1");
	talk(family, 48);
	assert_true(counter("established_hit", -1) - hits >= 48 * 10);
	assert_true(counter("established_add", -1) - in >= 2 * 48);
	/* Other connections of the machine, such as that of ssh, may be in the table. */
	await(counter("established_add", -1) - in <= counter("established_del", -1) - out + 8);
	write_file(switches[0], "0");
	assert_int_equal(counter("established_add", -1), counter("established_del", -1));
	hits = counter("established_hit", -1);
	talk(family, 8);
	assert_int_equal(counter("established_hit", -1), hits);
}

static void established_ipv4(void **state)
{
	(void)state;
	established(AF_INET);
}

static void established_ipv6(void **state)
{
	(void)state;
	established(AF_INET6);
}

/* The tables are switched off and on while connections are open; these stay as they were. */
static void established_while_open(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), client = connect_on(1, &a), conn, i;

	(void)state;
	conn = accept(fd, NULL, NULL);
	assert_ok(conn);
	for (i = 0; i < 20; i++) {
		int second, third;

		write_file(switches[0], i % 2 ? "0" : "1");
		write_file(switches[1], i % 3 ? "0" : "1");
		say(client, conn, 3);
		second = connect_on(2, &a);
		third = accept(fd, NULL, NULL);
		say(second, third, 3);
		write_file(switches[0], i % 2 ? "1" : "0");
		say(second, third, 3);
		close(second);
		close(third);
	}
	close(conn);
	close(client);
	close(fd);
}

static void switches_checked(void **state)
{
	int i, fd;

	(void)state;
	for (i = 0; i < SWITCHES; i++) {
		fd = open(switches[i], O_WRONLY);
		assert_ok(fd);
		assert_errno(write(fd, "4", 1), EINVAL);
		assert_errno(write(fd, "-1", 2), EINVAL);
		assert_errno(write(fd, "on", 2), EINVAL);
		close(fd);
	}
}

static void tracepoints(void **state)
{
	static const char base[] = "/sys/kernel/tracing/";
	static const char * const events[] = {
		"fsocket_spawn: port=", "fsocket_retire: port=", "fsocket_hit: sport=",
		"fsocket_miss: sport=", "fsocket_steer: sport=",
	};
	static char trace[1 << 20];
	union address a;
	int fd, client, conn, i;
	size_t got;
	FILE *file;

	(void)state;
	write_file("/sys/kernel/tracing/trace", "\n");
	write_file("/sys/kernel/tracing/events/fastsocket/enable", "1");
	all_on();
	fd = listener(AF_INET, &a);
	{
		struct fsocket_ioctl_arg arg = { .fd = fd };

		arg.op.spawn_op.cpu = 1;
		assert_ok(ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg));
		client = socket(AF_INET, SOCK_STREAM, 0);
		assert_ok(rfd_connect(client, &a));
		conn = accept(fd, NULL, NULL);
		unpin();
		pin(4);
		say(conn, client, 3);
		assert_ok(ioctl(dev, FSOCKET_IOC_RETIRE_LISTEN, &arg));
	}
	close(conn);
	close(client);
	close(fd);
	write_file("/sys/kernel/tracing/events/fastsocket/enable", "0");
	file = fopen("/sys/kernel/tracing/trace", "r");
	assert_non_null(file);
	got = fread(trace, 1, sizeof(trace) - 1, file);
	fclose(file);
	trace[got] = '\0';
	for (i = 0; i < (int)(sizeof(events) / sizeof(*events)); i++) {
		if (!strstr(trace, events[i]))
			fail_msg("no %s in %strace", events[i], base);
	}
	write_file("/sys/kernel/tracing/trace", "\n");
}

/* --- all at once -------------------------------------------------------------- */

#define STORM_BYTES 8192

/* Sends a pattern both ways; every byte has to arrive, in order. */
static void storm_client(const union address *addresses, int number, int until)
{
	static unsigned char out[STORM_BYTES], in[STORM_BYTES];
	struct timeval limit = { .tv_sec = 30 };
	int i, round = 0;

	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	while (time(NULL) < until) {
		const union address *a = &addresses[round++ % 2];
		int fd = socket(a->sa.sa_family, SOCK_STREAM, 0), done;

		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		if (fd < 0 || rfd_connect(fd, a))
			_exit(10);
		for (i = 0; i < STORM_BYTES; i++)
			out[i] = i * 7 + number + round;
		if (write(fd, out, sizeof(out)) != sizeof(out))
			_exit(11);
		for (done = 0; done < STORM_BYTES; done += i) {
			i = read(fd, in + done, sizeof(in) - done);
			if (i <= 0)
				_exit(12);
		}
		if (memcmp(in, out, sizeof(in)))
			_exit(13);
		close(fd);
	}
	_exit(round ? 0 : 14);
}

static void storm_server(int fd)
{
	struct fsocket_ioctl_arg arg = { .fd = fd };
	static char buf[STORM_BYTES];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	arg.op.spawn_op.cpu = -1;
	ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg);
	for (;;) {
		int conn = accept(fd, NULL, NULL), got, done;

		for (done = 0; conn >= 0 && done < STORM_BYTES; done += got) {
			got = read(conn, buf, sizeof(buf));
			if (got <= 0 || write(conn, buf, got) != got)
				break;
		}
		close(conn);
	}
}

static void storm(void **state)
{
	enum { CLIENTS = 12, SERVERS = 12 };
	union address a[2];
	int fds[2], i, status, until, round;
	pid_t clients[CLIENTS], servers[SERVERS];
	char path[64];

	(void)state;
	hold_static_keys(true);
	write_file(switches[5], "2");
	until = time(NULL) + 8;
	fds[0] = listener(AF_INET, &a[0]);
	fds[1] = listener(AF_INET6, &a[1]);
	for (i = 0; i < SERVERS; i++) {
		servers[i] = fork();
		if (!servers[i])
			storm_server(fds[i % 2]);
	}
	for (i = 0; i < CLIENTS; i++) {
		clients[i] = fork();
		if (!clients[i])
			storm_client(a, i, until);
	}
	srand(1);
	for (round = 0; time(NULL) < until; round++) {
		int which = rand() % SWITCHES, cpu = 1 + rand() % 7;
		int fd = open(switches[which], O_WRONLY);
		const char *values = which == 5 ? "23" : "01";
		/*
		 * The framework cannot be switched off while RCS is on, which does not
		 * matter here.
		 */
		ssize_t ignored = write(fd, values + rand() % 2, 1);

		(void)ignored;
		close(fd);
		if (round % 8 == 0) {
			snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
			write_file(path, "0");
			usleep(20000);
			write_file(path, "1");
		}
		usleep(20000);
	}
	for (i = 0; i < CLIENTS; i++) {
		assert_int_equal(waitpid(clients[i], &status, 0), clients[i]);
		assert_int_equal(status, 0);
	}
	for (i = 0; i < SERVERS; i++) {
		kill(servers[i], SIGKILL);
		waitpid(servers[i], NULL, 0);
	}
	close(fds[0]);
	close(fds[1]);
	all_off();
	hold_static_keys(false);
	await(counter("established_add", -1) == counter("established_del", -1));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(established_ipv4),
		T(established_ipv6),
		T(established_while_open),
		T(switches_checked),
		T(tracepoints),
		T(storm),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
