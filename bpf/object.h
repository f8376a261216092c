/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every loader of ours does with libbpf: opens an embedded object, sets its read-only data,
 * and says in one sentence why the kernel would not have it.
 */
#ifndef UNDERSOCK_BPF_OBJECT_H
#define UNDERSOCK_BPF_OBJECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/bpf.h>

struct bpf_object;
struct bpf_map;

/* libbpf's own output becomes debug lines of ours. Done by bpf_object_open(); once is enough. */
void bpf_object_log_through_us(void);

/*
 * Opens an object from memory under `name`, with `settings` as the whole of its .rodata. 0; -EINVAL
 * when the object's .rodata has another size (the object and this program are of different builds);
 * or -errno. Close with bpf_object__close().
 */
int bpf_object_open(const void *image, size_t size, const char *name, const void *settings,
                    size_t settings_size, struct bpf_object **ret);

/* The descriptor of a loaded object's map, duplicated: it outlives the object. Or -errno. */
int bpf_object_dup_map(struct bpf_object *object, const char *name);
/* The same for a program. */
int bpf_object_dup_program(struct bpf_object *object, const char *name);

/* Lets an open object use a map that exists already; the descriptor stays the caller's. 0 or
 * -errno.
 */
int bpf_object_reuse_map(struct bpf_object *object, const char *name, int fd);

/*
 * Attaches a program to a cgroup, beside others there. Returns the link, or -errno with a sentence
 * in `why`; `name` is the program's.
 */
int bpf_object_attach(int program, const char *name, int cgroup_fd, enum bpf_attach_type type,
                      char *why, size_t why_size);

/*
 * A map that some other object on this machine has, by what it is; a new descriptor, or -ENOENT (or
 * -EPERM: without CAP_SYS_ADMIN nobody may look).
 */
int bpf_object_find_map(const char *name, uint32_t type, uint32_t key_size, uint32_t value_size);

/* Whether two descriptors are of one map. */
bool bpf_object_is_same_map(int a, int b);

/*
 * Whether a loaded object's map is the one of its kind that all others find. Of two that look and
 * load at the same time each may have found none, and made its own: then one of them is not, and
 * has to look and load again. True also where nobody may look.
 */
#define BPF_OBJECT_LOADS 3
bool bpf_object_shares_map(struct bpf_object *object, const char *name);

/*
 * The sentence for a bpf(2) failure `error` (a negative errno) while doing `what` ("loading the
 * connect programs"): the capability that is missing, a kernel without BPF or BTF, or the errno.
 */
void bpf_object_explain(int error, const char *what, char *why, size_t why_size);

#endif
