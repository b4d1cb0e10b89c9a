"""The rendezvous: a side channel, apart from MCP and from the sidecar, on which the parties wait for each other.

It turns "soon enough" into "after": a server sends step two only once the client has said that step one arrived.
A line `{"signal": key}` marks a key for good; `{"wait": key, "seconds": n}` is answered when the key is marked.
"""

import asyncio
import json
from collections import defaultdict


class Hub:
    def __init__(self) -> None:
        self._marks: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listens on loopback and returns `host:port`."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    def stop(self) -> None:
        if self._server:
            self._server.close()

    def mark(self, key: str) -> None:
        self._marks[key].set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await self._answer(json.loads(await reader.readline()))
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the asker was cancelled or killed; nobody waits for this answer
        except asyncio.CancelledError:
            pass  # the run is over; asyncio would report a cancelled handler as an error
        finally:
            writer.close()

    async def _answer(self, question: dict) -> dict:
        if "signal" in question:
            self.mark(question["signal"])
            return {"ok": True}
        key = question["wait"]
        try:
            await asyncio.wait_for(self._marks[key].wait(), question["seconds"])
        except TimeoutError:
            return {"ok": False, "error": f"nobody signalled {key!r} within {question['seconds']} s"}
        return {"ok": True}
