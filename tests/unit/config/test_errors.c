/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a wrong file is told: each error at its line, with what would be right, and all of them. */
#include <errno.h>

#include "fixture.h"

#define UP "upstream \"u\" { url = \"socks5://h\" }\n"

/* A text, and the one error it has. */
struct mistake {
    unsigned line;
    const char *text;
    const char *what, *remedy; /* parts of the message */
};

static void check_one(const struct mistake *m)
{
    struct config *c = (void *)&n_errors; /* stays as it is */
    char where[160];

    if (load_text(m->text, &c) != -EINVAL)
        fail_msg("accepted:\n%s", m->text);
    assert_ptr_equal(c, &n_errors);
    snprintf(where, sizeof(where), "%s:%u: %s", file, m->line, m->what);
    if (n_errors != 1 || strncmp(errors, where, strlen(where)) != 0 || !strstr(errors, m->remedy))
        fail_msg("\n%s\nsaid\n%sinstead of \"%s ... %s\"", m->text, errors, where, m->remedy);
}

static void check_all(const struct mistake *m, size_t n)
{
    for (size_t i = 0; i < n; i++)
        check_one(&m[i]);
}

#define CHECK(table) check_all(table, sizeof(table) / sizeof((table)[0]))

static void grammar(void **state)
{
    static const struct mistake table[] = {
        {2, "workers = 1\nfoo = 3\n", "unknown key (foo)", "the keys of the top level are workers"},
        {2, "workers = 1\nworker = 3\n", "unknown key (worker)", "did you mean \"workers\"?"},
        {3, "upstream \"u\" {\n url = \"socks5://h\"\n conect-timeout = \"1s\" }\n",
         "unknown key (conect-timeout)",
         "did you mean \"connect-timeout\"? the keys of an upstream are"},
        {2, UP "upstream \"v\" { url = \"socks5://h\" hook = \"output\" }\n", "unknown key (hook)",
         "it is a key of a capture; the keys of an upstream are url"},
        {1, "[upstream]\nworkers = 1\n", "unknown key ([upstream]): the keys of the top level",
         "a section is written upstream \"NAME\" { ... }"},
        {1, "[[upstream]]\nurl = \"socks5://h\"\n", "unknown key ([[upstream]])",
         "a section is written upstream \"NAME\" { ... }"},
        {1, "[socks5://h]\nworkers = 1\n", "unknown key: a value with",
         "a section is written upstream \"NAME\" { ... }"},
        {2, "# comment\ncaptur \"x\" { upstream = \"u\" }\n", "unknown key (captur)",
         "did you mean \"capture\"?"},
        {2, "upstream \"u\" { url = \"socks5://h\"\n foo { } }\n", "unknown key (foo)",
         "the keys of an upstream"},
        {2, UP "\"upstream=u|warm\" = 3\n", "unknown key", "the keys of the top level"},
        {2, UP "\"upstream=x|warm\" = 3\n", "syntax", "plain name"},
        {1, "\"\" = 3\n", "syntax", "NAME = \"VALUE\""},
        {1, "\" opening\" = 3\n", "unknown key", "the keys of the top level"},
        {3, "/* two\n lines */\nworkers 3\n", "syntax (workers)", "write NAME = \"VALUE\""},
        {1, "workers =\nmax-flows = 16\n", "syntax (=)", "the value is missing"},
        {2, UP "capture \"c\" { upstream = \"u\" uid += { } }\n", "uid ({ })", "an empty list"},
        {3, UP "group \"g\" {\n members = { } }\n", "members ({ })", "an empty list"},
        {1, "workers = 1 + max-flows = 16\n", "syntax", "a value with '+' needs quotes"},
        {1, "workers = { 1 2 }\n", "syntax (2)", "{ \"A\", \"B\" }"},
        {1, "workers = { 1, 2\n", "brace ({)", "end the section or list with }"},
        {2, UP "capture \"a\" {\n upstream = \"u\"\ncapture \"b\" { upstream = \"u\" }\n",
         "brace ({)", "is not closed"},
        {2, "\n}\n", "syntax", "remove the }"},
        {2, "workers = 1\ncapture { upstream = \"direct\" }\n", "syntax (capture)",
         "name in quotes"},
        {2, "capture \"c\"\nupstream = \"direct\"\n", "syntax (capture)", "comes {"},
        {3, "workers = 1 # \"\n# '\ncontrol = \"/run/x\nmetrics = \"127.0.0.1:1\"\n",
         "text in quotes", "not closed on its line"},
        {2, "\ncontrol = '/run/x", "text in quotes", "end it with '"},
        {2, "\n/* never\nclosed", "comment", "end it with */"},
        {1, "workers = *\n", "syntax", "a value with '*' needs quotes"},
        {2, "workers = 1\ncontrol =", "syntax", "complete it"},
        {1, "control = \"/run/\\777\"", "syntax (\\777)", "write \\\\ for a backslash"},
        {2, "workers = 1\nworkers = 2\n", "workers", "given twice (first on line 1): keep one"},
        {3, UP "capture \"c\" { upstream = \"u\" uid = { 1 }\n uid = 2 }\n", "uid",
         "first on line 2): write one list"},
        {1, "workers = { 1, 2 }\n", "workers (2)", "it takes one value, not a list"},
        {1, "include(\"/etc/x\")\n", "unknown key (include)", "the keys of the top level"},
    };

    (void)state;
    CHECK(table);
}

