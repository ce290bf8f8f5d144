// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: a program that runs itself again in the same process, with
 * its listener, as uWSGI does at a reload, and programs that others run.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_exec [NAME]
 */
#include "helpers.h"

#include <dirent.h>
#include <libgen.h>

#include "../../library/route.h"

#define WORKERS 2
/* The library's descriptors have higher numbers, and those of this program lower ones. */
#define HIGH 100
#define WAITING 20

/* What a server says of itself when it has started. */
struct report {
	pid_t workers[WORKERS];
	int taken;	/* the number that it takes for its listener's */
	int open;	/* descriptors of the library that the next program would have */
	bool variable;	/* it sees the library's variable */
};

static char program[4096];
static int fd;
static union address a;

static int high_numbers(bool inherited)
{
	int count = 0;

	for (int number = HIGH; number < 1024; number++) {
		int flags = fcntl(number, F_GETFD);

		count += flags >= 0 && !(inherited && flags & FD_CLOEXEC);
	}
	return count;
}

/* Returns how many claims of this process the library's memory holds. */
static int claims_here(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	const struct route *r;
	unsigned long begin;
	char line[512];
	int count = 0;

	assert_non_null(maps);
	while (fgets(line, sizeof(line), maps)) {
		if (!strstr(line, "/memfd:fsocket-route") || sscanf(line, "%lx", &begin) != 1)
			continue;
		r = (const struct route *)begin;
		for (int i = 0; i < claims_of(r); i++)
			count += r->claims[i].owner && r->claims[i].pid == getpid();
	}
	fclose(maps);
	return count;
}

static int watch_listener(void)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	assert_ok(epoll);
	assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	return epoll;
}

static void work(char letter)
{
	struct epoll_event event;
	int epoll, conn;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	epoll = watch_listener();
	for (;;) {
		epoll_wait(epoll, &event, 1, -1);
		while ((conn = accept(fd, NULL, NULL)) >= 0) {
			if (write(conn, &letter, 1) != 1)
				_exit(3);
			close(conn);
		}
	}
}

/* Looks for the listener as uWSGI does: the last number with the wanted address. */
static int find_listener(void)
{
	union address wanted, found;
	socklen_t len = sizeof(wanted);
	int taken = -1;

	assert_ok(getsockname(fd, &wanted.sa, &len));
	for (int number = 3; number < 1024; number++) {
		len = sizeof(found);
		if (!getsockname(number, &found.sa, &len) && len == sizeof(found.in) &&
		    found.in.sin_port == wanted.in.sin_port)
			taken = number;
	}
	return taken;
}

/*
 * A server: "serve LETTER LISTENER ORDERS REPORTS". When it reads an order, it ends its workers
 * and runs its program again: by its path, or by its name ('n').
 */
static void serve(char **arguments)
{
	char letter = *arguments[2], next[] = { letter + WORKERS, '\0' }, order;
	ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);
	struct report report = { .variable = getenv("FSOCKET_KEPT") };
	int orders = atoi(arguments[4]);

	assert_true(length > 0);
	fd = atoi(arguments[3]);
	report.open = high_numbers(true);
	report.taken = find_listener();
	for (int i = 0; i < WORKERS; i++) {
		report.workers[i] = fork();
		if (!report.workers[i])
			work(letter + i);
	}
	if (write(atoi(arguments[5]), &report, sizeof(report)) != sizeof(report) ||
	    read(orders, &order, 1) != 1)
		_exit(4);
	for (int i = 0; i < WORKERS; i++)
		kill(report.workers[i], SIGKILL);
	while (wait(NULL) > 0)
		;
	arguments[2] = next;
	if (order == 'n') {
		setenv("PATH", dirname(strdup(program)), 1);
		arguments[0] = basename(strdup(program));
		execvp(arguments[0], arguments);
	}
	execv(program, arguments);
	_exit(5);
}

struct server {
	pid_t pid;
	int orders, reports;
	char letter;
	struct report now;
};

static void read_report(struct server *s, int letter)
{
	s->letter = letter;
	assert_int_equal(read(s->reports, &s->now, sizeof(s->now)), sizeof(s->now));
	assert_int_equal(s->now.taken, fd);
	assert_int_equal(s->now.open, 0);
	assert_false(s->now.variable);
}

static void start_server(struct server *s)
{
	char letter[] = "a", listener[16], order[16], report[16];
	char *arguments[] = { program, "serve", letter, listener, order, report, NULL };
	int orders[2], reports[2];

	assert_ok(pipe(orders));
	assert_ok(pipe(reports));
	sprintf(listener, "%d", fd);
	sprintf(order, "%d", orders[0]);
	sprintf(report, "%d", reports[1]);
	s->pid = fork();
	if (!s->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(orders[1]);
		serve(arguments);
	}
	/* From now on nobody else has the listener, nor what the library has beside it. */
	s->orders = orders[1];
	s->reports = reports[0];
	close(orders[0]);
	close(reports[1]);
	read_report(s, 'a');
	close(fd);
}

