/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper/stitch_proof.h. The file is one line: the boot's identifier, and device, inode, size and
 * time of the program that made the proof, as another version has other BPF programs. It is
 * believed if it is root's alone to write.
 */
#include "keeper/stitch_proof.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "bpf/stitch_test.h"

#define LINE_MAX_SIZE 256

static int make_line(char *ret, size_t size)
{
    char boot[64];
    struct stat st;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, boot, sizeof(boot) - 1);

    fd_close(&fd);
    if (n <= 0 || stat("/proc/self/exe", &st) < 0)
        return -ENOENT;
    boot[n] = '\0';
    boot[strcspn(boot, "\n")] = '\0';
    snprintf(ret, size, "%s %jx:%jx %jd %jd.%09ld\n", boot, (uintmax_t)st.st_dev,
             (uintmax_t)st.st_ino, (intmax_t)st.st_size, (intmax_t)st.st_mtim.tv_sec,
             st.st_mtim.tv_nsec);
    return 0;
}

bool stitch_proof_kept(void)
{
    char want[LINE_MAX_SIZE], is[LINE_MAX_SIZE] = "";
    struct stat st;
    int fd = open(STITCH_PROOF_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t n = -1;

    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == 0 &&
        (st.st_mode & (S_IWGRP | S_IWOTH)) == 0)
        n = read(fd, is, sizeof(is));
    fd_close(&fd);
    return n > 0 && make_line(want, sizeof(want)) == 0 && (size_t)n == strlen(want) &&
           memcmp(is, want, (size_t)n) == 0;
}

/* Not to be kept is no failure: the next one proves it again. */
static void keep(void)
{
    char line[LINE_MAX_SIZE], path[sizeof(STITCH_PROOF_FILE) + 16];

    if (make_line(line, sizeof(line)) < 0)
        return;
    mkdir(STITCH_PROOF_DIR, 0755);
    snprintf(path, sizeof(path), "%s.%ld", STITCH_PROOF_FILE, (long)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);

    if (fd < 0)
        return;
    bool whole = write(fd, line, strlen(line)) == (ssize_t)strlen(line);

    fd_close(&fd);
    if (!whole || rename(path, STITCH_PROOF_FILE) < 0)
        unlink(path);
}

int stitch_proof_make(char *why, size_t why_size)
{
    int r = bpf_stitch_prove(why, why_size);

    if (r == 0)
        keep();
    return r;
}
