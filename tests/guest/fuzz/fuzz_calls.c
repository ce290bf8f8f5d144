// SPDX-License-Identifier: GPL-2.0-only
/*
 * The grammar: the calls that exist, and their arguments. They are socket calls and the
 * ioctls of the module, on any descriptor of the process.
 */
#include "fuzz.h"

struct slot *any_slot(struct fuzz *f)
{
	if (f->hot >= 0 && !one_in(&f->rng, 3))
		return &f->slots[f->hot];
	f->hot = below(&f->rng, SLOTS);
	return &f->slots[f->hot];
}

/* Returns a slot of that kind, mostly, if there is one. */
static struct slot *slot_of(struct fuzz *f, enum kind kind)
{
	int start = below(&f->rng, SLOTS), i;

	if (f->hot >= 0 && f->slots[f->hot].kind == kind && !one_in(&f->rng, 4))
		return &f->slots[f->hot];
	for (i = 0; i < SLOTS; i++) {
		int at = (start + i) % SLOTS;

		if (f->slots[at].kind == kind && f->slots[at].fd >= 0) {
			f->hot = at;
			return &f->slots[at];
		}
	}
	return any_slot(f);
}

int any_fd(struct fuzz *f)
{
	if (one_in(&f->rng, 60))
		return one_in(&f->rng, 2) ? -1 : 3 + (int)below(&f->rng, FDS - 3);
	return any_slot(f)->fd;
}

static int fd_of(struct fuzz *f, enum kind kind)
{
	return one_in(&f->rng, 12) ? any_fd(f) : slot_of(f, kind)->fd;
}

static void fill(struct fuzz *f, struct fsocket_ioctl_arg *arg, int fd)
{
	memset(arg, one_in(&f->rng, 8) ? below(&f->rng, 256) : 0, sizeof(*arg));
	arg->fd = fd;
}

static long device(struct fuzz *f, unsigned int request, struct fsocket_ioctl_arg *arg)
{
	return CALL(f, ioctl(device_fd(f), request, arg));
}

static void close_fd(struct fuzz *f, int fd)
{
	struct fsocket_ioctl_arg arg;

	if (fd < 3)
		return;
	if (one_in(&f->rng, 3)) {
		fill(f, &arg, fd);
		if (device(f, FSOCKET_IOC_CLOSE, &arg) != -1 || errno == EBADF)
			return;
	}
	CALL(f, close(fd));
}

int put_fd(struct fuzz *f, int fd, enum kind kind, int family)
{
	struct slot *slot;
	int at, tries = 0;

	if (fd < 0)
		return fd;
	/* Take a free slot, if one is found soon. */
	do
		at = below(&f->rng, SLOTS);
	while (f->slots[at].fd >= 0 && ++tries < 4);
	slot = &f->slots[at];
	/* Close the old one first: the new one may have its number. */
	if (slot->fd >= 0 && slot->fd != fd)
		close_fd(f, slot->fd);
	*slot = (struct slot) { .fd = fd, .kind = kind, .family = family };
	f->hot = at;
	if (kind == STREAM || kind == CONNECTION || kind == OTHER)
		if (!one_in(&f->rng, 16))
			fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
	return fd;
}

int device_fd(struct fuzz *f)
{
	int start = below(&f->rng, SLOTS), hot = f->hot, i, fd;

	for (i = 0; i < SLOTS; i++) {
		struct slot *slot = &f->slots[(start + i) % SLOTS];

		if (slot->kind == DEVICE && slot->fd >= 0)
			return slot->fd;
	}
	fd = CALL(f, open(FSOCKET_DEVICE, O_RDWR | O_CLOEXEC));
	put_fd(f, fd, DEVICE, 0);
	f->hot = hot;
	return fd;
}

