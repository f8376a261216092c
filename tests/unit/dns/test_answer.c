/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dns/answer.h: ldns reads what we answer; what is cut is built by hand. */
#include "dns/answer.h"

#include <errno.h>
#include <ldns/ldns.h>

#include "dns/name.h"
#include "message.h"

static struct message m;
static struct dns_query q;
static uint8_t buf[DNS_ANSWER_MAX];
static struct wire_writer w;
static struct addr v4, v6;

static int setup(void **state)
{
    (void)state;
    return addr_parse("198.18.7.9", 0, &v4) < 0 || addr_parse("fdf6:6931:7149::1", 0, &v6) < 0;
}

/* The query, from the wire. */
static void ask(uint16_t flags, const char *name, uint16_t type, int edns_size, uint32_t edns_ttl)
{
    put_header(&m, 0x1234, flags, 1, 0, 0, edns_size >= 0);
    put_question(&m, name, type);
    if (edns_size >= 0)
        put_opt(&m, (uint16_t)edns_size, edns_ttl, 0);
    assert_true(dns_query_parse(m.data, m.w.pos, &q) >= 0);
    w = wire_writer(buf, sizeof(buf));
}

/* What ldns reads in the answer, with all that is the same in every answer. */
static ldns_pkt *read_answer(enum dns_rcode rcode, unsigned records)
{
    ldns_pkt *p = NULL;

    assert_int_equal(ldns_wire2pkt(&p, buf, w.pos), LDNS_STATUS_OK);
    assert_int_equal(ldns_pkt_id(p), q.id);
    assert_true(ldns_pkt_qr(p) && ldns_pkt_ra(p));
    assert_false(ldns_pkt_aa(p) || ldns_pkt_ad(p) || ldns_pkt_tc(p));
    assert_int_equal(ldns_pkt_rd(p), (q.flags & DNS_FLAG_RD) != 0);
    assert_int_equal(ldns_pkt_cd(p), (q.flags & DNS_FLAG_CD) != 0);
    assert_int_equal(ldns_pkt_get_opcode(p), DNS_FLAGS_OPCODE(q.flags));
    assert_int_equal(ldns_pkt_get_rcode(p) | ldns_pkt_edns_extended_rcode(p) << 4, rcode);
    assert_int_equal(ldns_pkt_qdcount(p), q.has_question);
    assert_int_equal(ldns_pkt_ancount(p), records);
    assert_int_equal(ldns_pkt_nscount(p), 0);
    assert_int_equal(ldns_pkt_edns(p), q.edns);
    if (q.edns) {
        assert_int_equal(ldns_pkt_edns_udp_size(p), DNS_UDP_OURS);
        assert_int_equal(ldns_pkt_edns_do(p), q.dnssec_ok);
        assert_int_equal(ldns_pkt_edns_version(p), 0);
    }
    if (q.has_question) { /* to the byte */
        assert_memory_equal(buf + 12, m.data + 12, q.wire_len + 4u);
    }
    return p;
}

static void check_record(const ldns_pkt *p, uint16_t type, uint32_t ttl, const char *want)
{
    ldns_rr *rr = ldns_rr_list_rr(ldns_pkt_answer(p), 0);
    char *text = ldns_rdf2str(ldns_rr_rdf(rr, 0));

    assert_int_equal(ldns_rr_get_type(rr), type);
    assert_int_equal(ldns_rr_get_class(rr), LDNS_RR_CLASS_IN);
    assert_int_equal(ldns_rr_ttl(rr), ttl);
    assert_int_equal(ldns_rr_rd_count(rr), 1);
    assert_int_equal(ldns_rdf_size(ldns_rr_owner(rr)), q.wire_len);
    assert_memory_equal(ldns_rdf_data(ldns_rr_owner(rr)), q.wire, q.wire_len);
    assert_string_equal(text, want);
    free(text);
}

/* Every way to ask, and the record that comes. */
static void addresses(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 16; i++) {
        uint16_t flags = (uint16_t)((i & 1 ? DNS_FLAG_RD : 0) | (i & 2 ? DNS_FLAG_CD : 0) | 0x0020);

        ask(flags, "wWw.eXample.NET", DNS_TYPE_A, i & 4 ? 4096 : -1, i & 8 ? 0x8000 : 0);
        assert_int_equal(dns_answer_address(&q, &v4, 7, &w), 0);
        ldns_pkt *p = read_answer(DNS_NOERROR, 1);

        check_record(p, DNS_TYPE_A, 7, "198.18.7.9");
        ldns_pkt_free(p);
    }
    ask(0, "example.net", DNS_TYPE_AAAA, -1, 0);
    assert_int_equal(dns_answer_address(&q, &v6, UINT32_MAX, &w), 0);
    ldns_pkt *p = read_answer(DNS_NOERROR, 1);

    check_record(p, DNS_TYPE_AAAA, INT32_MAX, "fdf6:6931:7149::1");
    ldns_pkt_free(p);
}

