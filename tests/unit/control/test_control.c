/* SPDX-License-Identifier: GPL-2.0-or-later */
/* control/: one question per connection, from both ends; each end against one that misbehaves. */
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "control/client.h"
#include "control/server.h"
#include "tests/unit/upstream/drive.h"

#define KIND 4

struct rig {
    struct drive d;
    struct control_server *server;
    char dir[64], path[96], why[256];
    unsigned asked, type;
    int keep; /* a duplicate of the client's socket, as a worker has it */
    bool duplicate;
    unsigned fds;
};

static void answer(void *ctx, unsigned type, int client)
{
    struct rig *r = ctx;
    struct message_end m = {.header = MESSAGE_HEADER(MESSAGE_END, sizeof(m)), .result = -EXDEV};

    r->asked++;
    r->type = type;
    if (r->duplicate)
        r->keep = dup(client);
    assert_int_equal(fd_send_message(client, &m, sizeof(m), NULL, 0), 0);
}

static int open_rig(void **state)
{
    static struct rig r;

    r = (struct rig){.keep = -1, .fds = open_fds()};
    strcpy(r.dir, "/tmp/undersock-control.XXXXXX");
    assert_non_null(mkdtemp(r.dir));
    snprintf(r.path, sizeof(r.path), "%s/run/control.sock", r.dir);
    drive_open(&r.d, 64);
    *state = &r;
    return 0;
}

static int serve(struct rig *r)
{
    r->why[0] = '\0';
    return control_server_create(r->d.loop, KIND, r->path, answer, r, &r->server, r->why,
                                 sizeof(r->why));
}

static int close_rig(void **state)
{
    struct rig *r = *state;
    struct stat st;

    control_server_destroy(r->server);
    fd_close(&r->keep);
    drive_turn(&r->d); /* a timer that is left would be touched here */
    drive_close(&r->d);
    assert_int_equal(lstat(r->path, &st), -1);
    r->path[strlen(r->path) - strlen("/control.sock")] = '\0';
    rmdir(r->path);
    assert_int_equal(rmdir(r->dir), 0);
    assert_int_equal(open_fds(), r->fds);
    return 0;
}

static struct sockaddr_un address(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};

    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
    return sa;
}

