"""The tools that do something during the call: talk to the client, fail, or end their own stream."""

import asyncio
from collections.abc import Awaitable, Callable

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPError

import content

PACE_SECONDS = 0.05  # the suite asks for this much between two messages
bus = InMemorySubscriptionBus()

Tool = Callable[[ServerRequestContext, dict], Awaitable[str]]


async def log(ctx: ServerRequestContext, _: dict) -> str:
    for step in ("started", "processing", "completed"):
        await ctx.session.send_log_message("info", f"Tool {step}", related_request_id=ctx.request_id)
        await asyncio.sleep(PACE_SECONDS)
    return "logged"


async def progress(ctx: ServerRequestContext, _: dict) -> str:
    for done in (0, 50, 100):
        await ctx.session.report_progress(done, 100)
        await asyncio.sleep(PACE_SECONDS)
    return "done"


async def fail(_ctx: ServerRequestContext, _: dict) -> str:
    raise RuntimeError("This tool intentionally returns an error for testing")


async def sample(ctx: ServerRequestContext, arguments: dict) -> str:
    asked = types.SamplingMessage.model_validate(content.message(content.text(arguments["prompt"])))
    answer = await ctx.session.create_message([asked], max_tokens=100, related_request_id=ctx.request_id)
    return f"LLM response: {answer.content}"


def elicit(name: str) -> Tool:
    async def ask(ctx: ServerRequestContext, arguments: dict) -> str:
        message = arguments.get("message", "Please answer")
        answer = await ctx.session.elicit_form(message, content.ELICITED[name], related_request_id=ctx.request_id)
        return f"Elicitation completed: action={answer.action}, content={answer.content}"

    return ask


async def reconnect(ctx: ServerRequestContext, _: dict) -> str:
    if ctx.close_sse_stream:
        await ctx.close_sse_stream()
    await asyncio.sleep(PACE_SECONDS)
    return "Reconnection test completed"


async def need_sampling(ctx: ServerRequestContext, _: dict) -> str:
    capabilities = ctx.session.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise MCPError(-32021, "sampling is needed", data={"requiredCapabilities": {"sampling": {}}})
    return "ok"


async def change_tools(ctx: ServerRequestContext, _: dict) -> str:
    await bus.publish(ToolsListChanged())
    return "changed"


async def change_prompts(ctx: ServerRequestContext, _: dict) -> str:
    await bus.publish(PromptsListChanged())
    return "changed"


BY_NAME: dict[str, Tool] = {name: elicit(name) for name in content.ELICITED} | {
    "test_tool_with_logging": log,
    "test_logging_tool": log,
    "test_tool_with_progress": progress,
    "test_streaming_elicitation": progress,
    "test_error_handling": fail,
    "test_sampling": sample,
    "test_reconnection": reconnect,
    "test_missing_capability": need_sampling,
    "test_trigger_tool_change": change_tools,
    "test_trigger_prompt_change": change_prompts,
}
