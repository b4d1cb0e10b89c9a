"""kubectl and helm, as a user has them."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .parts import Failed


class Kube:
    def __init__(self, kubectl: Path, helm: Path, kubeconfig: str, home: Path) -> None:
        self.kubectl, self.helm_binary = kubectl, helm
        self.environment = {**os.environ, "KUBECONFIG": kubeconfig, "HOME": str(home)}

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """kubectl that goes on; its output is to be read."""
        return subprocess.Popen(
            [self.kubectl, *map(str, arguments)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, binary: Path, arguments: tuple[object, ...], text: str | None, seconds: float):
        try:
            return subprocess.run(
                [binary, *map(str, arguments)],
                env=self.environment,
                input=text or "",
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"{binary.name} {' '.join(map(str, arguments))}: no end within {seconds} s") from None

    def __call__(self, *arguments: object, text: str | None = None, seconds: float = 120) -> str:
        done = self.run(self.kubectl, arguments, text, seconds)
        if done.returncode != 0:
            raise Failed(f"kubectl {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def helm(self, *arguments: object, seconds: float = 300, binary: Path | None = None) -> str:
        done = self.run(binary or self.helm_binary, arguments, None, seconds)
        if done.returncode != 0:
            raise Failed(f"helm {' '.join(map(str, arguments))}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: object) -> dict:
        return json.loads(self("get", *arguments, "--output=json"))

    def apply(self, *documents: dict) -> None:
        self("apply", "--filename=-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)}))

    def refusal(self, document: dict) -> str:
        """What whoever creates this is told; it has to be refused."""
        done = self.run(self.kubectl, ("create", "--filename=-"), json.dumps(document), 60)
        if done.returncode == 0:
            raise Failed(f"{document['kind']} {document['metadata']['name']} was created, and should have been refused")
        return done.stderr.strip()

    def exec(
        self,
        pod: str,
        *arguments: object,
        text: str | None = None,
        seconds: float = 60,
        namespace: str = "agents",
        program: str = "agent.py",
    ) -> list:
        """What a program of ours prints in an agent's container, line by line."""
        given = agent(pod, *arguments, interactive=text is not None, namespace=namespace, program=program)
        out = self(*given, text=text, seconds=seconds)
        return [json.loads(line) for line in out.splitlines()]


def agent(
    pod: str,
    *arguments: object,
    interactive: bool = False,
    namespace: str = "agents",
    program: str = "agent.py",
) -> list[object]:
    given = ["--stdin"] if interactive else []
    python = ["/python/bin/python3", f"/app/{program}"]
    return ["exec", f"--namespace={namespace}", *given, pod, "--container=agent", "--", *python, *arguments]


def until(what: str, holds: Callable[[], object], seconds: float = 60, pause: float = 0.2):
    """The first true value of `holds`; a failed command counts as not yet."""
    began = time.monotonic()
    while True:
        said = "it does not hold"
        try:
            if value := holds():
                return value
        except Failed as failure:
            said = str(failure)
        if time.monotonic() - began > seconds:
            raise Failed(f"not within {seconds} s: {what}; at last: {said}")
        time.sleep(pause)
