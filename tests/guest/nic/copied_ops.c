// SPDX-License-Identifier: GPL-2.0-only
/*
 * For test_copies: makes a socket as do_accept() leaves it if it has copied the ops of
 * a listener to a new socket and the listener ends meanwhile. No program can make this
 * happen at will.
 */
#include <linux/file.h>
#include <linux/module.h>
#include <linux/net.h>

/* "FROM TO", descriptors of the writer: gives TO the ops of FROM. */
static int copied_ops_set(const char *text, const struct kernel_param *kp)
{
	struct socket *from, *to;
	int from_fd, to_fd, ret;

	if (sscanf(text, "%d %d", &from_fd, &to_fd) != 2)
		return -EINVAL;
	from = sockfd_lookup(from_fd, &ret);
	if (!from)
		return ret;
	to = sockfd_lookup(to_fd, &ret);
	if (to) {
		WRITE_ONCE(to->ops, READ_ONCE(from->ops));
		sockfd_put(to);
		ret = 0;
	}
	sockfd_put(from);
	return ret;
}

static const struct kernel_param_ops copied_ops_param = {
	.set = copied_ops_set,
};

module_param_cb(copy, &copied_ops_param, NULL, 0200);
MODULE_PARM_DESC(copy, "Descriptors of two sockets: the second one gets the ops of the first");

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Copies the ops of a socket to another, for a test of fastsocket");
