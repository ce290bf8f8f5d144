// SPDX-License-Identifier: GPL-2.0-only
#include "listen.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

/* The kernel reduces this to the administrator's net.core.somaxconn. */
#define BACKLOG 65535

/* fds[set * listen_count + address]; one set for all workers, or one each. */
static int *fds;

static bool one_set_each(const struct options *opt)
{
	return opt->mode == MODE_REUSEPORT || opt->mode == MODE_CBPF;
}

static int set_count(const struct options *opt)
{
	return one_set_each(opt) ? opt->workers : 1;
}

static _Noreturn void fail_address(const struct endpoint *end)
{
	switch (errno) {
	case EADDRINUSE:
		fail(1, "-a %s: the port is in use: stop the program that listens there (ss -ltnp names it) or give another port",
		     end->text);
	case EACCES:
		fail(1, "-a %s: no permission for this port: run as root or give a port from 1024 on",
		     end->text);
	case EADDRNOTAVAIL:
		fail(1, "-a %s: no interface of this host has the address: give one that `ip address` shows",
		     end->text);
	default:
		fail(1, "-a %s: cannot listen there: %s", end->text, strerror(errno));
	}
}

static void enable(int fd, int level, int name, const struct endpoint *end)
{
	int on = 1;

	if (setsockopt(fd, level, name, &on, sizeof(on)))
		fail_address(end);
}

static int open_bound(const struct endpoint *end, bool reuseport)
{
	int fd = socket(end->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		fail_address(end);
	enable(fd, SOL_SOCKET, SO_REUSEADDR, end);
	/* IPV6_V6ONLY lets 0.0.0.0:80 and [::]:80 be given together. */
	if (end->addr.ss_family == AF_INET6)
		enable(fd, IPPROTO_IPV6, IPV6_V6ONLY, end);
	if (reuseport)
		enable(fd, SOL_SOCKET, SO_REUSEPORT, end);
	if (bind(fd, (const struct sockaddr *)&end->addr, end->addr_len))
		fail_address(end);
	return fd;
}

static bool consecutive(const struct options *opt)
{
	for (int i = 1; i < opt->workers; i++)
		if (opt->cores[i] != opt->cores[0] + i)
			return false;
	return true;
}

/*
 * The group's members are numbered in the order in which they began to listen,
 * so number i is worker i, on cores[i]. Where the cores are consecutive, return
 * (cpu - cores[0]) modulo workers. A multiple of `workers` is added first,
 * as BPF's numbers are unsigned and CPUs below cores[0] exist. Else the CPU is
 * compared with each core before that.
 */
static void attach_cpu_choice(int fd, const struct options *opt, const struct endpoint *end)
{
	unsigned int shift = opt->workers - opt->cores[0] % opt->workers;
	struct sock_filter code[2 * CPU_SETSIZE + 4];
	struct sock_fprog program = { .len = 0, .filter = code };

	code[program.len++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
							   SKF_AD_OFF + SKF_AD_CPU);
	for (int i = 0; i < opt->workers && !consecutive(opt); i++) {
		code[program.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
								   opt->cores[i], 0, 1);
		code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, i);
	}
	code[program.len++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, shift);
	code[program.len++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_MOD | BPF_K,
							   opt->workers);
	code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_A, 0);

	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof(program)))
		fail(1, "-m cbpf: the kernel refuses the BPF program for %s: %s: give another mode",
		     end->text, strerror(errno));
}

void listen_open(const struct options *opt)
{
	int sets = set_count(opt);

	fds = calloc(sets * opt->listen_count, sizeof(*fds));
	if (!fds)
		fail(1, "out of memory");
	for (int a = 0; a < opt->listen_count; a++) {
		const struct endpoint *end = &opt->listen[a];

		/*
		 * An old server that still runs may have SO_REUSEPORT set, and would
		 * then share its connections with this one unnoticed. Without the
		 * option bind() fails if its port is in use.
		 */
		if (one_set_each(opt))
			close(open_bound(end, false));

		for (int set = 0; set < sets; set++) {
			int fd = open_bound(end, one_set_each(opt));

			if (listen(fd, BACKLOG))
				fail_address(end);
			fds[set * opt->listen_count + a] = fd;
		}
		if (opt->mode == MODE_CBPF)
			attach_cpu_choice(fds[a], opt, end);
	}
}

const int *listen_take(const struct options *opt, int worker)
{
	int kept = one_set_each(opt) ? worker : 0;

	for (int set = 0; set < set_count(opt); set++)
		for (int a = 0; a < opt->listen_count; a++)
			if (set != kept)
				close(fds[set * opt->listen_count + a]);
	return &fds[kept * opt->listen_count];
}

void listen_close(const struct options *opt)
{
	for (int i = 0; i < set_count(opt) * opt->listen_count; i++)
		close(fds[i]);
}
