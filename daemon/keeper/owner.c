/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper/owner.h.
 *
 * One sock_diag dump per family gives the listening sockets (linux/inet_diag.h); the best match
 * gives inode and uid. Servers that share a port (SO_REUSEPORT) have several of the same rank: all
 * their inodes count. Then one walk over /proc reads each process's parent and ids and looks for
 * the inodes among its descriptors. Children of the holders belong to the owner too: they are who
 * dials for a server that forks.
 *
 * The socket's uid is not enough: a daemon that starts as root and drops its privileges made the
 * socket as root and dials as somebody else, and one that keeps its real uid is seen differently by
 * nftables and BPF.
 */
#include "keeper/owner.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/inet_diag.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>

#include <libmnl/libmnl.h>

#include "base/fd.h"
#include "base/sock_diag.h"

#define INODES_MAX 64

enum rank { RANK_NONE, RANK_DUAL_STACK, RANK_WILDCARD, RANK_EXACT };

struct search {
    const struct addr *wanted;
    enum rank best;
    struct addr at;
    uint32_t uid;
    uint32_t inodes[INODES_MAX];
    size_t n_inodes;
};

static enum rank rank_of(const struct addr *wanted, const struct addr *at, bool v6_socket,
                         bool v6_only)
{
    if (wanted->port != at->port)
        return RANK_NONE;
    if (addr_same_ip(wanted, at))
        return RANK_EXACT;
    if (!addr_is_any(at))
        return RANK_NONE;
    if (v6_socket != addr_is_v4(wanted))
        return RANK_WILDCARD;
    return v6_socket && !v6_only ? RANK_DUAL_STACK : RANK_NONE;
}

static int on_attribute(const struct nlattr *a, void *ctx)
{
    bool *v6_only = ctx;

    if (mnl_attr_get_type(a) == INET_DIAG_SKV6ONLY && mnl_attr_get_payload_len(a) >= 1)
        *v6_only = mnl_attr_get_u8(a) != 0;
    return MNL_CB_OK;
}

static int on_socket(const struct nlmsghdr *nlh, void *ctx)
{
    struct search *s = ctx;
    const struct inet_diag_msg *m = mnl_nlmsg_get_payload(nlh);
    bool v6 = false, v6_only = false;
    struct addr at;

    if (nlh->nlmsg_type != SOCK_DIAG_BY_FAMILY || mnl_nlmsg_get_payload_len(nlh) < sizeof(*m))
        return MNL_CB_OK;
    if (m->idiag_state != TCP_LISTEN || (m->id.idiag_if > 1 && m->id.idiag_if != s->wanted->scope))
        return MNL_CB_OK;
    v6 = m->idiag_family == AF_INET6;
    at = sock_diag_local(m);
    mnl_attr_parse(nlh, sizeof(*m), on_attribute, &v6_only);
    enum rank rank = rank_of(s->wanted, &at, v6, v6_only);

    if (rank == RANK_NONE || rank < s->best)
        return MNL_CB_OK;
    if (rank > s->best) {
        s->best = rank;
        s->at = at;
        s->uid = m->idiag_uid;
        s->n_inodes = 0;
    }
    if (m->idiag_inode != 0 && s->n_inodes < INODES_MAX)
        s->inodes[s->n_inodes++] = m->idiag_inode;
    return MNL_CB_OK;
}

static int search_family(struct search *s, int family)
{
    const struct sock_diag_query query = {
        .family = family, .states = 1u << TCP_LISTEN, .storage_map = -1};
    struct mnl_socket *nl;
    int r = sock_diag_open(&nl);

    if (r == 0) {
        r = sock_diag_dump(nl, &query, on_socket, s);
        mnl_socket_close(nl);
    }
    return r == -ENOENT || r == -EPROTONOSUPPORT ? -EOPNOTSUPP : r;
}

/* ---- processes ---- */

struct task {
    pid_t pid, parent;
    uint32_t uid, fsuid;
    bool owner;
};

struct tasks {
    struct task *all;
    size_t n, cap;
};

static int read_proc(pid_t pid, const char *file, char *buf, size_t size)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%ld/%s", (long)pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

    fd_close(&fd);
    if (n < 0)
        return -ESRCH;
    buf[n] = '\0';
    return 0;
}

