/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/stitch_stage.h. The namespaces need no care: they, and the wire with them, go with the last
 * process in them. A cgroup is a directory, and stays until somebody removes it: its name says who
 * made it, so that the next one can see that the maker is gone.
 */
#include "bpf/stitch_stage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <libmnl/libmnl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>

#include "addr.h"

#define PREFIX      "undersock-proof-"
#define LO          1
#define V4_BITS     24
#define V6_BITS     64
#define GONE_STEPS  100 /* of a millisecond, until a process that was waited for is out of it */
#define REQUEST_MAX 1024

/* --- the cgroup --------------------------------------------------------------------------------
 */

static int find_root(char *ret, size_t size)
{
    FILE *f = setmntent("/proc/self/mounts", "re");
    struct mntent entry;
    char buf[4096];
    int r = -ENOENT;

    if (f == NULL)
        return -errno;
    while (r < 0 && getmntent_r(f, &entry, buf, sizeof(buf))) {
        if (strcmp(entry.mnt_type, "cgroup2") == 0 && strlen(entry.mnt_dir) < size) {
            snprintf(ret, size, "%s", entry.mnt_dir);
            r = 0;
        }
    }
    endmntent(f);
    return r;
}

/* Of the line "0::/path"; "" for the root. */
static int find_own(char *ret, size_t size)
{
    FILE *f = fopen("/proc/self/cgroup", "re");
    char line[4096];
    int r = -ENOENT;

    if (f == NULL)
        return -errno;
    while (r < 0 && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        if (strncmp(line, "0::/", 4) == 0 && strlen(line + 3) < size) {
            snprintf(ret, size, "%s", line[4] == '\0' ? "" : line + 3);
            r = 0;
        }
    }
    fclose(f);
    return r;
}

static void sweep(const char *dir)
{
    DIR *d = opendir(dir);
    const struct dirent *e;

    while (d != NULL && (e = readdir(d)) != NULL) {
        size_t n = strlen(PREFIX);
        long pid = strncmp(e->d_name, PREFIX, n) == 0 ? strtol(e->d_name + n, NULL, 10) : 0;

        if (pid > 0 && kill((pid_t)pid, 0) < 0 && errno == ESRCH)
            unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
    }
    if (d != NULL)
        closedir(d);
}

int stage_cgroup_find(struct stage_cgroup *ret)
{
    char root[STAGE_PATH_MAX / 2], own[STAGE_PATH_MAX / 2];
    struct stage_cgroup c;
    struct stat st;
    int r = find_root(root, sizeof(root));

    if (r < 0)
        return r;
    if (find_own(own, sizeof(own)) < 0)
        own[0] = '\0';
    snprintf(c.parent, sizeof(c.parent), "%s%s", root, own);
    if (stat(c.parent, &st) < 0) /* the path is of another cgroup namespace */
        snprintf(c.parent, sizeof(c.parent), "%s", root);
    sweep(c.parent);
    snprintf(c.path, sizeof(c.path), "%s/" PREFIX "%ld", c.parent, (long)getpid());
    *ret = c;
    return 0;
}

int stage_cgroup_make(const struct stage_cgroup *c)
{
    return mkdir(c->path, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

static int enter(const char *dir)
{
    char path[STAGE_PATH_MAX + 96];
    int fd, r = 0;

    snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, "0", 1) != 1)
        r = -errno;
    close(fd);
    return r;
}

int stage_cgroup_enter(const struct stage_cgroup *c)
{
    return enter(c->path);
}

int stage_cgroup_leave(const struct stage_cgroup *c)
{
    return enter(c->parent);
}

void stage_cgroup_remove(const struct stage_cgroup *c)
{
    for (int i = 0; i < GONE_STEPS && rmdir(c->path) < 0 && errno == EBUSY; i++)
        usleep(1000);
}

/* --- the wire ----------------------------------------------------------------------------------
 */

