/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FSOCKET_POLICY_H
#define FSOCKET_POLICY_H

#include "fastsocket_policy.h"

/* The CPU that the first policy to have an opinion names; or -1. Under RCU. */
int fsocket_policies_ask(const struct fastsocket_flow *flow);

#endif
