/* SPDX-License-Identifier: GPL-2.0-or-later */
/* cli/counters.h */
#include "cli/counters.h"

#include <string.h>

#include "message.h"

#define N(list) (sizeof(list) / sizeof((list)[0]))

#define FLOWS(name, help)                                        \
    {                                                            \
#name, offsetof(struct message_stats, name), false, help \
    }
#define FLOWS_NOW(name, help)                                   \
    {                                                           \
#name, offsetof(struct message_stats, name), true, help \
    }

static const struct counter flows[] = {
    FLOWS_NOW(flows, "Flows alive"),
    FLOWS(accepted, "Flows begun"),
    FLOWS(granted, "Flows that the upstream granted"),
    FLOWS(failed, "Flows that the upstream refused, or for which none was to be had"),
    FLOWS(finished, "Flows that ended with FIN both ways"),
    FLOWS(reset, "Flows that ended by a reset, the idle timeout or an error"),
    FLOWS(refused_full, "Connections refused: table, memory or descriptors full"),
    FLOWS(refused_loop, "Connections refused: they came back to us"),
    FLOWS(refused_stray, "Connections refused: nobody redirected them"),
    FLOWS(refused_name, "Connections refused: to an address that stands for no name any more"),
    FLOWS_NOW(held, "SYNs held"),
    FLOWS(syns, "SYNs read"),
    FLOWS(syns_again, "SYNs read that had been seen before"),
    FLOWS(syns_lost, "Times that the kernel had no room for more SYNs"),
    FLOWS(syns_bad, "SYNs that were unfit, or of a capture that is no more"),
    FLOWS(early_full, "Connections made early, or refused, because max-held was reached"),
    FLOWS(unaccepted, "Flows granted when the application had gone"),
    FLOWS(bytes_up, "Bytes of ended flows, towards the upstream"),
    FLOWS(bytes_down, "Bytes of ended flows, towards the application"),
    FLOWS(bytes_copied, "Bytes copied"),
    FLOWS(bytes_spliced, "Bytes spliced"),
    FLOWS(to_splice, "Directions that changed to splice"),
    FLOWS(to_copy, "Directions that changed back to copying"),
    FLOWS(no_pipe, "Times that no pipe was free"),
    FLOWS(no_stash, "Times that no buffer was free"),
    FLOWS(bytes_redirected, "Bytes that the sockmap redirected"),
    FLOWS(bytes_passed, "Bytes that the sockmap left to be copied"),
    FLOWS(sockmap_joined, "Directions put into the sockmap"),
    FLOWS(sockmap_left, "Directions taken out of the sockmap"),
    FLOWS(sockmap_demoted, "Directions that the kernel handed back as bulk"),
    FLOWS(sockmap_full, "Directions for which the sockmap had no room"),
    FLOWS(sockmap_refused, "Directions that the kernel would not take"),
    FLOWS(sockmap_overrun, "Directions whose receiver fell too far behind"),
    FLOWS(sockmap_lost, "Flows reset because the counts of the sockmap did not agree"),
};

#define UDP(name, help)                                              \
    {                                                                \
#name, offsetof(struct message_udp_stats, name), false, help \
    }
#define UDP_NOW(name, help)                                         \
    {                                                               \
#name, offsetof(struct message_udp_stats, name), true, help \
    }

static const struct counter udp[] = {
    UDP_NOW(associations, "UDP associations in the table"),
    UDP(begun, "Associations begun"),
    UDP(granted, "Associations that an upstream granted"),
    UDP(failed, "Associations that could not be had"),
    UDP(ended_idle, "Associations ended by the idle timeout"),
    UDP(ended_upstream, "Associations ended by the upstream or its relay"),
    UDP(ended_replaced, "Idle associations that made room when the table was full"),
    UDP(datagrams_up, "Datagrams passed on to the upstream"),
    UDP(datagrams_down, "Datagrams passed on to the client"),
    UDP(bytes_up, "Payload passed on to the upstream"),
    UDP(bytes_down, "Payload passed on to the client"),
    UDP(taken, "Datagrams that were DNS queries"),
    UDP(refused, "Datagrams answered with ICMP port unreachable"),
    UDP(refused_quietly, "Datagrams refused beyond the rate of ICMP"),
    UDP(refused_full, "Datagrams refused for want of a slot, memory or descriptors"),
    UDP(dropped_loop, "Datagrams dropped: they came back to us"),
    UDP(dropped_stray, "Datagrams dropped: nobody redirected them, or they are not for us"),
    UDP(dropped_waiting, "Datagrams dropped: no room to wait in for the upstream's answer"),
    UDP(dropped_up, "Datagrams dropped: the socket to the relay did not take them"),
    UDP(dropped_header, "Datagrams from the relay dropped: the header is wrong"),
    UDP(dropped_fragment, "Datagrams from the relay dropped: fragments"),
    UDP(dropped_source, "Datagrams from the relay dropped: of a source that may not answer"),
    UDP(dropped_down, "Datagrams dropped: they could not be sent to the client"),
};

