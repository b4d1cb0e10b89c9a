"""What the agents see when a part of Postern is down, or replaced."""

import json
import threading
import time

from harness.kube import until
from harness.parts import Failed
from harness.world import AGENTS, INJECT, PAUSE_IMAGE, SYSTEM, pod

from .stage import Stage, require

PODS = 200
BATCH = 10
SCHEDULED = 10  # one of so many


def pods_of(stage: Stage, component: str) -> list[dict]:
    selector = f"--selector=app.kubernetes.io/component={component}"
    return stage.kube.get("pods", f"--namespace={SYSTEM}", selector)["items"]


def stop_component(stage: Stage, component: str) -> int:
    """Until none of its pods is there; returns how many there are to be."""
    name = f"deployment/postern-{component}"
    wanted = stage.kube.get(f"--namespace={SYSTEM}", name)["spec"]["replicas"]
    stage.kube("scale", f"--namespace={SYSTEM}", name, "--replicas=0")
    until(f"no {component} runs", lambda: not pods_of(stage, component), 90)
    return wanted


def start_component(stage: Stage, component: str, replicas: int) -> None:
    name = f"deployment/postern-{component}"
    stage.kube("scale", f"--namespace={SYSTEM}", name, f"--replicas={replicas}")
    stage.kube("rollout", "status", f"--namespace={SYSTEM}", name, "--timeout=90s")


def webhook_down(stage: Stage) -> None:
    """without the webhook pods that ask for a sidecar are refused, others start, running ones go on"""
    replicas = stop_component(stage, "controller")
    try:
        said = stage.kube.refusal(pod("waiting", labels=INJECT))
        require("injector.postern.dev" in said, f"the refusal does not say who is missing: {said}")
        stage.kube.refusal(pod("waiting", annotations=INJECT))
        stage.kube.apply(pod("plain"))
        stage.ready("plain")
        stage.calls_with("research", "research")
    finally:
        start_component(stage, "controller", replicas)
    stage.delete("plain")
    until("pods with a sidecar are created again", lambda: stage.kube.apply(pod("waiting", labels=INJECT)) or True, 30)
    stage.ready("waiting")
    stage.delete("waiting")


def broker_down(stage: Stage) -> None:
    """without the broker running agents go on; a new one waits, and starts when it is back"""
    replicas = stop_component(stage, "broker")
    try:
        stage.calls_with("research", "research")
        stage.calls_with("writer", "writer")
        stage.kube.apply(pod("patient", "research", labels=INJECT))

        def sidecar() -> dict | None:
            statuses = stage.kube.get("pod", f"--namespace={AGENTS}", "patient")["status"]
            found = statuses.get("initContainerStatuses", [{}])[0]
            return statuses if "running" in found.get("state", {}) else None

        statuses = until("the new agent's sidecar runs", sidecar, 60)
        # The kubelet asks it every second; three times are enough to be told wrongly.
        until("three probes were made", lambda: time.sleep(3) or True, 10)
        statuses = stage.kube.get("pod", f"--namespace={AGENTS}", "patient")["status"]
        agent = statuses["containerStatuses"][0]
        require("waiting" in agent["state"], f"the agent was started without a credential source: {agent['state']}")
    finally:
        start_component(stage, "broker", replicas)
    stage.ready("patient", 90)
    stage.calls_with("research", "patient")
    stage.delete("patient")


def rollout(stage: Stage) -> None:
    """the controller is rolled while 200 pods are created: none is refused, all have the same sidecar"""
    name = "deployment/postern-controller"
    refused: list[str] = []
    rolls: list[int] = []
    created = threading.Event()

    def roll() -> None:
        while not created.is_set():
            stage.kube("rollout", "restart", f"--namespace={SYSTEM}", name)
            stage.kube("rollout", "status", f"--namespace={SYSTEM}", name, "--timeout=120s")
            rolls.append(1)

    def batch(first: int) -> None:
        # Only admission is at stake, and a node of two cores would be starting 400 containers long after the rolls. So
        # one of ten is scheduled, and the sidecars of the others have to be the same as those that are seen to work.
        pods = [
            pod(
                f"many-{number}",
                labels={**INJECT, "many": "true"},
                container={"image": PAUSE_IMAGE, "args": []},
                schedulingGates=[{"name": "tests/never"}] if number % SCHEDULED else [],
            )
            for number in range(first, first + BATCH)
        ]
        try:
            stage.kube("create", "--filename=-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))
        except Failed as failure:
            refused.append(str(failure))

    before = {found["metadata"]["name"] for found in pods_of(stage, "controller")}
    roller = threading.Thread(target=roll)
    roller.start()
    try:
        for first in range(0, PODS, BATCH):
            batch(first)
            # Spread over more than one roll, each of which takes some seconds.
            time.sleep(0.5)
    finally:
        created.set()
        roller.join()
    require(rolls, "the controller was not rolled to the end")
    require(not refused, f"{len(refused)} of {PODS // BATCH} batches were refused: {refused[:1]}")
    found = stage.kube.get("pods", f"--namespace={AGENTS}", "--selector=many=true")["items"]
    require(len(found) == PODS, f"{len(found)} of {PODS} pods are there")
    sidecars = {json.dumps(each["spec"].get("initContainers", [{}])[0], sort_keys=True) for each in found}
    require(len(sidecars) == 1, f"there are {len(sidecars)} kinds of sidecars: {sorted(sidecars)[:2]}")
    require('"name": "postern"' in sidecars.pop(), "the pods have no sidecar")
    require(before, "no controller ran")
    until(
        "the former controllers are gone",
        lambda: not before & {found["metadata"]["name"] for found in pods_of(stage, "controller")},
        60,
    )
    for number in range(0, PODS, SCHEDULED):
        stage.ready(f"many-{number}", 90)
    stage.kube(
        "delete", "pods", f"--namespace={AGENTS}", "--selector=many=true", "--grace-period=1", "--wait", seconds=180
    )


STEPS = [webhook_down, broker_down, rollout]
