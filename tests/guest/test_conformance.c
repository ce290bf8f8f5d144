// SPDX-License-Identifier: GPL-2.0-only
/*
 * A socket from the pool does the same as one of accept4(), call by call. Like
 * test_module it runs in the guest, as root, on loopback. Usage: test_conformance
 * [TEST]
 */
#include "pool.h"

#include <linux/io_uring.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <sys/xattr.h>

/* --- conformance ------------------------------------------------ */

#define LOG(call)							\
do {									\
	long long ret_;							\
									\
	errno = 0;							\
	ret_ = (call);							\
	fprintf(log, "%s = %lld %s\n", #call, ret_,			\
		ret_ < 0 ? strerror(errno) : "");			\
} while (0)

static bool found_in_proc_net(int family, ino_t ino)
{
	FILE *file = fopen(family == AF_INET ? "/proc/net/tcp" : "/proc/net/tcp6", "r");
	unsigned long number;
	char line[512];
	bool found = false;

	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%*s %*s %*s %*s %*s %*s %*s %*s %*s %lu", &number) == 1 &&
		    number == ino)
			found = true;
	fclose(file);
	return found;
}

static void drive_file(FILE *log, int conn, int family)
{
	char path[64], link[64] = "", want[64], buffer[256] = "";
	struct timespec times[2] = { { .tv_sec = 5 }, { .tv_sec = 6 } };
	struct statfs fs;
	struct stat st;
	struct flock lock = { .l_type = F_WRLCK };
	void *map;

	LOG(fstat(conn, &st));
	fprintf(log, "dev %lu mode %o links %lu owner %d %d rdev %lu size %ld %ld %ld\n",
		st.st_dev, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev,
		st.st_size, st.st_blksize, st.st_blocks);
	LOG(fstatfs(conn, &fs));
	fprintf(log, "type %lx\n", (long)fs.f_type);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", conn);
	LOG(readlink(path, link, sizeof(link) - 1) > 0);
	snprintf(want, sizeof(want), "socket:[%lu]", st.st_ino);
	LOG(strcmp(link, want));
	LOG(found_in_proc_net(family, st.st_ino));
	LOG(open(path, O_RDONLY));
	LOG(open(path, O_RDWR | O_NONBLOCK));
	LOG(access(path, R_OK | W_OK | X_OK));
	LOG(fchmod(conn, 0640));
	LOG(fchown(conn, 0, 1));
	LOG(futimens(conn, times));
	LOG(fstat(conn, &st));
	fprintf(log, "mode %o owner %d %d times %ld %ld\n", st.st_mode, st.st_uid, st.st_gid,
		st.st_atime, st.st_mtime);
	LOG(ftruncate(conn, 0));
	LOG(lseek(conn, 0, SEEK_CUR));
	LOG(pread(conn, buffer, 1, 0));
	LOG(pwrite(conn, buffer, 1, 0));
	/* This is for TCP_ZEROCOPY_RECEIVE. */
	map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, conn, 0);
	LOG(map == MAP_FAILED);
	LOG(munmap(map, 4096));
	LOG(fsync(conn));
	LOG(fdatasync(conn));
	LOG(fallocate(conn, 0, 0, 10));
	LOG(posix_fadvise(conn, 0, 0, POSIX_FADV_NORMAL));
	LOG(fchdir(conn));
	LOG(syscall(SYS_getdents64, conn, buffer, sizeof(buffer)));
	LOG(flock(conn, LOCK_EX | LOCK_NB));
	LOG(flock(conn, LOCK_UN));
	LOG(fcntl(conn, F_SETLK, &lock));
	LOG(fcntl(conn, F_SETLEASE, F_RDLCK));
	LOG(fgetxattr(conn, "system.sockprotoname", buffer, sizeof(buffer)));
	fprintf(log, "%s\n", buffer);
	LOG(flistxattr(conn, buffer, sizeof(buffer)));
	fprintf(log, "%s\n", buffer);
	LOG(fgetxattr(conn, "security.selinux", buffer, sizeof(buffer)));
	LOG(fsetxattr(conn, "security.selinux", "x", 1, 0));
	LOG(fsetxattr(conn, "user.x", "x", 1, 0));
	LOG(fgetxattr(conn, "user.x", buffer, sizeof(buffer)));
	LOG(ioctl(conn, FIONREAD, &lock) < 0);
	LOG(ioctl(conn, FIGETBSZ, &lock));
	LOG(ioctl(conn, TCGETS, buffer));
}

