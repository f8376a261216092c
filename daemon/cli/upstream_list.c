/* SPDX-License-Identifier: GPL-2.0-or-later */
/* cli/upstream_list.h */
#include "cli/upstream_list.h"

#include <stdlib.h>
#include <string.h>

static struct message_upstream *find(const struct upstream_list *list, const char *name)
{
    for (size_t i = 0; i < list->n; i++) {
        if (strcmp(list->at[i].name, name) == 0)
            return &list->at[i];
    }
    return NULL;
}

bool upstream_list_add(struct upstream_list *list, const struct message_upstream *m)
{
    struct message_upstream *all = find(list, m->name), other = *m;

    if (!all) {
        all = realloc(list->at, (list->n + 1) * sizeof(*all));
        if (!all)
            return false;
        list->at = all;
        all[list->n++] = *m;
        return true;
    }
    if (all->draining > m->draining ||
        (all->draining == m->draining && all->healthy > m->healthy)) {
        other = *all;
        *all = *m;
    }
    all->granted += other.granted;
    all->failed += other.failed;
    if (all->last_error[0] == '\0' && other.draining <= all->draining)
        memcpy(all->last_error, other.last_error, sizeof(all->last_error));
    return true;
}

void upstream_list_free(struct upstream_list *list)
{
    free(list->at);
    *list = (struct upstream_list){.n = 0};
}
