/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Host names of upstreams to addresses. The keeper is privileged and must not parse what comes from
 * the network, so a child gives up every privilege, asks the system's resolver for one name after
 * the other and writes an answer of fixed width for each into a pipe. That can take as long as the
 * name servers like, and whoever cannot wait watches the pipe.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "upstream/upstream.h"

#define NOBODY          65534
#define RESOLVE_SECONDS 30 /* for each name */

/* About one name. Shorter than PIPE_BUF: it is read whole or not at all. */
struct answer {
    int32_t error; /* EAI_*; 0: `n` addresses */
    uint32_t n;
    struct addr addrs[UPSTREAM_ADDRS];
};

/* A hop among those of all upstreams. */
struct place {
    size_t upstream;
    unsigned hop;
};

struct upstream_lookup {
    struct upstream *all;
    size_t n;
    struct place due; /* the name whose answer comes next */
    int answers;
    int child; /* a pidfd: somebody else may wait for all of this process's children */
};

/* A name that only the previous hop needs to understand is not ours to resolve. */
static bool resolved_by_previous(const struct upstream *u, unsigned hop)
{
    if (hop == 0)
        return false;
    enum config_scheme s = u->hops[hop - 1].config->url.scheme;

    return s == SCHEME_SOCKS5H || s == SCHEME_SOCKS4A || s == SCHEME_HTTP;
}

bool upstream_resolves(const struct upstream *u, unsigned hop)
{
    struct addr literal;

    return addr_parse(u->hops[hop].config->url.host, 0, &literal) < 0 &&
           !resolved_by_previous(u, hop);
}

/* The first hop with a name for us from `at` on, which is moved there; NULL: there is none. */
static struct upstream_hop *find_name(struct upstream *all, size_t n, struct place *at)
{
    for (; at->upstream < n; at->upstream++, at->hop = 0) {
        struct upstream *u = &all[at->upstream];

        for (; at->hop < u->n_hops; at->hop++) {
            if (upstream_resolves(u, at->hop))
                return &u->hops[at->hop];
        }
    }
    return NULL;
}

/* ---- the child ---- */

static struct answer look_up(const char *host)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *list = NULL;
    struct answer a = {.error = getaddrinfo(host, NULL, &hints, &list)};

    if (a.error == EAI_ADDRFAMILY || a.error == EAI_NONAME || a.error == EAI_NODATA) {
        /* A host with loopback addresses only still has an upstream on loopback. */
        hints.ai_flags = 0;
        a.error = getaddrinfo(host, NULL, &hints, &list);
    }
    for (struct addrinfo *i = a.error ? NULL : list; i && a.n < UPSTREAM_ADDRS; i = i->ai_next) {
        if (addr_from_sockaddr(i->ai_addr, i->ai_addrlen, &a.addrs[a.n]) == 0)
            a.n++;
    }
    if (a.n == 0 && a.error == 0)
        a.error = EAI_NONAME;
    return a;
}

static void child(struct upstream *all, size_t n, int out)
{
    struct place at = {0};
    struct upstream_hop *hop;

    fd_close_others(&out, 1);
    if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setgid(NOBODY) < 0 || setuid(NOBODY) < 0))
        _exit(1);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of credentials clears it */
    for (; (hop = find_name(all, n, &at)); at.hop++) {
        alarm(RESOLVE_SECONDS);
        struct answer a = look_up(hop->config->url.host);

        if (write(out, &a, sizeof(a)) != sizeof(a) || a.error)
            break;
    }
    _exit(0);
}

/* ---- who asks it ---- */

static int cannot(const struct upstream_hop *hop, int error, char *why, size_t why_size)
{
    snprintf(why, why_size,
             "upstream %s: cannot resolve \"%s\": %s; give an address, or mend the resolver",
             hop->config->name, hop->config->url.host, gai_strerror(error));
    return -EHOSTUNREACH;
}

