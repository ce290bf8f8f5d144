// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finds functions of the kernel that modules cannot link against, by a kprobe that is
 * never armed.
 */
#include <asm/ibt.h>
#include <linux/kprobes.h>
#include <linux/string.h>
#include <linux/tracepoint.h>

#include "resolve.h"

void *fsocket_resolve(const char *symbol)
{
	struct kprobe kp = {
		.symbol_name = symbol,
		.flags = KPROBE_FLAG_DISABLED,
	};
	void *addr;

	if (register_kprobe(&kp))
		return NULL;
	addr = kp.addr;
	unregister_kprobe(&kp);
#if HAS_KERNEL_IBT
	/* The probe's address is behind the function's ENDBR, or behind what has replaced that. */
	if (is_endbr(*(u32 *)(addr - ENDBR_INSN_SIZE)))
		addr -= ENDBR_INSN_SIZE;
#endif
	return addr;
}

struct fsocket_sought {
	const char *name;
	struct tracepoint *found;
};

static void fsocket_compare_tracepoint(struct tracepoint *tp, void *data)
{
	struct fsocket_sought *sought = data;

	if (!strcmp(tp->name, sought->name))
		sought->found = tp;
}

struct tracepoint *fsocket_find_tracepoint(const char *name)
{
	struct fsocket_sought sought = { .name = name };

	for_each_kernel_tracepoint(fsocket_compare_tracepoint, &sought);
	return sought.found;
}
