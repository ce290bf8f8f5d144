/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_RESOLVE_H
#define FSOCKET_RESOLVE_H

/* The address of a kernel function that is not exported; NULL if there is none. */
void *fsocket_resolve(const char *symbol);

#endif
