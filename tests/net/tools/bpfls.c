/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpfls: what BPF holds for one cgroup, and what of it is left later.
 *
 *     bpfls of DIRECTORY     "link ID", "prog ID", "map ID": the links on that cgroup, their
 *                            programs, the maps of those
 *     bpfls left             those lines from standard input whose object still exists
 *
 * Other processes of the machine come and go with BPF objects of their own: two listings of
 * everything prove nothing, the fate of the very objects of one cgroup does. The socket storage
 * that all instances of undersock on a machine share is left out: it goes with the last of them.
 */
#include <linux/bpf.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "net.h"

static long bpf(int command, union bpf_attr *attr)
{
    return syscall(__NR_bpf, command, attr, sizeof(*attr));
}

/* A descriptor for the object, or -1. */
static int open_id(int command, uint32_t id)
{
    union bpf_attr attr = {0};
    attr.link_id = id; /* the same place as prog_id and map_id */
    return (int)bpf(command, &attr);
}

static int info_of(int fd, void *info, size_t size)
{
    union bpf_attr attr = {0};
    attr.info.bpf_fd = (uint32_t)fd;
    attr.info.info_len = (uint32_t)size;
    attr.info.info = (uint64_t)(uintptr_t)info;
    return (int)bpf(BPF_OBJ_GET_INFO_BY_FD, &attr);
}

static void print_program(uint32_t id)
{
    uint32_t maps[64];
    struct bpf_prog_info info = {.nr_map_ids = 64, .map_ids = (uint64_t)(uintptr_t)maps};
    int fd = open_id(BPF_PROG_GET_FD_BY_ID, id);

    printf("prog %u\n", id);
    if (fd < 0 || info_of(fd, &info, sizeof(info)) < 0)
        die(1, "program %u: %s", id, strerror(errno));
    for (uint32_t i = 0; i < info.nr_map_ids && i < 64; i++) {
        struct bpf_map_info map = {0};
        int map_fd = open_id(BPF_MAP_GET_FD_BY_ID, maps[i]);

        if (map_fd < 0 || info_of(map_fd, &map, sizeof(map)) < 0)
            die(1, "map %u: %s", maps[i], strerror(errno));
        if (map.type != BPF_MAP_TYPE_SK_STORAGE)
            printf("map %u\n", maps[i]);
        close(map_fd);
    }
    close(fd);
}

static void list(const char *directory)
{
    union bpf_attr attr = {0};
    struct stat st;

    if (stat(directory, &st) < 0)
        die(1, "%s: %s", directory, strerror(errno));
    while (bpf(BPF_LINK_GET_NEXT_ID, &attr) == 0) {
        uint32_t id = attr.next_id;
        struct bpf_link_info info = {0};
        int fd = open_id(BPF_LINK_GET_FD_BY_ID, id);

        attr = (union bpf_attr){0};
        attr.start_id = id;
        if (fd < 0)
            continue; /* somebody else's that has just gone */
        if (info_of(fd, &info, sizeof(info)) == 0 && info.type == BPF_LINK_TYPE_CGROUP &&
            info.cgroup.cgroup_id == st.st_ino) {
            printf("link %u\n", id);
            print_program(info.prog_id);
        }
        close(fd);
    }
    if (errno != ENOENT)
        die(1, "BPF_LINK_GET_NEXT_ID: %s", strerror(errno));
}

static void left(void)
{
    char kind[8];
    uint32_t id;

    while (scanf("%7s %u", kind, &id) == 2) {
        int command = !strcmp(kind, "link")   ? BPF_LINK_GET_FD_BY_ID
                      : !strcmp(kind, "prog") ? BPF_PROG_GET_FD_BY_ID
                                              : BPF_MAP_GET_FD_BY_ID;
        int fd = open_id(command, id);

        if (fd < 0 && errno == ENOENT)
            continue;
        printf("%s %u\n", kind, id);
        if (fd >= 0)
            close(fd);
    }
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "of"))
        list(argv[2]);
    else if (argc == 2 && !strcmp(argv[1], "left"))
        left();
    else
        die(2, "usage: bpfls of CGROUP-DIRECTORY | bpfls left");
    return 0;
}
