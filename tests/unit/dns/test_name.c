/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dns/name.h, with ldns as the referee of what text means. */
#include "dns/name.h"

#include <errno.h>
#include <ldns/ldns.h>
#include <stdio.h>

#include "message.h"

static int wire(const void *bytes, size_t len)
{
    uint8_t *copy = exact(bytes, len);
    int r = dns_name_wire(copy, len);

    free(copy);
    return r;
}

static void a_name_is_read_whole_or_not_at_all(void **state)
{
    static const char name[] = "\7example\3net\0rest";

    (void)state;
    assert_int_equal(wire(name, sizeof(name) - 1), 13);
    for (size_t n = 0; n < 13; n++)
        assert_int_equal(wire(name, n), -EPROTO);
    assert_int_equal(wire(name, 13), 13);
    assert_int_equal(wire("", 1), 1); /* the root */
}

static void a_name_has_255_bytes_at_most(void **state)
{
    struct message m;
    char text[DNS_TEXT_MAX + 1];

    (void)state;
    for (size_t n = 250; n <= 258; n++) {
        put_header(&m, 0, 0, 0, 0, 0, 0);
        long_name(text, n, 'n');
        put_name(&m, text);
        assert_int_equal(m.w.pos, 12 + n);
        assert_int_equal(wire(m.data + 12, n), n <= 255 ? (int)n : -EPROTO);
    }
    /* And nobody reads on for ever: 128 labels without an end. */
    for (size_t i = 0; i < 400; i++)
        m.data[i] = i % 2 ? 'x' : 1;
    assert_int_equal(wire(m.data, 400), -EPROTO);
    m.data[254] = 0;
    assert_int_equal(wire(m.data, 400), 255);
}

static void no_label_but_the_plain_kind(void **state)
{
    uint8_t name[70] = {0};

    (void)state;
    for (unsigned first = 1; first < 256; first++) {
        name[0] = (uint8_t)first;
        assert_int_equal(wire(name, sizeof(name)), first <= 63 ? (int)first + 2 : -EPROTO);
    }
    assert_int_equal(wire("\1a\xc0\x0c", 4), -EPROTO);
    assert_int_equal(wire("\xc0\x00", 2), -EPROTO); /* itself */
}

static int step(const void *bytes, size_t len, size_t *ret_pos)
{
    uint8_t *copy = exact(bytes, len);
    struct wire_reader r = wire_reader(copy, len);
    int result = dns_skip_name(&r);

    *ret_pos = r.pos;
    free(copy);
    return result;
}

static void stepping_over_a_name_does_not_follow_it(void **state)
{
    size_t pos;
    uint8_t labels[400];

    (void)state;
    assert_int_equal(step("\1a\xc0\x00\1b", 6, &pos), 0); /* a loop, if it were followed */
    assert_int_equal(pos, 4);
    assert_int_equal(step("\xff\xff", 2, &pos), 0);
    assert_int_equal(pos, 2);
    assert_int_equal(step("\0", 1, &pos), 0);
    assert_int_equal(pos, 1);
    assert_int_equal(step("\1a\0", 3, &pos), 0);
    assert_int_equal(pos, 3);
    assert_int_equal(step("\1a", 2, &pos), -EPROTO);
    assert_int_equal(step("\xc0", 1, &pos), -EPROTO);
    assert_int_equal(step("", 0, &pos), -EPROTO);
    assert_int_equal(step("\x40", 1, &pos), -EPROTO);
    assert_int_equal(step("\x80xxx", 4, &pos), -EPROTO);
    for (size_t i = 0; i < sizeof(labels); i++)
        labels[i] = i % 2 ? 'x' : 1;
    assert_int_equal(step(labels, sizeof(labels), &pos), -EPROTO);
    assert_true(pos <= 256);
}

