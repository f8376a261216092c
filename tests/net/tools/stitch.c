/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * stitch: the cgroup capture with stitch and nothing else: no daemon, no listener, no relay. What
 * cannot be stitched is refused.
 *
 *     stitch [-n NAME=ADDRESS]... [-N HOP]... [-t SECONDS] [-i INSTANCE] CGROUP URL...
 *
 * CGROUP is a directory of cgroup2; URLs of literal addresses, a chain when there are several. -n:
 * ADDRESS stands for NAME. -N: hop number HOP (from 0) has a user and wants no password. -t: for
 * the SYN-ACK, and for the handshake after it. -i: of several in one network namespace each has a
 * number (capture_set.instance) of its own. Prints "ready", then a line for each handshake that
 * failed ("failed REASON STEP CODE VERDICT"). SIGUSR1: prints the counters. SIGUSR2: nothing is
 * stitched any more, what is under way ends, "drained". SIGTERM: takes everything off. SIGKILL: see
 * what stays.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "bpf/cgroup.h"
#include "bpf/stitch.h"
#include "upstream/script.h"

#define SWEEP_MS 1000

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "stitch: %s: %s\n", what, why);
    exit(1);
}

static void print_event(void *ctx, const struct stitch_event *e)
{
    static const char *const reasons[] = {"?",     "reply",   "hop",     "protocol", "reset",
                                          "close", "timeout", "refusal", "silence",  "unreachable"};

    (void)ctx;
    printf("failed %s step=%u code=%u verdict=%u\n",
           e->reason < sizeof(reasons) / sizeof(reasons[0]) ? reasons[e->reason] : "?", e->step,
           e->code, e->verdict);
    fflush(stdout);
}

static void print_counters(const struct bpf_stitch *s, const struct bpf_capture *capture)
{
    static const char *const names[STITCH_N_COUNTERS] = {"begun", "granted", "failed",  "again",
                                                         "full",  "unready", "guarded", "odd",
                                                         "error", "events",  "carried"};
    uint64_t n[STITCH_N_COUNTERS];
    struct bpf_capture_counters c;

    if (bpf_stitch_read_counters(s, n) < 0 || bpf_capture_read_counters(capture, &c) < 0)
        die("counters", "cannot be read");
    printf("counters");
    for (size_t i = 0; i < STITCH_N_COUNTERS; i++)
        printf(" %s=%llu", names[i], (unsigned long long)n[i]);
    printf(" stitched=%llu proxied=%llu refused=%llu pending=%d\n", (unsigned long long)c.stitched,
           (unsigned long long)c.proxied, (unsigned long long)c.refused, bpf_stitch_pending(s));
    fflush(stdout);
}

static int64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void build_upstream(char **urls, int n, struct upstream *u, struct config_upstream *configs)
{
    char why[256];

    u->n_hops = (unsigned)n;
    for (int i = 0; i < n; i++) {
        struct upstream_hop *hop = &u->hops[i];

        if (config_url_parse(urls[i], &configs[i].url, why, sizeof(why)) < 0)
            die(urls[i], why);
        configs[i].connect_timeout = INT64_C(15000000000);
        configs[i].handshake_timeout = INT64_C(15000000000);
        hop->config = &configs[i];
        if (addr_parse(configs[i].url.host, configs[i].url.port, &hop->addrs[0]) < 0)
            die(configs[i].url.host, "not an address");
        hop->n_addrs = 1;
    }
}

static void set_name(const struct bpf_stitch *s, char *text)
{
    char *equals = strchr(text, '=');
    struct addr a;

    if (equals == NULL || addr_parse(equals + 1, 0, &a) < 0)
        die(text, "not NAME=ADDRESS");
    if (bpf_stitch_set_name(bpf_stitch_names_fd(s), &a, text, (size_t)(equals - text)) < 0)
        die(text, "cannot be set");
}

static void drain(const struct bpf_stitch *s, const struct bpf_capture *capture)
{
    bpf_capture_use(capture, 0, 0);
    while (bpf_stitch_pending(s) > 0)
        poll(NULL, 0, 20);
    printf("drained\n");
    fflush(stdout);
}

