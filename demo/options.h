/* SPDX-License-Identifier: GPL-2.0-only */
/* The command line. */
#ifndef DEMO_OPTIONS_H
#define DEMO_OPTIONS_H

#include <stdbool.h>
#include <sys/socket.h>

/* How the workers listen; see listen.c. */
enum listen_mode { MODE_SHARED, MODE_EXCLUSIVE, MODE_REUSEPORT, MODE_CBPF };

struct endpoint {
	struct sockaddr_storage addr;
	socklen_t addr_len;
	const char *text;		/* as the user wrote it */
};

struct options {
	int workers;			/* -w: processes, 1…number of cores */
	int *cores;			/* -c: worker i runs on cores[i] */
	struct endpoint *listen;	/* -a: addresses to listen on */
	int listen_count;
	struct endpoint *backends;	/* -x: none means server mode */
	int backend_count;
	const char *log_path;		/* -o: NULL means no log file */
	bool statistics;		/* -v */
	bool debug;			/* -d */
	bool keepalive;			/* -k; of no effect with -x */
	enum listen_mode mode;		/* -m */
};

/* Fills *opt, or ends the program: 0 after -h, 2 after bad input. */
void options_parse(struct options *opt, int argc, char **argv);

const char *options_mode_name(enum listen_mode mode);

#endif
