"""The part of a node that runs inside its namespaces, as their first process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from . import archive, manifests
from .parts import HERE, Failed, Stopped, apiserver

ADDRESS = "172.31.255.1"
NOBODY = "172.31.255.254"
NODE = "node"
STATE = Path("/run/postern-node")
PORT = 6443
READY_WITHIN = 180  # seconds; about 15 are usual on an idle machine
CLIENTS = {
    **apiserver.ADMIN,
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "proxy": "/CN=system:kube-proxy",
    # By this name and group the API server knows which Secrets and tokens are a node's business.
    "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
}
# What the kubelet sets for the whole machine: it sets a copy instead.
MACHINE_WIDE = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
]


def command(*arguments: object) -> str:
    run = subprocess.run([str(argument) for argument in arguments], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise Failed(f"{' '.join(map(str, arguments))}: {run.stderr.strip() or run.stdout.strip()}")
    return run.stdout


# ---- the ground it stands on ----


def make_mounts() -> None:
    command("mount", "--make-rprivate", "/")
    command("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    STATE.mkdir()
    # Here is written what would be left on the machine.
    for folder in ["/var/lib", "/var/log"]:
        layer = STATE / "layers" / folder.replace("/", "_")
        (layer / "upper").mkdir(parents=True)
        (layer / "work").mkdir()
        options = f"lowerdir={folder},upperdir={layer}/upper,workdir={layer}/work"
        command("mount", "-t", "overlay", "-o", options, "overlay", folder)
    Path("/var/lib/kubelet").mkdir()
    command("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/var/lib/kubelet")
    for name in MACHINE_WIDE:
        setting = Path("/proc/sys") / name
        if setting.exists():
            copy = STATE / "settings" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(setting.read_text())
            command("mount", "--bind", copy, setting)
    # Containers get volumes that are mounted after they were started.
    command("mount", "--make-rshared", "/")


def make_network() -> None:
    socket.sethostname(NODE)
    command("ip", "link", "set", "lo", "up")
    # The kubelet wants a default route. This one leads to an interface that nobody reads.
    command("ip", "link", "add", "node0", "type", "veth", "peer", "name", "nowhere")
    command("ip", "address", "add", f"{ADDRESS}/24", "dev", "node0")
    command("ip", "link", "set", "node0", "up")
    command("ip", "link", "set", "nowhere", "up")
    command("ip", "route", "add", "default", "via", NOBODY)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


# ---- its processes ----


def write_configurations(settings: dict) -> None:
    debian = Path(settings["debian"])
    tools = [debian / "usr/bin", debian / "usr/sbin"]
    runc = next((str(path) for path in [tools[0] / "runc", tools[1] / "runc"] if path.exists()), "runc")
    plugins = debian / "usr/lib/cni"
    if not plugins.exists():
        plugins = Path("/usr/lib/cni")
    (STATE / "containerd.toml").write_text(manifests.CONTAINERD.format(state=STATE, runc=runc, plugins=plugins))
    (STATE / "cni").mkdir()
    (STATE / "cni/10-pods.conflist").write_text(json.dumps(manifests.NETWORK))
    (STATE / "resolv.conf").write_text(f"nameserver {NOBODY}\n")
    kubelet = manifests.kubelet(STATE, ADDRESS, settings["cgroup"])
    (STATE / "kubelet.json").write_text(json.dumps(kubelet))
    (STATE / "proxy.json").write_text(json.dumps(manifests.proxy(STATE, NODE)))
    for client in CLIENTS:
        (STATE / f"{client}.kubeconfig").write_text(apiserver.kubeconfig(STATE, f"https://127.0.0.1:{PORT}", client))


def with_node() -> list[str]:
    """An API server that pods and the kubelet reach, and that reaches the kubelet."""
    return [
        "--bind-address=0.0.0.0",
        f"--advertise-address={ADDRESS}",
        f"--kubelet-client-certificate={STATE}/admin.crt",
        f"--kubelet-client-key={STATE}/admin.key",
        # Nobody resolves the node's name.
        "--kubelet-preferred-address-types=InternalIP",
        # Or a test would wait for what a kubelet is not allowed to do elsewhere.
        "--enable-admission-plugins=NodeRestriction",
    ]


def start_control(processes: "apiserver.Processes", node: Path) -> None:
    keys = [f"--root-ca-file={STATE}/ca.crt", f"--service-account-private-key-file={STATE}/service-accounts.key"]
    processes.start(
        "kube-controller-manager",
        [
            f"--kubeconfig={STATE}/controller-manager.kubeconfig",
            *keys,
            "--use-service-account-credentials",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--profiling=false",
        ],
        node / "kube-controller-manager",
    )
    processes.start(
        "kube-scheduler",
        [
            f"--kubeconfig={STATE}/scheduler.kubeconfig",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
        ],
        node / "kube-scheduler",
    )


def start_node(processes: "apiserver.Processes", settings: dict) -> None:
    node = Path(settings["node"])
    processes.start(
        "kubelet",
        [
            f"--config={STATE}/kubelet.json",
            f"--kubeconfig={STATE}/kubelet.kubeconfig",
            f"--hostname-override={NODE}",
            f"--node-ip={ADDRESS}",
        ],
        node / "kubelet",
    )
    processes.start("kube-proxy", [f"--config={STATE}/proxy.json"], node / "kube-proxy")


def make_images(settings: dict) -> list[Path]:
    """The pause container, which holds a pod's namespaces, and the DNS server."""
    command("cc", "-static", "-O1", "-o", STATE / "pause", HERE / "harness/pause.c")
    archive.write(STATE / "pause.tar", manifests.PAUSE, [("pause", STATE / "pause", 0o755)], {"Entrypoint": ["/pause"]})
    dns = Path(settings["dns"]) / "coredns"
    archive.write(STATE / "dns.tar", manifests.DNS_IMAGE, [("coredns", dns, 0o755)], {"Entrypoint": ["/coredns"]})
    return [STATE / "pause.tar", STATE / "dns.tar"]


