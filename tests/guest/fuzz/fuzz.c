// SPDX-License-Identifier: GPL-2.0-only
/*
 * A fuzzer of what no user may do: random calls about sockets and /dev/fastsocket by
 * several unprivileged processes and threads, while root changes parameters, CPUs and
 * the module (--root). A run fails if the kernel's log reports a fault, a process stops
 * or is killed, or anything is left behind.
 *
 *	fuzz [--seed N] [--calls N] [--seconds N] [--threads N] [--processes N]
 *	     [--steps N] [--only FILE] [--root] [--module FILE] [--without NAME,...]
 *
 * --without leaves kinds of steps out, to get past a known fault (their names are in
 * fuzz_calls.c, those of root's steps in fuzz_root.c). The program starts as root,
 * which alone may read the kernel's log and the module's references. A run ends after
 * --calls system calls, --steps steps (one is a call or a few) or --seconds, whichever
 * comes first. With one thread and one process (the default) a seed always makes the
 * same calls, including root's. --only FILE repeats only the steps whose numbers are in
 * the file; tests/debug/shorten.py looks for a few that suffice. Each step draws from a
 * random generator of its own, so that others may be left out. Each task is called
 * "fPROCESS.THREAD-STEP", and the kernel's log shows this name.
 */
#include <dirent.h>
#include <getopt.h>
#include <grp.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "fuzz.h"

#define NOBODY	65534
/* After this many steps everything is closed, and another mixture of calls begins. */
#define EPISODE	200
/* A process is stuck after this many seconds without a step. */
#define STUCK	60

struct shared *shared;
struct options options = { .seed = 1, .threads = 1, .processes = 1 };

static void on_timer(int signal)
{
	(void)signal;
}

/* Interrupts calls that wait: every 50 ms of this thread. */
void start_timer(void)
{
	struct sigaction action = { .sa_handler = on_timer };
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1 };
	struct itimerspec when = { { 0, 50000000 }, { 0, 50000000 } };
	timer_t timer;

	sigaction(SIGUSR1, &action, NULL);
	event._sigev_un._tid = gettid();
	if (!timer_create(CLOCK_MONOTONIC, &event, &timer))
		timer_settime(timer, 0, &when, NULL);
}

static uint64_t mixed(uint64_t a, uint64_t b)
{
	struct rng rng = { a ^ b * 0xd6e8feb86659fd93 };

	return random64(&rng);
}

static void name_task(const struct fuzz *f, uint64_t step)
{
	char name[17];

	snprintf(name, sizeof(name), "f%d.%d-%llu", f->process, f->id % 100,
		 (unsigned long long)step % 1000000000);
	prctl(PR_SET_NAME, name);
}

/* Does the steps of a child or of a thread, which count as a part of their parent's step. */
void run_some(struct fuzz *f, int steps)
{
	while (steps-- && !shared->stop && !shared->pause)
		one_step(f);
}

/* Returns whether --without names it. */
bool without(const char *name)
{
	const char *at = options.without ? strstr(options.without, name) : NULL;

	return at && (at == options.without || at[-1] == ',') && strchr(",", at[strlen(name)]);
}

static void wait_for_root(struct fuzz *f)
{
	/* One thread of each process closes what all its threads use. */
	if (f->id == 0)
		end_episode(f);
	while (shared->pause && !shared->stop)
		usleep(1000);
}

