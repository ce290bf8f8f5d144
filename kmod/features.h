/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_FEATURES_H
#define FSOCKET_FEATURES_H

#include <linux/types.h>

struct vm_area_struct;

/* Allocates the page; returns 0 or -ENOMEM. */
int fsocket_features_init(void);
void fsocket_features_exit(void);

/* Does mmap() of the device; see struct fsocket_features. */
int fsocket_features_mmap(struct vm_area_struct *vma);

/* Set the words of the page, which every process sees from then on; return 0. */
int fsocket_features_set_fast_epoll(bool on);
int fsocket_features_set_socket_pool(bool on);
int fsocket_features_set_receive_flow_deliver(bool on);

#endif
