/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `undersock run -u ... -o ...`: what the arguments become, and what wrong ones are told. */
#include <errno.h>

#include "fixture.h"

#define SEC      INT64_C(1000000000)
#define N(array) (sizeof(array) / sizeof((array)[0]))

static char proxy[] = "socks5h://127.0.0.1:1080";

static int from(char **urls, size_t n_urls, char **options, size_t n_options, struct config **ret)
{
    forget_errors();
    return config_from_options(urls, n_urls, options, n_options, collect, errors, ret);
}

static struct config *good(char **urls, size_t n_urls, char **options, size_t n_options)
{
    struct config *c = NULL;

    if (from(urls, n_urls, options, n_options, &c) != 0)
        fail_msg("%s", errors);
    assert_int_equal(n_errors, 0);
    return c;
}

static struct config *good_options(char **options, size_t n_options)
{
    char *urls[] = {proxy};

    return good(urls, 1, options, n_options);
}

static void one_proxy(void **state)
{
    struct config *c = good_options(NULL, 0);

    (void)state;
    assert_int_equal(c->n_upstreams, 1);
    assert_string_equal(c->upstreams[0].name, "hop1");
    assert_string_equal(c->upstreams[0].url.host, "127.0.0.1");
    assert_int_equal(c->upstreams[0].via, -1);
    assert_int_equal(c->upstreams[0].connect_timeout, 10 * SEC);
    assert_int_equal(c->n_groups, 0);
    assert_int_equal(c->n_captures, 1);
    assert_string_equal(c->captures[0].policy.name, "run");
    assert_int_equal(c->captures[0].policy.hook, CAPTURE_CGROUP);
    assert_null(c->captures[0].policy.cgroup);
    assert_int_equal(c->captures[0].policy.action, CAPTURE_PROXY);
    assert_int_equal(c->captures[0].target, TARGET_UPSTREAM);
    assert_int_equal(c->captures[0].target_index, 0);
    assert_int_equal(c->captures[0].udp, UDP_AUTO);
    assert_string_equal(c->control, CONFIG_DEFAULT_CONTROL);
    config_free(c);
}

static void chain(void **state)
{
    char *urls[] = {(char[]){"socks5://a"}, (char[]){"socks5h://b"},
                    (char[]){"socks4a://u@[::1]:9"}};
    char *options[] = {(char[]){"connect-timeout=2s"}, (char[]){"handshake-timeout=3s"},
                       (char[]){"warm=2"}, (char[]){"pipeline=off"}};
    struct config *c = good(urls, N(urls), options, N(options));

    (void)state;
    assert_int_equal(c->n_upstreams, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(c->upstreams[i].via, i - 1);
        assert_int_equal(c->upstreams[i].connect_timeout, 2 * SEC); /* every hop */
        assert_int_equal(c->upstreams[i].handshake_timeout, 3 * SEC);
        assert_int_equal(c->upstreams[i].warm, 2);
        assert_int_equal(c->upstreams[i].pipeline, TOGGLE_OFF);
    }
    assert_string_equal(c->upstreams[2].name, "hop3");
    assert_string_equal(c->upstreams[2].url.host, "::1");
    assert_int_equal(c->captures[0].target_index, 2);
    config_free(c);
}

static void keys(void **state)
{
    char *options[] = {
        (char[]){"fast-path=splice"},  (char[]){"udp=reject"},
        (char[]){"tcp-ports=443,80"},  (char[]){"udp-ports=53, 443 ,8000-9000"},
        (char[]){"to=192.0.2.0/24"},   (char[]){"to=2001:db8::/32"}, /* lists add up */
        (char[]){"mark=0x51"},         (char[]){"private=yes"},
        (char[]){"max-flows=100"},     (char[]){"log-level=error"},
        (char[]){"log-level=debug"}, /* the last one wins */
        (char[]){"dns=bypass"},        (char[]){"cgroup=/some.slice"},
        (char[]){"uid=0,nobody"},      (char[]){"control=/tmp/with \"quotes\" \\ ${HOME} = }.sock"},
        (char[]){"on-exit=closed"},    (char[]){"idle-timeout=0"},
        (char[]){"established=reset"},
    };
    struct config *c = good_options(options, N(options));
    const struct capture_policy *p = &c->captures[0].policy;

    (void)state;
    assert_int_equal(c->fast_path, FAST_SPLICE);
    assert_int_equal(c->captures[0].udp, UDP_REJECT);
    assert_int_equal(c->upstreams[0].udp, TOGGLE_AUTO); /* udp is the capture's */
    assert_int_equal(p->n_tcp_ports, 2);
    assert_int_equal(p->tcp_ports[0].first, 80);
    assert_int_equal(p->n_udp_ports, 3);
    assert_int_equal(p->udp_ports[2].last, 9000);
    assert_int_equal(p->n_to, 2);
    assert_true(p->has_mark);
    assert_int_equal(p->mark, 0x51);
    assert_true(p->private);
    assert_int_equal(c->max_flows, 100);
    assert_int_equal(c->log_level, LOG_LEVEL_DEBUG);
    assert_int_equal(c->captures[0].dns, DNS_BYPASS);
    assert_string_equal(p->cgroup, "/some.slice");
    assert_int_equal(p->n_uids, 2);
    /* Taken as it is: nothing is a quote, a variable or a brace here. */
    assert_string_equal(c->control, "/tmp/with \"quotes\" \\ ${HOME} = }.sock");
    assert_int_equal(c->captures[0].on_exit, ON_EXIT_CLOSED);
    assert_int_equal(c->captures[0].established, ESTABLISHED_RESET);
    config_free(c);
}

