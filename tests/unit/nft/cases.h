/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Policies that the tests of nft/ share: each is translated and printed in test_text.c, and
 * installed and compared with nft's own listing in test_batch.c.
 */
#ifndef UNDERSOCK_TEST_NFT_CASES_H
#define UNDERSOCK_TEST_NFT_CASES_H

#include <stdlib.h>
#include <string.h>

#include "capture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define V4(a, b, c, d)                                                           \
    {                                                                            \
        [10] = 0xff, [11] = 0xff, [12] = (a), [13] = (b), [14] = (c), [15] = (d) \
    }
/* The first four groups and the last one. */
#define V6(a, b, c, d, h)                                                     \
    {                                                                         \
        (a) >> 8, (a)&0xff, (b) >> 8, (b)&0xff, (c) >> 8, (c)&0xff, (d) >> 8, \
            (d)&0xff, [14] = (h) >> 8, [15] = (h)&0xff                        \
    }
#define NET4(a, b, c, d, its_len)                   \
    {                                               \
        .ip = V4(a, b, c, d), .len = 96 + (its_len) \
    }
#define NET6(a, b, c, d, h, its_len)              \
    {                                             \
        .ip = V6(a, b, c, d, h), .len = (its_len) \
    }
#define AT4(a, b, c, d, its_port)                \
    {                                            \
        .ip = V4(a, b, c, d), .port = (its_port) \
    }
#define AT6(a, b, c, d, h, its_port)                \
    {                                               \
        .ip = V6(a, b, c, d, h), .port = (its_port) \
    }

/* The head of a capture with listeners, and of one without. */
#define PROXY(its_name)                                                                  \
    .name = its_name, .hook = CAPTURE_OUTPUT, .action = CAPTURE_PROXY, .port_v4 = 12345, \
    .port_v6 = 12346
#define OTHER(its_name, its_action) .name = its_name, .hook = CAPTURE_OUTPUT, .action = (its_action)
#define GATE(its_name)                                                                    \
    .name = its_name, .hook = CAPTURE_GATEWAY, .action = CAPTURE_PROXY, .port_v4 = 12347, \
    .port_v6 = 12348
#define NOT_GATE(its_name, its_action) \
    .name = its_name, .hook = CAPTURE_GATEWAY, .action = (its_action)
#define CGROUP(its_name, its_path)                                                       \
    .name = its_name, .hook = CAPTURE_CGROUP, .action = CAPTURE_PROXY, .port_v4 = 12349, \
    .port_v6 = 12350, .cgroup = (its_path)
#define IFS(array)     .interfaces = (array), .n_interfaces = COUNT(array)
#define TO(array)      .to = (array), .n_to = COUNT(array)
#define NOT_TO(array)  .not_to = (array), .n_not_to = COUNT(array)
#define TCP(array)     .tcp_ports = (array), .n_tcp_ports = COUNT(array)
#define UDP(array)     .udp_ports = (array), .n_udp_ports = COUNT(array)
#define UID(array)     .uids = (array), .n_uids = COUNT(array)
#define NOT_UID(array) .not_uids = (array), .n_not_uids = COUNT(array)

static const struct port_range web[] = {{80, 80}, {443, 443}, {8000, 8999}};
static const struct port_range many_ports[] = {
    {9000, 9100}, {22, 22},     {80, 80},     {81, 81},       {443, 443}, {8000, 8999}, {25, 25},
    {5000, 6000}, {5500, 7000}, {3306, 3306}, {65000, 65535}, {110, 110}, {143, 143},   {1, 1}};
static const struct port_range all_ports[] = {{0, 65535}};
static const struct port_range quic[] = {{443, 443}};
static const struct capture_seat_ports seat_ports[] = {
    {42000, 42100}, {42001, 42101}, {42002, 42102}, {42127, 0}};