static void zero_byte(void **state)
{
    static const char texts[][40] = {"workers = 1\nmax-flows\0 = 3\n",
                                     "workers = 1\ncontrol = \"/run\0/x\"\n",
                                     "workers = 1\n# comment \0\n"};
    struct config *c = NULL;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        write_file(file, texts[i], sizeof(texts[i]), 0600);
        forget_errors();
        assert_int_equal(config_load(file, collect, errors, &c), -EINVAL);
        assert_int_equal(n_errors, 1);
        assert_non_null(strstr(errors, ":2: zero byte: this is not a text file"));
    }
}

static void names(void **state)
{
    static const struct mistake table[] = {
        {2, UP "upstream \"u\" { url = \"socks5://h\" }\n", "upstream (u)",
         "on line 1 has this name"},
        {2, UP "group \"u\" { members = { \"u\" } }\n", "group (u)",
         "an upstream on line 1 has this name already"},
        {2,
         "group \"g\" { members = { \"v\" } }\nupstream \"g\" { url = \"socks5://h\" }\n"
         "upstream \"v\" { url = \"socks5://h\" }\n",
         "upstream (g)", "a group on line 1 has this name already"},
        {2, "capture \"c\" { upstream = \"direct\" }\ncapture \"c\" { upstream = \"direct\" }\n",
         "capture (c)", "a capture on line 1"},
        {1, "upstream \"direct\" { url = \"socks5://h\" }\n", "upstream (direct)", "reserved"},
        {1, "upstream \"refuse\" { url = \"socks5://h\" }\n", "upstream (refuse)", "reserved"},
        {2, UP "group \"direct\" { members = { \"u\" } }\n", "group (direct)", "reserved"},
        {1, "upstream \"\" { url = \"socks5://h\" }\n", "upstream ()", "1 to 31 characters"},
        {1, "upstream \"a b\" { url = \"socks5://h\" }\n", "upstream (a b)", "1 to 31 characters"},
        {1, "upstream \"12345678901234567890123456789012\" { url = \"socks5://h\" }\n",
         "upstream (1234", "1 to 31 characters"},
        {1, "capture \"\xc3\xa9\" { upstream = \"direct\" }\n", "capture", "letters, digits"},
    };

    (void)state;
    CHECK(table);
}

