// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: what it does for the program into which it is
 * preloaded, this one, and what it leaves unchanged.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_backend [NAME]
 */
#include "kernel_orders.h"

#include <dirent.h>

static void test_each_gets_its_own(void **state)
{
	(void)state;
	start_workers(WORKERS);
	assert_int_not_equal(cpu_of(workers[0].pid), cpu_of(workers[1].pid));
}

static void test_lone_worker(void **state)
{
	(void)state;
	start_worker(0);
	for (int i = 0; i < 20; i++)
		assert_int_equal(ask(i % 2), '0');
	assert_int_equal(cpu_of(workers[0].pid), -1);
}

static void test_reuseport_is_the_programs(void **state)
{
	socklen_t len = sizeof(int);
	int value = -1;

	(void)state;
	assert_ok(getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &value, &len));
	assert_int_equal(value, 0);
	start_workers(WORKERS);
	assert_ok(getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &value, &len));
	assert_int_equal(value, 0);
	value = 1;
	/* Processes that share a socket share its options. */
	if (!fork())
		_exit(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &value, sizeof(value)) != 0);
	assert_true(wait(NULL) > 0);
	assert_ok(getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &value, &len));
	assert_int_equal(value, 1);
	value = 0;
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &value, sizeof(value)));
	await_locality(WORKERS);
}

static int bind_here(int option)
{
	int other = socket(AF_INET, SOCK_STREAM, 0), on = 1, ret;

	if (option)
		assert_ok(setsockopt(other, SOL_SOCKET, option, &on, sizeof(on)));
	ret = bind(other, &a.sa, address_len(&a));
	if (ret)
		ret = -errno;
	close(other);
	return ret;
}

static void test_port_in_use(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	for (int round = 0; round < 2; round++) {
		assert_int_equal(bind_here(0), -EADDRINUSE);
		assert_int_equal(bind_here(SO_REUSEADDR), -EADDRINUSE);
		pid = fork();
		if (!pid) {
			/* A socket of another user that is meant to share the port. */
			if (setresuid(65534, 65534, 65534))
				_exit(2);
			_exit(bind_here(SO_REUSEPORT) != -EADDRINUSE);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		if (!round)
			start_workers(WORKERS);
	}
}

static void test_port_is_free_after_close(void **state)
{
	int on = 1;

	(void)state;
	bind_anew();
	/* Closed connections are in TIME_WAIT. */
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)));
	assert_ok(listen(fd, 100));
	start_workers(WORKERS);
	stop_worker(&workers[0]);
	stop_worker(&workers[1]);
	close(fd);
	assert_int_equal(bind_here(SO_REUSEADDR), 0);
	fd = listener(AF_INET, &a);
}

static void test_listen_twice(void **state)
{
	int one, two, on = 1;
	union address b;

	(void)state;
	/* Both may bind while neither listens; the second cannot listen. */
	one = bound_socket(AF_INET, &b);
	assert_ok(setsockopt(one, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)));
	two = socket(AF_INET, SOCK_STREAM, 0);
	assert_ok(setsockopt(two, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)));
	assert_ok(bind(two, &b.sa, address_len(&b)));
	assert_ok(listen(one, 5));
	assert_errno(listen(two, 5), EADDRINUSE);
	close(one);
	assert_ok(listen(two, 5));
	close(two);
}

static int open_files(int *highest)
{
	DIR *folder = opendir("/proc/self/fd");
	struct dirent *entry;
	int count = 0;

	assert_non_null(folder);
	*highest = 0;
	while ((entry = readdir(folder)))
		if (entry->d_name[0] != '.') {
			count++;
			if (atoi(entry->d_name) > *highest)
				*highest = atoi(entry->d_name);
		}
	closedir(folder);
	return count;
}

static void test_descriptors(void **state)
{
	int highest, files = open_files(&highest), low, other;
	union address b;

	(void)state;
	assert_true(highest >= 256);
	assert_errno(close(highest), EBADF);
	low = socket(AF_INET, SOCK_STREAM, 0);
	assert_true(low < 64);
	close(low);
	other = listener(AF_INET, &b);
	assert_int_equal(other, low);
	close(other);
	assert_int_equal(open_files(&highest), files);
	/* The library leaves a number alone that the program has given to a file of its own. */
	assert_int_equal(dup2(0, highest), highest);
	assert_ok(close(highest));
	start_worker(0);
	start_worker(1);
	for (int i = 0; i < 200; i++)
		assert_true(ask(i % 2));
}

static void test_run_program(void **state)
{
	char text[32] = "";
	FILE *pipe;

	(void)state;
	pipe = popen("ls -l /proc/self/fd | awk '/socket:/ && $9 > 100' | wc -l", "r");
	assert_non_null(pipe);
	assert_non_null(fgets(text, sizeof(text), pipe));
	pclose(pipe);
	assert_int_equal(atoi(text), 0);
}

