// SPDX-License-Identifier: GPL-2.0-only
/*
 * enable_fast_epoll: the same as without, call by call. Whatever is done is done
 * to twins: one pair of sockets and epoll instances by the C library's functions,
 * which libfsocket.so replaces; the other by system calls made right here.
 *	LD_PRELOAD=libfsocket.so ./test_epoll [NAME]
 *
 * FAKE_FEATURES: a file that stands for the module's page of features, with a
 * library that was built to use it: these tests then need no module.
 */
#include "helpers.h"

#include <spawn.h>
#include <sys/resource.h>

static long raw(long n, long a, long b, long c, long d, long e, long f)
{
	register long r10 asm("r10") = d, r8 asm("r8") = e, r9 asm("r9") = f;
	long ret;

	asm volatile("syscall" : "=a"(ret)
		     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		     : "rcx", "r11", "memory");
	if (ret < 0 && ret > -4096) {
		errno = -ret;
		return -1;
	}
	return ret;
}

#define RAW1(n, a) ((int)raw(n, (long)(a), 0, 0, 0, 0, 0))
#define RAW2(n, a, b) ((int)raw(n, (long)(a), (long)(b), 0, 0, 0, 0))
#define RAW4(n, a, b, c, d) ((int)raw(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0))

static int raw_create(int flags) { return RAW1(SYS_epoll_create1, flags); }
static int raw_close(int fd) { return RAW1(SYS_close, fd); }
static int raw_copy(int fd, int cmd, int from)
{
	return RAW4(SYS_fcntl, fd, cmd, from, 0);
}

static int copy(int fd, int cmd, int from)
{
	return fcntl(fd, cmd, from);
}

static int raw_shutdown(int fd, int how) { return RAW2(SYS_shutdown, fd, how); }

static int raw_socket(int family, int type, int protocol)
{
	return RAW4(SYS_socket, family, type, protocol, 0);
}

static int raw_accept(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	return RAW4(SYS_accept4, fd, addr, len, flags);
}

static int raw_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	return RAW4(SYS_epoll_ctl, epfd, op, fd, event);
}

static int raw_wait(int epfd, struct epoll_event *events, int max, int timeout)
{
	return RAW4(SYS_epoll_wait, epfd, events, max, timeout);
}

static const struct side {
	int (*create)(int flags);
	int (*ctl)(int epfd, int op, int fd, struct epoll_event *event);
	int (*wait)(int epfd, struct epoll_event *events, int max, int timeout);
	int (*accept)(int fd, struct sockaddr *addr, socklen_t *len, int flags);
	int (*socket)(int family, int type, int protocol);
	int (*close)(int fd);
	int (*copy)(int fd, int cmd, int from);
	int (*shutdown)(int fd, int how);
} sides[2] = {
	{ epoll_create1, epoll_ctl, epoll_wait, accept4, socket, close, copy, shutdown },
	{ raw_create, raw_ctl, raw_wait, raw_accept, raw_socket, raw_close, raw_copy, raw_shutdown },
};

static union address a;
static int listening;
static int instances[2];

static void feature(bool on)
{
	const char *fake = getenv("FAKE_FEATURES");
	uint32_t word = on;
	int file;

	if (!fake) {
		write_file(PARAM "enable_fast_epoll", on ? "1" : "0");
		return;
	}
	file = RAW4(SYS_open, fake, O_WRONLY, 0, 0);
	assert_ok(file);
	assert_int_equal(write(file, &word, sizeof(word)), sizeof(word));
	raw_close(file);
}

/* Connections in TIME_WAIT that the kernel keeps. */
static void time_wait(int most)
{
	char text[16];

	/* Not on the machine of who runs this with a stand-in for the module. */
	if (getenv("FAKE_FEATURES"))
		return;
	snprintf(text, sizeof(text), "%d", most);
	write_file("/proc/sys/net/ipv4/tcp_max_tw_buckets", text);
}

