/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Notes about each number that a descriptor can have. A program can close a number, and
 * give it to another file, by ways that the library does not see. So a note only
 * decides whether to ask the kernel: code that acts on a note either does no harm if
 * the note is wrong, or asks what the descriptor is now.
 */
#ifndef FSOCKET_FDS_H
#define FSOCKET_FDS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "real.h"

/* Higher numbers are always left to the kernel. */
#define FSOCKET_MAX_FD 65536

enum {
	FD_UNKNOWN = 0,
	/*
	 * Made by socket() or accept(), or the kernel has been asked: it does not
	 * listen for TCP.
	 */
	FD_PLAIN = 1,
	FD_LISTENER = 2,
	/* A member of a group (group.c), which belongs to the library. */
	FD_MEMBER = 4,
	/* A listener: some thread has added it to an epoll instance since it listens. */
	FD_ADDED = 8,
	/* A descriptor of the library's, which the program does not know. */
	FD_DEVICE = 16,
	FD_BEYOND = 32,
};

#pragma GCC visibility push(hidden)

extern atomic_uchar fsocket_fds[FSOCKET_MAX_FD];

static inline unsigned char fsocket_fd(int fd)
{
	return (unsigned int)fd < FSOCKET_MAX_FD ?
	       atomic_load_explicit(&fsocket_fds[fd], memory_order_relaxed) : FD_BEYOND;
}

static inline void fsocket_fd_set(int fd, unsigned char kind)
{
	if ((unsigned int)fd < FSOCKET_MAX_FD)
		atomic_store_explicit(&fsocket_fds[fd], kind, memory_order_relaxed);
}

/* The number may mean another file from now on. The device is checked when it is used. */
static inline void fsocket_fd_forget(int fd)
{
	if (!(fsocket_fd(fd) & (FD_DEVICE | FD_MEMBER | FD_BEYOND)))
		fsocket_fd_set(fd, FD_UNKNOWN);
}

/* Returns the inode of the descriptor's file, which no other open socket has; or 0. */
static inline ino_t fsocket_inode(int fd)
{
	struct stat s;

	return RAW2(SYS_fstat, fd, &s) ? 0 : s.st_ino;
}

static inline int fsocket_set_reuseport(int fd, int on)
{
	return RAW5(SYS_setsockopt, fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
}

/* Returns the value of an option that is an int, or -ERRNO. */
static inline int fsocket_option(int fd, int level, int name)
{
	socklen_t len = sizeof(int);
	int value = 0, ret = RAW5(SYS_getsockopt, fd, level, name, &value, &len);

	return ret ? ret : value;
}

#pragma GCC visibility pop

#endif