static void step_socket(struct fuzz *f)
{
	static const int families[] = {
		AF_INET, AF_INET, AF_INET, AF_INET6, AF_INET6, AF_INET6, AF_UNIX, AF_NETLINK,
		AF_NETLINK, AF_PACKET, AF_VSOCK, AF_ALG, AF_KEY, AF_XDP, AF_RXRPC,
	};
	static const int types[] = {
		SOCK_STREAM, SOCK_STREAM, SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET,
	};
	static const int protocols[] = { 0, 0, IPPROTO_TCP, IPPROTO_TCP, IPPROTO_UDP,
		IPPROTO_SCTP, 262 /* IPPROTO_MPTCP */, IPPROTO_ICMP };
	struct fsocket_ioctl_arg arg;
	int family, type = SOCK_STREAM, protocol = 0, fd;

	family = one_in(&f->rng, 30) ? (int)below(&f->rng, 48) : ANY_OF(&f->rng, families);
	if ((family != AF_INET && family != AF_INET6) || one_in(&f->rng, 4)) {
		type = ANY_OF(&f->rng, types);
		protocol = ANY_OF(&f->rng, protocols);
	}
	if (one_in(&f->rng, 4))
		type |= SOCK_NONBLOCK;
	if (one_in(&f->rng, 2)) {
		fill(f, &arg, 0);
		arg.op.socket_op.family = family;
		arg.op.socket_op.type = type;
		arg.op.socket_op.protocol = protocol;
		fd = device(f, FSOCKET_IOC_SOCKET, &arg);
	} else {
		fd = CALL(f, socket(family, type, protocol));
	}
	put_fd(f, fd, (type & 0xf) == SOCK_STREAM && (family == AF_INET || family == AF_INET6) ?
	       STREAM : OTHER, family);
}

static void learn_port(struct slot *slot)
{
	union {
		struct sockaddr_in in;
		struct sockaddr_storage all;
	} a = { .in.sin_port = 0 };
	socklen_t len = sizeof(a);

	if (!getsockname(slot->fd, (struct sockaddr *)&a.all, &len))
		slot->port = ntohs(a.in.sin_port);
}

static void step_bind(struct fuzz *f)
{
	struct slot *slot = slot_of(f, STREAM);
	struct sockaddr_storage a;
	socklen_t len = any_address(f, &a, slot->family);
	int one = 1;

	if (one_in(&f->rng, 3))
		CALL(f, setsockopt(slot->fd, SOL_SOCKET,
				   one_in(&f->rng, 2) ? SO_REUSEPORT : SO_REUSEADDR,
				   &one, sizeof(one)));
	CALL(f, bind(slot->fd, (struct sockaddr *)&a, len));
}

static void step_listen(struct fuzz *f)
{
	struct slot *slot = slot_of(f, one_in(&f->rng, 3) ? LISTENER : STREAM);
	struct fsocket_ioctl_arg arg;
	int backlog = one_in(&f->rng, 3) ? (int)below(&f->rng, 4) : 16, ret;

	if (one_in(&f->rng, 2)) {
		fill(f, &arg, slot->fd);
		arg.backlog = backlog;
		ret = device(f, FSOCKET_IOC_LISTEN, &arg);
	} else {
		ret = CALL(f, listen(slot->fd, backlog));
	}
	if (!ret) {
		slot->kind = LISTENER;
		learn_port(slot);
	}
}

static void step_spawn(struct fuzz *f)
{
	struct fsocket_ioctl_arg arg;

	fill(f, &arg, fd_of(f, LISTENER));
	arg.op.spawn_op.cpu = one_in(&f->rng, 2) ? -1 : (int)below(&f->rng, shared->cpus + 3) - 2;
	device(f, one_in(&f->rng, 5) ? FSOCKET_IOC_SPAWN_ALL_LISTEN : FSOCKET_IOC_SPAWN_LISTEN, &arg);
}

static void step_retire(struct fuzz *f)
{
	struct fsocket_ioctl_arg arg;

	fill(f, &arg, fd_of(f, LISTENER));
	device(f, FSOCKET_IOC_RETIRE_LISTEN, &arg);
}

