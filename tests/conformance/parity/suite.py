"""Runs one of the official suites against a url and reads what it found."""

import asyncio
import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from harness.process import Child, Died

SCENARIO_SECONDS = 20
SUITE_SECONDS = 150

# Of a scenario: check id -> the statuses it got, in order (a few ids come more than once).
Checks = dict[str, list[str]]


@dataclass(frozen=True)
class Suite:
    """`package` is the alias in package.json, `options` what selects the scenarios."""

    name: str
    package: str
    options: tuple[str, ...]


_LIMIT = ("--timeout", str(SCENARIO_SECONDS * 1000))  # 0.1 has no such option: there the suite's limit must do
SUITES = (
    Suite("0.1", "conformance-0.1", ("--suite", "all")),
    Suite("0.2/2025-11-25", "conformance-0.2", ("--requirements", "2025-11-25", *_LIMIT)),
    Suite("0.2/2026-07-28", "conformance-0.2", ("--requirements", "2026-07-28", *_LIMIT)),
)


async def play(suite: Suite, side: str, url: str, cache: Path, directory: Path) -> dict[str, Checks]:
    """Plays all scenarios of the suite. Its exit code is not asked: it may well find faults, in both runs alike."""
    label = f"{suite.name.replace('/', '-')}-{side}"
    results = directory / label
    logs = directory / "logs"
    logs.mkdir(exist_ok=True)
    program = cache / "node_modules" / suite.package / "dist" / "index.js"
    command = [str(cache / "node"), str(program), "server", "--url", url, "--output-dir", str(results), *suite.options]
    child = await Child.start(label, command, logs)
    try:
        async with asyncio.timeout(SUITE_SECONDS):
            while True:
                await child.line(child.stdout)
    except Died:
        pass  # it has ended, as it should
    except TimeoutError:
        child.kill()
        raise TimeoutError(f"suite {suite.name} ({side}) took more than {SUITE_SECONDS} s\n{child.tail()}") from None
    finally:
        await child.stop()
    found = {_scenario(path): _checks(path / "checks.json") for path in results.glob("server-*")}
    if not found:
        raise RuntimeError(f"suite {suite.name} ({side}) left no results\n{child.tail()}")
    return found


def _scenario(path: Path) -> str:
    """`server-<scenario>-<time>` is how the suite names a scenario's results."""
    return re.fullmatch(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z", path.name)[1]


def _checks(path: Path) -> Checks:
    if not path.exists():
        return {"(no results)": ["FAILURE"]}  # the suite gave up in the middle of the scenario
    checks: Checks = defaultdict(list)
    for check in json.loads(path.read_text()):
        checks[check["id"]].append(check["status"])
    return dict(checks)
