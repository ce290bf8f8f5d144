// SPDX-License-Identifier: GPL-2.0-only
/*
 * Functions of the kernel that modules cannot link against, found by way of a
 * kprobe that is never armed.
 */
#include <linux/kprobes.h>

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
#ifdef CONFIG_X86_KERNEL_IBT
	/* The probe sits behind the ENDBR that an indirect call has to meet. */
	addr -= ENDBR_INSN_SIZE;
#endif
	return addr;
}
