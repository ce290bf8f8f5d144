// SPDX-License-Identifier: GPL-2.0-only
/*
 * Calls that the kernel forbids or answers otherwise get the same results through the
 * module: wrong sockets, tasks whose system calls are filtered, and a comparison with
 * an ordinary socket for each switch. Runs in the guest, as root. Usage: test_same
 * [TEST]
 */
#include <linux/bpf.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "helpers.h"

#define FRAMEWORK PARAM "enable_rps_framework"
#define RFD PARAM "enable_receive_flow_deliver"
#define POOL PARAM "enable_socket_pool_size"

#define PORTS "/proc/sys/net/ipv4/ip_local_port_range"
#define RESERVED "/proc/sys/net/ipv4/ip_local_reserved_ports"
#define TW_REUSE "/proc/sys/net/ipv4/tcp_tw_reuse"
#define CGROUP "/sys/fs/cgroup/test_same"

static int dev = -1;

static int setup(void **state)
{
	(void)state;
	unpin();
	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	return dev < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	close(dev);
	unpin();
	write_file(RFD, "0");
	write_file(POOL, "0");
	write_file(FRAMEWORK, "0");
	write_file(PORTS, "32768 60999");
	write_file(RESERVED, "\n");
	write_file(TW_REUSE, "2");
	return 0;
}

static int call(unsigned long request, int fd)
{
	struct fsocket_ioctl_arg arg = { .fd = fd, .backlog = 16 };

	return ioctl(dev, request, &arg);
}

static int module_connect(int fd, const void *address, int len)
{
	struct fsocket_ioctl_arg arg = { .fd = fd };

	arg.op.connect_op.sockaddr = address;
	arg.op.connect_op.sockaddr_len = len;
	return ioctl(dev, FSOCKET_IOC_CONNECT, &arg);
}

/* --- any fd that a program passes --------------------------------- */

/* A protocol number means nothing without family and type. */
static void wrong_sockets(void **state)
{
	static const struct { int family, type, protocol; } kinds[] = {
		{ AF_NETLINK, SOCK_RAW, 6 },
		{ AF_INET, SOCK_RAW, IPPROTO_TCP },
		{ AF_INET6, SOCK_RAW, IPPROTO_TCP },
		{ AF_PACKET, SOCK_RAW, 6 },
		{ AF_INET, SOCK_DGRAM, 0 },
		{ AF_UNIX, SOCK_STREAM, 0 },
		{ AF_VSOCK, SOCK_STREAM, 0 },
		{ AF_INET, SOCK_STREAM, 262 /* MPTCP */ },
	};
	static const unsigned long requests[] = {
		FSOCKET_IOC_SPAWN_LISTEN, FSOCKET_IOC_RETIRE_LISTEN, FSOCKET_IOC_LISTEN,
		FSOCKET_IOC_ACCEPT,
	};
	unsigned int i, j;

	(void)state;
	write_file(RFD, "1");
	write_file(POOL, "8");
	for (i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		union {
			struct sockaddr sa;
			char bytes[128];
		} a = { .sa.sa_family = kinds[i].family };
		int ours, stock, error, len;

		/* Addresses that are too short, of another family, and of its own. */
		for (len = 0; len <= 128; len += 16) {
			ours = socket(kinds[i].family, kinds[i].type, kinds[i].protocol);
			stock = socket(kinds[i].family, kinds[i].type, kinds[i].protocol);
			if (ours < 0)
				break;
			set_nonblock(ours);
			set_nonblock(stock);
			errno = 0;
			connect(stock, &a.sa, len);
			error = errno;
			errno = 0;
			module_connect(ours, &a, len);
			assert_int_equal(errno, error);
			for (j = 0; j < sizeof(requests) / sizeof(*requests); j++)
				call(requests[j], ours);
			close(ours);
			close(stock);
		}
	}
}

/* --- calls that are forbidden otherwise ------------------------------------- */

static const unsigned long syscalls[] = {
	FSOCKET_IOC_SOCKET, FSOCKET_IOC_LISTEN, FSOCKET_IOC_ACCEPT, FSOCKET_IOC_CONNECT,
	FSOCKET_IOC_SHUTDOWN_LISTEN, FSOCKET_IOC_CLOSE,
};

