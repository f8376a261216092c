/* SPDX-License-Identifier: GPL-2.0-or-later */
/* control/server.h */
#include "control/server.h"

#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"

#define CLIENTS 16
#define PATIENCE INT64_C(5000000000) /* for a client to ask its question */

struct control_server {
    struct loop *loop;
    unsigned kind;
    control_answer_fn answer;
    void *ctx;
    int listener;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    struct {
        int fd; /* -1: free */
        uint32_t generation;
        struct timer timer;
    } clients[CLIENTS];
};

static void drop(struct control_server *s, unsigned i)
{
    loop_timer_cancel(s->loop, &s->clients[i].timer);
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
    ssize_t n = events & LOOP_TIMEOUT
                    ? 0
                    : fd_recv_message(s->clients[i].fd, &m, sizeof(m), NULL, NULL);

    if (n == -EAGAIN)
        return;
    if (n == (ssize_t)sizeof(m.header) && m.header.version == MESSAGE_VERSION)
        s->answer(s->ctx, m.header.type, s->clients[i].fd);
    drop(s, i);
}

static void on_listener(void *ctx, uint64_t ref, uint32_t events)
{
    struct control_server *s = ctx;
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    (void)ref;
    (void)events;
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

/* The directory of the socket, for root and the group only. */
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

static int bind_socket(struct control_server *s, char *why, size_t why_size)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    const struct group *g = getgrnam("undersock");

    memcpy(sa.sun_path, s->path, sizeof(sa.sun_path));
    make_directory(s->path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0) {
        snprintf(why, why_size,
                 "another undersock answers on %s; stop it (undersock stop) or set control", s->path);
        fd_close(&fd);
        return -EADDRINUSE;
    }
    fd_close(&fd);
    unlink(s->path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mode_t mask = umask(0177);
    int r = fd < 0 ? -errno : bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ? -errno : 0;

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
    loop_add(loop, s->listener, EPOLLIN, loop_ref(kind, 0, 0));
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
    unlink(s->path);
    fd_close(&s->listener);
    free(s);
}