static void other_hooks_and_targets(void **state)
{
    char *output[] = {(char[]){"hook=output"}, (char[]){"upstream=direct"}};
    char *first[] = {(char[]){"upstream=hop1"}};
    char *urls[] = {(char[]){"socks5://a"}, (char[]){"socks5://b"}};
    struct config *c = good_options(output, N(output));

    (void)state;
    assert_int_equal(c->captures[0].policy.hook, CAPTURE_OUTPUT);
    assert_int_equal(c->captures[0].target, TARGET_DIRECT);
    config_free(c);
    c = good(urls, 2, first, 1);
    assert_int_equal(c->captures[0].target_index, 0);
    config_free(c);
}

static void wrong_options(void **state)
{
    static const struct {
        char option[64];
        const char *begins, *remedy;
    } table[] = {
        {"fast-path=warp", "-o fast-path=warp: fast-path: ", "one of auto, stitch"},
        {"udp=rejct", "-o udp=rejct: udp: ", "did you mean \"reject\"?"},
        {"fastpath=copy", "-o fastpath: unknown key: ", "did you mean \"fast-path\"?"},
        {"foo=secret", "-o foo: unknown key: ", "the keys are hook, upstream"},
        {"url=socks5://a:secret@h", "-o url: unknown key: ", "connect-timeout"},
        {"password-file=/x", "-o password-file: unknown key", "handshake-timeout"},
        {"via=hop1", "-o via: unknown key", "the keys are"},
        {"=x", "-o : unknown key", "the keys are"},
        {"udp", "-o udp: option: ", "write -o KEY=VALUE"},
        {"", "-o : option: ", "write -o KEY=VALUE"},
        {"socks5://a:secret@h", "-o socks5://...@h: option: ", "write -o KEY=VALUE"},
        {"tcp-ports=80,0", "-o tcp-ports=80,0: tcp-ports: ", "from 1 to 65535"},
        {"tcp-ports=", "-o tcp-ports=: tcp-ports: ", "from 1 to 65535"},
        {"tcp-ports=80,,81", "-o tcp-ports=80,,81: tcp-ports: ", "from 1 to 65535"},
        {"udp-ports=53", "-o udp-ports=53: udp-ports: ", "every TCP port"},
        {"uid=no-such-user-here", "-o uid=no-such-user-here: uid: ", "getent passwd"},
        {"hook=gateway,output", "-o hook=gateway,output: hook: ", "one of output, cgroup, gateway"},
        {"interfaces=lo", "-o interfaces=lo: interfaces: ", "hook = \"gateway\""},
        {"connect-timeout=0", "-o connect-timeout=0: connect-timeout: ", "from 1ms"},
        {"control=relative", "-o control=relative: control: ", "absolute path"},
        {"upstream=exit", "-o upstream=exit: upstream: ", "no upstream or group"},
        {"max-flows=1\n2", "-o max-flows=1?2: max-flows: ", "from 16"},
    };
    char *urls[] = {proxy};

    (void)state;
    for (size_t i = 0; i < N(table); i++) {
        char text[64], *options[] = {text};
        struct config *c = (void *)urls;

        memcpy(text, table[i].option, sizeof(text));
        if (from(urls, 1, options, 1, &c) != -EINVAL)
            fail_msg("accepted: %s", text);
        assert_ptr_equal(c, urls);
        if (n_errors != 1 || strncmp(errors, table[i].begins, strlen(table[i].begins)) != 0 ||
            !strstr(errors, table[i].remedy) || strstr(errors, "secret"))
            fail_msg("%s said\n%s", text, errors);
    }
}

/* A value that is wrong for every hop is one error per hop at most, and all options are looked at.
 */
