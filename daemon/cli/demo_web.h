/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The web server of the demo, a process of its own: one connection after the other, blocking. "/"
 * says who asked; "/large" is a file that comes slowly until the demo says that it has seen enough.
 */
#ifndef UNDERSOCK_CLI_DEMO_WEB_H
#define UNDERSOCK_CLI_DEMO_WEB_H

#include <stddef.h>

#define DEMO_WEB_LINE  64 /* bytes of one line of /large, the newline included */
#define DEMO_WEB_LINES 131072u

/* Line `i` of /large, from 0 on. No two are alike, so a missing or a repeated one is seen. */
void demo_web_line(unsigned i, char ret[DEMO_WEB_LINE + 1]);
/* What "/" answers; the two addresses as text, without ports. */
void demo_web_page(const char *own, const char *peer, char *ret, size_t size);

/*
 * Serves on the non-blocking listeners, for ever. `hold` is the reading end of a pipe: a byte in it
 * ends the slowness of one download, its end ends the process.
 */
_Noreturn void demo_web_serve(const int *listeners, size_t n, int hold);

#endif
