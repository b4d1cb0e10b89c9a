"""A child process whose output is kept in files and can be awaited line by line."""

import asyncio
import os
from pathlib import Path

LINE_LIMIT = 1 << 24
STOP_SECONDS = 30


class Died(Exception):
    pass


class Child:
    """Started with `Child.start`; ends only through `stop` or by itself, and is always addressed by its own pid."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, logs: Path) -> None:
        self.name = name
        self.stdout_path = logs / f"{name}.stdout"
        self.stderr_path = logs / f"{name}.stderr"
        self.stdout: asyncio.Queue[str | None] = asyncio.Queue()
        self.stderr: asyncio.Queue[str | None] = asyncio.Queue()
        self._process = process
        self._pumps = [
            asyncio.create_task(_pump(process.stdout, self.stdout_path, self.stdout)),
            asyncio.create_task(_pump(process.stderr, self.stderr_path, self.stderr)),
        ]

    @classmethod
    async def start(cls, name: str, command: list[str], logs: Path, **extra_env: str) -> "Child":
        process = await asyncio.create_subprocess_exec(
            *command, env=_bare_environment() | extra_env, limit=LINE_LIMIT,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )
        return cls(name, process, logs)

    async def line(self, queue: asyncio.Queue[str | None]) -> str:
        line = await queue.get()
        if line is None:
            raise Died(f"{self.name} ended its output (exit code {await self._process.wait()})")
        return line

    async def ask(self, line: str) -> str:
        """Writes one line to its stdin and returns the next line of its stdout."""
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()
        return await self.line(self.stdout)

    async def ended(self) -> int:
        """Waits until it ends by itself. Returns the exit code."""
        await asyncio.gather(*self._pumps)
        return await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM, then SIGKILL when that is not heeded. Returns the exit code."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self.kill()
        return await self.ended()

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()

    def tail(self, lines: int = 15) -> str:
        """The last lines of what it said, for a failure's report."""
        told = []
        for path in (self.stdout_path, self.stderr_path):
            if path.exists() and (last := path.read_text(errors="replace").splitlines()[-lines:]):
                told += [f"{path.name}, last lines:", *last]
        return "\n".join(told)


async def _pump(stream: asyncio.StreamReader, path: Path, lines: asyncio.Queue[str | None]) -> None:
    with path.open("ab", buffering=0) as file:
        async for line in stream:
            file.write(line)
            lines.put_nowait(line.decode(errors="replace").rstrip("\n"))
    lines.put_nowait(None)


def _bare_environment() -> dict[str, str]:
    """Without proxy, CA or debug variables of the caller: they would change what the SDKs do."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPYCACHEPREFIX")
    return {name: os.environ[name] for name in kept if name in os.environ}
