// SPDX-License-Identifier: GPL-2.0-only
/*
 * What libfsocket.so does to the program into which it is preloaded, this one.
 *
 *	LD_PRELOAD=libfsocket.so ./test_library [NAME]
 */
#include "helpers.h"

#include <dirent.h>
#include <limits.h>
#include <sys/resource.h>

static int fd;
static union address a;

static int setup(void **state)
{
	(void)state;
	fd = listener(AF_INET, &a);
	set_nonblock(fd);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	close(fd);
	unpin();
	patience(false);
	return 0;
}

static int watch(int epoll, int op, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.fd = fd };

	return epoll_ctl(epoll, op, fd, &event);
}

/*
 * Starts a worker process on that CPU, which greets each connection with its letter.
 * Each byte from `orders` is an operation that it does on its listener.
 */
struct process {
	pid_t pid;
	int orders, answers;
};

static void worker_main(int cpu, char letter, int orders, int answers)
{
	int epoll = epoll_create1(0), ret;
	struct epoll_event event = { .events = EPOLLIN, .data.fd = orders };
	char order;

	pin(cpu);
	epoll_ctl(epoll, EPOLL_CTL_ADD, orders, &event);
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) != 1)
			_exit(1);
		if (event.data.fd == fd) {
			int conn = accept(fd, NULL, NULL);

			if (conn < 0)
				continue;
			ret = write(conn, &letter, 1);
			close(conn);
			continue;
		}
		if (read(orders, &order, 1) != 1)
			_exit(0);
		switch (order) {
		case 'a':
			ret = watch(epoll, EPOLL_CTL_ADD, EPOLLIN);
			break;
		case 'd':
			ret = watch(epoll, EPOLL_CTL_DEL, 0);
			break;
		case '0':
			ret = watch(epoll, EPOLL_CTL_MOD, 0);
			break;
		case '1':
			ret = watch(epoll, EPOLL_CTL_MOD, EPOLLIN);
			break;
		case 'c':
			ret = close(fd);
			break;
		case 'x':
			/* Closes all descriptors, as daemons do. */
			ret = syscall(SYS_close_range, answers + 1 > fd ? answers + 1 : fd + 1,
				      UINT_MAX, 0);
			break;
		default:
			ret = -1;
		}
		order = ret ? '!' : '.';
		if (write(answers, &order, 1) != 1)
			_exit(1);
	}
}

static struct process start_worker(int cpu, char letter)
{
	int orders[2], answers[2];
	struct process p;

	assert_ok(pipe(orders));
	assert_ok(pipe(answers));
	p.pid = fork();
	assert_ok(p.pid);
	if (!p.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(orders[1]);
		worker_main(cpu, letter, orders[0], answers[1]);
	}
	close(orders[0]);
	close(answers[1]);
	p.orders = orders[1];
	p.answers = answers[0];
	return p;
}

static void order(struct process p, char what)
{
	char answer;

	assert_int_equal(write(p.orders, &what, 1), 1);
	assert_int_equal(read(p.answers, &answer, 1), 1);
	assert_int_equal(answer, '.');
}

static void stop_worker(struct process p)
{
	/* Closing the pipe is not enough, since a later worker has inherited it. */
	kill(p.pid, SIGKILL);
	assert_ok(waitpid(p.pid, NULL, 0));
	close(p.orders);
	close(p.answers);
}

static char who_answers(int cpu)
{
	int conn = connect_on(cpu, &a);
	char letter = greeting(conn);

	close(conn);
	return letter;
}

static void workers_are_local(void **state)
{
	struct process zero = start_worker(0, 'A'), one = start_worker(1, 'B');
	unsigned long long before;

	(void)state;
	patience(true);
	order(zero, 'a');
	order(one, 'a');
	before = counter("accept_local", -1);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(who_answers(0), 'A');
		assert_int_equal(who_answers(1), 'B');
	}
	assert_int_equal(counter("accept_local", -1) - before, 40);
	stop_worker(zero);
	stop_worker(one);
}

static void others_take_over(char pause, char resume)
{
	struct process zero = start_worker(0, 'A'), one = start_worker(1, 'B');

	patience(true);
	order(zero, 'a');
	order(one, 'a');
	assert_int_equal(who_answers(0), 'A');
	order(zero, pause);
	for (int i = 0; i < 5; i++)
		assert_int_equal(who_answers(0), 'B');
	if (resume) {
		order(zero, resume);
		for (int i = 0; i < 5; i++)
			assert_int_equal(who_answers(0), 'A');
	}
	stop_worker(zero);
	stop_worker(one);
}