static void all_errors_at_once(void **state)
{
    char *urls[] = {(char[]){"socks5://h:0"}, (char[]){"nonsense://al:secret@h"}};
    char *options[] = {(char[]){"udp=x"}, (char[]){"foo=1"}, (char[]){"workers=999"}};
    struct config *c = NULL;

    (void)state;
    assert_int_equal(from(urls, N(urls), options, N(options), &c), -EINVAL);
    assert_int_equal(n_errors, 5);
    const char *first = strstr(errors, "-u socks5://h:0: url: the port is not"),
               *second = strstr(errors, "-u nonsense://...@h: url: unknown scheme"),
               *third = strstr(errors, "-o udp=x: "), *last = strstr(errors, "-o workers=999: ");

    assert_true(first && second && third && last);
    assert_true(first < second && second < third && third < last);
    assert_null(strstr(errors, "secret"));
}

static void number_of_urls(void **state)
{
    char *urls[CONFIG_CHAIN_MAX + 1];
    struct config *c = NULL;

    (void)state;
    for (size_t i = 0; i < N(urls); i++)
        urls[i] = proxy;
    assert_int_equal(from(NULL, 0, NULL, 0, &c), -EINVAL);
    assert_int_equal(n_errors, 1);
    assert_non_null(strstr(errors, "-u URL is required"));
    assert_non_null(strstr(errors, "e.g. -u socks5h://127.0.0.1:1080"));
    assert_int_equal(from(urls, N(urls), NULL, 0, &c), -EINVAL);
    assert_non_null(strstr(errors, "at most 8 hops"));
    c = good(urls, CONFIG_CHAIN_MAX, NULL, 0);
    assert_int_equal(c->upstreams[CONFIG_CHAIN_MAX - 1].via, CONFIG_CHAIN_MAX - 2);
    config_free(c);
}

static void password_from_the_environment(void **state)
{
    char *two[] = {(char[]){"socks5://al@a"}, (char[]){"socks5://bo@b"}};
    char *given[] = {(char[]){"socks5://al:mine@a"}}, *nobody[] = {(char[]){"socks5://a"}};
    char *socks4[] = {(char[]){"socks4://al@a"}};
    char *beyond[][2] = {{(char[]){"socks5://al@a"}, (char[]){"socks5://b"}},
                         {(char[]){"socks5://al@a"}, (char[]){"socks4://bo@b"}},
                         {(char[]){"socks5://al@a"}, (char[]){"socks5://bo:mine@b"}}};
    char text[300];
    struct config *c;

    (void)state;
    setenv("UNDERSOCK_PASSWORD", "topsecret", 1);
    c = good(two, 2, NULL, 0);
    assert_false(c->upstreams[0].url.has_password); /* the last hop only */
    assert_true(c->upstreams[1].url.has_password);
    assert_string_equal(c->upstreams[1].url.password, "topsecret");
    config_free(c);
    for (size_t i = 0; i < N(beyond); i++) {
        c = good(beyond[i], 2, NULL, 0); /* one that has use for it, wherever it stands */
        assert_string_equal(c->upstreams[0].url.password, "topsecret");
        assert_false(c->upstreams[1].url.has_password && i != 2);
        config_free(c);
    }
    c = good(&two[1], 1, NULL, 0);
    assert_string_equal(warnings, "");
    config_free(c);
    c = good(given, 1, NULL, 0);
    assert_string_equal(c->upstreams[0].url.password, "mine");
    config_free(c);
    c = good(nobody, 1, NULL, 0);
    assert_false(c->upstreams[0].url.has_password);
    config_free(c);
    c = good(socks4, 1, NULL, 0);
    assert_false(c->upstreams[0].url.has_password);
    config_free(c);

    memset(text, 'x', sizeof(text));
    text[256] = '\0';
    setenv("UNDERSOCK_PASSWORD", text, 1);
    assert_int_equal(from(two, 2, NULL, 0, &c), -EINVAL);
    assert_int_equal(n_errors, 1);
    assert_non_null(
        strstr(errors, "UNDERSOCK_PASSWORD: the password has 256 bytes: give 1 to 255"));
    text[255] = '\0';
    setenv("UNDERSOCK_PASSWORD", text, 1);
    c = good(two, 2, NULL, 0);
    assert_int_equal(strlen(c->upstreams[1].url.password), 255);
    config_free(c);
    setenv("UNDERSOCK_PASSWORD", "", 1);
    assert_int_equal(from(two, 2, NULL, 0, &c), -EINVAL);
    unsetenv("UNDERSOCK_PASSWORD");
    c = good(two, 2, NULL, 0);
    assert_false(c->upstreams[1].url.has_password);
    assert_non_null(strstr(warnings, ": warning: url: it has a user and no password"));
    config_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_proxy),      cmocka_unit_test(chain),
        cmocka_unit_test(keys),           cmocka_unit_test(other_hooks_and_targets),
        cmocka_unit_test(wrong_options),  cmocka_unit_test(all_errors_at_once),
        cmocka_unit_test(number_of_urls), cmocka_unit_test(password_from_the_environment),
    };

    return cmocka_run_group_tests_name("config/options", tests, make_directory, remove_directory);
}
