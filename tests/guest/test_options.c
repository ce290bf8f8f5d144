// SPDX-License-Identifier: GPL-2.0-only
/*
 * The meaning of a listening socket to its program, and all that the stock lookup does,
 * stay as they were. Runs in the guest as root with fastsocket.ko loaded; all traffic
 * is on loopback, where the CPU that sends a SYN also handles it. Usage: test_options
 * [TEST]
 */
#include <linux/net_tstamp.h>
#include <sys/utsname.h>

#include "worker.h"

/* --- the meaning of the socket stays as it was --------------------------------- */

static int int_option(int fd, int level, int name)
{
	socklen_t len = sizeof(int);
	int val = -1;

	assert_ok(getsockopt(fd, level, name, &val, &len));
	return val;
}

/* Accepted connections have the options of the listener, as without the module. */
static void options_inherited(void **state)
{
	static const struct {
		int level, name, value;
	} options[] = {
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ SOL_SOCKET, SO_RCVBUF, 50000 },
		{ SOL_SOCKET, SO_SNDBUF, 60000 },
		{ SOL_SOCKET, SO_RCVLOWAT, 3 },
		{ SOL_SOCKET, SO_OOBINLINE, 1 },
		{ SOL_SOCKET, SO_REUSEADDR, 1 },
		{ SOL_SOCKET, SO_BROADCAST, 1 },
		{ SOL_SOCKET, SO_LOCK_FILTER, 1 },
		{ SOL_SOCKET, SO_MARK, 9 },
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, 77 },
		{ IPPROTO_TCP, TCP_KEEPINTVL, 7 },
		{ IPPROTO_TCP, TCP_KEEPCNT, 5 },
		{ IPPROTO_TCP, TCP_USER_TIMEOUT, 4321 },
		{ IPPROTO_TCP, TCP_LINGER2, 11 },
		{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, 1111 },
		{ IPPROTO_IP, IP_TOS, 0x10 },
		{ IPPROTO_IP, IP_TTL, 33 },
	};
	struct linger linger = { .l_onoff = 1, .l_linger = 5 }, got;
	unsigned int i, n = sizeof(options) / sizeof(*options), later = 9;
	int values[2][sizeof(options) / sizeof(*options)], round;
	char name[16];

	(void)state;
	/* Round 0 has an ordinary listener and round 1 a local one, with the same results. */
	for (round = 0; round < 2; round++) {
		union address a;
		int fd = bound_socket(AF_INET, &a), client, conn;
		socklen_t len = sizeof(linger);

		for (i = 0; i < later; i++)
			assert_ok(setsockopt(fd, options[i].level, options[i].name,
					     &options[i].value, sizeof(int)));
		assert_ok(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, len));
		assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
		assert_ok(listen(fd, 16));
		if (round)
			assert_ok(spawn(fd, 1));
		/* These are set after the spawn. */
		for (; i < n; i++)
			assert_ok(setsockopt(fd, options[i].level, options[i].name,
					     &options[i].value, sizeof(int)));
		client = connect_on(1, &a);
		conn = accept(fd, NULL, NULL);
		assert_ok(conn);
		for (i = 0; i < n; i++)
			values[round][i] = int_option(conn, options[i].level, options[i].name);
		assert_ok(getsockopt(conn, SOL_SOCKET, SO_LINGER, &got, &len));
		assert_memory_equal(&got, &linger, sizeof(linger));
		len = sizeof(name);
		assert_ok(getsockopt(conn, IPPROTO_TCP, TCP_CONGESTION, name, &len));
		assert_string_equal(name, "reno");
		close(client);
		close(conn);
		close(fd);
		unpin();
	}
	for (i = 0; i < n; i++)
		if (values[0][i] != values[1][i])
			fail_msg("option %d/%d: ordinary %d, local %d", options[i].level,
				 options[i].name, values[0][i], values[1][i]);
}

