# SPDX-License-Identifier: GPL-2.0-or-later
"""steps: a SOCKS5 server made of single TCP segments, in the order and with the faults that a case names.

    steps.py serve DEVICE PORT     who comes from port 21000 + N gets case N; the kernel must keep out of it
    steps.py list                  "NUMBER WANT NAME" of each case: what the application must print
    steps.py app ADDRESS           the application, in each case at once: connects, says "hello", and prints
                                   "NUMBER RESULT"

A case is what is sent when something comes: a SYN, the greeting, the request, the application's data, an
ACK alone; each the first time, the second, ... , and the last one from then on. What is sent:

    SA, A            a SYN-ACK; an ACK of what has come
    (i, j)           octets i to j of STREAM: 0-2 the method, 2-12 the reply, then what the target says
    (i, j, "F")      with a FIN; ("F", i) a FIN alone, ("R", i) a reset, each with the number of octet i
    anything + {}    with other fields: ack (what is acknowledged, from the SYN), flags, data, window; at: of
                     an ACK, the number of its octet
"""
import errno
import random
import socket
import struct
import sys
import threading

GREETING = b"\5\1\0"
HELLO, BANNER, WORLD = b"hello\n", b"BANNER\n", b"world\n"
STREAM = b"\5\0" + b"\5\0\0\1\0\0\0\0\0\0" + BANNER + WORLD
END = len(STREAM)
SOURCE = 21000
FIN, SYN, RST, ACK = 1, 2, 4, 16
SA, A = ("SA",), ("A",)
METHOD, REPLY, REST = (0, 2), (2, 12), (12, END)
OK = repr((BANNER + WORLD).decode())
REFUSED = "ECONNREFUSED"
NO = b"\5\xff"
USUAL = {"syn": [[SA]], "greeting": [[METHOD]], "request": [[REPLY]], "data": [[REST]], "ack": [[]]}
singly = lambda i, j: [(n, n + 1) for n in range(i, j)]

