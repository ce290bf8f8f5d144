// SPDX-License-Identifier: GPL-2.0-only
#include "slabs.h"
#include "memory.h"
#include "types.h"

#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE_SHIFT 12
#define PAGE (1ul << PAGE_SHIFT)
/* The number of bytes of a cache's name that are read. */
#define NAME_SIZE 64
#define LINKS "/sys/kernel/slab"
/* The number of merged caches whose names are printed. */
#define NAMES 3
/* Limits walks of a list, which can change while it is read. */
#define CACHES 4096

struct cache {
	uint64_t address, name_address;
	uint32_t size, object_size, pad, objects;
	int32_t users;
	char name[256];
	const char *structure;
	bool named;
};

static struct cache *caches;
static size_t n_caches;
static uint64_t direct_begin, direct_end, pages_begin;
static size_t page_size, compound_head, slab_cache;

/* The structures that are the objects of a cache. */
static const struct {
	const char *cache;
	const char *structure;
} structures[] = {
	{ "TCP", "tcp_sock" }, { "TCPv6", "tcp6_sock" },
	{ "request_sock_TCP", "tcp_request_sock" }, { "request_sock_TCPv6", "tcp_request_sock" },
	{ "tw_sock_TCP", "tcp_timewait_sock" }, { "tw_sock_TCPv6", "tcp_timewait_sock" },
	{ "tcp_bind_bucket", "inet_bind_bucket" }, { "tcp_bind2_bucket", "inet_bind2_bucket" },
	{ "UDP", "udp_sock" }, { "UNIX", "unix_sock" }, { "UNIX-STREAM", "unix_sock" },
	{ "sock_inode_cache", "socket_alloc" }, { "filp", "file" }, { "dentry", "dentry" },
	{ "inode_cache", "inode" }, { "proc_inode_cache", "proc_inode" },
	{ "shmem_inode_cache", "shmem_inode_info" },
	{ "eventpoll_epi", "epitem" }, { "eventpoll_pwq", "eppoll_entry" },
	{ "skbuff_head_cache", "sk_buff" }, { "skbuff_fclone_cache", "sk_buff_fclones" },
	{ "ip_dst_cache", "rtable" }, { "ip6_dst_cache", "rt6_info" },
	{ "inet_peer_cache", "inet_peer" }, { "net_namespace", "net" },
	{ "task_struct", "task_struct" }, { "mm_struct", "mm_struct" },
	{ "signal_cache", "signal_struct" }, { "sighand_cache", "sighand_struct" },
	{ "files_cache", "files_struct" }, { "fs_cache", "fs_struct" }, { "cred_jar", "cred" },
	{ "pid", "pid" }, { "vm_area_struct", "vm_area_struct" }, { "task_group", "task_group" },
	{ "kmem_cache", "kmem_cache" }, { "kmem_cache_node", "kmem_cache_node" },
	{ "radix_tree_node", "xa_node" },
};

static bool read_u32(uint64_t address, uint32_t *to)
{
	return memory_read(address, to, sizeof(*to));
}

static bool read_u64(uint64_t address, uint64_t *to)
{
	return memory_read(address, to, sizeof(*to));
}

static bool read_cache(uint64_t address, struct cache *cache)
{
	cache->address = address;
	if (!read_u32(address + types_offset("kmem_cache", "size"), &cache->size) ||
	    !read_u32(address + types_offset("kmem_cache", "object_size"), &cache->object_size) ||
	    !read_u32(address + types_offset("kmem_cache", "red_left_pad"), &cache->pad) ||
	    !read_u32(address + types_offset("kmem_cache", "oo"), &cache->objects) ||
	    !read_u32(address + types_offset("kmem_cache", "refcount"), (uint32_t *)&cache->users) ||
	    !read_u64(address + types_offset("kmem_cache", "name"), &cache->name_address))
		return false;
	/* The upper half says how many pages (OO_SHIFT). */
	cache->objects &= 0xffff;
	return cache->size;
}

static void read_caches(uint64_t head)
{
	size_t list = types_offset("kmem_cache", "list");
	uint64_t next;

	for (bool ok = read_u64(head, &next); ok && next != head && n_caches < CACHES;
	     ok = read_u64(next, &next)) {
		caches = reallocarray(caches, n_caches + 1, sizeof(*caches));
		if (!caches)
			err(1, "caches");
		memset(&caches[n_caches], 0, sizeof(*caches));
		n_caches += read_cache(next - list, &caches[n_caches]);
	}
	if (!n_caches)
		errx(1, "the kernel's list of slab caches cannot be read");
}

void slabs_find(uint64_t direct, uint64_t end, uint64_t pages, uint64_t head)
{
	direct_begin = direct;
	direct_end = end;
	pages_begin = pages;
	page_size = types_size("page");
	compound_head = types_offset("page", "compound_head");
	slab_cache = types_offset("slab", "slab_cache");
	read_caches(head);
}

bool slabs_direct(uint64_t address)
{
	uint64_t byte;

	return address >= direct_begin && address < direct_end &&
	       memory_read(address & ~7ull, &byte, sizeof(byte));
}

