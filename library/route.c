// SPDX-License-Identifier: GPL-2.0-only
/*
 * Chooses the member of a listener that gets the connections of a CPU, among the
 * workers that wait.
 *
 * The state is in memory that the processes share. It changes under a lock, and
 * becomes a classic BPF program that the kernel runs for each SYN: A = CPU, index by
 * CPU. Every CPU has an index in the program, so that the kernel never chooses by hash.
 * Index 0 is the program's own listener, for which all workers wait.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"
#include "backend.h"
#include "real.h"

/*
 * The number of attempts to take the lock, a millisecond apart, before the caller does
 * without it.
 */
#define LOCK_TRIES	200

struct route *fsocket_route_new(int memory)
{
	const char *wanted = fsocket_setting("FSOCKET_STEAL_AFTER_MS");
	struct route *r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE,
			       MAP_SHARED | (memory < 0 ? MAP_ANONYMOUS : 0), memory, 0);

	if (r == MAP_FAILED)
		return NULL;
	r->seen = fsocket_imports_accept();
	r->late = wanted && late_allowed(atoi(wanted)) ? atoi(wanted) : LATE_MS;
	return r;
}

struct route *fsocket_route_replace(struct route *old, struct route *new)
{
	long at = RAW5(SYS_mremap, new, sizeof(*new), sizeof(*new), MREMAP_MAYMOVE | MREMAP_FIXED,
		       old);

	return at == (long)old ? old : new;
}

/*
 * The lock is a record lock of a file that all processes of the server have. The kernel keeps
 * it, so a process that can write to the memory cannot make the lock harm another one, and
 * releases it when its holder dies; the next change of the BPF program then completes what the
 * dead worker left undone. It does not exclude other threads of the same process, but worker.c
 * lets only one of them in here.
 */
static long set_lock(const struct group *g, short type)
{
	int fd = g->anonymous ? g->members[0] : g->memory;
	struct flock whole = { .l_type = type };

	/* The program may have given the number to a file of its own, and that may have locks. */
	if (!g->anonymous && !fsocket_memory_there(g))
		return -EBADF;
	return RAW3(SYS_fcntl, fd, F_SETLK, &whole);
}

/* Tries to take the lock and never waits for it, since a stopped worker may hold it. */
static bool lock(const struct group *g)
{
	const struct timespec pause = { .tv_nsec = 1000000 };

	for (int i = 0; i < LOCK_TRIES; i++) {
		long ret = set_lock(g, F_WRLCK);

		if (!ret)
			return true;
		if (ret != -EAGAIN)
			return false;
		RAW4(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &pause, NULL);
	}
	return false;
}

static void unlock(const struct group *g)
{
	set_lock(g, F_UNLCK);
}

static long age(const struct claim *c)
{
	return fsocket_now_ms() - atomic_load(&c->stamp);
}

/* kill() also finds a zombie: see condition(). */
static bool dead(const struct claim *c)
{
	return RAW2(SYS_kill, atomic_load(&c->pid), 0) == -ESRCH;
}

static bool eligible(const struct route *r, const struct claim *c)
{
	return c->owner && c->ready && age(c) < STALE(r);
}

enum condition { RUNS, STOPPED, ENDED };

/*
 * Asks the kernel for the state of a worker that is silent. It may be a zombie, which its
 * parent may leave as it is for long, or its number may be another thread's by now. Where
 * there is no /proc, only kill() tells.
 */
static enum condition condition(const struct claim *c)
{
	char text[512], *stat = fsocket_proc_stat(c->pid, c->tid, text, sizeof(text));

	if (!stat)
		return dead(c) ? ENDED : RUNS;
	if (c->started && fsocket_proc_started(stat) != c->started)
		return ENDED;
	switch (stat[1]) {
	case 'Z':
	case 'X':
		return ENDED;
	case 'T':
	case 't':
		return STOPPED;
	}
	return RUNS;
}

/*
 * Returns whether the others have to wait for the worker: it sleeps and does not know of
 * them yet, or it can have no member. One that looks up becomes ready again by itself,
 * unless it is stopped or gets no CPU.
 */
static bool comes(const struct claim *c)
{
	return !c->ready && !c->looks && !c->stopped;
}

/* A lone worker may sleep for as long as it likes, so its stamp does not count. */
static bool live(const struct route *r, const struct claim *c)
{
	return c->owner && (c->waiting || age(c) < STALE(r)) && !dead(c);
}