static void references(void **state)
{
    static const struct mistake table[] = {
        {2,
         "upstream \"bastion\" { url = \"socks5://h\" }\nupstream \"v\" { via = \"bastoin\" url = "
         "\"socks5://h\" }\n",
         "via (bastoin)", "did you mean \"bastion\"? no upstream has this name"},
        {3,
         UP
         "group \"g\" { members = { \"u\" } }\nupstream \"v\" { via = \"g\" url = \"socks5://h\" "
         "}\n",
         "via (g)", "this is a group: name one of its upstreams"},
        {1, "upstream \"u\" { url = \"socks5://h\" via = \"u\" }\n", "via (u)", "loop (u -> u)"},
        {1,
         "upstream \"a\" { url = \"socks5://h\" via = \"b\" }\nupstream \"b\" { url = "
         "\"socks5://h\" "
         "via = \"c\" }\nupstream \"c\" { url = \"socks5://h\" via = \"a\" }\n",
         "via (b)", "loop (a -> b -> c -> a)"},
        {2,
         "upstream \"leads-in\" { url = \"socks5://h\" via = \"b\" }\nupstream \"b\" { url = "
         "\"socks5://h\" via = \"c\" }\nupstream \"c\" { url = \"socks5://h\" via = \"b\" }\n",
         "via (c)", "loop (b -> c -> b)"},
        {2, UP "group \"g\" { members = { \"u\", \"w\" } }\n", "members (w)",
         "no upstream has this name"},
        {3, UP "group \"g\" { members = { \"u\" } }\ngroup \"f\" { members = { \"g\" } }\n",
         "members (g)", "this is a group"},
        {3, UP "group \"g\" { members = { \"u\",\n\"u\" } }\n", "members (u)", "name it once"},
        {2, UP "group \"g\" { policy = \"hash\" }\n", "a group (g)", "members is missing"},
        {2, UP "capture \"c\" { upstream = \"exit\" }\n", "upstream (exit)",
         "no upstream or group has this name"},
        {2, UP "capture \"c\" { upstream = \"drect\" }\n", "upstream (drect)",
         "did you mean \"direct\"?"},
        {2, UP "capture \"c\" { }\n", "a capture (c)",
         "upstream is missing: every capture needs one"},
        {1, "upstream \"v\" { warm = 1 }\n", "an upstream (v)", "url is missing"},
    };

    (void)state;
    CHECK(table);
}

static void long_chain(void **state)
{
    char text[2048] = "upstream \"u1\" { url = \"socks5://h\" }\n";
    struct mistake m = {.line = CONFIG_CHAIN_MAX + 1,
                        .text = text,
                        .what = "via (u8)",
                        .remedy = "more than 8 hops"};

    (void)state;
    for (int i = 2; i <= CONFIG_CHAIN_MAX + 3; i++) /* two more beyond it are not reported */
        snprintf(text + strlen(text), sizeof(text) - strlen(text),
                 "upstream \"u%d\" { url = \"socks5://h\" via = \"u%d\" }\n", i, i - 1);
    check_one(&m);
}

static void upstream_values(void **state)
{
    static const struct mistake table[] = {
        {2, "upstream \"u\" {\n url = \"socks6://h\" }\n", "url (socks6://h)",
         "socks5h (the proxy"},
        {2, "upstream \"u\" {\n url = \"http://al:secret@h\" }\n", "url (http://h:8080)",
         "not in this version"},
        {1, "upstream \"u\" { url = \"h:1080\" }\n", "url (h:1080)", "scheme is missing"},
        {1, "upstream \"u\" { url = \"socks5://h:0\" }\n", "url (socks5://h:0)", "from 1 to 65535"},
        {1, "upstream \"u\" { url = \"socks5://al:secret@h:0\" }\n", "url (socks5://...@h:0)",
         "from 1 to 65535"},
        {1, "upstream \"u\" { url = \"socks4://al:secret@h\" }\n", "url (socks4://...@h)",
         "no password"},
        {1, "upstream \"u\" { url = \"socks5://h\" connect-timeout = \"10\" }\n",
         "connect-timeout (10)", "a unit (ms, s, m, h) from 1ms to 1h"},
        {1, "upstream \"u\" { url = \"socks5://h\" connect-timeout = \"0\" }\n",
         "connect-timeout (0)", "from 1ms to 1h"},
        {1, "upstream \"u\" { url = \"socks5://h\" handshake-timeout = \"61m\" }\n",
         "handshake-timeout (61m)", "from 1ms to 1h"},
        {1,
         "upstream \"u\" { url = \"socks5://h\" handshake-timeout = \"99999999999999999999s\" }\n",
         "handshake-timeout (99999999999999999999s)", "from 1ms to 1h"},
        {1, "upstream \"u\" { url = \"socks5://h\" warm = 1025 }\n", "warm (1025)", "0 to 1024"},
        {1, "upstream \"u\" { url = \"socks5://h\" warm = -1 }\n", "warm (-1)", "0 to 1024"},
        {1, "upstream \"u\" { url = \"socks5://h\" warm = four }\n", "warm (four)", "0 to 1024"},
        {1, "upstream \"u\" { url = \"socks5://h\" pipeline = \"yes\" }\n", "pipeline (yes)",
         "one of off, on, auto"},
        {1, "upstream \"u\" { url = \"socks5://h\" udp = \"associate\" }\n", "udp (associate)",
         "one of off, on, auto"},
        {2, UP "group \"g\" { members = \"u\" policy = \"failovr\" }\n", "policy (failovr)",
         "did you mean \"failover\"? it is one of failover, round-robin, least-latency, hash"},
        {2, UP "group \"g\" { members = \"u\" probe = \"h\" }\n", "probe (h)", "port is missing"},
        {2, UP "group \"g\" { members = \"u\" probe = \"h:0\" }\n", "probe (h:0)", "1 to 65535"},
        {2, UP "group \"g\" { members = \"u\" probe-interval = \"1ms\" }\n", "probe-interval (1ms)",
         "from 100ms to 24h"},
    };

    (void)state;
    CHECK(table);
}

