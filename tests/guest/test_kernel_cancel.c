// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module: threads that are cancelled, handlers that interrupt it, keys of
 * threads, and what it reads of the C library's. All tests pass without the library, too.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_cancel [NAME]
 */
#include "programs.h"

#include <dlfcn.h>
#include <libintl.h>
#include <stdatomic.h>

static timer_t timer;

/* alarm() is for programs that hang. */
static void make_timer(void (*handler)(int))
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };

	if (sigaction(SIGUSR1, &action, NULL) || timer_create(CLOCK_MONOTONIC, &event, &timer))
		_exit(8);
}

static void signal_after(long microseconds)
{
	struct itimerspec once = { .it_value.tv_nsec = microseconds * 1000 };

	timer_settime(timer, 0, &once, NULL);
}

static volatile sig_atomic_t signals;
static int known;

static void listens(int signal)
{
	(void)signal;
	listen(known, 16);
	listen_once();
	signals++;
	signal_after(3000);
}

static void listen_in_handler(void)
{
	known = unused_socket();
	listen(known, 16);
	make_timer(listens);
	signal_after(3000);
	while (signals < 40)
		listen_once();
}

/* A signal handler may call listen(), whatever it has interrupted. */
static void test_listen_in_a_handler(void **state)
{
	(void)state;
	assert_runs(listen_in_handler);
}

static sigjmp_buf away;
static volatile sig_atomic_t listening;

static void jumps(int signal)
{
	(void)signal;
	if (listening)
		siglongjmp(away, 1);
	signal_after(1000);
}

static void leave_listen(void)
{
	/* A jump leaves these as they are. */
	static int left, i;

	make_timer(jumps);
	signal_after(3000);
	for (; left < 10 && i < 2000; i++) {
		static int fd;

		fd = unused_socket();

		if (!sigsetjmp(away, 1)) {
			listening = 1;
			listen(fd, 16);
			listening = 0;
		} else {
			listening = 0;
			left++;
			signal_after(2000 + left * 100);
		}
		close(fd);
	}
	listen_once();
}

static void test_jump_out_of_listen(void **state)
{
	(void)state;
	assert_runs(leave_listen);
}

static int fd;
static union address a;

static void make_listener(void)
{
	fd = listener(AF_INET, &a);
	set_nonblock(fd);
}

static void accept_one(void)
{
	int conn = accept(fd, NULL, NULL);

	if (conn >= 0)
		close(conn);
}

static void serve(void)
{
	struct epoll_event event;
	int epoll = watching(fd);

	for (;;)
		if (epoll_wait(epoll, &event, 1, -1) > 0)
			accept_one();
}

static void connect_some(int count)
{
	for (int i = 0; i < count; i++) {
		close(connect_on(i % 2, &a));
		usleep(20000);
	}
}

/* Starts two other processes that are workers: with one worker, there is no group yet. */
static void start_others(void)
{
	make_listener();
	for (int i = 0; i < 2; i++) {
		pid_t pid = fork();

		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			alarm(40);
			serve();
		}
	}
	usleep(100000);
	connect_some(10);
}

static atomic_int blocked;

static void look_at_mask(void *arg)
{
	sigset_t mask;

	(void)arg;
	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	blocked += sigismember(&mask, SIGUSR1);
}

static void *serves(void *arg)
{
	pthread_cleanup_push(look_at_mask, arg);
	serve();
	pthread_cleanup_pop(0);
	return arg;
}

static void cancel_workers(void)
{
	pthread_t threads[8];

	start_others();
	for (int round = 0; round < 100; round++) {
		for (int i = 0; i < 8; i++)
			start_thread(&threads[i], serves, NULL);
		usleep(11000 + rand() % 3000);
		for (int i = 0; i < 8; i++) {
			pthread_cancel(threads[i]);
			pthread_join(threads[i], NULL);
		}
		if (blocked)
			_exit(7);
	}
}

/* The cleanup handlers of a worker that is cancelled in its wait may wait for a signal. */
static void test_signals_of_a_cancelled_worker(void **state)
{
	(void)state;
	assert_runs(cancel_workers);
}

