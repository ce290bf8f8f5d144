// SPDX-License-Identifier: GPL-2.0-only
/*
 * A server that runs its program again in the same process, with its listener, keeps the
 * listener's group. uWSGI does this at a reload, after all its workers have ended, so that no
 * other process has the members, and what waits there would be lost.
 *
 * The library keeps the group's descriptors open while the program is run, and tells the
 * new program's library their numbers by an environment variable. That one closes them when
 * programs are run, as before, adopts the group (adopt.c), and removes the variable, before
 * the new program's main().
 *
 * No other program may get these descriptors. So the library keeps them only for the program
 * that this process runs already (/proc/self/exe), with an environment that preloads the
 * library into it, and only while there is no other thread, which could run another program
 * at this moment.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend.h"
#include "device.h"
#include "epoll.h"
#include "fds.h"
#include "listener.h"
#include "memory.h"
#include "process.h"
#include "real.h"

/* The process's number, then for each group " LISTENER=MEMORY,MEMBER,MEMBER". */
#define VARIABLE	"FSOCKET_KEPT"
#define ROOM		4096
#define PATH_ROOM	512
/* An environment with more variables is passed on as it is. */
#define MOST_VARIABLES	4096

struct text {
	char bytes[ROOM];
	int length;
	bool full;
};

__attribute__((format(printf, 2, 3)))
static void add(struct text *t, const char *format, ...)
{
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(t->bytes + t->length, ROOM - t->length, format, arguments);
	va_end(arguments);
	if (length < 0 || length >= ROOM - t->length)
		t->full = true;
	else
		t->length += length;
}

static void add_group(const struct group *g, int listener, void *arg)
{
	struct text *t = arg;

	/*
	 * A group that is not complete cannot be adopted, and numbers that the program has closed
	 * without the library, as a child of vfork() does, may be other files.
	 */
	if (!fsocket_memory_there(g))
		return;
	for (int m = 0; m < g->count; m++)
		if (!fsocket_member_there(g, m))
			return;
	add(t, " %d=%d", listener, g->memory);
	for (int m = 0; m < g->count; m++)
		add(t, ",%d", g->members[m]);
}

/* Sets the flags of all numbers in the text that belong to the library. */
static void set_flags(const char *at, int flags)
{
	while ((at = strpbrk(at, "=,")))
		RAW3(SYS_fcntl, strtol(++at, NULL, 10), F_SETFD, flags);
}

static const char *variable(char *const *environment, const char *name)
{
	size_t length = strlen(name);

	for (; *environment; environment++)
		if (!strncmp(*environment, name, length) && (*environment)[length] == '=')
			return *environment + length + 1;
	return NULL;
}

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Where this library is. dladdr() takes a lock of the dynamic linker: see start.c. */
static Dl_info library;

/* Returns whether this library is preloaded into a program that gets the environment. */
static bool preloads(char *const *environment)
{
	const char *at = variable(environment, "LD_PRELOAD"), *name, *part;
	char one[512];
	size_t length;

	if (!at || !library.dli_fname || RAW2(SYS_access, library.dli_fname, R_OK))
		return false;
	name = last_part(library.dli_fname);
	for (; *at; at += length + !!at[length]) {
		length = strcspn(at, ": ");
		if (length >= sizeof(one))
			continue;
		memcpy(one, at, length);
		one[length] = '\0';
		part = last_part(one);
		/* The program may have changed its directory since. */
		if (!strcmp(part, name) && (part == one || *one == '/'))
			return true;
	}
	return false;
}

/* Returns whether the path is that of the program that runs here, and it gains no rights by that. */
static bool is_this_program(const char *path)
{
	struct stat wanted, this;

	return !RAW2(SYS_stat, path, &wanted) &&
	       !RAW2(SYS_stat, "/proc/self/exe", &this) &&
	       wanted.st_dev == this.st_dev && wanted.st_ino == this.st_ino &&
	       !(wanted.st_mode & (S_ISUID | S_ISGID)) &&
	       RAW4(SYS_getxattr, path, "security.capability", NULL, 0) < 0 &&
	       getuid() == geteuid() && getgid() == getegid();
}

/* Stores in the text what the next program is to keep; returns whether there is anything. */
static bool find_kept(struct text *t)
{
	int begin;

	t->length = 0;
	t->full = false;
	add(t, VARIABLE "=%d", getpid());
	begin = t->length;
	fsocket_group_each_inherited(add_group, t);
	return t->length > begin && !t->full;
}

/* Runs the program and keeps the groups. Returns if that fails, or if there are none. */
static void run_and_keep(struct text *t, const char *path, char *const *arguments,
			 char *const *environment)
{
	int count = 0;

	while (environment[count])
		count++;
	if (!find_kept(t))
		return;

	char *with[count + 2];
	REAL(execve);

	with[0] = t->bytes;
	memcpy(with + 1, environment, (count + 1) * sizeof(*with));
	set_flags(t->bytes, 0);
	real(path, arguments, with);
	set_flags(t->bytes, FD_CLOEXEC);
}