static void obstacles_refused(void **state)
{
	struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, 0xffff) };
	struct sock_fprog filter = { .len = 1, .filter = code };
	struct tcp_md5sig md5 = { .tcpm_keylen = 4, .tcpm_key = "key" };
	union address a;
	int fd, one = 1, client;

	(void)state;
	fd = bound_socket(AF_INET, &a);
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)));
	assert_ok(listen(fd, 5));
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &filter,
			     sizeof(filter)));
	assert_errno(spawn(fd, -1), EOPNOTSUPP);
	close(fd);

	fd = listener(AF_INET, &a);
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)));
	assert_errno(spawn(fd, -1), EOPNOTSUPP);
	close(fd);

	fd = listener(AF_INET, &a);
	assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN, &one, sizeof(one)));
	assert_errno(spawn(fd, -1), EOPNOTSUPP);
	close(fd);

	fd = listener(AF_INET, &a);
	memcpy(&md5.tcpm_addr, &a, sizeof(a.in));
	assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &md5, sizeof(md5)));
	assert_errno(spawn(fd, -1), EOPNOTSUPP);
	close(fd);

	/*
	 * They are set after the spawn: connections go to the shared queue again, and
	 * none is lost.
	 */
	fd = listener(AF_INET, &a);
	assert_ok(spawn(fd, 1));
	client = connect_on(1, &a);
	assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN, &one, sizeof(one)));
	assert_errno(spawn(fd, 1), EOPNOTSUPP);
	accept_and_greet(fd, 'x');
	assert_int_equal(greeting(client), 'x');
	close(client);
	client = connect_on(1, &a);
	accept_and_greet(fd, 'x');
	assert_int_equal(greeting(client), 'x');
	close(client);
	close(fd);
}

static void obstacle_refused(int family, int level, int name, const void *value,
			     socklen_t len)
{
	union address a;
	int fd = listener(family, &a), client;

	assert_ok(setsockopt(fd, level, name, value, len));
	assert_errno(spawn(fd, 1), EOPNOTSUPP);
	close(fd);

	/* 6.1 learns of later options only at the next spawn. */
	fd = listener(family, &a);
	assert_ok(spawn(fd, 1));
	client = connect_on(1, &a);
	assert_ok(setsockopt(fd, level, name, value, len));
	assert_errno(spawn(fd, 1), EOPNOTSUPP);
	accept_and_greet(fd, 'x');
	assert_int_equal(greeting(client), 'x');
	close(client);
	close(fd);
}

/* Options that a connection inherits from its listener and that cannot be copied. */
static void more_obstacles_refused(void **state)
{
	static const unsigned char nop[4] = { IPOPT_NOOP, IPOPT_NOOP, IPOPT_NOOP, IPOPT_END };
	static const unsigned char padding[8] = { 0, 0, 1, 4 };
	struct sock_txtime txtime = { .clockid = CLOCK_MONOTONIC };
	int one = 1, stamps = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;

	(void)state;
	obstacle_refused(AF_INET, SOL_SOCKET, SO_TIMESTAMP, &one, sizeof(one));
	obstacle_refused(AF_INET, SOL_SOCKET, SO_TIMESTAMPING, &stamps, sizeof(stamps));
	obstacle_refused(AF_INET, SOL_SOCKET, SO_TXTIME, &txtime, sizeof(txtime));
	obstacle_refused(AF_INET, IPPROTO_IP, IP_OPTIONS, nop, sizeof(nop));
	obstacle_refused(AF_INET6, IPPROTO_IPV6, IPV6_DSTOPTS, padding, sizeof(padding));
}

/* Nobody tells the owner of the shared listener by SIGIO what arrives at a local one. */
static void signals_refused(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a);

	(void)state;
	assert_ok(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC));
	assert_errno(spawn(fd, 1), EOPNOTSUPP);
	assert_ok(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_ASYNC));
	assert_ok(spawn(fd, 1));
	close(fd);
}

#define CONTROL "/proc/sys/net/ipv4/tcp_congestion_control"

