/* SPDX-License-Identifier: GPL-2.0-only */
/* Declarations that the files of the fuzzer share; see fuzz.c. */
#ifndef TESTS_GUEST_FUZZ_H
#define TESTS_GUEST_FUZZ_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../kmod/fastsocket_abi.h"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof(*(a)))
#define PROCESSES	16
#define SLOTS		24
/* The calls use only descriptors below this number, and leave 0 to 2 alone. */
#define FDS		64
#define PORT_BASE	7000
#define PORTS		12

/* SplitMix64. Every step has a generator of its own, so that leaving one out changes no other. */
struct rng {
	uint64_t state;
};

static inline uint64_t random64(struct rng *rng)
{
	uint64_t z = rng->state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static inline uint32_t below(struct rng *rng, uint32_t end)
{
	return random64(rng) % end;
}

static inline bool one_in(struct rng *rng, uint32_t n)
{
	return !below(rng, n);
}

#define ANY_OF(rng, array) ((array)[below(rng, ARRAY_SIZE(array))])

/* The kind as which a slot was made. Another thread may have changed it meanwhile. */
enum kind { FREE, STREAM, LISTENER, CONNECTION, OTHER, DEVICE, EPOLL, UNIX };

struct slot {
	int fd;
	enum kind kind;
	int family;
	int port;
};

/* Shared by all processes. */
struct shared {
	/* The number of steps of each, as a sign of life, and of system calls. */
	struct {
		uint64_t steps, calls;
		int pid;
	} process[PROCESSES];
	int stop, pause, paused, children, failed, cpus;
	/* A step of root: requested by its seed, and done when it is 0 again. */
	uint64_t root_step;
	uint64_t reloads, writes, hotplugs, aborts;
};

struct options {
	uint64_t seed, calls, steps;
	int seconds, threads, processes;
	const char *module, *without;
	bool root;
	/* The steps to do, ascending; all if there are none. */
	uint32_t *only;
	size_t only_count;
};

/* The state of a thread. */
struct fuzz {
	struct rng rng;
	struct slot *slots;
	int id, process;
	/* The slot that the next call is also likely to use. */
	int hot;
	/* The groups of calls in this episode. */
	uint32_t groups;
	/* The depth of forked processes. */
	int depth;
	/* Whether it has a network namespace of its own. */
	bool own_net;
};

extern struct shared *shared;
extern struct options options;

/* Counts a system call. */
#define CALL(f, call) (__atomic_fetch_add(&shared->process[(f)->process].calls, 1, \
					  __ATOMIC_RELAXED), (call))

static inline bool single(void)
{
	return options.threads == 1 && options.processes == 1;
}

/* fuzz.c */
void start_timer(void);
void run_some(struct fuzz *f, int steps);
bool without(const char *name);

/* fuzz_address.c */
socklen_t any_address(struct fuzz *f, struct sockaddr_storage *a, int family);

/* fuzz_calls.c */
void one_step(struct fuzz *f);
void begin_episode(struct fuzz *f);
void end_episode(struct fuzz *f);
struct slot *any_slot(struct fuzz *f);
int any_fd(struct fuzz *f);
int device_fd(struct fuzz *f);
int put_fd(struct fuzz *f, int fd, enum kind kind, int family);

/* fuzz_data.c */
void step_setsockopt(struct fuzz *f);
void step_getsockopt(struct fuzz *f);
void step_send(struct fuzz *f);
void step_receive(struct fuzz *f);
void turn_protocol(struct fuzz *f, int fd);
void step_ioctl_socket(struct fuzz *f);

/* fuzz_tasks.c */
void step_fork(struct fuzz *f);
void step_thread(struct fuzz *f);
void step_affinity(struct fuzz *f);
void step_namespace(struct fuzz *f);
void step_proc(struct fuzz *f);
void step_fail(struct fuzz *f);
void step_root(struct fuzz *f);

/* fuzz_root.c */
void root_main(void);
bool root_restore(void);

#endif