static void step_connect(struct fuzz *f)
{
	/* This also happens to a listener: AF_UNSPEC takes it out of TCP_LISTEN. */
	struct slot *slot = slot_of(f, one_in(&f->rng, 5) ? LISTENER : STREAM);
	struct fsocket_ioctl_arg arg;
	struct sockaddr_storage a;
	socklen_t len = any_address(f, &a, slot->family);
	int ret;

	if (one_in(&f->rng, 2)) {
		fill(f, &arg, slot->fd);
		arg.op.connect_op.sockaddr = one_in(&f->rng, 50) ? NULL : &a;
		arg.op.connect_op.sockaddr_len = len;
		ret = device(f, FSOCKET_IOC_CONNECT, &arg);
	} else {
		ret = CALL(f, connect(slot->fd, (struct sockaddr *)&a, len));
	}
	if (slot->kind == STREAM && (!ret || errno == EINPROGRESS))
		slot->kind = CONNECTION;
	else if (!ret && a.ss_family == AF_UNSPEC && !one_in(&f->rng, 3))
		slot->kind = STREAM;
}

static void step_accept(struct fuzz *f)
{
	struct slot *slot = slot_of(f, LISTENER);
	int flags = (one_in(&f->rng, 2) ? SOCK_NONBLOCK : 0) | (one_in(&f->rng, 4) ? SOCK_CLOEXEC : 0);
	struct sockaddr_storage a;
	socklen_t len = one_in(&f->rng, 20) ? below(&f->rng, 200) : sizeof(a);
	struct fsocket_ioctl_arg arg;
	int fd, family = slot->family;

	if (one_in(&f->rng, 40))
		flags |= 1 << below(&f->rng, 31);
	if (one_in(&f->rng, 2)) {
		fill(f, &arg, slot->fd);
		arg.op.accept_op.sockaddr = one_in(&f->rng, 3) ? NULL : &a;
		arg.op.accept_op.sockaddr_len = (int *)&len;
		arg.op.accept_op.flags = flags;
		fd = device(f, FSOCKET_IOC_ACCEPT, &arg);
	} else {
		fd = CALL(f, accept4(slot->fd, (struct sockaddr *)&a, &len, flags));
	}
	put_fd(f, fd, CONNECTION, family);
}

static void step_shutdown(struct fuzz *f)
{
	struct fsocket_ioctl_arg arg;
	int how = below(&f->rng, 3);

	fill(f, &arg, fd_of(f, one_in(&f->rng, 2) ? LISTENER : CONNECTION));
	arg.op.shutdown_op.how = how;
	if (one_in(&f->rng, 2))
		device(f, FSOCKET_IOC_SHUTDOWN_LISTEN, &arg);
	else
		CALL(f, shutdown(arg.fd, how));
}

static void step_close(struct fuzz *f)
{
	struct slot *slot = any_slot(f);
	int fd = slot->fd;

	slot->fd = -1;
	slot->kind = FREE;
	close_fd(f, fd);
}

static void step_dup(struct fuzz *f)
{
	struct slot *from = any_slot(f), copy = *from;
	struct slot *to = &f->slots[below(&f->rng, SLOTS)];

	if (one_in(&f->rng, 2) && to->fd > 2 && copy.fd >= 0 && to->fd != copy.fd) {
		copy.fd = CALL(f, dup2(copy.fd, to->fd));
		if (copy.fd >= 0)
			*to = copy;
		return;
	}
	copy.fd = CALL(f, fcntl(copy.fd, F_DUPFD_CLOEXEC, 3));
	if (put_fd(f, copy.fd, copy.kind, copy.family) >= 0)
		f->slots[f->hot].port = copy.port;
}

