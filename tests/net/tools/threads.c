/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * threads: an application with many threads, each with blocking connects of its own.
 *
 *     threads [-M] [-n THREADS] [-k CONNECTIONS-EACH] ADDR PORT
 *
 * The far end is `load server`. Every connection asks for an echo of 64 bytes that no other
 * connection sends, and checks that getpeername() names what was asked for. One line, exit status
 * 0 when everything was right.
 */
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#include "net.h"

static struct target target;
static unsigned threads = 50, each = 20;
static atomic_ulong done, failed, wrong_peer, wrong_bytes;
static pthread_barrier_t barrier;

static bool same_peer(int fd)
{
    char a[80], b[80];
    return strcmp(format_peer(fd, a, sizeof(a)), format_sockaddr(&target.sa, b, sizeof(b))) == 0;
}

static void *run(void *arg)
{
    uintptr_t number = (uintptr_t)arg;
    char message[65], answer[64];

    pthread_barrier_wait(&barrier);
    for (unsigned i = 0; i < each; i++) {
        int fd = connect_to(&target, false);
        if (fd < 0) {
            atomic_fetch_add(&failed, 1);
            continue;
        }
        if (!same_peer(fd))
            atomic_fetch_add(&wrong_peer, 1);
        /* 'e' makes the server echo all that follows. */
        memset(message, '.', sizeof(message));
        snprintf(message, sizeof(message), "ethread %" PRIuPTR " connection %u pid %d", number, i,
                 (int)getpid());
        if (write_all(fd, message, 65) < 0 || read_all(fd, answer, 64) < 0)
            atomic_fetch_add(&failed, 1);
        else if (memcmp(message + 1, answer, 64) != 0)
            atomic_fetch_add(&wrong_bytes, 1);
        else
            atomic_fetch_add(&done, 1);
        close(fd);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    bool mapped = false;
    int c;

    while ((c = getopt(argc, argv, "Mn:k:")) != -1) {
        switch (c) {
        case 'M':
            mapped = true;
            break;
        case 'n':
            threads = (unsigned)parse_count(optarg);
            break;
        case 'k':
            each = (unsigned)parse_count(optarg);
            break;
        default:
            die(2, "usage: threads [-M] [-n THREADS] [-k EACH] ADDR PORT");
        }
    }
    if (argc - optind != 2 || !threads || threads > 4096)
        die(2, "usage: threads [-M] [-n THREADS] [-k EACH] ADDR PORT");
    signal(SIGPIPE, SIG_IGN);
    raise_nofile();
    target = parse_target(argv[optind], argv[optind + 1], mapped);
    pthread_barrier_init(&barrier, NULL, threads);
    pthread_t *ids = calloc(threads, sizeof(*ids));
    for (uintptr_t i = 0; ids && i < threads; i++) {
        if (pthread_create(&ids[i], NULL, run, (void *)i))
            die(1, "pthread_create failed");
    }
    for (unsigned i = 0; ids && i < threads; i++)
        pthread_join(ids[i], NULL);
    free(ids);
    unsigned long want = (unsigned long)threads * each;
    bool good = done == want && !wrong_peer;
    printf("threads %s threads=%u connections=%lu done=%lu failed=%lu wrong_peer=%lu "
           "wrong_bytes=%lu\n",
           good ? "good" : "BAD", threads, want, done, failed, wrong_peer, wrong_bytes);
    return good ? 0 : 1;
}
