/* SPDX-License-Identifier: GPL-2.0-or-later */
/* keeper/notify.c: the datagram that the service manager gets. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "keeper/notify.h"

static int bound(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    memcpy(sa.sun_path, path, strlen(path));
    if (path[0] == '@')
        sa.sun_path[0] = '\0';
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
    return fd;
}

static void expect(int fd, const char *text)
{
    char got[256];
    ssize_t n = recv(fd, got, sizeof(got), 0);

    assert_int_equal(n, strlen(text));
    assert_memory_equal(got, text, strlen(text));
}

static unsigned open_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void states_arrive_at_a_path_and_at_an_abstract_name(void **state)
{
    char path[64] = "/tmp/undersock-notify.XXXXXX", name[64];

    (void)state;
    int holder = mkstemp(path);

    assert_true(holder >= 0);
    close(holder);
    unlink(path);
    snprintf(name, sizeof(name), "@undersock-test-%ld", (long)getpid());
    for (unsigned i = 0; i < 2; i++) {
        int fd = bound(i ? name : path);
        unsigned before = open_fds();

        setenv("NOTIFY_SOCKET", i ? name : path, 1);
        notify_systemd("READY=1");
        expect(fd, "READY=1");
        notify_systemd("RELOADING=1\nMONOTONIC_USEC=5");
        expect(fd, "RELOADING=1\nMONOTONIC_USEC=5");
        assert_int_equal(open_fds(), before);
        close(fd);
        notify_systemd("STOPPING=1"); /* nobody there any more: no harm */
        assert_int_equal(open_fds(), before - 1);
    }
    unlink(path);
}

static void without_a_service_manager_nothing_happens(void **state)
{
    char longest[300];
    unsigned before = open_fds();

    (void)state;
    unsetenv("NOTIFY_SOCKET");
    notify_systemd("READY=1");
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    longest[0] = '/';
    setenv("NOTIFY_SOCKET", longest, 1);
    notify_systemd("READY=1");
    setenv("NOTIFY_SOCKET", "", 1);
    notify_systemd("READY=1");
    setenv("NOTIFY_SOCKET", "vsock:2:1", 1);
    notify_systemd("READY=1");
    unsetenv("NOTIFY_SOCKET");
    assert_int_equal(open_fds(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(states_arrive_at_a_path_and_at_an_abstract_name),
        cmocka_unit_test(without_a_service_manager_nothing_happens),
    };

    return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
