/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * serve/users.h. Records of fixed size in the order of the file, and an index sorted by name (so
 * that no sort copies a password through the heap). A lookup that finds nobody compares with a
 * record of zeros.
 */
#include "serve/users.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

#define FILE_MAX  (1024 * 1024)
#define FIELD_MAX 255

struct user {
    unsigned line;
    char name[FIELD_MAX + 1];     /* NUL-padded */
    char password[FIELD_MAX + 1]; /* NUL-padded */
};

struct users {
    size_t size; /* of the whole mapping */
    size_t n;
    const struct user **by_name; /* sorted */
    struct user records[];       /* n, and one of zeros for those who are not there */
};

/* Zeroed pages that no core dump holds. */
static void *secret_alloc(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    (void)madvise(p, size, MADV_DONTDUMP);
    return p;
}

static void secret_free(void *p, size_t size)
{
    if (!p)
        return;
    explicit_bzero(p, size);
    munmap(p, size);
}

static int by_name(const void *a, const void *b)
{
    const struct user *const *x = a, *const *y = b;
    int order = strcmp((*x)->name, (*y)->name);

    if (order != 0)
        return order;
    return (*x)->line < (*y)->line ? -1 : (*x)->line > (*y)->line;
}

/* The whole file with a NUL behind it; `ret_size` is that of the mapping, `ret_len` of the text. */
static int read_file(const char *file, char **ret, size_t *ret_size, size_t *ret_len, char *why,
                     size_t why_size)
{
    int r = 0, fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    char *text = NULL;
    size_t size = 0, len = 0;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        r = -errno;
        snprintf(why, why_size, "%s: cannot read the user file: %s", file, strerror(-r));
        goto out;
    }
    r = -EINVAL;
    if (!S_ISREG(st.st_mode)) {
        snprintf(why, why_size, "%s: not a regular file; give a file of lines user:password", file);
        goto out;
    }
    if (st.st_mode & 077) {
        snprintf(why, why_size,
                 "%s: the user file is accessible to group or others (mode %03o); chmod 600 %s",
                 file, (unsigned)st.st_mode & 0777, file);
        goto out;
    }
    if (st.st_size > FILE_MAX) {
        snprintf(why, why_size, "%s: the user file is larger than 1 MiB", file);
        goto out;
    }
    size = (size_t)st.st_size + 1;
    text = secret_alloc(size);
    if (!text) {
        r = -ENOMEM;
        snprintf(why, why_size, "%s: out of memory", file);
        goto out;
    }
    while (len < size - 1) {
        ssize_t n = read(fd, text + len, size - 1 - len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            r = -errno;
            snprintf(why, why_size, "%s: cannot read the user file: %s", file, strerror(-r));
            goto out;
        }
        if (n == 0)
            break;
        len += (size_t)n;
    }
    text[len] = '\0';
    *ret = text;
    *ret_size = size;
    *ret_len = len;
    text = NULL;
    r = 0;
out:
    secret_free(text, size);
    fd_close(&fd);
    return r;
}

/* One line without its end. 1: a user, 0: nothing, -EINVAL. */
static int parse_line(char *line, size_t len, struct user *ret, const char **ret_wrong)
{
    if (len > 0 && line[len - 1] == '\r')
        len--;
    size_t blank = 0;

    while (blank < len && (line[blank] == ' ' || line[blank] == '\t'))
        blank++;
    if (blank == len || line[blank] == '#')
        return 0;
    char *colon = memchr(line, ':', len);

    if (memchr(line, '\0', len)) {
        *ret_wrong = "a NUL byte; a user file is text";
        return -EINVAL;
    }
    if (!colon) {
        *ret_wrong = "no colon; write user:password";
        return -EINVAL;
    }
    size_t name_len = (size_t)(colon - line), password_len = len - name_len - 1;

    if (name_len == 0 || name_len > FIELD_MAX) {
        *ret_wrong = "the user must have 1 to 255 bytes; write user:password";
        return -EINVAL;
    }
    if (password_len == 0 || password_len > FIELD_MAX) {
        *ret_wrong = "the password must have 1 to 255 bytes; write user:password";
        return -EINVAL;
    }
    memcpy(ret->name, line, name_len);
    memcpy(ret->password, colon + 1, password_len);
    return 1;
}

int users_load(const char *file, struct users **ret, char *why, size_t why_size)
{
    char *text = NULL;
    size_t text_size = 0, len = 0;
    int r = read_file(file, &text, &text_size, &len, why, why_size);

    if (r < 0)
        return r;

    size_t lines = 1;

    for (size_t i = 0; i < len; i++)
        lines += text[i] == '\n';

    /* Most lines are users; the zero record is the last one. */
    size_t size = sizeof(struct users) + (lines + 1) * sizeof(struct user);
    struct users *u = secret_alloc(size);

    if (u) {
        u->size = size;
        u->by_name = calloc(lines, sizeof(*u->by_name));
    }
    if (!u || !u->by_name) {
        snprintf(why, why_size, "%s: out of memory", file);
        r = -ENOMEM;
        goto out;
    }
    unsigned number = 0;

    for (char *line = text; line < text + len;) {
        char *end = memchr(line, '\n', (size_t)(text + len - line));
        const char *wrong = NULL;

        if (!end)
            end = text + len;
        r = parse_line(line, (size_t)(end - line), &u->records[u->n], &wrong);
        number++;
        if (r < 0) {
            snprintf(why, why_size, "%s:%u: %s", file, number, wrong);
            goto out;
        }
        if (r > 0) {
            u->records[u->n].line = number;
            u->by_name[u->n] = &u->records[u->n];
            u->n++;
        }
        line = end + 1;
    }
    r = -EINVAL;
    if (u->n == 0) {
        snprintf(why, why_size, "%s: no user in the file; write lines user:password", file);
        goto out;
    }
    qsort(u->by_name, u->n, sizeof(*u->by_name), by_name);
    for (size_t i = 1; i < u->n; i++) {
        if (strcmp(u->by_name[i - 1]->name, u->by_name[i]->name) == 0) {
            snprintf(why, why_size,
                     "%s:%u: user \"%s\" is already in line %u; remove one of the two", file,
                     u->by_name[i]->line, u->by_name[i]->name, u->by_name[i - 1]->line);
            goto out;
        }
    }
    *ret = u;
    u = NULL;
    r = 0;
out:
    users_free(u);
    secret_free(text, text_size);
    return r;
}

void users_free(struct users *u)
{
    if (!u)
        return;
    free(u->by_name);
    secret_free(u, u->size);
}

size_t users_count(const struct users *u)
{
    return u->n;
}

/* NULL: not there. */
static const struct user *find(const struct users *u, const char *name)
{
    size_t low = 0, high = u->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, u->by_name[middle]->name);

        if (order == 0)
            return u->by_name[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

bool users_check(const struct users *u, const char *user, const char *password)
{
    const struct user *found = find(u, user);
    const struct user *with = found ? found : &u->records[u->n];
    char padded[FIELD_MAX + 1] = {0};
    volatile unsigned char differ = 0;

    strncpy(padded, password, FIELD_MAX);
    for (size_t i = 0; i < sizeof(padded); i++)
        differ |= (unsigned char)(padded[i] ^ with->password[i]);
    explicit_bzero(padded, sizeof(padded));
    return found && differ == 0;
}
