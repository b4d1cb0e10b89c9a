"""What an agent would try that is redirected and does not want to be. Prints for each way what it got.

usage: bypass.py ADDRESS NAME    of a bound server
"""

import ctypes
import json
import os
import socket
import ssl
import struct
import sys
from collections.abc import Callable

UNBOUND = "kubernetes.default.svc.cluster.local"
SIDECAR = 64321
SO_MARK, IP_TRANSPARENT, NETLINK_NETFILTER, CLONE_NEWUSER = 36, 19, 12, 0x10000000


def answered(data: bytes) -> str:
    """Told by the sidecar, or by somebody else."""
    if b"postern-reason" in data:
        return "denied: " + data.decode(errors="replace").split("postern-reason: ")[1].split("\r\n")[0]
    return f"an answer: {data[:80]!r}" if data else "nothing"


def said(address: str, port: int, data: bytes) -> str:
    with socket.create_connection((address, port), timeout=15) as channel:
        channel.sendall(data)
        got = channel.recv(4096)
        # The alert access_denied.
        return "denied: alert" if got[:1] == b"\x15" else answered(got)


def over_tls(address: str, port: int, name: str | None, data: bytes) -> str:
    # The agent does not care whom it talks to.
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((address, port), timeout=15) as channel:
        with trust.wrap_socket(channel, server_hostname=name) as secure:
            secure.sendall(data)
            return answered(secure.recv(4096))


def get(host: str, more: str = "") -> bytes:
    return f"GET /mcp HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n{more}\r\n".encode()


def sent(kind: int, protocol: int, address: str, port: int) -> str:
    with socket.socket(socket.AF_INET, kind, protocol) as channel:
        channel.settimeout(3)
        channel.sendto(b"\x08\x00\xf7\xfd\x00\x01\x00\x01", (address, port))
        return "was sent"


def as_the_sidecar() -> str:
    os.setuid(SIDECAR)
    return "is the sidecar's user"


def option(level: int, name: int) -> str:
    with socket.socket() as channel:
        channel.setsockopt(level, name, 1)
        return "was set"


def its_port() -> str:
    with socket.socket() as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        channel.bind(("127.0.0.1", 15103))
        return "listens there"


def the_rules() -> str:
    """The beginning of a change of nftables, as nft(8) would send it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as channel:
        channel.settimeout(3)
        channel.bind((0, 0))
        channel.send(struct.pack("=IHHIIBBH", 20, 0x10, 0x5, 1, 0, 0, 0, socket.htons(10)))
        (code,) = struct.unpack("=i", channel.recv(4096)[16:20])
        if code:
            raise OSError(-code, os.strerror(-code))
        return "were changed"


def own_users() -> str:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    # Its rights there are not rights over this network.
    return the_rules()


def ways(address: str, name: str) -> dict[str, Callable[[], str]]:
    datagram = socket.SOCK_DGRAM
    return {
        "HTTP to the address": lambda: said(address, 8443, get(address)),
        "another protocol, another port": lambda: said(address, 22, b"SSH-2.0-agent\r\n"),
        "TLS to the address, without a name": lambda: over_tls(address, 8443, None, get(name)),
        "TLS to the address, for another name": lambda: over_tls(address, 8443, UNBOUND, get(UNBOUND)),
        "TLS for the name, Host of another": lambda: over_tls(address, 8443, name, get(UNBOUND)),
        "the unbound API server": lambda: over_tls(UNBOUND, 443, UNBOUND, get(UNBOUND)),
        "the sidecar's own port": lambda: over_tls("127.0.0.1", 15103, UNBOUND, get(UNBOUND)),
        "UDP": lambda: sent(datagram, 0, address, 443),
        "DNS at somebody else's": lambda: sent(datagram, 0, address, 53),
        "ping": lambda: sent(datagram, socket.IPPROTO_ICMP, address, 0),
        "a raw socket": lambda: sent(socket.SOCK_RAW, socket.IPPROTO_UDP, address, 0),
        "packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300).close() or "has one",
        "IPv6": lambda: socket.create_connection(("2001:db8::1", 443), timeout=5).close() or "is connected",
        "a mark": lambda: option(socket.SOL_SOCKET, SO_MARK),
        "a foreign source": lambda: option(socket.IPPROTO_IP, IP_TRANSPARENT),
        "the sidecar's port": its_port,
        "the rules": the_rules,
        "users of its own": own_users,
        "the sidecar's user": as_the_sidecar,
    }


def main() -> None:
    for tried, way in ways(*sys.argv[1:]).items():
        # Some change what the process is.
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                got = way()
            except ssl.SSLError as failure:
                got = f"denied: {failure.reason}"
            except OSError as failure:
                got = f"refused: {failure}"
            os.write(writer, got.encode())
            os._exit(0)
        os.wait()
        os.close(writer)
        with os.fdopen(reader) as told:
            print(json.dumps({"tried": tried, "got": told.read()}), flush=True)


main()