static void take_literals(struct upstream *all, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (unsigned k = 0; k < all[i].n_hops; k++) {
            struct upstream_hop *hop = &all[i].hops[k];

            hop->n_addrs = addr_parse(hop->config->url.host, 0, &hop->addrs[0]) == 0;
            if (hop->n_addrs > 0)
                hop->addrs[0].port = hop->config->url.port;
        }
    }
}

/* 0 or -errno. */
static int start_child(struct upstream_lookup *l)
{
    int pipe_fd[2];

    if (pipe2(pipe_fd, O_CLOEXEC) < 0)
        return -errno;
    pid_t pid = fork();

    if (pid == 0)
        child(l->all, l->n, pipe_fd[1]);
    int r = pid < 0 ? -errno : 0;

    fd_close(&pipe_fd[1]);
    if (r == 0) {
        l->child = (int)syscall(SYS_pidfd_open, pid, 0); /* close-on-exec */
        r = l->child < 0 ? -errno : 0;
    }
    if (r == 0 && fcntl(pipe_fd[0], F_SETFL, O_NONBLOCK) < 0)
        r = -errno;
    l->answers = pipe_fd[0];
    if (pid > 0 && l->child < 0) {
        kill(pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    return r;
}

int upstream_lookup_start(struct upstream *all, size_t n, struct upstream_lookup **ret, char *why,
                          size_t why_size)
{
    struct place due = {0};

    take_literals(all, n);
    const struct upstream_hop *hop = find_name(all, n, &due);

    if (!hop)
        return 1;
    struct upstream_lookup *l = malloc(sizeof(*l));

    if (!l)
        return cannot(hop, EAI_MEMORY, why, why_size);
    *l = (struct upstream_lookup){.all = all, .n = n, .due = due, .answers = -1, .child = -1};
    if (start_child(l) < 0) {
        upstream_lookup_end(l);
        return cannot(hop, EAI_SYSTEM, why, why_size);
    }
    *ret = l;
    return 0;
}

int upstream_lookup_fd(const struct upstream_lookup *l)
{
    return l->answers;
}

int upstream_lookup_continue(struct upstream_lookup *l, char *why, size_t why_size)
{
    struct upstream_hop *hop;

    for (; (hop = find_name(l->all, l->n, &l->due)); l->due.hop++) {
        struct answer a;
        ssize_t got = read(l->answers, &a, sizeof(a));

        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (got != sizeof(a)) /* its time was up */
            return cannot(hop, EAI_AGAIN, why, why_size);
        if (a.error || a.n == 0 || a.n > UPSTREAM_ADDRS)
            return cannot(hop, a.error ? a.error : EAI_FAIL, why, why_size);
        for (hop->n_addrs = 0; hop->n_addrs < a.n; hop->n_addrs++) {
            hop->addrs[hop->n_addrs] = a.addrs[hop->n_addrs];
            hop->addrs[hop->n_addrs].port = hop->config->url.port;
        }
    }
    return 1;
}

void upstream_lookup_end(struct upstream_lookup *l)
{
    siginfo_t info;

    if (!l)
        return;
    if (l->child >= 0) {
        syscall(SYS_pidfd_send_signal, l->child, SIGKILL, NULL, 0);
        while (waitid(P_PIDFD, (id_t)l->child, &info, WEXITED) < 0 && errno == EINTR)
            ;
    }
    fd_close(&l->child);
    fd_close(&l->answers);
    free(l);
}

int upstream_resolve(struct upstream *all, size_t n, char *why, size_t why_size)
{
    struct upstream_lookup *l;
    int r = upstream_lookup_start(all, n, &l, why, why_size);

    if (r != 0)
        return r < 0 ? r : 0;
    while ((r = upstream_lookup_continue(l, why, why_size)) == 0)
        poll(&(struct pollfd){.fd = upstream_lookup_fd(l), .events = POLLIN}, 1, -1);
    upstream_lookup_end(l);
    return r < 0 ? r : 0;
}
