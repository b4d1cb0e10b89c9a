"""The run: one server, a sidecar for each capture, all clients by their `https://` names."""

import asyncio
import itertools
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from captured.clients import Client, java_options
from captured.environment import ENDPOINT, PROXY, REDIRECT, TO_THE_PROXY, injected, only
from captured.world import DOMAIN, OUTSIDE, POD, World, root
from clients.agents import Agent, Answer
from clients.scenes import Unexpected, require, session, used
from common.sidecar import Sidecar, Upstream
from harness import certs
from harness.hub import Hub
from harness.process import Child

HERE = Path(__file__).resolve().parent
START_SECONDS = 30
AT_ONCE = 4
SUITE, SUITE_RESULT = "h2spec", "146 tests, 146 passed, 0 skipped, 0 failed"
SHORTER = (
    (r"https://[\w.-]+/mcp", "https://…"),
    (r"\[rmcp::.*>\]", "[…]"),  # the transport's type
    (r"\w*:error:\w+:SSL routines:[^:]*:([^:]+):.*SSL alert number \d+", r"…\1"),  # Node
    (r"\S+ error:\w+:SSL routines::", "… "),  # curl
    (r" \(_ssl\.c:\d+\)", ""),  # Python
    (r"PKIX path building failed: .*: ", "PKIX path building failed: … "),
    (r", when send .*", ""),  # rmcp, on where it was
)


class Seen:
    """What one client came to: the cells of its row."""

    def __init__(self) -> None:
        self.works: dict[str, bool] = {}
        self.protocols: dict[str, str] = {}
        self.needs: dict[str, list[str]] = {}
        self.past: dict[str, bool] = {}  # where it does not work: whether it got to the server, without a credential
        self.untrusting = ""  # what it shows where it comes to the sidecar and does not trust it
        self.unbound: dict[str, str] = {}


