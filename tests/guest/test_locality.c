// SPDX-License-Identifier: GPL-2.0-only
/*
 * Connection locality: the established tables, RFD, packet redispatch and RCS
 * (Direct-TCP does nothing on loopback, whose packets have their route). As
 * test_module: in the guest, as root, on loopback, where a packet is handled on
 * the CPU that sends it unless something steers it.
 * Usage: test_locality [TEST]
 */
#include "helpers.h"

static int dev = -1;

static const char * const switches[] = {
	PARAM "enable_local_established",
	PARAM "enable_direct_tcp",
	PARAM "enable_rps_framework",
	PARAM "enable_receive_flow_deliver",
	PARAM "enable_receive_cpu_selection",
	PARAM "enable_skb_pool",
};

#define SWITCHES ((int)(sizeof(switches) / sizeof(*switches)))

static void all_off(void)
{
	int i;

	for (i = SWITCHES - 1; i >= 0; i--)
		write_file(switches[i], "0");
}

static void all_on(void)
{
	int i;

	for (i = 0; i < SWITCHES; i++)
		write_file(switches[i], "1");
}

static int setup(void **state)
{
	(void)state;
	unpin();
	all_off();
	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	return dev < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	close(dev);
	unpin();
	all_off();
	return 0;
}

static int rfd_connect(int fd, const union address *a)
{
	struct fsocket_ioctl_arg arg = { .fd = fd };

	arg.op.connect_op.sockaddr = &a->sa;
	arg.op.connect_op.sockaddr_len = address_len(a);
	return ioctl(dev, FSOCKET_IOC_CONNECT, &arg);
}

static int local_port(int fd)
{
	union address a;
	socklen_t len = sizeof(a);

	assert_ok(getsockname(fd, &a.sa, &len));
	return ntohs(a.in.sin_port);
}

/* Where its latest packet was handled. */
static int incoming_cpu(int fd)
{
	int cpu = -2;
	socklen_t len = sizeof(cpu);

	assert_ok(getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &len));
	return cpu;
}

static int bytes_in(int fd)
{
	int bytes = -1;

	assert_ok(ioctl(fd, FIONREAD, &bytes));
	return bytes;
}

static void say(int from, int to, int times)
{
	char byte = 'x';

	while (times--) {
		assert_int_equal(write(from, &byte, 1), 1);
		assert_int_equal(read(to, &byte, 1), 1);
	}
}

/* --- the established table -------------------------------------- */

