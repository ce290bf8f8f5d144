// SPDX-License-Identifier: GPL-2.0-only
/*
 * Users of the module's listening socket: cases that once crashed the kernel, and the
 * bounds of what a listener can make grow. Runs in the guest as root with fastsocket.ko
 * loaded. Usage: test_listener [TEST]
 */
#include <sys/resource.h>

#include "stuck.h"
#include "worker.h"

#define NOBODY 65534

static int rows(void)
{
	FILE *file = fopen("/proc/net/fastsocket_listeners", "r");
	char line[256];
	int count = 0;

	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		count++;
	fclose(file);
	return count;
}

/* Runs @body in a process of an unprivileged user; returns its exit status. */
static int as_nobody(int (*body)(void))
{
	int status;
	pid_t pid = fork();

	assert_ok(pid);
	if (!pid) {
		alarm(60);
		if (setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY))
			_exit(100);
		_exit(body());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* --- sockets that have our ops --------------------------------------------------- */

/* Makes an IPv6 listener, spawns, and turns it into an IPv4 connection of the same fd. */
static int becomes_ipv4(void)
{
	struct sockaddr_in6 mapped = { .sin6_family = AF_INET6 };
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	int fd, target, family = AF_INET, channel;
	union address a, b;

	channel = open(FSOCKET_DEVICE, O_RDONLY);
	if (channel < 0 || dup2(channel, dev) != dev)
		return 1;
	fd = listener(AF_INET6, &a);
	target = listener(AF_INET, &b);
	if (spawn(fd, sched_getcpu()) || connect(fd, &none, sizeof(none)))
		return 2;
	mapped.sin6_port = b.in.sin_port;
	inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr);
	close(fd);
	fd = socket(AF_INET6, SOCK_STREAM, 0);
	a.in6.sin6_addr = in6addr_any;
	a.in6.sin6_port = 0;
	if (bind(fd, &a.sa, sizeof(a.in6)) || listen(fd, 5) || spawn(fd, sched_getcpu()) ||
	    connect(fd, &none, sizeof(none)) ||
	    connect(fd, (struct sockaddr *)&mapped, sizeof(mapped)))
		return 3;
	if (setsockopt(fd, IPPROTO_IPV6, IPV6_ADDRFORM, &family, sizeof(family)))
		return 4;
	close(fd);
	close(target);
	return 0;
}

static void addrform(void **state)
{
	int before = rows();

	(void)state;
	assert_int_equal(as_nobody(becomes_ipv4), 0);
	await(rows() == before);
}

/* accept4() of a listener's connection when the process may open no more files. */
static void accept_without_files(void **state)
{
	char text[32], old[32] = { 0 };
	union address a;
	int fd = listener(AF_INET, &a), client, other, i, failed = 0, filler[300];
	FILE *file = fopen("/proc/sys/fs/file-nr", "r");
	unsigned long used;
	pid_t pid;
	int status;

	(void)state;
	assert_non_null(file);
	assert_int_equal(fscanf(file, "%lu", &used), 1);
	fclose(file);
	file = fopen("/proc/sys/fs/file-max", "r");
	assert_non_null(fgets(old, sizeof(old), file));
	fclose(file);
	assert_ok(spawn(fd, 1));
	client = connect_on(1, &a);
	other = connect_on(1, &a);
	/* The limit does not apply to root, so the server runs as an unprivileged user. */
	snprintf(text, sizeof(text), "%lu", used / 2);
	write_file("/proc/sys/fs/file-max", text);
	pid = fork();
	if (!pid) {
		if (setresuid(NOBODY, NOBODY, NOBODY))
			_exit(100);
		for (i = 0; i < 300 && !failed; i++) {
			filler[i] = accept4(fd, NULL, NULL, 0);
			failed = filler[i] < 0 && errno == ENFILE;
		}
		_exit(failed ? 0 : 1);
	}
	waitpid(pid, &status, 0);
	write_file("/proc/sys/fs/file-max", old);
	assert_int_equal(status, 0);
	/* The listener and its connections live on. */
	accept_and_greet(fd, 'x');
	accept_and_greet(fd, 'x');
	assert_int_equal(greeting(client), 'x');
	assert_int_equal(greeting(other), 'x');
	close(client);
	close(other);
	close(fd);
	rows();
}

