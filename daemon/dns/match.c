/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dns/match.h. A slot's number is in the low bits of the ids that it uses, so an answer finds its
 * slot without a search; the bits above count its uses, so that an id comes back as late as
 * possible, and so does the ring of free slots, which is used from the other end. Everything is
 * exclusive-or'ed with a number that differs from table to table.
 */
#include "dns/match.h"

#include <errno.h>

/* ---- Framing ---- */

int dns_frame_decode(const uint8_t *data, size_t len, const uint8_t **ret_message, size_t *ret_len)
{
    struct wire_reader r = wire_reader(data, len);
    uint16_t n = wire_get_u16(&r);

    if (r.error)
        return 0;
    if (n < DNS_HEADER_LEN)
        return -EPROTO;
    const uint8_t *message = wire_take(&r, n);

    if (!message)
        return 0;
    *ret_message = message;
    *ret_len = n;
    return (int)r.pos;
}

int dns_frame_encode(struct wire_writer *w, const uint8_t *message, size_t len)
{
    struct wire_writer out = *w;

    if (len < DNS_HEADER_LEN || len > DNS_MESSAGE_MAX)
        return -EMSGSIZE;
    wire_put_u16(&out, (uint16_t)len);
    wire_put_bytes(&out, message, len);
    if (out.error)
        return -ENOBUFS;
    *w = out;
    return 0;
}

/* ---- Rings ---- */

#define NONE UINT16_MAX /* the head of an empty ring */

static void ring_append(struct dns_pending *slots, uint16_t *head, uint16_t slot)
{
    struct dns_pending *s = &slots[slot];

    if (*head == NONE) {
        s->next = s->prev = *head = slot;
        return;
    }
    s->next = *head;
    s->prev = slots[*head].prev;
    slots[s->prev].next = slot;
    slots[s->next].prev = slot;
}

static void ring_remove(struct dns_pending *slots, uint16_t *head, uint16_t slot)
{
    struct dns_pending *s = &slots[slot];

    slots[s->prev].next = s->next;
    slots[s->next].prev = s->prev;
    if (*head == slot)
        *head = s->next == slot ? NONE : s->next;
}

/* ---- The table ---- */

int dns_match_init(struct dns_match *m, struct dns_pending *slots, uint32_t n_slots,
                   int64_t timeout, uint16_t random)
{
    if (n_slots == 0 || n_slots > DNS_MATCH_MAX || (n_slots & (n_slots - 1)) || timeout < 1)
        return -EINVAL;
    *m = (struct dns_match){.slots = slots,
                            .timeout = timeout,
                            .n_slots = n_slots,
                            .waiting = NONE,
                            .free = NONE,
                            .mask = random};
    memset(slots, 0, n_slots * sizeof(slots[0]));
    for (uint32_t i = 0; i < n_slots; i++) {
        slots[i].id = (uint16_t)(i ^ random);
        ring_append(slots, &m->free, (uint16_t)i);
    }
    return 0;
}

static uint16_t slot_of(const struct dns_match *m, uint16_t id)
{
    return (uint16_t)((id ^ m->mask) & (m->n_slots - 1));
}

int dns_match_add(struct dns_match *m, const struct dns_query *q, const uint8_t *data, uint64_t ref,
                  int64_t now, const struct dns_pending **ret)
{
    if (q->len > DNS_MATCH_QUERY_MAX)
        return -EMSGSIZE;
    uint16_t slot = m->free;

    if (slot == NONE)
        return -ENOSPC;
    struct dns_pending *s = &m->slots[slot];

    ring_remove(m->slots, &m->free, slot);
    ring_append(m->slots, &m->waiting, slot);
    m->n_waiting++;
    s->waiting = true;
    s->ref = ref;
    s->deadline = now + m->timeout;
    s->id = (uint16_t)(((s->id ^ m->mask) + m->n_slots) ^ m->mask);
    s->client_id = q->id;
    s->len = q->len;
    s->question_len = (uint16_t)(q->wire_len + 4);
    s->udp_size = q->udp_size;
    memcpy(s->message, data, q->len);
    dns_set_id(s->message, s->id);
    *ret = s;
    return 0;
}

/* From here on the message is the client's again, with its own id. */
static void take_out(struct dns_match *m, uint16_t slot)
{
    struct dns_pending *s = &m->slots[slot];

    ring_remove(m->slots, &m->waiting, slot);
    ring_append(m->slots, &m->free, slot);
    s->waiting = false;
    dns_set_id(s->message, s->client_id);
    m->n_waiting--;
}

int dns_match_find(const struct dns_match *m, const uint8_t *message, size_t len,
                   const struct dns_pending **ret)
{
    struct wire_reader r = wire_reader(message, len);
    uint16_t id = wire_get_u16(&r), flags = wire_get_u16(&r), questions = wire_get_u16(&r);

    wire_take(&r, 6); /* the other three counts */
    if (r.error || !(flags & DNS_FLAG_QR) || DNS_FLAGS_OPCODE(flags) != DNS_OPCODE_QUERY)
        return -EPROTO;
    if (questions > 1 || (questions == 0 && DNS_FLAGS_RCODE(flags) == DNS_NOERROR))
        return -EPROTO;
    const struct dns_pending *s = &m->slots[slot_of(m, id)];

    if (!s->waiting || s->id != id)
        return -ENOENT;
    if (questions == 1) {
        const uint8_t *question = wire_take(&r, s->question_len);

        /* A question that is the same to the byte ends where ours ends, so it is not parsed. */
        if (!question || memcmp(question, s->message + DNS_HEADER_LEN, s->question_len) != 0)
            return -ENOENT;
    }
    *ret = s;
    return 0;
}

int dns_match_answer(struct dns_match *m, const uint8_t *message, size_t len,
                     const struct dns_pending **ret)
{
    int r = dns_match_find(m, message, len, ret);

    if (r == 0)
        dns_match_remove(m, *ret);
    return r;
}

bool dns_match_expired(struct dns_match *m, int64_t now, const struct dns_pending **ret)
{
    if (dns_match_deadline(m) > now)
        return false;
    return dns_match_pop(m, ret);
}

void dns_match_remove(struct dns_match *m, const struct dns_pending *p)
{
    take_out(m, (uint16_t)(p - m->slots));
}

int64_t dns_match_deadline(const struct dns_match *m)
{
    return m->waiting == NONE ? INT64_MAX : m->slots[m->waiting].deadline;
}

bool dns_match_each(const struct dns_match *m, const struct dns_pending **ret)
{
    uint16_t next = *ret ? (*ret)->next : m->waiting;

    if (next == NONE || (*ret && next == m->waiting))
        return false;
    *ret = &m->slots[next];
    return true;
}

bool dns_match_pop(struct dns_match *m, const struct dns_pending **ret)
{
    uint16_t slot = m->waiting;

    if (slot == NONE)
        return false;
    take_out(m, slot);
    *ret = &m->slots[slot];
    return true;
}