/* A listener that has not chosen its congestion control has the default of the moment. */
static void default_control_kept(void **state)
{
	char was[16] = "", name[16] = "";
	socklen_t len = sizeof(name);
	FILE *file = fopen(CONTROL, "r");
	union address a;
	int fd = listener(AF_INET, &a), client, conn;

	(void)state;
	assert_non_null(file);
	assert_int_equal(fscanf(file, "%15s", was), 1);
	fclose(file);
	assert_string_not_equal(was, "reno");
	write_file(CONTROL, "reno");
	assert_ok(spawn(fd, 1));
	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	write_file(CONTROL, was);
	assert_ok(conn);
	assert_ok(getsockopt(conn, IPPROTO_TCP, TCP_CONGESTION, name, &len));
	assert_string_equal(name, "reno");
	close(conn);
	close(client);
	close(fd);
}

/* The group does not open the port to other sockets. */
static void port_stays_taken(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), other, one = 1;

	(void)state;
	assert_ok(spawn(fd, 1));
	other = socket(AF_INET, SOCK_STREAM, 0);
	assert_ok(setsockopt(other, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)));
	assert_ok(setsockopt(other, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
	assert_errno(bind(other, &a.sa, sizeof(a.in)), EADDRINUSE);
	assert_ok(retire(fd));
	assert_errno(bind(other, &a.sa, sizeof(a.in)), EADDRINUSE);
	close(fd);
	assert_ok(bind(other, &a.sa, sizeof(a.in)));
	close(other);
}

/* Two listeners of one port, as a server makes them for two workers. */
static void own_reuseport_group(void **state)
{
	union address a;
	socklen_t len = sizeof(int);
	int fds[2], late, one = 1, val = 0, client, conn;

	(void)state;
	memset(&a, 0, sizeof(a));
	a.in.sin_family = AF_INET;
	a.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	a.in.sin_port = htons(7080);
	for (int i = 0; i < 2; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM, 0);
		assert_ok(setsockopt(fds[i], SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)));
		assert_ok(bind(fds[i], &a.sa, sizeof(a.in)));
		assert_ok(listen(fds[i], 64));
		set_nonblock(fds[i]);
		assert_ok(spawn(fds[i], i));
		unpin();
	}
	for (int i = 0; i < 5; i++) {
		client = connect_on(1, &a);
		conn = accept(fds[1], NULL, NULL);
		assert_ok(conn);
		assert_ok(getsockopt(conn, SOL_SOCKET, SO_REUSEPORT, &val, &len));
		assert_int_equal(val, 1);
		close(conn);
		close(client);
		client = connect_on(0, &a);
		assert_errno(accept(fds[1], NULL, NULL), EAGAIN);
		accept_and_greet(fds[0], 'x');
		assert_int_equal(greeting(client), 'x');
		close(client);
	}
	/* The port is as open as before. */
	late = socket(AF_INET, SOCK_STREAM, 0);
	assert_ok(setsockopt(late, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)));
	assert_ok(bind(late, &a.sa, sizeof(a.in)));
	assert_ok(listen(late, 64));
	close(fds[0]);
	close(fds[1]);
	client = connect_on(1, &a);
	accept_and_greet(late, 'y');
	assert_int_equal(greeting(client), 'y');
	close(client);
	close(late);
}

/* Makes the module give up the local listeners of @fd. */
static void end_listener(int fd)
{
	int one = 1;

	assert_ok(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN, &one, sizeof(one)));
}

static void set_reuseport(int fd, int value)
{
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &value, sizeof(value)));
}

/* The module has set SO_REUSEPORT meanwhile, and leaves it as the program wants it. */
static void reuseport_kept(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), client;
	unsigned long long here = counter("accept_local", 1);

	(void)state;
	assert_ok(call_dev(FSOCKET_IOC_LISTEN, fd));
	set_reuseport(fd, 1);
	end_listener(fd);
	assert_int_equal(int_option(fd, SOL_SOCKET, SO_REUSEPORT), 1);
	close(fd);

	/* The program sets the option before the first spawn, and clears it after that. */
	fd = listener(AF_INET, &a);
	assert_ok(call_dev(FSOCKET_IOC_LISTEN, fd));
	set_reuseport(fd, 1);
	assert_ok(spawn(fd, 1));
	set_reuseport(fd, 0);
	/* Kernel 6.1 tells the module at the next spawn. */
	assert_ok(spawn(fd, 1));
	client = connect_on(1, &a);
	accept_and_greet(fd, 'x');
	assert_int_equal(greeting(client), 'x');
	assert_int_equal(counter("accept_local", 1), here + 1);
	close(client);
	end_listener(fd);
	assert_int_equal(int_option(fd, SOL_SOCKET, SO_REUSEPORT), 0);
	close(fd);
}

