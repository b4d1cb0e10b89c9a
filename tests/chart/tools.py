"""What the checks of the chart share: where things are, and how they are rendered."""

import contextlib
import functools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHART = ROOT / "charts/postern"
MANIFESTS = ROOT / "manifests"
HELMS = {"Helm 4": os.environ["HELM4"], "Helm 3": os.environ["HELM3"]}
NAMESPACE = "postern-system"
# The oldest that the chart allows; a Helm that was built by hand takes far older ones for granted.
KUBE = "--kube-version=1.30.0"
# For an API server without a node, where nobody runs the Job that looks at the installation.
NO_HOOKS = "--no-hooks"
# A value set that stands on another.
BENEATH = {"ha": [CHART / "values-ha.yaml"]}

# One that any server takes.
BINDING = {
    "apiVersion": "postern.dev/v1alpha1",
    "kind": "CredentialBinding",
    "metadata": {"name": "github", "namespace": "default"},
    "spec": {
        "serviceAccounts": ["agent"],
        "server": {"name": "github", "url": "https://mcp.example/mcp"},
        "credential": {"type": "Bearer", "secretRef": {"name": "github", "key": "token"}},
    },
}

Document = dict[str, Any]


def run(*command: object, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in command], input=stdin, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(str(word) for word in command)}: {done.stdout}{done.stderr}")
    return done


def sets() -> list[str]:
    return sorted(path.stem for path in (HERE / "values").glob("*.yaml"))


def values(name: str) -> list[str]:
    """The arguments of Helm for a value set."""
    return [f"--values={path}" for path in [*BENEATH.get(name, []), HERE / "values" / f"{name}.yaml"]]


@functools.cache
def render(name: str, helm: str = HELMS["Helm 4"]) -> str:
    return template(helm, *values(name)).stdout


def template(helm: str, *arguments: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [helm, "template", "postern", CHART, KUBE, f"--namespace={NAMESPACE}", *arguments]
    return run(*command, stdin=stdin, check=check)


def parse(text: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(text) if document]


def documents(name: str) -> list[Document]:
    return parse(render(name))


def identity(document: Document) -> tuple[str, str, str]:
    meta = document["metadata"]
    return document["kind"], meta.get("namespace", ""), meta["name"]


def pods(rendered: list[Document]) -> Iterator[tuple[str, Document]]:
    """The pod of each workload."""
    for document in rendered:
        if document["kind"] in ("Deployment", "Job"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]
        elif document["kind"] == "Pod":
            yield document["metadata"]["name"], document["spec"]


def is_foreign(document: Document) -> bool:
    """Of a kind that no plain API server has."""
    return document["apiVersion"].split("/")[0] in ("monitoring.coreos.com", "cert-manager.io")


class ApiServer:
    """A real one, for as long as the checks run."""

    def __init__(self, told: dict[str, str]) -> None:
        self.kubeconfig = told["kubeconfig"]
        self.authority = Path(told["ca"]).read_bytes()

    def kubectl(self, *arguments: object, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        return run(os.environ["KUBECTL"], f"--kubeconfig={self.kubeconfig}", *arguments, stdin=stdin, check=check)

    def get(self, *arguments: object) -> Any:
        return json.loads(self.kubectl("get", *arguments, "--output=json").stdout)


@contextlib.contextmanager
def api_server() -> Iterator[ApiServer]:
    command = [ROOT / "tests/cluster/apiserver"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        told = process.stdout.readline() if process.stdout else ""
        if not told:
            raise AssertionError("the API server did not start; what it said stands above")
        try:
            yield ApiServer(json.loads(told))
        finally:
            # It ends with its standard input.
            if process.stdin:
                process.stdin.close()
            process.wait(30)
