// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel backend: without the module, a listener of an unmodified server becomes an
 * SO_REUSEPORT group, with a member for each worker and a BPF program that chooses by
 * CPU.
 *
 *	chosen.c	whether it is in force
 *	group.c		the listener and its members, in this process
 *	procfs.c	what it reads of other processes
 *	members.c	the descriptors of its members
 *	options.c	the options that the program sets of the listener
 *	inherit.c	the options that a member has from its listener
 *	route.c		the member that gets the connections of a CPU
 *	making.c	the lock under which that is done
 *	imports.c	whether the program imports accept()
 *	adopt.c		a group of the program before this one
 *	keep.c		the same, when a process runs its program again
 *	worker.c	how workers wait
 *	place.c		the CPU and the member that a worker has
 *	hold.c		the thread that changes what workers wait for
 *	merge.c		one event of a listener and its member
 *	accept.c	how workers accept
 *	bystander.c	processes that wait by poll() or select()
 *	apart.c		threads with descriptors of their own
 *	pin.c		a worker's CPU
 *
 * Members are made when the program calls listen(), since it then still has the
 * privileges that bind() may need. They are only bound, so they get no connections
 * until a second worker waits. The option SO_REUSEPORT is set after the program's own
 * bind() and listen() have succeeded, so these fail when they would have failed without
 * the library.
 *
 * Every process that has been forked by the one that called listen() has all members,
 * so the group changes only when the last of these processes closes them. Three
 * properties follow that reuseport alone does not give: the index of a member never
 * changes; other workers can accept the connections that wait for a late, stopped or
 * dead worker; and no member is closed with connections in it while any process has the
 * listener.
 *
 * The program's listener stays the first member. It gets all connections while there is
 * no second worker, and later those of CPUs for which no worker is ready.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "device.h"
#include "fds.h"
#include "group.h"
#include "process.h"
#include "real.h"
#include "worker.h"

#define MAX_GROUPS 64
/* Where the program may have fewer descriptors, it may need the numbers of the members. */
#define LEAST_FILES 256
/* The number of attempts, a millisecond apart, to exclude other processes that make the same group. */
#define MAKING_TRIES 1000

atomic_int fsocket_group_count;
atomic_bool fsocket_group_made;
atomic_bool fsocket_reuseport_wanted;

static struct group groups[MAX_GROUPS];
/* For each descriptor, 1 + the index of its group; 0 if it has none, as far as is known. */
static unsigned char group_of[FSOCKET_MAX_FD];
/* The program has made a copy of a socket's descriptor, so a listener may have another number. */
static atomic_bool copied;

struct group *fsocket_group_find(ino_t socket)
{
	for (int i = 0; i < MAX_GROUPS; i++)
		if (socket && groups[i].inode == socket)
			return &groups[i];
	return NULL;
}

struct group *fsocket_group_of(int fd)
{
	if (!atomic_load_explicit(&fsocket_group_count, memory_order_relaxed) ||
	    (unsigned int)fd >= FSOCKET_MAX_FD || !group_of[fd] || fsocket_process_apart)
		return NULL;
	return &groups[group_of[fd] - 1];
}

struct group *fsocket_group_of_socket(int fd)
{
	if (!fsocket_process_apart || fsocket_device_confined())
		return fsocket_group_of(fd);
	return atomic_load(&fsocket_group_count) ? fsocket_group_find(fsocket_inode(fd)) : NULL;
}

bool fsocket_group_reached(int conn)
{
	for (int i = 0; i < MAX_GROUPS; i++)
		if (groups[i].route && !groups[i].route->reuseport &&
		    fsocket_member_reached(conn, &groups[i].address))
			return true;
	return false;
}

bool fsocket_group_has(int fd)
{
	return fsocket_group_of(fd);
}

void fsocket_group_ctl(int epfd, int op, int fd, const struct epoll_event *event)
{
	struct group *g = fsocket_group_of(fd);

	if (g)
		fsocket_worker_ctl(g, epfd, op, fd, event);
}

bool fsocket_group_member(int fd)
{
	/* It has closed those that it had. */
	if (fsocket_process_apart)
		return false;
	for (int i = 0; i < MAX_GROUPS; i++) {
		if (groups[i].inode && groups[i].memory == fd)
			return fsocket_memory_there(&groups[i]);
		for (int m = 0; groups[i].inode && m < groups[i].count; m++)
			if (groups[i].members[m] == fd)
				return fsocket_option(fd, SOL_SOCKET, SO_REUSEPORT) > 0;
	}
	return false;
}

