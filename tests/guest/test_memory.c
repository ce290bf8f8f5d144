// SPDX-License-Identifier: GPL-2.0-only
/*
 * Lets every call of the module fail that can fail without memory. It uses a build of
 * the module that includes fail.h, whose path is in FASTSOCKET_FAIL_KO. Like
 * test_module it runs in the guest, as root, on loopback. Usage: test_memory [TEST]
 */
#include "helpers.h"

#include <linux/if_tun.h>
#include <sys/klog.h>

static const char * const switches[] = {
	PARAM "enable_local_established",
	PARAM "enable_direct_tcp",
	PARAM "enable_rps_framework",
	PARAM "enable_receive_flow_deliver",
	PARAM "enable_receive_cpu_selection",
	PARAM "enable_skb_pool",
	PARAM "enable_socket_pool_size",
};

#define SWITCHES ((int)(sizeof(switches) / sizeof(*switches)))

static int dev = -1;

static void arm(int calls)
{
	char name[16];

	snprintf(name, sizeof(name), "fail-%d", calls);
	prctl(PR_SET_NAME, name);
}

/* Returns whether a call has failed since. */
static bool disarm(void)
{
	char name[16];

	prctl(PR_GET_NAME, name);
	prctl(PR_SET_NAME, "test_memory");
	return !strcmp(name, "failed");
}

/* Returns the module's number of allocations from the kernel's log; -1 if it is not there. */
static int allocations(void)
{
	static char log[1 << 20];
	int len = klogctl(3 /* SYSLOG_ACTION_READ_ALL */, log, sizeof(log) - 1);
	const char *at, *last = NULL;

	assert_ok(len);
	log[len] = 0;
	for (at = log; (at = strstr(at, "fastsocket: allocations: ")); at++)
		last = at;
	return last ? atoi(strstr(last, "ns: ") + 4) : -1;
}

/* Gives other tasks and RCU time to free what they still have to free. */
static void assert_allocations(int want)
{
	int waited;

	for (waited = 0; waited < 600 && allocations() != want; waited++)
		usleep(50000);
	assert_int_equal(allocations(), want);
}

/*
 * A failed attempt may end what was there before, but leaves at most @most allocations.
 * Returns how many are left.
 */
static int assert_at_most(int most)
{
	int waited;

	for (waited = 0; waited < 600 && allocations() > most; waited++)
		usleep(50000);
	if (allocations() > most)
		fail_msg("%d more allocations after a failure", allocations() - most);
	return allocations();
}

/*
 * Lets each of the calls that attempt() makes fail in turn, until none is left that
 * could. A failed attempt returns an error about memory and leaves nothing behind; all
 * attempts together may leave up to @kept allocations that later ones need, too. An
 * attempt that succeeds nevertheless returns the descriptor to close().
 */
static int each_keeping(int kept, int (*attempt)(void *arg), void *arg)
{
	int before = allocations(), calls, ret, error, left;
	bool failed;

	for (calls = 0;; calls++) {
		arm(calls);
		ret = attempt(arg);
		error = errno;
		failed = disarm();
		if (!failed)
			break;
		if (ret < 0) {
			assert_true(error == ENOMEM || error == ENFILE ||
				    error == EMFILE || error == EOPNOTSUPP);
			left = assert_at_most(before + kept);
			if (left < before)
				before = left;
		} else if (ret) {
			close(ret);
		}
	}
	/* A call did fail. */
	assert_true(calls > 0);
	if (ret < 0)
		print_error("without a failure: %s\n", strerror(error));
	assert_true(ret >= 0);
	return ret;
}

static int each(int (*attempt)(void *arg), void *arg)
{
	return each_keeping(0, attempt, arg);
}

static int load(void *arg)
{
	(void)arg;
	return load_module(getenv("FASTSOCKET_FAIL_KO"), "");
}

static void unload(void)
{
	/* A work item may still hold a listener. */
	await(!syscall(SYS_delete_module, "fastsocket", O_NONBLOCK));
	assert_int_equal(allocations(), 0);
}

static int setup(void **state)
{
	(void)state;
	assert_ok(load(NULL));
	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	return dev < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	int i;

	(void)state;
	disarm();
	unpin();
	close(dev);
	for (i = SWITCHES - 1; i >= 0; i--)
		write_file(switches[i], "0");
	unload();
	return 0;
}

/* This is for both halves of the skb pool. */
static const char *on(const char *path)
{
	return strstr(path, "skb_pool") ? "3" : "1";
}

static void all_on(void)
{
	int i;

	for (i = 0; i < SWITCHES; i++)
		write_file(switches[i], on(switches[i]));
}

/* Without the kernel's function of Linux AIO the module does load: see fsocket_accept_init(). */
static int load_or_clean_up(void *arg)
{
	char name[16];
	int ret = load(arg);

	prctl(PR_GET_NAME, name);
	if (!ret && !strcmp(name, "failed"))
		unload();
	return ret;
}

static void loading(void **state)
{
	(void)state;
	/* The reference is the state before the first attempt. */
	if (allocations() < 0) {
		assert_ok(load(NULL));
		unload();
	}
	each(load_or_clean_up, NULL);
	assert_ok(access(FSOCKET_DEVICE, R_OK));
	unload();
}

static int switch_on(void *path)
{
	int fd = open(path, O_WRONLY), ret, error;

	ret = write(fd, on(path), 1);
	error = errno;
	close(fd);
	errno = error;
	return ret < 0 ? ret : 0;
}

