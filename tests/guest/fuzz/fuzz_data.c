// SPDX-License-Identifier: GPL-2.0-only
/* The part of the grammar about options, data, and the sockets' own ioctls. */
#include <linux/filter.h>
#include <linux/in6.h>
#include <linux/tls.h>
#include <netinet/tcp.h>
#include <sys/sendfile.h>

#include "fuzz.h"

/* Constants that libc's headers do not have. */
#ifndef TCP_TX_DELAY
#define TCP_TX_DELAY 37
#endif
#ifndef SOL_TLS
#define SOL_TLS 282
#endif

/* How the option's value is made. */
enum value { NUMBER, LINGER, TIME, TEXT, FILTER, PROGRAM, BYTES, TLS };

static const struct option {
	int level, name;
	enum value value;
	const char *text;
} socket_options[] = {
	{ SOL_SOCKET, SO_REUSEADDR, NUMBER, NULL },
	{ SOL_SOCKET, SO_REUSEPORT, NUMBER, NULL },
	{ SOL_SOCKET, SO_KEEPALIVE, NUMBER, NULL },
	{ SOL_SOCKET, SO_LINGER, LINGER, NULL },
	{ SOL_SOCKET, SO_SNDBUF, NUMBER, NULL },
	{ SOL_SOCKET, SO_RCVBUF, NUMBER, NULL },
	{ SOL_SOCKET, SO_RCVLOWAT, NUMBER, NULL },
	{ SOL_SOCKET, SO_RCVTIMEO, TIME, NULL },
	{ SOL_SOCKET, SO_SNDTIMEO, TIME, NULL },
	{ SOL_SOCKET, SO_PRIORITY, NUMBER, NULL },
	{ SOL_SOCKET, SO_MARK, NUMBER, NULL },
	{ SOL_SOCKET, SO_BINDTODEVICE, TEXT, "lo" },
	{ SOL_SOCKET, SO_BINDTODEVICE, TEXT, "" },
	{ SOL_SOCKET, SO_INCOMING_CPU, NUMBER, NULL },
	{ SOL_SOCKET, SO_BUSY_POLL, NUMBER, NULL },
	{ SOL_SOCKET, SO_ATTACH_FILTER, FILTER, NULL },
	{ SOL_SOCKET, SO_DETACH_FILTER, NUMBER, NULL },
	{ SOL_SOCKET, SO_LOCK_FILTER, NUMBER, NULL },
	{ SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, PROGRAM, NULL },
	{ SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, NUMBER, NULL },
	{ SOL_SOCKET, SO_TIMESTAMP, NUMBER, NULL },
	{ SOL_SOCKET, SO_TIMESTAMPING, NUMBER, NULL },
	{ SOL_SOCKET, SO_ZEROCOPY, NUMBER, NULL },
	{ SOL_SOCKET, SO_MAX_PACING_RATE, NUMBER, NULL },
	{ SOL_SOCKET, SO_TXTIME, BYTES, NULL },
	{ SOL_SOCKET, SO_PASSCRED, NUMBER, NULL },
	{ SOL_SOCKET, SO_OOBINLINE, NUMBER, NULL },
	{ SOL_SOCKET, 72 /* SO_BUF_LOCK */, NUMBER, NULL },
	{ SOL_SOCKET, 73 /* SO_RESERVE_MEM */, NUMBER, NULL },
	{ IPPROTO_IP, IP_TOS, NUMBER, NULL },
	{ IPPROTO_IP, IP_TTL, NUMBER, NULL },
	{ IPPROTO_IP, IP_MTU_DISCOVER, NUMBER, NULL },
	{ IPPROTO_IP, IP_RECVERR, NUMBER, NULL },
	{ IPPROTO_IP, IP_FREEBIND, NUMBER, NULL },
	{ IPPROTO_IP, IP_TRANSPARENT, NUMBER, NULL },
	{ IPPROTO_IP, 24 /* IP_BIND_ADDRESS_NO_PORT */, NUMBER, NULL },
	{ IPPROTO_IP, 51 /* IP_LOCAL_PORT_RANGE */, NUMBER, NULL },
	{ IPPROTO_IP, IP_OPTIONS, BYTES, NULL },
	{ IPPROTO_IP, IP_XFRM_POLICY, BYTES, NULL },
	{ IPPROTO_IPV6, IPV6_V6ONLY, NUMBER, NULL },
	{ IPPROTO_IPV6, IPV6_V6ONLY, NUMBER, NULL },
	{ IPPROTO_IPV6, IPV6_ADDRFORM, NUMBER, NULL },
	{ IPPROTO_IPV6, IPV6_ADDRFORM, NUMBER, NULL },
	{ IPPROTO_IPV6, IPV6_UNICAST_HOPS, NUMBER, NULL },
	{ IPPROTO_IPV6, IPV6_TCLASS, NUMBER, NULL },
	{ IPPROTO_IPV6, IPV6_RECVERR, NUMBER, NULL },
	{ IPPROTO_IPV6, IPV6_HOPOPTS, BYTES, NULL },
	{ IPPROTO_IPV6, IPV6_DSTOPTS, BYTES, NULL },
	{ IPPROTO_IPV6, 32 /* IPV6_FLOWLABEL_MGR */, BYTES, NULL },
	{ IPPROTO_IPV6, 70 /* IPV6_AUTOFLOWLABEL */, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_NODELAY, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_MAXSEG, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_CORK, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_KEEPIDLE, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_SYNCNT, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_LINGER2, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_DEFER_ACCEPT, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_WINDOW_CLAMP, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_QUICKACK, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_CONGESTION, TEXT, "cubic" },
	{ IPPROTO_TCP, TCP_CONGESTION, TEXT, "reno" },
	{ IPPROTO_TCP, TCP_MD5SIG, BYTES, NULL },
	{ IPPROTO_TCP, TCP_FASTOPEN, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_FASTOPEN_CONNECT, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_USER_TIMEOUT, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_ULP, TEXT, "tls" },
	{ IPPROTO_TCP, TCP_ULP, TEXT, "tls" },
	{ IPPROTO_TCP, TCP_ULP, TEXT, "mptcp" },
	{ IPPROTO_TCP, TCP_ULP, TEXT, "smc" },
	{ IPPROTO_TCP, TCP_REPAIR, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_SAVE_SYN, NUMBER, NULL },
	{ IPPROTO_TCP, TCP_TX_DELAY, NUMBER, NULL },
	{ SOL_TLS, TLS_TX, TLS, NULL },
	{ SOL_TLS, TLS_RX, TLS, NULL },
};

