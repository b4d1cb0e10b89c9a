"""The server behind the captures: official Python SDK 2.x over TLS, for any host name, with a credential for each.

Logs the host of every ClientHello, and of every request, with whether it has exactly the credential of that host and the
whole head. Prints `{"listening": true}` when it does.
"""

import argparse
import asyncio
import json
import os

import uvicorn
from clients.server import KEEP_ALIVE_SECONDS, build
from mcp.server.transport_security import TransportSecuritySettings


class Gate:
    """ASGI middleware."""

    def __init__(self, app, credentials: dict[str, str], log: str) -> None:
        self._app, self._credentials = app, credentials
        self._log = open(log, "a", encoding="utf-8", buffering=1)  # a line is on disk before its effect is seen

    def hello(self, _socket, host: str | None, _context) -> None:
        self._log.write(json.dumps({"host": host}) + "\n")

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
        host = next(value for name, value in head if name == "host").partition(":")[0]
        sent = [value for name, value in head if name == "authorization"]
        good = sent == [self._credentials.get(host)]
        self._log.write(json.dumps({"host": host, "good": good, "method": scope["method"], "head": head}) + "\n")
        if good:
            await self._app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def main() -> None:
    arguments = argparse.ArgumentParser()
    for option in ("cert", "key", "log"):
        arguments.add_argument(f"--{option}", required=True)
    options = arguments.parse_args()
    anyone = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = build().streamable_http_app(transport_security=anyone)
    gate = Gate(app, json.loads(os.environ["CAPTURED_CREDENTIALS"]), options.log)
    config = uvicorn.Config(
        gate, host="0.0.0.0", port=443, ssl_certfile=options.cert, ssl_keyfile=options.key, log_level="error",
        timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=1,
    )
    config.load()
    config.ssl.sni_callback = gate.hello
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(json.dumps({"listening": True}), flush=True)
    await serving


if __name__ == "__main__":
    asyncio.run(main())
