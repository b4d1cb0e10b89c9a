"""A process of the pod, one thing at a time: it does what its arguments say and tells, as JSON, what came of it."""

import errno
import json
import os
import select
import socket
import sys
import threading

PATIENCE = 10  # seconds; whatever takes so long has been dropped without a word
IPV6_FREEBIND = 78
PROBE_PORT = 15103


def target(host: str, port: int, kind: int, protocol: int = 0) -> tuple[socket.socket, tuple]:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family, kind, protocol)
    made.settimeout(PATIENCE)
    return made, address


def line(connection: socket.socket) -> str:
    text = b""
    while not text.endswith(b"\n"):
        if not (part := connection.recv(1)):
            raise ConnectionResetError(errno.ECONNRESET, "closed")
        text += part
    return text.decode().strip()


def tcp(host: str, port: str, protocol: str = "0") -> str:
    connection, address = target(host, int(port), socket.SOCK_STREAM, int(protocol))
    connection.connect(address)
    return line(connection)


def udp(host: str, port: str, protocol: str = "0") -> str:
    sender, address = target(host, int(port), socket.SOCK_DGRAM, int(protocol))
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sender.sendto(b"ping\n", address)
    return sender.recv(100).decode().strip()


def ping(host: str) -> str:
    sender, address = target(host, 0, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6 if ":" in host else socket.IPPROTO_ICMP)
    sender.connect(address)
    sender.send(bytes([128 if ":" in host else 8, 0, 0, 0, 0, 0, 0, 1]))
    sender.recv(100)
    return "answered"


def raw(host: str, protocol: str) -> str:
    """Needs NET_RAW."""
    sender, address = target(host, 0, socket.SOCK_RAW, int(protocol))
    sender.sendto(b"anything at all", (address[0], 0, *address[2:]))
    return "sent"


def join(group: str) -> str:
    """Becomes a member of a group, which the kernel tells to the routers."""
    version = 6 if ":" in group else 4
    member = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    interface = socket.if_nametoindex("eth0")
    if version == 6:
        wanted = socket.inet_pton(socket.AF_INET6, group) + interface.to_bytes(4, sys.byteorder)
        member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, wanted)
    else:
        wanted = socket.inet_aton(group) + bytes(4) + interface.to_bytes(4, sys.byteorder)
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, wanted)
    return "joined"


def forge(mine: str, foreign: str, to: str) -> str:
    """A packet that seems to come from outside, then one of our own to where it seems to come from."""
    theirs = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    theirs.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    theirs.bind((foreign, 9999))
    ours = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    ours.bind((mine, PROBE_PORT))
    outcomes = []
    for sender, receiver in [(theirs, (to, PROBE_PORT)), (ours, (foreign, 9999))]:
        try:
            sender.sendto(b"ping\n", receiver)
            outcomes.append("sent")
        except OSError as error:
            outcomes.append(errno.errorcode[error.errno])
    return " ".join(outcomes)


def pour(host: str, port: str, amount: str) -> str:
    """Sends and closes at once: what is still to be sent has no process any more."""
    connection, address = target(host, int(port), socket.SOCK_STREAM)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    connection.connect(address)
    line(connection)  # unread, it would make the kernel reset the connection
    connection.sendall(bytes(int(amount)))
    connection.close()
    return "closed"


def hold(host: str, port: str) -> None:
    """Says each line of its input on one connection, and prints each answer."""
    connection, address = target(host, int(port), socket.SOCK_STREAM)
    connection.connect(address)
    print(line(connection), flush=True)
    for said in sys.stdin:
        try:
            connection.sendall(said.encode())
            print(line(connection), flush=True)
        except OSError as error:
            print(errno.errorcode.get(error.errno, "TIMEOUT"), flush=True)


def serve(port: str) -> None:
    """Says back what it gets, over TCP and UDP, until it is ended."""
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    datagrams.bind(("::", int(port)))
    print("listening", flush=True)

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"inside\n")
        while said := connection.recv(100):
            connection.sendall(said)

    while True:
        for ready in select.select([listener, datagrams], [], [])[0]:
            if ready is listener:
                threading.Thread(target=answer, args=[listener.accept()[0]], daemon=True).start()
            else:
                datagrams.sendto(b"inside\n", datagrams.recvfrom(100)[1])


def relay(here: str, there: str, port: str) -> None:
    """Takes connections at one address and passes them on to another: says that it is somebody else."""
    listener = socket.create_server((here, int(port)), family=socket.AF_INET6 if ":" in here else socket.AF_INET)
    print("listening", flush=True)
    while True:
        asked = listener.accept()[0]
        passed = socket.create_connection((there, int(port)), timeout=PATIENCE)
        while ready := select.select([asked, passed], [], [])[0]:
            if not (said := ready[0].recv(1000)):
                break
            (passed if ready[0] is asked else asked).sendall(said)
        asked.close()
        passed.close()


if __name__ == "__main__":
    what = {function.__name__: function for function in [tcp, udp, ping, raw, join, forge, pour, hold, serve, relay]}
    try:
        outcome = what[sys.argv[1]](*sys.argv[2:])
    except TimeoutError:
        outcome = "TIMEOUT"
    except OSError as error:
        outcome = errno.errorcode.get(error.errno, os.strerror(error.errno or 0))
    print(json.dumps(outcome), flush=True)
