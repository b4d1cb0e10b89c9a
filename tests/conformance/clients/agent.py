"""An agent on an official Python SDK. Reads commands, a JSON line each, and answers each with a line.

`connect` opens a session, `list` and `call` use it, `close` ends it. An answer is `{"ok": true, "value": ..}` or
`{"ok": false, "error": <what the SDK told its user>}`.
"""

import asyncio
import importlib.metadata
import json
import sys

if importlib.metadata.version("mcp").startswith("1."):
    import sdk1 as sdk
else:
    import sdk2 as sdk


async def main() -> None:
    commands: asyncio.Queue[dict | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    reading = loop.run_in_executor(None, _read, loop, commands)
    while (command := await commands.get()) is not None:
        if command["do"] != "connect":
            _fail("the session is gone")
            continue
        pending = [command]  # what still has to be answered
        try:
            async with sdk.connect(command) as session:
                _tell(pending, session.version)
                await _use(session, commands, pending)
            if pending:
                _tell(pending, None)
        # An SDK may end the whole session by an exception while a call is pending, or between calls.
        except (Exception, asyncio.CancelledError) as failure:
            if pending:
                _fail("; ".join(_leaves(failure)))
    await reading


async def _use(session, commands: asyncio.Queue, pending: list[dict]) -> None:
    while (command := await commands.get()) is not None:
        pending.append(command)
        if command["do"] == "close":
            return
        try:
            value = await (session.list() if command["do"] == "list" else session.call(command["tool"]))
        except Exception as failure:
            pending.clear()
            _fail("; ".join(_leaves(failure)))
        else:
            _tell(pending, value)
    commands.put_nowait(None)


def _read(loop: asyncio.AbstractEventLoop, commands: asyncio.Queue) -> None:
    for line in sys.stdin:
        loop.call_soon_threadsafe(commands.put_nowait, json.loads(line))
    loop.call_soon_threadsafe(commands.put_nowait, None)


def _tell(pending: list[dict], value: object) -> None:
    pending.clear()
    print(json.dumps({"ok": True, "value": value}), flush=True)


def _fail(error: str) -> None:
    print(json.dumps({"ok": False, "error": error}), flush=True)


def _leaves(failure: BaseException) -> list[str]:
    if isinstance(failure, BaseExceptionGroup):
        return [text for inner in failure.exceptions for text in _leaves(inner)]
    return [f"{type(failure).__name__}: {failure}"]


if __name__ == "__main__":
    asyncio.run(main())
