// SPDX-License-Identifier: GPL-2.0-only
/*
 * What few programs do with a listener works with local listeners as with the stock kernel.
 * Runs in the guest as root with fastsocket.ko loaded. Usage: test_stock [TEST]
 */
#include <linux/aio_abi.h>
#include <linux/io_uring.h>

#include "worker.h"

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

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(signals_after_spawn),
		T(aio_polls),
		T(io_uring_polls),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(0);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
