"""What runs in an agent's container: the official Python SDK's client, and what a curious agent would try.

usage: agent.py idle              does nothing, until it is told to end
       agent.py call SERVER       calls `whoami` of that server of mcp.json once, and prints what it said
       agent.py call-url URL      the same by a URL that is not in mcp.json
       agent.py get URL           prints the status of a plain GET, or the error; whose certificate it is does not matter
       agent.py calls SERVER      the same as `call` again and again, a line for each, until `stop`
       agent.py stop              ends what `calls` began: whoever asked for it may be gone, and it not know
       agent.py stream SERVER     calls `wait`: prints `open` when its stream has begun, and how that ended
       agent.py look              prints where in this container any of the lines on stdin can be read
       agent.py tokens            prints which files of this container hold a token, and whom it is for
       agent.py api METHOD PATH   asks the API server with every token that is there, or none; prints the statuses
"""

import asyncio
import base64
import http.client
import json
import os
import re
import signal
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

VERSION = "2025-06-18"
TOKEN = re.compile(rb"eyJ[\w-]{10,}\.(eyJ[\w-]{10,})\.[\w-]{10,}")
PSEUDO = ("/sys", "/dev", "/proc/sys", "/proc/kcore", "/proc/kmsg", "/proc/kpage", "/proc/bus", "/proc/irq")


def tell(value: object) -> None:
    print(json.dumps(value), flush=True)


def url_of(server: str) -> str:
    return json.loads(Path(os.environ["POSTERN_MCP_CONFIG"]).read_text())["mcpServers"][server]["url"]


async def call(server: str) -> str:
    return await call_url(url_of(server))


async def call_url(url: str) -> str:
    from mcp import Client

    async with Client(url) as client:
        result = await client.call_tool("whoami")
        return result.content[0].text


def get(url: str) -> None:
    try:
        tell({"status": urllib.request.urlopen(url, context=ssl._create_unverified_context(), timeout=15).status})
    except urllib.error.HTTPError as answer:
        tell({"status": answer.code})
    except OSError as failure:
        tell({"error": str(failure)})


async def calls(server: str) -> None:
    while True:
        try:
            async with asyncio.timeout(10):
                tell({"said": await call(server)})
        except Exception as failure:
            tell({"failed": "; ".join(leaves(failure))})
        await asyncio.sleep(0.2)


def stop() -> None:
    for process in Path("/proc").glob("[0-9]*"):
        if b"calls" in (process / "cmdline").read_bytes().split(b"\0"):
            os.kill(int(process.name), signal.SIGKILL)


def stream(server: str) -> None:
    """By hand: an SDK's client would hide for a while that its stream has ended."""
    url = urllib.parse.urlsplit(url_of(server))
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}

    def post(**body: object) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(url.netloc, timeout=60)
        connection.request("POST", url.path, json.dumps({"jsonrpc": "2.0", **body}), headers)
        response = connection.getresponse()
        if response.status >= 300:
            sys.exit(f"{response.status}: {response.read().decode()}")
        return response

    hello = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "agent", "version": "1"}}
    response = post(id=1, method="initialize", params=hello)
    headers["Mcp-Session-Id"] = response.getheader("Mcp-Session-Id", "")
    headers["Mcp-Protocol-Version"] = VERSION
    post(method="notifications/initialized")
    response = post(id=2, method="tools/call", params={"name": "wait", "arguments": {}, "_meta": {"progressToken": 1}})
    events = 0
    try:
        while line := response.readline():
            if line.startswith(b"data:"):
                if events == 0:
                    tell("open")
                events += 1
        tell({"events": events, "ended": "closed"})
    except (OSError, http.client.HTTPException) as failure:
        tell({"events": events, "ended": f"{type(failure).__name__}: {failure}"})


def leaves(failure: BaseException) -> list[str]:
    if isinstance(failure, BaseExceptionGroup):
        return [text for inner in failure.exceptions for text in leaves(inner)]
    return [f"{type(failure).__name__}: {failure}"]


# ---- what a curious agent would try ----


def files() -> Iterator[tuple[str, bytes]]:
    """Everything that can be read here: files, environments and command lines of all processes, memory apart."""
    for folder, folders, names in os.walk("/"):
        if folder.startswith(PSEUDO):
            folders.clear()
            continue
        # A process's root is this root, or another's: both are looked at.
        if folder.startswith("/proc/") and folder.count("/") == 2:
            pid = folder.rsplit("/", 1)[1]
            folders[:] = [name for name in folders if name not in ("task", "map_files", "fd", "fdinfo", "net", "ns")]
            root = Path(folder, "root")
            if pid.isdigit() and not same_root(root):
                for path in reachable(root):
                    yield from content(path)
        for name in names:
            if name in ("mem", "pagemap", "kmsg", "clear_refs", "auxv"):
                continue
            yield from content(os.path.join(folder, name))


def same_root(root: Path) -> bool:
    try:
        return os.path.samefile(root, "/")
    except OSError:
        return True


def reachable(root: Path) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        yield from (os.path.join(folder, name) for name in names)


def content(path: str) -> Iterator[tuple[str, bytes]]:
    try:
        if os.path.isfile(path):
            with open(path, "rb") as file:
                yield path, file.read(64 << 20)
    except OSError:
        pass


def forms(value: bytes) -> list[bytes]:
    # In base64 a value looks different at each of three offsets; what is the same in each is its middle.
    coded = [base64.b64encode(b"-" * shift + value)[4:-4] for shift in range(3)]
    return [value, value[::-1], value.hex().encode(), *coded]


def look(values: list[bytes]) -> None:
    wanted = [form for value in values for form in forms(value)]
    looked = 0
    for path, body in files():
        looked += 1
        if any(form in body for form in wanted):
            tell({"found": path})
    tell({"looked": looked})


def tokens() -> list[tuple[str, str]]:
    return [(path, match.group().decode()) for path, body in files() for match in TOKEN.finditer(body)]


def audiences(token: str) -> object:
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))).get("aud")


def api(method: str, path: str) -> None:
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    # The agent does not care whom it talks to.
    trust = ssl._create_unverified_context()
    for token in [None, *{token for _, token in tokens()}]:
        request = urllib.request.Request(server + path, method=method)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            status = urllib.request.urlopen(request, context=trust, timeout=10).status
        except urllib.error.HTTPError as refused:
            status = refused.code
        tell({"as": audiences(token) if token else "nobody", "status": status})


def main() -> None:
    command, *rest = sys.argv[1:]
    if command == "idle":
        # As the first process it is sent only what it handles.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        while True:
            signal.pause()
    elif command == "call":
        tell({"said": asyncio.run(call(*rest))})
    elif command == "call-url":
        tell({"said": asyncio.run(call_url(*rest))})
    elif command == "get":
        get(*rest)
    elif command == "calls":
        asyncio.run(calls(*rest))
    elif command == "stop":
        stop()
    elif command == "stream":
        stream(*rest)
    elif command == "look":
        look([line.strip() for line in sys.stdin.buffer if line.strip()])
    elif command == "tokens":
        for path, token in tokens():
            tell({"path": path, "audiences": audiences(token)})
    elif command == "api":
        api(*rest)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
