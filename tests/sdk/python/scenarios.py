"""What the Python client does. A scenario returns, or raises what went wrong; `harness/matrix.py` then looks at the
server's log for what the client cannot see.
"""

from collections.abc import Awaitable, Callable

import anyio
import mcp_types as types
from mcp import Client, MCPError

from rendezvous import signal, wait

TOOLS = {"echo", "big", "count", "meet", "ask", "slow", "resume", "announce"}
PARTY = 20
STEPS = 5


def same(actual: object, expected: object) -> None:
    if actual != expected:
        raise AssertionError(f"got {actual!r:.300}, expected {expected!r:.300}")


def text_of(result: types.CallToolResult) -> str:
    same(result.is_error, False)
    (content,) = result.content
    return content.text


async def call(client: Client, tool: str, **arguments: object) -> str:
    return text_of(await client.call_tool(tool, arguments))


async def connect(job) -> None:
    async with job.connect() as client:
        same(client.protocol_version, job.version)
        # A client that leaves at once may do so before its `notifications/initialized` is out.
        same(await call(client, "echo", text="hello"), "hello")


async def list_tools(job) -> None:
    async with job.connect() as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        same(TOOLS - listed, set())


async def call_tool(job) -> None:
    text = 'größe "quoted" \\ \r\n data: 漢字 \u2028'
    async with job.connect() as client:
        same(await call(client, "echo", text=text), text)


async def fallback(job) -> None:
    """Auto mode against a server without 2026-07-28: discover is refused, then it initializes."""
    await connect(job)
    await call_tool(job)


async def progress(job) -> None:
    """The server sends a step only after the step before was acknowledged: a burst is impossible."""
    steps: list[float] = []

    async def acknowledge(done: float, total: float | None, message: str | None) -> None:
        steps.append(done)
        await signal(f"{job.gate}/progress/{done:.0f}")

    async with job.connect() as client:
        arguments = {"steps": STEPS, "gate": job.gate}
        result = await client.call_tool("count", arguments, progress_callback=acknowledge)
    same(text_of(result), f"counted {STEPS}")
    same(steps, list(range(1, STEPS + 1)))


async def big(job) -> None:
    async with job.connect() as client:
        received = await call(client, "big")
    if received != (expected := job.expected_payload()):
        raise AssertionError(f"{len(received)} characters differ from the {len(expected)} sent")


async def concurrent(job) -> None:
    """No call is answered before all have arrived, and each must get its own answer."""
    async with job.connect() as client:

        async def one(label: str) -> None:
            same(await call(client, "meet", label=label, size=PARTY, gate=job.gate), label)

        async with anyio.create_task_group() as tasks:
            for number in range(PARTY):
                tasks.start_soon(one, f"{job.gate} caller {number}")


async def elicit(job) -> None:
    asked: list[str] = []

    async def answer(context, params: types.ElicitRequestParams) -> types.ElicitResult:
        asked.append(params.message)
        same(params.requested_schema["properties"]["name"]["type"], "string")
        return types.ElicitResult(action="accept", content={"name": job.gate})

    async with job.connect(elicitation_callback=answer) as client:
        same(await call(client, "ask"), f"hello {job.gate}")
    same(asked, ["Who is there?"])


async def push(job) -> None:
    """A notification that belongs to no call, while a call is pending."""
    if job.modern:
        async with job.connect() as client, client.listen(tools_list_changed=True) as subscription:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_announce, job, client)
                await anext(subscription)
                await signal(f"{job.gate}/heard")
        return

    async def hear(message: object) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            await signal(f"{job.gate}/heard")

    async with job.connect(message_handler=hear) as client:
        await _announce(job, client)


async def _announce(job, client: Client) -> None:
    same(await call(client, "announce", gate=job.gate), "announced")


async def resource(job) -> None:
    """In 2026-07-28 this URI travels base64-encoded in `Mcp-Name`."""
    async with job.connect() as client:
        (content,) = (await client.read_resource("note://größe")).contents
        same(content.text, "note about größe")


async def param_header(job) -> None:
    """Not having listed the tools, the SDK learns of `Mcp-Param-Region` from the server's 400, and asks again."""
    async with job.connect() as client:
        same(await call(client, "region", region="größe"), "in größe")


async def resume(job) -> None:
    async def acknowledge(done: float, total: float | None, message: str | None) -> None:
        await signal(f"{job.gate}/progress/{done:.0f}")

    async with job.connect() as client:
        result = await client.call_tool("resume", {"gate": job.gate}, progress_callback=acknowledge)
        same(text_of(result), "resumed")
    await wait(f"{job.gate}/progress/2")


async def end_session(job) -> None:
    async with job.connect() as client:
        same(await call(client, "echo", text="last words"), "last words")


async def cancel_notified(job) -> None:
    """Before 2026-07-28 a client cancels by notification, and goes on."""
    async with job.connect() as client:
        await _cancel(job, client, noisy=False)
        same(await call(client, "echo", text="still here"), "still here")


async def abort_mid_stream(job) -> None:
    await _abort(job, "slow", noisy=True)


async def abort_before_headers(job) -> None:
    # The 2025 server heads its answer at once, so there the harness's own tool holds everything back.
    await _abort(job, "slow" if job.modern else "hold", noisy=False)


async def _abort(job, tool: str, noisy: bool) -> None:
    if job.modern:
        async with job.connect() as client:
            await _cancel(job, client, noisy)
            await wait(f"{job.gate}/disconnected")
            same(await call(client, "echo", text="still here"), "still here")
        return
    async with anyio.create_task_group() as tasks:
        async with job.connect(terminate=False) as client:
            reached = _start_doomed(job, client, tasks, tool, noisy)
            await reached()
        # Leaving closed the connection beneath the call, without a word to the server.
    await wait(f"{job.gate}/disconnected")
    await signal(f"{job.gate}/release")


async def _cancel(job, client: Client, noisy: bool) -> None:
    """Cancels a running call and waits until the server's tool has felt it."""
    async with anyio.create_task_group() as tasks:
        reached = _start_doomed(job, client, tasks, "slow", noisy)
        await reached()
        tasks.cancel_scope.cancel()
    await wait(f"{job.gate}/cancelled")


def _start_doomed(job, client: Client, tasks, tool: str, noisy: bool) -> Callable[[], Awaitable[None]]:
    """Starts a call that must never be answered; what is returned waits until it has got where it shall be broken."""
    heard = anyio.Event()

    async def hear(*_: object) -> None:
        heard.set()

    async def doomed() -> None:
        try:
            arguments = {"gate": job.gate, "noisy": noisy}
            result = await client.call_tool(tool, arguments, progress_callback=hear)
        except MCPError:
            return  # the connection was closed beneath it
        raise AssertionError(f"answered: {result}")

    tasks.start_soon(doomed)

    async def started() -> None:
        await wait(f"{job.gate}/started")

    return heard.wait if noisy else started


BY_NAME = {
    "connect": connect,
    "list": list_tools,
    "call": call_tool,
    "fallback": fallback,
    "progress": progress,
    "big": big,
    "concurrent": concurrent,
    "elicit": elicit,
    "push": push,
    "resource": resource,
    "param-header": param_header,
    "resume": resume,
    "end-session": end_session,
    "cancel-notified": cancel_notified,
    "abort-mid-stream": abort_mid_stream,
    "abort-before-headers": abort_before_headers,
}
