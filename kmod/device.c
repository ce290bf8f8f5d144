// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/fastsocket and its ioctls. Any user may open it.
 *
 * SOCKET, LISTEN, ACCEPT, SHUTDOWN_LISTEN and CONNECT have to do exactly what the
 * system calls of these names do, with the same arguments and their security hooks,
 * which modules cannot call. So the module finds the kernel's functions for them when
 * it is loaded. fsocket_is_watched() handles filters of system calls.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/audit.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/net.h>
#include <linux/nsproxy.h>
#include <linux/security.h>
#include <linux/slab.h>
#include <linux/syscalls.h>
#include <linux/thread_info.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "device.h"
#include "fastsocket_abi.h"
#include "features.h"
#include "listen.h"
#include "log.h"
#include "ops.h"
#include "resolve.h"
#include "rfd.h"
#include "sockfs.h"
#include "stats.h"

FSOCKET_KERNEL_FUNCTION(device, __sys_socket);
FSOCKET_KERNEL_FUNCTION(device, __sys_listen);
FSOCKET_KERNEL_FUNCTION(device, __sys_accept4);
FSOCKET_KERNEL_FUNCTION(device, __sys_shutdown);
FSOCKET_KERNEL_FUNCTION(device, __sys_connect);
FSOCKET_KERNEL_FUNCTION(device, security_socket_connect);

static int fsocket_call_socket(const struct fsocket_ioctl_arg *arg)
{
	return fsocket_kernel(device, __sys_socket)(arg->op.socket_op.family,
						    arg->op.socket_op.type,
						    arg->op.socket_op.protocol);
}

static int fsocket_call_listen(const struct fsocket_ioctl_arg *arg)
{
	struct socket *sock;
	int ret;

	ret = fsocket_kernel(device, __sys_listen)(arg->fd, arg->backlog);
	if (ret || READ_ONCE(fsocket_spawn_mode) == FSOCKET_SPAWN_OFF)
		return ret;
	sock = sockfd_lookup(arg->fd, &ret);
	if (!sock)
		return ret;
	ret = fsocket_listen_adopt(sock);
	sockfd_put(sock);
	/* listen() has succeeded, so a socket that cannot have local listeners is no error here. */
	return ret == -ENOMEM ? ret : 0;
}

static int fsocket_call_accept(const struct fsocket_ioctl_arg *arg)
{
	struct fd listener = fdget(arg->fd);
	struct file *file = fsocket_fd_file(listener);
	int ret;

	if (file && fsocket_sockfs_serves(file, arg->op.accept_op.flags)) {
		ret = fsocket_sockfs_accept(file, arg);
		fdput(listener);
		return ret;
	}
	fdput(listener);
	return fsocket_kernel(device, __sys_accept4)(arg->fd,
			(void __user *)arg->op.accept_op.sockaddr,
			(void __user *)arg->op.accept_op.sockaddr_len,
			arg->op.accept_op.flags);
}

/* Does what __sys_connect_file() does, with a source port that RFD chooses. */
static int fsocket_connect_by_rfd(struct socket *sock, const void __user *addr,
				  int len)
{
	struct sockaddr_storage address;
	int ret;

	if (len < 0 || len > sizeof(address))
		return -EINVAL;
	if (len && copy_from_user(&address, addr, len))
		return -EFAULT;
	ret = fsocket_kernel(device, security_socket_connect)(sock, (void *)&address, len);
	return ret ?: fsocket_rfd_connect(sock, &address, len);
}

static int fsocket_call_connect(const struct fsocket_ioctl_arg *arg)
{
	void __user *addr = (void __user *)arg->op.connect_op.sockaddr;
	int len = arg->op.connect_op.sockaddr_len, ret;
	struct socket *sock;

	sock = sockfd_lookup(arg->fd, &ret);
	if (!sock)
		return ret;
	if (fsocket_rfd_serves(sock))
		ret = fsocket_connect_by_rfd(sock, addr, len);
	else
		ret = fsocket_kernel(device, __sys_connect)(arg->fd, addr, len);
	sockfd_put(sock);
	return ret;
}

