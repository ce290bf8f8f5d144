// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: processes that a server starts, each of which listens on the
 * socket that their parent has bound, and what a process finds where it starts: limits and files.
 *	[LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel] ./test_kernel_starts [NAME]
 */
#include "kernel_workers.h"

#include <stdatomic.h>
#include <sys/ptrace.h>
#include <sys/resource.h>

#define ARGUMENT "start"
/* A process that has not listened yet, and one that has; it serves from then on. */
#define BEGUN 1
#define LISTENS 2

/* What each process that the test starts tells. */
struct start {
	atomic_int stage;
	atomic_int reuseport;
};

/* The processes, and the program that each of them runs anew, have this memory as a file. */
static struct start *starts;
static int memory;
/* A process listens when it has read a byte from its pipe. */
static int orders[MOST][2];

static void map_starts(void)
{
	starts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	if (starts == MAP_FAILED)
		_exit(7);
}

/* A process as the parent has started it. */
static void listen_and_serve(int i, int order)
{
	socklen_t len = sizeof(int);
	int value = -1;
	char byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Where a process may look at its children only, these may look at each other. */
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	atomic_store(&starts[i].stage, BEGUN);
	if (read(order, &byte, 1) != 1 || listen(fd, 64))
		_exit(8);
	getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &value, &len);
	atomic_store(&starts[i].reuseport, value);
	atomic_store(&starts[i].stage, LISTENS);
	serve('0' + i, accept_by_name);
}

/* The program that a process runs anew: "start NUMBER LISTENER MEMORY ORDER". */
static void run_start(char **arguments)
{
	fd = atoi(arguments[3]);
	memory = atoi(arguments[4]);
	map_starts();
	listen_and_serve(atoi(arguments[2]), atoi(arguments[5]));
}

static void start(int i, bool program)
{
	char number[4][16], *arguments[] = { "/proc/self/exe", ARGUMENT, number[0], number[1],
					     number[2], number[3], NULL };

	assert_ok(pipe(orders[i]));
	workers[i] = fork();
	assert_ok(workers[i]);
	if (!workers[i] && program) {
		sprintf(number[0], "%d", i);
		sprintf(number[1], "%d", fd);
		sprintf(number[2], "%d", memory);
		sprintf(number[3], "%d", orders[i][0]);
		execv(*arguments, arguments);
		_exit(9);
	}
	if (!workers[i])
		listen_and_serve(i, orders[i][0]);
	await(atomic_load(&starts[i].stage) == BEGUN);
}

static void order_to_listen(int i)
{
	assert_int_equal(write(orders[i][1], "l", 1), 1);
}

static bool listens(int i)
{
	assert_int_equal(waitpid(workers[i], NULL, WNOHANG), 0);
	return atomic_load(&starts[i].stage) == LISTENS;
}

static int setup_starts(void **state)
{
	(void)state;
	memset(workers, 0, sizeof(workers));
	memset(orders, 0, sizeof(orders));
	memory = syscall(SYS_memfd_create, "starts", 0);
	assert_ok(memory);
	assert_ok(ftruncate(memory, 4096));
	map_starts();
	fd = bound_socket(AF_INET, &a);
	set_nonblock(fd);
	return 0;
}

static int teardown_starts(void **state)
{
	for (int i = 0; i < MOST; i++)
		for (int end = 0; end < 2 && orders[i][1]; end++)
			close(orders[i][end]);
	teardown(state);
	munmap(starts, 4096);
	return close(memory);
}

/* From now on the process stops at each system call, first at the read() of its order. */
static void trace(int i)
{
	int status;

	if (ptrace(PTRACE_SEIZE, workers[i], NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)) {
		assert_int_equal(errno, EPERM);
		skip();
	}
	assert_ok(ptrace(PTRACE_INTERRUPT, workers[i], NULL, NULL));
	assert_int_equal(waitpid(workers[i], &status, __WALL), workers[i]);
	assert_true(WIFSTOPPED(status));
}

/* Lets it run until it makes a system call, or has made one. */
static void step(int i, struct __ptrace_syscall_info *info)
{
	int status, signal = 0;

	do {
		assert_ok(ptrace(PTRACE_SYSCALL, workers[i], NULL, signal));
		assert_int_equal(waitpid(workers[i], &status, __WALL), workers[i]);
		/* It must not have ended. */
		assert_true(WIFSTOPPED(status));
		signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
	} while (WSTOPSIG(status) != (SIGTRAP | 0x80));
	assert_true(ptrace(PTRACE_GET_SYSCALL_INFO, workers[i], sizeof(*info), info) > 0);
}

static bool sets_reuseport(const struct __ptrace_syscall_info *info)
{
	return info->op == PTRACE_SYSCALL_INFO_ENTRY && info->entry.nr == SYS_setsockopt &&
	       (int)info->entry.args[0] == fd && info->entry.args[1] == SOL_SOCKET &&
	       info->entry.args[2] == SO_REUSEPORT;
}

static bool waits(const struct __ptrace_syscall_info *info)
{
	return info->op == PTRACE_SYSCALL_INFO_ENTRY && info->entry.nr == SYS_clock_nanosleep;
}

/*
 * Two processes listen at the same moment. The first one gets to where it changes the listener, or
 * has just changed it, and goes on when the second one listens, or waits for the first.
 */
