/* SPDX-License-Identifier: GPL-2.0-only */
/* The program's listeners, and the threads that wait for them: see listener.c. */
#ifndef FSOCKET_LISTENER_H
#define FSOCKET_LISTENER_H

#include <stdbool.h>

#include "fds.h"

#pragma GCC visibility push(hidden)

/* The listener that this thread has not waited for since it was in its set; or -1. */
extern __thread int fsocket_leaving __attribute__((tls_model("initial-exec")));

/* fd listens, by listen() just now or as the kernel says. */
void fsocket_listener_note(int fd);

/*
 * Asks the kernel whether fd, of unknown origin, listens: what fsocket_fd() says
 * of it then.
 */
unsigned char fsocket_listener_ask(int fd);

/* Whether what is known of fd as a listener is about what it is now. */
bool fsocket_listener_is(int fd);

/*
 * Where the program has set SO_REUSEPORT of the listener fd, or of a copy of it: what
 * it finds there is to be its own value, as the module sets the option too. NULL: fd is
 * no listener that we know.
 */
atomic_bool *fsocket_listener_reuseport(int fd);

/* This thread is about to add fd to an epoll instance. */
void fsocket_listener_added(int fd);

/*
 * This thread waits for fd from now on, with EPOLL_CTL_MOD. Whether it has got a
 * local listener only now, of which the epoll instance does not know yet.
 */
bool fsocket_listener_resumed(int fd);

/* It does not, unless it says otherwise before it waits next. */
void fsocket_listener_left(int fd);

/* This thread is about to wait, and fsocket_leaving is not -1. */
void fsocket_listener_retire(void);

/* fd is about to be closed. Whether that is done. */
bool fsocket_listener_close(int fd);

#pragma GCC visibility pop

#endif