int fsocket_route_live(const struct route *r)
{
	int count = 0;

	for (int i = 0, end = claims_of(r); i < end; i++)
		count += live(r, &r->claims[i]);
	return count;
}

void fsocket_route_seen(struct route *r)
{
	if (!atomic_exchange(&r->seen, true))
		atomic_fetch_add(&r->generation, 1);
}

/* Threads may have small stacks, so there is room for as many instructions as the CPUs need. */
#define LONGEST(cpus)	(3 * (cpus) + 1)

struct program {
	struct sock_filter *code;
	int length, room;
	const unsigned char *map;
};

static void emit(struct program *p, unsigned short code, unsigned char jt, unsigned char jf,
		 unsigned int k)
{
	if (p->length < p->room)
		p->code[p->length++] = (struct sock_filter){ code, jt, jf, k };
}

/* A search tree: the CPU is in A, and from low to high - 1. */
static void emit_tree(struct program *p, int low, int high)
{
	int middle = (low + high) / 2, jump;
	bool same = true;

	for (int cpu = low + 1; cpu < high; cpu++)
		same &= p->map[cpu] == p->map[low];
	if (same) {
		emit(p, BPF_RET | BPF_K, 0, 0, p->map[low]);
		return;
	}
	/* The offset of a conditional jump has eight bits only. */
	emit(p, BPF_JMP | BPF_JGE | BPF_K, 0, 1, middle);
	jump = p->length;
	emit(p, BPF_JMP | BPF_JA, 0, 0, 0);
	emit_tree(p, low, middle);
	p->code[jump].k = p->length - jump - 1;
	emit_tree(p, middle, high);
}

static void attach(const struct group *g, const unsigned char *map, int cpus)
{
	struct sock_filter code[LONGEST(cpus)];
	struct program p = { .code = code, .room = LONGEST(cpus), .map = map };
	struct sock_fprog program = { .filter = code };

	emit(&p, BPF_LD | BPF_W | BPF_ABS, 0, 0, SKF_AD_OFF + SKF_AD_CPU);
	/* CPUs from cpus on get index 0. */
	emit(&p, BPF_JMP | BPF_JGE | BPF_K, 0, 1, cpus);
	emit(&p, BPF_RET | BPF_K, 0, 0, 0);
	emit_tree(&p, 0, cpus);
	program.len = p.length;
	for (int m = 0; m < g->count; m++)
		if (g->route->index[m] && g->members[m] >= 0 &&
		    !RAW5(SYS_setsockopt, g->members[m], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF,
			  &program, sizeof(program)))
			return;
}

/*
 * Gives each CPU the member of its worker, and distributes the CPUs that have none.
 * While a worker sleeps that does not know of the others yet, and so does not look up,
 * all CPUs get the listener itself, for which every worker waits.
 */
static void update(struct group *g)
{
	struct route *r = g->route;
	unsigned char map[GROUP_CPUS] = { 0 }, others[GROUP_CLAIMS];
	int cpus = fsocket_cpus(), count = 0, coming = 0;

	for (int i = 0, end = claims_of(r); i < end; i++) {
		const struct claim *c = &r->claims[i];
		int cpu = atomic_load(&c->cpu), member = member_of(c);

		if (member >= 0 && eligible(r, c)) {
			others[count++] = r->index[member];
			if (cpu >= 0 && cpu < cpus)
				map[cpu] = r->index[member];
		} else if (comes(c) && live(r, c)) {
			coming++;
		}
	}
	if (count < 2 || coming || !r->seen)
		memset(map, 0, sizeof(map));
	else
		for (int cpu = 0, next = 0; cpu < cpus; cpu++)
			if (!map[cpu])
				map[cpu] = others[next++ % count];
	if (r->listening)
		attach(g, map, cpus);
	atomic_fetch_add(&r->generation, 1);
}

/* Frees the claim, under the lock. Other workers take the connections that its member still has. */
static void free_claim(struct claim *c)
{
	atomic_store(&c->ready, false);
	atomic_store(&c->owner, 0);
}

static void free_dead(struct route *r)
{
	for (int i = 0, end = claims_of(r); i < end; i++)
		if (r->claims[i].owner && dead(&r->claims[i]))
			free_claim(&r->claims[i]);
}

struct claim *fsocket_route_claim(struct group *g, unsigned int *owner)
{
	struct route *r = g->route;
	struct claim *c = NULL;
	char text[512];
	unsigned long started = fsocket_proc_started(fsocket_proc_stat(getpid(), gettid(), text,
								       sizeof(text)));

