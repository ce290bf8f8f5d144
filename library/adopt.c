// SPDX-License-Identifier: GPL-2.0-only
/*
 * Takes over a group that another program has made, after a binary upgrade, or a reload
 * in which the server runs its program again. The new program has the listener, but
 * neither the members nor the memory with the workers that wait, since both are closed
 * when a program is run: programs that a server starts may not keep them. The server's
 * processes are relatives, and still run. The new program takes both from one of them
 * (pidfd_getfd()), which the kernel allows to users who may trace it. From then on its
 * processes are further processes of the same server, as after a reload: old and new
 * workers run side by side, and no connection is lost when the old ones end.
 *
 * A relative may be any program, of any user: the parent may be init, with all its
 * children. So the memory must have been made by this program's own user, and the
 * sockets must be bound to the listener's port. Under a seccomp filter the library does
 * not try this: the filter may kill for calls that it does not know.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend.h"
#include "fds.h"
#include "real.h"

#define NAME		"fsocket-route"
#define LINK		"/memfd:" NAME
/* From 6.3 on, the kernel warns if this flag is missing. */
#define NOEXEC_SEAL	8
/* No user has this number. */
#define ANYBODY		((uid_t)-1)
/* The number of generations of parents that are tried. */
#define ANCESTORS	3

/* keep.c makes such an offer before the program's main(). */
struct offer {
	ino_t listener;
	const int *numbers;
	int count;
};

static struct offer offer;

static bool possible(void)
{
	return !RAW5(SYS_prctl, PR_GET_SECCOMP, 0, 0, 0, 0);
}