static const uint32_t some_uids[] = {1000, 0, 65534, 1000, 33, 4294967294u, 7, 8, 9, 101, 102};
static const uint32_t one_uid[] = {1001};
static const struct prefix net4[] = {NET4(203, 0, 113, 0, 24)};
static const struct prefix net6[] = {NET6(0x2001, 0xdb8, 0, 0, 0, 32)};
static const struct prefix net46[] = {NET4(203, 0, 113, 0, 24), NET6(0x2001, 0xdb8, 0, 0, 0, 32)};
static const struct prefix ten[] = {NET4(10, 0, 0, 0, 8)};
static const struct prefix everywhere[] = {NET4(0, 0, 0, 0, 0), NET6(0, 0, 0, 0, 0, 0)};
static const struct prefix untidy[] = {
    NET4(198, 51, 100, 7, 32),
    NET4(10, 0, 0, 0, 8),
    NET4(10, 1, 0, 0, 16), /* within */
    NET4(11, 0, 0, 0, 8),  /* behind */
    NET4(192, 0, 2, 128, 25),
    NET4(192, 0, 3, 0, 24), /* behind, and the two are no prefix */
    NET4(255, 255, 255, 255, 32),
    NET4(0, 0, 0, 0, 32),
    NET6(0x2001, 0xdb8, 1, 0, 0, 48),
    NET6(0x2001, 0xdb8, 2, 0, 0, 48),
    NET6(0x2001, 0xdb8, 3, 0, 0, 48),
    NET6(0, 0, 0, 0, 1, 128),
    NET6(0x64, 0xff9b, 0, 0, 0, 96),
    NET6(0xff00, 0, 0, 0, 0, 8),
    NET6(0xfe00, 0, 0, 0, 0, 8),
};
/* Host bits where there should be none. */
static const struct prefix host_bits[] = {NET4(203, 0, 113, 77, 20),
                                          NET6(0x2001, 0xdb8, 5, 6, 7, 33)};

static const struct addr some_upstreams[] = {
    AT4(192, 0, 2, 1, 1080), AT6(0x2001, 0xdb8, 0, 0, 1, 1080), AT4(198, 51, 100, 9, 1081),
    AT4(9, 2, 3, 4, 1080),   AT4(192, 0, 2, 1, 1080),           AT4(1, 1, 1, 1, 257),
    AT4(1, 1, 1, 2, 2),      AT6(0, 0, 0, 0, 1, 1080),          AT6(0x2001, 0xdb8, 0, 0, 1, 1079),
};

static const struct capture_policy everything[] = {{PROXY("host")}};
static const struct capture_policy by_ports[] = {{PROXY("web"), TCP(web)}};
static const struct capture_policy by_many_ports[] = {{PROXY("ports"), TCP(many_ports)}};
static const struct capture_policy by_all_ports[] = {{PROXY("ports"), TCP(all_ports)}};
static const struct capture_policy by_net4[] = {{PROXY("v4"), TO(net4)}};
static const struct capture_policy by_net6[] = {{PROXY("v6"), TO(net6)}};
static const struct capture_policy by_net46[] = {{PROXY("both"), TO(net46)}};
static const struct capture_policy by_untidy[] = {
    {PROXY("untidy"), TO(untidy), NOT_TO(host_bits), .private = true}};
static const struct capture_policy by_everywhere[] = {
    {PROXY("all"), TO(everywhere), .private = true}};
static const struct capture_policy by_not_to[] = {{PROXY("inner"), NOT_TO(ten), .private = true}};
static const struct capture_policy by_uid[] = {{PROXY("users"), UID(some_uids)}};
static const struct capture_policy by_not_uid[] = {{PROXY("others"), NOT_UID(one_uid)}};
static const struct capture_policy by_mark[] = {{PROXY("marked"), .has_mark = true, .mark = 0x51}};
static const struct capture_policy by_mark_0[] = {{PROXY("unmarked"), .has_mark = true}};
static const struct capture_policy private_too[] = {{PROXY("wide"), .private = true}};
static const struct capture_policy by_all[] = {{PROXY("strict"), TO(net46), NOT_TO(untidy),
                                                UID(some_uids), NOT_UID(one_uid), TCP(web),
                                                .has_mark = true, .mark = 0xfedcba98}};
static const struct capture_policy direct_first[] = {
    {OTHER("ssh", CAPTURE_DIRECT), TO(net46)}, {PROXY("rest")}, {OTHER("last", CAPTURE_DIRECT)}};
static const struct capture_policy refuse_first[] = {
    {OTHER("bad", CAPTURE_REFUSE), TO(net46), TCP(web)}, {PROXY("rest")}};
