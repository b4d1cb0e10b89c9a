"""The run: one server, two sidecars one after the other, all agents, row by row."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from clients import scenes
from clients.agents import VARIANTS, Agent, Tools
from clients.scenes import Drain, Unexpected, refused
from common import evidence
from common.sidecar import Sidecar, Upstream
from harness import certs
from harness.hub import Hub
from harness.process import Child

HERE = Path(__file__).resolve().parent
SDK = HERE.parents[1] / "sdk"
START_SECONDS = 30
LOGIN_PATHS = ("/.well-known/", "/register", "/token", "/authorize")
FAILED, NONE = "FAILED", "-"

Scene = Callable[[Agent], Awaitable[object]]


class Matrix:
    def __init__(self, directory: Path, tools: Tools) -> None:
        self._directory, self._tools = directory, tools
        self._log = directory / "server.log"
        self._hub = Hub()
        self._server: Child | None = None
        self._agents: list[Agent] = []
        self._sidecar: Sidecar | None = None
        self.rows: dict[str, list[object]] = {}
        self.passed = self.failed = 0
        self._looked = 0  # lines of the server's log

    async def play(self) -> None:
        (self._directory / "logs").mkdir()
        certificates = certs.make(self._directory)
        upstreams = [
            Upstream("mcp", tools={"deny": ["denied"]}),
            Upstream("revocable"),
            Upstream("sse", transport="SSE"),
            Upstream("rejecting"),
            Upstream("rejecting-sse", transport="SSE"),
            Upstream("thief"),
        ]
        try:
            await self._start_server(certificates, upstreams)
            starting = (Agent.start(each, self._tools, self._directory, certificates, self._hub) for each in VARIANTS)
            self._agents = list(await asyncio.gather(*starting))
            await self._logins_without(upstreams)
            for status in (403, 200):
                await self._behind(status, certificates, upstreams)
        except (Unexpected, RuntimeError) as failure:
            self._judge("the run came to its end", False, str(failure))
        finally:
            children = [self._server, self._sidecar and self._sidecar.child, *(agent.child for agent in self._agents)]
            await asyncio.gather(*(child.stop() for child in children if child))
            self._hub.stop()
            for agent in self._agents:
                evidence.keep(agent.child.name, told=agent.child.stdout_path.read_text())

    async def _behind(self, status: int, certificates: certs.Certificates, upstreams: list[Upstream]) -> None:
        name = f"sidecar-{status}"
        config = {} if status == 403 else {"refusalStatus": status}
        self._sidecar = await Sidecar.start(name, self._directory, certificates, upstreams, **config)
        secret = self._directory / name / "bindings" / "secrets" / "revocable" / "token"
        if status == 403:
            await self._transports()
        await self._forms_of_403(status, secret)
        if status == 403:
            await self._other_forms()
        await self._end()

    async def _start_server(self, certificates: certs.Certificates, upstreams: list[Upstream]) -> None:
        # `revocable` is the same server under another binding: two may not share a url, so it has another host name.
        upstreams[1].secret = upstreams[0].secret
        secrets = {each.name: each.credential for each in upstreams}
        command = [sys.executable, str(HERE / "server.py"), "--cert", str(certificates.cert), "--key",
                   str(certificates.key), "--log", str(self._log)]
        self._server = await Child.start(
            "server", command, self._directory / "logs", MATRIX_CREDENTIALS=json.dumps(secrets),
            SDK_RENDEZVOUS=await self._hub.start(), PYTHONPATH=str(SDK / "python"),
        )
        async with asyncio.timeout(START_SECONDS):
            port = json.loads(await self._server.line(self._server.stdout))["port"]
        for upstream in upstreams:
            host = "localhost" if upstream.name == "revocable" else "127.0.0.1"
            path = {"revocable": "mcp", "rejecting-sse": "rejecting/sse"}.get(upstream.name, upstream.name)
            upstream.url = f"https://{host}:{port}/{path}"

    # ---- an agent that would log in

    async def _logins_without(self, upstreams: list[Upstream]) -> None:
        """Without the sidecar each of these agents begins a login: so the checks behind it can notice one."""
        urls = {each.name: each.url for each in upstreams}

        async def search(agent: Agent, url: str, transport: str) -> None:
            self._new_logins()
            await scenes.searching(agent, url, transport)
            found = self._new_logins()
            scenes.require({"/register"} <= set(found) and len(found) > 1, f"the server's log has only {found}")

        for agent in self._agents:
            if agent.variant.sdk.oauth:
                title = f"control: {agent.variant.label} logs in without the sidecar"
                await self._try(f"{title}, http", search(agent, urls["rejecting"], "http"))
                await self._try(f"{title}, sse", search(agent, urls["rejecting-sse"], "sse"))

    def _new_logins(self) -> list[str]:
        """The paths of a login that the server was asked for since the last look."""
        lines = self._log.read_text().splitlines()
        new, self._looked = lines[self._looked:], len(lines)
        paths = (json.loads(line)["path"] for line in new)
        return [path for path in paths if path.startswith(LOGIN_PATHS)]

    # ---- rows

    async def _transports(self) -> None:
        url = self._sidecar.url
        await self._row("Streamable HTTP", lambda agent: scenes.transport(agent, url("mcp"), "http"))
        await self._row("HTTP+SSE (2024-11-05)", lambda agent: scenes.transport(agent, url("sse"), "sse"), _has_sse)

    async def _forms_of_403(self, status: int, secret: Path) -> None:
        url = self._sidecar.url
        form = str(status) if status == 403 else "`refusalStatus: 200`"
        refusal = refused(await scenes.probe(url("nobody")), status, "unbound_server")
        await self._row(f"`unbound_server`, {form}: connecting",
                        lambda agent: scenes.connecting(agent, url("nobody"), refusal))
        if status == 403:
            stream = refused(await scenes.get(url("nobody")), status, "unbound_server")
            await self._row(f"`unbound_server`, {form}: connecting by HTTP+SSE",
                            lambda agent: scenes.connecting(agent, url("nobody"), stream, "sse"), _has_sse)
        await self._all(lambda agent: scenes.session(agent, url("revocable")))
        revoked = refused(await scenes.revoke(secret, url("revocable")), status, "credential_revoked")
        await self._row(f"`credential_revoked`, {form}: a call", lambda agent: scenes.calling_late(agent, revoked))
        await self._all(lambda agent: agent.close())

    async def _other_forms(self) -> None:
        url = self._sidecar.url
        refusal = refused(await scenes.probe(url("mcp"), "tools/call", name="denied"), 200, "tool_denied")
        await self._row("`tool_denied`, 200: a call",
                        lambda agent: scenes.calling(agent, url("mcp"), "denied", refusal))

        await self._rejections(url)
        await self._foreign_session(url)

    async def _rejections(self, url: Callable[[str], str]) -> None:
        """Each also for an agent with an OAuth provider, which must show the same and search for nothing."""
        what = "upstream_auth_rejected"
        refusal = refused(await scenes.probe(url("rejecting")), 502, what)
        stream = refused(await scenes.get(url("rejecting-sse")), 502, what)
        call = refused(await scenes.probe(url("mcp"), "tools/call", name="rejected"), 502, what)
        forms: dict[str, Callable[[Agent, bool], Awaitable[object]]] = {
            "connecting": lambda agent, oauth: scenes.connecting(agent, url("rejecting"), refusal, oauth=oauth),
            "a call": lambda agent, oauth: scenes.calling(agent, url("mcp"), "rejected", call, oauth),
            "connecting by HTTP+SSE":
                lambda agent, oauth: scenes.connecting(agent, url("rejecting-sse"), stream, "sse", oauth),
        }
        self._new_logins()
        for title, scene in forms.items():
            for oauth in (False, True):
                def applies(agent: Agent) -> bool:
                    return (_has_sse(agent) or "SSE" not in title) and (agent.variant.sdk.oauth or not oauth)

                row = f"`{what}`, 502: {title}" + (", with an OAuth provider" if oauth else "")
                await self._row(row, lambda agent: scene(agent, oauth), applies)
        found = self._new_logins()
        self._judge("behind the sidecar nobody searches for a login", not found, f"the server was asked for {found}")

    async def _foreign_session(self, url: Callable[[str], str]) -> None:
        """Another server gives out the agents' session ids, and their own one is done with them, as far as the sidecar
        can tell: from then on they are the other's."""
        await self._all(lambda agent: scenes.session(agent, url("mcp")), _has_sessions)
        for _ in filter(_has_sessions, self._agents):
            stolen = await scenes.probe(url("thief"))
            session = stolen.headers["mcp-session-id"]
            await scenes.forget(url("mcp"), session)
        refusal = refused(await scenes.probe(url("mcp"), session=session), 404, "session_foreign")
        await self._row("`session_foreign`, 404: a call",
                        lambda agent: scenes.calling_late(agent, refusal), _has_sessions)
        await self._all(lambda agent: agent.close(), _has_sessions)

    async def _end(self) -> None:
        """Ends the sidecar; its shutdown is one more form of refusal."""
        url = self._sidecar.url
        await self._all(lambda agent: scenes.session(agent, url("mcp")))
        async with Drain(self._sidecar, url("sse")):
            refusal = refused(await scenes.probe(url("mcp")), 503, "draining")
            await self._row("`draining`, 503: a call",
                            lambda agent: scenes.calling_late(agent, refusal))
            await self._all(lambda agent: agent.close())
        self._sidecar = None

    # ---- counting

    async def _row(self, title: str, scene: Scene, applies: Callable[[Agent], bool] = lambda _: True) -> None:
        """Puts all agents it applies to through a scene at once. A row that comes twice must come out alike."""
        async def cell(agent: Agent) -> object:
            return await self._try(f"{agent.variant.label}: {title}", scene(agent)) if applies(agent) else NONE

        cells = list(await asyncio.gather(*(cell(agent) for agent in self._agents)))
        known = self.rows.setdefault(title, cells)
        self._judge(f"{title} comes out alike", known == cells, f"{known} and {cells}")

    async def _all(self, action: Scene, applies: Callable[[Agent], bool] = lambda _: True) -> None:
        """A step between two rows."""
        await asyncio.gather(*(action(agent) for agent in self._agents if applies(agent)))

    async def _try(self, title: str, played: Awaitable[object]) -> object:
        try:
            result = await played
        except Exception as failure:
            name = "" if isinstance(failure, Unexpected) else f"{type(failure).__name__}: "
            self._judge(title, False, f"{name}{failure}")
            return FAILED
        self._judge(title, True, "")
        return result

    def _judge(self, title: str, good: bool, otherwise: str) -> None:
        self.passed += good
        self.failed += not good
        if not good:
            print(f"FAILED {title}: {otherwise}", flush=True)


def _has_sse(agent: Agent) -> bool:
    return agent.variant.sdk.sse


def _has_sessions(agent: Agent) -> bool:
    return not agent.variant.stateless
