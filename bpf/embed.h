/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The compiled BPF objects inside our own binary: the Makefile embeds each bpf/NAME.bpf.c. */
#ifndef UNDERSOCK_BPF_EMBED_H
#define UNDERSOCK_BPF_EMBED_H

#include <stddef.h>

#define BPF_EMBED_DECLARE(name)                    \
    extern const unsigned char bpf_embed_##name[]; \
    extern const unsigned char bpf_embed_##name##_end[]
#define BPF_EMBED_SIZE(name) ((size_t)(bpf_embed_##name##_end - bpf_embed_##name))

BPF_EMBED_DECLARE(connect);
BPF_EMBED_DECLARE(hold);
BPF_EMBED_DECLARE(sockmap);
BPF_EMBED_DECLARE(stitch);

#endif