static int connect_raw(const struct rig *r)
{
    struct sockaddr_un sa = address(r->path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    assert_true(fd >= 0);
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
        fail_msg("connect: %s", strerror(errno));
    return fd;
}

/* The length of the next message, 0 at the end. */
static ssize_t next(struct rig *r, int fd, union message *m)
{
    for (unsigned i = 0; i < DRIVE_TURNS; i++) {
        ssize_t n = fd_recv_message(fd, m, sizeof(*m), NULL, NULL);

        if (n != -EAGAIN)
            return n;
        drive_turn(&r->d);
    }
    fail_msg("no answer");
    return 0;
}

static void question(int fd, unsigned type)
{
    struct message_header q = MESSAGE_HEADER((uint16_t)type, sizeof(q));

    assert_int_equal(fd_send_message(fd, &q, sizeof(q), NULL, 0), 0);
}

static void a_question_is_answered_and_the_connection_closed(void **state)
{
    struct rig *r = *state;
    union message m;

    assert_int_equal(serve(r), 0);
    for (unsigned type = 1; type < 6; type++) {
        int fd = connect_raw(r);

        question(fd, type);
        assert_int_equal(next(r, fd, &m), sizeof(m.end));
        assert_int_equal(m.end.result, -EXDEV);
        assert_int_equal(next(r, fd, &m), 0);
        assert_int_equal(r->asked, type);
        assert_int_equal(r->type, type);
        close(fd);
    }
}

static void the_socket_is_for_its_owner_and_the_group(void **state)
{
    struct rig *r = *state;
    struct stat st;
    mode_t before = umask(0);

    assert_int_equal(serve(r), 0);
    assert_int_equal(umask(before), 0); /* and the process's mask is as it was */
    assert_int_equal(lstat(r->path, &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    assert_int_equal(st.st_mode & 07117, 0);
    control_server_destroy(r->server);
    r->server = NULL;
    assert_int_equal(lstat(r->path, &st), -1);
    control_server_destroy(NULL);
}

static void what_is_no_question_is_dropped_without_an_answer(void **state)
{
    struct rig *r = *state;
    struct message_header q = MESSAGE_HEADER(MESSAGE_STOP, sizeof(q));
    union message m, big;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    assert_int_equal(serve(r), 0);
    memset(&big, 0, sizeof(big));
    memcpy(&big, &q, sizeof(q));
    unsigned before = open_fds();

    for (unsigned i = 0; i < 5; i++) {
        int fd = connect_raw(r);

        if (i == 0)
            assert_int_equal(fd_send_message(fd, &q, sizeof(q) - 1, NULL, 0), 0);
        if (i == 1)
            assert_int_equal(fd_send_message(fd, &big, sizeof(q) + 1, NULL, 0), 0);
        if (i == 2)
            assert_int_equal(fd_send_message(fd, &big, sizeof(big), NULL, 0), 0);
        if (i == 3) {
            q.version = MESSAGE_VERSION + 1;
            assert_int_equal(fd_send_message(fd, &q, sizeof(q), NULL, 0), 0);
            q.version = MESSAGE_VERSION;
        }
        if (i == 4)
            assert_int_equal(shutdown(fd, SHUT_WR), 0);
        assert_int_equal(next(r, fd, &m), 0);
        close(fd);
    }
    assert_int_equal(r->asked, 0);
    /* Descriptors that come along are closed. */
    int fd = connect_raw(r);

    assert_int_equal(fd_send_message(fd, &q, sizeof(q), &null, 1), 0);
    assert_int_equal(next(r, fd, &m), sizeof(m.end));
    assert_int_equal(next(r, fd, &m), 0);
    close(fd);
    assert_int_equal(open_fds(), before);
    close(null);
}

enum { PLACES = 16 };

static void silent_clients_take_places_for_a_while_only(void **state)
{
    struct rig *r = *state;
    int fd[PLACES + 1];
    union message m;

    assert_int_equal(serve(r), 0);
    for (unsigned i = 0; i < PLACES; i++) {
        fd[i] = connect_raw(r);
        drive_turn(&r->d);
    }
    fd[PLACES] = connect_raw(r);
    assert_int_equal(next(r, fd[PLACES], &m), 0); /* no place: closed at once */
    close(fd[PLACES]);
    close(fd[3]); /* one goes: there is a place */
    for (unsigned i = 0; i < 5; i++)
        drive_turn(&r->d);
    fd[3] = connect_raw(r);
    question(fd[3], MESSAGE_STATUS);
    assert_int_equal(next(r, fd[3], &m), sizeof(m.end));
    assert_int_equal(next(r, fd[3], &m), 0);
    for (unsigned i = 0; i < PLACES; i++) { /* the others' time is up some seconds later */
        assert_int_equal(next(r, fd[i], &m), 0);
        close(fd[i]);
    }
}

static unsigned batches;

static bool count_batch(void *ctx)
{
    (void)ctx;
    batches++;
    return false;
}

static unsigned wakeups(struct rig *r, unsigned turns)
{
    loop_set_batch_end(r->d.loop, count_batch, NULL);
    batches = 0;
    for (unsigned i = 0; i < turns; i++)
        drive_turn(&r->d);
    return batches;
}

/* A worker still answers on the client's socket: what the client does to it is no longer our
 * business. */
static void a_socket_that_was_passed_on_leaves_the_loop(void **state)
{
    struct rig *r = *state;
    union message m;

    r->duplicate = true;
    assert_int_equal(serve(r), 0);
    int fd = connect_raw(r);

    question(fd, MESSAGE_FLOWS);
    assert_int_equal(next(r, fd, &m), sizeof(m.end));
    assert_true(r->keep >= 0);
    question(fd, MESSAGE_FLOWS);
    close(fd);
    assert_true(wakeups(r, 100) <= 250);
    assert_int_equal(r->asked, 1);
}

static void without_descriptors_nothing_spins(void **state)
{
    struct rig *r = *state;
    struct rlimit old, tight;
    union message m;

    assert_int_equal(serve(r), 0);
    int fd = connect_raw(r), highest = dup(STDIN_FILENO);

    close(highest);
    question(fd, MESSAGE_STATUS);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    tight = (struct rlimit){(rlim_t)highest, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    unsigned busy = wakeups(r, 100);

    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_true(busy <= 250);
    assert_int_equal(next(r, fd, &m), sizeof(m.end)); /* it has waited */
    close(fd);
}

static void a_living_daemon_is_not_replaced(void **state)
{
    struct rig *r = *state;
    struct control_server *second = NULL;
    char why[256] = "";

    assert_int_equal(serve(r), 0);
    assert_int_equal(
        control_server_create(r->d.loop, KIND + 2, r->path, answer, r, &second, why, sizeof(why)),
        -EADDRINUSE);
    assert_null(second);
    assert_non_null(strstr(why, r->path));
    /* The first is still reached. */
    int fd = connect_raw(r);
    union message m;

    question(fd, MESSAGE_STATUS);
    for (unsigned i = 0; r->asked == 0; i++) {
        assert_true(i < DRIVE_TURNS);
        drive_turn(&r->d);
    }
    assert_int_equal(next(r, fd, &m), sizeof(m.end));
    close(fd);
}

/* Nor one that is so busy that its queue is full. */
static void a_busy_daemon_is_not_replaced(void **state)
{
    struct rig *r = *state;
    int fd[64];
    unsigned n = 0;
    struct sockaddr_un sa = address(r->path);

    assert_int_equal(serve(r), 0);
    for (; n < 64; n++) { /* without a turn of its loop */
        fd[n] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (connect(fd[n], (struct sockaddr *)&sa, sizeof(sa)) < 0)
            break;
    }
    assert_true(n < 64);
    assert_int_equal(errno, EAGAIN);
    struct control_server *second = NULL;
    char why[256];

    assert_int_equal(
        control_server_create(r->d.loop, KIND + 2, r->path, answer, r, &second, why, sizeof(why)),
        -EADDRINUSE);
    for (unsigned i = 0; i <= n; i++)
        close(fd[i]);
}

static void a_socket_that_nobody_answers_on_is_replaced(void **state)
{
    struct rig *r = *state;
    struct sockaddr_un sa = address(r->path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    r->path[strlen(r->path) - strlen("/control.sock")] = '\0';
    assert_int_equal(mkdir(r->path, 0755), 0);
    strcat(r->path, "/control.sock");
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    close(fd);
    assert_int_equal(serve(r), 0);
    close(connect_raw(r));
}

/* `control = "/etc/passwd"` is a mistake, and costs no file. */
static void a_file_that_is_no_socket_is_left_alone(void **state)
{
    struct rig *r = *state;
    struct stat st;

    r->path[strlen(r->path) - strlen("/control.sock")] = '\0';
    assert_int_equal(mkdir(r->path, 0755), 0);
    strcat(r->path, "/control.sock");
    int fd = open(r->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    assert_int_equal(write(fd, "precious", 8), 8);
    close(fd);
    assert_int_equal(serve(r), -EEXIST);
    assert_non_null(strstr(r->why, r->path));
    assert_int_equal(stat(r->path, &st), 0);
    assert_int_equal(st.st_size, 8);
    assert_int_equal(unlink(r->path), 0);
}

static void a_path_that_cannot_be_is_an_error(void **state)
{
    struct rig *r = *state;
    char saved[96], longest[200];

    strcpy(saved, r->path);
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(control_server_create(r->d.loop, KIND, longest, answer, r, &r->server, r->why,
                                           sizeof(r->why)),
                     -ENAMETOOLONG);
    assert_int_equal(control_ask(longest, MESSAGE_STATUS, NULL, NULL, r->why, sizeof(r->why)),
                     -ENAMETOOLONG);
    assert_true(strlen(r->why) > 0);
    snprintf(r->path, sizeof(r->path), "%s/a/b/control.sock", r->dir); /* two levels are missing */
    assert_int_equal(serve(r), -ENOENT);
    assert_non_null(strstr(r->why, r->path));
    strcpy(r->path, saved);
}

/* ---- the client, against a daemon that sends what the test says ---------------------------------
 */

struct heard {
    unsigned n;
    unsigned types[32];
};

static void hear(void *ctx, const union message *m)
{
    struct heard *h = ctx;

    assert_true(h->n < 32);
    h->types[h->n++] = m->header.type;
}

/* A child that takes one connection and one question and sends the messages. */
static int asked_of(struct rig *r, const union message *answers, const size_t *sizes, unsigned n,
                    struct heard *h)
{
    struct sockaddr_un sa = address(r->path);
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), status;

    r->path[strlen(r->path) - strlen("/control.sock")] = '\0';
    mkdir(r->path, 0755);
    strcat(r->path, "/control.sock");
    unlink(r->path);
    assert_int_equal(bind(listener, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(listen(listener, 5), 0);
    fflush(stdout);
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        struct message_header q;

        if (recv(fd, &q, sizeof(q), 0) != sizeof(q) || q.type != MESSAGE_FLOWS ||
            q.version != MESSAGE_VERSION || q.length != sizeof(q))
            _exit(1);
        for (unsigned i = 0; i < n; i++)
            if (send(fd, &answers[i], sizes[i], MSG_NOSIGNAL) < 0 && errno != EPIPE)
                _exit(2);
        _exit(0);
    }
    close(listener);
    *h = (struct heard){.n = 0};
    r->why[0] = '\0';
    int result = control_ask(r->path, MESSAGE_FLOWS, hear, h, r->why, sizeof(r->why));

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    unlink(r->path);
    return result;
}

static void the_client_waits_for_every_end(void **state)
{
    struct rig *r = *state;
    struct heard h;
    union message m[7] = {
        {.hello = {.header = MESSAGE_HEADER(MESSAGE_HELLO, sizeof(m->hello)), .workers = 3}}};
    size_t sizes[7] = {sizeof(m->hello)};

    for (unsigned i = 1; i < 7; i++) {
        bool flow = i % 2;

        m[i].header = (struct message_header)MESSAGE_HEADER(
            flow ? MESSAGE_FLOW : MESSAGE_END, flow ? sizeof(m->flow) : sizeof(m->end));
        sizes[i] = flow ? sizeof(m->flow) : sizeof(m->end);
    }
    assert_int_equal(asked_of(r, m, sizes, 7, &h), 0);
    assert_int_equal(h.n, 4); /* the hello and three flows, one of them after the second end */
    assert_int_equal(h.types[0], MESSAGE_HELLO);
    assert_int_equal(h.types[3], MESSAGE_FLOW);

    /* Who drains is not counted, and is heard all the same, to the end of file. */
    m[0].hello.workers = 1;
    assert_int_equal(asked_of(r, m, sizes, 7, &h), 0);
    assert_int_equal(h.n, 4);
    assert_int_equal(asked_of(r, m, sizes, 6, &h), 0);
    assert_int_equal(h.n, 4);
    m[0].hello.workers = 3;

    /* One of the ends says that it failed. */
    m[4].end.result = -EAGAIN;
    assert_int_equal(asked_of(r, m, sizes, 7, &h), -EAGAIN);
    assert_int_equal(h.n, 4);

    /* The last end is missing: the answer is not whole. */
    assert_int_equal(asked_of(r, m, sizes, 6, &h), -EPIPE);
    assert_non_null(strstr(r->why, "incomplete"));
}

static void the_client_takes_no_nonsense(void **state)
{
    struct rig *r = *state;
    struct heard h;
    union message m;

    for (unsigned i = 0; i < 5; i++) {
        size_t size = sizeof(m.text);

        memset(&m, 0, sizeof(m));
        m.header = (struct message_header)MESSAGE_HEADER(MESSAGE_TEXT, size);
        if (i == 0)
            size--;
        if (i == 1)
            m.header.type = 999;
        if (i == 2)
            m.header.version++;
        if (i == 3)
            size = sizeof(m.header) - 1;
        if (i == 4)
            m.header.type = MESSAGE_STATUS; /* a question is no answer */
        assert_int_equal(asked_of(r, &m, &size, 1, &h), -EPROTO);
        assert_int_equal(h.n, 0);
    }
    assert_int_equal(asked_of(r, &m, NULL, 0, &h), -EPIPE);
}

static void without_a_daemon_the_client_says_what_to_do(void **state)
{
    struct rig *r = *state;

    assert_int_equal(control_ask(r->path, MESSAGE_STATUS, hear, NULL, r->why, sizeof(r->why)),
                     -ENOENT);
    assert_non_null(strstr(r->why, r->path));
    assert_non_null(strstr(r->why, "undersock daemon"));
}

int main(void)
{
#define ON_A_RIG(test) cmocka_unit_test_setup_teardown(test, open_rig, close_rig)
    const struct CMUnitTest tests[] = {
        ON_A_RIG(a_question_is_answered_and_the_connection_closed),
        ON_A_RIG(the_socket_is_for_its_owner_and_the_group),
        ON_A_RIG(what_is_no_question_is_dropped_without_an_answer),
        ON_A_RIG(silent_clients_take_places_for_a_while_only),
        ON_A_RIG(a_socket_that_was_passed_on_leaves_the_loop),
        ON_A_RIG(without_descriptors_nothing_spins),
        ON_A_RIG(a_living_daemon_is_not_replaced),
        ON_A_RIG(a_busy_daemon_is_not_replaced),
        ON_A_RIG(a_socket_that_nobody_answers_on_is_replaced),
        ON_A_RIG(a_file_that_is_no_socket_is_left_alone),
        ON_A_RIG(a_path_that_cannot_be_is_an_error),
        ON_A_RIG(the_client_waits_for_every_end),
        ON_A_RIG(the_client_takes_no_nonsense),
        ON_A_RIG(without_a_daemon_the_client_says_what_to_do),
    };

    return cmocka_run_group_tests_name("control", tests, ignore_sigpipe, NULL);
}