static const struct capture_policy refuse_second[] = {
    {PROXY("web"), TCP(web)}, {OTHER("rest", CAPTURE_REFUSE), UID(one_uid)}};
static const struct capture_policy refuse_last[] = {
    {OTHER("direct", CAPTURE_DIRECT), TO(ten), .private = true},
    {PROXY("web"), TCP(web)},
    {OTHER("rest", CAPTURE_REFUSE), .private = true}};
static const struct capture_policy refuse_only[] = {{OTHER("none", CAPTURE_REFUSE), UID(one_uid)}};
static const struct capture_policy no_v6_listener[] = {
    {.name = "half", .action = CAPTURE_PROXY, .port_v4 = 12345, .private = true}};
static const struct capture_policy no_v4_listener[] = {
    {.name = "half", .action = CAPTURE_PROXY, .port_v6 = 12345}};
static const struct capture_policy no_listener[] = {{.name = "deaf", .action = CAPTURE_PROXY}};
static const struct capture_policy names[] = {
    {PROXY("8080"), TCP(web)},
    {PROXY("a.b"), TCP(web)},
    {PROXY("a-b"), TO(net46), TCP(web)},
    {PROXY("a_b"), TCP(web)},
    {PROXY("a_b_2"), TCP(web)},
    {PROXY("-"), TCP(web)},
    {PROXY("return"), TCP(web), UID(one_uid)},
    {PROXY("upstreams"), TO(net46)},
    {PROXY("Abcdefghijklmnopqrstuvwxyz.0123"), NOT_UID(one_uid)},
};
static const struct capture_policy mixed_hooks[] = {
    {.name = "cg", .hook = CAPTURE_CGROUP, .port_v4 = 20001, .port_v6 = 20002},
    {.name = "quic", .hook = CAPTURE_OUTPUT, UDP(quic), .port_v4 = 20003},
    {.name = "gw", .hook = CAPTURE_GATEWAY, UDP(quic), .port_v4 = 20004},
    {PROXY("host"), TCP(web), UDP(quic)},
};
static const struct capture_policy nothing_to_do[] = {
    {.name = "cg", .hook = CAPTURE_CGROUP, .port_v4 = 20001, .port_v6 = 20002},
    {.name = "gw", .hook = CAPTURE_GATEWAY, UDP(quic), .port_v4 = 20004},
    {.name = "gw-user", .hook = CAPTURE_GATEWAY, UID(one_uid), .port_v4 = 20005},
    {NOT_GATE("gw-direct", CAPTURE_DIRECT)},
    {.name = "quic", .hook = CAPTURE_OUTPUT, UDP(quic), .port_v4 = 20003},
    {OTHER("direct", CAPTURE_DIRECT)},
};

static const char *const lan_if[] = {"lan0"};
static const char *const many_interfaces[] = {"wlan0",    "eth0",   "br-lan",          "eth1.100",
                                              "eth0.100", "lan0",   "aaaaaaaaaaaaaaa", "br-lan",
                                              "veth0",    "docker0"};
static const struct capture_policy gate_everything[] = {{GATE("gw")}};
static const struct capture_policy gate_lan[] = {{GATE("gw"), IFS(lan_if), TO(net46), TCP(web)}};
static const struct capture_policy gate_many[] = {{GATE("gw"), IFS(many_interfaces)}};
static const struct capture_policy gate_not_uid[] = {{GATE("gw"), NOT_UID(one_uid)}};
static const struct capture_policy gate_all[] = {{GATE("gw"), IFS(many_interfaces), TO(net46),
                                                  NOT_TO(untidy), TCP(web), .has_mark = true,
                                                  .mark = 0x51}};
static const struct capture_policy gate_private[] = {{GATE("gw"), IFS(lan_if), .private = true}};
static const struct capture_policy gate_several[] = {
    {NOT_GATE("quiet", CAPTURE_DIRECT), TO(net4)},
    {NOT_GATE("bad", CAPTURE_REFUSE), TO(net46), TCP(quic)},
    {GATE("web"), IFS(lan_if), TCP(web)},
    {.name = "rest", .hook = CAPTURE_GATEWAY, .port_v4 = 20001},
    {GATE("same"), .private = true},
};
static const struct capture_policy gate_refuse[] = {{NOT_GATE("none", CAPTURE_REFUSE)}};
static const struct capture_policy gate_reset[] = {
    {NOT_GATE("quiet", CAPTURE_DIRECT), TO(net4)},
    {GATE("gw"), IFS(lan_if), .reset_established = true}};
