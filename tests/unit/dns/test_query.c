/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dns/query.h: what a client may send, right and wrong. */
#include "dns/query.h"

#include <errno.h>

#include "message.h"

static struct message m;
static struct dns_query q;

static bool untouched(void)
{
    const uint8_t *p = (const uint8_t *)&q;

    for (size_t i = 0; i < sizeof(q); i++)
        if (p[i] != POISON)
            return false;
    return true;
}

/* `m` up to `len`, from a block of that size into a poisoned query. */
static int parse_part(size_t len)
{
    uint8_t *copy = exact(m.data, len);

    memset(&q, POISON, sizeof(q));
    int r = dns_query_parse(copy, len, &q);

    free(copy);
    assert_int_equal(r < 0, untouched());
    return r;
}

static int parse(void)
{
    return parse_part(m.w.pos);
}

static void a_query_of_a_stub_resolver(void **state)
{
    (void)state;
    put_query(&m, 0xbeef, "WWW.Example.Net", DNS_TYPE_AAAA);
    assert_int_equal(parse(), 0);
    assert_int_equal(q.id, 0xbeef);
    assert_int_equal(q.flags, DNS_FLAG_RD);
    assert_int_equal(q.len, m.w.pos);
    assert_true(q.has_question && q.plain);
    assert_string_equal(q.name, "www.example.net");
    assert_int_equal(q.name_len, 15);
    assert_int_equal(q.wire_len, 17);
    assert_memory_equal(q.wire, "\3WWW\7Example\3Net", 17); /* the case that the client chose */
    assert_int_equal(q.type, DNS_TYPE_AAAA);
    assert_int_equal(q.class, DNS_CLASS_IN);
    assert_false(q.edns || q.dnssec_ok);
    assert_int_equal(q.udp_size, 512);
}

/* Cut anywhere behind its header it is an error that can be answered, before that it is nothing. */
static void cut_short_anywhere(void **state)
{
    (void)state;
    put_header(&m, 7, DNS_FLAG_RD, 1, 0, 0, 1);
    put_question(&m, "example.net", DNS_TYPE_A);
    put_opt(&m, 1232, 0, 12);
    for (size_t n = 0; n < m.w.pos; n++) {
        assert_int_equal(parse_part(n), n < 12 ? -EBADMSG : DNS_FORMERR);
        if (n < 12)
            continue;
        assert_int_equal(q.id, 7);
        assert_int_equal(q.has_question, n >= 12 + 13 + 4);
        assert_false(q.edns);
        assert_int_equal(q.udp_size, 512);
    }
    assert_int_equal(parse(), 0);
    assert_true(q.edns);
}

static void bytes_behind_the_message_are_none_of_it(void **state)
{
    (void)state;
    put_query(&m, 1, "example.net", DNS_TYPE_A);
    size_t len = m.w.pos;

    put_name(&m, "rubbish");
    assert_int_equal(parse(), 0);
    assert_int_equal(q.len, len);
}

static void exactly_one_question_and_nothing_else(void **state)
{
    (void)state;
    for (unsigned n = 0; n < 4; n++) {
        put_header(&m, 1, 0, n, 0, 0, 0);
        for (unsigned i = 0; i < n; i++)
            put_question(&m, "example.net", DNS_TYPE_A);
        assert_int_equal(parse(), n == 1 ? 0 : DNS_FORMERR);
        assert_int_equal(q.has_question, n == 1);
    }
    put_header(&m, 1, 0, 65535, 0, 0, 0);
    put_question(&m, "example.net", DNS_TYPE_A);
    assert_int_equal(parse(), DNS_FORMERR);
    for (unsigned section = 0; section < 2; section++) {
        put_header(&m, 1, 0, 1, section == 0, section == 1, 0);
        put_question(&m, "example.net", DNS_TYPE_A);
        put_name(&m, "example.net");
        put_fields(&m, DNS_TYPE_A, DNS_CLASS_IN, 1, 4);
        wire_put_u16(&m.w, 0);
        wire_put_u16(&m.w, 0);
        assert_int_equal(parse(), DNS_FORMERR);
    }
}

