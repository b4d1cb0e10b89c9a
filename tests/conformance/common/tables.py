"""Tables in a document of docs/, between markers that a program finds again."""

from pathlib import Path

END = "<!-- /generated -->"


def code(text: str) -> str:
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"


def lines(table: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in table]


def current(path: Path, begin: str) -> str:
    text = path.read_text()
    return begin + text.split(begin, 1)[1].split(END, 1)[0] + END


def write(path: Path, begin: str, made: str) -> None:
    path.write_text(path.read_text().replace(current(path, begin), made))
