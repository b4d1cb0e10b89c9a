"""Reads a server's wire log and judges what must hold for every request, whatever the scenario."""

import base64
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

NAMED_METHODS = {"tools/call", "prompts/get", "resources/read"}  # those that carry `Mcp-Name` in 2026-07-28


class Violation(AssertionError):
    """The wire did not show what it must."""


def require(condition: object, message: str) -> None:
    if not condition:
        raise Violation(message)


@dataclass
class Exchange:
    """One request as it arrived, and how its answer went as far as the log tells."""

    http: str
    headers: list[list[str]]
    authorized: bool
    rpc: dict
    status: int = 0
    session: str = ""  # of the answer
    end: str = ""  # finished | disconnected
    head_sent: bool = False

    def values(self, name: str) -> list[str]:
        return [value for header, value in self.headers if header.lower() == name]

    def value(self, name: str) -> str | None:
        return next(iter(self.values(name)), None)

    def calls(self, tool: str) -> bool:
        return self.rpc.get("method") == "tools/call" and self.rpc.get("name") == tool

    def __str__(self) -> str:
        rpc = {key: self.rpc.get(key) for key in ("id", "method", "name") if key in self.rpc}
        return f"{self.http} {rpc} -> {self.status or 'no head'} {self.end or 'open'}"


@dataclass
class Slice:
    """What one scenario left in the log: its exchanges, and the gates of tools that felt a cancellation."""

    exchanges: list[Exchange] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def posts(self, method: str) -> list[Exchange]:
        return [each for each in self.exchanges if each.http == "POST" and each.rpc.get("method") == method]

    def calls(self, tool: str) -> list[Exchange]:
        return [each for each in self.exchanges if each.calls(tool)]

    def of(self, http: str) -> list[Exchange]:
        return [each for each in self.exchanges if each.http == http]


class WireReader:
    """Hands out every line of the log once, so that no request escapes judgement."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._known: dict[int, Exchange] = {}

    def next_slice(self) -> Slice:
        fresh = Slice()
        for record in self._new_records():
            event, exchange = record["event"], self._known.get(record.get("n"))
            if event == "request":
                exchange = Exchange(*(record[key] for key in ("http", "headers", "authorized", "rpc")))
                self._known[record["n"]] = exchange
                fresh.exchanges.append(exchange)
            elif event == "head":
                exchange.status, exchange.session = record["status"], record["session"]
            elif event == "cancelled":
                fresh.cancelled.append(record["gate"])
            else:
                exchange.end, exchange.head_sent = event, record.get("head_sent", True)
        return fresh

    def _new_records(self) -> list[dict]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        return [json.loads(line) for line in whole.splitlines()]


def check_identity(piece: Slice, authority: str, sentinel: str | None) -> None:
    """Exactly the bound credential, once; nothing of the agent's own; addressed to the server itself."""
    for each in piece.exchanges:
        require(len(each.values("authorization")) == 1, f"{len(each.values('authorization'))} credentials in: {each}")
        require(each.authorized, f"not the bound credential in: {each}")
        require(each.values("host") == [authority], f"Host {each.values('host')} instead of {authority} in: {each}")
        if sentinel:
            leaks = [name for name, value in each.headers if sentinel in f"{name}: {value}".lower()]
            require(not leaks, f"the agent's token went through in {leaks} of: {each}")
            for name in ("cookie", "x-api-key"):
                require(not each.values(name), f"{name} went through in: {each}")


def check_2025(piece: Slice) -> None:
    """Every message after initialize names its session and version, once."""
    issued = {each.session for each in piece.posts("initialize")}
    for each in piece.exchanges:
        if each.rpc.get("method") in ("initialize", "server/discover"):
            continue
        sessions = each.values("mcp-session-id")
        require(len(sessions) == 1, f"{len(sessions)} session ids in: {each}")
        require(sessions[0] in issued, f"unknown session in: {each}")
        require(each.values("mcp-protocol-version") == ["2025-11-25"], f"version header missing in: {each}")


def check_2026(piece: Slice) -> None:
    """Stateless: only POSTs, no session, and headers that mirror the body."""
    for each in piece.exchanges:
        method = each.rpc.get("method")
        require(each.http == "POST", f"not a POST: {each}")
        require(not each.values("mcp-session-id"), f"session id in: {each}")
        require(each.values("mcp-protocol-version") == ["2026-07-28"], f"version header missing in: {each}")
        require(each.values("mcp-method") == [method], f"Mcp-Method {each.values('mcp-method')} in: {each}")
        names = [each.rpc.get("name")] if method in NAMED_METHODS else []
        require([_decoded(name) for name in each.values("mcp-name")] == names, f"Mcp-Name differs in: {each}")


def _decoded(value: str) -> str:
    match = re.fullmatch(r"=\?base64\?(.*)\?=", value)
    return base64.b64decode(match[1]).decode() if match else value
