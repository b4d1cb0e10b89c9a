"""`tests/conformance/captures`: unmodified clients through each capture, as tables and as a check."""

import argparse
import difflib
import os
import sys
from pathlib import Path

from captured import table
from captured.clients import Client, clients
from captured.environment import DOCUMENT
from captured.play import Play
from captured.world import World, root
from clients.agents import Tools
from common import main, tables


async def _run(options: argparse.Namespace, directory: Path) -> int:
    nodes = {"20": options.cache / "node-20", "24": options.cache / "node"}
    tools = Tools(options.cache, options.rmcp)
    played = [each for each in clients(tools, nodes, options.go, options.fetch, directory) if options.only in each.name]
    play = Play(directory, played, options.h2spec)
    world = World(directory)
    try:
        await play.run(world)
    finally:
        world.end()
    if options.only:
        print(table.render(played, play.seen))
    elif not root():
        print("NOT TRIED: redirect, and so the tables. It needs root: a namespace of users has one user here, and the "
              "sidecar must be another than the agents")
    else:
        _compare(played, play)
    print(f"{play.passed} passed, {play.failed} failed")
    return 1 if play.failed else 0


def _compare(played: list[Client], play: Play) -> None:
    made = table.render(played, play.seen)
    if os.environ.get("UPDATE_DOCS") and not play.failed:
        tables.write(DOCUMENT, table.BEGIN, made)
    written, made = table.alike(tables.current(DOCUMENT, table.BEGIN), made)
    play.judge(f"{DOCUMENT.name} has these tables", written == made, "UPDATE_DOCS=1 tests/conformance/captures writes "
               "them:\n" + "\n".join(difflib.unified_diff(written.splitlines(), made.splitlines(), "written", "found",
                                                          lineterm="", n=0)))


def _options() -> argparse.Namespace:
    told = "unmodified clients through each capture"
    parser = argparse.ArgumentParser(prog="tests/conformance/captures", description=told)
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory with all logs")
    parser.add_argument("--only", default="", help="clients whose name has this in it; prints their tables")
    for given in ("cache", "rmcp", "go", "fetch", "h2spec"):  # by the captures script
        parser.add_argument(f"--{given}", type=Path, required=True, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    options = _options()
    sys.exit(main.run(lambda directory: _run(options, directory), options.keep))
