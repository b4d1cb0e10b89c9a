"""What the people around an agent do, and what the agent sees of it."""

import json
import re
import time

from harness.kube import until
from harness.parts import Failed
from harness.world import (
    ACCOUNTS,
    AGENTS,
    INJECT,
    NOBODY,
    SERVER,
    TOOLS,
    WEAK,
    account,
    binding,
    new_value,
    pod,
    secret,
    tools,
)

from .stage import Stage, require, started_at


def bind(stage: Stage) -> None:
    """an MCP server, two service accounts, a Secret and a CredentialBinding for each: all Programmed"""
    stage.kube.apply(*tools(stage.work), *(account(name) for name in ACCOUNTS))
    for name in ACCOUNTS:
        stage.set_value(name, new_value())
        stage.kube.apply(secret(name, stage.values[name]), binding(name))
    for name in ACCOUNTS:
        stage.kube(
            "wait",
            f"--namespace={AGENTS}",
            f"credentialbinding/{name}-notes",
            "--for=condition=Programmed",
            "--timeout=60s",
        )
    stage.kube("wait", f"--namespace={TOOLS}", "pod/mcp", "--for=condition=Ready", "--timeout=60s")


def injected(stage: Stage, name: str) -> None:
    found = stage.ready(name)
    first = found["spec"]["initContainers"][0]
    native = first["name"] == "postern" and first.get("restartPolicy") == "Always"
    require(native, f"the first container is {first['name']}")
    sidecar = found["status"]["initContainerStatuses"][0]
    agent = found["status"]["containerStatuses"][0]
    require(sidecar["started"] and sidecar["ready"], "the sidecar is not started")
    require(
        started_at(sidecar) and started_at(sidecar) <= started_at(agent), "the agent was started before the sidecar"
    )
    require(sidecar["restartCount"] == 0, "the sidecar was restarted")


def by_label(stage: Stage) -> None:
    """an agent with the label gets the sidecar, and starts after it"""
    stage.kube.apply(pod("research", "research", labels=INJECT))
    injected(stage, "research")


def by_annotation(stage: Stage) -> None:
    """an agent with the annotation gets the sidecar; even its own init container starts after it, and calls through it"""
    early = pod("writer", args=("/app/agent.py", "call", SERVER))["spec"]["containers"][0] | {"name": "early"}
    stage.kube.apply(pod("writer", "writer", annotations=INJECT, initContainers=[early]))
    injected(stage, "writer")
    said = stage.kube("logs", f"--namespace={AGENTS}", "writer", "--container=early").strip()
    require(json.loads(said) == {"said": SERVER}, f"the init container said {said}")


def call(stage: Stage) -> None:
    """the official Python client reads mcp.json and calls the server, which saw exactly the bound credential"""
    stage.calls_with("research", "research")


def two_accounts(stage: Stage) -> None:
    """two service accounts reach the same server with two credentials"""
    stage.calls_with("writer", "writer")
    stage.calls_with("research", "research")


def unbound(stage: Stage) -> None:
    """an agent without a binding is refused, and the server sees nothing"""
    stage.kube.apply(pod("stranger", labels=INJECT))
    stage.ready("stranger")
    before = len(stage.seen())
    try:
        stage.kube.exec("stranger", "call", SERVER)
    except Failed:
        require(len(stage.seen()) == before, "the server saw a request of an agent without a binding")
        stage.delete("stranger")
        return
    raise Failed("an agent without a binding was served")


def no_value(stage: Stage) -> None:
    """no credential in the agent's environment, files or /proc, in any form"""
    # Something that is there, so that a search that finds nothing is known to search.
    *found, looked = stage.kube.exec("research", "look", text="POSTERN_MCP_CONFIG\n")
    require(
        any(line["found"].endswith("/environ") for line in found), f"the search does not see environments: {found[:5]}"
    )
    *found, looked = stage.kube.exec("research", "look", text="mcpServers\n")
    require(
        any("postern/mcp.json" in line["found"] for line in found), f"the search does not see mcp.json: {found[:5]}"
    )
    *found, looked = stage.kube.exec("research", "look", text="\n".join(stage.canaries) + "\n", seconds=180)
    require(not found, f"a credential stands in {[line['found'] for line in found]}")
    require(looked["looked"] > 1000, f"only {looked['looked']} files were looked at")


def no_token(stage: Stage) -> None:
    """no token for the broker in the agent's container: what is there is Kubernetes' own"""
    found = stage.kube.exec("research", "tokens", seconds=180)
    require(found, "not even the token that Kubernetes mounts was found: the search is blind")
    # The documentation of a Python package shows one without an audience; Kubernetes issues none like it.
    ours = [line for line in found if line["audiences"] not in (None, ["https://kubernetes.default.svc.cluster.local"])]
    require(not ours, f"tokens for somebody else: {ours}")


def no_secret_by_api(stage: Stage) -> None:
    """the agent cannot read the Secret by the API, as itself or as nobody"""
    for path in ["secrets/research-notes", "secrets", "credentialbindings"]:
        group = "/apis/postern.dev/v1alpha1" if path == "credentialbindings" else "/api/v1"
        said = stage.kube.exec("research", "api", "GET", f"{group}/namespaces/{AGENTS}/{path}", seconds=180)
        require(len(said) >= 2, f"the API was not asked with the agent's own token: {said}")
        require(all(line["status"] in (401, 403) for line in said), f"{path}: {said}")


