// SPDX-License-Identifier: GPL-2.0-only
/*
 * The socket pool, with few sockets and with many. Like test_module it runs in the
 * guest, as root, on loopback. Usage: test_sockfs [TEST]
 */
#include "pool.h"

#include <sys/file.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/resource.h>

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

	/* Sockets that stay open leave the pool when others need the place. */
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

/* A socket returns to the pool of its CPU, wherever it is closed. */
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

/* While a program refers to a socket in any way, it is not used again. */
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

	/* An O_PATH descriptor refers to it. */
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

	/* A watch on the inode refers to it. */
	notify = inotify_init1(IN_CLOEXEC);
	assert_ok(notify);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", next);
	assert_ok(inotify_add_watch(notify, path, IN_ALL_EVENTS));
	close(next);
	close(next_client);
	assert_counts(.in_pool = 1);
	close(notify);
	assert_counts(.to_pool = 1, .in_pool = 2);

	/* A mark that does not refer to the inode would go on to the next connection. */
	conn = pool_pair(fd, &a, &client);
	notify = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC, O_RDONLY);
	assert_ok(notify);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", conn);
	assert_ok(fanotify_mark(notify, FAN_MARK_ADD | FAN_MARK_EVICTABLE, FAN_MODIFY, AT_FDCWD,
				path));
	close(conn);
	close(client);
	assert_counts(.from_pool = 1, .in_pool = 1, .conns = 1);
	close(notify);
	close(fd);
}

/* The next program does not see what a program did to its socket. */
static void pristine(void **state)
{
	union address a;
	int fd = listener(AF_INET, &a), conn, client, i;
	uint64_t hint;
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
		case 3:
			hint = RWH_WRITE_LIFE_SHORT;
			assert_ok(fcntl(conn, F_SET_RW_HINT, &hint));
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
		assert_ok(fcntl(conn, F_GET_RW_HINT, &hint));
		assert_int_equal(hint, 0);
		assert_ok(flock(conn, LOCK_EX | LOCK_NB));
		close(conn);
		close(client);
	}
	assert_counts(.from_pool = 8, .to_pool = 8, .in_pool = 1, .conns = 8);
	close(fd);
}

/* The socket is charged to the memory cgroup of the accepting process. */
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
	/* Each group gets one, which only the same group uses again. */
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
		/* An empty write is no write. */
		if (*bad[i])
			assert_errno(write(fd, bad[i], strlen(bad[i])), EINVAL);
	}
	assert_ok(pread(fd, value, sizeof(value) - 1, 0));
	assert_string_equal(value, "7\n");
	close(fd);
	assert_int_equal(system("dmesg | tail -20 | grep -q 'enable_socket_pool_size=-1 refused'"), 0);
}

/* --- many ------------------------------------------------------- */

/* Returns the number of objects in use of one of the kernel's caches. */
static long slab_objects(const char *cache)
{
	char line[512], name[64];
	long active, found = -1;
	FILE *file;

	/* Without this, free objects in the CPUs' partial slabs count as active. */
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

/* Objects that are not freed at once are freed after a grace period or two. */
static bool settles(const char *cache, long most)
{
	int waited;

	for (waited = 0; waited < 300; waited++) {
		if (slab_objects(cache) <= most)
			return true;
		usleep(100000);
	}
	return false;
}

#define IDLE 10000

static long kernel_memory(void)
{
	return meminfo("Slab") + meminfo("VmallocUsed");
}

/* Waits until what was freed before has gone: it does after grace periods, by softirqs. */
static void let_memory_settle(void)
{
	long now = kernel_memory(), before;
	int waited = 0;

	do {
		before = now;
		usleep(300000);
		now = kernel_memory();
	} while (now < before - 100 && waited++ < 60);
}

/* Returns the kilobytes of kernel memory that this many accepted connections take. */
static long memory_of(accept_fn *fn, const union address *a, int fd)
{
	static int conns[IDLE], clients[IDLE];
	long before, kb;
	int i;

	let_memory_settle();
	before = kernel_memory();
	for (i = 0; i < IDLE; i++) {
		clients[i] = socket(AF_INET, SOCK_STREAM, 0);
		assert_ok(clients[i]);
		assert_ok(connect(clients[i], &a->sa, address_len(a)));
		conns[i] = fn(fd, NULL, NULL, 0);
		assert_ok(conns[i]);
	}
	kb = kernel_memory() - before;
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
	/* The first round makes the table of descriptors, and TIME_WAIT sockets. */
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

/* Each round makes this many connections. */
#define STORM	100

/* Sizes change, workers are killed, and statistics are read while connections come. */
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

		/* A kernel that checks each access needs longer for a sufficient number. */
		for (i = 0; time(NULL) < begin + 9 ||
		     (counter("sock_accept_conns", -1) - before <= STORM &&
		      time(NULL) < begin + 60); i++) {
			struct linger reset = { .l_onoff = 1 };

			conn = connect_on(i % 8, &a);
			(void)!write(conn, "x", 1);
			/* The worker may have been killed, so no answer is no failure. */
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
	/* All sockets have been closed, so those in the pools are idle. */
	assert_int_equal(counter("sock_in_pool", -1), from_slab - to_slab);
	write_file(SIZE, "0");
	assert_int_equal(counter("sock_in_pool", -1), 0);
	assert_int_equal(counter("sock_alloc_from_slab", -1), counter("sock_free_to_slab", -1));
	assert_true(settles("sock_inode_cache", inodes + 100));
	close(fd);
}

/* A socket outlives the module, to which it has no pointer. */
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

/* The page that the library reads tells whether the pool is on. */
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
		T(feature_flag),
		T(memory),
		T(storm),
		T(unload),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
