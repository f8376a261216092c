/* SPDX-License-Identifier: GPL-2.0-or-later */
/* worker/sandbox.h: libcap-ng for the capabilities, libseccomp for the system calls. */
#include "worker/sandbox.h"

#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <linux/bpf.h>
#include <linux/sockios.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* A sanitizer's runtime needs more than a relay does. */
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED true
#endif
#endif
#ifndef SANITIZED
#define SANITIZED false
#endif

static int failed(char *why, size_t why_size, const char *what)
{
    int error = errno;

    snprintf(why, why_size, "%s: %s", what, strerror(error));
    return error > 0 ? -error : -EPERM;
}

int sandbox_drop(uid_t uid, gid_t gid, bool keep_net_raw, char *why, size_t why_size)
{
    struct rlimit no_core = {0, 0};

    setrlimit(RLIMIT_CORE, &no_core);
    if (geteuid() == 0 && uid != 0) {
        /* The permitted set survives setuid() only with KEEPCAPS; what may stay is chosen below. */
        if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
            return failed(why, why_size, "PR_SET_KEEPCAPS");
        if (setgroups(0, NULL) < 0 || setresgid(gid, gid, gid) < 0)
            return failed(why, why_size, "cannot leave root's groups");
        if (setresuid(uid, uid, uid) < 0)
            return failed(why, why_size, "cannot become an unprivileged user");
        prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
    }
    capng_clear(CAPNG_SELECT_BOTH);
    if (keep_net_raw)
        capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_NET_RAW);
    if (capng_apply(CAPNG_SELECT_CAPS) != 0)
        return failed(why, why_size, "cannot give up capabilities");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return failed(why, why_size, "PR_SET_NO_NEW_PRIVS");
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    /* A change of credentials clears it: so it comes last. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return failed(why, why_size, "PR_SET_PDEATHSIG");
    return 0;
}

static const int allowed[] = {
    SCMP_SYS(read),        SCMP_SYS(write),         SCMP_SYS(close),
    SCMP_SYS(recvfrom),    SCMP_SYS(recvmsg),       SCMP_SYS(sendto),
    SCMP_SYS(sendmsg),     SCMP_SYS(recvmmsg),      SCMP_SYS(sendmmsg),
    SCMP_SYS(connect),     SCMP_SYS(accept4),       SCMP_SYS(epoll_wait),
    SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_ctl),     SCMP_SYS(splice),
    SCMP_SYS(pipe2),       SCMP_SYS(fcntl),         SCMP_SYS(setsockopt),
    SCMP_SYS(getsockopt),  SCMP_SYS(getsockname),   SCMP_SYS(shutdown),
    SCMP_SYS(dup),         SCMP_SYS(clock_gettime), SCMP_SYS(exit),
    SCMP_SYS(exit_group),  SCMP_SYS(munmap),        SCMP_SYS(mremap),
    SCMP_SYS(madvise),     SCMP_SYS(brk),           SCMP_SYS(rt_sigreturn),
    SCMP_SYS(futex),       SCMP_SYS(getrandom),     SCMP_SYS(restart_syscall),
    SCMP_SYS(getpid),      SCMP_SYS(gettid),        SCMP_SYS(rt_sigprocmask),
};

static int allow_some(scmp_filter_ctx ctx)
{
    const unsigned bpf_commands[] = {BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM,
                                     BPF_MAP_LOOKUP_AND_DELETE_ELEM};
    const unsigned ioctls[] = {SIOCOUTQ, SIOCINQ};
    const unsigned families[] = {AF_INET, AF_INET6};
    int r = 0;

    for (size_t i = 0; r == 0 && i < sizeof(bpf_commands) / sizeof(bpf_commands[0]); i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(bpf), 1,
                             SCMP_A0(SCMP_CMP_EQ, bpf_commands[i], 0));
    for (size_t i = 0; r == 0 && i < sizeof(families) / sizeof(families[0]); i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                             SCMP_A0(SCMP_CMP_EQ, families[i], 0));
    for (size_t i = 0; r == 0 && i < sizeof(ioctls) / sizeof(ioctls[0]); i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_EQ, ioctls[i], 0));
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0) /* abort() */
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                             SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
    return r;
}

int sandbox_seal(char *why, size_t why_size)
{
    if (SANITIZED)
        return 0;
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int r = ctx ? 0 : -ENOMEM;

    for (size_t i = 0; r == 0 && i < sizeof(allowed) / sizeof(allowed[0]); i++)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i], 0);
    if (r == 0)
        r = allow_some(ctx);
    if (r == 0)
        r = seccomp_load(ctx);
    if (ctx)
        seccomp_release(ctx);
    if (r < 0)
        snprintf(why, why_size, "seccomp: %s", strerror(-r));
    return r;
}
