// SPDX-License-Identifier: GPL-2.0-only
/*
 * The socket pool. As test_module: in the guest, as root, on loopback.
 * Usage: test_sockfs [TEST]
 *
 * Debian's kernels have no fault injection: that an allocation fails is brought
 * about by limits (RLIMIT_NOFILE, fs.file-max).
 */
#include "helpers.h"

#include <linux/io_uring.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#define SIZE PARAM "enable_socket_pool_size"

static int dev = -1;

static int setup(void **state)
{
	(void)state;
	pin(2);
	write_file(SIZE, "0");
	dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC);
	return dev < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	close(dev);
	unpin();
	write_file(SIZE, "0");
	return 0;
}

static int pool_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	struct fsocket_ioctl_arg arg = { .fd = fd };

	arg.op.accept_op.sockaddr = addr;
	arg.op.accept_op.sockaddr_len = (int *)len;
	arg.op.accept_op.flags = flags;
	return ioctl(dev, FSOCKET_IOC_ACCEPT, &arg);
}

/* Accepts one connection through the pool; both ends. */
static int pool_pair(int fd, const union address *a, int *client)
{
	int conn;

	*client = connect_on(2, a);
	conn = pool_accept4(fd, NULL, NULL, 0);
	assert_ok(conn);
	return conn;
}

static ino_t inode_of(int fd)
{
	struct stat st;

	assert_ok(fstat(fd, &st));
	return st.st_ino;
}

static void assert_talks(int from, int to)
{
	char byte = 'x';

	assert_int_equal(write(from, &byte, 1), 1);
	byte = 0;
	assert_int_equal(read(to, &byte, 1), 1);
	assert_int_equal(byte, 'x');
}

/* What the pool counted since it was last asked. */
struct counts {
	long long from_slab, to_slab, from_pool, to_pool, in_pool, conns;
};

static struct counts counts(void)
{
	static struct counts before;
	struct counts now = {
		counter("sock_alloc_from_slab", -1), counter("sock_free_to_slab", -1),
		counter("sock_alloc_from_pool", -1), counter("sock_free_to_pool", -1),
		counter("sock_in_pool", -1), counter("sock_accept_conns", -1),
	}, since = {
		now.from_slab - before.from_slab, now.to_slab - before.to_slab,
		now.from_pool - before.from_pool, now.to_pool - before.to_pool,
		now.in_pool, now.conns - before.conns,
	};

	before = now;
	return since;
}

#define assert_counts(...)						\
do {									\
	struct counts have_ = counts(), want_ = { __VA_ARGS__ };	\
									\
	if (memcmp(&have_, &want_, sizeof(have_)))			\
		print_error("from slab %lld to %lld, from pool %lld to %lld, in %lld, conns %lld\n", \
			    have_.from_slab, have_.to_slab, have_.from_pool, \
			    have_.to_pool, have_.in_pool, have_.conns);	\
	assert_int_equal(have_.from_slab, want_.from_slab);		\
	assert_int_equal(have_.to_slab, want_.to_slab);			\
	assert_int_equal(have_.from_pool, want_.from_pool);		\
	assert_int_equal(have_.to_pool, want_.to_pool);			\
	assert_int_equal(have_.in_pool, want_.in_pool);			\
	assert_int_equal(have_.conns, want_.conns);			\
} while (0)

/* --- the pool --------------------------------------------------- */

static void off(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), conn, client, i;

	(void)state;
	counts();
	for (i = 0; i < 5; i++) {
		conn = pool_pair(fd, &a, &client);
		assert_talks(client, conn);
		close(conn);
		close(client);
	}
	assert_counts(0);
	close(fd);
}

