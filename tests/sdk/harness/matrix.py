"""Which client meets which server in which scenario, and what the server's log must then show.

The clients' half of a scenario is in `python/scenarios.py` and `node/scenarios.mjs`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from harness.wirelog import Slice, check_2025, check_2026, require

ALWAYS = ["connect", "list", "call", "progress", "big", "concurrent", "elicit", "push", "resource",
          "abort-mid-stream", "abort-before-headers"]
ONLY_2025 = ["resume", "cancel-notified", "end-session"]
ONLY_2026 = ["param-header"]


@dataclass(frozen=True)
class Pair:
    """A client and a server, the protocol version they must settle on, and what they do."""

    client: str
    server: str
    version: str
    scenarios: list[str]


PAIRS = [
    Pair("python-2025", "python-server", "2025-11-25", ALWAYS + ONLY_2025),
    Pair("python-2026", "python-server", "2026-07-28", ALWAYS + ONLY_2026),
    Pair("python-2025", "ts-server", "2025-11-25", ALWAYS + ONLY_2025),
    Pair("python-2026", "ts-server", "2025-11-25", ["fallback"]),
    Pair("ts-2025", "python-server", "2025-11-25", ALWAYS + ONLY_2025),
    Pair("ts-2025", "ts-server", "2025-11-25", ALWAYS + ONLY_2025),
]


def check(pair: Pair, scenario: str, piece: Slice) -> None:
    modern = pair.version >= "2026"
    piece = _own(piece)
    (check_2026 if modern else check_2025)(piece)
    if expectation := EXPECTATIONS.get(scenario):
        expectation(piece, modern)


def _own(piece: Slice) -> Slice:
    """Without the GET that an earlier, quickly closed client may still have had under way."""
    issued = {each.session for each in piece.posts("initialize")}
    own = [each for each in piece.exchanges if each.http != "GET" or each.value("mcp-session-id") in issued]
    return Slice(own, piece.cancelled)


def _connect(piece: Slice, modern: bool) -> None:
    opening = "server/discover" if modern else "initialize"
    require(_statuses(piece.posts(opening)) == [200], f"expected one {opening}")
    require(bool(piece.posts("notifications/initialized")) != modern, "notifications/initialized: 2025 only")


def _fallback(piece: Slice, _: bool) -> None:
    require(_statuses(piece.posts("server/discover")) == [400, 400], "each connect must first try discover")
    require(_statuses(piece.posts("initialize")) == [200, 200], "each connect must then initialize")


def _concurrent(piece: Slice, _: bool) -> None:
    ids = {each.rpc["id"] for each in piece.calls("meet")}
    require(len(piece.calls("meet")) == len(ids) == 20, f"{len(ids)} distinct ids of 20 calls")


def _elicit(piece: Slice, modern: bool) -> None:
    answers = [each for each in piece.exchanges if each.rpc.get("is_answer")]
    if modern:
        retried = [each for each in piece.calls("ask") if "inputResponses" in each.rpc["params"]]
        require(len(piece.calls("ask")) == 2 and len(retried) == 1 and not answers, "one question, one retry with it")
    else:
        require(len(piece.calls("ask")) == 1, "one call")
        require(_statuses(answers) == [202], "one POST with the answer")


def _push(piece: Slice, modern: bool) -> None:
    streams = piece.posts("subscriptions/listen") if modern else piece.of("GET")
    require(_statuses(streams) == [200], "one standing stream")


def _param_header(piece: Slice, _: bool) -> None:
    tries = [(each.status, each.values("mcp-param-region")) for each in piece.calls("region")]
    require(tries == [(400, []), (200, ["=?base64?Z3LDtsOfZQ==?="])], f"unexpected tries: {tries}")


def _resume(piece: Slice, _: bool) -> None:
    require(_statuses(piece.calls("resume")) == [200], "the call itself is sent once")
    resumed = [each for each in piece.of("GET") if each.value("last-event-id")]
    require(_statuses(resumed) == [200], "one GET with Last-Event-ID")


def _end_session(piece: Slice, _: bool) -> None:
    (session,) = [each.session for each in piece.posts("initialize")]
    ended = [(each.value("mcp-session-id"), each.status) for each in piece.of("DELETE")]
    require(ended == [(session, 200)], "one DELETE of this session")


def _cancel_notified(piece: Slice, _: bool) -> None:
    (doomed,) = piece.calls("slow")
    told = [each.rpc.get("request_id") for each in piece.posts("notifications/cancelled")]
    require(told == [doomed.rpc["id"]], "one notifications/cancelled, for that call")
    require(piece.cancelled == [doomed.rpc["gate"]], "the tool must feel the cancellation")


def _abort(head_sent: bool) -> Callable[[Slice, bool], None]:
    def expectation(piece: Slice, modern: bool) -> None:
        (doomed,) = piece.calls("slow") + piece.calls("hold")
        require(doomed.end == "disconnected", f"the server must see the connection go: {doomed}")
        require(doomed.head_sent == head_sent, f"head sent: {doomed.head_sent}, meant: {head_sent}")
        require(not piece.posts("notifications/cancelled"), "nobody may invent a notification")
        felt = [doomed.rpc["gate"]] if modern else []
        require(piece.cancelled == felt, "closing the stream cancels in 2026-07-28, and only there")

    return expectation


def _statuses(exchanges: list) -> list[int]:
    return [each.status for each in exchanges]


EXPECTATIONS: dict[str, Callable[[Slice, bool], None]] = {
    "connect": _connect,
    "fallback": _fallback,
    "concurrent": _concurrent,
    "elicit": _elicit,
    "push": _push,
    "param-header": _param_header,
    "resume": _resume,
    "end-session": _end_session,
    "cancel-notified": _cancel_notified,
    "abort-mid-stream": _abort(head_sent=True),
    "abort-before-headers": _abort(head_sent=False),
}