/* The text of `bytes`; what ldns reads in it is the same name, in lower case. */
static const char *text_of(const void *bytes, size_t len, bool *ret_plain)
{
    static char text[DNS_TEXT_MAX + 1];
    uint8_t small[DNS_WIRE_MAX];

    assert_int_equal(wire(bytes, len), len);
    memset(text, POISON, sizeof(text));
    size_t n = dns_name_text(bytes, text, ret_plain);

    assert_int_equal(strlen(text), n);
    assert_true(n <= DNS_TEXT_MAX);
    memcpy(small, bytes, len);
    for (size_t i = 0; i < len; i++) /* a length is at most 63, and so no letter */
        if (small[i] >= 'A' && small[i] <= 'Z')
            small[i] += 'a' - 'A';
    ldns_rdf *referee = ldns_dname_new_frm_str(text);

    assert_non_null(referee);
    assert_int_equal(ldns_rdf_size(referee), len);
    assert_memory_equal(ldns_rdf_data(referee), small, len);
    ldns_rdf_deep_free(referee);
    return text;
}

static void text_is_lower_case_and_without_ambiguity(void **state)
{
    bool plain;
    uint8_t one[] = {3, 'a', 0, 'b', 0};

    (void)state;
    assert_string_equal(text_of("\3wWw\7EXAMPLE\3net", 17, &plain), "www.example.net");
    assert_true(plain);
    assert_string_equal(text_of("", 1, &plain), ".");
    assert_false(plain);
    assert_string_equal(text_of("\3a.b\1\\", 7, &plain), "a\\.b.\\\\");
    assert_false(plain);
    assert_string_equal(text_of("\5_http\4_tcp", 12, &plain), "_http._tcp");
    assert_true(plain);
    for (unsigned c = 0; c < 256; c++) {
        one[2] = (uint8_t)c;
        const char *text = text_of(one, sizeof(one), &plain);
        bool want = c > 32 && c < 127 && c != '.' && c != '\\' && c != '"';

        assert_int_equal(plain, want);
        assert_int_equal(strlen(text), want ? 3 : c == '.' || c == '\\' || c == '"' ? 4 : 6);
        assert_int_equal(dns_name_is_plain(text, strlen(text)), want);
    }
}

static void the_longest_text_fits(void **state)
{
    struct message m;
    char text[DNS_TEXT_MAX + 1];
    bool plain;

    (void)state;
    for (unsigned c = 'x'; c <= 0xff; c += 0xff - 'x') {
        put_header(&m, 0, 0, 0, 0, 0, 0);
        long_name(text, 255, (char)c);
        put_name(&m, text);
        const char *said = text_of(m.data + 12, 255, &plain);

        assert_int_equal(strlen(said), c == 'x' ? 253 : 250 * 4 + 3);
        assert_int_equal(plain, c == 'x');
    }
}

static void what_is_plain(void **state)
{
    static const char *const yes[] = {
        "a", "localhost", "www.example.net", "xn--bcher-kva.example", "_dmarc.example", "1.2",
        "-", "a+b.c"};
    static const char *const no[] = {"",   ".",   "a.",  ".a",    "a..b",        "A",
                                     "aB", "a b", "a\t", "a\x7f", "b\xc3\xbc.x", "a\\.b"};
    char text[DNS_TEXT_MAX + 1];

    (void)state;
    for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++)
        assert_true(dns_name_is_plain(yes[i], strlen(yes[i])));
    for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++)
        assert_false(dns_name_is_plain(no[i], strlen(no[i])));
    assert_false(dns_name_is_plain("a\0b", 3));
    long_name(text, 255, 'x');
    assert_true(dns_name_is_plain(text, 253));
    long_name(text, 256, 'x');
    assert_false(dns_name_is_plain(text, strlen(text)));
    memset(text, 'x', 64);
    assert_false(dns_name_is_plain(text, 64));
    assert_true(dns_name_is_plain(text, 63));
}

/* ---- Reverse names ---- */

