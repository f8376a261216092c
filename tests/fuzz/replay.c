/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs a fuzz target over files given by name, or over all files of given directories, and prints
 * TAP: the corpus is a regression test that needs no fuzzer. An invariant that does not hold
 * aborts, after the name of the file was printed.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

static unsigned n_run, n_failed;

/* The whole file in a block of its exact size, so that a sanitizer sees one byte too many. */
static uint8_t *read_whole(const char *path, size_t size)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc(size + !size);

    if (f && data && fread(data, 1, size, f) != size) {
        free(data);
        data = NULL;
    }
    if (!f) {
        free(data);
        return NULL;
    }
    fclose(f);
    return data;
}

static void run_file(const char *path, size_t size)
{
    uint8_t *data = read_whole(path, size);

    printf("# %s\n", path);
    fflush(stdout);
    n_run++;
    if (data && LLVMFuzzerTestOneInput(data, size) == 0) {
        printf("ok %u - %s\n", n_run, path);
    } else {
        printf("not ok %u - %s%s\n", n_run, path, data ? "" : ": cannot be read");
        n_failed++;
    }
    free(data);
}

static int not_hidden(const struct dirent *e)
{
    return e->d_name[0] != '.';
}

static void run_path(const char *path)
{
    struct dirent **entries;
    struct stat st;

    if (stat(path, &st) < 0) {
        printf("not ok %u - %s: %s\n", ++n_run, path, strerror(errno));
        n_failed++;
        return;
    }
    if (!S_ISDIR(st.st_mode)) {
        run_file(path, (size_t)st.st_size);
        return;
    }
    int n = scandir(path, &entries, not_hidden, alphasort);

    for (int i = 0; i < n; i++) {
        char *inner = NULL;

        if (asprintf(&inner, "%s/%s", path, entries[i]->d_name) < 0)
            abort();
        run_path(inner);
        free(inner);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        run_path(argv[i]);
    printf("1..%u\n", n_run);
    if (n_run == 0)
        fprintf(stderr, "%s: no input: name files or directories of a corpus\n", argv[0]);
    return n_run == 0 || n_failed > 0;
}
