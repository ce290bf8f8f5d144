// SPDX-License-Identifier: GPL-2.0-only
/*
 * The library without the module, in programs with threads that fork, or hold locks of the dynamic
 * linker. All tests pass without the library, too.
 *	LD_PRELOAD=libfsocket.so FSOCKET_BACKEND=kernel ./test_kernel_threads [NAME]
 */
#include "programs.h"

#include <dlfcn.h>
#include <link.h>

static void wait_once(void)
{
	int epoll = epoll_create1(0);

	if (epoll < 0)
		_exit(6);
	close(epoll);
}

static bool slow_walks;

struct walk {
	int (*visit)(struct dl_phdr_info *info, size_t size, void *arg);
	void *arg;
};

static int visit_slowly(struct dl_phdr_info *info, size_t size, void *walk)
{
	const struct walk *w = walk;

	usleep(300);
	return w->visit(info, size, w->arg);
}

/* The library calls this one. Its walks last as long as in a program of many shared objects. */
int dl_iterate_phdr(int (*visit)(struct dl_phdr_info *info, size_t size, void *arg), void *arg)
{
	int (*real)(typeof(visit), void *) = dlsym(RTLD_NEXT, "dl_iterate_phdr");
	struct walk w = { visit, arg };

	return slow_walks ? real(visit_slowly, &w) : real(visit, arg);
}

static void *repeats(void *call)
{
	for (;;)
		((void (*)(void))call)();
	return NULL;
}

/* The shared object is beside this program. */
static void load_plugin(void)
{
	char path[4096];
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 32);

	if (length < 0)
		_exit(2);
	path[length] = '\0';
	strcpy(strrchr(path, '/') + 1, "joining_plugin.so");
	alarm(PATIENCE);
	if (!dlopen(path, RTLD_NOW)) {
		fprintf(stderr, "%s\n", dlerror());
		_exit(3);
	}
}

/* The thread could not look up a function of the C library, which needs the lock of dlopen(). */
static void test_plugin_that_waits_for_a_thread(void **state)
{
	(void)state;
	assert_runs(load_plugin);
}

static void *opens_and_closes(void *arg)
{
	for (;;) {
		void *object = dlopen("libutil.so.1", RTLD_NOW);

		if (object)
			dlclose(object);
	}
	return arg;
}

static void run_true(void)
{
	char *arguments[] = { "true", NULL }, *environment[] = { NULL };

	dup2(1, 9);
	execve("/bin/true", arguments, environment);
	_exit(1);
}

static void fork_beside_dlopen(void)
{
	start(opens_and_closes);
	make_children(20, _Fork, run_true);
}

/*
 * After _Fork() the locks of the dynamic linker are as another thread has left them, so a child
 * only calls functions that a signal handler may call. These work for the first time there, too.
 */
static void test_fork_beside_dlopen(void **state)
{
	(void)state;
	assert_runs(fork_beside_dlopen);
}

/* A program reads the error after it has cleaned up. */
static void test_error_of_dlopen(void **state)
{
	const char *error;

	(void)state;
	assert_null(dlopen("/nonexistent.so", RTLD_NOW));
	close(-1);
	error = dlerror();
	assert_non_null(error);
	assert_non_null(strstr(error, "/nonexistent.so"));
	assert_null(dlerror());
}

static void *goes_apart(void *arg)
{
	unshare(CLONE_FILES);
	return arg;
}

static void *starts_threads(void *arg)
{
	pthread_t thread;

	for (;;) {
		start_thread(&thread, goes_apart, NULL);
		pthread_join(thread, NULL);
	}
	return arg;
}

static void fork_beside_apart(void)
{
	/* It takes the kernel a while to copy these for a thread. */
	for (int i = 0; i < 900; i++)
		dup(0);
	start(starts_threads);
	make_children(100, fork, listen_once);
}

/*
 * Threads get descriptors of their own while the process is copied, and nobody has listened before
 * the copies do.
 */
static void test_fork_beside_threads_apart(void **state)
{
	(void)state;
	assert_runs(fork_beside_apart);
}

static int visit(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)info;
	(void)size;
	(void)arg;
	return 0;
}

static void *walks(void *arg)
{
	for (;;)
		dl_iterate_phdr(visit, arg);
	return arg;
}

static void first_listener_in_child(void)
{
	start(walks);
	make_children(40, fork, listen_once);
}

/* The lock of dl_iterate_phdr() stays as another thread has left it, even after fork(). */
static void test_first_listener_in_a_child(void **state)
{
	(void)state;
	assert_runs(first_listener_in_child);
}

static void instance_in_child(void)
{
	wait_once();
	start(walks);
	make_children(80, fork, wait_once);
}

/* The same lock concerned children that make an instance, without the kernel backend. */
static void test_instance_in_a_child(void **state)
{
	(void)state;
	assert_runs(instance_in_child);
}

static pthread_barrier_t both;

static void *listens(void *arg)
{
	int *listener = arg;

	pthread_barrier_wait(&both);
	listen(*listener, 16);
	return NULL;
}

static int port_of(int fd)
{
	struct sockaddr_in name = { 0 };
	socklen_t length = sizeof(name);

	return syscall(SYS_getsockname, fd, &name, &length) ? 0 : name.sin_port;
}

static int leaking;

