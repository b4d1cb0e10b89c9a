"""`tests/conformance/matrix`: what the official SDK clients do behind the sidecar, as a table and as a check."""

import argparse
import asyncio
import difflib
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from clients import scenes, table
from clients.agents import VARIANTS, Agent
from clients.scenes import Drain, Unexpected, require
from common import main
from common.sidecar import Sidecar, Upstream
from harness import certs
from harness.process import Child

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parents[2] / "docs" / "mcp-compatibility.md"
START_SECONDS = 30
LEGACY_PATH = "sse"
OWN_PATHS = ("mcp", "sse", "messages", "rejecting")  # of the server; anything else is a search for a login
OAUTH_ROW = "OAuth provider configured, upstream 401: connecting"


class Matrix:
    def __init__(self, directory: Path, cache: Path) -> None:
        self._directory, self._cache = directory, cache
        self._log = directory / "server.log"
        self._children: list[Child] = []
        self._agents: list[Agent] = []
        self._sidecars: list[Sidecar] = []
        self.rows: dict[str, list[str]] = {}
        self.passed = self.failed = 0

    async def play(self) -> None:
        (self._directory / "logs").mkdir()
        certificates = certs.make(self._directory)
        upstreams = [
            Upstream("mcp", tools={"deny": ["denied"]}),
            Upstream("revocable"),
            Upstream("sse", transport="SSE"),
            Upstream("rejecting"),
        ]
        try:
            await self._start_server(certificates, upstreams)
            starting = (Agent.start(each, self._cache, self._directory, certificates) for each in VARIANTS)
            self._agents = list(await asyncio.gather(*starting))
            await self._look_directly(upstreams[-1].url)
            for status in (403, 200):
                config = {} if status == 403 else {"refusalStatus": status}
                name = f"sidecar-{status}"
                sidecar = await Sidecar.start(name, self._directory, certificates, upstreams, **config)
                self._sidecars.append(sidecar)
                await self._behind(sidecar, status, self._directory / name / "bindings" / "secrets")
                self._sidecars.remove(sidecar)
        finally:
            stopping = [child.stop() for child in self._children + [agent.child for agent in self._agents]]
            await asyncio.gather(*stopping, *(sidecar.stop() for sidecar in self._sidecars))

    async def _start_server(self, certificates: certs.Certificates, upstreams: list[Upstream]) -> None:
        secrets = {each.name: each.credential for each in upstreams}
        # `revocable` is the same server under another binding, as two names of one path.
        upstreams[1].secret = upstreams[0].secret
        command = [sys.executable, str(HERE / "server.py"), "--cert", str(certificates.cert), "--key",
                   str(certificates.key), "--log", str(self._log)]
        child = await Child.start("server", command, self._directory / "logs", MATRIX_CREDENTIALS=json.dumps(secrets))
        self._children.append(child)
        async with asyncio.timeout(START_SECONDS):
            port = json.loads(await child.line(child.stdout))["port"]
        for upstream in upstreams:
            host = "localhost" if upstream.name == "revocable" else "127.0.0.1"  # two bindings may not share a url
            path = "mcp" if upstream.name == "revocable" else upstream.name
            upstream.url = f"https://{host}:{port}/{path}"

    async def _look_directly(self, url: str) -> None:
        """Without the sidecar these agents do search for a login: so the check behind it can notice one."""
        async def search(agent: Agent) -> None:
            connected = await agent.connect(url, oauth=True)
            require(not connected.ok, "connected to a server that refuses everything")

        await self._row("control: OAuth without the sidecar", search, None)
        await self._judge("control: the search is seen", bool(self._strays()), "no SDK searched for a login")
        self._log.write_text("")

    def _strays(self) -> list[str]:
        paths = [json.loads(line)["path"] for line in self._log.read_text().splitlines()]
        return sorted({path for path in paths if path.split("/")[1] not in OWN_PATHS})

    async def _behind(self, sidecar: Sidecar, status: int, secrets: Path) -> None:
        url = sidecar.url
        if status == 403:
            await self._row("Streamable HTTP", lambda agent: scenes.transport(agent, url("mcp"), "http"))
            await self._row("HTTP+SSE (2024-11-05)", self._over_sse(url("sse")))
        where = "" if status == 403 else " with `refusalStatus: 200`"
        await self._row(f"`unbound_server`, {status}{where}: connecting",
                        lambda agent: scenes.refused_connect(agent, url("nobody")))
        await self._row("`tool_denied`, 200: a call", lambda agent: scenes.refused_call(agent, url("mcp"), "denied"))
        await self._row("`upstream_auth_rejected`, 502: connecting",
                        lambda agent: scenes.refused_connect(agent, url("rejecting")))
        await self._row("`upstream_auth_rejected`, 502: a call",
                        lambda agent: scenes.refused_call(agent, url("mcp"), "rejected"))
        await self._row(OAUTH_ROW, lambda agent: scenes.refused_connect(agent, url("rejecting"), oauth=True))
        await self._judge(f"no login is searched for ({status})", not self._strays(), f"asked for: {self._strays()}")

        await self._row(None, lambda agent: agent.connect(url("revocable")))
        await scenes.revoke(sidecar, secrets / "revocable" / "token", "revocable")
        await self._row(f"`credential_revoked`, {status}{where}: a call",
                        lambda agent: scenes.refused_after(agent, sidecar))
        await self._row(None, lambda agent: agent.close())

        await self._row(None, lambda agent: agent.connect(url("mcp")))
        async with Drain(sidecar, url("sse")):
            await self._row("`draining` (`overloaded` alike), 503: a call",
                            lambda agent: scenes.refused_after(agent, sidecar))
            await self._row(None, lambda agent: agent.close())

    @staticmethod
    def _over_sse(url: str) -> Callable[[Agent], Awaitable[str]]:
        async def play(agent: Agent) -> str:
            # The 2024-11-05 transport has no `server/discover`: only one column of an SDK has something to show.
            return await scenes.transport(agent, url, "sse") if agent.variant.mode == "legacy" else "-"

        return play

    async def _row(self, title: str | None, scene: Callable[[Agent], Awaitable[object]], keep: object = True) -> None:
        """Puts all agents through a scene at once. A row that comes twice must come out alike."""
        results = await asyncio.gather(*(scene(agent) for agent in self._agents), return_exceptions=True)
        cells = []
        for agent, result in zip(self._agents, results):
            failure = result if isinstance(result, Exception) else None
            cells.append("FAILED" if failure else str(result))
            if title:
                told = f"{'' if isinstance(failure, Unexpected) else type(failure).__name__ + ': '}{failure}"
                await self._judge(f"{agent.variant.label}: {title}", failure is None, told)
            elif failure:
                raise failure
        if title and keep:
            known = self.rows.setdefault(title, cells)
            if known != cells:
                await self._judge(title, False, f"differs by refusalStatus: {known} and {cells}")

    async def _judge(self, title: str, good: bool, otherwise: str) -> None:
        if good:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED {title}: {otherwise}", flush=True)


async def _run(options: argparse.Namespace, directory: Path) -> int:
    matrix = Matrix(directory, options.cache)
    await matrix.play()
    made = table.render([each.label for each in VARIANTS], list(matrix.rows.items()))
    print(made)
    if options.write and not matrix.failed:
        table.write(DOCUMENT, made)
    found = table.current(DOCUMENT)
    if found != made:
        matrix.failed += 1
        print(f"FAILED {DOCUMENT.name} has another table (update it with --write):")
        print("\n".join(difflib.unified_diff((found or "").splitlines(), made.splitlines(), "written", "found", lineterm="")))
    else:
        matrix.passed += 1
    print(f"{matrix.passed} passed, {matrix.failed} failed")
    return 1 if matrix.failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/conformance/matrix", description="official SDK clients behind the sidecar")
    parser.add_argument("--write", action="store_true", help="put the table into docs/mcp-compatibility.md")
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory with all logs")
    parser.add_argument("--cache", type=Path, required=True, help=argparse.SUPPRESS)  # given by the matrix script
    return parser.parse_args()


if __name__ == "__main__":
    options = _options()
    sys.exit(main.run(lambda directory: _run(options, directory), options.keep))