static int fsocket_call_close(struct fsocket_claims *claims,
			      const struct fsocket_ioctl_arg *arg)
{
	struct socket *sock;
	int ret;

	sock = sockfd_lookup(arg->fd, &ret);
	if (sock) {
		fsocket_claims_retire_all(claims, sock, current->files);
		sockfd_put(sock);
	}
	ret = close_fd(arg->fd);
	/* As for close(2): the descriptor is gone, so the call cannot be restarted. */
	switch (ret) {
	case -ERESTARTSYS:
	case -ERESTARTNOINTR:
	case -ERESTARTNOHAND:
	case -ERESTART_RESTARTBLOCK:
		return -EINTR;
	}
	return ret;
}

static int fsocket_call_spawn(struct fsocket_claims *claims, int fd, int cpu)
{
	struct socket *sock;
	int ret;

	sock = sockfd_lookup(fd, &ret);
	if (!sock)
		return ret;
	ret = fsocket_listen_spawn(claims, sock, cpu);
	sockfd_put(sock);
	return ret;
}

static int fsocket_call_retire(struct fsocket_claims *claims, int fd)
{
	struct socket *sock;
	int ret;

	sock = sockfd_lookup(fd, &ret);
	if (!sock)
		return ret;
	fsocket_claims_retire(claims, sock);
	sockfd_put(sock);
	return 0;
}

static int fsocket_epoll_saved(const struct fsocket_ioctl_arg *arg)
{
	if (arg->backlog > FSOCKET_EPOLL_SAVED_MAX)
		return -EINVAL;
	fsocket_add(current->nsproxy->net_ns, epoll_saved, arg->backlog);
	return 0;
}

/* Stops iterate_fd() at the next fd that has a listener of ours; 0 stands for "none". */
static int fsocket_fd_is_ours(const void *unused, struct file *file,
			      unsigned int fd)
{
	struct socket *sock = sock_from_file(file);

	return sock && fsocket_listen_is_ours(sock) ? fd + 1 : 0;
}

static int fsocket_spawn_all(struct fsocket_claims *claims)
{
	int next = 0, ret = 0, err;

	while ((next = iterate_fd(current->files, next, fsocket_fd_is_ours,
				  NULL)) > 0) {
		err = fsocket_call_spawn(claims, next - 1, FSOCKET_CPU_AS_PARENT);
		/* Another thread may have closed the descriptor in between. */
		if (err && err != -EBADF && err != -ENOTSOCK && !ret)
			ret = err;
	}
	return ret;
}

/*
 * Returns whether the kernel checks the system calls of current by their numbers, for a
 * seccomp filter, a tracer, or rules of the audit system. These would see an ioctl
 * only.
 */
static bool fsocket_is_watched(void)
{
	return test_syscall_work(SECCOMP) || test_syscall_work(SYSCALL_TRACE) ||
	       test_syscall_work(SYSCALL_EMU) || !audit_dummy_context();
}

/* The ioctls that stand for system calls, and call the kernel below these checks. */
static long fsocket_ioctl_syscall(struct fsocket_claims *claims, unsigned int cmd,
				  const struct fsocket_ioctl_arg *arg)
{
	if (fsocket_is_watched()) {
		fsocket_log(FSOCKET_ERR,
			    "ioctl %#x refused: a seccomp filter, a tracer or an audit rule watches the system calls of this task; make the system call itself\n",
			    cmd);
		return -EPERM;
	}
	switch (cmd) {
	case FSOCKET_IOC_SOCKET:
		return fsocket_call_socket(arg);
	case FSOCKET_IOC_LISTEN:
		return fsocket_call_listen(arg);
	case FSOCKET_IOC_ACCEPT:
		return fsocket_call_accept(arg);
	case FSOCKET_IOC_CLOSE:
		return fsocket_call_close(claims, arg);
	case FSOCKET_IOC_CONNECT:
		return fsocket_call_connect(arg);
	}
	return fsocket_kernel(device, __sys_shutdown)(arg->fd, arg->op.shutdown_op.how);
}

