/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every key there is. A key is added here, in the struct of config.h and, when no type fits, in
 * values.c or lists.c; the reader, the defaults, the messages and `undersock run -o` follow.
 */
#include "config/options.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#define MS   INT64_C(1000000)
#define SEC  (1000 * MS)
#define HOUR (3600 * SEC)

static const char *const words_toggle[] = {"off", "on", "auto", NULL};
static const char *const words_policy[] = {"failover", "round-robin", "least-latency", "hash",
                                           NULL};
static const char *const words_fast_path[] = {"auto", "stitch", "sockmap", "splice",
                                              "copy", "relay",  NULL};
static const char *const words_udp[] = {"auto", "associate", "reject", "bypass", NULL};
static const char *const words_dns[] = {"auto", "fake", "tcp", "associate", "bypass", NULL};
static const char *const words_connect[] = {"auto", "honest", "early", NULL};
static const char *const words_on_exit[] = {"open", "closed", NULL};
static const char *const words_established[] = {"keep", "reset", NULL};
static const char *const words_hook[] = {"output", "cgroup", "gateway", NULL};
static const char *const words_when_down[] = {"refuse", "direct", NULL};
static const char *const words_log_level[] = {"error", "warning", "info", "debug", NULL};

/* The words are stored as indices: they and the enums must not drift apart. */
_Static_assert(TOGGLE_AUTO == 2 && POLICY_HASH == 3 && FAST_RELAY == 5, "order of words");
_Static_assert(UDP_BYPASS == 3 && DNS_BYPASS == 4 && CONNECT_EARLY == 2, "order of words");
_Static_assert(ON_EXIT_CLOSED == 1 && ESTABLISHED_RESET == 1, "order of words");
_Static_assert(CAPTURE_GATEWAY == 2 && CAPTURE_DOWN_DIRECT == 1 && LOG_LEVEL_DEBUG == 3,
               "order of words");
_Static_assert(sizeof(enum config_toggle) == sizeof(unsigned) &&
                   sizeof(enum capture_hook) == sizeof(unsigned),
               "enums are stored as unsigned");

#define UPSTREAM(key, kind, field, ...)                                \
    {                                                                  \
        .name = key, .section = SECTION_UPSTREAM, .type = kind,        \
        .offset = offsetof(struct config_upstream, field), __VA_ARGS__ \
    }
#define GROUP(key, kind, field, ...)                                \
    {                                                               \
        .name = key, .section = SECTION_GROUP, .type = kind,        \
        .offset = offsetof(struct config_group, field), __VA_ARGS__ \
    }
#define CAPTURE(key, kind, field, ...)                                \
    {                                                                 \
        .name = key, .section = SECTION_CAPTURE, .type = kind,        \
        .offset = offsetof(struct config_capture, field), __VA_ARGS__ \
    }