/* kTLS copies the ops of a socket on which it is set: these must never be ours. */
static int asks_for_tls(void)
{
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	union address a;
	int fd = listener(AF_INET, &a), len, channel = open(FSOCKET_DEVICE, O_RDONLY);
	char name[16] = "x";
	socklen_t size = sizeof(name);

	if (channel < 0 || dup2(channel, dev) != dev || spawn(fd, sched_getcpu()))
		return 1;
	if (getsockopt(fd, IPPROTO_TCP, TCP_ULP, name, &size) || size)
		return 2;
	if (!setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 3) ||
	    (errno != ENOTCONN && errno != ENOENT))
		return 3;
	if (shutdown(fd, SHUT_RDWR))
		return 4;
	len = setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 3);
	if (!len)
		return 5;
	if (connect(fd, &none, sizeof(none)) || listen(fd, 5))
		return 6;
	close(fd);
	return 0;
}

static void no_ulp(void **state)
{
	(void)state;
	assert_int_equal(as_nobody(asks_for_tls), 0);
}

/* Every way out of TCP_LISTEN removes the local listeners and frees the port. */
static void leaves_listen(void **state)
{
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	union address a;
	int fd, other, way, before = rows();

	(void)state;
	for (way = 0; way < 2; way++) {
		fd = listener(AF_INET, &a);
		assert_ok(spawn(fd, 1));
		assert_ok(spawn(fd, 2));
		if (way)
			assert_ok(shutdown(fd, SHUT_RDWR));
		else
			assert_ok(connect(fd, &none, sizeof(none)));
		assert_errno(spawn(fd, 1), EINVAL);
		/* The socket is as any other after the same call. */
		other = socket(AF_INET, SOCK_STREAM, 0);
		if (bind(other, &a.sa, sizeof(a.in)))
			assert_int_equal(errno, EADDRINUSE);
		close(other);
		close(fd);
		other = socket(AF_INET, SOCK_STREAM, 0);
		assert_ok(bind(other, &a.sa, sizeof(a.in)));
		close(other);
	}
	await(rows() == before);
}

/* --- tasks that wait for each other, and limits --------------------------------- */

/* One thread goes round the CPUs: it has one local listener, not one for each CPU. */
static void bounded_by_claims(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), cpus = sysconf(_SC_NPROCESSORS_ONLN), i;
	int before = rows();

	(void)state;
	for (i = 0; i < 4 * cpus; i++)
		assert_ok(spawn(fd, i % cpus));
	/* There are the shared one, the worker's, and one that is parked. */
	assert_in_range(rows() - before, 2, 3);
	assert_ok(retire(fd));
	close(fd);
	assert_int_equal(rows(), before);
}

/* The shared queue keeps to its backlog when connections come from local ones. */
static void move_is_bounded(void **state)
{
	union address a;
	int fd = bound_socket(AF_INET, &a), i, round, most = 0, clients[200];
	struct tcp_info info;
	socklen_t len;

	(void)state;
	assert_ok(listen(fd, 4));
	for (i = 0, round = 0; round < 20; round++) {
		assert_ok(spawn(fd, 1 + round % 2));
		for (int n = 0; n < 8 && i < 200; n++, i++) {
			clients[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
			pin(1 + round % 2);
			connect(clients[i], &a.sa, sizeof(a.in));
		}
		assert_ok(retire(fd));
		unpin();
		len = sizeof(info);
		assert_ok(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
		if ((int)info.tcpi_unacked > most)
			most = info.tcpi_unacked;
	}
	/*
	 * Each of three queues, the shared one and two local ones, takes the backlog
	 * and one more.
	 */
	assert_in_range(most, 5, 15);
	while (i--)
		close(clients[i]);
	close(fd);
}

/* --- a user who makes the kernel wait ------------------------------------------- */

/* Holds the lock that spawning needs, and waits for the lock of a socket. */
static void *spawns_there(void *arg)
{
	struct stuck *s = arg;

	s->spawned = spawn(s->fd, 1);
	return NULL;
}

/* Does all that another user does with a listener, to the end of the process. */
static int serves_elsewhere(void)
{
	union address a;
	int client, fd;

	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	fd = listener(AF_INET, &a);
	if (spawn(fd, 2) < 0 || rows() < 2)
		return 1;
	client = connect_on(2, &a);
	close(accept(fd, NULL, NULL));
	if (retire(fd) || spawn(fd, 2) < 0)
		return 2;
	close(client);
	close(fd);
	fd = listener(AF_INET, &a);
	/* The end of the process gives it back. */
	return spawn(fd, 2) < 0 ? 3 : 0;
}

static int cpu_goes_and_comes(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%ld/online",
		 sysconf(_SC_NPROCESSORS_CONF) - 1);
	write_file(path, "0");
	write_file(path, "1");
	return 0;
}

/* Returns whether a process that runs @body ends well within a minute; it may never end. */
static bool ends_well(int (*body)(void))
{
	int status, waited;
	pid_t pid = fork();

	assert_ok(pid);
	if (!pid)
		_exit(body());
	for (waited = 0; waited < 6000; waited++) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return !status;
		usleep(10000);
	}
	return false;
}