static void *worker(void *arg)
{
	struct fuzz *f = arg;
	uint64_t base = mixed(options.seed, f->process * 1000 + f->id), at, step;
	uint64_t episode = -1;

	start_timer();
	for (at = 0; !shared->stop; at++) {
		if (options.steps && at >= options.steps)
			break;
		if (options.only && at >= options.only_count)
			break;
		step = options.only ? options.only[at] : at;
		if (shared->pause && !single())
			wait_for_root(f);
		if (step / EPISODE != episode) {
			if (f->id == 0 && at)
				end_episode(f);
			episode = step / EPISODE;
			f->rng.state = mixed(base, ~episode);
			begin_episode(f);
		}
		f->rng.state = mixed(base, step);
		name_task(f, step);
		one_step(f);
		__atomic_fetch_add(&shared->process[f->process].steps, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void become_nobody(void)
{
	struct rlimit files = { FDS, FDS }, core = { 0, 0 };

	setpgid(0, 0);
	setrlimit(RLIMIT_NOFILE, &files);
	setrlimit(RLIMIT_CORE, &core);
	if (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY))
		_exit(3);
	/* A process may read its own files in /proc. */
	prctl(PR_SET_DUMPABLE, 1);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGIO, SIG_IGN);
	signal(SIGURG, SIG_IGN);
	if (!single())
		signal(SIGCHLD, SIG_IGN);
}

static void process_main(int process)
{
	static struct slot slots[SLOTS];
	struct fuzz f[options.threads];
	pthread_t threads[options.threads];
	int i;

	become_nobody();
	for (i = 0; i < SLOTS; i++)
		slots[i].fd = -1;
	for (i = 0; i < options.threads; i++)
		f[i] = (struct fuzz) { .slots = slots, .id = i, .process = process, .hot = -1 };
	for (i = 1; i < options.threads; i++)
		pthread_create(&threads[i], NULL, worker, &f[i]);
	worker(&f[0]);
	for (i = 1; i < options.threads; i++)
		pthread_join(threads[i], NULL);
	end_episode(&f[0]);
	_exit(0);
}

static uint64_t total(bool calls)
{
	uint64_t sum = 0;
	int i;

	for (i = 0; i < options.processes; i++)
		sum += calls ? shared->process[i].calls : shared->process[i].steps;
	return sum;
}

static void print_file(const char *path)
{
	char text[2048];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof(text));

	if (len > 0)
		fwrite(text, 1, len, stderr);
	if (fd >= 0)
		close(fd);
}

/* Prints in what each unprivileged task waits. */
static void print_stacks(void)
{
	DIR *all = opendir("/proc");
	struct dirent *entry;
	struct stat st;
	char path[300];

	while (all && (entry = readdir(all))) {
		snprintf(path, sizeof(path), "/proc/%s", entry->d_name);
		if (atoi(entry->d_name) <= 0 || stat(path, &st) || st.st_uid != NOBODY)
			continue;
		fprintf(stderr, "fuzz: %s: ", path);
		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		print_file(path);
		snprintf(path, sizeof(path), "/proc/%s/stack", entry->d_name);
		print_file(path);
	}
	if (all)
		closedir(all);
}