#define DIRECT "capture \"c\" { upstream = \"direct\"\n "

static void capture_values(void **state)
{
    static const struct mistake table[] = {
        {2, DIRECT "hook = \"outptu\" }", "hook (outptu)", "did you mean \"output\"?"},
        {2, DIRECT "tcp-ports = { \"80\", \"0\" } }", "tcp-ports (0)", "from 1 to 65535"},
        {3, DIRECT "tcp-ports = { \"80\",\n \"65536\" } }", "tcp-ports (65536)", "from 1 to 65535"},
        {2, DIRECT "tcp-ports = \"0-10\" }", "tcp-ports (0-10)", "from 1 to 65535"},
        {2, DIRECT "tcp-ports = \"90-80\" }", "tcp-ports (90-80)", "reversed: write \"80-90\""},
        {2, DIRECT "tcp-ports = \"80-\" }", "tcp-ports (80-)", "as in \"443\" or \"8000-8999\""},
        {2, DIRECT "tcp-ports = \"http\" }", "tcp-ports (http)", "from 1 to 65535"},
        {2, DIRECT "tcp-ports = { } }", "tcp-ports ({ })", "empty list selects nothing"},
        {2, DIRECT "uid = {\n# nobody\n} }", "uid ({ })", "leave the key out"},
        {2, DIRECT "udp-ports = \"443\" }", "udp-ports (443)", "every TCP port is selected too"},
        {2, DIRECT "to = \"10.0.0.0/33\" }", "to (10.0.0.0/33)", "0 to 32 (IPv4)"},
        {2, DIRECT "to = \"2001:db8::/129\" }", "to (2001:db8::/129)", "0 to 128 (IPv6)"},
        {2, DIRECT "not-to = \"10.0.0/8\" }", "not-to (10.0.0/8)", "give a network"},
        {2, DIRECT "to = \"example.net\" }", "to (example.net)", "give a network"},
        {2, DIRECT "uid = { root, \"no-such-user-here\" } }", "uid (no-such-user-here)",
         "getent passwd"},
        {2, DIRECT "uid = \"4294967295\" }", "uid (4294967295)", "from 0 to 4294967294"},
        {2, DIRECT "uid = \"\" }", "uid ()", "no user has this name"},
        {2, DIRECT "mark = 0x100000000 }", "mark (0x100000000)", "from 0 to 4294967295"},
        {2, DIRECT "mark = 0x }", "mark (0x)", "from 0 to 4294967295"},
        {2, DIRECT "mark = 0x55530000 }", "mark (0x55530000)", "undersock's own"},
        {2, DIRECT "mark = 1431568383 }", "mark (1431568383)", "choose another"},
        {2, DIRECT "private = maybe }", "private (maybe)", "true or false"},
        {2, DIRECT "udp = \"drop\" }", "udp (drop)", "one of auto, associate, reject, bypass"},
        {2, DIRECT "dns = \"udp\" }", "dns (udp)", "one of auto, fake, tcp, associate, bypass"},
        {2, DIRECT "dns-server = \"dns.example:53\" }", "dns-server (dns.example:53)",
         "not resolved"},
        {2, DIRECT "connect = \"late\" }", "connect (late)", "one of auto, honest, early"},
        {2, DIRECT "when-down = \"open\" }", "when-down (open)", "one of refuse, direct"},
        {2, DIRECT "on-exit = \"close\" }", "on-exit (close)", "did you mean \"closed\"?"},
        {2, DIRECT "established = \"drop\" }", "established (drop)", "one of keep, reset"},
        {2, DIRECT "cgroup = \"/a\" }", "cgroup (/a)", "it needs hook = \"cgroup\""},
        {1, DIRECT "hook = \"cgroup\" }", "a capture (c)", "add cgroup = "},
        {2, DIRECT "hook = \"cgroup\" cgroup = \"a\" }", "cgroup (a)", "begins with /"},
        {2, DIRECT "hook = \"cgroup\" cgroup = \"/a/../b\" }", "cgroup (/a/../b)", "\"..\""},
        {2, DIRECT "hook = \"cgroup\" cgroup = \"/..\" }", "cgroup (/..)", "\"..\""},
        {2, DIRECT "hook = \"cgroup\" cgroup = \"/a//b\" }", "cgroup (/a//b)", "empty"},
        {2, DIRECT "hook = \"cgroup\" cgroup = \"/a/\" }", "cgroup (/a/)", "empty"},
        {2, DIRECT "hook = \"cgroup\" cgroup = \"/a/.\" }", "cgroup (/a/.)", "\".\""},
        {2, DIRECT "interfaces = \"lo\" }", "interfaces (lo)", "it needs hook = \"gateway\""},
        {2, DIRECT "hook = \"gateway\" interfaces = \"a-name-of-16-ch.\" }",
         "interfaces (a-name-of-16-ch.)", "1 to 15 characters"},
        {2, DIRECT "hook = \"gateway\" interfaces = \"a/b\" }", "interfaces (a/b)", "without '/'"},
        {2, DIRECT "hook = \"gateway\" uid = \"0\" }", "uid (0)", "forwarded traffic has no user"},
        {2, DIRECT "hook = \"gateway\" not-uid = \"0\" }", "not-uid (0)",
         "forwarded traffic has no user"},
    };

    (void)state;
    CHECK(table);
}

