"""What the platform engineer does: install, upgrade, roll back, uninstall; and what a Prometheus sees meanwhile."""

import gzip
import io
import json
import re
import subprocess
import sys
import tarfile
import urllib.parse
from pathlib import Path

from harness.kube import until
from harness.outside import need
from harness.parts import HERE, REPOSITORY, Failed
from harness.world import AGENTS, SERVER, SYSTEM, TOOLS, namespace, new_value, secret

from .stage import Stage, require

CHART = REPOSITORY / "charts/postern"
IMAGE = ["--set=image.repository=localhost/postern", "--set=image.pullPolicy=Never"]


def image(stage: Stage) -> None:
    """the image is one static binary without a shell, a user by number, and less than 20 MiB to pull"""
    with tarfile.open(stage.image) as archive:
        told = json.load(archive.extractfile("manifest.json"))[0]
        config = json.load(archive.extractfile(told["Config"]))["config"]
        layers = [archive.extractfile(name).read() for name in told["Layers"]]
    files = [entry for layer in layers for entry in tarfile.open(fileobj=io.BytesIO(layer)) if not entry.isdir()]
    names = [entry.name.strip("/") for entry in files]
    require(names == ["postern"], f"it holds {names}")
    require(files[0].mode & 0o7777 == 0o555, f"the binary has mode {files[0].mode:o}")
    require(config["User"] == "64321:64321", f"its user is {config.get('User')}")
    require(config["Entrypoint"] == ["/postern"] and not config.get("Cmd"), f"it starts {config}")
    packed = sum(len(gzip.compress(layer)) for layer in layers)
    require(packed < 20 << 20, f"it is {packed / 1048576:.1f} MiB to pull")
    stage.facts.append(f"image: {packed / 1048576:.1f} MiB to pull, {sum(map(len, layers)) / 1048576:.1f} MiB unpacked")


def install(stage: Stage) -> None:
    """helm install --wait from nothing: controller and broker are ready"""
    stage.kube.apply(namespace(AGENTS), namespace(TOOLS), namespace(SYSTEM))
    stage.kube.helm(
        "install",
        "postern",
        CHART,
        f"--namespace={SYSTEM}",
        *IMAGE,
        f"--set=broker.namespaces={{{AGENTS}}}",
        "--wait",
        "--timeout=120s",
    )
    for component in ["controller", "broker"]:
        status = stage.kube.get(f"--namespace={SYSTEM}", f"deployment/postern-{component}")["status"]
        require(status.get("readyReplicas") == 2, f"{component}: {status}")


def checks(stage: Stage) -> int:
    """How often the Job that looks at the installation has come to a good end."""
    events = stage.kube.get("events", f"--namespace={SYSTEM}", "--field-selector=reason=Completed")["items"]
    return sum(
        event.get("count") or 1
        for event in events
        if event["involvedObject"]["kind"] == "Job" and event["involvedObject"]["name"] == "postern-check"
    )


def helm_test(stage: Stage, binary: Path | None = None) -> None:
    stage.kube.helm("test", "postern", f"--namespace={SYSTEM}", "--timeout=60s", binary=binary)


def check(stage: Stage) -> None:
    """the installation has looked at itself; helm test does, finds a policy that is gone, and says how to mend it"""
    before = checks(stage)
    require(before, "the Job after the installation has not completed")
    helm_test(stage)
    stage.kube("delete", "validatingadmissionpolicybinding", "postern-exec")
    try:
        helm_test(stage)
    except Failed:
        pass
    else:
        raise Failed("helm test did not find that a policy denies nothing")
    said = stage.kube("logs", f"--namespace={SYSTEM}", "postern-check")
    line = next((line for line in said.splitlines() if "postern-exec" in line), "")
    require("wrong" in line and "->" in said, f"it does not say what is wrong, and what to do: {said}")
    stage.kube.helm("upgrade", "postern", CHART, f"--namespace={SYSTEM}", "--reuse-values", "--wait")
    until("the Job after the upgrade has completed", lambda: checks(stage) > before, 10)
    helm_test(stage)