static const struct capture_policy host_and_gate[] = {
    {GATE("gw"), IFS(lan_if)}, {PROXY("host"), TCP(web)}, {OTHER("rest", CAPTURE_REFUSE)}};
static const struct capture_policy host_reset[] = {
    {OTHER("quiet", CAPTURE_DIRECT), TO(net4)},
    {PROXY("host"), NOT_UID(one_uid), .reset_established = true}};
static const struct capture_policy refuse_reset[] = {
    {OTHER("none", CAPTURE_REFUSE), UID(one_uid), .reset_established = true}};

/* Honest ones, between others. */
static const struct capture_policy honest_host[] = {
    {OTHER("quiet", CAPTURE_DIRECT), TO(net4)},
    {PROXY("web"), TCP(web), .honest = true},
    {.name = "early", .port_v4 = 20001, .port_v6 = 20002, .early = 7, UID(some_uids)},
    {.name = "deaf-early", .honest = true, UID(one_uid)},
    {OTHER("rest", CAPTURE_REFUSE), UID(one_uid)},
    {CGROUP("cg", "/"), .honest = true, .seat_ports = seat_ports},
};
static const struct capture_policy honest_all[] = {{PROXY("all"), .honest = true}};
static const struct capture_policy honest_full[] = {
    {PROXY("strict.and_a_very_long_name_too"), TO(net46), NOT_TO(untidy), UID(some_uids),
     NOT_UID(one_uid), TCP(web), .has_mark = true, .mark = 0x51, .honest = true}};
static const struct capture_policy honest_reset[] = {
    {PROXY("all"), .honest = true, .reset_established = true}};
static const struct capture_policy honest_gate[] = {
    {NOT_GATE("quiet", CAPTURE_DIRECT), TO(net4)},
    {GATE("web"), IFS(many_interfaces), TCP(web), .honest = true, .early = 255},
    {NOT_GATE("bad", CAPTURE_REFUSE), TO(net46), TCP(quic)},
    {.name = "early",
     .hook = CAPTURE_GATEWAY,
     .port_v4 = 20001,
     .port_v6 = 20002,
     .early = 2,
     TO(net6)},
    {.name = "rest", .hook = CAPTURE_GATEWAY, .honest = true},
};
static const struct capture_policy honest_both[] = {
    {GATE("gw"), IFS(lan_if), .honest = true, .fail_closed = true},
    {PROXY("host"), TCP(web), .honest = true, .fail_closed = true},
    {OTHER("rest", CAPTURE_REFUSE)}};

static const struct capture_seat one_seat[] = {{2, true, 41002, 41102}};
static const struct capture_seat some_seats[] = {{0, true, 41000, 41100},
                                                 {1, false, 41001, 41101},
                                                 {2, true, 41002, 41102},
                                                 {127, true, 41127, 41227}};
static const struct capture_seat v4_seat[] = {{0, true, 41000, 0}};
static const struct capture_seat old_seat[] = {{3, false, 41003, 41103}};

/* UDP. */
#define UDP_PORTS .udp_port_v4 = 14001, .udp_port_v6 = 14002
#define TAKE      .udp = CAPTURE_UDP_TAKE, UDP_PORTS
static const struct capture_policy udp_all[] = {{PROXY("all"), TAKE}};
static const struct capture_policy udp_alone[] = {{PROXY("quic"), UDP(quic), TAKE}};
static const struct capture_policy udp_reject[] = {
    {PROXY("all"), .udp = CAPTURE_UDP_REJECT},
    {OTHER("none", CAPTURE_REFUSE), UID(one_uid), .udp = CAPTURE_UDP_TAKE}};
