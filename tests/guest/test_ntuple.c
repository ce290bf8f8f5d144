// SPDX-License-Identifier: GPL-2.0-only
/*
 * Receive Flow Deliver by the NIC (kmod/ntuple.c), with the NIC of ntuple_nic.ko
 * ($NIC_KO). Runs as root in the guest. Usage: test_ntuple [TEST]
 */
#include <linux/ethtool.h>
#include <linux/sockios.h>

#include "helpers.h"

#define NIC "ntuple"
#define RFD PARAM "enable_receive_flow_deliver"

/* The filters of the NIC, up to 64. */
static struct ethtool_rx_flow_spec filters[64];

static int ask_nic(unsigned long request, void *data)
{
	struct ifreq ifr = { .ifr_name = NIC, .ifr_data = data };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), ret;

	assert_ok(fd);
	ret = ioctl(fd, request, &ifr);
	close(fd);
	return ret;
}

static void set_up(bool up)
{
	struct ifreq ifr = { .ifr_name = NIC, .ifr_flags = up ? IFF_UP : 0 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	assert_ok(ioctl(fd, SIOCSIFFLAGS, &ifr));
	close(fd);
}

static void set_ntuple(bool on)
{
	struct ethtool_value value = { .cmd = ETHTOOL_SFLAGS, .data = on ? ETH_FLAG_NTUPLE : 0 };

	assert_ok(ask_nic(SIOCETHTOOL, &value));
}

static int insert(int location, int port, int mask)
{
	struct ethtool_rxnfc nfc = { .cmd = ETHTOOL_SRXCLSRLINS };

	nfc.fs.flow_type = TCP_V4_FLOW;
	nfc.fs.h_u.tcp_ip4_spec.pdst = htons(port);
	nfc.fs.m_u.tcp_ip4_spec.pdst = htons(mask);
	nfc.fs.location = location;
	return ask_nic(SIOCETHTOOL, &nfc);
}

static int read_filters(void)
{
	struct {
		struct ethtool_rxnfc nfc;
		__u32 more[64];
	} all = { .nfc.cmd = ETHTOOL_GRXCLSRLALL, .nfc.rule_cnt = 64 };
	struct ethtool_rxnfc one = { .cmd = ETHTOOL_GRXCLSRULE };
	unsigned int i;

	assert_ok(ask_nic(SIOCETHTOOL, &all));
	for (i = 0; i < all.nfc.rule_cnt; i++) {
		one.fs.location = all.nfc.rule_locs[i];
		assert_ok(ask_nic(SIOCETHTOOL, &one));
		filters[i] = one.fs;
	}
	return all.nfc.rule_cnt;
}

static void load_nic(const char *options)
{
	assert_ok(load_module(getenv("NIC_KO"), options));
}

static int setup(void **state)
{
	(void)state;
	unpin();
	write_file(RFD, "0");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unpin();
	write_file(RFD, "0");
	syscall(SYS_delete_module, "ntuple_nic", O_NONBLOCK);
	return 0;
}

/* Returns the queue to which the filters send @port; -1 if none matches. */
static int queue_for(int port, int count)
{
	int i, queue = -1;

	for (i = 0; i < count; i++) {
		int mask = ntohs(filters[i].m_u.tcp_ip4_spec.pdst);

		assert_int_equal(filters[i].flow_type, TCP_V4_FLOW);
		if ((port & mask) != ntohs(filters[i].h_u.tcp_ip4_spec.pdst))
			continue;
		/* Two filters never match. */
		assert_int_equal(queue, -1);
		queue = filters[i].ring_cookie;
	}
	return queue;
}

/* Each filter delivers only the ports that RFD chooses on its CPU. */
static void ports_checked(int count)
{
	int dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC), cpu, i;
	union address a;
	int fd = listener(AF_INET, &a);

	assert_ok(dev);
	for (cpu = 0; cpu < sysconf(_SC_NPROCESSORS_ONLN); cpu++) {
		pin(cpu);
		for (i = 0; i < 8; i++) {
			int client = socket(AF_INET, SOCK_STREAM, 0);
			struct fsocket_ioctl_arg arg = { .fd = client };
			socklen_t len = sizeof(a);
			union address own;

			arg.op.connect_op.sockaddr = &a.sa;
			arg.op.connect_op.sockaddr_len = sizeof(a.in);
			assert_ok(ioctl(dev, FSOCKET_IOC_CONNECT, &arg));
			assert_ok(getsockname(client, &own.sa, &len));
			assert_int_equal(queue_for(ntohs(own.in.sin_port), count), cpu);
			close(client);
		}
	}
	/* Ports of servers match no filter. */
	assert_int_equal(queue_for(80, count), -1);
	assert_int_equal(queue_for(8080, count), -1);
	close(fd);
	close(dev);
}

