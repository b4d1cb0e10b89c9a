"""The SDK clients of the matrix, each a process that keeps one session at a time."""

import asyncio
import json
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from harness.certs import Certificates
from harness.hub import Hub
from harness.process import Child, Died

HERE = Path(__file__).resolve().parent
ANSWER_SECONDS = 30  # more than the rendezvous's patience, so that a missed step is told as such
STATELESS, SESSIONS = "2026-07-28", "2025-11-25"  # what each begins with


@dataclass(frozen=True)
class Sdk:
    name: str
    pin: tuple[Path, str]  # where its version stands: file, and what precedes `major.minor`
    command: str  # key of `_command`
    sse: bool = True  # has HTTP+SSE of 2024-11-05
    oauth: bool = True  # is given an OAuth provider

    @property
    def version(self) -> str:
        path, before = self.pin
        return re.search(re.escape(before) + r"(\d+\.\d+)", path.read_text())[1]


@dataclass(frozen=True)
class Variant:
    """A column of the table. `mode` is how it begins: legacy with `initialize`, auto with `server/discover`."""

    sdk: Sdk
    mode: str

    @property
    def label(self) -> str:
        return f"{self.sdk.name} {self.sdk.version} {self.mode}"

    @property
    def stateless(self) -> bool:
        return self.mode == "auto"

    @property
    def revision(self) -> str:
        return STATELESS if self.stateless else SESSIONS


_PACKAGES = HERE.parent / "package.json"
_PYTHON_1 = Sdk("Python", (HERE.parent / "requirements-1.txt", "\nmcp=="), "python 1")
_PYTHON_2 = Sdk("Python", (HERE.parents[1] / "sdk" / "requirements.txt", "\nmcp=="), "python 2")
_TYPESCRIPT_1 = Sdk("TypeScript", (_PACKAGES, '"@modelcontextprotocol/sdk": "'), "node 1")
_TYPESCRIPT_2 = Sdk("TypeScript", (_PACKAGES, '"@modelcontextprotocol/client": "'), "node 2")
_RUST = Sdk("rmcp", (HERE.parent / "rmcp" / "Cargo.lock", 'name = "rmcp"\nversion = "'), "rmcp", sse=False, oauth=False)
VARIANTS = (
    Variant(_PYTHON_1, "legacy"),
    Variant(_PYTHON_2, "legacy"),
    Variant(_PYTHON_2, "auto"),
    Variant(_TYPESCRIPT_1, "legacy"),
    Variant(_TYPESCRIPT_2, "legacy"),
    Variant(_TYPESCRIPT_2, "auto"),
    Variant(_RUST, "legacy"),
    Variant(_RUST, "auto"),
)


@dataclass(frozen=True)
class Answer:
    """`error` is what the SDK's user is shown, `kept` what the error holds besides; `causes` are what Node prints of it."""

    ok: bool
    value: object = None
    error: str = ""
    kept: str = ""
    causes: list[str] = field(default_factory=list)
    challenges: int = 0
    login: list[str] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)


class Agent:
    def __init__(self, variant: Variant, child: Child, hub: Hub) -> None:
        self.variant = variant
        self.child = child
        self._hub = hub

    @classmethod
    async def start(cls, variant: Variant, tools: "Tools", directory: Path, certificates: Certificates,
                    hub: Hub) -> "Agent":
        command = tools.command(variant.sdk.command, directory)
        name = re.sub(r"\W+", "-", variant.label)
        # The CA is for the one look without the sidecar.
        trust = {"SSL_CERT_FILE": str(certificates.ca), "NODE_EXTRA_CA_CERTS": str(certificates.ca)}
        return cls(variant, await Child.start(name, command, directory / "logs", **trust), hub)

    async def connect(self, url: str, transport: str = "http", oauth: bool = False) -> Answer:
        return await self._do({"do": "connect", "url": url, "transport": transport, "oauth": oauth,
                               "mode": self.variant.mode})

    async def list(self) -> Answer:
        return await self._do({"do": "list"})

    async def call(self, tool: str, text: str = "hello") -> Answer:
        """Marks `<text> <step>` at the rendezvous for each step it is told of."""
        return await self._do({"do": "call", "tool": tool, "text": text})

    async def close(self) -> Answer:
        return await self._do({"do": "close"})

    async def _do(self, command: dict) -> Answer:
        progress: list[float] = []
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                told = json.loads(await self.child.ask(json.dumps(command)))
                while "progress" in told:
                    progress.append(told["progress"])
                    self._hub.mark(f"{command['text']} {told['progress']:g}")
                    told = json.loads(await self.child.line(self.child.stdout))
        except (TimeoutError, Died, ConnectionError) as failure:
            self.child.kill()  # an answer that comes late must not be taken for that of the next command
            raise RuntimeError(f"no answer to {command['do']}: {failure!r}\n{self.child.tail()}") from None
        return Answer(progress=progress, **(told | told.pop("seen", {})))


@dataclass(frozen=True)
class Tools:
    """Where the agents' programs are."""

    cache: Path
    rmcp: Path

    def command(self, key: str, directory: Path) -> list[str]:
        kind, _, generation = key.partition(" ")
        if kind == "rmcp":
            return [str(self.rmcp)]
        if kind == "node":
            return [str(self.cache / "node"), str(self._node_script(directory)), generation]
        python = self.cache / "venv" / "bin" / "python" if generation == "1" else sys.executable
        return [str(python), str(HERE / "agent.py")]

    def _node_script(self, directory: Path) -> Path:
        """Node finds packages only beside the script, and they are not to be in the checkout: hence a copy."""
        place = directory / "node"
        if not place.exists():
            place.mkdir()
            shutil.copy(HERE / "agent.mjs", place)
            (place / "node_modules").symlink_to(self.cache / "node_modules")
        return place / "agent.mjs"
