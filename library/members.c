// SPDX-License-Identifier: GPL-2.0-only
/*
 * The descriptors of a group: they belong to the library, and have numbers that
 * programs seldom use.
 */
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backend.h"
#include "fds.h"
#include "real.h"

int fsocket_member_raise(int low)
{
	struct rlimit limit;
	int high;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur > 1024)
		limit.rlim_cur = 1024;
	high = RAW3(SYS_fcntl, low, F_DUPFD_CLOEXEC, limit.rlim_cur / 2);
	RAW2(SYS_close, low, 0);
	if (high >= FSOCKET_MAX_FD) {
		RAW2(SYS_close, high, 0);
		return -1;
	}
	if (high < 0)
		return -1;
	fsocket_fd_set(high, FD_MEMBER);
	return high;
}

static void close_own(int *fd)
{
	if (*fd < 0)
		return;
	fsocket_fd_set(*fd, FD_UNKNOWN);
	RAW2(SYS_close, *fd, 0);
	*fd = -1;
}

void fsocket_members_close(struct group *g)
{
	for (int m = 0; m < g->count; m++)
		close_own(&g->members[m]);
	g->count = 0;
	close_own(&g->memory);
}

bool fsocket_members_readable(const struct group *g, const bool *except)
{
	struct pollfd fds[GROUP_MEMBERS];
	int count = 0;

	for (int m = 0; m < g->count; m++)
		if (g->route->index[m] && !except[m] && g->members[m] >= 0)
			fds[count++] = (struct pollfd){ .fd = g->members[m], .events = POLLIN };
	return count && RAW3(SYS_poll, fds, count, 0) > 0;
}

in_port_t fsocket_member_port(int fd)
{
	struct sockaddr_in6 address;
	socklen_t len = sizeof(address);

	/* Both families have the port at the same place. */
	memset(&address, 0, sizeof(address));
	return RAW3(SYS_getsockname, fd, &address, &len) ? 0 : address.sin6_port;
}
