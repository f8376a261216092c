/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a right file becomes. */
#include "config/options.h"
#include "fixture.h"

#define SEC INT64_C(1000000000)

static struct config *load_good(const char *text)
{
    struct config *c = NULL;

    if (load_text(text, &c) != 0)
        fail_msg("%s", errors);
    assert_int_equal(n_errors, 0);
    assert_non_null(c);
    return c;
}

/* The documented example; its capture becomes three, as no hook has every selector. */
static const char example[] =
    "upstream \"corp\" {\n"
    "    url             = \"socks5h://alice@proxy.example.net:1080\"\n"
    "    password-file   = \"%s\"   # must not be readable by others\n"
    "    via             = \"bastion\"        # reach it through another upstream: a chain\n"
    "    connect-timeout = \"10s\"            # TCP connect to it\n"
    "    handshake-timeout = \"15s\"\n"
    "    warm            = 4\n"
    "    pipeline        = \"on\"\n"
    "    udp             = \"off\"\n"
    "}\n"
    "upstream \"bastion\" { url = \"socks4a://[2001:db8::5]:1081\" connect-timeout = \"150ms\" }\n"
    "upstream \"backup\" { url = socks5://backup.example.net }\n"
    "group \"exit\" {\n"
    "    members  = { \"corp\", \"backup\" }\n"
    "    policy   = \"least-latency\"\n"
    "    probe    = \"198.51.100.7:443\"\n"
    "    probe-interval = \"5m\"\n"
    "}\n"
    "capture \"host\" {\n"
    "    hook     = \"output\"\n"
    "    upstream = \"exit\"\n"
    "    tcp-ports  = { \"80\", # the web\n"
    "                   \"443\", \"8000-8999\" }\n"
    "    udp-ports  = { \"443\" }\n"
    "    to         = { \"203.0.113.0/24\", \"2001:db8::/32\" }\n"
    "    not-to     = { \"10.0.0.0/8\" }\n"
    "    uid        = { \"root\", \"1001\" }     not-uid = { \"nobody\" }\n"
    "    mark       = 0x51\n"
    "    private    = false\n"
    "    udp        = \"associate\"\n"
    "    dns        = \"fake\"\n"
    "    dns-server = \"9.9.9.9:53\"\n"
    "    connect    = \"honest\"\n"
    "    when-down  = \"direct\"\n"
    "    on-exit    = \"closed\"\n"
    "    established = \"reset\"\n"
    "}\n"
    "capture \"slice\" { hook = cgroup cgroup = \"/proxied.slice/a\" upstream = \"direct\" private "
    "= true\n"
    "  uid = 7 udp = reject dns = tcp connect = early }\n"
    "capture \"lan\" { hook = \"gateway\" interfaces = { \"br-lan\", \"wg0\", \"br-lan\" } "
    "upstream = "
    "\"refuse\"\n  mark = 81 udp = bypass dns = bypass dns-server = \"[2001:db8::35]\" }\n"
    "capture \"rest\" { upstream = \"backup\" }\n"
    "workers  = 2           # 0 = one per CPU\n"
    "max-flows = 16\n"
    "max-held = 17\n"
    "idle-timeout = \"2h\"\n"
    "fast-path = \"splice\"\n"
    "control  = \"/run/other/control.sock\"\n"
    "metrics  = \"127.0.0.1:9180\"\n"
    "log-level = \"debug\"\n";

