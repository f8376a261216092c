/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/local_upstream.h */
#include "keeper/local_upstream.h"

#include <errno.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* Whom login.defs and systemd take for a person: services have numbers below and above. */
#define FIRST_PERSON 1000
#define LAST_PERSON  60000

static bool contains(const uint32_t *list, size_t n, uint32_t uid)
{
    for (size_t i = 0; i < n; i++) {
        if (list[i] == uid)
            return true;
    }
    return false;
}

static bool takes(const struct capture_policy *p, uint32_t uid)
{
    return (p->n_uids == 0 || contains(p->uids, p->n_uids, uid)) &&
           !contains(p->not_uids, p->n_not_uids, uid);
}

/* Whether the cgroup `path` is `root` or below it. */
static bool is_below(const char *path, const char *root)
{
    size_t n = strlen(root);

    while (n > 0 && root[n - 1] == '/')
        n--;
    return strncmp(path, root, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* Whether each process of the owner is certainly outside the cgroup that the capture is limited to.
 */
static bool outside_cgroup(const struct capture_policy *p, const struct owner *o)
{
    /* The transient cgroup of `run` is empty when this is asked. */
    if (!p->cgroup)
        return p->hook == CAPTURE_CGROUP;
    if (o->n_processes == 0 || o->more)
        return false;
    for (size_t i = 0; i < o->n_processes; i++) {
        const char *path = o->processes[i].cgroup;

        if (path[0] == '\0' || is_below(path, p->cgroup))
            return false;
    }
    return true;
}

/* False: this uid cannot be excluded. */
static bool exclude(const struct capture_policy *p, uint32_t uid, struct local_upstream *ret)
{
    if (!takes(p, uid) || contains(ret->uids, ret->n_uids, uid))
        return true;
    if (uid == 0 || contains(p->uids, p->n_uids, uid) || ret->n_uids == LOCAL_UPSTREAM_UIDS)
        return false;
    ret->uids[ret->n_uids++] = uid;
    ret->person = uid >= FIRST_PERSON && uid <= LAST_PERSON;
    return true;
}

enum local_upstream_verdict local_upstream_decide(const struct capture_policy *p,
                                                  const struct owner *o, struct local_upstream *ret)
{
    size_t before = ret->n_uids;
    bool can = true;

    if (outside_cgroup(p, o))
        return LOCAL_UPSTREAM_NONE;
    if (o->n_processes == 0)
        can = exclude(p, o->uid, ret);
    for (size_t i = 0; can && i < o->n_processes; i++) {
        const struct owner_process *process = &o->processes[i];

        can = exclude(p, p->hook == CAPTURE_CGROUP ? process->uid : process->fsuid, ret);
    }
    if (!can)
        return LOCAL_UPSTREAM_REFUSE;
    return ret->n_uids > before ? LOCAL_UPSTREAM_EXCLUDE : LOCAL_UPSTREAM_NONE;
}

static const char *user_name(uint32_t uid, char *buf, size_t size)
{
    struct passwd entry, *found = NULL;
    char text[4096];

    if (getpwuid_r(uid, &entry, text, sizeof(text), &found) == 0 && found)
        snprintf(buf, size, "%.60s", found->pw_name);
    else
        snprintf(buf, size, "%u", uid);
    return buf;
}

/* The first user of the owner that the capture takes and that cannot be excluded. */
static uint32_t stubborn(const struct capture_policy *p, const struct owner *o)
{
    for (size_t i = 0; i < o->n_processes; i++) {
        const struct owner_process *process = &o->processes[i];
        uint32_t uid = p->hook == CAPTURE_CGROUP ? process->uid : process->fsuid;

        if (takes(p, uid) && (uid == 0 || contains(p->uids, p->n_uids, uid)))
            return uid;
    }
    return o->uid;
}

static void say_refused(const struct capture_policy *p, const struct owner *o,
                        const struct addr *at, char *why, size_t size)
{
    char who[96], where[ADDR_STRLEN], user[64];
    uint32_t uid = stubborn(p, o);

    owner_describe(o, who, sizeof(who));
    addr_format(at, where);
    user_name(uid, user, sizeof(user));
    if (p->cgroup || p->hook == CAPTURE_CGROUP)
        snprintf(
            why, size,
            "capture %s: the upstream %s is %s on this host, whose own connections the capture "
            "would take: run it outside cgroup = \"%s\", or as a user of its own with not-uid = "
            "{ \"USER\" } in the capture",
            p->name, where, who, p->cgroup ? p->cgroup : "/");
    else if (contains(p->uids, p->n_uids, uid))
        snprintf(
            why, size,
            "capture %s: the upstream %s is %s on this host and runs as %s, whom uid = { ... } "
            "selects: run it as its own user",
            p->name, where, who, user);
    else
        snprintf(
            why, size,
            "capture %s: the upstream %s is %s on this host, whose own connections the capture "
            "would take: run it as its own user, or add not-uid = { \"%s\" } to the capture, "
            "which leaves all that %s does alone",
            p->name, where, who, user, user);
}

static void say_excluded(const struct capture_policy *p, const struct owner *o,
                         const struct addr *at, const struct local_upstream *l, char *why,
                         size_t size)
{
    char who[96], where[ADDR_STRLEN], user[64];

    snprintf(why, size,
             "capture %s: the upstream %s is %s on this host: connections of the user %s are left "
             "alone, "
             "as by not-uid = { \"%s\" }%s",
             p->name, addr_format(at, where), owner_describe(o, who, sizeof(who)),
             user_name(l->uids[l->n_uids - 1], user, sizeof(user)), user,
             l->person ? ": all that this user does goes direct; where that is not meant, run the "
                         "upstream as a user of its own"
                       : "");
}

/* Nobody can be asked: only who has excluded somebody has thought of it. */
static int unknown(const struct capture_policy *p, const struct addr *at, int error,
                   struct local_upstream *ret, char *why, size_t size)
{
    char where[ADDR_STRLEN];

    if (error != -EOPNOTSUPP && error != -EACCES && error != -EPERM) {
        snprintf(why, size, "cannot find out who listens on %s: %s", addr_format(at, where),
                 strerror(-error));
        return error;
    }
    if (p->n_uids > 0 || p->n_not_uids > 0 || p->cgroup)
        return 0;
    ret->verdict = LOCAL_UPSTREAM_REFUSE;
    ret->at = *at;
    snprintf(
        why, size,
        "capture %s: the upstream %s is on this host, and who it is cannot be found out (%s): add "
        "not-uid = { \"USER\" } with the user it runs as to the capture",
        p->name, addr_format(at, where), strerror(-error));
    return 0;
}

/*
 * `undersock serve` as root marks the connections that it makes as ours, so no capture takes them.
 * As another user it cannot, and is excluded like anybody else.
 */
static bool is_our_server(const struct owner *o)
{
    struct stat self, other;
    char path[64];

    if (o->n_processes == 0 || stat("/proc/self/exe", &self) < 0)
        return false;
    for (size_t i = 0; i < o->n_processes; i++) {
        snprintf(path, sizeof(path), "/proc/%ld/exe", (long)o->processes[i].pid);
        if (o->processes[i].uid != 0 || stat(path, &other) < 0 || other.st_dev != self.st_dev ||
            other.st_ino != self.st_ino)
            return false;
    }
    return true;
}

int local_upstream_check(const struct capture_set *set, size_t policy, struct local_upstream *ret,
                         char *why, size_t why_size)
{
    const struct capture_policy *p = &set->policies[policy];
    struct local_upstream found = {.verdict = LOCAL_UPSTREAM_NONE};
    struct owner o;
    int r = 0;

    if (p->action != CAPTURE_PROXY || p->hook == CAPTURE_GATEWAY || p->has_mark ||
        (p->hook == CAPTURE_CGROUP && !p->cgroup)) {
        *ret = found;
        return 0;
    }
    for (size_t i = 0; r == 0 && found.verdict != LOCAL_UPSTREAM_REFUSE && i < set->n_upstreams;
         i++) {
        const struct addr *at = &set->upstreams[i];

        if (owner_address_is_local(at) == 0)
            continue;
        r = owner_find(at, &o);
        if (r == -ENOENT) {
            r = 0; /* it is down, or far away after all */
            continue;
        }
        if (r == 0 && is_our_server(&o)) {
            continue;
        }
        if (r < 0) {
            r = unknown(p, at, r, &found, why, why_size);
            continue;
        }
        enum local_upstream_verdict v = local_upstream_decide(p, &o, &found);

        if (v == LOCAL_UPSTREAM_NONE)
            continue;
        found.verdict = v;
        found.at = *at;
        if (v == LOCAL_UPSTREAM_REFUSE)
            say_refused(p, &o, at, why, why_size);
        else
            say_excluded(p, &o, at, &found, why, why_size);
    }
    if (r == 0)
        *ret = found;
    return r;
}
