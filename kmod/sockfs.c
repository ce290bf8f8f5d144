// SPDX-License-Identifier: GPL-2.0-only
/*
 * The socket pool keeps inodes and dentries of closed sockets for new connections.
 *
 * The original had a file system of its own, which kept sockets off the lists and
 * locks of dentries and inodes. The kernel's sockfs does so itself since 2.6.38. For
 * each connection the kernel still allocates an inode and a dentry, charges, labels and
 * evicts them, and frees them after a grace period; the pool saves that. The inodes
 * and dentries are those of sockfs, made by sock_alloc() and sock_alloc_file(), so a
 * socket accepted with them is an ordinary socket. Only the struct file is always new.
 *
 * The pool of a CPU is a ring of the sockets that were accepted there last, open or
 * closed. It holds a reference to each dentry and inode. When its references are the
 * last ones, the socket has been closed, on whatever CPU, and can be used again. So
 * nothing needs to be returned to the pool when a socket is closed: CPUs share no lock
 * or list, and a socket has no pointer to code of this module. A socket that the pool
 * drops its references to, open or closed, remains an ordinary socket.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/audit.h>
#include <linux/cred.h>
#include <linux/dcache.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/net.h>
#include <linux/percpu.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <net/sock.h>

#include "compat.h"
#include "fastsocket_abi.h"
#include "features.h"
#include "ops.h"
#include "resolve.h"
#include "sockfs.h"
#include "stats.h"

/*
 * Number of sockets, from the oldest on, among which fsocket_pool_take() searches for a
 * closed one. If all are open, fsocket_pool_add() replaces the last of them, so that
 * long connections leave the ring to short ones.
 */
#define FSOCKET_PROBES	4

/* Number of sockets that the statistics look at while they hold a pool's lock. */
#define FSOCKET_STATS_BATCH	256

struct fsocket_pooled {
	struct dentry *dentry;
	/* The inode of @dentry, with its own reference, since SMC exchanges a dentry's inode. */
	struct inode *inode;
	/* The memory cgroup that both are charged to. */
	u64 memcg;
	/* Found closed since its last use, and counted in sock_free_to_pool. */
	bool returned;
};

struct fsocket_pool {
	/* Taken by this CPU; by others only for resizing and statistics. */
	spinlock_t lock;
	unsigned int size;
	unsigned int count;
	/* Index of the oldest socket. */
	unsigned int next;
	struct fsocket_pooled *ring;
	/* While the pool is resized: the new ring, and after the swap the old one. */
	struct fsocket_pooled *spare;
	/* The counter sock_free_to_pool; under @lock, since statistics increase it, too. */
	u64 returned;
};

static DEFINE_PER_CPU(struct fsocket_pool, fsocket_pools) = {
	.lock = __SPIN_LOCK_UNLOCKED(fsocket_pools.lock),
};

static DEFINE_PER_CPU(struct fsocket_pool_stats, fsocket_pool_stats);

static unsigned int fsocket_pool_size;

/* Static in net/socket.c; fsocket_sockfs_learn() reads them from a socket. */
static const struct file_operations *fsocket_file_ops;
static struct vfsmount *fsocket_sock_mnt;
static fmode_t fsocket_sock_nowait;

FSOCKET_KERNEL_FUNCTION(sockfs, security_socket_accept);
FSOCKET_KERNEL_FUNCTION(sockfs, alloc_file_clone);

/* Identifies the memory cgroup to which allocations of current are charged. */
static u64 fsocket_memcg(void)
{
	u64 id = 0;
#ifdef CONFIG_MEMCG
	struct mem_cgroup *memcg;

	rcu_read_lock();
	memcg = mem_cgroup_from_task(current);
	if (memcg)
		id = memcg->css.serial_nr;
	rcu_read_unlock();
#endif
	return id;
}

static struct fsocket_pool *fsocket_pool_lock(struct fsocket_pool *pool)
	__acquires(&pool->lock)
{
	if (!spin_trylock(&pool->lock)) {
		this_cpu_inc(fsocket_pool_stats.sock_pool_lock);
		spin_lock(&pool->lock);
	}
	return pool;
}

/* Whether a mark is on @inode: that of fanotify may be evictable, and has no reference then. */
static bool fsocket_is_marked(const struct inode *inode)
{
#ifdef CONFIG_FSNOTIFY
	return rcu_access_pointer(inode->i_fsnotify_marks);
#else
	return false;
#endif
}