static void del_and_add(void **state)
{
	(void)state;
	others_take_over('d', 'a');
}

static void mod_to_nothing_and_back(void **state)
{
	(void)state;
	others_take_over('0', '1');
}

static void close_ends_it(void **state)
{
	(void)state;
	others_take_over('c', 0);
}

static void device_closed_by_the_program(void **state)
{
	struct process zero = start_worker(0, 'A'), one = start_worker(1, 'B');
	unsigned long long before = counter("accept_local", -1);

	(void)state;
	patience(true);
	order(zero, 'x');
	order(zero, 'a');
	order(one, 'a');
	for (int i = 0; i < 5; i++)
		assert_int_equal(who_answers(0), 'A');
	assert_int_equal(counter("accept_local", -1) - before, 5);
	stop_worker(zero);
	stop_worker(one);
}

static void dead_worker_is_replaced(void **state)
{
	struct process zero = start_worker(0, 'A'), one = start_worker(1, 'B');

	(void)state;
	order(zero, 'a');
	order(one, 'a');
	assert_int_equal(who_answers(0), 'A');
	stop_worker(zero);
	for (int i = 0; i < 5; i++)
		assert_int_equal(who_answers(0), 'B');
	stop_worker(one);
}

/* The calls have the same meaning as without the library. */
static void errors_are_the_systems(void **state)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(0), file = open("/dev/null", O_RDONLY), copy;

	(void)state;
	assert_errno(listen(-1, 1), EBADF);
	assert_errno(listen(file, 1), ENOTSOCK);
	assert_errno(close(-1), EBADF);
	assert_errno(close(INT_MAX), EBADF);
	assert_errno(epoll_ctl(epoll, EPOLL_CTL_ADD, -1, &event), EBADF);
	assert_errno(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, NULL), EFAULT);
	assert_errno(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event), ENOENT);
	assert_errno(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL), ENOENT);
	assert_errno(epoll_ctl(-1, EPOLL_CTL_ADD, fd, &event), EBADF);
	assert_errno(epoll_ctl(epoll, 77, fd, &event), EINVAL);
	assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	assert_errno(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), EEXIST);
	assert_errno(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, NULL), EFAULT);
	assert_errno(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, (void *)8), EFAULT);

	copy = dup(fd);
	assert_ok(close(fd));
	assert_errno(close(fd), EBADF);
	/* The number is free again, and means the next file that gets it. */
	assert_int_equal(dup2(file, fd), fd);
	assert_errno(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), EPERM);
	assert_ok(close(fd));
	fd = copy;
	close(file);
	close(epoll);
}

static void errno_is_left_alone(void **state)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(0);
	union address b;
	int other = bound_socket(AF_INET, &b);

	(void)state;
	errno = 4711;
	assert_int_equal(listen(other, 10), 0);
	assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_ADD, other, &event), 0);
	assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_MOD, other, &event), 0);
	assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_DEL, other, &event), 0);
	assert_int_equal(close(other), 0);
	assert_int_equal(errno, 4711);
	close(epoll);
}

static int reuseport(int sock)
{
	int value = -1;
	socklen_t len = sizeof(value);

	assert_ok(getsockopt(sock, SOL_SOCKET, SO_REUSEPORT, &value, &len));
	assert_int_equal(len, sizeof(value));
	return value;
}

/* Local listeners need the option set; the program reads the value that it has set itself. */
static void reuseport_is_the_programs(void **state)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(0), value = 1, other;
	unsigned long long before = counter("spawn", -1);
	socklen_t len = 1;
	union address b;
	char byte = 'x';

	(void)state;
	other = listener(AF_INET, &b);
	assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, other, &event));
	/* For a lone worker the listener stays as it was. */
	assert_int_equal(counter("spawn", -1) - before, 0);
	assert_int_equal(reuseport(other), 0);
	assert_ok(listen(other, 20));
	assert_int_equal(reuseport(other), 0);
	/*
	 * The option may be as short as the program asks, and the errors are those of
	 * the system.
	 */
	assert_ok(getsockopt(other, SOL_SOCKET, SO_REUSEPORT, &byte, &len));
	assert_int_equal(len, 1);
	assert_int_equal(byte, 0);
	assert_errno(getsockopt(other, SOL_SOCKET, SO_REUSEPORT, NULL, &len), EFAULT);
	assert_errno(setsockopt(other, SOL_SOCKET, SO_REUSEPORT, &value, 1), EINVAL);
	assert_int_equal(reuseport(other), 0);
	assert_ok(setsockopt(other, SOL_SOCKET, SO_REUSEPORT, &value, sizeof(value)));
	assert_int_equal(reuseport(other), 1);
	close(other);
	/* The next socket with this number is not a listener. */
	assert_int_equal(socket(AF_INET, SOCK_STREAM, 0), other);
	assert_int_equal(reuseport(other), 0);
	close(other);
	close(epoll);
}

