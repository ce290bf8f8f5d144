// SPDX-License-Identifier: GPL-2.0-only
/*
 * A connection has the options of the socket at which it arrived, so a member of a
 * group needs all options of its listener. An option that cannot be read back, or is
 * not the same after it was set, is an obstacle: that listener gets no members.
 */
#include <linux/in6.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>

#include "backend.h"
#include "fds.h"
#include "real.h"

/* An option that cannot be read back has been set of some socket. */
static atomic_bool hidden;

/* The longest are names. */
#define MAX_VALUE 32

struct option {
	int level, name;
	unsigned int size;
};

/* The table also has options that this kernel may not know, which no program can have set. */
static const struct option options[] = {
	/* These are set before bind(), which depends on them. */
	{ SOL_SOCKET, SO_REUSEADDR, 4 },
	{ SOL_SOCKET, SO_BINDTODEVICE, 16 },
	/* The name cannot be read once the device has gone. */
	{ SOL_SOCKET, SO_BINDTOIFINDEX, 4 },
	{ IPPROTO_IP, 15 /* IP_FREEBIND */, 4 },
	{ IPPROTO_IP, 19 /* IP_TRANSPARENT */, 4 },

	{ SOL_SOCKET, SO_KEEPALIVE, 4 },
	{ SOL_SOCKET, SO_OOBINLINE, 4 },
	{ SOL_SOCKET, SO_DONTROUTE, 4 },
	{ SOL_SOCKET, SO_DEBUG, 4 },
	{ SOL_SOCKET, SO_MARK, 4 },
	{ SOL_SOCKET, SO_RCVLOWAT, 4 },
	{ SOL_SOCKET, SO_LINGER, 8 },
	{ SOL_SOCKET, SO_RCVTIMEO, 16 },
	{ SOL_SOCKET, SO_SNDTIMEO, 16 },
	{ SOL_SOCKET, SO_RCVBUF, 4 },
	{ SOL_SOCKET, SO_SNDBUF, 4 },
	{ SOL_SOCKET, SO_TIMESTAMP, 4 },
	{ SOL_SOCKET, SO_TIMESTAMPNS, 4 },
	{ SOL_SOCKET, SO_TIMESTAMPING, 4 },
	{ SOL_SOCKET, SO_BUSY_POLL, 4 },
	{ SOL_SOCKET, SO_PREFER_BUSY_POLL, 4 },
	{ SOL_SOCKET, SO_BUSY_POLL_BUDGET, 4 },
	{ SOL_SOCKET, SO_MAX_PACING_RATE, 8 },
	{ SOL_SOCKET, SO_ZEROCOPY, 4 },
	{ SOL_SOCKET, SO_INCOMING_CPU, 4 },
	{ SOL_SOCKET, 74 /* SO_TXREHASH */, 4 },
	{ SOL_SOCKET, SO_NETNS_COOKIE, 8 },
	/* Setting a size of a buffer locks it, also to what it was: this comes after these. */
	{ SOL_SOCKET, SO_BUF_LOCK, 4 },
	{ SOL_SOCKET, SO_BROADCAST, 4 },
	{ SOL_SOCKET, SO_NO_CHECK, 4 },
	{ SOL_SOCKET, SO_RXQ_OVFL, 4 },
	{ SOL_SOCKET, SO_WIFI_STATUS, 4 },
	{ SOL_SOCKET, SO_PEEK_OFF, 4 },
	{ SOL_SOCKET, SO_NOFCS, 4 },
	{ SOL_SOCKET, SO_SELECT_ERR_QUEUE, 4 },
	{ SOL_SOCKET, 63 /* SO_TIMESTAMP_NEW */, 4 },
	{ SOL_SOCKET, 64 /* SO_TIMESTAMPNS_NEW */, 4 },
	{ SOL_SOCKET, 65 /* SO_TIMESTAMPING_NEW */, 4 },
	{ SOL_SOCKET, 75 /* SO_RCVMARK */, 4 },
	{ SOL_SOCKET, 82 /* SO_RCVPRIORITY */, 4 },
	{ SOL_SOCKET, 61 /* SO_TXTIME */, 8 },

	{ IPPROTO_IP, 1 /* IP_TOS */, 4 },
	/* IP_TOS changes the priority. */
	{ SOL_SOCKET, SO_PRIORITY, 4 },
	{ IPPROTO_IP, 2 /* IP_TTL */, 4 },
	{ IPPROTO_IP, 6 /* IP_RECVOPTS */, 4 },
	{ IPPROTO_IP, 7 /* IP_RETOPTS */, 4 },
	{ IPPROTO_IP, 8 /* IP_PKTINFO */, 4 },
	{ IPPROTO_IP, 10 /* IP_MTU_DISCOVER */, 4 },
	{ IPPROTO_IP, 11 /* IP_RECVERR */, 4 },
	{ IPPROTO_IP, 12 /* IP_RECVTTL */, 4 },
	{ IPPROTO_IP, 13 /* IP_RECVTOS */, 4 },
	{ IPPROTO_IP, 18 /* IP_PASSSEC */, 4 },
	{ IPPROTO_IP, 20 /* IP_RECVORIGDSTADDR */, 4 },
	{ IPPROTO_IP, 21 /* IP_MINTTL */, 4 },
	{ IPPROTO_IP, 23 /* IP_CHECKSUM */, 4 },
	{ IPPROTO_IP, 26 /* IP_RECVERR_RFC4884 */, 4 },
	{ IPPROTO_IP, 34 /* IP_MULTICAST_LOOP */, 4 },
	{ IPPROTO_IP, 49 /* IP_MULTICAST_ALL */, 4 },
	{ IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, 4 },
	{ IPPROTO_IP, 51 /* IP_LOCAL_PORT_RANGE */, 4 },
	{ IPPROTO_IP, 50 /* IP_UNICAST_IF */, 4 },

	{ IPPROTO_TCP, TCP_NODELAY, 4 },
	{ IPPROTO_TCP, TCP_MAXSEG, 4 },
	{ IPPROTO_TCP, TCP_CORK, 4 },
	{ IPPROTO_TCP, TCP_KEEPIDLE, 4 },
	{ IPPROTO_TCP, TCP_KEEPINTVL, 4 },
	{ IPPROTO_TCP, TCP_KEEPCNT, 4 },
	{ IPPROTO_TCP, TCP_SYNCNT, 4 },
	{ IPPROTO_TCP, TCP_LINGER2, 4 },
	{ IPPROTO_TCP, TCP_DEFER_ACCEPT, 4 },
	{ IPPROTO_TCP, TCP_WINDOW_CLAMP, 4 },
	{ IPPROTO_TCP, TCP_QUICKACK, 4 },
	{ IPPROTO_TCP, TCP_CONGESTION, 16 },
	{ IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 4 },
	{ IPPROTO_TCP, TCP_THIN_DUPACK, 4 },
	{ IPPROTO_TCP, TCP_USER_TIMEOUT, 4 },
	{ IPPROTO_TCP, TCP_FASTOPEN, 4 },
	{ IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 4 },
	/* One key, or two. */
	{ IPPROTO_TCP, 33 /* TCP_FASTOPEN_KEY */, 32 },
	{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4 },
	{ IPPROTO_TCP, TCP_SAVE_SYN, 4 },
	{ IPPROTO_TCP, TCP_INQ, 4 },
	{ IPPROTO_TCP, TCP_TX_DELAY, 4 },
	{ IPPROTO_TCP, 30 /* TCP_FASTOPEN_CONNECT */, 4 },
	{ IPPROTO_TCP, 44 /* TCP_RTO_MAX_MS */, 4 },
	{ IPPROTO_TCP, 45 /* TCP_RTO_MIN_US */, 4 },
	{ IPPROTO_TCP, 46 /* TCP_DELACK_MAX_US */, 4 },
};

