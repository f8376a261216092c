/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tunnel: a tun or tap device in each of two network namespaces, and what goes out by one comes in
 * by the other, as a VPN in user space does it.
 *
 *     tunnel [-t] [-T TYPE] NAMESPACE DEVICE NAMESPACE DEVICE
 *
 * Namespaces are files, as of /run/netns. -t: tap devices, with an Ethernet header; otherwise tun,
 * without any. -T: the first device says that it is of this link type (ARPHRD_*, a number),
 * whatever it is. Prints "ready" when both are there; they go with the process. Bringing them up is
 * the caller's.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/if_tun.h>

#define PACKET_MAX 65600

/* A device of that name in that namespace; ends the process when there can be none. */
static int device(const char *namespace, const char *name, short flags, int type)
{
    struct ifreq request = {.ifr_flags = (short)(flags | IFF_NO_PI)};
    int there = open(namespace, O_RDONLY | O_CLOEXEC);
    int fd;

    if (there < 0 || setns(there, CLONE_NEWNET) < 0)
        err(1, "%s", namespace);
    close(there);
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        err(1, "/dev/net/tun");
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    if (ioctl(fd, TUNSETIFF, &request) < 0 || (type >= 0 && ioctl(fd, TUNSETLINK, type) < 0))
        err(1, "%s", name);
    return fd;
}

/* All that waits. What the other side has no room for, or is not up for, is lost, as on a wire. */
static void move(int from, int to)
{
    static unsigned char packet[PACKET_MAX];
    ssize_t n;

    while ((n = read(from, packet, sizeof(packet))) > 0) {
        if (write(to, packet, (size_t)n) < 0 && errno != EAGAIN && errno != EIO)
            warn("write");
    }
    if (n < 0 && errno != EAGAIN && errno != EINTR)
        err(1, "read");
}

int main(int argc, char **argv)
{
    short flags = IFF_TUN;
    int type = -1, option;

    while ((option = getopt(argc, argv, "tT:")) != -1) {
        switch (option) {
        case 't':
            flags = IFF_TAP;
            break;
        case 'T':
            type = atoi(optarg);
            break;
        default:
            return 2;
        }
    }
    if (argc - optind != 4)
        errx(2, "usage: tunnel [-t] [-T TYPE] NAMESPACE DEVICE NAMESPACE DEVICE");

    struct pollfd side[2] = {{.events = POLLIN}, {.events = POLLIN}};

    side[0].fd = device(argv[optind], argv[optind + 1], flags, type);
    side[1].fd = device(argv[optind + 2], argv[optind + 3], flags, -1);
    puts("ready");
    fflush(stdout);
    while (poll(side, 2, -1) >= 0 || errno == EINTR) {
        /* POLLERR: not up yet, or no more. */
        if ((side[0].revents | side[1].revents) & POLLERR)
            usleep(10000);
        if (side[0].revents & POLLIN)
            move(side[0].fd, side[1].fd);
        if (side[1].revents & POLLIN)
            move(side[1].fd, side[0].fd);
    }
    err(1, "poll");
}
