// SPDX-License-Identifier: GPL-2.0-only
/*
 * The steps of root, in a process of its own, while the unprivileged calls run:
 * parameters, CPUs that go offline and come back, a system without free files, sockets
 * that are aborted, the module unloaded and loaded.
 */
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>

#include "fuzz.h"

#define PARAMETERS "/sys/module/fastsocket/parameters/"

static const struct parameter {
	const char *name;
	int values[6];
} parameters[] = {
	{ "enable_listen_spawn", { 2, 2, 2, 1, 0, 3 } },
	{ "enable_fastsocket_debug", { 3, 3, 0, 5, 4, 6 } },
	{ "enable_local_established", { 0, 1, 0, 1, 1, 2 } },
	{ "enable_direct_tcp", { 0, 1, 0, 1, 1, 2 } },
	{ "enable_rps_framework", { 0, 1, 1, 1, 1, 2 } },
	{ "enable_receive_flow_deliver", { 0, 1, 0, 1, 1, 2 } },
	{ "enable_receive_cpu_selection", { 0, 1, 0, 1, 1, 2 } },
	{ "enable_fast_epoll", { 0, 1, 0, 1, 1, 2 } },
	{ "enable_skb_pool", { 0, 1, 2, 3, 3, 4 } },
	{ "enable_socket_pool_size", { 0, 1, 8, 64, 64, -1 } },
};

static bool write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool written = fd >= 0 && write(fd, text, strlen(text)) > 0;

	if (fd >= 0)
		close(fd);
	return written;
}

static bool write_number(const char *path, long long number)
{
	char text[24];

	snprintf(text, sizeof(text), "%lld", number);
	return write_text(path, text);
}

static void write_parameter(struct rng *rng)
{
	const struct parameter *p = &ANY_OF(rng, parameters);
	char path[128];

	snprintf(path, sizeof(path), PARAMETERS "%s", p->name);
	write_number(path, ANY_OF(rng, p->values));
	shared->writes++;
}

static void switch_cpu(struct rng *rng)
{
	char path[64];
	int cpu;

	if (shared->cpus < 2)
		return;
	cpu = 1 + below(rng, shared->cpus - 1);
	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	if (!write_number(path, 0))
		return;
	shared->hotplugs++;
	usleep(below(rng, 20000));
	write_number(path, 1);
}

/* The next few opens and accepts of other users fail for want of a file (ENFILE). */
static void lack_files(struct rng *rng)
{
	unsigned long long used = 0;
	char text[64] = "";
	int fd = open("/proc/sys/fs/file-nr", O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && read(fd, text, sizeof(text) - 1) > 0)
		sscanf(text, "%llu", &used);
	if (fd >= 0)
		close(fd);
	if (!used)
		return;
	write_number("/proc/sys/fs/file-max", used - 64 + below(rng, 80));
	if (single())
		return;
	usleep(below(rng, 50000));
	root_restore();
}

/* Aborts the socket that the kernel finds at one of the addresses, as ss -K does. */
static void abort_socket(struct rng *rng)
{
	static const uint32_t hosts[] = { INADDR_LOOPBACK, INADDR_LOOPBACK, INADDR_ANY };
	struct {
		struct nlmsghdr header;
		struct inet_diag_req_v2 request;
	} message = {
		.header = { sizeof(message), SOCK_DESTROY, NLM_F_REQUEST, 0, 0 },
		.request = {
			.sdiag_family = one_in(rng, 3) ? AF_INET6 : AF_INET,
			.sdiag_protocol = IPPROTO_TCP, .idiag_states = ~0U,
			.id.idiag_sport = htons(PORT_BASE + below(rng, PORTS)),
			.id.idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE },
		},
	};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);

	if (message.request.sdiag_family == AF_INET)
		message.request.id.idiag_src[0] = htonl(ANY_OF(rng, hosts));
	else if (!one_in(rng, 3))
		inet_pton(AF_INET6, "::1", message.request.id.idiag_src);
	if (send(fd, &message, sizeof(message), 0) == sizeof(message))
		shared->aborts++;
	close(fd);
}

