/* SPDX-License-Identifier: GPL-2.0-or-later */
/* control/server.h */
#include "control/server.h"

#include <errno.h>
#include <grp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"

#define CLIENTS  16
#define PATIENCE INT64_C(5000000000) /* for a client to ask its question */
#define REST     INT64_C(200000000)  /* of the listener, when nothing can be accepted */

struct control_server {
    struct loop *loop;
    unsigned kind;
    control_answer_fn answer;
    void *ctx;
    int listener;
    struct timer rest;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    struct {
        int fd; /* -1: free */
        uint32_t generation;
        struct timer timer;
    } clients[CLIENTS];
};

/* Workers may have the same socket to answer on: it does not leave the loop by being closed. */
static void drop(struct control_server *s, unsigned i)
{
    loop_timer_cancel(s->loop, &s->clients[i].timer);
    loop_remove(s->loop, s->clients[i].fd);
    fd_close(&s->clients[i].fd);
    s->clients[i].generation++;
}

static void on_client(void *ctx, uint64_t ref, uint32_t events)
{
    struct control_server *s = ctx;
    unsigned i = loop_ref_index(ref);
    union message m;

    if (i >= CLIENTS || s->clients[i].fd < 0 ||
        (s->clients[i].generation & 0xffffff) != loop_ref_generation(ref))
        return;
    ssize_t n =
        events & LOOP_TIMEOUT ? 0 : fd_recv_message(s->clients[i].fd, &m, sizeof(m), NULL, NULL);

    if (n == -EAGAIN)
        return;
    if (n == (ssize_t)sizeof(m.header) && m.header.version == MESSAGE_VERSION)
        s->answer(s->ctx, m.header.type, s->clients[i].fd);
    drop(s, i);
}

static void on_listener(void *ctx, uint64_t ref, uint32_t events)
{
    struct control_server *s = ctx;

    if (events & LOOP_TIMEOUT) {
        loop_modify(s->loop, s->listener, EPOLLIN, ref);
        return;
    }
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    /* Without a descriptor for it the connection would wake us for ever. */
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) &&
        loop_timer_set(s->loop, &s->rest, REST, ref) == 0)
        loop_modify(s->loop, s->listener, 0, ref);
    for (unsigned i = 0; fd >= 0 && i < CLIENTS; i++) {
        uint64_t client = loop_ref(s->kind + 1, s->clients[i].generation, i);

        if (s->clients[i].fd >= 0)
            continue;
        s->clients[i].fd = fd;
        if (loop_add(s->loop, fd, EPOLLIN, client) < 0 ||
            loop_timer_set(s->loop, &s->clients[i].timer, PATIENCE, client) < 0)
            drop(s, i);
        return;
    }
    fd_close(&fd);
}

/* The directory of the socket; the socket itself is for root and the group only. */
static void make_directory(const char *path)
{
    char dir[sizeof(((struct sockaddr_un *)0)->sun_path)];
    char *slash;

    snprintf(dir, sizeof(dir), "%s", path);
    slash = strrchr(dir, '/');
    if (slash && slash != dir) {
        *slash = '\0';
        mkdir(dir, 0755);
    }
}

/* Removes a socket that nobody answers on, and nothing else. */
static int make_way(const char *path, const struct sockaddr_un *sa, char *why, size_t why_size)
{
    struct stat st;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    /* EAGAIN: somebody listens and has no time. */
    bool answers = connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) == 0 || errno == EAGAIN;

    fd_close(&fd);
    if (answers) {
        snprintf(why, why_size,
                 "another undersock answers on %s; stop it (undersock stop) or set control", path);
        return -EADDRINUSE;
    }
    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
        snprintf(why, why_size, "control socket %s: there is a file that is no socket; set control",
                 path);
        return -EEXIST;
    }
    unlink(path);
    return 0;
}

static int bind_socket(struct control_server *s, char *why, size_t why_size)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    const struct group *g = getgrnam("undersock");

    memcpy(sa.sun_path, s->path, sizeof(sa.sun_path));
    make_directory(s->path);
    int r = make_way(s->path, &sa, why, why_size);

    if (r < 0)
        return r;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mode_t mask = umask(0177);

    r = fd < 0 ? -errno : bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ? -errno : 0;

    umask(mask);
    if (r == 0 && g && chown(s->path, (uid_t)-1, g->gr_gid) == 0)
        chmod(s->path, 0660);
    if (r == 0 && listen(fd, CLIENTS) < 0)
        r = -errno;
    if (r < 0) {
        snprintf(why, why_size, "control socket %s: %s", s->path, strerror(-r));
        fd_close(&fd);
        return r;
    }
    s->listener = fd;
    return 0;
}

int control_server_create(struct loop *loop, unsigned kind, const char *path,
                          control_answer_fn answer, void *ctx, struct control_server **ret,
                          char *why, size_t why_size)
{
    struct control_server *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    *s = (struct control_server){
        .loop = loop, .kind = kind, .answer = answer, .ctx = ctx, .listener = -1};
    for (unsigned i = 0; i < CLIENTS; i++)
        s->clients[i].fd = -1;
    if (strlen(path) >= sizeof(s->path)) {
        snprintf(why, why_size, "control socket: the path is longer than %zu bytes",
                 sizeof(s->path) - 1);
        free(s);
        return -ENAMETOOLONG;
    }
    snprintf(s->path, sizeof(s->path), "%s", path);
    r = bind_socket(s, why, why_size);
    if (r < 0) {
        free(s);
        return r;
    }
    loop_set_handler(loop, kind, on_listener, s);
    loop_set_handler(loop, kind + 1, on_client, s);
    r = loop_add(loop, s->listener, EPOLLIN, loop_ref(kind, 0, 0));
    if (r < 0) {
        control_server_destroy(s);
        return r;
    }
    *ret = s;
    return 0;
}

void control_server_destroy(struct control_server *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < CLIENTS; i++) {
        if (s->clients[i].fd >= 0)
            drop(s, i);
    }
    loop_timer_cancel(s->loop, &s->rest);
    loop_set_handler(s->loop, s->kind, NULL, NULL);
    loop_set_handler(s->loop, s->kind + 1, NULL, NULL);
    unlink(s->path);
    fd_close(&s->listener);
    free(s);
}
