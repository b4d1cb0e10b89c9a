"""An MCP server on the official Python SDK, over TLS, that tells in its log which credential each request carried.

usage: server.py NAME CERTIFICATE KEY
"""

import json
import sys

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer


def tell(**event: object) -> None:
    print(json.dumps(event), flush=True)


class Tools:
    def __init__(self, name: str) -> None:
        self.name = name

    async def whoami(self) -> str:
        return self.name

    async def wait(self, ctx: Context) -> str:
        """Never answers, and says so every now and then: a live stream."""
        tick = 0
        while True:
            tick += 1
            await ctx.report_progress(tick)
            await anyio.sleep(0.2)


def log_credentials(inner):
    """Around the server: every request with the values of its Authorization header, however many they are."""

    async def outer(scope, receive, send):
        if scope["type"] == "http":
            values = [value.decode() for name, value in scope["headers"] if name.lower() == b"authorization"]
            tell(method=scope["method"], path=scope["path"], authorization=values)
        await inner(scope, receive, send)

    return outer


def main() -> None:
    name, certificate, key = sys.argv[1:]
    tools = Tools(name)
    server = MCPServer(name, log_level="WARNING")
    for tool in (tools.whoami, tools.wait):
        server.add_tool(tool, structured_output=False)
    app = log_credentials(server.streamable_http_app(host="0.0.0.0"))
    uvicorn.run(
        app,
        host="0.0.0.0",
        port=8443,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
