// SPDX-License-Identifier: GPL-2.0-only
/*
 * enable_fast_epoll: which calls it saves, and which calls end that.
 *	LD_PRELOAD=libfsocket.so ./test_epoll [NAME]
 *
 * FAKE_FEATURES is a file in place of the module's page of features, for a library that
 * was built to use it: these tests then need no module.
 */
#include <spawn.h>

#include "twins.h"

static struct pair p;
static struct epoll_event event;

/* Makes a connection that has been added and that the kernel does not know. */
static void make_float(void)
{
	p = connection(0);
	assert_ok(ctl(0, EPOLL_CTL_ADD, p.fd, EPOLLIN, 42));
	assert_false(registered(instances[0], p.fd));
}

/* Makes one that the kernel knows. */
static void make_registered(void)
{
	make_float();
	for (int i = 0; !registered(instances[0], p.fd); i++) {
		assert_true(i < 10);
		assert_int_equal(epoll_wait(instances[0], &event, 1, 0), 0);
	}
}

/* Waits for what the peer has sent, unseen by the library. */
static void arrives(void)
{
	struct pollfd polled = { .fd = p.fd, .events = POLLIN };

	assert_int_equal(RAW4(SYS_poll, &polled, 1, 20000, 0), 1);
}

static void end_pair(void)
{
	close(p.fd);
	raw_close(p.peer);
}

static void expect_event(uint64_t data, uint32_t events)
{
	struct epoll_event got[2];

	assert_int_equal(epoll_wait(instances[0], got, 2, 20000), 1);
	assert_int_equal(got[0].data.u64, data);
	assert_int_equal(got[0].events, events);
}

static void add_is_spared(void **state)
{
	(void)state;
	for (int i = 0; i < 100; i++) {
		make_float();
		assert_int_equal(epoll_wait(instances[0], &event, 1, 0), 0);
		assert_int_equal(write(p.peer, "x", 1), 1);
		expect_event(42, EPOLLIN);
		assert_false(registered(instances[0], p.fd));
		end_pair();
		assert_int_equal(epoll_wait(instances[0], &event, 1, 0), 0);
	}
}

/* Made before the library has opened the device, as in many programs. */
static int oldest_instance;

static void instance_older_than_the_first_listen(void **state)
{
	(void)state;
	event.events = EPOLLIN;
	p = connection(0);
	assert_ok(epoll_ctl(oldest_instance, EPOLL_CTL_ADD, p.fd, &event));
	assert_false(registered(oldest_instance, p.fd));
	end_pair();
}

static void floats_are_registered_in_the_end(void **state)
{
	(void)state;
	make_registered();
	assert_int_equal(write(p.peer, "x", 1), 1);
	expect_event(42, EPOLLIN);
	end_pair();
}

static void mod_of_a_float(void **state)
{
	(void)state;
	make_float();
	assert_ok(ctl(0, EPOLL_CTL_MOD, p.fd, EPOLLOUT, 43));
	expect_event(43, EPOLLOUT);
	assert_false(registered(instances[0], p.fd));
	assert_ok(ctl(0, EPOLL_CTL_DEL, p.fd, 0, 0));
	assert_int_equal(epoll_wait(instances[0], &event, 1, 0), 0);
	end_pair();
}

static void del_before_close_is_spared(void **state)
{
	(void)state;
	make_registered();
	assert_ok(ctl(0, EPOLL_CTL_DEL, p.fd, 0, 0));
	assert_true(registered(instances[0], p.fd));
	assert_errno(ctl(0, EPOLL_CTL_DEL, p.fd, 0, 0), ENOENT);
	end_pair();

	make_registered();
	assert_ok(ctl(0, EPOLL_CTL_DEL, p.fd, 0, 0));
	assert_int_equal(write(p.peer, "x", 1), 1);
	arrives();
	assert_int_equal(epoll_wait(instances[0], &event, 1, 0), 0);
	assert_false(registered(instances[0], p.fd));
	end_pair();
}

