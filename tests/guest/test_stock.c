// SPDX-License-Identifier: GPL-2.0-only
/*
 * What few programs do with a listener works with local listeners as with the stock kernel.
 * Runs in the guest as root with fastsocket.ko loaded. Usage: test_stock [TEST]
 */
#include <linux/aio_abi.h>
#include <linux/inet_diag.h>
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>

#include "worker.h"

#define MIGRATE "/proc/sys/net/ipv4/tcp_migrate_req"

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

static void submit_poll(aio_context_t context, struct iocb *block, int fd)
{
	*block = (struct iocb){
		.aio_lio_opcode = IOCB_CMD_POLL, .aio_fildes = fd, .aio_buf = POLLIN,
	};
	assert_int_equal(syscall(SYS_io_submit, context, 1, &block), 1);
}

static void assert_polled(aio_context_t context)
{
	struct timespec limit = { .tv_sec = 20 };
	struct io_event event;

	assert_int_equal(syscall(SYS_io_getevents, context, 1, 1, &event, &limit), 1);
	/* AIO reports what the kernel woke it with, which is more than was asked for. */
	assert_true(event.res & POLLIN);
}

/* Linux AIO can wait at one wait queue only, and a worker's listener has two. */
static void aio_polls(void **state)
{
	aio_context_t context = 0;
	struct iocb block;
	union address a;
	int fd = listener(AF_INET, &a), client, i;

	(void)state;
	assert_ok(spawn(fd, 1));
	assert_ok(syscall(SYS_io_setup, 1, &context));
	for (i = 0; i < 2; i++) {
		submit_poll(context, &block, fd);
		client = connect_on(1, &a);
		assert_polled(context);
		accept_and_greet(fd, 'x');
		assert_int_equal(greeting(client), 'x');
		close(client);
	}
	/* The connection is there already. */
	client = connect_on(1, &a);
	submit_poll(context, &block, fd);
	assert_polled(context);
	close(client);
	assert_ok(syscall(SYS_io_destroy, context));
	close(fd);
}

struct ring {
	int fd;
	char *queues;
	struct io_uring_sqe *sqe;
	struct io_uring_params p;
};

static void make_ring(struct ring *ring)
{
	struct io_uring_params *p = &ring->p;
	size_t size;

	memset(ring, 0, sizeof(*ring));
	ring->fd = syscall(SYS_io_uring_setup, 1, p);
	assert_ok(ring->fd);
	size = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
	ring->queues = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd,
			    IORING_OFF_SQ_RING);
	assert_true(ring->queues != MAP_FAILED);
	ring->sqe = mmap(NULL, sizeof(*ring->sqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd,
			 IORING_OFF_SQES);
	assert_true(ring->sqe != MAP_FAILED);
}

static unsigned int *ring_word(struct ring *ring, unsigned int offset)
{
	return (unsigned int *)(ring->queues + offset);
}

/* Submits a poll of @fd, which a thread of the kernel makes if @flags is IOSQE_ASYNC. */
static void submit_ring_poll(struct ring *ring, int fd, int flags)
{
	memset(ring->sqe, 0, sizeof(*ring->sqe));
	ring->sqe->opcode = IORING_OP_POLL_ADD;
	ring->sqe->fd = fd;
	ring->sqe->flags = flags;
	ring->sqe->poll32_events = POLLIN;
	*ring_word(ring, ring->p.sq_off.array) = 0;
	__atomic_fetch_add(ring_word(ring, ring->p.sq_off.tail), 1, __ATOMIC_RELEASE);
	assert_int_equal(syscall(SYS_io_uring_enter, ring->fd, 1, 0, 0, NULL, 0), 1);
}

static void assert_ring_polled(struct ring *ring)
{
	unsigned int *head = ring_word(ring, ring->p.cq_off.head);
	struct io_uring_cqe *cqe;

	/* The descriptor of a ring is readable when something has completed. */
	assert_int_equal(readable(ring->fd, 20000), 1);
	cqe = (struct io_uring_cqe *)(ring->queues + ring->p.cq_off.cqes);
	assert_int_equal(cqe[*head % ring->p.cq_entries].res, POLLIN);
	__atomic_fetch_add(head, 1, __ATOMIC_RELEASE);
}

static void io_uring_polls(void **state)
{
	static const int flags[] = { 0, IOSQE_ASYNC };
	struct ring ring;
	union address a;
	int fd = listener(AF_INET, &a), client, i;

	(void)state;
	assert_ok(spawn(fd, 1));
	make_ring(&ring);
	for (i = 0; i < 4; i++) {
		submit_ring_poll(&ring, fd, flags[i % 2]);
		client = connect_on(1, &a);
		assert_ring_polled(&ring);
		accept_and_greet(fd, 'x');
		assert_int_equal(greeting(client), 'x');
		close(client);
	}
	close(ring.fd);
	close(fd);
}

/* --- what becomes of connections at close() ----------------------------------------- */

/* Makes a listener of the port of @a, or of any port if that is 0, in its group. */
static int group_listener(union address *a, int backlog)
{
	socklen_t len = sizeof(*a);
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	assert_ok(fd);
	a->in.sin_family = AF_INET;
	a->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_ok(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)));
	assert_ok(bind(fd, &a->sa, sizeof(a->in)));
	assert_ok(getsockname(fd, &a->sa, &len));
	assert_ok(listen(fd, backlog));
	return fd;
}