static void only_what_was_asked_for(void **state)
{
    (void)state;
    ask(0, "example.net", DNS_TYPE_AAAA, -1, 0);
    assert_int_equal(dns_answer_address(&q, &v4, 7, &w), -EINVAL);
    assert_int_equal(dns_answer_name(&q, "a.b", 7, &w), -EINVAL);
    ask(0, "example.net", DNS_TYPE_A, -1, 0);
    assert_int_equal(dns_answer_address(&q, &v6, 7, &w), -EINVAL);
    q.class = 3;
    assert_int_equal(dns_answer_address(&q, &v4, 7, &w), -EINVAL);
    assert_int_equal(w.pos, 0);
    ask(0, "example.net", DNS_TYPE_ANY, -1, 0);
    assert_int_equal(dns_answer_address(&q, &v4, 7, &w), 0);
    ldns_pkt *p = read_answer(DNS_NOERROR, 1);

    check_record(p, DNS_TYPE_A, 7, "198.18.7.9");
    ldns_pkt_free(p);
    put_header(&m, 1, 0, 0, 0, 0, 0);
    assert_int_equal(dns_query_parse(m.data, 12, &q), DNS_FORMERR);
    assert_int_equal(dns_answer_address(&q, &v4, 7, &w), -EINVAL);
    assert_int_equal(dns_answer_name(&q, "a.b", 7, &w), -EINVAL);
}

static void names(void **state)
{
    static const char *const plain[] = {"example.net", "a", "_x+(;@$.b", "1.2"};
    static const char *const not_plain[] = {"", ".", "A.b", "a.", "a b", "a\\.b"};

    (void)state;
    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
        char text[DNS_TEXT_MAX + 1];
        bool is_plain;

        ask(0, "9.7.18.198.in-addr.arpa", DNS_TYPE_PTR, 1232, 0);
        assert_int_equal(dns_answer_name(&q, plain[i], 60, &w), 0);
        ldns_pkt *p = read_answer(DNS_NOERROR, 1);
        ldns_rdf *name = ldns_rr_rdf(ldns_rr_list_rr(ldns_pkt_answer(p), 0), 0);

        assert_int_equal(ldns_rr_get_type(ldns_rr_list_rr(ldns_pkt_answer(p), 0)), DNS_TYPE_PTR);
        dns_name_text(ldns_rdf_data(name), text, &is_plain);
        assert_string_equal(text, plain[i]);
        ldns_pkt_free(p);
    }
    for (size_t i = 0; i < sizeof(not_plain) / sizeof(not_plain[0]); i++)
        assert_int_equal(dns_answer_name(&q, not_plain[i], 60, &w), -EINVAL);
}

static void no_record(void **state)
{
    static const enum dns_rcode rcodes[] = {DNS_NOERROR,  DNS_FORMERR, DNS_SERVFAIL,
                                            DNS_NXDOMAIN, DNS_NOTIMP,  DNS_REFUSED};

    (void)state;
    for (size_t i = 0; i < 2 * sizeof(rcodes) / sizeof(rcodes[0]); i++) {
        ask(DNS_FLAG_RD, "", DNS_TYPE_HTTPS, i % 2 ? 0 : -1, 0);
        assert_int_equal(dns_answer_rcode(&q, rcodes[i / 2], &w), 0);
        ldns_pkt_free(read_answer(rcodes[i / 2], 0));
    }
    ask(0, "example.net", DNS_TYPE_A, 1232, 1 << 16);
    assert_int_equal(dns_answer_rcode(&q, DNS_BADVERS, &w), 0);
    ldns_pkt_free(read_answer(DNS_BADVERS, 0));
    ask(0, "example.net", DNS_TYPE_A, -1, 0);
    assert_int_equal(dns_answer_rcode(&q, DNS_BADVERS, &w), -EINVAL);
    /* Opcodes that we do not know, and a message that is a header and nothing else. */
    put_header(&m, 9, 4 << 11 | DNS_FLAG_RD, 0, 0, 0, 0);
    assert_int_equal(dns_query_parse(m.data, 12, &q), DNS_NOTIMP);
    assert_int_equal(dns_answer_rcode(&q, DNS_NOTIMP, &w), 0);
    ldns_pkt_free(read_answer(DNS_NOTIMP, 0));
}