#define SELECT(key, kind, field)     \
    CAPTURE(key, kind, policy.field, \
            .count_offset = offsetof(struct config_capture, policy.n_##field))
#define TOP(key, kind, field, ...)                            \
    {                                                         \
        .name = key, .section = SECTION_TOP, .type = kind,    \
        .offset = offsetof(struct config, field), __VA_ARGS__ \
    }

const struct option config_options[] = {
    UPSTREAM("url", OPTION_URL, url, .flags = OPTION_REQUIRED),
    UPSTREAM("password-file", OPTION_PATH, password_file, .max = PATH_MAX - 1),
    UPSTREAM("via", OPTION_REFERENCE, via),
    UPSTREAM("connect-timeout", OPTION_DURATION, connect_timeout, .flags = OPTION_EVERY_HOP,
             .min = MS, .max = HOUR, .fallback = "10s"),
    UPSTREAM("handshake-timeout", OPTION_DURATION, handshake_timeout, .flags = OPTION_EVERY_HOP,
             .min = MS, .max = HOUR, .fallback = "15s"),
    UPSTREAM("warm", OPTION_NUMBER, warm, .flags = OPTION_EVERY_HOP, .max = 1024, .fallback = "0"),
    UPSTREAM("pipeline", OPTION_WORD, pipeline, .flags = OPTION_EVERY_HOP, .fallback = "auto",
             .words = words_toggle),
    UPSTREAM("udp", OPTION_WORD, udp, .fallback = "auto", .words = words_toggle),

    GROUP("members", OPTION_MEMBERS, members, .flags = OPTION_REQUIRED),
    GROUP("policy", OPTION_WORD, policy, .fallback = "failover", .words = words_policy),
    GROUP("probe", OPTION_ENDPOINT, probe, .max = CONFIG_HOST_MAX),
    GROUP("probe-interval", OPTION_DURATION, probe_interval, .min = 100 * MS, .max = 24 * HOUR,
          .fallback = "30s"),

    CAPTURE("hook", OPTION_WORD, policy.hook, .fallback = "output", .words = words_hook),
    CAPTURE("upstream", OPTION_REFERENCE, target, .flags = OPTION_REQUIRED),
    SELECT("tcp-ports", OPTION_PORTS, tcp_ports),
    SELECT("udp-ports", OPTION_PORTS, udp_ports),
    SELECT("to", OPTION_PREFIXES, to),
    SELECT("not-to", OPTION_PREFIXES, not_to),
    SELECT("uid", OPTION_USERS, uids),
    SELECT("not-uid", OPTION_USERS, not_uids),
    CAPTURE("mark", OPTION_NUMBER, policy.mark, .max = UINT32_MAX),
    SELECT("interfaces", OPTION_INTERFACES, interfaces),
    CAPTURE("cgroup", OPTION_CGROUP, policy.cgroup, .max = PATH_MAX - 1),
    CAPTURE("private", OPTION_BOOL, policy.private, .fallback = "false"),
    CAPTURE("udp", OPTION_WORD, udp, .fallback = "auto", .words = words_udp),
    CAPTURE("dns", OPTION_WORD, dns, .fallback = "auto", .words = words_dns),
    CAPTURE("dns-server", OPTION_ADDRESS, dns_server, .min = 53),
    CAPTURE("connect", OPTION_WORD, connect, .fallback = "auto", .words = words_connect),
    CAPTURE("when-down", OPTION_WORD, policy.when_down, .fallback = "refuse",
            .words = words_when_down),
    CAPTURE("on-exit", OPTION_WORD, on_exit, .fallback = "open", .words = words_on_exit),
    CAPTURE("established", OPTION_WORD, established, .fallback = "keep",
            .words = words_established),

    TOP("workers", OPTION_NUMBER, workers, .max = 64, .fallback = "0"),
    TOP("max-flows", OPTION_NUMBER, max_flows, .min = 16, .max = 1048576, .fallback = "65536"),
    TOP("max-held", OPTION_NUMBER, max_held, .min = 16, .max = 1048576, .fallback = "8192"),
    TOP("dns-real", OPTION_NAMES, dns_real, .count_offset = offsetof(struct config, n_dns_real)),
    TOP("idle-timeout", OPTION_DURATION, idle_timeout, .max = 365 * 24 * HOUR, .fallback = "0"),
    TOP("fast-path", OPTION_WORD, fast_path, .fallback = "auto", .words = words_fast_path),
    TOP("control", OPTION_PATH, control, .max = 107, .fallback = CONFIG_DEFAULT_CONTROL),
    TOP("metrics", OPTION_ADDRESS, metrics),
    TOP("log-level", OPTION_WORD, log_level, .fallback = "info", .words = words_log_level),
};
const size_t config_n_options = sizeof(config_options) / sizeof(config_options[0]);

const struct option *config_option_find(enum section_kind section, const char *name)
{
    for (size_t i = 0; i < config_n_options; i++) {
        if (config_options[i].section == section && strcmp(config_options[i].name, name) == 0)
            return &config_options[i];
    }
    return NULL;
}

bool config_option_is_list(const struct option *o)
{
    return o->type >= OPTION_PORTS;
}

const struct draft_value *config_draft_get(const struct draft_section *s, const char *name)
{
    const struct option *o = config_option_find(s->kind, name);

    return o ? config_draft_next(s, o, NULL) : NULL;
}

const char *config_section_name(enum section_kind kind)
{
    static const char *const names[SECTION_KINDS] = {
        [SECTION_TOP] = "the top level",
        [SECTION_UPSTREAM] = "an upstream",
        [SECTION_GROUP] = "a group",
        [SECTION_CAPTURE] = "a capture",
    };

    return names[kind];
}

const char *config_option_list(enum section_kind section, unsigned flags, char *buf, size_t size)
{
    size_t n = 0;

    buf[0] = '\0';
    for (size_t i = 0; i < config_n_options; i++) {
        const struct option *o = &config_options[i];

        if (o->section != section || (o->flags & flags) != flags || n >= size)
            continue;
        int m = snprintf(buf + n, size - n, "%s%s", n > 0 ? ", " : "", o->name);

        n += m < 0 ? 0 : (size_t)m;
    }
    return buf;
}

/* Levenshtein's distance of two short texts; longer ones are simply far apart. */
static unsigned edit_distance(const char *a, const char *b)
{
    unsigned row[40];
    size_t n = strlen(b);

    if (n >= sizeof(row) / sizeof(row[0]) || strlen(a) > n + 4)
        return UINT_MAX;
    for (unsigned k = 0; k <= n; k++)
        row[k] = k;
    for (unsigned i = 1; a[i - 1] != '\0'; i++) {
        unsigned diagonal = row[0];

        row[0] = i;
        for (size_t k = 1; k <= n; k++) {
            unsigned best = diagonal + (a[i - 1] != b[k - 1]);

            if (row[k] + 1 < best)
                best = row[k] + 1;
            if (row[k - 1] + 1 < best)
                best = row[k - 1] + 1;
            diagonal = row[k];
            row[k] = best;
        }
    }
    return row[n];
}

void config_suggestion_offer(struct suggestion *s, const char *candidate)
{
    unsigned distance = edit_distance(s->written, candidate);

    /* Up to two slips of the finger, one in a short word. */
    if (distance > (strlen(candidate) > 4 ? 2u : 1u) || (s->best && distance >= s->distance))
        return;
    s->best = candidate;
    s->distance = distance;
}

const char *config_suggestion_text(const struct suggestion *s, char *buf, size_t size)
{
    buf[0] = '\0';
    if (s->best)
        snprintf(buf, size, "did you mean \"%s\"? ", s->best);
    return buf;
}
