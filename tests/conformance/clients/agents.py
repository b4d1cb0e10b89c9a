"""The SDK clients of the matrix, each a process that keeps one session at a time."""

import asyncio
import json
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.certs import Certificates
from harness.process import Child, Died

HERE = Path(__file__).resolve().parent
ANSWER_SECONDS = 20


@dataclass(frozen=True)
class Variant:
    """A column of the table. `mode` is the SDK's own word: legacy initializes, auto asks `server/discover` first."""

    sdk: str
    generation: int
    mode: str
    auto_version: str = "2026-07-28"

    @property
    def label(self) -> str:
        return f"{self.sdk} {_pinned(self.sdk, self.generation)}, {self.mode}"

    @property
    def version(self) -> str:
        return self.auto_version if self.mode == "auto" else "2025-11-25"


VARIANTS = (
    Variant("Python", 1, "legacy"),
    Variant("Python", 2, "legacy"),
    Variant("Python", 2, "auto"),
    Variant("TypeScript", 1, "legacy"),
    Variant("TypeScript", 2, "legacy"),
    Variant("TypeScript", 2, "auto"),
)


def _pinned(sdk: str, generation: int) -> str:
    """Major and minor version, from where it is pinned."""
    if sdk == "Python":
        path = HERE.parent / "requirements-1.txt" if generation == 1 else HERE.parents[1] / "sdk" / "requirements.txt"
        return re.search(r"^mcp==(\d+\.\d+)", path.read_text(), re.MULTILINE)[1]
    packages = json.loads((HERE.parent / "package.json").read_text())["dependencies"]
    version = packages["@modelcontextprotocol/sdk" if generation == 1 else "@modelcontextprotocol/client"]
    return ".".join(version.split(".")[:2])


@dataclass(frozen=True)
class Answer:
    value: object = None
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error

    @property
    def has_text(self) -> bool:
        """Whether Postern's own words reached the SDK's user."""
        return "postern:" in self.error


class Agent:
    def __init__(self, variant: Variant, child: Child) -> None:
        self.variant = variant
        self.child = child

    @classmethod
    async def start(cls, variant: Variant, cache: Path, directory: Path, certificates: Certificates) -> "Agent":
        if variant.sdk == "Python":
            python = cache / "venv" / "bin" / "python" if variant.generation == 1 else sys.executable
            command = [str(python), str(HERE / "agent.py")]
        else:
            command = [str(cache / "node"), str(_node_script(directory, cache)), str(variant.generation)]
        name = re.sub(r"\W+", "-", variant.label)
        # The CA is for the one look without the sidecar.
        trust = {"SSL_CERT_FILE": str(certificates.ca), "NODE_EXTRA_CA_CERTS": str(certificates.ca)}
        return cls(variant, await Child.start(name, command, directory / "logs", **trust))

    async def connect(self, url: str, transport: str = "http", oauth: bool = False) -> Answer:
        return await self._do({"do": "connect", "url": url, "transport": transport, "oauth": oauth,
                               "mode": self.variant.mode})

    async def list(self) -> Answer:
        return await self._do({"do": "list"})

    async def call(self, tool: str) -> Answer:
        return await self._do({"do": "call", "tool": tool})

    async def close(self) -> Answer:
        return await self._do({"do": "close"})

    async def _do(self, command: dict) -> Answer:
        try:
            told = json.loads(await asyncio.wait_for(self.child.ask(json.dumps(command)), ANSWER_SECONDS))
        except (TimeoutError, Died, ConnectionError) as failure:
            self.child.kill()  # an answer that comes late must not be taken for that of the next command
            raise RuntimeError(f"{self.variant.label}: no answer to {command['do']}: {failure!r}\n{self.child.tail()}") from None
        return Answer(told.get("value"), told.get("error", ""))


def _node_script(directory: Path, cache: Path) -> Path:
    """Node finds packages only beside the script, and they are not to be in the checkout: hence a copy."""
    place = directory / "node"
    if not place.exists():
        place.mkdir()
        shutil.copy(HERE / "agent.mjs", place)
        (place / "node_modules").symlink_to(cache / "node_modules")
    return place / "agent.mjs"
