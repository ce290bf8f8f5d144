// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a malicious user can do with a listener that has ended, or that no process
 * serves. Runs in the guest as root with fastsocket.ko loaded, on loopback and on veth,
 * where the CPU that sends a packet also handles it. Usage: test_limits [TEST]
 */
#include "stuck.h"
#include "worker.h"

static int shell(const char *format, ...)
{
	char command[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	return system(command);
}

/* --- the owner of a listener that is closed --------------------------------------- */

/* Returns the number of packets of root's sockets that the rule has matched. */
static int owned_packets(void)
{
	FILE *list = popen("nft list chain inet ended in", "r");
	char line[512], *found;
	int packets = -1;

	assert_non_null(list);
	while (fgets(line, sizeof(line), list)) {
		found = strstr(line, "counter packets ");
		if (found)
			sscanf(found, "counter packets %d", &packets);
	}
	pclose(list);
	return packets;
}

/* Makes a socket in the network namespace at the other end of the veth pair. */
static int socket_beyond(int type, int protocol)
{
	int here = open("/proc/self/ns/net", O_RDONLY), there = open("/run/netns/ended", O_RDONLY);
	int fd;

	assert_ok(here);
	assert_ok(there);
	assert_ok(setns(there, CLONE_NEWNET));
	fd = socket(AF_INET, type, protocol);
	assert_ok(setns(here, CLONE_NEWNET));
	assert_ok(fd);
	close(here);
	close(there);
	return fd;
}

/* Sends a segment of the connection that netfilter sees before TCP finds it wrong. */
static void send_segment(in_port_t from, const union address *to, int cpu)
{
	struct tcphdr tcp = { .source = from, .dest = to->in.sin_port, .doff = 5, .ack = 1 };
	struct sockaddr_in address = to->in;
	int fd = socket_beyond(SOCK_RAW, IPPROTO_TCP);

	address.sin_port = 0;
	pin(cpu);
	assert_int_equal(sendto(fd, &tcp, sizeof(tcp), 0, (void *)&address, sizeof(address)),
			 sizeof(tcp));
	handle_packets();
	unpin();
	close(fd);
}

static in_port_t own_port(int fd)
{
	union address a;
	socklen_t len = sizeof(a);

	assert_ok(getsockname(fd, &a.sa, &len));
	return a.in.sin_port;
}

/*
 * Makes a veth pair, since on loopback packets have a route already and the kernel does no
 * early demultiplexing. A rule drops SYN-ACKs, and another counts root's later packets.
 */
static void make_ended(in_port_t port)
{
	assert_int_equal(shell("ip netns add ended && "
			       "ip link add ended0 type veth peer name ended1 netns ended && "
			       "ip address add 10.76.0.1/24 dev ended0 && ip link set ended0 up && "
			       "ip -n ended address add 10.76.0.2/24 dev ended1 && "
			       "ip -n ended link set ended1 up && "
			       "ip -n ended neighbour add 10.76.0.1 dev ended1 nud permanent "
			       "lladdr $(cat /sys/class/net/ended0/address)"), 0);
	assert_int_equal(shell("nft add table inet ended && nft '"
			       "add chain inet ended out { type filter hook output priority 0; };"
			       "add rule inet ended out tcp sport %1$d tcp flags & syn == syn drop;"
			       "add chain inet ended in { type filter hook input priority 0; };"
			       "add rule inet ended in tcp dport %1$d tcp flags & syn == 0 "
			       "meta skuid 0 counter'", ntohs(port)), 0);
}

/* After all is closed, an unanswered handshake still leads to the local listener. */
static void owner_of_the_closed(void **state)
{
	struct epoll_event ev = { .events = EPOLLIN };
	int ep = epoll_create1(0), fd = socket(AF_INET, SOCK_STREAM, 0), client, open, closed;
	union address a = { .in.sin_family = AF_INET };

	(void)state;
	assert_ok(listen(fd, 512));
	a.in.sin_port = own_port(fd);
	make_ended(a.in.sin_port);
	assert_ok(inet_aton("10.76.0.1", &a.in.sin_addr) - 1);
	assert_ok(spawn(fd, 1));
	unpin();
	/* The local listener outlives the end of the shared one for a second. */
	assert_ok(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
	write_file(PARAM "enable_local_established", "1");
	client = socket_beyond(SOCK_STREAM | SOCK_NONBLOCK, 0);
	pin(1);
	assert_errno(connect(client, &a.sa, sizeof(a.in)), EINPROGRESS);
	unpin();
	send_segment(own_port(client), &a, 1);
	await(owned_packets());
	open = owned_packets();
	assert_ok(shutdown(fd, SHUT_RDWR));
	/* Wait until the module has found the poller. */
	usleep(300000);
	close(fd);
	/* The file goes after a grace period on 6.1, and at once on 6.12. */
	usleep(150000);
	send_segment(own_port(client), &a, 1);
	closed = owned_packets();
	close(client);
	close(ep);
	assert_int_equal(shell("nft delete table inet ended; ip netns delete ended"), 0);
	write_file(PARAM "enable_local_established", "0");
	assert_int_equal(open, 1);
	assert_int_equal(closed, 1);
}

/* --- connections that no process accepts ------------------------------------------- */

#define EXPIRES "/sys/kernel/tracing/events/timer/timer_expire_entry/"

/* Returns how often timers have looked at queues. */
static long looks(void)
{
	FILE *hist = fopen(EXPIRES "hist", "r");
	char line[512], *found;
	long count = 0;

	assert_non_null(hist);
	while (fgets(line, sizeof(line), hist)) {
		found = strstr(line, "hitcount:");
		if (found && strstr(line, "fsocket_local_look"))
			count += atol(found + strlen("hitcount:"));
	}
	fclose(hist);
	return count;
}

/* They have no room in the shared queue either: the timer must not run all the time. */
static void looked_at_seldom(void **state)
{
	union address a;
	int fd = bound_socket(AF_INET, &a), clients[2];
	unsigned long long stolen;
	struct timespec t0, t1;
	long before, after, one, ms;

	(void)state;
	/* Each queue has room for one. */
	assert_ok(listen(fd, 0));
	assert_ok(spawn(fd, 1));
	unpin();
	stolen = counter("stolen", -1);
	clients[0] = connect_on(1, &a);
	/* This one goes to the shared queue, since its worker is busy. */
	await(counter("stolen", -1) != stolen);
	clients[1] = connect_on(1, &a);
	assert_int_equal(shell("echo hist:keys=function.sym > " EXPIRES "trigger"), 0);
	usleep(200000);
	one = looks();
	sleep(4);
	before = looks();
	clock_gettime(CLOCK_MONOTONIC, &t0);
	sleep(1);
	await(looks() > before);
	after = looks();
	clock_gettime(CLOCK_MONOTONIC, &t1);
	ms = (t1.tv_sec - t0.tv_sec) * 1000 + (t1.tv_nsec - t0.tv_nsec) / 1000000;
	assert_int_equal(shell("echo '!hist:keys=function.sym' > " EXPIRES "trigger"), 0);
	/* The timer runs, and in the end less than 20 times a second. */
	assert_true(one > 0);
	assert_in_range((after - before) * 1000, 1, 20 * ms);
	/* A later connection is not late because of that. */
	close(accept(fd, NULL, NULL));
	close(accept(fd, NULL, NULL));
	close(clients[0]);
	close(clients[1]);
	close(fd);
}

/* --- a task that waits in accept() -------------------------------------------------- */

static int module_users(void)
{
	FILE *file = fopen("/sys/module/fastsocket/refcnt", "r");
	int users = -1;

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%d", &users), 1);
	fclose(file);
	return users;
}

static void *accepts(void *arg)
{
	struct stuck *s = arg;

	s->spawned = accept(s->fd, NULL, NULL);
	return NULL;
}

/* A task that waits for the lock of a socket does not keep others' listeners in memory. */
static void waits_in_accept(void **state)
{
	struct stuck s = { 0 };
	pthread_t setter, acceptor;
	unsigned long long stolen;
	int users, now, fd, client, i;
	union address a;

	(void)state;
	make_option(&s);
	s.fd = listener(AF_INET, &a);
	assert_ok(spawn(s.fd, 1));
	unpin();
	stolen = counter("stolen", -1);
	client = connect_on(1, &a);
	/* The timer moves the connection to the shared queue, where accept() looks first. */
	await(counter("stolen", -1) != stolen);
	assert_int_equal(pthread_create(&setter, NULL, sets_option, &s), 0);
	assert_int_equal(readable(s.fault, 20000), 1);
	assert_int_equal(pthread_create(&acceptor, NULL, accepts, &s), 0);
	usleep(200000);
	users = module_users();
	fd = listener(AF_INET, &a);
	assert_ok(spawn(fd, 1));
	unpin();
	assert_int_equal(module_users(), users + 1);
	assert_ok(shutdown(fd, SHUT_RDWR));
	for (i = 0, now = users + 1; i < 3000 && now > users; i++, now = module_users())
		usleep(10000);
	assert_int_equal(pthread_tryjoin_np(acceptor, NULL), EBUSY);
	page_comes(&s);
	pthread_join(setter, NULL);
	pthread_join(acceptor, NULL);
	assert_int_equal(now, users);
	assert_ok(s.spawned);
	close(s.spawned);
	close(client);
	close(fd);
	close(s.fd);
}

/* --- a listener that ends while it accepts ------------------------------------------- */

struct ending {
	int fd;
	volatile bool over;
};

/* Set an option that local listeners cannot have, which ends them; spawning then begins again. */
static void *ends_and_spawns(void *arg)
{
	static const unsigned char nops[4] = { 1, 1, 1, 1 };
	struct ending *e = arg;

	while (!e->over) {
		if (!spawn(e->fd, 1))
			usleep(100);
		setsockopt(e->fd, IPPROTO_IP, IP_OPTIONS, nops, sizeof(nops));
		setsockopt(e->fd, IPPROTO_IP, IP_OPTIONS, nops, 0);
	}
	return NULL;
}

static pid_t connects(const union address *a)
{
	pid_t pid = fork();

	assert_ok(pid);
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		struct linger reset = { .l_onoff = 1 };
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		pin(1);
		connect(fd, &a->sa, sizeof(a->in));
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(fd);
	}
}

/* The socket listens all the time, so accept() returns no other error. */
static void accepts_to_the_end(void **state)
{
	time_t end = time(NULL) + 2, limit = end + 30;
	struct ending e = { 0 };
	int wrong = 0, taken = 0;
	union address a;
	pthread_t ender;
	pid_t pids[2];

	(void)state;
	e.fd = listener(AF_INET, &a);
	set_nonblock(e.fd);
	pids[0] = connects(&a);
	pids[1] = connects(&a);
	assert_int_equal(pthread_create(&ender, NULL, ends_and_spawns, &e), 0);
	while (time(NULL) < end || (!taken && time(NULL) < limit)) {
		int conn = accept(e.fd, NULL, NULL);

		if (conn >= 0) {
			taken++;
			close(conn);
		} else if (errno != EAGAIN && errno != ECONNABORTED) {
			wrong = errno;
		}
	}
	e.over = true;
	pthread_join(ender, NULL);
	kill_worker(pids[0]);
	kill_worker(pids[1]);
	close(e.fd);
	assert_int_equal(wrong, 0);
	assert_true(taken);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(owner_of_the_closed),
		T(looked_at_seldom),
		T(waits_in_accept),
		T(accepts_to_the_end),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
