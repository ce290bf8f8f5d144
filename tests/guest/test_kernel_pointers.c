// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: a call with a bad pointer fails, as it does without the library,
 * and does not end the program. So all tests pass without it, too.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_pointers [NAME]
 */
#include "server.h"

#include <sys/resource.h>
#include <sys/select.h>

#define PAGE 4096

/* An address that no program has memory at. The compiler must not know it, nor NULL. */
static void *volatile nowhere = (void *)8, *volatile null, *volatile failed = MAP_FAILED;
/* The kernel takes the lower half of such a number. */
static volatile nfds_t much = 1UL << 32;
/* A page that can be read and written, before one that cannot even be read. */
static char *edge;
static pid_t other;
static int epoll;

static void nothing(void)
{
}

/* Two workers have members, so that the library looks beside poll() and select(). */
static int setup_workers(void **state)
{
	setup(state);
	edge = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(edge, MAP_FAILED);
	assert_ok(mprotect(edge + PAGE, PAGE, PROT_NONE));
	other = start_workers(&epoll, nothing);
	return 0;
}

static int teardown_workers(void **state)
{
	stop_workers(other, epoll);
	munmap(edge, 2 * PAGE);
	return teardown(state);
}

/* Returns a copy in memory that can be read only. */
static void *constant(const void *what, size_t size)
{
	memcpy(edge, what, size);
	assert_ok(mprotect(edge, PAGE, PROT_READ));
	return edge;
}

static void test_poll(void **state)
{
	struct pollfd one = { .fd = fd, .events = POLLIN }, *last = (void *)(edge + PAGE), *fixed;
	const struct timespec limit = { .tv_nsec = 1000000 };
	struct rlimit most;

	(void)state;
	last[-1] = one;
	assert_errno(poll(nowhere, 1, 1), EFAULT);
	assert_errno(poll(null, 1, 1), EFAULT);
	assert_errno(poll(failed, 1, 1), EFAULT);
	assert_errno(poll(last - 1, 2, 1), EFAULT);
	assert_int_equal(poll(last - 1, 1, 1), 0);
	assert_errno(ppoll(nowhere, 1, &limit, NULL), EFAULT);
	assert_errno(ppoll(nowhere, 1, NULL, NULL), EFAULT);
	assert_errno(ppoll(&one, 1, &limit, nowhere), EFAULT);
	assert_ok(getrlimit(RLIMIT_NOFILE, &most));
	assert_errno(poll(nowhere, most.rlim_cur + 1, 1), EINVAL);
	assert_errno(poll(last - 1, most.rlim_cur + 1, 1), EINVAL);
	assert_int_equal(poll(nowhere, much, 1), 0);
	/* Long enough that the library looks at the other worker. */
	assert_int_equal(poll(last - 1, much | 1, 300), 0);
	fixed = constant(&one, sizeof(one));
	assert_errno(poll(fixed, 1, 1), EFAULT);
}

static void test_select(void **state)
{
	struct timeval limit = { .tv_usec = 1000 };
	const struct timespec brief = { .tv_nsec = 1000000 };
	/* As much of a set as there is of it before the page ends. */
	fd_set set, *rest = (void *)(edge + PAGE - 8);

	(void)state;
	assert_in_range(fd, 0, 63);
	FD_ZERO(&set);
	FD_SET(fd, &set);
	for (int i = 0; i < 3; i++) {
		fd_set *sets[3] = { &set, NULL, NULL };

		sets[i] = failed;
		assert_errno(select(fd + 1, sets[0], sets[1], sets[2], &limit), EFAULT);
		sets[i] = nowhere;
		assert_errno(select(fd + 1, sets[0], sets[1], sets[2], &limit), EFAULT);
		assert_errno(pselect(fd + 1, sets[0], sets[1], sets[2], &brief, NULL), EFAULT);
		assert_errno(pselect(fd + 1, sets[0], sets[1], sets[2], NULL, NULL), EFAULT);
	}
	assert_true(FD_ISSET(fd, &set));
	assert_errno(pselect(fd + 1, &set, NULL, NULL, &brief, nowhere), EFAULT);
	assert_errno(select(-1, nowhere, NULL, NULL, &limit), EINVAL);
	memcpy(rest, &set, 8);
	assert_int_equal(select(64, rest, NULL, NULL, &limit), 0);
	/*
	 * One and a half words. The kernel reads no bits above the size of the table of descriptors
	 * (fs/select.c, core_sys_select()), which may be 64.
	 */
	assert_int_equal(dup2(fd, 100), 100);
	assert_ok(close(100));
	rest = (void *)(edge + PAGE - 12);
	assert_errno(select(65, rest, NULL, NULL, &limit), EFAULT);
}

/* The kernel cannot store its answer in a constant. */
static void test_select_of_constants(void **state)
{
	struct timeval limit = { .tv_usec = 1000 };
	fd_set set, *fixed;

	(void)state;
	FD_ZERO(&set);
	FD_SET(fd, &set);
	fixed = constant(&set, sizeof(set));
	assert_errno(select(fd + 1, fixed, NULL, NULL, &limit), EFAULT);
	limit.tv_usec = 100000;
	assert_errno(select(fd + 1, fixed, NULL, NULL, &limit), EFAULT);
	limit.tv_usec = 1000;
	assert_errno(select(fd + 1, &set, NULL, fixed, &limit), EFAULT);
}

