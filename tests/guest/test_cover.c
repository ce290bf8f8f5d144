// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fewer workers than CPUs that handle SYNs: tests which worker serves a CPU without
 * worker. Runs in the guest as root with fastsocket.ko loaded, on loopback, where the
 * CPU that sends a packet also handles it. Usage: test_cover [TEST]
 */
#include "worker.h"

#define STEAL PARAM "steal_after_ms"
#define WAITING 6

static int server;

/* Handles a signal: gives the local listener back, and stops serving. */
static void retires(int sig)
{
	(void)sig;
	retire(server);
	for (;;)
		pause();
}

/* Starts a worker process on @cpu that waits with epoll, and greets with its letter. */
static pid_t serves(int fd, int cpu, char letter)
{
	int ready;
	pid_t pid = fork_until_ready(&ready);

	if (!pid) {
		server = fd;
		signal(SIGUSR1, retires);
		serve_by_epoll(fd, cpu, letter, ready);
	}
	return pid;
}

/* Returns the letter of the worker that answers a connection handled on @cpu. */
static char answer(const union address *a, int cpu)
{
	int client = connect_on(cpu, a);
	char byte = greeting(client);

	assert_true(byte);
	close(client);
	return byte;
}

/*
 * Connects on @cpu until the worker of another CPU serves it, and returns that CPU. The
 * CPU's own worker may have ended just before.
 */
static int covered(const union address *a, int cpu)
{
	int i, host;

	for (i = 0; i < 1000; i++) {
		host = host_of(a, cpu);
		if (host >= 0 && host != cpu)
			return host;
		answer(a, cpu);
		usleep(10000);
	}
	fail_msg("no worker serves CPU %d", cpu);
	return -1;
}

/* Returns whether the process sleeps in a system call, and is not about to run again. */
static bool asleep(pid_t pid)
{
	char path[64], line[256] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	file = fopen(path, "r");
	assert_non_null(file);
	assert_non_null(fgets(line, sizeof(line), file));
	fclose(file);
	return strncmp(line, "running", 7);
}

/* Returns how often the process has slept. */
static long waits(pid_t pid)
{
	char path[64], line[256];
	long count = -1;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "r");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		sscanf(line, "voluntary_ctxt_switches: %ld", &count);
	fclose(file);
	assert_true(count >= 0);
	return count;
}

static void kill_all(pid_t *pids, int count)
{
	while (count--)
		kill_worker(pids[count]);
}

/* After the first connection each one wakes one worker, and none comes to the shared queue. */
static void by_one_worker(void **state)
{
	unsigned long long shared, taken;
	union address a;
	int fd = listener(AF_INET, &a), host, cpu, i;
	pid_t pids[2];
	long slept;

	(void)state;
	set_nonblock(fd);
	pids[0] = serves(fd, 0, 'a');
	pids[1] = serves(fd, 1, 'b');
	for (cpu = 2; cpu < 4; cpu++) {
		host = covered(&a, cpu);
		assert_in_range(host, 0, 1);
		/* The first connections may have woken the other worker, too. */
		await(asleep(pids[!host]));
		slept = waits(pids[!host]);
		shared = counter("accept_global", -1);
		taken = counter("accept_covered", host);
		for (i = 0; i < 50; i++)
			assert_int_equal(answer(&a, cpu), 'a' + host);
		assert_int_equal(counter("accept_covered", host), taken + 50);
		assert_int_equal(counter("accept_global", -1), shared);
		assert_int_equal(waits(pids[!host]), slept);
	}
	/* Each worker has one. */
	assert_int_not_equal(host_of(&a, 2), host_of(&a, 3));
	/* CPUs with a worker are as before. */
	assert_int_equal(host_of(&a, 0), 0);
	assert_int_equal(answer(&a, 0), 'a');
	assert_int_equal(answer(&a, 1), 'b');
	kill_all(pids, 2);
	close(fd);
}

/* Makes connections that wait for the worker of @host at the covered @cpu. */
static void wait_at(const union address *a, int cpu, pid_t host, int *clients)
{
	int i;

	kill(host, SIGSTOP);
	for (i = 0; i < WAITING; i++)
		clients[i] = connect_on(cpu, a);
	usleep(50000);
}

