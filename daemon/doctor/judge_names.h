/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A foreign chain in nft's words. */
#ifndef UNDERSOCK_DOCTOR_JUDGE_NAMES_H
#define UNDERSOCK_DOCTOR_JUDGE_NAMES_H

#include "doctor/facts.h"

#define CHAIN_NAME_SIZE (2 * FACTS_NAME + 16)

/* "inet filter input", as nft takes it; returns `buf`. */
const char *chain_name(const struct fw_chain *c, char *buf, size_t size);

#endif
