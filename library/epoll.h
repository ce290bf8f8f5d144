/* SPDX-License-Identifier: GPL-2.0-only */
/* Fewer system calls of epoll (enable_fast_epoll): see epoll.c. */
#ifndef FSOCKET_EPOLL_H
#define FSOCKET_EPOLL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#pragma GCC visibility push(hidden)

/* The program's calls. All leave errno alone unless they fail. */
int fsocket_epoll_ctl(int epfd, int op, int fd, struct epoll_event *event);
int fsocket_epoll_wait(int epfd, struct epoll_event *events, int maxevents, int timeout);

/* Called before the program closes fd for good. */
void fsocket_epoll_close(int fd);

/*
 * Makes the system calls for everything that the program has registered in epfd; called
 * before a call that only the kernel can answer.
 */
void fsocket_epoll_settle(int epfd);

/*
 * Called before a call by which fd, a socket or an epoll instance, may get another
 * reference or a watcher that the library does not see: from now on the library leaves
 * fd to the kernel.
 */
void fsocket_epoll_escape(int fd);
/* Does the same if fd is an epoll instance; a socket may be watched. */
void fsocket_epoll_watched(int fd);
/* Returns whether any socket or instance is followed. */
bool fsocket_epoll_follows(void);
/*
 * Returns whether an instance may lack what the program has registered. If not, poll() of it is
 * answered rightly, and keeps no reference.
 */
bool fsocket_epoll_defers(void);
/* Does the same for all present sockets and instances; the library may follow later ones again. */
void fsocket_epoll_escape_all(void);
/* Does the same for good: the library follows the process no longer. */
void fsocket_epoll_give_up(void);

/* Called before a thread is created, and after one has been joined. */
void fsocket_epoll_thread_starts(void);
void fsocket_epoll_thread_joined(void);

#pragma GCC visibility pop

#endif
