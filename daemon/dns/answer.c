/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dns/answer.h. Whole messages are put together by ldns, from a question that query.c found right.
 * Answers of servers, which may have 64 KiB and anything in them, are cut without it: a walk over
 * the records' headers is all that takes.
 */
#include "dns/answer.h"

#include <errno.h>
#include <ldns/ldns.h>
#include <stdlib.h>

#include "dns/name.h"

/* ---- Whole messages ---- */

/* The question's name as the owner of a new record; NULL: no memory. */
static ldns_rr *new_record(const struct dns_query *q)
{
    ldns_rr *rr = ldns_rr_new();
    ldns_rdf *owner = ldns_rdf_new_frm_data(LDNS_RDF_TYPE_DNAME, q->wire_len, q->wire);

    if (!rr || !owner) {
        ldns_rr_free(rr);
        ldns_rdf_deep_free(owner);
        return NULL;
    }
    ldns_rr_set_owner(rr, owner);
    return rr;
}

/* Takes the record, also when it fails. */
static int push(ldns_pkt *p, ldns_pkt_section section, ldns_rr *rr)
{
    if (rr && ldns_pkt_push_rr(p, section, rr))
        return 0;
    ldns_rr_free(rr);
    return -ENOMEM;
}

static int push_question(ldns_pkt *p, const struct dns_query *q)
{
    ldns_rr *rr = new_record(q);

    if (rr) {
        ldns_rr_set_question(rr, true);
        ldns_rr_set_type(rr, (ldns_rr_type)q->type);
        ldns_rr_set_class(rr, (ldns_rr_class)q->class);
    }
    return push(p, LDNS_SECTION_QUESTION, rr);
}

/* The one record of an answer. Takes `rdata`; NULL: there was no memory for it. */
static int push_answer(ldns_pkt *p, const struct dns_query *q, enum dns_type type, uint32_t ttl,
                       ldns_rdf *rdata)
{
    ldns_rr *rr = rdata ? new_record(q) : NULL;

    if (!rr || !ldns_rr_push_rdf(rr, rdata)) {
        ldns_rdf_deep_free(rdata);
        ldns_rr_free(rr);
        return -ENOMEM;
    }
    ldns_rr_set_type(rr, (ldns_rr_type)type);
    ldns_rr_set_class(rr, LDNS_RR_CLASS_IN);
    ldns_rr_set_ttl(rr, ttl & INT32_MAX);
    return push(p, LDNS_SECTION_ANSWER, rr);
}

/* Header, question and OPT. */
static int new_answer(const struct dns_query *q, enum dns_rcode rcode, ldns_pkt **ret)
{
    ldns_pkt *p = ldns_pkt_new();

    if (!p)
        return -ENOMEM;
    ldns_pkt_set_id(p, q->id);
    ldns_pkt_set_qr(p, true);
    ldns_pkt_set_opcode(p, (ldns_pkt_opcode)DNS_FLAGS_OPCODE(q->flags));
    ldns_pkt_set_rd(p, q->flags & DNS_FLAG_RD);
    ldns_pkt_set_cd(p, q->flags & DNS_FLAG_CD);
    ldns_pkt_set_ra(p, true);
    ldns_pkt_set_rcode(p, rcode & 15);
    if (q->edns) {
        ldns_pkt_set_edns_udp_size(p, DNS_UDP_OURS);
        ldns_pkt_set_edns_do(p, q->dnssec_ok);
        ldns_pkt_set_edns_extended_rcode(p, (uint8_t)(rcode >> 4));
    }
    if (q->has_question && push_question(p, q) < 0) {
        ldns_pkt_free(p);
        return -ENOMEM;
    }
    *ret = p;
    return 0;
}

static int write_answer(const ldns_pkt *p, struct wire_writer *w)
{
    struct wire_writer out = *w;
    uint8_t *data = NULL;
    size_t len = 0;

    if (ldns_pkt2wire(&data, p, &len) != LDNS_STATUS_OK)
        return -ENOMEM;
    wire_put_bytes(&out, data, len);
    free(data);
    if (out.error)
        return -ENOBUFS;
    *w = out;
    return 0;
}

int dns_answer_rcode(const struct dns_query *q, enum dns_rcode rcode, struct wire_writer *w)
{
    ldns_pkt *p = NULL;

    if (rcode > 15 && !q->edns)
        return -EINVAL;
    int r = new_answer(q, rcode, &p);

    if (r == 0)
        r = write_answer(p, w);
    ldns_pkt_free(p);
    return r;
}

