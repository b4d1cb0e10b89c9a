"""What each agent is put through, and what its user sees of it."""

import asyncio
import json
import re
from dataclasses import dataclass
from pathlib import Path

import httpx2
from clients.agents import STATELESS, Agent, Answer
from common.sidecar import Sidecar

STEP_SECONDS = 30
PROBES = 2000  # until a revocation must have been noticed; each is a whole round trip
SHORTER = (
    (r"http://127\.0\.0\.1:\d+/[\w-]+", "http://…"),
    (r'"id":\d+', '"id":…'),
    (r'-31\d{3}', "<code>"),
    (r"\[rmcp::.*>\]", "[…]"),  # the transport's type
)


class Unexpected(Exception):
    pass


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Unexpected(message)


@dataclass(frozen=True)
class Refusal:
    """A refusal as it is on the wire."""

    status: int
    reason: str
    words: str


@dataclass(frozen=True)
class Sight:
    """What an SDK's user sees of a refusal. `shown` is a word of the table, `after` what becomes of the session."""

    shown: str
    text: str
    after: str = ""

    def __str__(self) -> str:
        return ", ".join(each for each in (self.shown, self.after) if each)


def sight(answer: Answer, refusal: Refusal, after: str = "") -> Sight:
    words = (refusal.words, json.dumps(refusal.words)[1:-1])
    if any(each in answer.error for each in words):
        shown = "words"
    elif any(each in answer.kept for each in words):
        shown = "kept"
    else:
        shown = "status" if str(refusal.status) in answer.error else "nothing"
    return Sight(shown, _shorten(answer.error, refusal.reason), after)


def _shorten(error: str, reason: str) -> str:
    """Its first line up to Postern's words, without what differs from run to run and from refusal to refusal."""
    text = error.splitlines()[0]
    for pattern, instead in SHORTER:
        text = re.sub(pattern, instead, text)
    before, found, _ = text.partition(f"postern: {reason}: ")
    return f"{before}postern: <reason>: …" if found else text


# ---- on the wire, without an SDK

async def probe(url: str, method: str = "tools/list", session: str = "", **params: str) -> httpx2.Response:
    """A request of 2026-07-28, or one in a session."""
    headers = {"Accept": "application/json, text/event-stream", "Mcp-Method": method}
    if session:
        headers |= {"Mcp-Session-Id": session}
    else:
        headers |= {"MCP-Protocol-Version": STATELESS} | ({"Mcp-Name": params["name"]} if params else {})
    told = {"protocolVersion": STATELESS, "clientCapabilities": {}, "clientInfo": {"name": "probe", "version": "1"}}
    meta = {f"io.modelcontextprotocol/{key}": value for key, value in told.items()}
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params | ({} if session else {"_meta": meta})}
    async with httpx2.AsyncClient(trust_env=False, timeout=STEP_SECONDS) as client:
        return await client.post(url, headers=headers, json=message)


async def forget(url: str, session: str) -> None:
    """Ends a session in the eyes of whoever stands between; the server goes on with it."""
    async with httpx2.AsyncClient(trust_env=False, timeout=STEP_SECONDS) as client:
        response = await client.delete(f"{url}?kept", headers={"Mcp-Session-Id": session})
    response.raise_for_status()


async def get(url: str) -> httpx2.Response:
    """What opens a stream of 2024-11-05."""
    async with httpx2.AsyncClient(trust_env=False, timeout=STEP_SECONDS) as client:
        return await client.get(url, headers={"Accept": "text/event-stream"})


def refused(response: httpx2.Response, status: int, reason: str) -> Refusal:
    """The row's title is true: this is the refusal, in this form."""
    told = (response.status_code, response.headers.get("postern-reason"))
    require(told == (status, reason), f"the wire has {told}, not {(status, reason)}")
    require("www-authenticate" not in response.headers, "the agent got a challenge")
    require(("retry-after" in response.headers) == (status == 503), "Retry-After belongs to 503")
    if response.headers["content-type"] == "application/json":
        error = response.json()["error"]
        require(error["data"]["reason"] == reason, f"data has another reason: {error}")
        return Refusal(status, reason, error["message"])
    return Refusal(status, reason, response.text.strip())


