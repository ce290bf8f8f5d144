// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/fastsocket: opens it, makes its ioctls, and notices when the program has closed
 * it or has given its number to another file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "device.h"
#include "fds.h"
#include "process.h"
#include "real.h"

/*
 * After an error that does not pass by itself, the library tries again after this many
 * milliseconds.
 */
#define RETRY_MS 1000

static const struct fsocket_features nothing;
const volatile struct fsocket_features *fsocket_features = &nothing;
atomic_uchar fsocket_fds[FSOCKET_MAX_FD];

static atomic_int device = -1;
/* The identity of the device's file. */
static dev_t device_dev;
static ino_t device_ino;

static atomic_bool confined;
/* The error of the last attempt to open the device, and the time of that attempt. */
static atomic_int failure;
static atomic_long failed_at;

bool fsocket_device_is(int fd)
{
	struct stat s;

	return fd >= 0 && fd == atomic_load(&device) && !confined &&
	       !RAW2(SYS_fstat, fd, &s) && s.st_dev == device_dev && s.st_ino == device_ino;
}

/*
 * Opens the device under a high number: the kernel gives out the lowest free number,
 * and some programs rely on the number of their next descriptor. Returns the number, or
 * -ERRNO.
 */
static int open_device(void)
{
	struct rlimit limit;
	int low, high;

	low = RAW4(SYS_openat, AT_FDCWD, FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC, 0);
	if (low < 0)
		return low;
	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur > 1024)
		limit.rlim_cur = 1024;
	high = RAW3(SYS_fcntl, low, F_DUPFD_CLOEXEC, limit.rlim_cur / 2);
	if (high < 0)
		return low;
	RAW2(SYS_close, low, 0);
	return high;
}

/* The mapping stays when the device is closed. Without it no feature is on. */
static void map_features(int fd)
{
	static atomic_bool mapped;
	void *page;

	if (atomic_exchange(&mapped, true))
		return;
	page = mmap(NULL, sysconf(_SC_PAGESIZE), PROT_READ, MAP_SHARED, fd, 0);
	if (page != MAP_FAILED)
		fsocket_features = page;
}

/*
 * Returns whether the error may be gone at the next attempt, since it does not come from the
 * device.
 */
static bool passes(int error)
{
	return error == EMFILE || error == ENFILE || error == ENOMEM || error == EINTR;
}

static const char *remedy(int error)
{
	bool loaded = !RAW2(SYS_access, "/sys/module/fastsocket", F_OK);

	if (passes(error))
		return "it is tried again at the next listener; raise the limit of open files: ulimit -n, LimitNOFILE=";
	if (error == EACCES)
		return "let the user read it: chmod a+r " FSOCKET_DEVICE;
	if (error == EPERM || (error == ENOENT && loaded))
		return "the module is loaded, but devices are kept from this program: in a systemd unit with PrivateDevices=yes or DevicePolicy= add BindPaths=" FSOCKET_DEVICE " and DeviceAllow=" FSOCKET_DEVICE " r; start a container with --device " FSOCKET_DEVICE;
	return "load it with: modprobe fastsocket, or do without it: FSOCKET_BACKEND=kernel";
}

static void report(int error)
{
	const char *required = fsocket_setting("FSOCKET_REQUIRED");
	bool fatal = required && !strcmp(required, "1");
	char line[512];
	int length;

	if (!fatal && error == atomic_load(&failure))
		return;
	length = snprintf(line, sizeof(line), "libfsocket: %s: %s: %s (%s)\n", FSOCKET_DEVICE,
			  strerrordesc_np(error),
			  fatal ? "the program needs the module and ends here" :
				  "running without Fastsocket", remedy(error));
	RAW3(SYS_write, STDERR_FILENO, line, length);
	if (fatal)
		_exit(1);
}

static bool try_to_open(void)
{
	int error = atomic_load(&failure), expected = -1, fd;
	struct stat s;

	if (error && !passes(error) && fsocket_now_ms() - atomic_load(&failed_at) < RETRY_MS)
		return false;
	fd = open_device();
	if (fd < 0) {
		report(-fd);
		atomic_store(&failure, -fd);
		atomic_store(&failed_at, fsocket_now_ms());
		return false;
	}
	atomic_store(&failure, 0);
	map_features(fd);
	if (!RAW2(SYS_fstat, fd, &s)) {
		device_dev = s.st_dev;
		device_ino = s.st_ino;
	}
	fsocket_process_note();
	fsocket_fd_set(fd, FD_DEVICE);
	if (!atomic_compare_exchange_strong(&device, &expected, fd)) {
		fsocket_fd_set(fd, FD_UNKNOWN);
		RAW2(SYS_close, fd, 0);
	}
	return true;
}

/*
 * Returns whether the device, whose number was fd, has to be opened again. A child that
 * shares the memory of its parent must not do so: the parent's descriptor is still
 * open.
 */
static bool lost(int fd)
{
	if (fsocket_device_is(fd) || fsocket_process_borrowed())
		return false;
	atomic_compare_exchange_strong(&device, &fd, -1);
	return true;
}

bool fsocket_device_there(void)
{
	int fd = RAW4(SYS_openat, AT_FDCWD, FSOCKET_DEVICE, O_RDONLY | O_CLOEXEC, 0);

	if (fd >= 0)
		RAW2(SYS_close, fd, 0);
	return fd >= 0;
}

bool fsocket_device_ready(void)
{
	int fd = atomic_load(&device);

	if (confined)
		return false;
	/* The program may have closed the device and got its number for a socket of its own. */
	if (fd >= 0 && (fsocket_fd(fd) & (FD_DEVICE | FD_BEYOND) || !lost(fd)))
		return true;
	return try_to_open();
}

int fsocket_device_call(unsigned long call, struct fsocket_ioctl_arg *arg)
{
	int fd = atomic_load(&device), ret;

	if (fd < 0 || confined)
		return -ENODEV;
	ret = RAW3(SYS_ioctl, fd, call, arg);
	/* -EBADF may refer to the descriptor that the call is for. */
	if ((ret != -EBADF && ret != -ENOTTY) || !lost(fd))
		return ret;
	if (!try_to_open())
		return -ENODEV;
	return RAW3(SYS_ioctl, atomic_load(&device), call, arg);
}

bool fsocket_device_unasked(int error)
{
	/*
	 * A seccomp filter, another file that has the number, and a missing device
	 * answer so.
	 */
	return error == -EPERM || error == -EACCES || error == -ENOSYS || error == -EBADF ||
	       error == -ENOTTY || error == -ENODEV;
}

void fsocket_device_saved(uint32_t count)
{
	struct fsocket_ioctl_arg arg = { .backlog = count };

	fsocket_device_call(FSOCKET_IOC_EPOLL_SAVED, &arg);
}

void fsocket_device_confine(void)
{
	atomic_store(&confined, true);
	fsocket_features = &nothing;
}

bool fsocket_device_confined(void)
{
	return atomic_load_explicit(&confined, memory_order_relaxed);
}
