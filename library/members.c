// SPDX-License-Identifier: GPL-2.0-only
/*
 * The descriptors of a group: they belong to the library, and have numbers that
 * programs seldom use.
 */
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backend.h"
#include "fds.h"
#include "real.h"

/* Returns a number from first on for the file of fd, which belongs to the library; or -1. */
static int copy(int fd, unsigned int first)
{
	int high = RAW3(SYS_fcntl, fd, F_DUPFD_CLOEXEC, first);

	if (high >= FSOCKET_MAX_FD) {
		RAW2(SYS_close, high, 0);
		return -1;
	}
	if (high < 0)
		return -1;
	fsocket_fd_set(high, FD_MEMBER);
	return high;
}

int fsocket_member_raise(int low)
{
	struct rlimit limit;
	int high;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur > 1024)
		limit.rlim_cur = 1024;
	high = copy(low, limit.rlim_cur / 2);
	RAW2(SYS_close, low, 0);
	return high;
}

int fsocket_member_move(int fd, unsigned int last)
{
	return last < FSOCKET_MAX_FD ? copy(fd, last + 1) : -1;
}

static void close_own(int *fd)
{
	if (*fd < 0)
		return;
	fsocket_fd_set(*fd, FD_UNKNOWN);
	RAW2(SYS_close, *fd, 0);
	*fd = -1;
}

bool fsocket_memory_there(const struct group *g)
{
	return RAW3(SYS_fcntl, g->memory, F_GET_SEALS, 0) > 0;
}

bool fsocket_member_there(const struct group *g, int member)
{
	return g->members[member] >= 0 &&
	       fsocket_inode(g->members[member]) == g->route->sockets[member];
}

void fsocket_members_close(struct group *g)
{
	for (int m = 0; m < g->count; m++)
		close_own(&g->members[m]);
	g->count = 0;
	close_own(&g->memory);
}

void fsocket_members_shut_down(const struct group *g)
{
	for (int m = 0; m < g->count; m++)
		if (fsocket_member_there(g, m))
			RAW2(SYS_shutdown, g->members[m], SHUT_RDWR);
}

bool fsocket_members_readable(const struct group *g, const bool *except)
{
	struct pollfd fds[GROUP_MEMBERS];
	int count = 0;

	for (int m = 0; m < g->count; m++)
		if (g->route->index[m] && !(except && except[m]) && g->members[m] >= 0)
			fds[count++] = (struct pollfd){ .fd = g->members[m], .events = POLLIN };
	return count && RAW3(SYS_poll, fds, count, 0) > 0;
}

bool fsocket_member_address(int fd, struct sockaddr_in6 *address)
{
	socklen_t len = sizeof(*address);

	memset(address, 0, sizeof(*address));
	return !RAW3(SYS_getsockname, fd, address, &len);
}

void fsocket_members_watch(const struct group *g, int epfd, int op,
			   const struct epoll_event *event)
{
	for (int m = 0; m < g->count; m++)
		if (g->route->index[m] && g->members[m] >= 0)
			RAW4(SYS_epoll_ctl, epfd, op, g->members[m], event);
}

in_port_t fsocket_member_port(int fd)
{
	struct sockaddr_in6 address;

	/* Both families have the port at the same place. */
	return fsocket_member_address(fd, &address) ? address.sin6_port : 0;
}

/* As in <netinet/tcp.h>, beside which <linux/tcp.h> cannot be included. */
enum { CLOSED = 7, LISTENS = 10 };

bool fsocket_member_connected(int fd)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	memset(&info, 0, sizeof(info));
	return fsocket_option(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP &&
	       !RAW5(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, &info, &len) &&
	       info.tcpi_state != LISTENS &&
	       /* A connection that has ended has received segments. */
	       (info.tcpi_state != CLOSED || info.tcpi_segs_in);
}

bool fsocket_member_reached(int fd, const struct sockaddr_in6 *listener)
{
	struct sockaddr_in6 address;
	const struct sockaddr_in *here = (const void *)&address, *there = (const void *)listener;

	if (!listener->sin6_port || !fsocket_member_address(fd, &address) ||
	    address.sin6_family != listener->sin6_family ||
	    address.sin6_port != listener->sin6_port)
		return false;
	if (listener->sin6_family == AF_INET)
		return there->sin_addr.s_addr == htonl(INADDR_ANY) ||
		       there->sin_addr.s_addr == here->sin_addr.s_addr;
	return IN6_IS_ADDR_UNSPECIFIED(&listener->sin6_addr) ||
	       IN6_ARE_ADDR_EQUAL(&listener->sin6_addr, &address.sin6_addr);
}
