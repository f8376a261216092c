/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `undersock demo`: the main job end to end, with no set-up.
 *
 * This process moves into a network namespace of its own, the application's side, and starts the
 * far side (cli/demo_far.h), whose namespace is joined to it by a veth pair. Then it runs, as the
 * user would, the commands that it prints, and checks what each of them did. Only network
 * namespaces are made: the cgroup hierarchy, which `undersock run` needs, stays as it is. Neither
 * namespace has a name, so both end with their last process.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "addr.h"
#include "base/fd.h"
#include "cli/cli.h"
#include "cli/demo_network.h"
#include "cli/demo_steps.h"

static bool make_app_side(struct demo *d)
{
    d->home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (d->home < 0)
        return demo_fail(d, CLI_KERNEL, "this kernel has no network namespaces (CONFIG_NET_NS)");
    if (unshare(CLONE_NEWNET) == 0) {
        d->moved = true;
        demo_traces_namespace_here(&d->traces);
        return true;
    }
    if (errno == EPERM)
        return demo_fail(d, CLI_KERNEL,
                         "needs root: the capability CAP_SYS_ADMIN is missing (network "
                         "namespaces); run it with sudo");
    if (errno == ENOSPC)
        return demo_fail(d, CLI_FAILED,
                         "no more network namespaces are allowed; raise the sysctl "
                         "user.max_net_namespaces");
    return demo_fail(d, CLI_KERNEL, "cannot make a network namespace: %s", strerror(errno));
}

static bool make_far_side(struct demo *d)
{
    struct demo_network *n = NULL;
    struct addr own;
    char why[300] = "";
    int here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int r = here < 0 ? -errno : demo_far_start(here, &d->far, why, sizeof(why));

    fd_close(&here);
    if (r < 0)
        return demo_fail(d, r == -EOPNOTSUPP ? CLI_KERNEL : CLI_FAILED, "the far side: %s",
                         why[0] ? why : strerror(-r));
    demo_traces_far(&d->traces, &d->far);
    r = demo_network_open(&n);
    if (r == 0)
        r = demo_network_up(n, "lo");
    if (r == 0)
        r = addr_parse(DEMO_APP_IP, 0, &own);
    if (r == 0)
        r = demo_network_address(n, DEMO_APP_LINK, &own, DEMO_LINK_LENGTH);
    if (r == 0)
        r = demo_network_up(n, DEMO_APP_LINK);
    demo_network_close(n);
    return r == 0 || demo_fail(d, CLI_FAILED, "the application's side: %s", strerror(-r));
}

static void introduce(void)
{
    demo_say(
        "Two network namespaces that last as long as this demo; nothing else is touched:\n\n"
        "   application " DEMO_APP_IP " ---- " DEMO_PROXY_IP " SOCKS server " DEMO_EXIT4
        " ---- " DEMO_WEB4 " web server\n"
        "                                       (undersock's) " DEMO_EXIT6 "      " DEMO_WEB6 "\n\n"
        "The application's side has one neighbour, the SOCKS server, and no route beyond it.\n");
}

/* Ends whatever still runs, whether all went well or not, and looks whether anything is left. */
static void take_down(struct demo *d)
{
    char left[200] = "";

    if (d->shell) {
        demo_command_end(d->shell, &d->command);
        demo_command_end(d->shell, &d->download);
    }
    demo_far_stop(&d->far);
    if (d->moved && setns(d->home, CLONE_NEWNET) < 0)
        demo_fail(d, CLI_FAILED, "clean-up: cannot go back to the first namespace: %s",
                  strerror(errno));
    fd_close(&d->home);
    if (d->exit_code == 0)
        demo_say("\n5. What is left of it?\n");
    if (demo_traces_left(&d->traces, left, sizeof(left)))
        demo_fail(d, CLI_FAILED, "clean-up: %s", left);
    else if (d->exit_code == 0)
        demo_say("   Nothing: no process, no namespace, no cgroup, no file.\n");
}

static bool curl_is_there(struct demo *d)
{
    const char *path = getenv("PATH");
    char at[4096];

    for (const char *p = path ? path : "/usr/bin:/bin"; *p;) {
        size_t n = strcspn(p, ":");

        snprintf(at, sizeof(at), "%.*s/curl", (int)n, p);
        if (access(at, X_OK) == 0)
            return true;
        p += n + (p[n] == ':');
    }
    return demo_fail(d, CLI_FAILED,
                     "curl is not installed; install the package curl (Debian: apt install "
                     "curl) and try again");
}

/* The demo's commands must do what they say, whatever the caller's environment tells curl. */
static void clean_environment(void)
{
    static const char *const names[] = {"http_proxy", "all_proxy", "ALL_PROXY",
                                        "no_proxy",   "NO_PROXY",  "UNDERSOCK_PASSWORD"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        unsetenv(names[i]);
}

/* Descriptors 0 to 2 must be taken, or a pipe of ours would become somebody's standard output. */
static void fill_standard_streams(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd <= STDERR_FILENO);
    fd_close(&fd);
}

int cli_demo(int argc, char **argv)
{
    struct cli_options none = {.file = NULL};
    struct demo d = {.home = -1, .far.hold = -1, .command.output = -1, .download.output = -1};
    int r;

    if (!cli_parse(argc, argv, 0, &none, &r))
        return r;
    r = cli_need_privileges("demo");
    if (r != 0)
        return r;
    if (!curl_is_there(&d))
        return d.exit_code;
    fill_standard_streams();
    clean_environment();
    r = demo_shell_create(&d.shell);
    if (r < 0)
        demo_fail(&d, CLI_FAILED, "%s", strerror(-r));
    else if (make_app_side(&d) && make_far_side(&d)) {
        introduce();
        (void)(demo_step_unreachable(&d) && demo_step_ipv4(&d) && demo_step_ipv6(&d) &&
               demo_step_flows(&d));
    }
    take_down(&d);
    demo_shell_destroy(d.shell);
    return d.exit_code;
}