static void all_answered(int *clients, char by)
{
	int i;

	for (i = 0; i < WAITING; i++) {
		struct timeval limit = { .tv_sec = 20 };
		char byte = 0;

		setsockopt(clients[i], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		assert_int_equal(read(clients[i], &byte, 1), 1);
		assert_int_equal(byte, by);
		close(clients[i]);
	}
}

/* The worker that serves a covered CPU ends by @signal while connections wait there. */
static void host_goes(int signal)
{
	union address a;
	int fd = listener(AF_INET, &a), clients[WAITING], host, worker, i;
	pid_t pids[3];
	char byte;

	if (signal == SIGSTOP)
		write_file(STEAL, "8");
	set_nonblock(fd);
	pids[0] = serves(fd, 0, 'a');
	pids[1] = serves(fd, 1, 'b');
	pids[2] = serves(fd, 3, 'c');
	host = covered(&a, 2);
	worker = host == 3 ? 2 : host;
	wait_at(&a, 2, pids[worker], clients);
	if (signal != SIGSTOP)
		assert_int_equal(readable(clients[0], 100), 0);
	kill(pids[worker], signal);
	if (signal == SIGUSR1)
		kill(pids[worker], SIGCONT);
	for (i = 0; i < WAITING; i++) {
		assert_int_equal(readable(clients[i], 20000), 1);
		assert_int_equal(read(clients[i], &byte, 1), 1);
		assert_int_not_equal(byte, 'a' + worker);
		close(clients[i]);
	}
	if (signal != SIGSTOP) {
		assert_int_not_equal(covered(&a, 2), host);
		assert_int_not_equal(answer(&a, 2), 'a' + worker);
	}
	kill_all(pids, 3);
	close(fd);
}

static void host_killed(void **state)
{
	(void)state;
	host_goes(SIGKILL);
}

static void host_retires(void **state)
{
	(void)state;
	host_goes(SIGUSR1);
}

static void host_stopped(void **state)
{
	(void)state;
	host_goes(SIGSTOP);
}

/* A covered CPU gets a worker, which then ends. */
static void worker_comes(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), clients[WAITING], host, i;
	pid_t pids[3];

	(void)state;
	set_nonblock(fd);
	pids[0] = serves(fd, 0, 'a');
	pids[1] = serves(fd, 1, 'b');
	host = covered(&a, 2);
	wait_at(&a, 2, pids[host], clients);
	pids[2] = serves(fd, 2, 'c');
	assert_int_equal(host_of(&a, 2), 2);
	/* The new worker also takes the connections that waited there. */
	all_answered(clients, 'c');
	kill(pids[host], SIGCONT);
	for (i = 0; i < 20; i++)
		assert_int_equal(answer(&a, 2), 'c');
	kill_worker(pids[2]);
	/* The CPU is still known to handle SYNs. */
	assert_in_range(covered(&a, 2), 0, 1);
	/* The last worker is left alone. */
	kill_worker(pids[1]);
	await(host_of(&a, 2) < 0);
	assert_int_equal(answer(&a, 2), 'a');
	assert_int_equal(host_of(&a, 2), -1);
	kill_worker(pids[0]);
	close(fd);
}

/* Each worker gets the same number of CPUs. */
static void shared_out(void **state)
{
	int hosts[8] = { 0 }, cpus = sysconf(_SC_NPROCESSORS_ONLN), cpu, fd, each;
	union address a;
	pid_t pids[4];

	(void)state;
	fd = listener(AF_INET, &a);
	set_nonblock(fd);
	assert_in_range(cpus, 4, 8);
	pids[0] = serves(fd, 0, 'a');
	pids[1] = serves(fd, 1, 'b');
	for (cpu = 2; cpu < cpus; cpu++)
		covered(&a, cpu);
	if (cpus == 8) {
		pids[2] = serves(fd, 2, 'c');
		pids[3] = serves(fd, 3, 'd');
	}
	each = cpus == 8 ? 4 : 2;
	for (cpu = each; cpu < cpus; cpu++)
		hosts[host_of(&a, cpu)]++;
	for (cpu = 0; cpu < each; cpu++)
		assert_int_equal(hosts[cpu], 1);
	kill_all(pids, each);
	close(fd);
}

static int client_port(int conn)
{
	union address a;
	socklen_t len = sizeof(a);

	assert_ok(getpeername(conn, &a.sa, &len));
	return ntohs(a.in.sin_port);
}

static int own_port(int fd)
{
	union address a;
	socklen_t len = sizeof(a);

	assert_ok(getsockname(fd, &a.sa, &len));
	return ntohs(a.in.sin_port);
}