static void fail(const char *what, int process)
{
	fprintf(stderr, "fuzz: seed %llu: process %d, step %llu: %s\n",
		(unsigned long long)options.seed, process,
		(unsigned long long)shared->process[process].steps, what);
	shared->failed = 1;
	shared->stop = 1;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

/* Reaps a process that has ended; returns false if it has not. */
static bool ended(int process)
{
	char what[80];
	int status;

	if (!shared->process[process].pid)
		return true;
	if (waitpid(shared->process[process].pid, &status, WNOHANG) <= 0)
		return false;
	if (WIFSIGNALED(status) || WEXITSTATUS(status)) {
		snprintf(what, sizeof(what), "ended with %s %d",
			 WIFSIGNALED(status) ? "signal" : "status",
			 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		fail(what, process);
	}
	/* Kill its children, if it has left any. */
	kill(-shared->process[process].pid, SIGKILL);
	shared->process[process].pid = 0;
	return true;
}

/* The beginnings of the kernel's lines about faults. */
static const char * const complaints[] = {
	"BUG:", "WARNING:", "Oops", "general protection", "KASAN:", "refcount_t:", "corruption",
	"INFO: task", "INFO: rcu", "ODEBUG:", "unreferenced object",
};

/*
 * Returns whether the log has new lines about faults since the last call; the first
 * call skips earlier ones.
 */
static bool kernel_complains(void)
{
	static int log = -1;
	char record[8192];
	ssize_t len;
	int i;

	if (log < 0) {
		log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		lseek(log, 0, SEEK_END);
	}
	while ((len = read(log, record, sizeof(record) - 1)) > 0 || (len < 0 && errno == EPIPE)) {
		record[len < 0 ? 0 : len] = 0;
		for (i = 0; i < (int)ARRAY_SIZE(complaints); i++) {
			if (!strstr(record, complaints[i]) || strstr(record, "fastsocket: f"))
				continue;
			fprintf(stderr, "fuzz: %.200s", strchr(record, ';') ?: record);
			return true;
		}
	}
	return false;
}

/* Watches until the run is over or a fault has been found. */
static void watch(void)
{
	double begin = now(), alive[PROCESSES] = {}, asked = 0;
	uint64_t steps[PROCESSES] = {};
	int i, left;

	do {
		usleep(20000);
		if ((options.seconds && now() - begin > options.seconds) ||
		    (options.calls && total(true) >= options.calls))
			shared->stop = 1;
		if (!shared->failed && kernel_complains())
			fail("the kernel complains", 0);
		if (shared->stop && !asked)
			asked = now();
		for (left = 0, i = 0; i < options.processes; i++) {
			if (ended(i))
				continue;
			left++;
			if (steps[i] != shared->process[i].steps || shared->pause || !alive[i]) {
				steps[i] = shared->process[i].steps;
				alive[i] = now();
			}
			if (now() - alive[i] < STUCK && (!asked || now() - asked < (shared->failed ? 3 : STUCK)))
				continue;
			fail("is stuck", i);
			print_stacks();
			return;
		}
	} while (left);
}

/*
 * Returns whether the module has no users any more. Some of them end later: fsocket_free_work() may
 * look only every 16 s whether a listener that programs have polled can be freed.
 */
static bool nothing_left(void)
{
	char text[64], rows[4096];
	int tries, fd, len;

	for (tries = 0; tries < 200; tries++) {
		/*
		 * Sockets of AF_UNIX that were sent to each other keep all files that were sent
		 * with them, until unix_gc() runs: when another one is closed.
		 */
		close(socket(AF_UNIX, SOCK_STREAM, 0));
		fd = open("/sys/module/fastsocket/refcnt", O_RDONLY | O_CLOEXEC);
		len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
		if (fd >= 0)
			close(fd);
		fd = open("/proc/net/fastsocket_listeners", O_RDONLY | O_CLOEXEC);
		rows[fd < 0 ? 0 : read(fd, rows, sizeof(rows) - 1)] = 0;
		if (fd >= 0)
			close(fd);
		if (len < 1)
			return true;
		text[len] = 0;
		if (!atoi(text) && rows[0] && !strchr(strchr(rows, '\n'), ' '))
			return true;
		usleep(100000);
	}
	fprintf(stderr, "fuzz: seed %llu: left behind: %s references to the module; listeners:\n%s",
		(unsigned long long)options.seed, strtok(text, "\n"), rows);
	return false;
}

static void read_only(const char *path)
{
	FILE *file = fopen(path, "r");
	unsigned int step;

	if (!file) {
		fprintf(stderr, "fuzz: %s: %s\n", path, strerror(errno));
		exit(2);
	}
	options.only = calloc(1 << 20, sizeof(*options.only));
	while (options.only_count < 1 << 20 && fscanf(file, "%u", &step) == 1)
		options.only[options.only_count++] = step;
	fclose(file);
}

static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{ "seed", 1, NULL, 's' }, { "calls", 1, NULL, 'c' }, { "steps", 1, NULL, 'n' },
		{ "seconds", 1, NULL, 't' }, { "threads", 1, NULL, 'T' },
		{ "processes", 1, NULL, 'P' }, { "module", 1, NULL, 'm' },
		{ "only", 1, NULL, 'o' }, { "root", 0, NULL, 'r' },
		{ "without", 1, NULL, 'w' }, {},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (c) {
		case 's': options.seed = strtoull(optarg, NULL, 0); break;
		case 'c': options.calls = strtoull(optarg, NULL, 0); break;
		case 'n': options.steps = strtoull(optarg, NULL, 0); break;
		case 't': options.seconds = atoi(optarg); break;
		case 'T': options.threads = atoi(optarg); break;
		case 'P': options.processes = atoi(optarg); break;
		case 'm': options.module = optarg; break;
		case 'o': read_only(optarg); break;
		case 'r': options.root = true; break;
		case 'w': options.without = optarg; break;
		default: exit(2);
		}
	}
	if (options.threads < 1 || options.threads > 32 || options.processes < 1 ||
	    options.processes > PROCESSES || geteuid()) {
		fprintf(stderr, "fuzz: give 1 to 32 threads and 1 to %d processes, as root\n", PROCESSES);
		exit(2);
	}
	if (!options.calls && !options.steps && !options.seconds && !options.only)
		options.seconds = 20;
}

