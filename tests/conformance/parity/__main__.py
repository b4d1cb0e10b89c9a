"""`tests/conformance/run`: the official conformance suites against one server, direct and through the sidecar."""

import argparse
import asyncio
import json
import sys
from pathlib import Path

from common import main
from common.sidecar import Sidecar, Upstream
from harness import certs
from harness.process import Child
from parity.compare import Allowed, Difference, differences, served_after_all, unexpected_failures
from parity.suite import SUITES, Checks, Suite, play

HERE = Path(__file__).resolve().parent
START_SECONDS = 30


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/conformance/run", description="MCP conformance: direct and sidecar alike")
    parser.add_argument("--only", default="", metavar="TEXT", help="only suites whose name contains this, e.g. 2026")
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory with all results")
    parser.add_argument("--cache", type=Path, required=True, help=argparse.SUPPRESS)  # given by the run script
    return parser.parse_args()


class Runs:
    """The server twice, without and with TLS and credential, and the sidecar before the second."""

    def __init__(self, directory: Path, cache: Path) -> None:
        self._directory, self._cache = directory, cache
        self._children: list[Child] = []
        self._sidecar: Sidecar | None = None
        self._urls: dict[str, str] = {}

    async def __aenter__(self) -> "Runs":
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _start(self) -> None:
        certificates = certs.make(self._directory)
        upstream = Upstream("everything")
        port = await self._serve("direct-server")
        self._urls["direct"] = f"http://127.0.0.1:{port}/mcp"
        port = await self._serve("bound-server", "--cert", str(certificates.cert), "--key", str(certificates.key),
                                 credential=upstream.credential)
        upstream.url = f"https://127.0.0.1:{port}/mcp"
        self._sidecar = await Sidecar.start("sidecar", self._directory, certificates, [upstream])
        self._urls["sidecar"] = self._sidecar.url(upstream.name)

    async def _serve(self, name: str, *options: str, credential: str = "") -> int:
        script = HERE.parent / "server" / "everything.py"
        logs = self._directory / "logs"
        logs.mkdir(exist_ok=True)
        path = f"{HERE.parents[1] / 'sdk' / 'python'}"  # for its event store
        child = await Child.start(name, [sys.executable, str(script), *options], logs, PYTHONPATH=path,
                                  CONFORMANCE_CREDENTIAL=credential)
        self._children.append(child)
        async with asyncio.timeout(START_SECONDS):
            return json.loads(await child.line(child.stdout))["port"]

    async def play(self, suite: Suite) -> tuple[dict[str, Checks], dict[str, Checks]]:
        """Both at once, so that a machine under load is so for both."""
        sides = ("direct", "sidecar")
        runs = (play(suite, side, self._urls[side], self._cache, self._directory) for side in sides)
        direct, sidecar = await asyncio.gather(*runs)
        return direct, sidecar

    async def stop_sidecar(self) -> int:
        sidecar, self._sidecar = self._sidecar, None
        return await sidecar.stop()

    async def __aexit__(self, *_: object) -> None:
        if self._sidecar:
            await self.stop_sidecar()
        await asyncio.gather(*(child.stop() for child in self._children))


async def _run(options: argparse.Namespace, directory: Path) -> int:
    allowed = Allowed.read(HERE / "allowed.json")
    suites = [suite for suite in SUITES if options.only in suite.name]
    passed, failed = 0, 0
    found: list[Difference] = []
    stale: list[str] = []
    async with Runs(directory, options.cache) as runs:
        for suite in suites:
            direct, sidecar = await runs.play(suite)
            these = differences(suite.name, direct, sidecar)
            broken = unexpected_failures(direct, allowed)
            found += these
            unequal = {each.scenario for each in these if each not in allowed.differences} | set(broken)
            scenarios = direct.keys() | sidecar.keys()
            passed += len(scenarios) - len(unequal)
            failed += len(unequal)
            checks = sum(len(told) for each in direct.values() for told in each.values())
            print(f"{suite.name}: {len(scenarios)} scenarios, {checks} checks, {len(these)} differences", flush=True)
            for scenario in broken:
                print(f"FAILED {suite.name} {scenario}: fails without the sidecar too, so it proves nothing")
            stale += served_after_all(direct, allowed)
        code = await runs.stop_sidecar()
    names = {suite.name for suite in suites}
    stale += [" / ".join(each.row()) for each in allowed.differences if each.suite in names and each not in found]
    _report(found, allowed)
    for entry in stale:
        print(f"FAILED allowed.json: {entry} no longer occurs; remove it")
    if code != 0:
        print(f"FAILED the sidecar ended with {code}")
    failed += len(stale) + (code != 0)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def _report(found: list[Difference], allowed: Allowed) -> None:
    rows = [(*each.row(), allowed.differences.get(each, "NOT ALLOWED")) for each in found]
    if rows:
        rows.insert(0, ("suite", "scenario", "check", "direct", "sidecar", "why"))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


if __name__ == "__main__":
    options = _options()
    sys.exit(main.run(lambda directory: _run(options, directory), options.keep))