static void top_values(void **state)
{
    char long_path[] = "control = \"/123456789/123456789/123456789/123456789/123456789/123456789/"
                       "123456789/123456789/123456789/123456789/1234567\"\n";
    const struct mistake table[] = {
        {1, "workers = 65\n", "workers (65)", "from 0 to 64"},
        {1, "max-flows = 15\n", "max-flows (15)", "from 16 to 1048576"},
        {1, "max-flows = 1048577\n", "max-flows (1048577)", "from 16 to 1048576"},
        {1, "max-held = 15\n", "max-held (15)", "from 16 to 1048576"},
        {1, "max-held = 1048577\n", "max-held (1048577)", "from 16 to 1048576"},
        {1, "max-flows = 18446744073709551632\n", "max-flows (18446744073709551632)",
         "from 16 to 1048576"},
        {1, "idle-timeout = \"5\"\n", "idle-timeout (5)", "as in \"30s\""},
        {1, "fast-path = \"warp\"\n", "fast-path (warp)",
         "one of auto, stitch, sockmap, splice, copy"},
        {1, "control = \"control.sock\"\n", "control (control.sock)", "absolute path"},
        {1, long_path, "control (/123", "at most 107"},
        {1, "metrics = \"127.0.0.1\"\n", "metrics (127.0.0.1)", "an address and a port"},
        {1, "metrics = \"127.0.0.1:0\"\n", "metrics (127.0.0.1:0)", "from 1 to 65535"},
        {1, "metrics = \"localhost:9180\"\n", "metrics (localhost:9180)", "not resolved"},
        {1, "log-level = \"warn\"\n", "log-level (warn)", "one of error, warning, info, debug"},
    };

    (void)state;
    CHECK(table);
}

