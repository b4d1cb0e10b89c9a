"""What the steps share: the cluster, the values, what the MCP server saw."""

import json
import subprocess
import threading
from pathlib import Path

from harness.kube import Kube, agent, until
from harness.parts import Failed
from harness.world import AGENTS, SYSTEM, TOOLS


def require(holds: object, what: str) -> None:
    if not holds:
        raise Failed(what)


class Stage:
    def __init__(self, kube: Kube, work: Path, node: dict, image: Path) -> None:
        self.kube, self.work, self.node, self.image = kube, work, node, image
        # Figures worth telling at the end.
        self.facts: list[str] = []
        # The credential of each account, and all there ever were.
        self.values: dict[str, str] = {}
        self.canaries: list[str] = []
        self.background: list[subprocess.Popen[str]] = []

    def set_value(self, account: str, value: str) -> None:
        self.values[account] = value
        self.canaries.append(value)

    def seen(self) -> list[list[str]]:
        """The Authorization headers of each request that the MCP server ever had."""
        lines = self.kube("logs", f"--namespace={TOOLS}", "mcp").splitlines()
        return [json.loads(line)["authorization"] for line in lines if line.startswith("{")]

    def calls_with(self, account: str, pod: str) -> None:
        """One call out of this pod arrives, and with exactly the account's credential."""
        before = len(self.seen())
        said = self.kube.exec(pod, "call", "notes")
        require(said == [{"said": "notes"}], f"the client was told {said}")
        since = self.seen()[before:]
        require(since, "the server saw no request")
        wrong = [headers for headers in since if headers != [f"Bearer {self.values[account]}"]]
        require(not wrong, f"{len(wrong)} of {len(since)} requests had other Authorization headers than the bound one")

    def ready(self, pod: str, seconds: float = 60, namespace: str = AGENTS) -> dict:
        def is_ready() -> dict | None:
            found = self.kube.get("pod", f"--namespace={namespace}", pod)
            conditions = found["status"].get("conditions", [])
            return found if any(told["type"] == "Ready" and told["status"] == "True" for told in conditions) else None

        return until(f"pod {pod} is ready", is_ready, seconds)

    def follow(self, pod: str, *arguments: object) -> subprocess.Popen[str]:
        process = self.kube.start(*agent(pod, *arguments))
        self.background.append(process)
        return process

    def told(self, process: subprocess.Popen[str], seconds: float = 60) -> object:
        """The next line of what `follow` began; one that says nothing is ended, rather than waited for."""
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        assert process.stdout
        line = process.stdout.readline()
        timer.cancel()
        if not line:
            raise Failed(f"it said nothing within {seconds} s, or ended: {' '.join(map(str, process.args[-2:]))}")
        return json.loads(line)

    def delete(self, *pods: str) -> None:
        self.kube("delete", "pod", f"--namespace={AGENTS}", *pods, "--wait", "--grace-period=1")

    def situation(self) -> str:
        """What somebody would look at first when a step failed."""
        said = []
        for arguments in [
            ("get", "pods", "--all-namespaces", "--output=wide"),
            ("get", "credentialbindings", "--all-namespaces", "--output=yaml"),
            ("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"),
            (
                "logs",
                f"--namespace={SYSTEM}",
                "--selector=app.kubernetes.io/component=controller",
                "--tail=15",
                "--prefix",
            ),
            ("logs", f"--namespace={SYSTEM}", "--selector=app.kubernetes.io/component=broker", "--tail=15", "--prefix"),
        ]:
            try:
                told = self.kube(*arguments).splitlines()
            except Failed as failure:
                told = [str(failure)]
            said += [f"-- kubectl {' '.join(arguments)}", *told[-40:]]
        return "\n".join(said)

    def close(self) -> None:
        for process in self.background:
            process.kill()
            process.wait()


def started_at(status: dict) -> str:
    """When a container was started that runs, or ran."""
    state = status["state"]
    return (state.get("running") or state.get("terminated") or {}).get("startedAt", "")
