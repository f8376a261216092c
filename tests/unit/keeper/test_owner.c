/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who listens, with listeners that are really there; in a network namespace of its own. */
#include "keeper/owner.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "../nft/netns.h"
#include "base/fd.h"

static struct addr at(const char *text)
{
    struct addr a;

    CHECK(addr_parse(text, 0, &a) == 0);
    return a;
}

static int listen_on(const char *text, struct addr *ret)
{
    struct addr a = at(text);
    int fd = fd_listen(&a, false, ret);

    CHECK(fd >= 0);
    return fd;
}

static void lo_up(void)
{
    CHECK(system("ip link set lo up && ip addr add 192.0.2.1/32 dev lo && "
                 "ip -6 addr add 2001:db8::1/128 dev lo nodad; " ADDRESSES_SETTLE) == 0);
}

static bool has(const struct owner *o, pid_t pid)
{
    for (size_t i = 0; i < o->n_processes; i++) {
        if (o->processes[i].pid == pid)
            return true;
    }
    return false;
}

static void exact_body(void)
{
    struct addr bound;
    struct owner o;

    lo_up();
    int fd = listen_on("127.0.0.1:0", &bound);

    CHECK(owner_find(&bound, &o) == 0);
    CHECK(addr_equal(&o.at, &bound) && o.uid == 0 && o.inode != 0);
    CHECK(has(&o, getpid()));

    struct addr other = bound, port = bound;

    other.ip[15] = 2; /* 127.0.0.2 */
    port.port++;
    CHECK(owner_find(&other, &o) == -ENOENT);
    CHECK(owner_find(&port, &o) == -ENOENT);
    close(fd);
    CHECK(owner_find(&bound, &o) == -ENOENT);
}

static void wildcard_body(void)
{
    struct addr bound, wanted;
    struct owner o;

    lo_up();
    close(listen_on("127.0.0.1:0", &bound));

    int any = listen_on("0.0.0.0:7001", NULL), own = listen_on("192.0.2.1:7002", NULL);
    int any2 = listen_on("0.0.0.0:7003", NULL);

    wanted = at("127.0.0.5:7001");
    CHECK(owner_find(&wanted, &o) == 0 && addr_is_any(&o.at));
    wanted = at("192.0.2.1:7002");
    CHECK(owner_find(&wanted, &o) == 0 && addr_equal(&o.at, &wanted));
    wanted = at("[2001:db8::1]:7003"); /* an IPv4 wildcard answers no IPv6 */
    CHECK(owner_find(&wanted, &o) == -ENOENT);
    close(any);
    close(own);
    close(any2);
}

static int listen_v6(uint16_t port, int v6_only)
{
    struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

    CHECK(fd >= 0);
    CHECK(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6_only, sizeof(v6_only)) == 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0);
    CHECK(bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 && listen(fd, 5) == 0);
    return fd;
}

static void dual_stack_body(void)
{
    struct addr v4 = at("192.0.2.1:7010"), v6 = at("[2001:db8::1]:7010");
    struct owner o;

    lo_up();
    int fd = listen_v6(7010, 1);

    CHECK(owner_find(&v6, &o) == 0);
    CHECK(owner_find(&v4, &o) == -ENOENT);
    close(fd);
    fd = listen_v6(7010, 0);
    CHECK(owner_find(&v6, &o) == 0);
    CHECK(owner_find(&v4, &o) == 0);
    close(fd);
}

/* Who holds it and what it has started since are the owner; with the ids of each. */
static void processes_body(void)
{
    struct addr bound;
    struct owner o;
    int ready[2];
    pid_t pids[2];

    lo_up();
    int fd = listen_on("127.0.0.1:0", &bound);

    CHECK(pipe(ready) == 0);
    pid_t child = fork();

    if (child == 0) {
        pid_t me[2] = {getpid(), fork()};

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (me[1] == 0) { /* a child without the socket, under ids of its own */
            close(fd);
            CHECK(setresuid(4242, 4243, 4244) == 0);
            CHECK(prctl(PR_SET_NAME, "\x1b]0;a\x07\x9b\xc3\xa9\x7f") == 0);
            prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of ids clears it */
            me[0] = getppid();
            me[1] = getpid();
            CHECK(write(ready[1], me, sizeof(me)) == sizeof(me));
        }
        pause();
        _exit(0);
    }
    close(fd);
    CHECK(read(ready[0], pids, sizeof(pids)) == sizeof(pids));
    CHECK(owner_find(&bound, &o) == 0);
    CHECK(has(&o, pids[0]) && has(&o, pids[1]) && !has(&o, getpid()) && o.n_processes == 2);
    for (size_t i = 0; i < 2; i++) {
        const struct owner_process *p = &o.processes[i];
        bool dropped = p->pid == pids[1];

        CHECK(p->uid == (dropped ? 4242u : 0u) && p->fsuid == (dropped ? 4243u : 0u));
        CHECK(strcmp(p->comm, dropped ? "?]0;a?????" : "test_owner") == 0);
    }
    kill(pids[1], SIGKILL);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

/* The uid of a socket is that of its maker, even where no process can be seen. */
static void uid_body(void)
{
    struct addr bound;
    struct owner o;

    lo_up();
    CHECK(seteuid(4242) == 0);
    int fd = listen_on("127.0.0.1:0", &bound);

    CHECK(seteuid(0) == 0);
    CHECK(owner_find(&bound, &o) == 0 && o.uid == 4242);
    close(fd);
}

static void local_body(void)
{
    static const struct {
        const char *text;
        int local;
    } cases[] = {{"127.0.0.1", 1},   {"127.9.9.9", 1}, {"192.0.2.1", 1},   {"192.0.2.2", 0},
                 {"2001:db8::1", 1}, {"::1", 1},       {"2001:db8::2", 0}, {"198.51.100.7", 0}};

    lo_up();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct addr a = at(cases[i].text);
        int local = owner_address_is_local(&a);

        if (local != cases[i].local)
            fprintf(stderr, "%s: %d\n", cases[i].text, local);
        CHECK(local == cases[i].local);
    }
}

#define IN_NETNS(name)             \
    static void name(void **state) \
    {                              \
        (void)state;               \
        in_netns(name##_body);     \
    }

IN_NETNS(exact)
IN_NETNS(wildcard)
IN_NETNS(dual_stack)
IN_NETNS(processes)
IN_NETNS(uid)
IN_NETNS(local)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact),     cmocka_unit_test(wildcard), cmocka_unit_test(dual_stack),
        cmocka_unit_test(processes), cmocka_unit_test(uid),      cmocka_unit_test(local),
    };

    return cmocka_run_group_tests_name("owner", tests, NULL, NULL);
}
