// SPDX-License-Identifier: GPL-2.0-only
/*
 * What few programs do with a listener works with local listeners as with the stock kernel.
 * Runs in the guest as root with fastsocket.ko loaded. Usage: test_stock [TEST]
 */
#include "worker.h"

/* --- ways to wait ----------------------------------------------------------------- */

static void set_async(int fd, bool by_ioctl)
{
	int on = 1;

	assert_ok(fcntl(fd, F_SETOWN, getpid()));
	if (by_ioctl)
		assert_ok(ioctl(fd, FIOASYNC, &on));
	else
		assert_ok(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC));
}

static void assert_signal(const sigset_t *set)
{
	static const struct timespec limit = { .tv_sec = 20 };

	assert_int_equal(sigtimedwait(set, NULL, &limit), SIGIO);
}

static void signals_come(int fd, const union address *a, const sigset_t *set, bool by_ioctl)
{
	int clients[2], i;

	assert_ok(spawn(fd, 1));
	set_async(fd, by_ioctl);
	clients[0] = connect_on(1, a);
	assert_signal(set);
	/* From then on the listener is an ordinary one, so that each connection is signalled. */
	await(!claims(a));
	accept_and_greet(fd, 'x');
	clients[1] = connect_on(1, a);
	assert_signal(set);
	accept_and_greet(fd, 'x');
	for (i = 0; i < 2; i++) {
		assert_int_equal(greeting(clients[i]), 'x');
		close(clients[i]);
	}
	assert_errno(spawn(fd, 1), EOPNOTSUPP);
}

/* The program sets O_ASYNC after the spawn, of which the kernel tells the module nothing. */
static void signals_after_spawn(void **state)
{
	union address a;
	sigset_t set;
	int fd, round;

	(void)state;
	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	assert_ok(sigprocmask(SIG_BLOCK, &set, NULL));
	for (round = 0; round < 2; round++) {
		fd = listener(AF_INET, &a);
		signals_come(fd, &a, &set, round);
		close(fd);
		unpin();
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(signals_after_spawn),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(0);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