	if (atomic_load(&r->broken) || !lock(g))
		return NULL;
	free_dead(r);
	for (int i = 0; i < GROUP_CLAIMS && !c; i++)
		if (!r->claims[i].owner)
			c = &r->claims[i];
	if (c) {
		if (c - r->claims >= r->end)
			r->end = c - r->claims + 1;
		c->ready = false;
		c->waiting = false;
		c->looks = false;
		c->stopped = false;
		c->started = started;
		c->cpu = -1;
		c->member = -1;
		c->pid = getpid();
		c->tid = gettid();
		c->stamp = fsocket_now_ms();
		if (!++r->last_owner)
			r->last_owner = 1;
		*owner = r->last_owner;
		atomic_store(&c->owner, *owner);
		update(g);
	}
	unlock(g);
	return c;
}

void fsocket_route_release(struct group *g, struct claim *c, unsigned int owner)
{
	if (!lock(g))
		return;
	if (c->owner == owner) {
		free_claim(c);
		update(g);
	}
	unlock(g);
}

void fsocket_route_start(struct group *g)
{
	struct route *r = g->route;

	if (!lock(g))
		return;
	for (int i = 0, end = claims_of(r); i < end; i++)
		if (r->claims[i].owner && r->claims[i].pid == getpid())
			free_claim(&r->claims[i]);
	update(g);
	unlock(g);
}

void fsocket_route_count(const struct route *r, unsigned short *workers)
{
	for (int i = 0, end = claims_of(r); i < end; i++) {
		int cpu = atomic_load(&r->claims[i].cpu);

		if (r->claims[i].owner && cpu >= 0 && cpu < GROUP_CPUS)
			workers[cpu]++;
	}
}

int fsocket_route_fewest(const unsigned short *workers, const cpu_set_t *allowed)
{
	int best = -1;

	for (int cpu = 0; cpu < GROUP_CPUS; cpu++)
		if (CPU_ISSET(cpu, allowed) && (best < 0 || workers[cpu] < workers[best]))
			best = cpu;
	return best;
}

static int workers_of(const struct route *r, int member)
{
	int count = 0;

	for (int i = 0, end = claims_of(r); i < end; i++)
		count += r->claims[i].owner && r->claims[i].member == member;
	return count;
}

/*
 * Returns the member of another worker on the CPU, since old and new workers run side by side
 * after a reload; otherwise the member with the fewest workers, preferably one that listens
 * already.
 */
static int choose_member(const struct group *g, int cpu)
{
	const struct route *r = g->route;
	int best = -1, cost, least = 0;

	for (int i = 0, end = claims_of(r); i < end; i++) {
		const struct claim *c = &r->claims[i];
		int member = member_of(c);

		if (c->owner && c->cpu == cpu && descriptor_of(g, member) >= 0)
			return member;
	}
	for (int m = 0; m < g->count; m++) {
		if (g->members[m] < 0)
			continue;
		cost = 2 * workers_of(r, m) + !r->index[m];
		if (best < 0 || cost < least) {
			best = m;
			least = cost;
		}
	}
	return best;
}

/*
 * Until there is a program, the kernel chooses by hash, and it takes none before there is a group: so
 * as soon as the first member listens, this one sends all connections to the listener.
 */
static void attach_first(int member)
{
	struct sock_filter to_listener = { .code = BPF_RET | BPF_K };
	struct sock_fprog program = { .len = 1, .filter = &to_listener };

	RAW5(SYS_setsockopt, member, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program,
	     sizeof(program));
}

static bool start_listening(const struct group *g, int member)
{
	struct route *r = g->route;

	if (r->index[member])
		return true;
	if (RAW2(SYS_listen, g->members[member], r->backlog))
		return false;
	if (!r->listening)
		attach_first(g->members[member]);
	r->index[member] = ++r->listening;
	return true;
}

bool fsocket_route_choose(struct group *g, struct claim *c, const cpu_set_t *allowed,
			  unsigned short *workers)
{
	int cpu, member = -1;

	if (!lock(g))
		return false;
	c->cpu = -1;
	c->member = -1;
	fsocket_route_count(g->route, workers);
	cpu = fsocket_route_fewest(workers, allowed);
	if (cpu >= 0)
		member = choose_member(g, cpu);
	if (member >= 0 && start_listening(g, member)) {
		c->cpu = cpu;
		c->member = member;
	}
	unlock(g);
	return c->member >= 0;
}