static void parameters(void **state)
{
	int before = allocations(), i;

	(void)state;
	for (i = 0; i < SWITCHES; i++) {
		each(switch_on, (void *)switches[i]);
		/* Others need this one. */
		if (!strstr(switches[i], "rps_framework"))
			write_file(switches[i], "0");
	}
	write_file(PARAM "enable_rps_framework", "0");
	assert_allocations(before);
}

static int open_device(void *arg)
{
	(void)arg;
	return open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
}

static int listen_through(void *fd)
{
	struct fsocket_ioctl_arg arg = { .fd = *(int *)fd, .backlog = 128 };

	return ioctl(dev, FSOCKET_IOC_LISTEN, &arg);
}

static int spawn(void *fd)
{
	struct fsocket_ioctl_arg arg = { .fd = *(int *)fd };

	arg.op.spawn_op.cpu = 3;
	return ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg);
}

static void one_connection(int fd, const union address *a)
{
	int client = connect_on(3, a);

	accept_and_greet(fd, 'x');
	assert_int_equal(greeting(client), 'x');
	close(client);
}

static void listeners(void **state)
{
	int before = allocations(), fd, other;
	unsigned long long local;
	union address a;

	(void)state;
	other = each(open_device, NULL);
	close(other);
	fd = bound_socket(AF_INET6, &a);
	each(listen_through, &fd);
	one_connection(fd, &a);
	/* The CPU's place, and its private buckets, stay as long as this socket listens. */
	each_keeping(2, spawn, &fd);
	local = counter("accept_local", -1);
	one_connection(fd, &a);
	assert_int_equal(counter("accept_local", -1), local + 1);
	close(fd);
	close(dev);
	assert_allocations(before - 1);
	dev = open_device(NULL);
}

static int accept_through(void *fd)
{
	struct fsocket_ioctl_arg arg = { .fd = *(int *)fd };

	return ioctl(dev, FSOCKET_IOC_ACCEPT, &arg);
}

/* An accept() that fails loses no connection. */
static void accepting(void **state)
{
	int fd, clients[12], i, n = sizeof(clients) / sizeof(*clients), conn;
	union address a;

	(void)state;
	write_file(PARAM "enable_socket_pool_size", "4");
	fd = listener(AF_INET, &a);
	for (i = 0; i < n; i++)
		clients[i] = connect_on(2, &a);
	/* The first packet comes from an empty pool, which the closing fills. */
	for (i = 0; i < 2; i++) {
		conn = each(accept_through, &fd);
		assert_true(conn > 0);
		close(conn);
	}
	set_nonblock(fd);
	do {
		conn = accept_through(&fd);
		if (conn >= 0)
			close(conn);
	} while (conn >= 0);
	assert_int_equal(errno, EAGAIN);
	/* The server has closed each, so it has accepted each. */
	for (i = 0; i < n; i++) {
		char byte;

		assert_int_equal(read(clients[i], &byte, 1), 0);
		close(clients[i]);
	}
	close(fd);
}

static int enter_namespace(void *arg)
{
	int status;
	pid_t child = fork();

	(void)arg;
	if (!child) {
		char name[16];
		int ret = unshare(CLONE_NEWNET), error = errno;

		prctl(PR_GET_NAME, name);
		_exit(!strcmp(name, "failed") << 7 | (ret ? error : 0));
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	/* The child has a name of its own. */
	prctl(PR_SET_NAME, WEXITSTATUS(status) >> 7 ? "failed" : "fail-0");
	errno = WEXITSTATUS(status) & 127;
	return errno ? -1 : 0;
}

static int make_interface(void *arg)
{
	struct ifreq request = { .ifr_flags = IFF_TUN };
	int fd = open("/dev/net/tun", O_RDWR), error;

	(void)arg;
	if (!ioctl(fd, TUNSETIFF, &request))
		return fd;
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

/* These are made while everything is on, and the module may cause a refusal. */
static void namespaces_and_interfaces(void **state)
{
	int before, fd;

	(void)state;
	all_on();
	before = allocations();
	each(enter_namespace, NULL);
	assert_allocations(before);
	fd = each(make_interface, NULL);
	close(fd);
	assert_allocations(before);
}

/* A packet that cannot be copied is handed over uncopied. */
static void packets(void **state)
{
	unsigned long long passed, copied, sent;
	union address a;
	int fd, client, conn, i;
	char byte;

	(void)state;
	all_on();
	prctl(PR_SET_NAME, "fail-packets");
	close(open_device(NULL));
	disarm();
	fd = listener(AF_INET, &a);
	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	passed = counter("skb_pool_pass", -1);
	copied = counter("skb_pool_copy", -1);
	sent = counter("skb_pool_send", -1) + counter("skb_pool_empty", -1);
	for (i = 0; i < 60; i++) {
		pin(3);
		assert_int_equal(write(conn, "a", 1), 1);
		assert_int_equal(read(client, &byte, 1), 1);
		pin(6);
		assert_int_equal(write(client, "b", 1), 1);
		assert_int_equal(read(conn, &byte, 1), 1);
		assert_int_equal(byte, 'b');
	}
	assert_true(counter("skb_pool_pass", -1) - passed >= 15);
	assert_true(counter("skb_pool_copy", -1) - copied >= 15);
	assert_true(counter("skb_pool_send", -1) + counter("skb_pool_empty", -1) - sent >= 120);
	close(conn);
	close(client);
	close(fd);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loading),
		T(parameters),
		T(listeners),
		T(accepting),
		T(namespaces_and_interfaces),
		T(packets),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
