"""An agent on an official Python SDK. Reads commands, a JSON line each, and answers each with a line.

`connect` opens a session, `list` and `call` use it, `close` ends it. An answer is `{"ok": true, "value": ..}` or
`{"ok": false, "error": <as the SDK's error prints itself>, "kept": <what it holds besides>}`. With `seen` it tells what
came over the wire since the last answer: `challenges`, and `login`, the paths at which it searched for a login. Before
the answer to a call comes a line `{"progress": n}` for each notification, as soon as it is there.
"""

import asyncio
import importlib.metadata
import json
import sys

import wire

if importlib.metadata.version("mcp").startswith("1."):
    import sdk1 as sdk
else:
    import sdk2 as sdk

watch = wire.Watch()


async def main() -> None:
    commands: asyncio.Queue[dict | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    reading = loop.run_in_executor(None, _read, loop, commands)
    while (command := await commands.get()) is not None:
        if command["do"] != "connect":
            _fail(RuntimeError("the session is gone"))
            continue
        pending = [command]  # what still has to be answered
        try:
            async with sdk.connect(wire.transport(command, watch), command["mode"]) as session:
                _tell(pending, session.version)
                await _use(session, commands, pending)
            if pending:
                _tell(pending, None)
        # An SDK may end the whole session by an exception while a call is pending, or between calls.
        except (Exception, asyncio.CancelledError) as failure:
            if pending:
                _fail(failure)
    await reading


async def _use(session, commands: asyncio.Queue, pending: list[dict]) -> None:
    while (command := await commands.get()) is not None:
        if command["do"] == "connect":  # in place of this session
            commands.put_nowait(command)
            return
        pending.append(command)
        if command["do"] == "close":
            return
        try:
            value = await (session.list() if command["do"] == "list" else _call(session, command))
        except Exception as failure:
            pending.clear()
            _fail(failure)
        else:
            _tell(pending, value)
    commands.put_nowait(None)


async def _call(session, command: dict) -> str:
    result = await session.call(command["tool"], {"text": command["text"]}, _progress)
    return result.content[0].text


async def _progress(done: float, _total: float | None, _message: str | None) -> None:
    print(json.dumps({"progress": done}), flush=True)


def _read(loop: asyncio.AbstractEventLoop, commands: asyncio.Queue) -> None:
    for line in sys.stdin:
        loop.call_soon_threadsafe(commands.put_nowait, json.loads(line))
    loop.call_soon_threadsafe(commands.put_nowait, None)


def _tell(pending: list[dict], value: object) -> None:
    pending.clear()
    _say({"ok": True, "value": value})


def _fail(failure: BaseException) -> None:
    leaves = _leaves(failure)
    kept = [str(each.error.data) for each in leaves if hasattr(each, "error")]
    _say({"ok": False, "error": "; ".join(f"{type(each).__name__}: {each}" for each in leaves), "kept": " ".join(kept)})


def _say(answer: dict) -> None:
    print(json.dumps(answer | {"seen": watch.take()}), flush=True)


def _leaves(failure: BaseException) -> list[BaseException]:
    if isinstance(failure, BaseExceptionGroup):
        return [leaf for inner in failure.exceptions for leaf in _leaves(inner)]
    return [failure]


if __name__ == "__main__":
    asyncio.run(main())
