/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_POLICY_H
#define FSOCKET_POLICY_H

#include "fastsocket_policy.h"

/*
 * Returns the CPU that the first policy with an opinion names, or -1. Called under
 * rcu_read_lock().
 */
int fsocket_policies_ask(const struct fastsocket_flow *flow);

#endif
