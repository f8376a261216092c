/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Work in a child process that hands back one fixed-size record: for trials that this process must
 * not make itself. */
#ifndef UNDERSOCK_DOCTOR_CHILD_H
#define UNDERSOCK_DOCTOR_CHILD_H

#include <stddef.h>
#include <sys/types.h>

enum child_flags {
    CHILD_UNPRIVILEGED = 1, /* another user, no capability */
    CHILD_NETNS = 2,        /* a network namespace of its own, where that can be had */
};

struct child {
    pid_t pid; /* 0: none */
    int fd;
};

/*
 * Starts `work(ctx, record)`, which fills the record of `size` bytes (zeroed, at most 4096). It is
 * killed after `seconds`. 0 or -errno.
 */
int child_start(void (*work)(void *ctx, void *record), void *ctx, size_t size, unsigned flags,
                unsigned seconds, struct child *ret);
/* Waits for the end. 0, or -EIO: the child ended without a whole record (`ret` is untouched). */
int child_finish(struct child *c, void *ret, size_t size);

#endif
