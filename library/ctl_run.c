// SPDX-License-Identifier: GPL-2.0-only
/*
 * fsocketctl run executes the program in its own process, with the library preloaded. So
 * the program has the process ID that the caller knows, and nothing passes on signals or
 * the exit status. Another process, the watcher, is no child of the program; it looks
 * for the program's local listeners, or its sockets by the library's kernel backend, and
 * prints on standard error whether they appear.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "ctl.h"

/* The exit statuses that env(1) and nohup(1) use. */
#define RUN_FAILED	125
#define RUN_NOT_RUNNABLE 126
#define RUN_NOT_FOUND	127

/*
 * The time limits until the first local listener of the program, and for the processes
 * that it leaves in the background after it has ended.
 */
#define WATCH_MS	5000
#define BACKGROUND_MS	2000
#define LOOK_MS		250
/* After this many looks without a new local listener the watcher expects no more. */
#define CALM_LOOKS	4

/* Debian's folder below /usr/lib for this architecture; the Makefile asks the compiler. */
#ifndef MULTIARCH
#define MULTIARCH	"."
#endif

static char *library_path(void)
{
	static const char *const places[] = { "libfsocket.so", "../lib/libfsocket.so",
					      "../lib/" MULTIARCH "/libfsocket.so" };
	char self[PATH_MAX], *path;
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (length < 0)
		ctl_fail(RUN_FAILED, "/proc/self/exe: %s", strerror(errno));
	self[length] = '\0';
	*strrchr(self, '/') = '\0';
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		path = ctl_format("%s/%s", self, places[i]);
		if (!access(path, R_OK)) {
			char *real = realpath(path, NULL);

			if (!real)
				ctl_fail(RUN_FAILED, "%s: %s", path, strerror(errno));
			return real;
		}
		free(path);
	}
	ctl_fail(RUN_FAILED, "libfsocket.so is neither in %s nor in %s/../lib: install it with: make -C library install, or the package libfsocket",
		 self, self);
}

/*
 * Returns when the thread started, in ticks since boot (field 22 of /proc/TID/stat), or 0 if
 * it has ended.
 */