static void serve(struct bpf_stitch *s, struct bpf_capture *capture, int signals)
{
    for (;;) {
        struct pollfd p[] = {{.fd = signals, .events = POLLIN},
                             {.fd = bpf_stitch_link_fd(s), .events = POLLIN},
                             {.fd = bpf_stitch_event_fd(s), .events = POLLIN}};
        struct signalfd_siginfo info;

        if (poll(p, 3, SWEEP_MS) == 0)
            bpf_stitch_sweep(s, now());
        if (p[1].revents && bpf_stitch_follow(s) < 0)
            die("following interfaces", "failed");
        if (p[2].revents)
            bpf_stitch_poll_events(s, print_event, NULL);
        if (!p[0].revents || read(signals, &info, sizeof(info)) != sizeof(info))
            continue;
        if (info.ssi_signo == SIGUSR1)
            print_counters(s, capture);
        else if (info.ssi_signo == SIGUSR2)
            drain(s, capture);
        else
            return;
    }
}

int main(int argc, char **argv)
{
    static struct upstream u;
    static struct config_upstream configs[CONFIG_CHAIN_MAX];
    struct capture_policy policy = {.name = "stitch",
                                    .hook = CAPTURE_CGROUP,
                                    .action = CAPTURE_PROXY,
                                    .fake = true,
                                    .stitch = true};
    struct capture_set set = {.policies = &policy, .n_policies = 1};
    struct bpf_stitch_options options = {0};
    struct script_options script_options = {.id = 1};
    struct bpf_capture *capture = NULL;
    struct bpf_stitch *s = NULL;
    struct stitch_script script;
    char *names[16], why[BPF_WHY_MAX] = "";
    const char *reason = "";
    unsigned timeout = 0;
    int c, cgroup, signals, n_names = 0, r;
    sigset_t mask;
    bool v4;

    while ((c = getopt(argc, argv, "n:N:t:i:")) != -1) {
        if (c == 'n' && n_names < 16)
            names[n_names++] = optarg;
        else if (c == 'N')
            script_options.no_auth |= 1u << atoi(optarg);
        else if (c == 't')
            timeout = (unsigned)atoi(optarg);
        else if (c == 'i')
            options.instance = set.instance = (unsigned)atoi(optarg);
        else
            return 2;
    }
    if (argc - optind < 2 || argc - optind - 1 > CONFIG_CHAIN_MAX)
        return 2;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGUSR2);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    signals = signalfd(-1, &mask, SFD_CLOEXEC);
    cgroup = open(argv[optind], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cgroup < 0)
        die(argv[optind], strerror(errno));

    build_upstream(argv + optind + 1, argc - optind - 1, &u, configs);
    r = script_build(&u, &script_options, &script, &reason);
    if (r < 0)
        die("script", reason);
    if (timeout)
        script.connect_timeout = script.timeout = timeout * 1000;
    if (bpf_stitch_open(&options, &s, why, sizeof(why)) < 0 ||
        bpf_stitch_attach(s, why, sizeof(why)) < 0)
        die("stitch", why);
    for (int i = 0; i < n_names; i++)
        set_name(s, names[i]);
    r = bpf_stitch_set_script(s, 1, &script);
    if (r < 0)
        die("script", strerror(-r));
    set.upstreams = u.hops[0].addrs;
    set.n_upstreams = 1;
    set.stitch = s;
    if (bpf_cgroup_attach(&set, 0, cgroup, &capture, why, sizeof(why)) < 0)
        die("capture", why);
    v4 = addr_is_v4(&u.hops[0].addrs[0]);
    r = bpf_capture_use(capture, v4, !v4);
    if (r < 0)
        die("use", strerror(-r));
    printf("ready\n");
    fflush(stdout);

    serve(s, capture, signals);
    bpf_capture_detach(capture);
    bpf_stitch_detach(s);
    bpf_stitch_close(s);
    return 0;
}
