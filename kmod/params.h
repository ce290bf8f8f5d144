/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_PARAMS_H
#define FSOCKET_PARAMS_H

/* Switches on what has been asked for at load; errors as of the features. */
int fsocket_params_init(void);
void fsocket_params_exit(void);
void fsocket_params_report(void);

#endif
