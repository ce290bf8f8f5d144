/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_PARAMS_H
#define FSOCKET_PARAMS_H

/* Switches on the features that the parameters ask for at load. Returns the error of a feature. */
int fsocket_params_init(void);
void fsocket_params_exit(void);
void fsocket_params_report(void);

#endif
