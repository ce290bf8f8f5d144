/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Included before every file of the module, in a build for test_memory.c only: calls
 * that can fail without memory fail when a test says so. Debian's kernels have no fault
 * injection.
 *
 * In a task that calls itself "fail-3", three such calls succeed and the fourth fails;
 * the task is then called "failed". From the first call of a task that calls itself
 * "fail-packets" on, half of the packets cannot be copied, and the pool of packets to
 * send is often too small. The kernel's log shows the module's number of allocations at
 * each change.
 */
#ifndef TESTS_GUEST_FAIL_H
#define TESTS_GUEST_FAIL_H

/* The module's files also define it before their includes. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpuhotplug.h>
#include <linux/ftrace.h>
#include <linux/kmemleak.h>
#include <linux/kprobes.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/netdevice.h>
#include <linux/netfilter.h>
#include <linux/percpu.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/tracepoint.h>
#include <linux/version.h>
#include <net/inet_connection_sock.h>
#include <net/inet_hashtables.h>
#include <net/net_namespace.h>
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#include <net/page_pool/helpers.h>
#else
#include <net/page_pool.h>
#endif
#include <net/sock.h>

/* These apply to all files of the module. */
atomic_t fail_live __weak;
bool fail_packets __weak;

static inline bool fail_now(void)
{
	char *name = current->comm;
	unsigned int left;

	if (!in_task())
		return false;
	if (!strcmp(name, "fail-packets"))
		WRITE_ONCE(fail_packets, true);
	if (sscanf(name, "fail-%u", &left) != 1)
		return false;
	if (left)
		snprintf(name, TASK_COMM_LEN, "fail-%u", left - 1);
	else
		strscpy(name, "failed", TASK_COMM_LEN);
	return !left;
}

static inline bool fail_packet(void)
{
	static atomic_t calls;

	return READ_ONCE(fail_packets) && atomic_inc_return(&calls) % 4 == 1;
}

static inline void *fail_count(const void *memory, int change)
{
	if (memory)
		printk(KERN_INFO pr_fmt("allocations: %d\n"),
		       atomic_add_return(change, &fail_live));
	return (void *)memory;
}

/* Since 6.10 these are macros, which cannot be part of their own replacement. */
static inline void *fail_kzalloc(size_t size, gfp_t flags)
{
	return kzalloc(size, flags);
}

static inline void *fail_kcalloc(size_t count, size_t size, gfp_t flags)
{
	return kcalloc(count, size, flags);
}

static inline void *fail_kmemdup(const void *from, size_t size, gfp_t flags)
{
	return kmemdup(from, size, flags);
}

static inline void *fail_cache_zalloc(struct kmem_cache *cache, gfp_t flags)
{
	return kmem_cache_zalloc(cache, flags);
}

static inline void *fail_kvcalloc(size_t count, size_t size, gfp_t flags)
{
	return kvcalloc(count, size, flags);
}

static inline void *fail_kvzalloc_node(size_t size, gfp_t flags, int node)
{
	return kvzalloc_node(size, flags, node);
}

static inline void *fail_alloc_percpu(size_t size, size_t align)
{
	return (void __force *)__alloc_percpu(size, align);
}

static inline void *fail_alloc_percpu_gfp(size_t size, size_t align, gfp_t flags)
{
	return (void __force *)__alloc_percpu_gfp(size, align, flags);
}

#undef kzalloc
#undef kcalloc
#undef kmemdup
#undef kmem_cache_zalloc
#undef kvcalloc
#undef kvzalloc_node
#undef __alloc_percpu
#undef __alloc_percpu_gfp

/* Names are not replaced again within their own replacement. */
#define kzalloc(...)	(fail_now() ? NULL : fail_count(fail_kzalloc(__VA_ARGS__), 1))
#define kcalloc(...)	(fail_now() ? NULL : fail_count(fail_kcalloc(__VA_ARGS__), 1))
#define kmemdup(...)	(fail_now() ? NULL : fail_count(fail_kmemdup(__VA_ARGS__), 1))
/* Not counted: the kernel frees bind buckets with their last socket. */
#define kmem_cache_zalloc(cache, flags) \
	(!((flags) & __GFP_NOFAIL) && fail_now() ? NULL : fail_cache_zalloc(cache, flags))