static void a_writer_without_room(void **state)
{
    (void)state;
    ask(0, "example.net", DNS_TYPE_A, 1232, 0);
    assert_int_equal(dns_answer_address(&q, &v4, 7, &w), 0);
    size_t len = w.pos;

    for (size_t n = 0; n < len; n++) {
        w = wire_writer(buf, n);
        assert_int_equal(dns_answer_address(&q, &v4, 7, &w), -ENOBUFS);
        assert_true(w.pos == 0 && !w.error);
    }
    w = wire_writer(buf, len + 3);
    wire_put_bytes(&w, "abc", 3); /* appended */
    assert_int_equal(dns_answer_address(&q, &v4, 7, &w), 0);
    assert_int_equal(w.pos, len + 3);
    assert_memory_equal(buf, "abc\x12\x34", 5);
}

static void the_longest_answer_fits(void **state)
{
    char asked[DNS_TEXT_MAX + 1], said[DNS_TEXT_MAX + 1];

    (void)state;
    long_name(asked, 255, 'x');
    long_name(said, 255, 'y');
    ask(0, asked, DNS_TYPE_PTR, 1232, 0);
    assert_int_equal(dns_answer_name(&q, said, 60, &w), 0);
    ldns_pkt *p = read_answer(DNS_NOERROR, 1);

    check_record(p, DNS_TYPE_PTR, 60, strcat(said, "."));
    ldns_pkt_free(p);
}

/* ---- Cutting ---- */

enum { TXT = 16 };

/* An answer of a server with `n` records of 100 bytes and, behind them, an OPT. */
static void server_answer(const char *name, unsigned n, int options)
{
    put_header(&m, 0x4321, DNS_FLAG_QR | DNS_FLAG_RD | DNS_FLAG_RA | 0x0400, 1, n - n / 3 - n / 3,
               n / 3, n / 3 + (options >= 0));
    put_question(&m, name, TXT);
    for (unsigned i = 0; i < n; i++) {
        if (i % 2)
            wire_put_u16(&m.w, 0xc00c);
        else
            put_name(&m, "other.example");
        put_fields(&m, TXT, DNS_CLASS_IN, 60, 100);
        for (unsigned j = 0; j < 100; j++)
            wire_put_u8(&m.w, j ? 'x' : 99);
    }
    if (options >= 0)
        put_opt(&m, 1232, 0x8000, (unsigned)options);
}

static int cut(size_t max)
{
    uint8_t *copy = exact(m.data, m.w.pos);
    int r = dns_truncate(copy, m.w.pos, max);

    if (r > 0)
        memcpy(m.data, copy, m.w.pos);
    else
        assert_memory_equal(m.data, copy, m.w.pos);
    free(copy);
    return r;
}

static void what_fits_stays(void **state)
{
    static struct message before;

    (void)state;
    server_answer("example.net", 3, 0);
    before = m;
    assert_int_equal(cut(m.w.pos), m.w.pos);
    assert_int_equal(cut(DNS_UDP_MAX), m.w.pos);
    assert_memory_equal(m.data, before.data, m.w.pos);
    assert_true(cut(m.w.pos - 1) < (int)m.w.pos);
}

static void header_question_and_opt_stay(void **state)
{
    (void)state;
    for (unsigned n = 6; n <= 500; n += 247) {
        for (int options = -1; options <= 20; options += 7) {
            ldns_pkt *p = NULL;

            server_answer("Example.NET", n, options);
            size_t question = 12 + 13 + 4;
            int len = cut(512);

            assert_int_equal(len, question + (options < 0 ? 0 : 11 + (size_t)options));
            assert_int_equal(ldns_wire2pkt(&p, m.data, (size_t)len), LDNS_STATUS_OK);
            assert_true(ldns_pkt_tc(p) && ldns_pkt_aa(p) && ldns_pkt_qr(p) && ldns_pkt_ra(p));
            assert_int_equal(ldns_pkt_id(p), 0x4321);
            assert_int_equal(ldns_pkt_qdcount(p), 1);
            assert_int_equal(ldns_pkt_ancount(p) + ldns_pkt_nscount(p) + ldns_pkt_arcount(p), 0);
            assert_int_equal(ldns_pkt_edns(p), options >= 0);
            if (options >= 0)
                assert_true(ldns_pkt_edns_do(p) && ldns_pkt_edns_udp_size(p) == 1232);
            assert_memory_equal(m.data + 12, "\7Example\3NET", 13);
            ldns_pkt_free(p);
        }
    }
}