def job(stage: Stage) -> None:
    """a Job that calls the server completes, and its sidecar does not keep it"""
    template = pod("job", "research", args=("/app/agent.py", "call", SERVER), restartPolicy="Never")
    stage.kube.apply(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "once", "namespace": AGENTS},
            "spec": {"template": {"metadata": {"labels": INJECT}, "spec": template["spec"]}, "backoffLimit": 0},
        }
    )
    stage.kube("wait", f"--namespace={AGENTS}", "job/once", "--for=condition=Complete", "--timeout=90s")
    said = stage.kube("logs", f"--namespace={AGENTS}", "job/once", "--container=agent").strip()
    require(json.loads(said) == {"said": SERVER}, f"the Job said {said}")
    stage.kube("delete", "job", f"--namespace={AGENTS}", "once", "--wait")


def rotation(stage: Stage) -> None:
    """a new value of the Secret is on the wire within seconds, no call fails, nothing restarts"""
    calls = stage.follow("research", "calls", SERVER)
    require(stage.told(calls) == {"said": SERVER}, "the first call failed")
    former, fresh = f"Bearer {stage.values['research']}", new_value()
    stage.set_value("research", fresh)
    stage.kube.apply(secret("research", fresh))
    began = time.monotonic()
    until("the server sees the new value", lambda: [f"Bearer {fresh}"] in stage.seen(), 20)
    took = time.monotonic() - began
    before = len(stage.seen())
    until("more calls are seen", lambda: len(stage.seen()) > before + 6, 60)
    lines = [stage.told(calls) for _ in range(3)]
    stage.kube.exec("research", "stop")
    wrong = [line for line in lines if line != {"said": SERVER}]
    require(not wrong, f"calls failed during the rotation: {wrong}")
    require([former] not in stage.seen()[before:], "the former value was sent after the new one")
    statuses = stage.kube.get("pod", f"--namespace={AGENTS}", "research")["status"]
    require(
        all(
            status["restartCount"] == 0
            for status in [*statuses["initContainerStatuses"], *statuses["containerStatuses"]]
        ),
        "a container was restarted",
    )
    # The commands to look are most of it.
    require(took < 15, f"it took {took:.1f} s")


def revocation(stage: Stage) -> None:
    """deleting a binding cuts its live stream, and calls are refused; made again, they are served"""
    stream = stage.follow("writer", "stream", SERVER)
    require(stage.told(stream) == "open", "the stream did not begin")
    stage.kube("delete", "credentialbinding", f"--namespace={AGENTS}", "writer-notes")
    stage.told(stream, 10)
    try:
        stage.kube.exec("writer", "call", SERVER)
    except Failed:
        pass
    else:
        raise Failed("a call was served without a binding")
    stage.kube.apply(binding("writer"))
    until("calls are served again", lambda: stage.kube.exec("writer", "call", SERVER), 30)


STDIO = '{"mcpServers": {"files": {"command": "npx", "args": ["-y", "server-filesystem"]}}}'


def refusals(stage: Stage) -> None:
    """stdio servers, hostNetwork, privileged, shared processes and our user are refused in readable words"""
    cases = {
        "stdio_unsupported": pod("stdio", labels=INJECT, container={"env": [{"name": "MCP", "value": STDIO}]}),
        "host_namespaces": pod("host-network", labels=INJECT, hostNetwork=True),
        "privileged": pod(
            "privileged",
            labels=INJECT,
            container={"securityContext": {**WEAK, "allowPrivilegeEscalation": True, "privileged": True}},
        ),
        "shared_processes": pod("shared", labels=INJECT, shareProcessNamespace=True),
        "reserved_uid": pod("our-user", labels=INJECT, securityContext={**NOBODY, "runAsUser": 64321}),
        "invalid_config": pod("unknown-key", labels=INJECT, annotations={"config.postern.dev/captur": "endpoint"}),
    }
    for reason, refused in cases.items():
        said = stage.kube.refusal(refused)
        require(
            re.search(rf"denied the request: .*{reason}", said, re.DOTALL), f"{refused['metadata']['name']}: {said}"
        )
        require(len(said) < 1200, f"{refused['metadata']['name']}: nobody reads {len(said)} characters: {said}")


def restricted(stage: Stage) -> None:
    """PodSecurity restricted is enforced in the agents' namespace, and the sidecar is within it"""
    said = stage.kube.refusal(
        pod("root", container={"securityContext": {**WEAK, "runAsUser": 0, "runAsNonRoot": False}})
    )
    require("violates PodSecurity" in said, f"a root pod was refused otherwise: {said}")
    found = stage.kube.get("namespace", AGENTS)["metadata"]["labels"]
    require(found["pod-security.kubernetes.io/enforce"] == "restricted", f"the namespace has {found}")


STEPS = [
    bind,
    by_label,
    by_annotation,
    call,
    two_accounts,
    unbound,
    no_value,
    no_token,
    no_secret_by_api,
    job,
    rotation,
    revocation,
    refusals,
    restricted,
]