static void close_and_look(void)
{
	int port = port_of(leaking);

	close(leaking);
	for (int i = 3; i < 1024; i++)
		if (port_of(i) == port)
			_exit(7);
}

/* Other numbers are looked at, too: those of the library's sockets are high. */
static void leave_sockets(void)
{
	pthread_t thread;

	pthread_barrier_init(&both, NULL, 2);
	listen_once();
	for (int i = 0; i < 150; i++) {
		int moment = rand() % 40000;

		leaking = unused_socket();
		start_thread(&thread, listens, &leaking);
		pthread_barrier_wait(&both);
		for (volatile int turns = 0; turns < moment; turns++)
			;
		make_children(1, fork, close_and_look);
		pthread_join(thread, NULL);
		close(leaking);
	}
}

/* A child that is made while another thread calls listen() closes the listener, and has no copy. */
static void test_child_closes_what_a_thread_makes(void **state)
{
	(void)state;
	assert_runs(leave_sockets);
}

static int shared_listener;

static void make_listener(void)
{
	shared_listener = unused_socket();
	set_nonblock(shared_listener);
	if (listen(shared_listener, 16))
		_exit(5);
}

/* Children do what another thread of their parent was about to do when they were forked. */
static void fork_beside(void (*call)(void))
{
	pthread_t thread;

	slow_walks = true;
	start_thread(&thread, repeats, call);
	make_children(100, fork, call);
}

static void fork_beside_listen(void)
{
	fork_beside(listen_once);
}

static void watch_once(void)
{
	close(watching(shared_listener));
}

static void fork_beside_watches(void)
{
	make_listener();
	fork_beside(watch_once);
}

/* The other thread may hold a lock of dl_iterate_phdr(). */
static void test_fork_beside_a_thread(void **state)
{
	(void)state;
	assert_runs(fork_beside_listen);
	assert_runs(fork_beside_watches);
}

static void *changes_watch(void *arg)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = watching(shared_listener);

	for (;;)
		epoll_ctl(epoll, EPOLL_CTL_MOD, shared_listener, &event);
	return arg;
}

static int instance_of_all;

static void watch_in_child(void)
{
	struct epoll_event event = { .events = EPOLLIN };

	epoll_ctl(instance_of_all, EPOLL_CTL_ADD, shared_listener, &event);
	epoll_ctl(instance_of_all, EPOLL_CTL_DEL, shared_listener, &event);
}

static void fork_beside_watch(void)
{
	instance_of_all = epoll_create1(0);
	make_listener();
	start(changes_watch);
	make_children(500, _Fork, watch_in_child);
}

/* No handler of pthread_atfork() runs at _Fork(), which a signal handler may call. */
static void test_fork_beside_a_worker(void **state)
{
	(void)state;
	assert_runs(fork_beside_watch);
}

static void be_realtime(int priority)
{
	struct sched_param parameters = { .sched_priority = priority };

	pin(1);
	if (pthread_setschedparam(pthread_self(), SCHED_FIFO, &parameters))
		_exit(9);
}

static void *works_low(void *arg)
{
	struct epoll_event event = { .events = EPOLLIN };
	const struct timespec pause = { .tv_nsec = 100000 };
	int epoll = watching(shared_listener);

	be_realtime(30);
	for (;;) {
		/* The kernel does not let threads in real time have all of a CPU. */
		for (int i = 0; i < 60; i++)
			epoll_ctl(epoll, EPOLL_CTL_MOD, shared_listener, &event);
		nanosleep(&pause, NULL);
	}
	return arg;
}

static void *works_high(void *arg)
{
	struct epoll_event event = { .events = EPOLLIN };
	const struct timespec pause = { .tv_nsec = 200000 };
	const time_t end = time(NULL) + PATIENCE / 3;
	int epoll = watching(shared_listener);

	be_realtime(40);
	/* A slow guest needs half a minute for all rounds. */
	for (int i = 0; i < 4000 && (i < 20 || time(NULL) < end); i++) {
		nanosleep(&pause, NULL);
		epoll_ctl(epoll, EPOLL_CTL_MOD, shared_listener, &event);
	}
	return arg;
}

static void work_in_real_time(void)
{
	pthread_t high;

	alarm(PATIENCE);
	make_listener();
	start(works_low);
	start_thread(&high, works_high, NULL);
	pthread_join(high, NULL);
}

/* If a worker needs what one of a lower priority holds, that one must get the CPU. */
static void test_workers_in_real_time(void **state)
{
	struct sched_param fifo = { .sched_priority = 40 }, normal = { 0 };

	(void)state;
	if (sched_setscheduler(0, SCHED_FIFO, &fifo))
		skip();
	assert_ok(sched_setscheduler(0, SCHED_OTHER, &normal));
	assert_runs(work_in_real_time);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test(name)
		T(test_plugin_that_waits_for_a_thread),
		T(test_fork_beside_a_thread),
		T(test_fork_beside_dlopen),
		T(test_error_of_dlopen),
		T(test_fork_beside_threads_apart),
		T(test_first_listener_in_a_child),
		T(test_instance_in_a_child),
		T(test_child_closes_what_a_thread_makes),
		T(test_fork_beside_a_worker),
		T(test_workers_in_real_time),
	};

	alarm(60);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