static void waits_alone(void **state)
{
	struct fsocket_ioctl_arg arg = { .backlog = 5 };
	pthread_t setter, spawner;
	struct stuck s = { 0 };
	bool served, plugged;
	union address a;

	(void)state;
	make_option(&s);
	/* The module has taken charge of it, and it has no local listener yet. */
	s.fd = bound_socket(AF_INET, &a);
	arg.fd = s.fd;
	assert_ok(ioctl(dev, FSOCKET_IOC_LISTEN, &arg));
	assert_int_equal(pthread_create(&setter, NULL, sets_option, &s), 0);
	assert_int_equal(readable(s.fault, 20000), 1);
	assert_int_equal(pthread_create(&spawner, NULL, spawns_there, &s), 0);
	usleep(200000);
	served = ends_well(serves_elsewhere);
	plugged = ends_well(cpu_goes_and_comes);
	assert_int_equal(pthread_tryjoin_np(spawner, NULL), EBUSY);
	page_comes(&s);
	pthread_join(setter, NULL);
	pthread_join(spawner, NULL);
	assert_true(served);
	assert_true(plugged);
	assert_ok(s.set);
	assert_ok(s.spawned);
	close(s.fd);
}

/* A listener that ended while it got a local one had lost its SO_REUSEPORT group. */
static void ends_amid_spawning(void **state)
{
	time_t end = time(NULL) + 3;
	union address a;
	int fd = listener(AF_INET, &a);
	pid_t pid = fork();

	(void)state;
	while (!pid && time(NULL) < end + 2) {
		usleep(rand() % 2000);
		shutdown(fd, SHUT_RDWR);
		listen(fd, 5);
	}
	while (time(NULL) < end)
		spawn(fd, rand() % 4);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(fd);
}

/* Returns the user that /proc/net/tcp shows for a request to the port; -1 if there is none. */
static int user_of_request(const union address *a)
{
	FILE *file = fopen("/proc/net/tcp", "r");
	unsigned int port, state;
	char line[256];
	int uid, found = -1;

	assert_non_null(file);
	while (fgets(line, sizeof(line), file)) {
		/* 3 is TCP_SYN_RECV. */
		if (sscanf(line, "%*d: %*x:%x %*x:%*x %x %*x:%*x %*x:%*x %*x %d", &port, &state,
			   &uid) == 3 && port == ntohs(a->in.sin_port) && state == 3)
			found = uid;
	}
	fclose(file);
	return found;
}

static void request_has_its_user(void **state)
{
	int spawned, fd, client, seconds = 60;
	union address a;

	(void)state;
	for (spawned = 0; spawned < 2; spawned++) {
		assert_ok(seteuid(1000));
		fd = listener(AF_INET, &a);
		assert_ok(seteuid(0));
		/* The request stays until data comes. */
		assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof(seconds)));
		if (spawned)
			assert_ok(spawn(fd, 1));
		client = connect_on(1, &a);
		assert_int_equal(user_of_request(&a), 1000);
		close(client);
		close(fd);
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(addrform),
		T(accept_without_files),
		T(no_ulp),
		T(leaves_listen),
		T(bounded_by_claims),
		T(move_is_bounded),
		T(waits_alone),
		T(ends_amid_spawning),
		T(request_has_its_user),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
