/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The origin of a connection that TPROXY brought: the destination is the accepted socket's own
 * name. */
#ifndef UNDERSOCK_FLOW_ORIGIN_LOCAL_H
#define UNDERSOCK_FLOW_ORIGIN_LOCAL_H

#include "capture.h"

/*
 * getsockname() (Documentation/networking/tproxy.rst). Knows the destination and nothing of the
 * process. `ctx` is not used. -ENOENT when the name is the listener's own: the connection was made
 * directly to it.
 */
extern const struct origin_ops origin_local_ops;

#endif
