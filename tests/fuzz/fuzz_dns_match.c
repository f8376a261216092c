/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A connection to a DNS server: a script of queries, of bytes from the server in pieces of any
 * size, and of time, against a small table. Each command is a byte, the length of what belongs to
 * it, and that. Answers whose id the fuzzer could not know are helped by a command that puts one
 * in.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "dns/match.h"
#include "fuzz.h"

enum { SLOTS = 4, REFS = 4096, TIMEOUT = 100 };

static struct dns_pending slots[SLOTS];
static struct dns_match match;
static uint8_t waits[REFS]; /* of each ref: it was added and nobody took it out */
static uint64_t next_ref;
static int64_t now;

/* Rings, flags and counters say the same. */
static void check_table(void)
{
    const struct dns_pending *p = NULL;
    unsigned n = 0, n_free = 0;
    int64_t last = INT64_MIN;

    while (dns_match_each(&match, &p)) {
        FUZZ_CHECK(p >= slots && p < slots + SLOTS && p->waiting);
        FUZZ_CHECK(p->deadline >= last && p->ref < next_ref && waits[p->ref]);
        FUZZ_CHECK((p->message[0] << 8 | p->message[1]) == p->id);
        FUZZ_CHECK(p->len <= DNS_MATCH_QUERY_MAX && DNS_HEADER_LEN + p->question_len <= p->len);
        FUZZ_CHECK(last != INT64_MIN || dns_match_deadline(&match) == p->deadline);
        last = p->deadline;
        FUZZ_CHECK(++n <= SLOTS);
    }
    for (unsigned i = 0; i < SLOTS; i++)
        n_free += !slots[i].waiting;
    FUZZ_CHECK(n == match.n_waiting && n + n_free == SLOTS);
    FUZZ_CHECK((dns_match_deadline(&match) == INT64_MAX) == (n == 0));
}

static void taken_out(const struct dns_pending *p)
{
    static struct dns_query q;

    FUZZ_CHECK(p && !p->waiting && p->ref < next_ref && waits[p->ref] == 1);
    waits[p->ref] = 2;
    FUZZ_CHECK(dns_query_parse(p->message, p->len, &q) == 0);
    FUZZ_CHECK(q.id == p->client_id && q.udp_size == p->udp_size);
}

static void add(const uint8_t *data, size_t len)
{
    static struct dns_query q;
    const struct dns_pending *p = NULL;

    if (dns_query_parse(data, len, &q) != 0 || next_ref == REFS)
        return;
    unsigned before = match.n_waiting;
    int r = dns_match_add(&match, &q, data, next_ref, now, &p);

    FUZZ_CHECK(r == (q.len > DNS_MATCH_QUERY_MAX ? -EMSGSIZE : before == SLOTS ? -ENOSPC : 0));
    FUZZ_CHECK((r == 0) == (p != NULL) && match.n_waiting == before + (r == 0));
    if (r == 0)
        waits[next_ref++] = 1;
}

static void answer(const uint8_t *data, size_t len)
{
    const struct dns_pending *p = NULL;
    int r = dns_match_answer(&match, data, len, &p);

    FUZZ_CHECK(r == 0 || r == -ENOENT || r == -EPROTO);
    FUZZ_CHECK((r == 0) == (p != NULL));
    if (r < 0)
        return;
    taken_out(p);
    FUZZ_CHECK(p->id == (data[0] << 8 | data[1]) && data[2] & 0x80);
    if (data[5] == 1) /* the question to the byte */
        FUZZ_CHECK(len >= (size_t)DNS_HEADER_LEN + p->question_len &&
                   memcmp(data + DNS_HEADER_LEN, p->message + DNS_HEADER_LEN, p->question_len) ==
                       0);
    else
        FUZZ_CHECK(data[5] == 0 && data[4] == 0 && data[3] & 15);
    FUZZ_CHECK(dns_match_answer(&match, data, len, &p) != 0); /* once */
}

/* The server's bytes up to now; whole frames are taken from the front. */
static struct {
    uint8_t data[DNS_FRAME_MAX];
    size_t len;
    bool broken;
} stream;

static void receive(const uint8_t *data, size_t len)
{
    const uint8_t *message = NULL;
    size_t message_len = 0;

    if (stream.broken || len > sizeof(stream.data) - stream.len)
        return;
    memcpy(stream.data + stream.len, data, len);
    stream.len += len;
    for (;;) {
        int r = dns_frame_decode(stream.data, stream.len, &message, &message_len);

        if (r <= 0) {
            FUZZ_CHECK(r == 0 || r == -EPROTO);
            FUZZ_CHECK(r < 0 || stream.len < DNS_FRAME_MAX); /* nobody waits for ever */
            stream.broken = r < 0;
            return;
        }
        FUZZ_CHECK((size_t)r <= stream.len && (size_t)r == message_len + 2);
        FUZZ_CHECK(message == stream.data + 2);
        uint8_t *copy = malloc(message_len), again[2];
        struct wire_writer w = wire_writer(again, sizeof(again));

        FUZZ_CHECK(copy && dns_frame_encode(&w, message, message_len) == -ENOBUFS && w.pos == 0);
        memcpy(copy, message, message_len);
        answer(copy, message_len);
        free(copy);
        stream.len -= (size_t)r;
        memmove(stream.data, stream.data + r, stream.len);
    }
}

/* The oldest that waits is answered, with a byte of the answer changed as the script says. */
static void help(const uint8_t *data, size_t len)
{
    const struct dns_pending *p = NULL;
    uint8_t message[2 + DNS_MATCH_QUERY_MAX];

    if (!dns_match_each(&match, &p))
        return;
    size_t n = (size_t)DNS_HEADER_LEN + p->question_len;

    message[0] = (uint8_t)(n >> 8);
    message[1] = (uint8_t)n;
    memcpy(message + 2, p->message, n);
    message[4] |= 0x80;
    message[12] = message[13] = 0;
    if (len >= 2)
        message[2 + data[0] % n] ^= data[1];
    receive(message, 2 + n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct dns_pending *p;
    size_t pos = 0;

    next_ref = 0;
    now = 0;
    stream.len = 0;
    stream.broken = false;
    FUZZ_CHECK(dns_match_init(&match, slots, SLOTS, TIMEOUT, (uint16_t)size) == 0);
    while (size - pos >= 2) {
        uint8_t command = data[pos] % 5;
        size_t len = data[pos + 1];

        pos += 2;
        len = len < size - pos ? len : size - pos;
        if (command == 0)
            add(data + pos, len);
        else if (command == 1)
            receive(data + pos, len);
        else if (command == 2)
            help(data + pos, len);
        else if (command == 3)
            now += (int64_t)len;
        while (command == 3 && dns_match_expired(&match, now, &p))
            taken_out(p);
        if (command == 4 && dns_match_pop(&match, &p))
            taken_out(p);
        if (command != 3)
            pos += len;
        check_table();
    }
    while (dns_match_pop(&match, &p))
        taken_out(p);
    for (uint64_t i = 0; i < next_ref; i++)
        FUZZ_CHECK(waits[i] == 2); /* each query was given back once */
    return 0;
}