static void drive_fcntl(FILE *log, int conn)
{
	struct f_owner_ex owner = { .type = F_OWNER_PID, .pid = getpid() };
	int copy;

	LOG(fcntl(conn, F_GETFL));
	LOG(fcntl(conn, F_GETFD));
	LOG(fcntl(conn, F_SETFD, FD_CLOEXEC));
	LOG(fcntl(conn, F_GETFD));
	LOG(fcntl(conn, F_SETFL, O_NONBLOCK | O_APPEND | O_NOATIME));
	LOG(fcntl(conn, F_GETFL));
	LOG(fcntl(conn, F_SETFL, O_DIRECT));
	LOG(fcntl(conn, F_SETFL, O_ASYNC));
	LOG(fcntl(conn, F_GETFL));
	LOG(fcntl(conn, F_SETFL, 0));
	LOG(fcntl(conn, F_SETOWN_EX, &owner));
	LOG(fcntl(conn, F_GETOWN) == getpid());
	LOG(fcntl(conn, F_SETSIG, SIGUSR1));
	LOG(fcntl(conn, F_GETSIG));
	LOG(fcntl(conn, F_SETPIPE_SZ, 4096));
	LOG(fcntl(conn, F_ADD_SEALS, 0));
	copy = fcntl(conn, F_DUPFD_CLOEXEC, 300);
	LOG(copy);
	LOG(fcntl(copy, F_GETFD));
	LOG(syscall(SYS_kcmp, getpid(), getpid(), 0, conn, copy));
	LOG(close(copy));
	LOG(dup2(conn, 301));
	LOG(inode_of(301) == inode_of(conn));
	LOG(close(301));
}

static void drive_options(FILE *log, int conn, int client, const union address *a)
{
	static const struct { int level, name; } options[] = {
		{ SOL_SOCKET, SO_TYPE }, { SOL_SOCKET, SO_PROTOCOL }, { SOL_SOCKET, SO_DOMAIN },
		{ SOL_SOCKET, SO_ERROR }, { SOL_SOCKET, SO_ACCEPTCONN },
		{ SOL_SOCKET, SO_KEEPALIVE }, { SOL_SOCKET, SO_REUSEADDR },
		{ SOL_SOCKET, SO_REUSEPORT }, { SOL_SOCKET, SO_SNDBUF },
		{ SOL_SOCKET, SO_RCVBUF }, { SOL_SOCKET, SO_PRIORITY }, { SOL_SOCKET, SO_MARK },
		{ SOL_SOCKET, SO_PASSCRED }, { SOL_SOCKET, SO_TIMESTAMP },
		{ IPPROTO_TCP, TCP_NODELAY }, { IPPROTO_TCP, TCP_CORK },
		{ IPPROTO_TCP, TCP_MAXSEG }, { IPPROTO_TCP, TCP_KEEPIDLE },
		{ IPPROTO_TCP, TCP_QUICKACK }, { IPPROTO_IP, IP_TOS }, { IPPROTO_IP, IP_TTL },
		{ IPPROTO_IPV6, IPV6_V6ONLY }, { IPPROTO_IPV6, IPV6_UNICAST_HOPS },
		{ SOL_SOCKET, 9999 },
	};
	union address name;
	socklen_t len;
	size_t i;
	int value;

	for (i = 0; i < sizeof(options) / sizeof(*options); i++) {
		fprintf(log, "option %d %d\n", options[i].level, options[i].name);
		len = sizeof(value);
		value = -1;
		LOG(getsockopt(conn, options[i].level, options[i].name, &value, &len));
		/* Until it is set, the kernel chooses the value by how soon answers followed. */
		if (options[i].level != IPPROTO_TCP || options[i].name != TCP_QUICKACK)
			fprintf(log, "%d %d\n", len, value);
		value = 1;
		LOG(setsockopt(conn, options[i].level, options[i].name, &value, sizeof(value)));
		len = sizeof(value);
		LOG(getsockopt(conn, options[i].level, options[i].name, &value, &len));
		fprintf(log, "%d %d\n", len, value);
	}
	len = sizeof(name);
	LOG(getsockname(conn, &name.sa, &len));
	LOG(memcmp(&name, a, len));
	len = sizeof(name);
	LOG(getpeername(conn, &name.sa, &len));
	LOG(name.in.sin_port != 0);
	LOG(listen(conn, 5));
	LOG(accept(conn, NULL, NULL));
	LOG(bind(conn, &a->sa, address_len(a)));
	LOG(connect(conn, &a->sa, address_len(a)));
	LOG(getpeername(client, &name.sa, &len));
	LOG(setsockopt(conn, IPPROTO_TCP, TCP_ULP, "nosuch", 6));
}

