/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Gives a configuration back; passwords are overwritten first. */
#include <stdlib.h>
#include <string.h>

#include "config/config.h"

static void policy_free(struct capture_policy *p)
{
    free((void *)p->tcp_ports);
    free((void *)p->udp_ports);
    free((void *)p->to);
    free((void *)p->not_to);
    free((void *)p->uids);
    free((void *)p->not_uids);
    for (size_t i = 0; i < p->n_interfaces; i++)
        free((void *)p->interfaces[i]);
    free((void *)p->interfaces);
    free((void *)p->cgroup);
}

void config_free(struct config *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_upstreams; i++) {
        explicit_bzero(&c->upstreams[i].url, sizeof(c->upstreams[i].url));
        free(c->upstreams[i].password_file);
    }
    for (size_t i = 0; i < c->n_groups; i++) {
        free(c->groups[i].members);
        free(c->groups[i].probe);
    }
    for (size_t i = 0; i < c->n_captures; i++) {
        policy_free(&c->captures[i].policy);
        free(c->captures[i].dns_server);
    }
    for (size_t i = 0; i < c->n_dns_real; i++)
        free(c->dns_real[i]);
    free(c->dns_real);
    free(c->upstreams);
    free(c->groups);
    free(c->captures);
    free(c->control);
    free(c->metrics);
    free(c);
}