/*
 * There is one for each CPU that the program may use, but the program itself needs most
 * of the numbers.
 */
static int members_wanted(void)
{
	struct rlimit limit;
	int count, used = 0;
	cpu_set_t set;

	fsocket_pin_allowed(&set);
	count = CPU_COUNT(&set);
	if (count > GROUP_MEMBERS)
		count = GROUP_MEMBERS;
	for (int i = 0; i < MAX_GROUPS; i++)
		used += groups[i].inode ? groups[i].count : 0;
	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur < LEAST_FILES)
		return 0;
	if (limit.rlim_cur < 8 * (rlim_t)FSOCKET_MAX_FD && (rlim_t)(used + count) > limit.rlim_cur / 8)
		count = (int)(limit.rlim_cur / 8) - used;
	return count;
}

/* Returns a bound socket beside fd, under a high number; or -1. */
static int make_member(int fd, int family)
{
	int low = RAW3(SYS_socket, family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);

	if (low < 0)
		return -1;
	if (!fsocket_group_inherit(low, fd, family) || fsocket_set_reuseport(low, 1) ||
	    RAW3(SYS_getsockname, fd, &address, &len) || RAW3(SYS_bind, low, &address, len)) {
		RAW2(SYS_close, low, 0);
		return -1;
	}
	return fsocket_member_raise(low);
}

static bool make_members(struct group *g, int fd, int family)
{
	int wanted = members_wanted();

	g->count = 0;
	if (wanted < 2 || fsocket_set_reuseport(fd, 1))
		return false;
	while (g->count < wanted) {
		int member = make_member(fd, family);

		if (member < 0)
			break;
		g->members[g->count++] = member;
	}
	return g->count >= 2;
}

static bool suits(int fd, int family)
{
	return (family == AF_INET || family == AF_INET6) && fsocket_inherit_possible() &&
	       !(RAW3(SYS_fcntl, fd, F_GETFL, 0) & O_ASYNC) &&
	       fsocket_option(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP;
}

static void demand(int fd)
{
	static const char line[] = "libfsocket: FSOCKET_BACKEND=kernel: the listener cannot have a group of its own: the program needs that and ends here (it has set SO_REUSEPORT itself, may use one CPU only, or has too few descriptors: libfsocket(7))\n";
	const char *required = fsocket_setting("FSOCKET_REQUIRED");

	(void)fd;
	if (!required || strcmp(required, "1"))
		return;
	RAW3(SYS_write, STDERR_FILENO, line, sizeof(line) - 1);
	_exit(1);
}

static void make_new(struct group *g, int fd, int family)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	g->memory = -1;
	if (make_members(g, fd, family)) {
		g->memory = fsocket_adopt_memory();
		g->anonymous = g->memory < 0;
		g->route = fsocket_route_new(g->memory);
	}
	if (!g->route) {
		fsocket_members_close(g);
		fsocket_set_reuseport(fd, 0);
		return;
	}
	memset(&info, 0, sizeof(info));
	/* For a listener, tcpi_sacked is the backlog. */
	if (RAW5(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, &info, &len))
		info.tcpi_sacked = SOMAXCONN;
	g->route->backlog = info.tcpi_sacked;
	for (int m = 0; m < g->count; m++)
		g->route->sockets[m] = fsocket_inode(g->members[m]);
	g->route->count = g->count;
	g->route->inode = fsocket_inode(fd);
	g->route->magic = ROUTE_MAGIC;
}

/*
 * If SO_REUSEPORT is set already, the program has set it, and has a group of its own;
 * or the library has set it in the program before this one.
 */
static struct group *make_group(int fd, bool made_here, bool *adopted)
{
	int family = fsocket_option(fd, SOL_SOCKET, SO_DOMAIN);
	struct group *g = NULL, before;

	/* Also of a group that is adopted, whose workers may be in a chroot later. */
	fsocket_cpus();
	/* Prefer a number without a group, since connections of an earlier group may be left. */
	for (int i = 0; i < MAX_GROUPS; i++)
		if (!groups[i].inode && (!g || (g->route && !groups[i].route)))
			g = &groups[i];
	if (!g || !suits(fd, family))
		return NULL;
	before = *g;
	g->route = NULL;
	if (!fsocket_option(fd, SOL_SOCKET, SO_REUSEPORT))
		make_new(g, fd, family);
	/* A parent may have made the socket, so that children listen, and one has been quicker. */
	else if (!made_here || !atomic_load(&fsocket_reuseport_wanted))
		*adopted = fsocket_adopt(g, fd);
	if (!g->route) {
		*g = before;
		return NULL;
	}
	if (before.route)
		g->route = fsocket_route_replace(before.route, g->route);
	atomic_store(&g->dropped, false);
	g->inode = fsocket_inode(fd);
	fsocket_member_address(fd, &g->address);
	atomic_store(&fsocket_group_made, true);
	atomic_fetch_add(&fsocket_group_count, 1);
	return g;
}