static int any_number(struct fuzz *f)
{
	/* AF_INET is 2 and AF_INET6 10. */
	static const int numbers[] = { 0, 0, 1, 1, 1, 2, 2, 2, 10, -1, 100, 4096, 0x7fffffff };

	return one_in(&f->rng, 10) ? (int)random64(&f->rng) : ANY_OF(&f->rng, numbers);
}

static socklen_t make_value(struct fuzz *f, const struct option *option, char value[256])
{
	/* One program accepts every packet, the other selects the socket of this CPU. */
	static struct sock_filter accept_all[] = { BPF_STMT(BPF_RET | BPF_K, 0xffff) };
	static struct sock_filter this_cpu[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_CPU),
		BPF_STMT(BPF_RET | BPF_A, 0),
	};
	struct sock_fprog program = { 1, accept_all };
	struct linger linger = { below(&f->rng, 2), below(&f->rng, 2) };
	struct timeval time = { 0, 1000 * below(&f->rng, 20) };
	int number = any_number(f), i;

	switch (option->value) {
	case LINGER:
		memcpy(value, &linger, sizeof(linger));
		return sizeof(linger);
	case TIME:
		memcpy(value, &time, sizeof(time));
		return sizeof(time);
	case TEXT:
		strcpy(value, option->text);
		return strlen(value);
	case PROGRAM:
		program = (struct sock_fprog) { 2, this_cpu };
		/* fallthrough */
	case FILTER:
		memcpy(value, &program, sizeof(program));
		return sizeof(program);
	case TLS:
		value[0] = 3 + one_in(&f->rng, 2);
		value[1] = 3;
		value[2] = TLS_CIPHER_AES_GCM_128;
		return sizeof(struct tls12_crypto_info_aes_gcm_128);
	case BYTES:
		for (i = 0; i < 128; i++)
			value[i] = one_in(&f->rng, 2) ? 0 : below(&f->rng, 256);
		return 4 * below(&f->rng, 33);
	default:
		memcpy(value, &number, sizeof(number));
		return sizeof(number);
	}
}

