/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "config/text.h"

static char why[256];

static struct config_url good(const char *text)
{
    struct config_url u;

    memset(&u, 0x5a, sizeof(u));
    why[0] = '\0';
    if (config_url_parse(text, &u, why, sizeof(why)) != 0)
        fail_msg("%s: %s", text, why);
    return u;
}

/* -EINVAL, `part` in the remedy, and the output untouched. */
static void bad(const char *text, const char *part)
{
    struct config_url u, before;

    memset(&u, 0x5a, sizeof(u));
    before = u;
    why[0] = '\0';
    assert_int_equal(config_url_parse(text, &u, why, sizeof(why)), -EINVAL);
    if (!strstr(why, part))
        fail_msg("%s: \"%s\" does not say \"%s\"", text, why, part);
    assert_memory_equal(&u, &before, sizeof(u));
}

static void schemes_and_ports(void **state)
{
    static const struct {
        const char *text;
        enum config_scheme scheme;
        uint16_t port;
    } cases[] = {
        {"socks4://h", SCHEME_SOCKS4, 1080},       {"socks4a://h", SCHEME_SOCKS4A, 1080},
        {"socks5://h", SCHEME_SOCKS5, 1080},       {"socks5h://h", SCHEME_SOCKS5H, 1080},
        {"http://h", SCHEME_HTTP, 8080},           {"socks5h://h:1", SCHEME_SOCKS5H, 1},
        {"http://h:65535", SCHEME_HTTP, 65535},    {"SOCKS5H://h:9050", SCHEME_SOCKS5H, 9050},
        {"socks5://h:1081/", SCHEME_SOCKS5, 1081},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct config_url u = good(cases[i].text);

        assert_int_equal(u.scheme, cases[i].scheme);
        assert_int_equal(u.port, cases[i].port);
        assert_string_equal(u.host, "h");
        assert_false(u.has_user);
        assert_false(u.has_password);
        assert_string_equal(u.user, "");
    }
}

static void hosts(void **state)
{
    (void)state;
    assert_string_equal(good("socks5://192.0.2.1:9").host, "192.0.2.1");
    assert_string_equal(good("socks5://[2001:db8::1]").host, "2001:db8::1");
    assert_int_equal(good("socks5://[2001:db8::1]").port, 1080);
    assert_int_equal(good("socks5://[::1]:99").port, 99);
    assert_string_equal(good("socks5://[fe80::1%eth0]:99").host, "fe80::1%eth0");
    assert_string_equal(good("socks5://my_proxy.example.net.").host, "my_proxy.example.net.");
    bad("socks5://", "host is missing");
    bad("socks5://:1080", "host is missing");
    bad("socks5://a@:1080", "host is missing");
    bad("socks5://2001:db8::1", "brackets");
    bad("socks5://[::1", "not closed");
    bad("socks5://[::1]1080", "after ']'");
    bad("socks5://[nonsense]:1", "not an IPv6 address");
    bad("socks5://[192.0.2.1]:1", "not an IPv6 address");
    bad("socks5://[::1%]:1", "not an IPv6 address");
    bad("socks5://192.0.2.256", "192.0.2.1");
    bad("socks5://192.0.2", "192.0.2.1");
    bad("socks5://a..b", "neither a name nor an address");
    bad("socks5://a b", "neither a name nor an address");
    bad("socks5://h:1080/path", "nothing can follow");
    bad("socks5://h:1080?x", "nothing can follow");

    char text[400] = "socks5://";

    for (size_t i = 9; i < 9 + 256; i++)
        text[i] = i % 32 == 0 ? '.' : 'a';
    bad(text, "longer than 255");
    text[9 + 255] = '\0';
    assert_int_equal(strlen(good(text).host), 255);
    memset(text + 9, 'a', 64);
    text[9 + 64] = '\0';
    bad(text, "neither a name nor an address"); /* a label of 64 */
}

static void ports(void **state)
{
    (void)state;
    bad("socks5://h:0", "1 to 65535");
    bad("socks5://h:65536", "1 to 65535");
    bad("socks5://h:99999999999999999999", "1 to 65535");
    bad("socks5://h:", "1 to 65535");
    bad("socks5://h:10x", "1 to 65535");
    bad("socks5://h:-1", "1 to 65535");
}