static const struct capture_policy udp_several[] = {
    {PROXY("left"), TO(net4)},
    {OTHER("quiet", CAPTURE_DIRECT), TO(net46), UDP(quic), .udp = CAPTURE_UDP_TAKE},
    {PROXY("strict"), TO(net46), NOT_TO(untidy), UID(some_uids), NOT_UID(one_uid), UDP(many_ports),
     .has_mark = true, .mark = 0xfedcba98, .private = true, TAKE},
    {PROXY("dns"), TCP(web), TO(ten), .dns = true, .fake = true, UDP_PORTS},
    {.name = "half", .udp = CAPTURE_UDP_TAKE, .dns = true, .udp_port_v4 = 14003, .port_v4 = 12345},
    {PROXY("last")}};
static const struct capture_policy udp_cgroup[] = {
    {CGROUP("all", "/"), .dns = true, TAKE},
    {.name = "nowhere", .hook = CAPTURE_CGROUP, TAKE},
};
static const struct capture_policy udp_gate[] = {
    {NOT_GATE("quiet", CAPTURE_DIRECT), TO(ten), .private = true},
    {GATE("gw"), IFS(many_interfaces), TO(net46), .dns = true, .dns_local = true, .fake = true,
     TAKE},
    {GATE("rest"), IFS(lan_if), TCP(web), UDP(quic), .udp = CAPTURE_UDP_REJECT, .dns = true,
     .udp_port_v4 = 14005}};
static const struct capture_policy udp_honest[] = {
    {GATE("gw"), IFS(lan_if), .honest = true, .dns = true, .dns_local = true, TAKE},
    {PROXY("host"), TCP(web), .honest = true, .dns = true, .fake = true, TAKE}};
static const struct capture_policy closed_dns[] = {
    {OTHER("quiet", CAPTURE_DIRECT), TO(ten), .private = true},
    {CGROUP("all", "/"), TCP(web), UDP(quic), .dns = true, .fail_closed = true, TAKE},
    {GATE("gw"), IFS(lan_if), .dns = true, .dns_local = true, .fail_closed = true, TAKE},
    {PROXY("host"), .dns = true, .fake = true, .fail_closed = true, TAKE},
};

/* For the guard. */
static const struct capture_policy closed[] = {{PROXY("host"), .fail_closed = true}};
static const struct capture_policy closed_web[] = {
    {PROXY("open"), TO(net4)},
    {OTHER("direct", CAPTURE_DIRECT), TO(net6), .fail_closed = true},
    {PROXY("web"), TCP(web), UID(some_uids), .fail_closed = true}};
static const struct capture_policy closed_udp[] = {
    {PROXY("quic"), UDP(quic), .udp = CAPTURE_UDP_TAKE, .fail_closed = true},
    {PROXY("web"), TCP(web), .udp = CAPTURE_UDP_TAKE, .fail_closed = true},
    {OTHER("none", CAPTURE_REFUSE), NOT_TO(untidy), .udp = CAPTURE_UDP_TAKE, .fail_closed = true}};
static const struct capture_policy closed_gate[] = {{GATE("gw"), .fail_closed = true}};
static const struct capture_policy closed_both[] = {
    {GATE("gw"), IFS(many_interfaces), TO(net46), .udp = CAPTURE_UDP_TAKE, .fail_closed = true},
    {PROXY("host"), .has_mark = true, .mark = 0x51, .fail_closed = true}};
static const struct capture_policy closed_host_cgroup[] = {
    {CGROUP("all", "/"), TCP(web), .fail_closed = true}};

/* Stops the program on a mistake in the test itself. */
static inline struct addr parse_addr(const char *text)
{
    struct addr a;

    if (addr_parse(text, 0, &a) < 0)
        abort();
    return a;
}

#define POLICIES(array) .policies = (array), .n_policies = COUNT(array)
#define TPROXY          .tproxy_mark = CAPTURE_TPROXY_MARK
#define OWN             .own_mark = CAPTURE_OWN_MARK, .own_mask = CAPTURE_OWN_MASK
#define SEATS(array)    .seats = (array), .n_seats = COUNT(array)
#define UPSTREAMS       .upstreams = some_upstreams, .n_upstreams = COUNT(some_upstreams)

