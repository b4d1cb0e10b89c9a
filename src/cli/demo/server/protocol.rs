//! What the sample server says to a request, without I/O.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use super::credential::{Caller, only};
use super::message::{Era, Fault, HEADER_MISMATCH, INVALID_PARAMS, METHOD_NOT_FOUND, STATELESS, WITH_SESSION};

/// The highest that `count` goes; a call should not take more than half a minute.
const COUNT_LIMIT: u64 = 100;
const INSTRUCTIONS: &str = "A sample server that `postern demo` runs; it accepts calls only with a bearer token.";

const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");
const MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");

/// What becomes of a request that is not at fault.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// The result of `initialize`: a session has to begin with it.
    Opening(Value),
    /// A result, at once.
    Result(Value),
    /// Notifications, one after the other, and a result at last.
    Paced { notes: Vec<Value>, result: Value },
}

/// Checks what the era demands of a request's headers and envelope, then answers it.
pub(super) fn answer_to(
    headers: &HeaderMap,
    method: &str,
    params: &Value,
    era: Era,
    caller: &Caller,
) -> Result<Answer, Fault> {
    if era == Era::Stateless {
        check_envelope(params)?;
        check_mirrors(headers, method, params)?;
    }
    answer(method, params, era, caller)
}

fn check_envelope(params: &Value) -> Result<(), Fault> {
    for key in ["io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities"] {
        if params["_meta"].get(key).is_none() {
            return Err(Fault::new(INVALID_PARAMS, format!("params._meta lacks {key}")));
        }
    }
    Ok(())
}

/// SEP-2243: the headers repeat what the body says, for those in between.
fn check_mirrors(headers: &HeaderMap, method: &str, params: &Value) -> Result<(), Fault> {
    let mismatch = |header| Err(Fault::new(HEADER_MISMATCH, format!("{header} is missing or differs from the body")));
    if params["_meta"]["io.modelcontextprotocol/protocolVersion"] != STATELESS {
        return mismatch("MCP-Protocol-Version");
    }
    if only(headers, &MCP_METHOD) != Some(method) {
        return mismatch("Mcp-Method");
    }
    if let ("tools/call", Some(name)) = (method, params["name"].as_str())
        && only(headers, &MCP_NAME).and_then(decoded).as_deref() != Some(name)
    {
        return mismatch("Mcp-Name");
    }
    Ok(())
}

/// Header values that are no plain text come as `=?base64?…?=`.
fn decoded(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        None => Some(value.to_owned()),
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
    }
}

/// The whole server, but for transport: what to say to a request.
fn answer(method: &str, params: &Value, era: Era, caller: &Caller) -> Result<Answer, Fault> {
    match (method, era) {
        ("initialize", Era::Session) => Ok(Answer::Opening(initialized(&params["protocolVersion"]))),
        ("ping", Era::Session) => Ok(Answer::Result(json!({}))),
        ("server/discover", Era::Stateless) => Ok(Answer::Result(listing(discovered(), era))),
        ("tools/list", _) => Ok(Answer::Result(listing(json!({ "tools": tools() }), era))),
        ("tools/call", _) => call(params, era, caller),
        _ => Err(Fault::new(METHOD_NOT_FOUND, "no such method in this version of MCP")),
    }
}

fn initialized(asked: &Value) -> Value {
    let agreed = WITH_SESSION.iter().find(|version| *asked == **version).unwrap_or(&WITH_SESSION[0]);
    json!({
        "protocolVersion": agreed,
        "capabilities": { "tools": {} },
        "serverInfo": server_info(),
        "instructions": INSTRUCTIONS,
    })
}

fn discovered() -> Value {
    json!({ "supportedVersions": [STATELESS], "capabilities": { "tools": {} }, "instructions": INSTRUCTIONS })
}

fn server_info() -> Value {
    json!({ "name": "postern-demo", "version": env!("CARGO_PKG_VERSION") })
}

fn tools() -> Value {
    json!([
        {
            "name": "echo",
            "description": "Says the text again.",
            "inputSchema": { "type": "object", "properties": { "text": { "type": "string" } }, "required": ["text"] },
        },
        {
            "name": "count",
            "description": "Counts from 1, slowly: a stream of progress, if you ask for progress.",
            "inputSchema": {
                "type": "object",
                "properties": { "to": { "type": "integer", "minimum": 1, "maximum": COUNT_LIMIT } },
                "required": ["to"],
            },
        },
        {
            "name": "whoami",
            "description": "Tells which credential your call carried: its name and generation, never its value.",
            "inputSchema": { "type": "object" },
        },
    ])
}