void fsocket_route_stop(struct group *g)
{
	struct route *r = g->route;

	if (!r->seen || !lock(g))
		return;
	/* While members listen, nobody sets this again: see fsocket_worker_accept(). */
	atomic_store(&r->seen, false);
	update(g);
	unlock(g);
}

bool fsocket_route_withdraw(struct group *g, struct claim *c)
{
	if (!lock(g))
		return false;
	atomic_store(&c->ready, false);
	c->cpu = -1;
	update(g);
	unlock(g);
	return true;
}

void fsocket_route_ready(struct group *g, struct claim *c)
{
	if (!lock(g))
		return;
	atomic_store(&c->stamp, fsocket_now_ms());
	c->looks = true;
	c->stopped = false;
	atomic_store(&c->ready, true);
	update(g);
	unlock(g);
}

/*
 * Returns whether nobody has asked for the state of the worker in this interval of looks. Many
 * may be silent, since each is at work for long, and many look.
 */
static bool unasked(struct route *r, const struct claim *c)
{
	struct sample *s = &r->samples[c - r->claims];
	long now = fsocket_now_ms(), last = atomic_load(&s->asked);

	return now - last >= LOOK(r) && atomic_compare_exchange_strong(&s->asked, &last, now);
}

/* Returns whether the claim of a silent worker has to be changed; if act, changes it, under the lock. */
static bool mend(struct route *r, struct claim *c, bool act)
{
	enum condition now;

	if (!c->owner || age(c) < SILENT(r) || (!act && !unasked(r, c)))
		return false;
	now = condition(c);
	if (now == ENDED) {
		if (act)
			free_claim(c);
		return true;
	}
	if (c->ready ? age(c) < STALE(r) && now == RUNS : c->stopped == (now == STOPPED))
		return false;
	if (act) {
		c->stopped = now == STOPPED;
		atomic_store(&c->ready, false);
	}
	return true;
}

void fsocket_route_tend(struct group *g)
{
	struct route *r = g->route;
	bool any = false;

	for (int i = 0, end = claims_of(r); i < end && !any; i++)
		any = mend(r, &r->claims[i], false);
	if (!any || !lock(g))
		return;
	for (int i = 0, end = claims_of(r); i < end; i++)
		mend(r, &r->claims[i], true);
	update(g);
	unlock(g);
}

/*
 * Returns the worker's CPU time in microseconds; -1 if it has ended or is in another PID
 * namespace.
 */
static long cpu_time(const struct claim *c)
{
	/*
	 * The kernel makes the number of a CPU clock from a thread or process ID; a bit says
	 * which of the two.
	 */
	bool ours = c->pid == getpid();
	clockid_t clock = (int)(~(unsigned int)(ours ? c->tid : c->pid) << 3) | (ours ? 6 : 2);
	struct timespec time;

	if (RAW2(SYS_clock_gettime, clock, &time))
		return -1;
	return time.tv_sec * 1000000L + time.tv_nsec / 1000;
}

/*
 * Returns whether the worker has run for a sixteenth of the time since another one last
 * asked. Taking a connection from a worker that will soon accept it itself costs more than it
 * saves. A worker that sleeps, waits for something else, or is stopped will not accept it
 * soon. The first answer is yes, since there is nothing to compare with yet.
 */
static bool at_work(struct route *r, int i)
{
	const struct claim *c = &r->claims[i];
	struct sample *s = &r->samples[i];
	long now = fsocket_now_ms(), cpu = cpu_time(c), since = now - s->at, ran = cpu - s->cpu;
	bool known = s->owner == c->owner && since <= BUSY(r);

	if (cpu < 0)
		return false;
	if (known && since < late_of(r))
		return true;
	s->owner = c->owner;
	s->at = now;
	s->cpu = cpu;
	return !known || ran * 16 >= since * 1000;
}

bool fsocket_route_timely(struct route *r, const struct claim *mine, int late,
			  bool *timely)
{
	bool away = false;

	memset(timely, 0, GROUP_MEMBERS * sizeof(*timely));
	for (int i = 0, end = claims_of(r); i < end; i++) {
		const struct claim *c = &r->claims[i];
		int member = member_of(c);
		long since = age(c);

		if (!c->owner || !c->ready || member < 0)
			continue;
		if (c == mine) {
			timely[member] = true;
			continue;
		}
		away |= !c->waiting;
		/*
		 * A worker that waits has been woken. If it has not looked up since, it is
		 * dead or gets no CPU.
		 */
		if (c->waiting ? since < STALE(r) :
		    since < late || (since < BUSY(r) && at_work(r, i)))
			timely[member] = true;
	}
	return away;
}