static void talk(int family, int connections)
{
	union address a;
	int fd = listener(family, &a), i;

	for (i = 0; i < connections; i++) {
		int client = connect_on(i % 4, &a), conn = accept(fd, NULL, NULL);

		assert_ok(conn);
		pin(i % 4);
		say(client, conn, 5);
		say(conn, client, 5);
		unpin();
		/* All ways to end. */
		if (i % 3 == 1) {
			struct linger reset = { .l_onoff = 1 };

			setsockopt(conn, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		}
		close(i % 2 ? client : conn);
		close(i % 2 ? conn : client);
	}
	close(fd);
}

static void established(int family)
{
	unsigned long long hits = counter("established_hit", -1), in, out;
	int waited;

	talk(family, 8);
	assert_int_equal(counter("established_hit", -1), hits);

	in = counter("established_add", -1);
	out = counter("established_del", -1);
	write_file(switches[0], "1");
	talk(family, 48);
	assert_true(counter("established_hit", -1) - hits >= 48 * 10);
	assert_true(counter("established_add", -1) - in >= 2 * 48);
	for (waited = 0; waited < 50 && counter("established_add", -1) - in >
	     counter("established_del", -1) - out + 8; waited++)
		usleep(100000);
	/* Other connections of the machine, ssh's, may be in it. */
	assert_true(waited < 50);
	write_file(switches[0], "0");
	assert_int_equal(counter("established_add", -1), counter("established_del", -1));
	hits = counter("established_hit", -1);
	talk(family, 8);
	assert_int_equal(counter("established_hit", -1), hits);
}

static void established_ipv4(void **state)
{
	(void)state;
	established(AF_INET);
}

static void established_ipv6(void **state)
{
	(void)state;
	established(AF_INET6);
}

/* Switched off and on under open connections, which stay as they were. */
static void established_while_open(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), client = connect_on(1, &a), conn, i;

	(void)state;
	conn = accept(fd, NULL, NULL);
	assert_ok(conn);
	for (i = 0; i < 20; i++) {
		int second, third;

		write_file(switches[0], i % 2 ? "0" : "1");
		write_file(switches[1], i % 3 ? "0" : "1");
		say(client, conn, 3);
		second = connect_on(2, &a);
		third = accept(fd, NULL, NULL);
		say(second, third, 3);
		write_file(switches[0], i % 2 ? "1" : "0");
		say(second, third, 3);
		close(second);
		close(third);
	}
	close(conn);
	close(client);
	close(fd);
}

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

		/* Off, the server's packets are handled where the server is. */
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
		/* On, where the client was when it connected. */
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
	/* So does one that connects a second time. */
	client = socket(AF_INET, SOCK_DGRAM, 0);
	assert_ok(rfd_connect(client, &a));
	close(client);
	assert_int_equal(counter("rfd_port", -1), ports);

	/* What fails leaves the socket unbound. */
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

	/* A port serves several destinations; nobody may bind it meanwhile. */
	client = socket(AF_INET, SOCK_STREAM, 0);
	assert_ok(rfd_connect(client, &a));
	b.in.sin_port = htons(local_port(client));
	again = socket(AF_INET, SOCK_STREAM, 0);
	assert_errno(bind(again, &b.sa, sizeof(b.in)), EADDRINUSE);
	close(again);
	close(client);

	/*
	 * The range, and what is reserved in it: 32 ports, not enough for 6
	 * connections of each of 8 CPUs.
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
	/* Each port names some CPU; where none is left, the kernel chooses. */
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
	int fd = listener(AF_INET, &a), client, conn, error, waited;

	(void)state;
	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	pin(3);
	say(conn, client, 3);
	pin(6);
	say(client, conn, 3);
	assert_int_equal(incoming_cpu(conn), 6);

	/* The framework comes along, and stays as long as it is needed. */
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
	/* Reading may send an ACK, and with that makes its CPU the owner: so last. */
	assert_int_equal(write(client, "abc", 3), 3);
	for (waited = 0; waited < 1000 && bytes_in(conn) < 3; waited++)
		usleep(1000);
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
	unsigned long long copied, remote;
	union address a;
	int fd = listener(AF_INET, &a), client, conn;

	(void)state;
	/* Each brings the framework along. */
	write_file(switches[5], "1");
	write_file(switches[5], "0");
	write_file(switches[4], "1");

	client = connect_on(1, &a);
	conn = accept(fd, NULL, NULL);
	copied = counter("skb_pool_copy", -1);
	talk_across(client, conn, 30);
	assert_int_equal(counter("skb_pool_copy", -1), copied);
	write_file(switches[5], "1");
	remote = counter("steer_remote", 6);
	talk_across(client, conn, 30);
	/* A delayed ACK makes the CPU of its timer the one that sends: rare. */
	assert_in_range(counter("steer_remote", 6) - remote, 20, 1000);
	assert_in_range(counter("skb_pool_copy", 3) - copied, 20, 1000);
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

/* What is sent comes from the pool of the CPU that sends, if and only if that is on. */
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

	/* The first finds none, and has the pool filled. */
	pin(3);
	say(client, conn, 1);
	usleep(200000);
	sent = counter("skb_pool_send", 3);
	say(client, conn, 30);
	assert_true(counter("skb_pool_send", 3) - sent >= 30);

	/* More than is in the pool, at once. */
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
	sent = counter("skb_pool_send", 3);
	say(client, conn, 10);
	assert_true(counter("skb_pool_send", 3) - sent >= 10);
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
	/* One that is offline has no say. */
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

/* Sends numbered packets that end nothing, from one CPU; @got: how many have arrived. */
static void send_numbered(uint16_t port, uint32_t packets, const uint32_t *got)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_TCP);
	struct tcphdr tcp = { .dest = htons(port), .doff = 5, .rst = 1 };
	uint32_t i, waited, lost = 0;

	pin(6);
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (i = 1; i <= packets; i++) {
		tcp.seq = htonl(i);
		if (sendto(fd, &tcp, sizeof(tcp), 0, (void *)&to, sizeof(to)) != sizeof(tcp))
			_exit(1);
		if (i % 200)
			continue;
		/*
		 * Less than a queue holds. And queues are empty at times, also where a CPU
		 * does not run for long: switching off waits for that a second only, and
		 * what is sent after it would overtake.
		 */
		for (waited = 0; waited < 20000; waited++) {
			usleep(500);
			if (__atomic_load_n(got, __ATOMIC_RELAXED) + lost >= i)
				break;
		}
		if (waited == 20000)
			lost = i - __atomic_load_n(got, __ATOMIC_RELAXED);
	}
	_exit(0);
}