static int setup(void **state)
{
	(void)state;
	/* Where one is too many, its other end is reset, and its twin's is not. */
	time_wait(500000);
	/* The library's is followed only from the first listen() on. */
	listening = listener(AF_INET, &a);
	feature(true);
	for (int i = 0; i < 2; i++)
		instances[i] = sides[i].create(EPOLL_CLOEXEC);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	feature(true);
	for (int i = 0; i < 2; i++)
		sides[i].close(instances[i]);
	close(listening);
	/* The kernel's own choice, for 3 GiB. */
	time_wait(16384);
	return 0;
}

/* A connection and its other end, which the library never sees. */
struct pair {
	int fd, peer;
};

static struct pair connection(int side)
{
	struct pair p;

	p.peer = raw_socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_ok(p.peer);
	assert_ok(RAW4(SYS_connect, p.peer, &a.sa, sizeof(a.in), 0));
	p.fd = sides[side].accept(listening, NULL, NULL, SOCK_NONBLOCK);
	assert_ok(p.fd);
	return p;
}

static int ctl(int side, int op, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = { .events = events, .data.u64 = data };

	return sides[side].ctl(instances[side], op, fd, &event);
}

static int by_data(const void *x, const void *y)
{
	const struct epoll_event *one = x, *two = y;

	if (one->data.u64 == two->data.u64)
		return one->events < two->events ? -1 : one->events > two->events;
	return one->data.u64 < two->data.u64 ? -1 : 1;
}

#define MANY 200

static void compare_waits(const int *epfds)
{
	struct epoll_event got[2][MANY];
	int n[2];

	for (int i = 0; i < 2; i++) {
		n[i] = sides[i].wait(epfds[i], got[i], MANY, 0);
		if (n[i] > 0)
			qsort(got[i], n[i], sizeof(got[i][0]), by_data);
	}
	if (n[0] != n[1])
		for (int i = 0; i < 2; i++)
			for (int j = 0; j < n[i]; j++)
				print_message("%s: %#x of %llu\n", i ? "kernel" : "library", got[i][j].events,
					      (unsigned long long)got[i][j].data.u64);
	assert_int_equal(n[0], n[1]);
	for (int i = 0; i < n[0]; i++) {
		assert_int_equal(got[0][i].data.u64, got[1][i].data.u64);
		assert_int_equal(got[0][i].events, got[1][i].events);
	}
}

/*
 * The random walk. Slots hold twins: sockets that are accepted, new, or copies.
 */
#define SLOTS 40
#define EPOLLS 3

struct twin {
	int fd[2], peer[2];
	/* Where it has been added last; or -1. Not exact, and need not be. */
	int in;
};

static struct walk {
	unsigned int seed;
	/*
	 * Waits for few events, and in exchange no flags: which of many get reported
	 * may differ, and would then make a difference later.
	 */
	bool few;
	struct twin twins[SLOTS];
	int epolls[EPOLLS][2];
	int next_copy;
	/* Processes that hold a copy of everything, and the pipe that ends them. */
	pid_t child;
	int child_pipe;
} walk;

static unsigned int dice(unsigned int sides_of_it)
{
	walk.seed = walk.seed * 1103515245 + 12345;
	return (walk.seed >> 16) % sides_of_it;
}

static void same_result(const int *ret, const int *error)
{
	assert_int_equal(ret[0], ret[1]);
	if (ret[0] < 0)
		assert_int_equal(error[0], error[1]);
	else
		assert_int_equal(error[0], 4711);
}

#define BOTH(call)							\
do {									\
	int ret_[2], error_[2];						\
									\
	for (int i = 0; i < 2; i++) {					\
		const struct side *s = &sides[i];			\
									\
		errno = 4711;						\
		ret_[i] = (call);					\
		error_[i] = errno;					\
	}								\
	same_result(ret_, error_);					\
} while (0)