static const struct test_case {
    const char *name;
    struct capture_set set;
} cases[] = {
    {"everything", {POLICIES(everything), OWN, UPSTREAMS}},
    {"no mark, no upstreams", {POLICIES(everything)}},
    {"a mark of 32 bits", {POLICIES(everything), .own_mark = 0x51, .own_mask = 0xffffffff}},
    {"a mark of one bit", {POLICIES(everything), .own_mark = 4, .own_mask = 4}},
    {"a mark of 0", {POLICIES(everything), .own_mark = 0, .own_mask = 0xff}},
    {"a mark of 8 bits in the middle",
     {POLICIES(everything), .own_mark = 0x5500, .own_mask = 0xff00}},
    {"a mark of 24 leading bits",
     {POLICIES(everything), .own_mark = 0x55530000, .own_mask = 0xffffff00}},
    {"tcp-ports", {POLICIES(by_ports), OWN}},
    {"many tcp-ports", {POLICIES(by_many_ports), OWN}},
    {"all tcp-ports", {POLICIES(by_all_ports), OWN}},
    {"to, IPv4 alone", {POLICIES(by_net4), OWN}},
    {"to, IPv6 alone", {POLICIES(by_net6), OWN}},
    {"to, both", {POLICIES(by_net46), OWN}},
    {"to, untidy", {POLICIES(by_untidy), OWN}},
    {"to, everywhere", {POLICIES(by_everywhere), OWN}},
    {"not-to", {POLICIES(by_not_to), OWN}},
    {"uid", {POLICIES(by_uid), OWN}},
    {"not-uid", {POLICIES(by_not_uid), OWN}},
    {"mark", {POLICIES(by_mark), OWN}},
    {"mark 0", {POLICIES(by_mark_0), OWN}},
    {"private", {POLICIES(private_too), OWN}},
    {"every selector", {POLICIES(by_all), OWN, UPSTREAMS}},
    {"direct first", {POLICIES(direct_first), OWN}},
    {"refuse first", {POLICIES(refuse_first), OWN, UPSTREAMS}},
    {"refuse second", {POLICIES(refuse_second), OWN}},
    {"refuse last", {POLICIES(refuse_last), OWN}},
    {"refuse only", {POLICIES(refuse_only), OWN}},
    {"no IPv6 listener", {POLICIES(no_v6_listener), OWN}},
    {"no IPv4 listener", {POLICIES(no_v4_listener), OWN}},
    {"no listener", {POLICIES(no_listener), OWN}},
    {"names", {POLICIES(names), OWN}},
    {"other hooks beside it", {POLICIES(mixed_hooks), OWN}},
    {"gateway", {POLICIES(gate_everything), OWN, UPSTREAMS, TPROXY}},
    {"gateway, no mark", {POLICIES(gate_everything), TPROXY}},
    {"gateway, selected", {POLICIES(gate_lan), OWN, TPROXY}},
    {"gateway, many interfaces", {POLICIES(gate_many), OWN, TPROXY}},
    {"gateway, every selector", {POLICIES(gate_all), OWN, UPSTREAMS, TPROXY}},
    {"gateway, not-uid", {POLICIES(gate_not_uid), OWN, TPROXY}},
    {"gateway, private", {POLICIES(gate_private), OWN, TPROXY}},
    {"gateway, several", {POLICIES(gate_several), OWN, TPROXY}},
    {"gateway, refuse", {POLICIES(gate_refuse), OWN, TPROXY}},
    {"gateway, reset", {POLICIES(gate_reset), OWN, UPSTREAMS, TPROXY}},
    {"gateway and host", {POLICIES(host_and_gate), OWN, UPSTREAMS, TPROXY}},
    {"host, reset", {POLICIES(host_reset), OWN, UPSTREAMS}},
    {"refuse, reset", {POLICIES(refuse_reset), OWN}},
    {"honest, one seat", {POLICIES(honest_all), OWN, SEATS(one_seat)}},
    {"honest, several seats", {POLICIES(honest_host), OWN, UPSTREAMS, SEATS(some_seats)}},
    {"honest, every selector", {POLICIES(honest_full), OWN, SEATS(some_seats)}},
    {"honest, no mark", {POLICIES(honest_all), SEATS(one_seat)}},
    {"honest, reset", {POLICIES(honest_reset), OWN, SEATS(some_seats)}},
    {"honest, no IPv6 seat", {POLICIES(honest_all), OWN, SEATS(v4_seat)}},
    {"honest, nobody serves", {POLICIES(honest_all), OWN, SEATS(old_seat)}},
    {"honest, no seats", {POLICIES(honest_all), OWN}},
    {"early, with an old seat", {POLICIES(everything), OWN, SEATS(old_seat)}},
    {"honest gateway, one seat", {POLICIES(honest_gate), OWN, TPROXY, SEATS(one_seat)}},
    {"honest gateway, several seats",
     {POLICIES(honest_gate), OWN, UPSTREAMS, TPROXY, SEATS(some_seats)}},
    {"honest gateway, nobody serves", {POLICIES(honest_gate), OWN, TPROXY, SEATS(old_seat)}},
    {"UDP", {POLICIES(udp_all), OWN, UPSTREAMS}},
    {"UDP alone", {POLICIES(udp_alone), OWN}},
    {"UDP, no mark", {POLICIES(udp_alone)}},
    {"UDP, of a run", {POLICIES(udp_alone), OWN, .instance = 63}},
    {"UDP, rejected", {POLICIES(udp_reject), OWN}},
    {"UDP, several", {POLICIES(udp_several), OWN, UPSTREAMS}},
    {"UDP, every process", {POLICIES(udp_cgroup), OWN}},
    {"UDP, gateway", {POLICIES(udp_gate), OWN, UPSTREAMS, TPROXY}},
    {"UDP, honest", {POLICIES(udp_honest), OWN, TPROXY, SEATS(some_seats)}},
    {"honest gateway and host", {POLICIES(honest_both), OWN, UPSTREAMS, TPROXY, SEATS(some_seats)}},
};