#define DNS(name, help)                                                \
    {                                                                  \
#name, offsetof(struct message_names_stats, name), false, help \
    }
#define DNS_NOW(name, help)                                           \
    {                                                                 \
#name, offsetof(struct message_names_stats, name), true, help \
    }

static const struct counter dns[] = {
    DNS(queries, "Queries that came"),
    DNS(answered_fake, "Queries answered with an address that stands for a name, or about one"),
    DNS(answered, "Queries answered by a server"),
    DNS(timeouts, "Queries that a server did not answer in time"),
    DNS(failed, "Queries that failed: no upstream, connection, server or address"),
    DNS(refused, "Queries refused: DNS over UDP does not have it, or too long"),
    DNS(malformed, "Queries that were malformed"),
    DNS(repeated, "Queries that came again while they waited"),
    DNS_NOW(waiting, "Queries that wait for a server"),
    DNS(forwarded, "Queries given to a connection to a server"),
    DNS(full, "Queries that failed because a table was full"),
    DNS(again, "Queries sent once more, as their connection had ended"),
    DNS(connections, "Connections to servers"),
    DNS(no_connection, "Connections to servers that could not be had"),
    DNS(broken, "Connections to servers that ended with queries unanswered"),
    DNS(truncated, "Answers cut to what the client takes"),
    DNS(unsent, "Answers that the client could not be sent"),
};

#define STITCH(name, which, help)                      \
    {                                                  \
#name, (which) * sizeof(uint64_t), false, help \
    }

static const struct counter stitch[] = {
    STITCH(begun, STITCH_COUNT_BEGUN, "Handshakes begun"),
    STITCH(granted, STITCH_COUNT_GRANTED, "Handshakes that the upstream granted"),
    STITCH(failed, STITCH_COUNT_FAILED, "Handshakes that failed"),
    STITCH(again, STITCH_COUNT_AGAIN, "Messages to the upstream that were repeated"),
    STITCH(full, STITCH_COUNT_FULL, "SYNs dropped: no room for the handshake"),
    STITCH(unready, STITCH_COUNT_UNREADY, "Packets dropped: an interface without filters of ours"),
    STITCH(guarded, STITCH_COUNT_GUARDED, "Packets dropped that must not reach a SOCKS server"),
    STITCH(odd, STITCH_COUNT_ODD, "Segments dropped that do not fit"),
    STITCH(error, STITCH_COUNT_ERROR, "Packets dropped: a rewrite failed"),
    STITCH(events, STITCH_COUNT_EVENTS, "Events for which there was no room"),
    STITCH(carried, STITCH_COUNT_CARRIED, "Connections that were established"),
};

_Static_assert(N(flows) * sizeof(uint64_t) == sizeof(struct message_stats), "all of them");
_Static_assert(N(udp) * sizeof(uint64_t) == sizeof(struct message_udp_stats), "all of them");
_Static_assert(N(dns) * sizeof(uint64_t) == sizeof(struct message_names_stats), "all of them");
_Static_assert(N(stitch) == STITCH_N_COUNTERS, "all of them");

const struct counters counters_flows = {"", flows, N(flows)};
const struct counters counters_udp = {"udp_", udp, N(udp)};
const struct counters counters_dns = {"dns_", dns, N(dns)};
const struct counters counters_stitch = {"stitch_", stitch, N(stitch)};

uint64_t counter_value(const struct counter *c, const void *reported)
{
    uint64_t value;

    memcpy(&value, (const char *)reported + c->offset, sizeof(value));
    return value;
}