/* One pass tells all, in the order of the lines. */
static void all_errors_at_once(void **state)
{
    static const char text[] = "upstream \"a\" { url = \"socks5://h:0\" }\n" /* 1 */
                               "foo = 1\n"                                   /* 2 */
                               "capture \"c\" {\n"
                               "    upstream = \"b\"\n"       /* 4 */
                               "    foo = { 1, 2 }\n"         /* 5: once, not per value */
                               "    udp = \"x\" bar = 2\n"    /* 6: two */
                               "    tcp-ports = { 0, 99999 }" /* 7: two */
                               "}\n"
                               "workers = 100\n" /* 8 */
                               "foo = 2\n";      /* 9 */
    static const unsigned lines[] = {1, 2, 4, 5, 6, 6, 7, 7, 8, 9};
    struct config *c = NULL;
    const char *p = errors;

    (void)state;
    assert_int_equal(load_text(text, &c), -EINVAL);
    assert_null(c);
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        char where[128];

        snprintf(where, sizeof(where), "%s:%u: ", file, lines[i]);
        if (strncmp(p, where, strlen(where)) != 0)
            fail_msg("error %zu is not at line %u:\n%s", i, lines[i], errors);
        p = strchr(p, '\n') + 1;
    }
    assert_int_equal(n_errors, sizeof(lines) / sizeof(lines[0]));
}

/* Where the grammar breaks off, what stands after it is not reported as missing. */
static void broken_grammar_hides_nothing_else(void **state)
{
    struct config *c = NULL;

    (void)state;
    assert_int_equal(
        load_text("workers = 99\ncapture \"c\" { udp = bad upstream = \"later\"\n to to }\n"
                  "upstream \"later\" { url = \"socks5://h\" }\n",
                  &c),
        -EINVAL);
    assert_int_equal(n_errors, 3);
    assert_non_null(strstr(errors, ":1: workers (99)"));
    assert_non_null(strstr(errors, ":2: udp (bad)"));
    assert_non_null(strstr(errors, ":3: syntax (to)"));
}

/* More unknown keys than are parsed around: still an error, still an end. */
static void very_many_unknown_keys(void **state)
{
    char text[4096] = "";
    struct config *c = NULL;

    (void)state;
    for (int i = 0; i < 200; i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "key%d = 1\n", i);
    assert_int_equal(load_text(text, &c), -EINVAL);
    assert_in_range(n_errors, 32, 200);
    assert_non_null(strstr(errors, ":32: unknown key (key31)"));
}

static struct mistake password_case(const char *url, char text[512], const char *remedy)
{
    snprintf(text, 512, "upstream \"u\" { url = \"%s\"\n password-file = \"%s\" }\n", url, secret);
    return (struct mistake){.line = 2, .text = text, .what = "password-file (", .remedy = remedy};
}