static void step_new(struct twin *t)
{
	if (t->fd[0] >= 0)
		return;
	t->in = -1;
	if (!dice(8)) {
		for (int i = 0; i < 2; i++)
			t->fd[i] = sides[i].socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		return;
	}
	for (int i = 0; i < 2; i++) {
		struct pair p = connection(i);

		t->fd[i] = p.fd;
		t->peer[i] = p.peer;
	}
}

static void step_close(struct twin *t)
{
	struct epoll_event event = { .events = EPOLLIN };

	BOTH(s->close(t->fd[i]));
	BOTH(s->ctl(walk.epolls[0][i], 1 + !t->fd[i], t->fd[i], &event));
	for (int i = 0; i < 2; i++) {
		raw_close(t->peer[i]);
		t->peer[i] = -1;
		t->fd[i] = -1;
	}
}

static uint32_t random_events(void)
{
	static const uint32_t plain[] = {
		0, EPOLLIN, EPOLLIN, EPOLLIN | EPOLLRDHUP, EPOLLOUT, EPOLLIN | EPOLLOUT,
		EPOLLPRI, EPOLLIN | EPOLLRDHUP | EPOLLOUT | EPOLLPRI,
	};
	/* Not EPOLLET, whose events depend on when exactly each packet came. */
	static const uint32_t others[] = { EPOLLONESHOT, EPOLLEXCLUSIVE, EPOLLWAKEUP };

	return plain[dice(8)] | (dice(20) || walk.few ? 0 : others[dice(3)]);
}

static void step_ctl(int e, struct twin *t)
{
	struct epoll_event event;
	int op = 1 + dice(3);

	/* Mostly what makes sense. */
	if (dice(10)) {
		op = t->in < 0 ? EPOLL_CTL_ADD : dice(3) ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
		e = t->in < 0 ? e : t->in;
	}
	t->in = op == EPOLL_CTL_DEL ? -1 : e;

	event.events = random_events();
	event.data.u64 = t - walk.twins + 1000 * dice(3);
	if (!dice(100))
		op = 77;
	if (!dice(100)) {
		BOTH(s->ctl(walk.epolls[e][i], op, t->fd[i], NULL));
		return;
	}
	if (!dice(100)) {
		BOTH(s->ctl(walk.epolls[e][i], op, walk.epolls[e][i], &event));
		return;
	}
	BOTH(s->ctl(walk.epolls[e][i], op, t->fd[i], &event));
}

static void step_wait(int e)
{
	struct epoll_event got[MANY];
	int max = dice(3) || !walk.few ? MANY : (int)dice(4);

	if (max < MANY) {
		BOTH(s->wait(walk.epolls[e][i], got, max, dice(2) ? 0 : 1));
		return;
	}
	compare_waits(walk.epolls[e]);
}

static void step_fork(void)
{
	int ends[2];

	if (walk.child) {
		close(walk.child_pipe);
		assert_int_equal(waitpid(walk.child, NULL, 0), walk.child);
		walk.child = 0;
		return;
	}
	assert_ok(pipe(ends));
	walk.child = fork();
	if (!walk.child) {
		char byte;

		close(ends[1]);
		_exit(read(ends[0], &byte, 1) != 0);
	}
	close(ends[0]);
	walk.child_pipe = ends[1];
}

static void step_copy(struct twin *t)
{
	struct twin *copy = &walk.twins[dice(SLOTS)];

	if (copy->fd[0] >= 0 || t->fd[0] < 0)
		return;
	/*
	 * A number that was a copy of the same before is still in the instance if it
	 * has been closed only: never the same again.
	 */
	walk.next_copy = walk.next_copy % 10000 + 500;
	for (int i = 0; i < 2; i++)
		copy->fd[i] = sides[i].copy(t->fd[i], F_DUPFD, walk.next_copy++);
	copy->in = -1;
}

