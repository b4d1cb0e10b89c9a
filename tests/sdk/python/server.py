"""The MCP server on the official Python SDK: Streamable HTTP, 2025-11-25 sessions and stateless 2026-07-28.

Prints `{"port": n}` when it listens. Each tool exists for the scenario of the same idea in `scenarios.py`.
"""

import argparse
import asyncio
import json
import os
import pathlib
import socket
from typing import Annotated

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, Field

from event_store import MemoryEventStore
from rendezvous import signal, wait
from wire import Gate, WireLog

RETRY_MILLISECONDS = 50  # what a client waits before it resumes
# Longer than any run: uvicorn's 5 s would let idle connections close just as a slow machine reuses one. That race is
# part of HTTP/1.1 and fails now and then for every client, so it would only blur what is tested here.
KEEP_ALIVE_SECONDS = 600


class Who(BaseModel):
    name: str


async def ask_who() -> Elicit[Who]:
    return Elicit("Who is there?", Who)


class Party:
    """Callers that are let go only together: proof that all were in flight at once."""

    def __init__(self, size: int) -> None:
        self._missing = size
        self._complete = asyncio.Event()

    async def join(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._complete.set()
        async with asyncio.timeout(20):
            await self._complete.wait()


class Tools:
    def __init__(self, log: WireLog, payload: str) -> None:
        self.log = log
        self.payload = payload
        self.gate: Gate | None = None
        self._parties: dict[str, Party] = {}

    async def echo(self, text: str) -> str:
        return text

    async def big(self) -> str:
        return self.payload

    async def count(self, steps: int, gate: str, ctx: Context) -> str:
        """Reports a step only when the client has acknowledged the one before."""
        for step in range(1, steps + 1):
            await ctx.report_progress(step, steps)
            await wait(f"{gate}/progress/{step}")
        return f"counted {steps}"

    async def meet(self, label: str, size: int, gate: str) -> str:
        await self._parties.setdefault(gate, Party(size)).join()
        return label

    async def ask(self, who: Annotated[Who, Resolve(ask_who)]) -> str:
        return f"hello {who.name}"

    async def slow(self, gate: str, noisy: bool, ctx: Context) -> str:
        """Runs until released or cancelled. Not noisy: sends nothing before that."""
        try:  # from the first event on: a client may cancel as soon as it has that
            if noisy:
                await ctx.report_progress(1, 2)
            await signal(f"{gate}/started")
            await wait(f"{gate}/release")
        except anyio.get_cancelled_exc_class():
            self.log.write(event="cancelled", gate=gate)
            with anyio.CancelScope(shield=True):
                await signal(f"{gate}/cancelled")
            raise
        return "released"

    async def resume(self, gate: str, ctx: Context) -> str:
        """Ends its own event stream halfway; the rest can only be had with `Last-Event-ID`."""
        await ctx.report_progress(1, 2)
        await wait(f"{gate}/progress/1")
        await ctx.close_sse_stream()
        await ctx.report_progress(2, 2)
        return "resumed"

    async def announce(self, gate: str, ctx: Context) -> str:
        """Notifies over the standing stream, not over this call's, and returns when the client has heard it."""
        if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
            await ctx.notify_tools_changed()
        else:
            assert self.gate and ctx.headers
            await self.gate.push_stream_open(ctx.headers["mcp-session-id"])
            await ctx.session.send_tool_list_changed()
        await wait(f"{gate}/heard")
        return "announced"

    async def region(
        self, region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]
    ) -> str:
        return f"in {region}"


def build(tools: Tools) -> MCPServer:
    server = MCPServer("python-server", log_level="WARNING")
    for name in ("echo", "big", "count", "meet", "ask", "slow", "resume", "announce", "region"):
        # Unstructured: the structured copy would double the big result.
        server.add_tool(getattr(tools, name), name=name, structured_output=False)

    @server.resource("note://{name}")
    async def note(name: str) -> str:
        return f"note about {name}"

    return server


def main() -> None:
    arguments = argparse.ArgumentParser()
    for option in ("cert", "key", "log", "payload"):
        arguments.add_argument(f"--{option}", required=True)
    options = arguments.parse_args()

    log = WireLog(options.log)
    tools = Tools(log, pathlib.Path(options.payload).read_bytes().decode())
    app = build(tools).streamable_http_app(event_store=MemoryEventStore(), retry_interval=RETRY_MILLISECONDS)
    tools.gate = Gate(app, log, os.environ["SDK_CREDENTIAL"])
    config = uvicorn.Config(tools.gate, ssl_certfile=options.cert, ssl_keyfile=options.key, log_level="warning",
                            timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=1)
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