static const struct option options6[] = {
	{ IPPROTO_IPV6, IPV6_V6ONLY, 4 },
	{ IPPROTO_IPV6, IPV6_FREEBIND, 4 },
	{ IPPROTO_IPV6, IPV6_TRANSPARENT, 4 },
	{ IPPROTO_IPV6, IPV6_UNICAST_HOPS, 4 },
	{ IPPROTO_IPV6, IPV6_MTU_DISCOVER, 4 },
	{ IPPROTO_IPV6, IPV6_RECVERR, 4 },
	{ IPPROTO_IPV6, IPV6_TCLASS, 4 },
	{ IPPROTO_IPV6, IPV6_DONTFRAG, 4 },
	{ IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 4 },
	{ IPPROTO_IPV6, IPV6_MINHOPCOUNT, 4 },
	{ IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, 4 },
	{ IPPROTO_IPV6, IPV6_MTU, 4 },
	{ IPPROTO_IPV6, 2 /* IPV6_2292PKTINFO */, 4 },
	{ IPPROTO_IPV6, 3 /* IPV6_2292HOPOPTS */, 4 },
	{ IPPROTO_IPV6, 4 /* IPV6_2292DSTOPTS */, 4 },
	{ IPPROTO_IPV6, 5 /* IPV6_2292RTHDR */, 4 },
	{ IPPROTO_IPV6, 8 /* IPV6_2292HOPLIMIT */, 4 },
	{ IPPROTO_IPV6, 11 /* IPV6_FLOWINFO */, 4 },
	{ IPPROTO_IPV6, 19 /* IPV6_MULTICAST_LOOP */, 4 },
	{ IPPROTO_IPV6, 29 /* IPV6_MULTICAST_ALL */, 4 },
	{ IPPROTO_IPV6, 30 /* IPV6_ROUTER_ALERT_ISOLATE */, 4 },
	{ IPPROTO_IPV6, 31 /* IPV6_RECVERR_RFC4884 */, 4 },
	{ IPPROTO_IPV6, 33 /* IPV6_FLOWINFO_SEND */, 4 },
	{ IPPROTO_IPV6, 49 /* IPV6_RECVPKTINFO */, 4 },
	{ IPPROTO_IPV6, 51 /* IPV6_RECVHOPLIMIT */, 4 },
	{ IPPROTO_IPV6, 53 /* IPV6_RECVHOPOPTS */, 4 },
	{ IPPROTO_IPV6, 56 /* IPV6_RECVRTHDR */, 4 },
	{ IPPROTO_IPV6, 58 /* IPV6_RECVDSTOPTS */, 4 },
	{ IPPROTO_IPV6, 60 /* IPV6_RECVPATHMTU */, 4 },
	{ IPPROTO_IPV6, 66 /* IPV6_RECVTCLASS */, 4 },
	{ IPPROTO_IPV6, 74 /* IPV6_RECVORIGDSTADDR */, 4 },
	{ IPPROTO_IPV6, 76 /* IPV6_UNICAST_IF */, 4 },
	{ IPPROTO_IPV6, 77 /* IPV6_RECVFRAGSIZE */, 4 },
};

