// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module while CPUs go offline, under storms, and when it is unloaded. Runs in the
 * guest as root with fastsocket.ko loaded; all traffic is on loopback, where the CPU
 * that sends a SYN also handles it. Usage: test_module [TEST]
 */
#include "worker.h"

/* --- hotplug, storms, unloading ------------------------------------------------------- */

static void cpu_goes_offline(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), i, last = sysconf(_SC_NPROCESSORS_CONF) - 1;
	char path[64];
	pid_t pid;

	(void)state;
	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", last);
	pid = worker(fd, last, 'w', false);
	assert_int_equal(host_of(&a, last), last);
	write_file(path, "0");
	await(host_of(&a, last) < 0);
	for (i = 0; i < 20; i++) {
		int client = connect_on(i % last, &a);

		assert_int_equal(greeting(client), 'w');
		close(client);
	}
	write_file(path, "1");
	await(host_of(&a, last) >= 0);
	assert_int_equal(host_of(&a, last), last);
	for (i = 0; i < 20; i++) {
		int client = connect_on(last, &a);

		assert_int_equal(greeting(client), 'w');
		close(client);
	}
	kill_worker(pid);
	close(fd);
}

/* Workers spawn, retire, fork, exit and die at random while clients connect. */
static void storm(void **state)
{
	int ncpu = sysconf(_SC_NPROCESSORS_ONLN), fd, i, round;
	pid_t keeper, clients[4], pids[12] = { 0 };
	union address a;
	int status;

	(void)state;
	srand(getpid());
	fd = listener(AF_INET, &a);
	keeper = worker(fd, 0, 'k', false);
	for (i = 0; i < 4; i++) {
		clients[i] = fork();
		if (!clients[i]) {
			int failed = 0, n;

			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (n = 0; n < 400; n++) {
				int conn = connect_on((n + i) % ncpu, &a);
				char got = greeting(conn);

				/*
				 * The answer is empty if the worker was killed after it had
				 * accepted.
				 */
				if (got != 'k' && got != 'w')
					failed++;
				close(conn);
			}
			_exit(failed);
		}
	}
	for (round = 0; round < 60; round++) {
		i = rand() % 12;
		if (pids[i]) {
			if (rand() % 2) {
				kill(pids[i], SIGKILL);
			} else {
				kill(pids[i], SIGTERM);
			}
			waitpid(pids[i], NULL, 0);
		}
		pids[i] = fork();
		if (!pids[i]) {
			int how = rand() % 4, n;

			prctl(PR_SET_PDEATHSIG, SIGKILL);
			unpin();
			set_nonblock(fd);
			for (n = 0; n < 50; n++) {
				struct pollfd p = { .fd = fd, .events = POLLIN };
				int conn;

				if (!n || how == 1)
					spawn(fd, rand() % ncpu);
				if (poll(&p, 1, 20) == 1) {
					conn = accept4(fd, NULL, NULL, 0);
					if (conn >= 0 && write(conn, "w", 1) == 1)
						close(conn);
				}
				if (how == 2)
					retire(fd);
				if (how == 3 && !(n % 10) && !fork())
					_exit(0);
				if (how == 1)
					unpin();
			}
			_exit(0);
		}
		usleep(30000);
	}
	for (i = 0; i < 12; i++)
		if (pids[i]) {
			kill(pids[i], SIGKILL);
			waitpid(pids[i], NULL, 0);
		}
	for (i = 0; i < 4; i++) {
		assert_int_equal(waitpid(clients[i], &status, 0), clients[i]);
		assert_true(WIFEXITED(status));
		/* At most one connection per killed worker may be lost with it. */
		assert_in_range(WEXITSTATUS(status), 0, 60);
	}
	kill_worker(keeper);
	close(fd);
}

/* Unloading is refused while the module is in use; accepted connections outlive the module. */
static void unload_when_unused(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), client, conn;
	char byte;

	(void)state;
	assert_errno(unload(), EAGAIN);
	assert_ok(spawn(fd, 1));
	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	close(dev);
	assert_errno(unload(), EAGAIN);
	close(fd);
	wait_for(unloaded);
	assert_int_equal(access(FSOCKET_DEVICE, F_OK), -1);
	assert_int_equal(write(client, "x", 1), 1);
	assert_int_equal(read(conn, &byte, 1), 1);
	assert_int_equal(readable(conn, 0), 0);
	close(conn);
	close(client);
	load_again();
	dev = open(FSOCKET_DEVICE, O_RDONLY);
	assert_ok(dev);
}

#define POOL_TRACE "/sys/kernel/tracing/events/page_pool/page_pool_release/enable"

/*
 * Returns the number of pages that skb pools still had in use when they were destroyed,
 * by a tracepoint.
 */
static int pages_in_use(void)
{
	FILE *trace = fopen("/sys/kernel/tracing/trace", "r");
	int pools = 0, pages = 0, count;
	char line[512], *at;

	assert_non_null(trace);
	while (fgets(line, sizeof(line), trace)) {
		at = strstr(line, " inflight=");
		if (!at || sscanf(at, " inflight=%d", &count) != 1)
			continue;
		pools++;
		pages += count;
	}
	fclose(trace);
	assert_true(pools > 0);
	return pages;
}

/*
 * Packets that were copied on a CPU which then receives nothing are freed by the time
 * that the module is unloaded, although that CPU was to free them.
 */
static void idle_cpu_keeps_no_page(void **state)
{
	unsigned long long copied;
	int fd, client, conn, i;
	union address a;
	char byte = 'x';

	(void)state;
	fd = listener(AF_INET, &a);
	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	/* This switches redispatch on, too. */
	write_file(PARAM "enable_receive_cpu_selection", "1");
	write_file(PARAM "enable_skb_pool", "1");
	copied = counter("skb_pool_copy", 3);
	for (i = 0; i < 10; i++) {
		/* This CPU sends, so packets for it are copied there. */
		pin(3);
		assert_int_equal(write(conn, &byte, 1), 1);
		pin(6);
		assert_int_equal(read(client, &byte, 1), 1);
		assert_int_equal(write(client, &byte, 1), 1);
		assert_int_equal(readable(conn, 20000), 1);
		/* They are freed from here. */
		pin(5);
		assert_int_equal(read(conn, &byte, 1), 1);
	}
	assert_true(counter("skb_pool_copy", 3) - copied >= 5);
	close(open("/sys/kernel/tracing/trace", O_WRONLY | O_TRUNC));
	/*
	 * The pool stays on: each switch patches running code, which the emulator may
	 * not survive.
	 */
	write_file(POOL_TRACE, "1");
	write_file(PARAM "enable_skb_pool", "0");
	write_file(PARAM "enable_receive_cpu_selection", "0");
	write_file(PARAM "enable_rps_framework", "0");
	close(conn);
	close(client);
	close(fd);
	close(dev);
	wait_for(unloaded);
	load_again();
	dev = open(FSOCKET_DEVICE, O_RDONLY);
	assert_ok(dev);
	assert_int_equal(pages_in_use(), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(cpu_goes_offline),
		T(storm),
		T(unload_when_unused),
		T(idle_cpu_keeps_no_page),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(0);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