static void *accepts(void *arg)
{
	for (;;) {
		accept_one();
		sched_yield();
	}
	return arg;
}

static void cancel_accept(void)
{
	pthread_t thread;

	start_others();
	start_thread(&thread, accepts, NULL);
	usleep(100000);
	pthread_cancel(thread);
	alarm(PATIENCE);
	pthread_join(thread, NULL);
}

/* accept() of a non-blocking listener is a cancellation point, too. */
static void test_cancelled_in_accept(void **state)
{
	(void)state;
	assert_runs(cancel_accept);
}

static atomic_bool quiet;

static void *serves_until_quiet(void *arg)
{
	struct epoll_event event;
	int epoll = watching(fd);

	while (!quiet)
		if (epoll_wait(epoll, &event, 1, 50) > 0 && !quiet)
			accept_one();
	for (;;)
		pause();
	return arg;
}

static void *closes(void *arg)
{
	int old;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
	pthread_cancel(pthread_self());
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
	close(fd);
	return arg;
}

static void cancel_close(void)
{
	int clients[10], accepted = 0;
	pthread_t thread;
	void *result;

	make_listener();
	for (int i = 0; i < 2; i++)
		start(serves_until_quiet);
	usleep(100000);
	connect_some(10);
	usleep(200000);
	quiet = true;
	usleep(200000);
	for (int i = 0; i < 10; i++)
		clients[i] = connect_on(i % 2, &a);
	start_thread(&thread, closes, NULL);
	pthread_join(thread, &result);
	if (result != PTHREAD_CANCELED)
		_exit(0);
	for (int i = 0; i < 100; i++)
		accepted += accept(fd, NULL, NULL) >= 0;
	for (int i = 0; i < 10; i++)
		close(clients[i]);
	if (accepted != 10)
		_exit(7);
}

/* A thread that is cancelled in close() has closed nothing, so all that waits is there still. */
static void test_cancelled_in_close(void **state)
{
	(void)state;
	assert_runs(cancel_close);
}

static void *leaves_wait(void *arg)
{
	struct epoll_event event;
	int epoll = watching(fd), was;

	if (!sigsetjmp(away, 1)) {
		listening = 1;
		syscall(SYS_epoll_wait, epoll, &event, 1, -1);
	}
	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &was);
	return was == PTHREAD_CANCEL_ENABLE ? arg : NULL;
}

static void leave_call_by_number(void)
{
	struct sigaction action = { .sa_handler = jumps };
	pthread_t thread;
	void *result;

	make_listener();
	sigaction(SIGUSR1, &action, NULL);
	start_thread(&thread, leaves_wait, &thread);
	usleep(200000);
	if (!listening)
		_exit(0);
	pthread_kill(thread, SIGUSR1);
	pthread_join(thread, &result);
	if (!result)
		_exit(7);
}

/* A thread that leaves syscall() by siglongjmp() can be cancelled afterwards, as before. */
static void test_jump_out_of_a_call_by_number(void **state)
{
	(void)state;
	assert_runs(leave_call_by_number);
}

static pthread_key_t first_key;

static void *waits_with_key(void *arg)
{
	struct epoll_event event;

	pthread_setspecific(first_key, arg);
	epoll_wait(watching(fd), &event, 1, 10);
	return pthread_getspecific(first_key);
}

static void use_all_keys(void)
{
	pthread_key_t others;
	pthread_t thread;
	void *result;

	if (pthread_key_create(&first_key, NULL))
		_exit(8);
	while (!pthread_key_create(&others, NULL))
		;
	make_listener();
	start_thread(&thread, waits_with_key, &thread);
	pthread_join(thread, &result);
	if (result != &thread)
		_exit(7);
}

/* The library cannot have a key of its own, and leaves those of the program alone. */
static void test_all_keys_in_use(void **state)
{
	(void)state;
	assert_runs(use_all_keys);
}