static void users_and_passwords(void **state)
{
    struct config_url u = good("socks5h://al%69ce:p%40ss%3a%2F@h");

    (void)state;
    assert_true(u.has_user && u.has_password);
    assert_string_equal(u.user, "alice");
    assert_string_equal(u.password, "p@ss:/");
    u = good("socks5://a:b:c@h"); /* the first ':' ends the user */
    assert_string_equal(u.user, "a");
    assert_string_equal(u.password, "b:c");
    u = good("socks5://a:p@s/s@h:7"); /* the last '@' ends the password */
    assert_string_equal(u.password, "p@s/s");
    assert_string_equal(u.host, "h");
    u = good("socks4://alice@h");
    assert_true(u.has_user && !u.has_password);
    u = good("socks5://a%3Ab@h");
    assert_string_equal(u.user, "a:b");
    u = good("http://a:@h");
    assert_true(u.has_password);
    assert_string_equal(u.password, "");
    bad("http://a%3Ab:x@h", "RFC 7617");
    bad("socks5://@h", "user name before '@' is empty");
    bad("socks5://:secret@h", "user name before '@' is empty");
    bad("socks5://a:@h", "password after ':' is empty");
    bad("socks4://a:secret@h", "carries a user name but no password");
    bad("socks4a://a:secret@h", "carries a user name but no password");
    bad("socks5://a%zz@h", "hexadecimal");
    bad("socks5://a%4@h", "hexadecimal");
    bad("socks5://a%@h", "hexadecimal");
    bad("socks5://a%00b@h", "hexadecimal");
}

static void long_users(void **state)
{
    char text[800];

    (void)state;
    snprintf(text, sizeof(text), "socks5://%0255d:%0255d@h", 0, 0);
    assert_int_equal(strlen(good(text).user), 255);
    assert_int_equal(strlen(good(text).password), 255);
    snprintf(text, sizeof(text), "socks5://%0256d@h", 0);
    bad(text, "user name is longer than 255");
    snprintf(text, sizeof(text), "socks5://a:%0256d@h", 0);
    bad(text, "password is longer than 255");
}

static void unknown_schemes(void **state)
{
    (void)state;
    bad("127.0.0.1:1080", "socks5h://127.0.0.1:1080");
    bad("", "scheme is missing");
    bad("https://h", "socks5h");
    bad("socks://h", "socks5h");
    bad("socks5hh://h", "unknown scheme");
    bad("://h", "unknown scheme");
}

static void printing(void **state)
{
    char buf[300];
    struct config_url u = good("http://alice:secret@proxy");

    (void)state;
    assert_string_equal(config_url_format(&u, buf, sizeof(buf)), "http://proxy:8080");
    u = good("socks5://[::1]:7");
    assert_string_equal(config_url_format(&u, buf, sizeof(buf)), "socks5://[::1]:7");
}

/* No printer and no remedy repeats a password, whatever else is wrong with the URL. */
static void secrets_stay_secret(void **state)
{
    static const char *const texts[] = {
        "socks5://alice:secret@h:0",
        "socks5://alice:secret",
        "alice:secret@h:1080",
        "socks6://alice:secret@h",
        "socks5://alice:sec@secret@h:0",
        "socks4://alice:secret@h",
        "socks5://alice:secret%@h",
        "socks5://alice:a/secret@h:0",
        "socks5://alice:secret@",
        "alice:secret",
        "socks5://alice:secret@a b",
        "socks5://alice:secret@[::1",
        "alice:secret@h://x",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        char shown[200];
        struct config_url u;

        assert_int_equal(config_url_parse(texts[i], &u, why, sizeof(why)), -EINVAL);
        config_url_redact(texts[i], shown, sizeof(shown));
        if (strstr(why, "secret") || strstr(shown, "secret"))
            fail_msg("%s: \"%s\", \"%s\"", texts[i], why, shown);
    }
    char shown[200];

    assert_string_equal(config_url_redact("socks5://a:b@h:0", shown, sizeof(shown)),
                        "socks5://...@h:0");
    assert_string_equal(config_url_redact("socks5://h:0", shown, sizeof(shown)), "socks5://h:0");
    assert_string_equal(config_url_redact("127.0.0.1:80", shown, sizeof(shown)), "127.0.0.1:80");
}

/* Every byte in every place of a URL: no crash, and either an answer or a reason. */
static void any_byte(void **state)
{
    static const char model[] = "socks5h://us%41r:pw@[2001:db8::1]:1080/";

    (void)state;
    for (size_t at = 0; at < sizeof(model) - 1; at++) {
        for (int byte = 1; byte < 256; byte++) {
            char text[sizeof(model)];
            struct config_url u;

            memcpy(text, model, sizeof(model));
            text[at] = (char)byte;
            why[0] = '\0';
            int r = config_url_parse(text, &u, why, sizeof(why));

            assert_true(r == 0 ? u.port != 0 && u.host[0] != '\0' : r == -EINVAL && why[0] != '\0');
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schemes_and_ports),
        cmocka_unit_test(hosts),
        cmocka_unit_test(ports),
        cmocka_unit_test(users_and_passwords),
        cmocka_unit_test(long_users),
        cmocka_unit_test(unknown_schemes),
        cmocka_unit_test(printing),
        cmocka_unit_test(secrets_stay_secret),
        cmocka_unit_test(any_byte),
    };

    return cmocka_run_group_tests_name("config/url", tests, NULL, NULL);
}
