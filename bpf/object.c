/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bpf/object.h: what all loaders share. */
#include "bpf/object.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cap-ng.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "log.h"

__attribute__((format(printf, 2, 0))) static int print_debug(enum libbpf_print_level level,
                                                             const char *format, va_list ap)
{
    char text[900];
    char *line = text, *end;

    /* What libbpf says at its own level of debugging is about itself, a thousand lines of it. */
    if (level == LIBBPF_DEBUG || log_get_level() < LOG_LEVEL_DEBUG)
        return 0;
    vsnprintf(text, sizeof(text), format, ap);
    /* A verifier log comes as one message of many lines. */
    while (*line != '\0') {
        end = line + strcspn(line, "\n");
        bool more = *end != '\0';

        *end = '\0';
        log_debug("%s", line);
        line = end + (more ? 1 : 0);
    }
    return 0;
}

void bpf_object_log_through_us(void)
{
    libbpf_set_print(print_debug);
}

static int set_settings(struct bpf_object *object, const void *settings, size_t size)
{
    struct bpf_map *map;
    size_t have;

    bpf_object__for_each_map(map, object)
    {
        /* libbpf calls it "<start of the object's name>.rodata". */
        if (!bpf_map__is_internal(map) || strstr(bpf_map__name(map), ".rodata") == NULL)
            continue;
        if (bpf_map__initial_value(map, &have) == NULL || have != size)
            return -EINVAL;
        return bpf_map__set_initial_value(map, settings, size);
    }
    return -EINVAL;
}

int bpf_object_open(const void *image, size_t size, const char *name, const void *settings,
                    size_t settings_size, struct bpf_object **ret)
{
    LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = name);
    struct bpf_object *object;
    int r;

    bpf_object_log_through_us();
    object = bpf_object__open_mem(image, size, &options);
    if (object == NULL)
        return -errno;
    r = set_settings(object, settings, settings_size);
    if (r < 0) {
        bpf_object__close(object);
        return r;
    }
    *ret = object;
    return 0;
}

static int dup_fd(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

    return copy < 0 ? -errno : copy;
}

int bpf_object_dup_map(struct bpf_object *object, const char *name)
{
    struct bpf_map *map = bpf_object__find_map_by_name(object, name);

    return map == NULL ? -ENOENT : dup_fd(bpf_map__fd(map));
}

int bpf_object_dup_program(struct bpf_object *object, const char *name)
{
    struct bpf_program *program = bpf_object__find_program_by_name(object, name);

    return program == NULL ? -ENOENT : dup_fd(bpf_program__fd(program));
}

int bpf_object_reuse_map(struct bpf_object *object, const char *name, int fd)
{
    struct bpf_map *map = bpf_object__find_map_by_name(object, name);

    return map == NULL ? -ENOENT : bpf_map__reuse_fd(map, fd);
}

int bpf_object_attach(int program, const char *name, int cgroup_fd, enum bpf_attach_type type,
                      char *why, size_t why_size)
{
    int fd = bpf_link_create(program, cgroup_fd, type, NULL);

    if (fd == -EPERM)
        snprintf(why, why_size,
                 "%s cannot be attached: another program is attached to this cgroup or to one "
                 "above it without allowing others (see \"bpftool cgroup tree\")",
                 name);
    else if (fd < 0)
        snprintf(why, why_size, "%s cannot be attached to the cgroup: %s", name, strerror(-fd));
    return fd;
}

int bpf_object_find_map(const char *name, uint32_t type, uint32_t key_size, uint32_t value_size)
{
    uint32_t id = 0;

    while (bpf_map_get_next_id(id, &id) == 0) {
        struct bpf_map_info info = {0};
        uint32_t len = sizeof(info);
        int fd = bpf_map_get_fd_by_id(id);

        if (fd == -ENOENT)
            continue; /* it went meanwhile */
        if (fd < 0)
            return fd;
        if (bpf_obj_get_info_by_fd(fd, &info, &len) == 0 && info.type == type &&
            info.key_size == key_size && info.value_size == value_size &&
            strncmp(info.name, name, sizeof(info.name)) == 0)
            return fd;
        close(fd);
    }
    return errno == ENOENT ? -ENOENT : -errno;
}

bool bpf_object_is_same_map(int a, int b)
{
    struct bpf_map_info info[2] = {0};
    uint32_t len = sizeof(info[0]);

    return bpf_obj_get_info_by_fd(a, &info[0], &len) == 0 && (len = sizeof(info[1])) > 0 &&
           bpf_obj_get_info_by_fd(b, &info[1], &len) == 0 && info[0].id == info[1].id;
}

bool bpf_object_shares_map(struct bpf_object *object, const char *name)
{
    const struct bpf_map *map = bpf_object__find_map_by_name(object, name);

    if (map == NULL)
        return true;
    int fd = bpf_object_find_map(name, bpf_map__type(map), bpf_map__key_size(map),
                                 bpf_map__value_size(map));
    bool same = fd < 0 || bpf_object_is_same_map(fd, bpf_map__fd(map));

    if (fd >= 0)
        close(fd);
    return same;
}

static const char *missing_capability(void)
{
    static const struct {
        unsigned capability;
        const char *name;
    } needed[] = {
        {CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {CAP_BPF, "CAP_BPF"}, {CAP_PERFMON, "CAP_PERFMON"}};

    capng_clear(CAPNG_SELECT_BOTH);
    if (capng_get_caps_process() != 0)
        return NULL;
    if (capng_have_capability(CAPNG_EFFECTIVE, CAP_SYS_ADMIN) &&
        capng_have_capability(CAPNG_EFFECTIVE, CAP_NET_ADMIN))
        return NULL;
    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        if (!capng_have_capability(CAPNG_EFFECTIVE, needed[i].capability))
            return needed[i].name;
    }
    return NULL;
}

static bool is_locked_down(void)
{
    char text[128] = "";
    int fd = open("/sys/kernel/security/lockdown", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return false;
    if (read(fd, text, sizeof(text) - 1) < 0)
        text[0] = '\0';
    close(fd);
    return strstr(text, "[confidentiality]") != NULL;
}

void bpf_object_explain(int error, const char *what, char *why, size_t why_size)
{
    const char *missing = missing_capability();

    if ((error == -EPERM || error == -EACCES) && missing != NULL)
        snprintf(why, why_size, "%s needs %s, which this process lacks: run it as root", what,
                 missing);
    else if (error == -EPERM && is_locked_down())
        snprintf(why, why_size,
                 "%s: the kernel is locked down (/sys/kernel/security/lockdown: confidentiality)",
                 what);
    else if (error == -EPERM)
        snprintf(
            why, why_size,
            "%s: not permitted here although the capabilities are there: a container's seccomp "
            "filter, a security module, or RLIMIT_MEMLOCK",
            what);
    else if (error == -ENOSYS)
        snprintf(why, why_size, "%s: this kernel has no bpf(2) (CONFIG_BPF_SYSCALL)", what);
    else if (access("/sys/kernel/btf/vmlinux", R_OK) != 0)
        snprintf(why, why_size,
                 "%s: this kernel has no BTF (/sys/kernel/btf/vmlinux, CONFIG_DEBUG_INFO_BTF)",
                 what);
    else if (error == -EACCES || error == -EINVAL)
        snprintf(why, why_size,
                 "%s: this kernel refuses the programs (%s); log-level debug shows its reasons",
                 what, strerror(-error));
    else
        snprintf(why, why_size, "%s: %s", what, strerror(-error));
}