/* Wait until the worker has surely stopped, not within an answer. */
static void pause_worker(struct worker *w)
{
	usleep(50000);
	stop_child(w->pid);
}

static void test_waiting_connections_outlive_their_worker(void **state)
{
	int conns[40], cpu;

	(void)state;
	start_workers(WORKERS);
	cpu = cpu_of(workers[0].pid);
	pause_worker(&workers[0]);
	for (int i = 0; i < 40; i++)
		conns[i] = connect_on(cpu, &a);
	stop_worker(&workers[0]);
	for (int i = 0; i < 40; i++) {
		assert_int_equal(greeting(conns[i]), '1');
		close(conns[i]);
	}
	/* Its successor gets its CPU. */
	start_worker(0);
	await_locality(WORKERS);
	assert_int_equal(cpu_of(workers[0].pid), cpu);
}

/* A worker that no longer waits, and only tries to accept, takes what another one has left. */
static void test_worker_that_only_accepts(void **state)
{
	int conns[5], cpu;

	(void)state;
	start_workers(WORKERS);
	cpu = cpu_of(workers[0].pid);
	pause_worker(&workers[0]);
	for (int i = 0; i < 5; i++)
		conns[i] = connect_on(cpu, &a);
	assert_int_equal(write(workers[1].orders, "n", 1), 1);
	stop_worker(&workers[0]);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(readable(conns[i], 10000), 1);
		assert_int_equal(greeting(conns[i]), '1');
		close(conns[i]);
	}
}

/* The kernel reports that it is stopped, long before its silence shows that: after 20 s here. */
static void test_stopped_worker(void **state)
{
	long began;
	int cpu;

	(void)state;
	close(fd);
	setenv("FSOCKET_STEAL_AFTER_MS", "200", 1);
	fd = listener(AF_INET, &a);
	unsetenv("FSOCKET_STEAL_AFTER_MS");
	set_nonblock(fd);
	start_workers(WORKERS);
	cpu = cpu_of(workers[0].pid);
	pause_worker(&workers[0]);
	began = now_ms();
	for (int i = 0; i < 10; i++)
		assert_int_equal(ask(cpu), '1');
	assert_true(now_ms() - began < 18000);
	kill(workers[0].pid, SIGCONT);
	await_locality(WORKERS);
}

static void test_worker_that_leaves(void **state)
{
	int cpu;

	(void)state;
	start_workers(WORKERS);
	cpu = cpu_of(workers[0].pid);
	assert_int_equal(write(workers[0].orders, "d", 1), 1);
	/* It is pinned no more. */
	await(cpu_of(workers[0].pid) < 0);
	for (int i = 0; i < 20; i++) {
		usleep(1000);
		assert_int_equal(ask(cpu), '1');
	}
	assert_int_equal(write(workers[0].orders, "a", 1), 1);
	await_locality(WORKERS);
	assert_int_equal(write(workers[0].orders, "x", 1), 1);
	for (int i = 0; i < 20; i++)
		assert_true(ask(cpu));
}

static void test_options(void **state)
{
	int on = 1, idle = 77, epoll = epoll_create1(0), conn, value, found = 0;
	struct epoll_event event;
	socklen_t len = sizeof(int);

	(void)state;
	/* Set it before and after the members are made. */
	bind_anew();
	assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)));
	assert_ok(listen(fd, 100));
	assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle)));
	start_worker(1);
	watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
	for (int i = 0; i < 400 && found < 10; i++) {
		int client = connect_on(i % 2, &a);

		usleep(1000);
		if (epoll_wait(epoll, &event, 1, 1) == 1 &&
		    (conn = accept(fd, NULL, NULL)) >= 0) {
			assert_ok(getsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &value, &len));
			assert_int_equal(value, 1);
			assert_ok(getsockopt(conn, IPPROTO_TCP, TCP_KEEPIDLE, &value, &len));
			assert_int_equal(value, idle);
			assert_ok(getsockopt(conn, SOL_SOCKET, SO_REUSEPORT, &value, &len));
			assert_int_equal(value, 0);
			found += pinned_cpu() >= 0;
			close(conn);
		}
		close(client);
	}
	assert_int_equal(found, 10);
	close(epoll);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_each_gets_its_own),
		T(test_lone_worker),
		T(test_reuseport_is_the_programs),
		T(test_port_in_use),
		T(test_port_is_free_after_close),
		T(test_listen_twice),
		T(test_descriptors),
		T(test_run_program),
		T(test_waiting_connections_outlive_their_worker),
		T(test_worker_that_only_accepts),
		T(test_stopped_worker),
		T(test_worker_that_leaves),
		T(test_options),
	};

	/* A stopped worker does not delay connections for ever. */
	alarm(95);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
