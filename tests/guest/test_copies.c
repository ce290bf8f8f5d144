// SPDX-License-Identifier: GPL-2.0-only
/*
 * A socket that has the module's ops and is no listener, as accept() leaves one if the
 * listener ends meanwhile. nic/copied_ops.c makes it.
 */

#include "device.h"

#define COPY "/sys/module/copied_ops/parameters/copy"

static union address where;
static int ours = -1;

static int setup(void **state)
{
	(void)state;
	unpin();
	dev = open(FSOCKET_DEVICE, O_RDONLY);
	assert_ok(dev);
	assert_ok(load_module(getenv("COPIES_KO"), ""));
	ours = listener(AF_INET, &where);
	assert_ok(spawn(ours, 1));
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unpin();
	close(ours);
	close(dev);
	return syscall(SYS_delete_module, "copied_ops", O_NONBLOCK);
}

static int copied_to(int fd)
{
	char text[40];

	snprintf(text, sizeof(text), "%d %d", ours, fd);
	write_file(COPY, text);
	return fd;
}

static void talk(int one, int other)
{
	char byte;

	assert_int_equal(write(one, "x", 1), 1);
	assert_int_equal(readable(other, 5000), 1);
	assert_int_equal(read(other, &byte, 1), 1);
	assert_int_equal(write(other, "y", 1), 1);
	assert_int_equal(read(one, &byte, 1), 1);
}

/* kTLS copies the ops of the first socket that asks for it, and all other sockets get that copy. */
static void no_option_spreads_them(void **state)
{
	int client = connect_on(1, &where), conn = accept(ours, NULL, NULL), ret, i;

	(void)state;
	assert_ok(conn);
	copied_to(conn);
	talk(client, conn);
	ret = setsockopt(conn, IPPROTO_TCP, TCP_ULP, "tls", 3);
	assert_true(!ret || errno == ENOENT);
	close(conn);
	close(client);
	for (i = 0; i < 2; i++) {
		client = connect_on(1, &where);
		conn = accept(ours, NULL, NULL);
		assert_ok(conn);
		assert_int_equal(setsockopt(conn, IPPROTO_TCP, TCP_ULP, "tls", 3), ret);
		talk(client, conn);
		close(conn);
		close(client);
	}
}

static void such_a_socket_can_listen(void **state)
{
	union address a;
	int fd = copied_to(bound_socket(AF_INET, &a)), client, conn;

	(void)state;
	assert_ok(listen(fd, 10));
	assert_ok(spawn(fd, 1));
	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	assert_ok(conn);
	talk(client, conn);
	close(conn);
	close(client);
	close(fd);
}

static void they_outlive_the_module(void **state)
{
	int client = connect_on(1, &where), conn = accept(ours, NULL, NULL), on = 1;
	/* A socket without a connection, as accept() has it before it takes one. */
	int fresh = copied_to(socket(AF_INET, SOCK_STREAM, 0));

	(void)state;
	assert_ok(conn);
	copied_to(conn);
	close(ours);
	close(dev);
	wait_for(unloaded);
	talk(client, conn);
	assert_ok(setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)));
	assert_ok(shutdown(conn, SHUT_WR));
	assert_int_equal(readable(client, 5000), 1);
	close(conn);
	close(fresh);
	close(client);
	load_again();
	ours = dev = -1;
}

/* Ops that an earlier load of the module has left in a socket stay in that socket alone. */
static void they_stay_with_their_socket(void **state)
{
	union address a;
	int stale = copied_to(bound_socket(AF_INET, &a));

	(void)state;
	assert_ok(listen(stale, 10));
	close(ours);
	close(dev);
	wait_for(unloaded);
	load_again();
	dev = open(FSOCKET_DEVICE, O_RDONLY);
	assert_ok(dev);
	assert_errno(spawn(stale, 1), EOPNOTSUPP);
	ours = listener(AF_INET, &where);
	assert_ok(spawn(ours, 1));
	close(stale);
}

struct closer {
	pthread_t thread;
	int fd;
	volatile pid_t tid;
};

static void *close_it(void *arg)
{
	struct closer *c = arg;

	c->tid = gettid();
	close(c->fd);
	return NULL;
}

/* Returns whether the thread of @c sleeps in close(). */
static bool closes(const struct closer *c)
{
	char path[64], state = 0;
	FILE *file;

	if (!c->tid || fcntl(c->fd, F_GETFD) >= 0)
		return false;
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", c->tid);
	file = fopen(path, "r");
	assert_non_null(file);
	assert_int_equal(fscanf(file, "%*d (%*[^)]) %c", &state), 1);
	fclose(file);
	return state == 'S';
}

/* With SO_LINGER close() waits for the peer, however long that takes. The module does not. */
static void closing_one_does_not_keep_the_module(void **state)
{
	struct linger linger = { .l_onoff = 1, .l_linger = 600 };
	int client = connect_on(1, &where), conn = accept(ours, NULL, NULL), waited;
	struct closer c = { .fd = conn };
	size_t sent = 0, received = 0;
	char buf[65536] = {};
	ssize_t n;

	(void)state;
	assert_ok(conn);
	assert_ok(setsockopt(conn, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)));
	while ((n = send(conn, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
		sent += n;
	copied_to(conn);
	assert_int_equal(pthread_create(&c.thread, NULL, close_it, &c), 0);
	for (waited = 0; !closes(&c) && waited < 500; waited++)
		usleep(10000);
	assert_true(closes(&c));
	close(ours);
	close(dev);
	wait_for(unloaded);
	/* close() still waits for the client, which gets all data. */
	assert_int_equal(pthread_tryjoin_np(c.thread, NULL), EBUSY);
	while ((n = read(client, buf, sizeof(buf))) > 0)
		received += n;
	assert_int_equal(n, 0);
	assert_int_equal(received, sent);
	assert_int_equal(pthread_join(c.thread, NULL), 0);
	close(client);
	load_again();
	ours = dev = -1;
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(no_option_spreads_them),
		T(such_a_socket_can_listen),
		T(they_outlive_the_module),
		T(they_stay_with_their_socket),
		T(closing_one_does_not_keep_the_module),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
