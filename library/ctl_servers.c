// SPDX-License-Identifier: GPL-2.0-only
/*
 * Doctor's checks of running servers: how many workers wait for connections of a
 * listening socket, and whether they are pinned. The checks only read /proc, besides
 * what ctl_sockets.c asks for: a worker is a process that has an epoll instance with the
 * listening socket in it, and a server that uses Fastsocket has the device open, or is
 * known to ctl_groups.c.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

struct listener {
	unsigned long inode;
	unsigned int port;
	int holders;	/* epoll instances of processes that have the socket open */
	int waiting;	/* epoll instances with the socket in them */
	int unpinned;	/* of these */
	int pid;	/* of an unpinned one, if there is any */
	int worker;	/* a process in which one waits */
	bool group;	/* by the kernel backend */
};

/* The open files of a process that matter here. */
struct opened {
	bool device;
	unsigned long *sockets;
	int *epolls;
	int socket_count, epoll_count;
};

static struct listener *listeners;
static int listener_count;
static struct group_seen *groups;
static int group_count;

static void read_listeners(void)
{
	const struct listening *seen = ctl_listening(&listener_count);

	listeners = ctl_alloc(NULL, (listener_count + 1) * sizeof(*listeners));
	for (int i = 0; i < listener_count; i++)
		listeners[i] = (struct listener){ .inode = seen[i].inode, .port = seen[i].port };
}

static struct listener *find_listener(unsigned long inode)
{
	for (int i = 0; i < listener_count; i++)
		if (listeners[i].inode == inode)
			return &listeners[i];
	return NULL;
}

static void note_fd(struct opened *o, const char *folder, const char *fd)
{
	char *path = ctl_format("%s/%s", folder, fd), target[64];
	ssize_t length = readlink(path, target, sizeof(target) - 1);
	unsigned long inode;

	free(path);
	if (length < 0)
		return;
	target[length] = '\0';
	if (!strcmp(target, "/dev/fastsocket")) {
		o->device = true;
	} else if (!strcmp(target, "anon_inode:[eventpoll]")) {
		o->epolls = ctl_alloc(o->epolls, (o->epoll_count + 1) * sizeof(*o->epolls));
		o->epolls[o->epoll_count++] = atoi(fd);
	} else if (sscanf(target, "socket:[%lu]", &inode) == 1 && find_listener(inode)) {
		o->sockets = ctl_alloc(o->sockets, (o->socket_count + 1) * sizeof(*o->sockets));
		o->sockets[o->socket_count++] = inode;
	}
}

/* Returns whether at least @waiting threads of the process are pinned to one CPU each. */
static bool is_pinned(int pid, int waiting)
{
	char *path = ctl_format("/proc/%d/task", pid);
	DIR *dir = ctl_opendir(path);
	struct dirent *entry;
	int pinned = 0;

	while (dir && (entry = readdir(dir))) {
		cpu_set_t set;

		if (entry->d_name[0] != '.' &&
		    !sched_getaffinity(atoi(entry->d_name), sizeof(set), &set))
			pinned += CPU_COUNT(&set) == 1;
	}
	free(path);
	/* A process that has ended meanwhile is no finding. */
	if (!dir)
		return true;
	closedir(dir);
	return pinned >= waiting;
}

/* Returns how many epoll instances of the process have the socket in them. */
static int count_waiting(int pid, const struct opened *o, unsigned long inode)
{
	char *entry = ctl_format(" ino:%lx ", inode);
	int waiting = 0;

	for (int i = 0; i < o->epoll_count; i++) {
		char *info = ctl_readf("/proc/%d/fdinfo/%d", pid, o->epolls[i]);

		waiting += info && strstr(info, entry);
		free(info);
	}
	free(entry);
	return waiting;
}

static void look_at(int pid)
{
	char *folder = ctl_format("/proc/%d/fd", pid);
	DIR *dir = ctl_opendir(folder);
	struct opened o = { 0 };
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			note_fd(&o, folder, entry->d_name);
	if (dir)
		closedir(dir);
	for (int i = 0; i < o.socket_count; i++) {
		struct listener *l = find_listener(o.sockets[i]);
		int waiting;

		if (!o.device && !l->group)
			continue;
		waiting = count_waiting(pid, &o, l->inode);
		l->holders += o.epoll_count;
		l->waiting += waiting;
		if (waiting)
			l->worker = pid;
		if (waiting && !l->group && !is_pinned(pid, waiting)) {
			l->unpinned += waiting;
			l->pid = pid;
		}
	}
	free(o.sockets);
	free(o.epolls);
	free(folder);
}