static void step_epoll(struct fuzz *f)
{
	struct epoll_event events[4] = { { .events = random64(&f->rng) } };
	static const int ops[] = { EPOLL_CTL_ADD, EPOLL_CTL_ADD, EPOLL_CTL_ADD, EPOLL_CTL_MOD,
		EPOLL_CTL_DEL };
	int what = below(&f->rng, 6), fd;

	if (!what) {
		put_fd(f, CALL(f, epoll_create1(EPOLL_CLOEXEC)), EPOLL, 0);
		return;
	}
	fd = slot_of(f, EPOLL)->fd;
	if (what < 4) {
		if (one_in(&f->rng, 2))
			events[0].events = EPOLLIN | (one_in(&f->rng, 2) ? EPOLLET : 0) |
					   (one_in(&f->rng, 4) ? EPOLLEXCLUSIVE : 0);
		CALL(f, epoll_ctl(fd, ANY_OF(&f->rng, ops), slot_of(f, LISTENER)->fd, events));
	} else {
		CALL(f, epoll_wait(fd, events, 4, one_in(&f->rng, 8) ? 2 : 0));
	}
}

static void step_poll(struct fuzz *f)
{
	struct pollfd p[4];
	int i, n = 1 + below(&f->rng, 4);

	for (i = 0; i < n; i++)
		p[i] = (struct pollfd) { .fd = fd_of(f, LISTENER), .events = below(&f->rng, 0x800) };
	CALL(f, poll(p, n, one_in(&f->rng, 10) ? 2 : 0));
}

static void step_device(struct fuzz *f)
{
	struct fsocket_ioctl_arg arg;
	void *page;
	int fd;

	fill(f, &arg, any_fd(f));
	switch (below(&f->rng, 8)) {
	case 0:
		put_fd(f, CALL(f, open(FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC)), DEVICE, 0);
		break;
	case 1:
		page = CALL(f, mmap(NULL, 4096 << one_in(&f->rng, 6), one_in(&f->rng, 6) ?
				    PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, device_fd(f),
				    4096 * one_in(&f->rng, 6)));
		if (page != MAP_FAILED)
			munmap(page, 4096);
		break;
	case 2:
		arg.backlog = below(&f->rng, 2) ? below(&f->rng, 100) : random64(&f->rng);
		device(f, FSOCKET_IOC_EPOLL_SAVED, &arg);
		break;
	case 3:
		/*
		 * Make any request, with a pointer that may be none; CLOSE and 1 are
		 * not for 0 to 2.
		 */
		CALL(f, ioctl(device_fd(f), _IO(0xf5, 12 + below(&f->rng, 244)), &arg));
		CALL(f, ioctl(device_fd(f), _IO(0xf5, below(&f->rng, 13)), (void *)-8));
		break;
	case 4:
		/* Make the requests of socket calls on a descriptor that is not the device. */
		fd = any_fd(f);
		CALL(f, ioctl(fd, FSOCKET_IOC_SPAWN_LISTEN, &arg));
		break;
	default:
		step_spawn(f);
	}
}

/* Makes a listener with local ones and a connection, which most of the module needs first. */
static void step_scene(struct fuzz *f)
{
	int fd, port, cpu = below(&f->rng, shared->cpus);
	struct slot *slot;
	cpu_set_t set;

	step_socket(f);
	step_bind(f);
	step_listen(f);
	slot = &f->slots[f->hot];
	fd = slot->fd;
	port = slot->port;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	CALL(f, sched_setaffinity(0, sizeof(set), &set));
	step_spawn(f);
	if (port && slot->fd == fd && slot->kind == LISTENER) {
		union {
			struct sockaddr_in in;
			struct sockaddr_in6 in6;
		} a = { .in = { .sin_family = slot->family, .sin_port = htons(port) } };
		int family = slot->family, conn;

		conn = CALL(f, socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0));
		/* Connect to the address "any" of either family, which is loopback. */
		if (conn >= 0)
			CALL(f, connect(conn, (struct sockaddr *)&a,
					family == AF_INET6 ? sizeof(a.in6) : sizeof(a.in)));
		put_fd(f, conn, CONNECTION, family);
		if (one_in(&f->rng, 2))
			step_accept(f);
	}
}

/*
 * Turns a listener into something else, and that into yet something else: always the
 * same socket.
 */
