"""Agents that know only a server's own URL: by the proxy in their environment, and by what their pod's network does."""

import json
import re

from harness.kube import until
from harness.world import AGENTS, HOST, INJECT, SYSTEM, TOOLS, account, binding, namespace, new_value, pod, secret

from .release import CHART
from .stage import Stage, require

# NET_ADMIN, which postern-init has, is within no other standard.
CAPTURED = "captured"
PRIVILEGED = {
    "pod-security.kubernetes.io/enforce": "privileged",
    "pod-security.kubernetes.io/warn": "restricted",
}
URL = f"https://{HOST}/mcp"
FREE = f"free.{TOOLS}.svc.cluster.local"
REDIRECTED = "redirected"


def calls_by_url(stage: Stage, account: str, pod_name: str, space: str) -> None:
    """One call by the server's own URL arrives, with exactly the account's credential."""
    before = len(stage.seen())
    said = stage.kube.exec(pod_name, "call-url", URL, namespace=space)
    require(said == [{"said": "notes"}], f"the client was told {said}")
    since = stage.seen()[before:]
    wrong = [headers for headers in since if headers != [f"Bearer {stage.values[account]}"]]
    require(since and not wrong, f"{len(wrong)} of {len(since)} requests had other Authorization headers")


def by_proxy(stage: Stage) -> None:
    """capture proxy: an unchanged client calls the server by its https name, within PodSecurity restricted"""
    annotations = {"config.postern.dev/capture": "proxy"}
    stage.kube.apply(pod("proxied", "research", labels=INJECT, annotations=annotations))
    stage.ready("proxied")
    calls_by_url(stage, "research", "proxied", AGENTS)
    stage.delete("proxied")


def allow(stage: Stage, namespaces: list[str], hosts: list[str]) -> None:
    """Where the broker may read, and what pods may ask to reach without a credential."""
    stage.kube.helm(
        "upgrade",
        "postern",
        CHART,
        f"--namespace={SYSTEM}",
        "--reuse-values",
        f"--set-json=broker.namespaces={json.dumps(namespaces)}",
        f"--set-json=injection.allowed.passthroughHosts={json.dumps(hosts)}",
        "--wait",
    )


def by_redirect(stage: Stage) -> None:
    """capture redirect: the same without any setting of a proxy; init container, self-test and rules in place"""
    stage.kube.apply(
        {**namespace(CAPTURED), "metadata": {"name": CAPTURED, "labels": PRIVILEGED}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "free", "namespace": TOOLS},
            "spec": {"selector": {"app": "mcp"}, "ports": [{"port": 443, "targetPort": 8443}]},
        },
    )
    allow(stage, [AGENTS, CAPTURED], [FREE])
    value = new_value()
    stage.set_value("captured", value)
    trust = stage.kube.get("configmap", f"--namespace={AGENTS}", "tools-ca")
    objects = [
        account("captured"),
        secret("captured", value),
        binding("captured"),
        {**trust, "metadata": {"name": "tools-ca", "labels": trust["metadata"]["labels"]}},
        pod(
            REDIRECTED,
            "captured",
            labels=INJECT,
            annotations={
                "config.postern.dev/capture": "redirect",
                "config.postern.dev/passthrough-hosts": FREE,
            },
        ),
    ]
    for each in objects:
        each["metadata"]["namespace"] = CAPTURED
    stage.kube.apply(*objects[:-1])
    wait = ("wait", f"--namespace={CAPTURED}", "credentialbinding/captured-notes")
    stage.kube(*wait, "--for=condition=Programmed", "--timeout=60s")

    def admitted() -> bool:
        # The controllers of before answer for a while yet.
        stage.kube.apply(objects[-1])
        return True

    until("the webhook allows the passthrough host", admitted, 30)
    found = stage.ready(REDIRECTED, namespace=CAPTURED)
    names = [each["name"] for each in found["spec"]["initContainers"]]
    require(names[:2] == ["postern-init", "postern"], f"the init containers are {names}")
    calls_by_url(stage, "captured", REDIRECTED, CAPTURED)


def through(said: list[dict]) -> dict[str, str]:
    """What was neither refused by the kernel nor denied by a sidecar."""
    return {line["tried"]: line["got"] for line in said if not re.search("refused|denied|nothing", line["got"])}


def bypass(stage: Stage) -> None:
    """redirect: whatever the agent tries, nothing leaves but to the bound server, with the credential"""
    server = stage.kube.get("pod", f"--namespace={TOOLS}", "mcp")["status"]["podIP"]
    # From a pod that is not redirected, to see that these are ways.
    free = through(stage.kube.exec("mcp", server, HOST, namespace=TOOLS, program="bypass.py", seconds=120))
    ways = {"TLS to the address, without a name", "the unbound API server", "UDP", "DNS at somebody else's"}
    require(ways <= free.keys(), f"only these are ways: {free}")
    before = len(stage.seen())
    said = stage.kube.exec(REDIRECTED, server, HOST, namespace=CAPTURED, program="bypass.py", seconds=120)
    require(len(said) >= 12, f"only {len(said)} ways were tried: {said}")
    require(not through(said), f"went through: {through(said)}")
    stage.facts.append(f"past the redirection: {len(said)} ways tried, none led out")
    bound = [f"Bearer {stage.values['captured']}"]
    strange = [headers for headers in stage.seen()[before:] if headers != bound]
    require(not strange, f"the server saw requests without the bound credential: {strange}")


def passthrough(stage: Stage) -> None:
    """redirect: a passthrough host is reached, without a credential"""
    before = len(stage.seen())
    said = stage.kube.exec(REDIRECTED, "get", f"https://{FREE}/mcp", namespace=CAPTURED)
    require(said and isinstance(said[0].get("status"), int), f"no answer of the host: {said}")
    since = stage.seen()[before:]
    require(since and all(not headers for headers in since), f"the host saw {since}")


def unbound_host(stage: Stage) -> None:
    """redirect: an unbound host is refused, and the sidecar's metrics say why"""
    said = stage.kube.exec(REDIRECTED, "get", "https://kubernetes.default.svc.cluster.local/", namespace=CAPTURED)
    require("error" in said[0], f"an unbound host answered: {said}")
    path = f"/api/v1/namespaces/{CAPTURED}/pods/{REDIRECTED}:15190/proxy/metrics"

    def counted() -> bool:
        told = stage.kube("get", "--raw", path)
        return bool(re.search(r'postern_refusals_total\{reason="unbound_host",server=""\} [1-9]', told))

    until("the metrics tell of unbound_host", counted, 20)


def unconfined(stage: Stage) -> None:
    """redirect: a pod whose container could take the sidecar's user is refused in words"""
    annotations = {"config.postern.dev/capture": "redirect"}
    loose = {"allowPrivilegeEscalation": True, "readOnlyRootFilesystem": True}
    document = pod("loose", labels=INJECT, annotations=annotations, container={"securityContext": loose})
    document["metadata"]["namespace"] = CAPTURED
    said = stage.kube.refusal(document)
    require("unconfined" in said, f"it was refused otherwise: {said}")


def no_longer(stage: Stage) -> None:
    """redirect: the namespace goes, and with an upgrade its grant and the passthrough host"""
    allow(stage, [AGENTS], [])
    stage.kube("delete", "namespace", CAPTURED, "--wait", "--timeout=60s")


STEPS = [by_proxy, by_redirect, bypass, passthrough, unbound_host, unconfined, no_longer]
