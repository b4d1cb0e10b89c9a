"""`tests/sdk/run`: starts everything, lets each client meet each server, judges the wire, and stops everything."""

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from harness import certs
from harness.hub import Hub
from harness.session import Session
from harness.stack import Server, Sidecar, Workplace

PAYLOAD_BYTES = 400 * 1024


def main() -> int:
    options = _options()
    if not options.direct and not os.access(os.environ.get("POSTERN_BIN", ""), os.X_OK):
        print("POSTERN_BIN must name the postern binary (or use --direct)", file=sys.stderr)
        return 2
    directory = Path(tempfile.mkdtemp(prefix="postern-sdk-"))
    try:
        return asyncio.run(_run(options, directory))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    finally:
        if options.keep:
            print(f"kept {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/sdk/run", description="MCP SDK interoperability through the sidecar")
    parser.add_argument("--direct", action="store_true", help="no sidecar: the clients hold the credential themselves")
    parser.add_argument("--only", default="", metavar="TEXT", help="only lines that contain this, e.g. 'ts-2025 ts'")
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory with all logs")
    parser.add_argument("--cache", type=Path, required=True, help=argparse.SUPPRESS)  # given by the run script
    return parser.parse_args()


async def _run(options: argparse.Namespace, directory: Path) -> int:
    # A polite kill must also stop the children, so it takes the way of an exception through `finally`.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
    hub = Hub()
    place = Workplace(directory, options.cache, certs.make(directory), await hub.start(), _payload(directory))
    servers = [Server("python-server", "127.0.0.1"), Server("ts-server", "localhost")]
    session = Session(place, servers, options.only)
    try:
        for server in servers:
            await server.start(place)
        await session.control()
        if options.direct:
            await session.meet_all(lambda server: server.url, lambda server: {"Authorization": server.credential})
        else:
            sidecar = await Sidecar.start(place, servers)
            session.children.append(sidecar.child)
            if await session.judge("sidecar starts", sidecar.listening):
                await session.meet_all(sidecar.url, lambda _: session.agent_headers, guarded=True)
                await session.part_with(sidecar)
    finally:
        await session.stop()
        hub.stop()
    print(f"{session.passed} passed, {session.failed} failed")
    return 1 if session.failed or not session.passed else 0


def _payload(directory: Path) -> Path:
    """Text that a careless relay would break: many bytes a character, what looks like SSE, what JSON must escape."""
    path = directory / "payload.txt"
    line = 'größe 漢字 🜁 "quoted" \\ back\r\n\r\nevent: message\ndata: {"id":1}\n\n' + secrets.token_hex(64) + "\n"
    path.write_bytes((line * (PAYLOAD_BYTES // len(line.encode()) + 1)).encode())
    return path


if __name__ == "__main__":
    sys.exit(main())
