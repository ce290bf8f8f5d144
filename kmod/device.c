// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/fastsocket and its ioctls. Any user may open it.
 *
 * SOCKET, LISTEN, ACCEPT, SHUTDOWN_LISTEN and CONNECT are the system calls of
 * these names with the same arguments, and have to be exactly these: with their
 * security hooks, which modules cannot call. So they are resolved at load, by
 * way of a kprobe that is never armed.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kprobes.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/net.h>
#include <linux/nsproxy.h>
#include <linux/slab.h>
#include <linux/syscalls.h>
#include <linux/uaccess.h>

#include "device.h"
#include "fastsocket_abi.h"
#include "features.h"
#include "listen.h"
#include "params.h"
#include "rfd.h"
#include "stats.h"

static int (*fsocket_sys_socket)(int family, int type, int protocol);
static int (*fsocket_sys_listen)(int fd, int backlog);
static int (*fsocket_sys_accept4)(int fd, struct sockaddr __user *addr,
				  int __user *addrlen, int flags);
static int (*fsocket_sys_shutdown)(int fd, int how);

static int (*fsocket_sys_connect)(int fd, struct sockaddr __user *addr,
				  int addrlen);

/*
 * How often connect() may find the four-tuple of a chosen port taken, before the
 * kernel chooses.
 */
#define FSOCKET_CONNECT_TRIES	8

static void *fsocket_resolve(const char *symbol)
{
	struct kprobe kp = {
		.symbol_name = symbol,
		.flags = KPROBE_FLAG_DISABLED,
	};
	void *addr;

	if (register_kprobe(&kp))
		return NULL;
	addr = kp.addr;
	unregister_kprobe(&kp);
#ifdef CONFIG_X86_KERNEL_IBT
	/* The probe sits behind the ENDBR that an indirect call has to meet. */
	addr -= ENDBR_INSN_SIZE;
#endif
	return addr;
}

static int fsocket_socket(const struct fsocket_ioctl_arg *arg)
{
	return fsocket_sys_socket(arg->op.socket_op.family,
				  arg->op.socket_op.type,
				  arg->op.socket_op.protocol);
}

static int fsocket_listen(const struct fsocket_ioctl_arg *arg)
{
	struct socket *sock;
	int ret;

	ret = fsocket_sys_listen(arg->fd, arg->backlog);
	if (ret || fsocket_spawn_mode() == FSOCKET_SPAWN_OFF)
		return ret;
	sock = sockfd_lookup(arg->fd, &ret);
	if (!sock)
		return ret;
	ret = fsocket_listen_adopt(sock);
	sockfd_put(sock);
	/* It listens; that it cannot have local listeners is no error here. */
	return ret == -ENOMEM ? ret : 0;
}

static int fsocket_accept(const struct fsocket_ioctl_arg *arg)
{
	return fsocket_sys_accept4(arg->fd,
				   (void __user *)arg->op.accept_op.sockaddr,
				   (void __user *)arg->op.accept_op.sockaddr_len,
				   arg->op.accept_op.flags);
}

static int fsocket_connect_from(struct sock *sk, int fd,
				struct sockaddr __user *addr, int len)
{
	int ret, try;

	for (try = 0; try < FSOCKET_CONNECT_TRIES; try++) {
		if (!fsocket_rfd_choose_port(sk))
			return fsocket_sys_connect(fd, addr, len);
		ret = fsocket_sys_connect(fd, addr, len);
		fsocket_rfd_return_port(sk);
		if (ret != -EADDRNOTAVAIL)
			return ret;
	}
	fsocket_rfd_exhausted(sk);
	return fsocket_sys_connect(fd, addr, len);
}

static int fsocket_connect(const struct fsocket_ioctl_arg *arg)
{
	struct socket *sock;
	int ret;

	sock = sockfd_lookup(arg->fd, &ret);
	if (!sock)
		return ret;
	ret = fsocket_connect_from(sock->sk, arg->fd,
				   (void __user *)arg->op.connect_op.sockaddr,
				   arg->op.connect_op.sockaddr_len);
	sockfd_put(sock);
	return ret;
}

static int fsocket_close(struct fsocket_claims *claims,
			 const struct fsocket_ioctl_arg *arg)
{
	struct socket *sock;
	int ret;

	sock = sockfd_lookup(arg->fd, &ret);
	if (sock) {
		fsocket_listen_retire_all(claims, sock, current->files);
		sockfd_put(sock);
	}
	return close_fd(arg->fd);
}

static int fsocket_spawn(struct fsocket_claims *claims, int fd, int cpu)
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

static int fsocket_retire(struct fsocket_claims *claims, int fd)
{
	struct socket *sock;
	int ret;

	sock = sockfd_lookup(fd, &ret);
	if (!sock)
		return ret;
	fsocket_listen_retire(claims, sock);
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

/* Stops iterate_fd() at the next fd that is ours; 0 is for "none". */
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
		err = fsocket_spawn(claims, next - 1, -1);
		/* Another thread may have closed it in between. */
		if (err && err != -EBADF && err != -ENOTSOCK && !ret)
			ret = err;
	}
	return ret;
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
		return fsocket_socket(&arg);
	case FSOCKET_IOC_LISTEN:
		return fsocket_listen(&arg);
	case FSOCKET_IOC_ACCEPT:
		return fsocket_accept(&arg);
	case FSOCKET_IOC_CLOSE:
		return fsocket_close(claims, &arg);
	case FSOCKET_IOC_SPAWN_LISTEN:
		return fsocket_spawn(claims, arg.fd, arg.op.spawn_op.cpu);
	case FSOCKET_IOC_SHUTDOWN_LISTEN:
		return fsocket_sys_shutdown(arg.fd, arg.op.shutdown_op.how);
	case FSOCKET_IOC_RETIRE_LISTEN:
		return fsocket_retire(claims, arg.fd);
	case FSOCKET_IOC_CONNECT:
		return fsocket_connect(&arg);
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
	INIT_LIST_HEAD(&claims->list);
	file->private_data = claims;
	return 0;
}

/*
 * A process closes the device, or exits: what it spawned is retired, even where
 * others (its parent, its children) still have the same file open.
 */
static int fsocket_flush(struct file *file, fl_owner_t owner)
{
	fsocket_listen_retire_all(file->private_data, NULL, owner);
	return 0;
}

static int fsocket_file_release(struct inode *inode, struct file *file)
{
	fsocket_listen_retire_all(file->private_data, NULL, NULL);
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
	fsocket_sys_socket = fsocket_resolve("__sys_socket");
	fsocket_sys_listen = fsocket_resolve("__sys_listen");
	fsocket_sys_accept4 = fsocket_resolve("__sys_accept4");
	fsocket_sys_shutdown = fsocket_resolve("__sys_shutdown");
	fsocket_sys_connect = fsocket_resolve("__sys_connect");
	if (!fsocket_sys_socket || !fsocket_sys_listen ||
	    !fsocket_sys_accept4 || !fsocket_sys_shutdown ||
	    !fsocket_sys_connect) {
		pr_err("this kernel's socket system calls cannot be resolved (CONFIG_KPROBES?)\n");
		return -EOPNOTSUPP;
	}
	return misc_register(&fsocket_device);
}

void fsocket_device_exit(void)
{
	misc_deregister(&fsocket_device);
}
