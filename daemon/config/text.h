/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a value's text may look like: the parts of config.h's parsers that the folder shares. */
#ifndef UNDERSOCK_CONFIG_TEXT_H
#define UNDERSOCK_CONFIG_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"

/*
 * "host:port", IPv6 in brackets, in the first `len` bytes of `text`. `*port` holds the port when
 * the text has none (0: it must have one) and receives it. -EINVAL with what would be right in
 * `why`.
 */
int config_split_endpoint(const char *text, size_t len, char ret_host[CONFIG_HOST_MAX + 1],
                          uint16_t *port, char *why, size_t why_size);

/* Whether the protocol can carry a password. */
bool config_scheme_has_password(enum config_scheme scheme);

/* The text of a URL, right or wrong, without anything that may be a user or a password. */
const char *config_url_redact(const char *text, char *buf, size_t size);

/*
 * The password of a file: regular, closed to group and others, one line of 1..255 bytes. 0, or
 * -errno/-EINVAL with what would be right in `why`.
 */
int config_password_read(const char *path, char ret[256], char *why, size_t why_size);

#endif
