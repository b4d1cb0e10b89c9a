"""What runs besides the clients: the two MCP servers and, unless direct, the sidecar with its files."""

import asyncio
import json
import os
import secrets
import shutil
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from harness.certs import Certificates
from harness.process import Child
from harness.wirelog import WireReader

HERE = Path(__file__).resolve().parent.parent
START_SECONDS = 30
NAMESPACE, SERVICE_ACCOUNT = "research", "research-agent"


@dataclass
class Workplace:
    """The run's temporary directory and what everybody needs to know."""

    directory: Path
    cache: Path
    certificates: Certificates
    rendezvous: str
    payload: Path

    def python(self, script: str) -> list[str]:
        return [sys.executable, str(HERE / "python" / script)]

    def node(self, script: str) -> list[str]:
        """Node finds packages only beside the script, and they are not to be in the checkout: hence a copy."""
        scripts = self.directory / "node"
        if not scripts.exists():
            shutil.copytree(HERE / "node", scripts)
            (scripts / "node_modules").symlink_to(self.cache / "node_modules")
        return ["node", str(scripts / script)]

    async def start(self, name: str, command: list[str], **env: str) -> Child:
        logs = self.directory / "logs"
        logs.mkdir(exist_ok=True)
        return await Child.start(name, command, logs, SDK_RENDEZVOUS=self.rendezvous,
                                 NODE_EXTRA_CA_CERTS=str(self.certificates.ca), **env)


@dataclass
class Server:
    """An MCP server behind TLS. `host` differs so that both an address and a name are dialled."""

    name: str
    host: str
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    port: int = 0
    child: Child | None = None
    wire: WireReader | None = None

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.authority}/mcp"

    @property
    def credential(self) -> str:
        return f"Bearer {self.secret}"

    async def start(self, place: Workplace) -> None:
        log = place.directory / f"{self.name}.wire"
        command = place.python("server.py") if self.name == "python-server" else place.node("server.mjs")
        command += ["--cert", str(place.certificates.cert), "--key", str(place.certificates.key),
                    "--log", str(log), "--payload", str(place.payload)]
        self.child = await place.start(self.name, command, SDK_CREDENTIAL=self.credential)
        self.port = json.loads(await self.child.line(self.child.stdout))["port"]
        self.wire = WireReader(log)


class Sidecar:
    """`$POSTERN_BIN sidecar` with one binding per server."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self._endpoint = self._admin = ""

    @classmethod
    async def start(cls, place: Workplace, servers: list[Server]) -> "Sidecar":
        config = _write_config(place, servers)
        return cls(await place.start("sidecar", [os.environ["POSTERN_BIN"], "sidecar", "--config", str(config)]))

    async def listening(self) -> None:
        """Returns once it has told its ports."""
        async with asyncio.timeout(START_SECONDS):
            while '"listening"' not in (line := await self.child.line(self.child.stderr)):
                pass
        told = json.loads(line)
        self._endpoint, self._admin = told["endpoint"], told["admin"]

    def url(self, server: Server) -> str:
        return f"http://{self._endpoint}/{server.name}"

    async def metrics(self) -> str:
        def scrape() -> str:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://{self._admin}/metrics", timeout=10) as answer:
                return answer.read().decode()

        return await asyncio.to_thread(scrape)


def _write_config(place: Workplace, servers: list[Server]) -> Path:
    """JSON is YAML; the documents are written as such, so that nothing here needs quoting rules."""
    root = place.directory / "postern"
    bindings = root / "bindings"
    for server in servers:
        secret = bindings / "secrets" / server.name / "token"
        bundle = bindings / "configmaps" / f"{server.name}-ca" / "ca.crt"
        for path in (secret, bundle):
            path.parent.mkdir(parents=True)
        secret.write_text(server.secret)
        shutil.copy(place.certificates.ca, bundle)
        (bindings / f"{server.name}.yaml").write_text(json.dumps(_binding(server), indent=2))
    config = root / "postern.yaml"
    config.write_text(json.dumps({
        "caller": {"namespace": NAMESPACE, "serviceAccount": SERVICE_ACCOUNT},
        "source": {"file": {"directory": "./bindings"}},
        "endpoint": {"port": 0},
        "admin": {"address": "127.0.0.1", "port": 0},
        "dial": {"allowLoopback": True},
        "log": {"level": "info", "format": "json"},
    }, indent=2))
    return config


def _binding(server: Server) -> dict:
    return {
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "CredentialBinding",
        "metadata": {"name": server.name, "namespace": NAMESPACE},
        "spec": {
            "serviceAccounts": [SERVICE_ACCOUNT],
            "server": {
                "name": server.name,
                "url": server.url,
                "transports": ["StreamableHTTP"],
                "tls": {"caBundle": {"configMapRef": {"name": f"{server.name}-ca", "key": "ca.crt"}}},
            },
            "credential": {"type": "Bearer", "secretRef": {"name": server.name, "key": "token"}},
        },
    }
