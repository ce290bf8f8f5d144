/* SPDX-License-Identifier: GPL-2.0-only */
/* Functions that tests of the socket pool share. */
#ifndef TESTS_GUEST_POOL_H
#define TESTS_GUEST_POOL_H

#include "helpers.h"

#define SIZE PARAM "enable_socket_pool_size"

static int dev = -1;

static inline int setup(void **state)
{
	(void)state;
	pin(2);
	write_file(SIZE, "0");
	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	return dev < 0 ? -1 : 0;
}

static inline int teardown(void **state)
{
	(void)state;
	close(dev);
	unpin();
	write_file(SIZE, "0");
	return 0;
}

static inline int pool_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	struct fsocket_ioctl_arg arg = { .fd = fd };

	arg.op.accept_op.sockaddr = addr;
	arg.op.accept_op.sockaddr_len = (int *)len;
	arg.op.accept_op.flags = flags;
	return ioctl(dev, FSOCKET_IOC_ACCEPT, &arg);
}

/* Accepts one connection through the pool, and returns both ends. */
static inline int pool_pair(int fd, const union address *a, int *client)
{
	int conn;

	*client = connect_on(2, a);
	conn = pool_accept4(fd, NULL, NULL, 0);
	assert_ok(conn);
	return conn;
}

static inline ino_t inode_of(int fd)
{
	struct stat st;

	assert_ok(fstat(fd, &st));
	return st.st_ino;
}

static inline void assert_talks(int from, int to)
{
	char byte = 'x';

	assert_int_equal(write(from, &byte, 1), 1);
	byte = 0;
	assert_int_equal(read(to, &byte, 1), 1);
	assert_int_equal(byte, 'x');
}

/* The pool's counts since the last call. */
struct counts {
	long long from_slab, to_slab, from_pool, to_pool, in_pool, conns;
};

static inline struct counts counts(void)
{
	static struct counts before;
	struct counts now = {
		counter("sock_alloc_from_slab", -1), counter("sock_free_to_slab", -1),
		counter("sock_alloc_from_pool", -1), counter("sock_free_to_pool", -1),
		counter("sock_in_pool", -1), counter("sock_accept_conns", -1),
	}, since = {
		now.from_slab - before.from_slab, now.to_slab - before.to_slab,
		now.from_pool - before.from_pool, now.to_pool - before.to_pool,
		now.in_pool, now.conns - before.conns,
	};

	before = now;
	return since;
}

#define assert_counts(...)						\
do {									\
	struct counts have_ = counts(), want_ = { __VA_ARGS__ };	\
									\
	if (memcmp(&have_, &want_, sizeof(have_)))			\
		print_error("from slab %lld to %lld, from pool %lld to %lld, in %lld, conns %lld\n", \
			    have_.from_slab, have_.to_slab, have_.from_pool, \
			    have_.to_pool, have_.in_pool, have_.conns);	\
	assert_int_equal(have_.from_slab, want_.from_slab);		\
	assert_int_equal(have_.to_slab, want_.to_slab);			\
	assert_int_equal(have_.from_pool, want_.from_pool);		\
	assert_int_equal(have_.to_pool, want_.to_pool);			\
	assert_int_equal(have_.in_pool, want_.in_pool);			\
	assert_int_equal(have_.conns, want_.conns);			\
} while (0)

/* Calls accept4(), or accepts through the pool. */
typedef int accept_fn(int, struct sockaddr *, socklen_t *, int);

#endif