# ---- scenes: what all agents are put through

async def session(agent: Agent, url: str, kind: str = "http", oauth: bool = False) -> Answer:
    connected = await agent.connect(url, kind, oauth)
    require(connected.ok, f"connect: {connected.error}")
    return connected


async def transport(agent: Agent, url: str, kind: str) -> str:
    """Connect, list, call, with progress. Anything but success is a failure of the run, not a cell."""
    connected = await session(agent, url, kind)
    if kind == "http" or connected.value:  # the TypeScript SDK 1.x does not tell it of the older transport
        require(connected.value == agent.variant.revision, f"agreed on {connected.value}")
    await used(agent, f"{agent.variant.label} {kind}")
    return "works"


async def used(agent: Agent, key: str) -> None:
    """All that a session is for. The key is for the rendezvous, which knows each for good."""
    listed = await agent.list()
    require(listed.ok and {"echo", "count"} <= set(listed.value), f"list: {listed}")
    called = await agent.call("echo")
    require(called.value == "hello", f"call: {called}")
    counted = await agent.call("count", key)
    require((counted.value, counted.progress) == (key, [1, 2, 3]), f"count: {counted}")
    closed = await agent.close()
    require(closed.ok, f"close: {closed.error}")


def unlike_a_login(answer: Answer) -> None:
    require("a login was begun" not in answer.error, "a login was begun")
    require(not answer.login, f"the agent searched for a login: {answer.login}")
    require(answer.challenges == 0, "the agent got a challenge")


async def connecting(agent: Agent, url: str, refusal: Refusal, transport: str = "http", oauth: bool = False) -> Sight:
    connected = await agent.connect(url, transport, oauth)
    require(not connected.ok, "connected, although it should have been refused")
    unlike_a_login(connected)
    return sight(connected, refusal)


async def calling(agent: Agent, url: str, tool: str, refusal: Refusal, oauth: bool = False) -> Sight:
    """A call in a live session; everything else in it is served."""
    await session(agent, url, oauth=oauth)
    called = await agent.call(tool)
    later = await agent.list()
    if later.ok:
        await agent.close()
    require(not called.ok, f"{tool} was not refused: {called}")
    unlike_a_login(called)
    return sight(called, refusal, "session lives" if later.ok else "session ends")


async def calling_late(agent: Agent, refusal: Refusal) -> Sight:
    """A call in a session that is served no longer."""
    called = await agent.call("echo")
    if called.ok:
        return Sight("a new session is begun", "")
    unlike_a_login(called)
    return sight(called, refusal)


async def searching(agent: Agent, url: str, transport: str = "http") -> None:
    """Without the sidecar: this agent does begin a login."""
    connected = await agent.connect(url, transport, oauth=True)
    require("a login was begun" in connected.error, f"no login was begun: {connected}")
    require(connected.challenges > 0 and connected.login, f"the agent itself saw none of it: {connected}")


async def revoke(secret: Path, url: str) -> httpx2.Response:
    """Takes a credential away; returns the first refusal."""
    secret.unlink()
    for _ in range(PROBES):
        try:
            response = await probe(url)
        except httpx2.RemoteProtocolError:  # its answer was on the way when the credential was withdrawn
            continue
        if "postern-reason" in response.headers:
            return response
    raise Unexpected("the revocation was not noticed")


class Drain:
    """A sidecar that is shutting down, kept from its end by one open stream."""

    def __init__(self, sidecar: Sidecar, stream: str) -> None:
        self._sidecar, self._stream = sidecar, stream

    async def __aenter__(self) -> None:
        host, port = self._stream.removeprefix("http://").split("/")[0].split(":")
        path = self._stream.split("/", 3)[3]
        reader, self._writer = await asyncio.open_connection(host, int(port))
        self._writer.write(f"GET /{path} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/event-stream\r\n\r\n".encode())
        async with asyncio.timeout(STEP_SECONDS):
            await reader.readuntil(b"endpoint")
            self._stopping = asyncio.create_task(self._sidecar.stop())
            while '"draining' not in await self._sidecar.child.line(self._sidecar.child.stderr):
                pass

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        code = await self._stopping
        require(code == 0, f"the sidecar ended with {code}")