class Play:
    def __init__(self, directory: Path, clients: list[Client], h2spec: Path) -> None:
        self._directory, self._clients, self._program = directory, clients, h2spec
        self._log = directory / "server.log"
        self._upstreams = {each.name: Upstream(each.name, f"https://{each.name}.{DOMAIN}/mcp") for each in clients}
        self._upstreams[SUITE] = Upstream(SUITE, f"https://{SUITE}.{DOMAIN}/mcp")
        self._hub = Hub()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._numbers = itertools.count(1)  # of the clients' processes
        self._read: dict[str, int] = {}  # lines of the server's log, by host
        self.seen = {each.name: Seen() for each in clients}
        self.passed = self.failed = 0

    async def run(self, world: World) -> None:
        (self._directory / "logs").mkdir()
        self._certificates = certs.make(self._directory, f"*.{DOMAIN}")
        self._world = world
        await world.names()
        server = await self._start_server()
        try:
            for capture in (PROXY, REDIRECT) if root() else (PROXY,):
                if capture == REDIRECT:
                    world.init_net()
                await self._behind(capture)
            self._nothing_stray()
        finally:
            await server.stop()
            self._hub.stop()

    async def _start_server(self) -> Child:
        credentials = {f"{name}.{DOMAIN}": each.credential for name, each in self._upstreams.items()}
        command = [sys.executable, "-m", "captured.server", "--cert", str(self._certificates.cert), "--key",
                   str(self._certificates.key), "--log", str(self._log)]
        paths = [HERE.parent, HERE.parents[1] / "sdk" / "python"]
        server = await Child.start(
            "server", command, self._directory / "logs", CAPTURED_CREDENTIALS=json.dumps(credentials),
            SDK_RENDEZVOUS=await self._hub.start(), PYTHONPATH=":".join(map(str, paths)),
        )
        async with asyncio.timeout(START_SECONDS):
            await server.line(server.stdout)
        return server

    async def _behind(self, capture: str) -> None:
        public = self._directory / f"public-{capture}"
        public.mkdir()
        public.chmod(0o777)
        self._sidecar = await Sidecar.start(
            f"sidecar-{capture}", self._directory, self._certificates, list(self._upstreams.values()),
            command=[*self._world.sidecar(), self._world.postern], endpoint={"port": 15101},
            admin={"address": POD, "port": 15190}, dial={"resolvers": [OUTSIDE]}, public={"directory": str(public)},
            capture={"kind": capture, "rootsFile": str(self._certificates.ca)},
        )
        try:
            played = [self._client(each, capture, public) for each in self._clients]
            if capture == PROXY:
                await asyncio.gather(*played)
            else:
                await asyncio.gather(*played, self._try("h2spec", self._suite()),
                                     self._try("strict verification", self._strict(public)))
        finally:
            code = await self._sidecar.stop()
        self.judge(f"the {capture} sidecar ends with 0", code == 0, str(code))

    async def _client(self, client: Client, capture: str, public: Path) -> None:
        environment = injected(capture, public)
        added = {}
        if client.java_options:
            added = java_options(capture, public, self._directory / f"{capture}.cacerts")
        async with self._slots:
            await self._try(f"{client.title}, {capture}", self._works(client, capture, environment | added))
            if self.seen[client.name].works.get(capture):
                await self._try(f"{client.title}, what it needs for {capture}",
                                self._needs(client, capture, environment, added))

    @asynccontextmanager
    async def _agent(self, client: Client, environment: dict[str, str]) -> AsyncIterator[Agent]:
        """A process of the client in the pod."""
        name = f"{client.name}-{next(self._numbers)}"
        command = [*self._world.inside(), *client.command]
        child = await Child.start(name, command, self._directory / "logs", **environment)
        try:
            yield Agent(client.variant, child, self._hub)
        finally:
            await child.stop()

    async def _works(self, client: Client, capture: str, environment: dict[str, str]) -> None:
        """With all that the webhook sets."""
        seen, host = self.seen[client.name], self._upstreams[client.name].url
        async with self._agent(client, environment) as agent:
            if capture == PROXY:
                await session(agent, self._sidecar.url(client.name))
                await used(agent, f"{agent.child.name} {ENDPOINT}")
                seen.works[ENDPOINT] = True
                self._served(client)
            first = await agent.connect(host)
            if first.ok:
                require(first.value == agent.variant.revision, f"agreed on {first.value}")
                await used(agent, f"{agent.child.name} {capture}")
                seen.works[capture] = True
                self._served(client)
                seen.protocols[capture] = await self._protocol(client, capture)
                await self._unbound(agent, seen, capture)
            else:
                require(capture in client.not_by, f"connect: {text(first)}")
                seen.works[capture] = False
                seen.past[capture] = self._closed(client, capture, "nothing", first)

    async def _unbound(self, agent: Agent, seen: Seen, capture: str) -> None:
        refused = await agent.connect(f"https://unbound.{DOMAIN}/mcp")
        require(not refused.ok, "an unbound host was reached")
        seen.unbound[capture] = text(refused)

    async def _needs(self, client: Client, capture: str, environment: dict[str, str], added: dict[str, str]) -> None:
        """Takes one variable after the other away, for good if it is not missed."""
        seen, needs = self.seen[client.name], [each for each in client.reads if each in environment]
        known = False
        for name in list(needs):
            rest = [each for each in needs if each != name]
            answer = await self._connect(client, only(rest, environment) | added)
            if answer.ok:
                needs, known = rest, True
                self._served(client)
            else:
                past = self._closed(client, capture, name, answer)
                require(past == (name in TO_THE_PROXY), f"without {name} it goes {'past' if past else 'to'} the sidecar")
        if not known:  # that these few are enough
            answer = await self._connect(client, only(needs, environment) | added)
            require(answer.ok, f"{needs} alone: {text(answer)}")
            self._served(client)
        seen.needs[capture] = needs

    async def _connect(self, client: Client, environment: dict[str, str]) -> Answer:
        async with self._agent(client, environment) as agent:
            answer = await agent.connect(self._upstreams[client.name].url)
            if answer.ok:
                await agent.close()
            return answer

    async def _suite(self) -> None:
        """h2spec, the strict tests too, on a redirected connection."""
        command = [*self._world.inside(), str(self._program), "--host", f"{SUITE}.{DOMAIN}", "--port", "443", "--tls",
                   "--insecure", "--path", "/mcp", "--strict"]
        child = await Child.start(SUITE, command, self._directory / "logs")
        code, told = await child.ended(), child.stdout_path.read_text().splitlines()
        bad = [line.strip() for line in told if "×" in line]
        require(code == 0 and told[-1] == SUITE_RESULT, "; ".join([*told[-1:], child.stderr_path.read_text(), *bad]))
        require(not self._new_lines(SUITE), "the server was asked for something")

    async def _strict(self, public: Path) -> None:
        command = [*self._world.inside(), sys.executable, str(HERE / "strict.py"), f"{SUITE}.{DOMAIN}"]
        child = await Child.start("strict", [*command, str(public / "ca.pem")], self._directory / "logs")
        code = await child.ended()
        require(code == 0 and child.stdout_path.read_text() == "TLSv1.3\n", child.tail())

    # ---- what the server and the sidecar saw

    def _served(self, client: Client) -> None:
        requests = [each for each in self._new_lines(client.name) if "good" in each]
        require(requests and all(each["good"] for each in requests), "a request without the bound credential")

    def _closed(self, client: Client, capture: str, without: str, answer: Answer) -> bool:
        """Nothing was served. Returns whether it got to the server, which no redirected one does: not by one byte."""
        lines = self._new_lines(client.name)
        require(not any(each.get("good") for each in lines), f"without {without} it got a credential")
        require(capture == PROXY or not lines, f"without {without} it got out of the pod")
        if not lines:
            self.seen[client.name].untrusting = text(answer)
        return bool(lines)

    def _new_lines(self, name: str) -> list[dict]:
        host = f"{name}.{DOMAIN}"
        lines = [each for each in map(json.loads, self._log.read_text().splitlines()) if each["host"] == host]
        new = lines[self._read.get(host, 0):]
        self._read[host] = len(lines)
        return new

    async def _protocol(self, client: Client, capture: str) -> str:
        def told() -> set[str]:
            text = self._sidecar.child.stdout_path.read_text()
            lines = map(json.loads, text[:text.rfind("\n") + 1].splitlines())
            return {each.get("protocol") for each in lines
                    if each.get("server") == client.name and each.get("capture") == capture}

        # Access lines come in batches, some time after their answers; the last of them may be half there.
        async with asyncio.timeout(START_SECONDS):
            while not (found := told()):
                await asyncio.sleep(0.01)
        require(len(found) == 1, f"it spoke {found}")
        return str(found.pop())

    def _nothing_stray(self) -> None:
        """Over the whole run: no credential in a request that is not its own, and none with any agent."""
        secrets = [each.secret for each in self._upstreams.values()]
        lines = [json.loads(line) for line in self._log.read_text().splitlines()]
        stray = [each["host"] for each in lines if not each.get("good") and any(secret in str(each) for secret in secrets)]
        self.judge("no credential is where it does not belong", not stray, str(stray))
        unbound = [each for each in lines if each["host"] == f"unbound.{DOMAIN}"]
        self.judge("the unbound host is not reached", not unbound, str(unbound))
        told = {path.name for path in (self._directory / "logs").iterdir() if path.name != "server.log"
                and any(secret in path.read_text(errors="replace") for secret in secrets)}
        self.judge("nobody tells a credential", not told, str(told))

    # ---- counting

    async def _try(self, title: str, played) -> None:
        try:
            await played
        except Exception as failure:
            name = "" if isinstance(failure, Unexpected) else f"{type(failure).__name__}: "
            self.judge(title, False, f"{name}{failure}")
        else:
            self.judge(title, True, "")

    def judge(self, title: str, good: bool, otherwise: str) -> None:
        self.passed += good
        self.failed += not good
        if not good:
            print(f"FAILED {title}: {otherwise}", flush=True)


def text(answer: Answer) -> str:
    """What its user is shown, without what differs from run to run and from machine to machine."""
    line = next((each for each in answer.error.splitlines() if not each.startswith("Picked up")), "")
    line += f" (cause: {answer.causes[-1].strip()})" if answer.causes else ""
    for pattern, instead in SHORTER:
        line = re.sub(pattern, instead, line)
    return line
