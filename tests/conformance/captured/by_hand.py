"""An agent without an SDK: `by_hand.py COMMAND...` writes MCP itself and posts it by an HTTP client that is a program.

The commands are those of ../clients/agent.py. As its last arguments the client gets the URL and, as curl takes them, the
headers, on standard input the body; it prints head and body. The revision is 2025-11-25.
"""

import asyncio
import itertools
import json
import sys

REVISION = "2025-11-25"


class Failed(Exception):
    """What the client, or the answer, says."""


class Session:
    def __init__(self, client: list[str], url: str) -> None:
        self._client, self._url = client, url
        self._headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        self._ids = itertools.count(1)

    async def open(self) -> str:
        about = {"protocolVersion": REVISION, "capabilities": {}, "clientInfo": {"name": "agent", "version": "1"}}
        agreed = (await self.ask("initialize", about))["protocolVersion"]
        self._headers["MCP-Protocol-Version"] = agreed
        await self._post({"method": "notifications/initialized"})
        return agreed

    async def list(self) -> list[str]:
        return [tool["name"] for tool in (await self.ask("tools/list", {}))["tools"]]

    async def call(self, tool: str, text: str) -> str:
        meta = {"progressToken": "progress"}
        result = await self.ask("tools/call", {"name": tool, "arguments": {"text": text}, "_meta": meta})
        return result["content"][0]["text"]

    async def ask(self, method: str, params: dict) -> dict:
        answer = await self._post({"id": next(self._ids), "method": method, "params": params})
        if "result" not in answer:
            raise Failed(answer.get("error", {}).get("message", f"status {answer['status']}"))
        return answer["result"]

    async def _post(self, message: dict) -> dict:
        """The answer; notifications on the way are told at once."""
        headers = [word for name, value in self._headers.items() for word in ("--header", f"{name}: {value}")]
        process = await asyncio.create_subprocess_exec(
            *self._client, self._url, *headers, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        process.stdin.write(json.dumps({"jsonrpc": "2.0"} | message).encode())
        process.stdin.close()
        answer = await self._read(process.stdout)
        said = (await process.stderr.read()).decode().strip()
        if await process.wait() != 0:
            raise Failed(said)
        return answer

    async def _read(self, output: asyncio.StreamReader) -> dict:
        answer, head = {}, True
        async for line in output:
            text = line.decode().rstrip("\r\n")
            if text.startswith("HTTP"):
                answer["status"] = text.split()[1]
            name, _, value = text.partition(": ")
            if head and name.lower() == "mcp-session-id":
                self._headers["Mcp-Session-Id"] = value
            if head:
                head = text != ""
                continue
            text = text.removeprefix("data: ")
            if not text.startswith("{"):
                continue
            told = json.loads(text)
            if told.get("method") == "notifications/progress":
                print(json.dumps({"progress": told["params"]["progress"]}), flush=True)
            elif "id" in told:
                answer |= told
        return answer


async def main(client: list[str]) -> None:
    session = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        value = None
        try:
            if command["do"] == "connect":
                opened = Session(client, command["url"])
                value = await opened.open()
                session = opened
            elif command["do"] == "list":
                value = await session.list()
            elif command["do"] == "call":
                value = await session.call(command["tool"], command["text"])
            answer = {"ok": True, "value": value}
        except Failed as failure:
            answer = {"ok": False, "error": str(failure)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
