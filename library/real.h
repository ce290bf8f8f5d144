/* SPDX-License-Identifier: GPL-2.0-only */
/* The C library's functions that this library replaces, and system calls without any function. */
#ifndef FSOCKET_REAL_H
#define FSOCKET_REAL_H

#include <dlfcn.h>
#include <sys/syscall.h>

#ifndef __x86_64__
#error "written for x86-64, as the module's interface is"
#endif

/*
 * Marks functions that calls for each connection seldom need. They stay separate, so
 * that the usual path neither saves registers for them nor jumps over them.
 */
#define RARE(condition)	__builtin_expect(!!(condition), 0)
#define RARELY		__attribute__((noinline, cold))

/* A variable for the C library's function of that name, which start.c finds; or NULL if there is none. */
struct fsocket_real {
	void **where;
	const char *name;
};

#define FIND_AT_START(variable, function)				\
	static const struct fsocket_real entry				\
	__attribute__((used, section("fsocket_reals"))) = { (void **)&(variable), function }

/*
 * Declares the variable real: the next function of that name, which is that of the C library. It is
 * looked for here if another library calls this one before start.c has run.
 */
#define REAL(name)							\
	static __typeof__(&name) real;					\
	FIND_AT_START(real, #name);					\
									\
	if (RARE(!real))						\
		real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/*
 * Declares the same as a static variable real_NAME. Until its first call that points to a function
 * that looks for the real one, so that callers need not check it.
 */
#define REAL_LATER(name, parameters, arguments)				\
	static int find_##name parameters;				\
	static __typeof__(&name) real_##name = find_##name;		\
									\
	static int find_##name parameters				\
	{								\
		REAL(name);						\
		real_##name = real;					\
		return real arguments;					\
	}

/* Returns the value of one of the library's environment variables, or NULL: see start.c. */
__attribute__((visibility("hidden"))) const char *fsocket_setting(const char *name);

/*
 * A system call by the library where the program has asked for another one. It is no
 * cancellation point, no other library replaces it, and errno stays as it is. It
 * returns the kernel's result: -ERRNO is an error.
 */
static inline long fsocket_raw(long number, long a, long b, long c, long d, long e)
{
	register long r10 asm("r10") = d, r8 asm("r8") = e;
	long ret;

	asm volatile("syscall" : "=a"(ret)
		     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
		     : "rcx", "r11", "memory");
	return ret;
}

/* The same with fewer arguments, which leave registers to the caller. */
static inline long fsocket_raw4(long number, long a, long b, long c, long d)
{
	register long r10 asm("r10") = d;
	long ret;

	asm volatile("syscall" : "=a"(ret)
		     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
		     : "rcx", "r11", "memory");
	return ret;
}

static inline long fsocket_raw3(long number, long a, long b, long c)
{
	long ret;

	asm volatile("syscall" : "=a"(ret)
		     : "a"(number), "D"(a), "S"(b), "d"(c)
		     : "rcx", "r11", "memory");
	return ret;
}

#define RAW2(number, a, b) fsocket_raw3(number, (long)(a), (long)(b), 0)
#define RAW3(number, a, b, c) fsocket_raw3(number, (long)(a), (long)(b), (long)(c))
#define RAW4(number, a, b, c, d) \
	fsocket_raw4(number, (long)(a), (long)(b), (long)(c), (long)(d))
#define RAW5(number, a, b, c, d, e) \
	fsocket_raw(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

#endif
