"""What the everything server has to offer, as the conformance suite describes it: plain data, in MCP's own JSON."""

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4z8DwHwAFAAH/iZk9HQAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="


def text(value: str) -> dict:
    return {"type": "text", "text": value}


def embedded(uri: str, mime: str, value: str) -> dict:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime, "text": value}}


def schema(**properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties)}


IMAGE = {"type": "image", "data": PNG, "mimeType": "image/png"}

# Tools that only return something.
FIXED_TOOLS = {
    "test_simple_text": [text("This is a simple text response for testing.")],
    "test_image_content": [IMAGE],
    "test_audio_content": [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}],
    "test_embedded_resource": [
        embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    ],
    "test_multiple_content_types": [
        text("Multiple content types test:"),
        IMAGE,
        embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ],
    "json_schema_2020_12_tool": [text("accepted")],
    "test_custom_headers": [text("accepted")],
}

# Tools that ask the client on the call's own stream (2025-11-25).
ELICITED = {
    "test_elicitation": schema(username={"type": "string"}, email={"type": "string"}),
    "test_elicitation_sep1034_defaults": schema(
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    ),
    "test_elicitation_sep1330_enums": schema(
        untitledSingle={"type": "string", "enum": ["option1", "option2", "option3"]},
        titledSingle={"type": "string", "oneOf": [{"const": f"value{n}", "title": f"Option {n}"} for n in (1, 2, 3)]},
        legacyEnum={"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["One", "Two", "Three"]},
        untitledMulti={"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
        titledMulti={
            "type": "array",
            "items": {"anyOf": [{"const": f"value{n}", "title": f"Choice {n}"} for n in (1, 2, 3)]},
        },
    ),
}


def elicit(message: str, **properties: dict) -> dict:
    params = {"mode": "form", "message": message, "requestedSchema": schema(**properties)}
    return {"method": "elicitation/create", "params": params}


def sample(prompt: str, tokens: int) -> dict:
    messages = [{"role": "user", "content": text(prompt)}]
    return {"method": "sampling/createMessage", "params": {"messages": messages, "maxTokens": tokens}}


NAME, ROOTS = {"type": "string"}, {"method": "roots/list", "params": {}}

# Tools that answer "input required" (2026-07-28): one dict of questions a round.
ROUNDS = {
    "test_input_required_result_elicitation": [{"user_name": elicit("What is your name?", name=NAME)}],
    "test_input_required_result_sampling": [{"capital_question": sample("What is the capital of France?", 100)}],
    "test_input_required_result_list_roots": [{"client_roots": ROOTS}],
    "test_input_required_result_request_state": [{"confirm": elicit("Please confirm", ok={"type": "boolean"})}],
    "test_input_required_result_tampered_state": [{"confirm": elicit("Please confirm", ok={"type": "boolean"})}],
    "test_input_required_result_multiple_inputs": [{
        "user_name": elicit("What is your name?", name=NAME),
        "greeting": sample("Generate a greeting", 50),
        "client_roots": ROOTS,
    }],
    "test_input_required_result_multi_round": [
        {"step1": elicit("Step 1: What is your name?", name=NAME)},
        {"step2": elicit("Step 2: What is your favorite color?", color=NAME)},
    ],
    "test_input_required_result_capabilities": [{
        "name": elicit("What is your name?", name=NAME),
        "greeting": sample("Generate a greeting", 50),
    }],
}
STATELESS = {  # these show that a round works without `requestState`
    "test_input_required_result_elicitation",
    "test_input_required_result_sampling",
    "test_input_required_result_list_roots",
}
PROMPT_ROUND = {"user_context": elicit("What context should the prompt use?", context={"type": "string"})}

ACTING_TOOLS = (
    "test_tool_with_logging", "test_logging_tool", "test_tool_with_progress", "test_error_handling", "test_sampling",
    "test_reconnection", "test_streaming_elicitation", "test_missing_capability", "test_trigger_tool_change",
    "test_trigger_prompt_change",
)
INPUT_SCHEMAS = {
    "test_sampling": schema(prompt={"type": "string"}),
    "test_elicitation": schema(message={"type": "string"}),
    "test_custom_headers": {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    },
    "json_schema_2020_12_tool": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"street": {"type": "string"}}}},
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
}
TOOLS = [
    {"name": name, "description": name, "inputSchema": INPUT_SCHEMAS.get(name, {"type": "object", "properties": {}})}
    for name in (*FIXED_TOOLS, *ELICITED, *ROUNDS, *ACTING_TOOLS)
]

RESOURCES = {
    "test://static-text": {"mimeType": "text/plain", "text": "This is the content of the static text resource."},
    "test://static-binary": {"mimeType": "image/png", "blob": PNG},
    "test://watched-resource": {"mimeType": "text/plain", "text": "watched"},
}
TEMPLATE = {"uriTemplate": "test://template/{id}/data", "name": "template", "description": "data by id"}


def message(content: dict) -> dict:
    return {"role": "user", "content": content}


PROMPTS = {
    "test_simple_prompt": [message(text("This is a simple prompt for testing."))],
    "test_prompt_with_image": [message(IMAGE), message(text("Please analyze the image above."))],
    "test_prompt_with_arguments": (),
    "test_prompt_with_embedded_resource": (),
    "test_input_required_result_prompt": (),
}
PROMPT_ARGUMENTS = {
    "test_prompt_with_arguments": ("arg1", "arg2"),
    "test_prompt_with_embedded_resource": ("resourceUri",),
}
