/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libconfuse's part: from text to a draft.
 *
 * Every key is declared as a list of strings, so that libconfuse stops at broken grammar only; how
 * many values a key takes and what they mean is checked later, on the draft, with the line of each.
 * Values are taken in the parse callback, where `cfg->line` is the value's own line, and are not
 * left behind in libconfuse's tree (they may hold a password). A hidden option with a default value
 * makes libconfuse call us when a section is opened: that is where the draft's section begins, and
 * why one that appears twice is still there to be reported.
 *
 * libconfuse stops at a key it does not know. Such a name is then declared too, marked as unknown,
 * and the text is parsed again, so that one pass of the user finds all of them.
 */
#include <confuse.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/options.h"
#include "config/source.h"

#define UNKNOWN_MAX 32
#define OPENING     " opening" /* the hidden option: no key has a blank in its name */
#define SECTIONS    "; a section is written upstream \"NAME\" { ... }, group and capture alike"

struct unknown_key {
    enum section_kind section;
    char *name;
};

struct parsing {
    struct draft *draft;
    const char *text;
    struct unknown_key unknown[UNKNOWN_MAX];
    size_t n_unknown;
    bool again;    /* an unknown key was added to the list */
    unsigned line; /* how far libconfuse came */
};

/* libconfuse's callbacks carry no argument of ours. Parsing is start-up work of one thread. */
static struct parsing *current;

static enum section_kind kind_of(const cfg_t *cfg)
{
    if (strcmp(cfg->name, "upstream") == 0)
        return SECTION_UPSTREAM;
    if (strcmp(cfg->name, "group") == 0)
        return SECTION_GROUP;
    return strcmp(cfg->name, "capture") == 0 ? SECTION_CAPTURE : SECTION_TOP;
}

/* Whether the text of this line may hold a password that a broken quote has torn apart. */
static bool line_may_hold_secret(unsigned line)
{
    const char *p = current->text;

    while (line > 1 && p) {
        p = strchr(p, '\n');
        p = p ? p + 1 : NULL;
        line--;
    }
    if (!p)
        return false;
    size_t n = strcspn(p, "\n");

    return memmem(p, n, "://", 3) != NULL || memchr(p, '@', n) != NULL ||
           memmem(p, n, "pass", 4) != NULL;
}

/* Where the last `name` is that libconfuse has read, when it has come to `line`. */
static unsigned line_of(const char *name, unsigned line)
{
    const char *p = current->text;
    unsigned found = line;

    for (unsigned i = 1; i <= line && p; i++) {
        size_t n = strcspn(p, "\n");

        if (memmem(p, n, name, strlen(name)))
            found = i;
        p = p[n] ? p + n + 1 : NULL;
    }
    return found;
}

static void report_unknown(enum section_kind kind, unsigned line, const char *name)
{
    struct suggestion near = {.written = name};
    char keys[640], hint[80];
    const char *elsewhere = NULL, *sections = kind == SECTION_TOP ? SECTIONS : "";

    for (size_t i = 0; i < config_n_options; i++) {
        if (config_options[i].section == kind)
            config_suggestion_offer(&near, config_options[i].name);
        else if (strcmp(config_options[i].name, name) == 0)
            elsewhere = config_section_name(config_options[i].section);
    }
    if (kind == SECTION_TOP) {
        config_suggestion_offer(&near, "upstream");
        config_suggestion_offer(&near, "group");
        config_suggestion_offer(&near, "capture");
    }
    if (line_may_hold_secret(line) && !near.best && !elsewhere) { /* perhaps a part of it */
        config_draft_error(current->draft, line, "unknown key", NULL,
                           "a value with special characters needs quotes; the keys of %s are %s%s",
                           config_section_name(kind),
                           config_option_list(kind, 0, keys, sizeof(keys)), sections);
        return;
    }
    config_suggestion_text(&near, hint, sizeof(hint));
    if (name[0] == '[') /* as other programs write a section: another name would not mend it */
        hint[0] = '\0';
    else if (hint[0] == '\0' && elsewhere)
        snprintf(hint, sizeof(hint), "it is a key of %s; ", elsewhere);
    config_draft_error(current->draft, line, "unknown key", name, "%sthe keys of %s are %s%s", hint,
                       config_section_name(kind), config_option_list(kind, 0, keys, sizeof(keys)),
                       sections);
}

