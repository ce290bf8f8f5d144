// SPDX-License-Identifier: GPL-2.0-only
/*
 * Calls after which the proof in epoll.c does not hold for a socket or an epoll
 * instance: they make another reference to it, or another thread or process, or watch
 * an instance.
 *
 * Each function here tells epoll.c, and then jumps to that of the C library with
 * registers and stack as they were. So it takes any arguments, also variable ones, and
 * may return twice, as vfork() does.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/prctl.h>
#include <linux/close_range.h>
#include <linux/seccomp.h>

#include "device.h"
#include "epoll.h"
#include "fds.h"
#include "kernel.h"
#include "memory.h"
#include "process.h"
#include "real.h"
#include "shadow.h"

/* The kernel sends no more by one call (UIO_MAXIOV). */
#define MOST_MESSAGES	1024

/* Called in place of a function that this machine's C library does not have. */
__attribute__((visibility("hidden"))) long fsocket_absent(void)
{
	errno = ENOSYS;
	return -1;
}

/*
 * Defines the function name, which first calls before with its own first six arguments,
 * and then jumps to what instead returns, or else to the C library's function. The
 * arguments and rax, which counts vector registers for variable arguments, are restored
 * afterwards. Vector registers are not: none of these functions takes floating-point
 * numbers.
 */
