// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finds what the library has made without the module. The kernel does not show whether
 * the library or the program itself has made a group. But the processes of a server
 * share memory that says which workers wait (route.h), and fsocketctl reads it there.
 * The server owns this memory and may run as any user, so fsocketctl believes nothing
 * in it that the kernel does not confirm, and checks every index.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "clock.h"
#include "ctl.h"
#include "route.h"

/* Memory that may belong to one group, and the processes that have it mapped. */
struct memory {
	unsigned long inode;
	int *pids, pid_count;
	struct route *route;	/* a copy; NULL if no process lets it be read */
};

_Static_assert(GROUP_SOCKETS == GROUP_MEMBERS, "doctor says how many there can be");

static struct memory *memories;
static int memory_count;
static const struct listening *sockets;
static int socket_count;
static bool (*wanted_process)(int pid);

/*
 * Returns the device of the kernel's nameless shared memory: a process can give a file
 * any name, but cannot make one on that device.
 */
static dev_t shared_device(void)
{
	static dev_t device;
	struct stat s;
	int fd;

	if (device)
		return device;
	/* Kernels from 6.3 on know this flag, and warn if it is missing. */
	fd = memfd_create("fsocketctl", MFD_CLOEXEC | 8 /* MFD_NOEXEC_SEAL */);
	if (fd < 0)
		fd = memfd_create("fsocketctl", MFD_CLOEXEC);
	if (fd < 0 || fstat(fd, &s))
		ctl_fail(CTL_FAILED, "memfd_create: %s", strerror(errno));
	close(fd);
	device = s.st_dev;
	return device;
}

/* Returns the size of the mapping, which begins and ends with a page. */
static unsigned long route_room(void)
{
	unsigned long page = sysconf(_SC_PAGESIZE);

	return (sizeof(struct route) + page - 1) / page * page;
}

