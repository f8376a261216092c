/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bpf/stitch_sockets.c: which sockets are listed, with what, and which are ended. No handshake is
 * needed for that: what makes a socket ours is what the programs keep with it, and that is written
 * here from outside, by its descriptor.
 */
#include "fixture.h"

#include <linux/bpf.h>

#include <bpf/bpf.h>

#include "bpf/stitch.h"

#define OURS   UINT64_C(0x1234567890)
#define OTHERS UINT64_C(0x1234567891)

struct pair {
    int client, server;
    struct addr local, remote;
};

static struct bpf_stitch *open_it(void)
{
    const struct bpf_stitch_options o = {.flows = 16, .names = 16};
    struct bpf_stitch *s = NULL;
    char why[BPF_WHY_MAX] = "";

    if (bpf_stitch_open(&o, &s, why, sizeof(why)) < 0)
        fail_msg("%s", why);
    return s;
}

static void address_of(int fd, struct addr *ret)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);

    assert_int_equal(getsockname(fd, (struct sockaddr *)&ss, &len), 0);
    assert_int_equal(addr_from_sockaddr((struct sockaddr *)&ss, len, ret), 0);
}

/* Connected to a listener of the fixture. */
static struct pair connect_to(int listener)
{
    struct sockaddr_storage ss;
    struct addr to, peer, local;
    struct pair p;