static char ask(int cpu)
{
	int conn = connect_on(cpu, &a);
	char letter = greeting(conn);

	close(conn);
	return letter;
}

/* Waits until each worker answers the connections of its own CPU, 20 times in a row. */
static void await_locality(const struct server *s)
{
	int right = 0;

	for (int i = 0; i < 4000 && right < 20; i++) {
		int worker = i % WORKERS, cpu = cpu_of(s->now.workers[worker]);

		if (cpu < 0) {
			/* The worker learns of the others when a connection wakes it. */
			ask(i % 2);
			usleep(1000);
			right = 0;
		} else {
			right = ask(cpu) == s->letter + worker ? right + 1 : 0;
		}
	}
	assert_int_equal(right, 20);
}

static void stop_worker(pid_t pid)
{
	char path[64], text[512], *state;
	FILE *file;

	assert_ok(kill(pid, SIGSTOP));
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	do {
		file = fopen(path, "r");
		assert_non_null(file);
		assert_non_null(fgets(text, sizeof(text), file));
		fclose(file);
		state = strrchr(text, ')');
		assert_non_null(state);
	} while (state[2] != 'T');
}

static void setup_group(void)
{
	fd = listener(AF_INET, &a);
	set_nonblock(fd);
	assert_true(high_numbers(false) >= WORKERS + 1);
	assert_int_equal(high_numbers(true), 0);
}

static void test_reload(void **state)
{
	static const char orders[] = "pnp";
	int conns[WAITING], cpus[WORKERS];
	struct server s;

	(void)state;
	setup_group();
	start_server(&s);
	for (int round = 0; orders[round]; round++) {
		await_locality(&s);
		for (int i = 0; i < WORKERS; i++) {
			cpus[i] = cpu_of(s.now.workers[i]);
			stop_worker(s.now.workers[i]);
		}
		for (int i = 0; i < WAITING; i++)
			conns[i] = connect_on(cpus[i % WORKERS], &a);
		assert_int_equal(write(s.orders, &orders[round], 1), 1);
		read_report(&s, s.letter + WORKERS);
		for (int i = 0; i < WAITING; i++) {
			char letter = greeting(conns[i]);

			assert_true(letter == s.letter || letter == s.letter + 1);
			close(conns[i]);
		}
	}
	await_locality(&s);
	/* The listener is closed with the server: no other process keeps the port. */
	kill(s.pid, SIGKILL);
	waitpid(s.pid, NULL, 0);
	for (int i = 0; i < WORKERS; i++)
		while (!kill(s.now.workers[i], 0))
			usleep(1000);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	assert_errno(connect(fd, &a.sa, address_len(&a)), ECONNREFUSED);
	close(fd);
}

/* What a program finds that the test runs: "tell LISTENER". */
static void tell(int listener)
{
	int all = high_numbers(false), inherited = high_numbers(true), claims = claims_here();

	close(listener);
	printf("%d %d %d %d\n", all, inherited, high_numbers(false), claims);
	exit(0);
}

struct found {
	int all, inherited, after_close, claims;
};

static struct found what_is_told(const int *out)
{
	struct found found;
	FILE *text;

	close(out[1]);
	text = fdopen(out[0], "r");
	assert_int_equal(fscanf(text, "%d %d %d %d", &found.all, &found.inherited,
				&found.after_close, &found.claims), 4);
	fclose(text);
	wait(NULL);
	return found;
}

/* Returns what a program finds that a child runs. */
static struct found told_by(void (*run)(char **arguments))
{
	char listener[16], *arguments[] = { program, "tell", listener, NULL };
	int out[2];

	snprintf(listener, sizeof(listener), "%d", fd);
	assert_ok(pipe(out));
	if (!fork()) {
		dup2(out[1], 1);
		run(arguments);
		_exit(6);
	}
	return what_is_told(out);
}

static void by_path(char **arguments)
{
	execv(program, arguments);
}

/* This child has waited for connections. */
static void by_worker(char **arguments)
{
	struct epoll_event event;
	int epoll = watch_listener();

	epoll_wait(epoll, &event, 1, 1);
	if (claims_here() == 1)
		execv(program, arguments);
}

static void without_library(char **arguments)
{
	unsetenv("LD_PRELOAD");
	execv(program, arguments);
}

static void with_another_library(char **arguments)
{
	setenv("LD_PRELOAD", "/nonexistent/libother.so", 1);
	execv(program, arguments);
}

static void with_module(char **arguments)
{
	setenv("FSOCKET_BACKEND", "module", 1);
	execv(program, arguments);
}