/*
 * Processes that a server has started at the same moment may see the same listener first at the same
 * moment. One of them makes the group, and the others find it complete. The kernel keeps the lock,
 * and so releases it when its holder dies; nobody waits for long for a holder that is stopped.
 */
static void exclude_others(int fd, short type)
{
	const struct timespec pause = { .tv_nsec = 1000000 };
	/* No program locks this byte, so its own locks stay. */
	struct flock byte = { .l_type = type, .l_start = 0x7fffffffffff0000, .l_len = 1 };

	for (int i = 0; i < MAKING_TRIES && RAW3(SYS_fcntl, fd, F_SETLK, &byte) == -EAGAIN; i++)
		RAW4(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &pause, NULL);
}

bool fsocket_group_note(int fd, bool made_here)
{
	static atomic_bool prepared;
	bool adopted = false;
	struct group *g;

	if ((unsigned int)fd >= FSOCKET_MAX_FD || fsocket_device_confined() ||
	    fsocket_process_borrowed())
		return false;
	if (!atomic_exchange(&prepared, true))
		fsocket_process_at_copy(fsocket_making_in_copy);
	fsocket_making_begin();
	g = fsocket_group_find(fsocket_inode(fd));
	if (!g) {
		exclude_others(fd, F_WRLCK);
		g = make_group(fd, made_here, &adopted);
		exclude_others(fd, F_UNLCK);
	}
	group_of[fd] = g ? 1 + (g - groups) : 0;
	fsocket_making_end();
	if (!g)
		demand(fd);
	return adopted;
}

void fsocket_group_listen(int fd, int backlog)
{
	struct group *g = fsocket_group_of(fd);

	if (!g || fsocket_device_confined())
		return;
	g->route->backlog = backlog;
	for (int m = 0; m < g->count; m++)
		if (g->route->index[m])
			RAW2(SYS_listen, g->members[m], backlog);
}

void fsocket_group_copied(int fd)
{
	if (fsocket_fd(fd) & (FD_PLAIN | FD_LISTENER))
		atomic_store_explicit(&copied, true, memory_order_relaxed);
}

static bool is_listener(const struct group *g, int fd)
{
	ino_t inode = fsocket_inode(fd);

	return inode && inode == g->inode;
}

/*
 * Returns a number, not from first to last, under which this process has the listener, too; or
 * -1.
 */
static int another(const struct group *g, unsigned int first, unsigned int last)
{
	struct rlimit limit;
	unsigned int end = 4096;

	if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur < end)
		end = limit.rlim_cur;
	for (unsigned int fd = 0; fd < end; fd++)
		if ((fd < first || fd > last) && is_listener(g, fd))
			return fd;
	return -1;
}

static void drop(struct group *g)
{
	/* Two threads may close the last two numbers at once. */
	if (atomic_exchange(&g->dropped, true))
		return;
	/* It may have others, which are closed at once or after a shutdown(). */
	for (int fd = 0; fd < FSOCKET_MAX_FD; fd++)
		if (group_of[fd] == 1 + (g - groups))
			group_of[fd] = 0;
	fsocket_worker_forsake(g, -1);
	fsocket_members_close(g);
	g->inode = 0;
	atomic_fetch_sub(&fsocket_group_count, 1);
	/* The route stays mapped: another thread may look at it. */
}

static void forget(unsigned int fd, unsigned int first, unsigned int last)
{
	struct group *g = fsocket_group_of(fd);
	int copy = -1;

	if (!g)
		return;
	group_of[fd] = 0;
	for (int other = 0; other < FSOCKET_MAX_FD; other++)
		if (group_of[other] == 1 + (g - groups) &&
		    ((unsigned int)other < first || (unsigned int)other > last))
			return;
	/*
	 * The descriptor may also be a copy that the library has not seen, but while no member
	 * listens, none has connections.
	 */
	if (g->route->listening || atomic_load(&copied))
		copy = another(g, first, last);
	if (copy < 0) {
		drop(g);
		return;
	}
	/* The group goes when the copy is closed. Ask what it is when it is next used. */
	group_of[copy] = 1 + (g - groups);
	fsocket_fd_set(copy, FD_UNKNOWN);
}