static void password_files(void **state)
{
    static const char url[] = "socks5://al@h";
    char text[512], chmod_text[200], bytes[300];
    struct mistake m = password_case(url, text, "cannot be read (No such file or directory)");

    (void)state;
    unlink(secret);
    check_one(&m);

    snprintf(chmod_text, sizeof(chmod_text), "(mode 0640): chmod 600 %s", secret);
    write_file(secret, "topsecret\n", 10, 0640);
    m.remedy = chmod_text;
    check_one(&m);
    assert_null(strstr(errors, "topsecret"));
    snprintf(chmod_text, sizeof(chmod_text), "(mode 0604): chmod 600 %s", secret);
    write_file(secret, "topsecret\n", 10, 0604);
    check_one(&m);

    m.remedy = "is empty";
    write_file(secret, "", 0, 0600);
    check_one(&m);
    write_file(secret, "\n", 1, 0600);
    check_one(&m);

    m.remedy = "more than one line";
    write_file(secret, "topsecret\nsecond\n", 17, 0600);
    check_one(&m);
    assert_null(strstr(errors, "topsecret"));
    write_file(secret, "topsecret\r\n", 11, 0600);
    check_one(&m);
    write_file(secret, "top\0secret\n", 11, 0600);
    check_one(&m);

    memset(bytes, 'x', sizeof(bytes));
    m.remedy = "more than 255 bytes";
    write_file(secret, bytes, 256, 0600);
    check_one(&m);
    bytes[256] = '\n';
    write_file(secret, bytes, 257, 0600);
    check_one(&m);
    write_file(secret, bytes, 300, 0600);
    m.remedy = "password-file"; /* too long and more than a line: either will do */
    check_one(&m);

    unlink(secret);
    assert_int_equal(mkfifo(secret, 0600), 0);
    m.remedy = "not a regular file";
    check_one(&m);
    unlink(secret);
    assert_int_equal(mkdir(secret, 0700), 0);
    check_one(&m);
    assert_int_equal(rmdir(secret), 0);

    /* 255 bytes are a password, with and without the newline. */
    for (size_t n = 255; n <= 256; n++) {
        struct config *c = NULL;

        bytes[255] = '\n';
        write_file(secret, bytes, n, 0400);
        assert_int_equal(load_text(text, &c), 0);
        assert_int_equal(strlen(c->upstreams[0].url.password), 255);
        config_free(c);
        unlink(secret);
    }
}

static void password_combinations(void **state)
{
    char text[512];
    struct mistake m;

    (void)state;
    write_file(secret, "topsecret\n", 10, 0600);
    m = password_case("socks5://al:other@h", text, "url has a password too");
    check_one(&m);
    assert_null(strstr(errors, "other"));
    m = password_case("socks5://h", text, "a password needs a user");
    check_one(&m);
    m = password_case("socks4://al@h", text, "SOCKS4 carries no password");
    check_one(&m);
    m = password_case("socks4a://al@h", text, "SOCKS4 carries no password");
    check_one(&m);
    m = (struct mistake){1, "upstream \"u\" { url = \"socks5://al@h\" password-file = \"p\" }\n",
                         "password-file (p)", "absolute path"};
    check_one(&m);
}

/* Quotes that are missing or escaped wrongly tear a URL apart: no part of it is shown. */
static void torn_secrets(void **state)
{
    static const char *const texts[] = {
        "upstream \"u\" { url = socks5://al:to+secret@h }\n",
        "upstream \"u\" { url = socks5://al:to secret@h }\n",
        "upstream \"u\" { url = socks5://al:to=secret@h }\n",
        "upstream \"u\" { url = socks5://al:to,secret@h }\n",
        "upstream \"u\" { url = socks5://al:to\"secret\"@h }\n",
        "upstream \"u\" { url = \"socks5://al:secret@h }\n",
        "upstream \"u\" { url = \"socks5://al:secret\"@h\" }\n",
        "upstream \"u\" { url = \"socks5://al:\\777secret@h\" }\n",
        "upstream \"u\" { url = \"socks5://al:secret\" }\n",
        "upstream \"u\" { url = { \"socks5://h\", \"socks5://al:secret@h\" } }\n",
        "upstream \"u\" { url = \"socks5://h\" password = \"secret\" }\n",
        "upstream \"u\" { url = \"socks5://h\" password \"secret\" }\n",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct config *c = NULL;

        if (load_text(texts[i], &c) != -EINVAL)
            fail_msg("accepted: %s", texts[i]);
        assert_true(n_errors > 0);
        if (strstr(errors, "secret"))
            fail_msg("%s%s", texts[i], errors);
    }
}