/* Whether the kernel tells the module of options of SOL_SOCKET when they are set: since 6.7. */
static bool kernel_tells_options(void)
{
	struct utsname name;
	int major, minor;

	assert_ok(uname(&name));
	assert_int_equal(sscanf(name.release, "%d.%d", &major, &minor), 2);
	return major > 6 || (major == 6 && minor >= 7);
}

/* The program sets the option after the spawn, which 6.1 cannot tell from the module's value. */
static void reuseport_set_after_spawn(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), late = socket(AF_INET, SOCK_STREAM, 0), client;

	(void)state;
	if (!kernel_tells_options())
		skip();
	assert_ok(late);
	set_reuseport(late, 1);
	assert_ok(spawn(fd, 1));
	assert_errno(bind(late, &a.sa, sizeof(a.in)), EADDRINUSE);
	set_reuseport(fd, 1);
	assert_ok(bind(late, &a.sa, sizeof(a.in)));
	assert_ok(listen(late, 64));
	end_listener(fd);
	assert_int_equal(int_option(fd, SOL_SOCKET, SO_REUSEPORT), 1);
	close(fd);
	client = connect_on(1, &a);
	accept_and_greet(late, 'y');
	assert_int_equal(greeting(client), 'y');
	close(client);
	close(late);
}

/* A connection is bound to the interface to which its listener is bound. */
static void interface_follows(void **state)
{
	union address a;
	socklen_t len = IFNAMSIZ;
	char name[IFNAMSIZ] = "";
	int fd = listener(AF_INET, &a), client, conn;

	(void)state;
	assert_ok(spawn(fd, 1));
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
	/* Kernel 6.1 tells the module at the next spawn. */
	assert_ok(spawn(fd, 1));
	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	assert_ok(conn);
	assert_ok(getsockopt(conn, SOL_SOCKET, SO_BINDTODEVICE, name, &len));
	assert_string_equal(name, "lo");
	close(conn);
	close(client);
	close(fd);
}

static void shutdown_and_listen_again(void **state)
{
	union address a;
	socklen_t len = sizeof(a);
	int fd = listener(AF_INET, &a), client, queued;

	(void)state;
	assert_ok(spawn(fd, 1));
	queued = connect_on(1, &a);
	assert_ok(shutdown(fd, SHUT_RDWR));
	assert_errno(accept(fd, NULL, NULL), EINVAL);
	/* Queued connections are reset, as without the module. */
	assert_int_equal(greeting(queued), 0);
	close(queued);
	client = socket(AF_INET, SOCK_STREAM, 0);
	assert_errno(connect(client, &a.sa, sizeof(a.in)), ECONNREFUSED);
	close(client);
	/* The kernel had chosen the port, and chooses one again at the second listen(). */
	assert_ok(listen(fd, 10));
	assert_ok(getsockname(fd, &a.sa, &len));
	client = connect_on(1, &a);
	accept_and_greet(fd, 'x');
	assert_int_equal(greeting(client), 'x');
	close(client);
	close(fd);
}