static bool read_task(pid_t pid, struct task *ret)
{
    char text[2048];
    unsigned real, effective, saved, fs;
    long parent;

    if (read_proc(pid, "status", text, sizeof(text)) < 0)
        return false;
    const char *ppid = strstr(text, "\nPPid:"), *ids = strstr(text, "\nUid:");

    if (!ppid || !ids || sscanf(ppid, "\nPPid: %ld", &parent) != 1 ||
        sscanf(ids, "\nUid: %u %u %u %u", &real, &effective, &saved, &fs) != 4)
        return false;
    *ret = (struct task){.pid = pid, .parent = (pid_t)parent, .uid = real, .fsuid = fs};
    return true;
}

static bool holds(pid_t pid, const struct search *s)
{
    char path[64], target[64];
    struct dirent *e;
    bool found = false;

    snprintf(path, sizeof(path), "/proc/%ld/fd", (long)pid);
    DIR *d = opendir(path);

    while (d && !found && (e = readdir(d))) {
        ssize_t n = readlinkat(dirfd(d), e->d_name, target, sizeof(target) - 1);
        unsigned long inode;

        target[n > 0 ? n : 0] = '\0';
        if (sscanf(target, "socket:[%lu]", &inode) != 1)
            continue;
        for (size_t i = 0; i < s->n_inodes; i++)
            found = found || s->inodes[i] == inode;
    }
    if (d)
        closedir(d);
    return found;
}

static int read_tasks(const struct search *s, struct tasks *t)
{
    DIR *d = opendir("/proc");
    struct dirent *e;

    if (!d)
        return -errno;
    while ((e = readdir(d))) {
        if (!isdigit((unsigned char)e->d_name[0]))
            continue;
        if (t->n == t->cap) {
            size_t cap = t->cap ? 2 * t->cap : 256;
            struct task *more = realloc(t->all, cap * sizeof(*more));

            if (!more) {
                closedir(d);
                return -ENOMEM;
            }
            t->all = more;
            t->cap = cap;
        }
        pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);

        if (read_task(pid, &t->all[t->n])) {
            t->all[t->n].owner = holds(pid, s);
            t->n++;
        }
    }
    closedir(d);
    return 0;
}

static bool owns(const struct tasks *t, pid_t pid)
{
    for (size_t i = 0; i < t->n; i++) {
        if (t->all[i].pid == pid)
            return t->all[i].owner;
    }
    return false;
}

/* Process 1 holds the sockets of services that it starts on demand; everybody is below it. */
static void spread(struct tasks *t)
{
    size_t holders = 0;
    bool grown = true;

    for (size_t i = 0; i < t->n; i++)
        holders += t->all[i].owner;
    for (size_t i = 0; holders > 1 && i < t->n; i++) {
        if (t->all[i].pid == 1)
            t->all[i].owner = false;
    }
    while (grown) {
        grown = false;
        for (size_t i = 0; i < t->n; i++) {
            struct task *task = &t->all[i];

            if (!task->owner && task->parent > 1 && owns(t, task->parent))
                task->owner = grown = true;
        }
    }
}

/* The line "0::/path" of the process's cgroups. */
static void read_cgroup(pid_t pid, char *ret, size_t size)
{
    char text[4096] = "\n";

    ret[0] = '\0';
    if (read_proc(pid, "cgroup", text + 1, sizeof(text) - 1) < 0)
        return;
    char *path = strstr(text, "\n0::/");

    if (!path)
        return;
    path += strlen("\n0::");
    path[strcspn(path, "\n")] = '\0';
    if (strlen(path) < size)
        snprintf(ret, size, "%s", path);
}

static void add_process(struct owner *o, const struct task *t)
{
    if (o->n_processes == OWNER_PROCESSES) {
        o->more = true;
        return;
    }
    struct owner_process *p = &o->processes[o->n_processes++];

    *p = (struct owner_process){.pid = t->pid, .uid = t->uid, .fsuid = t->fsuid};
    if (read_proc(t->pid, "comm", p->comm, sizeof(p->comm)) == 0)
        p->comm[strcspn(p->comm, "\n")] = '\0';
    /* It may call itself anything, and ends up on root's terminal. */
    for (char *c = p->comm; *c; c++) {
        if (*c < ' ' || *c > '~')
            *c = '?';
    }
    read_cgroup(t->pid, p->cgroup, sizeof(p->cgroup));
}

