// SPDX-License-Identifier: GPL-2.0-only
/*
 * Options that the program sets and reads of a listener with a group, and of its connections: the
 * members get the same, and SO_REUSEPORT, which the library has set, shows what the program has set.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>

#include "device.h"
#include "fds.h"
#include "group.h"
#include "process.h"
#include "real.h"
#include "worker.h"

/* Descriptors accepted from a listener with a group: the library has set their SO_REUSEPORT. */
static atomic_bool children[FSOCKET_MAX_FD];
bool fsocket_group_option_allowed(int fd, int level, int name)
{
	const struct group *g;

	if ((level == IPPROTO_TCP && (name == TCP_MD5SIG || name == TCP_MD5SIG_EXT ||
				      name == TCP_ULP || name == 38 /* TCP_AO_ADD_KEY */)) ||
	    (level == IPPROTO_IP && name == 17 /* IP_XFRM_POLICY */) ||
	    (level == IPPROTO_IPV6 && name == 35 /* IPV6_XFRM_POLICY */))
		fsocket_inherit_hidden();
	if (level != SOL_SOCKET || !fsocket_group_was() || fsocket_device_confined())
		return true;
	if (name != SO_ATTACH_REUSEPORT_CBPF && name != SO_ATTACH_REUSEPORT_EBPF &&
	    name != SO_DETACH_REUSEPORT_BPF)
		return true;
	g = fsocket_group_find(fsocket_inode(fd));
	/*
	 * The kernel answers EINVAL for a socket that is in no group, unless it has SO_REUSEPORT
	 * and the program asks to detach what is not attached.
	 */
	if (!g && !fsocket_group_child(fd))
		return true;
	errno = g && g->route->reuseport && name == SO_DETACH_REUSEPORT_BPF ? ENOENT : EINVAL;
	return false;
}

RARELY void fsocket_group_stop(struct group *g)
{
	if (!fsocket_worker_hold())
		return;
	fsocket_route_stop(g);
	fsocket_worker_let_go();
}

static void stop(struct group *g)
{
	/* A listener whose members do not listen yet gets none. */
	if (!g->route->listening)
		atomic_store(&g->route->broken, true);
	else
		fsocket_group_stop(g);
}

void fsocket_group_signals(int fd)
{
	struct group *g = fsocket_group_of(fd);

	if (g && !fsocket_device_confined() && !fsocket_process_borrowed())
		stop(g);
}

void fsocket_group_option_set(int fd, int level, int name, const void *value, socklen_t len)
{
	struct group *g = fsocket_group_of_socket(fd);

	if (!g || fsocket_device_confined())
		return;
	/* The kernel refuses to change the program of a socket whose filter is locked. */
	if (level == SOL_SOCKET && name == SO_LOCK_FILTER && *(const int *)value)
		stop(g);
	if (level == SOL_SOCKET && name == SO_REUSEPORT) {
		g->route->reuseport = *(const int *)value;
		fsocket_set_reuseport(fd, 1);
		return;
	}
	for (int m = 0; m < g->count; m++)
		if (fsocket_member_there(g, m))
			RAW5(SYS_setsockopt, g->members[m], level, name, value, len);
}

void fsocket_group_info(int fd, struct tcp_info *info, socklen_t len)
{
	const struct group *g = fsocket_group_of(fd);

	if (!g || !g->route->listening || fsocket_device_confined() ||
	    len < offsetof(struct tcp_info, tcpi_unacked) + sizeof(info->tcpi_unacked) ||
	    info->tcpi_state != TCP_LISTEN)
		return;
	for (int m = 0; m < g->count; m++) {
		struct tcp_info member = { 0 };
		socklen_t size = sizeof(member);

		/* Of a listener, tcpi_unacked is the number that waits. */
		if (g->route->index[m] && fsocket_member_there(g, m) &&
		    !RAW5(SYS_getsockopt, g->members[m], IPPROTO_TCP, TCP_INFO, &member, &size))
			info->tcpi_unacked += member.tcpi_unacked;
	}
}

void fsocket_group_accepted(int fd, int conn)
{
	const struct group *g = fsocket_group_of(fd);

	if (g && !g->route->reuseport && (unsigned int)conn < FSOCKET_MAX_FD)
		atomic_store_explicit(&children[conn], true, memory_order_relaxed);
}

static bool is_child(int conn)
{
	return (unsigned int)conn < FSOCKET_MAX_FD &&
	       atomic_load_explicit(&children[conn], memory_order_relaxed);
}

bool fsocket_group_child(int conn)
{
	if (!fsocket_group_was() || fsocket_device_confined() || !fsocket_member_connected(conn))
		return false;
	if (is_child(conn))
		return true;
	/*
	 * conn may also be a copy of such a connection, or from another process. The address of
	 * a group that has been closed is still there.
	 */
	return fsocket_group_reached(conn);
}

void fsocket_group_own(int conn)
{
	if (is_child(conn))
		atomic_store_explicit(&children[conn], false, memory_order_relaxed);
}