/*
 * Keeps the kernel from loading modules by itself: each attempt takes time, also for
 * protocols that do not exist. The former value is written back with @restore.
 */
static void keep_from_modprobe(bool restore)
{
	static char before[256] = "/sbin/modprobe";
	int fd = open("/proc/sys/kernel/modprobe", O_RDWR | O_CLOEXEC), ret;

	if (fd < 0)
		return;
	if (!restore) {
		ret = system("modprobe -qa tls sctp xfrm_user netlink_diag tcp_diag vsock_loopback af_key");
		(void)ret;
		ret = read(fd, before, sizeof(before) - 1);
		lseek(fd, 0, SEEK_SET);
	}
	if (write(fd, restore ? before : "\n", restore ? strlen(before) : 1) < 0)
		perror("fuzz: /proc/sys/kernel/modprobe");
	close(fd);
}

/*
 * Holds one socket with time stamps: otherwise each first and last such socket makes
 * the kernel patch its code while packets are handled, which emulated CPUs may not
 * survive (docs/lab.md). The descriptor has a number that the calls do not get.
 */
static void hold_time_stamps(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof(on));
	fcntl(fd, F_DUPFD_CLOEXEC, 900);
	close(fd);
}

int main(int argc, char **argv)
{
	double begin;
	pid_t root = 0, pid;
	bool clean;
	int i;

	parse(argc, argv);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	shared->cpus = sysconf(_SC_NPROCESSORS_ONLN);
	keep_from_modprobe(false);
	hold_time_stamps();
	kernel_complains();
	begin = now();
	if (options.root && !(root = fork()))
		root_main();
	for (i = 0; i < options.processes; i++) {
		pid = fork();
		if (!pid)
			process_main(i);
		shared->process[i].pid = pid;
	}
	watch();
	if (options.root && shared->failed) {
		/* The process may hang in the very lock that is at fault. */
		kill(root, SIGKILL);
	} else if (options.root) {
		for (i = 0; i < 300 && waitpid(root, NULL, WNOHANG) != root; i++)
			usleep(100000);
		if (i == 300 || !root_restore())
			shared->failed = 1;
	}
	keep_from_modprobe(true);
	clean = shared->failed || nothing_left();
	printf("fuzz: seed %llu: %llu calls in %llu steps, %llu s; "
	       "root: %llu writes, %llu CPUs, %llu aborts, %llu loads\n",
	       (unsigned long long)options.seed, (unsigned long long)total(true),
	       (unsigned long long)total(false), (unsigned long long)(now() - begin),
	       (unsigned long long)shared->writes, (unsigned long long)shared->hotplugs,
	       (unsigned long long)shared->aborts,
	       (unsigned long long)shared->reloads);
	return shared->failed || !clean;
}