int owner_find(const struct addr *listening, struct owner *ret)
{
    struct search s = {.wanted = listening};
    struct tasks tasks = {.n = 0};
    struct owner o = {.n_processes = 0};
    int v4 = search_family(&s, AF_INET), v6 = search_family(&s, AF_INET6);

    if (s.best == RANK_NONE)
        return v4 < 0 ? v4 : v6 < 0 ? v6 : -ENOENT;
    int r = read_tasks(&s, &tasks);

    if (r == 0) {
        spread(&tasks);
        o.at = s.at;
        o.uid = s.uid;
        o.inode = s.n_inodes > 0 ? s.inodes[0] : 0;
        for (size_t i = 0; i < tasks.n; i++) {
            if (tasks.all[i].owner)
                add_process(&o, &tasks.all[i]);
        }
        *ret = o;
    }
    free(tasks.all);
    return r;
}

int owner_inode(const struct addr *listening, uint32_t *ret)
{
    struct search s = {.wanted = listening};
    int v4 = search_family(&s, AF_INET), v6 = search_family(&s, AF_INET6);

    if (s.best == RANK_NONE)
        return v4 < 0 ? v4 : v6 < 0 ? v6 : -ENOENT;
    *ret = s.n_inodes > 0 ? s.inodes[0] : 0;
    return 0;
}

const char *owner_describe(const struct owner *o, char *buf, size_t size)
{
    if (o->n_processes == 0)
        snprintf(buf, size, "a process that is not visible from here (uid %u)", o->uid);
    else
        snprintf(buf, size, "%s (pid %ld, uid %u)", o->processes[0].comm, (long)o->processes[0].pid,
                 o->processes[0].fsuid);
    return buf;
}

/* ---- routes ---- */

static int on_route(const struct nlmsghdr *nlh, void *ctx)
{
    int *local = ctx;

    if (nlh->nlmsg_type == RTM_NEWROUTE && mnl_nlmsg_get_payload_len(nlh) >= sizeof(struct rtmsg)) {
        const struct rtmsg *rt = mnl_nlmsg_get_payload(nlh);

        *local = rt->rtm_type == RTN_LOCAL;
    }
    return MNL_CB_STOP;
}

static int ask_route(struct nlmsghdr *request, int *ret_local)
{
    char buf[4096] __attribute__((aligned(8)));
    struct mnl_socket *nl = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    ssize_t n = -1;

    if (nl == NULL)
        return -errno;
    request->nlmsg_seq = (uint32_t)time(NULL);
    if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) == 0 &&
        mnl_socket_sendto(nl, request, request->nlmsg_len) >= 0)
        n = mnl_socket_recvfrom(nl, buf, sizeof(buf));
    if (n >= 0)
        n = mnl_cb_run(buf, (size_t)n, request->nlmsg_seq, mnl_socket_get_portid(nl), on_route,
                       ret_local);
    int r = n < 0 ? -errno : 0;

    mnl_socket_close(nl);
    return r;
}

int owner_address_is_local(const struct addr *a)
{
    char buf[256] __attribute__((aligned(8)));
    struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
    bool v4 = addr_is_v4(a);
    int local = 0;

    nlh->nlmsg_type = RTM_GETROUTE;
    nlh->nlmsg_flags = NLM_F_REQUEST;
    struct rtmsg *rt = mnl_nlmsg_put_extra_header(nlh, sizeof(*rt));

    rt->rtm_family = v4 ? AF_INET : AF_INET6;
    rt->rtm_dst_len = v4 ? 32 : 128;
    mnl_attr_put(nlh, RTA_DST, v4 ? 4 : 16, v4 ? a->ip + 12 : a->ip);
    if (a->scope != 0)
        mnl_attr_put_u32(nlh, RTA_OIF, a->scope);
    int r = ask_route(nlh, &local);

    /* No way there at all: nobody here. */
    if (r == -ENETUNREACH || r == -EHOSTUNREACH || r == -ESRCH)
        return 0;
    return r < 0 ? r : local;
}
