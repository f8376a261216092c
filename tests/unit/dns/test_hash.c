/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dns/hash.h against the vectors of the authors of SipHash-2-4. */
#include "dns/hash.h"

#include "message.h"

static void known_answers(void **state)
{
    /* The key is 00 01 .. 0f, the input 00 01 .. of the given length. */
    static const struct {
        size_t len;
        uint64_t hash;
    } cases[] = {
        {0, UINT64_C(0x726fdb47dd0e0e31)},  {1, UINT64_C(0x74f839c593dc67fd)},
        {7, UINT64_C(0xab0200f58b01d137)},  {8, UINT64_C(0x93f5f5799a932462)},
        {15, UINT64_C(0xa129ca6149be45e5)}, {63, UINT64_C(0x958a324ceb064572)},
    };
    const uint64_t key[2] = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};
    uint8_t input[64];

    (void)state;
    for (size_t i = 0; i < sizeof(input); i++)
        input[i] = (uint8_t)i;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_true(dns_hash(key, input, cases[i].len) == cases[i].hash);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(known_answers)};

    return cmocka_run_group_tests_name("dns/hash", tests, NULL, NULL);
}
