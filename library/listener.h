/* SPDX-License-Identifier: GPL-2.0-only */
/* The program's listeners, and the threads that wait for them: see listener.c. */
#ifndef FSOCKET_LISTENER_H
#define FSOCKET_LISTENER_H

#include <stdbool.h>

#include "fds.h"

#pragma GCC visibility push(hidden)

/*
 * Listener that this thread removed from its epoll set, to be retired before its next wait;
 * -1 if none.
 */
extern __thread int fsocket_leaving __attribute__((tls_model("initial-exec")));

/* fd listens: listen() has just succeeded, or the kernel says so. */
void fsocket_listener_note(int fd);

/*
 * Asks the kernel whether fd, of unknown origin, listens, and returns what fsocket_fd() then
 * says of it.
 */
unsigned char fsocket_listener_ask(int fd);

/* Returns whether fd is still the listener that was noted under this number. */
bool fsocket_listener_is(int fd);

/*
 * Returns where to store the value of SO_REUSEPORT that the program sets on the
 * listener fd, or on a copy of it. The program has to read its own value, since the
 * module sets the option, too. NULL: fd is no known listener.
 */
atomic_bool *fsocket_listener_reuseport(int fd);
/* Does the same for a socket that need not be a listener. NULL: there is no memory. */
atomic_bool *fsocket_listener_remember(int fd);

/* This thread is about to add fd to an epoll instance. */
void fsocket_listener_added(int fd);

/*
 * From now on this thread waits for fd, by EPOLL_CTL_MOD. Returns whether it has got a
 * new local listener, with which the epoll instance is not registered yet.
 */
bool fsocket_listener_resumed(int fd);

/* This thread no longer waits for fd, unless it adds fd again before its next wait. */
void fsocket_listener_left(int fd);

/* This thread is about to wait, and fsocket_leaving is not -1. */
void fsocket_listener_retire(void);

/* fd is about to be closed. Returns whether the module has closed it already. */
bool fsocket_listener_close(int fd);

#pragma GCC visibility pop

#endif