static void reuse(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), conns[6], clients[6], i;
	ino_t last = 0;

	(void)state;
	write_file(SIZE, "4");
	counts();
	for (i = 0; i < 20; i++) {
		conns[0] = pool_pair(fd, &a, &clients[0]);
		assert_true(inode_of(conns[0]) != last);
		last = inode_of(conns[0]);
		assert_talks(clients[0], conns[0]);
		assert_talks(conns[0], clients[0]);
		close(conns[0]);
		close(clients[0]);
	}
	assert_counts(.from_slab = 1, .from_pool = 19, .to_pool = 20, .in_pool = 1,
		      .conns = 20);

	/* Those that stay open leave the pool when others need the place. */
	for (i = 0; i < 6; i++)
		conns[i] = pool_pair(fd, &a, &clients[i]);
	assert_counts(.from_slab = 5, .to_slab = 2, .from_pool = 1, .conns = 6);
	for (i = 0; i < 6; i++) {
		assert_talks(clients[i], conns[i]);
		close(conns[i]);
		close(clients[i]);
	}
	assert_counts(.to_pool = 4, .in_pool = 4);

	write_file(SIZE, "2");
	assert_counts(.to_slab = 2, .in_pool = 2);
	write_file(SIZE, "0");
	assert_counts(.to_slab = 2);
	close(fd);
}

/* Where a socket is closed makes no difference: it returns to where it is needed. */
static void closed_elsewhere(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), conn, client, i, status;
	unsigned long long here = counter("sock_free_to_pool", 2);

	(void)state;
	write_file(SIZE, "16");
	counts();
	for (i = 0; i < 20; i++) {
		pid_t other;

		conn = pool_pair(fd, &a, &client);
		other = fork();
		if (!other) {
			pin(3 + i % 3);
			while (readable(conn, 1000) == 0)
				;
			_exit(0);
		}
		close(conn);
		assert_int_equal(write(client, "x", 1), 1);
		close(client);
		assert_int_equal(waitpid(other, &status, 0), other);
		assert_int_equal(status, 0);
	}
	assert_counts(.from_slab = 1, .from_pool = 19, .to_pool = 20, .in_pool = 1,
		      .conns = 20);
	assert_int_equal(counter("sock_free_to_pool", 2) - here, 20);
	close(fd);
}

/* As long as anybody has a hold on it, a socket is not used again. */
static void held(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), conn, client, next, next_client, hold, notify;
	char path[64];
	struct stat st;
	ino_t ino;

	(void)state;
	write_file(SIZE, "8");
	counts();

	/* A descriptor without access. */
	conn = pool_pair(fd, &a, &client);
	ino = inode_of(conn);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", conn);
	assert_errno(open(path, O_RDWR), ENXIO);
	hold = open(path, O_PATH);
	assert_ok(hold);
	close(conn);
	close(client);
	next = pool_pair(fd, &a, &next_client);
	assert_ok(fstat(hold, &st));
	assert_int_equal(st.st_ino, ino);
	assert_true(S_ISSOCK(st.st_mode));
	assert_true(inode_of(next) != ino);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", hold);
	assert_errno(open(path, O_RDWR), ENXIO);
	assert_talks(next, next_client);
	assert_counts(.from_slab = 2, .conns = 2);
	close(hold);
	assert_counts(.to_pool = 1, .in_pool = 1);

	/* A watch on the inode. */
	notify = inotify_init1(IN_CLOEXEC);
	assert_ok(notify);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", next);
	assert_ok(inotify_add_watch(notify, path, IN_ALL_EVENTS));
	close(next);
	close(next_client);
	assert_counts(.in_pool = 1);
	close(notify);
	assert_counts(.to_pool = 1, .in_pool = 2);
	close(fd);
}

/* What a program did to its socket is not seen by the next. */
static void pristine(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), conn, client, i;
	struct stat st;

	(void)state;
	write_file(SIZE, "8");
	conn = pool_pair(fd, &a, &client);
	close(conn);
	close(client);
	counts();
	for (i = 0; i < 4; i++) {
		conn = pool_pair(fd, &a, &client);
		switch (i) {
		case 0:
			assert_ok(flock(conn, LOCK_EX));
			assert_ok(fcntl(conn, F_SETOWN, getpid()));
			assert_ok(fcntl(conn, F_SETFL, O_ASYNC | O_NONBLOCK));
			break;
		case 1:
			assert_ok(fchmod(conn, 0600));
			break;
		case 2:
			assert_ok(fchown(conn, 1, 1));
			break;
		}
		close(conn);
		close(client);
		conn = pool_pair(fd, &a, &client);
		assert_ok(fstat(conn, &st));
		assert_int_equal(st.st_mode, S_IFSOCK | 0777);
		assert_int_equal(st.st_uid, 0);
		assert_int_equal(st.st_gid, 0);
		assert_int_equal(fcntl(conn, F_GETFL), O_RDWR);
		assert_int_equal(fcntl(conn, F_GETOWN), 0);
		assert_ok(flock(conn, LOCK_EX | LOCK_NB));
		close(conn);
		close(client);
	}
	assert_counts(.from_pool = 8, .to_pool = 8, .in_pool = 1, .conns = 8);
	close(fd);
}