fn call(params: &Value, era: Era, caller: &Caller) -> Result<Answer, Fault> {
    let arguments = &params["arguments"];
    match params["name"].as_str() {
        Some("echo") => Ok(Answer::Result(match arguments["text"].as_str() {
            Some(text) => said(text, era),
            None => misused("echo needs a string: text", era),
        })),
        Some("count") => Ok(match arguments["to"].as_u64() {
            Some(to @ 1..=COUNT_LIMIT) => counted(to, &params["_meta"]["progressToken"], era),
            _ => Answer::Result(misused("count needs a whole number from 1 to 100: to", era)),
        }),
        Some("whoami") => Ok(Answer::Result(introduced(caller, era))),
        Some(_) => Err(Fault::new(INVALID_PARAMS, "no such tool")),
        None => Err(Fault::new(INVALID_PARAMS, "a tool's name is needed")),
    }
}

fn counted(to: u64, token: &Value, era: Era) -> Answer {
    let result = said(&format!("counted to {to}"), era);
    // Who gave no token has not asked for progress, and would not know what to do with it.
    if !(token.is_string() || token.is_number()) {
        return Answer::Result(result);
    }
    let note = |step| {
        let params =
            json!({ "progressToken": token, "progress": step, "total": to, "message": format!("{step} of {to}") });
        json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params })
    };
    Answer::Paced { notes: (1..=to).map(note).collect(), result }
}

fn introduced(caller: &Caller, era: Era) -> Value {
    let Caller { credential, generation, is_current } = caller;
    let standing = if *is_current { "current" } else { "previous" };
    let mut result = said(&format!("you carried credential {credential}, generation {generation} ({standing})"), era);
    let seen = json!({ "credential": credential.as_ref(), "generation": generation, "standing": standing });
    extend(&mut result, json!({ "structuredContent": seen }));
    result
}

fn said(text: &str, era: Era) -> Value {
    dressed(json!({ "content": [{ "type": "text", "text": text }], "isError": false }), era)
}

/// Not a JSON-RPC error: the model is to read it and mend its call.
fn misused(text: &str, era: Era) -> Value {
    dressed(json!({ "content": [{ "type": "text", "text": text }], "isError": true }), era)
}

/// SEP-2549: what may be cached must say for how long.
fn listing(mut result: Value, era: Era) -> Value {
    if era == Era::Stateless {
        extend(&mut result, json!({ "ttlMs": 0, "cacheScope": "private" }));
    }
    dressed(result, era)
}

/// Without a session, each result says of what kind it is and who gives it.
fn dressed(mut result: Value, era: Era) -> Value {
    if era == Era::Stateless {
        let meta = json!({ "io.modelcontextprotocol/serverInfo": server_info() });
        extend(&mut result, json!({ "resultType": "complete", "_meta": meta }));
    }
    result
}