/* What is right and hardly meant: a line each, and no failure. */
static void warnings_only(void **state)
{
    static const struct {
        const char *text;
        unsigned line; /* 0: of the file as a whole */
        const char *said;
    } table[] = {
        {"", 0, "no capture: nothing is redirected"},
        {"# nothing\n" UP, 0, "no capture"},
        {"\xef\xbb\xbf" DIRECT "}", 0, NULL},
        {"\xef\xbb\xbfworkers = 1\n" DIRECT "mark = 0x55520000 }", 0, NULL},
        {UP DIRECT "}\nupstream \"v\" {\n\n url = \"socks5://alice@h\" }\n", 6,
         "url: it has a user and no password"},
        {"upstream \"v\" { url = \"socks5h://alice@h\" }\n" DIRECT "}", 1, "password-file"},
        {"upstream \"v\" { url = \"socks4://alice@h\" }\n" DIRECT "}", 0, NULL},
        {"upstream \"v\" { url = \"socks5://alice:secret@h\" }\n" DIRECT "}", 0, NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct config *c = NULL;
        char where[160];

        if (load_text(table[i].text, &c) != 0)
            fail_msg("%s\nis refused: %s", table[i].text, errors);
        config_free(c);
        snprintf(where, sizeof(where),
                 table[i].line > 0 ? "%s:%u: warning: " : "%s: warning: ", file, table[i].line);
        if (table[i].said ? strncmp(warnings, where, strlen(where)) != 0 ||
                                !strstr(warnings, table[i].said) ||
                                strchr(warnings, '\n') != strrchr(warnings, '\n')
                          : warnings[0] != '\0')
            fail_msg("%s\nsaid %s", table[i].text, warnings);
    }
}

static void unreadable_files(void **state)
{
    struct config *c = NULL;
    char *big = malloc((1 << 20) + 1);

    (void)state;
    assert_non_null(big);
    unlink(file);
    forget_errors();
    assert_int_equal(config_load(file, collect, errors, &c), -ENOENT);
    assert_int_equal(n_errors, 1);
    assert_non_null(strstr(errors, "cannot be read (No such file or directory): write one"));
    forget_errors();
    assert_int_equal(config_load(dir, collect, errors, &c), -EISDIR);
    assert_int_equal(n_errors, 1);
    memset(big, ' ', (1 << 20) + 1);
    write_file(file, big, (1 << 20) + 1, 0600);
    forget_errors();
    assert_int_equal(config_load(file, collect, errors, &c), -EFBIG);
    assert_non_null(strstr(errors, "larger than 1 MiB"));
    write_file(file, big, 1 << 20, 0600);
    assert_int_equal(config_load(file, collect, errors, &c), 0);
    config_free(c);
    free(big);
}

/*
 * Every byte in every place of a small file, and every beginning of it: an answer or an error at a
 * line, and never both. What a sanitizer would find, it finds here.
 */
static void any_byte(void **state)
{
    static const char model[] =
        "upstream 'u' {\n url=\"socks5://${X:-h}\\\"\" }\n/*c*/ capture c {#\n"
        "upstream=u tcp-ports={1,2} tcp-ports+={3}}\n";
    static const char bytes[] = "\"'{}()=+,#/*\\\n$| x1\x01\xff";
    size_t n = sizeof(model) - 1;

    (void)state;
    for (size_t at = 0; at < n; at++) {
        for (size_t b = 0; b <= sizeof(bytes); b++) {
            char text[sizeof(model)];
            struct config *c = NULL;

            memcpy(text, model, sizeof(model));
            text[at] = b < sizeof(bytes) ? bytes[b] : '\0';
            write_file(file, text, b < sizeof(bytes) ? n : at, 0600);
            forget_errors();
            int r = config_load(file, collect, errors, &c);

            assert_true(r == 0 ? c && n_errors == 0 : r == -EINVAL && !c && n_errors > 0);
            config_free(c);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grammar),
        cmocka_unit_test(zero_byte),
        cmocka_unit_test(names),
        cmocka_unit_test(references),
        cmocka_unit_test(long_chain),
        cmocka_unit_test(upstream_values),
        cmocka_unit_test(capture_values),
        cmocka_unit_test(top_values),
        cmocka_unit_test(all_errors_at_once),
        cmocka_unit_test(broken_grammar_hides_nothing_else),
        cmocka_unit_test(very_many_unknown_keys),
        cmocka_unit_test(password_files),
        cmocka_unit_test(password_combinations),
        cmocka_unit_test(torn_secrets),
        cmocka_unit_test(warnings_only),
        cmocka_unit_test(unreadable_files),
        cmocka_unit_test(any_byte),
    };

    return cmocka_run_group_tests_name("config/errors", tests, make_directory, remove_directory);
}