/*
 * Whether @p has been closed and only the pool refers to it: no other file (open() with
 * O_PATH), no path, no watch on its inode. sock_close() clears sock->file as its last
 * access to the socket; after that __fput() only drops the dentry.
 */
static bool fsocket_pooled_idle(const struct fsocket_pooled *p)
{
	/* Acquire: the next user writes to the socket only after sock_close() is done. */
	return !smp_load_acquire(&SOCKET_I(p->inode)->file) &&
	       d_count(p->dentry) == 1 && d_inode(p->dentry) == p->inode &&
	       atomic_read(&p->inode->i_count) == 2 && !fsocket_is_marked(p->inode);
}

/* Returns whether @p of @pool is idle, and counts it once; under the pool's lock. */
static bool fsocket_pooled_check(struct fsocket_pool *pool,
				 struct fsocket_pooled *p)
{
	if (!fsocket_pooled_idle(p))
		return false;
	if (!p->returned)
		pool->returned++;
	p->returned = true;
	return true;
}

static void fsocket_pooled_drop(struct fsocket_pooled *p)
{
	this_cpu_inc(fsocket_pool_stats.sock_free_to_slab);
	/* The dentry goes first, since it refers to the inode. */
	dput(p->dentry);
	iput(p->inode);
}

/*
 * Returns, with a reference, the dentry of an idle socket whose name is @name and which
 * is charged to the memory cgroup of current; or NULL.
 */
static struct dentry *fsocket_pool_take(const char *name)
{
	struct fsocket_pool *pool;
	struct dentry *dentry = NULL;
	u64 memcg = fsocket_memcg();
	int probe;

	pool = fsocket_pool_lock(raw_cpu_ptr(&fsocket_pools));
	for (probe = 0; probe < FSOCKET_PROBES && probe < pool->count; probe++) {
		struct fsocket_pooled *p = &pool->ring[pool->next];

		if (++pool->next == pool->count)
			pool->next = 0;
		if (fsocket_pooled_check(pool, p) && p->memcg == memcg &&
		    !strcmp(p->dentry->d_name.name, name)) {
			p->returned = false;
			/* This reference makes the socket no longer idle. */
			dentry = dget(p->dentry);
			this_cpu_inc(fsocket_pool_stats.sock_alloc_from_pool);
			break;
		}
	}
	spin_unlock(&pool->lock);
	return dentry;
}

/* Adds the new socket of @file to the pool. */
static void fsocket_pool_add(struct file *file)
{
	struct fsocket_pooled new = {
		.dentry = dget(file->f_path.dentry),
		.inode = file_inode(file),
		.memcg = fsocket_memcg(),
	};
	struct fsocket_pooled old = {};
	struct fsocket_pool *pool;

	ihold(new.inode);
	this_cpu_inc(fsocket_pool_stats.sock_alloc_from_slab);
	pool = fsocket_pool_lock(raw_cpu_ptr(&fsocket_pools));
	if (pool->count < pool->size) {
		pool->ring[pool->count++] = new;
	} else if (pool->size) {
		/* Replace the socket that fsocket_pool_take() looked at last. */
		unsigned int last = (pool->next ?: pool->count) - 1;

		old = pool->ring[last];
		pool->ring[last] = new;
		fsocket_pooled_check(pool, &old);
	} else {
		old = new;
	}
	spin_unlock(&pool->lock);
	if (old.dentry)
		fsocket_pooled_drop(&old);
}

/*
 * Makes a new file for a socket of the pool, as sock_alloc_file() does for a new one,
 * that is, without the checks of open().
 */
static struct file *fsocket_pooled_file(struct dentry *dentry, int flags)
{
	struct inode *inode = d_inode(dentry);
	struct socket *sock = SOCKET_I(inode);
	struct file *file, base;

	/* alloc_file_clone() reads only these members of its first argument. */
	base.f_path.mnt = fsocket_sock_mnt;
	base.f_path.dentry = dentry;
	base.f_mapping = inode->i_mapping;
	file = fsocket_kernel(sockfs, alloc_file_clone)(&base,
							O_RDWR | (flags & O_NONBLOCK),
							fsocket_file_ops);
	if (IS_ERR(file))
		return file;

