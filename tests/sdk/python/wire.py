"""What stands in front of the SDK's server: the demand for the credential, and a log of what really arrived.

Outside the SDK on purpose, so that the log shows the bytes of the wire and not the SDK's view of them. The log has
one JSON object a line; `harness/wirelog.py` reads it.
"""

import asyncio
import itertools
import json
from collections import defaultdict

import anyio

from rendezvous import signal

NAME_KEYS = ("name", "uri")  # what `Mcp-Name` mirrors


class WireLog:
    def __init__(self, path: str) -> None:
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # a line is on disk before its effect is seen

    def write(self, **record: object) -> None:
        self._file.write(json.dumps(record) + "\n")


class Gate:
    """ASGI middleware: logs every request, refuses those without the credential, reports peers that leave."""

    def __init__(self, app, log: WireLog, credential: str) -> None:
        self._app = app
        self.log = log
        self._credential = credential
        self._numbers = itertools.count(1)
        self.pushes: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def push_stream_open(self, session: str) -> None:
        """Returns once the session's standing GET stream has been answered."""
        async with asyncio.timeout(20):
            await self.pushes[session].wait()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
        tokens = [value for name, value in headers if name == "authorization"]
        authorized = tokens == [self._credential]
        body = await _read_body(receive)
        rpc = _summary(body)
        number = next(self._numbers)
        self.log.write(event="request", n=number, http=scope["method"], path=scope["path"], headers=headers,
                        authorized=authorized, rpc=rpc)
        exchange = _Exchange(self, number, scope, body, rpc, send)
        if not authorized:
            await exchange.refuse()
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.watch, receive)
            if rpc.get("name") == "hold":
                await exchange.hold()
            else:
                await self._app(scope, exchange.receive, exchange.send)
            tasks.cancel_scope.cancel()


class _Exchange:
    """One request and its answer: replays the body to the SDK and logs how the answer went and ended."""

    def __init__(self, gate: Gate, number: int, scope, body: bytes, rpc: dict, send) -> None:
        self._gate = gate
        self._number = number
        self._standing = scope["method"] == "GET" and b"last-event-id" not in dict(scope["headers"])
        self._body: bytes | None = body
        self._rpc = rpc
        self._send = send
        self._status = 0
        self._finished = False
        self._gone = asyncio.Event()

    async def refuse(self) -> None:
        await self.send({"type": "http.response.start", "status": 401,
                         "headers": [(b"www-authenticate", b'Bearer realm="harness"'), (b"content-length", b"0")]})
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def hold(self) -> None:
        """Answers nothing at all, not even a head, until the peer has left."""
        await signal(f"{self._rpc['gate']}/started")
        await self._gone.wait()

    async def receive(self):
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = dict(message["headers"])
            session = headers.get(b"mcp-session-id", b"").decode("latin-1")
            self._gate.log.write(event="head", n=self._number, status=self._status, session=session)
            if self._standing and self._status == 200:
                self._gate.pushes[session].set()
        elif not message.get("more_body", False):
            self._finished = True
            self._gate.log.write(event="finished", n=self._number)
        await self._send(message)

    async def watch(self, receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if self._finished:
            return
        self._gate.log.write(event="disconnected", n=self._number, head_sent=self._status != 0)
        self._gone.set()
        if gate := self._rpc.get("gate"):
            # Shielded: the SDK ends the exchange as soon as it learns of the disconnect, and us with it.
            with anyio.CancelScope(shield=True):
                await signal(f"{gate}/disconnected")


async def _read_body(receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


def _summary(body: bytes) -> dict:
    """The parts of a JSON-RPC message by which the harness recognises it."""
    try:
        message = json.loads(body)
    except ValueError:
        return {}
    if not isinstance(message, dict):
        return {}
    params = message.get("params") or {}
    summary = {
        "id": message.get("id"),
        "method": message.get("method"),
        "name": next((params[key] for key in NAME_KEYS if key in params), None),
        "gate": (params.get("arguments") or {}).get("gate"),
        "params": sorted(params),
        "request_id": params.get("requestId"),
        "is_answer": "result" in message or "error" in message,
    }
    return {key: value for key, value in summary.items() if value is not None and value is not False}
