// SPDX-License-Identifier: GPL-2.0-only
/*
 * enable_fast_epoll: signal handlers that run at any time, and threads that are
 * cancelled.
 *
 *	LD_PRELOAD=libfsocket.so ./test_epoll_signals [NAME]
 *
 * FAKE_FEATURES is a file in place of the module's page of features, for a library that
 * was built to use it: these tests then need no module.
 */
#include "twins.h"

#define MANY 6
#define EVENTS (2 * MANY)

/* A connection, its other end, and whether it has been added to the instance. */
struct one {
	int fd, peer;
	bool added;
};

/* The state of the program, and that of its signal handler. */
static struct one ours[MANY], theirs[MANY];
static uint64_t our_dice = 1, their_dice = 2;
static volatile int handlers;
/* Listeners of the handler's own, so that neither accepts what the other has connected. */
static union address their_address;
static int their_listener;
/*
 * The handler has closed something during this step of the program, and so opens
 * nothing: the library may be about to register the socket that had this number.
 */
static volatile bool closed_meanwhile;

static unsigned int roll(uint64_t *state, unsigned int sides_of_it)
{
	*state = *state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (*state >> 33) % sides_of_it;
}

/* This also runs in a signal handler, so it has no assert, which would leave the handler. */
static void must(bool that, const char *what)
{
	if (that)
		return;
	dprintf(STDERR_FILENO, "%s: %s\n", what, strerrorname_np(errno));
	_exit(1);
}

static void open_one(struct one *c, const struct one *group)
{
	const union address *to = group == ours ? &a : &their_address;
	struct pollfd p = { .events = POLLOUT };

	c->peer = raw_socket(AF_INET, SOCK_STREAM, 0);
	p.fd = c->peer;
	if (RAW4(SYS_connect, c->peer, &to->sa, sizeof(to->in), 0))
		must(errno == EINTR && RAW4(SYS_poll, &p, 1, 10000, 0) == 1, "connect");
	c->fd = accept4(group == ours ? listening : their_listener, NULL, NULL, SOCK_NONBLOCK);
	must(c->fd >= 0, "accept");
	c->added = false;
}

static void close_one(struct one *c)
{
	if (c->fd < 0)
		return;
	must(!close(c->fd), "close");
	raw_close(c->peer);
	c->fd = -1;
	c->added = false;
}

static void add_one(struct one *c, uint64_t id)
{
	if (c->fd < 0 || c->added)
		return;
	must(!ctl(0, EPOLL_CTL_ADD, c->fd, EPOLLIN, id), "ADD");
	c->added = true;
}

/*
 * Only the program checks this: to a handler that has interrupted the library, the
 * kernel answers.
 */
static void change_one(struct one *c, uint64_t id, int what)
{
	if (c->fd < 0)
		return;
	if (!c->added) {
		must(ctl(0, EPOLL_CTL_MOD, c->fd, EPOLLIN, id) == -1 && errno == ENOENT, "MOD");
	} else if (what == 0) {
		must(ctl(0, EPOLL_CTL_ADD, c->fd, EPOLLIN, id) == -1 && errno == EEXIST, "twice");
	} else if (what == 1) {
		must(!ctl(0, EPOLL_CTL_MOD, c->fd, EPOLLIN, id), "MOD of one added");
	} else {
		must(!ctl(0, EPOLL_CTL_DEL, c->fd, EPOLLIN, id), "DEL");
		c->added = false;
	}
}

static void step_one(struct one *group, int i, uint64_t *dice)
{
	struct one *c = &group[i];

	switch (roll(dice, group == ours ? 5 : 4)) {
	case 0:
		if (c->fd < 0 && (group == ours || !closed_meanwhile))
			open_one(c, group);
		break;
	case 1:
	case 2:
		add_one(c, (group == ours ? 0 : 100) + i);
		break;
	case 3:
		closed_meanwhile |= group == theirs;
		close_one(c);
		break;
	case 4:
		change_one(c, i, roll(dice, 3));
	}
}

static long now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/*
 * The next signal comes after a few instructions of the program, or so much later that
 * the program goes on, also if this is slow.
 */
static void next_signal(long took)
{
	struct itimerval soon = { .it_value.tv_usec = 1 + roll(&their_dice, 30) };

	if (!roll(&their_dice, 3))
		soon.it_value.tv_usec += 2 * took;
	setitimer(ITIMER_REAL, &soon, NULL);
}

static void on_alarm(int signal)
{
	int saved = errno;
	long begin = now_us();
	pid_t pid;

	(void)signal;
	handlers++;
	for (int i = roll(&their_dice, 4); i >= 0; i--)
		step_one(theirs, roll(&their_dice, MANY), &their_dice);
	if (!roll(&their_dice, 300)) {
		pid = fork();
		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
	}
	next_signal(now_us() - begin);
	errno = saved;
}

static int send_to_all(const struct one *group)
{
	int added = 0;

	for (int i = 0; i < MANY; i++) {
		struct pollfd p = { .fd = group[i].fd, .events = POLLIN };

		if (p.fd < 0)
			continue;
		assert_int_equal(RAW4(SYS_write, group[i].peer, "x", 1, 0), 1);
		/* Wait until it has arrived. */
		assert_int_equal(RAW4(SYS_poll, &p, 1, 10000, 0), 1);
		added += group[i].added;
	}
	return added;
}

