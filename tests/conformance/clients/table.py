"""The table in docs/mcp-compatibility.md, between its markers."""

from pathlib import Path

BEGIN, END = "<!-- generated: sdk table -->", "<!-- /generated -->"
INTRODUCTION = """\
Found by `tests/conformance/matrix`, which also checks it. The first line of each column is the SDK and whether it begins
with `initialize` (legacy) or `server/discover` (auto). *text*: the SDK's error has Postern's own words; *no text*: only a
status or less, so look into the access log. *session lives*: later requests of the same session succeed."""


def render(columns: list[str], rows: list[tuple[str, list[str]]]) -> str:
    lines = [["", *columns], ["---"] * (len(columns) + 1), *([title, *cells] for title, cells in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{BEGIN}\n{INTRODUCTION}\n\n{table}\n{END}"


def current(path: Path) -> str | None:
    text = path.read_text()
    if BEGIN not in text or END not in text:
        return None
    return BEGIN + text.split(BEGIN, 1)[1].split(END, 1)[0] + END


def write(path: Path, table: str) -> None:
    old = current(path)
    text = path.read_text()
    path.write_text(text.replace(old, table) if old else f"{text.rstrip()}\n\n{table}\n")