static void check_upstreams(const struct config *c)
{
    assert_int_equal(c->n_upstreams, 3);
    const struct config_upstream *u = &c->upstreams[0];

    assert_string_equal(u->name, "corp");
    assert_int_equal(u->line, 1);
    assert_int_equal(u->url.scheme, SCHEME_SOCKS5H);
    assert_string_equal(u->url.host, "proxy.example.net");
    assert_int_equal(u->url.port, 1080);
    assert_string_equal(u->url.user, "alice");
    assert_true(u->url.has_password);
    assert_string_equal(u->url.password, "top secret");
    assert_string_equal(u->password_file, secret);
    assert_int_equal(u->via, 1);
    assert_int_equal(u->connect_timeout, 10 * SEC);
    assert_int_equal(u->handshake_timeout, 15 * SEC);
    assert_int_equal(u->warm, 4);
    assert_int_equal(u->pipeline, TOGGLE_ON);
    assert_int_equal(u->udp, TOGGLE_OFF);

    u = &c->upstreams[1];
    assert_string_equal(u->name, "bastion");
    assert_int_equal(u->line, 11);
    assert_int_equal(u->url.scheme, SCHEME_SOCKS4A);
    assert_string_equal(u->url.host, "2001:db8::5");
    assert_int_equal(u->connect_timeout, SEC * 15 / 100);
    assert_int_equal(u->handshake_timeout, 15 * SEC); /* defaults */
    assert_int_equal(u->via, -1);
    assert_int_equal(u->warm, 0);
    assert_int_equal(u->pipeline, TOGGLE_AUTO);
    assert_int_equal(u->udp, TOGGLE_AUTO);
    assert_null(u->password_file);

    u = &c->upstreams[2]; /* without quotes */
    assert_int_equal(u->url.scheme, SCHEME_SOCKS5);
    assert_string_equal(u->url.host, "backup.example.net");
    assert_int_equal(u->url.port, 1080);
    assert_int_equal(u->connect_timeout, 10 * SEC);

    assert_int_equal(c->n_groups, 1);
    const struct config_group *g = &c->groups[0];

    assert_string_equal(g->name, "exit");
    assert_int_equal(g->line, 13);
    assert_int_equal(g->n_members, 2);
    assert_int_equal(g->members[0], 0);
    assert_int_equal(g->members[1], 2);
    assert_int_equal(g->policy, POLICY_LEAST_LATENCY);
    assert_string_equal(g->probe, "198.51.100.7:443");
    assert_int_equal(g->probe_interval, 300 * SEC);
}

static void check_prefix(const struct prefix *p, const char *text)
{
    char buf[PREFIX_STRLEN];

    assert_string_equal(prefix_format(p, buf), text);
}

static void check_first_capture(const struct config_capture *k)
{
    const struct capture_policy *p = &k->policy;

    assert_string_equal(p->name, "host");
    assert_int_equal(k->line, 19);
    assert_int_equal(p->hook, CAPTURE_OUTPUT);
    assert_int_equal(k->target, TARGET_GROUP);
    assert_int_equal(k->target_index, 0);
    assert_int_equal(p->action, CAPTURE_PROXY);
    assert_int_equal(p->n_tcp_ports, 3);
    assert_int_equal(p->tcp_ports[0].first, 80);
    assert_int_equal(p->tcp_ports[0].last, 80);
    assert_int_equal(p->tcp_ports[1].first, 443);
    assert_int_equal(p->tcp_ports[2].first, 8000);
    assert_int_equal(p->tcp_ports[2].last, 8999);
    assert_int_equal(p->n_udp_ports, 1);
    assert_int_equal(p->udp_ports[0].last, 443);
    assert_int_equal(p->n_to, 2);
    check_prefix(&p->to[0], "203.0.113.0/24");
    check_prefix(&p->to[1], "2001:db8::/32");
    assert_int_equal(p->n_not_to, 1);
    check_prefix(&p->not_to[0], "10.0.0.0/8");
    assert_int_equal(p->n_uids, 2);
    assert_int_equal(p->uids[0], 0); /* root */
    assert_int_equal(p->uids[1], 1001);
    assert_int_equal(p->n_not_uids, 1);
    assert_int_equal(p->not_uids[0], 65534); /* nobody */
    assert_true(p->has_mark);
    assert_int_equal(p->mark, 0x51);
    assert_false(p->private);
    assert_null(p->cgroup);
    assert_int_equal(p->n_interfaces, 0);
    assert_int_equal(p->port_v4, 0);
    assert_int_equal(p->port_v6, 0);
    assert_int_equal(k->udp, UDP_ASSOCIATE);
    assert_int_equal(k->dns, DNS_FAKE);
    assert_string_equal(k->dns_server, "9.9.9.9:53");
    assert_int_equal(k->connect, CONNECT_HONEST);
    assert_int_equal(p->when_down, CAPTURE_DOWN_DIRECT);
    assert_int_equal(k->on_exit, ON_EXIT_CLOSED);
    assert_int_equal(k->established, ESTABLISHED_RESET);
}