static bool asks_for(const struct dns_query *q, enum dns_type type)
{
    return q->has_question && (q->type == type || q->type == DNS_TYPE_ANY) &&
           (q->class == DNS_CLASS_IN || q->class == DNS_CLASS_ANY);
}

static int answer_record(const struct dns_query *q, enum dns_type type, uint32_t ttl,
                         ldns_rdf *rdata, struct wire_writer *w)
{
    ldns_pkt *p = NULL;
    int r = new_answer(q, DNS_NOERROR, &p);

    if (r < 0)
        ldns_rdf_deep_free(rdata);
    else
        r = push_answer(p, q, type, ttl, rdata);
    if (r == 0)
        r = write_answer(p, w);
    ldns_pkt_free(p);
    return r;
}

int dns_answer_address(const struct dns_query *q, const struct addr *a, uint32_t ttl,
                       struct wire_writer *w)
{
    bool v4 = addr_is_v4(a);
    enum dns_type type = v4 ? DNS_TYPE_A : DNS_TYPE_AAAA;

    if (!asks_for(q, type))
        return -EINVAL;
    return answer_record(q, type, ttl,
                         v4 ? ldns_rdf_new_frm_data(LDNS_RDF_TYPE_A, 4, a->ip + 12)
                            : ldns_rdf_new_frm_data(LDNS_RDF_TYPE_AAAA, 16, a->ip),
                         w);
}

int dns_answer_name(const struct dns_query *q, const char *name, uint32_t ttl,
                    struct wire_writer *w)
{
    if (!asks_for(q, DNS_TYPE_PTR) || !dns_name_is_plain(name, strnlen(name, DNS_PLAIN_MAX + 1)))
        return -EINVAL;
    return answer_record(q, DNS_TYPE_PTR, ttl, ldns_rdf_new_frm_str(LDNS_RDF_TYPE_DNAME, name), w);
}

/* ---- Messages of others ---- */

/* The OPT of the root among the records that follow; false: none, or the rest is broken. Its bytes
 * are *ret_opt, its options are the last *ret_options of *ret_len. */
static bool find_opt(struct wire_reader *r, unsigned n_records, const uint8_t **ret_opt,
                     size_t *ret_len, size_t *ret_options)
{
    for (unsigned i = 0; i < n_records; i++) {
        size_t start = r->pos;

        if (dns_skip_name(r) < 0)
            return false;
        bool root = r->pos == start + 1;
        uint16_t type = wire_get_u16(r);

        wire_take(r, 6); /* class and TTL */
        uint16_t options = wire_get_u16(r);

        wire_take(r, options);
        if (r->error)
            return false;
        if (type == DNS_TYPE_OPT && root) {
            *ret_opt = r->data + start;
            *ret_len = r->pos - start;
            *ret_options = options;
            return true;
        }
    }
    return false;
}

int dns_truncate(uint8_t *answer, size_t len, size_t max)
{
    struct wire_reader r = wire_reader(answer, len);
    const uint8_t *opt = NULL;
    size_t opt_len = 0, options = 0;

    if (len <= max)
        return (int)len;
    uint16_t id = wire_get_u16(&r), flags = wire_get_u16(&r), questions = wire_get_u16(&r);
    unsigned records = wire_get_u16(&r); /* three sections, each up to 65535 */

    records += wire_get_u16(&r);
    records += wire_get_u16(&r);
    int name = r.error ? -EPROTO : dns_name_wire(answer + r.pos, wire_left(&r));

    if (name < 0 || !(flags & DNS_FLAG_QR) || questions != 1)
        return -EPROTO;
    wire_take(&r, (size_t)name);
    wire_take(&r, 4);
    if (r.error || r.pos > max)
        return -EPROTO;
    struct wire_writer w = wire_writer(answer, max);
    size_t kept = r.pos;
    bool has_opt = find_opt(&r, records, &opt, &opt_len, &options);

    if (has_opt && kept + opt_len > max) {
        opt_len -= options;
        options = 0;
    }
    has_opt = has_opt && kept + opt_len <= max;
    wire_put_u16(&w, id);
    wire_put_u16(&w, flags | DNS_FLAG_TC);
    wire_put_u16(&w, 1);
    wire_put_u16(&w, 0);
    wire_put_u16(&w, 0);
    wire_put_u16(&w, has_opt);
    if (!has_opt)
        return (int)kept;
    memmove(answer + kept, opt, opt_len);
    w.pos = kept + opt_len - options - 2;
    wire_put_u16(&w, (uint16_t)options);
    return (int)(kept + opt_len);
}
