/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Password files. The permissions are those of the opened file, not of a name that may change. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/text.h"

#define PASSWORD_MAX 255 /* RFC 1929: PLEN is one octet */

static int check_file(int fd, const char *path, char *why, size_t why_size)
{
    struct stat st;

    if (fstat(fd, &st) < 0) {
        int r = -errno;

        snprintf(why, why_size, "cannot be examined (%s)", strerror(-r));
        return r;
    }
    if (!S_ISREG(st.st_mode)) {
        snprintf(why, why_size,
                 "is not a regular file: put the password, and nothing else, in a file");
        return -EINVAL;
    }
    if ((st.st_mode & 077) != 0) {
        snprintf(why, why_size, "is open to others (mode %04o): chmod 600 %s",
                 (unsigned)(st.st_mode & 07777), path);
        return -EPERM;
    }
    return 0;
}

/* Reads to the end of the file or of the buffer; the number of bytes or -errno. */
static ssize_t read_all(int fd, char *buf, size_t size)
{
    size_t n = 0;

    while (n < size) {
        ssize_t m = read(fd, buf + n, size - n);

        if (m < 0 && errno == EINTR)
            continue;
        if (m < 0)
            return -errno;
        if (m == 0)
            break;
        n += (size_t)m;
    }
    return (ssize_t)n;
}

int config_password_read(const char *path, char ret[256], char *why, size_t why_size)
{
    char buf[PASSWORD_MAX + 2]; /* a newline, and one byte that says it is too long */
    /* O_NONBLOCK: a FIFO is refused, not waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

    if (fd < 0) {
        int r = -errno;

        snprintf(why, why_size, "cannot be read (%s): write the password to it and chmod 600 %s",
                 strerror(-r), path);
        return r;
    }
    int r = check_file(fd, path, why, why_size);
    ssize_t n = r < 0 ? 0 : read_all(fd, buf, sizeof(buf));

    close(fd);
    if (r < 0)
        return r;
    if (n < 0) {
        snprintf(why, why_size, "cannot be read (%s)", strerror((int)-n));
        return (int)n;
    }
    if (n > 0 && buf[n - 1] == '\n')
        n--;
    if (n == 0) {
        snprintf(why, why_size, "is empty: its first and only line is the password");
        r = -EINVAL;
    } else if (memchr(buf, '\n', (size_t)n) || memchr(buf, '\0', (size_t)n) ||
               memchr(buf, '\r', (size_t)n)) {
        snprintf(why, why_size,
                 "has more than one line, or a carriage return or zero byte: it holds "
                 "the password on one line and nothing else");
        r = -EINVAL;
    } else if (n > PASSWORD_MAX) {
        snprintf(why, why_size,
                 "holds more than %d bytes, the longest password that SOCKS5 can carry",
                 PASSWORD_MAX);
        r = -EINVAL;
    } else {
        memcpy(ret, buf, (size_t)n);
        ret[n] = '\0';
    }
    explicit_bzero(buf, sizeof(buf));
    return r;
}
