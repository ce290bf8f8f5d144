// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: a server that does not import accept(). This program must not
 * import it either, nor syscall().
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_unseen [NAME]
 */
#include "kernel_workers.h"

/* The library never sees an accept(), so all connections stay in the listener. */
static void test_accept_unseen(void **state)
{
	(void)state;
	start_worker(0, accept_inline);
	start_worker(1, accept_inline);
	answer_all(2);
	assert_int_equal(cpu_of(workers[0]), -1);
	assert_int_equal(cpu_of(workers[1]), -1);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_accept_unseen),
	};

	alarm(60);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