CASES = [
    # what comes again, or in another order, is nothing to the application
    ("as it should be", OK, {}),
    ("an ACK overtakes the SYN-ACK", OK, {"syn": [[A, SA]]}),
    ("SYN-ACK twice", OK, {"syn": [[SA, SA]]}),
    ("method twice", OK, {"greeting": [[METHOD, METHOD]]}),
    ("reply twice", OK, {"request": [[REPLY, REPLY]]}),
    ("SYN-ACK and method again before the reply", OK, {"request": [[SA, METHOD, REPLY]]}),
    ("everything again after the reply", OK, {"request": [[REPLY, SA, METHOD, A, REPLY]]}),
    ("everything again after the data", OK, {"data": [[SA, METHOD, REPLY, REST, REST]]}),
    ("the first SYN is lost", OK, {"syn": [[], [SA]]}),
    ("the first greeting is lost", OK, {"greeting": [[], [METHOD]]}),
    ("the first request is lost", OK, {"request": [[], [REPLY]]}),
    ("greeting lost, so the SYN-ACK comes again", OK, {"syn": [[SA, SA]], "greeting": [[], [METHOD]]}),
    ("request lost, so the method comes again", OK, {"greeting": [[METHOD, METHOD]], "request": [[], [REPLY]]}),
    ("single octets", OK, {"greeting": [singly(0, 2)], "request": [singly(2, 12)]}),
    ("single octets, each twice", OK, {"greeting": [2 * singly(0, 2)], "request": [[s for s in singly(2, 12) for _ in "12"]]}),
    ("single octets backwards, then in order", OK, {"greeting": [singly(0, 2)[::-1] + singly(0, 2)], "request": [singly(2, 12)[::-1] + singly(2, 12)]}),
    ("pieces that overlap", OK, {"greeting": [[(0, 1), (0, 2)]], "request": [[(0, 5), (3, 9), (1, 12)]]}),
    ("method and reply in one, again and for the first time", OK, {"request": [[(0, 12)]]}),
    ("what the target says with the reply", OK, {"request": [[(2, 19)]]}),
    ("the end of the reply with what the target says", OK, {"request": [[(2, 7), (7, 19)]]}),
    ("what the target says before the reply", OK, {"request": [[(12, 19), REPLY, (12, 19)]]}),
    # a window that is closed at first, like that of a proxy for SYNs
    ("a window that opens after the ACK", OK, {"syn": [[SA + ({"window": 0},)]], "ack": [[A + ({"at": 0},)], []]}),
    ("a window that opens after the ACK, of SYN-ACKs that come twice", OK, {"syn": [2 * [SA + ({"window": 0},)]], "ack": [[], [A + ({"at": 0},)], []]}),
    ("a window that nobody says has opened", OK, {"syn": [[SA + ({"window": 0, "edge": END + 99},)]]}),
    ("a window that is closed with the reply", OK, {"request": [[REPLY + ({"window": 0},)]], "ack": [[], [A], []]}),
    # how a stream ends
    ("reply and FIN in one", "''", {"request": [[(2, 12, "F")]], "data": [[A]]}),
    ("reply, then FIN", "''", {"request": [[REPLY, ("F", 12)]], "data": [[A]]}),
    ("reply with a banner and FIN in one", repr(BANNER.decode()), {"request": [[(2, 19, "F")]], "data": [[A]]}),
    ("half of the reply, then the rest and FIN", "''", {"request": [[(2, 7), (7, 12, "F")]], "data": [[A]]}),
    ("a reset after the reply", "ECONNRESET", {"request": [[REPLY]], "data": [[("R", 12)]]}),
    # refusals: a reset or a FIN at each step
    ("reset for the SYN", REFUSED, {"syn": [[("R", -1)]]}),
    ("reset for the greeting", REFUSED, {"greeting": [[("R", 0)]]}),
    ("reset after half of the method", REFUSED, {"greeting": [[(0, 1), ("R", 1)]]}),
    ("reset after the method", REFUSED, {"request": [[("R", 2)]]}),
    ("reset after half of the reply", REFUSED, {"request": [[(2, 7), ("R", 7)]]}),
    ("FIN for the greeting", REFUSED, {"greeting": [[("F", 0)]]}),
    ("FIN after half of the method", REFUSED, {"greeting": [[(0, 1), ("F", 1)]]}),
    ("FIN with the method", REFUSED, {"greeting": [[(0, 2, "F")]]}),
    ("FIN for the request", REFUSED, {"request": [[("F", 2)]]}),
    ("FIN after half of the reply", REFUSED, {"request": [[(2, 7), ("F", 7)]]}),
    ("FIN with half of the reply", REFUSED, {"request": [[(2, 7, "F")]]}),
    ("more than the method", REFUSED, {"greeting": [[(0, 12)]]}),
    # what must not be believed
    ("resets for the SYN that acknowledge something else", OK, {"syn": [[("R", -1, {"ack": 77}), ("R", -1, {"flags": RST}), SA]]}),
    ("resets with another number", OK, {"greeting": [[("R", 1), ("R", -1), METHOD]], "request": [[("R", 0), ("R", 3), REPLY]]}),
    ("a FIN that comes too early", OK, {"greeting": [[("F", 5), METHOD]]}),
    ("answers to what we have not said yet", OK, {"greeting": [[(0, 2, {"ack": 500, "data": NO}), METHOD]], "request": [[(2, 4, {"ack": 500, "data": NO}), REPLY]]}),
    ("answers that acknowledge nothing", OK, {"greeting": [[(0, 2, {"flags": 0, "data": NO}), METHOD]], "request": [[(2, 4, {"flags": 0, "data": NO}), REPLY]]}),
    ("a SYN-ACK for another SYN, then ours", OK, {"syn": [[SA + ({"ack": 1000},), SA]]}),
    ("a SYN of theirs in between", OK, {"greeting": [[SA + ({"flags": SYN},), METHOD]], "request": [[SA + ({"flags": SYN},), REPLY]]}),
]


def fold(b):
    b += b"\0" * (len(b) % 2)
    s = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while s >> 16:
        s = (s & 0xFFFF) + (s >> 16)
    return ~s & 0xFFFF