static void step_turn(struct fuzz *f)
{
	struct slot *slot = slot_of(f, LISTENER);
	struct sockaddr_storage a = { .ss_family = AF_UNSPEC };
	int hot = f->hot, turns = 1 + below(&f->rng, 5);

	if (one_in(&f->rng, 3))
		CALL(f, shutdown(slot->fd, below(&f->rng, 3)));
	else
		CALL(f, connect(slot->fd, (struct sockaddr *)&a, sizeof(a)));
	slot->kind = STREAM;
	while (turns--) {
		f->hot = hot;
		switch (below(&f->rng, 6)) {
		case 0:
			step_listen(f);
			break;
		case 1:
			step_setsockopt(f);
			break;
		case 2:
			turn_protocol(f, slot->fd);
			break;
		case 3:
			step_spawn(f);
			break;
		default:
			CALL(f, connect(slot->fd, (struct sockaddr *)&a,
					any_address(f, &a, slot->family)));
		}
	}
}

/* The weight of each call, in an episode that has its group. */
static const struct step {
	const char *name;
	void (*act)(struct fuzz *f);
	int weight, group;
} steps[] = {
	{ "scene", step_scene, 10, 0 },
	{ "turn", step_turn, 3, 20 },
	{ "socket", step_socket, 10, 0 },
	{ "bind", step_bind, 8, 0 },
	{ "listen", step_listen, 8, 0 },
	{ "connect", step_connect, 16, 0 },
	{ "accept", step_accept, 16, 0 },
	{ "spawn", step_spawn, 12, 1 },
	{ "retire", step_retire, 4, 2 },
	{ "shutdown", step_shutdown, 4, 3 },
	{ "close", step_close, 8, 4 },
	{ "dup", step_dup, 4, 5 },
	{ "epoll", step_epoll, 8, 6 },
	{ "poll", step_poll, 6, 7 },
	{ "device", step_device, 4, 8 },
	{ "setsockopt", step_setsockopt, 10, 9 },
	{ "getsockopt", step_getsockopt, 3, 10 },
	{ "send", step_send, 10, 11 },
	{ "receive", step_receive, 10, 11 },
	{ "ioctl", step_ioctl_socket, 2, 12 },
	{ "fork", step_fork, 1, 13 },
	{ "thread", step_thread, 1, 14 },
	{ "affinity", step_affinity, 3, 15 },
	{ "namespace", step_namespace, 1, 16 },
	{ "proc", step_proc, 1, 17 },
	{ "fail", step_fail, 8, 18 },
	{ "root", step_root, 2, 19 },
};

void one_step(struct fuzz *f)
{
	const struct step *step;
	int sum, i;

	for (;;) {
		sum = below(&f->rng, 210);
		for (i = 0; i < (int)ARRAY_SIZE(steps) && sum >= steps[i].weight; i++)
			sum -= steps[i].weight;
		if (i == ARRAY_SIZE(steps))
			continue;
		step = &steps[i];
		if ((step->group && !(f->groups & 1u << step->group)) || without(step->name))
			continue;
		step->act(f);
		return;
	}
}

void begin_episode(struct fuzz *f)
{
	/*
	 * Each episode has most of the groups, and never all, so that rare calls become
	 * likely in some.
	 */
	f->groups = random64(&f->rng) | random64(&f->rng);
	f->hot = -1;
}

void end_episode(struct fuzz *f)
{
	cpu_set_t all;
	int i;

	/* The device comes last, since CLOSE needs it. */
	for (i = 0; i < SLOTS; i++) {
		if (f->slots[i].fd >= 0 && f->slots[i].kind != DEVICE) {
			close_fd(f, f->slots[i].fd);
			f->slots[i] = (struct slot) { .fd = -1 };
		}
	}
	/* Close also what threads have lost in their races. */
	for (i = 3; i < FDS; i++)
		close(i);
	for (i = 0; i < SLOTS; i++)
		f->slots[i] = (struct slot) { .fd = -1 };
	memset(&all, 0xff, sizeof(all));
	sched_setaffinity(0, sizeof(all), &all);
}