static void timeouts(void **state)
{
	struct timespec from, to;

	(void)state;
	make_float();
	clock_gettime(CLOCK_MONOTONIC, &from);
	assert_int_equal(epoll_wait(instances[0], &event, 1, 100), 0);
	clock_gettime(CLOCK_MONOTONIC, &to);
	assert_true((to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000 >= 99);
	end_pair();
}

static void more_floats_than_fit(void **state)
{
	struct pair many[100];
	struct epoll_event got[100];
	uint32_t seen[100] = {};

	(void)state;
	for (int i = 0; i < 100; i++) {
		many[i] = connection(0);
		assert_ok(ctl(0, EPOLL_CTL_ADD, many[i].fd, EPOLLOUT, i));
	}
	/* With three events at a time, each connection has its turn. */
	for (int i = 0; i < 100; i++) {
		assert_int_equal(epoll_wait(instances[0], got, 3, 0), 3);
		for (int j = 0; j < 3; j++)
			seen[got[j].data.u64]++;
	}
	for (int i = 0; i < 100; i++) {
		assert_in_range(seen[i], 1, 6);
		close(many[i].fd);
		raw_close(many[i].peer);
	}
}

static void bad_pointers(void **state)
{
	static struct epoll_event variable = { .events = EPOLLOUT, .data.u64 = 8 };
	static __thread struct epoll_event own = { .events = EPOLLOUT, .data.u64 = 9 };
	struct epoll_event *heap = malloc(sizeof(*heap));

	(void)state;
	p = connection(0);
	assert_errno(epoll_ctl(instances[0], EPOLL_CTL_ADD, p.fd, NULL), EFAULT);
	p.fd = fcntl(p.fd, F_DUPFD, 0);
	end_pair();
	p = connection(0);
	assert_errno(epoll_ctl(instances[0], EPOLL_CTL_ADD, p.fd, (void *)8), EFAULT);
	end_pair();
	p = connection(0);
	assert_errno(epoll_ctl(instances[0], EPOLL_CTL_ADD, p.fd, (void *)-8L), EFAULT);
	end_pair();
	p = connection(0);
	assert_ok(epoll_ctl(instances[0], EPOLL_CTL_ADD, p.fd, &variable));
	assert_false(registered(instances[0], p.fd));
	assert_ok(epoll_ctl(instances[0], EPOLL_CTL_MOD, p.fd, &own));
	assert_false(registered(instances[0], p.fd));
	expect_event(9, EPOLLOUT);
	end_pair();
	/* The library is sure only of this memory and of the stack that it can be read. */
	p = connection(0);
	heap->events = EPOLLOUT;
	heap->data.u64 = 7;
	assert_ok(epoll_ctl(instances[0], EPOLL_CTL_ADD, p.fd, heap));
	assert_true(registered(instances[0], p.fd));
	expect_event(7, EPOLLOUT);
	end_pair();
	free(heap);
}

static void flags_are_not_followed(void **state)
{
	static const uint32_t flags[] = { EPOLLET, EPOLLONESHOT, EPOLLEXCLUSIVE, EPOLLWAKEUP };

	(void)state;
	for (int i = 0; i < 4; i++) {
		p = connection(0);
		assert_ok(ctl(0, EPOLL_CTL_ADD, p.fd, EPOLLIN | flags[i], 1));
		assert_true(registered(instances[0], p.fd));
		end_pair();
		if (flags[i] == EPOLLEXCLUSIVE)
			continue;
		make_float();
		assert_ok(ctl(0, EPOLL_CTL_MOD, p.fd, EPOLLIN | flags[i], 1));
		assert_true(registered(instances[0], p.fd));
		end_pair();
	}
}

static void parameter(void **state)
{
	(void)state;
	feature(false);
	p = connection(0);
	assert_ok(ctl(0, EPOLL_CTL_ADD, p.fd, EPOLLIN, 42));
	assert_true(registered(instances[0], p.fd));
	end_pair();

	feature(true);
	make_float();
	feature(false);
	assert_int_equal(epoll_wait(instances[0], &event, 1, 0), 0);
	assert_true(registered(instances[0], p.fd));
	end_pair();

	feature(true);
	make_float();
	feature(false);
	assert_ok(ctl(0, EPOLL_CTL_MOD, p.fd, EPOLLOUT, 43));
	assert_true(registered(instances[0], p.fd));
	end_pair();
}

static void *idle(void *arg)
{
	return arg;
}

static void send_fd(int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct iovec data = { "x", 1 };
	struct msghdr msg = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	int ends[2];

	assert_ok(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	assert_int_equal(sendmsg(ends[0], &msg, 0), 1);
	close(ends[0]);
	close(ends[1]);
}

/* Every call after which the library stops following, done to fd: the socket, or the instance. */
static void escape(int way, int fd)
{
	struct pollfd polled = { .fd = fd, .events = POLLIN };
	char *const argv[] = { "true", NULL };
	volatile int other = -1;
	int outer;
	struct timeval now = {};
	pthread_t thread;
	fd_set set;
	pid_t pid;

	switch (way) {
	case 0:
		other = dup(fd);
		break;
	case 1:
		other = dup2(fd, 700);
		break;
	case 2:
		other = dup3(fd, 700, O_CLOEXEC);
		break;
	case 3:
		other = fcntl(fd, F_DUPFD, 0);
		break;
	case 4:
		other = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		break;
	case 5:
		send_fd(fd);
		break;
	case 6:
		pid = fork();
		if (!pid)
			_exit(0);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		break;
	case 7:
		pid = vfork();
		if (!pid)
			_exit(0);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		break;
	case 8:
		assert_int_equal(posix_spawnp(&pid, "true", NULL, NULL, argv, environ), 0);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		break;
	case 9:
		assert_int_equal(system("true"), 0);
		break;
	case 10:
		assert_int_equal(pclose(popen("true", "r")), 0);
		break;
	case 11:
		assert_int_equal(pthread_create(&thread, NULL, idle, NULL), 0);
		assert_int_equal(pthread_join(thread, NULL), 0);
		break;
	case 12:
		assert_ok(close_range(900, 1000, 0));
		break;
	case 13:
		assert_int_equal(syscall(SYS_dup2, fd, fd), fd);
		break;
	case 14:
		assert_int_equal(execv("/nonexistent", argv), -1);
		break;
	case 15:
		assert_int_equal(execl("/nonexistent", "a", "b", "c", "d", "e", "f", "g", NULL), -1);
		break;
	case 16:
		/* The following calls matter for instances only. */
		poll(&polled, 1, 0);
		break;
	case 17:
		FD_ZERO(&set);
		FD_SET(fd, &set);
		select(fd + 1, &set, NULL, NULL, &now);
		break;
	case 18:
		outer = epoll_create1(0);
		event.events = EPOLLIN;
		assert_ok(epoll_ctl(outer, EPOLL_CTL_ADD, fd, &event));
		close(outer);
		break;
	}
	if (other >= 0)
		raw_close(other);
}

#define SOCKET_WAYS	16
#define WAYS		19

static void sockets_escape(void **state)
{
	(void)state;
	for (int way = 0; way < SOCKET_WAYS; way++) {
		print_message("way %d\n", way);
		make_float();
		escape(way, p.fd);
		assert_true(registered(instances[0], p.fd));
		/* The socket is left to the kernel; the next socket and a new instance are not. */
		assert_ok(ctl(0, EPOLL_CTL_DEL, p.fd, 0, 0));
		assert_false(registered(instances[0], p.fd));
		end_pair();
		close(instances[0]);
		instances[0] = epoll_create1(EPOLL_CLOEXEC);
	}
	make_float();
	end_pair();
}

static void instances_escape(void **state)
{
	(void)state;
	for (int way = 0; way < WAYS; way++) {
		print_message("way %d\n", way);
		make_float();
		escape(way, instances[0]);
		assert_true(registered(instances[0], p.fd));
		end_pair();
		p = connection(0);
		assert_ok(ctl(0, EPOLL_CTL_ADD, p.fd, EPOLLIN, 1));
		assert_true(registered(instances[0], p.fd));
		end_pair();
		close(instances[0]);
		instances[0] = epoll_create1(EPOLL_CLOEXEC);
	}
	make_float();
	end_pair();
}

static void wait_with_a_mask(void **state)
{
	sigset_t none;

	(void)state;
	sigemptyset(&none);
	make_float();
	assert_int_equal(epoll_pwait(instances[0], &event, 1, 0, NULL), 0);
	assert_false(registered(instances[0], p.fd));
	assert_int_equal(write(p.peer, "x", 1), 1);
	assert_int_equal(epoll_pwait(instances[0], &event, 1, 20000, &none), 1);
	assert_true(registered(instances[0], p.fd));
	end_pair();
}

static void *wait_in_thread(void *arg)
{
	return (void *)(long)epoll_wait(instances[0], arg, 1, 20000);
}

static void threads_share_an_instance(void **state)
{
	struct epoll_event got;
	pthread_t thread;
	void *count;

	(void)state;
	make_float();
	assert_int_equal(pthread_create(&thread, NULL, wait_in_thread, &got), 0);
	/* No socket floats while there is another thread. */
	assert_true(registered(instances[0], p.fd));
	assert_int_equal(write(p.peer, "x", 1), 1);
	assert_int_equal(pthread_join(thread, &count), 0);
	assert_int_equal((long)count, 1);
	assert_int_equal(got.data.u64, 42);
	end_pair();
}

static void child_shares_an_instance(void **state)
{
	pid_t pid;

	(void)state;
	pid = fork();
	if (!pid) {
		struct pair own = connection(0);

		/* The parent has to see this registration, as both share the instance. */
		if (ctl(0, EPOLL_CTL_ADD, own.fd, EPOLLOUT, 43))
			_exit(1);
		pause();
	}
	expect_event(43, EPOLLOUT);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void watches_exhausted(void **state)
{
	(void)state;
	if (getenv("FAKE_FEATURES"))
		skip();
	write_file("/proc/sys/fs/epoll/max_user_watches", "0");
	make_float();
	for (int i = 0; i < 20; i++)
		assert_int_equal(epoll_wait(instances[0], &event, 1, 0), 0);
	assert_int_equal(write(p.peer, "x", 1), 1);
	expect_event(42, EPOLLIN);
	assert_false(registered(instances[0], p.fd));
	write_file("/proc/sys/fs/epoll/max_user_watches", "100000");
	expect_event(42, EPOLLIN);
	assert_true(registered(instances[0], p.fd));
	end_pair();
}

static void page_of_features(void **state)
{
	struct fsocket_ioctl_arg arg = { .backlog = FSOCKET_EPOLL_SAVED_MAX + 1 };
	int device = open(FSOCKET_DEVICE, O_RDWR);
	long size = sysconf(_SC_PAGESIZE);
	const volatile struct fsocket_features *page;

	(void)state;
	if (getenv("FAKE_FEATURES"))
		skip();
	assert_ok(device);
	assert_ptr_equal(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0), MAP_FAILED);
	assert_int_equal(errno, EPERM);
	assert_ptr_equal(mmap(NULL, size, PROT_WRITE, MAP_PRIVATE, device, 0), MAP_FAILED);
	assert_int_equal(errno, EPERM);
	assert_ptr_equal(mmap(NULL, size, PROT_READ, MAP_SHARED, device, size), MAP_FAILED);
	assert_int_equal(errno, EINVAL);
	assert_ptr_equal(mmap(NULL, 2 * size, PROT_READ, MAP_SHARED, device, 0), MAP_FAILED);
	assert_int_equal(errno, EINVAL);
	assert_errno(ioctl(device, FSOCKET_IOC_EPOLL_SAVED, &arg), EINVAL);

	page = mmap(NULL, size, PROT_READ, MAP_SHARED, device, 0);
	assert_ptr_not_equal(page, MAP_FAILED);
	/* The mapping outlives the descriptor of the device. */
	close(device);
	assert_errno(mprotect((void *)page, size, PROT_READ | PROT_WRITE), EACCES);
	assert_int_equal(page->fast_epoll, 1);
	feature(false);
	assert_int_equal(page->fast_epoll, 0);
	feature(true);
	assert_int_equal(page->fast_epoll, 1);
	assert_ok(munmap((void *)page, size));
}

static void counter_of_spared_calls(void **state)
{
	unsigned long long before;

	(void)state;
	if (getenv("FAKE_FEATURES"))
		skip();
	for (int on = 1; on >= 0; on--) {
		feature(on);
		before = counter("epoll_saved", -1);
		for (int i = 0; i < 500; i++) {
			p = connection(0);
			/* Without a wait each pair saves two calls. */
			assert_ok(ctl(0, EPOLL_CTL_ADD, p.fd, EPOLLIN, 0));
			assert_ok(ctl(0, EPOLL_CTL_DEL, p.fd, 0, 0));
			end_pair();
		}
		before = counter("epoll_saved", -1) - before;
		if (on)
			assert_in_range(before, 1000 - 128, 1000 + 128);
		else
			assert_int_equal(before, 0);
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(instance_older_than_the_first_listen),
		T(add_is_spared),
		T(floats_are_registered_in_the_end),
		T(mod_of_a_float),
		T(del_before_close_is_spared),
		T(timeouts),
		T(more_floats_than_fit),
		T(bad_pointers),
		T(flags_are_not_followed),
		T(parameter),
		T(sockets_escape),
		T(instances_escape),
		T(wait_with_a_mask),
		T(threads_share_an_instance),
		T(child_shares_an_instance),
		T(watches_exhausted),
		T(page_of_features),
		T(counter_of_spared_calls),
	};

	/* One test has more descriptors than poll() takes under the usual limit. */
	setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 12000, 12000 });
	oldest_instance = epoll_create1(EPOLL_CLOEXEC);
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