static void options_that_do_not_fit_go(void **state)
{
    char name[DNS_TEXT_MAX + 1];
    size_t question = 12 + 255 + 4;

    (void)state;
    long_name(name, 255, 'q');
    for (int options = 512 - (int)question - 11 - 1; options < 512 - (int)question - 11 + 2;
         options++) {
        ldns_pkt *p = NULL;

        server_answer(name, 10, options);
        int len = cut(512);

        if (question + 11 + (size_t)options <= 512) {
            assert_int_equal(len, question + 11 + (size_t)options);
            continue;
        }
        assert_int_equal(len, question + 11);
        assert_int_equal(ldns_wire2pkt(&p, m.data, (size_t)len), LDNS_STATUS_OK);
        assert_true(ldns_pkt_edns(p));
        assert_null(ldns_pkt_edns_data(p));
        ldns_pkt_free(p);
    }
}

/* What a server sent may be anything behind its question: cut it is all the same, without the OPT
 * that could not be reached. */
static void broken_records(void **state)
{
    size_t question = 12 + 13 + 4;

    (void)state;
    server_answer("example.net", 30, 0);
    m.data[question] = 0x80; /* no label type */
    assert_int_equal(cut(512), question);
    server_answer("example.net", 30, 0);
    m.data[6] = m.data[7] = m.data[8] = m.data[9] = 0xff; /* more records than there are */
    assert_int_equal(cut(512), question + 11);
    assert_int_equal(m.data[11], 1);
    server_answer("example.net", 30, 0);
    m.w.pos -= 1; /* the OPT is not whole */
    assert_int_equal(cut(512), question);
    assert_int_equal(m.data[11], 0);
    server_answer("example.net", 6, -1); /* an OPT of a name that is not the root is none */
    put_name(&m, "a");
    put_fields(&m, DNS_TYPE_OPT, 1232, 0, 0);
    m.data[11]++;
    assert_int_equal(cut(512), question);
}

static void no_answer_to_cut(void **state)
{
    (void)state;
    server_answer("example.net", 30, 0);
    m.data[2] &= 0x7f; /* a query */
    assert_int_equal(cut(512), -EPROTO);
    for (unsigned n = 0; n < 3; n += 2) {
        server_answer("example.net", 30, 0);
        m.data[5] = (uint8_t)n;
        assert_int_equal(cut(512), -EPROTO);
    }
    server_answer("example.net", 30, 0);
    m.data[12] = 0xc0;
    assert_int_equal(cut(512), -EPROTO);
    server_answer("example.net", 30, 0);
    assert_int_equal(cut(12 + 13 + 3), -EPROTO); /* less than anybody takes */
    for (size_t n = 0; n < 12 + 13 + 4; n++) {
        m.w.pos = n;
        assert_int_equal(n == 0 ? -EPROTO : cut(n - 1), -EPROTO);
    }
}

/* Ours are cut by the same rule. */
static void our_own_longest_answer_is_cut(void **state)
{
    char asked[DNS_TEXT_MAX + 1], said[DNS_TEXT_MAX + 1];
    ldns_pkt *p = NULL;

    (void)state;
    long_name(asked, 255, 'x');
    long_name(said, 255, 'y');
    ask(0, asked, DNS_TYPE_PTR, 512, 0);
    assert_int_equal(dns_answer_name(&q, said, 60, &w), 0);
    assert_true(w.pos > q.udp_size);
    int len = dns_truncate(buf, w.pos, q.udp_size);

    assert_int_equal(len, 12 + 255 + 4 + 11);
    assert_int_equal(ldns_wire2pkt(&p, buf, (size_t)len), LDNS_STATUS_OK);
    assert_true(ldns_pkt_tc(p) && ldns_pkt_edns(p));
    ldns_pkt_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses),
        cmocka_unit_test(only_what_was_asked_for),
        cmocka_unit_test(names),
        cmocka_unit_test(no_record),
        cmocka_unit_test(a_writer_without_room),
        cmocka_unit_test(the_longest_answer_fits),
        cmocka_unit_test(what_fits_stays),
        cmocka_unit_test(header_question_and_opt_stay),
        cmocka_unit_test(options_that_do_not_fit_go),
        cmocka_unit_test(broken_records),
        cmocka_unit_test(no_answer_to_cut),
        cmocka_unit_test(our_own_longest_answer_is_cut),
    };

    return cmocka_run_group_tests_name("dns/answer", tests, setup, NULL);
}
