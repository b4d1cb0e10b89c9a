"""The Python SDK 1.x."""

from contextlib import asynccontextmanager

from mcp import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamablehttp_client

import login


class Session:
    def __init__(self, session: ClientSession, version: str) -> None:
        self._session = session
        self.version = version

    async def list(self) -> list[str]:
        return [tool.name for tool in (await self._session.list_tools()).tools]

    async def call(self, tool: str) -> str:
        result = await self._session.call_tool(tool, {"text": "hello"})
        return result.content[0].text


@asynccontextmanager
async def connect(job: dict):
    transport = sse_client if job["transport"] == "sse" else streamablehttp_client
    auth = login.provider(job["url"]) if job["oauth"] else None
    async with transport(job["url"], auth=auth) as streams:
        async with ClientSession(*streams[:2]) as session:
            greeting = await session.initialize()
            yield Session(session, greeting.protocolVersion)
