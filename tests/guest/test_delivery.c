// SPDX-License-Identifier: GPL-2.0-only
/*
 * Connection locality: RFD, packet redispatch, RCS, packet pools, policies. Like
 * test_module it runs in the guest, as root, on loopback. Usage: test_delivery [TEST]
 */
#include "locality.h"

/* --- receive flow deliver ---------------------------------------------------- */

static void rfd(int family)
{
	unsigned long long ports, remote;
	union address a;
	int fd = listener(family, &a), cpu, n = sysconf(_SC_NPROCESSORS_ONLN);

	ports = counter("rfd_port", -1);
	assert_int_equal(counter("rfd_port", -1), ports);
	for (cpu = 0; cpu < n; cpu++) {
		int client = socket(family, SOCK_STREAM, 0), conn;

		/* With RFD off, the server's packets are handled on the server's CPU. */
		pin(cpu);
		assert_ok(rfd_connect(client, &a));
		conn = accept(fd, NULL, NULL);
		pin((cpu + 1) % n);
		say(conn, client, 3);
		assert_int_equal(incoming_cpu(client), (cpu + 1) % n);
		close(client);
		close(conn);
	}
	assert_int_equal(counter("rfd_port", -1), ports);

	write_file(switches[2], "1");
	write_file(switches[3], "1");
	remote = counter("steer_remote", -1);
	for (cpu = 0; cpu < 4 * n; cpu++) {
		int client = socket(family, SOCK_STREAM, 0), conn;

		pin(cpu % n);
		assert_ok(rfd_connect(client, &a));
		conn = accept(fd, NULL, NULL);
		assert_ok(conn);
		pin((cpu + 1) % n);
		say(conn, client, 3);
		/* With RFD on, they are handled on the CPU where the client connected. */
		assert_int_equal(incoming_cpu(client), cpu % n);
		close(client);
		close(conn);
	}
	assert_int_equal(counter("rfd_port", -1) - ports, 4 * n);
	assert_true(counter("steer_remote", -1) - remote >= 3ULL * 4 * n);
	close(fd);
}

static void rfd_ipv4(void **state)
{
	(void)state;
	rfd(AF_INET);
}

static void rfd_ipv6(void **state)
{
	(void)state;
	rfd(AF_INET6);
}

/* Packets come to the CPU that connects, also when the few ports left name another one. */
static void rfd_of_few_ports(void **state)
{
	static const char range[] = "/proc/sys/net/ipv4/ip_local_port_range";
	unsigned long long exhausted;
	union address a;
	int fd, cpu, conn, client, n = sysconf(_SC_NPROCESSORS_ONLN);

	(void)state;
	write_file(switches[2], "1");
	write_file(switches[3], "1");
	exhausted = counter("rfd_exhausted", -1);
	for (cpu = 0; cpu < n; cpu++) {
		/*
		 * Two ports name two CPUs at most. Each client has a server of its own, so
		 * all clients may have them.
		 */
		fd = listener(AF_INET, &a);
		write_file(range, "40000 40001");
		client = socket(AF_INET, SOCK_STREAM, 0);
		pin(cpu);
		assert_ok(rfd_connect(client, &a));
		write_file(range, "32768 60999");
		assert_in_range(local_port(client), 40000, 40001);
		conn = accept(fd, NULL, NULL);
		assert_ok(conn);
		pin((cpu + 1) % n);
		say(conn, client, 3);
		assert_int_equal(incoming_cpu(client), cpu);
		close(client);
		close(conn);
		close(fd);
	}
	assert_in_range(counter("rfd_exhausted", -1) - exhausted, n - 2, n - 1);
}

