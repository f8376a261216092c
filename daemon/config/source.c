/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads the file and prepares it for libconfuse. Two of its habits (3.3) would spoil our messages,
 * so both are dealt with here, on the text:
 *  - it counts a line with a comment twice, and does not accept a comment inside a list: comments
 * are overwritten with blanks, line ends stay;
 *  - it takes the end of the file for the end of a section, and a quote that was forgotten swallows
 *    everything up to the next one: both are found here, with the line on which they begin.
 * The rules for quotes, comments and words are those of its lexer.
 */
#include "config/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SOURCE_MAX ((size_t)1 << 20)
#define DEPTH_MAX  8 /* section, list; more is an error anyway */

int config_source_read(const char *file, char **ret_text, size_t *ret_len)
{
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    char *text = NULL;
    size_t len = 0, size = 0;
    int r = 0;

    if (fd < 0)
        return -errno;
    while (true) {
        if (len + 1 >= size) {
            size = size == 0 ? 4096 : 2 * size;
            char *bigger = size > 2 * SOURCE_MAX ? NULL : realloc(text, size);

            if (!bigger) {
                r = size > 2 * SOURCE_MAX ? -EFBIG : -ENOMEM;
                break;
            }
            text = bigger;
        }
        ssize_t n = read(fd, text + len, size - len - 1);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            r = -errno;
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    close(fd);
    if (r == 0 && len > SOURCE_MAX)
        r = -EFBIG;
    if (r < 0) {
        free(text);
        return r;
    }
    text[len] = '\0';
    *ret_text = text;
    *ret_len = len;
    return 0;
}

struct scanner {
    struct draft *draft;
    char *text;
    size_t len, pos;
    unsigned line;
    unsigned open[DEPTH_MAX]; /* the lines of the braces that are open */
    size_t depth;
    char last, before; /* the kinds of the last two tokens: w = word or string, or the character */
    char key[40];      /* the last word, for the message about an empty list */
    unsigned equal;    /* the line of the last '=' */
    bool in_word;
    bool broken;
};

static char peek(const struct scanner *s, size_t ahead)
{
    return s->pos + ahead < s->len ? s->text[s->pos + ahead] : '\0';
}

static void token(struct scanner *s, char kind)
{
    s->before = s->last;
    s->last = kind;
    s->in_word = false;
}

static void blank_line_comment(struct scanner *s)
{
    while (s->pos < s->len && s->text[s->pos] != '\n')
        s->text[s->pos++] = ' ';
    s->in_word = false;
}

static void blank_block_comment(struct scanner *s)
{
    unsigned begin = s->line;
    size_t n = 2;

    while (s->pos + n < s->len && !(peek(s, n) == '*' && peek(s, n + 1) == '/'))
        n++;
    if (s->pos + n >= s->len) {
        config_draft_error(s->draft, begin, "comment", NULL, "it is not closed: end it with */");
        s->broken = true;
        s->pos = s->len;
        return;
    }
    for (n += 2; n > 0; n--, s->pos++) {
        if (s->text[s->pos] == '\n')
            s->line++;
        else
            s->text[s->pos] = ' ';
    }
}

/* The length of "${NAME}" at `at`, 0 when it is not one on this line. */
static size_t variable(const struct scanner *s, size_t at)
{
    size_t n = at;

    if (peek(s, at) != '$' || peek(s, at + 1) != '{')
        return 0;
    while (s->pos + n < s->len && peek(s, n) != '}' && peek(s, n) != '\n')
        n++;
    return peek(s, n) == '}' ? n + 1 - at : 0;
}

static void quoted(struct scanner *s)
{
    char quote = s->text[s->pos];
    size_t n = 1;

    while (s->pos + n < s->len && peek(s, n) != quote && peek(s, n) != '\n') {
        size_t name = quote == '"' ? variable(s, n) : 0;

        n += name > 0 ? name : peek(s, n) == '\\' && peek(s, n + 1) != '\n' ? 2 : 1;
    }
    if (s->pos + n >= s->len || peek(s, n) != quote) {
        config_draft_error(s->draft, s->line, "text in quotes", NULL,
                           "it is not closed on its line: end it with %c", quote);
        s->broken = true;
        s->pos = s->pos + n < s->len ? s->pos + n : s->len;
    } else {
        s->pos += n + 1;
    }
    token(s, 'w');
}

static void brace(struct scanner *s, char c)
{
    unsigned line = s->line;

    if (c == '{') {
        if (s->depth < DEPTH_MAX)
            s->open[s->depth] = s->line;
        s->depth++;
    } else if (s->depth > 0 && --s->depth < DEPTH_MAX) {
        line = s->open[s->depth];
    }
    if (c == '}' && s->last == '{' && s->before == '=') {
        config_draft_error(
            s->draft, line, s->key[0] != '\0' ? s->key : "list", "{ }",
            "an empty list selects nothing: give at least one value, or leave the key out");
        s->draft->empty_list = true;
    }
    token(s, c);
}

static void equal_sign(struct scanner *s)
{
    if (s->last == 'w' && s->before == '=') {
        config_draft_error(
            s->draft, s->equal, "syntax", "=",
            "the value is missing, or has a '=' and needs quotes: write NAME = \"VALUE\"");
        s->broken = true;
    }
    s->equal = s->line;
    if (s->last == '+') /* "+=" is one, and like "=" */
        s->last = '=';
    else
        token(s, '=');
}

/* One character outside of quotes and comments. */
static void plain(struct scanner *s, char c)
{
    size_t name = s->in_word ? 0 : variable(s, 0);

    if (name > 0) {
        token(s, 'w');
        s->pos += name;
        return;
    }
    s->pos++;
    if (c == '\n')
        s->line++;
    if (strchr(" \t\r\n", c)) {
        s->in_word = false;
    } else if (c == '{' || c == '}') {
        brace(s, c);
    } else if (c == '=') {
        equal_sign(s);
    } else if (strchr(",()", c) || (c == '+' && peek(s, 0) == '=')) {
        token(s, c);
    } else if (c == '*' || c == '+') { /* libconfuse passes over them in silence */
        config_draft_error(s->draft, s->line, "syntax", NULL, "a value with '%c' needs quotes", c);
        s->broken = true;
    } else if (!s->in_word) {
        size_t n = strcspn(s->text + s->pos - 1, " \t\r\n\"'={}()+,*#");

        token(s, 'w');
        s->in_word = true;
        if (n >= sizeof(s->key))
            n = 0;
        memcpy(s->key, s->text + s->pos - 1, n);
        s->key[n] = '\0';
    }
}

int config_source_clean(struct draft *d, char *text, size_t len)
{
    struct scanner s = {.draft = d, .text = text, .len = len, .line = 1};

    /* libconfuse would take it for the end. */
    if (memchr(text, '\0', len)) {
        for (const char *p = text; *p != '\0'; p++)
            s.line += *p == '\n';
        config_draft_error(d, s.line, "zero byte", NULL,
                           "this is not a text file: write it as plain text (UTF-8)");
        return -EINVAL;
    }
    /* The byte order mark that some editors begin UTF-8 with. */
    if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        memset(text, ' ', 3);
    while (s.pos < s.len) {
        char c = s.text[s.pos];

        if (c == '#' || (c == '/' && !s.in_word && peek(&s, 1) == '/'))
            blank_line_comment(&s);
        else if (c == '/' && !s.in_word && peek(&s, 1) == '*')
            blank_block_comment(&s);
        else if (c == '"' || c == '\'')
            quoted(&s);
        else
            plain(&s, c);
    }
    if (s.depth > 0 && !s.broken) {
        size_t i = (s.depth < DEPTH_MAX ? s.depth : DEPTH_MAX) - 1;

        config_draft_error(d, s.open[i], "brace", "{",
                           "it is not closed: end the section or list with }");
        s.broken = true;
    }
    return s.broken ? -EINVAL : 0;
}
