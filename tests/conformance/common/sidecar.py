"""`$POSTERN_BIN sidecar` with given bindings, and what it leaves as evidence."""

import asyncio
import json
import os
import secrets
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from common import evidence
from harness.certs import Certificates
from harness.process import Child

START_SECONDS = 30
NAMESPACE, SERVICE_ACCOUNT = "research", "research-agent"


@dataclass
class Upstream:
    """A server behind a binding. Its url is known once it listens."""

    name: str
    url: str = ""
    transport: str = "StreamableHTTP"
    tools: dict | None = None
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))  # random from its first character on

    @property
    def credential(self) -> str:
        return f"Bearer {self.secret}"

    def binding(self) -> dict:
        spec = {
            "serviceAccounts": [SERVICE_ACCOUNT],
            "server": {
                "name": self.name,
                "url": self.url,
                "transports": [self.transport],
                "tls": {"caBundle": {"configMapRef": {"name": "harness-ca", "key": "ca.crt"}}},
            },
            "credential": {"type": "Bearer", "secretRef": {"name": self.name, "key": "token"}},
        }
        if self.tools:
            spec["tools"] = self.tools
        return {
            "apiVersion": "postern.dev/v1alpha1",
            "kind": "CredentialBinding",
            "metadata": {"name": self.name, "namespace": NAMESPACE},
            "spec": spec,
        }


class Sidecar:
    """Started with `Sidecar.start`, ready when that returns."""

    def __init__(self, child: Child, upstreams: list[Upstream]) -> None:
        self.child = child
        self._upstreams = upstreams
        self._endpoint = self._admin = ""

    @classmethod
    async def start(cls, name: str, directory: Path, certificates: Certificates, upstreams: list[Upstream],
                    command: list[str] | None = None, **config: object) -> "Sidecar":
        """`command` is what runs postern, where that is more than its name."""
        path = _write(directory / name, certificates, upstreams, config)
        logs = directory / "logs"
        logs.mkdir(exist_ok=True)
        postern = command or [os.environ["POSTERN_BIN"]]
        child = await Child.start(name, [*postern, "sidecar", "--config", str(path)], logs)
        self = cls(child, upstreams)
        try:
            async with asyncio.timeout(START_SECONDS):
                while '"listening"' not in (line := await child.line(child.stderr)):
                    pass
        except BaseException:
            child.kill()
            raise
        told = json.loads(line)
        self._endpoint, self._admin = told["endpoint"], told["admin"]
        return self

    def url(self, name: str) -> str:
        return f"http://{self._endpoint}/{name}"

    async def stop(self) -> int:
        """Ends it and keeps what it said. Returns its exit code."""
        try:
            metrics = await self.scrape()
        except OSError as failure:
            metrics = f"# not scraped: {failure}\n"
        code = await self.child.stop()
        evidence.keep(self.child.name, metrics=metrics, stdout=self.child.stdout_path.read_text(),
                      stderr=self.child.stderr_path.read_text())
        evidence.searched_for(upstream.secret for upstream in self._upstreams)
        return code

    async def scrape(self) -> str:
        def get() -> str:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://{self._admin}/metrics", timeout=10) as answer:
                return answer.read().decode()

        return await asyncio.to_thread(get)


def _write(root: Path, certificates: Certificates, upstreams: list[Upstream], config: dict[str, object]) -> Path:
    """JSON is YAML; the documents are written as such, so that nothing here needs quoting rules."""
    bindings = root / "bindings"
    bundle = bindings / "configmaps" / "harness-ca" / "ca.crt"
    bundle.parent.mkdir(parents=True)
    shutil.copy(certificates.ca, bundle)
    for upstream in upstreams:
        secret = bindings / "secrets" / upstream.name / "token"
        secret.parent.mkdir(parents=True)
        secret.write_text(upstream.secret)
        (bindings / f"{upstream.name}.yaml").write_text(json.dumps(upstream.binding(), indent=2))
    path = root / "postern.yaml"
    path.write_text(json.dumps({
        "caller": {"namespace": NAMESPACE, "serviceAccount": SERVICE_ACCOUNT},
        "source": {"file": {"directory": "./bindings"}},
        "endpoint": {"port": 0},
        "admin": {"address": "127.0.0.1", "port": 0},
        "dial": {"allowLoopback": True},
        "log": {"level": "info", "format": "json"},
    } | config, indent=2))
    return path
