"""Compares two runs of a suite, scenario by scenario and check by check."""

import json
from dataclasses import dataclass
from pathlib import Path

from parity.suite import Checks

ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    suite: str
    scenario: str
    check: str
    direct: str
    sidecar: str

    def row(self) -> tuple[str, ...]:
        return (self.suite, self.scenario, self.check, self.direct, self.sidecar)


def differences(suite: str, direct: dict[str, Checks], sidecar: dict[str, Checks]) -> list[Difference]:
    found = []
    for scenario in sorted(direct.keys() | sidecar.keys()):
        ours, theirs = sidecar.get(scenario, {}), direct.get(scenario, {})
        if (scenario in direct) != (scenario in sidecar):
            found.append(Difference(suite, scenario, "(scenario)", *(_ran(scenario, each) for each in (direct, sidecar))))
            continue
        for check in sorted(ours.keys() | theirs.keys()):
            told = [" ".join(each.get(check, [ABSENT])) for each in (theirs, ours)]
            if told[0] != told[1]:
                found.append(Difference(suite, scenario, check, *told))
    return found


def _ran(scenario: str, run: dict[str, Checks]) -> str:
    return "ran" if scenario in run else ABSENT


@dataclass(frozen=True)
class Allowed:
    """Differences that are meant, each with its reason; and scenarios that fail even directly."""

    differences: dict[Difference, str]
    unserved: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "Allowed":
        document = json.loads(path.read_text())
        known = {Difference(*(entry[key] for key in ("suite", "scenario", "check", "direct", "sidecar"))): entry["reason"]
                 for entry in document["differences"]}
        return cls(known, document["unserved"])


def unexpected_failures(direct: dict[str, Checks], allowed: Allowed) -> list[str]:
    """Scenarios that fail without the sidecar: two runs that fail alike would prove nothing."""
    return [scenario for scenario, checks in sorted(direct.items())
            if scenario not in allowed.unserved and _fails(checks)]


def served_after_all(direct: dict[str, Checks], allowed: Allowed) -> list[str]:
    """Entries of `unserved` whose scenario passes."""
    return [f"unserved / {scenario}" for scenario, checks in sorted(direct.items())
            if scenario in allowed.unserved and not _fails(checks)]


def _fails(checks: Checks) -> bool:
    return any("FAILURE" in told for told in checks.values())