static void filters_come_and_go(void **state)
{
	int cpus = sysconf(_SC_NPROCESSORS_CONF);

	(void)state;
	load_nic("");
	set_up(true);
	assert_int_equal(read_filters(), 0);
	write_file(RFD, "1");
	assert_int_equal(read_filters(), cpus);
	ports_checked(cpus);
	write_file(RFD, "0");
	assert_int_equal(read_filters(), 0);
	write_file(RFD, "1");
	/* The filters follow the interface, and its ntuple switch. */
	set_up(false);
	assert_int_equal(read_filters(), 0);
	set_up(true);
	assert_int_equal(read_filters(), cpus);
	set_ntuple(false);
	assert_int_equal(read_filters(), 0);
	set_up(false);
	set_up(true);
	assert_int_equal(read_filters(), 0);
	set_ntuple(true);
	assert_int_equal(read_filters(), cpus);
	ports_checked(cpus);
	/* The interface may go, and come when everything is on. */
	assert_ok(syscall(SYS_delete_module, "ntuple_nic", O_NONBLOCK));
	load_nic("");
	set_up(true);
	assert_int_equal(read_filters(), cpus);
	ports_checked(cpus);
}

static void the_nic_chooses_places(void **state)
{
	int cpus = sysconf(_SC_NPROCESSORS_CONF);

	(void)state;
	load_nic("chooses=1");
	set_up(true);
	write_file(RFD, "1");
	assert_int_equal(read_filters(), cpus);
	ports_checked(cpus);
	write_file(RFD, "0");
	assert_int_equal(read_filters(), 0);
}

static void filters_of_others_stay(void **state)
{
	(void)state;
	load_nic("");
	set_up(true);
	/* The NIC has one mask for all filters, and another filter was there first. */
	assert_ok(insert(63, 80, 0xffff));
	assert_ok(insert(5, 443, 0xffff));
	write_file(RFD, "1");
	assert_int_equal(read_filters(), 2);
	write_file(RFD, "0");
	assert_int_equal(read_filters(), 2);
	assert_int_equal(queue_for(80, 2), 0);
	assert_int_equal(queue_for(443, 2), 0);
}

static void full_table(void **state)
{
	char options[64];

	(void)state;
	snprintf(options, sizeof(options), "size=%ld", sysconf(_SC_NPROCESSORS_CONF) - 1);
	load_nic(options);
	set_up(true);
	write_file(RFD, "1");
	assert_int_equal(read_filters(), 0);
}

/* The NIC chooses the place; filters that are there by then are removed again. */
static void full_table_that_the_nic_fills(void **state)
{
	char options[64];

	(void)state;
	snprintf(options, sizeof(options), "chooses=1 size=%ld",
		 sysconf(_SC_NPROCESSORS_CONF) - 1);
	load_nic(options);
	set_up(true);
	write_file(RFD, "1");
	assert_int_equal(read_filters(), 0);
}

static void whole_ports_only(void **state)
{
	(void)state;
	load_nic("whole_ports=1");
	set_up(true);
	write_file(RFD, "1");
	assert_int_equal(read_filters(), 0);
}

static void too_few_queues(void **state)
{
	(void)state;
	load_nic("queues=2");
	set_up(true);
	write_file(RFD, "1");
	assert_int_equal(read_filters(), 0);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(filters_come_and_go),
		T(the_nic_chooses_places),
		T(filters_of_others_stay),
		T(full_table),
		T(full_table_that_the_nic_fills),
		T(whole_ports_only),
		T(too_few_queues),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