    address_of(listener, &to);
    p.client = socket(addr_is_v4(&to) ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(p.client >= 0);
    assert_int_equal(connect(p.client, (struct sockaddr *)&ss, addr_to_sockaddr(&to, &ss)), 0);
    p.server = accept_one(listener, &peer, &local);
    assert_true(p.server >= 0);
    address_of(p.client, &p.local);
    p.remote = to;
    return p;
}

static void keep_with(const struct bpf_stitch *s, int fd, uint64_t instance, unsigned decision,
                      bool stitched)
{
    struct abi_socket state = {.instance = instance,
                               .decision = decision,
                               .stitched = stitched,
                               .script = 3,
                               .origin.port = 4660};

    assert_int_equal(
        bpf_map_update_elem(bpf_stitch_map_fd(s, ABI_MAP_SOCKETS), &fd, &state, BPF_ANY), 0);
}

struct listed {
    unsigned n;
    struct bpf_stitch_socket sockets[400];
};

static struct listed listed;

static void on_socket(void *ctx, const struct bpf_stitch_socket *socket)
{
    struct listed *l = ctx;

    /* Others on this machine have namespaces of their own. */
    assert_true(l->n < sizeof(l->sockets) / sizeof(l->sockets[0]));
    l->sockets[l->n++] = *socket;
}

static void list(const struct bpf_stitch *s)
{
    memset(&listed, 0, sizeof(listed));
    assert_int_equal(bpf_stitch_sockets(s, on_socket, &listed), 0);
}

static const struct bpf_stitch_socket *find(const struct pair *p)
{
    for (unsigned i = 0; i < listed.n; i++) {
        if (addr_equal(&listed.sockets[i].local, &p->local) &&
            addr_equal(&listed.sockets[i].remote, &p->remote))
            return &listed.sockets[i];
    }
    return NULL;
}

static void done(struct pair *p)
{
    close(p->client);
    close(p->server);
}

static void what_is_listed(void **state)
{
    const struct bpf_stitch_socket *found;
    struct pair v4, v6, relayed, plain;
    struct bpf_stitch *s;
    struct stat st;
    char data[3000] = "";

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    s = open_it();
    v4 = connect_to(fixture.v4);
    v6 = connect_to(fixture.v6);
    relayed = connect_to(fixture.v4);
    plain = connect_to(fixture.v4);
    keep_with(s, v4.client, OURS, ABI_STITCH, true);
    keep_with(s, v6.client, OTHERS, ABI_STITCH, false);
    keep_with(s, relayed.client, OURS, ABI_PROXY, false);
    assert_int_equal(send(v4.client, data, sizeof(data), 0), sizeof(data));
    assert_int_equal(recv(v4.server, data, sizeof(data), MSG_WAITALL), sizeof(data));
    assert_int_equal(send(v4.server, data, 7, 0), 7);
    assert_int_equal(recv(v4.client, data, 7, MSG_WAITALL), 7);

    list(s);
    assert_int_equal(listed.n, 2);
    found = find(&v4);
    assert_non_null(found);
    assert_int_equal(fstat(v4.client, &st), 0);
    assert_int_equal(found->inode, st.st_ino);
    assert_int_equal(found->tcp_state, BPF_TCP_ESTABLISHED);
    assert_int_equal(found->info.tcpi_bytes_sent, sizeof(data));
    assert_int_equal(found->info.tcpi_bytes_received, 7);
    assert_true(found->state.instance == OURS && found->state.stitched == 1);
    assert_int_equal(found->state.script, 3);
    assert_int_equal(found->state.origin.port, 4660);
    found = find(&v6);
    assert_non_null(found);
    assert_true(found->state.instance == OTHERS && found->state.stitched == 0);

    /* Half closed, and gone. */
    shutdown(v4.client, SHUT_WR);
    list(s);
    assert_true(find(&v4)->tcp_state == BPF_TCP_FIN_WAIT1 ||
                find(&v4)->tcp_state == BPF_TCP_FIN_WAIT2);
    done(&v4);
    list(s);
    assert_int_equal(listed.n, 1);
    done(&v6);
    done(&relayed);
    done(&plain);
    list(s);
    assert_int_equal(listed.n, 0);
    bpf_stitch_close(s);
}

/* Whose handshake is not over, and is this instance's; also more than are ended at a time. */
static void what_is_ended(void **state)
{
    enum { MANY = 150 };
    static struct pair many[MANY];
    struct pair over, others, relayed, v6;
    struct bpf_stitch *s;
    char byte;
    int r;

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    s = open_it();
    over = connect_to(fixture.v4);
    others = connect_to(fixture.v4);
    relayed = connect_to(fixture.v4);
    v6 = connect_to(fixture.v6);
    keep_with(s, over.client, OURS, ABI_STITCH, true);
    keep_with(s, others.client, OTHERS, ABI_STITCH, false);
    keep_with(s, relayed.client, OURS, ABI_PROXY, false);
    keep_with(s, v6.client, OURS, ABI_STITCH, false);
    for (size_t i = 0; i < MANY; i++) {
        many[i] = connect_to(fixture.v4);
        keep_with(s, many[i].client, OURS, ABI_STITCH, false);
    }
    r = bpf_stitch_end(bpf_stitch_map_fd(s, ABI_MAP_SOCKETS), OURS);
    if (r > 0) {
        print_message("skipped: this kernel ends no sockets (INET_DIAG_DESTROY)\n");
        skip();
    }
    assert_int_equal(r, 0);
    for (size_t i = 0; i < MANY; i++) {
        assert_int_equal(recv(many[i].client, &byte, 1, MSG_DONTWAIT), -1);
        assert_int_equal(errno, ECONNABORTED);
        done(&many[i]);
    }
    assert_int_equal(recv(v6.client, &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, ECONNABORTED);
    assert_int_equal(send(over.client, "x", 1, MSG_NOSIGNAL), 1);
    assert_int_equal(send(others.client, "x", 1, MSG_NOSIGNAL), 1);
    assert_int_equal(send(relayed.client, "x", 1, MSG_NOSIGNAL), 1);
    assert_int_equal(recv(over.server, &byte, 1, 0), 1);
    assert_int_equal(recv(others.server, &byte, 1, 0), 1);
    assert_int_equal(recv(relayed.server, &byte, 1, 0), 1);
    assert_int_equal(bpf_stitch_end(bpf_stitch_map_fd(s, ABI_MAP_SOCKETS), OURS),
                     0); /* nothing is left to end */
    done(&over);
    done(&others);
    done(&relayed);
    done(&v6);
    bpf_stitch_close(s);
}

/* A connection whose SYN nobody answers: as most of those that are ended. */
static void what_waits_for_an_answer(void **state)
{
    struct pollfd p = {.events = POLLOUT};
    struct sockaddr_storage ss;
    struct addr to;
    struct bpf_stitch *s;
    int error = 0, r;
    socklen_t len = sizeof(error);

    SKIP_UNLESS_POSSIBLE((struct fixture *)*state);
    s = open_it();
    assert_int_equal(addr_parse("192.0.2.77", 9, &to), 0);
    p.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(p.fd >= 0);
    keep_with(s, p.fd, OURS, ABI_STITCH, false);
    assert_int_equal(connect(p.fd, (struct sockaddr *)&ss, addr_to_sockaddr(&to, &ss)), -1);
    assert_int_equal(errno, EINPROGRESS);
    list(s);
    assert_int_equal(listed.n, 1);
    assert_int_equal(listed.sockets[0].tcp_state, BPF_TCP_SYN_SENT);
    r = bpf_stitch_end(bpf_stitch_map_fd(s, ABI_MAP_SOCKETS), OURS);
    if (r > 0) {
        print_message("skipped: this kernel ends no sockets (INET_DIAG_DESTROY)\n");
        skip();
    }
    assert_int_equal(r, 0);
    assert_int_equal(poll(&p, 1, 5000), 1);
    assert_int_equal(getsockopt(p.fd, SOL_SOCKET, SO_ERROR, &error, &len), 0);
    assert_int_equal(error, ECONNABORTED);
    close(p.fd);
    bpf_stitch_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_listed),
        cmocka_unit_test(what_is_ended),
        cmocka_unit_test(what_waits_for_an_answer),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
