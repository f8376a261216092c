/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A chain of hops as a script, and the request that the programs write for its last step: what a
 * server of ours reads out of the messages, and that the script's own view of them (where each
 * begins, how its reply is known) agrees with the codecs.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "bpf/compose.bpf.h"
#include "socks/socks4.h"
#include "socks/socks5_auth.h"
#include "socks/socks5_client.h"
#include "socks/socks5_server.h"
#include "upstream/script.h"

static struct config_upstream configs[CONFIG_CHAIN_MAX];
static struct upstream chain;
static struct stitch_script script;
static const char *why;

static void hop(const char *url, const char *address)
{
    struct upstream_hop *h = &chain.hops[chain.n_hops];
    struct config_upstream *c = &configs[chain.n_hops];
    char text[256];

    memset(c, 0, sizeof(*c));
    memset(h, 0, sizeof(*h));
    assert_int_equal(config_url_parse(url, &c->url, text, sizeof(text)), 0);
    c->handshake_timeout = INT64_C(15000000000);
    c->connect_timeout = INT64_C(10000000000);
    h->config = c;
    if (address != NULL) {
        assert_int_equal(addr_parse(address, 1080, &h->addrs[0]), 0);
        h->n_addrs = 1;
    }
    chain.n_hops++;
}

static int setup(void **state)
{
    (void)state;
    memset(&chain, 0, sizeof(chain));
    memset(&script, 0xee, sizeof(script));
    why = NULL;
    return 0;
}

static int build(unsigned no_auth)
{
    const struct script_options o = {.no_auth = no_auth, .id = 77};

    return script_build(&chain, &o, &script, &why);
}

/* What is true of every script. */
static void check_form(void)
{
    size_t before = 0, at = 0;

    assert_int_equal(script.id, 77);
    assert_true(script.n_steps >= 1 && script.n_steps <= STITCH_STEPS);
    assert_int_equal(script.static_len % 8, 0);
    for (unsigned i = 0; i + 1u < script.n_steps; i++) {
        const struct stitch_step *s = &script.steps[i];

        assert_int_equal(s->at % 4, 0);
        assert_int_equal(s->at, at);
        assert_int_equal(s->before, before);
        assert_true(s->len > 0 && s->at + s->len <= script.static_len);
        before += s->len;
        at = (at + s->len + 7) & ~(size_t)7;
        for (size_t k = s->at + s->len; k < at; k++)
            assert_int_equal(script.bytes[k], 0);
    }
    assert_int_equal(script.static_len, at);
    assert_int_equal(script.steps[script.n_steps - 1].at, STITCH_STATIC);
    assert_int_equal(script.steps[script.n_steps - 1].before, before);
}

static void check_message(unsigned step, const void *bytes, size_t len)
{
    assert_int_equal(script.steps[step].len, len);
    assert_memory_equal(script.bytes + script.steps[step].at, bytes, len);
}

static void check_reply(unsigned step, unsigned version, unsigned good, unsigned len,
                        unsigned verdicts)
{
    const struct stitch_step *s = &script.steps[step];

    assert_int_equal(s->version, version);
    assert_int_equal(s->good, good);
    assert_int_equal(s->reply_len, len);
    assert_int_equal(s->verdicts, verdicts);
}

static void socks5_alone(void **state)
{
    (void)state;
    hop("socks5://proxy.example", "192.0.2.1");
    assert_int_equal(build(0), 0);
    check_form();
    assert_int_equal(script.n_steps, 2);
    check_message(0, "\x05\x01\x00", 3);
    check_reply(0, 5, 0, 2, STITCH_VERDICTS_REFUSE);
    check_reply(1, 5, 0, 0, STITCH_VERDICTS_SOCKS5);
    assert_int_equal(script.form, STITCH_FORM_SOCKS5);
    assert_int_equal(script.server.port, 1080);
    assert_memory_equal(script.server.ip, chain.hops[0].addrs[0].ip, 16);
    assert_int_equal(script.connect_timeout, 10000);
    assert_int_equal(script.timeout, 15000);
    assert_int_equal(script.syn_retries, 4); /* 1 + 2 + 4 + 8 + 16 seconds */
}

static void nobody_waits_much_longer_than_the_timeouts(void **state)
{
    static const struct {
        int64_t connect_ms, handshake_ms;
        unsigned retries;
    } cases[] = {{1, 1, 1},         {2000, 1000, 1},     {2000, 1001, 2},       {10000, 21000, 4},
                 {10000, 21001, 5}, {5000, 3600000, 11}, {3600000, 3600000, 12}};

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        chain.n_hops = 0;
        hop("socks5://proxy.example", "192.0.2.1");
        configs[0].connect_timeout = cases[i].connect_ms * 1000000;
        configs[0].handshake_timeout = cases[i].handshake_ms * 1000000;
        assert_int_equal(build(0), 0);
        assert_int_equal(script.syn_retries, cases[i].retries);
    }
}

