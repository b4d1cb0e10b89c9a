"""The Python SDK 1.x."""

from contextlib import asynccontextmanager

from mcp import ClientSession


class Session:
    def __init__(self, session: ClientSession, version: str) -> None:
        self._session = session
        self.version = version

    async def list(self) -> list[str]:
        return [tool.name for tool in (await self._session.list_tools()).tools]

    async def call(self, tool: str, arguments: dict, progress):
        return await self._session.call_tool(tool, arguments, progress_callback=progress)


@asynccontextmanager
async def connect(transport, _mode: str):
    async with transport as streams:
        async with ClientSession(*streams[:2]) as session:
            greeting = await session.initialize()
            yield Session(session, greeting.protocolVersion)
