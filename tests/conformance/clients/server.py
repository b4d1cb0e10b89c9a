"""The server the SDK clients meet: official Python SDK 2.x behind a gate, over TLS.

/mcp         Streamable HTTP
/sse         HTTP+SSE of 2024-11-05, with /messages/
/rejecting   401 with an OAuth challenge, whatever comes; so does a call of the tool `rejected` anywhere
/mcp?kept    says yes to a DELETE, and goes on with the session all the same
/thief       gives out again, newest first, the session ids that /mcp gave out
the rest     an authorization server, ready to register a client

Each of the first four demands its own credential. Logs the path of every request. Prints `{"port": n}` when it listens.
"""

import argparse
import asyncio
import json
import os
import socket

import uvicorn
from mcp.server.mcpserver import Context, MCPServer

import rendezvous

KEEP_ALIVE_SECONDS = 600  # never ends an idle connection: that race is no part of what is looked at
SESSION = b"mcp-session-id"


def build() -> MCPServer:
    server = MCPServer("matrix", log_level="ERROR")

    @server.tool()
    async def echo(text: str) -> str:
        return text

    @server.tool()
    async def count(text: str, ctx: Context) -> str:
        """Each step only once the agent has got the one before."""
        for step in (1, 2, 3):
            await ctx.report_progress(step, 3)
            await rendezvous.wait(f"{text} {step}")
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
        self._given: list[bytes] = []  # session ids

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self._streamable(scope, receive, send)
            return
        path = scope["path"]
        first = path.split("/")[1]
        self._log.write(json.dumps({"http": scope["method"], "path": path}) + "\n")
        body = await _read(receive) if scope["method"] == "POST" else b""
        if first not in ("mcp", "sse", "messages", "rejecting", "thief"):
            await _authorize(scope, body, send)
        elif first == "rejecting" or not self._admits(scope, first) or _tool(body) == "rejected":
            await _challenge(scope, send)
        elif first == "thief":
            result = {"jsonrpc": "2.0", "id": json.loads(body)["id"], "result": {}}
            await _answer(send, 200, result, (SESSION, self._given.pop()))
        elif first == "mcp" and scope["method"] == "DELETE" and scope["query_string"] == b"kept":
            await _answer(send, 200, {})
        elif first == "mcp":
            await self._streamable(scope, _replay(body, receive), self._noting(send))
        else:
            await self._sse(scope, _replay(body, receive) if scope["method"] == "POST" else receive, send)

    def _admits(self, scope, first: str) -> bool:
        tokens = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
        return tokens == [self._credentials["sse" if first == "messages" else first]]

    def _noting(self, send):
        async def noted(message) -> None:
            headers = dict(message.get("headers", ()))
            if (given := headers.get(SESSION)) and given not in self._given:
                self._given.append(given)
            await send(message)

        return noted


async def _authorize(scope, body: bytes, send) -> None:
    """Every path of an OAuth search leads on, so that a client that begins one goes as far as it can."""
    origin, path = _origin(scope), scope["path"]
    if path.startswith("/.well-known/oauth-protected-resource"):
        resource = path.removeprefix("/.well-known/oauth-protected-resource")
        await _answer(send, 200, {"resource": origin + resource, "authorization_servers": [origin]})
    elif path.startswith("/.well-known/"):
        await _answer(send, 200, {
            "issuer": origin,
            "authorization_endpoint": f"{origin}/authorize",
            "token_endpoint": f"{origin}/token",
            "registration_endpoint": f"{origin}/register",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
        })
    elif path == "/register":
        await _answer(send, 201, json.loads(body) | {"client_id": "agent"})
    else:
        await _answer(send, 404, {})


async def _challenge(scope, send) -> None:
    resource = f"{_origin(scope)}/.well-known/oauth-protected-resource{scope['path']}"
    told = f'Bearer error="invalid_token", resource_metadata="{resource}"'
    await _answer(send, 401, {}, (b"www-authenticate", told.encode()))


def _origin(scope) -> str:
    return f"https://{dict(scope['headers'])[b'host'].decode()}"


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


async def _answer(send, status: int, document: dict, *headers: tuple[bytes, bytes]) -> None:
    head = [(b"content-type", b"application/json"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": json.dumps(document).encode()})


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