static void socks5_with_a_password(void **state)
{
    (void)state;
    hop("socks5h://alice:wonder@proxy.example", "2001:db8::1");
    assert_int_equal(build(0), 0);
    check_form();
    assert_int_equal(script.n_steps, 3);
    check_message(0, "\x05\x01\x02", 3);
    check_reply(0, 5, 2, 2, STITCH_VERDICTS_REFUSE);
    check_message(1,
                  "\x01\x05"
                  "alice"
                  "\x06"
                  "wonder",
                  14);
    check_reply(1, 1, 0, 2, STITCH_VERDICTS_REFUSE);
    check_reply(2, 5, 0, 0, STITCH_VERDICTS_SOCKS5);
}

static void a_server_that_wants_no_password(void **state)
{
    (void)state;
    hop("socks5://alice:wonder@proxy.example", "192.0.2.1");
    assert_int_equal(build(1), 0);
    check_form();
    assert_int_equal(script.n_steps, 2);
    check_message(0, "\x05\x01\x00", 3);
}

static void socks4_alone(void **state)
{
    (void)state;
    hop("socks4://bob@proxy.example", "192.0.2.1");
    assert_int_equal(build(0), 0);
    check_form();
    assert_int_equal(script.n_steps, 1);
    check_reply(0, 0, 0x5a, 8, STITCH_VERDICTS_REFUSE);
    assert_int_equal(script.form, STITCH_FORM_SOCKS4);
    assert_int_equal(script.user_len, 3);
    assert_memory_equal(script.user, "bob", 3);
}

static void a_chain(void **state)
{
    (void)state;
    hop("socks5://one.example", "192.0.2.1");
    hop("socks4://bob@two.example", "192.0.2.2");
    hop("socks5://alice:wonder@three.example:1234", NULL);
    hop("socks5h://four.example", "2001:db8::4");
    assert_int_equal(build(0), 0);
    check_form();
    assert_int_equal(script.n_steps, 2 + 1 + 3 + 2);
    check_message(1, "\x05\x01\x00\x01\xc0\x00\x02\x02\x04\x38", 10);
    /* What an inner hop says is about the next hop. */
    check_reply(1, 5, 0, 0, STITCH_VERDICTS_REFUSE);
    /* By name: nobody here has resolved it. */
    check_message(2,
                  "\x04\x01\x04\xd2\x00\x00\x00\x01"
                  "bob\0three.example",
                  26);
    check_reply(2, 0, 0x5a, 8, STITCH_VERDICTS_REFUSE);
    check_message(5, "\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x04\x04\x38", 22);
    check_reply(7, 5, 0, 0, STITCH_VERDICTS_SOCKS5);
}

static void what_cannot_be_stitched(void **state)
{
    char user[300], url[700];

    (void)state;
    assert_int_equal(build(0), -EOPNOTSUPP); /* direct */
    assert_non_null(why);
    hop("http://proxy.example", "192.0.2.1");
    assert_int_equal(build(0), -EOPNOTSUPP);

    setup(NULL);
    hop("socks5://proxy.example", NULL);
    assert_int_equal(build(0), -EINVAL); /* not resolved */

    setup(NULL);
    hop("socks4://proxy.example", "192.0.2.1");
    hop("socks5://proxy.example", "2001:db8::1");
    assert_int_equal(build(0), -EAFNOSUPPORT);

    setup(NULL);
    hop("socks5://proxy.example", "fe80::1%lo");
    assert_int_equal(build(0), -EADDRNOTAVAIL);

    setup(NULL);
    memset(user, 'u', STITCH_USER_MAX + 1);
    user[STITCH_USER_MAX + 1] = '\0';
    snprintf(url, sizeof(url), "socks4://%s@proxy.example", user);
    hop(url, "192.0.2.1");
    assert_int_equal(build(0), -E2BIG);
    user[STITCH_USER_MAX] = '\0';
    setup(NULL);
    snprintf(url, sizeof(url), "socks4://%s@proxy.example", user);
    hop(url, "192.0.2.1");
    assert_int_equal(build(0), 0);

    /* More octets, and more steps, than there is room for. */
    setup(NULL);
    snprintf(url, sizeof(url), "socks5://%s:%s@proxy.example", user, user);
    hop(url, "192.0.2.1");
    assert_int_equal(build(0), 0);
    hop(url, "192.0.2.1");
    assert_int_equal(build(0), -E2BIG);
    setup(NULL);
    for (unsigned i = 0; i < 5; i++)
        hop("socks5://a:b@proxy.example", "192.0.2.1");
    assert_int_equal(build(0), 0);
    check_form();
    assert_int_equal(script.n_steps, 15);
    hop("socks5://a:b@proxy.example", "192.0.2.1");
    memset(&script, 0xee, sizeof(script));
    assert_int_equal(build(0), -E2BIG);
    assert_int_equal(script.form, 0xee); /* untouched */
}