/* Packets of one flow are handled in their order, whatever policy and framework do. */
static void order(void **state)
{
	enum { PORT = 9, PACKETS = 30000 };
	struct { struct iphdr ip; struct tcphdr tcp; } packet;
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_TCP), room = 64 << 20, status;
	unsigned long long kept = counter("steer_kept", -1), remote = counter("steer_remote", -1);
	unsigned long long dropped = counter("steer_drop", -1);
	uint32_t number, latest = 0, overtaken = 0;
	uint32_t *got = mmap(NULL, sizeof(*got), PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	bool sending = true;
	char value[2] = "0";
	pid_t sender, chooser;
	int i;

	(void)state;
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)));
	assert_ok(load_module(getenv("POLICY_KO"), "port=9 cpu=0"));
	write_file(switches[2], "1");
	chooser = fork();
	if (!chooser) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pin(7);
		for (i = 1;; i++) {
			value[0] = '0' + rand() % 6;
			write_file("/sys/module/policy_port/parameters/cpu", value);
			usleep(200);
			if (i % 1000 == 0) {
				write_file(switches[2], "0");
				write_file(switches[2], "1");
			}
		}
	}
	sender = fork();
	if (!sender)
		send_numbered(PORT, PACKETS, got);
	for (;;) {
		if (!readable(fd, 1000)) {
			if (!sending)
				break;
			sending = !waitpid(sender, &status, WNOHANG);
			continue;
		}
		if (read(fd, &packet, sizeof(packet)) != sizeof(packet) ||
		    packet.tcp.dest != htons(PORT))
			continue;
		number = ntohl(packet.tcp.seq);
		__atomic_store_n(got, *got + 1, __ATOMIC_RELAXED);
		if (number <= latest)
			overtaken++;
		else
			latest = number;
	}
	assert_int_equal(status, 0);
	kill(chooser, SIGKILL);
	waitpid(chooser, NULL, 0);
	write_file(switches[2], "0");
	assert_ok(syscall(SYS_delete_module, "policy_port", O_NONBLOCK));
	close(fd);
	assert_int_equal(overtaken, 0);
	assert_int_equal(*got + counter("steer_drop", -1) - dropped, PACKETS);
	/* There was something to keep in order. */
	assert_true(counter("steer_remote", -1) - remote > 1000);
	assert_true(counter("steer_kept", -1) - kept > 10);
}

static void switches_checked(void **state)
{
	int i, fd;

	(void)state;
	for (i = 0; i < SWITCHES; i++) {
		fd = open(switches[i], O_WRONLY);
		assert_ok(fd);
		assert_errno(write(fd, "4", 1), EINVAL);
		assert_errno(write(fd, "-1", 2), EINVAL);
		assert_errno(write(fd, "on", 2), EINVAL);
		close(fd);
	}
}

static void tracepoints(void **state)
{
	static const char base[] = "/sys/kernel/tracing/";
	static const char * const events[] = {
		"fsocket_spawn: port=", "fsocket_retire: port=", "fsocket_hit: sport=",
		"fsocket_miss: sport=", "fsocket_steer: sport=",
	};
	static char trace[1 << 20];
	union address a;
	int fd, client, conn, i;
	size_t got;
	FILE *file;

	(void)state;
	write_file("/sys/kernel/tracing/trace", "\n");
	write_file("/sys/kernel/tracing/events/fastsocket/enable", "1");
	all_on();
	fd = listener(AF_INET, &a);
	{
		struct fsocket_ioctl_arg arg = { .fd = fd };

		arg.op.spawn_op.cpu = 1;
		assert_ok(ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg));
		client = socket(AF_INET, SOCK_STREAM, 0);
		assert_ok(rfd_connect(client, &a));
		conn = accept(fd, NULL, NULL);
		unpin();
		pin(4);
		say(conn, client, 3);
		assert_ok(ioctl(dev, FSOCKET_IOC_RETIRE_LISTEN, &arg));
	}
	close(conn);
	close(client);
	close(fd);
	write_file("/sys/kernel/tracing/events/fastsocket/enable", "0");
	file = fopen("/sys/kernel/tracing/trace", "r");
	assert_non_null(file);
	got = fread(trace, 1, sizeof(trace) - 1, file);
	fclose(file);
	trace[got] = '\0';
	for (i = 0; i < (int)(sizeof(events) / sizeof(*events)); i++) {
		if (!strstr(trace, events[i]))
			fail_msg("no %s in %strace", events[i], base);
	}
	write_file("/sys/kernel/tracing/trace", "\n");
}

/* --- all at once -------------------------------------------------------------- */

#define STORM_BYTES 8192

/* Sends a pattern one way and back; every byte has to arrive, in order. */
static void storm_client(const union address *addresses, int number, int until)
{
	static unsigned char out[STORM_BYTES], in[STORM_BYTES];
	struct timeval limit = { .tv_sec = 30 };
	int i, round = 0;

	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	while (time(NULL) < until) {
		const union address *a = &addresses[round++ % 2];
		int fd = socket(a->sa.sa_family, SOCK_STREAM, 0), done;

		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		if (fd < 0 || rfd_connect(fd, a))
			_exit(10);
		for (i = 0; i < STORM_BYTES; i++)
			out[i] = i * 7 + number + round;
		if (write(fd, out, sizeof(out)) != sizeof(out))
			_exit(11);
		for (done = 0; done < STORM_BYTES; done += i) {
			i = read(fd, in + done, sizeof(in) - done);
			if (i <= 0)
				_exit(12);
		}
		if (memcmp(in, out, sizeof(in)))
			_exit(13);
		close(fd);
	}
	_exit(round ? 0 : 14);
}