class Connection:
    def __init__(self, raw, server, client, ports, isn, case):
        self.raw, self.server, self.client, self.ports = raw, server, client, ports
        self.theirs, self.ours, self.case, self.seen = isn, random.getrandbits(32), case, {}
        self.got, self.dead, self.edge = 0, False, 0
        if len(server) == 4:
            request = b"\5\1\0\1" + server + struct.pack("!H", 9000)
        else:
            request = b"\5\1\0\4" + server + struct.pack("!H", 9000)
        self.expected = GREETING + request + HELLO
        self.upto = {"syn": 0, "greeting": 3, "request": 3 + len(request), "data": len(self.expected)}

    def send(self, flags, at, data, ack, window=60000, edge=0):
        self.edge = max(self.edge, ack + window, edge) if window else max(ack, edge)
        seq = (self.ours + 1 + at) & 0xFFFFFFFF
        ack = (self.theirs + 1 + ack) & 0xFFFFFFFF if flags & ACK else 0
        tcp = struct.pack("!HHIIBBHHH", self.ports[1], self.ports[0], seq, ack, 0x50, flags, window, 0, 0) + data
        pseudo = self.server + self.client + struct.pack("!II", len(tcp), 6)
        tcp = tcp[:16] + struct.pack("!H", fold(pseudo + tcp)) + tcp[18:]
        if len(self.server) == 4:
            ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + self.server + self.client
            self.raw[0].sendto(ip + tcp, (socket.inet_ntop(socket.AF_INET, self.client), 0))
        else:
            ip = struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + self.server + self.client
            self.raw[1].sendto(ip + tcp, (socket.inet_ntop(socket.AF_INET6, self.client), 0, 0, 0))

    def play(self, event):
        steps = self.case.get(event) or USUAL[event]
        n = self.seen[event] = self.seen.get(event, 0) + 1
        for step in steps[min(n, len(steps)) - 1]:
            other = step[-1] if isinstance(step[-1], dict) else {}
            ack = other.get("ack", self.upto.get(event, self.got))
            size = {k: other[k] for k in ("window", "edge") if k in other}
            if step[0] == "SA":
                self.send(other.get("flags", SYN | ACK), -1, b"", other.get("ack", 0), **size)
            elif step[0] == "A":
                self.send(ACK, other.get("at", 0 if event == "syn" else 12), b"", ack, **size)
            elif step[0] == "R":
                self.send(other.get("flags", RST | ACK), step[1], b"", ack)
            elif step[0] == "F":
                self.send(FIN | ACK, step[1], b"", ack)
            else:
                flags = other.get("flags", ACK | (FIN if "F" in step else 0))
                self.send(flags, step[0], other.get("data", STREAM[step[0] : step[1]]), ack, **size)

    def on_segment(self, flags, seq, data):
        at = (seq - self.theirs - 1) & 0xFFFFFFFF
        if flags & RST:
            self.dead |= at == self.got
            return
        if self.dead:
            self.send(RST, 0, b"", 0)
            return
        if flags & SYN and data or data and data != self.expected[at : at + len(data)]:
            print("RAW", self.ports[0], at, data, flush=True)
        if at + len(data) > self.edge and not flags & SYN and data:
            print("Error: beyond the window", self.ports[0], at, data, flush=True)
        if flags & SYN:
            self.play("syn")
        elif not data:
            self.play("ack")
        else:
            self.got = max(self.got, at + len(data))
            self.play("greeting" if at < 3 else "request" if at < self.upto["request"] else "data")


def serve(device, port):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    s.bind((device, 3))
    raw = (socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW), socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW))
    connections = {}
    print("ready", flush=True)
    while True:
        p, where = s.recvfrom(70000)
        v4 = p[0] >> 4 == 4
        n = 20 if v4 else 40
        if where[2] == 4 or p[9 if v4 else 6] != 6:
            continue
        ports = struct.unpack("!HH", p[n : n + 4])
        if ports[1] != port or not 0 <= ports[0] - SOURCE < len(CASES):
            continue
        client, server = (p[12:16], p[16:20]) if v4 else (p[8:24], p[24:40])
        seq, flags = struct.unpack("!I", p[n + 4 : n + 8])[0], p[n + 13]
        data = p[n + (p[n + 12] >> 4) * 4 : struct.unpack("!H", p[2:4])[0] if v4 else 40 + struct.unpack("!H", p[4:6])[0]]
        c = connections.get((client, ports))
        if flags & SYN and (not c or c.theirs != seq):
            c = connections[client, ports] = Connection(raw, server, client, ports, seq, CASES[ports[0] - SOURCE][2])
        if c:
            c.on_segment(flags, seq, data)


def app(address, number):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    s.settimeout(10)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("", SOURCE + number))
    got = b""
    try:
        s.connect((address, 9000))
        s.sendall(HELLO)
        while not got.endswith(WORLD):
            more = s.recv(1000)
            if not more:
                break
            got += more
        result = repr(got.decode())
    except OSError as e:
        result = errno.errorcode.get(e.errno, str(e)) + (" after %r" % got if got else "")
    print("%d\t%s\n" % (number, result), end="", flush=True)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


if sys.argv[1] == "serve":
    serve(sys.argv[2], int(sys.argv[3]))
elif sys.argv[1] == "app":
    for n in range(len(CASES)):
        threading.Thread(target=app, args=(sys.argv[2], n)).start()
else:
    for number, (name, want, _) in enumerate(CASES):
        print("%d\t%s\t%s" % (number, want, name))