/* A socket that the module refuses is served by the ordinary listener. */
static void refused_listener_serves_all_the_same(void **state)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(0), one = 1, client, other;
	socklen_t len = sizeof(a);
	union address b = { .in = { .sin_family = AF_INET } };

	(void)state;
	other = socket(AF_INET, SOCK_STREAM, 0);
	b.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_ok(setsockopt(other, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)));
	assert_ok(bind(other, &b.sa, sizeof(b.in)));
	assert_ok(getsockname(other, &b.sa, &len));
	assert_ok(listen(other, 10));
	assert_int_equal(reuseport(other), 1);
	assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, other, &event));
	client = connect_on(0, &b);
	assert_int_equal(epoll_wait(epoll, &event, 1, 5000), 1);
	accept_and_greet(other, 'R');
	assert_int_equal(greeting(client), 'R');
	close(client);
	close(other);
	close(epoll);
}

static int open_devices(void)
{
	DIR *dir = opendir("/proc/self/fd");
	char link[300], path[64];
	struct dirent *entry;
	int count = 0;
	ssize_t len;

	assert_non_null(dir);
	while ((entry = readdir(dir))) {
		snprintf(link, sizeof(link), "/proc/self/fd/%s", entry->d_name);
		len = readlink(link, path, sizeof(path) - 1);
		if (len < 0)
			continue;
		path[len] = '\0';
		count += !strcmp(path, FSOCKET_DEVICE);
	}
	closedir(dir);
	return count;
}

static void one_device_for_many_listeners(void **state)
{
	union address b;
	int epoll = epoll_create1(0), fds[50], first, next;
	struct epoll_event event = { .events = EPOLLIN };

	(void)state;
	first = dup(0);
	close(first);
	for (int i = 0; i < 50; i++) {
		fds[i] = listener(AF_INET, &b);
		assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event));
	}
	assert_int_equal(open_devices(), 1);
	for (int i = 0; i < 50; i++)
		close(fds[i]);
	/* The program gets the same numbers as without the library. */
	next = dup(0);
	assert_int_equal(next, first);
	close(next);
	close(epoll);
}

/* The process gets no further page after its first listen(). */
static void without_memory(void **state)
{
	struct epoll_event event;
	struct rlimit old, none;
	int epoll, client;

	(void)state;
	assert_ok(getrlimit(RLIMIT_AS, &old));
	none = old;
	none.rlim_cur = 0;
	assert_ok(setrlimit(RLIMIT_AS, &none));
	assert_ptr_equal(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
			 MAP_FAILED);
	fd = listener(AF_INET, &a);
	epoll = epoll_create1(0);
	assert_ok(watch(epoll, EPOLL_CTL_ADD, EPOLLIN));
	client = connect_on(2, &a);
	assert_int_equal(epoll_wait(epoll, &event, 1, 10000), 1);
	accept_and_greet(fd, 'm');
	assert_int_equal(greeting(client), 'm');
	assert_ok(setrlimit(RLIMIT_AS, &old));
	assert_int_equal(claims(&a), 1);
	close(client);
	close(epoll);
	close(fd);
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(workers_are_local),
		T(del_and_add),
		T(mod_to_nothing_and_back),
		T(close_ends_it),
		T(device_closed_by_the_program),
		T(dead_worker_is_replaced),
		T(errors_are_the_systems),
		T(errno_is_left_alone),
		T(reuseport_is_the_programs),
		T(refused_listener_serves_all_the_same),
		T(one_device_for_many_listeners),
		/* This test needs no setup(), since it makes its own listener. */
		cmocka_unit_test(without_memory),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
