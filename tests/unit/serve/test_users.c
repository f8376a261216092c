/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <sys/stat.h>

#include "fixture.h"
#include "serve/users.h"

static char path[64];
static char why[512];

static int load(const void *text, size_t len, struct users **ret)
{
    write_file(path, text, len);
    int r = users_load(path, ret, why, sizeof(why));

    unlink(path);
    return r;
}

/* The text fails with -EINVAL, and the message has the file, `where` behind it, and `what`. */
static void expect_wrong(const void *text, size_t len, const char *where, const char *what)
{
    struct users *u = NULL;

    assert_int_equal(load(text, len, &u), -EINVAL);
    assert_null(u);
    assert_int_equal(strncmp(why, path, strlen(path)), 0);
    if (strncmp(why + strlen(path), where, strlen(where)) != 0 || !strstr(why, what))
        fail_msg("\"%s\" lacks \"%s\" or \"%s\"", why, where, what);
}

static void test_good_file(void **state)
{
    struct users *u;

    (void)state;
    assert_int_equal(
        load(BYTES("# who\n\n  \t# more\nzoe:1\r\nalice:secret\nbob:b:c\nmax:no newline"), &u), 0);
    assert_int_equal(users_count(u), 4);
    assert_true(users_check(u, "alice", "secret"));
    assert_true(users_check(u, "zoe", "1"));
    assert_true(users_check(u, "bob", "b:c"));
    assert_true(users_check(u, "max", "no newline"));
    assert_false(users_check(u, "alice", "secre"));
    assert_false(users_check(u, "alice", "secrets"));
    assert_false(users_check(u, "alice", ""));
    assert_false(users_check(u, "alic", "secret"));
    assert_false(users_check(u, "alices", "secret"));
    assert_false(users_check(u, "bob", "secret"));
    assert_false(users_check(u, "nobody", ""));
    assert_false(users_check(u, "", ""));
    users_free(u);
}

static void test_longest_fields(void **state)
{
    char line[600], name[257], password[257];
    struct users *u;

    (void)state;
    memset(name, 'n', 256);
    memset(password, 'p', 256);
    name[255] = password[255] = '\0';
    int len = snprintf(line, sizeof(line), "%s:%s\n", name, password);

    assert_int_equal(load(line, (size_t)len, &u), 0);
    assert_true(users_check(u, name, password));
    password[254] = 'q';
    assert_false(users_check(u, name, password));
    password[254] = '\0';
    assert_false(users_check(u, name, password));
    users_free(u);

    memset(name, 'n', 256);
    name[256] = '\0';
    len = snprintf(line, sizeof(line), "%s:p\n", name);
    expect_wrong(line, (size_t)len, ":1: ", "1 to 255 bytes");
    len = snprintf(line, sizeof(line), "a:b\nu:%s\n", name);
    expect_wrong(line, (size_t)len, ":2: ", "1 to 255 bytes");
}

static void test_wrong_lines(void **state)
{
    (void)state;
    expect_wrong(BYTES("# x\na:b\nhunter2\n"), ":3: ", "user:password");
    assert_null(strstr(why, "hunter2"));
    expect_wrong(BYTES(":hunter2\n"), ":1: ", "the user must have");
    assert_null(strstr(why, "hunter2"));
    expect_wrong(BYTES("a:\n"), ":1: ", "the password must have");
    expect_wrong(BYTES("a:b\nc:d\na:hunter2\n"), ":3: ", "already in line 1");
    assert_null(strstr(why, "hunter2"));
    expect_wrong(BYTES("a:b\0c\n"), ":1: ", "NUL");
    expect_wrong(BYTES(""), ": ", "no user");
    expect_wrong(BYTES("# only a comment\n"), ": ", "no user");
}

static void test_wrong_files(void **state)
{
    struct users *u = NULL;

    (void)state;
    static const mode_t modes[] = {0640, 0604, 0620, 0602, 0666};

    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        write_file(path, BYTES("a:b\n"));
        assert_int_equal(chmod(path, modes[i]), 0);
        assert_int_equal(users_load(path, &u, why, sizeof(why)), -EINVAL);
        assert_non_null(strstr(why, "chmod 600"));
        unlink(path);
    }
    assert_int_equal(users_load(path, &u, why, sizeof(why)), -ENOENT);
    assert_non_null(strstr(why, path));
    assert_int_equal(users_load("/", &u, why, sizeof(why)), -EINVAL);

    write_file(path, BYTES("a:b\n"));
    assert_int_equal(truncate(path, 1024 * 1024 + 1), 0);
    assert_int_equal(users_load(path, &u, why, sizeof(why)), -EINVAL);
    assert_non_null(strstr(why, "1 MiB"));
    unlink(path);
    assert_null(u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_file),
        cmocka_unit_test(test_longest_fields),
        cmocka_unit_test(test_wrong_lines),
        cmocka_unit_test(test_wrong_files),
    };

    return cmocka_run_group_tests_name("serve/users", tests, NULL, NULL);
}
