/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cli/demo_steps.h. The commands are those that a user would type, and are printed before they run;
 * that something works is concluded from what they did, never from that they ended.
 */
#include "cli/demo_steps.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "addr.h"
#include "base/fd.h"
#include "cli/cli.h"
#include "cli/demo_web.h"
#include "log.h"

#define STRING(x)  #x
#define TEXT_OF(x) STRING(x)

#define PROXY_URL       "socks5h://" DEMO_PROXY_IP ":" TEXT_OF(DEMO_PROXY_PORT)
#define PAGE4           "http://" DEMO_WEB4 "/"
#define PAGE6           "http://[" DEMO_WEB6 "]/"
#define LARGE           "http://" DEMO_WEB4 "/large"
#define LARGE_AT        DEMO_WEB4 ":80"
#define CURL_NO_CONNECT 7
#define PATIENCE        60 /* seconds for one command: a bound for a hang, nothing that is measured */
#define POLL_PAUSE      50 /* milliseconds */
#define POLLS           600

void demo_say(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    fflush(stdout);
}

bool demo_fail(struct demo *d, int exit_code, const char *format, ...)
{
    char why[512];
    va_list ap;

    va_start(ap, format);
    vsnprintf(why, sizeof(why), format, ap);
    va_end(ap);
    if (d->exit_code != 0)
        return false;
    d->exit_code = exit_code;
    log_error("demo: %s", why);
    return false;
}

/* ---- the commands ---- */

static bool interrupted(struct demo *d)
{
    if (d->exit_code == 0) {
        d->exit_code = 128 + demo_shell_signal(d->shell);
        log_warning("demo: interrupted; taking everything down");
    }
    return false;
}

static bool start(struct demo *d, struct demo_command *c, const char *const *argv, bool show)
{
    int r = demo_command_start(d->shell, argv, show, c);

    if (r < 0)
        return demo_fail(d, CLI_FAILED, "cannot start %s: %s", argv[0], strerror(-r));
    if (strcmp(argv[0], "undersock") == 0 && strcmp(argv[1], "run") == 0)
        demo_traces_run(&d->traces, c->pid);
    return true;
}

/* Until it ends with `want`. */
static bool finish(struct demo *d, struct demo_command *c, const char *step, int want)
{
    int r = demo_command_wait(d->shell, c, PATIENCE), status;

    if (r == -EINTR)
        return interrupted(d);
    if (r < 0)
        return demo_fail(d, CLI_FAILED, "%s: the command does not end", step);
    status = demo_command_status(c);
    if (status == want)
        return true;
    /* `run` has said which privilege or feature it lacks. */
    if (status == CLI_KERNEL && want != CLI_KERNEL)
        return demo_fail(d, CLI_KERNEL, "%s: this system lacks what it needs", step);
    return demo_fail(d, CLI_FAILED, "%s: the command ended with %d, not %d", step, status, want);
}

static bool run(struct demo *d, const char *step, const char *const *argv, int want)
{
    demo_shell_print(argv);
    return start(d, &d->command, argv, true) && finish(d, &d->command, step, want);
}

/* ---- the steps ---- */