static void addresses_come_back(void **state)
{
    static const char *const texts[] = {"192.0.2.1",     "0.0.0.0",     "255.255.255.255",
                                        "198.19.10.100", "2001:db8::1", "fdf6:6931:7149::ab:cdef"};
    struct addr want, got;

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        assert_int_equal(addr_parse(texts[i], 0, &want), 0);
        ldns_rdf *rdf = ldns_rdf_new_frm_str(
            addr_is_v4(&want) ? LDNS_RDF_TYPE_A : LDNS_RDF_TYPE_AAAA, texts[i]);
        ldns_rdf *name = ldns_rdf_address_reverse(rdf);
        char *text = ldns_rdf2str(name);

        assert_non_null(text);
        text[strlen(text) - 1] = '\0'; /* the dot at the end */
        memset(&got, POISON, sizeof(got));
        assert_int_equal(dns_reverse_parse(text, strlen(text), &got), 0);
        assert_true(addr_equal(&want, &got));
        for (size_t n = 1; n < strlen(text); n++) { /* without its beginning it is another name */
            int r = dns_reverse_parse(text + n, strlen(text) - n, &got);

            if (r == 0) /* "92.2.0.192" is an address, too */
                assert_false(addr_equal(&want, &got));
            else
                assert_true(r == -ENOENT || r == -EINVAL);
        }
        free(text);
        ldns_rdf_deep_free(rdf);
        ldns_rdf_deep_free(name);
    }
}

static void other_reverse_names(void **state)
{
#define SIX "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"
    static const struct {
        const char *name;
        int want;
    } cases[] = {
        {"in-addr.arpa", -ENOENT},
        {"2.0.192.in-addr.arpa", -ENOENT},
        {"5.1.2.0.192.in-addr.arpa", -ENOENT},
        {"1.2.0.256.in-addr.arpa", -ENOENT},
        {"01.2.0.192.in-addr.arpa", -ENOENT},
        {"1.2.0.0192.in-addr.arpa", -ENOENT},
        {"1.2..192.in-addr.arpa", -ENOENT},
        {"1.2.0.x.in-addr.arpa", -ENOENT},
        {"1.2.0.+1.in-addr.arpa", -ENOENT},
        {"0.0.0.0.in-addr.arpa", 0},
        {"ip6.arpa", -ENOENT},
        {SIX ".ip6.arpa", 0},
        {"0." SIX ".ip6.arpa", -ENOENT},
        {"g" SIX ".ip6.arpa", -ENOENT},
        {"8.b.d.0.1.0.0.2.ip6.arpa", -ENOENT},
        {"0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.00.8.b.d.0.1.0.02.ip6.arpa", -ENOENT},
        {"0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.g.ip6.arpa", -ENOENT},
        {"xin-addr.arpa", -EINVAL},
        {"1.2.0.192.in-addr.arpa.example", -EINVAL},
        {"1.2.0.192", -EINVAL},
        {"arpa", -EINVAL},
        {".", -EINVAL},
    };
    struct addr a, poison;

    (void)state;
    memset(&poison, POISON, sizeof(poison));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        a = poison;
        assert_int_equal(dns_reverse_parse(cases[i].name, strlen(cases[i].name), &a),
                         cases[i].want);
        assert_int_equal(memcmp(&a, &poison, sizeof(a)) == 0, cases[i].want != 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_is_read_whole_or_not_at_all),
        cmocka_unit_test(a_name_has_255_bytes_at_most),
        cmocka_unit_test(no_label_but_the_plain_kind),
        cmocka_unit_test(stepping_over_a_name_does_not_follow_it),
        cmocka_unit_test(text_is_lower_case_and_without_ambiguity),
        cmocka_unit_test(the_longest_text_fits),
        cmocka_unit_test(what_is_plain),
        cmocka_unit_test(addresses_come_back),
        cmocka_unit_test(other_reverse_names),
    };

    return cmocka_run_group_tests_name("dns/name", tests, NULL, NULL);
}