static void complete_example(void **state)
{
    char text[8192];

    (void)state;
    write_file(secret, "top secret\n", 11, 0600);
    snprintf(text, sizeof(text), example, secret);
    struct config *c = load_good(text);

    check_upstreams(c);
    assert_int_equal(c->n_captures, 4);
    check_first_capture(&c->captures[0]);

    const struct config_capture *k = &c->captures[1];

    assert_int_equal(k->line, 38);
    assert_int_equal(k->policy.hook, CAPTURE_CGROUP);
    assert_string_equal(k->policy.cgroup, "/proxied.slice/a");
    assert_int_equal(k->target, TARGET_DIRECT);
    assert_int_equal(k->policy.action, CAPTURE_DIRECT);
    assert_true(k->policy.private);
    assert_int_equal(k->policy.n_uids, 1);
    assert_int_equal(k->policy.uids[0], 7);
    assert_false(k->policy.has_mark);
    assert_int_equal(k->udp, UDP_REJECT);
    assert_int_equal(k->dns, DNS_TCP);
    assert_int_equal(k->connect, CONNECT_EARLY);

    k = &c->captures[2];
    assert_int_equal(k->policy.hook, CAPTURE_GATEWAY);
    assert_int_equal(k->policy.n_interfaces, 2); /* the third was the first again */
    assert_string_equal(k->policy.interfaces[0], "br-lan");
    assert_string_equal(k->policy.interfaces[1], "wg0");
    assert_int_equal(k->target, TARGET_REFUSE);
    assert_int_equal(k->policy.action, CAPTURE_REFUSE);
    assert_int_equal(k->policy.mark, 81);
    assert_int_equal(k->udp, UDP_BYPASS);
    assert_int_equal(k->dns, DNS_BYPASS);
    assert_string_equal(k->dns_server, "[2001:db8::35]");

    k = &c->captures[3]; /* nothing but defaults */
    assert_int_equal(k->target, TARGET_UPSTREAM);
    assert_int_equal(k->target_index, 2);
    assert_int_equal(k->policy.hook, CAPTURE_OUTPUT);
    assert_int_equal(k->policy.n_tcp_ports, 0);
    assert_null(k->policy.tcp_ports);
    assert_int_equal(k->udp, UDP_AUTO);
    assert_int_equal(k->dns, DNS_AUTO);
    assert_null(k->dns_server);
    assert_int_equal(k->connect, CONNECT_AUTO);
    assert_int_equal(k->policy.when_down, CAPTURE_DOWN_REFUSE);
    assert_int_equal(k->on_exit, ON_EXIT_OPEN);
    assert_int_equal(k->established, ESTABLISHED_KEEP);

    assert_int_equal(c->workers, 2);
    assert_int_equal(c->max_flows, 16);
    assert_int_equal(c->max_held, 17);
    assert_int_equal(c->idle_timeout, 7200 * SEC);
    assert_int_equal(c->fast_path, FAST_SPLICE);
    assert_string_equal(c->control, "/run/other/control.sock");
    assert_string_equal(c->metrics, "127.0.0.1:9180");
    assert_int_equal(c->log_level, LOG_LEVEL_DEBUG);
    config_free(c);
}

static void empty_file_is_all_defaults(void **state)
{
    struct config *c = load_good("");

    (void)state;
    assert_int_equal(c->n_upstreams + c->n_groups + c->n_captures, 0);
    assert_int_equal(c->workers, 0);
    assert_int_equal(c->max_flows, 65536);
    assert_int_equal(c->max_held, 8192);
    assert_int_equal(c->idle_timeout, 0);
    assert_int_equal(c->fast_path, FAST_AUTO);
    assert_string_equal(c->control, CONFIG_DEFAULT_CONTROL);
    assert_null(c->metrics);
    assert_int_equal(c->log_level, LOG_LEVEL_INFO);
    config_free(c);
}