static void rfd_respects_the_program(void **state)
{
	static const char range[] = "/proc/sys/net/ipv4/ip_local_port_range";
	static const char reserved[] = "/proc/sys/net/ipv4/ip_local_reserved_ports";
	unsigned long long ports, exhausted;
	union address a, b;
	int fd = listener(AF_INET, &a), client, again, i, clients[64];
	struct sockaddr unspec = { .sa_family = AF_UNSPEC };
	struct fsocket_ioctl_arg arg = { 0 };

	(void)state;
	write_file(switches[3], "1");
	/* A bound socket keeps its port. */
	ports = counter("rfd_port", -1);
	client = bound_socket(AF_INET, &b);
	assert_ok(rfd_connect(client, &a));
	assert_int_equal(local_port(client), ntohs(b.in.sin_port));
	assert_int_equal(counter("rfd_port", -1), ports);
	assert_errno(rfd_connect(client, &a), EISCONN);
	close(client);
	/* A socket that connects a second time keeps it, too. */
	client = socket(AF_INET, SOCK_DGRAM, 0);
	assert_ok(rfd_connect(client, &a));
	close(client);
	assert_int_equal(counter("rfd_port", -1), ports);

	/* A failed call leaves the socket unbound. */
	client = socket(AF_INET, SOCK_STREAM, 0);
	b = a;
	b.in.sin_port = htons(1);
	assert_errno(rfd_connect(client, &b), ECONNREFUSED);
	arg.fd = client;
	assert_errno(ioctl(dev, FSOCKET_IOC_CONNECT, &arg), EINVAL);
	arg.op.connect_op.sockaddr_len = 16;
	assert_errno(ioctl(dev, FSOCKET_IOC_CONNECT, &arg), EFAULT);
	arg.op.connect_op.sockaddr = &unspec;
	assert_ok(ioctl(dev, FSOCKET_IOC_CONNECT, &arg));
	memset(&b, 0, sizeof(b));
	b.in.sin_family = AF_INET;
	assert_ok(bind(client, &b.sa, sizeof(b.in)));
	close(client);

	/* A port serves several destinations, and no other socket may bind it meanwhile. */
	client = socket(AF_INET, SOCK_STREAM, 0);
	assert_ok(rfd_connect(client, &a));
	b.in.sin_port = htons(local_port(client));
	again = socket(AF_INET, SOCK_STREAM, 0);
	assert_errno(bind(again, &b.sa, sizeof(b.in)), EADDRINUSE);
	close(again);
	close(client);

	/*
	 * RFD keeps to the range and to the reserved ports in it: 32 ports are left,
	 * not enough for 6 connections of each of 8 CPUs.
	 */
	write_file(range, "40000 40063");
	write_file(reserved, "40000-40031");
	ports = counter("rfd_port", -1);
	exhausted = counter("rfd_exhausted", -1);
	for (i = 0; i < 48; i++) {
		pin(i % 8);
		clients[i] = socket(AF_INET, SOCK_STREAM, 0);
		if (rfd_connect(clients[i], &a)) {
			assert_int_equal(errno, EADDRNOTAVAIL);
			close(clients[i]);
			break;
		}
		assert_in_range(local_port(clients[i]), 40032, 40063);
	}
	write_file(reserved, "\n");
	write_file(range, "32768 60999");
	/* Each port names some CPU; for a CPU without a free port the kernel chooses. */
	assert_true(counter("rfd_port", -1) > ports);
	assert_true(counter("rfd_exhausted", -1) > exhausted);
	assert_true(i >= 16);
	while (i--)
		close(clients[i]);
	close(fd);
}

/* --- packet redispatch, RCS -------------------------------------------------- */

static void rcs(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), client, conn, error;

	(void)state;
	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	pin(3);
	say(conn, client, 3);
	pin(6);
	say(client, conn, 3);
	assert_int_equal(incoming_cpu(conn), 6);

	/* RCS switches the framework on, and keeps it on. */
	write_file(switches[4], "1");
	client = open(switches[2], O_WRONLY);
	error = write(client, "0", 1);
	assert_int_equal(error, -1);
	assert_int_equal(errno, EBUSY);
	close(client);
	close(conn);

	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	pin(3);
	say(conn, client, 3);
	pin(6);
	/* Reading may send an ACK and so make its CPU the owner, so read last. */
	assert_int_equal(write(client, "abc", 3), 3);
	await(bytes_in(conn) >= 3);
	assert_int_equal(bytes_in(conn), 3);
	assert_int_equal(incoming_cpu(conn), 3);
	close(conn);
	close(client);
	close(fd);
}

/* Each packet that @client sends, on CPU 6, is for @conn, which sends on CPU 3. */
static void talk_across(int client, int conn, int times)
{
	while (times--) {
		pin(3);
		say(conn, client, 1);
		pin(6);
		say(client, conn, 1);
	}
}

/* Packets that RCS hands over are copied, if and only if the pool is on. */
static void skb_pool(void **state)
{
	unsigned long long copied, here, remote;
	union address a;
	int fd = listener(AF_INET, &a), client, conn;

	(void)state;
	/* Each of these switches the framework on, too. */
	write_file(switches[5], "1");
	write_file(switches[5], "0");
	write_file(switches[4], "1");

	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	copied = counter("skb_pool_copy", -1);
	talk_across(client, conn, 30);
	assert_int_equal(counter("skb_pool_copy", -1), copied);
	write_file(switches[5], "1");
	here = counter("skb_pool_copy", 3);
	remote = counter("steer_remote", 6);
	talk_across(client, conn, 30);
	/* A delayed ACK, which is rare, makes the CPU of its timer the one that sends. */
	assert_in_range(counter("steer_remote", 6) - remote, 20, 1000);
	assert_in_range(counter("skb_pool_copy", 3) - here, 20, 1000);
	write_file(switches[5], "0");
	copied = counter("skb_pool_copy", -1);
	talk_across(client, conn, 30);
	assert_int_equal(counter("skb_pool_copy", -1), copied);
	close(conn);
	close(client);
	close(fd);
}