/* The library decides by itself which workers of its kernel backend are pinned by now. */
static void note_groups(void)
{
	doctor_groups(&group_count);
	for (int i = 0; i < group_count; i++) {
		const struct group_seen *g = &groups[i];
		struct listener *l = find_listener(g->listener.inode);

		for (int k = 0; l && k < g->worker_count; k++) {
			const struct group_worker *w = &g->workers[k];

			l->group = true;
			if (!w->tid || !w->attached || w->pinned)
				continue;
			l->unpinned++;
			l->pid = w->pid;
		}
	}
}

const struct group_seen *doctor_groups(int *count)
{
	static bool looked;

	if (!looked)
		groups = groups_seen(&group_count);
	looked = true;
	*count = group_count;
	return groups;
}

bool doctor_look_at_servers(void)
{
	static bool looked;
	bool any = false;

	if (geteuid()) {
		doctor_skip("only root may see what other users' servers do");
		return false;
	}
	if (!looked) {
		read_listeners();
		note_groups();
		ctl_each_process(look_at);
		looked = true;
	}
	for (int i = 0; i < listener_count; i++)
		any |= listeners[i].waiting > 0;
	if (!any)
		doctor_skip("no server runs with Fastsocket");
	return any;
}

/* The module's local listeners; none if it is not loaded, or too old to show them. */
static const struct listener_row *module_rows(int *count)
{
	static struct listener_row *rows;
	static int row_count;

	if (!rows && module_loaded() && !access("/proc/net/fastsocket_listeners", R_OK))
		rows = module_listeners(&row_count);
	*count = row_count;
	return rows;
}

/* Stores in @set the CPUs of the workers of one listening socket, or with 0 of all of them. */
static int worker_cpus(unsigned long inode, cpu_set_t *set)
{
	const struct listener_row *rows;
	int count, found = 0;

	rows = module_rows(&count);
	for (int i = 0; i < count; i++) {
		if ((inode && rows[i].inode != inode) || rows[i].cpu < 0 || !rows[i].attached ||
		    rows[i].host >= 0)
			continue;
		CPU_SET(rows[i].cpu, set);
		found++;
	}
	doctor_groups(&count);
	for (int i = 0; i < count; i++)
		for (int k = 0; k < groups[i].worker_count; k++) {
			const struct group_worker *w = &groups[i].workers[k];

			if ((inode && groups[i].listener.inode != inode) || w->cpu < 0 || !w->tid)
				continue;
			CPU_SET(w->cpu, set);
			found++;
		}
	return found;
}

void doctor_worker_cpus(cpu_set_t *set)
{
	cpu_set_t online;

	CPU_ZERO(set);
	worker_cpus(0, set);
	/* The kernel backend's memory belongs to the server, which may have written anything. */
	ctl_cpus_online(&online);
	CPU_AND(set, set, &online);
}

bool doctor_worker_cpus_known(void)
{
	bool known = true;
	cpu_set_t set;

	CPU_ZERO(&set);
	/* Where workers take turns, not all of them wait, and some may not be seen yet. */
	for (int i = 0; i < listener_count; i++)
		known &= !listeners[i].waiting || (listeners[i].waiting == listeners[i].holders &&
			 worker_cpus(listeners[i].inode, &set) >= listeners[i].waiting);
	return known;
}

/* Returns whether a single worker is the only one that serves the port of @l. */
static bool is_alone(const struct listener *l)
{
	/*
	 * If workers take turns, only one of them waits at a time; and some servers
	 * have several sockets at a port, one for each worker.
	 */
	bool alone = l->waiting == 1 && l->holders == 1;

	for (int i = 0; i < listener_count; i++)
		alone &= &listeners[i] == l || listeners[i].port != l->port ||
			 !listeners[i].waiting;
	return alone;
}

void doctor_workers(void)
{
	int queues = doctor_receive_queues();
	cpu_set_t online;

	ctl_cpus_online(&online);
	if (!doctor_look_at_servers() || CPU_COUNT(&online) == 1)
		return;
	for (int i = 0; i < listener_count; i++) {
		const struct listener *l = &listeners[i];

		if (is_alone(l))
			doctor_finding("start a worker for each core (nginx: worker_processes auto; HAProxy: nbthread)",
				       "port %u is served by one worker: there is nothing to share out among %d cores",
				       l->port, CPU_COUNT(&online));
		else if (l->waiting > 1 && l->waiting == l->holders && l->waiting < queues)
			doctor_finding("start a worker for each core that receives packets, let as many cores receive them as there are workers (ethtool -L), or see the item delivery",
				       "port %u has %d workers, and %d cores receive packets: connections of the other cores are served elsewhere",
				       l->port, l->waiting, queues);
	}
}

