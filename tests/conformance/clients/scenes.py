"""What each agent is put through, and what came of it. Cells are coarse, so that they are the same in every run."""

import asyncio
from pathlib import Path

from clients.agents import Agent
from common.sidecar import Sidecar

WORKS = "works"
TEXT, NO_TEXT = "text", "no text"
STEP_SECONDS = 30


class Unexpected(Exception):
    pass


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Unexpected(message)


async def transport(agent: Agent, url: str, kind: str) -> str:
    """Connect, list, call. Anything but success is a failure of the run, not a cell."""
    connected = await agent.connect(url, kind)
    require(connected.ok, f"connect: {connected.error}")
    version = agent.variant.version
    if kind == "http" and connected.value is not None:
        require(connected.value == version, f"negotiated {connected.value}, not {version}")
    listed = await agent.list()
    require(listed.ok and "echo" in listed.value, f"list: {listed}")
    called = await agent.call("echo")
    require(called.value == "hello", f"call: {called}")
    closed = await agent.close()
    require(closed.ok, f"close: {closed.error}")
    return WORKS


async def refused_connect(agent: Agent, url: str, oauth: bool = False) -> str:
    connected = await agent.connect(url, oauth=oauth)
    require(not connected.ok, "connected, although it should have been refused")
    require("a login was begun" not in connected.error, "a login was begun")
    return TEXT if connected.has_text else NO_TEXT


async def refused_call(agent: Agent, url: str, tool: str) -> str:
    connected = await agent.connect(url)
    require(connected.ok, f"connect: {connected.error}")
    called = await agent.call(tool)
    require(not called.ok, f"{tool} was not refused: {called}")
    later = await agent.list()
    if later.ok:
        await agent.close()
    return f"{TEXT if called.has_text else NO_TEXT}, session {'lives' if later.ok else 'ends'}"


async def refused_after(agent: Agent, sidecar: Sidecar) -> str:
    """A call in a session whose sidecar has stopped serving it meanwhile."""
    called = await agent.call("echo")
    require(not called.ok, f"was not refused: {called}")
    return TEXT if called.has_text else NO_TEXT


async def revoke(sidecar: Sidecar, secret: Path, server: str) -> None:
    """Takes a credential away and returns when the sidecar has said that it noticed."""
    secret.unlink()
    async with asyncio.timeout(STEP_SECONDS):
        while f'"{server}"' not in await sidecar.child.line(sidecar.child.stderr):
            pass


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