/* Sends a request and waits for its acknowledgement: 0 or -errno. */
static int transact(struct nlmsghdr *request)
{
    struct mnl_socket *s = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    char buf[4096];
    ssize_t n = 0;
    int r = 0;

    if (s == NULL)
        return -errno;
    request->nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
    request->nlmsg_seq = 1;
    if (mnl_socket_bind(s, 0, MNL_SOCKET_AUTOPID) < 0 ||
        mnl_socket_sendto(s, request, request->nlmsg_len) < 0 ||
        (n = mnl_socket_recvfrom(s, buf, sizeof(buf))) < 0)
        r = -errno;
    else if (mnl_cb_run(buf, (size_t)n, 1, mnl_socket_get_portid(s), NULL, NULL) < 0)
        r = -errno;
    mnl_socket_close(s);
    return r;
}

static struct nlmsghdr *link_request(void *buf, int index, uint16_t flags, unsigned up)
{
    struct nlmsghdr *request = mnl_nlmsg_put_header(buf);
    struct ifinfomsg *link;

    request->nlmsg_type = RTM_NEWLINK;
    request->nlmsg_flags = flags;
    link = mnl_nlmsg_put_extra_header(request, sizeof(*link));
    link->ifi_index = index;
    link->ifi_flags = link->ifi_change = up;
    return request;
}

static int set_up(int index)
{
    _Alignas(struct nlmsghdr) char buf[REQUEST_MAX];

    return transact(link_request(buf, index, 0, IFF_UP));
}

int stage_lo_up(void)
{
    return set_up(LO);
}

int stage_wire(pid_t far)
{
    _Alignas(struct nlmsghdr) char buf[REQUEST_MAX];
    struct nlmsghdr *request = link_request(buf, 0, NLM_F_CREATE | NLM_F_EXCL, 0);
    struct nlattr *info, *data, *peer;

    mnl_attr_put_strz(request, IFLA_IFNAME, STAGE_NEAR);
    info = mnl_attr_nest_start(request, IFLA_LINKINFO);
    mnl_attr_put_strz(request, IFLA_INFO_KIND, "veth");
    data = mnl_attr_nest_start(request, IFLA_INFO_DATA);
    peer = mnl_attr_nest_start(request, VETH_INFO_PEER);
    mnl_nlmsg_put_extra_header(request, sizeof(struct ifinfomsg));
    mnl_attr_put_strz(request, IFLA_IFNAME, STAGE_FAR);
    mnl_attr_put_u32(request, IFLA_NET_NS_PID, (uint32_t)far);
    mnl_attr_nest_end(request, peer);
    mnl_attr_nest_end(request, data);
    mnl_attr_nest_end(request, info);
    return transact(request);
}

static int add_address(int index, const struct addr *a)
{
    _Alignas(struct nlmsghdr) char buf[REQUEST_MAX];
    struct nlmsghdr *request = mnl_nlmsg_put_header(buf);
    bool v4 = addr_is_v4(a);
    const uint8_t *ip = v4 ? a->ip + 12 : a->ip;
    struct ifaddrmsg *address;

    request->nlmsg_type = RTM_NEWADDR;
    request->nlmsg_flags = NLM_F_CREATE | NLM_F_EXCL;
    address = mnl_nlmsg_put_extra_header(request, sizeof(*address));
    address->ifa_family = v4 ? AF_INET : AF_INET6;
    address->ifa_prefixlen = v4 ? V4_BITS : V6_BITS;
    address->ifa_flags = IFA_F_NODAD; /* nobody else is there to ask */
    address->ifa_index = (uint32_t)index;
    mnl_attr_put(request, IFA_LOCAL, v4 ? 4 : 16, ip);
    mnl_attr_put(request, IFA_ADDRESS, v4 ? 4 : 16, ip);
    return transact(request);
}

int stage_addresses(const char *interface, const char *v4, const char *v6, bool *ret_v6)
{
    int index = (int)if_nametoindex(interface), r;
    struct addr a4, a6;

    if (index == 0)
        return -errno;
    r = addr_parse(v4, 0, &a4);
    if (r == 0)
        r = addr_parse(v6, 0, &a6);
    if (r == 0)
        r = set_up(index);
    if (r == 0)
        r = add_address(index, &a4);
    if (r < 0)
        return r;
    r = add_address(index, &a6);
    if (r < 0 && r != -EACCES && r != -EOPNOTSUPP && r != -EAFNOSUPPORT)
        return r;
    *ret_v6 = r == 0;
    return 0;
}
