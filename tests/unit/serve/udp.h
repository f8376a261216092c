/* SPDX-License-Identifier: GPL-2.0-or-later */
/* For the tests of BIND and UDP ASSOCIATE: requests, UDP sockets, datagrams with their header. */
#ifndef TESTS_UNIT_SERVE_UDP_H
#define TESTS_UNIT_SERVE_UDP_H

#include "fixture.h"

#define HEADER_V4 10
#define HEADER_V6 22

__attribute__((unused)) static struct addr address(const char *text)
{
    struct addr a;

    assert_int_equal(addr_parse(text, 0, &a), 0);
    return a;
}

/* -1: this host has no such address. */
__attribute__((unused)) static int udp_on(const char *text, struct addr *ret_at)
{
    struct addr at = address(text);
    struct sockaddr_storage sa;
    socklen_t len = addr_to_sockaddr(&at, &sa);
    int fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0 && errno == EAFNOSUPPORT)
        return -1;
    assert_true(fd >= 0);
    if (bind(fd, (struct sockaddr *)&sa, len) < 0) {
        assert_int_equal(errno, EADDRNOTAVAIL);
        close(fd);
        return -1;
    }
    len = sizeof(sa);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, len, ret_at), 0);
    set_patience(fd);
    return fd;
}

__attribute__((unused)) static void send_to(int fd, const struct addr *to, const void *data,
                                            size_t len)
{
    struct sockaddr_storage sa;
    socklen_t sa_len = addr_to_sockaddr(to, &sa);

    if (sendto(fd, data, len, 0, (struct sockaddr *)&sa, sa_len) != (ssize_t)len)
        fail_msg("sendto: %s", strerror(errno));
}

/* Returns its length. */
__attribute__((unused)) static size_t receive_from(int fd, void *data, size_t size,
                                                   struct addr *ret_from)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    ssize_t n = recvfrom(fd, data, size, MSG_TRUNC, (struct sockaddr *)&sa, &len);

    if (n < 0)
        fail_msg("recvfrom: %s", strerror(errno));
    assert_true((size_t)n <= size);
    assert_int_equal(addr_from_sockaddr((struct sockaddr *)&sa, len, ret_from), 0);
    return (size_t)n;
}

/* RSV FRAG ATYP ADDR PORT; returns its length. */
__attribute__((unused)) static size_t header(uint8_t *buf, const struct addr *a)
{
    size_t n = request5(buf, a);

    memcpy(buf, "\0\0\0", 3);
    return n;
}

__attribute__((unused)) static size_t header_name(uint8_t *buf, const char *name, uint16_t port)
{
    size_t n = request5_name(buf, name, port);

    memcpy(buf, "\0\0\0", 3);
    return n;
}

/* `fd` sends `data` to `to` through the association whose relay is at `relay`. */
__attribute__((unused)) static void
send_through(int fd, const struct addr *relay, const struct addr *to, const void *data, size_t len)
{
    static uint8_t buf[70000];
    size_t n = header(buf, to);

    memcpy(buf + n, data, len);
    send_to(fd, relay, buf, n + len);
}

__attribute__((unused)) static void send_through_name(int fd, const struct addr *relay,
                                                      const char *name, uint16_t port,
                                                      const void *data, size_t len)
{
    static uint8_t buf[70000];
    size_t n = header_name(buf, name, port);

    memcpy(buf + n, data, len);
    send_to(fd, relay, buf, n + len);
}

/* The next datagram is this one; returns who sent it. */
__attribute__((unused)) static struct addr expect_datagram(int fd, const void *data, size_t len)
{
    static uint8_t buf[70000];
    struct addr from;

    assert_int_equal(receive_from(fd, buf, sizeof(buf), &from), len);
    assert_memory_equal(buf, data, len);
    return from;
}

/* The next datagram comes from `relay` and says that `from` sent `data`. */
__attribute__((unused)) static void expect_through(int fd, const struct addr *relay,
                                                   const struct addr *from, const void *data,
                                                   size_t len)
{
    static uint8_t buf[70000];
    size_t n = header(buf, from);
    struct addr sender;

    memcpy(buf + n, data, len);
    sender = expect_datagram(fd, buf, n + len);
    assert_true(addr_equal(&sender, relay));
}

/* A datagram goes to the target, and one comes back. Returns where the target saw it from. */
__attribute__((unused)) static struct addr expect_carried(int fd, const struct addr *relay,
                                                          int target, const struct addr *target_at)
{
    send_through(fd, relay, target_at, BYTES("from the client"));
    struct addr outer = expect_datagram(target, BYTES("from the client"));

    send_to(target, &outer, BYTES("from the target"));
    expect_through(fd, relay, target_at, BYTES("from the target"));
    return outer;
}

/* Nothing is there. To be asked after something has come that was sent later and kept its place. */
__attribute__((unused)) static void expect_nothing(int fd)
{
    char c;

    assert_int_equal(recv(fd, &c, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
}

/* A request with another command. */
__attribute__((unused)) static int request_command(const struct server *s, uint8_t command,
                                                   const struct addr *dest)
{
    uint8_t buf[64];
    int client = dial(&s->at);

    put(client, BYTES("\x05\x01\x00"));
    expect(client, BYTES("\x05\x00"));
    size_t n = request5(buf, dest);

    buf[1] = command;
    put(client, buf, n);
    return client;
}

/* A granting reply; what it says is bound. */
__attribute__((unused)) static struct addr take_reply5(int client)
{
    uint8_t buf[22];
    struct addr a;

    expect(client, BYTES("\x05\x00\x00"));
    assert_int_equal(recv(client, buf, 1, MSG_WAITALL), 1);
    assert_true(buf[0] == 1 || buf[0] == 4);
    size_t n = buf[0] == 1 ? 4 : 16;

    assert_int_equal(recv(client, buf, n + 2, MSG_WAITALL), n + 2);
    uint16_t port = (uint16_t)(buf[n] << 8 | buf[n + 1]);

    if (n == 4)
        addr_set_v4(&a, buf, port);
    else
        addr_set_v6(&a, buf, port);
    return a;
}

__attribute__((unused)) static void expect_refusal5(int client, uint8_t rep)
{
    uint8_t reply[10] = {5, rep, 0, 1};

    expect(client, reply, sizeof(reply));
    expect_end(client);
    close(client);
}

/* UDP ASSOCIATE that says where it will send from; returns the control connection. */
__attribute__((unused)) static int associate_from(const struct server *s, const char *ip,
                                                  uint16_t port, struct addr *ret_relay)
{
    struct addr a = address(ip);

    a.port = port;
    int control = request_command(s, 3, &a);

    *ret_relay = take_reply5(control);
    return control;
}

__attribute__((unused)) static int associate(const struct server *s, struct addr *ret_relay)
{
    return associate_from(s, "0.0.0.0", 0, ret_relay);
}

/* Until a counter has this value; `value` is evaluated more than once. */
#define WAIT_COUNTER(server, name, value)                                                      \
    do {                                                                                       \
        for (unsigned wait_i = 0;                                                              \
             server_counters(server).name != (value) && wait_i < WAIT_SECONDS * 100; wait_i++) \
            usleep(10000);                                                                     \
        assert_int_equal(server_counters(server).name, (value));                               \
    } while (0)

#endif
