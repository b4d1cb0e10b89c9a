"""A pod's network and what is around it: namespaces of our own, in which names, addresses and ports are the real ones.

We ourselves are outside, where the server and the DNS server are; the script has made that namespace. Everything ends
with us. `/etc/resolv.conf` and the like are others only in our namespace of mounts.
"""

import asyncio
import os
import shutil
import struct
import subprocess
from pathlib import Path

OUTSIDE, POD, SERVER = "10.20.0.1", "10.20.0.2", "203.0.113.10"
DOMAIN = "example.test"
SIDECAR_USER = 64321
FILES = {
    "resolv.conf": f"nameserver {OUTSIDE}\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "hosts: files dns\n",
}


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


class Names(asyncio.DatagramProtocol):
    """A DNS server (RFC 1035): every name of the domain is the server's, on IPv4 alone."""

    def connection_made(self, transport) -> None:
        self._transport = transport

    def datagram_received(self, question: bytes, sender) -> None:
        end = question.index(0, 12) + 5
        kind, = struct.unpack("!H", question[end - 4:end - 2])
        ours = question[12:end - 4].lower().endswith(b"".join(_label(each) for each in DOMAIN.split(".")) + b"\0")
        address = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes(map(int, SERVER.split("."))) if ours and kind == 1 else b""
        flags = 0x8180 if ours else 0x8183
        head = question[:2] + struct.pack("!HHHHH", flags, 1, 1 if address else 0, 0, 0)
        self._transport.sendto(head + question[12:end] + address, sender)


def _label(name: str) -> bytes:
    return bytes([len(name)]) + name.encode()


class World:
    def __init__(self, directory: Path) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"],
                                        stdout=subprocess.PIPE)
        self._holder.stdout.readline()
        for name, text in FILES.items():
            (directory / name).write_text(text)
            _run("mount", "--bind", directory / name, f"/etc/{name}")
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "address", "add", f"{SERVER}/32", "dev", "lo")
        _run("ip", "link", "add", "pod", "type", "veth", "peer", "name", "eth0", "netns", self._holder.pid)
        _run("ip", "address", "add", f"{OUTSIDE}/24", "dev", "pod")
        _run("ip", "link", "set", "pod", "up")
        for command in (f"address add {POD}/24 dev eth0", "link set lo up", "link set eth0 up",
                        f"route add default via {OUTSIDE}"):
            _run(*self.inside(), "ip", *command.split())
        # Where the sidecar's user may run it.
        directory.chmod(0o755)
        self.postern = shutil.copy(os.environ["POSTERN_BIN"], directory / "postern")

    async def names(self) -> None:
        """Answers DNS from now on."""
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(Names, local_addr=(OUTSIDE, 53))

    def inside(self) -> list[str]:
        """Before a command: it is the pod's."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]

    def sidecar(self) -> list[str]:
        """Before the sidecar's: it is its user's as well, where we may choose one."""
        return [*self.inside(), *_user(SIDECAR_USER)] if root() else self.inside()

    def init_net(self) -> None:
        """As the init container does it: user 0 with NET_ADMIN alone."""
        _run(*self.inside(), *_user(0, "+net_admin"), self.postern, "init-net", "--resolvers", OUTSIDE)

    def end(self) -> None:
        self._holder.kill()
        self._holder.wait()


def root() -> bool:
    """Whether we are root for the machine, too, and not only in a namespace of users."""
    return Path("/proc/self/uid_map").read_text().split()[2] != "1"


def _user(number: int, capability: str = "") -> list[str]:
    kept = ",".join(filter(None, ["-all", capability]))
    return ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups", f"--inh-caps={kept}",
            f"--bounding-set={kept}", "--no-new-privs"]
