/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dns/query.h. Every client's datagram comes through here, so this neither allocates nor follows
 * pointers; what takes longest, the additional section, is bounded by the length of the datagram.
 */
#include "dns/query.h"

#include <errno.h>

#include "dns/name.h"

#define EDNS_DO 0x8000 /* in the low half of the OPT's TTL */

struct header {
    uint16_t id, flags, questions, answers, authorities, additionals;
};

static struct header read_header(struct wire_reader *r)
{
    struct header h;

    h.id = wire_get_u16(r);
    h.flags = wire_get_u16(r);
    h.questions = wire_get_u16(r);
    h.answers = wire_get_u16(r);
    h.authorities = wire_get_u16(r);
    h.additionals = wire_get_u16(r);
    return h;
}

static int read_question(struct wire_reader *r, struct dns_query *q)
{
    int n = dns_name_wire(r->data + r->pos, wire_left(r));

    if (n < 0)
        return n;
    const uint8_t *name = wire_take(r, (size_t)n);
    uint16_t type = wire_get_u16(r), class = wire_get_u16(r);

    if (r->error || !name)
        return -EPROTO;
    q->wire_len = (uint8_t)n;
    memcpy(q->wire, name, (size_t)n);
    q->name_len = (uint16_t)dns_name_text(q->wire, q->name, &q->plain);
    q->type = type;
    q->class = class;
    q->has_question = true;
    return 0;
}

/* One record of the additional section; of an OPT the fields are kept. */
static int read_additional(struct wire_reader *r, struct dns_query *q)
{
    size_t start = r->pos;

    if (dns_skip_name(r) < 0)
        return -EPROTO;
    bool root = r->pos == start + 1;
    uint16_t type = wire_get_u16(r), class = wire_get_u16(r), high = wire_get_u16(r),
             low = wire_get_u16(r);

    wire_take(r, wire_get_u16(r));
    if (r->error)
        return -EPROTO;
    if (type != DNS_TYPE_OPT)
        return 0;
    if (q->edns || !root) /* RFC 6891 section 6.1.1 and 6.1.2 */
        return -EPROTO;
    q->edns = true;
    q->edns_version = high & 0xff;
    q->dnssec_ok = low & EDNS_DO;
    q->udp_size = class < DNS_UDP_PLAIN ? DNS_UDP_PLAIN : class > DNS_UDP_MAX ? DNS_UDP_MAX : class;
    return 0;
}

/* What is behind the header of a message with opcode QUERY. */
static int read_body(struct wire_reader *r, const struct header *h, struct dns_query *q)
{
    if (h->questions != 1 || h->answers != 0 || h->authorities != 0)
        return -EPROTO;
    if (read_question(r, q) < 0)
        return -EPROTO;
    for (unsigned i = 0; i < h->additionals; i++)
        if (read_additional(r, q) < 0)
            return -EPROTO;
    return 0;
}

int dns_query_parse(const uint8_t *data, size_t len, struct dns_query *ret)
{
    struct wire_reader r = wire_reader(data, len);

    if (len > DNS_QUERY_MAX)
        return -EMSGSIZE;
    struct header h = read_header(&r);

    if (r.error || h.flags & DNS_FLAG_QR)
        return -EBADMSG;
    struct dns_query q = {
        .id = h.id, .flags = h.flags, .len = (uint16_t)len, .udp_size = DNS_UDP_PLAIN};
    int rcode = DNS_NOERROR;

    if (DNS_FLAGS_OPCODE(h.flags) != DNS_OPCODE_QUERY) {
        rcode = DNS_NOTIMP;
    } else if (read_body(&r, &h, &q) < 0) {
        /* What was wrong may have been the OPT: the answer does without. */
        rcode = DNS_FORMERR;
        q.edns = q.dnssec_ok = false;
        q.edns_version = 0;
        q.udp_size = DNS_UDP_PLAIN;
    } else {
        q.len = (uint16_t)r.pos;
        if (q.edns && q.edns_version != 0)
            rcode = DNS_BADVERS;
    }
    *ret = q;
    return rcode;
}

void dns_set_id(uint8_t *message, uint16_t id)
{
    struct wire_writer w = wire_writer(message, 2);

    wire_put_u16(&w, id);
}