static void storm_server(int fd)
{
	struct fsocket_ioctl_arg arg = { .fd = fd };
	static char buf[STORM_BYTES];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	arg.op.spawn_op.cpu = -1;
	ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg);
	for (;;) {
		int conn = accept(fd, NULL, NULL), got, done;

		for (done = 0; conn >= 0 && done < STORM_BYTES; done += got) {
			got = read(conn, buf, sizeof(buf));
			if (got <= 0 || write(conn, buf, got) != got)
				break;
		}
		close(conn);
	}
}

/*
 * Switching a parameter patches the kernel's code where a static key or a
 * tracepoint is the first, or the last, of its kind. An emulated CPU (QEMU 7.2,
 * eight on two real ones) may then go on executing a breakpoint that has long
 * been taken out again: all CPUs loop in int3, with the final instruction in
 * memory. So others hold these keys while the storm lasts, and the skb pool's
 * sending side, for which ftrace patches, is on.
 */
static void hold_static_keys(bool hold)
{
	static const char on[] =
		"nft add table netdev storm &&"
		"nft 'add chain netdev storm in { type filter hook ingress device lo priority 0; }' &&"
		"nft add table inet storm &&"
		"nft 'add chain inet storm in { type filter hook prerouting priority 0; }' &&"
		"nft 'add chain inet storm out { type filter hook output priority 0; }' &&"
		"cd /sys/kernel/tracing/instances && mkdir storm1 storm2 &&"
		"echo 1 > storm1/events/sock/inet_sock_set_state/enable &&"
		"echo 1 > storm2/events/sock/inet_sock_set_state/enable";
	static const char off[] =
		"nft delete table netdev storm; nft delete table inet storm;"
		"cd /sys/kernel/tracing/instances &&"
		"echo 0 > storm1/events/sock/inet_sock_set_state/enable &&"
		"echo 0 > storm2/events/sock/inet_sock_set_state/enable &&"
		"rmdir storm1 storm2";

	assert_int_equal(system(hold ? on : off), 0);
}

static void storm(void **state)
{
	enum { CLIENTS = 12, SERVERS = 12 };
	union address a[2];
	int fds[2], i, status, until, round, waited;
	pid_t clients[CLIENTS], servers[SERVERS];
	char path[64];

	(void)state;
	hold_static_keys(true);
	write_file(switches[5], "2");
	until = time(NULL) + 8;
	fds[0] = listener(AF_INET, &a[0]);
	fds[1] = listener(AF_INET6, &a[1]);
	for (i = 0; i < SERVERS; i++) {
		servers[i] = fork();
		if (!servers[i])
			storm_server(fds[i % 2]);
	}
	for (i = 0; i < CLIENTS; i++) {
		clients[i] = fork();
		if (!clients[i])
			storm_client(a, i, until);
	}
	srand(1);
	for (round = 0; time(NULL) < until; round++) {
		int which = rand() % SWITCHES, cpu = 1 + rand() % 7;
		int fd = open(switches[which], O_WRONLY);
		const char *values = which == 5 ? "23" : "01";
		/* The framework is not switched off under RCS: no matter here. */
		ssize_t ignored = write(fd, values + rand() % 2, 1);

		(void)ignored;
		close(fd);
		if (round % 8 == 0) {
			snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
			write_file(path, "0");
			usleep(20000);
			write_file(path, "1");
		}
		usleep(20000);
	}
	for (i = 0; i < CLIENTS; i++) {
		assert_int_equal(waitpid(clients[i], &status, 0), clients[i]);
		assert_int_equal(status, 0);
	}
	for (i = 0; i < SERVERS; i++) {
		kill(servers[i], SIGKILL);
		waitpid(servers[i], NULL, 0);
	}
	close(fds[0]);
	close(fds[1]);
	all_off();
	hold_static_keys(false);
	for (waited = 0; waited < 50 && counter("established_add", -1) !=
	     counter("established_del", -1); waited++)
		usleep(100000);
	assert_true(waited < 50);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(established_ipv4),
		T(established_ipv6),
		T(established_while_open),
		T(rfd_ipv4),
		T(rfd_ipv6),
		T(rfd_respects_the_program),
		T(rcs),
		T(skb_pool),
		T(skb_pool_sending),
		T(example_policy),
		T(order),
		T(switches_checked),
		T(tracepoints),
		T(storm),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