static int take_passed(int from)
{
	char space[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space,
		.msg_controllen = sizeof(space),
	};
	int fd;

	assert_int_equal(recvmsg(from, &msg, 0), 1);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

static void pass(int to, int fd)
{
	char space[CMSG_SPACE(sizeof(int))] = "";
	struct iovec iov = { "x", 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space,
		.msg_controllen = sizeof(space),
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	assert_int_equal(sendmsg(to, &msg, 0), 1);
}

static long long read_all(int fd, long long want)
{
	char buffer[4096];
	long long got = 0, n;

	while (got < want && (n = read(fd, buffer, sizeof(buffer))) > 0)
		got += n;
	return got;
}

static void drive_data(FILE *log, int conn, int client)
{
	char buffer[64] = "";
	struct iovec iov[2] = { { "ab", 2 }, { "cde", 3 } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP };
	struct pollfd urgent = { .fd = client, .events = POLLPRI };
	int pipes[2], unix_fd[2], ep, self, passed, i;
	pid_t child;

	LOG(write(conn, "1", 1));
	LOG(send(conn, "23", 2, MSG_MORE));
	LOG(sendmsg(conn, &msg, 0));
	LOG(writev(conn, iov, 2));
	LOG(sendto(conn, "z", 1, MSG_OOB, NULL, 0));
	LOG(recv(client, buffer, 13, MSG_WAITALL));
	fprintf(log, "%s\n", buffer);
	LOG(poll(&urgent, 1, 5000));
	LOG(recv(client, buffer, 1, MSG_OOB));
	LOG(recv(conn, buffer, 1, MSG_DONTWAIT));
	LOG(write(client, "hello", 5));
	LOG(readable(conn, 5000));
	LOG(ioctl(conn, FIONREAD, &i));
	LOG(i);
	LOG(recv(conn, buffer, 2, MSG_PEEK));
	LOG(read(conn, buffer, 5));

	ep = epoll_create1(EPOLL_CLOEXEC);
	LOG(epoll_ctl(ep, EPOLL_CTL_ADD, conn, &event));
	LOG(epoll_ctl(ep, EPOLL_CTL_ADD, conn, &event));
	LOG(epoll_wait(ep, &event, 1, 1000));
	LOG(event.events);
	LOG(write(client, "x", 1));
	LOG(readable(conn, 5000));
	LOG(epoll_wait(ep, &event, 1, 1000));
	LOG(event.events);
	LOG(read(conn, buffer, 1));

	self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	LOG(sendfile(conn, self, NULL, 5000));
	LOG(read_all(client, 5000));
	LOG(pipe(pipes));
	LOG(write(pipes[1], "spliced", 7));
	LOG(splice(pipes[0], NULL, conn, NULL, 7, 0));
	LOG(read_all(client, 7));
	LOG(write(client, "back", 4));
	LOG(splice(conn, NULL, pipes[1], NULL, 4, 0));
	LOG(read_all(pipes[0], 4));
	LOG(fcntl(conn, F_SETFL, O_NONBLOCK));
	LOG(splice(conn, NULL, pipes[1], NULL, 4, SPLICE_F_NONBLOCK));
	LOG(fcntl(conn, F_SETFL, 0));
	LOG(copy_file_range(self, NULL, conn, NULL, 10, 0));

	/* Another process passes it on: the same socket in each process. */
	child = fork();
	if (!child)
		_exit(write(conn, "c", 1) != 1);
	LOG(waitpid(child, &i, 0) == child);
	LOG(i);
	LOG(read_all(client, 1));
	LOG(socketpair(AF_UNIX, SOCK_STREAM, 0, unix_fd));
	pass(unix_fd[0], conn);
	passed = take_passed(unix_fd[1]);
	LOG(syscall(SYS_kcmp, getpid(), getpid(), 0, conn, passed));
	LOG(write(passed, "p", 1));
	LOG(read_all(client, 1));
	LOG(close(passed));
	for (i = 0; i < 2; i++) {
		close(pipes[i]);
		close(unix_fd[i]);
	}
	close(self);
	close(ep);
}

/* Makes one operation of io_uring and returns its result. */
static int uring(int op, int fd, void *buffer, unsigned int len)
{
	struct io_uring_params p = { 0 };
	int ring = syscall(SYS_io_uring_setup, 1, &p), res;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	char *rings;

	if (ring < 0)
		return -errno;
	rings = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	sqe = mmap(NULL, sizeof(*sqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	assert_true(rings != MAP_FAILED && (void *)sqe != MAP_FAILED);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = op;
	sqe->fd = fd;
	sqe->addr = (unsigned long)buffer;
	sqe->len = len;
	((unsigned int *)(rings + p.sq_off.array))[0] = 0;
	__atomic_store_n((unsigned int *)(rings + p.sq_off.tail), 1, __ATOMIC_RELEASE);
	assert_int_equal(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS,
				 NULL, 0), 1);
	cqe = (struct io_uring_cqe *)(rings + p.cq_off.cqes);
	res = cqe->res;
	munmap(rings, 4096);
	munmap(sqe, sizeof(*sqe));
	close(ring);
	return res;
}

static void drive_end(FILE *log, int conn, int client, int how)
{
	struct linger reset = { .l_onoff = 1 };
	struct pollfd p = { .fd = conn, .events = POLLIN | POLLOUT | POLLRDHUP };
	char buffer[8];

	LOG(uring(IORING_OP_SEND, conn, "io", 2));
	LOG(read_all(client, 2));
	LOG(write(client, "ring", 4));
	LOG(uring(IORING_OP_RECV, conn, buffer, 4));
	switch (how) {
	case 0:
		LOG(shutdown(conn, SHUT_WR));
		LOG(write(conn, "x", 1));
		LOG(read(client, buffer, 1));
		LOG(shutdown(client, SHUT_WR));
		LOG(read(conn, buffer, 1));
		LOG(poll(&p, 1, 1000));
		LOG(p.revents);
		LOG(shutdown(conn, SHUT_RDWR));
		break;
	case 1:
		LOG(setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)));
		LOG(close(client));
		handle_packets();
		LOG(poll(&p, 1, 1000));
		LOG(p.revents);
		LOG(read(conn, buffer, 1));
		LOG(read(conn, buffer, 1));
		LOG(write(conn, "x", 1));
		break;
	case 2:
		LOG(setsockopt(conn, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)));
		break;
	case 3:
		/* After disconnecting it is a fresh socket. */
		LOG(connect(conn, &(struct sockaddr){ .sa_family = AF_UNSPEC },
			    sizeof(struct sockaddr)));
		LOG(listen(conn, 1));
		break;
	}
	LOG(close(conn));
	LOG(fcntl(conn, F_GETFD));
	if (how == 2) {
		LOG(readable(client, 20000));
		LOG(read(client, buffer, 1));
	}
	if (how != 1)
		close(client);
}

