"""The server both runs of the conformance suite meet: official Python SDK, 2025-11-25 sessions and 2026-07-28.

With `--cert` and `--key` it speaks TLS and demands the credential in CONFORMANCE_CREDENTIAL; without them it does
neither. Nothing else differs. Prints `{"port": n}` when it listens.
"""

import argparse
import json
import os
import socket

import mcp_types as types
import uvicorn
from mcp.server.context import ServerRequestContext as Ctx
from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPError
from starlette.responses import PlainTextResponse

import acting
import content
from event_store import MemoryEventStore

RETRY_MILLISECONDS = 100
KEEP_ALIVE_SECONDS = 600  # never ends an idle connection: that race is no part of what is compared


async def list_tools(_ctx: Ctx, _params) -> types.ListToolsResult:
    return types.ListToolsResult.model_validate({"tools": content.TOOLS})


async def call_tool(ctx: Ctx, params: types.CallToolRequestParams) -> types.CallToolResult | types.InputRequiredResult:
    if params.name in content.FIXED_TOOLS:
        return types.CallToolResult.model_validate({"content": content.FIXED_TOOLS[params.name]})
    if params.name in content.ROUNDS:
        return play_round(ctx, params)
    if params.name not in acting.BY_NAME:
        raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
    failed = False
    try:
        told = await acting.BY_NAME[params.name](ctx, params.arguments or {})
    except RuntimeError as failure:
        told, failed = str(failure), True
    return types.CallToolResult.model_validate({"content": [content.text(told)], "isError": failed})


def play_round(ctx: Ctx, params: types.CallToolRequestParams) -> types.CallToolResult | types.InputRequiredResult:
    """The state is the number of the round; the SDK seals it, so that a changed one is refused before it gets here."""
    rounds = content.ROUNDS[params.name]
    number = int(params.request_state or 0)
    answers = params.input_responses or {}
    wanted = {key: ask for key, ask in rounds[number].items() if can_answer(ctx, ask)}
    stateless = params.name in content.STATELESS
    if params.request_state is not None or (stateless and answers):
        if set(wanted) <= set(answers):
            number += 1
    if number == len(rounds):
        given = {key: answer.model_dump(mode="json") for key, answer in answers.items() if key in wanted}
        return types.CallToolResult.model_validate({"content": [content.text(f"state-ok {json.dumps(given)}")]})
    asked = {key: ask for key, ask in rounds[number].items() if can_answer(ctx, ask)}
    state = None if stateless else str(number)
    return types.InputRequiredResult.model_validate({"inputRequests": asked, "requestState": state})


def can_answer(ctx: Ctx, ask: dict) -> bool:
    capability = ask["method"].split("/")[0]
    return getattr(ctx.session.client_capabilities, capability, None) is not None


async def list_resources(_ctx: Ctx, _params) -> types.ListResourcesResult:
    listed = [{"uri": uri, "name": uri, "description": uri, "mimeType": data["mimeType"]}
              for uri, data in content.RESOURCES.items()]
    return types.ListResourcesResult.model_validate({"resources": listed})


async def list_templates(_ctx: Ctx, _params) -> types.ListResourceTemplatesResult:
    return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": [content.TEMPLATE]})


async def read_resource(_ctx: Ctx, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    uri = str(params.uri)
    data = content.RESOURCES.get(uri)
    before, after = content.TEMPLATE["uriTemplate"].split("{id}")
    if uri.startswith(before) and uri.endswith(after):
        name = uri.removeprefix(before).removesuffix(after)
        told = {"id": name, "templateTest": True, "data": f"Data for ID: {name}"}
        data = {"mimeType": "application/json", "text": json.dumps(told)}
    if data is None:
        raise MCPError(types.INVALID_PARAMS, "Resource not found", data={"uri": uri})
    return types.ReadResourceResult.model_validate({"contents": [{"uri": uri} | data]})


async def list_prompts(_ctx: Ctx, _params) -> types.ListPromptsResult:
    listed = [{
        "name": name,
        "description": name,
        "arguments": [{"name": each, "required": True} for each in content.PROMPT_ARGUMENTS.get(name, ())],
    } for name in content.PROMPTS]
    return types.ListPromptsResult.model_validate({"prompts": listed})


async def get_prompt(
    _ctx: Ctx, params: types.GetPromptRequestParams
) -> types.GetPromptResult | types.InputRequiredResult:
    given = params.arguments or {}
    messages = content.PROMPTS.get(params.name)
    if messages is None:
        raise MCPError(types.INVALID_PARAMS, f"Unknown prompt: {params.name}")
    if params.name == "test_prompt_with_arguments":
        told = f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'"
        messages = [content.message(content.text(told))]
    elif params.name == "test_prompt_with_embedded_resource":
        resource = content.embedded(given["resourceUri"], "text/plain", "Embedded resource content for testing.")
        messages = [content.message(resource), content.message(content.text("Please process the resource above."))]
    elif params.name == "test_input_required_result_prompt":
        if not set(content.PROMPT_ROUND) <= set(params.input_responses or {}):
            return types.InputRequiredResult.model_validate({"inputRequests": content.PROMPT_ROUND})
        messages = [content.message(content.text("with context"))]
    return types.GetPromptResult.model_validate({"messages": messages})


async def complete(_ctx: Ctx, params: types.CompleteRequestParams) -> types.CompleteResult:
    values = [each for each in ("paris", "park", "party") if each.startswith(params.argument.value)]
    return types.CompleteResult.model_validate({"completion": {"values": values, "total": len(values), "hasMore": False}})


async def accept(_ctx: Ctx, _params) -> types.EmptyResult:
    return types.EmptyResult()


def build() -> Server:
    server = Server(
        "everything", version="1",
        on_list_tools=list_tools, on_call_tool=call_tool,
        on_list_resources=list_resources, on_list_resource_templates=list_templates, on_read_resource=read_resource,
        on_subscribe_resource=accept, on_unsubscribe_resource=accept, on_set_logging_level=accept,
        on_list_prompts=list_prompts, on_get_prompt=get_prompt, on_completion=complete,
        on_subscriptions_listen=ListenHandler(acting.bus),
        get_tool_input_schema=lambda name: content.INPUT_SCHEMAS.get(name),
    )
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience="everything"))
    return server


def demand(app, credential: str):
    """ASGI middleware: only requests with exactly the credential go on."""
    async def guarded(scope, receive, send) -> None:
        tokens = [value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"authorization"]
        if scope["type"] == "http" and tokens != [credential]:
            app_for_this = PlainTextResponse("no credential", 401, {"WWW-Authenticate": "Bearer"})
        else:
            app_for_this = app
        await app_for_this(scope, receive, send)

    return guarded


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--cert")
    arguments.add_argument("--key")
    options = arguments.parse_args()
    app = build().streamable_http_app(event_store=MemoryEventStore(), retry_interval=RETRY_MILLISECONDS)
    if options.cert:
        app = demand(app, os.environ["CONFORMANCE_CREDENTIAL"])
    config = uvicorn.Config(app, ssl_certfile=options.cert, ssl_keyfile=options.key, log_level="warning",
                            timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=1)
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
