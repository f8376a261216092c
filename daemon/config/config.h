/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The configuration: parsed by libconfuse, validated wholly before anything acts, then read-only.
 * Every error names file, line, the value, and what would be right.
 */
#ifndef UNDERSOCK_CONFIG_CONFIG_H
#define UNDERSOCK_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "capture.h"
#include "log.h"

#define CONFIG_DEFAULT_FILE    "/etc/undersock/undersock.conf"
#define CONFIG_DEFAULT_CONTROL "/run/undersock/control.sock"
#define CONFIG_NAME_MAX        CAPTURE_NAME_MAX
#define CONFIG_HOST_MAX        255
#define CONFIG_CHAIN_MAX       8

enum config_scheme { SCHEME_SOCKS4, SCHEME_SOCKS4A, SCHEME_SOCKS5, SCHEME_SOCKS5H, SCHEME_HTTP };
enum config_toggle { TOGGLE_OFF, TOGGLE_ON, TOGGLE_AUTO };
enum config_policy { POLICY_FAILOVER, POLICY_ROUND_ROBIN, POLICY_LEAST_LATENCY, POLICY_HASH };
enum config_fast_path { FAST_AUTO, FAST_STITCH, FAST_SOCKMAP, FAST_SPLICE, FAST_COPY, FAST_RELAY };
enum config_udp { UDP_AUTO, UDP_ASSOCIATE, UDP_REJECT, UDP_BYPASS };
enum config_dns { DNS_AUTO, DNS_FAKE, DNS_TCP, DNS_ASSOCIATE, DNS_BYPASS };
enum config_connect { CONNECT_AUTO, CONNECT_HONEST, CONNECT_EARLY };
enum config_on_exit { ON_EXIT_OPEN, ON_EXIT_CLOSED };
enum config_established { ESTABLISHED_KEEP, ESTABLISHED_RESET };

/* An upstream's URL in its parts. The password is kept out of every printer. */
struct config_url {
    enum config_scheme scheme;
    char host[CONFIG_HOST_MAX + 1]; /* a name, or an address without brackets */
    uint16_t port;
    char user[256]; /* "": none */
    char password[256];
    bool has_user, has_password;
};

struct config_upstream {
    char name[CONFIG_NAME_MAX + 1];
    unsigned line; /* of its section, for messages */
    struct config_url url;
    char *password_file;       /* NULL: none */
    int via;                   /* index of the upstream it is reached through, -1: none */
    int64_t connect_timeout;   /* nanoseconds, as all durations; default 10 s */
    int64_t handshake_timeout; /* default 15 s */
    unsigned warm;
    enum config_toggle pipeline, udp;
};

struct config_group {
    char name[CONFIG_NAME_MAX + 1];
    unsigned line;
    unsigned *members; /* indices of upstreams */
    size_t n_members;
    enum config_policy policy;
    char *probe; /* "host:port", NULL: none */
    int64_t probe_interval;
};

/* What a capture's `upstream` names. */
enum config_target { TARGET_UPSTREAM, TARGET_GROUP, TARGET_DIRECT, TARGET_REFUSE };

struct config_capture {
    unsigned line;
    enum config_target target;
    unsigned target_index;
    struct capture_policy
        policy; /* selection, owned by the configuration; ports of the listener are 0 */
    enum config_udp udp;
    enum config_dns dns;
    char *dns_server;
    enum config_connect connect;
    enum config_on_exit on_exit;
    enum config_established established;
};

struct config {
    struct config_upstream *upstreams;
    size_t n_upstreams;
    struct config_group *groups;
    size_t n_groups;
    struct config_capture *captures;
    size_t n_captures;
    unsigned workers;     /* 0: one per CPU */
    unsigned max_flows;   /* default 65536 */
    unsigned max_held;    /* SYNs held at once; default 8192 */
    int64_t idle_timeout; /* 0: none */
    enum config_fast_path fast_path;
    char **dns_real; /* names that keep their real addresses (dns/real.h) */
    size_t n_dns_real;
    char *control; /* path of the control socket */
    char *metrics; /* "addr:port", NULL: none */
    enum log_level log_level;
};

/*
 * Receives each error as one finished line, without the newline: "FILE:LINE: what (value), remedy".
 * What is right and hardly meant is a warning, "FILE:LINE: warning: ...", and no failure.
 */
typedef void (*config_error_fn)(void *ctx, const char *line);

/*
 * Reads and validates `file`. All errors that can be found in one pass are reported. 0 and a
 * configuration the caller frees with config_free(); -EINVAL when anything is wrong (it was
 * reported); -errno when the file cannot be read (reported too). Password files are read here.
 */
int config_load(const char *file, config_error_fn error, void *ctx, struct config **ret);

/*
 * The configuration of `undersock run`: a chain of `n_urls` upstreams (through the first, then the
 * second, ...; password from the environment's UNDERSOCK_PASSWORD when the last one has a user and
 * no password), one capture named "run" with hook "cgroup", and `n_options` KEY=VALUE texts that
 * set any key of a capture or of the top level, or, for every hop, connect-timeout,
 * handshake-timeout, warm or pipeline. Lists are separated by commas and add up; of single values
 * the last one wins. The capture's policy.cgroup stays NULL unless an option sets it. Errors name
 * the option: "-o fast-path=warp: ...".
 */
int config_from_options(char *const *urls, size_t n_urls, char *const *options, size_t n_options,
                        config_error_fn error, void *ctx, struct config **ret);

void config_free(struct config *c);

/*
 * "socks5h://user:pass@host:1080"; percent-encoding in user and password. 0, or -EINVAL with what
 * is wrong and what would be right in `why` (never the password).
 */
int config_url_parse(const char *text, struct config_url *ret, char *why, size_t why_size);
/* "socks5h://host:1080", without user and password. */
const char *config_url_format(const struct config_url *u, char *buf, size_t size);

/* "150ms", "10s", "5m", "2h", "0"; nanoseconds. -EINVAL. */
int config_duration_parse(const char *text, int64_t *ret);

/* Whether a gateway forwards queries, those to its own address too, to wherever they were sent: an
 * upstream finds no name server under the gateway's address. The text takes the capture's name. */
static inline bool config_lacks_dns_server(const struct config_capture *k)
{
    return k->policy.action == CAPTURE_PROXY && k->policy.hook == CAPTURE_GATEWAY &&
           (k->dns == DNS_TCP || k->dns == DNS_ASSOCIATE) && !k->dns_server;
}

#define CONFIG_LACKS_DNS_SERVER                                                                    \
    "capture %s: clients that use this gateway itself as their name server get no answer, as the " \
    "upstream cannot ask it: set dns-server"

#endif
