// SPDX-License-Identifier: GPL-2.0-only
/* The part of the grammar about tasks: processes, threads, CPUs, namespaces, and faults. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <pthread.h>
#include <sys/prctl.h>

#include "fuzz.h"

#define CHILDREN	24

/* A child inherits descriptors, claims, and its one CPU, and goes on with them. */
void step_fork(struct fuzz *f)
{
	int steps = 1 + below(&f->rng, 12);
	uint64_t seed = random64(&f->rng);
	struct slot slots[SLOTS];
	pid_t pid;

	if (f->depth > 2 || __atomic_load_n(&shared->children, __ATOMIC_RELAXED) > CHILDREN)
		return;
	__atomic_fetch_add(&shared->children, 1, __ATOMIC_RELAXED);
	pid = CALL(f, fork());
	if (!pid) {
		struct fuzz child = *f;

		memcpy(slots, f->slots, sizeof(slots));
		child.slots = slots;
		child.rng.state = seed;
		child.depth++;
		start_timer();
		run_some(&child, steps);
		if (one_in(&child.rng, 3))
			end_episode(&child);
		__atomic_fetch_sub(&shared->children, 1, __ATOMIC_RELAXED);
		_exit(0);
	}
	if (pid < 0)
		__atomic_fetch_sub(&shared->children, 1, __ATOMIC_RELAXED);
	else if (single())
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
}

static void *thread_main(void *arg)
{
	struct fuzz *f = arg;
	start_timer();
	run_some(f, 1 + below(&f->rng, 8));
	free(f);
	return NULL;
}

/* A worker ends without closing anything: what it has spawned stays. */
void step_thread(struct fuzz *f)
{
	struct fuzz *other = malloc(sizeof(*other));
	pthread_t thread;

	*other = *f;
	other->rng.state = random64(&f->rng);
	other->depth++;
	if (f->depth > 2 || CALL(f, pthread_create(&thread, NULL, thread_main, other))) {
		free(other);
		return;
	}
	/* Join first: the thread uses the slots, which may be on this stack. */
	pthread_join(thread, NULL);
}

void step_affinity(struct fuzz *f)
{
	cpu_set_t set;
	int cpu;

	CPU_ZERO(&set);
	for (cpu = 0; cpu < shared->cpus; cpu++)
		if (one_in(&f->rng, 2))
			CPU_SET(cpu, &set);
	if (one_in(&f->rng, 2)) {
		CPU_ZERO(&set);
		CPU_SET(below(&f->rng, shared->cpus), &set);
	} else if (one_in(&f->rng, 3)) {
		memset(&set, 0xff, sizeof(set));
	}
	CALL(f, sched_setaffinity(0, sizeof(set), &set));
}

static void bring_up(const char *name)
{
	struct ifreq ifr = { .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	strcpy(ifr.ifr_name, name);
	ioctl(fd, 0x8914 /* SIOCSIFFLAGS */, &ifr);
	close(fd);
}

static void filter_system_calls(void)
{
	struct sock_filter allow[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
	struct sock_fprog program = { 1, allow };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/*
 * Makes a child that has all capabilities in namespaces of its own, which end with it;
 * or one under a seccomp filter.
 */
void step_namespace(struct fuzz *f)
{
	bool filtered = one_in(&f->rng, 3);
	int steps = 10 + below(&f->rng, 40);
	uint64_t seed = random64(&f->rng);
	struct slot slots[SLOTS];
	pid_t pid;

	if (f->depth || __atomic_load_n(&shared->children, __ATOMIC_RELAXED) > 3 || one_in(&f->rng, 3))
		return;
	__atomic_fetch_add(&shared->children, 1, __ATOMIC_RELAXED);
	pid = CALL(f, fork());
	if (!pid) {
		struct fuzz child = *f;

		memcpy(slots, f->slots, sizeof(slots));
		child.slots = slots;
		child.rng.state = seed;
		child.depth = 3;
		start_timer();
		if (filtered) {
			filter_system_calls();
		} else if (!CALL(f, unshare(CLONE_NEWUSER | CLONE_NEWNET))) {
			child.own_net = true;
			bring_up("lo");
		}
		run_some(&child, steps);
		__atomic_fetch_sub(&shared->children, 1, __ATOMIC_RELAXED);
		_exit(0);
	}
	if (pid < 0)
		__atomic_fetch_sub(&shared->children, 1, __ATOMIC_RELAXED);
	else if (single())
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
}

void step_proc(struct fuzz *f)
{
	static const char * const paths[] = {
		"/proc/net/fastsocket", "/proc/net/fastsocket_listeners",
		"/proc/net/fastsocket_listeners", "/proc/net/tcp", "/proc/net/tcp6",
		"/proc/net/sockstat", "/sys/module/fastsocket/parameters/enable_skb_pool",
	};
	const char *path = ANY_OF(&f->rng, paths);
	char text[512];
	int fd = CALL(f, open(path, O_RDONLY | O_CLOEXEC)), i;

	for (i = 0; i < 64 && CALL(f, read(fd, text, 1 + below(&f->rng, sizeof(text)))) > 0; i++)
		;
	close(fd);
}

/* From now on the nth allocation fails, on kernels with fault injection. */
void step_fail(struct fuzz *f)
{
	static bool missing;
	int n = 1 + below(&f->rng, one_in(&f->rng, 3) ? 40 : 8), fd;
	char text[16];

	if (missing) {
		one_step(f);
		return;
	}
	fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		missing = true;
		return;
	}
	snprintf(text, sizeof(text), "%d", n);
	if (write(fd, text, strlen(text)) > 0)
		one_step(f);
	if (write(fd, "0", 1) < 0)
		missing = true;
	close(fd);
}

/* With one process, root's steps have their place in the order. */
void step_root(struct fuzz *f)
{
	uint64_t seed = random64(&f->rng) | 1;

	if (!options.root || !single() || f->depth)
		return;
	if (one_in(&f->rng, 4))
		end_episode(f);
	__atomic_store_n(&shared->root_step, seed, __ATOMIC_RELEASE);
	while (__atomic_load_n(&shared->root_step, __ATOMIC_ACQUIRE) && !shared->stop)
		usleep(200);
}
