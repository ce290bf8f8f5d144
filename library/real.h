/* SPDX-License-Identifier: GPL-2.0-only */
/* The functions that ours stand in front of. */
#ifndef FSOCKET_REAL_H
#define FSOCKET_REAL_H

#include <dlfcn.h>

/* Declares the variable real: the next function of that name, the C library's. */
#define REAL(name)							\
	static __typeof__(&name) real;					\
									\
	if (!real)							\
		real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#endif