static void remember_unknown(enum section_kind kind, unsigned line, const char *name)
{
    char *copy;

    for (size_t i = 0; i < current->n_unknown; i++) {
        if (current->unknown[i].section == kind && strcmp(current->unknown[i].name, name) == 0)
            return;
    }
    copy = current->n_unknown < UNKNOWN_MAX ? strdup(name) : NULL;
    if (!copy) {
        report_unknown(kind, line, name);
        return;
    }
    current->unknown[current->n_unknown++] = (struct unknown_key){.section = kind, .name = copy};
    current->again = true;
}

static bool is_unknown(enum section_kind kind, const char *name)
{
    return !config_option_find(kind, name);
}

/* libconfuse's own messages, by how they begin, and what would be right. */
static const struct grammar_error {
    const char *prefix, *remedy;
} grammar_errors[] = {
    {"unexpected token",
     "write NAME = \"VALUE\", or NAME = { \"A\", \"B\" } for a list; a value with "
     "special characters needs quotes"},
    {"unexpected closing brace", "no section is open here: remove the }"},
    {"missing equal sign after option", "write NAME = \"VALUE\""},
    {"missing title for section", "a section has a name in quotes, as in capture \"host\" { ... }"},
    {"missing opening brace for section", "after the section's name comes {"},
    {"no sub-section", "a key is a plain name, without '|'"},
    {"premature end of file", "the file ends in the middle of a setting: complete it"},
    {"invalid octal number", "a backslash in quotes begins an escape: write \\\\ for a backslash"},
    {"bad escape sequence", "a backslash in quotes begins an escape: write \\\\ for a backslash"},
};

__attribute__((format(printf, 2, 0))) static void on_error(cfg_t *cfg, const char *format,
                                                           va_list ap)
{
    unsigned line = (unsigned)cfg->line;
    enum section_kind kind = kind_of(cfg);
    const char *remedy = "see undersock.conf.example";
    const char *s = strstr(format, "'%s'");

    /* The first argument of every message that has one is a text. */
    const char *what = s && strchr(format, '%') == s + 1 ? va_arg(ap, const char *) : NULL;

    if (what && strncmp(format, "no such option", 14) == 0) {
        remember_unknown(kind, line, what);
        return;
    }
    /* It has looked for the sign, and may have found the next line. */
    if (what && strncmp(format, "missing equal sign", 18) == 0) {
        line = line_of(what, line);
        if (is_unknown(kind, what)) {
            report_unknown(kind, line, what);
            return;
        }
    }
    for (size_t i = 0; i < sizeof(grammar_errors) / sizeof(grammar_errors[0]); i++) {
        if (strncmp(format, grammar_errors[i].prefix, strlen(grammar_errors[i].prefix)) == 0)
            remedy = grammar_errors[i].remedy;
    }
    config_draft_error(current->draft, line, "syntax", line_may_hold_secret(line) ? NULL : what,
                       "%s", remedy);
}

static bool belongs_to(const cfg_opt_t *opt, const cfg_t *cfg)
{
    for (const cfg_opt_t *o = cfg->opts; o->name; o++) {
        if (o == opt)
            return true;
    }
    return false;
}

