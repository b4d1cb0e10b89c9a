"""A pod and what is around it: two network namespaces, joined by a veth pair as a CNI plugin does it.

The tests' own process is outside: the node, the internet and the observer on the wire. Everything ends with it.
"""

import atexit
import contextlib
import ctypes
import json
import os
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
AGENT, SIDECAR, ROOT = 1000, 64321, 0
FAMILIES = [4, 6]
# Every user may run it.
PYTHON = os.environ["POSTERN_PYTHON"]
PROBE = {4: "192.0.2.103", 6: "2001:db8::103"}
REDIRECT = 15103

NODE = {4: "10.20.0.1", 6: "fd20::1"}
POD = {4: "10.20.0.2", 6: "fd20::2"}
RESOLVER = {4: "10.20.1.53", 6: "fd20:1::53"}
OTHER_RESOLVER = {4: "10.20.1.54", 6: "fd20:1::54"}
SERVER = {4: "203.0.113.10", 6: "2001:db8:1::10"}
SKIPPED = {4: "198.51.100.7", 6: "2001:db8:2::7"}
NETWORKS = {4: "198.51.100.0/24", 6: "2001:db8:2::/48"}
SKIPPED_PORT = 5432
MARK = 9  # the port at which the observer is told that all before it has been seen
PORTS_TCP = [1, 22, 53, 80, 443, 853, SKIPPED_PORT, 8443, 65535]
PORTS_UDP = [53, 123, 443, SKIPPED_PORT, 9999, MARK]
RESOLVERS = ",".join(RESOLVER.values())
EXCEPTIONS = [
    f"--resolvers={RESOLVERS}",
    f"--skip-ports={SKIPPED_PORT}",
    f"--skip-cidrs={','.join(NETWORKS.values())}",
]


