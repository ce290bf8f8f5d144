// SPDX-License-Identifier: GPL-2.0-only
/*
 * A shared object for test_kernel_threads. Its constructor runs while the dynamic linker holds the
 * lock of dlopen(), and waits for a thread that makes a socket.
 */
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

static void *make_socket(void *arg)
{
	close(socket(AF_INET, SOCK_STREAM, 0));
	return arg;
}

__attribute__((constructor)) static void start(void)
{
	pthread_t thread;

	if (!pthread_create(&thread, NULL, make_socket, NULL))
		pthread_join(thread, NULL);
}