/* The group to whose memory the socket is charged is the accepting process's. */
static void memory_cgroups(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), conn, client, i;
	char own[256] = "", path[300], me[16];
	FILE *file = fopen("/proc/self/cgroup", "r");

	(void)state;
	assert_non_null(file);
	assert_int_equal(fscanf(file, "0::%255s", own), 1);
	fclose(file);
	snprintf(me, sizeof(me), "%d", getpid());
	write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	mkdir("/sys/fs/cgroup/fsb-a", 0755);
	mkdir("/sys/fs/cgroup/fsb-b", 0755);

	write_file(SIZE, "8");
	counts();
	for (i = 0; i < 4; i++) {
		write_file(i % 2 ? "/sys/fs/cgroup/fsb-b/cgroup.procs" :
			   "/sys/fs/cgroup/fsb-a/cgroup.procs", me);
		conn = pool_pair(fd, &a, &client);
		close(conn);
		close(client);
	}
	/* One for each, and each used again by its own. */
	assert_counts(.from_slab = 2, .from_pool = 2, .to_pool = 4, .in_pool = 2, .conns = 4);

	snprintf(path, sizeof(path), "/sys/fs/cgroup%s/cgroup.procs", own);
	write_file(path, me);
	assert_ok(rmdir("/sys/fs/cgroup/fsb-a"));
	assert_ok(rmdir("/sys/fs/cgroup/fsb-b"));
	close(fd);
}

static void bad_sizes(void **state)
{
	static const char * const bad[] = {
		"-1", "2147483648", "2147483647", "4294967296", "100000000", "", "x", "1x",
	};
	size_t i;
	int fd = open(SIZE, O_RDWR);
	char value[16] = "";

	(void)state;
	assert_ok(fd);
	write_file(SIZE, "7");
	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		/* An empty write is none. */
		if (*bad[i])
			assert_errno(write(fd, bad[i], strlen(bad[i])), EINVAL);
	}
	assert_ok(pread(fd, value, sizeof(value) - 1, 0));
	assert_string_equal(value, "7\n");
	close(fd);
	assert_int_equal(system("dmesg | tail -20 | grep -q 'enable_socket_pool_size=-1 refused'"), 0);
}

/* --- errors ----------------------------------------------------- */

typedef int accept_fn(int, struct sockaddr *, socklen_t *, int);