void doctor_pinning(void)
{
	if (!doctor_look_at_servers())
		return;
	for (int i = 0; i < listener_count; i++) {
		const struct listener *l = &listeners[i];
		char comm[64];
		int pid;

		if (!l->unpinned)
			continue;
		ctl_process(l->pid, &pid, comm);
		doctor_finding(l->group ? "taskset -cp CORE PID, with the cores that fsocketctl listeners shows; the library has pinned them, and leaves alone what something else has set since" :
			       "pin each to a core of its own (nginx: worker_cpu_affinity auto; taskset -cp CORE PID), or restart the server with enable_listen_spawn=2, which pins them",
			       "port %u: %d of %d workers are not pinned to a core, process %d (%s) for one",
			       l->port, l->unpinned, l->waiting, pid, comm);
	}
}

/* A group has a socket for each core, and so for each worker, unless making one failed. */
void doctor_sockets(void)
{
	const struct group_seen *seen;
	cpu_set_t online;
	int count, cores;

	ctl_cpus_online(&online);
	cores = CPU_COUNT(&online);
	seen = doctor_groups(&count);
	for (int i = 0; i < count; i++)
		if (seen[i].sockets < cores && seen[i].sockets < GROUP_SOCKETS)
			doctor_finding("let the program use all cores when it starts (AllowedCPUs=, taskset), and raise its limit of open files (LimitNOFILE=, ulimit -n), of which the library takes an eighth at most; then restart it",
				       "port %u: the kernel backend has made %d socket%s for %d cores",
				       seen[i].listener.port, seen[i].sockets,
				       seen[i].sockets == 1 ? "" : "s", cores);
}

void doctor_migrate(void)
{
	char *value;
	int count;

	doctor_groups(&count);
	value = count ? ctl_read("/proc/sys/net/ipv4/tcp_migrate_req") : NULL;
	if (value && !strcmp(value, "0"))
		doctor_finding("sysctl -w net.ipv4.tcp_migrate_req=1",
			       "net.ipv4.tcp_migrate_req is 0: when a server of the kernel backend ends while something else has its listener (a socket unit), connections that wait are lost; those of one worker that ends are not");
	free(value);
}

/* The folder of the process's control group below the root group; NULL if it cannot be found. */
static char *control_group(int pid)
{
	char *text = ctl_readf("/proc/%d/cgroup", pid), *line, *rest, *path = NULL;

	for (line = text ? strtok_r(text, "\n", &rest) : NULL; line && !path;
	     line = strtok_r(NULL, "\n", &rest))
		if (!strncmp(line, "0::/", 4))
			path = ctl_format("/sys/fs/cgroup/%s", line + 4);
	free(text);
	return path;
}

/*
 * Returns the setting of the group at @path, or of a group above, that keeps it from
 * using all cores.
 */
static void look_at_group(char *path, const struct listener *l, int cores)
{
	char *cpus = ctl_readf("%s/cpuset.cpus.effective", path);
	cpu_set_t set;

	if (cpus) {
		ctl_cpu_list(&set, cpus);
		if (CPU_COUNT(&set) < cores)
			doctor_finding("systemctl set-property UNIT AllowedCPUs=, or let only these cores receive packets",
				       "port %u: the control group of process %d may use %d of %d cores",
				       l->port, l->worker, CPU_COUNT(&set), cores);
		free(cpus);
	}
	for (char *end; (end = strrchr(path, '/')) && strcmp(path, "/sys/fs/cgroup"); *end = '\0') {
		char *max = ctl_readf("%s/cpu.max", path);
		double quota, period;

		if (max && sscanf(max, "%lf %lf", &quota, &period) == 2 && quota < period * cores)
			doctor_finding("systemctl set-property UNIT CPUQuota=",
				       "port %u: the control group of process %d may use the time of %.1f of %d cores: a worker that has used it up waits, and so do its connections",
				       l->port, l->worker, quota / period, cores);
		free(max);
	}
}

void doctor_cpus(void)
{
	cpu_set_t online;

	if (!doctor_look_at_servers())
		return;
	ctl_cpus_online(&online);
	for (int i = 0; i < listener_count; i++) {
		const struct listener *l = &listeners[i];
		char *path = l->waiting ? control_group(l->worker) : NULL;

		if (path)
			look_at_group(path, l, CPU_COUNT(&online));
		free(path);
	}
}