static void an_answer_is_never_answered(void **state)
{
    (void)state;
    for (unsigned opcode = 0; opcode < 16; opcode++) {
        put_header(&m, 1, (uint16_t)(DNS_FLAG_QR | opcode << 11), 1, 0, 0, 0);
        put_question(&m, "example.net", DNS_TYPE_A);
        assert_int_equal(parse(), -EBADMSG);
        put_header(&m, 1, (uint16_t)(opcode << 11), 1, 0, 0, 0);
        put_question(&m, "example.net", DNS_TYPE_A);
        assert_int_equal(parse(), opcode == 0 ? 0 : DNS_NOTIMP);
        assert_int_equal(DNS_FLAGS_OPCODE(q.flags), opcode);
        assert_int_equal(q.has_question, opcode == 0);
    }
    put_header(&m, 1, 2 << 11, 0, 0, 0, 0); /* and of another opcode nothing else is looked at */
    assert_int_equal(parse(), DNS_NOTIMP);
}

static void no_query_is_longer_than_4096(void **state)
{
    (void)state;
    put_query(&m, 1, "example.net", DNS_TYPE_A);
    memset(m.data + m.w.pos, 0, sizeof(m.data) - m.w.pos);
    assert_int_equal(parse_part(4096), 0);
    assert_int_equal(parse_part(4097), -EMSGSIZE);
}

/* ---- Names ---- */

static void names_of_any_length_and_byte(void **state)
{
    char text[DNS_TEXT_MAX + 1];

    (void)state;
    put_query(&m, 1, "", DNS_TYPE_A);
    assert_int_equal(parse(), 0);
    assert_string_equal(q.name, ".");
    assert_int_equal(q.wire_len, 1);
    assert_false(q.plain);
    for (size_t n = 252; n <= 257; n++) {
        long_name(text, n, 'n');
        put_query(&m, 1, text, DNS_TYPE_A);
        assert_int_equal(parse(), n <= 255 ? 0 : DNS_FORMERR);
        if (n <= 255)
            assert_string_equal(q.name, text);
    }
    long_name(text, 255, '\xff');
    put_query(&m, 1, text, DNS_TYPE_A);
    assert_int_equal(parse(), 0);
    assert_false(q.plain);
    assert_int_equal(q.name_len, strlen(q.name));
    assert_memory_equal(q.name, "\\255\\255", 8);
    put_query(&m, 1,
              "b\xc3\xbc"
              "cher.example",
              DNS_TYPE_A);
    assert_int_equal(parse(), 0);
    assert_string_equal(q.name, "b\\195\\188cher.example");
    assert_false(q.plain);
}

/* A question's name has nothing before it that it could point to: loops included. */
static void compression_in_the_question(void **state)
{
    static const char *const names[] = {"\xc0\x0c", "\xc0\x00", "\1a\xc0\x0c", "\1a\xc0\x0e",
                                        "\xff\xff", "\x80",     "\x40"};

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        put_header(&m, 1, 0, 1, 0, 0, 0);
        wire_put_bytes(&m.w, names[i], strlen(names[i]) + (names[i][1] == '\0'));
        wire_put_u16(&m.w, DNS_TYPE_A);
        wire_put_u16(&m.w, DNS_CLASS_IN);
        assert_int_equal(parse(), DNS_FORMERR);
        assert_false(q.has_question);
    }
}

/* ---- EDNS ---- */

static int parse_edns(uint16_t size, uint32_t ttl, unsigned options)
{
    put_header(&m, 1, 0, 1, 0, 0, 1);
    put_question(&m, "example.net", DNS_TYPE_A);
    put_opt(&m, size, ttl, options);
    return parse();
}

static void the_size_that_a_client_takes(void **state)
{
    static const uint16_t sizes[][2] = {{0, 512},     {1, 512},     {511, 512},   {512, 512},
                                        {513, 513},   {1232, 1232}, {4095, 4095}, {4096, 4096},
                                        {4097, 4096}, {65535, 4096}};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        assert_int_equal(parse_edns(sizes[i][0], 0, 0), 0);
        assert_int_equal(q.udp_size, sizes[i][1]);
        assert_true(q.edns);
        assert_false(q.dnssec_ok);
    }
}

