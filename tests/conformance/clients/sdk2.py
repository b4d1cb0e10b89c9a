"""The Python SDK 2.x."""

from contextlib import asynccontextmanager

from mcp import Client


class Session:
    def __init__(self, client: Client) -> None:
        self._client = client
        self.version = client.protocol_version

    async def list(self) -> list[str]:
        return [tool.name for tool in (await self._client.list_tools()).tools]

    async def call(self, tool: str, arguments: dict, progress):
        return await self._client.call_tool(tool, arguments, progress_callback=progress)


@asynccontextmanager
async def connect(transport, mode: str):
    async with Client(transport, mode=mode) as client:
        yield Session(client)