static int on_value(cfg_t *cfg, cfg_opt_t *opt, const char *value, void *result)
{
    struct draft *d = current->draft;
    enum section_kind kind = kind_of(cfg);
    unsigned line = (unsigned)cfg->line;

    *(const char **)result = ""; /* what libconfuse keeps */
    current->line = line;
    if (kind != SECTION_TOP && belongs_to(opt, cfg) && strcmp(opt->name, OPENING) == 0) {
        config_draft_begin(d, kind, cfg->title, line);
        return 0;
    }
    /* A key may be written as a path into another section, "upstream=x|url": nobody should. */
    const struct option *o = belongs_to(opt, cfg) ? config_option_find(kind, opt->name) : NULL;

    if (!o) {
        if (opt->nvalues == 1)
            report_unknown(kind, line, opt->name);
        return 0;
    }
    if (d->n_sections == 0)
        return 0;
    struct draft_section *section = &d->sections[kind == SECTION_TOP ? 0 : d->n_sections - 1];
    const struct draft_value *earlier = config_draft_next(section, o, NULL);

    if (opt->nvalues == 1 && earlier) {
        config_draft_error(d, line, o->name, NULL, "it is given twice (first on line %u): %s",
                           earlier->line,
                           config_option_is_list(o) ? "write one list" : "keep one of them");
        return 0;
    }
    config_draft_add(d, section, o, line, value);
    return 0;
}

/* The options of one kind of section, known and unknown; `ret` has room for all. */
static size_t declare(const struct parsing *p, enum section_kind kind, cfg_opt_t *ret)
{
    static char value[] = "{opening}"; /* copied, but not declared const */
    size_t n = 0;

    if (kind != SECTION_TOP)
        ret[n++] = (cfg_opt_t)CFG_STR_LIST_CB(OPENING, value, CFGF_NONE, on_value);
    for (size_t i = 0; i < config_n_options; i++) {
        if (config_options[i].section == kind)
            ret[n++] =
                (cfg_opt_t)CFG_STR_LIST_CB(config_options[i].name, NULL, CFGF_NODEFAULT, on_value);
    }
    for (size_t i = 0; i < p->n_unknown; i++) {
        if (p->unknown[i].section == kind)
            ret[n++] =
                (cfg_opt_t)CFG_STR_LIST_CB(p->unknown[i].name, NULL, CFGF_NODEFAULT, on_value);
    }
    return n;
}

static int parse_once(struct parsing *p)
{
    size_t room = config_n_options + UNKNOWN_MAX + 6;
    cfg_opt_t *opts = calloc(SECTION_KINDS * room, sizeof(*opts));
    static const char *const names[SECTION_KINDS] = {
        [SECTION_UPSTREAM] = "upstream", [SECTION_GROUP] = "group", [SECTION_CAPTURE] = "capture"};

    if (!opts)
        return -ENOMEM;
    size_t n = declare(p, SECTION_TOP, opts);

    for (enum section_kind k = SECTION_UPSTREAM; k < SECTION_KINDS; k++) {
        cfg_opt_t *section = opts + k * room;

        section[declare(p, k, section)] = (cfg_opt_t)CFG_END();
        opts[n++] = (cfg_opt_t)CFG_SEC(names[k], section, CFGF_MULTI | CFGF_TITLE);
    }
    opts[n] = (cfg_opt_t)CFG_END();

    cfg_t *cfg = cfg_init(opts, CFGF_NONE); /* copies the options */
    int r = -ENOMEM;

    free(opts);
    if (cfg) {
        cfg_set_error_function(cfg, on_error);
        r = cfg_parse_buf(cfg, p->text) == CFG_SUCCESS ? 0 : -EINVAL;
        if ((unsigned)cfg->line > p->line)
            p->line = (unsigned)cfg->line;
        cfg_free(cfg);
    }
    return r;
}

int config_source_parse(struct draft *d, const char *text)
{
    struct parsing p = {.draft = d, .text = text};
    size_t kept = d->n_errors;
    int r;

    current = &p;
    do {
        p.again = false;
        p.line = 0;
        config_draft_restart(d);
        while (d->n_errors > kept) /* they will be found again */
            free(d->errors[--d->n_errors].text);
        r = parse_once(&p);
        if (r == -ENOMEM)
            d->out_of_memory = true;
    } while (p.again);
    if (r == -EINVAL && d->n_errors == kept) /* libconfuse stopped without a word */
        config_draft_error(d, p.line, "syntax", NULL,
                           "on this line or after it: write NAME = \"VALUE\"");
    current = NULL;
    for (size_t i = 0; i < p.n_unknown; i++)
        free(p.unknown[i].name);
    return r;
}
