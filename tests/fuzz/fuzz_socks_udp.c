/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A datagram of a UDP association: its header, and the header written again. */
#include "fuzz.h"
#include "socks/socks5_udp.h"
#include "socks_stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct socks5_udp_header h, poison, second;
    uint8_t buf[SOCKS5_UDP_HEADER_MAX];
    struct wire_writer w = wire_writer(buf, sizeof(buf));

    memset(&poison, 0xa5, sizeof(poison));
    h = poison;
    int r = socks5_decode_udp(data, size, &h);

    FUZZ_CHECK(r != 0);
    if (r < 0) {
        FUZZ_CHECK(memcmp(&h, &poison, sizeof(h)) == 0);
        return 0;
    }
    FUZZ_CHECK((size_t)r <= size && r <= SOCKS5_UDP_HEADER_MAX);
    fuzz_check_dest(&h.dest);
    FUZZ_CHECK(h.dest.type == SOCKS_DEST_ADDR || h.dest.name_len > 0);
    for (size_t n = 0; n <= (size_t)r;
         n++) { /* the payload has no say, and the header is needed whole */
        uint8_t *copy = fuzz_copy(data, n);
        int part = socks5_decode_udp(copy, n, &second);

        FUZZ_CHECK(n < (size_t)r ? part < 0 : part == r);
        free(copy);
    }
    FUZZ_CHECK(socks5_encode_udp(&w, h.frag, &h.dest) == 0);
    FUZZ_CHECK(socks5_decode_udp(buf, w.pos, &second) == (int)w.pos);
    FUZZ_CHECK(second.frag == h.frag);
    fuzz_check_same_dest(&second.dest, &h.dest);
    return 0;
}