/* A backlog changed by a second listen() holds for local listeners. */
static void backlog_follows(void **state)
{
	unsigned long long drops = netstat("ListenOverflows");
	union address a;
	int fd = listener(AF_INET, &a), clients[8], i;

	(void)state;
	assert_ok(spawn(fd, 1));
	assert_ok(listen(fd, 2));
	for (i = 0; i < 8; i++) {
		clients[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		pin(1);
		connect(clients[i], &a.sa, sizeof(a.in));
	}
	await(netstat("ListenOverflows") > drops);
	for (i = 0; i < 8; i++)
		close(clients[i]);
	close(fd);
}

/* --- the stock lookup ------------------------------------------------------------ */

/* SYNs for 4-tuples in TIME_WAIT: no connection waits for a second SYN. */
static void time_wait_reuse(void **state)
{
	unsigned long long again = netstat("TCPSynRetrans");
	union address a, from = { 0 };
	int fd = listener(AF_INET, &a), i, one = 1;

	(void)state;
	assert_ok(spawn(fd, 1));
	from.in.sin_family = AF_INET;
	from.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	from.in.sin_port = htons(23456);
	for (i = 0; i < 300; i++) {
		int client = socket(AF_INET, SOCK_STREAM, 0), conn;
		char byte;

		assert_ok(setsockopt(client, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
		assert_ok(bind(client, &from.sa, sizeof(from.in)));
		assert_ok(connect(client, &a.sa, sizeof(a.in)));
		conn = accept(fd, NULL, NULL);
		assert_ok(conn);
		/* The server closes first, so its end goes into TIME_WAIT. */
		assert_ok(shutdown(conn, SHUT_WR));
		assert_int_equal(read(client, &byte, 1), 0);
		close(client);
		assert_int_equal(read(conn, &byte, 1), 0);
		close(conn);
		/* The client's end is in LAST_ACK until then, and its address in use. */
		handle_packets();
	}
	assert_int_equal(netstat("TCPSynRetrans"), again);
	close(fd);
}

static void syn_cookies(void **state)
{
	unsigned long long received = netstat("SyncookiesRecv");
	unsigned long long local = counter("accept_local", -1);
	union address a;
	int fd = listener(AF_INET, &a), i;

	(void)state;
	write_file("/proc/sys/net/ipv4/tcp_syncookies", "2");
	assert_ok(spawn(fd, 1));
	for (i = 0; i < 50; i++) {
		int client = connect_on(1, &a);

		accept_and_greet(fd, 'x');
		assert_int_equal(greeting(client), 'x');
		close(client);
	}
	write_file("/proc/sys/net/ipv4/tcp_syncookies", "1");
	assert_int_equal(netstat("SyncookiesRecv") - received, 50);
	assert_int_equal(counter("accept_local", -1) - local, 50);
	close(fd);
}

static void loopback_up(void)
{
	struct ifreq ifr = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	assert_ok(ioctl(fd, SIOCGIFFLAGS, &ifr));
	ifr.ifr_flags |= IFF_UP;
	assert_ok(ioctl(fd, SIOCSIFFLAGS, &ifr));
	close(fd);
}

/* Each namespace has its own counters, and connections hold it. */
static void network_namespaces(void **state)
{
	unsigned long long outside = counter("accept_local", -1);
	int status;
	pid_t pid = fork();

	(void)state;
	if (!pid) {
		union address a;
		int fd, client, conn;
		char byte;

		if (unshare(CLONE_NEWNET))
			_exit(1);
		loopback_up();
		fd = listener(AF_INET, &a);
		if (spawn(fd, 1))
			_exit(2);
		client = connect_on(1, &a);
		conn = accept(fd, NULL, NULL);
		/* /proc/net is /proc/self/net, that of the new namespace. */
		if (conn < 0 || counter("accept_local", -1) != 1)
			_exit(3);
		close(fd);
		if (unshare(CLONE_NEWNET))
			_exit(4);
		/* These two sockets keep the first namespace alive. */
		if (write(client, "x", 1) != 1 || read(conn, &byte, 1) != 1)
			_exit(5);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(counter("accept_local", -1), outside);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(options_inherited),
		T(obstacles_refused),
		T(more_obstacles_refused),
		T(signals_refused),
		T(default_control_kept),
		T(port_stays_taken),
		T(own_reuseport_group),
		T(reuseport_kept),
		T(reuseport_set_after_spawn),
		T(interface_follows),
		T(shutdown_and_listen_again),
		T(backlog_follows),
		T(time_wait_reuse),
		T(syn_cookies),
		T(network_namespaces),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(0);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