static void lists_are_sorted_and_merged(void **state)
{
    struct config *c = load_good(
        "upstream \"u\" { url = \"socks5://h\" }\n"
        "capture \"c\" { upstream = \"u\"\n"
        " tcp-ports = { \"8000-9000\", \"443\", \"8500-9500\", \"443\", \"444\", \"1-65535\" }\n"
        " udp-ports = { \"100-200\", \"150-160\", \"50\", \"201\" }\n"
        " to = { \"2001:db8:1::/48\", \"10.1.0.0/16\", \"2001:db8::/32\", \"10.0.0.9/8\", "
        "\"::/0\", "
        "\"192.0.2.1\" }\n"
        " not-to = { \"0.0.0.0/0\", \"::1\" }\n"
        " uid = { 5, 3, 5, \"4294967294\" }\n"
        "}\n");
    const struct capture_policy *p = &c->captures[0].policy;

    (void)state;
    assert_int_equal(p->n_tcp_ports, 1);
    assert_int_equal(p->tcp_ports[0].first, 1);
    assert_int_equal(p->tcp_ports[0].last, 65535);
    assert_int_equal(p->n_udp_ports, 3);
    assert_int_equal(p->udp_ports[0].first, 50);
    assert_int_equal(p->udp_ports[1].first, 100);
    assert_int_equal(p->udp_ports[1].last, 200);
    assert_int_equal(p->udp_ports[2].first, 201);
    assert_int_equal(p->n_to, 3);
    check_prefix(&p->to[0], "10.0.0.0/8");
    check_prefix(&p->to[1], "192.0.2.1/32");
    check_prefix(&p->to[2], "::/0");
    assert_int_equal(p->n_not_to, 2); /* 0.0.0.0/0 does not hold IPv6 */
    assert_int_equal(p->n_uids, 3);
    assert_int_equal(p->uids[0], 3);
    assert_int_equal(p->uids[2], 4294967294u);
    config_free(c);
}

static void forms_of_writing(void **state)
{
    struct config *c =
        load_good("/* a comment\r\n of two lines */ // and another\r\n"
                  "upstream 'single' { url = 'socks5://h:1' } upstream two\n{\n"
                  "url = \"socks5://us\\\"er@h:2\" }\n"
                  "capture \"c\" { upstream = two tcp-ports = 80 tcp-ports += { 81 }\n"
                  "  private = yes # \"a quote\n}");

    (void)state;
    assert_string_equal(c->upstreams[0].name, "single");
    assert_string_equal(c->upstreams[1].name, "two");
    assert_int_equal(c->upstreams[1].line, 4);
    assert_string_equal(c->upstreams[1].url.user, "us\"er");
    assert_int_equal(c->captures[0].line, 6);
    assert_int_equal(c->captures[0].policy.n_tcp_ports, 2);
    assert_true(c->captures[0].policy.private);
    config_free(c);
}

static void environment_in_quotes(void **state)
{
    (void)state;
    setenv("UNDERSOCK_TEST_HOST", "proxy.example.org", 1);
    unsetenv("UNDERSOCK_TEST_NONE");
    struct config *c = load_good("upstream \"u\" { url = \"socks5://${UNDERSOCK_TEST_HOST}:"
                                 "${UNDERSOCK_TEST_NONE:-99}\" }\n"
                                 "control = \"/run/\\${X}\"\n");

    assert_string_equal(c->upstreams[0].url.host, "proxy.example.org");
    assert_int_equal(c->upstreams[0].url.port, 99);
    assert_string_equal(c->control, "/run/${X}");
    config_free(c);
}

static void chain_of_the_longest(void **state)
{
    char text[2048] = "upstream \"u1\" { url = \"socks5://h\" }\n";

    (void)state;
    for (int i = 2; i <= CONFIG_CHAIN_MAX; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text),
                 "upstream \"u%d\" { url = \"socks5://h\" via = \"u%d\" }\n", i, i - 1);
    struct config *c = load_good(text);

    assert_int_equal(c->upstreams[CONFIG_CHAIN_MAX - 1].via, CONFIG_CHAIN_MAX - 2);
    config_free(c);
}

