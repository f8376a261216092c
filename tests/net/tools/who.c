/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * who: from which address does the far end see me?
 *
 *     who serve PORT                              every address of the namespace, both families
 *     who [-M] [-V] [-p] [-l] [-m MARK] [-t SECONDS] ADDR PORT
 *
 * The server writes one line for each connection it has accepted ("who peer=ADDR"), so that one
 * that leaked leaves a trace whatever it did, reads a line, and answers with the peer's address; to
 * "GET " it answers as HTTP, for clients like curl.
 *
 * The client prints that address: a flow that went through the proxy comes from the proxy's. With
 * -p it adds what getpeername() says. A failure is "connect=ERRNO" (exit status 3) or "lost=RST",
 * "lost=FIN", "lost=ERRNO" (1). -m sets SO_MARK; -l asks again and again until it is killed.
 */
#include <getopt.h>
#include <pthread.h>

#include "net.h"

static void peer_address(int fd, char *buf, size_t size)
{
    struct sockaddr_storage sa = {0};
    socklen_t len = sizeof(sa);
    const struct sockaddr_in6 *in6 = (const void *)&sa;

    snprintf(buf, size, "?");
    if (getpeername(fd, (struct sockaddr *)&sa, &len) < 0)
        return;
    if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
        inet_ntop(AF_INET, &in6->sin6_addr.s6_addr[12], buf, (socklen_t)size);
    else
        inet_ntop(AF_INET6, &in6->sin6_addr, buf, (socklen_t)size);
}

/* A line, without the end of it; -1 when the stream ended before. */
static ssize_t read_line(int fd, char *buf, size_t size)
{
    size_t n = 0;
    while (n < size - 1) {
        int rc = read_all(fd, buf + n, 1);
        if (rc < 0)
            return rc;
        if (buf[n] == '\n')
            break;
        n++;
    }
    buf[n] = '\0';
    return (ssize_t)n;
}

static void *serve_one(void *arg)
{
    int fd = (int)(intptr_t)arg;
    char peer[INET6_ADDRSTRLEN], line[1024], answer[256];
    struct timeval tv = {.tv_sec = 30};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    peer_address(fd, peer, sizeof(peer));
    printf("who peer=%s\n", peer);
    if (read_line(fd, line, sizeof(line)) < 0)
        goto out;
    if (strncmp(line, "GET ", 4) == 0) {
        while (read_line(fd, line, sizeof(line)) > 0 && strcmp(line, "\r") != 0)
            ;
        snprintf(answer, sizeof(answer),
                 "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n%s\n",
                 strlen(peer) + 1, peer);
    } else {
        snprintf(answer, sizeof(answer), "%s\n", peer);
    }
    if (write_all(fd, answer, strlen(answer)) == 0)
        shutdown(fd, SHUT_WR);
    /* Until the client's FIN: closing on unread bytes would reset it. */
    while (recv(fd, line, sizeof(line), 0) > 0)
        ;
out:
    close(fd);
    return NULL;
}

__attribute__((noreturn)) static void serve(const char *port)
{
    struct target t = parse_target("::", port, false);
    int fd = listen_on(&t, false, false);
    for (;;) {
        pthread_t thread;
        int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (conn < 0)
            continue;
        if (pthread_create(&thread, NULL, serve_one, (void *)(intptr_t)conn))
            close(conn);
        else
            pthread_detach(thread);
    }
}

static int ask(const struct target *t, bool v6only, uint32_t mark, bool show_peer)
{
    char line[256], peer[80];
    int one = 1;
    int fd = socket(t->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || (mark && setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0))
        die(2, "socket: %s", strerror(errno));
    if (v6only)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    if (connect(fd, (const struct sockaddr *)&t->sa, t->len) < 0) {
        printf("connect=%s\n", strerrorname_np(errno));
        close(fd);
        return 3;
    }
    format_peer(fd, peer, sizeof(peer));
    ssize_t n = write_all(fd, "?\n", 2);
    if (n == 0)
        n = read_line(fd, line, sizeof(line));
    if (n < 0)
        printf("lost=%s\n", n == -ENODATA                     ? "FIN"
                            : n == -ECONNRESET || n == -EPIPE ? "RST"
                                                              : strerrorname_np((int)-n));
    else if (show_peer)
        printf("%s peer=%s\n", line, peer);
    else
        printf("%s\n", line);
    close(fd);
    return n < 0 ? 1 : 0;
}

static void usage(void)
{
    die(2, "usage: who serve PORT\n"
           "       who [-MVpl] [-m MARK] [-t SECONDS] ADDR PORT");
}

int main(int argc, char **argv)
{
    bool mapped = false, v6only = false, show_peer = false, loop = false;
    unsigned timeout = 20;
    uint32_t mark = 0;
    int c, rc;

    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && !strcmp(argv[1], "serve"))
        serve(argv[2]);
    while ((c = getopt(argc, argv, "MVplm:t:")) != -1) {
        switch (c) {
        case 'M':
            mapped = true;
            break;
        case 'V':
            v6only = true;
            break;
        case 'p':
            show_peer = true;
            break;
        case 'l':
            loop = true;
            break;
        case 'm':
            mark = (uint32_t)strtoul(optarg, NULL, 0);
            break;
        case 't':
            timeout = (unsigned)parse_count(optarg);
            break;
        default:
            usage();
        }
    }
    if (argc - optind != 2)
        usage();
    struct target t = parse_target(argv[optind], argv[optind + 1], mapped);
    /* A hang is a failure: SIGALRM ends us with its default action. */
    do {
        alarm(timeout);
        rc = ask(&t, v6only, mark, show_peer);
        if (loop)
            sleep_us(2000);
    } while (loop);
    return rc;
}