#define ESCAPE_TO(name, before, instead)				\
__attribute__((used, visibility("hidden")))				\
void *fsocket_before_##name(long a, long b, long c, long d, long e, long f) \
{									\
	static void *real;						\
	FIND_AT_START(real, #name);					\
	int saved = errno;						\
	void *other;							\
									\
	if (!real)							\
		real = dlsym(RTLD_NEXT, #name);				\
	before(a, b, c, d, e, f);					\
	other = instead(a, b, c, d, e, f);				\
	errno = saved;							\
	if (other)							\
		return other;						\
	return real ? real : (void *)fsocket_absent;			\
}									\
asm(".pushsection .text\n"						\
    ".globl " #name "\n"						\
    ".type " #name ", @function\n"					\
    #name ":\n"								\
    "	push %rdi; push %rsi; push %rdx; push %rcx; push %r8; push %r9; push %rax\n" \
    "	call fsocket_before_" #name "\n"				\
    "	mov %rax, %r11\n"						\
    "	pop %rax; pop %r9; pop %r8; pop %rcx; pop %rdx; pop %rsi; pop %rdi\n" \
    "	jmp *%r11\n"							\
    ".size " #name ", . - " #name "\n"					\
    ".popsection")

#define ARGUMENTS						\
	__attribute__((unused)) long a, __attribute__((unused)) long b,	\
	__attribute__((unused)) long c, __attribute__((unused)) long d,	\
	__attribute__((unused)) long e, __attribute__((unused)) long f

#define ESCAPE(name, before) ESCAPE_TO(name, before, no_other)

static inline void *no_other(ARGUMENTS)
{
	return NULL;
}

static void first_escapes(ARGUMENTS)
{
	fsocket_group_copied(a);
	fsocket_epoll_escape(a);
}

/* The numbers are about to be closed, or to become those of other files. */
static void go(unsigned int first, unsigned int last)
{
	fsocket_group_gone(first, last);
	if (first <= last && atomic_load_explicit(&fsocket_watch_count, memory_order_relaxed) &&
	    !fsocket_process_borrowed())
		fsocket_worker_close_range(first, last);
}

static void both_escape(ARGUMENTS)
{
	fsocket_group_copied(a);
	fsocket_epoll_escape(a);
	/* The call closes b, unless it fails. */
	fsocket_epoll_escape(b);
	if ((int)a != (int)b && RAW2(SYS_fcntl, a, F_GETFD) >= 0) {
		go(b, b);
		if (!fsocket_process_borrowed())
			fsocket_fd_forget(b);
	}
}

/* Forgets the numbers from first to last if they have been closed. */
static void range_closed(unsigned int first, unsigned int last)
{
	go(first, last);
	for (unsigned int fd = first; fd <= last && fd < FSOCKET_MAX_FD; fd++)
		if (fsocket_fd(fd) == FD_PLAIN)
			fsocket_fd_forget(fd);
}

static void by_close_range(ARGUMENTS)
{
	fsocket_epoll_escape_all();
	if ((int)c & CLOSE_RANGE_UNSHARE && !((int)c & ~(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC)))
		fsocket_apart_range(a, b);
	/* With CLOSE_RANGE_CLOEXEC it closes nothing, and with flags that do not exist it fails. */
	if (!((int)c & ~CLOSE_RANGE_UNSHARE))
		range_closed(a, b);
}

static void by_closefrom(ARGUMENTS)
{
	fsocket_epoll_escape_all();
	range_closed((int)a > 0 ? a : 0, ~0U);
}

/* fclose() closes it by a call that the library does not see. */
static void by_fdopen(ARGUMENTS)
{
	fsocket_epoll_escape(a);
	if (fsocket_fd(a) == FD_PLAIN)
		fsocket_fd_forget(a);
}

/*
 * The loaded library may be one that uses io_uring (liburing), or one that finds the C
 * library's functions before those of this library.
 */
static void by_dlopen(ARGUMENTS)
{
	if (b & RTLD_DEEPBIND)
		fsocket_epoll_give_up();
	else
		fsocket_epoll_escape_all();
}

/* A function that runs for the number of a system call runs in this thread. */
static __thread bool by_name __attribute__((tls_model("initial-exec")));
/* Whether the thread could be cancelled before that. */
static __thread int cancelable __attribute__((tls_model("initial-exec")));

static void ends_by_name(void)
{
	by_name = false;
	pthread_setcancelstate(cancelable, NULL);
}

static void by_longjmp(ARGUMENTS)
{
	/* A signal handler may leave the function. */
	if (by_name)
		ends_by_name();
	fsocket_shadow_jump();
}

static void confine(void)
{
	fsocket_worker_confine(false);
	fsocket_epoll_give_up();
	fsocket_device_confine();
}

static void by_prctl(ARGUMENTS)
{
	if ((int)a == PR_SET_SECCOMP)
		confine();
}

static void all_escape(ARGUMENTS)
{
	fsocket_pin_lift();
	fsocket_epoll_escape_all();
}

static void give_up(ARGUMENTS)
{
	fsocket_pin_lift();
	fsocket_epoll_give_up();
}

static void thread_starts(ARGUMENTS)
{
	fsocket_pin_lift();
	fsocket_epoll_thread_starts();
}

static void *create_apart(ARGUMENTS)
{
	return fsocket_process_apart ? fsocket_apart_pthread_create : NULL;
}

static void *create_other_apart(ARGUMENTS)
{
	return fsocket_process_apart ? fsocket_apart_thrd_create : NULL;
}

static void by_fcntl(ARGUMENTS)
{
	if ((int)b == F_DUPFD || (int)b == F_DUPFD_CLOEXEC) {
		fsocket_group_copied(a);
		fsocket_epoll_escape(a);
	} else if ((int)b == F_SETFL && (int)c & O_ASYNC) {
		fsocket_group_signals(a);
	}
}

/* A mapping of a socket (TCP_ZEROCOPY_RECEIVE) is a reference. */
static void by_mmap(ARGUMENTS)
{
	if ((int)e >= 0)
		fsocket_epoll_escape(e);
}

static void passed_on(const struct msghdr *msg)
{
	struct cmsghdr *c;

	/* With less than it says, or with a part that says more, the call fails. */
	if (!msg->msg_control || !fsocket_readable_all(msg->msg_control, msg->msg_controllen))
		return;
	for (c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR((struct msghdr *)msg, c)) {
		if (c->cmsg_len > (size_t)((char *)msg->msg_control + msg->msg_controllen - (char *)c))
			return;
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
			int fd;

			memcpy(&fd, (char *)c + at, sizeof(fd));
			fsocket_epoll_escape(fd);
		}
	}
}

static void by_sendmsg(ARGUMENTS)
{
	const struct msghdr *msg = (const struct msghdr *)b;

	if (fsocket_epoll_follows() && fsocket_readable_all(msg, sizeof(*msg)))
		passed_on(msg);
}

static void by_sendmmsg(ARGUMENTS)
{
	const struct mmsghdr *messages = (const struct mmsghdr *)b;
	unsigned int count = (unsigned int)c < MOST_MESSAGES ? c : MOST_MESSAGES;

	if (!fsocket_epoll_follows())
		return;
	/* The kernel sends those before the first that it cannot read. */
	count = fsocket_readable(messages, count * sizeof(*messages)) / sizeof(*messages);
	for (unsigned int i = 0; i < count; i++)
		passed_on(&messages[i].msg_hdr);
}

static void by_poll(ARGUMENTS)
{
	const struct pollfd *fds = (const struct pollfd *)a;
	/* The kernel takes no more of the number. */
	unsigned int count = b;

	if (!fsocket_epoll_defers() || !fsocket_readable_all(fds, count * sizeof(*fds)))
		return;
	for (unsigned int i = 0; i < count; i++)
		fsocket_epoll_watched(fds[i].fd);
}

static void by_select(ARGUMENTS)
{
	const fd_set *sets[] = { (const fd_set *)b, (const fd_set *)c, (const fd_set *)d };
	int highest = (int)a < FD_SETSIZE ? a : FD_SETSIZE;

	if (!fsocket_epoll_defers())
		return;
	for (size_t i = 0; i < sizeof(sets) / sizeof(*sets); i++) {
		/* The kernel reads no more of a set than there can be descriptors now, in whole words. */
		int there = fsocket_readable(sets[i], FSOCKET_SET_SIZE(highest)) /
			    sizeof(fd_mask) * NFDBITS;

		for (int fd = 0; fd < highest && fd < there; fd++)
			if (FD_ISSET(fd, sets[i]))
				fsocket_epoll_watched(fd);
	}
}

static bool groups(void)
{
	return atomic_load_explicit(&fsocket_group_count, memory_order_relaxed);
}

static void *poll_beside(ARGUMENTS)
{
	return groups() && fsocket_bystander_polls((const struct pollfd *)a, b) ?
	       fsocket_bystander_poll : NULL;
}

/* The last argument is the size of the array. */
static void *poll_chk_beside(ARGUMENTS)
{
	return (size_t)d / sizeof(struct pollfd) >= (size_t)b ? poll_beside(a, b, c, d, e, f) : NULL;
}

static void *ppoll_beside(ARGUMENTS)
{
	return groups() && fsocket_bystander_limit((const long *)c) &&
	       fsocket_bystander_polls((const struct pollfd *)a, b) ? fsocket_bystander_ppoll : NULL;
}

static void *ppoll_chk_beside(ARGUMENTS)
{
	return (size_t)e / sizeof(struct pollfd) >= (size_t)b ? ppoll_beside(a, b, c, d, e, f) : NULL;
}

static bool selects(ARGUMENTS)
{
	const fd_set *sets[] = { (const fd_set *)b, (const fd_set *)c, (const fd_set *)d };

	return groups() && fsocket_bystander_limit((const long *)e) &&
	       fsocket_bystander_selects(a, sets);
}

static void *select_beside(ARGUMENTS)
{
	return selects(a, b, c, d, e, f) ? fsocket_bystander_select : NULL;
}

static void *pselect_beside(ARGUMENTS)
{
	return selects(a, b, c, d, e, f) ? fsocket_bystander_pselect : NULL;
}

/* The C library reads this itself before its system call. */
static void by_timer(ARGUMENTS)
{
	const struct sigevent *event = (const struct sigevent *)b;

	if (event && event->sigev_notify == SIGEV_THREAD)
		fsocket_epoll_give_up();
}

/* The library waits by system calls of its own, which are no cancellation points. */
static void by_cancel(ARGUMENTS)
{
	fsocket_epoll_give_up();
}

static void by_shutdown(ARGUMENTS)
{
	if ((int)b == SHUT_RD || (int)b == SHUT_RDWR)
		fsocket_group_shutdown(a);
}

/* Does the system call of the number by the library's function of the same name. */
static long call_by_name(long number, long a, long b, long c, long d, long e)
{
	long ret;

	/* syscall() is no cancellation point. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelable);
	by_name = true;
	switch (number) {
	case SYS_accept:
		ret = accept(a, (struct sockaddr *)b, (socklen_t *)c);
		break;
	case SYS_accept4:
		ret = accept4(a, (struct sockaddr *)b, (socklen_t *)c, d);
		break;
	case SYS_getsockopt:
		ret = getsockopt(a, b, c, (void *)d, (socklen_t *)e);
		break;
	case SYS_setsockopt:
		ret = setsockopt(a, b, c, (const void *)d, e);
		break;
	case SYS_epoll_ctl:
		ret = epoll_ctl(a, b, c, (struct epoll_event *)d);
		break;
	case SYS_epoll_wait:
		ret = epoll_wait(a, (struct epoll_event *)b, c, d);
		break;
	case SYS_unshare:
		ret = unshare(a);
		break;
	default:
		ret = epoll_pwait(a, (struct epoll_event *)b, c, d, (const sigset_t *)e);
		break;
	}
	ends_by_name();
	return ret;
}

/*
 * Programs accept by number, as libuv did for years, and once this process has had a
 * group only the library's functions know where connections wait. A function that runs
 * for a number may come here again, through another preloaded library: then the number
 * means the system call.
 */
static void *not_by_number(ARGUMENTS)
{
	if (by_name || !(fsocket_group_was() || a == SYS_unshare))
		return NULL;
	switch (a) {
	case SYS_accept:
	case SYS_accept4:
	case SYS_getsockopt:
	case SYS_setsockopt:
	case SYS_epoll_ctl:
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case SYS_unshare:
		return call_by_name;
	}
	return NULL;
}

/* These call the kernel without the functions of the same name. */
static void by_syscall(ARGUMENTS)
{
	switch (a) {
	case SYS_clone:
	case SYS_clone3:
		fsocket_pin_lift();
		fsocket_epoll_give_up();
		break;
	case SYS_io_setup:
	case SYS_io_submit:
	case SYS_io_uring_setup:
		fsocket_epoll_give_up();
		break;
	case SYS_seccomp:
		if ((int)b == SECCOMP_SET_MODE_STRICT || (int)b == SECCOMP_SET_MODE_FILTER)
			confine();
		break;
	case SYS_prctl:
		by_prctl(b, c, d, e, f, 0);
		break;
	case SYS_close:
		fsocket_epoll_escape(b);
		go(b, b);
		if (fsocket_fd(b) == FD_PLAIN)
			fsocket_fd_forget(b);
		break;
	case SYS_fork:
	case SYS_vfork:
	case SYS_execve:
	case SYS_execveat:
		fsocket_pin_lift();
		fsocket_epoll_escape_all();
		break;
	case SYS_close_range:
		by_close_range(b, c, d, 0, 0, 0);
		break;
	case SYS_shutdown:
		by_shutdown(b, c, 0, 0, 0, 0);
		break;
	case SYS_dup2:
	case SYS_dup3:
		both_escape(b, c, 0, 0, 0, 0);
		break;
	case SYS_kcmp:
	case SYS_dup:
	case SYS_fcntl:
	case SYS_mmap:
	case SYS_sendmsg:
	case SYS_sendmmsg:
	case SYS_poll:
	case SYS_ppoll:
	case SYS_select:
	case SYS_pselect6:
	case SYS_epoll_ctl:
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
	case SYS_pidfd_getfd:
		fsocket_epoll_escape_all();
		break;
	}
}

ESCAPE(shutdown, by_shutdown);

ESCAPE(dup, first_escapes);
ESCAPE(dup2, both_escape);
ESCAPE(__dup2, both_escape);
ESCAPE(dup3, both_escape);
ESCAPE(fcntl, by_fcntl);
ESCAPE(__fcntl, by_fcntl);
ESCAPE(fcntl64, by_fcntl);
ESCAPE(fdopen, by_fdopen);
ESCAPE(mmap, by_mmap);
ESCAPE(mmap64, by_mmap);
ESCAPE(sendmsg, by_sendmsg);
ESCAPE(sendmmsg, by_sendmmsg);

ESCAPE_TO(poll, by_poll, poll_beside);
ESCAPE_TO(__poll, by_poll, poll_beside);
ESCAPE_TO(__poll_chk, by_poll, poll_chk_beside);
ESCAPE_TO(ppoll, by_poll, ppoll_beside);
ESCAPE_TO(__ppoll_chk, by_poll, ppoll_chk_beside);
ESCAPE_TO(select, by_select, select_beside);
ESCAPE_TO(__select, by_select, select_beside);
ESCAPE_TO(pselect, by_select, pselect_beside);

/* fork() and its callers such as daemon() and forkpty() tell epoll.c themselves. */
ESCAPE(vfork, all_escape);
ESCAPE(__vfork, all_escape);
ESCAPE(posix_spawn, all_escape);
ESCAPE(posix_spawnp, all_escape);
ESCAPE(system, all_escape);
ESCAPE(popen, all_escape);
ESCAPE(wordexp, all_escape);
/* keep.c has the other functions that run a program. */
ESCAPE(fexecve, all_escape);
ESCAPE(execl, all_escape);
ESCAPE(execlp, all_escape);
ESCAPE(execle, all_escape);

ESCAPE_TO(pthread_create, thread_starts, create_apart);
ESCAPE_TO(thrd_create, thread_starts, create_other_apart);
ESCAPE(pthread_cancel, by_cancel);
/* The C library makes these threads, and they call the program. */
ESCAPE(timer_create, by_timer);
ESCAPE(mq_notify, give_up);
ESCAPE(getaddrinfo_a, give_up);
ESCAPE(aio_read, give_up);
ESCAPE(aio_read64, give_up);
ESCAPE(aio_write, give_up);
ESCAPE(aio_write64, give_up);
ESCAPE(lio_listio, give_up);
ESCAPE(lio_listio64, give_up);

ESCAPE(clone, give_up);
ESCAPE(__clone, give_up);
ESCAPE_TO(syscall, by_syscall, not_by_number);
ESCAPE(prctl, by_prctl);
ESCAPE(longjmp, by_longjmp);
ESCAPE(_longjmp, by_longjmp);
ESCAPE(siglongjmp, by_longjmp);
ESCAPE(__longjmp_chk, by_longjmp);
ESCAPE(dlopen, by_dlopen);
/* Another namespace has a C library of its own. */
ESCAPE(dlmopen, give_up);

/*
 * A program that looks for a function by dlsym() must not find one that the C library
 * does not have. So these are defined only if the C library has them.
 */
#if __GLIBC_PREREQ(2, 34)
ESCAPE(_Fork, all_escape);
ESCAPE(execveat, all_escape);
ESCAPE(close_range, by_close_range);
ESCAPE(closefrom, by_closefrom);
#endif
#if __GLIBC_PREREQ(2, 36)
ESCAPE(pidfd_getfd, all_escape);
#endif

int pthread_join(pthread_t thread, void **result)
{
	int ret;

	REAL(pthread_join);
	ret = real(thread, result);
	if (!ret)
		fsocket_epoll_thread_joined();
	return ret;
}