/* Each way to fail; with its error, and whether the connection is still there. */
static void errors_of(accept_fn *fn, int family, char *log, size_t size)
{
	FILE *out = fmemopen(log, size, "w");
	struct sockaddr_storage addr;
	union address a;
	int fd, conn, client, unix_fd[2], udp, next;
	socklen_t len = sizeof(addr), bad = -1;
	struct rlimit old, low;

	assert_non_null(out);
	setvbuf(out, NULL, _IONBF, 0);
#define TRY(what, call)	fprintf(out, what ": %d\n", (call) < 0 ? errno : 0)
	fd = listener(family, &a);
	set_nonblock(fd);
	TRY("nothing there", fn(fd, NULL, NULL, 0));
	client = connect_on(2, &a);
	TRY("flags", fn(fd, NULL, NULL, 1));
	TRY("closed", fn(999, NULL, NULL, 0));
	TRY("no descriptor", fn(-1, NULL, NULL, 0));
	TRY("no socket", fn(dev, NULL, NULL, 0));
	assert_ok(socketpair(AF_UNIX, SOCK_STREAM, 0, unix_fd));
	TRY("unix", fn(unix_fd[0], NULL, NULL, 0));
	udp = socket(family, SOCK_DGRAM, 0);
	TRY("UDP", fn(udp, NULL, NULL, 0));
	TRY("not listening", fn(client, NULL, NULL, 0));

	/* All descriptors are in use: nothing is taken from the queue. */
	assert_ok(getrlimit(RLIMIT_NOFILE, &old));
	low = old;
	next = dup(fd);
	close(next);
	low.rlim_cur = next;
	assert_ok(setrlimit(RLIMIT_NOFILE, &low));
	TRY("RLIMIT_NOFILE", fn(fd, NULL, NULL, 0));
	assert_ok(setrlimit(RLIMIT_NOFILE, &old));
	assert_int_equal(readable(fd, 0), 1);
	conn = fn(fd, NULL, NULL, 0);
	TRY("then", conn);
	assert_talks(client, conn);
	close(conn);
	close(client);

	/* The address cannot be said: the connection is lost. */
	client = connect_on(2, &a);
	TRY("address", fn(fd, (void *)8, &len, 0));
	assert_int_equal(readable(client, 5000), 1);
	close(client);
	client = connect_on(2, &a);
	TRY("length", fn(fd, (void *)&addr, (void *)8, 0));
	assert_int_equal(readable(client, 5000), 1);
	close(client);
	client = connect_on(2, &a);
	TRY("negative length", fn(fd, (void *)&addr, &bad, 0));
	close(client);
	client = connect_on(2, &a);
	len = 5;
	memset(&addr, 0xee, sizeof(addr));
	conn = fn(fd, (void *)&addr, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
	fprintf(out, "cut: %d, %x %x, flags %x %x\n", len, addr.ss_family,
		((unsigned char *)&addr)[5], fcntl(conn, F_GETFD), fcntl(conn, F_GETFL));
	close(conn);
	close(client);
	TRY("empty again", fn(fd, NULL, NULL, 0));
	assert_ok(shutdown(fd, SHUT_RDWR));
	TRY("shut down", fn(fd, NULL, NULL, 0));
#undef TRY
	close(fd);
	close(udp);
	close(unix_fd[0]);
	close(unix_fd[1]);
	fclose(out);
}

static void errors(void **state)
{
	static char stock[4096], pooled[4096];
	int round;

	(void)state;
	write_file(SIZE, "8");
	for (round = 0; round < 2; round++) {
		errors_of(accept4, round ? AF_INET6 : AF_INET, stock, sizeof(stock));
		counts();
		errors_of(pool_accept4, round ? AF_INET6 : AF_INET, pooled, sizeof(pooled));
		assert_string_equal(pooled, stock);
		assert_non_null(strstr(stock, "address: 14"));
		assert_int_equal(counts().conns, 5);
	}
}

/* fs.file-max: neither a descriptor nor the connection is lost. */
static void no_files(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), conn, client, i;
	char max[32] = "";
	FILE *file = fopen("/proc/sys/fs/file-max", "r");

	(void)state;
	assert_non_null(fgets(max, sizeof(max), file));
	fclose(file);
	write_file(SIZE, "8");
	for (i = 0; i < 3; i++) {
		/* The second and third find one in the pool. */
		client = connect_on(2, &a);
		write_file("/proc/sys/fs/file-max", "1");
		/* Root may exceed the limit. */
		assert_ok(setresuid(-1, 1000, 0));
		assert_errno(pool_accept4(fd, NULL, NULL, 0), ENFILE);
		assert_ok(setresuid(-1, 0, 0));
		write_file("/proc/sys/fs/file-max", max);
		assert_int_equal(readable(fd, 0), 1);
		conn = pool_accept4(fd, NULL, NULL, 0);
		assert_ok(conn);
		assert_talks(client, conn);
		close(conn);
		close(client);
	}
	close(fd);
}

static void on_alarm(int signal)
{
	(void)signal;
}

/* A blocking accept: woken by a connection, interrupted, restarted, timed out. */
static void blocking(void **state)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct itimerval soon = { .it_value = { .tv_usec = 200000 } };
	struct timeval limit = { .tv_usec = 100000 };
	union address a;
	int fd = listener(AF_INET, &a), conn, status;
	pid_t other;

	(void)state;
	write_file(SIZE, "8");
	assert_ok(sigaction(SIGALRM, &action, NULL));
	assert_ok(setitimer(ITIMER_REAL, &soon, NULL));
	assert_errno(pool_accept4(fd, NULL, NULL, 0), EINTR);

	action.sa_flags = SA_RESTART;
	assert_ok(sigaction(SIGALRM, &action, NULL));
	assert_ok(setitimer(ITIMER_REAL, &soon, NULL));
	other = fork();
	if (!other) {
		usleep(600000);
		_exit(greeting(connect_on(3, &a)) != 'x');
	}
	conn = pool_accept4(fd, NULL, NULL, 0);
	assert_ok(conn);
	assert_int_equal(write(conn, "x", 1), 1);
	assert_int_equal(waitpid(other, &status, 0), other);
	assert_int_equal(status, 0);
	close(conn);

	assert_ok(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)));
	assert_errno(pool_accept4(fd, NULL, NULL, 0), EAGAIN);
	close(fd);
}