/* The last request, as a server of ours reads it. */
static uint8_t request[STITCH_REQUEST];

static ABI_U32 compose(const char *address, const char *name)
{
    struct stitch_name n = {0};
    struct addr a;

    assert_int_equal(addr_parse(address, 4660, &a), 0);
    memset(request, 0, sizeof(request));
    if (name != NULL) {
        n.len = (uint8_t)strlen(name);
        memcpy(n.name, name, strlen(name));
    }
    return compose_request(request, &script, a.ip, a.port, name ? &n : NULL);
}

static void check_socks5(const char *address, const char *name)
{
    struct socks5_request r;
    ABI_U32 len = compose(address, name);
    struct addr a;

    assert_true(len > 0);
    assert_int_equal(socks5_decode_request(request, len, &r), len);
    assert_int_equal(r.command, SOCKS_CMD_CONNECT);
    assert_int_equal(r.dest.addr.port, 4660);
    if (name != NULL) {
        assert_int_equal(r.dest.type, SOCKS_DEST_NAME);
        assert_string_equal(r.dest.name, name);
    } else {
        assert_int_equal(addr_parse(address, 4660, &a), 0);
        assert_int_equal(r.dest.type, SOCKS_DEST_ADDR);
        assert_true(addr_equal(&r.dest.addr, &a));
    }
}

static void check_socks4(const char *address, const char *name, const char *user)
{
    struct socks4_request r;
    ABI_U32 len = compose(address, name);
    struct addr a;

    assert_true(len > 0);
    assert_int_equal(socks4_decode_request(request, len, &r), len);
    assert_int_equal(r.command, SOCKS_CMD_CONNECT);
    assert_int_equal(r.dest.addr.port, 4660);
    assert_string_equal(r.user, user);
    if (name != NULL) {
        assert_int_equal(r.dest.type, SOCKS_DEST_NAME);
        assert_string_equal(r.dest.name, name);
    } else {
        assert_int_equal(addr_parse(address, 4660, &a), 0);
        assert_true(addr_equal(&r.dest.addr, &a));
    }
}

static void requests(void **state)
{
    char longest[STITCH_NAME_MAX + 1], user[STITCH_USER_MAX + 1], url[400];

    (void)state;
    memset(longest, 'n', STITCH_NAME_MAX);
    longest[STITCH_NAME_MAX] = '\0';
    memset(user, 'u', STITCH_USER_MAX);
    user[STITCH_USER_MAX] = '\0';

    hop("socks5://proxy.example", "192.0.2.1");
    assert_int_equal(build(0), 0);
    check_socks5("203.0.113.9", NULL);
    check_socks5("2001:db8::9", NULL);
    check_socks5("198.18.1.1", "x");
    check_socks5("198.18.1.1", "www.example.net");
    check_socks5("fdf6:6931:7149::1", longest);
    assert_int_equal(compose("198.18.1.1", ""), 0);

    setup(NULL);
    hop("socks4a://proxy.example", "192.0.2.1");
    assert_int_equal(build(0), 0);
    check_socks4("203.0.113.9", NULL, "");
    check_socks4("198.18.1.1", "www.example.net", "");
    assert_int_equal(compose("2001:db8::9", NULL), 0);
    assert_int_equal(compose("0.0.0.7", NULL), 0); /* would be taken for a name */

    setup(NULL);
    snprintf(url, sizeof(url), "socks4://%s@proxy.example", user);
    hop(url, "192.0.2.1");
    assert_int_equal(build(0), 0);
    check_socks4("203.0.113.9", NULL, user);
    check_socks4("fdf6:6931:7149::1", longest, user);
    assert_true(compose("fdf6:6931:7149::1", longest) <= STITCH_REQUEST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(socks5_alone, setup),
        cmocka_unit_test_setup(nobody_waits_much_longer_than_the_timeouts, setup),
        cmocka_unit_test_setup(socks5_with_a_password, setup),
        cmocka_unit_test_setup(a_server_that_wants_no_password, setup),
        cmocka_unit_test_setup(socks4_alone, setup),
        cmocka_unit_test_setup(a_chain, setup),
        cmocka_unit_test_setup(what_cannot_be_stitched, setup),
        cmocka_unit_test_setup(requests, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
