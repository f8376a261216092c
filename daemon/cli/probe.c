/* SPDX-License-Identifier: GPL-2.0-or-later */
/* `undersock probe URL`: what an upstream can do. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/json.h"
#include "config/config.h"
#include "doctor/probe.h"

static const char *methods_text(const struct probe *p, char *buf, size_t size)
{
    snprintf(buf, size, "%s%s%s%s", p->none ? ", none" : "", p->password ? ", password" : "",
             p->gssapi ? ", gssapi" : "",
             p->none || p->password || p->gssapi ? "" : ", no known one");
    return buf + 2;
}

static void print_text(const struct probe *p)
{
    static const char *const verdicts[] = {
        [PROBE_UNKNOWN] = "unknown", [PROBE_YES] = "yes", [PROBE_NO] = "no"};
    char text[ADDR_STRLEN > 64 ? ADDR_STRLEN : 64];

    if (p->at.port != 0)
        cli_line("address         %s", addr_format(&p->at, text));
    if (p->connected)
        cli_line("connect         %.1f ms", (double)p->connect_us / 1000);
    if (p->has_methods)
        cli_line("methods         %s", methods_text(p, text, sizeof(text)));
    if (!p->logged_in)
        return;
    if (p->has_methods)
        cli_line("handshake       %.1f ms, %s", (double)p->handshake_us / 1000,
                 p->asked_password ? "user and password accepted" : "nothing asked");
    for (unsigned i = 0; i < PROBE_ABILITIES; i++) {
        const struct probe_answer *a = &p->abilities[i];

        cli_line("%-15s %-7s (%s)", probe_ability_name(i), verdicts[a->verdict], a->text);
    }
}

static void add_ms(cJSON *to, const char *key, bool known, int64_t us)
{
    if (known)
        cJSON_AddNumberToObject(to, key, (double)us / 1000);
    else
        cJSON_AddNullToObject(to, key);
}

static void add_verdict(cJSON *to, const char *key, bool known, bool yes)
{
    if (known)
        cJSON_AddBoolToObject(to, key, yes);
    else
        cJSON_AddNullToObject(to, key);
}

static void add_abilities(cJSON *root, const struct probe *p)
{
    for (unsigned i = 0; i < PROBE_ABILITIES; i++) {
        const struct probe_answer *a = &p->abilities[i];
        char key[32];

        snprintf(key, sizeof(key), "%s", probe_ability_name(i));
        for (char *c = key; *c; c++)
            *c = *c == '-' ? '_' : *c;
        cJSON *j = cJSON_AddObjectToObject(root, key);

        add_verdict(j, "supported", a->verdict != PROBE_UNKNOWN, a->verdict == PROBE_YES);
        json_text(j, "text", a->text);
    }
}

static int print_json(const struct probe *p, const char *url)
{
    cJSON *root = cJSON_CreateObject(), *methods;
    char at[ADDR_STRLEN];

    cJSON_AddStringToObject(root, "url", url);
    json_text(root, "address", p->at.port != 0 ? addr_format(&p->at, at) : "");
    json_text(root, "error", p->why);
    add_ms(root, "connect_ms", p->connected, p->connect_us);
    add_ms(root, "handshake_ms", p->logged_in && p->has_methods, p->handshake_us);
    if (p->has_methods) {
        methods = cJSON_AddArrayToObject(root, "methods");
        if (p->none)
            cJSON_AddItemToArray(methods, cJSON_CreateString("none"));
        if (p->password)
            cJSON_AddItemToArray(methods, cJSON_CreateString("password"));
        if (p->gssapi)
            cJSON_AddItemToArray(methods, cJSON_CreateString("gssapi"));
    } else {
        cJSON_AddNullToObject(root, "methods");
    }
    add_verdict(root, "password_accepted", p->logged_in && p->has_methods, p->asked_password);
    add_abilities(root, p);
    return json_print(root);
}

int cli_probe(int argc, char **argv)
{
    struct cli_options o = {.file = NULL};
    struct config *config = NULL;
    struct probe found;
    char url[CONFIG_HOST_MAX + 32];
    int r;

    if (!cli_parse(argc, argv, CLI_OPT_JSON | CLI_OPT_OPERAND, &o, &r))
        return r;
    if (!o.operand)
        return cli_usage("probe", "which upstream? socks5h://HOST:PORT");
    if (config_from_options((char *const *)&o.operand, 1, NULL, 0, cli_config_error, NULL,
                            &config) < 0)
        return CLI_USAGE;
    config_url_format(&config->upstreams[0].url, url, sizeof(url));
    r = probe_upstream(config, &found);
    if (r < 0)
        snprintf(found.why, sizeof(found.why), "%s",
                 r == -EIO ? "no result within two minutes" : strerror(-r));
    if (o.json)
        print_json(&found, url);
    else
        print_text(&found);
    if (found.why[0])
        fprintf(stderr, "undersock: error: %s: %s\n", url, found.why);
    config_free(config);
    return found.why[0] ? CLI_FAILED : CLI_DONE;
}
