"""The tables in docs/mcp-compatibility.md, between their markers."""

import string

from clients.scenes import Sight
from common import tables

BEGIN = "<!-- generated: sdk table -->"
INTRODUCTION = """\
*legacy* begins with `initialize` and agrees on 2025-11-25, *auto* with `server/discover` and agrees on 2026-07-28.
*works*: connects, lists, calls, and gets a call's progress step by step. What the SDK's error shows its user of a
refusal: *words*, all that Postern says; *kept*, not shown, but in the error object; *status*, only the HTTP status;
*nothing*, not even that. *session lives*: its next request succeeds. `-`: the SDK or the revision has no such thing."""
TEXTS = "What it shows, up to Postern's own words, at which of these refusals:"


def render(columns: list[str], rows: dict[str, list[object]]) -> str:
    """Rows of refusals get a letter, by which the second table names them."""
    letters = iter(string.ascii_uppercase)
    lettered = {title: next(letters) if any(isinstance(cell, Sight) for cell in cells) else ""
                for title, cells in rows.items()}
    table = [["", "", *columns], ["---"] * (len(columns) + 2)]
    table += [[lettered[title], title, *map(str, cells)] for title, cells in rows.items()]
    texts = [["SDK", "error", "at"], ["---"] * 3, *_texts(columns, rows, lettered)]
    return "\n".join([BEGIN, INTRODUCTION, "", *tables.lines(table), "", TEXTS, "", *tables.lines(texts), tables.END])


def _texts(columns: list[str], rows: dict[str, list[object]], lettered: dict[str, str]) -> list[list[str]]:
    """A line for each text, with who shows it and at what."""
    where: dict[tuple[str, str], list[str]] = {}
    for at, column in enumerate(columns):
        for title, cells in rows.items():
            if isinstance(cells[at], Sight) and cells[at].text:
                where.setdefault((column, cells[at].text), []).append(lettered[title])
    lines: dict[tuple[str, str], list[str]] = {}
    for (column, text), letters in where.items():
        lines.setdefault((text, " ".join(letters)), []).append(column)
    return [[", ".join(who), tables.code(text), letters] for (text, letters), who in lines.items()]