#define kvcalloc(...)	(fail_now() ? NULL : fail_count(fail_kvcalloc(__VA_ARGS__), 1))
#define kvzalloc_node(...) \
	(fail_now() ? NULL : fail_count(fail_kvzalloc_node(__VA_ARGS__), 1))
#define __alloc_percpu(...) \
	((void __percpu __force *)(fail_now() ? NULL : \
	 fail_count(fail_alloc_percpu(__VA_ARGS__), 1)))
#define __alloc_percpu_gfp(...) \
	((void __percpu __force *)(fail_now() ? NULL : \
	 fail_count(fail_alloc_percpu_gfp(__VA_ARGS__), 1)))
#define kfree(p)	(fail_count(p, -1), kfree(p))
/* The module says so of memory that stays when it is unloaded. */
#define kmemleak_not_leak(p)	(fail_count(p, -1), kmemleak_not_leak(p))
#define kvfree(p)	(fail_count(p, -1), kvfree(p))
#undef kfree_rcu
#define kfree_rcu(p, member) \
do { \
	fail_count(p, -1); \
	kvfree_rcu(p, member); \
} while (0)
#define free_percpu(p)	(fail_count((void __force *)(p), -1), free_percpu(p))

#define page_pool_create(...) \
	(fail_now() ? ERR_PTR(-ENOMEM) : page_pool_create(__VA_ARGS__))
#define page_pool_alloc_frag(...) \
	(fail_packet() ? NULL : page_pool_alloc_frag(__VA_ARGS__))
#define alloc_skb_fclone(...) \
	(fail_packet() ? NULL : alloc_skb_fclone(__VA_ARGS__))
#define napi_build_skb(...) (fail_packet() ? NULL : napi_build_skb(__VA_ARGS__))

#define sock_alloc()	(fail_now() ? NULL : sock_alloc())
#define sock_alloc_file(sock, ...) \
	(fail_now() ? (sock_release(sock), ERR_PTR(-ENFILE)) : \
	 sock_alloc_file(sock, __VA_ARGS__))
#define __sock_create(...) (fail_now() ? -ENFILE : __sock_create(__VA_ARGS__))
#define __inet_inherit_port(...) \
	(fail_now() ? -ENOMEM : __inet_inherit_port(__VA_ARGS__))
#define inet_csk_listen_start(...) \
	(fail_now() ? -ENOMEM : inet_csk_listen_start(__VA_ARGS__))
#define get_unused_fd_flags(...) \
	(fail_now() ? -EMFILE : get_unused_fd_flags(__VA_ARGS__))

#define ftrace_set_filter(...) \
	(fail_now() ? -ENOMEM : ftrace_set_filter(__VA_ARGS__))
#define register_ftrace_function(...) \
	(fail_now() ? -ENOMEM : register_ftrace_function(__VA_ARGS__))
#define register_kprobe(...) (fail_now() ? -ENOMEM : register_kprobe(__VA_ARGS__))
#define tracepoint_probe_register(...) \
	(fail_now() ? -ENOMEM : tracepoint_probe_register(__VA_ARGS__))
#define misc_register(...) (fail_now() ? -ENOMEM : misc_register(__VA_ARGS__))
#define cpuhp_setup_state(...) \
	(fail_now() ? -ENOMEM : cpuhp_setup_state(__VA_ARGS__))
#define cpuhp_setup_state_nocalls(...) \
	(fail_now() ? -ENOMEM : cpuhp_setup_state_nocalls(__VA_ARGS__))
#define register_pernet_subsys(...) \
	(fail_now() ? -ENOMEM : register_pernet_subsys(__VA_ARGS__))
#define register_netdevice_notifier(...) \
	(fail_now() ? -ENOMEM : register_netdevice_notifier(__VA_ARGS__))
#define nf_register_net_hook(...) \
	(fail_now() ? -ENOMEM : nf_register_net_hook(__VA_ARGS__))
#define nf_register_net_hooks(...) \
	(fail_now() ? -ENOMEM : nf_register_net_hooks(__VA_ARGS__))
#define proc_create_net_single(...) \
	(fail_now() ? NULL : proc_create_net_single(__VA_ARGS__))
#define proc_create_net_data(...) \
	(fail_now() ? NULL : proc_create_net_data(__VA_ARGS__))

#endif
