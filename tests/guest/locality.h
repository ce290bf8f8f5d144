/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Functions that tests of connection locality share: the switches, and where packets
 * are handled.
 */
#ifndef TESTS_GUEST_LOCALITY_H
#define TESTS_GUEST_LOCALITY_H

#include "device.h"

static const char * const switches[] = {
	PARAM "enable_local_established",
	PARAM "enable_direct_tcp",
	PARAM "enable_rps_framework",
	PARAM "enable_receive_flow_deliver",
	PARAM "enable_receive_cpu_selection",
	PARAM "enable_skb_pool",
};

#define SWITCHES ((int)(sizeof(switches) / sizeof(*switches)))

static inline void all_off(void)
{
	int i;

	for (i = SWITCHES - 1; i >= 0; i--)
		write_file(switches[i], "0");
}

static inline void all_on(void)
{
	int i;

	for (i = 0; i < SWITCHES; i++)
		write_file(switches[i], "1");
}

static inline int setup(void **state)
{
	(void)state;
	unpin();
	all_off();
	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	return dev < 0 ? -1 : 0;
}

static inline int teardown(void **state)
{
	(void)state;
	close(dev);
	unpin();
	all_off();
	return 0;
}

static inline int rfd_connect(int fd, const union address *a)
{
	struct fsocket_ioctl_arg arg = { .fd = fd };

	arg.op.connect_op.sockaddr = &a->sa;
	arg.op.connect_op.sockaddr_len = address_len(a);
	return ioctl(dev, FSOCKET_IOC_CONNECT, &arg);
}

static inline int local_port(int fd)
{
	union address a;
	socklen_t len = sizeof(a);

	assert_ok(getsockname(fd, &a.sa, &len));
	return ntohs(a.in.sin_port);
}

/* Returns the CPU that handled its latest packet. */
static inline int incoming_cpu(int fd)
{
	int cpu = -2;
	socklen_t len = sizeof(cpu);

	assert_ok(getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &len));
	return cpu;
}

static inline int bytes_in(int fd)
{
	int bytes = -1;

	assert_ok(ioctl(fd, FIONREAD, &bytes));
	return bytes;
}

static inline void say(int from, int to, int times)
{
	char byte = 'x';

	while (times--) {
		assert_int_equal(write(from, &byte, 1), 1);
		assert_int_equal(read(to, &byte, 1), 1);
	}
}

/*
 * Switching a parameter patches the kernel's code if a static key or a tracepoint is
 * the first, or the last, of its kind. An emulated CPU (QEMU 7.2, eight on two real
 * ones) may then go on executing a breakpoint that has long been removed: all CPUs loop
 * in int3, although memory has the final instruction. So other users hold these keys
 * while a test switches under load. The storm has the skb pool's sending side, for
 * which ftrace patches, on all the time.
 */
static inline void hold_static_keys(bool hold)
{
	static const char on[] =
		"nft add table netdev storm &&"
		"nft 'add chain netdev storm in { type filter hook ingress device lo priority 0; }' &&"
		"nft add table inet storm &&"
		"nft 'add chain inet storm in { type filter hook prerouting priority 0; }' &&"
		"nft 'add chain inet storm out { type filter hook output priority 0; }' &&"
		"cd /sys/kernel/tracing/instances && mkdir storm1 storm2 &&"
		"echo 1 > storm1/events/sock/inet_sock_set_state/enable &&"
		"echo 1 > storm2/events/sock/inet_sock_set_state/enable";
	static const char off[] =
		"nft delete table netdev storm; nft delete table inet storm;"
		"cd /sys/kernel/tracing/instances &&"
		"echo 0 > storm1/events/sock/inet_sock_set_state/enable &&"
		"echo 0 > storm2/events/sock/inet_sock_set_state/enable &&"
		"rmdir storm1 storm2";

	assert_int_equal(system(hold ? on : off), 0);
}

#endif
