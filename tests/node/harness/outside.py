"""The part of a node that stays outside its namespaces: it makes them, and takes away what they leave."""

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .parts import HERE, REPOSITORY, Failed, Stopped, apiserver

NAME = "postern-node-"
CGROUPS = Path("/sys/fs/cgroup")


def need(setup: Path, *targets: str) -> str:
    """What a setup script prints: it builds or fetches what is missing, and tells on our stderr."""
    run = subprocess.run([setup, *targets], stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        raise Failed(f"{setup.relative_to(REPOSITORY)} {' '.join(targets)} failed; above is what it said")
    return run.stdout.strip()


def check_machine() -> None:
    if os.geteuid() != 0:
        raise Failed("it needs root, which makes namespaces, mounts and interfaces of its own: run it with sudo")
    for command in ["unshare", "ip", "mount"]:
        if shutil.which(command) is None:
            raise Failed(f"{command} is missing: apt-get install util-linux iproute2 mount")
    # The same flags as the node's own; a container or a kernel that forbids them says here what it forbids.
    trial = ["unshare", "--mount", "--pid", "--net", "--uts", "--fork", "--mount-proc", "--propagation", "private"]
    probe = "mount -t tmpfs tmpfs /run && ip link set lo up && ip link add node0 type veth peer name nowhere"
    run = subprocess.run([*trial, "sh", "-c", probe], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        said = run.stderr.strip()
        raise Failed(
            f"root gets no namespaces, mounts or veth here, and a node needs them: {said}; "
            "run it on a machine, or in a container that is privileged"
        )


class Cgroups:
    """A group of the node's own in every hierarchy, below which the kubelet makes those of its pods."""

    def __init__(self) -> None:
        self.name = NAME + secrets.token_hex(4)
        if (CGROUPS / "cgroup.controllers").exists():
            hierarchies = [CGROUPS]
        else:
            lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
            hierarchies = [Path(line[1]) for line in lines if line[2] == "cgroup"]
        if not hierarchies:
            raise Failed("no control groups are mounted below /sys/fs/cgroup, and a kubelet needs them")
        self.groups = [hierarchy / self.name for hierarchy in hierarchies]

    def make(self) -> None:
        sweep()
        for group in self.groups:
            # Several names of one hierarchy may be mounted.
            group.mkdir(exist_ok=True)
            if (group / "cgroup.controllers").exists():
                wanted = (group / "cgroup.controllers").read_text().split()
                (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
            for setting in ["cpuset.cpus", "cpuset.mems"]:
                if (group / setting).exists() and not (group / "cgroup.controllers").exists():
                    (group / setting).write_text((group.parent / setting).read_text())

    def remove(self) -> None:
        # In more hierarchies than ours: where both versions are mounted, runc makes groups in the second one, too.
        for group in [CGROUPS / self.name, *CGROUPS.glob(f"*/{self.name}")]:
            if group.exists():
                remove_tree(group)


def remove_tree(group: Path) -> None:
    # A process that was just killed may still be counted for a moment.
    for _ in range(200):
        try:
            for folder, _, _ in os.walk(group, topdown=False):
                os.rmdir(folder)
            return
        except OSError:
            time.sleep(0.05)
    raise Failed(f"{group} cannot be removed: processes of the node are still in it")


def sweep() -> None:
    """Removes the groups that a killed run left: one that is in use has processes, and cannot be removed."""
    for group in [*CGROUPS.glob(f"{NAME}*"), *CGROUPS.glob(f"*/{NAME}*")]:
        in_use = any((Path(folder) / "cgroup.procs").read_text() for folder, _, _ in os.walk(group))
        if not in_use and time.time() - group.stat().st_mtime > 3600:
            remove_tree(group)


def end_with_us() -> None:
    # Called between fork and exec.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def tell_pid(parent: int, file: Path) -> None:
    """Inside, the first process of the namespaces does not know by which number it is known here."""
    children = Path(f"/proc/{parent}/task/{parent}/children")
    while children.exists():
        if first := children.read_text().split():
            file.write_text(first[0])
            return
        time.sleep(0.005)


def run(told: Path | None, images: list[Path], endings: "apiserver.Endings") -> None:
    check_machine()
    kube, node, dns = (need(REPOSITORY / "tests/cluster/setup", target) for target in ["kube", "node", "dns"])
    debian = need(HERE / "setup")
    own = None
    if told is None:
        own = told = Path(tempfile.mkdtemp(prefix=NAME))
    told = told.absolute()
    told.mkdir(parents=True, exist_ok=True)
    # Its port is on this side, and who accepts from it on the other: so the API server is reached without a route.
    door = socket.create_server(("127.0.0.1", 0), backlog=128)
    cgroups = Cgroups()
    settings = {
        "told": str(told),
        "kube": kube,
        "node": node,
        "dns": dns,
        "debian": debian,
        "door": door.fileno(),
        "port": door.getsockname()[1],
        "cgroup": cgroups.name,
        "images": [str(image.absolute()) for image in images],
    }
    namespaces = ["--mount", "--pid", "--net", "--uts", "--fork", "--kill-child=KILL", "--mount-proc"]
    command = ["unshare", *namespaces, "--propagation", "private", sys.executable, "-m", "harness.inside"]
    cgroups.make()
    try:
        process = subprocess.Popen(
            [*command, json.dumps(settings)],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"},
            pass_fds=[door.fileno()],
            # Ctrl-C is for us: we end them.
            start_new_session=True,
            preexec_fn=end_with_us,
        )
        door.close()
        tell_pid(process.pid, told / "pid")
        endings.poll.register(os.pidfd_open(process.pid))
        try:
            while True:
                endings.wait()
        except Stopped:
            if process.poll() is not None:
                raise Failed(f"it ended by itself with {process.returncode}; logs are in {told}") from None
            raise
        finally:
            process.kill()
            process.wait()
    finally:
        cgroups.remove()
        if own:
            shutil.rmtree(own)