/* What the guard makes of these is never empty. */
static const struct test_case guard_cases[] = {
    {"guard", {POLICIES(closed), OWN, UPSTREAMS}},
    {"guard, no mark", {POLICIES(closed)}},
    {"guard, selected", {POLICIES(closed_web), OWN, UPSTREAMS}},
    {"guard, UDP", {POLICIES(closed_udp), OWN}},
    {"guard, DNS", {POLICIES(closed_dns), OWN, UPSTREAMS, TPROXY}},
    {"guard, gateway", {POLICIES(closed_gate), OWN, UPSTREAMS, TPROXY}},
    {"guard, gateway and host", {POLICIES(closed_both), OWN, UPSTREAMS, TPROXY}},
    {"guard, every process", {POLICIES(closed_host_cgroup), OWN}},
    {"guard, honest", {POLICIES(honest_both), OWN, TPROXY, SEATS(some_seats)}},
};

/* nft has no word for an empty ruleset, so this one is not among the others. */
static const struct capture_set set_nothing_to_do = {POLICIES(nothing_to_do), OWN, UPSTREAMS};

/* What nft lists of nft/bound.c, where there are listeners of both families. */
#define BOUND_SET                 \
    "\tset bound_ports {\n"       \
    "\t\ttype inet_service\n"     \
    "\t\tsize 65535\n"            \
    "\t\tflags dynamic,timeout\n" \
    "\t\ttimeout 3s\n"            \
    "\t}\n"                       \
    "\n"

#define BOUND_CHAINS                                                                      \
    "\tchain bound_out {\n"                                                               \
    "\t\ttype filter hook postrouting priority mangle - 10; policy accept;\n"             \
    "\t\toifname \"lo\" return\n"                                                         \
    "\t\tip daddr . tcp dport @listeners4 add @bound_ports { tcp sport }\n"               \
    "\t\tip daddr . tcp dport @listeners4 drop\n"                                         \
    "\t\tip6 daddr . tcp dport @listeners6 add @bound_ports { tcp sport }\n"              \
    "\t\tip6 daddr . tcp dport @listeners6 drop\n"                                        \
    "\t}\n"                                                                               \
    "\n"                                                                                  \
    "\tchain bound {\n"                                                                   \
    "\t\ttype filter hook output priority -90; policy accept;\n"                          \
    "\t\toifname \"lo\" return\n"                                                         \
    "\t\tip daddr . tcp dport @listeners4 tcp sport @bound_ports delete @bound_ports { "  \
    "tcp sport } jump refuse_tcp\n"                                                       \
    "\t\tip6 daddr . tcp dport @listeners6 tcp sport @bound_ports delete @bound_ports { " \
    "tcp sport } jump refuse_tcp\n"                                                       \
    "\t}\n"

#endif
