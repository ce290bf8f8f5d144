// SPDX-License-Identifier: GPL-2.0-only
/* The part of the grammar about addresses: those of listeners, and others. */
#include <linux/netlink.h>
#include <linux/vm_sockets.h>

#include "fuzz.h"

static socklen_t address4(struct fuzz *f, struct sockaddr_in *a, int port)
{
	static const uint32_t hosts[] = {
		INADDR_LOOPBACK, INADDR_LOOPBACK, INADDR_LOOPBACK, INADDR_LOOPBACK,
		INADDR_ANY, INADDR_ANY, INADDR_LOOPBACK + 1, 0x0a420001, 0xe0000001,
		INADDR_BROADCAST,
	};

	a->sin_family = AF_INET;
	a->sin_port = htons(port);
	a->sin_addr.s_addr = htonl(ANY_OF(&f->rng, hosts));
	return sizeof(*a);
}

static socklen_t address6(struct fuzz *f, struct sockaddr_in6 *a, int port)
{
	static const char * const hosts[] = {
		"::1", "::1", "::1", "::", "::", "::ffff:127.0.0.1", "::ffff:127.0.0.1",
		"::ffff:0.0.0.0", "fd66::1", "ff02::1", "fe80::1",
	};

	a->sin6_family = AF_INET6;
	a->sin6_port = htons(port);
	a->sin6_scope_id = one_in(&f->rng, 8);
	inet_pton(AF_INET6, ANY_OF(&f->rng, hosts), &a->sin6_addr);
	return sizeof(*a);
}

static int any_port(struct fuzz *f)
{
	int i, port;

	/* Most of the time, take the address of a listener. */
	for (i = 0; i < 8 && !one_in(&f->rng, 6); i++) {
		struct slot *slot = &f->slots[below(&f->rng, SLOTS)];

		port = slot->port;
		if (slot->kind == LISTENER && port)
			return port;
	}
	return one_in(&f->rng, 12) ? 0 : PORT_BASE + (int)below(&f->rng, PORTS);
}

/*
 * Returns the port of a listener, and its address in the form for a socket of @family;
 * 0 if there is none.
 */
static socklen_t listener_address(struct fuzz *f, struct sockaddr_storage *a, int family)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)a;
	struct sockaddr_in in;
	int start = below(&f->rng, SLOTS), i;

	for (i = 0; i < SLOTS; i++) {
		struct slot *slot = &f->slots[(start + i) % SLOTS];
		socklen_t len = sizeof(*a);

		if (slot->kind != LISTENER || slot == &f->slots[f->hot < 0 ? 0 : f->hot] ||
		    getsockname(slot->fd, (struct sockaddr *)a, &len))
			continue;
		if (a->ss_family == AF_INET && family == AF_INET6) {
			memcpy(&in, a, sizeof(in));
			memset(a, 0, sizeof(*a));
			in6->sin6_family = AF_INET6;
			in6->sin6_port = in.sin_port;
			inet_pton(AF_INET6, "::ffff:127.0.0.1", &in6->sin6_addr);
			return sizeof(*in6);
		}
		if (a->ss_family == family)
			return len;
	}
	return 0;
}

socklen_t any_address(struct fuzz *f, struct sockaddr_storage *a, int family)
{
	static const int families[] = { AF_UNSPEC, AF_UNIX, AF_NETLINK, AF_VSOCK, AF_INET, AF_INET6 };
	socklen_t len;

	memset(a, 0, sizeof(*a));
	if (one_in(&f->rng, 2)) {
		len = listener_address(f, a, family);
		if (len)
			return len;
		memset(a, 0, sizeof(*a));
	}
	if (one_in(&f->rng, 8))
		family = ANY_OF(&f->rng, families);
	if (family == AF_INET) {
		len = address4(f, (struct sockaddr_in *)a, any_port(f));
	} else if (family == AF_INET6) {
		len = address6(f, (struct sockaddr_in6 *)a, any_port(f));
	} else {
		a->ss_family = family;
		len = family == AF_UNSPEC ? 16 : family == AF_NETLINK ? sizeof(struct sockaddr_nl) :
		      family == AF_VSOCK ? sizeof(struct sockaddr_vm) : 8;
		if (family == AF_VSOCK)
			((struct sockaddr_vm *)a)->svm_cid = 1;
		if (family == AF_UNIX)
			snprintf(((struct sockaddr_un *)a)->sun_path + 1, 6, "f%d", below(&f->rng, 4));
	}
	if (one_in(&f->rng, 40))
		len = below(&f->rng, sizeof(*a) + 2);
	return len;
}