/* Returns memory for a route, or -1. No process that gets it can make it smaller for the others. */
int fsocket_adopt_memory(void)
{
	struct rlimit limit;
	int fd;

	/* Beyond RLIMIT_FSIZE, ftruncate() sends SIGXFSZ, which ends the program. */
	if (!possible() || getrlimit(RLIMIT_FSIZE, &limit) || limit.rlim_cur < sizeof(struct route))
		return -1;
	fd = RAW2(SYS_memfd_create, NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING | NOEXEC_SEAL);
	if (fd < 0)
		fd = RAW2(SYS_memfd_create, NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -1;
	if (RAW2(SYS_ftruncate, fd, sizeof(struct route)) ||
	    RAW3(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		RAW2(SYS_close, fd, 0);
		return -1;
	}
	return fsocket_member_raise(fd);
}

/* Returns a descriptor of the file that the relative has under the number; or -1. */
static int take(int relative, int number)
{
	int fd = RAW3(SYS_pidfd_getfd, relative, number, 0);

	return fd < 0 ? -1 : fsocket_member_raise(fd);
}

/* Returns whether the user has made the file, of which s tells. */
static bool made_by(uid_t user, int fd, struct stat *s)
{
	return !RAW2(SYS_fstat, fd, s) && (user == ANYBODY || s->st_uid == user);
}

static struct route *map(int fd, ino_t listener, uid_t maker)
{
	int seals = RAW3(SYS_fcntl, fd, F_GET_SEALS, 0);
	struct route *r;
	struct stat s;

	/* Without the seal, another process could make the memory end within the mapping. */
	if (seals < 0 || !(seals & F_SEAL_SHRINK) || !made_by(maker, fd, &s) || s.st_size != sizeof(*r))
		return NULL;
	r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (r == MAP_FAILED)
		return NULL;
	if (r->magic == ROUTE_MAGIC && r->inode == listener && r->count > 0 &&
	    r->count <= GROUP_MEMBERS && r->end >= 0 && r->end <= GROUP_CLAIMS &&
	    !atomic_load(&r->broken))
		return r;
	munmap(r, sizeof(*r));
	return NULL;
}

/* Calls what for each descriptor of the process, with its number and the target of its link. */
static void each_link(int pid, void (*what)(int number, const char *link, void *arg), void *arg)
{
	char path[64], link[64];
	struct dirent *entry;
	ssize_t length;
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	folder = opendir(path);
	while (folder && (entry = readdir(folder))) {
		length = readlinkat(dirfd(folder), entry->d_name, link, sizeof(link) - 1);
		link[length < 0 ? 0 : length] = '\0';
		what(atoi(entry->d_name), link, arg);
	}
	if (folder)
		closedir(folder);
}

/* The routes' memories of a process. */
struct found {
	int numbers[8], count;
};

static void find_memory(int number, const char *link, void *arg)
{
	struct found *found = arg;

	if (!strncmp(link, LINK, strlen(LINK)) && found->count < 8)
		found->numbers[found->count++] = number;
}

struct taking {
	struct group *group;
	int relative;
};

static void take_member(int number, const char *link, void *arg)
{
	struct taking *t = arg;
	struct group *g = t->group;
	unsigned long inode;

	if (sscanf(link, "socket:[%lu]", &inode) != 1)
		return;
	for (int m = 0; m < g->count; m++)
		if (g->route->sockets[m] == inode && g->members[m] < 0)
			g->members[m] = take(t->relative, number);
}

/* Says how many members there are to take; returns false if the memory does not. */
static bool begin_members(struct group *g)
{
	/* Read it once: processes of other users may write to this memory, too. */
	int count = __atomic_load_n(&g->route->count, __ATOMIC_RELAXED);

	if (count < 1 || count > GROUP_MEMBERS)
		return false;
	g->count = count;
	for (int m = 0; m < g->count; m++)
		g->members[m] = -1;
	return true;
}

/* Returns whether all of the group's members could be taken and are valid. */
static bool members_valid(const struct group *g, int fd, uid_t maker)
{
	bool all = true;
	struct stat s;

	for (int m = 0; m < g->count; m++)
		if (g->members[m] < 0 || !made_by(maker, g->members[m], &s) ||
		    s.st_ino != g->route->sockets[m] ||
		    fsocket_member_port(g->members[m]) != fsocket_member_port(fd))
			all = false;
	return all;
}

static bool take_members(struct group *g, int fd, int pid, int relative)
{
	struct taking t = { .group = g, .relative = relative };

	if (!begin_members(g))
		return false;
	each_link(pid, take_member, &t);
	return members_valid(g, fd, geteuid());
}

static void give_back(struct group *g)
{
	if (g->route)
		munmap(g->route, sizeof(*g->route));
	g->route = NULL;
	fsocket_members_close(g);
}

static bool adopt_from(struct group *g, int fd, int pid)
{
	ino_t listener = fsocket_inode(fd);
	struct found found = { .count = 0 };
	int relative;

	each_link(pid, find_memory, &found);
	if (!found.count)
		return false;
	relative = RAW2(SYS_pidfd_open, pid, 0);
	for (int i = 0; i < found.count && relative >= 0 && !g->route; i++) {
		g->count = 0;
		g->memory = take(relative, found.numbers[i]);
		g->route = g->memory < 0 ? NULL : map(g->memory, listener, geteuid());
		if (!g->route || !take_members(g, fd, pid, relative))
			give_back(g);
	}
	if (relative >= 0)
		RAW2(SYS_close, relative, 0);
	return g->route;
}

static int parent_of(int pid)
{
	char text[512], *stat = fsocket_proc_stat(pid, pid, text, sizeof(text));
	int parent;

	return stat && sscanf(stat, " %*c %d", &parent) == 1 ? parent : 0;
}

static bool adopt_from_children(struct group *g, int fd, int pid)
{
	char path[64], text[4096], *at = text, *end;
	long child;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	if (fsocket_proc_read(path, text, sizeof(text)) < 0)
		return false;
	while ((child = strtol(at, &end, 10)) > 0 && end != at) {
		at = end;
		if (child != getpid() && adopt_from(g, fd, child))
			return true;
	}
	return false;
}

void fsocket_adopt_offer(ino_t listener, const int *numbers, int count)
{
	offer = (struct offer){ .listener = listener, .numbers = numbers, .count = count };
}

/*
 * These are this process's own files, whoever has made them: a server may have given up rights
 * since. No other process is asked.
 */
static bool adopt_offered(struct group *g, int fd)
{
	g->count = 0;
	g->memory = offer.numbers[0];
	g->route = map(g->memory, offer.listener, ANYBODY);
	if (!g->route || !begin_members(g)) {
		give_back(g);
		return false;
	}
	for (int i = 1; i < offer.count; i++)
		for (int m = 0; m < g->count; m++)
			if (g->route->sockets[m] == fsocket_inode(offer.numbers[i]))
				g->members[m] = offer.numbers[i];
	if (!members_valid(g, fd, ANYBODY)) {
		give_back(g);
		return false;
	}
	fsocket_fd_set(g->memory, FD_MEMBER);
	for (int m = 0; m < g->count; m++)
		fsocket_fd_set(g->members[m], FD_MEMBER);
	fsocket_route_start(g);
	return true;
}

bool fsocket_adopt(struct group *g, int fd)
{
	int ancestor = getpid();

	g->route = NULL;
	g->anonymous = false;
	if (offer.count && offer.listener == fsocket_inode(fd) && adopt_offered(g, fd))
		return true;
	if (!possible())
		return false;
	/* A master that runs its program anew has the old workers as its children. */
	if (adopt_from_children(g, fd, ancestor))
		return true;
	for (int i = 0; i < ANCESTORS; i++) {
		ancestor = parent_of(ancestor);
		if (ancestor < 1)
			return false;
		if (adopt_from(g, fd, ancestor) || (!i && adopt_from_children(g, fd, ancestor)))
			return true;
	}
	return false;
}
