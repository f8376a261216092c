/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Settings of this host and this network namespace, and two things tried: the loopback, and the
 * daemon. */
#include <dirent.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ifaddrs.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>

#include "base/fd.h"
#include "control/client.h"
#include "doctor/gather.h"
#include "doctor/proc.h"
#include "keeper/cgroup.h"
#include "keeper/datagrams.h"

#define PATIENCE_MS 1000 /* a connection on the loopback takes microseconds, or never comes */

static int is_up(const char *name)
{
    struct ifreq request;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), up = 0;

    memset(&request, 0, sizeof(request));
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    if (fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0)
        up = (request.ifr_flags & IFF_UP) != 0;
    fd_close(&fd);
    return up;
}

/* By its driver: sysfs shows the interfaces of whoever mounted it. */
static bool is_bridge(const char *name)
{
    struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
    struct ifreq request;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    memset(&request, 0, sizeof(request));
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    request.ifr_data = (char *)&info;
    bool yes =
        fd >= 0 && ioctl(fd, SIOCETHTOOL, &request) == 0 && strcmp(info.driver, "bridge") == 0;

    fd_close(&fd);
    return yes;
}

/* Whether the connect that is under way arrives: 0 or -errno. */
static int await(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t len = sizeof(error);

    if (poll(&p, 1, PATIENCE_MS) <= 0)
        return -ETIMEDOUT;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 ? -errno : -error;
}