#define SYSCALLS ((int)(sizeof(syscalls) / sizeof(*syscalls)))

static void assert_refused(int fd)
{
	int i;

	for (i = 0; i < SYSCALLS; i++)
		assert_errno(call(syscalls[i], fd), EPERM);
	assert_ok(fcntl(fd, F_GETFD));
}

/* The filter is like that of systemd's RestrictAddressFamilies=: all but one call is allowed. */
static void install_filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAFNOSUPPORT),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };

	assert_ok(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	assert_ok(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

static void filtered_tasks(void **state)
{
	union address a;
	int fd = bound_socket(AF_INET, &a), status;
	pid_t child;

	(void)state;
	child = fork();
	if (!child) {
		install_filter();
		assert_errno(socket(AF_INET, SOCK_STREAM, 0), EAFNOSUPPORT);
		assert_refused(fd);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	/* All other tasks may. */
	assert_ok(call(FSOCKET_IOC_LISTEN, fd));
	assert_ok(call(FSOCKET_IOC_CLOSE, fd));
}

/* A tracer that decides about system calls would see an ioctl. */
static void traced_tasks(void **state)
{
	union address a;
	int fd = bound_socket(AF_INET, &a), status;
	pid_t child;

	(void)state;
	child = fork();
	if (!child) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(call(FSOCKET_IOC_LISTEN, fd) == -1 && errno == EPERM ? 0 : 1);
	}
	while (waitpid(child, &status, 0) == child && WIFSTOPPED(status))
		ptrace(PTRACE_SYSCALL, child, NULL, NULL);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	close(fd);
}

/* --- the socket pool ---------------------------------------------------------- */

static int read_nowait(int fd)
{
	char byte;
	struct iovec to = { &byte, 1 };

	errno = 0;
	preadv2(fd, &to, 1, -1, RWF_NOWAIT);
	return errno;
}

static void sockets_that_never_wait(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), i;

	(void)state;
	write_file(POOL, "8");
	pin(1);
	/* The first socket is made for the pool, and the others come from there. */
	for (i = 0; i < 3; i++) {
		int stock = connect_on(1, &a), client, pooled, plain;

		plain = accept(fd, NULL, NULL);
		client = connect_on(1, &a);
		pooled = call(FSOCKET_IOC_ACCEPT, fd);
		assert_ok(pooled);
		assert_int_equal(read_nowait(pooled), read_nowait(plain));
		close(plain);
		close(pooled);
		close(stock);
		close(client);
	}
	close(fd);
}

/* --- ports of RFD -------------------------------------------------------------- */

/* RFD does not take a port in TIME_WAIT again if tcp_tw_reuse forbids it. */
static void time_wait_is_kept(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), client, conn, cpu;
	char byte;

	(void)state;
	write_file(TW_REUSE, "0");
	/* There is one port; the kernel warns of ends of the same parity. */
	write_file(RESERVED, "41235");
	write_file(PORTS, "41234 41235");
	client = socket(AF_INET, SOCK_STREAM, 0);
	assert_ok(connect(client, &a.sa, sizeof(a.in)));
	conn = accept(fd, NULL, NULL);
	shutdown(client, SHUT_WR);
	assert_int_equal(read(conn, &byte, 1), 0);
	close(conn);
	assert_int_equal(read(client, &byte, 1), 0);
	close(client);

	client = socket(AF_INET, SOCK_STREAM, 0);
	assert_errno(connect(client, &a.sa, sizeof(a.in)), EADDRNOTAVAIL);
	write_file(RFD, "1");
	for (cpu = 0; cpu < sysconf(_SC_NPROCESSORS_ONLN); cpu++) {
		pin(cpu);
		assert_errno(module_connect(client, &a, sizeof(a.in)), EADDRNOTAVAIL);
	}
	unpin();
	close(client);
	close(fd);
}

static int bpf(int command, union bpf_attr *attr)
{
	return syscall(SYS_bpf, command, attr, sizeof(*attr));
}

