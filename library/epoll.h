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

/* Before the program closes fd for good. */
void fsocket_epoll_close(int fd);

/*
 * Makes the kernel know all that the program has registered in epfd, before a
 * call that only the kernel can answer.
 */
void fsocket_epoll_settle(int epfd);

/*
 * Before a call by which fd, a socket or an epoll instance, may get another
 * reference or be watched in a way that we do not follow: from now on it is
 * left to the kernel.
 */
void fsocket_epoll_escape(int fd);
/* The same if fd is an epoll instance; sockets do not mind being watched. */
void fsocket_epoll_watched(int fd);
/* Returns whether any socket or instance is followed. */
bool fsocket_epoll_follows(void);
/* The same for all sockets and instances that there are; those made later may be followed again. */
void fsocket_epoll_escape_all(void);
/* The same for good: the process is not followed any more. */
void fsocket_epoll_give_up(void);

/* A thread is about to be created; one has been joined. */
void fsocket_epoll_thread_starts(void);
void fsocket_epoll_thread_joined(void);

#pragma GCC visibility pop

#endif
