// SPDX-License-Identifier: GPL-2.0-only
/*
 * Paths of a packet other than the plain one: VRF, VLAN on veth, containers, a bridge. The test
 * compares what each socket gets with what it gets without the module. Runs as root in
 * the guest; with $POLICY_KO, the example policy. Usage: test_paths [TEST]
 */
#include "helpers.h"

#define LOCAL PARAM "enable_local_established"
#define FRAMEWORK PARAM "enable_rps_framework"

#define OTHER "ip netns exec paths "
#define THIRD "ip netns exec paths3 "

/* The namespace of the client. */
static const char *container;

static void run(const char *command)
{
	int status = system(command);

	if (status)
		fail_msg("%s: status %d", command, status);
}

/* Makes a container with a veth pair, and a VLAN on each end. */
static int setup(void **state)
{
	(void)state;
	unpin();
	container = "/run/netns/paths";
	run("ip netns add paths && ip link add pa type veth peer name pb netns paths &&"
	    "ip link set pa up && ip address add 10.77.0.1/24 dev pa &&"
	    "ip link add link pa name pa.5 type vlan id 5 && ip link set pa.5 up &&"
	    "ip address add 10.78.0.1/24 dev pa.5 &&"
	    OTHER "sh -c 'ip link set lo up; ip link set pb up;"
	    "ip address add 10.77.0.2/24 dev pb; ip link add link pb name pb.5 type vlan id 5;"
	    "ip link set pb.5 up; ip address add 10.78.0.2/24 dev pb.5'");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unpin();
	syscall(SYS_delete_module, "policy_port", O_NONBLOCK);
	write_file(LOCAL, "0");
	write_file(FRAMEWORK, "0");
	return system("ip netns delete paths; ip netns delete paths3 2> /dev/null;"
		      "modprobe -qr br_netfilter; ip link delete vrf0 2> /dev/null;"
		      "ip link delete pa 2> /dev/null; true") ? -1 : 0;
}

/* Makes a client in the container; the test holds both ends of the connection. */
static int connect_from_container(const char *to, uint16_t port)
{
	int pair[2], client = -1, status;
	char control[CMSG_SPACE(sizeof(int))], byte = 'x';
	struct iovec data = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	pid_t child;

	assert_ok(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	child = fork();
	if (!child) {
		struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = port };
		int ns = open(container, O_RDONLY), fd;

		inet_pton(AF_INET, to, &a.sin_addr);
		if (setns(ns, CLONE_NEWNET))
			_exit(1);
		fd = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(fd, (void *)&a, sizeof(a)))
			_exit(2);
		cmsg = CMSG_FIRSTHDR(&message);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
		_exit(sendmsg(pair[1], &message, 0) == 1 ? 0 : 3);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(recvmsg(pair[0], &message, 0), 1);
	cmsg = CMSG_FIRSTHDR(&message);
	memcpy(&client, CMSG_DATA(cmsg), sizeof(client));
	close(pair[0]);
	close(pair[1]);
	return client;
}

static int listen_on(const char *address, uint16_t *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t len = sizeof(a);

	inet_pton(AF_INET, address, &a.sin_addr);
	assert_ok(bind(fd, (void *)&a, sizeof(a)));
	assert_ok(listen(fd, 16));
	assert_ok(getsockname(fd, (void *)&a, &len));
	*port = a.sin_port;
	return fd;
}

/* Returns whether an unbound socket still gets data when its interface belongs to a VRF. */
static int gets_through_vrf(void)
{
	uint16_t port;
	int fd = listen_on("10.77.0.1", &port), client, conn, got;

	client = connect_from_container("10.77.0.1", port);
	conn = accept(fd, NULL, NULL);
	assert_ok(conn);
	assert_int_equal(write(client, "a", 1), 1);
	assert_int_equal(readable(conn, 2000), 1);
	assert_int_equal(read(conn, &got, 1), 1);
	run("ip link add vrf0 type vrf table 10 && ip link set vrf0 up &&"
	    "ip link set pa master vrf0");
	assert_int_equal(write(client, "b", 1), 1);
	got = readable(conn, 5000);
	run("ip link delete vrf0; ip address replace 10.77.0.1/24 dev pa");
	close(client);
	close(conn);
	close(fd);
	return got;
}

static void vrf(void **state)
{
	int stock = gets_through_vrf();

	(void)state;
	write_file(LOCAL, "1");
	assert_int_equal(gets_through_vrf(), stock);
}

/* Returns the number of packets that the socket has received. */
static unsigned int segments_in(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);

	assert_ok(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len));
	return info.tcpi_segs_in;
}

