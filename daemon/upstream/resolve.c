/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Host names of upstreams to addresses. The keeper is privileged and must not parse what comes from
 * the network, so a child gives up every privilege, asks the system's resolver and writes
 * fixed-width records into a pipe.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "upstream/upstream.h"

#define NOBODY          65534
#define RESOLVE_SECONDS 30

/* One per address found; `error` != 0: the text of what went wrong with this name. */
struct answer {
    struct addr addr;
    int32_t error; /* EAI_* */
};

static void look_up(const char *host, uint16_t port, int out)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *list = NULL;
    struct answer a = {.error = getaddrinfo(host, NULL, &hints, &list)};
    unsigned n = 0;

    if (a.error == EAI_ADDRFAMILY || a.error == EAI_NONAME || a.error == EAI_NODATA) {
        /* A host with loopback addresses only still has an upstream on loopback. */
        hints.ai_flags = 0;
        a.error = getaddrinfo(host, NULL, &hints, &list);
    }
    for (struct addrinfo *i = a.error ? NULL : list; i && n < UPSTREAM_ADDRS; i = i->ai_next) {
        if (addr_from_sockaddr(i->ai_addr, i->ai_addrlen, &a.addr) < 0)
            continue;
        a.addr.port = port;
        n++;
        if (write(out, &a, sizeof(a)) != sizeof(a))
            return;
    }
    if (n == 0) {
        a.error = a.error ? a.error : EAI_NONAME;
        if (write(out, &a, sizeof(a)) != sizeof(a))
            return;
    }
}

static void child(const char *host, uint16_t port, int out)
{
    fd_close_others(&out, 1);
    if (geteuid() == 0 && (setgroups(0, NULL) < 0 || setgid(NOBODY) < 0 || setuid(NOBODY) < 0))
        _exit(1);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of credentials clears it */
    alarm(RESOLVE_SECONDS);
    look_up(host, port, out);
    _exit(0);
}

/* Fills the hop's addresses; returns 0 or an EAI_* code (EAI_SYSTEM: no child could be had). */
static int resolve_name(const char *host, struct upstream_hop *hop)
{
    int pipe_fd[2], error = EAI_AGAIN;
    struct answer a;

    if (pipe2(pipe_fd, O_CLOEXEC) < 0)
        return EAI_SYSTEM;
    pid_t pid = fork();

    if (pid == 0)
        child(host, hop->config->url.port, pipe_fd[1]);
    fd_close(&pipe_fd[1]);
    if (pid < 0) {
        fd_close(&pipe_fd[0]);
        return EAI_SYSTEM;
    }
    while (hop->n_addrs < UPSTREAM_ADDRS && read(pipe_fd[0], &a, sizeof(a)) == sizeof(a)) {
        error = a.error;
        if (a.error == 0)
            hop->addrs[hop->n_addrs++] = a.addr;
    }
    fd_close(&pipe_fd[0]);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return hop->n_addrs > 0 ? 0 : error;
}

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

int upstream_resolve(struct upstream *all, size_t n, char *why, size_t why_size)
{
    for (size_t i = 0; i < n; i++) {
        for (unsigned k = 0; k < all[i].n_hops; k++) {
            struct upstream_hop *hop = &all[i].hops[k];
            const struct config_url *url = &hop->config->url;

            hop->n_addrs = 0;
            if (addr_parse(url->host, 0, &hop->addrs[0]) == 0) {
                hop->addrs[0].port = url->port;
                hop->n_addrs = 1;
                continue;
            }
            if (resolved_by_previous(&all[i], k))
                continue;
            int error = resolve_name(url->host, hop);

            if (error == 0)
                continue;
            snprintf(
                why, why_size,
                "upstream %s: cannot resolve \"%s\": %s; give an address, or mend the resolver",
                hop->config->name, url->host, gai_strerror(error));
            return -EHOSTUNREACH;
        }
    }
    return 0;
}