static long fsocket_ioctl(struct file *file, unsigned int cmd,
			  unsigned long uarg)
{
	struct fsocket_claims *claims = file->private_data;
	struct fsocket_ioctl_arg arg;

	if (cmd == FSOCKET_IOC_SPAWN_ALL_LISTEN)
		return fsocket_spawn_all(claims);
	if (copy_from_user(&arg, (void __user *)uarg, sizeof(arg)))
		return -EFAULT;

	switch (cmd) {
	case FSOCKET_IOC_SOCKET:
	case FSOCKET_IOC_LISTEN:
	case FSOCKET_IOC_ACCEPT:
	case FSOCKET_IOC_CLOSE:
	case FSOCKET_IOC_CONNECT:
	case FSOCKET_IOC_SHUTDOWN_LISTEN:
		return fsocket_ioctl_syscall(claims, cmd, &arg);
	case FSOCKET_IOC_SPAWN_LISTEN:
		if (arg.op.spawn_op.cpu < FSOCKET_CPU_ANY)
			return -EINVAL;
		return fsocket_call_spawn(claims, arg.fd, arg.op.spawn_op.cpu);
	case FSOCKET_IOC_RETIRE_LISTEN:
		return fsocket_call_retire(claims, arg.fd);
	case FSOCKET_IOC_EPOLL_SAVED:
		return fsocket_epoll_saved(&arg);
	}
	fsocket_log(FSOCKET_ERR, "ioctl %#x is none of ours\n", cmd);
	return -ENOTTY;
}

static int fsocket_open(struct inode *inode, struct file *file)
{
	struct fsocket_claims *claims;

	claims = kzalloc(sizeof(*claims), GFP_KERNEL_ACCOUNT);
	if (!claims)
		return -ENOMEM;
	spin_lock_init(&claims->lock);
	INIT_LIST_HEAD(&claims->list);
	file->private_data = claims;
	return 0;
}

/*
 * A process closes the device, or exits: retires what it has spawned, even if other
 * processes (its parent, its children) still have the same file open.
 */
static int fsocket_flush(struct file *file, fl_owner_t owner)
{
	fsocket_claims_retire_all(file->private_data, NULL, owner);
	return 0;
}

static int fsocket_file_release(struct inode *inode, struct file *file)
{
	fsocket_claims_retire_all(file->private_data, NULL, NULL);
	kfree(file->private_data);
	return 0;
}

static int fsocket_mmap(struct file *file, struct vm_area_struct *vma)
{
	return fsocket_features_mmap(vma);
}

static const struct file_operations fsocket_fops = {
	.owner = THIS_MODULE,
	.open = fsocket_open,
	.flush = fsocket_flush,
	.release = fsocket_file_release,
	.unlocked_ioctl = fsocket_ioctl,
	.mmap = fsocket_mmap,
	.llseek = noop_llseek,
};

static struct miscdevice fsocket_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "fastsocket",
	.fops = &fsocket_fops,
	.mode = 0666,
};

int fsocket_device_init(void)
{
	if (!fsocket_kernel_resolve(device, __sys_socket) ||
	    !fsocket_kernel_resolve(device, __sys_listen) ||
	    !fsocket_kernel_resolve(device, __sys_accept4) ||
	    !fsocket_kernel_resolve(device, __sys_shutdown) ||
	    !fsocket_kernel_resolve(device, __sys_connect) ||
	    !fsocket_kernel_resolve(device, security_socket_connect)) {
		pr_err("this kernel's socket system calls cannot be resolved (CONFIG_KPROBES?)\n");
		return -EOPNOTSUPP;
	}
	return misc_register(&fsocket_device);
}

void fsocket_device_exit(void)
{
	misc_deregister(&fsocket_device);
}