static void edges_of_ranges(void **state)
{
    struct config *c = load_good(
        "upstream \"a-name_of.exactly-31-characters\" { url = \"socks5://h\" warm = 1024\n"
        " connect-timeout = \"1ms\" handshake-timeout = \"1h\" }\n"
        "capture \"c\" { hook = cgroup cgroup = \"/\" upstream = \"refuse\" mark = 0xffffffff }\n"
        "workers = 64 max-flows = 1048576 max-held = 1048576\n");

    (void)state;
    assert_int_equal(strlen(c->upstreams[0].name), CONFIG_NAME_MAX);
    assert_int_equal(c->upstreams[0].warm, 1024);
    assert_int_equal(c->upstreams[0].connect_timeout, 1000000);
    assert_int_equal(c->captures[0].policy.mark, 0xffffffffu);
    assert_string_equal(c->captures[0].policy.cgroup, "/");
    assert_int_equal(c->workers, 64);
    assert_int_equal(c->max_flows, 1048576);
    assert_int_equal(c->max_held, 1048576);
    config_free(c);
}

/* Many sections: arrays grow, and indices stay right. */
static void many_sections(void **state)
{
    size_t size = 100000, n = 0;
    char *text = malloc(size);

    (void)state;
    assert_non_null(text);
    for (int i = 0; i < 300; i++)
        n += (size_t)snprintf(text + n, size - n,
                              "capture \"c%d\" { upstream = \"u%d\" } # comment\n"
                              "upstream \"u%d\" { url = \"socks5://h:%d\" }\n",
                              i, 299 - i, i, i + 1);
    struct config *c = load_good(text);

    free(text);
    assert_int_equal(c->n_captures, 300);
    for (unsigned i = 0; i < 300; i++) {
        assert_int_equal(c->captures[i].target_index, 299 - i);
        assert_int_equal(c->captures[i].line, 2 * i + 1);
        assert_int_equal(c->upstreams[i].url.port, i + 1);
        assert_int_equal(c->upstreams[i].line, 2 * i + 2);
    }
    config_free(c);
}

/* The file that is installed beside the real one; the tests run at the root of the sources. */
static void shipped_example(void **state)
{
    struct config *c = NULL;

    (void)state;
    forget_errors();
    int r = config_load("systemd/undersock.conf.example", collect, errors, &c);

    if (r != 0)
        fail_msg("%s", errors);
    assert_int_equal(c->n_upstreams, 2);
    assert_int_equal(c->n_groups, 1);
    assert_int_equal(c->n_captures, 2);
    assert_int_equal(c->captures[0].target, TARGET_DIRECT);
    assert_int_equal(c->captures[1].target, TARGET_GROUP);
    assert_int_equal(c->captures[1].udp, UDP_REJECT);
    config_free(c);
}

/* Every key the reader knows is in the example, so that it cannot fall behind. */
static void shipped_example_names_every_key(void **state)
{
    char text[16384];
    FILE *f = fopen("systemd/undersock.conf.example", "r");

    (void)state;
    assert_non_null(f);
    text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
    fclose(f);
    assert_true(config_n_options > 30);
    for (size_t i = 0; i < config_n_options; i++) {
        char key[64];

        snprintf(key, sizeof(key), " %s ", config_options[i].name);
        if (!strstr(text, key))
            fail_msg("%s is not in the example", config_options[i].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(complete_example),
        cmocka_unit_test(empty_file_is_all_defaults),
        cmocka_unit_test(lists_are_sorted_and_merged),
        cmocka_unit_test(forms_of_writing),
        cmocka_unit_test(environment_in_quotes),
        cmocka_unit_test(chain_of_the_longest),
        cmocka_unit_test(edges_of_ranges),
        cmocka_unit_test(many_sections),
        cmocka_unit_test(shipped_example),
        cmocka_unit_test(shipped_example_names_every_key),
    };

    return cmocka_run_group_tests_name("config/load", tests, make_directory, remove_directory);
}
