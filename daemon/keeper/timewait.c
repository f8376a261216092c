/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/timewait.h */
#include "keeper/timewait.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>

#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>

#include "base/sock_diag.h"
#include "keeper/owner.h"

/* Of answers about addresses: there are many sockets and few destinations. */
#define KNOWN 64

struct known {
    struct addr addr;
    int local;
    bool valid;
};

struct found {
    struct known known[KNOWN];
    struct inet_diag_sockid *ids;
    size_t n, room;
    int error;
};

static int is_local(struct known *known, const struct addr *a)
{
    unsigned hash = 0;

    for (size_t i = 0; i < sizeof(a->ip); i++)
        hash = hash * 31 + a->ip[i];
    struct known *k = &known[hash % KNOWN];

    if (!k->valid || !addr_same_ip(&k->addr, a)) {
        int local = owner_address_is_local(a);

        if (local < 0)
            return local;
        *k = (struct known){.addr = *a, .local = local, .valid = true};
    }
    return k->local;
}

static int on_socket(const struct nlmsghdr *message, void *ctx)
{
    const struct inet_diag_msg *m = mnl_nlmsg_get_payload(message);
    struct found *f = ctx;

    if (mnl_nlmsg_get_payload_len(message) < sizeof(*m) || m->idiag_state != TCP_TIME_WAIT)
        return MNL_CB_OK;
    const struct addr local = sock_diag_local(m);

    /* What cannot be asked is none of ours: addresses with a scope are not forwarded. */
    if (addr_is_link_local(&local) || is_local(f->known, &local) != 0)
        return MNL_CB_OK;
    if (f->n == f->room) {
        size_t room = f->room ? 2 * f->room : 256;
        struct inet_diag_sockid *more = realloc(f->ids, room * sizeof(*more));

        if (more == NULL) {
            f->error = -ENOMEM;
            return MNL_CB_OK;
        }
        f->ids = more;
        f->room = room;
    }
    f->ids[f->n++] = m->id;
    return MNL_CB_OK;
}

static int remove_family(struct mnl_socket *nl, int family)
{
    const struct sock_diag_query query = {
        .family = family, .states = 1u << TCP_TIME_WAIT, .storage_map = -1};
    struct found *f = calloc(1, sizeof(*f));
    int removed = 0;

    if (f == NULL)
        return -ENOMEM;
    int r = sock_diag_dump(nl, &query, on_socket, f);

    for (size_t i = 0; r == 0 && i < f->n; i++) {
        int error = sock_diag_destroy(nl, family, &f->ids[i]);

        if (error == 0)
            removed++;
        else if (error != -ENOENT)
            r = error;
    }
    if (r == 0)
        r = f->error;
    free(f->ids);
    free(f);
    return r < 0 ? r : removed;
}

int timewait_remove(void)
{
    struct mnl_socket *nl;
    int v4, v6, r = sock_diag_open(&nl);

    if (r < 0)
        return r;
    v4 = remove_family(nl, AF_INET);
    /* After a failure the rest of an answer may still be in the socket. */
    v6 = v4 < 0 ? v4 : remove_family(nl, AF_INET6);
    mnl_socket_close(nl);
    return v6 < 0 ? v6 : v4 + v6;
}