static void set_sysctl(const char *name, const char *value, int want)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	fd = open(path, O_WRONLY);
	assert_ok(fd);
	if (want)
		assert_errno(write(fd, value, strlen(value)), want);
	else
		assert_int_equal(write(fd, value, strlen(value)), strlen(value));
	close(fd);
}

static void assert_skb_pool_is(char mode)
{
	int fd = open(switches[5], O_RDONLY);
	char value;

	assert_int_equal(read(fd, &value, 1), 1);
	assert_int_equal(value, mode);
	close(fd);
}

/*
 * Fails unless what this CPU, 3, sends comes from its pool. A packet that finds few skbs in the
 * pool queues the work item that fills it. The work item may run late, and what the
 * pool lacks until then is counted, so only packets as few as a full pool has skbs
 * are sure to come from it, once it is full.
 */
static void assert_send_from_pool(int client, int conn)
{
	enum { PACKETS = 8, ROUNDS = 50 };
	unsigned long long sent, all;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		sent = counter("skb_pool_send", 3);
		all = sent + counter("skb_pool_empty", 3);
		say(client, conn, PACKETS);
		sent = counter("skb_pool_send", 3) - sent;
		assert_true(counter("skb_pool_send", 3) + counter("skb_pool_empty", 3) - all >=
			    PACKETS);
		if (sent >= PACKETS)
			return;
		usleep(100000);
	}
	fail_msg("the pool of CPU 3 is not filled");
}

/* Packets to send come from the pool of the CPU that sends, if and only if the pool is on. */
static void skb_pool_sending(void **state)
{
	enum { SENT = 1 << 20 };
	static char out[SENT], in[SENT];
	unsigned long long sent, all;
	union address a;
	int fd = listener(AF_INET, &a), mode, client, conn, i;

	(void)state;
	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	sent = counter("skb_pool_send", -1);
	all = sent + counter("skb_pool_empty", -1);
	say(client, conn, 10);
	assert_int_equal(counter("skb_pool_send", -1) + counter("skb_pool_empty", -1), all);

	mode = open(switches[5], O_WRONLY);
	assert_errno(write(mode, "4", 1), EINVAL);
	set_sysctl("kernel/ftrace_enabled", "0", 0);
	assert_errno(write(mode, "2", 1), EOPNOTSUPP);
	assert_skb_pool_is('0');
	set_sysctl("kernel/ftrace_enabled", "1", 0);
	write_file(switches[5], "2");
	set_sysctl("kernel/ftrace_enabled", "0", EBUSY);
	assert_skb_pool_is('2');
	close(mode);

	pin(3);
	assert_send_from_pool(client, conn);

	/* Send more at once than the pool has. */
	for (i = 0; i < SENT; i++)
		out[i] = rand();
	if (!fork()) {
		_exit(write(client, out, SENT) != SENT);
	}
	for (i = 0; i < SENT;) {
		int got = read(conn, in + i, SENT - i);

		assert_true(got > 0);
		i += got;
	}
	assert_memory_equal(in, out, SENT);
	wait(&i);
	assert_int_equal(i, 0);

	write_file(switches[2], "1");
	write_file(switches[5], "3");
	assert_skb_pool_is('3');
	assert_send_from_pool(client, conn);
	write_file(switches[5], "1");
	all = counter("skb_pool_send", -1) + counter("skb_pool_empty", -1);
	say(client, conn, 10);
	assert_int_equal(counter("skb_pool_send", -1) + counter("skb_pool_empty", -1), all);
	close(conn);
	close(client);
	close(fd);
}

static void example_policy(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), client, conn;
	char options[64];

	(void)state;
	snprintf(options, sizeof(options), "port=%d cpu=5", ntohs(a.in.sin_port));
	assert_ok(load_module(getenv("POLICY_KO"), options));
	client = connect_on(2, &a);
	conn = accept(fd, NULL, NULL);
	pin(2);
	say(client, conn, 3);
	assert_int_equal(incoming_cpu(conn), 2);
	write_file(switches[2], "1");
	say(client, conn, 3);
	assert_int_equal(incoming_cpu(conn), 5);
	/* An offline CPU is not chosen. */
	write_file("/sys/devices/system/cpu/cpu5/online", "0");
	say(client, conn, 3);
	write_file("/sys/devices/system/cpu/cpu5/online", "1");
	say(client, conn, 3);
	assert_int_equal(incoming_cpu(conn), 5);
	assert_ok(syscall(SYS_delete_module, "policy_port", O_NONBLOCK));
	pin(2);
	say(client, conn, 3);
	assert_int_equal(incoming_cpu(conn), 2);
	close(conn);
	close(client);
	close(fd);
}

