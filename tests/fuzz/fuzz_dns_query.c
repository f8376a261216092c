/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A datagram of a client: parsed, its name compared with what ldns makes of it, answered in every
 * way, and every answer read by ldns. The same bytes as a server's answer, cut.
 */
#include <errno.h>
#include <ldns/ldns.h>
#include <stdbool.h>
#include <string.h>

#include "dns/answer.h"
#include "dns/name.h"
#include "dns/real.h"
#include "fuzz.h"

static uint8_t *exact(const uint8_t *data, size_t n)
{
    uint8_t *copy = malloc(n + !n);

    FUZZ_CHECK(copy);
    if (n > 0)
        memcpy(copy, data, n);
    return copy;
}

static void check_name(const struct dns_query *q)
{
    struct addr a;
    uint8_t small[DNS_WIRE_MAX];
    ldns_rdf *name = ldns_dname_new_frm_str(q->name);

    FUZZ_CHECK(q->wire_len >= 1 && q->wire[q->wire_len - 1] == 0);
    FUZZ_CHECK(dns_name_wire(q->wire, q->wire_len) == q->wire_len);
    FUZZ_CHECK(strlen(q->name) == q->name_len);
    FUZZ_CHECK(dns_name_is_plain(q->name, q->name_len) == q->plain);
    for (size_t i = 0; i < q->wire_len; i++)
        small[i] = q->wire[i] >= 'A' && q->wire[i] <= 'Z' ? q->wire[i] + 'a' - 'A' : q->wire[i];
    FUZZ_CHECK(name && ldns_rdf_size(name) == q->wire_len);
    FUZZ_CHECK(memcmp(ldns_rdf_data(name), small, q->wire_len) == 0);
    ldns_rdf_deep_free(name);
    int r = dns_reverse_parse(q->name, q->name_len, &a);

    FUZZ_CHECK(r == 0 || r == -ENOENT || r == -EINVAL);
    FUZZ_CHECK(r != 0 || (a.port == 0 && a.scope == 0 && a.unused == 0));
    if (q->plain) {
        static struct real *real;
        size_t bad;

        if (!real)
            FUZZ_CHECK(real_new((const char *const[]){"example.net", "*.x", "."}, 3, &real, &bad) ==
                       0);
        real_match(real, q->name, q->name_len);
    }
}

/* What was written, if it was: ldns can read it, and it fits in any size that a client may have. */
static void check_answer(const struct dns_query *q, int r, struct wire_writer *w, unsigned rcode)
{
    ldns_pkt *p = NULL;

    FUZZ_CHECK(r == 0 || (r == -EINVAL && w->pos == 0));
    if (r < 0)
        return;
    for (int cut = 0; cut < 2; cut++) {
        int len = dns_truncate(w->data, w->pos, cut ? q->udp_size : DNS_ANSWER_MAX);

        FUZZ_CHECK(len >= DNS_HEADER_LEN && (!cut || len <= q->udp_size));
        FUZZ_CHECK(ldns_wire2pkt(&p, w->data, (size_t)len) == LDNS_STATUS_OK);
        FUZZ_CHECK(ldns_pkt_id(p) == q->id && ldns_pkt_qr(p));
        FUZZ_CHECK(ldns_pkt_edns(p) == q->edns);
        FUZZ_CHECK((ldns_pkt_get_rcode(p) | ldns_pkt_edns_extended_rcode(p) << 4) == rcode);
        FUZZ_CHECK(ldns_pkt_qdcount(p) == q->has_question);
        FUZZ_CHECK(!q->has_question || memcmp(w->data + DNS_HEADER_LEN, q->wire, q->wire_len) == 0);
        ldns_pkt_free(p);
    }
}

static void answer_all(const struct dns_query *q)
{
    static const enum dns_rcode rcodes[] = {DNS_NOERROR, DNS_FORMERR, DNS_SERVFAIL,
                                            DNS_NOTIMP,  DNS_REFUSED, DNS_BADVERS};
    uint8_t buf[DNS_ANSWER_MAX];
    struct wire_writer w;
    struct addr v4, v6;

    FUZZ_CHECK(addr_parse("198.18.1.2", 0, &v4) == 0 && addr_parse("fdf6::1", 0, &v6) == 0);
    for (size_t i = 0; i < sizeof(rcodes) / sizeof(rcodes[0]); i++) {
        w = wire_writer(buf, sizeof(buf));
        check_answer(q, dns_answer_rcode(q, rcodes[i], &w), &w, rcodes[i]);
    }
    w = wire_writer(buf, sizeof(buf));
    check_answer(q, dns_answer_address(q, &v4, 60, &w), &w, 0);
    w = wire_writer(buf, sizeof(buf));
    check_answer(q, dns_answer_address(q, &v6, 60, &w), &w, 0);
    w = wire_writer(buf, sizeof(buf));
    check_answer(q, dns_answer_name(q, q->plain ? q->name : "x", 60, &w), &w, 0);
}

/* The bytes as an answer that is too long. */
static void cut(const uint8_t *data, size_t size)
{
    static const size_t sizes[] = {512, 700, 4096};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint8_t *copy = exact(data, size);
        int len = dns_truncate(copy, size, sizes[i]);

        if (size <= sizes[i]) {
            FUZZ_CHECK(len == (int)size && memcmp(copy, data, size) == 0);
        } else if (len < 0) {
            FUZZ_CHECK(memcmp(copy, data, size) == 0);
        } else {
            FUZZ_CHECK((size_t)len <= sizes[i] && len >= DNS_HEADER_LEN + 5);
            FUZZ_CHECK(copy[2] & 0x02 && copy[5] == 1 && copy[7] == 0 && copy[9] == 0);
            FUZZ_CHECK(memcmp(copy, data, 2) == 0);
            FUZZ_CHECK(memcmp(copy + DNS_HEADER_LEN, data + DNS_HEADER_LEN, 5) == 0);
            FUZZ_CHECK(dns_truncate(copy, (size_t)len, sizes[i]) == len);
        }
        free(copy);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct dns_query q, poison, second;

    memset(&poison, 0xa5, sizeof(poison));
    q = poison;
    uint8_t *copy = exact(data, size);
    int r = dns_query_parse(copy, size, &q);

    free(copy);
    cut(data, size);
    if (r < 0) {
        FUZZ_CHECK(memcmp(&q, &poison, sizeof(q)) == 0);
        return 0;
    }
    FUZZ_CHECK(r == DNS_NOERROR || r == DNS_FORMERR || r == DNS_NOTIMP || r == DNS_BADVERS);
    FUZZ_CHECK(q.len >= DNS_HEADER_LEN && q.len <= size);
    FUZZ_CHECK(q.udp_size >= DNS_UDP_PLAIN && q.udp_size <= DNS_UDP_MAX);
    FUZZ_CHECK(q.has_question || r == DNS_FORMERR || r == DNS_NOTIMP);
    FUZZ_CHECK(q.edns || (!q.dnssec_ok && q.udp_size == DNS_UDP_PLAIN && r != DNS_BADVERS));
    if (q.has_question)
        check_name(&q);
    if (r == DNS_NOERROR) {
        /* Nothing behind the message has a say, and nothing less will do. */
        copy = exact(data, q.len);
        FUZZ_CHECK(dns_query_parse(copy, q.len, &second) == 0);
        FUZZ_CHECK(second.len == q.len && second.wire_len == q.wire_len);
        free(copy);
        copy = exact(data, q.len - 1u);
        FUZZ_CHECK(dns_query_parse(copy, q.len - 1u, &second) == DNS_FORMERR);
        free(copy);
    }
    answer_all(&q);
    return 0;
}