static void fields_of_the_opt(void **state)
{
    (void)state;
    assert_int_equal(parse_edns(1232, 0x8000, 0), 0);
    assert_true(q.dnssec_ok);
    assert_int_equal(parse_edns(1232, 0x7fff, 20), 0); /* unassigned bits are nobody's business */
    assert_false(q.dnssec_ok);
    assert_int_equal(parse_edns(1232, 0xff000000, 0), 0); /* and so is an extended rcode */
    for (uint32_t version = 1; version < 256; version += 127) {
        assert_int_equal(parse_edns(1232, version << 16, 0), DNS_BADVERS);
        assert_true(q.edns && q.has_question);
        assert_int_equal(q.edns_version, version);
        assert_int_equal(q.udp_size, 1232);
    }
}

static void one_opt_and_of_the_root(void **state)
{
    (void)state;
    put_header(&m, 1, 0, 1, 0, 0, 2);
    put_question(&m, "example.net", DNS_TYPE_A);
    put_opt(&m, 1232, 0x8000, 0);
    put_opt(&m, 1232, 0x8000, 0);
    assert_int_equal(parse(), DNS_FORMERR);
    assert_true(q.has_question);
    assert_false(q.edns || q.dnssec_ok);
    assert_int_equal(q.udp_size, 512);
    put_header(&m, 1, 0, 1, 0, 0, 1);
    put_question(&m, "example.net", DNS_TYPE_A);
    put_name(&m, "a");
    put_fields(&m, DNS_TYPE_OPT, 1232, 0, 0);
    assert_int_equal(parse(), DNS_FORMERR);
    put_header(&m, 1, 0, 1, 0, 0, 1);
    put_question(&m, "example.net", DNS_TYPE_A);
    wire_put_u16(&m.w, 0xc00c);
    put_fields(&m, DNS_TYPE_OPT, 1232, 0, 0);
    assert_int_equal(parse(), DNS_FORMERR);
}

static void other_additional_records_are_stepped_over(void **state)
{
    enum { TSIG = 250 };

    (void)state;
    put_header(&m, 1, 0, 1, 0, 0, 3);
    put_question(&m, "example.net", DNS_TYPE_A);
    wire_put_u16(&m.w, 0xc00c); /* compressed, as anywhere but in a question */
    put_fields(&m, TSIG, DNS_CLASS_ANY, 0, 3);
    wire_put_bytes(&m.w, "abc", 3);
    put_opt(&m, 900, 0, 0);
    put_name(&m, "key.example");
    put_fields(&m, TSIG, DNS_CLASS_ANY, 0, 0);
    assert_int_equal(parse(), 0);
    assert_int_equal(q.udp_size, 900);
    assert_int_equal(q.len, m.w.pos);
    m.data[11] = 4; /* one more is promised than there is */
    assert_int_equal(parse(), DNS_FORMERR);
    m.data[10] = m.data[11] = 0xff;
    assert_int_equal(parse(), DNS_FORMERR);
}

static void any_type_and_class_is_a_question(void **state)
{
    (void)state;
    put_header(&m, 1, 0, 1, 0, 0, 0);
    put_name(&m, "version.bind");
    wire_put_u16(&m.w, 16);
    wire_put_u16(&m.w, 3);
    assert_int_equal(parse(), 0);
    assert_int_equal(q.type, 16);
    assert_int_equal(q.class, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_query_of_a_stub_resolver),
        cmocka_unit_test(cut_short_anywhere),
        cmocka_unit_test(bytes_behind_the_message_are_none_of_it),
        cmocka_unit_test(exactly_one_question_and_nothing_else),
        cmocka_unit_test(an_answer_is_never_answered),
        cmocka_unit_test(no_query_is_longer_than_4096),
        cmocka_unit_test(names_of_any_length_and_byte),
        cmocka_unit_test(compression_in_the_question),
        cmocka_unit_test(the_size_that_a_client_takes),
        cmocka_unit_test(fields_of_the_opt),
        cmocka_unit_test(one_opt_and_of_the_root),
        cmocka_unit_test(other_additional_records_are_stepped_over),
        cmocka_unit_test(any_type_and_class_is_a_question),
    };

    return cmocka_run_group_tests_name("dns/query", tests, NULL, NULL);
}