static void drive(accept_fn *fn, int family, int how, char *text, size_t size)
{
	FILE *log = fmemopen(text, size, "w");
	union address a, peer, name;
	socklen_t len = sizeof(peer), name_len = sizeof(name);
	int fd = listener(family, &a), client = connect_on(2, &a), conn;

	conn = fn(fd, &peer.sa, &len, 0);
	LOG(conn >= 0);
	LOG(len);
	LOG(getsockname(client, &name.sa, &name_len));
	LOG(memcmp(&name, &peer, len));
	/* The connection outlives its listener. */
	LOG(close(fd));
	drive_file(log, conn, family);
	drive_fcntl(log, conn);
	drive_data(log, conn, client);
	drive_options(log, conn, client, &a);
	drive_end(log, conn, client, how);
	/* The log must be complete. */
	assert_true(ftell(log) < (long)size - 1);
	fclose(log);
}

/* Does what assert_string_equal() does, which cuts off long texts: prints the lines that differ. */
static void assert_same_log(const char *log, const char *stock)
{
	size_t at = 0, line = 0;

	while (log[at] && log[at] == stock[at])
		if (log[at++] == '\n')
			line = at;
	if (log[at] != stock[at])
		fail_msg("\"%.*s\", on the stock stack \"%.*s\"",
			 (int)strcspn(log + line, "\n"), log + line,
			 (int)strcspn(stock + line, "\n"), stock + line);
}