/* A listener with local ones serves through the pool too. */
static void local_listeners(void **state)
{
	struct fsocket_ioctl_arg arg = { .op.spawn_op.cpu = 2 };
	unsigned long long local = counter("accept_local", 2);
	union address a;
	int fd = listener(AF_INET, &a), conn, client, i;

	(void)state;
	write_file(SIZE, "8");
	arg.fd = fd;
	assert_ok(ioctl(dev, FSOCKET_IOC_SPAWN_LISTEN, &arg));
	set_nonblock(fd);
	counts();
	assert_errno(pool_accept4(fd, NULL, NULL, 0), EAGAIN);
	for (i = 0; i < 10; i++) {
		conn = pool_pair(fd, &a, &client);
		assert_talks(conn, client);
		close(conn);
		close(client);
	}
	assert_int_equal(counter("accept_local", 2) - local, 10);
	assert_counts(.from_slab = 1, .from_pool = 10, .to_pool = 11, .in_pool = 1, .conns = 10);
	close(fd);
}

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
	/* For TCP_ZEROCOPY_RECEIVE. */
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
		/* Until it is set, the kernel decides by how soon answers followed. */
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

	/* In another process, and passed on: it is one socket everywhere. */
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

/* One operation of io_uring: its result. */
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
		usleep(50000);
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
		/* Disconnected, it is a fresh socket. */
		LOG(connect(conn, &(struct sockaddr){ .sa_family = AF_UNSPEC },
			    sizeof(struct sockaddr)));
		LOG(listen(conn, 1));
		break;
	}
	LOG(close(conn));
	LOG(fcntl(conn, F_GETFD));
	if (how == 2) {
		LOG(readable(client, 1000));
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
	/* As the listener's children. */
	LOG(close(fd));
	drive_file(log, conn, family);
	drive_fcntl(log, conn);
	drive_data(log, conn, client);
	drive_options(log, conn, client, &a);
	drive_end(log, conn, client, how);
	/* Nothing may be cut off. */
	assert_true(ftell(log) < (long)size - 1);
	fclose(log);
}

/* As assert_string_equal(), which cuts off long texts: names the lines that differ. */
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
		/* The first had its owner changed; the second will not have. */
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

/* Options that exchange the operations of a socket. */
static void changed_operations(void **state)
{
	union address a, v4;
	int fd = listener(AF_INET6, &a), family = AF_INET, any = 0, conn, client, i;

	(void)state;
	close(fd);
	fd = socket(AF_INET6, SOCK_STREAM, 0);
	assert_ok(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &any, sizeof(any)));
	a.in6.sin6_addr = in6addr_any;
	assert_ok(bind(fd, &a.sa, sizeof(a.in6)));
	assert_ok(listen(fd, 10));
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
		/* Where the kernel has it. */
		setsockopt(conn, IPPROTO_TCP, TCP_ULP, "tls", 3);
		assert_talks(conn, client);
		close(conn);
		close(client);
	}
	assert_counts(.from_slab = 1, .from_pool = 5, .to_pool = 6, .in_pool = 1, .conns = 6);
	close(fd);
}

/* --- many ------------------------------------------------------- */

/* Objects in use of one of the kernel's caches. */
static long slab_objects(const char *cache)
{
	char line[512], name[64];
	long active, found = -1;
	FILE *file;

	/* Else free objects in the CPUs' partial slabs count as active. */
	snprintf(line, sizeof(line), "/sys/kernel/slab/%s/shrink", cache);
	write_file(line, "1");
	file = fopen("/proc/slabinfo", "r");
	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%63s %ld", name, &active) == 2 && !strcmp(name, cache))
			found = active;
	fclose(file);
	assert_true(found >= 0);
	return found;
}