/* A connection waits for the other worker, which has stopped. */
static void test_epoll_wait(void **state)
{
	int cpu = cpu_of(other), client;
	struct epoll_event none = { .events = 0 }, event;

	(void)state;
	usleep(20000);
	stop_child(other);
	while (epoll_wait(epoll, &event, 1, 0) == 1)
		close(accept(fd, NULL, NULL));
	client = connect_on(cpu < 0 ? 0 : cpu, &a);
	assert_errno(epoll_wait(epoll, nowhere, 1, 20000), EFAULT);
	assert_errno(epoll_wait(epoll, null, 1, 20000), EFAULT);
	assert_errno(epoll_wait(epoll, (void *)(edge + PAGE - 8), 1, 20000), EFAULT);
	assert_errno(epoll_wait(epoll, constant(&none, sizeof(none)), 1, 20000), EFAULT);
	assert_int_equal(epoll_wait(epoll, &event, 1, 20000), 1);
	close(accept(fd, NULL, NULL));
	close(client);
}

static void test_exec(void **state)
{
	char name[] = "true", variable[] = "NAME=value";
	char *arguments[] = { name, NULL }, *usual[] = { NULL }, *bad[] = { variable, nowhere, NULL };
	char **endless = (void *)(edge + PAGE - 8);

	(void)state;
	*endless = variable;
	assert_errno(execve(nowhere, arguments, usual), EFAULT);
	assert_errno(execve("/bin/true", nowhere, usual), EFAULT);
	assert_errno(execve("/bin/true", arguments, nowhere), EFAULT);
	assert_errno(execve("/bin/true", arguments, failed), EFAULT);
	assert_errno(execve(failed, arguments, usual), EFAULT);
	assert_errno(execve("/bin/true", arguments, bad), EFAULT);
	assert_errno(execve("/bin/true", arguments, endless), EFAULT);
	assert_errno(execvpe("true", arguments, bad), EFAULT);
}

/* Descriptors that are sent: the message, and what is beside its data, may be anywhere. */
static void test_sendmsg(void **state)
{
	union {
		struct cmsghdr head;
		char room[64];
	} beside = { .head = { .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
	struct iovec data = { .iov_base = edge, .iov_len = 1 };
	struct msghdr bad = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = nowhere,
			      .msg_controllen = sizeof(beside) };
	struct mmsghdr *last = (void *)(edge + PAGE);
	int pair[2];

	(void)state;
	assert_ok(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	assert_errno(sendmsg(pair[0], nowhere, 0), EFAULT);
	assert_errno(sendmsg(pair[0], failed, 0), EFAULT);
	assert_errno(sendmsg(pair[0], &bad, 0), EFAULT);
	assert_errno(sendmmsg(pair[0], nowhere, 1, 0), EFAULT);
	assert_errno(sendmmsg(pair[0], nowhere, ~0U, 0), EFAULT);
	last[-1] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &data, .msg_iovlen = 1 } };
	assert_int_equal(sendmmsg(pair[0], last - 1, 2, 0), 1);
	bad.msg_control = memcpy(edge, &beside, sizeof(beside));
	((struct cmsghdr *)edge)->cmsg_len = 1 << 20;
	assert_errno(sendmsg(pair[0], &bad, 0), EINVAL);
	close(pair[0]);
	close(pair[1]);
}

static void test_options(void **state)
{
	int none = -1, value;
	socklen_t len = sizeof(value);

	(void)state;
	assert_errno(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, nowhere, len), EFAULT);
	assert_errno(getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, nowhere, &len), EFAULT);
	assert_errno(getsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &value, nowhere), EFAULT);
	assert_errno(setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, nowhere,
				sizeof(struct sock_fprog)), EFAULT);
	assert_errno(setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, nowhere, len), EFAULT);
	assert_errno(setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, &none, len), EBADF);
}

static void test_listener(void **state)
{
	socklen_t len = sizeof(a);
	struct epoll_event event = { .events = EPOLLIN };
	union address address;

	(void)state;
	/* The other worker would take the connections. */
	kill(other, SIGKILL);
	assert_errno(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, nowhere), EFAULT);
	assert_ok(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, nowhere));
	assert_errno(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, nowhere), EFAULT);
	assert_ok(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
	assert_errno(getsockname(fd, nowhere, &len), EFAULT);
	assert_errno(connect(fd, nowhere, sizeof(a)), EFAULT);
	for (int i = 0; i < 4; i++) {
		int client = connect_on(i % 2, &a);

		do {
			epoll_wait(epoll, &event, 1, 1);
		} while (accept(fd, i < 2 ? nowhere : &address.sa, i < 2 ? &len : nowhere) < 0 &&
		       errno == EAGAIN);
		assert_int_equal(errno, EFAULT);
		close(client);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup_workers, teardown_workers)
		T(test_poll),
		T(test_select),
		T(test_select_of_constants),
		T(test_epoll_wait),
		T(test_exec),
		T(test_sendmsg),
		T(test_options),
		T(test_listener),
	};

	alarm(60);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
