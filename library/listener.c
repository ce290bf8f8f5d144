// SPDX-License-Identifier: GPL-2.0-only
/*
 * Notes which descriptors listen, and for which of them this thread has asked the
 * module for a local listener.
 *
 * The library learns of most of them by listen(). Others come from elsewhere: systemd's
 * socket activation, nginx's binary upgrade, HAProxy's reload, dup(), SCM_RIGHTS. For
 * these it asks the kernel once, when they are added to an epoll instance or accepted
 * from.
 */
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device.h"
#include "kernel.h"
#include "listener.h"
#include "process.h"
#include "real.h"

/*
 * The number of listeners that are remembered for one thread. MOD does not spawn further ones
 * again.
 */
#define MAX_CLAIMS 32

__thread int fsocket_leaving __attribute__((tls_model("initial-exec"))) = -1;

/* The listeners that this thread itself has added, and whether it waits for them. */
static __thread struct {
	int fd;
	bool waits;
} claims[MAX_CLAIMS] __attribute__((tls_model("initial-exec")));
static __thread int claim_count __attribute__((tls_model("initial-exec")));

/* The inode of each listener's socket. */
static ino_t inodes[FSOCKET_MAX_FD];

/*
 * The value of SO_REUSEPORT that the program has set, by the inode of the socket, since a
 * socket may have several descriptors. New entries replace the oldest ones, but none of a
 * listener that this process still has. Processes share this memory as they share their
 * sockets: a parent reads the value that its child has set.
 */
#define MAX_OPTIONS 256
struct options {
	atomic_uint count;
	struct {
		ino_t inode;
		atomic_bool reuseport;
	} notes[MAX_OPTIONS];
};

static struct options *_Atomic options;

static void in_child(void)
{
	claim_count = 0;
	fsocket_leaving = -1;
}

bool fsocket_listener_is(int fd)
{
	if (!(fsocket_fd(fd) & FD_LISTENER))
		return false;
	if (!fsocket_device_confined() && fsocket_inode(fd) == inodes[fd])
		return true;
	fsocket_fd_set(fd, FD_UNKNOWN);
	return false;
}

static atomic_bool *find_reuseport(ino_t socket)
{
	struct options *all = atomic_load(&options);
	unsigned int count = all ? atomic_load(&all->count) : 0;

	for (unsigned int i = 0; i < count && i < MAX_OPTIONS; i++)
		if (socket && all->notes[i].inode == socket)
			return &all->notes[i].reuseport;
	return NULL;
}

atomic_bool *fsocket_listener_reuseport(int fd)
{
	if (!atomic_load(&options) || fsocket_device_confined())
		return NULL;
	return find_reuseport(fsocket_inode(fd));
}

static struct options *all_options(void)
{
	struct options *none = NULL, *made;