static void conformance(int family)
{
	static char stock[65536], fresh[65536], pooled[65536];
	int how;

	signal(SIGPIPE, SIG_IGN);
	for (how = 0; how < 4; how++) {
		drive(accept4, family, how, stock, sizeof(stock));
		write_file(SIZE, "0");
		write_file(SIZE, "8");
		counts();
		drive(pool_accept4, family, how, fresh, sizeof(fresh));
		assert_int_equal(counts().from_slab, 1);
		/*
		 * The first test changed its socket's owner, and the second must not
		 * get that socket.
		 */
		write_file(SIZE, "0");
		write_file(SIZE, "8");
		{
			union address a;
			int fd = listener(family, &a), client, conn;

			conn = pool_pair(fd, &a, &client);
			close(conn);
			close(client);
			close(fd);
		}
		counts();
		drive(pool_accept4, family, how, pooled, sizeof(pooled));
		assert_int_equal(counts().from_pool, 1);
		assert_same_log(fresh, stock);
		assert_same_log(pooled, stock);
		assert_true(strlen(stock) > 5000);
	}
}

static void conformance_ipv4(void **state)
{
	(void)state;
	conformance(AF_INET);
}

static void conformance_ipv6(void **state)
{
	(void)state;
	conformance(AF_INET6);
}

/* These options exchange the operations of a socket. */
static void changed_operations(void **state)
{
	union address a, v4;
	int fd = socket(AF_INET6, SOCK_STREAM, 0), family = AF_INET, off = 0, conn, client, i;
	socklen_t len = sizeof(a.in6);

	(void)state;
	assert_ok(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)));
	memset(&a, 0, sizeof(a));
	a.in6.sin6_family = AF_INET6;
	assert_ok(bind(fd, &a.sa, sizeof(a.in6)));
	assert_ok(listen(fd, 10));
	assert_ok(getsockname(fd, &a.sa, &len));
	memset(&v4, 0, sizeof(v4));
	v4.in.sin_family = AF_INET;
	v4.in.sin_port = a.in6.sin6_port;
	v4.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

	write_file(SIZE, "8");
	counts();
	for (i = 0; i < 6; i++) {
		conn = pool_pair(fd, &v4, &client);
		if (i % 2)
			assert_ok(setsockopt(conn, IPPROTO_IPV6, IPV6_ADDRFORM, &family,
					     sizeof(family)));
		/* Not every kernel has it. */
		setsockopt(conn, IPPROTO_TCP, TCP_ULP, "tls", 3);
		assert_talks(conn, client);
		close(conn);
		close(client);
	}
	assert_counts(.from_slab = 1, .from_pool = 5, .to_pool = 6, .in_pool = 1, .conns = 6);
	close(fd);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(conformance_ipv4),
		T(conformance_ipv6),
		T(changed_operations),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
