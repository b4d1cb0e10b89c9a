"""The agent on the official Python SDK. Reads one job (a JSON line) after the other, answers each with one line.

`--mode legacy` initializes a 2025-11-25 session, `--mode auto` discovers 2026-07-28: the SDK's own words.
"""

import argparse
import asyncio
import json
import pathlib
import ssl
import sys
import traceback
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

import scenarios


@dataclass(frozen=True)
class Job:
    """One scenario against one server. `gate` prefixes the scenario's keys in the rendezvous."""

    scenario: str
    url: str
    headers: dict[str, str]
    ca: str
    gate: str
    version: str
    payload: str
    mode: str

    @property
    def modern(self) -> bool:
        return self.version >= "2026"

    def expected_payload(self) -> str:
        return pathlib.Path(self.payload).read_bytes().decode()

    @asynccontextmanager
    async def connect(self, *, terminate: bool = True, **callbacks):
        """A connected SDK client. `terminate=False` leaves without a DELETE, as one that dies does."""
        trust = ssl.create_default_context(cafile=self.ca)
        timeout = httpx2.Timeout(30, read=300)  # the SDK's own
        async with httpx2.AsyncClient(headers=self.headers, verify=trust, timeout=timeout) as http:
            transport = streamable_http_client(self.url, http_client=http, terminate_on_close=terminate)
            async with Client(transport, mode=self.mode, **callbacks) as client:
                yield client


def run(job: Job) -> dict:
    try:
        asyncio.run(scenarios.BY_NAME[job.scenario](job))
    except Exception as failure:
        traceback.print_exc()
        return {"ok": False, "error": "; ".join(_leaves(failure))}
    return {"ok": True}


def _leaves(failure: BaseException) -> list[str]:
    if isinstance(failure, BaseExceptionGroup):
        return [text for inner in failure.exceptions for text in _leaves(inner)]
    return [f"{type(failure).__name__}: {failure}"]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--mode", required=True, choices=("legacy", "auto"))
    mode = arguments.parse_args().mode
    for line in sys.stdin:
        print(json.dumps(run(Job(mode=mode, **json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