static const char *structure_of(const char *cache)
{
	for (size_t i = 0; i < sizeof(structures) / sizeof(*structures); i++)
		if (!strcmp(structures[i].cache, cache))
			return structures[i].structure;
	return NULL;
}

static bool target(int folder, const char *name, char *to, size_t room)
{
	ssize_t n = readlinkat(folder, name, to, room - 1);

	to[n > 0 ? n : 0] = 0;
	return n > 0;
}

static void add_name(struct cache *cache, const char *name)
{
	size_t length = strlen(cache->name);

	snprintf(cache->name + length, sizeof(cache->name) - length, "%s%s", length ? " or " : "", name);
}

/*
 * Adds caches that have been merged with the first one while there is room for their
 * names: those whose objects are a known structure, or the others. Returns the number
 * of both.
 */
static size_t add_links(struct cache *cache, int in, const char *first, bool known, size_t *names)
{
	char own[256], other[256];
	DIR *folder = in >= 0 ? fdopendir(dup(in)) : NULL;
	struct dirent *entry;
	size_t all = 0;

	if (!folder)
		return 0;
	rewinddir(folder);
	if (target(in, first, own, sizeof(own)))
		while ((entry = readdir(folder))) {
			if (!target(in, entry->d_name, other, sizeof(other)) || strcmp(own, other))
				continue;
			all++;
			if (!structure_of(entry->d_name) == known || *names == NAMES)
				continue;
			++*names;
			add_name(cache, entry->d_name);
		}
	closedir(folder);
	return all;
}

/*
 * The allocator merges caches that have the same size and flags, and keeps the name of
 * the first. An object in such a cache may belong to any of them.
 */
static void add_names(struct cache *cache)
{
	char first[sizeof(cache->name)];
	int folder = open(LINKS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	size_t names = 0, all;

	strcpy(first, cache->name);
	*cache->name = 0;
	all = add_links(cache, folder, first, true, &names);
	add_links(cache, folder, first, false, &names);
	if (!names)
		add_name(cache, first);
	/* One name alone would be a guess. */
	if (names < 2 || names < all)
		add_name(cache, "others");
	if (folder >= 0)
		close(folder);
}

static void read_name(struct cache *cache)
{
	size_t here = PAGE - (cache->name_address & (PAGE - 1));

	if (here > NAME_SIZE)
		here = NAME_SIZE;
	/* The name may end where readable memory ends. */
	if (memory_read(cache->name_address, cache->name, here) && !memchr(cache->name, 0, here))
		memory_read(cache->name_address + here, cache->name + here, NAME_SIZE - here);
	cache->name[NAME_SIZE] = 0;
	/* The output is CSV. */
	for (char *c = cache->name; (c = strpbrk(c, ",\"\n")); )
		*c = '_';
}

static void complete(struct cache *cache)
{
	if (cache->named)
		return;
	cache->named = true;
	read_name(cache);
	if (cache->users > 1)
		add_names(cache);
	else
		cache->structure = structure_of(cache->name);
}

/* Since 6.12 the type of a page says that it belongs to a slab; before, a flag does. */
static bool is_slab(uint64_t page)
{
	static int known;
	static uint32_t type, flag;
	uint64_t flags;
	uint32_t value;

	if (!known)
		known = types_constant("pagetype", "PGTY_slab", &type) ? 1 :
			types_constant("pageflags", "PG_slab", &flag) ? 2 : 3;
	if (known == 1)
		return read_u32(page + types_offset("page", "page_type"), &value) &&
		       value >> 24 == type;
	return known == 2 && read_u64(page + types_offset("page", "flags"), &flags) &&
	       flags >> flag & 1;
}

static struct cache *cache_at(uint64_t page)
{
	uint64_t address;

	if (!is_slab(page) || !read_u64(page + slab_cache, &address))
		return NULL;
	for (size_t i = 0; i < n_caches; i++)
		if (caches[i].address == address)
			return &caches[i];
	return NULL;
}

bool slabs_page(uint64_t address, struct object *object)
{
	uint64_t flags, page = address - (address - pages_begin) % page_size;

	if (address < pages_begin || !read_u64(page + types_offset("page", "flags"), &flags))
		return false;
	*object = (struct object){ "struct page", "page", address - page };
	if (is_slab(page))
		*object = (struct object){ "struct slab", "slab", address - page };
	return true;
}

bool slabs_object(uint64_t address, struct object *object)
{
	uint64_t page, head, offset;
	struct cache *cache;

	if (address < direct_begin || address >= direct_end)
		return false;
	page = pages_begin + ((address - direct_begin) >> PAGE_SHIFT) * page_size;
	if (!read_u64(page + compound_head, &head))
		return false;
	/* A page other than the first of its slab has the first one's address, plus one. */
	if (head & 1)
		page = head - 1;
	cache = cache_at(page);
	if (!cache)
		return false;
	offset = address - direct_begin - (((page - pages_begin) / page_size) << PAGE_SHIFT);
	/* A slab has unused space behind its last object. */
	if (offset / cache->size >= cache->objects)
		return false;
	offset %= cache->size;
	if (offset < cache->pad || offset - cache->pad >= cache->object_size)
		return false;
	complete(cache);
	*object = (struct object){ cache->name, cache->structure, offset - cache->pad };
	return true;
}
