"""The objects of the journey: whom they belong to, and what they look like."""

import base64
import secrets
import subprocess
from pathlib import Path

SYSTEM, AGENTS, TOOLS = "postern-system", "agents", "tools"
HOST = f"mcp.{TOOLS}.svc.cluster.local"
ACCOUNTS = ["research", "writer"]
SERVER = "notes"
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ["enforce", "warn"]}
WEAK = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
NOBODY = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
AGENT_IMAGE = "localhost/agent:1"
PAUSE_IMAGE = "localhost/pause:1"


def namespace(name: str) -> dict:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}


def account(name: str) -> dict:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": AGENTS}}


def pod(
    name: str,
    account: str = "default",
    labels: dict | None = None,
    annotations: dict | None = None,
    args: tuple[str, ...] = ("/app/agent.py", "idle"),
    container: dict | None = None,
    **spec: object,
) -> dict:
    """An agent as PodSecurity `restricted` wants it."""
    agent = {
        "name": "agent",
        "image": AGENT_IMAGE,
        "imagePullPolicy": "Never",
        "args": list(args),
        "securityContext": WEAK,
        **(container or {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": AGENTS,
            "labels": labels or {},
            "annotations": annotations or {},
        },
        "spec": {
            "serviceAccountName": account,
            "securityContext": NOBODY,
            "containers": [agent],
            "terminationGracePeriodSeconds": 2,
            **spec,
        },
    }


INJECT = {"postern.dev/inject": "true"}


def secret(account: str, value: str) -> dict:
    """A credential, and its owner's consent."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": f"{account}-notes",
            "namespace": AGENTS,
            "labels": {"postern.dev/credential": "true"},
            "annotations": {"postern.dev/allowed-hosts": HOST, "postern.dev/allowed-service-accounts": account},
        },
        "data": {"token": base64.b64encode(value.encode()).decode()},
    }


def binding(account: str) -> dict:
    return {
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "CredentialBinding",
        "metadata": {"name": f"{account}-notes", "namespace": AGENTS},
        "spec": {
            "serviceAccounts": [account],
            "server": {
                "name": SERVER,
                "url": f"https://{HOST}/mcp",
                "tls": {"caBundle": {"configMapRef": {"name": "tools-ca", "key": "ca.crt"}}},
            },
            "credential": {"type": "Bearer", "secretRef": {"name": f"{account}-notes", "key": "token"}},
        },
    }


def new_value() -> str:
    return secrets.token_urlsafe(32)


def tools(work: Path) -> list[dict]:
    """The MCP server behind TLS, and the ConfigMap with the authority that agents' bindings name."""
    certificate, key = work / "mcp.crt", work / "mcp.key"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-noenc",
            "-days",
            "2",
            "-subj",
            "/CN=tools",
            "-addext",
            f"subjectAltName=DNS:{HOST}",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    coded = {
        name: base64.b64encode(path.read_bytes()).decode()
        for name, path in {"tls.crt": certificate, "tls.key": key}.items()
    }
    container = {
        "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}],
        "readinessProbe": {"tcpSocket": {"port": 8443}, "periodSeconds": 1},
    }
    args = ("/app/server.py", SERVER, "/tls/tls.crt", "/tls/tls.key")
    volumes = [{"name": "tls", "secret": {"secretName": "mcp-tls"}}]
    server = pod("mcp", args=args, labels={"app": "mcp"}, container=container, volumes=volumes)
    server["metadata"]["namespace"] = TOOLS
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": "mcp-tls", "namespace": TOOLS},
            "data": coded,
        },
        server,
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "mcp", "namespace": TOOLS},
            "spec": {"selector": {"app": "mcp"}, "ports": [{"port": 443, "targetPort": 8443}]},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "tools-ca", "namespace": AGENTS, "labels": {"postern.dev/ca-bundle": "true"}},
            "data": {"ca.crt": certificate.read_text()},
        },
    ]
