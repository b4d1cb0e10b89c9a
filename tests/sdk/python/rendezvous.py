"""One end of the harness's rendezvous: servers and clients wait here for each other's steps, never for time.

The other end is `harness/hub.py`. A key is signalled once and stays signalled.
"""

import asyncio
import json
import os

PATIENCE_SECONDS = 20  # only ever spent when something is broken


class Missed(Exception):
    """Nobody signalled the key: the other side did not get, or did not do, what it should have."""


async def signal(key: str) -> None:
    await _ask({"signal": key})


async def wait(key: str) -> None:
    await _ask({"wait": key, "seconds": PATIENCE_SECONDS})


async def _ask(question: dict) -> None:
    host, port = os.environ["SDK_RENDEZVOUS"].rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(json.dumps(question).encode() + b"\n")
        answer = json.loads(await reader.readline())
    finally:
        writer.close()
    if not answer["ok"]:
        raise Missed(answer["error"])
