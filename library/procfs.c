// SPDX-License-Identifier: GPL-2.0-only
/* The kernel backend reads here what /proc says of other processes. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend.h"
#include "real.h"

int fsocket_proc_read(const char *path, char *text, int size)
{
	int fd = RAW4(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0), length;

	if (fd < 0)
		return -1;
	length = RAW3(SYS_read, fd, text, size - 1);
	RAW2(SYS_close, fd, 0);
	text[length < 0 ? 0 : length] = '\0';
	return length;
}

char *fsocket_proc_stat(int pid, int tid, char *text, int size)
{
	char path[64], *name_end;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	if (fsocket_proc_read(path, text, size) < 0)
		return NULL;
	name_end = strrchr(text, ')');
	return name_end ? name_end + 1 : NULL;
}

/* The state is the 3rd field of the file, and the start is the 22nd. */
unsigned long fsocket_proc_started(const char *stat)
{
	unsigned long started;

	return stat && sscanf(stat, " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s"
				    " %*s %*s %*s %*s %lu", &started) == 1 ? started : 0;
}
