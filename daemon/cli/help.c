/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The help texts, one per command, and the whole. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "config/config.h"
#include "keeper/stitch_proof.h"

#define CONFIG_FILE_TEXT CONFIG_DEFAULT_FILE " unless given"

static const char all[] =
    "undersock " VERSION ": sends connections through a SOCKS server, transparently\n"
    "\n"
    "  undersock run [-u URL]... [-o KEY=VALUE]... -- CMD [ARG...]\n"
    "                                        run one command with its traffic redirected\n"
    "  undersock daemon [-c FILE]            the service, in the foreground\n"
    "  undersock check  [-c FILE]            validate the configuration only\n"
    "  undersock rules  [-c FILE]            print the nftables rules that would be installed\n"
    "  undersock status [--json]             what the daemon has in force\n"
    "  undersock flows  [--json] [--watch]   one line per live flow\n"
    "  undersock metrics                     the daemon's counters for Prometheus\n"
    "  undersock reload | stop               tell the running daemon\n"
    "  undersock doctor [-c FILE] [--json]   what stands in the way here, and what mends it\n"
    "  undersock probe URL                   what an upstream can do\n"
    "  undersock prove  [-c FILE]            try whether connections can be stitched here\n"
    "  undersock serve [-l ADDR:PORT] [-A USERFILE]\n"
    "                                        the embedded SOCKS4/4a/5 server\n"
    "  undersock demo                        all of it at work, with no set-up\n"
    "  undersock help COMMAND | --help | --version\n"
    "\n"
    "URL: socks4://[user@]host[:port]  socks4a://...  socks5://[user[:password]@]host[:port]\n"
    "     socks5h://...  (5h and 4a leave names to the server; default port 1080)\n"
    "Exit: 0 done; 1 it ran and failed; 2 usage or configuration; 3 kernel or privilege missing.\n";

static const struct {
    const char *command, *text;
} texts[] = {
    {"run",
     "undersock run [-u URL]... [-o KEY=VALUE]... -- CMD [ARG...]\n"
     "\n"
     "Runs CMD with its TCP connections going through the SOCKS server at URL, and exits with its\n"
     "status. Needs root and no configuration; leaves nothing behind.\n"
     "\n"
     "  -u URL         the SOCKS server; several make a chain, first to last\n"
     "  -o KEY=VALUE   any key of a capture or of the top level of the configuration, e.g.\n"
     "                 -o private=true (also loopback and private destinations), -o "
     "fast-path=splice,\n"
     "                 -o tcp-ports=80,443, -o log-level=debug; also connect-timeout and\n"
     "                 handshake-timeout\n"
     "\n"
     "A password belongs into the environment: UNDERSOCK_PASSWORD=... undersock run\n"
     "-u socks5h://alice@proxy.example.net -- curl https://example.net/\n"
     "Every process that CMD starts is included; what still runs when CMD ends is ended.\n"},
    {"daemon",
     "undersock daemon [-c FILE]\n\nThe service, in the foreground. FILE: " CONFIG_FILE_TEXT
     ".\nSIGHUP and undersock reload read it again; SIGTERM, SIGINT and undersock stop end it.\n"},
    {"check", "undersock check [-c FILE]\n\nValidates FILE (" CONFIG_FILE_TEXT
              ") and prints each error as FILE:LINE. Exit 2 when there is one.\n"},
    {"rules",
     "undersock rules [-c FILE]\n\nPrints, in nft syntax, the tables that undersock daemon would "
     "install. Installs nothing.\n"},
    {"status",
     "undersock status [--json] [-s SOCKET]\n\nWhat the running daemon has in force: captures, "
     "upstreams, workers, counters.\n"},
    {"flows",
     "undersock flows [--json] [--watch] [-s SOCKET]\n\nOne line per live flow. --watch prints the "
     "table again every second.\n"},
    {"metrics", "undersock metrics [-s SOCKET]\n\nThe counters of status --json in the text format "
                "of Prometheus.\n"},
    {"reload",
     "undersock reload [-s SOCKET]\n\nThe daemon reads its configuration again. Established flows "
     "go on; on an error nothing changes.\n"},
    {"stop", "undersock stop [-s SOCKET]\n\nEnds the daemon.\n"},
    {"serve",
     "undersock serve [-l ADDR:PORT]... [-A USERFILE] [--no-bind] [--no-udp]\n"
     "                [--udp-idle SECONDS]\n\n"
     "A SOCKS4/4a/5 server: CONNECT, BIND, UDP ASSOCIATE. Listens on 127.0.0.1:1080 unless told\n"
     "otherwise. USERFILE: lines \"user:password\", readable by its owner only; then SOCKS5\n"
     "clients must log in. A UDP association without a datagram for SECONDS (300) ends.\n"},
    {"doctor",
     "undersock doctor [-c FILE] [--json]\n\n"
     "Looks for what stands in the way: kernel features (by trial), sysctls, firewall rules of\n"
     "others, each upstream (reachable, lets us in, lives on this host), limits, the "
     "configuration.\n"
     "One line per finding, ok, warn or fail, and the command that mends it. Changes nothing.\n"
     "FILE: " CONFIG_DEFAULT_FILE " if it is there; without one, only the kernel and the host.\n"
     "Exit 1 when anything fails.\n"},
    {"probe",
     "undersock probe [--json] URL\n\n"
     "What an upstream can do: which methods it takes, whether it lets us in, CONNECT to IPv4,\n"
     "IPv6 and names, UDP ASSOCIATE, BIND, pipelining, and how long it takes. It is asked to\n"
     "connect to addresses that nobody has. The password: UNDERSOCK_PASSWORD, for\n"
     "socks5h://USER@HOST. Exit 1 when it cannot be reached or does not let us in.\n"},
    {"prove",
     "undersock prove [-c FILE]\n\n"
     "Makes a few stitched connections between two network namespaces of its own, and tries that\n"
     "nothing goes out raw. What worked is kept until the next boot in " STITCH_PROOF_FILE ",\n"
     "and then fast-path = \"auto\" stitches. The daemon and run do the same by themselves when "
     "they\n"
     "may; the unit does it first, because the daemon in it may not. Nor may that take off the\n"
     "guards that a killed daemon has left on the cgroups of FILE (" CONFIG_DEFAULT_FILE " if\n"
     "it is there), so that is done here, too. Needs root. Exit 1: connections cannot be stitched\n"
     "here, 3: it could not be tried.\n"},
    {"demo", "undersock demo\n\nMakes two network namespaces of its own, starts the embedded "
             "server between "
             "them,\nruns a redirected curl and shows the flow table. Needs root; leaves nothing "
             "behind.\n"},
    {"help", "undersock help [COMMAND]\n"},
};

const char *cli_help_text(const char *command)
{
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        if (strcmp(texts[i].command, command) == 0)
            return texts[i].text;
    }
    return NULL;
}

const char *cli_help_all(void)
{
    return all;
}

int cli_help(int argc, char **argv)
{
    const char *text = argc > 1 ? cli_help_text(argv[1]) : all;

    if (!text)
        return cli_usage("help", "there is no command \"%s\"", argv[1]);
    fputs(text, stdout);
    return CLI_DONE;
}