	/*
	 * Set what sock_alloc() and sock_alloc_file() set; they do not set the times
	 * either. The wait queue is empty and is not initialised again: a softirq that
	 * still has the previous connection's struct sock may wake it, which does no harm.
	 */
	inode->i_ino = get_next_ino();
	inode->i_mode = S_IFSOCK | 0777;
	inode->i_uid = current_fsuid();
	inode->i_gid = current_fsgid();
	inode->i_write_hint = WRITE_LIFE_NOT_SET;
	sock->state = SS_UNCONNECTED;
	sock->flags = 0;
	sock->wq.flags = 0;
	sock->file = file;
	file->private_data = sock;
	file->f_mode |= fsocket_sock_nowait;
	stream_open(inode, file);
	return file;
}

/* Returns a file with a socket for accept(), from the pool or a new one. */
static struct file *fsocket_sock_file(const char *name, int flags)
{
	struct dentry *dentry = fsocket_pool_take(name);
	struct socket *sock;
	struct file *file;

	if (dentry) {
		file = fsocket_pooled_file(dentry, flags);
		dput(dentry);
		if (!IS_ERR(file))
			return file;
	}
	sock = sock_alloc();
	if (!sock)
		return ERR_PTR(-ENFILE);
	file = sock_alloc_file(sock, flags, name);
	if (!IS_ERR(file))
		fsocket_pool_add(file);
	return file;
}

/* As move_addr_to_user() of net/socket.c, which is static. */
static int fsocket_addr_to_user(const struct sockaddr_storage *addr, int size,
				void __user *uaddr, int __user *ulen)
{
	int len;

	if (get_user(len, ulen))
		return -EFAULT;
	len = min(len, size);
	if (len < 0)
		return -EINVAL;
	if (len && copy_to_user(uaddr, addr, len))
		return -EFAULT;
	return put_user(size, ulen);
}

/* As do_accept() of net/socket.c, but with a file of the pool. */
static struct file *fsocket_do_accept(struct file *listener,
				      const struct proto_ops *ops,
				      const struct fsocket_ioctl_arg *arg)
{
	struct socket *sock = sock_from_file(listener), *newsock;
	void __user *addr = (void __user *)arg->op.accept_op.sockaddr;
	struct sockaddr_storage address;
	struct file *file;
	int ret;

	file = fsocket_sock_file(sock->sk->sk_prot_creator->name,
				 arg->op.accept_op.flags);
	if (IS_ERR(file))
		return file;
	newsock = file->private_data;
	newsock->type = sock->type;
	__module_get(ops->owner);
	newsock->ops = ops;

	ret = fsocket_kernel(sockfs, security_socket_accept)(sock, newsock);
	if (ret)
		goto err;
	ret = fsocket_ops_accept(sock, newsock, listener->f_flags);
	if (ret < 0)
		goto err;
	this_cpu_inc(fsocket_pool_stats.sock_accept_conns);
	if (addr) {
		ret = ops->getname(newsock, (struct sockaddr *)&address, 2);
		if (ret < 0) {
			ret = -ECONNABORTED;
			goto err;
		}
		ret = fsocket_addr_to_user(&address, ret, addr,
					   (int __user *)arg->op.accept_op.sockaddr_len);
		if (ret < 0)
			goto err;
	}
	return file;

err:
	fput(file);
	return ERR_PTR(ret);
}

bool fsocket_sockfs_serves(struct file *listener, int flags)
{
	struct socket *sock = sock_from_file(listener);

	/* accept4(2) records the address for an audited process; this function does not. */
	return READ_ONCE(fsocket_pool_size) && sock &&
	       !(flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) &&
	       fsocket_listen_plain_ops(sock) && audit_dummy_context();
}

int fsocket_sockfs_accept(struct file *listener,
			  const struct fsocket_ioctl_arg *arg)
{
	const struct proto_ops *ops =
		fsocket_listen_plain_ops(sock_from_file(listener));
	struct file *file;
	int fd;

	fd = get_unused_fd_flags(arg->op.accept_op.flags);
	if (fd < 0)
		return fd;
	file = fsocket_do_accept(listener, ops, arg);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	fd_install(fd, file);
	return fd;
}

/* The memory that each socket of a pool takes. */
static size_t fsocket_pooled_bytes(void)
{
	return sizeof(struct fsocket_pooled) + sizeof(struct socket_alloc) +
	       sizeof(struct dentry);
}

