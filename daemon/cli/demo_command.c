/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cli/demo_command.h. One signalfd and one poll(2): a command has ended when waitpid() says so and
 * its pipe holds no more; a signal that asks for an end is remembered, and every wait from then on
 * is -EINTR.
 */
#include "cli/demo_command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"

#define END_SECONDS 15 /* for `undersock run` to take down what it made */

struct demo_shell {
    int signals;
    int asked;
    sigset_t before;
};

int demo_shell_create(struct demo_shell **ret)
{
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    struct demo_shell *s = calloc(1, sizeof(*s));
    struct sigaction action;
    sigset_t set;

    if (!s)
        return -ENOMEM;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        /* nohup(1) means it. */
        if (ends[i] != SIGHUP || sigaction(SIGHUP, NULL, &action) < 0 ||
            action.sa_handler != SIG_IGN)
            sigaddset(&set, ends[i]);
    }
    sigprocmask(SIG_BLOCK, &set, &s->before);
    s->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (s->signals < 0) {
        int r = -errno;

        demo_shell_destroy(s);
        return r;
    }
    *ret = s;
    return 0;
}

void demo_shell_destroy(struct demo_shell *s)
{
    if (!s)
        return;
    fd_close(&s->signals);
    sigprocmask(SIG_SETMASK, &s->before, NULL);
    free(s);
}

int demo_shell_signal(const struct demo_shell *s)
{
    return s->asked;
}

static void print_word(const char *word)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,@%+";

    printf(strspn(word, plain) == strlen(word) ? " %s" : " '%s'", word);
}

void demo_shell_print(const char *const *argv)
{
    printf("$");
    for (size_t i = 0; argv[i]; i++)
        print_word(argv[i]);
    printf("\n");
    fflush(stdout);
}

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void take_signals(struct demo_shell *s)
{
    struct signalfd_siginfo info;

    while (read(s->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo != SIGCHLD && s->asked == 0)
            s->asked = (int)info.ssi_signo;
    }
}

int demo_shell_pause(struct demo_shell *s, int milliseconds)
{
    struct pollfd p = {.fd = s->signals, .events = POLLIN};

    if (poll(&p, 1, milliseconds) > 0)
        take_signals(s);
    return s->asked ? -EINTR : 0;
}

_Noreturn static void child(const struct demo_shell *s, const char *const *argv, int output,
                            pid_t parent)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    sigprocmask(SIG_SETMASK, &s->before, NULL);
    if (strcmp(argv[0], "undersock") == 0)
        execv("/proc/self/exe", (char *const *)argv);
    else
        execvp(argv[0], (char *const *)argv);
    dprintf(STDERR_FILENO, "cannot run %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

int demo_command_start(struct demo_shell *s, const char *const *argv, bool show,
                       struct demo_command *ret)
{
    pid_t parent = getpid();
    int output[2];

    if (pipe2(output, O_CLOEXEC) < 0)
        return -errno;
    fflush(stdout);
    pid_t pid = fork();

    if (pid == 0)
        child(s, argv, output[1], parent);
    int r = pid < 0 ? -errno : 0;

    fd_close(&output[1]);
    if (r == 0 && fcntl(output[0], F_SETFL, O_NONBLOCK) < 0)
        r = -errno;
    if (r < 0) {
        fd_close(&output[0]);
        if (pid > 0)
            waitpid(pid, NULL, 0); /* its output is gone, so it ends */
        return r;
    }
    ret->pid = pid;
    ret->output = output[0];
    ret->show = show;
    ret->status = 0;
    ret->length = 0;
    ret->text[0] = '\0';
    return 0;
}

/* Takes what the pipe holds now. */
static void take_output(struct demo_command *c)
{
    char buf[4096];
    ssize_t n = -1;

    while (c->output >= 0 && (n = read(c->output, buf, sizeof(buf))) > 0) {
        size_t room = sizeof(c->text) - 1 - c->length, len = (size_t)n < room ? (size_t)n : room;

        memcpy(c->text + c->length, buf, len);
        c->length += len;
        c->text[c->length] = '\0';
        if (c->show)
            fwrite(buf, 1, (size_t)n, stdout);
    }
    if (c->show)
        fflush(stdout);
    if (c->output >= 0 && (n == 0 || errno != EAGAIN))
        fd_close(&c->output);
}

/* True: it has ended. A descendant may keep the pipe open; what it writes is no part of the output.
 */
static bool has_ended(struct demo_command *c)
{
    if (c->pid > 0 && waitpid(c->pid, &c->status, WNOHANG) == c->pid)
        c->pid = 0;
    take_output(c);
    if (c->pid == 0)
        fd_close(&c->output);
    return c->pid == 0;
}

static int wait_until(struct demo_shell *s, struct demo_command *c, int64_t deadline, bool heed)
{
    while (!has_ended(c)) {
        struct pollfd p[] = {{.fd = s->signals, .events = POLLIN},
                             {.fd = c->output, .events = POLLIN}};
        int64_t left = deadline - now_ms();

        if (heed && s->asked)
            return -EINTR;
        if (left <= 0)
            return -ETIMEDOUT;
        if (poll(p, 2, (int)left) > 0)
            take_signals(s);
    }
    return heed && s->asked ? -EINTR : 0;
}

int demo_command_wait(struct demo_shell *s, struct demo_command *c, int seconds)
{
    return wait_until(s, c, now_ms() + (int64_t)seconds * 1000, true);
}

void demo_command_end(struct demo_shell *s, struct demo_command *c)
{
    if (c->pid == 0)
        return;
    c->show = false;
    kill(c->pid, SIGTERM);
    if (wait_until(s, c, now_ms() + END_SECONDS * 1000, false) == 0)
        return;
    kill(c->pid, SIGKILL);
    waitpid(c->pid, &c->status, 0);
    c->pid = 0;
    fd_close(&c->output);
}

int demo_command_status(const struct demo_command *c)
{
    return WIFSIGNALED(c->status) ? 128 + WTERMSIG(c->status) : WEXITSTATUS(c->status);
}