static void calls_another(int signal)
{
	struct timeval none = { 0 };

	(void)signal;
	switch (signals++) {
	case 0: socket(-1, 0, 0); break;
	case 1: close(-1); break;
	case 2: dup(-1); break;
	case 3: dup2(-1, -1); break;
	case 4: listen(-1, 0); break;
	case 5: shutdown(-1, 0); break;
	case 6: poll(NULL, 0, 0); break;
	case 7: accept(-1, NULL, NULL); break;
	case 8: connect(-1, NULL, 0); break;
	case 9: getsockname(-1, NULL, NULL); break;
	case 10: setsockopt(-1, 0, 0, NULL, 0); break;
	case 11: getsockopt(-1, 0, 0, NULL, NULL); break;
	case 12: fcntl(-1, F_GETFD); break;
	case 13: sendmsg(-1, NULL, 0); break;
	case 14: select(0, NULL, NULL, NULL, &none); break;
	}
	signal_after(900 + (getpid() + signals * 37) % 200);
}

static void use_memory(void)
{
	void *some[20];

	alarm(PATIENCE);
	make_timer(calls_another);
	signal_after(1000);
	while (signals < 16) {
		if (dlopen("/nonexistent/a/very/long/name/of/a/library.so", RTLD_NOW))
			_exit(8);
		for (int i = 0; i < 20; i++)
			some[i] = malloc(2000 + i * 16);
		for (int i = 0; i < 20; i++)
			free(some[i]);
	}
}

/* What the handler has interrupted may hold locks of malloc() or of the dynamic linker. */
static void test_first_calls_in_a_handler(void **state)
{
	(void)state;
	for (int i = 0; i < 30; i++)
		assert_runs(use_memory);
}

static atomic_bool done;

/* Environments of the program's own, each of which can only be read while it is the one. */
static void *changes_environment(void *arg)
{
	static char *none[1], name[] = "NAME=x", **names[64];
	const size_t count = 8191, size = (count + 1) * sizeof(char *);

	for (int i = 0; i < 64; i++) {
		names[i] = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (names[i] == MAP_FAILED)
			_exit(8);
		for (size_t k = 0; k < count; k++)
			names[i][k] = name;
		mprotect(names[i], size, PROT_NONE);
	}
	for (int i = 0; !done; i = (i + 1) % 64) {
		mprotect(names[i], size, PROT_READ);
		__atomic_store_n(&environ, names[i], __ATOMIC_SEQ_CST);
		for (volatile int turns = 0; turns < 10000; turns++)
			;
		__atomic_store_n(&environ, none, __ATOMIC_SEQ_CST);
		mprotect(names[i], size, PROT_NONE);
	}
	return arg;
}

static void listen_beside_changes(void)
{
	const int on = 1;

	listen_once();
	start(changes_environment);
	usleep(20000);
	for (int i = 0; i < 1500; i++) {
		int other = socket(AF_INET, SOCK_STREAM, 0);

		setsockopt(other, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
		bind_somewhere(other);
		listen(other, 16);
		close(other);
	}
	done = true;
}

/* The program reads it nowhere while a thread changes it, so the library must not, either. */
static void test_environment_changes(void **state)
{
	(void)state;
	assert_runs(listen_beside_changes);
}

static void *sets_domain(void *arg)
{
	for (;;) {
		textdomain("one");
		textdomain("other");
	}
	return arg;
}

static void listen_in_children(void)
{
	start(sets_domain);
	make_children(20, fork, listen_once);
}

/* A message of the library's must not need the translations' lock, which the thread has held. */
static void test_children_beside_translations(void **state)
{
	(void)state;
	assert_runs(listen_in_children);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test(name)
		T(test_listen_in_a_handler),
		T(test_jump_out_of_listen),
		T(test_signals_of_a_cancelled_worker),
		T(test_cancelled_in_accept),
		T(test_cancelled_in_close),
		T(test_jump_out_of_a_call_by_number),
		T(test_all_keys_in_use),
		T(test_first_calls_in_a_handler),
		T(test_environment_changes),
		T(test_children_beside_translations),
	};

	alarm(60);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