/* Sends numbered packets that end nothing, from one CPU. */
static void send_numbered(uint16_t port, uint32_t packets)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_TCP);
	struct tcphdr tcp = { .dest = htons(port), .doff = 5, .rst = 1 };
	uint32_t i;

	pin(6);
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (i = 1; i <= packets; i++) {
		tcp.seq = htonl(i);
		if (sendto(fd, &tcp, sizeof(tcp), 0, (void *)&to, sizeof(to)) != sizeof(tcp))
			_exit(1);
		/* Send fewer than a queue takes. */
		if (i % 200 == 0)
			usleep(500);
	}
	_exit(0);
}

/*
 * Sends the flow's packets to changing CPUs; sometimes all is switched off, or a CPU
 * goes offline.
 */
static void choose(bool unplug)
{
	char value[2] = "0", path[64];
	int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pin(7);
	for (i = 1;; i++) {
		value[0] = '0' + rand() % 6;
		write_file("/sys/module/policy_port/parameters/cpu", value);
		usleep(200);
		if (i % 1000 == 0 && !unplug) {
			write_file(switches[2], "0");
			write_file(switches[2], "1");
		}
		if (i % 200 == 0 && unplug && value[0] != '0') {
			snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%s/online", value);
			write_file(path, "0");
			write_file(path, "1");
		}
	}
}

static void all_cpus_online(void)
{
	char path[64];
	int i;

	for (i = 1; i < 6; i++) {
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", i);
		write_file(path, "1");
	}
}

/*
 * Receives @packets; returns their number, and in *@overtaken that of packets behind a
 * later one.
 */
static uint32_t receive_numbered(int fd, uint16_t port, uint32_t packets,
				 unsigned long long dropped, uint32_t *overtaken)
{
	struct { struct iphdr ip; struct tcphdr tcp; } packet;
	uint32_t number, latest = 0, got = 0;
	int waited = 0;

	for (;;) {
		if (!readable(fd, 1000)) {
			/* Packets in the queue of a CPU that does not run come late. */
			if (got + counter("steer_drop", -1) - dropped == packets || waited++ > 60)
				return got;
			continue;
		}
		if (read(fd, &packet, sizeof(packet)) != sizeof(packet) ||
		    packet.tcp.dest != htons(port))
			continue;
		number = ntohl(packet.tcp.seq);
		got++;
		if (number <= latest)
			++*overtaken;
		else
			latest = number;
	}
}

/* Packets of one flow are handled in their order, whatever policies and framework do. */
static void keep_order(bool unplug)
{
	enum { PORT = 9, PACKETS = 30000 };
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_TCP), room = 64 << 20, status;
	unsigned long long kept = counter("steer_kept", -1), remote = counter("steer_remote", -1);
	unsigned long long dropped = counter("steer_drop", -1);
	uint32_t got, overtaken = 0;
	pid_t sender, chooser;

	hold_static_keys(true);
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)));
	assert_ok(load_module(getenv("POLICY_KO"), "port=9 cpu=0"));
	write_file(switches[2], "1");
	chooser = fork();
	if (!chooser)
		choose(unplug);
	sender = fork();
	if (!sender)
		send_numbered(PORT, PACKETS);
	got = receive_numbered(fd, PORT, PACKETS, dropped, &overtaken);
	assert_int_equal(waitpid(sender, &status, 0), sender);
	assert_int_equal(status, 0);
	kill(chooser, SIGKILL);
	waitpid(chooser, NULL, 0);
	if (unplug)
		all_cpus_online();
	write_file(switches[2], "0");
	assert_ok(syscall(SYS_delete_module, "policy_port", O_NONBLOCK));
	hold_static_keys(false);
	close(fd);
	assert_int_equal(overtaken, 0);
	assert_int_equal(got + counter("steer_drop", -1) - dropped, PACKETS);
	/* Some packets had to be kept in order. */
	assert_true(counter("steer_remote", -1) - remote > 1000);
	assert_true(counter("steer_kept", -1) - kept > 10);
}

static void order(void **state)
{
	(void)state;
	keep_order(false);
}

static void order_unplugged(void **state)
{
	(void)state;
	keep_order(true);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(rfd_ipv4),
		T(rfd_ipv6),
		T(rfd_of_few_ports),
		T(rfd_respects_the_program),
		T(rcs),
		T(skb_pool),
		T(skb_pool_sending),
		T(example_policy),
		T(order),
		T(order_unplugged),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