static long meminfo(const char *name)
{
	FILE *file = fopen("/proc/meminfo", "r");
	char line[256];
	long kb = 0;

	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ':')
			kb = atol(line + strlen(name) + 1);
	fclose(file);
	return kb;
}

/* What is not freed at once is after a grace period or two. */
static bool settles(const char *cache, long most)
{
	int waited;

	for (waited = 0; waited < 100; waited++) {
		if (slab_objects(cache) <= most)
			return true;
		usleep(100000);
	}
	return false;
}

#define IDLE 10000

/* Kilobytes of kernel memory that so many accepted connections take. */
static long memory_of(accept_fn *fn, const union address *a, int fd)
{
	static int conns[IDLE], clients[IDLE];
	long before, kb;
	int i;

	before = meminfo("Slab") + meminfo("VmallocUsed");
	for (i = 0; i < IDLE; i++) {
		clients[i] = socket(AF_INET, SOCK_STREAM, 0);
		assert_ok(clients[i]);
		assert_ok(connect(clients[i], &a->sa, address_len(a)));
		conns[i] = fn(fd, NULL, NULL, 0);
		assert_ok(conns[i]);
	}
	kb = meminfo("Slab") + meminfo("VmallocUsed") - before;
	for (i = 0; i < IDLE; i++) {
		close(conns[i]);
		close(clients[i]);
	}
	return kb;
}

static void memory(void **state)
{
	struct rlimit old, high = { 2 * IDLE + 100, 2 * IDLE + 100 };
	union address a;
	int fd = listener(AF_INET, &a);
	long stock, pooled, inodes, dentries;

	(void)state;
	assert_ok(getrlimit(RLIMIT_NOFILE, &old));
	assert_ok(setrlimit(RLIMIT_NOFILE, &high));
	/* The first makes the table of descriptors, and TIME_WAIT sockets. */
	memory_of(accept4, &a, fd);
	stock = memory_of(accept4, &a, fd);
	inodes = slab_objects("sock_inode_cache");
	dentries = slab_objects("dentry");
	write_file(SIZE, "12000");
	pooled = memory_of(pool_accept4, &a, fd);
	print_message("%d connections: ordinary %ld kB, pooled %ld kB\n", IDLE, stock, pooled);
	assert_true(stock > IDLE);
	assert_true(pooled <= stock * 105 / 100);
	assert_int_equal(counter("sock_in_pool", 2), IDLE);
	write_file(SIZE, "0");
	assert_int_equal(counter("sock_in_pool", -1), 0);
	assert_true(settles("sock_inode_cache", inodes + 500));
	assert_true(settles("dentry", dentries + 2000));
	assert_ok(setrlimit(RLIMIT_NOFILE, &old));
	close(fd);
}

#define WORKERS 6

static void worker(int fd, int nr)
{
	char byte;
	int conn;

	pin(nr);
	set_nonblock(fd);
	for (;;) {
		if (readable(fd, 1000) <= 0)
			continue;
		conn = pool_accept4(fd, NULL, NULL, SOCK_CLOEXEC);
		if (conn < 0)
			continue;
		if (read(conn, &byte, 1) == 1)
			(void)!write(conn, &byte, 1);
		close(conn);
	}
}

/* So many connections make one. */
#define STORM	100