/* Returns whether the option exists, its value, followed by zeros, and the length of that. */
static bool read_option(int fd, const struct option *o, unsigned char *value, socklen_t *len)
{
	*len = o->size;
	memset(value, 0, MAX_VALUE);
	return !RAW5(SYS_getsockopt, fd, o->level, o->name, value, len);
}

static bool write_option(int fd, const struct option *o, const unsigned char *value, socklen_t len)
{
	int half;

	/* The kernel doubles the value that it is given. */
	if (o->level == SOL_SOCKET && (o->name == SO_RCVBUF || o->name == SO_SNDBUF)) {
		memcpy(&half, value, sizeof(half));
		half /= 2;
		return !RAW5(SYS_setsockopt, fd, o->level, o->name, &half, sizeof(half));
	}
	return !RAW5(SYS_setsockopt, fd, o->level, o->name, value, len);
}

static bool copy(int to, int from, const struct option *o)
{
	unsigned char wanted[MAX_VALUE], is[MAX_VALUE];
	socklen_t len, other;

	if (!read_option(from, o, wanted, &len))
		return true;
	if (read_option(to, o, is, &other) && !memcmp(wanted, is, MAX_VALUE))
		return true;
	return write_option(to, o, wanted, len) && read_option(to, o, is, &other) &&
	       !memcmp(wanted, is, MAX_VALUE);
}

/* A filter that is attached cannot be read back, or has a length above 0. */
static bool filtered(int fd)
{
	socklen_t len = 0;

	return RAW5(SYS_getsockopt, fd, SOL_SOCKET, SO_GET_FILTER, NULL, &len) || len;
}

static bool has_ip_options(int fd)
{
	unsigned char bytes[64];
	socklen_t len = sizeof(bytes);

	return !RAW5(SYS_getsockopt, fd, IPPROTO_IP, 4 /* IP_OPTIONS */, bytes, &len) && len;
}

/* Headers that each packet of a connection gets; these have any length. */
static bool has_ip6_headers(int fd)
{
	static const int names[] = { IPV6_HOPOPTS, IPV6_RTHDRDSTOPTS, IPV6_RTHDR, IPV6_DSTOPTS };
	unsigned char bytes[64];

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		socklen_t len = sizeof(bytes);

		if (!RAW5(SYS_getsockopt, fd, IPPROTO_IPV6, names[i], bytes, &len) && len)
			return true;
	}
	return false;
}

void fsocket_inherit_hidden(void)
{
	atomic_store(&hidden, true);
}

bool fsocket_inherit_possible(void)
{
	return !atomic_load(&hidden);
}

bool fsocket_group_inherit(int member, int fd, int family)
{
	/* Nobody can change the program of a socket whose filter is locked. */
	bool done = !filtered(fd) && !has_ip_options(fd) &&
		    fsocket_option(fd, SOL_SOCKET, SO_LOCK_FILTER) <= 0 &&
		    !(family == AF_INET6 && has_ip6_headers(fd));

	for (size_t i = 0; done && i < sizeof(options) / sizeof(*options); i++)
		done = copy(member, fd, &options[i]);
	for (size_t i = 0; done && family == AF_INET6 && i < sizeof(options6) / sizeof(*options6);
	     i++)
		done = copy(member, fd, &options6[i]);
	return done;
}
