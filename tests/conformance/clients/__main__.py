"""`tests/conformance/matrix`: what the official SDK clients do behind the sidecar, as tables and as a check."""

import argparse
import difflib
import os
import sys
from pathlib import Path

from clients import table
from clients.agents import VARIANTS, Tools
from clients.matrix import Matrix
from common import main, tables

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "mcp-compatibility.md"


async def _run(options: argparse.Namespace, directory: Path) -> int:
    matrix = Matrix(directory, Tools(options.cache, options.rmcp))
    await matrix.play()
    made = table.render([each.label for each in VARIANTS], matrix.rows)
    if os.environ.get("UPDATE_DOCS") and not matrix.failed:
        tables.write(DOCUMENT, table.BEGIN, made)
    written = tables.current(DOCUMENT, table.BEGIN)
    if written == made:
        matrix.passed += 1
    else:
        matrix.failed += 1
        print(f"FAILED {DOCUMENT.name} has other tables; UPDATE_DOCS=1 tests/conformance/matrix writes these:")
        lines = (each.splitlines() for each in (written, made))
        print("\n".join(difflib.unified_diff(*lines, "written", "found", lineterm="", n=0)))
    print(f"{matrix.passed} passed, {matrix.failed} failed")
    return 1 if matrix.failed else 0


def _options() -> argparse.Namespace:
    told = "official SDK clients behind the sidecar"
    parser = argparse.ArgumentParser(prog="tests/conformance/matrix", description=told)
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory with all logs")
    parser.add_argument("--cache", type=Path, required=True, help=argparse.SUPPRESS)  # both given by the matrix script
    parser.add_argument("--rmcp", type=Path, required=True, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    options = _options()
    sys.exit(main.run(lambda directory: _run(options, directory), options.keep))