/* Sizes change, workers are killed, statistics are read, while connections come. */
static void storm(void **state)
{
	static const char * const sizes[] = { "0", "1", "100", "3", "5000" };
	unsigned long long slab, before, from_slab, to_slab;
	pid_t workers[WORKERS], client;
	union address a;
	int fd = listener(AF_INET, &a), i, round, status;
	long inodes = slab_objects("sock_inode_cache");

	(void)state;
	before = counter("sock_accept_conns", -1);
	slab = counter("sock_alloc_from_slab", -1) - counter("sock_free_to_slab", -1);
	assert_int_equal(slab, 0);
	write_file(SIZE, "64");
	for (i = 0; i < WORKERS; i++) {
		workers[i] = fork();
		if (!workers[i])
			worker(fd, i);
	}
	client = fork();
	if (!client) {
		time_t begin = time(NULL);
		int conn;

		/* A kernel that checks each access needs longer for enough of them. */
		for (i = 0; time(NULL) < begin + 9 ||
		     (counter("sock_accept_conns", -1) - before <= STORM &&
		      time(NULL) < begin + 60); i++) {
			struct linger reset = { .l_onoff = 1 };

			conn = connect_on(i % 8, &a);
			(void)!write(conn, "x", 1);
			/* That one's worker may have been killed: no answer is no failure. */
			greeting(conn);
			setsockopt(conn, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
			close(conn);
		}
		_exit(0);
	}
	for (round = 0; waitpid(client, &status, WNOHANG) == 0; round++) {
		int which = round % WORKERS;

		write_file(SIZE, sizes[round % 5]);
		counter("sock_in_pool", -1);
		kill(workers[which], SIGKILL);
		waitpid(workers[which], NULL, 0);
		workers[which] = fork();
		if (!workers[which])
			worker(fd, which);
		usleep(50000);
	}
	assert_int_equal(status, 0);
	for (i = 0; i < WORKERS; i++) {
		kill(workers[i], SIGKILL);
		waitpid(workers[i], NULL, 0);
	}
	assert_true(counter("sock_accept_conns", -1) - before > STORM);
	write_file(SIZE, "10");
	from_slab = counter("sock_alloc_from_slab", -1);
	to_slab = counter("sock_free_to_slab", -1);
	/* All have been closed, so what is in the pools is idle. */
	assert_int_equal(counter("sock_in_pool", -1), from_slab - to_slab);
	write_file(SIZE, "0");
	assert_int_equal(counter("sock_in_pool", -1), 0);
	assert_int_equal(counter("sock_alloc_from_slab", -1), counter("sock_free_to_slab", -1));
	assert_true(settles("sock_inode_cache", inodes + 100));
	close(fd);
}

/* A socket outlives the module: nothing of that is in reach of it. */
static void unload(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), conns[20], clients[20], i;
	long inodes = slab_objects("sock_inode_cache");

	(void)state;
	write_file(SIZE, "16");
	for (i = 0; i < 20; i++)
		conns[i] = pool_pair(fd, &a, &clients[i]);
	for (i = 0; i < 5; i++) {
		close(conns[i]);
		close(clients[i]);
	}
	close(dev);
	assert_ok(syscall(SYS_delete_module, "fastsocket", O_NONBLOCK));
	for (i = 5; i < 20; i++) {
		assert_talks(conns[i], clients[i]);
		assert_talks(clients[i], conns[i]);
		close(conns[i]);
		close(clients[i]);
	}
	assert_true(settles("sock_inode_cache", inodes + 100));

	assert_ok(load_module(getenv("FASTSOCKET_KO"), "enable_socket_pool_size=5"));
	for (i = 0; i < 100 && (dev = open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC)) < 0; i++)
		usleep(20000);
	counts();
	for (i = 0; i < 3; i++) {
		conns[i] = pool_pair(fd, &a, &clients[i]);
		close(conns[i]);
		close(clients[i]);
	}
	assert_counts(.from_slab = 1, .from_pool = 2, .to_pool = 3, .in_pool = 1, .conns = 3);
	close(fd);
}

/* Whether the page that the library looks at says that the pool is on. */
static void feature_flag(void **state)
{
	volatile struct fsocket_features *page;

	(void)state;
	page = mmap(NULL, sysconf(_SC_PAGESIZE), PROT_READ, MAP_SHARED, dev, 0);
	assert_true(page != MAP_FAILED);
	assert_int_equal(page->socket_pool, 0);
	write_file(SIZE, "9");
	assert_int_equal(page->socket_pool, 1);
	write_file(SIZE, "0");
	assert_int_equal(page->socket_pool, 0);
	munmap((void *)page, sysconf(_SC_PAGESIZE));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		T(off),
		T(reuse),
		T(closed_elsewhere),
		T(held),
		T(pristine),
		T(memory_cgroups),
		T(bad_sizes),
		T(errors),
		T(no_files),
		T(blocking),
		T(local_listeners),
		T(conformance_ipv4),
		T(conformance_ipv6),
		T(changed_operations),
		T(feature_flag),
		T(memory),
		T(storm),
		T(unload),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