static unsigned long long start_time(int tid)
{
	char *stat = ctl_readf("/proc/%d/stat", tid), *at;
	unsigned long long started = 0;

	/* Field 2, the command name in parentheses, may contain blanks and parentheses. */
	at = stat ? strrchr(stat, ')') : NULL;
	for (int field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	if (at)
		started = strtoull(at, NULL, 10);
	free(stat);
	return started;
}

/*
 * Returns how many local listeners belong to threads that have started since @since, and
 * stores in @cores on how many cores they are.
 */
static int spawned_since(unsigned long long since, int *cores)
{
	struct listener_row *rows;
	int count, spawned = 0;
	cpu_set_t seen;

	CPU_ZERO(&seen);
	rows = module_listeners(&count);
	for (int i = 0; i < count; i++) {
		if (rows[i].worker && rows[i].attached && start_time(rows[i].worker) >= since) {
			spawned++;
			CPU_SET(rows[i].cpu % CPU_SETSIZE, &seen);
		}
	}
	free(rows);
	*cores = CPU_COUNT(&seen);
	return spawned;
}

static unsigned long long program_start;

static bool is_new(int pid)
{
	return start_time(pid) >= program_start;
}

/*
 * Does the same for the kernel backend: counts workers that have a socket of their own,
 * and stores in @coming how many have none, and in @most how many workers a listener has at most.
 * Workers have none until there are two.
 */
static int sockets_since(unsigned long long since, int *cores, int *coming, int *most)
{
	struct group_seen *groups;
	int count, found = 0;
	cpu_set_t seen;

	CPU_ZERO(&seen);
	*coming = 0;
	*most = 0;
	program_start = since;
	groups = groups_of(is_new, &count);
	for (int i = 0; i < count; i++) {
		int attached = group_attached(&groups[i]), workers = group_workers(&groups[i]);

		found += attached;
		*coming += workers - attached;
		if (workers > *most)
			*most = workers;
		for (int k = 0; k < groups[i].worker_count; k++)
			if (groups[i].workers[k].attached)
				CPU_SET(groups[i].workers[k].cpu, &seen);
	}
	groups_free(groups, count);
	*cores = CPU_COUNT(&seen);
	return found;
}

static void say(bool effect, int listeners, int cores, const char *text)
{
	struct json j = { .out = stderr };

	if (ctl_json) {
		json_open(&j, NULL, '{');
		json_bool(&j, "effect", effect);
		json_integer(&j, "listeners", listeners);
		json_integer(&j, "cores", cores);
		json_string(&j, "text", text);
		json_close(&j, '}', true);
	} else {
		fprintf(stderr, "fsocketctl: %s\n", text);
	}
}

static bool library_mapped(int pid)
{
	char *maps = ctl_readf("/proc/%d/maps", pid);
	bool mapped = !maps || strstr(maps, "/libfsocket.so");

	free(maps);
	return mapped;
}

static bool is_pipe(int fd)
{
	struct stat stat;

	return !fstat(fd, &stat) && S_ISFIFO(stat.st_mode);
}

/*
 * Returns whether the kernel makes orphans children of this process: it is process 1,
 * for instance of a container, or a subreaper. The watcher would then be a child of the
 * program.
 */
static bool inherits_orphans(void)
{
	int subreaper = 0;

	return getpid() == 1 || (!prctl(PR_GET_CHILD_SUBREAPER, &subreaper) && subreaper);
}

/* The result of the watcher. */
struct found {
	bool kernel;		/* through the kernel backend, not the module */
	int listeners, cores;
	int coming;		/* by the kernel backend: workers without a socket of their own */
	int most;		/* and the workers of the listener that has most */
	bool ended, mapped;	/* the program has ended, and had loaded the library */
};

static char *plural(int count, const char *what)
{
	return ctl_format("%d %s%s", count, what, count == 1 ? "" : "s");
}

static void say_effect(const struct found *f)
{
	char *text = ctl_format("Fastsocket is in effect%s: %s on %s%s",
				f->kernel ? " by the kernel backend" : "",
				plural(f->listeners, f->kernel ? "socket" : "local listener"),
				plural(f->cores, "core"),
				f->coming ? ctl_format("; %s without one yet, until connections come",
						       plural(f->coming, "worker")) : "");

	say(true, f->listeners, f->cores, text);
}

static void say_verdict(const struct found *f)
{
	if (f->listeners)
		say_effect(f);
	else if (!f->mapped)
		say(false, 0, 0, f->ended ? "no effect: the program did not load the library: it is static, or set-user-ID" :
		    ctl_format("no effect within %d s: the program has not loaded the library: it is static, or set-user-ID, or slow to start",
			       WATCH_MS / 1000));
	else if (f->most > 1)
		say(false, 0, 0, ctl_format("no effect within %d s: %d workers wait for a listener, and none has a socket of its own: these come with connections, if the program accepts by a function of the C library",
					    WATCH_MS / 1000, f->most));
	else if (f->coming)
		say(false, 0, 0, "no effect: one worker waits for connections, and the kernel backend begins with the second");
	else if (f->ended)
		say(false, 0, 0, f->kernel ? "no effect: the program ended without a listener that two workers wait for" :
			    "no effect: the program ended without a local listener");
	else if (f->kernel)
		say(false, 0, 0, ctl_format("no effect within %d s: no worker waits with epoll for a listener that can have a group; libfsocket(7) says which can, and fsocketctl listeners whether one does later",
					    WATCH_MS / 1000));
	else
		say(false, 0, 0,
		    ctl_format("no effect within %d s: no worker has spawned a local listener; fsocketctl doctor and the kernel log may say why, and fsocketctl listeners whether one does later",
			       WATCH_MS / 1000));
}

/* Watches the program @pid; @pidfd becomes readable when it ends. */
static void watch_program(int pid, int pidfd, unsigned long long since, bool kernel)
{
	struct pollfd end = { .fd = pidfd, .events = POLLIN };
	struct found f = { .kernel = kernel, .mapped = true };
	long until = fsocket_now_ms() + WATCH_MS;
	int before, calm = 0;

	/* Compare the clock: on a busy host a look takes time. */
	while (fsocket_now_ms() < until) {
		struct timespec pause = { .tv_nsec = LOOK_MS * 1000000L };

		nanosleep(&pause, NULL);
		before = f.listeners;
		f.listeners = kernel ? sockets_since(since, &f.cores, &f.coming, &f.most) :
				       spawned_since(since, &f.cores);
		calm = f.listeners == before ? calm + 1 : 0;
		if (f.listeners && calm == CALM_LOOKS)
			break;
		if (end.fd >= 0 && poll(&end, 1, 0) > 0) {
			end.fd = -1;
			f.ended = true;
			/* A reader waiting for EOF on that pipe must not wait for the watcher. */
			if (is_pipe(STDERR_FILENO))
				break;
			if (until > fsocket_now_ms() + BACKGROUND_MS)
				until = fsocket_now_ms() + BACKGROUND_MS;
		}
		if (end.fd >= 0)
			f.mapped = library_mapped(pid);
	}
	say_verdict(&f);
}

/*
 * Starts the watcher of this process, which will execute the program. The watcher is a
 * child of init, so the program has no child that it did not create. It begins to watch
 * when the returned descriptor is closed, and exits if a byte is written to it, which
 * says that the program could not be executed.
 */
static int start_watching(bool kernel)
{
	unsigned long long since = start_time(getpid());
	int pid = getpid(), pidfd = syscall(SYS_pidfd_open, pid, 0), child, go[2];
	char byte;

	if (pidfd < 0 || pipe2(go, O_CLOEXEC))
		ctl_fail(RUN_FAILED, "watching the program: %s", strerror(errno));
	child = fork();
	if (child < 0)
		ctl_fail(RUN_FAILED, "fork: %s", strerror(errno));
	if (child) {
		waitpid(child, NULL, 0);
		close(pidfd);
		close(go[0]);
		return go[1];
	}
	if (fork())
		_exit(0);
	/*
	 * Close inherited descriptors: a reader waiting for EOF on the program's pipes must not
	 * wait for the watcher.
	 */
	dup2(go[0], STDIN_FILENO);
	dup2(pidfd, STDOUT_FILENO);
	close_range(STDERR_FILENO + 1, ~0U, 0);
	if (!read(STDIN_FILENO, &byte, 1))
		watch_program(pid, STDOUT_FILENO, since, kernel);
	_exit(0);
}

static void preload(void)
{
	const char *others = getenv("LD_PRELOAD");
	char *library = library_path();

	/* LD_PRELOAD is separated by blanks and colons, see ld.so(8). */
	if (strpbrk(library, " :"))
		ctl_fail(RUN_FAILED, "the path of libfsocket.so has a blank or a colon, which LD_PRELOAD cannot hold");
	/* This comes last: the library of a sanitizer ends the program if it is not the first. */
	if (setenv("LD_PRELOAD", others && *others ? ctl_format("%s:%s", others, library) : library, 1))
		ctl_fail(RUN_FAILED, "LD_PRELOAD: %s", strerror(errno));
}

/* The library decides by the same variable: fsocket_kernel_chosen(). */
static bool kernel_backend(void)
{
	const char *backend = getenv("FSOCKET_BACKEND");

	return backend && (!strcmp(backend, "kernel") ||
			   (!strcmp(backend, "auto") && access("/dev/fastsocket", R_OK)));
}

void ctl_run_backend(const char *backend)
{
	if (strcmp(backend, "auto") && strcmp(backend, "module") && strcmp(backend, "kernel"))
		ctl_fail(CTL_USAGE, "--backend=%s: no such backend: give auto, module or kernel",
			 backend);
	if (setenv("FSOCKET_BACKEND", backend, 1))
		ctl_fail(RUN_FAILED, "FSOCKET_BACKEND: %s", strerror(errno));
}

/* Returns whether there is something to watch; if not, says why. */
static bool to_be_watched(bool kernel)
{
	char *mode = ctl_read("/sys/module/fastsocket/parameters/enable_listen_spawn");
	bool watched = false;

	if (!kernel && (!module_loaded() || !mode))
		say(false, 0, 0, "no effect: " MODULE_MISSING ", or do without: fsocketctl run --backend=kernel");
	else if (!kernel && !strcmp(mode, "0"))
		say(false, 0, 0, "no effect: local listeners are switched off: fsocketctl set enable_listen_spawn=2");
	else if (inherits_orphans())
		say(false, 0, 0, "the program is not watched, as it would get the watching process as a child: fsocketctl listeners tells whether there is an effect");
	else
		watched = true;
	free(mode);
	return watched;
}

int ctl_run(char **argv)
{
	bool kernel = kernel_backend();
	int watcher = -1, error;

	if (!argv[0])
		ctl_fail(CTL_USAGE, "run needs the program to run");
	preload();
	if (to_be_watched(kernel))
		watcher = start_watching(kernel);
	execvp(argv[0], argv);
	error = errno;
	if (watcher >= 0 && write(watcher, "", 1) < 0)
		error = errno;
	ctl_fail(error == ENOENT ? RUN_NOT_FOUND : RUN_NOT_RUNNABLE, "%s: %s", argv[0],
		 strerror(error));
}
