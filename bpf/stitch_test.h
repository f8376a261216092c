/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The proof, at the start, that connections can be stitched here: a handshake in the kernel over a
 * wire that carries it, and that nothing goes out raw when the filters are missing. What it needs
 * it makes for itself, and none of it touches the host's network: two network namespaces with a
 * veth pair between them, and a cgroup below our own.
 */
#ifndef UNDERSOCK_BPF_STITCH_TEST_H
#define UNDERSOCK_BPF_STITCH_TEST_H

#include <stddef.h>

/*
 * 0; or -errno with one sentence in `why`:
 * -EPROTO: it was tried, and did not work: nothing must be stitched;
 * -ETIMEDOUT: it was not through in time: likewise;
 * -EOPNOTSUPP, -ENOMEM: the kernel lacks what bpf_stitch_open() needs;
 * -EPERM, -EROFS, -ENOENT or another: there is no right or no place to try it (no CAP_SYS_ADMIN for
 * the namespaces, no cgroup2 that can be written): that says nothing of the kernel.
 *
 * Forks, and waits for the child: typically a quarter of a second, nearly all of it for loading;
 * never more than ten seconds. Where IPv6 is switched off, IPv4 alone is tried. Nothing is left
 * behind, also when the caller is killed meanwhile.
 */
int bpf_stitch_prove(char *why, size_t why_size);

#endif
