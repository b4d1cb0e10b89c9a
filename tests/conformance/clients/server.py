"""The server the SDK clients meet: official Python SDK 2.x, Streamable HTTP at /mcp and HTTP+SSE at /sse, over TLS.

It demands the credential of each path, and answers 401 with an OAuth challenge to everything at /rejecting and to calls
of the tool `rejected`. Logs the path of every request. Prints `{"port": n}` when it listens.
"""

import argparse
import asyncio
import json
import os
import socket

import uvicorn
from mcp.server.mcpserver import MCPServer

KEEP_ALIVE_SECONDS = 600  # never ends an idle connection: that race is no part of what is looked at


def build() -> MCPServer:
    server = MCPServer("matrix", log_level="ERROR")

    @server.tool()
    async def echo(text: str) -> str:
        return text

    @server.tool()
    async def denied(text: str) -> str:  # by the binding
        return text

    @server.tool()
    async def rejected(text: str) -> str:  # by the gate
        return text

    return server


class Gate:
    """ASGI middleware in front of both transports."""

    def __init__(self, server: MCPServer, credentials: dict[str, str], log: str) -> None:
        self._streamable = server.streamable_http_app()
        self._sse = server.sse_app()
        self._credentials = credentials
        self._log = open(log, "a", encoding="utf-8", buffering=1)  # a line is on disk before its effect is seen

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self._streamable(scope, receive, send)
            return
        path = scope["path"]
        first = path.split("/")[1]
        self._log.write(json.dumps({"http": scope["method"], "path": path}) + "\n")
        body = await _read(receive) if scope["method"] == "POST" else b""
        if first not in ("mcp", "sse", "messages", "rejecting"):
            await _answer(send, 404)
        elif not self._admits(scope, first) or first == "rejecting" or _tool(body) == "rejected":
            await _answer(send, 401)
        else:
            app = self._streamable if first == "mcp" else self._sse
            await app(scope, _replay(body, receive) if scope["method"] == "POST" else receive, send)

    def _admits(self, scope, first: str) -> bool:
        tokens = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
        return tokens == [self._credentials["sse" if first == "messages" else first]]


async def _read(receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _replay(body: bytes, receive):
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed():
        return pending.pop() if pending else await receive()

    return replayed


def _tool(body: bytes) -> str | None:
    message = json.loads(body or b"{}")
    return message["params"]["name"] if message.get("method") == "tools/call" else None


async def _answer(send, status: int) -> None:
    headers = [(b"content-length", b"0")]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer error="invalid_token"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def main() -> None:
    arguments = argparse.ArgumentParser()
    for option in ("cert", "key", "log"):
        arguments.add_argument(f"--{option}", required=True)
    options = arguments.parse_args()
    gate = Gate(build(), json.loads(os.environ["MATRIX_CREDENTIALS"]), options.log)
    config = uvicorn.Config(gate, ssl_certfile=options.cert, ssl_keyfile=options.key, log_level="error",
                            timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=1)
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    main()
