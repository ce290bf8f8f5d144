/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Functions of the kernel that it does not export.
 *
 * They are called by static calls, which are direct ones: a kernel with
 * CONFIG_X86_KERNEL_IBT replaces the ENDBR of each function whose address it never
 * takes, and a processor with IBT refuses every indirect call of such a function. A
 * file that needs such a function writes:
 *
 *	FSOCKET_KERNEL_FUNCTION(file, __sys_listen);
 *	...
 *	if (!fsocket_kernel_resolve(file, __sys_listen))
 *		return -EOPNOTSUPP;
 *	...
 *	fsocket_kernel(file, __sys_listen)(fd, backlog);
 *
 * "file" distinguishes the functions of two files.
 */
#ifndef FSOCKET_RESOLVE_H
#define FSOCKET_RESOLVE_H

#include <linux/static_call.h>

/*
 * Returns the address of a kernel function that is not exported, or NULL if there is
 * none. The address is for static calls and comparisons, never for an indirect call.
 */
void *fsocket_resolve(const char *symbol);

struct tracepoint;

/* Returns a tracepoint of the kernel whose symbol is not exported, or NULL if there is none. */
struct tracepoint *fsocket_find_tracepoint(const char *name);

#define FSOCKET_KERNEL_FUNCTION(file, function)				\
	DEFINE_STATIC_CALL_NULL(fsocket_##file##_##function, function)

/* Returns whether @function was found; must be checked before its first call. */
#define fsocket_kernel_resolve(file, function)				\
({									\
	void *__addr = fsocket_resolve(#function);			\
									\
	if (__addr)							\
		static_call_update(fsocket_##file##_##function, __addr);	\
	!!__addr;							\
})

#define fsocket_kernel(file, function)	static_call(fsocket_##file##_##function)

#endif
