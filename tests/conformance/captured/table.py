"""The tables in docs/interception.md, between their markers."""

from captured.clients import Client
from captured.environment import CAPTURES, ENDPOINT, PROXY, REDIRECT
from captured.play import Seen
from common import tables

BEGIN = "<!-- generated: clients -->"
UNPINNED = ("curl", "Java")  # the machine's own
INTRODUCTION = """\
Each was given its server's `https://` URL and what the webhook sets, connected, listed, called, and got a call's
progress step by step. *needs*: without any one of these variables it is not served, and none but these is needed (curl
takes `SSL_CERT_FILE` as well). *goes past*: it connects to the server itself, and has no credential there. *no trust*: it
comes to the sidecar, does not trust the pod's CA, and nothing leaves the pod. HTTP is what it speaks with the sidecar."""
TEXTS = "What they show:"


def render(clients: list[Client], seen: dict[str, Seen]) -> str:
    needs = [["client", "HTTP", *(f"`{capture}`" for capture in CAPTURES)], ["---"] * 5]
    texts = [["client", "no trust in the pod's CA", "unbound host, `proxy`", "unbound host, `redirect`"], ["---"] * 4]
    for client in clients:
        found = seen[client.name]
        spoken = sorted(set(found.protocols.values()))
        needs.append([client.title, ", ".join(each.removeprefix("HTTP/") for each in spoken) or "-",
                      *(_cell(found, capture) for capture in CAPTURES)])
        shown = [found.untrusting, found.unbound.get(PROXY), found.unbound.get(REDIRECT)]
        texts.append([client.title, *(tables.code(each) if each else "-" for each in shown)])
    return "\n".join([BEGIN, INTRODUCTION, "", *tables.lines(needs), "", TEXTS, "", *tables.lines(texts), tables.END])


def _cell(found: Seen, capture: str) -> str:
    if not found.works.get(capture):
        return {True: "goes past", False: "no trust", None: "FAILED"}[found.past.get(capture)]
    if capture == ENDPOINT:
        return "works"
    if capture not in found.needs:
        return "FAILED"
    return "works, needs " + (", ".join(f"`{name}`" for name in found.needs[capture]) or "none of these")


def alike(written: str, made: str) -> tuple[str, str]:
    """Both, without the rows of clients that are the machine's own and of another version here."""
    lines = written.splitlines(), made.splitlines()
    rows = [{line.split(" | ")[0] for line in each if line.startswith(tuple(f"| {name} " for name in UNPINNED))}
            for each in lines]
    other = rows[0] ^ rows[1]
    return tuple("\n".join(line for line in each if line.split(" | ")[0] not in other) for each in lines)