/* Another file with the same program, which might as well be static. */
static void of_a_copy(char **arguments)
{
	char copy[sizeof(program) + 8], command[3 * sizeof(program)];
	FILE *copied;

	snprintf(copy, sizeof(copy), "%s.copy", program);
	snprintf(command, sizeof(command), "cp '%s' '%s'", program, copy);
	copied = popen(command, "r");
	if (copied && !pclose(copied))
		execv(copy, arguments);
}

static void without_listener(char **arguments)
{
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	execv(program, arguments);
}

static void *sleep_long(void *unused)
{
	(void)unused;
	for (;;)
		pause();
	return NULL;
}

/* The other thread might run a program while the descriptors are inherited. */
static void beside_a_thread(char **arguments)
{
	pthread_t thread;

	if (!pthread_create(&thread, NULL, sleep_long, NULL))
		execv(program, arguments);
}

static void test_same_program(void **state)
{
	struct found found;

	(void)state;
	setup_group();
	found = told_by(by_path);
	assert_int_equal(found.all, high_numbers(false));
	assert_int_equal(found.inherited, 0);
	/* close() of the listener closes the library's descriptors, too. */
	assert_int_equal(found.after_close, 0);
	found = told_by(by_worker);
	assert_int_equal(found.all, high_numbers(false));
	assert_int_equal(found.claims, 0);
	close(fd);
}

static void test_others_get_nothing(void **state)
{
	void (*const ways[])(char **) = {
		without_library, with_another_library, with_module, of_a_copy, without_listener,
		beside_a_thread,
	};
	char copy[sizeof(program) + 8];

	(void)state;
	setup_group();
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		print_message("way %zu\n", i);
		assert_int_equal(told_by(ways[i]).all, 0);
	}
	snprintf(copy, sizeof(copy), "%s.copy", program);
	unlink(copy);
	close(fd);
}

/* The kernel refuses to run the program with an argument that is too long. */
static void test_exec_fails(void **state)
{
	char *arguments[] = { program, calloc(1, 1 << 20), NULL };

	(void)state;
	setup_group();
	memset(arguments[1], 'x', (1 << 20) - 1);
	assert_errno(execv(program, arguments), E2BIG);
	assert_int_equal(high_numbers(true), 0);
	assert_null(getenv("FSOCKET_KEPT"));
	free(arguments[1]);
	close(fd);
}

static __attribute__((noinline)) int first_high_number(void)
{
	int number = HIGH;

	while (fcntl(number, F_GETFD) < 0)
		number++;
	return number;
}

/* What a program finds that a child of vfork() runs; closing: it closes the library's numbers. */
static struct found told_by_vfork(bool closing)
{
	char listener[16], *arguments[] = { program, "tell", listener, NULL };
	const int first = first_high_number();
	int out[2];

	snprintf(listener, sizeof(listener), "%d", fd);
	assert_ok(pipe(out));
	if (!vfork()) {
		dup2(out[1], 1);
		if (closing) {
			close_range(HIGH, ~0U, 0);
			dup2(1, first);
		}
		execv(program, arguments);
		_exit(6);
	}
	return what_is_told(out);
}

/* A child of vfork() shares the memory and has descriptors of its own. */
static void test_vfork(void **state)
{
	struct found found;

	(void)state;
	setup_group();
	found = told_by_vfork(false);
	assert_int_equal(found.all, high_numbers(false));
	assert_int_equal(found.inherited, 0);
	/* The program has given one of the numbers to a file of its own, which stays open. */
	found = told_by_vfork(true);
	assert_int_equal(found.all, 1);
	assert_int_equal(found.after_close, 1);
	assert_int_equal(high_numbers(true), 0);
	assert_null(getenv("FSOCKET_KEPT"));
	close(fd);
}

/* The library ignores a variable that names the process ID of another process. */
static void test_old_variable(void **state)
{
	char text[64];

	(void)state;
	setup_group();
	snprintf(text, sizeof(text), "1 %d=0,1,2", fd);
	setenv("FSOCKET_KEPT", text, 1);
	assert_int_equal(told_by(without_listener).all, 0);
	unsetenv("FSOCKET_KEPT");
	close(fd);
}

static int setup(void **state)
{
	ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);

	(void)state;
	/* Close what this program has inherited, so that high numbers are those of the library. */
	for (int number = HIGH; number < 1024; number++)
		close(number);
	return length < 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup(name, setup)
		T(test_reload),
		T(test_same_program),
		T(test_others_get_nothing),
		T(test_exec_fails),
		T(test_vfork),
		T(test_old_variable),
	};

	alarm(60);
	if (argc == 6 && !strcmp(argv[1], "serve"))
		serve(argv);
	if (argc == 3 && !strcmp(argv[1], "tell"))
		tell(atoi(argv[2]));
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
