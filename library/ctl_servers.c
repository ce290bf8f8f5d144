// SPDX-License-Identifier: GPL-2.0-only
/*
 * Doctor's checks of running servers: how many workers wait for connections of a
 * listening socket, and whether they are pinned. The checks read /proc only: a worker
 * is a process that has an epoll instance with the listening socket in it, and a server
 * that uses Fastsocket has the device open.
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

static void read_listeners(const char *path)
{
	char *text = ctl_read(path), *line, *rest;

	for (line = text ? strtok_r(text, "\n", &rest) : NULL; line;
	     line = strtok_r(NULL, "\n", &rest)) {
		struct listener l = { 0 };
		unsigned int state;

		if (sscanf(line, "%*d: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x %*s %*s %*s %*d %*d %lu",
			   &l.port, &state, &l.inode) != 3 || state != 0x0a)
			continue;
		listeners = ctl_alloc(listeners, (listener_count + 1) * sizeof(*listeners));
		listeners[listener_count++] = l;
	}
	free(text);
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

/* Whether at least @waiting threads of the process are pinned to one CPU each. */
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
	for (int i = 0; i < o.socket_count && o.device; i++) {
		struct listener *l = find_listener(o.sockets[i]);
		int waiting = count_waiting(pid, &o, l->inode);

		l->holders += o.epoll_count;
		l->waiting += waiting;
		if (waiting && !is_pinned(pid, waiting)) {
			l->unpinned += waiting;
			l->pid = pid;
		}
	}
	free(o.sockets);
	free(o.epolls);
	free(folder);
}

/* Calls @look with the ID of each process. */
static void each_process(void (*look)(int pid))
{
	DIR *dir = ctl_opendir("/proc");
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9')
			look(atoi(entry->d_name));
	if (dir)
		closedir(dir);
}

/* Looks at all servers, once. Returns false, after a message, if none can be judged. */
static bool look_at_servers(void)
{
	static bool looked;
	bool any = false;

	if (geteuid()) {
		doctor_skip("only root may see what other users' servers do");
		return false;
	}
	if (!looked) {
		read_listeners("/proc/net/tcp");
		read_listeners("/proc/net/tcp6");
		each_process(look_at);
		looked = true;
	}
	for (int i = 0; i < listener_count; i++)
		any |= listeners[i].waiting > 0;
	if (!any)
		doctor_skip("no server runs with Fastsocket");
	return any;
}

void doctor_workers(void)
{
	cpu_set_t online;

	ctl_cpus_online(&online);
	if (!look_at_servers() || CPU_COUNT(&online) == 1)
		return;
	for (int i = 0; i < listener_count; i++) {
		const struct listener *l = &listeners[i];
		bool alone = l->waiting == 1;

		/*
		 * A worker may wait alone because the others wait for their turn, or
		 * because each has a listening socket of its own for the port.
		 */
		alone &= l->holders == 1;
		for (int k = 0; k < listener_count; k++)
			alone &= k == i || listeners[k].port != l->port || !listeners[k].waiting;
		if (alone)
			doctor_finding("start a worker for each core (nginx: worker_processes auto; HAProxy: nbthread)",
				       "port %u is served by one worker: there is nothing to share out among %d cores",
				       l->port, CPU_COUNT(&online));
	}
}

void doctor_pinning(void)
{
	if (!look_at_servers())
		return;
	for (int i = 0; i < listener_count; i++) {
		const struct listener *l = &listeners[i];
		char comm[64];
		int pid;

		if (!l->unpinned)
			continue;
		ctl_process(l->pid, &pid, comm);
		doctor_finding("pin each to a core of its own (nginx: worker_cpu_affinity auto; taskset -cp CORE PID), or restart the server with enable_listen_spawn=2, which pins them",
			       "port %u: %d of %d workers are not pinned to a core, process %d (%s) for one",
			       l->port, l->unpinned, l->waiting, pid, comm);
	}
}

/* Returns the value of the option @name in a command line, or NULL. */
static char *option_value(const char *line, const char *name)
{
	char *words = ctl_format("%s", line), *word, *rest, *value = NULL;

	for (word = strtok_r(words, " ", &rest); word && !value; word = strtok_r(NULL, " ", &rest)) {
		if (strncmp(word, name, strlen(name)))
			continue;
		if (word[strlen(name)])
			value = ctl_format("%s", word + strlen(name));
		else if ((word = strtok_r(NULL, " ", &rest)))
			value = ctl_format("%s", word);
		else
			break;
	}
	free(words);
	return value;
}

/* Returns the path, in this mount namespace, of the configuration of the nginx master @pid. */
static char *nginx_file(int pid, const char *line)
{
	char *file = option_value(line, "-c"), *prefix = option_value(line, "-p"), *path;

	if (!file)
		path = ctl_format("/proc/%d/root/etc/nginx/nginx.conf", pid);
	else if (*file == '/')
		path = ctl_format("/proc/%d/root%s", pid, file);
	else
		path = ctl_format("/proc/%d/root%s/%s", pid, prefix ? prefix : "/usr/share/nginx", file);
	free(file);
	free(prefix);
	return path;
}

/* Whether the nginx configuration @text contains "accept_mutex on;". */
static bool has_accept_mutex(char *text)
{
	const char *name = "accept_mutex";

	for (char *at = text; (at = strchr(at, '#'));)
		while (*at && *at != '\n')
			*at++ = ' ';
	for (char *at = text; (at = strstr(at, name)); at += strlen(name)) {
		char value[4];

		if (sscanf(at + strlen(name), " %3[a-z]", value) == 1 && !strcmp(value, "on"))
			return true;
	}
	return false;
}

static void look_for_nginx(int pid)
{
	char *line = ctl_readf("/proc/%d/cmdline", pid), *path, *text;

	if (line && !strncmp(line, "nginx: master process", strlen("nginx: master process"))) {
		path = nginx_file(pid, line);
		text = ctl_read(path);
		if (!text)
			doctor_skip("nginx, process %d: %s: %s", pid, path, strerror(errno));
		else if (has_accept_mutex(text))
			doctor_finding("accept_mutex off; in the events block of its configuration, then nginx -s reload",
				       "nginx, process %d, has accept_mutex on: its workers take turns, so one core at a time accepts",
				       pid);
		free(path);
		free(text);
	}
	free(line);
}

void doctor_accept_mutex(void)
{
	each_process(look_for_nginx);
}
