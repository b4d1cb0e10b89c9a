"""What the webhook sets in the agents' containers, by capture: the table in docs/interception.md, which a test holds
against the webhook's code."""

from pathlib import Path

CAPTURES = ENDPOINT, PROXY, REDIRECT = "endpoint", "proxy", "redirect"
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "interception.md"
PUBLIC = "/var/run/postern"
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy")
# Without these a client does not come to the proxy; without any other it comes and does not trust it.
TO_THE_PROXY = ("HTTPS_PROXY", "NODE_USE_ENV_PROXY")


def injected(capture: str, public: Path) -> dict[str, str]:
    """`public` stands for the directory that a pod has."""
    table = DOCUMENT.read_text().split("| agent variable |", 1)[1].split("\n\n", 1)[0]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    column = CAPTURES.index(capture) + 1
    return {row[0]: row[column].replace(PUBLIC, str(public)) for row in rows if row[column]}


def only(names: list[str], environment: dict[str, str]) -> dict[str, str]:
    """The environment with no others of these variables; `HTTPS_PROXY` is for its whole family."""
    kept = {*names, *(PROXIES if "HTTPS_PROXY" in names else ())}
    return {name: value for name, value in environment.items() if name in kept}