/* Adding an added socket fails, and so does changing one that has not been added. */
static void ask_again(const struct one *group)
{
	for (int i = 0; i < MANY; i++) {
		if (group[i].fd < 0)
			continue;
		assert_errno(ctl(0, group[i].added ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, group[i].fd,
				 EPOLLIN, i), group[i].added ? EEXIST : ENOENT);
	}
}

/* Only the added sockets have events, and each has one. */
static void compare(void)
{
	int expected = send_to_all(ours) + send_to_all(theirs), count;
	struct epoll_event got[EVENTS];
	bool seen[200] = { false };

	count = epoll_wait(instances[0], got, EVENTS, 0);
	assert_int_equal(count, expected);
	for (int i = 0; i < count; i++) {
		const struct one *group = got[i].data.u64 < 100 ? ours : theirs;

		assert_true(got[i].data.u64 < 100 + MANY);
		assert_true(group[got[i].data.u64 % 100].added);
		assert_false(seen[got[i].data.u64]);
		seen[got[i].data.u64] = true;
	}
}

static void begin_anew(void)
{
	for (int i = 0; i < MANY; i++) {
		close_one(&ours[i]);
		close_one(&theirs[i]);
	}
	assert_ok(close(instances[0]));
	instances[0] = epoll_create1(EPOLL_CLOEXEC);
	assert_ok(instances[0]);
}

static void handlers_come_at_any_time(void **state)
{
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	const char *steps = getenv("STEPS");
	struct epoll_event got[EVENTS];
	sigset_t alarms, before;

	(void)state;
	their_listener = listener(AF_INET, &their_address);
	for (int i = 0; i < MANY; i++)
		ours[i].fd = theirs[i].fd = -1;
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	sigaction(SIGALRM, &action, NULL);
	for (int round = steps ? atoi(steps) / 25 : 200; round; round--) {
		next_signal(0);
		for (int step = 0; step < 25; step++) {
			closed_meanwhile = false;
			step_one(ours, roll(&our_dice, MANY), &our_dice);
			if (!roll(&our_dice, 3) &&
			    epoll_wait(instances[0], got, EVENTS, roll(&our_dice, 2)) < 0)
				assert_int_equal(errno, EINTR);
		}
		assert_ok(sigprocmask(SIG_BLOCK, &alarms, &before));
		compare();
		ask_again(ours);
		ask_again(theirs);
		begin_anew();
		assert_ok(sigprocmask(SIG_SETMASK, &before, NULL));
	}
	/* A handler that ran during setitimer() would set the timer again. */
	signal(SIGALRM, SIG_IGN);
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	signal(SIGALRM, SIG_DFL);
	begin_anew();
	close(their_listener);
	assert_true(handlers > 10);
}

static volatile int closed_by_handler, alarms;

static void close_the_first_time(int signal)
{
	(void)signal;
	if (!alarms++)
		close(closed_by_handler);
}

/* Returns whether the signal came during the wait, and not before. */
static bool handler_closes_one(void)
{
	struct itimerval often = { { .tv_usec = 50000 }, { .tv_usec = 50000 } };
	struct pair p = connection(0);
	struct epoll_event event;
	int came;

	assert_ok(ctl(0, EPOLL_CTL_ADD, p.fd, EPOLLIN, 42));
	assert_false(registered(instances[0], p.fd));
	closed_by_handler = p.fd;
	alarms = 0;
	setitimer(ITIMER_REAL, &often, NULL);
	assert_errno(epoll_wait(instances[0], &event, 1, 20000), EINTR);
	came = alarms;
	setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL);
	assert_errno(ctl(0, EPOLL_CTL_MOD, p.fd, EPOLLIN, 0), EBADF);
	assert_int_equal(epoll_wait(instances[0], &event, 1, 0), 0);
	raw_close(p.peer);
	return came == 1;
}

static void handler_closes_what_is_waited_for(void **state)
{
	struct sigaction action = { .sa_handler = close_the_first_time, .sa_flags = SA_RESTART };
	int disturbed = 0;
	struct pair p;

	(void)state;
	sigaction(SIGALRM, &action, NULL);
	while (!handler_closes_one()) {
		print_message("the signal came before the wait\n");
		assert_in_range(++disturbed, 1, 9);
	}
	/* The next socket is spared the call as before. */
	p = connection(0);
	assert_ok(ctl(0, EPOLL_CTL_ADD, p.fd, EPOLLIN, 42));
	assert_false(registered(instances[0], p.fd));
	close(p.fd);
	raw_close(p.peer);
}

static void exit_well(void *unused)
{
	(void)unused;
	_exit(7);
}

/* The only thread, with a socket that floats, has to end in its wait. */
static void cancelled_while_it_waits(void **state)
{
	struct epoll_event got;
	int status;
	pid_t pid;

	(void)state;
	pid = fork();
	if (!pid) {
		struct pair p = connection(0);

		alarm(60);
		instances[0] = epoll_create1(EPOLL_CLOEXEC);
		close(p.fd);
		p = connection(0);
		if (ctl(0, EPOLL_CTL_ADD, p.fd, EPOLLIN, 42))
			_exit(1);
		pthread_cleanup_push(exit_well, NULL);
		pthread_cancel(pthread_self());
		epoll_wait(instances[0], &got, 1, -1);
		pthread_cleanup_pop(0);
		_exit(2);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 7);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(handlers_come_at_any_time),
		T(handler_closes_what_is_waited_for),
		T(cancelled_while_it_waits),
	};

	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