fn extend(result: &mut Value, more: Value) {
    if let (Value::Object(result), Value::Object(more)) = (result, more) {
        result.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn said_to(method: &str, params: Value, era: Era) -> Result<Answer, Fault> {
        let caller = Caller { credential: "demo-mcp".into(), generation: 2, is_current: false };
        answer(method, &params, era, &caller)
    }

    fn result(method: &str, params: Value, era: Era) -> Value {
        match said_to(method, params, era).unwrap() {
            Answer::Opening(result) | Answer::Result(result) | Answer::Paced { result, .. } => result,
        }
    }

    fn stateless(method: &str, params: Value, headers: &[(HeaderName, &str)]) -> Option<i32> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value.parse().unwrap());
        }
        let caller = Caller { credential: "demo-mcp".into(), generation: 1, is_current: true };
        answer_to(&map, method, &params, Era::Stateless, &caller).err().map(|fault| fault.code)
    }

    fn with_envelope(mut params: Value) -> Value {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": STATELESS,
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        extend(&mut params, json!({ "_meta": meta }));
        params
    }

    #[test]
    fn initialize_agrees_on_a_version_with_sessions() {
        for (asked, agreed) in [("2025-06-18", "2025-06-18"), ("2026-07-28", "2025-11-25"), ("x", "2025-11-25")] {
            let answer = said_to("initialize", json!({ "protocolVersion": asked }), Era::Session).unwrap();
            assert!(matches!(answer, Answer::Opening(result) if result["protocolVersion"] == agreed), "{asked}");
        }
    }

    #[test]
    fn each_era_has_its_own_methods() {
        for (method, with_session, stateless) in [
            ("initialize", true, false),
            ("ping", true, false),
            ("server/discover", false, true),
            ("tools/list", true, true),
            ("resources/list", false, false),
        ] {
            assert_eq!(said_to(method, json!({}), Era::Session).is_ok(), with_session, "{method}");
            assert_eq!(said_to(method, json!({}), Era::Stateless).is_ok(), stateless, "{method}");
        }
        let fault = said_to("ping", json!({}), Era::Stateless).unwrap_err();
        assert_eq!((fault.code, fault.status(Era::Stateless)), (METHOD_NOT_FOUND, StatusCode::NOT_FOUND));
        assert_eq!(fault.status(Era::Session), StatusCode::OK);
    }

    #[test]
    fn only_stateless_results_are_dressed() {
        let list = result("tools/list", json!({}), Era::Stateless);
        assert_eq!(list["resultType"], "complete");
        assert_eq!(list["cacheScope"], "private");
        assert_eq!(list["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "postern-demo");
        let list = result("tools/list", json!({}), Era::Session);
        assert_eq!(list.as_object().unwrap().keys().collect::<Vec<_>>(), ["tools"]);
    }

    #[test]
    fn tools_answer_and_tell_the_model_what_it_did_wrong() {
        for (params, is_error, text) in [
            (json!({ "name": "echo", "arguments": { "text": "größe" } }), false, "größe"),
            (json!({ "name": "echo", "arguments": { "text": 1 } }), true, "echo needs a string: text"),
            (json!({ "name": "echo" }), true, "echo needs a string: text"),
            (json!({ "name": "count", "arguments": { "to": 3 } }), false, "counted to 3"),
            (
                json!({ "name": "count", "arguments": { "to": 0 } }),
                true,
                "count needs a whole number from 1 to 100: to",
            ),
            (json!({ "name": "whoami" }), false, "you carried credential demo-mcp, generation 2 (previous)"),
        ] {
            for era in [Era::Session, Era::Stateless] {
                let result = result("tools/call", params.clone(), era);
                assert_eq!((&result["content"][0]["text"], &result["isError"]), (&json!(text), &json!(is_error)));
            }
        }
        for params in [json!({ "name": "rm" }), json!({}), json!([]), Value::Null] {
            assert_eq!(said_to("tools/call", params, Era::Session).unwrap_err().code, INVALID_PARAMS);
        }
    }

    #[test]
    fn count_reports_progress_to_those_who_asked() {
        let params = json!({ "name": "count", "arguments": { "to": 2 }, "_meta": { "progressToken": "p" } });
        let Ok(Answer::Paced { notes, .. }) = said_to("tools/call", params, Era::Session) else { panic!("not paced") };
        let steps = notes.iter().map(|note| &note["params"]["progress"]).collect::<Vec<_>>();
        assert_eq!(steps, [1, 2]);
        assert_eq!(notes[0]["params"]["progressToken"], "p");
        assert_eq!(notes[0].get("id"), None);
    }

    #[test]
    fn a_stateless_request_must_say_the_same_in_head_and_body() {
        let list = [(MCP_METHOD, "tools/list")];
        let echo = with_envelope(json!({ "name": "größe" }));
        let named = |name| [(MCP_METHOD, "tools/call"), (MCP_NAME, name)];
        let twice = [(MCP_METHOD, "tools/list"), (MCP_METHOD, "tools/list")];
        let old = json!({ "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2025-11-25",
            "io.modelcontextprotocol/clientCapabilities": {},
        } });
        assert_eq!(stateless("tools/list", with_envelope(json!({})), &list), None);
        assert_eq!(stateless("tools/list", with_envelope(json!({})), &twice), Some(HEADER_MISMATCH));
        assert_eq!(stateless("tools/list", with_envelope(json!({})), &[]), Some(HEADER_MISMATCH));
        assert_eq!(stateless("tools/list", old, &list), Some(HEADER_MISMATCH));
        assert_eq!(stateless("tools/list", json!({}), &list), Some(INVALID_PARAMS));
        assert_eq!(stateless("tools/call", echo.clone(), &named("echo")), Some(HEADER_MISMATCH));
        assert_eq!(stateless("tools/call", echo, &named("=?base64?Z3LDtsOfZQ==?=")), Some(INVALID_PARAMS));
    }
}