/* A BPF program for connect() that binds the socket to 127.0.0.1, and forbids all else. */
static int load_binder(void)
{
	static const struct bpf_insn code[] = {
		{ .code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = 10, .off = -16, .imm = AF_INET },
		{ .code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = 10, .off = -8, .imm = 0 },
		{ .code = BPF_ST | BPF_MEM | BPF_W, .dst_reg = 10, .off = -12, .imm = 0x0100007f },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 2, .src_reg = 10 },
		{ .code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = 2, .imm = -16 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = 16 },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_bind },
		{ .code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = 0, .off = 2, .imm = 0 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 1 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
		.expected_attach_type = BPF_CGROUP_INET4_CONNECT,
		.insns = (uintptr_t)code,
		.insn_cnt = sizeof(code) / sizeof(*code),
		.license = (uintptr_t)"GPL",
	};

	return bpf(BPF_PROG_LOAD, &attr);
}

/* The program finds the socket unbound, as without the module. */
static void programs_of_cgroups(void **state)
{
	union bpf_attr attr = { .attach_type = BPF_CGROUP_INET4_CONNECT };
	union address a;
	int fd = listener(AF_INET, &a), client, status;
	pid_t child;

	(void)state;
	write_file(RFD, "1");
	rmdir(CGROUP);
	assert_ok(mkdir(CGROUP, 0755));
	attr.target_fd = open(CGROUP, O_RDONLY | O_DIRECTORY);
	attr.attach_bpf_fd = load_binder();
	assert_ok(attr.attach_bpf_fd);
	assert_ok(bpf(BPF_PROG_ATTACH, &attr));
	child = fork();
	if (!child) {
		unsigned long long ports = counter("rfd_port", -1);

		write_file(CGROUP "/cgroup.procs", "0");
		client = socket(AF_INET, SOCK_STREAM, 0);
		assert_ok(connect(client, &a.sa, sizeof(a.in)));
		client = socket(AF_INET, SOCK_STREAM, 0);
		assert_ok(module_connect(client, &a, sizeof(a.in)));
		assert_int_equal(counter("rfd_port", -1), ports + 1);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_ok(bpf(BPF_PROG_DETACH, &attr));
	close(attr.attach_bpf_fd);
	close(attr.target_fd);
	close(fd);
	rmdir(CGROUP);
	assert_int_equal(status, 0);
}

static int incoming_cpu(int fd)
{
	socklen_t len = sizeof(int);
	int cpu = -2;

	assert_ok(getsockopt(fd, SOL_SOCKET, SO_INCOMING_CPU, &cpu, &len));
	return cpu;
}

/* A port that RFD once chose names no CPU in another connection. */
static void ports_of_others(void **state)
{
	union address a, own, other;
	int first = listener(AF_INET, &a), second = listener(AF_INET, &other);
	socklen_t len = sizeof(own);
	int client, conn, again = 1, i;
	char byte = 'x';

	(void)state;
	write_file(FRAMEWORK, "1");
	write_file(RFD, "1");
	pin(5);
	client = socket(AF_INET, SOCK_STREAM, 0);
	assert_ok(module_connect(client, &a, sizeof(a.in)));
	assert_ok(getsockname(client, &own.sa, &len));
	conn = accept(first, NULL, NULL);
	/* The server's end stays, in TIME_WAIT. */
	close(conn);
	assert_int_equal(read(client, &byte, 1), 0);
	close(client);

	pin(2);
	client = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(client, SOL_SOCKET, SO_REUSEADDR, &again, sizeof(again));
	/* The former client is in LAST_ACK until its last packet is acknowledged. */
	await(!bind(client, &own.sa, sizeof(own.in)));
	assert_ok(connect(client, &other.sa, sizeof(other.in)));
	conn = accept(second, NULL, NULL);
	for (i = 0; i < 3; i++) {
		assert_int_equal(write(conn, &byte, 1), 1);
		assert_int_equal(read(client, &byte, 1), 1);
	}
	assert_int_equal(incoming_cpu(client), 2);
	close(client);
	close(conn);
	close(first);
	close(second);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(wrong_sockets),
		T(filtered_tasks),
		T(traced_tasks),
		T(sockets_that_never_wait),
		T(time_wait_is_kept),
		T(programs_of_cgroups),
		T(ports_of_others),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