	if (atomic_load(&options))
		return atomic_load(&options);
	made = mmap(NULL, sizeof(*made), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (made != MAP_FAILED && !atomic_compare_exchange_strong(&options, &none, made))
		munmap(made, sizeof(*made));
	return atomic_load(&options);
}

static bool listens(ino_t socket)
{
	for (int fd = 0; fd < FSOCKET_MAX_FD; fd++)
		if (fsocket_fd(fd) & FD_LISTENER && inodes[fd] == socket)
			return true;
	return false;
}

static unsigned int next_note(struct options *all)
{
	unsigned int i = 0;

	for (int tries = 0; tries < MAX_OPTIONS; tries++) {
		i = atomic_fetch_add(&all->count, 1) % MAX_OPTIONS;
		if (!listens(all->notes[i].inode))
			break;
	}
	return i;
}

atomic_bool *fsocket_listener_remember(int fd)
{
	struct options *all = all_options();
	ino_t socket = fsocket_inode(fd);
	unsigned int i;

	if (!all || find_reuseport(socket))
		return find_reuseport(socket);
	i = next_note(all);
	all->notes[i].inode = 0;
	atomic_store(&all->notes[i].reuseport, fsocket_option(fd, SOL_SOCKET, SO_REUSEPORT) > 0);
	all->notes[i].inode = socket;
	return &all->notes[i].reuseport;
}

/* The library has set the option, in the program before this one. */
static void forget_reuseport(int fd)
{
	atomic_bool *reuseport = find_reuseport(inodes[fd]);

	if (reuseport)
		*reuseport = false;
}

void fsocket_listener_note(int fd)
{
	bool made_here = fsocket_fd(fd) == FD_PLAIN;
	static atomic_bool prepared;
	int domain;

	if (fsocket_fd(fd) & FD_BEYOND || fsocket_device_confined() || fsocket_process_apart)
		return;
	/* At a second listen() the module may have set the option. */
	if (fsocket_listener_is(fd))
		return;
	domain = fsocket_option(fd, SOL_SOCKET, SO_DOMAIN);
	if (domain != AF_INET && domain != AF_INET6) {
		fsocket_fd_set(fd, FD_PLAIN);
		return;
	}
	if (!atomic_exchange(&prepared, true))
		fsocket_process_at_copy(in_child);
	inodes[fd] = fsocket_inode(fd);
	fsocket_listener_remember(fd);
	fsocket_fd_set(fd, FD_LISTENER);
	if (fsocket_kernel_chosen()) {
		if (fsocket_group_note(fd, made_here))
			forget_reuseport(fd);
	} else {
		fsocket_device_ready();
	}
}

unsigned char fsocket_listener_ask(int fd)
{
	int listens;

	if (fsocket_device_confined() || fsocket_process_apart)
		return FD_UNKNOWN;
	listens = fsocket_option(fd, SOL_SOCKET, SO_ACCEPTCONN);
	if (listens > 0)
		fsocket_listener_note(fd);
	else if (listens != -EBADF)
		fsocket_fd_set(fd, FD_PLAIN);
	return fsocket_fd(fd);
}

static int find_claim(int fd)
{
	for (int i = 0; i < claim_count; i++)
		if (claims[i].fd == fd)
			return i;
	return -1;
}

static void note_claim(int fd)
{
	int i = find_claim(fd);

	if (i < 0 && claim_count < MAX_CLAIMS)
		i = claim_count++;
	if (i < 0)
		return;
	claims[i].fd = fd;
	claims[i].waits = true;
}

static int call_module(unsigned long call, int fd)
{
	struct fsocket_ioctl_arg arg = { .fd = fd };

	arg.op.spawn_op.cpu = -1;
	return fsocket_device_call(call, &arg);
}

/*
 * The shared listener serves a worker that has no local listener, so errors of the
 * module do not concern the program. The module logs the reason.
 */
static bool spawn(int fd)
{
	int ret;

	if (fsocket_kernel_chosen() || !fsocket_device_ready())
		return false;
	ret = call_module(FSOCKET_IOC_SPAWN_LISTEN, fd);
	/* The descriptor may have become another file, or may have stopped listening. */
	if (ret == -EINVAL || ret == -ENOTSOCK) {
		fsocket_fd_set(fd, FD_UNKNOWN);
		fsocket_listener_ask(fd);
	}
	return !ret;
}

void fsocket_listener_added(int fd)
{
	if (fsocket_leaving == fd)
		fsocket_leaving = -1;
	else
		spawn(fd);
	if (fsocket_fd(fd) & FD_LISTENER)
		fsocket_fd_set(fd, fsocket_fd(fd) | FD_ADDED);
	note_claim(fd);
}

bool fsocket_listener_resumed(int fd)
{
	int claim = find_claim(fd);

	if (fsocket_leaving == fd) {
		fsocket_leaving = -1;
		return false;
	}
	if (claim >= 0 ? claims[claim].waits : fsocket_fd(fd) & FD_ADDED)
		return false;
	/*
	 * The thread has retired fd before, or has added it before it listened. If another
	 * thread has added fd, the threads share the instance, and this one does not claim
	 * the listener.
	 */
	fsocket_listener_added(fd);
	return true;
}

/* The call has no effect if nothing was spawned. */
void fsocket_listener_retire(void)
{
	int claim = find_claim(fsocket_leaving);

	call_module(FSOCKET_IOC_RETIRE_LISTEN, fsocket_leaving);
	if (claim >= 0)
		claims[claim].waits = false;
	fsocket_leaving = -1;
}

void fsocket_listener_left(int fd)
{
	if (fsocket_leaving >= 0 && fsocket_leaving != fd)
		fsocket_listener_retire();
	fsocket_leaving = fd;
}

bool fsocket_listener_close(int fd)
{
	int claim = find_claim(fd);

	/* close() is a cancellation point, so this function has to be one. */
	pthread_testcancel();
	/* A child of vfork() closes a descriptor of its own, and shares these notes. */
	if (fsocket_process_borrowed())
		return false;
	fsocket_fd_set(fd, FD_UNKNOWN);
	if (claim >= 0)
		claims[claim] = claims[--claim_count];
	if (fsocket_leaving == fd)
		fsocket_leaving = -1;
	/* This retires what all threads have spawned on it. */
	return !call_module(FSOCKET_IOC_CLOSE, fd);
}