/* Connects to a listener made for this at `text`, from `source` (NULL: the kernel chooses). */
static int try_loopback(const char *text, const struct addr *source)
{
    struct addr a;
    struct sockaddr_storage sa;
    int r = addr_parse(text, 0, &a);
    int listener = r < 0 ? r : fd_listen(&a, false, &a), fd = -1;

    if (listener < 0)
        return listener;
    fd = socket(addr_is_v4(&a) ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        r = -errno;
    if (r == 0 && source) {
        socklen_t len = addr_to_sockaddr(source, &sa);

        r = bind(fd, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
    }
    if (r == 0) {
        socklen_t len = addr_to_sockaddr(&a, &sa);

        r = connect(fd, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
    }
    if (r == -EINPROGRESS)
        r = await(fd);
    fd_close(&fd);
    fd_close(&listener);
    return r;
}

/* What a redirected connection of this host has as its source: an address of its own. */
static bool outside_address(struct addr *ret)
{
    struct ifaddrs *all = NULL;
    bool found = false;

    if (getifaddrs(&all) < 0)
        return false;
    for (struct ifaddrs *i = all; i && !found; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || !(i->ifa_flags & IFF_UP))
            continue;
        found = addr_from_sockaddr(i->ifa_addr, sizeof(struct sockaddr_in), ret) == 0 &&
                !addr_is_loopback(ret);
        ret->port = 0;
    }
    freeifaddrs(all);
    return found;
}

/* Of the two places of such a setting the larger counts, or either
 * (Documentation/networking/ip-sysctl). */
static int interface_number(const char *interface, const char *setting)
{
    int all = proc_number("/proc/sys/net/ipv4/conf/all/%s", setting);
    int own = proc_number("/proc/sys/net/ipv4/conf/%s/%s", interface, setting);

    return all > own ? all : own;
}

static void read_interface(const char *name, struct facts_interface *ret)
{
    memset(ret, 0, sizeof(*ret));
    snprintf(ret->name, sizeof(ret->name), "%.15s", name);
    ret->there = if_nametoindex(ret->name) != 0;
    ret->bridge = is_bridge(ret->name);
    ret->rp_filter = interface_number(ret->name, "rp_filter");
    ret->route_localnet = interface_number(ret->name, "route_localnet");
    ret->src_valid_mark = interface_number(ret->name, "src_valid_mark");
}

static void add_interface(struct facts_host *h, const char *name)
{
    for (size_t i = 0; i < h->n_interfaces; i++) {
        if (strcmp(h->interfaces[i].name, name) == 0)
            return;
    }
    /* Only ever names of the kernel's own kind end up in a path. */
    if (h->n_interfaces < FACTS_INTERFACES && !strchr(name, '/') && strcmp(name, "..") != 0)
        read_interface(name, &h->interfaces[h->n_interfaces++]);
}

/* Those that gateway captures name; a capture that names none takes what comes in on any. */
static void read_interfaces(const struct config *config, struct facts_host *h)
{
    bool all = false;

    for (size_t i = 0; config && i < config->n_captures; i++) {
        const struct capture_policy *p = &config->captures[i].policy;

        if (p->hook != CAPTURE_GATEWAY)
            continue;
        all = all || p->n_interfaces == 0;
        for (size_t k = 0; k < p->n_interfaces; k++)
            add_interface(h, p->interfaces[k]);
    }
    struct if_nameindex *list = if_nameindex();

    for (struct if_nameindex *i = list; i && i->if_index != 0; i++) {
        struct facts_interface one;
        size_t len = strlen(h->bridges);

        if (all && strcmp(i->if_name, "lo") != 0)
            add_interface(h, i->if_name);
        read_interface(i->if_name, &one);
        if (one.bridge)
            snprintf(h->bridges + len, sizeof(h->bridges) - len, "%s%s", len > 0 ? ", " : "",
                     i->if_name);
    }
    if (list)
        if_freenameindex(list);
}

static void on_record(void *ctx, const union message *m)
{
    pid_t *daemon = ctx;

    if (m->header.type == MESSAGE_HELLO)
        *daemon = (pid_t)m->hello.pid;
}

static void read_daemon(const struct config *config, struct facts_host *h)
{
    struct rlimit limit;
    struct stat st;

    snprintf(h->control, sizeof(h->control), "%s",
             config ? config->control : CONFIG_DEFAULT_CONTROL);
    h->control_exists = stat(h->control, &st) == 0;
    /* The daemon raises its own soft limit. */
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        h->nofile = limit.rlim_max;
    if (!h->control_exists)
        return;
    if (control_ask(h->control, MESSAGE_STATUS, on_record, &h->daemon, h->control_why,
                    sizeof(h->control_why)) < 0 &&
        h->control_why[0] == '\0')
        snprintf(h->control_why, sizeof(h->control_why), "it did not answer");
    if (h->daemon > 0 && prlimit(h->daemon, RLIMIT_NOFILE, NULL, &limit) == 0)
        h->nofile = limit.rlim_max;
}

void gather_host(const struct config *config, struct facts_host *ret)
{
    struct addr source, resolvers[DATAGRAMS_RESOLVERS];

    memset(ret, 0, sizeof(*ret));
    ret->lo_up = is_up("lo");
    ret->loopback.v4 = try_loopback("127.0.0.1:0", NULL);
    ret->loopback.v6 = try_loopback("[::1]:0", NULL);
    if (outside_address(&source))
        ret->loopback.v4_outside = try_loopback("127.0.0.1:0", &source);
    ret->ip_forward = proc_number("/proc/sys/net/ipv4/ip_forward");
    ret->ip6_forwarding = proc_number("/proc/sys/net/ipv6/conf/all/forwarding");
    ret->bridge_nf4 = proc_number("/proc/sys/net/bridge/bridge-nf-call-iptables");
    ret->bridge_nf6 = proc_number("/proc/sys/net/bridge/bridge-nf-call-ip6tables");
    read_interfaces(config, ret);
    if (cgroup_root(ret->cgroup_root, sizeof(ret->cgroup_root)) < 0)
        ret->cgroup_root[0] = '\0';
    if (datagrams_list_resolvers(resolvers) > 0)
        ret->resolver = resolvers[0];
    ret->cpus = sysconf(_SC_NPROCESSORS_ONLN);
    read_daemon(config, ret);
}