static unsigned long long steered(void)
{
	return counter("steer_remote", -1) + counter("steer_kept", -1);
}

/*
 * Packets of a container, through @address, are redispatched once each: the policy
 * sends those to this port to CPU 3, and the test reads on other CPUs.
 */
static void steered_once(const char *address)
{
	enum { PACKETS = 30 };
	unsigned long long before, local;
	unsigned int received;
	char options[64], byte = 'x';
	int fd, client, conn, cpu = -1, i;
	socklen_t len = sizeof(cpu);
	uint16_t port;

	fd = listen_on(address, &port);
	snprintf(options, sizeof(options), "port=%d cpu=3", ntohs(port));
	assert_ok(load_module(getenv("POLICY_KO"), options));
	client = connect_from_container(address, port);
	conn = accept(fd, NULL, NULL);
	assert_ok(conn);
	pin(1);
	write_file(FRAMEWORK, "1");
	before = steered();
	local = counter("steer_local", -1);
	received = segments_in(conn);
	for (i = 0; i < PACKETS; i++) {
		assert_int_equal(write(client, &byte, 1), 1);
		assert_int_equal(read(conn, &byte, 1), 1);
		assert_int_equal(write(conn, &byte, 1), 1);
		assert_int_equal(read(client, &byte, 1), 1);
	}
	assert_ok(getsockopt(conn, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &len));
	assert_int_equal(cpu, 3);
	/*
	 * These are the data and acknowledgements, of which the last may be under way. What
	 * a timer or the receipt of another packet sends may be sent by CPU 3.
	 */
	received = segments_in(conn) - received;
	local = counter("steer_local", -1) - local;
	assert_in_range(steered() - before + local, received, received + 2);
	assert_true(received >= PACKETS);
	assert_true(steered() - before > PACKETS / 2);
	close(client);
	close(conn);
	close(fd);
}

static void containers(void **state)
{
	(void)state;
	steered_once("10.77.0.1");
}

static void stacked(void **state)
{
	(void)state;
	steered_once("10.78.0.1");
}

/* Runs in a child, in the namespace of the bridge: the packets that the hook has looked up. */
static unsigned long long looked_up(void)
{
	int ns = open("/run/netns/paths", O_RDONLY), ends[2];
	unsigned long long number = ~0ULL;
	pid_t child;

	assert_ok(ns);
	assert_ok(pipe(ends));
	child = fork();
	if (!child) {
		if (setns(ns, CLONE_NEWNET))
			_exit(1);
		number = counter("established_hit", -1) + counter("established_miss", -1) +
			 counter("established_remote", -1);
		_exit(write(ends[1], &number, sizeof(number)) != sizeof(number));
	}
	close(ends[1]);
	assert_int_equal(read(ends[0], &number, sizeof(number)), sizeof(number));
	assert_int_equal(waitpid(child, NULL, 0), child);
	close(ends[0]);
	close(ns);
	return number;
}

/*
 * Packets that pass a bridge get no socket of the host that has the bridge: with
 * br_netfilter, all of them pass the hooks of IP.
 */
static void bridged(void **state)
{
	int fd, client, conn, i;
	uint16_t port;
	char byte = 'x';

	(void)state;
	/* Debian's kernels have it. */
	if (system("[ -e /proc/sys/net/bridge ] || modprobe -q br_netfilter"))
		skip();
	run("ip netns add paths3 &&"
	    OTHER "sh -e -c 'ip address flush dev pb; ip link add br0 type bridge;"
	    "ip link set br0 up; ip link set pb master br0;"
	    "ip link add pc type veth peer name pd netns paths3; ip link set pc up;"
	    "ip link set pc master br0; echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables' &&"
	    THIRD "sh -e -c 'ip link set lo up; ip link set pd up;"
	    "ip address add 10.77.0.2/24 dev pd'");
	container = "/run/netns/paths3";
	write_file(LOCAL, "1");
	fd = listen_on("10.77.0.1", &port);
	client = connect_from_container("10.77.0.1", port);
	conn = accept(fd, NULL, NULL);
	assert_ok(conn);
	for (i = 0; i < 10; i++) {
		assert_int_equal(write(client, &byte, 1), 1);
		assert_int_equal(read(conn, &byte, 1), 1);
		assert_int_equal(write(conn, &byte, 1), 1);
		assert_int_equal(read(client, &byte, 1), 1);
	}
	assert_int_equal(looked_up(), 0);
	close(client);
	close(conn);
	close(fd);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(vrf),
		T(containers),
		T(stacked),
		T(bridged),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