static bool load(struct rng *rng)
{
	char arguments[512] = "";
	int fd = open(options.module, O_RDONLY | O_CLOEXEC), i, ret;

	for (i = 0; i < (int)ARRAY_SIZE(parameters) && rng; i++)
		if (one_in(rng, 4))
			snprintf(arguments + strlen(arguments), sizeof(arguments) - strlen(arguments),
				 "%s=%d ", parameters[i].name, parameters[i].values[below(rng, 4)]);
	ret = syscall(SYS_finit_module, fd, arguments, 0);
	close(fd);
	return !ret || errno == EEXIST;
}

/* All processes let go of the device for a moment; sockets that have been accepted may live on. */
static void reload(struct rng *rng)
{
	int tries, unloaded = -1;

	if (!options.module)
		return;
	__atomic_store_n(&shared->pause, 1, __ATOMIC_RELEASE);
	for (tries = 0; tries < 100 && unloaded && !shared->stop; tries++) {
		unloaded = syscall(SYS_delete_module, "fastsocket", O_NONBLOCK);
		if (unloaded && single())
			break;
		if (unloaded)
			usleep(10000);
	}
	if (!unloaded) {
		shared->reloads++;
		if (!load(rng) && !load(NULL)) {
			fprintf(stderr, "fuzz: the module could not be loaded again\n");
			shared->failed = 1;
			shared->stop = 1;
		}
	}
	__atomic_store_n(&shared->pause, 0, __ATOMIC_RELEASE);
}

static void restore(struct rng *rng)
{
	(void)rng;
	root_restore();
}

static void root_step(uint64_t seed)
{
	static const struct {
		const char *name;
		void (*act)(struct rng *rng);
	} steps[] = {
		{ "parameters", write_parameter }, { "parameters", write_parameter },
		{ "parameters", write_parameter }, { "parameters", write_parameter },
		{ "cpus", switch_cpu }, { "files", lack_files }, { "files", restore },
		{ "aborts", abort_socket }, { "modules", reload },
	};
	struct rng rng = { seed };
	int i = below(&rng, ARRAY_SIZE(steps));

	if (!without(steps[i].name))
		steps[i].act(&rng);
}

/* Switches on what fail-nth needs; kernels without fault injection do not have these files. */
static void prepare(void)
{
	write_text("/sys/kernel/debug/failslab/ignore-gfp-wait", "N");
	write_text("/sys/kernel/debug/failslab/verbose", "0");
	write_text("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N");
	write_text("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N");
	write_text("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	write_text("/sys/kernel/debug/fail_page_alloc/verbose", "0");
	write_text("/sys/kernel/debug/fail_usercopy/verbose", "0");
}

bool root_restore(void)
{
	int i;
	char path[128];

	write_text("/proc/sys/fs/file-max", "1000000");
	if (!shared->stop)
		return true;
	/* The end: restores everything as after loading, in an allowed order. */
	for (i = ARRAY_SIZE(parameters) - 1; i >= 0; i--) {
		snprintf(path, sizeof(path), PARAMETERS "%s", parameters[i].name);
		write_number(path, parameters[i].values[0]);
	}
	write_text(PARAMETERS "enable_rps_framework", "0");
	return write_text(PARAMETERS "enable_fast_epoll", "1");
}

void root_main(void)
{
	struct rng rng = { options.seed ^ 0x726f6f74 };
	uint64_t seed;

	prepare();
	while (!shared->stop) {
		if (single()) {
			seed = __atomic_load_n(&shared->root_step, __ATOMIC_ACQUIRE);
			if (!seed) {
				usleep(200);
				continue;
			}
			root_step(seed);
			__atomic_store_n(&shared->root_step, 0, __ATOMIC_RELEASE);
		} else {
			root_step(random64(&rng));
			usleep(below(&rng, 60000));
		}
	}
	_exit(0);
}