/* Until what was sent has arrived: at both twins, or at neither. */
static void let_arrive(void)
{
	struct pollfd p[SLOTS][2];
	time_t start = time(NULL);
	bool same;

	do {
		same = true;
		for (int j = 0; j < SLOTS; j++)
			for (int i = 0; i < 2; i++)
				p[j][i] = (struct pollfd){ walk.twins[j].fd[i],
							   POLLIN | POLLOUT | POLLPRI | POLLRDHUP, 0 };
		assert_ok(RAW4(SYS_poll, p, 2 * SLOTS, 0, 0));
		for (int j = 0; j < SLOTS; j++)
			same &= p[j][0].revents == p[j][1].revents;
		if (same || time(NULL) - start < 10)
			continue;
		for (int j = 0; j < SLOTS; j++)
			if (p[j][0].revents != p[j][1].revents)
				fail_msg("fds %d and %d stay different: %#x and %#x", p[j][0].fd,
					 p[j][1].fd, p[j][0].revents, p[j][1].revents);
	} while (!same);
}

static void step(bool rare)
{
	/* Half of it happens to a few, so that much does before the next wait. */
	struct twin *t = &walk.twins[dice(dice(2) ? 4 : SLOTS)];
	int e = dice(4) ? 0 : dice(EPOLLS), what = dice(rare ? 40 : 36);
	char byte;

	let_arrive();
	switch (what) {
	case 0 ... 8:
		step_new(t);
		break;
	case 9 ... 16:
		step_ctl(e, t);
		break;
	case 17 ... 22:
		step_wait(e);
		break;
	case 23 ... 26:
		/* Fails if it has been shut, or the connection reset. */
		BOTH(send(t->peer[i], "x", 1, MSG_NOSIGNAL) + !s);
		break;
	case 27 ... 29:
		BOTH(recv(t->fd[i], &byte, 1, MSG_DONTWAIT) + !s);
		break;
	case 30 ... 32:
		step_close(t);
		break;
	case 33:
		BOTH(s->shutdown(t->fd[i], SHUT_WR));
		break;
	case 34:
		if (t->peer[0] >= 0)
			for (int i = 0; i < 2; i++)
				shutdown(t->peer[i], SHUT_WR);
		break;
	case 35:
		if (!dice(20)) {
			BOTH(s->close(walk.epolls[e][i]));
			for (int i = 0; i < 2; i++)
				walk.epolls[e][i] = sides[i].create(0);
		}
		break;
	case 36:
		step_copy(t);
		break;
	case 37:
		if (!dice(10))
			step_fork();
		break;
	case 38:
		feature(dice(4));
		break;
	case 39:
		/* Nested, and polled: an instance in another one. */
		if (!dice(10)) {
			struct epoll_event event = { .events = EPOLLIN, .data.u64 = 5000 };

			BOTH(s->ctl(walk.epolls[1][i], EPOLL_CTL_ADD, walk.epolls[2][i], &event));
		}
		break;
	}
}

static void walk_along(unsigned int seed, int steps, bool rare)
{
	memset(&walk, 0, sizeof(walk));
	walk.seed = seed;
	walk.few = seed % 2;
	for (int i = 0; i < SLOTS; i++)
		walk.twins[i] = (struct twin){ { -1, -1 }, { -1, -1 }, -1 };
	for (int e = 0; e < EPOLLS; e++)
		for (int i = 0; i < 2; i++)
			walk.epolls[e][i] = sides[i].create(0);
	for (int i = 0; i < steps; i++)
		step(rare);
	let_arrive();
	for (int e = 0; e < EPOLLS; e++)
		compare_waits(walk.epolls[e]);
	if (walk.child)
		step_fork();
	for (int i = 0; i < 2; i++) {
		for (int j = 0; j < SLOTS; j++) {
			sides[i].close(walk.twins[j].fd[i]);
			raw_close(walk.twins[j].peer[i]);
		}
		for (int e = 0; e < EPOLLS; e++)
			sides[i].close(walk.epolls[e][i]);
	}
	feature(true);
}

