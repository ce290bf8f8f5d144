// SPDX-License-Identifier: GPL-2.0-only
/*
 * Lists the listening TCP sockets of this network namespace by sock_diag(7), which any
 * user may ask.
 */
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ctl.h"

#define LISTEN 10

static struct listening *list;
static int count;

static void note(const struct inet_diag_msg *m)
{
	struct listening *l;

	list = ctl_alloc(list, (count + 1) * sizeof(*list));
	l = &list[count++];
	*l = (struct listening){
		.inode = m->idiag_inode,
		.port = ntohs(m->id.idiag_sport),
		.family = m->idiag_family == AF_INET6 ? 6 : 4,
		.queued = m->idiag_rqueue,
		.limit = m->idiag_wqueue,
	};
	inet_ntop(m->idiag_family, m->id.idiag_src, l->address, sizeof(l->address));
}

static bool ask(int fd, int family)
{
	struct {
		struct nlmsghdr header;
		struct inet_diag_req_v2 request;
	} question = {
		.header = {
			.nlmsg_len = sizeof(question),
			.nlmsg_type = SOCK_DIAG_BY_FAMILY,
			.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
		},
		.request = {
			.sdiag_family = family,
			.sdiag_protocol = IPPROTO_TCP,
			.idiag_states = 1 << LISTEN,
		},
	};

	return send(fd, &question, sizeof(question), 0) == sizeof(question);
}

/* Reads the answer to its end; returns 0 or the error. */
static int hear(int fd)
{
	_Alignas(struct nlmsghdr) char buffer[32768];

	for (;;) {
		ssize_t got = recv(fd, buffer, sizeof(buffer), 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? errno : EIO;
		for (struct nlmsghdr *h = (void *)buffer; NLMSG_OK(h, (size_t)got);
		     h = NLMSG_NEXT(h, got)) {
			if (h->nlmsg_type == NLMSG_DONE)
				return 0;
			if (h->nlmsg_type == NLMSG_ERROR)
				return -((struct nlmsgerr *)NLMSG_DATA(h))->error;
			note(NLMSG_DATA(h));
		}
	}
}

const struct listening *ctl_listening(int *found)
{
	static const int families[] = { AF_INET, AF_INET6 };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG), error = 0;

	count = 0;
	for (int i = 0; i < 2 && fd >= 0 && !error; i++)
		error = ask(fd, families[i]) ? hear(fd) : errno;
	if (fd < 0 || error)
		ctl_fail(CTL_FAILED, "listening sockets cannot be read by sock_diag: %s",
			 strerror(fd < 0 ? errno : error));
	close(fd);
	*found = count;
	return list;
}