class Prometheus:
    """Debian's, in the node's network. It is built without the discovery of pods, so we tell it what that would."""

    def __init__(self, stage: Stage) -> None:
        folder = stage.work / "prometheus"
        folder.mkdir()
        settled(stage, SYSTEM)
        (folder / "targets.json").write_text(json.dumps(discovered(stage)))
        job = (CHART / "files/scrape.yaml").read_text()
        discovery = "kubernetes_sd_configs:\n  - role: pod\n"
        require(discovery in job, "the shipped job discovers otherwise than this test replaces")
        job = job.replace(discovery, f"file_sd_configs:\n  - files: [{folder}/targets.json]\n")
        (folder / "rules.yaml").write_text((CHART / "files/rules.yaml").read_text())
        (folder / "prometheus.yaml").write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            f"rule_files: [{folder}/rules.yaml]\nscrape_configs:\n{job}"
        )
        self.enter = ["nsenter", "--net", f"--target={stage.node['pid']}"]
        self.log = folder / "log"
        program = Path(need(HERE / "setup")) / "usr/bin/prometheus"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *self.enter,
                    program if program.exists() else "prometheus",
                    f"--config.file={folder}/prometheus.yaml",
                    f"--storage.tsdb.path={folder}/data",
                    "--web.listen-address=127.0.0.1:9090",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def ask(self, path: str, **arguments: str) -> dict:
        if self.process.poll() is not None:
            raise RuntimeError(f"Prometheus ended: {self.log.read_text()[-2000:]}")
        url = f"http://127.0.0.1:9090/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
        program = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
        done = subprocess.run(
            [*self.enter, sys.executable, "-c", program, url], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Failed(f"Prometheus, {path}: {done.stderr.splitlines()[-1]}")
        return json.loads(done.stdout)["data"]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def discovered(stage: Stage) -> list[dict]:
    """The ports of all pods, with the labels that Prometheus' own discovery of the role `pod` gives them."""
    targets = []
    for pod in stage.kube.get("pods", "--all-namespaces")["items"]:
        address = pod["status"].get("podIP")
        labels = {
            "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
            "__meta_kubernetes_pod_name": pod["metadata"]["name"],
            "__meta_kubernetes_pod_phase": pod["status"]["phase"],
        }
        for name, value in pod["metadata"].get("labels", {}).items():
            labels[f"__meta_kubernetes_pod_label_{re.sub('[^a-zA-Z0-9_]', '_', name)}"] = value
        for kind in ["initContainers", "containers"]:
            for container in pod["spec"].get(kind, []):
                for port in container.get("ports", []):
                    own = {
                        "__meta_kubernetes_pod_container_name": container["name"],
                        "__meta_kubernetes_pod_container_init": str(kind == "initContainers").lower(),
                        "__meta_kubernetes_pod_container_port_name": port.get("name", ""),
                    }
                    targets.append({"targets": [f"{address}:{port['containerPort']}"], "labels": {**labels, **own}})
    return targets


def prometheus(stage: Stage) -> None:
    """a real Prometheus with the shipped scrape config sees the sidecars' series, and loads the alert rules"""
    server = Prometheus(stage)
    try:
        wanted = {found["metadata"]["name"] for found in settled(stage, SYSTEM)} | {"research", "writer"}

        def scraped() -> bool:
            targets = server.ask("targets", state="active")["activeTargets"]
            found = {target["labels"]["pod"] for target in targets if target["health"] == "up"}
            if found != wanted or len(targets) != len(wanted):
                raise Failed(f"{found} are scraped, of {len(targets)} targets, and should be {wanted}")
            return True

        until("sidecars, controller and broker are scraped, and nothing else", scraped, 60)
        before = until("the calls are seen", lambda: calls(server), 30)
        stage.calls_with("research", "research")
        until("one more call is seen", lambda: calls(server) > before, 30)
        groups = until("the rules are loaded", lambda: server.ask("rules")["groups"], 30)
        rules = [rule for group in groups for rule in group["rules"]]
        wanted = (CHART / "files/rules.yaml").read_text().count("- alert:")
        require(len(rules) == wanted, f"{len(rules)} of {wanted} alerts are loaded")
        until(
            "each rule was evaluated",
            lambda: all(rule["health"] == "ok" for group in server.ask("rules")["groups"] for rule in group["rules"]),
            30,
        )
    finally:
        server.stop()


def calls(server: Prometheus) -> float:
    """How many requests of the agent `research` the metrics tell of."""
    told = server.ask("query", query=f'sum(postern_requests_total{{pod="research",server="{SERVER}"}})')["result"]
    return float(told[0]["value"][1]) if told else 0.0


def upgrade(stage: Stage) -> None:
    """helm upgrade changes what it is told and nothing else; helm rollback takes it back; agents go on"""

    def level() -> bool:
        args = stage.kube.get(f"--namespace={SYSTEM}", "deployment/postern-controller")["spec"]["template"]["spec"]
        return "--log-level=debug" in args["containers"][0]["args"]

    def authority() -> list[str]:
        return [
            stage.kube.get(f"--namespace={SYSTEM}", f"secret/{name}").get("data", {}).get("ca.crt", "")
            for name in ["postern-webhook-cert", "postern-broker-ca"]
        ]

    before = authority()
    require(all(before), "the authorities are not in their Secrets")
    stage.kube.helm(
        "upgrade",
        "postern",
        CHART,
        f"--namespace={SYSTEM}",
        "--reuse-values",
        "--set=controller.logLevel=debug",
        "--wait",
        "--timeout=180s",
    )
    require(level(), "the upgrade did not reach the controller")
    stage.calls_with("research", "research")
    stage.kube.helm("rollback", "postern", f"--namespace={SYSTEM}", "--wait", "--timeout=180s")
    require(not level(), "the rollback did not reach the controller")
    require(authority() == before, "an upgrade replaced an authority")
    stage.calls_with("writer", "writer")


def settled(stage: Stage, place: str) -> list[dict]:
    """The pods of a namespace, when none of them is on its way out."""

    def staying() -> list[dict] | None:
        found = stage.kube.get("pods", f"--namespace={place}")["items"]
        return None if any("deletionTimestamp" in pod["metadata"] for pod in found) else found

    return until(f"no pod of {place} is ending", staying, 90)


def no_value_in_logs(stage: Stage) -> None:
    """no credential in any log of sidecars, broker, controller, kubelet or API server, nor in any object but Secrets"""
    said = []
    for place in [AGENTS, SYSTEM]:
        for found in settled(stage, place):
            name = found["metadata"]["name"]
            said.append((name, stage.kube("logs", f"--namespace={place}", name, "--all-containers")))
    said += [(log.name, log.read_text(errors="replace")) for log in sorted((stage.work / "logs").glob("*.log"))]
    for kind in ["pods", "events", "configmaps", "credentialbindings", "leases"]:
        said.append((kind, stage.kube("get", kind, "--all-namespaces", "--output=yaml")))
    found = [name for name, text in said if any(value in text for value in stage.canaries)]
    require(len(said) > 10 and any("postern" in name for name, _ in said), f"too little was looked at: {len(said)}")
    require(not found, f"a credential stands in {found}")


def left(stage: Stage) -> set[str]:
    """What is in the cluster of Postern: by its name, or by the chart's label."""
    kinds = stage.kube("api-resources", "--verbs=list", "--output=name").split()
    found = set()
    for kind in kinds:
        if kind.startswith(("events", "pods.metrics")):
            continue
        for item in json.loads(stage.kube("get", kind, "--all-namespaces", "--output=json"))["items"]:
            meta = item["metadata"]
            if "postern" in meta["name"] or meta.get("labels", {}).get("app.kubernetes.io/name") == "postern":
                found.add(f"{kind}/{meta['name']}")
    return found


def kept(stage: Stage) -> None:
    """Of Postern only that is left which others depend on, or made."""
    until("the last pods are gone", lambda: not stage.kube.get("pods", f"--namespace={SYSTEM}")["items"], 60)
    keep = {
        "customresourcedefinitions.apiextensions.k8s.io/credentialbindings.postern.dev",
        # The API server's own, for that kind.
        "apiservices.apiregistration.k8s.io/v1alpha1.postern.dev",
        "secrets/postern-broker-ca",
        "configmaps/postern-broker-ca",
        # What a user made, not the chart.
        f"namespaces/{SYSTEM}",
    }
    stays = left(stage)
    require(stays <= keep, f"also left: {sorted(stays - keep)}")
    require(stays == keep, f"not kept: {sorted(keep - stays)}")
    names = [
        found["metadata"]["name"] for found in stage.kube.get("credentialbindings", f"--namespace={AGENTS}")["items"]
    ]
    require(sorted(names) == ["research-notes", "writer-notes"], f"bindings that are left: {names}")


def uninstall(stage: Stage) -> None:
    """helm uninstall leaves nothing but what `keep` says: the kind with its bindings, and the broker's authority"""
    stage.kube.helm("uninstall", "postern", f"--namespace={SYSTEM}", "--wait", "--timeout=120s")
    kept(stage)


def helm_3(stage: Stage) -> None:
    """the same with Helm 3: install over what was kept, to which running agents return; test, upgrade, uninstall"""
    binary = Path(need(REPOSITORY / "tests/cluster/setup", "helm3")) / "helm"

    def helm(*arguments: object) -> None:
        stage.kube.helm(*arguments, f"--namespace={SYSTEM}", "--wait", "--timeout=120s", binary=binary)

    helm("install", "postern", CHART, *IMAGE, f"--set=broker.namespaces={{{AGENTS}}}")
    # A value that no sidecar has had: it comes from the broker that was just installed.
    stage.set_value("research", new_value())
    stage.kube.apply(secret("research", stage.values["research"]))
    until(
        "the running agent's sidecar has the new value",
        lambda: stage.calls_with("research", "research") or True,
        60,
    )
    helm_test(stage, binary)
    helm("upgrade", "postern", CHART, "--reset-then-reuse-values", "--set=broker.logLevel=debug")
    stage.calls_with("research", "research")
    helm("uninstall", "postern")
    kept(stage)


INSTALL = [install]
STEPS = [check, image, upgrade, prometheus, no_value_in_logs, uninstall, helm_3]