/* Accepts count connections, which are in clients[] in the order in which they were made. */
static void accept_in_order(int fd, const int *clients, int count)
{
	int i, conn;

	for (i = 0; i < count; i++) {
		assert_int_equal(readable(fd, 1000), 1);
		conn = accept(fd, NULL, NULL);
		assert_ok(conn);
		assert_int_equal(client_port(conn), own_port(clients[i]));
		close(conn);
	}
	assert_int_equal(accept(fd, NULL, NULL), -1);
	for (i = 0; i < count; i++)
		close(clients[i]);
}

/* Claims CPU 0, which gets CPU 2 as its guest; there is a worker on CPU 1. */
static void host_on_0(int fd, const union address *a)
{
	int client, i;

	/* Of two hosts at the same distance, the later one is chosen. */
	assert_ok(spawn(fd, 0));
	for (i = 0; i < 1000 && host_of(a, 2) < 0; i++) {
		client = connect_on(2, a);
		close(accept(fd, NULL, NULL));
		close(client);
		usleep(10000);
	}
	assert_int_equal(host_of(a, 2), 0);
}

/* A worker takes the oldest connection of its own queue and that of a guest. */
static void oldest_of_guests(void **state)
{
	static const int cpus[] = { 0, 0, 2, 0, 2, 2, 2, 0 };
	union address a;
	int fd = listener(AF_INET, &a), clients[8], i;
	pid_t pid = worker(fd, 1, 'b', true);

	(void)state;
	set_nonblock(fd);
	host_on_0(fd, &a);
	for (i = 0; i < 8; i++)
		clients[i] = connect_on(cpus[i], &a);
	accept_in_order(fd, clients, 8);
	kill_worker(pid);
	close(fd);
}

/* A worker that is at work anyway takes what waits for the host of another CPU, too. */
static void any_worker(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), client, own;
	pid_t pid;

	(void)state;
	set_nonblock(fd);
	pid = serves(fd, 1, 'b');
	host_on_0(fd, &a);
	await(asleep(pid));
	client = connect_on(2, &a);
	assert_int_equal(readable(fd, 1000), 1);
	assert_int_equal(readable(client, 100), 0);
	own = connect_on(1, &a);
	assert_int_equal(greeting(own), 'b');
	/* Long before it would move to the shared queue: see slow_setup(). */
	assert_int_equal(readable(client, 2000), 1);
	assert_int_equal(greeting(client), 'b');
	close(own);
	close(client);
	kill_worker(pid);
	close(fd);
}

/* A lone thread serves the CPUs that it has claimed, and no others. */
static void not_for_one(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), i;
	pid_t pid;

	(void)state;
	set_nonblock(fd);
	pid = serves(fd, 0, 'a');
	for (i = 0; i < 20; i++)
		assert_int_equal(answer(&a, 2), 'a');
	usleep(100000);
	assert_int_equal(host_of(&a, 2), -1);
	kill_worker(pid);
	close(fd);
}

/* The listener is closed and the module unloaded while connections wait at guests. */
static void closed_and_unloaded(void **state)
{
	int fd, clients[WAITING], host, i, round;
	union address a;
	pid_t pids[2];

	(void)state;
	for (round = 0; round < 5; round++) {
		fd = listener(AF_INET, &a);
		set_nonblock(fd);
		pids[0] = serves(fd, 0, 'a');
		pids[1] = serves(fd, 1, 'b');
		host = covered(&a, 2);
		kill(pids[!host], SIGSTOP);
		wait_at(&a, 2, pids[host], clients);
		if (round % 2)
			assert_ok(shutdown(fd, SHUT_RDWR));
		kill_all(pids, 2);
		close(fd);
		for (i = 0; i < WAITING; i++)
			close(clients[i]);
	}
	close(dev);
	wait_for(unloaded);
	load_again();
	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	assert_ok(dev);
}

/* Tests of wakeups must not be helped by a timer. */
static int slow_setup(void **state)
{
	int ret = setup(state);

	write_file(STEAL, "10000");
	return ret;
}

static int slow_teardown(void **state)
{
	write_file(STEAL, "8");
	return teardown(state);
}

#define T(name) cmocka_unit_test_setup_teardown(name, slow_setup, slow_teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(by_one_worker),
		T(host_killed),
		T(host_retires),
		T(host_stopped),
		T(worker_comes),
		T(shared_out),
		T(oldest_of_guests),
		T(any_worker),
		T(not_for_one),
		T(closed_and_unloaded),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
