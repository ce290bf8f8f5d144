// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: what it does for the program into which it is
 * preloaded, this one, and what it leaves unchanged.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_backend [NAME]
 */
#include "helpers.h"

#include <dirent.h>
#include <netinet/in.h>
#include <sys/resource.h>

#define WORKERS 2

static int fd;
static union address a;

struct worker {
	pid_t pid;
	int orders;
};

static struct worker workers[8];

static int setup(void **state)
{
	(void)state;
	memset(workers, 0, sizeof(workers));
	fd = listener(AF_INET, &a);
	set_nonblock(fd);
	return 0;
}

static void stop_worker(struct worker *w)
{
	if (!w->pid)
		return;
	kill(w->pid, SIGKILL);
	kill(w->pid, SIGCONT);
	waitpid(w->pid, NULL, 0);
	close(w->orders);
	w->pid = 0;
}

static int teardown(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(workers) / sizeof(*workers); i++)
		stop_worker(&workers[i]);
	close(fd);
	unpin();
	return 0;
}

static int watch(int epoll, int op, int what, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.fd = what };

	return epoll_ctl(epoll, op, what, &event);
}

static void greet_all(char letter)
{
	int conn;

	while ((conn = accept(fd, NULL, NULL)) >= 0) {
		if (write(conn, &letter, 1) != 1)
			_exit(3);
		close(conn);
	}
}

/* Greets with its letter. Orders: 'd' stops waiting for the listener, 'a' waits again. */
static void worker_main(char letter, int orders)
{
	int epoll = epoll_create1(0);
	struct epoll_event event;
	char order;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	watch(epoll, EPOLL_CTL_ADD, orders, EPOLLIN);
	watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) != 1)
			continue;
		if (event.data.fd == fd) {
			greet_all(letter);
			continue;
		}
		if (read(orders, &order, 1) != 1)
			_exit(0);
		if (order == 'x')
			exit(0);
		watch(epoll, order == 'd' ? EPOLL_CTL_DEL : EPOLL_CTL_ADD, fd, EPOLLIN);
	}
}

static void start_worker(int i)
{
	int orders[2];

	assert_ok(pipe2(orders, O_CLOEXEC));
	workers[i].pid = fork();
	assert_ok(workers[i].pid);
	if (!workers[i].pid) {
		close(orders[1]);
		worker_main('0' + i, orders[0]);
	}
	close(orders[0]);
	workers[i].orders = orders[1];
}

/* Replaces the listener by a socket that is bound and does not listen yet. */
static void bind_anew(void)
{
	close(fd);
	fd = bound_socket(AF_INET, &a);
	set_nonblock(fd);
}

static char ask(int cpu)
{
	int conn = connect_on(cpu, &a);
	char letter = greeting(conn);

	close(conn);
	return letter;
}

/* Waits until each worker answers the connections of its own CPU, 20 times in a row. */
static void await_locality(int count)
{
	int right = 0, cpu;

	for (int i = 0; i < 4000 && right < 20; i++) {
		cpu = cpu_of(workers[i % count].pid);
		if (cpu < 0) {
			/* The worker learns of the others when a connection wakes it. */
			ask(i % 2);
			usleep(1000);
			right = 0;
		} else {
			right = ask(cpu) == '0' + i % count ? right + 1 : 0;
		}
	}
	assert_int_equal(right, 20);
}

static void start_workers(int count)
{
	for (int i = 0; i < count; i++)
		start_worker(i);
	await_locality(count);
}

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
	int status;

	usleep(50000);
	assert_ok(kill(w->pid, SIGSTOP));
	assert_int_equal(waitpid(w->pid, &status, WUNTRACED), w->pid);
	assert_true(WIFSTOPPED(status));
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

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
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

static volatile sig_atomic_t ticks;

static void tick(int signal)
{
	(void)signal;
	ticks++;
}

/* A signal ends the wait, however often the library looks up. */
static void test_signals(void **state)
{
	struct itimerval timer = { .it_value.tv_usec = 7000, .it_interval.tv_usec = 7000 };
	struct sigaction action = { .sa_handler = tick };
	int epoll = epoll_create1(0), ends = 0;
	struct epoll_event event;

	(void)state;
	start_worker(1);
	watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
	for (int i = 0; i < 400 && pinned_cpu() < 0; i++) {
		ask(i % 2);
		epoll_wait(epoll, &event, 1, 1);
	}
	assert_true(pinned_cpu() >= 0);
	assert_ok(sigaction(SIGALRM, &action, NULL));
	assert_ok(setitimer(ITIMER_REAL, &timer, NULL));
	while (ends < 200) {
		errno = 0;
		if (epoll_wait(epoll, &event, 1, -1) < 0 && errno == EINTR)
			ends++;
	}
	memset(&timer, 0, sizeof(timer));
	setitimer(ITIMER_REAL, &timer, NULL);
	/* A second signal may come before the first is reported. */
	assert_true(ticks >= ends);
	close(epoll);
}

