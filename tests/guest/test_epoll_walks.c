// SPDX-License-Identifier: GPL-2.0-only
/*
 * enable_fast_epoll: the results are the same as without, call by call. The test makes
 * all calls for twins, in random order.
 *
 *	LD_PRELOAD=libfsocket.so ./test_epoll_walks [NAME]
 *
 * FAKE_FEATURES is a file in place of the module's page of features, for a library that
 * was built to use it: these tests then need no module.
 */
#include "twins.h"

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
	/* The instance to which it was added last; or -1. It need not be exact. */
	int in;
};

static struct walk {
	unsigned int seed;
	/*
	 * The walk waits for few events and then uses no flags: which events out of
	 * many are reported may differ, and would make a difference later.
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
	/* Not EPOLLET, whose events depend on the exact time at which each packet came. */
	static const uint32_t others[] = { EPOLLONESHOT, EPOLLEXCLUSIVE, EPOLLWAKEUP };

	return plain[dice(8)] | (dice(20) || walk.few ? 0 : others[dice(3)]);
}

static void step_ctl(int e, struct twin *t)
{
	struct epoll_event event;
	int op = 1 + dice(3);

	/* Mostly choose calls that make sense. */
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
	 * A number that was a copy of the same socket before is still in the instance
	 * if it has only been closed, so never use the same again.
	 */
	walk.next_copy = walk.next_copy % 10000 + 500;
	for (int i = 0; i < 2; i++)
		copy->fd[i] = sides[i].copy(t->fd[i], F_DUPFD, walk.next_copy++);
	copy->in = -1;
}

/*
 * Waits until all that was sent has arrived: the program has one CPU, whose loopback queue
 * has it in order. The library never sees this socket.
 */
static void handle_sent(void)
{
	static struct sockaddr_in here = { .sin_family = AF_INET };
	static int fd = -1;
	socklen_t len = sizeof(here);
	char byte = 'x';

	if (fd < 0) {
		fd = raw_socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		assert_ok(fd);
		here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		assert_ok(RAW4(SYS_bind, fd, &here, len, 0));
		assert_ok(RAW4(SYS_getsockname, fd, &here, &len, 0));
		assert_ok(RAW4(SYS_connect, fd, &here, len, 0));
	}
	assert_int_equal(RAW4(SYS_write, fd, &byte, 1, 0), 1);
	assert_int_equal(RAW4(SYS_read, fd, &byte, 1, 0), 1);
}

/* Waits until sent data has arrived at both twins, or at neither. */
static void let_arrive(void)
{
	struct pollfd p[SLOTS][2];
	time_t start = time(NULL);
	bool same;

	handle_sent();
	do {
		same = true;
		for (int j = 0; j < SLOTS; j++)
			for (int i = 0; i < 2; i++)
				p[j][i] = (struct pollfd){ walk.twins[j].fd[i],
							   POLLIN | POLLOUT | POLLPRI | POLLRDHUP, 0 };
		assert_ok(RAW4(SYS_poll, p, 2 * SLOTS, 0, 0));
		for (int j = 0; j < SLOTS; j++)
			same &= p[j][0].revents == p[j][1].revents;
		if (same || time(NULL) - start < 30)
			continue;
		for (int j = 0; j < SLOTS; j++)
			if (p[j][0].revents != p[j][1].revents)
				fail_msg("fds %d and %d stay different: %#x and %#x", p[j][0].fd,
					 p[j][1].fd, p[j][0].revents, p[j][1].revents);
	} while (!same);
}

static void step(bool rare)
{
	/* Half of the calls use a few sockets only, so that much happens before the next wait. */
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
		/* This fails if the socket has been shut down, or the connection reset. */
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
		/* Nested and polled: an instance in another one. */
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
	/* This is for the instance of earlier tests, or for this one as the first. */
	for (int i = 0; i < 2 && seed > 6 && instances[i] >= 0; i++) {
		sides[i].close(instances[i]);
		instances[i] = -1;
	}
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

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(random_walk_of_common_calls),
		T(random_walk_of_all_calls),
	};

	pin(sched_getcpu());
	/* There are also more than poll() has room for. */
	setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 12000, 12000 });
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
