/* SPDX-License-Identifier: GPL-2.0-or-later */
/* base/wire.h: cursors that never leave their view, and whose error sticks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/wire.h"

static void fields_are_read_in_network_order(void **state)
{
    static const uint8_t bytes[] = {0x01, 0x02, 0x03, 'a', 'b', 'c', 0xff};
    struct wire_reader r = wire_reader(bytes, sizeof(bytes));
    char text[3];

    (void)state;
    assert_int_equal(wire_get_u8(&r), 0x01);
    assert_int_equal(wire_get_u16(&r), 0x0203);
    assert_int_equal(wire_left(&r), 4);
    wire_get_bytes(&r, text, 3);
    assert_memory_equal(text, "abc", 3);
    assert_ptr_equal(wire_take(&r, 1), bytes + 6);
    assert_int_equal(wire_left(&r), 0);
    assert_non_null(wire_take(&r, 0));
    assert_false(r.error);
    assert_null(wire_take(&r, 1));
    assert_true(r.error);
}

/* After the first field that is not there, nothing is read any more, though it would fit. */
static void a_reading_error_sticks(void **state)
{
    uint8_t *bytes = malloc(3), out[4] = {1, 1, 1, 1};
    struct wire_reader r = wire_reader(bytes, 3);

    (void)state;
    assert_non_null(bytes);
    memset(bytes, 0xee, 3);
    wire_get_u16(&r);
    assert_int_equal(wire_get_u16(&r), 0);
    assert_true(r.error);
    assert_int_equal(r.pos, 2);
    assert_int_equal(wire_get_u8(&r), 0);
    wire_get_bytes(&r, out, sizeof(out));
    assert_memory_equal(out, "\0\0\0\0", 4);
    assert_null(wire_take(&r, 0));
    assert_int_equal(r.pos, 2);
    assert_true(r.error);
    free(bytes);
}

static void lengths_near_the_end_of_the_address_space_do_not_wrap(void **state)
{
    volatile size_t huge = SIZE_MAX; /* not for the compiler to see */
    uint8_t bytes[4] = {0};
    struct wire_reader r = wire_reader(bytes, sizeof(bytes));
    struct wire_writer w = wire_writer(bytes, sizeof(bytes));

    (void)state;
    wire_get_u8(&r);
    assert_null(wire_take(&r, huge));
    assert_true(r.error);
    wire_put_u8(&w, 1);
    wire_put_bytes(&w, bytes, huge);
    assert_true(w.error);
    assert_int_equal(w.pos, 1);
}

static void an_empty_view_is_read_and_written(void **state)
{
    struct wire_reader r = wire_reader(NULL, 0);
    struct wire_writer w = wire_writer(NULL, 0);

    (void)state;
    assert_int_equal(wire_left(&r), 0);
    assert_int_equal(wire_get_u8(&r), 0);
    assert_true(r.error);
    wire_put_bytes(&w, NULL, 0);
    assert_false(w.error);
    wire_put_u8(&w, 1);
    assert_true(w.error);
}

static void fields_are_written_in_network_order(void **state)
{
    uint8_t *out = malloc(6);
    struct wire_writer w = wire_writer(out, 6);

    (void)state;
    assert_non_null(out);
    wire_put_u8(&w, 0x05);
    wire_put_u16(&w, 0x1234);
    wire_put_bytes(&w, "xyz", 3);
    assert_false(w.error);
    assert_int_equal(w.pos, 6);
    assert_memory_equal(out, "\x05\x12\x34xyz", 6);
    wire_put_bytes(&w, "", 0);
    assert_false(w.error);
    wire_put_u8(&w, 0);
    assert_true(w.error);
    free(out);
}

/* What does not fit is not written in part, and nothing after it. */
static void a_writing_error_sticks(void **state)
{
    uint8_t out[4] = {9, 9, 9, 9};
    struct wire_writer w = wire_writer(out, 3);

    (void)state;
    wire_put_u16(&w, 0x0102);
    wire_put_u16(&w, 0x0304);
    assert_true(w.error);
    wire_put_u8(&w, 7);
    assert_int_equal(w.pos, 2);
    assert_memory_equal(out, "\x01\x02\x09\x09", 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_read_in_network_order),
        cmocka_unit_test(a_reading_error_sticks),
        cmocka_unit_test(lengths_near_the_end_of_the_address_space_do_not_wrap),
        cmocka_unit_test(an_empty_view_is_read_and_written),
        cmocka_unit_test(fields_are_written_in_network_order),
        cmocka_unit_test(a_writing_error_sticks),
    };

    return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