static const struct option *any_option(struct fuzz *f, struct option *own)
{
	static const int levels[] = { SOL_SOCKET, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SOL_TLS,
		IPPROTO_UDP, 284 /* SOL_MPTCP */, IPPROTO_SCTP };

	if (!one_in(&f->rng, 8))
		return &ANY_OF(&f->rng, socket_options);
	*own = (struct option) { ANY_OF(&f->rng, levels), below(&f->rng, 90), NUMBER, NULL };
	return own;
}

void step_setsockopt(struct fuzz *f)
{
	char value[256] = {};
	struct option own;
	const struct option *option = any_option(f, &own);
	socklen_t len = make_value(f, option, value);

	if (one_in(&f->rng, 30))
		len = below(&f->rng, sizeof(value));
	CALL(f, setsockopt(any_fd(f), option->level, option->name,
			   one_in(&f->rng, 50) ? (void *)-8 : value, len));
}

/* These options give a socket other operations. */
void turn_protocol(struct fuzz *f, int fd)
{
	int family = AF_INET;

	if (one_in(&f->rng, 2))
		CALL(f, setsockopt(fd, IPPROTO_IPV6, IPV6_ADDRFORM, &family, sizeof(family)));
	else
		CALL(f, setsockopt(fd, IPPROTO_TCP, TCP_ULP, one_in(&f->rng, 3) ? "mptcp" : "tls", 4));
}

void step_getsockopt(struct fuzz *f)
{
	char value[256];
	struct option own;
	const struct option *option = any_option(f, &own);
	socklen_t len = one_in(&f->rng, 10) ? below(&f->rng, 8) : sizeof(value);
	struct sockaddr_storage a;

	switch (below(&f->rng, 6)) {
	case 0:
		CALL(f, getsockopt(any_fd(f), IPPROTO_TCP, TCP_INFO, value, &len));
		break;
	case 1:
		CALL(f, getsockname(any_fd(f), (struct sockaddr *)&a, &len));
		break;
	case 2:
		CALL(f, getpeername(any_fd(f), (struct sockaddr *)&a, &len));
		break;
	default:
		CALL(f, getsockopt(any_fd(f), option->level, option->name, value, &len));
	}
}

static char data[8192];

static int any_flags(struct fuzz *f)
{
	static const int flags[] = { 0, 0, 0, MSG_OOB, MSG_MORE, MSG_EOR, MSG_FASTOPEN, MSG_FASTOPEN,
		0x4000000 /* MSG_ZEROCOPY */, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, MSG_ERRQUEUE };

	return MSG_DONTWAIT | MSG_NOSIGNAL | ANY_OF(&f->rng, flags) | ANY_OF(&f->rng, flags);
}

static int unix_pair(struct fuzz *f, int *other)
{
	int i, pair[2];

	for (i = 0; i < SLOTS; i++)
		if (f->slots[i].kind == UNIX && f->slots[i].fd >= 0 && one_in(&f->rng, 2))
			return f->slots[i].fd;
	if (CALL(f, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair)))
		return -1;
	put_fd(f, pair[0], UNIX, AF_UNIX);
	*other = put_fd(f, pair[1], UNIX, AF_UNIX);
	return pair[0];
}