static struct route *read_route(int pid, unsigned long start)
{
	struct route *r = ctl_alloc(NULL, sizeof(*r));
	char *path = ctl_format("/proc/%d/mem", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool known = fd >= 0 && pread(fd, r, sizeof(*r), start) == sizeof(*r) &&
		     r->magic == ROUTE_MAGIC && r->count >= 0 && r->count <= GROUP_MEMBERS &&
		     r->end >= 0 && r->end <= GROUP_CLAIMS && late_allowed(r->late);

	if (fd >= 0)
		close(fd);
	free(path);
	if (known)
		return r;
	free(r);
	return NULL;
}

static void note_memory(int pid, unsigned long start, unsigned long inode)
{
	struct memory *m = memories;

	while (m < memories + memory_count && m->inode != inode)
		m++;
	if (m == memories + memory_count) {
		memories = ctl_alloc(memories, (memory_count + 1) * sizeof(*memories));
		m = &memories[memory_count++];
		*m = (struct memory){ .inode = inode };
	}
	for (int i = 0; i < m->pid_count; i++)
		if (m->pids[i] == pid)
			return;
	m->pids = ctl_alloc(m->pids, (m->pid_count + 1) * sizeof(*m->pids));
	m->pids[m->pid_count++] = pid;
	if (!m->route)
		m->route = read_route(pid, start);
}

static void look_for_memory(int pid)
{
	char *text, *line, *rest;

	if (wanted_process && !wanted_process(pid))
		return;
	text = ctl_readf("/proc/%d/maps", pid);
	for (line = text ? strtok_r(text, "\n", &rest) : NULL; line;
	     line = strtok_r(NULL, "\n", &rest)) {
		unsigned long start, end, inode;
		unsigned int major, minor;

		if (sscanf(line, "%lx-%lx rw-s %*s %x:%x %lu", &start, &end, &major, &minor,
			   &inode) == 5 && end - start == route_room() &&
		    makedev(major, minor) == shared_device())
			note_memory(pid, start, inode);
	}
	free(text);
}

static const struct listening *find_socket(unsigned long inode)
{
	for (int i = 0; inode && i < socket_count; i++)
		if (sockets[i].inode == inode)
			return &sockets[i];
	return NULL;
}

static bool has_socket(int pid, unsigned long inode)
{
	char *folder = ctl_format("/proc/%d/fd", pid), *wanted = ctl_format("socket:[%lu]", inode);
	DIR *dir = ctl_opendir(folder);
	struct dirent *entry;
	bool has = false;

	while (dir && !has && (entry = readdir(dir))) {
		char target[64];
		ssize_t length = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

		target[length < 0 ? 0 : length] = '\0';
		has = !strcmp(target, wanted);
	}
	if (dir)
		closedir(dir);
	free(folder);
	free(wanted);
	return has;
}

/* Returns the last number after @name in the status of a thread: the one of its own namespace. */
static int innermost(const char *status, const char *name)
{
	const char *at = status ? strstr(status, name) : NULL;
	int number = 0;

	for (at = at ? at + strlen(name) : NULL; at && *at && *at != '\n'; at += strcspn(at, " \t\n")) {
		at += strspn(at, " \t");
		if (*at >= '0' && *at <= '9')
			number = atoi(at);
	}
	return number;
}

/* Returns the worker's thread ID in this PID namespace; its process may be in a container. */
static int thread_of(const struct memory *m, int pid, int tid)
{
	int found = 0;

	for (int i = 0; i < m->pid_count && !found; i++) {
		char *path = ctl_format("/proc/%d/task", m->pids[i]);
		DIR *dir = ctl_opendir(path);
		struct dirent *entry;

		while (dir && !found && (entry = readdir(dir))) {
			char *status;

			if (entry->d_name[0] == '.')
				continue;
			status = ctl_readf("%s/%s/status", path, entry->d_name);
			if (innermost(status, "\nNStgid:") == pid &&
			    innermost(status, "\nNSpid:") == tid)
				found = atoi(entry->d_name);
			free(status);
		}
		if (dir)
			closedir(dir);
		free(path);
	}
	return found;
}

static void add_worker(struct group_seen *g, const struct memory *m, int slot)
{
	const struct claim *c = &m->route->claims[slot];
	const struct listening *socket = NULL;
	struct group_worker *w;
	char comm[64];
	cpu_set_t set;

	g->workers = ctl_alloc(g->workers, (g->worker_count + 1) * sizeof(*g->workers));
	w = &g->workers[g->worker_count++];
	*w = (struct group_worker){ .slot = slot, .cpu = -1 };
	if (c->member >= 0 && c->member < m->route->count)
		socket = find_socket(m->route->sockets[c->member]);
	if (socket && c->cpu >= 0 && c->cpu < CPU_SETSIZE) {
		w->cpu = c->cpu;
		w->inode = socket->inode;
		w->queued = socket->queued;
		w->limit = socket->limit;
		/* A stamp in the future comes from another time namespace. */
		w->attached = c->ready && fsocket_now_ms() - c->stamp < STALE(m->route);
	}
	w->tid = thread_of(m, c->pid, c->tid);
	if (w->tid)
		ctl_process(w->tid, &w->pid, comm);
	w->pinned = w->tid && !sched_getaffinity(w->tid, sizeof(set), &set) && CPU_COUNT(&set) == 1;
}

static void add_idle(struct group_seen *g, const struct route *r)
{
	for (int m = 0; m < r->count; m++) {
		const struct listening *socket = find_socket(r->sockets[m]);
		bool used = false;

		for (int i = 0; i < g->worker_count; i++)
			used |= g->workers[i].inode == r->sockets[m];
		if (!socket || used)
			continue;
		g->idle = ctl_alloc(g->idle, (g->idle_count + 1) * sizeof(*g->idle));
		g->idle[g->idle_count++] = *socket;
	}
}

static int by_cpu(const void *a, const void *b)
{
	const struct group_worker *x = a, *y = b;

	return x->cpu != y->cpu ? x->cpu - y->cpu : x->slot - y->slot;
}

static void fill(struct group_seen *g, const struct memory *m, const struct listening *listener)
{
	const struct route *r = m->route;

	*g = (struct group_seen){ .listener = *listener, .sockets = r->count, .slots = r->end };
	g->accepted = ctl_alloc(NULL, (r->end + 1) * sizeof(*g->accepted));
	for (int i = 0; i < r->end; i++) {
		const struct claim *c = &r->claims[i];

		g->accepted[i] = (struct slot_seen){
			.cpu = c->cpu,
			.by = { [GROUP_OWN] = c->own, [GROUP_SHARED] = c->shared,
				[GROUP_OTHERS] = c->others },
		};
		if (c->owner)
			add_worker(g, m, i);
	}
	if (g->worker_count)
		qsort(g->workers, g->worker_count, sizeof(*g->workers), by_cpu);
	add_idle(g, r);
}

static int by_place(const void *a, const void *b)
{
	const struct listening *x = &((const struct group_seen *)a)->listener;
	const struct listening *y = &((const struct group_seen *)b)->listener;

	if (x->port != y->port)
		return x->port < y->port ? -1 : 1;
	return (x->inode > y->inode) - (x->inode < y->inode);
}

static void forget_memories(void)
{
	for (int i = 0; i < memory_count; i++) {
		free(memories[i].pids);
		free(memories[i].route);
	}
	memory_count = 0;
}

static bool any_route(void)
{
	bool any = false;

	for (int i = 0; i < memory_count; i++)
		any |= memories[i].route != NULL;
	return any;
}

struct group_seen *groups_of(bool (*wanted)(int pid), int *count)
{
	struct group_seen *groups = NULL;

	*count = 0;
	wanted_process = wanted;
	forget_memories();
	ctl_each_process(look_for_memory);
	/* Without this check, the request would load a module of the kernel. */
	if (any_route())
		sockets = ctl_listening(&socket_count);
	for (int i = 0; i < memory_count; i++) {
		const struct memory *m = &memories[i];
		const struct listening *listener = m->route ? find_socket(m->route->inode) : NULL;
		bool held = false;

		for (int k = 0; listener && k < m->pid_count && !held; k++)
			held = has_socket(m->pids[k], listener->inode);
		if (!held)
			continue;
		groups = ctl_alloc(groups, (*count + 1) * sizeof(*groups));
		fill(&groups[(*count)++], m, listener);
	}
	if (*count)
		qsort(groups, *count, sizeof(*groups), by_place);
	return groups;
}

struct group_seen *groups_seen(int *count)
{
	return groups_of(NULL, count);
}

void groups_free(struct group_seen *groups, int count)
{
	for (int i = 0; i < count; i++) {
		free(groups[i].workers);
		free(groups[i].idle);
		free(groups[i].accepted);
	}
	free(groups);
}

int group_workers(const struct group_seen *g)
{
	int count = 0;

	for (int i = 0; i < g->worker_count; i++)
		count += g->workers[i].tid != 0;
	return count;
}

int group_attached(const struct group_seen *g)
{
	int count = 0;

	for (int i = 0; i < g->worker_count; i++)
		count += g->workers[i].attached;
	return count;
}