static void listen_at_once(bool program, bool changed)
{
	struct __ptrace_syscall_info info;
	bool changes = false;

	/* Under a filter of system calls the library takes nothing over from other programs. */
	if (prctl(PR_GET_SECCOMP) > 0)
		skip();
	for (int i = 0; i < 2; i++) {
		start(i, program);
		trace(i);
	}
	order_to_listen(0);
	while (!changes && atomic_load(&starts[0].stage) != LISTENS) {
		step(0, &info);
		changes = sets_reuseport(&info);
	}
	assert_true(changes || !grouped());
	if (changes && changed)
		step(0, &info);
	order_to_listen(1);
	do {
		step(1, &info);
	} while (atomic_load(&starts[1].stage) != LISTENS && !waits(&info));
	for (int i = 0; i < 2; i++)
		assert_ok(ptrace(PTRACE_DETACH, workers[i], NULL, NULL));
	await(listens(0) && listens(1));
}

static bool two_have_cpus(void)
{
	return cpu_of(workers[0]) >= 0 && cpu_of(workers[2]) >= 0;
}

/*
 * A third process starts. Then it and the first one end with connections that wait for them, and
 * the second one is left and answers these.
 */
static void leave_the_second(bool program)
{
	int conns[8];

	start(2, program);
	order_to_listen(2);
	await(listens(2));
	for (int i = 0; i < 3; i++)
		assert_int_equal(atomic_load(&starts[i].reuseport), 0);
	for (int i = 0; i < (grouped() ? 4000 : 20) && !two_have_cpus(); i++) {
		assert_true(ask(i % 2));
		usleep(1000);
	}
	if (grouped())
		await_local(0, 2);
	for (int i = 0; i < 3; i++)
		pause_worker(i);
	for (int i = 0; i < 8; i++)
		conns[i] = connect_on(i % 2, &a);
	kill_worker(0);
	kill_worker(2);
	assert_ok(kill(workers[1], SIGCONT));
	for (int i = 0; i < 8; i++) {
		assert_int_equal(greeting(conns[i]), '1');
		close(conns[i]);
	}
	for (int i = 0; i < 8; i++)
		assert_int_equal(ask(i % 2), '1');
}

static void test_programs_listen_at_once(void **state)
{
	(void)state;
	listen_at_once(true, false);
	leave_the_second(true);
}

static void test_program_listens_halfway(void **state)
{
	(void)state;
	listen_at_once(true, true);
	leave_the_second(true);
}

static void test_children_listen_at_once(void **state)
{
	(void)state;
	listen_at_once(false, false);
	leave_the_second(false);
}

static void test_child_listens_halfway(void **state)
{
	(void)state;
	listen_at_once(false, true);
	leave_the_second(false);
}

/* The same where the second one listens later, on a socket that its parent has made. */
static void test_children_listen_in_turn(void **state)
{
	(void)state;
	if (prctl(PR_GET_SECCOMP) > 0)
		skip();
	for (int i = 0; i < 2; i++) {
		start(i, false);
		order_to_listen(i);
		await(listens(i));
	}
	leave_the_second(false);
}

static volatile sig_atomic_t signals;

static void count_signal(int signal)
{
	(void)signal;
	signals++;
}

/* As in a unit with LimitFSIZE=0. A file that gets larger than the limit ends the program. */
static void test_no_file_may_grow(void **state)
{
	struct rlimit before, none;

	(void)state;
	assert_ok(getrlimit(RLIMIT_FSIZE, &before));
	none = before;
	none.rlim_cur = 0;
	signals = 0;
	signal(SIGXFSZ, count_signal);
	close(fd);
	assert_ok(setrlimit(RLIMIT_FSIZE, &none));
	fd = listener(AF_INET, &a);
	assert_ok(setrlimit(RLIMIT_FSIZE, &before));
	signal(SIGXFSZ, SIG_DFL);
	set_nonblock(fd);
	assert_int_equal(signals, 0);
	for (int i = 0; i < 2; i++)
		start_worker(i, accept_by_name);
	if (grouped()) {
		await_workers(0, 1);
		await_local(0, 1);
	}
	answer_all(2);
}

/* Workers see no file of the machine, so none that says how many CPUs there are. */
static void test_empty_root(void **state)
{
	char path[] = "/tmp/startsXXXXXX";
	int folder;

	(void)state;
	if (geteuid())
		skip();
	assert_non_null(mkdtemp(path));
	folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_ok(rmdir(path));
	assert_ok(folder);
	for (int i = 0; i < 2; i++) {
		workers[i] = fork();
		assert_ok(workers[i]);
		if (workers[i])
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (fchdir(folder) || chroot("."))
			_exit(10);
		serve('0' + i, accept_by_name);
	}
	close(folder);
	if (grouped()) {
		await_workers(0, 1);
		await_local(0, 1);
	}
	answer_all(2);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup_starts, teardown_starts)
		T(test_programs_listen_at_once),
		T(test_program_listens_halfway),
		T(test_children_listen_at_once),
		T(test_child_listens_halfway),
		T(test_children_listen_in_turn),
#undef T
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_no_file_may_grow),
		T(test_empty_root),
	};

	if (argc == 6 && !strcmp(argv[1], ARGUMENT))
		run_start(argv);
	alarm(90);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