def start_containerd(processes: "apiserver.Processes", settings: dict, images: list[Path]) -> None:
    debian = Path(settings["debian"]) / "usr/bin"
    folder = debian if (debian / "containerd").exists() else Path("/usr/bin")
    processes.start("containerd", ["--config", str(STATE / "containerd.toml")], folder / "containerd")
    began = time.monotonic()
    ctr = [folder / "ctr", "--address", STATE / "containerd.sock", "--namespace", "k8s.io"]
    while True:
        try:
            command(*ctr, "version")
            break
        except Failed as failure:
            if time.monotonic() - began > READY_WITHIN:
                log = apiserver.end_of(processes.logs / "containerd.log")
                raise Failed(f"no containerd within {READY_WITHIN} s: {failure}; {log}") from None
        processes.endings.wait(0.1)
    for image in images:
        command(*ctr, "images", "import", image)


def wait_until(processes: "apiserver.Processes", what: str, log: str, kubectl: list[object], wanted: str) -> None:
    began = told = time.monotonic()
    while True:
        try:
            found = command(*kubectl)
        except Failed as failure:
            found = str(failure)
        if found.strip() == wanted:
            return
        now = time.monotonic()
        if now - began > READY_WITHIN:
            end = apiserver.end_of(processes.logs / f"{log}.log")
            raise Failed(f"{what} within {READY_WITHIN} s: '{found}'; {end}")
        if now - told > 15:
            say(f"waiting, {now - began:.0f} s: {what}: '{found}'")
            told = now
        processes.endings.wait(0.2)


def say(text: str) -> None:
    print(f"node: {text}", file=sys.stderr, flush=True)


def serve(settings: dict, endings: "apiserver.Endings") -> None:
    began = time.monotonic()
    told, kube, debian = Path(settings["told"]), Path(settings["kube"]), settings["debian"]
    make_mounts()
    make_network()
    apiserver.make_certificates(STATE, CLIENTS, (ADDRESS,))
    write_configurations(settings)
    path = f"{debian}/usr/bin:{debian}/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    libraries = f"{debian}/usr/lib/{os.uname().machine}-linux-gnu"
    environment = {"PATH": path, "LD_LIBRARY_PATH": libraries, "HOME": str(STATE), "PYTHONPATH": str(HERE)}
    processes = apiserver.Processes(kube, told, endings, environment)
    try:
        own = make_images(settings)
        os.environ["LD_LIBRARY_PATH"] = libraries
        start_containerd(processes, settings, [*own, *map(Path, settings["images"])])
        say(f"containerd has its images, {time.monotonic() - began:.1f} s")
        apiserver.start_server(processes, STATE, PORT, with_node(), apiserver.admin_trust(STATE))
        say(f"the API server is ready, {time.monotonic() - began:.1f} s")
        start_control(processes, Path(settings["node"]))
        start_node(processes, settings)
        door = ["-m", "harness.door", str(settings["door"]), str(PORT)]
        processes.start("door", door, Path(sys.executable), (settings["door"],))
        kubectl = [kube / "kubectl", f"--kubeconfig={STATE}/admin.kubeconfig"]
        (STATE / "dns.json").write_text(json.dumps(manifests.dns()))
        wait_until(
            processes,
            "the namespaces' service accounts are not there",
            "kube-controller-manager",
            [*kubectl, "get", "--namespace=kube-system", "serviceaccount", "default", "--output=name"],
            "serviceaccount/default",
        )
        command(*kubectl, "apply", "--server-side", "--filename", STATE / "dns.json")
        wait_until(
            processes, "the node is not ready", "kubelet", [*kubectl, "get", "node", NODE, f"--output={READY}"], "True"
        )
        say(f"the node is ready, {time.monotonic() - began:.1f} s")
        wait_until(
            processes,
            "the DNS server is not ready",
            "kubelet",
            [
                *kubectl,
                "get",
                "--namespace=kube-system",
                "deployment",
                "coredns",
                "--output=jsonpath={.status.readyReplicas}",
            ],
            "1",
        )
        config = told / "kubeconfig"
        config.touch(mode=0o600)
        url = f"https://127.0.0.1:{settings['port']}"
        config.write_text(apiserver.kubeconfig(STATE, url))
        ready = round((time.monotonic() - began) * 1000)
        pid = int((told / "pid").read_text())
        print(json.dumps({"kubeconfig": str(config), "url": url, "pid": pid, "ready_ms": ready}), flush=True)
        while True:
            endings.wait()
    finally:
        for name in ["kubeconfig", "pid"]:
            (told / name).unlink(missing_ok=True)
        processes.stop()


READY = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'


def be_first(child: int) -> None:
    """What the first process of a namespace has to do: to inherit what others leave, and to end with its own child."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    while True:
        ended, status = os.wait()
        if ended == child:
            os._exit(os.waitstatus_to_exitcode(status) & 255)


def main() -> None:
    settings = json.loads(sys.argv[1])
    if child := os.fork():
        be_first(child)
    try:
        serve(settings, apiserver.Endings())
    except Stopped:
        pass
    except Failed as failure:
        say(str(failure))
        sys.exit(1)


if __name__ == "__main__":
    main()