static void test_time_of_waits(void **state)
{
	static const int waits[] = { 1, 30, 100, 250 };
	int epoll = epoll_create1(0);
	struct epoll_event event;
	long began;

	(void)state;
	start_worker(1);
	watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
	for (int i = 0; i < 400 && pinned_cpu() < 0; i++) {
		ask(i % 2);
		epoll_wait(epoll, &event, 1, 1);
		while (accept(fd, NULL, NULL) >= 0)
			;
	}
	for (int i = 0; i < 4; i++) {
		began = now_ms();
		assert_int_equal(epoll_wait(epoll, &event, 1, waits[i]), 0);
		assert_true(now_ms() - began >= waits[i] - 1);
	}
	close(epoll);
}

/* The memory that the processes of a server share, of the newest group; size: of the mapping. */
static uint64_t *shared_memory(size_t *size)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	unsigned long begin, end, inode, newest = 0;
	uint64_t *found = NULL;
	char line[512];

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps))
		if (strstr(line, "/memfd:fsocket-route") &&
		    sscanf(line, "%lx-%lx %*s %*s %*s %lu", &begin, &end, &inode) == 3 &&
		    inode > newest) {
			newest = inode;
			found = (uint64_t *)begin;
			*size = end - begin;
		}
	fclose(maps);
	assert_non_null(found);
	return found;
}

/* Writes nonsense over the memory and back again for as long as it lives. */
static void write_nonsense(uint64_t *memory, size_t size)
{
	uint64_t *before = malloc(size), seed = 1, *at;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	memcpy(before, memory, size);
	for (;;) {
		seed = seed * 6364136223846793005 + 1442695040888963407;
		/* Most writes go to the first page, which has all but most workers' claims. */
		at = memory + (seed >> 33) % ((seed >> 20 & 3 ? 4096 : size) / sizeof(*at));
		*at = seed >> 24 & 3 ? before[at - memory] :
		      seed >> 28 & 1 ? 0x4141414141414141 : seed * 0x9e3779b97f4a7c15;
	}
}

/* A process that has given up rights may still write to the group's memory. */
static void test_hostile_process(void **state)
{
	size_t size;
	uint64_t *memory = shared_memory(&size);
	struct epoll_event event;
	pid_t hostile;
	int epoll, conn;

	(void)state;
	start_workers(WORKERS);
	hostile = fork();
	if (!hostile)
		write_nonsense(memory, size);
	for (int i = 0; i < 2000; i++) {
		epoll = epoll_create1(0);
		assert_ok(epoll);
		watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
		epoll_wait(epoll, &event, 1, 1);
		conn = accept(fd, NULL, NULL);
		if (conn >= 0)
			close(conn);
		close(epoll);
	}
	kill(hostile, SIGKILL);
	waitpid(hostile, NULL, 0);
	for (int i = 0; i < WORKERS; i++)
		assert_int_equal(waitpid(workers[i].pid, NULL, WNOHANG), 0);
}

static int threads_run;

static void *thread_main(void *letter)
{
	int epoll = epoll_create1(0);
	struct epoll_event event;

	watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
	while (__atomic_load_n(&threads_run, __ATOMIC_RELAXED))
		if (epoll_wait(epoll, &event, 1, 50) == 1)
			greet_all(*(char *)letter);
	close(epoll);
	return NULL;
}

static void test_threads(void **state)
{
	static char letters[] = "01";
	pthread_t threads[2];
	bool seen[2] = { false };
	char letter;

	(void)state;
	threads_run = 1;
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, thread_main, &letters[i]), 0);
	for (int i = 0; i < 400; i++) {
		letter = ask(i % 2);
		assert_true(letter == '0' || letter == '1');
		if (i > 200)
			seen[letter - '0'] = true;
	}
	__atomic_store_n(&threads_run, 0, __ATOMIC_RELAXED);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	assert_true(seen[0] && seen[1]);
}

/* accept() of a blocking listener may wait, so that listener keeps its one queue. */
static void test_blocking_listener(void **state)
{
	(void)state;
	fcntl(fd, F_SETFL, 0);
	start_worker(0);
	start_worker(1);
	for (int i = 0; i < 2; i++)
		assert_int_equal(cpu_of(workers[i].pid), -1);
}

static void test_few_descriptors(void **state)
{
	struct rlimit old, few = { .rlim_cur = 12, .rlim_max = 12 };
	union address b;
	int other;

	(void)state;
	assert_ok(getrlimit(RLIMIT_NOFILE, &old));
	few.rlim_max = old.rlim_max;
	assert_ok(setrlimit(RLIMIT_NOFILE, &few));
	other = listener(AF_INET6, &b);
	close(connect_on(0, &b));
	assert_ok(setrlimit(RLIMIT_NOFILE, &old));
	close(other);
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
		T(test_stopped_worker),
		T(test_worker_that_leaves),
		T(test_options),
		T(test_signals),
		T(test_time_of_waits),
		T(test_hostile_process),
		T(test_threads),
		T(test_blocking_listener),
		T(test_few_descriptors),
	};

	/* A stopped worker does not delay connections for ever. */
	alarm(95);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