def run(*command: object, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in command], input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def end_with_us() -> None:
    # Called between fork and exec.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Outside:
    """Answers at every address outside, and writes down who came."""

    def __init__(self) -> None:
        run("ip", "link", "set", "lo", "up")
        for addresses in [RESOLVER, OTHER_RESOLVER, SERVER, SKIPPED]:
            run("ip", "address", "add", f"{addresses[4]}/32", "dev", "lo")
            run("ip", "address", "add", f"{addresses[6]}/128", "dev", "lo", "nodad")
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        self.received: dict[int, bytes] = {}
        self.listeners = {port: self.listen(port) for port in PORTS_TCP}
        self.datagrams = [
            self.bind(addresses[family], port)
            for addresses in [RESOLVER, OTHER_RESOLVER, SERVER, SKIPPED]
            for family in [4, 6]
            for port in PORTS_UDP
        ]
        threading.Thread(target=self.answer, daemon=True).start()

    @staticmethod
    def listen(port: int) -> socket.socket:
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=16)

    @staticmethod
    def bind(address: str, port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, port))
        return made

    def answer(self) -> None:
        poll = select.poll()
        ready = {made.fileno(): made for made in [*self.listeners.values(), *self.datagrams]}
        for made in ready:
            poll.register(made, select.POLLIN)
        while True:
            for number, _ in poll.poll():
                made = ready[number]
                if made.type == socket.SOCK_DGRAM:
                    _, sender = made.recvfrom(2000)
                    with contextlib.suppress(OSError):
                        made.sendto(b"outside\n", sender)
                else:
                    threading.Thread(target=self.talk, args=[made.accept()[0]], daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        """Says where it was called, then says short things back, and keeps all."""
        local = connection.getsockname()
        peer = connection.getpeername()[1]
        host = local[0].removeprefix("::ffff:")
        with contextlib.suppress(OSError), connection:
            connection.sendall(f"outside {host}\n".encode())
            while said := connection.recv(1 << 16):
                self.received[peer] = self.received.get(peer, b"") + said
                if len(said) < 100:
                    connection.sendall(said)


class Wire:
    """Everything that comes out of the pod."""

    def __init__(self, interface: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        self.socket.bind((interface, 3))
        self.seen: list[str] = []
        self.memberships = 0  # of groups, as the kernel tells them to routers
        self.marks: set[int] = set()
        self.news = threading.Condition()
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                packet, (_, kind, direction, *_) = self.socket.recvfrom(1 << 16)
                if direction != socket.PACKET_OUTGOING:
                    with self.news:
                        self.note(packet, kind)
                        self.news.notify_all()

    def note(self, packet: bytes, kind: int) -> None:
        if kind == 0x0800:
            protocol, header = packet[9], (packet[0] & 15) * 4
            address = socket.inet_ntop(socket.AF_INET, packet[16:20])
        elif kind == 0x86DD:
            protocol, header = packet[6], 40
            address = socket.inet_ntop(socket.AF_INET6, packet[24:40])
            # What the kernel says to its neighbours, with and without the header that asks routers to look.
            if protocol in (0, 58) and (protocol == 0 or packet[40] in range(130, 144)):
                self.memberships += protocol == 0
                return
        else:
            return  # ARP
        if protocol == 2:
            self.memberships += 1
            return
        if protocol in (6, 17):
            source, port = struct.unpack("!HH", packet[header : header + 4])
            if protocol == 17 and port == MARK:
                self.marks.add(source)
            else:
                self.seen.append(f"{'tcp' if protocol == 6 else 'udp'} {address} {port}")
        else:
            self.seen.append(f"{protocol} {address}")

    def until(self, mark: int) -> list[str]:
        """What came before this packet, each once."""
        with self.news:
            assert self.news.wait_for(lambda: mark in self.marks, 10), "the observer's mark did not come out of the pod"
            seen, self.seen = self.seen, []
        return sorted(set(seen))


class Pod:
    """A pod's network, with nothing in it."""

    def __init__(self, tools: Path, families: tuple[int, ...] = (4, 6), own_users: bool = False) -> None:
        """With users of its own, as `hostUsers: false` makes it, its root is nobody outside."""
        self.tools, self.own_users = tools, own_users
        self.processes: list[subprocess.Popen[str]] = []
        # It ends when its input does: with users of its own, it forgets to end with us.
        self.holder = subprocess.Popen(
            ["unshare", "--net", *(["--user"] if own_users else []), "sh", "-c", "echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.holder.stdout.readline()
        if own_users:
            for kind in ["uid_map", "gid_map"]:
                Path(f"/proc/{self.holder.pid}/{kind}").write_text("0 1000000 65536")
        self.interface = f"pod{secrets.token_hex(3)}"
        peer = ["peer", "name", "eth0", "netns", self.holder.pid]
        run("ip", "link", "add", self.interface, "type", "veth", *peer)
        # An address is usable at once; no mistakes of others are to be found here.
        for settings in ["conf/default/accept_dad", "conf/all/accept_dad", "conf/eth0/accept_dad"]:
            self.root("sh", "-c", f"echo 0 >/proc/sys/net/ipv6/{settings}")
        self.root("sh", "-c", "echo 0 65535 >/proc/sys/net/ipv4/ping_group_range")
        Path(f"/proc/sys/net/ipv6/conf/{self.interface}/accept_dad").write_text("0")
        run("ip", "link", "set", self.interface, "up")
        self.root("ip", "link", "set", "lo", "up")
        self.root("ip", "link", "set", "eth0", "up")
        for family in families:
            length = 24 if family == 4 else 64
            nodad = ["nodad"] if family == 6 else []
            run("ip", "address", "add", f"{NODE[family]}/{length}", "dev", self.interface, *nodad)
            self.root("ip", "address", "add", f"{POD[family]}/{length}", "dev", "eth0", *nodad)
            self.root("ip", f"-{family}", "route", "add", "default", "via", NODE[family])
        self.wire = Wire(self.interface)

    def inside(self) -> list[str]:
        user = [f"--user=/proc/{self.holder.pid}/ns/user"] if self.own_users else []
        return ["nsenter", *user, f"--net=/proc/{self.holder.pid}/ns/net"]

    def root(self, *command: object, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """With every capability, as whoever makes the pod."""
        return run(*self.inside(), *command, check=check, stdin=stdin)

    def nft(self, text: str) -> None:
        self.root("nft", "-f", "-", stdin=text)

    def table(self) -> str:
        return self.root("nft", "list", "table", "inet", "postern").stdout

    def init_net(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """As the init container: user 0 with NET_ADMIN and nothing else."""
        return run(*self.inside(), *user(ROOT, "net_admin"), self.tools / "postern", "init-net", *arguments, check=check)

    def act(self, *what: object, uid: int = AGENT, capability: str = "") -> str:
        """What comes of one thing that a process of the pod does."""
        program = [PYTHON, "-I", self.tools / "agent.py", *what]
        return json.loads(run(*self.inside(), *user(uid, capability), *program).stdout.splitlines()[-1])

    def start(self, *command: object, uid: int = AGENT) -> subprocess.Popen[str]:
        """A process that goes on."""
        return self.privileged(*user(uid), *command)

    def privileged(self, *command: object) -> subprocess.Popen[str]:
        """One with every capability."""
        process = subprocess.Popen(
            [str(word) for word in [*self.inside(), *command]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=end_with_us,
        )
        self.processes.append(process)
        return process

    def agent(self, *what: object, uid: int = AGENT) -> subprocess.Popen[str]:
        return self.start(PYTHON, "-I", self.tools / "agent.py", *what, uid=uid)

    def sidecar(self, *arguments: str) -> subprocess.Popen[str]:
        """The listener where captured connections arrive, as the sidecar's user."""
        process = self.start(self.tools / "redirect", *arguments, uid=SIDECAR)
        assert process.stdout.readline() == "listening\n"
        return process

    def serve(self, port: int) -> subprocess.Popen[str]:
        process = self.agent("serve", port)
        assert process.stdout.readline() == "listening\n"
        return process

    def left(self) -> list[str]:
        """What has come out since it was last asked."""
        # The sidecar's user may send anywhere, with these rules and without.
        program = f"import socket as s; u = s.socket(type=s.SOCK_DGRAM); u.sendto(b'', ('{NODE[4]}', {MARK})); print(u.getsockname()[1])"
        mark = run(*self.inside(), *user(SIDECAR), PYTHON, "-I", "-c", program).stdout
        return self.wire.until(int(mark))

    def end(self) -> None:
        """May be asked for twice."""
        for process in [*self.processes, self.holder]:
            process.kill()
            process.wait()
            for pipe in [process.stdin, process.stdout]:
                if pipe:
                    # What it did not read any more is lost with it.
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self.wire.socket.close()
        run("ip", "link", "delete", self.interface, check=False)


def user(uid: int, capability: str = "") -> list[object]:
    """As a container runtime starts a process: this user, these capabilities alone, and no way to more."""
    given = f"-all,+{capability}" if capability else "-all"
    ambient = [f"--ambient-caps=+{capability}"] if capability and uid else []
    groups = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    bounding = [f"--inh-caps={given}", *ambient, f"--bounding-set={given}", "--no-new-privs"]
    return ["setpriv", *groups, *bounding]


def said(process: subprocess.Popen[str], text: str) -> str:
    """What a process that holds a connection gets back."""
    process.stdin.write(text + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


class WorldTest(unittest.TestCase):
    """Tests that have the world outside, and make pods."""

    outside: Outside
    tools: Path

    @classmethod
    def setUpClass(cls) -> None:
        global _world
        if _world is None:
            _world = (Outside(), tools())
        cls.outside, cls.tools = _world

    def pod(self, *arguments: str, families: tuple[int, ...] = (4, 6)) -> Pod:
        """A pod; with arguments, one in which init-net has run with them."""
        pod = Pod(self.tools, families)
        self.addCleanup(pod.end)
        if arguments:
            pod.init_net(*arguments)
        return pod


_world: tuple[Outside, Path] | None = None


def tools() -> Path:
    """What is run in pods, where every user may read it."""
    folder = Path(tempfile.mkdtemp(prefix="postern-net-"))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder)
    for file in [HERE / "agent.py", os.environ["POSTERN_BIN"], os.environ["POSTERN_REDIRECT"]]:
        shutil.copy(file, folder)
    return folder