static void long_walks(bool rare)
{
	const char *steps = getenv("STEPS");

	for (unsigned int seed = 1; seed <= 12; seed++) {
		print_message("seed %u\n", seed);
		walk_along(seed, steps ? atoi(steps) : 2000, rare);
	}
}

static void random_walk_of_common_calls(void **state)
{
	(void)state;
	long_walks(false);
}

static void random_walk_of_all_calls(void **state)
{
	(void)state;
	long_walks(true);
}

/*
 * What exactly is spared, and what ends it. The kernel says what it knows.
 */
static bool registered(int epfd, int fd)
{
	char path[64], line[256];
	bool found = false;
	FILE *file;
	int tfd;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", epfd);
	file = fopen(path, "r");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		found |= sscanf(line, "tfd: %d", &tfd) == 1 && tfd == fd;
	fclose(file);
	return found;
}

static struct pair p;
static struct epoll_event event;

/* A connection that has been added, of which the kernel does not know. */
static void make_float(void)
{
	p = connection(0);
	assert_ok(ctl(0, EPOLL_CTL_ADD, p.fd, EPOLLIN, 42));
	assert_false(registered(instances[0], p.fd));
}

/* One that the kernel knows. */
static void make_registered(void)
{
	make_float();
	for (int i = 0; !registered(instances[0], p.fd); i++) {
		assert_true(i < 10);
		assert_int_equal(epoll_wait(instances[0], &event, 1, 0), 0);
	}
}

static void end_pair(void)
{
	close(p.fd);
	raw_close(p.peer);
}

static void expect_event(uint64_t data, uint32_t events)
{
	struct epoll_event got[2];

	assert_int_equal(epoll_wait(instances[0], got, 2, 1000), 1);
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

/* Made before the library has opened the device, as many programs do. */
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
	/* Three at a time: everyone has its turn. */
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

static int closed_by_handler;

static void handler(int signal)
{
	(void)signal;
	close(closed_by_handler);
}

static void handler_closes_what_is_waited_for(void **state)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
	struct itimerval soon = { .it_value.tv_usec = 50000 };

	(void)state;
	make_float();
	closed_by_handler = p.fd;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	assert_errno(epoll_wait(instances[0], &event, 1, 5000), EINTR);
	assert_errno(ctl(0, EPOLL_CTL_MOD, p.fd, EPOLLIN, 0), EBADF);
	assert_int_equal(epoll_wait(instances[0], &event, 1, 0), 0);
	raw_close(p.peer);
	make_float();
	end_pair();
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
	/* Only of these and of the stack it is sure that it can be read. */
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

/* Every way in which one gets away, done to fd: the socket's, or the instance's. */
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
		/* From here on only instances mind. */
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
		/* It is left to the kernel; the next one is not, nor a new instance. */
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
	assert_int_equal(epoll_pwait(instances[0], &event, 1, 1000, &none), 1);
	assert_true(registered(instances[0], p.fd));
	end_pair();
}

static void *wait_in_thread(void *arg)
{
	return (void *)(long)epoll_wait(instances[0], arg, 1, 1000);
}

static void threads_share_an_instance(void **state)
{
	struct epoll_event got;
	pthread_t thread;
	void *count;

	(void)state;
	make_float();
	assert_int_equal(pthread_create(&thread, NULL, wait_in_thread, &got), 0);
	/* While there is another thread nothing floats. */
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

		/* The parent has to see it. */
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
	/* It outlives the file. */
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
			/* Without a wait: each spares two. */
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

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(instance_older_than_the_first_listen),
		T(add_is_spared),
		T(floats_are_registered_in_the_end),
		T(mod_of_a_float),
		T(del_before_close_is_spared),
		T(timeouts),
		T(more_floats_than_fit),
		T(handler_closes_what_is_waited_for),
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
		T(random_walk_of_common_calls),
		T(random_walk_of_all_calls),
	};

	/* Also more than poll() has room for. */
	setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 12000, 12000 });
	oldest_instance = epoll_create1(EPOLL_CLOEXEC);
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
