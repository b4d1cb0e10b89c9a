"""The Python SDK 2.x."""

from contextlib import asynccontextmanager

import httpx2
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

import login

TIMEOUT = httpx2.Timeout(30, read=300)  # the SDK's own


class Session:
    def __init__(self, client: Client) -> None:
        self._client = client
        self.version = client.protocol_version

    async def list(self) -> list[str]:
        return [tool.name for tool in (await self._client.list_tools()).tools]

    async def call(self, tool: str) -> str:
        result = await self._client.call_tool(tool, {"text": "hello"})
        return result.content[0].text


@asynccontextmanager
async def connect(job: dict):
    auth = login.provider(job["url"]) if job["oauth"] else None
    async with httpx2.AsyncClient(auth=auth, timeout=TIMEOUT) as http:
        if job["transport"] == "sse":
            transport = sse_client(job["url"], auth=auth)
        else:
            transport = streamable_http_client(job["url"], http_client=http)
        async with Client(transport, mode=job["mode"]) as client:
            yield Session(client)