unsigned int fsocket_sockfs_size_max(void)
{
	u64 bytes = (u64)totalram_pages() << PAGE_SHIFT;

	return min_t(u64, INT_MAX, div64_u64(bytes / 4, fsocket_pooled_bytes() *
					     num_possible_cpus()));
}

static int fsocket_sockfs_learn(void)
{
	struct socket *sock;
	struct file *file;
	int ret = 0;

	if (!fsocket_kernel_resolve(sockfs, security_socket_accept) ||
	    !fsocket_kernel_resolve(sockfs, alloc_file_clone)) {
		pr_info("no socket pool: this kernel's security_socket_accept() or alloc_file_clone() cannot be resolved\n");
		return -EOPNOTSUPP;
	}
	sock = sock_alloc();
	if (!sock)
		return -ENOMEM;
	file = sock_alloc_file(sock, 0, NULL);
	if (IS_ERR(file))
		return PTR_ERR(file);

	/* Security modules label an inode when it is made, and the label can be changed. */
	if (security_inode_listsecurity(file_inode(file), NULL, 0) > 0) {
		pr_info("no socket pool: a security module labels sockets (SELinux, Smack)\n");
		ret = -EOPNOTSUPP;
	} else {
		fsocket_file_ops = file->f_op;
		/* sockfs is mounted for as long as the kernel runs. */
		fsocket_sock_mnt = file->f_path.mnt;
		fsocket_sock_nowait = file->f_mode & FMODE_NOWAIT;
	}
	fput(file);
	return ret;
}

/*
 * Exchanges the ring of @pool for the empty one in ->spare, which has room for @size
 * sockets. Sockets for which the new ring has no room are dropped.
 */
static void fsocket_pool_swap(struct fsocket_pool *pool, unsigned int size)
{
	struct fsocket_pooled *old;
	unsigned int count, i;

	fsocket_pool_lock(pool);
	swap(pool->ring, pool->spare);
	old = pool->spare;
	count = pool->count;
	pool->size = size;
	pool->count = min(count, size);
	pool->next = 0;
	for (i = 0; i < pool->count; i++)
		pool->ring[i] = old[i];
	for (; i < count; i++)
		fsocket_pooled_check(pool, &old[i]);
	spin_unlock(&pool->lock);

	for (i = min(count, size); i < count; i++) {
		fsocket_pooled_drop(&old[i]);
		cond_resched();
	}
}

int fsocket_sockfs_resize(unsigned int size)
{
	struct fsocket_pool *pool;
	int cpu, ret = 0;

	if (size && !fsocket_file_ops) {
		ret = fsocket_sockfs_learn();
		if (ret)
			return ret;
	}
	for_each_possible_cpu(cpu) {
		if (!size)
			break;
		pool = per_cpu_ptr(&fsocket_pools, cpu);
		pool->spare = kvzalloc_node(array_size(size, sizeof(*pool->spare)),
					    GFP_KERNEL | __GFP_NOWARN,
					    cpu_to_node(cpu));
		if (!pool->spare) {
			ret = -ENOMEM;
			goto out;
		}
	}
	for_each_possible_cpu(cpu)
		fsocket_pool_swap(per_cpu_ptr(&fsocket_pools, cpu), size);
	WRITE_ONCE(fsocket_pool_size, size);
	fsocket_features_set_socket_pool(size);
out:
	for_each_possible_cpu(cpu) {
		pool = per_cpu_ptr(&fsocket_pools, cpu);
		kvfree(pool->spare);
		pool->spare = NULL;
	}
	return ret;
}

void fsocket_sockfs_stats(int cpu, struct fsocket_pool_stats *stats)
{
	struct fsocket_pool *pool = per_cpu_ptr(&fsocket_pools, cpu);
	unsigned int i = 0, end, idle = 0;
	bool more;

	*stats = *per_cpu_ptr(&fsocket_pool_stats, cpu);
	do {
		/* Any user may read the statistics, so hold the lock for a short time only. */
		fsocket_pool_lock(pool);
		end = min(pool->count, i + FSOCKET_STATS_BATCH);
		for (; i < end; i++)
			idle += fsocket_pooled_check(pool, &pool->ring[i]);
		more = end < pool->count;
		stats->sock_free_to_pool = pool->returned;
		spin_unlock(&pool->lock);
		cond_resched();
	} while (more);
	stats->sock_in_pool = idle;
}
