"""One run: keeps the client processes, plays the scenarios, prints a line for each, and counts."""

import asyncio
import json
import os
import re
import secrets
import uuid
from collections.abc import Callable
from pathlib import Path

from harness.matrix import PAIRS, Pair, check
from harness.process import Child, Died
from harness.stack import Server, Sidecar, Workplace
from harness.wirelog import Slice, Violation, check_identity, require

SCENARIO_SECONDS = 30  # more than the rendezvous's patience, so that a missed step is told as such


class Session:
    def __init__(self, place: Workplace, servers: list[Server], only: str) -> None:
        self.passed = 0
        self.failed = 0
        self.sentinel = "agent-sentinel-" + secrets.token_hex(16)
        self.agent_headers = {  # what a well-meaning or hostile agent sends of its own
            "Authorization": f"Bearer {self.sentinel}",
            "Cookie": f"session={self.sentinel}",
            "X-Api-Key": self.sentinel,
        }
        self.children: list[Child] = []
        self._place = place
        self._servers = {server.name: server for server in servers}
        self._only = only
        self._clients: dict[str, Child] = {}
        self._spawned = 0
        self._met: set[str] = set()  # servers

    # The scenarios.

    async def meet_all(self, url: Callable[[Server], str], headers: Callable[[Server], dict], guarded: bool = False):
        """Plays every pair's scenarios. Guarded: nothing of the agent's own headers may reach a server."""
        for pair in PAIRS:
            server = self._servers[pair.server]
            for scenario in pair.scenarios:
                title = f"{pair.client} {pair.server} {scenario}"
                if self._only in title:
                    await self._meet(title, pair, scenario, url(server), headers(server), guarded)
        for server in self._servers.values():
            # What came after the last scenario is judged too.
            await self.judge(f"every-request {server.name} identity", self._check_rest, server, guarded)

    async def _meet(self, title: str, pair: Pair, scenario: str, url: str, headers: dict, guarded: bool) -> None:
        server = self._servers[pair.server]
        self._met.add(server.name)

        async def played() -> None:
            error = await self._play(pair.client, scenario, pair.version, url, headers)
            piece = server.wire.next_slice()
            try:
                check_identity(piece, server.authority, self.sentinel if guarded else None)
                require(not error, f"client: {error}")
                require(piece.exchanges, "nothing reached the server")
                check(pair, scenario, piece)
            except Violation as violation:
                arrived = "".join(f"\n    arrived: {each}" for each in piece.exchanges)
                raise Violation(f"{violation}{arrived}") from None

        await self.judge(title, played, involved=[server.child])

    async def _play(self, client: str, scenario: str, version: str, url: str, headers: dict) -> str | None:
        """Lets a client play one scenario; returns what went wrong in its eyes."""
        child = await self._client(client)
        job = {"scenario": scenario, "url": url, "headers": headers, "version": version, "gate": uuid.uuid4().hex,
               "ca": str(self._place.certificates.ca), "payload": str(self._place.payload)}
        try:
            answer = json.loads(await asyncio.wait_for(child.ask(json.dumps(job)), SCENARIO_SECONDS))
        except (TimeoutError, Died, ConnectionError) as failure:
            # What it was doing is lost; the next scenario gets a new process.
            del self._clients[client]
            child.kill()
            return f"{str(failure) or f'no answer within {SCENARIO_SECONDS} s'}\n{_indented(child.tail())}"
        return None if answer["ok"] else f"{answer['error']}\n{_indented(child.tail())}"

    async def _client(self, name: str) -> Child:
        if name not in self._clients:
            commands = {
                "python-2025": self._place.python("client.py") + ["--mode", "legacy"],
                "python-2026": self._place.python("client.py") + ["--mode", "auto"],
                "ts-2025": self._place.node("client.mjs"),
            }
            self._spawned += 1
            child = await self._place.start(f"client-{name}-{self._spawned}", commands[name])
            self._clients[name] = child
            self.children.append(child)
        return self._clients[name]

    async def _check_rest(self, server: Server, guarded: bool) -> None:
        check_identity(server.wire.next_slice(), server.authority, self.sentinel if guarded else None)

    # That the checks can fail.

    async def control(self) -> None:
        """Breaks the promise on purpose, without the sidecar: the checks must notice."""
        for server in self._servers.values():
            await self.judge(f"control {server.name} refuses-foreign-token", self._foreign_token, server)
            await self.judge(f"control {server.name} notices-leaked-token", self._leaked_token, server)

    async def _foreign_token(self, server: Server) -> None:
        version = "2025-11-25"
        error = await self._play("python-2025", "call", version, server.url, self.agent_headers)
        piece = server.wire.next_slice()
        require(error, "the server answered a client without its credential")
        require({each.status for each in piece.exchanges} == {401}, "the server did not answer 401")
        _must_object(piece, server.authority, self.sentinel, "not the bound credential")

    async def _leaked_token(self, server: Server) -> None:
        headers = {"Authorization": server.credential, "X-Api-Key": self.sentinel}
        error = await self._play("python-2025", "call", "2025-11-25", server.url, headers)
        require(not error, f"client: {error}")
        _must_object(server.wire.next_slice(), server.authority, self.sentinel, "the agent's token went through")

    # The sidecar's own output, and the end.

    async def part_with(self, sidecar: Sidecar) -> None:
        """Takes the last things the sidecar tells, stops it, and judges its behaviour and its output."""
        outputs: dict[str, str] = {"metrics": ""}

        async def measured() -> None:
            outputs["metrics"] = await sidecar.metrics()
            require("postern_requests_total{" in outputs["metrics"], "postern_requests_total is not in /metrics")

        async def stopped() -> None:
            code = await sidecar.child.stop()
            require(code == 0, f"exit code {code} after SIGTERM")

        async def silent() -> None:
            hidden = {f"{server.name}'s secret": server.secret for server in self._servers.values()}
            for what, value in (hidden | {"the agent's token": self.sentinel}).items():
                places = [name for name, text in outputs.items() if value in text]
                require(not places, f"{what} is in {places}")

        async def accounted() -> None:
            lines = [json.loads(line) for line in outputs["stdout"].splitlines()]
            for name in self._met:
                require(any(line.get("server") == name for line in lines), f"no access line of {name}")

        await self.judge("sidecar serves-metrics", measured)
        await self.judge("sidecar stops-cleanly", stopped)
        outputs["stdout"] = sidecar.child.stdout_path.read_text()
        outputs["stderr"] = sidecar.child.stderr_path.read_text()
        self._keep_evidence(outputs)
        await self.judge("sidecar tells-no-secret", silent)
        await self.judge("sidecar accounts-for-requests", accounted)

    def _keep_evidence(self, outputs: dict[str, str]) -> None:
        directory = os.environ.get("POSTERN_EVIDENCE")
        if not directory or not Path(directory).is_dir():
            return
        run = f"sdk-{os.getpid()}-{secrets.token_hex(4)}"
        for name, text in outputs.items():
            Path(directory, f"{run}-sidecar.{name}").write_text(text)
        with Path(directory, "secrets.txt").open("a") as file:
            file.writelines(f"{server.secret}\n" for server in self._servers.values())

    async def stop(self) -> None:
        servers = [server.child for server in self._servers.values() if server.child]
        await asyncio.gather(*(child.stop() for child in self.children + servers))

    async def judge(self, title: str, verdict, *arguments, involved: list[Child] | None = None) -> bool:
        """Counts and prints the outcome of one check; a failed one with what the processes said last."""
        try:
            await verdict(*arguments)
        except Exception as failure:
            self.failed += 1
            kind = "" if isinstance(failure, Violation) else f"{type(failure).__name__}: "
            print(f"FAILED {title}: {self._redacted(f'{kind}{failure}')}", flush=True)
            for child in [*(involved or []), *(each for each in self.children if each.name == "sidecar")]:
                print(self._redacted(_indented(child.tail())), flush=True)
            return False
        self.passed += 1
        print(f"ok {title}", flush=True)
        return True

    def _redacted(self, text: str) -> str:
        for server in self._servers.values():
            text = text.replace(server.secret, "<secret>")
        return text


def _must_object(piece: Slice, authority: str, sentinel: str, complaint: str) -> None:
    try:
        check_identity(piece, authority, sentinel)
    except Violation as violation:
        require(re.search(complaint, str(violation)), f"objected to something else: {violation}")
    else:
        raise Violation("check_identity saw nothing wrong")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