/*
 * The number of a member, and all up to last, are about to become those of other files: the program
 * does not know that this one is in use. The member gets another number, if there is one beyond.
 * Its worker claims it anew, since an epoll instance knows a socket by its number.
 */
static void move(int fd, unsigned int last)
{
	for (int i = 0; i < MAX_GROUPS; i++) {
		struct group *g = &groups[i];

		if (g->inode && g->memory == fd)
			g->memory = fsocket_memory_there(g) ? fsocket_member_move(fd, last) : -1;
		for (int m = 0; g->inode && m < g->count; m++)
			if (g->members[m] == fd) {
				fsocket_worker_forsake(g, m);
				/* It may be another file already: see new_socket_beside_groups(). */
				g->members[m] = fsocket_member_there(g, m) ?
						fsocket_member_move(fd, last) : -1;
			}
	}
	fsocket_fd_set(fd, FD_UNKNOWN);
}

/*
 * A child of vfork() closes the listener: it closes its own descriptors of the members, too, and
 * leaves the variables alone, which are its parent's.
 */
static void close_in_child(const struct group *g)
{
	for (int m = 0; m < g->count; m++)
		if (fsocket_member_there(g, m))
			RAW2(SYS_close, g->members[m], 0);
	if (fsocket_memory_there(g))
		RAW2(SYS_close, g->memory, 0);
}

/* Another thread may close a listener, and the members with it, while this one copies the table. */
static struct group before_left[MAX_GROUPS];

void fsocket_group_leave(void)
{
	fsocket_making_begin();
	memcpy(before_left, groups, sizeof(groups));
}

void fsocket_group_left(bool apart)
{
	for (int i = 0; apart && i < MAX_GROUPS; i++)
		if (before_left[i].inode)
			close_in_child(&before_left[i]);
	/* From now on all calls that concern notes about numbers ask whose they are. */
	if (apart)
		atomic_store(&fsocket_group_made, true);
	fsocket_making_end();
}

void fsocket_group_gone(unsigned int first, unsigned int last)
{
	bool borrowed;

	/* A thread with descriptors of its own has none of a group: see fsocket_group_left(). */
	if (!atomic_load_explicit(&fsocket_group_count, memory_order_relaxed) ||
	    fsocket_device_confined() || fsocket_process_apart)
		return;
	borrowed = fsocket_process_borrowed();
	if (last >= FSOCKET_MAX_FD)
		last = FSOCKET_MAX_FD - 1;
	for (unsigned int fd = first; fd <= last; fd++) {
		if (group_of[fd] && borrowed)
			close_in_child(&groups[group_of[fd] - 1]);
		else if (group_of[fd])
			forget(fd, first, last);
		else if (!borrowed && fsocket_fd(fd) == FD_MEMBER)
			move(fd, last);
	}
}

void fsocket_group_closed(void)
{
	if (fsocket_device_confined() || fsocket_process_borrowed())
		return;
	for (int fd = 0; fd < FSOCKET_MAX_FD; fd++)
		if (group_of[fd] && !is_listener(&groups[group_of[fd] - 1], fd))
			forget(fd, fd, fd);
}

/*
 * It can close its members, as it closes the listener, but cannot ask whether it has the
 * listener under another number that the library does not know.
 */
void fsocket_group_closes(int fd)
{
	struct group *g = fsocket_group_of(fd);

	if (!g || !fsocket_device_confined() || fsocket_process_borrowed())
		return;
	group_of[fd] = 0;
	for (int other = 0; other < FSOCKET_MAX_FD; other++)
		if (group_of[other] == 1 + (g - groups))
			return;
	drop(g);
}

void fsocket_group_each_inherited(void (*what)(const struct group *g, int listener, void *arg),
				  void *arg)
{
	bool seen[MAX_GROUPS] = { false };

	for (int fd = 0; fd < FSOCKET_MAX_FD; fd++) {
		const struct group *g = fsocket_group_of(fd);

		if (!g || seen[g - groups] || RAW3(SYS_fcntl, fd, F_GETFD, 0) != 0 ||
		    fsocket_inode(fd) != g->inode)
			continue;
		seen[g - groups] = true;
		what(g, fd, arg);
	}
}

void fsocket_group_shutdown(int fd)
{
	struct group *g = fsocket_group_of_socket(fd);

	if (!g || fsocket_device_confined())
		return;
	atomic_store(&g->route->broken, true);
	fsocket_members_shut_down(g);
	/* The listener is shut down for all, and others still have it. */
	if (fsocket_process_borrowed())
		return;
	group_of[fd] = 0;
	drop(g);
}
