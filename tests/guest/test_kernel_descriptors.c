// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: what a program does with its descriptors and the options of its
 * sockets has the same effect as without the library. So all tests pass without it, too.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_descriptors [NAME]
 */
#include "helpers.h"

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
	return 0;
}

/* Nobody has the listener any more, so its port can be bound without any option. */
static void assert_port_is_free(void)
{
	int other = socket(AF_INET, SOCK_STREAM, 0);

	assert_ok(other);
	assert_ok(bind(other, &a.sa, address_len(&a)));
	close(other);
}

static void wait_for(pid_t child)
{
	int status;

	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

/* As posix_spawn() does for a program that shall not have the listener. */
static void test_vfork_and_close(void **state)
{
	pid_t child = vfork();

	(void)state;
	if (!child) {
		close(fd);
		_exit(0);
	}
	wait_for(child);
	close(fd);
	assert_port_is_free();
}

static void test_vfork_and_dup2(void **state)
{
	int null = open("/dev/null", O_RDWR);
	pid_t child;

	(void)state;
	assert_ok(null);
	child = vfork();
	if (!child) {
		dup2(null, fd);
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	wait_for(child);
	close(null);
	close(fd);
	assert_port_is_free();
}

static void test_vfork_and_socket(void **state)
{
	pid_t child = vfork();

	(void)state;
	if (!child) {
		close(fd);
		_exit(socket(AF_INET, SOCK_STREAM, 0) != fd);
	}
	wait_for(child);
	close(fd);
	assert_port_is_free();
}

/* Closes the listener and lives on. */
static int close_and_pause(void *arg)
{
	int *closed = arg;

	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
	close(fd);
	syscall(SYS_write, closed[1], "x", 1);
	for (;;)
		syscall(SYS_pause);
	return 0;
}

/* Another process with the same memory holds nothing once it has closed the listener. */
static void test_child_with_the_same_memory(void **state)
{
	static char stack[65536];
	int closed[2];
	pid_t child;
	char byte;

	(void)state;
	assert_ok(pipe(closed));
	child = clone(close_and_pause, stack + sizeof(stack), CLONE_VM | SIGCHLD, closed);
	assert_ok(child);
	assert_int_equal(read(closed[0], &byte, 1), 1);
	close(fd);
	assert_port_is_free();
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(closed[0]);
	close(closed[1]);
}

/* A child that the C library does not know has descriptors of its own, which it closes. */
static void test_child_by_clone(void **state)
{
	int closed[2];
	pid_t child;
	char byte;

	(void)state;
	assert_ok(pipe(closed));
	child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
	assert_ok(child);
	if (!child)
		close_and_pause(closed);
	assert_int_equal(read(closed[0], &byte, 1), 1);
	close(fd);
	assert_port_is_free();
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	close(closed[0]);
	close(closed[1]);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_vfork_and_close),
		T(test_vfork_and_dup2),
		T(test_vfork_and_socket),
		T(test_child_with_the_same_memory),
		T(test_child_by_clone),
	};

	alarm(60);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
