// SPDX-License-Identifier: GPL-2.0-only
/*
 * A plain benchmark server: the parent opens the listening sockets and forks one process
 * per core, each with an epoll instance of its own. The server uses ordinary socket
 * calls only and has no code for Fastsocket.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "listen.h"
#include "log.h"
#include "options.h"
#include "stats.h"
#include "worker.h"

static struct options opt;
static pid_t *pids;		/* by worker; 0 once it has ended */
static int running;		/* workers that have not ended */
static bool stopping;
static bool for_a_person;	/* stdout is a terminal */
static sigset_t signals;	/* what the parent waits for */

/* Workers have thousands of connections, so raise the limit of descriptors to the hard limit. */
static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		fail(1, "getrlimit: %s", strerror(errno));
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		fail(1, "setrlimit: %s", strerror(errno));
}

/* Called before the first fork: a signal must not kill a worker that has no signalfd yet. */
static void block_signals(void)
{
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGCHLD);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	/* Go on serving when the reader of stdout has ended. */
	signal(SIGPIPE, SIG_IGN);
}

static void pin(int core)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(core, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		fail(1, "a worker cannot be pinned to core %d: %s", core, strerror(errno));
}

static _Noreturn void worker_process(int index, pid_t parent, struct stats *stats, int ready_fd)
{
	/* The kernel stops the workers of a killed parent; the check is for one killed before. */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		exit(1);
	pin(opt.cores[index]);
	worker_run(&opt, index, listen_take(&opt, index), stats, ready_fd);
	exit(0);
}

static void stop_workers(void)
{
	stopping = true;
	for (int i = 0; i < opt.workers; i++)
		if (pids[i])
			kill(pids[i], SIGTERM);
}

static const char *describe_end(int status, char *text, size_t size)
{
	if (WIFSIGNALED(status))
		snprintf(text, size, "was killed by signal %d (%s)", WTERMSIG(status),
			 strsignal(WTERMSIG(status)));
	else
		snprintf(text, size, "ended with exit status %d", WEXITSTATUS(status));
	return text;
}

/*
 * Whether all are to stop. A signal to the process group ends workers too, which may have ended
 * before the parent has read it.
 */
static bool asked_to_stop(void)
{
	sigset_t pending;

	sigpending(&pending);
	return stopping || sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM);
}

/* Reaps workers that have ended, and reports those that were not asked to. */
static void reap_workers(int wait_flags)
{
	char text[80];
	int status;
	pid_t pid;

	while (running && (pid = waitpid(-1, &status, wait_flags)) > 0) {
		for (int i = 0; i < opt.workers; i++) {
			if (pids[i] != pid)
				continue;
			pids[i] = 0;
			running--;
			if (!asked_to_stop() || status)
				warn("worker %d (process %d, core %d) %s: %d of %d workers left",
				     i, pid, opt.cores[i],
				     describe_end(status, text, sizeof(text)), running,
				     opt.workers);
		}
	}
}

static void start_workers(void)
{
	union stats_page *pages = stats_create(opt.workers);
	pid_t parent = getpid();
	int ready[2], missing = opt.workers;
	char byte;

	pids = calloc(opt.workers, sizeof(*pids));
	if (!pids || pipe(ready))
		fail(1, "cannot start workers: %s", strerror(errno));
	for (int i = 0; i < opt.workers; i++) {
		pids[i] = fork();
		if (!pids[i]) {
			close(ready[0]);
			worker_process(i, parent, &pages[i].stats, ready[1]);
		}
		if (pids[i] < 0) {
			warn("cannot start worker %d: %s", i, strerror(errno));
			pids[i] = 0;
			break;
		}
		running++;
	}
	listen_close(&opt);
	close(ready[1]);
	/* Each worker writes a byte. read() returns 0 if one has ended without writing it. */
	while (missing && read(ready[0], &byte, 1) == 1)
		missing--;
	close(ready[0]);
	if (missing) {
		stop_workers();
		reap_workers(0);
		fail(1, "%d of %d workers did not start", missing, opt.workers);
	}
}

static void say_ready(void)
{
	char *text;
	size_t len;
	FILE *list = open_memstream(&text, &len);

	if (!list)
		fail(1, "out of memory");
	for (int i = 0; i < opt.listen_count; i++)
		fprintf(list, "%s%s", i ? "," : "", opt.listen[i].text);
	fclose(list);
	say("ready: %d workers on %s mode %s", opt.workers, text, options_mode_name(opt.mode));
	free(text);
}

/*
 * Returns the next signal, or -1 when a second of the statistics is over before. Without
 * -v and without a terminal, as in a measurement, the parent does not wake up each second.
 */
static int next_signal(struct timespec *tick)
{
	struct timespec now, left;

	if (!opt.statistics && !for_a_person)
		return sigwaitinfo(&signals, NULL);
	clock_gettime(CLOCK_MONOTONIC, &now);
	left.tv_sec = tick->tv_sec - now.tv_sec;
	left.tv_nsec = tick->tv_nsec - now.tv_nsec;
	if (left.tv_nsec < 0) {
		left.tv_sec--;
		left.tv_nsec += 1000000000;
	}
	if (left.tv_sec < 0) {
		*tick = now;
		left.tv_sec = left.tv_nsec = 0;
	}
	return sigtimedwait(&signals, NULL, &left);
}

/* Runs until a signal asks the server to stop, or no worker is left. */
static void supervise(void)
{
	struct timespec tick;

	clock_gettime(CLOCK_MONOTONIC, &tick);
	tick.tv_sec++;
	while (running) {
		int signal = next_signal(&tick);

		if (signal == SIGCHLD) {
			reap_workers(WNOHANG);
		} else if (signal > 0) {
			stop_workers();
			reap_workers(0);
			return;
		} else if (errno == EAGAIN) {
			if (opt.statistics)
				stats_say_rates();
			else
				stats_say_requests();
			tick.tv_sec++;
		}
	}
}

int main(int argc, char **argv)
{
	options_parse(&opt, argc, argv);
	log_debugging = opt.debug;
	for_a_person = isatty(STDOUT_FILENO);
	if (opt.log_path)
		log_open(opt.log_path);
	raise_file_limit();
	block_signals();
	listen_open(&opt);
	start_workers();
	say_ready();
	supervise();
	stats_say_total();
	return stopping ? 0 : 1;
}