/* A child of vfork() has the variables of its parent, whose other threads may do the same. */
static RARELY void run_and_keep_apart(const char *path, char *const *arguments,
				      char *const *environment)
{
	struct text t;

	run_and_keep(&t, path, arguments, environment);
}

/*
 * Stores the path of the file that execvp() runs, unless PATH leads to it by the current
 * directory. Returns false if there is none.
 */
static bool find_program(const char *file, char *path)
{
	const char *at = getenv("PATH");
	int length, written;
	struct stat s;

	for (; at && *at; at += length + !!at[length]) {
		length = strcspn(at, ":");
		written = snprintf(path, PATH_ROOM, "%.*s/%s", length, at, file);
		if (!length || written >= PATH_ROOM)
			return false;
		if (!RAW2(SYS_stat, path, &s) && S_ISREG(s.st_mode) &&
		    !RAW2(SYS_access, path, X_OK))
			return true;
	}
	return false;
}

/* One with a bad pointer makes the call fail, and one that is too long is left alone. */
static bool environment_readable(char *const *environment)
{
	size_t there = fsocket_readable(environment, (MOST_VARIABLES + 1) * sizeof(*environment));

	for (size_t i = 0; i < there / sizeof(*environment); i++) {
		if (!environment[i])
			return true;
		if (!fsocket_readable_text(environment[i]))
			return false;
	}
	return false;
}

static RARELY void keep(const char *path, bool search, char *const *arguments,
			char *const *environment)
{
	/* A signal handler may run the program, on a small stack of its own. */
	static struct text text;
	char found[PATH_ROOM];

	/* A child of vfork() is alone, too: it has descriptors of its own. */
	if (fsocket_device_confined() || !fsocket_process_alone() || !fsocket_readable_text(path) ||
	    !environment_readable(environment) || !preloads(environment))
		return;
	if (search && !strchr(path, '/')) {
		if (!find_program(path, found))
			return;
		path = found;
	}
	if (!is_this_program(path))
		return;
	if (fsocket_process_borrowed())
		run_and_keep_apart(path, arguments, environment);
	else
		run_and_keep(&text, path, arguments, environment);
}

/* Called before each exec. If the program is to keep groups, it is run here. */
static void before(const char *path, bool search, char *const *arguments,
		   char *const *environment)
{
	int saved = errno;

	fsocket_pin_lift();
	fsocket_epoll_escape_all();
	if (atomic_load(&fsocket_group_count))
		keep(path, search, arguments, environment);
	errno = saved;
}

int execve(const char *path, char *const arguments[], char *const environment[])
{
	REAL(execve);
	before(path, false, arguments, environment);
	return real(path, arguments, environment);
}

int execv(const char *path, char *const arguments[])
{
	REAL(execv);
	before(path, false, arguments, environ);
	return real(path, arguments);
}

int execvp(const char *file, char *const arguments[])
{
	REAL(execvp);
	before(file, true, arguments, environ);
	return real(file, arguments);
}

int execvpe(const char *file, char *const arguments[], char *const environment[])
{
	REAL(execvpe);
	before(file, true, arguments, environment);
	return real(file, arguments, environment);
}

/* Adopts one group, of which the text tells. What is not adopted is closed. */
static void adopt(const char *at)
{
	int listener = strtol(at, NULL, 10), numbers[1 + GROUP_MEMBERS], count = 0;
	size_t length = strcspn(at, " ");
	const char *end = at + length;

	while ((at = strpbrk(at, "=,")) && at < end && count < 1 + GROUP_MEMBERS)
		numbers[count++] = strtol(++at, NULL, 10);
	if (fsocket_kernel_chosen() && count) {
		fsocket_adopt_offer(fsocket_inode(listener), numbers, count);
		fsocket_listener_ask(listener);
		fsocket_adopt_offer(0, NULL, 0);
	}
	for (int i = 0; i < count; i++)
		if (fsocket_fd(numbers[i]) != FD_MEMBER)
			RAW2(SYS_close, numbers[i], 0);
}

__attribute__((constructor)) static void program_starts(void)
{
	const char *kept = secure_getenv(VARIABLE), *at = kept;

	dladdr(program_starts, &library);
	if (!kept)
		return;
	/* The number of the process shows that the variable is not an old one. */
	if (strtol(kept, NULL, 10) == getpid()) {
		set_flags(kept, FD_CLOEXEC);
		while ((at = strchr(at, ' ')))
			adopt(++at);
	}
	unsetenv(VARIABLE);
}