static void end_by(int fd, bool by_shutdown)
{
	if (by_shutdown)
		assert_ok(shutdown(fd, SHUT_RDWR));
	close(fd);
}

/* More connections wait than the shared queue has room for: they are all migrated. */
static void queues_migrate(bool by_shutdown)
{
	unsigned long long stolen = counter("stolen", -1);
	union address a = { 0 };
	int fds[2], clients[6], i;

	write_file(MIGRATE, "1");
	fds[0] = group_listener(&a, 2);
	assert_ok(spawn(fds[0], 1));
	for (i = 0; i < 3; i++)
		clients[i] = connect_on(1, &a);
	/* They are late, and fill the shared queue. */
	await(counter("stolen", -1) == stolen + 3);
	for (; i < 6; i++)
		clients[i] = connect_on(1, &a);
	fds[1] = group_listener(&a, 64);
	end_by(fds[0], by_shutdown);
	for (i = 0; i < 6; i++) {
		assert_int_equal(readable(fds[1], 20000), 1);
		accept_and_greet(fds[1], 'y');
	}
	for (i = 0; i < 6; i++) {
		assert_int_equal(greeting(clients[i]), 'y');
		close(clients[i]);
	}
	close(fds[1]);
	unpin();
}

/* A handshake that the client has not completed at close() goes on at another listener. */
static void handshake_migrates(bool retired)
{
	union address a = { 0 };
	int fds[2], seconds = 20, client;

	write_file(MIGRATE, "1");
	fds[0] = group_listener(&a, 64);
	/* The last packet of the handshake is then the one that brings data. */
	assert_ok(setsockopt(fds[0], IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, sizeof(seconds)));
	assert_ok(spawn(fds[0], 1));
	client = connect_on(1, &a);
	fds[1] = group_listener(&a, 64);
	if (retired)
		assert_ok(retire(fds[0]));
	close(fds[0]);
	assert_int_equal(write(client, "x", 1), 1);
	assert_int_equal(readable(fds[1], 20000), 1);
	accept_and_greet(fds[1], 'y');
	assert_int_equal(greeting(client), 'y');
	close(client);
	close(fds[1]);
	unpin();
}

static void queues_migrate_at_close(void **state)
{
	(void)state;
	queues_migrate(false);
}

static void queues_migrate_at_shutdown(void **state)
{
	(void)state;
	queues_migrate(true);
}

static void handshakes_migrate(void **state)
{
	(void)state;
	handshake_migrates(false);
}

static void retired_handshakes_migrate(void **state)
{
	(void)state;
	handshake_migrates(true);
}

static int teardown_all(void **state)
{
	write_file(MIGRATE, "0");
	return teardown(state);
}

/* --- ss ----------------------------------------------------------------------------- */

/* Asks as ss -B does for sockets that are bound and no more. */
static void ask_for_bound(int netlink)
{
	struct {
		struct nlmsghdr header;
		struct inet_diag_req_v2 body;
	} request = {
		.header = {
			.nlmsg_len = sizeof(request),
			.nlmsg_type = SOCK_DIAG_BY_FAMILY,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
		},
		.body = {
			.sdiag_family = AF_INET,
			.sdiag_protocol = IPPROTO_TCP,
			/* TCPF_BOUND_INACTIVE */
			.idiag_states = 1 << 13,
		},
	};

	assert_int_equal(send(netlink, &request, sizeof(request), 0), sizeof(request));
}

/* Returns whether ss -B shows a socket at the port of @a. */
static bool shown_as_bound(const union address *a)
{
	int netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG);
	char buffer[32768] __attribute__((aligned(NLMSG_ALIGNTO)));
	const struct inet_diag_msg *found;
	bool shown = false, more = true;
	struct nlmsghdr *header;
	int len;

	assert_ok(netlink);
	ask_for_bound(netlink);
	while (more) {
		len = recv(netlink, buffer, sizeof(buffer), 0);
		assert_true(len > 0);
		for (header = (void *)buffer; NLMSG_OK(header, len);
		     header = NLMSG_NEXT(header, len)) {
			more = header->nlmsg_type == SOCK_DIAG_BY_FAMILY;
			found = NLMSG_DATA(header);
			if (more && found->id.idiag_sport == a->in.sin_port)
				shown = true;
		}
	}
	close(netlink);
	return shown;
}

/* The socket that keeps others off the port of a listener is not the program's. */
static void guard_hidden(void **state)
{
	union address a, b;
	int fd = listener(AF_INET, &a), bound = bound_socket(AF_INET, &b);

	(void)state;
	/* Kernels before 6.8 show none. */
	if (!shown_as_bound(&b))
		skip();
	assert_ok(spawn(fd, 1));
	assert_false(shown_as_bound(&a));
	close(fd);
	assert_false(shown_as_bound(&a));
	close(bound);
	assert_false(shown_as_bound(&b));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown_all)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(signals_after_spawn),
		T(aio_polls),
		T(io_uring_polls),
		T(queues_migrate_at_close),
		T(queues_migrate_at_shutdown),
		T(handshakes_migrate),
		T(retired_handshakes_migrate),
		T(guard_hidden),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(0);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