/* Sends a listener or the device to a process that has no descriptor of it. */
static void send_rights(struct fuzz *f)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(4 * sizeof(int))];
	} control = {};
	struct iovec iov = { data, 1 + below(&f->rng, 8) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control };
	int fds[4], n = 1 + below(&f->rng, 4), i, other, to = unix_pair(f, &other);

	for (i = 0; i < n; i++)
		fds[i] = any_fd(f);
	control.header = (struct cmsghdr) {
		.cmsg_len = CMSG_LEN(n * sizeof(int)),
		.cmsg_level = SOL_SOCKET,
		.cmsg_type = SCM_RIGHTS,
	};
	memcpy(CMSG_DATA(&control.header), fds, n * sizeof(int));
	msg.msg_controllen = CMSG_SPACE(n * sizeof(int));
	CALL(f, sendmsg(to, &msg, MSG_DONTWAIT | MSG_NOSIGNAL));
}

static void receive_rights(struct fuzz *f, int from)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(4 * sizeof(int))];
	} control;
	char text[16];
	struct iovec iov = { text, sizeof(text) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
		.msg_controllen = sizeof(control) };
	int fds[4], n, i;

	if (CALL(f, recvmsg(from, &msg, MSG_DONTWAIT)) < 0 ||
	    msg.msg_controllen < CMSG_LEN(sizeof(int)) ||
	    control.header.cmsg_type != SCM_RIGHTS)
		return;
	n = (control.header.cmsg_len - CMSG_LEN(0)) / sizeof(int);
	memcpy(fds, CMSG_DATA(&control.header), n * sizeof(int));
	for (i = 0; i < n; i++)
		put_fd(f, fds[i], one_in(&f->rng, 2) ? LISTENER : CONNECTION, AF_INET);
}

void step_send(struct fuzz *f)
{
	struct sockaddr_storage a;
	struct slot *slot = any_slot(f);
	socklen_t len = any_address(f, &a, slot->family);
	struct iovec iov[2] = { { data, below(&f->rng, 2000) }, { data, below(&f->rng, 6000) } };

	switch (below(&f->rng, 6)) {
	case 0:
		send_rights(f);
		break;
	case 1:
		CALL(f, sendto(slot->fd, data, below(&f->rng, sizeof(data)), any_flags(f),
			       (struct sockaddr *)&a, len));
		break;
	case 2:
		CALL(f, writev(slot->fd, iov, 2));
		break;
	default:
		CALL(f, send(slot->fd, data, below(&f->rng, 3000), any_flags(f)));
	}
}

void step_receive(struct fuzz *f)
{
	struct slot *slot = any_slot(f);
	struct iovec iov = { data, sizeof(data) };

	if (slot->kind == UNIX) {
		receive_rights(f, slot->fd);
		return;
	}
	switch (below(&f->rng, 4)) {
	case 0:
		/* For RWF_NOWAIT the kernel asks the file whether it can. */
		CALL(f, preadv2(slot->fd, &iov, 1, -1, one_in(&f->rng, 2) ? RWF_NOWAIT : 0));
		break;
	case 1:
		CALL(f, recvfrom(slot->fd, data, sizeof(data), any_flags(f), NULL, NULL));
		break;
	default:
		CALL(f, recv(slot->fd, data, below(&f->rng, sizeof(data)), MSG_DONTWAIT));
	}
}

void step_ioctl_socket(struct fuzz *f)
{
	static const unsigned int requests[] = { FIONREAD, FIONBIO, FIOASYNC, 0x5411 /* SIOCOUTQ */,
		0x8902 /* FIOSETOWN */, 0x8905 /* SIOCATMARK */, 0x8912 /* SIOCGIFCONF */,
		0x8906 /* SIOCGSTAMP */, 0x5450 /* FIONCLEX */, 0x8927 };
	uint64_t argument[64] = { below(&f->rng, 3) };

	CALL(f, ioctl(any_fd(f), ANY_OF(&f->rng, requests), argument));
}