/* What connect() itself says, as curl only says that it failed. */
static int plain_connect(const char *to)
{
    struct addr a;
    struct sockaddr_storage sa;
    int r = addr_parse(to, 80, &a);

    if (r < 0)
        return r;
    socklen_t len = addr_to_sockaddr(&a, &sa);
    int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    r = connect(fd, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
    fd_close(&fd);
    return r;
}

bool demo_step_unreachable(struct demo *d)
{
    const char *const argv[] = {"curl", "-qsS", PAGE4, NULL};

    demo_say("\n1. Without undersock the web server is out of reach.\n");
    if (!run(d, "plain connection", argv, CURL_NO_CONNECT))
        return false;
    int r = plain_connect(DEMO_WEB4);

    if (r != -ENETUNREACH)
        return demo_fail(d, CLI_FAILED, "plain connection: connect() says \"%s\", not \"%s\"",
                         r < 0 ? strerror(-r) : "connected", strerror(ENETUNREACH));
    demo_say("   connect() says: %s.\n", strerror(-r));
    return true;
}

static bool redirected(struct demo *d, const char *step, const char *url, const char *web,
                       const char *exit_ip)
{
    const char *const argv[] = {"undersock", "run",  "-u", PROXY_URL, "--",
                                "curl",      "-qsS", url,  NULL};
    char page[256];

    demo_web_page(web, exit_ip, page, sizeof(page));
    if (!run(d, step, argv, 0))
        return false;
    return strcmp(d->command.text, page) == 0 ||
           demo_fail(d, CLI_FAILED, "%s: the page is not the web server's", step);
}

bool demo_step_ipv4(struct demo *d)
{
    demo_say(
        "\n2. The same curl, run by undersock: the kernel redirects its connection, undersock asks "
        "the\n"
        "   SOCKS server for it. curl knows nothing of a proxy, and the web server sees the "
        "proxy's\n"
        "   address.\n");
    return redirected(d, "redirected IPv4", PAGE4, DEMO_WEB4, DEMO_EXIT4);
}

/* The listener of the redirection needs the loopback address. */
static bool ipv6_here(void)
{
    struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool usable = fd >= 0 && bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0;

    fd_close(&fd);
    return usable;
}

bool demo_step_ipv6(struct demo *d)
{
    if (!d->far.ipv6 || !ipv6_here()) {
        demo_say("\n3. IPv6 is off on this machine: left out.\n");
        return true;
    }
    demo_say("\n3. The same with IPv6, of which this side has not even an address.\n");
    return redirected(d, "redirected IPv6", PAGE6, DEMO_WEB6, DEMO_EXIT6);
}

/* Until the table lists the download and some of it has come. Its last output is in d->command. */
static bool wait_for_flow(struct demo *d, const char *const *argv)
{
    struct stat st;

    for (int i = 0; i < POLLS; i++) {
        if (stat(d->far.download, &st) == 0 && st.st_size > 0) {
            if (!start(d, &d->command, argv, false) ||
                !finish(d, &d->command, "flow table", CLI_DONE))
                return false;
            if (strstr(d->command.text, LARGE_AT))
                return true;
        }
        if (demo_shell_pause(d->shell, POLL_PAUSE) < 0)
            return interrupted(d);
        int r = demo_command_wait(d->shell, &d->download, 0);

        if (r == -EINTR)
            return interrupted(d);
        if (r == 0)
            return finish(d, &d->download, "download", 0) &&
                   demo_fail(d, CLI_FAILED, "download: it ended before it was seen");
    }
    return demo_fail(d, CLI_FAILED, "flow table: the download is not listed");
}

static bool download_is_intact(const char *path)
{
    char want[DEMO_WEB_LINE + 1], got[DEMO_WEB_LINE + 1];
    FILE *f = fopen(path, "re");
    unsigned i = 0;

    if (!f)
        return false;
    for (; i < DEMO_WEB_LINES && fread(got, DEMO_WEB_LINE, 1, f) == 1; i++) {
        demo_web_line(i, want);
        if (memcmp(got, want, DEMO_WEB_LINE) != 0)
            break;
    }
    bool intact = i == DEMO_WEB_LINES && fgetc(f) == EOF && !ferror(f);

    fclose(f);
    return intact;
}

bool demo_step_flows(struct demo *d)
{
    char control[sizeof(d->far.control) + 16];
    const char *const download[] = {"undersock",     "run", "-u",   PROXY_URL, "-o",
                                    control,         "--",  "curl", "-qsS",    "-o",
                                    d->far.download, LARGE, NULL};
    const char *const flows[] = {"undersock", "flows", "-s", d->far.control, NULL};

    snprintf(control, sizeof(control), "control=%s", d->far.control);
    demo_say("\n4. A slow download, in the background, and meanwhile the table of the flows.\n");
    demo_shell_print(download);
    if (!start(d, &d->download, download, true) || !wait_for_flow(d, flows))
        return false;
    demo_shell_print(flows);
    demo_say("%s", d->command.text);
    demo_far_hurry(&d->far);
    if (!finish(d, &d->download, "download", 0))
        return false;
    if (!download_is_intact(d->far.download))
        return demo_fail(d, CLI_FAILED, "download: the file is not what the web server sent");
    demo_say("   The download is complete: %u bytes, each as it was sent.\n",
             DEMO_WEB_LINES * DEMO_WEB_LINE);
    return true;
}
