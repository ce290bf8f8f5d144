/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_LISTEN_SEQ_H
#define FSOCKET_LISTEN_SEQ_H

#include <linux/seq_file.h>

/*
 * /proc/net/fastsocket_listeners: a header row, then the listening sockets of
 * the reader's network namespace that the module has taken charge of. For each
 * a row about its shared listener, one for each worker, and one for each local
 * listener that has no worker any more. Columns:
 *
 * inode	of the listening socket, as in /proc/PID/fd; the same in all its rows
 * port		that the socket listens on; 0 once it does not listen any more
 * family	4 or 6
 * address	that it listens on
 * cpu		of the local listener; -1 for the shared one
 * attached	1 if new connections come here, else 0: a parked local listener,
 *		or a shared one that does not listen any more
 * worker	thread ID in the pid namespace of this /proc; 0 for none, for one
 *		that has ended, and for one of another namespace
 * queued	connections that wait in the accept queue
 * limit	how many may wait: the backlog
 * host		the CPU whose worker accepts from here, as this one has no worker; else -1
 */
extern const struct seq_operations fsocket_listen_seq_ops;

#endif
