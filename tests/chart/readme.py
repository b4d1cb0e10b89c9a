"""The chart's README: what every value means, from the comments of values.yaml."""

import json
import re
from typing import Any, NamedTuple

import yaml
from tools import CHART

HEAD = """\
# postern

{description}

```sh
helm install postern charts/postern --namespace postern-system --create-namespace \\
  --set image.repository=registry.example/postern
```

Install, upgrade, uninstall, GitOps and what is kept: [installation](../../docs/installation.md). Three replicas that
are spread over nodes: `--values charts/postern/values-ha.yaml`. Needs Kubernetes {kube}.

A value that is not in this list is refused. Generated from the comments of values.yaml by `tests/chart/run --update`.
"""


class Value(NamedTuple):
    path: str
    default: Any
    comment: str


def schema() -> dict[str, Any]:
    return json.loads((CHART / "values.schema.json").read_text())


def resolved(part: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    if reference := part.get("$ref"):
        return whole["definitions"][reference.removeprefix("#/definitions/")]
    return part


def properties(part: dict[str, Any], whole: dict[str, Any], before: str = "") -> dict[str, bool]:
    """Every path of the schema, and whether it has parts of its own."""
    paths = {}
    for key, value in resolved(part, whole).get("properties", {}).items():
        path, value = before + key, resolved(value, whole)
        inner = properties(value, whole, f"{path}.")
        paths[path] = bool(inner)
        paths |= inner
    return paths


def comments() -> dict[str, str]:
    """What stands above each key of values.yaml, by its path."""
    found: dict[str, str] = {}
    above: list[str] = []
    keys: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        if match := re.match(r"( *)# (.+)", line):
            above.append(match[2])
        elif match := re.match(r"( *)([A-Za-z]\w*):", line):
            keys = [*keys[: len(match[1]) // 2], match[2]]
            if above:
                found[".".join(keys)] = " ".join(above)
            above = []
        else:
            above = []
    return found


def values() -> list[Value]:
    """Every value, in the order of values.yaml."""
    parts, said = properties(schema(), schema()), comments()

    def walk(node: dict[str, Any], before: str) -> list[Value]:
        rows = []
        for key, value in node.items():
            path = before + key
            rows.append(Value(path, value, said.get(path, "")))
            if parts.get(path):
                rows += walk(value, f"{path}.")
        return rows

    return walk(yaml.safe_load((CHART / "values.yaml").read_text()), "")


def page() -> str:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    parts = properties(schema(), schema())
    text = HEAD.format(
        description=chart["description"] + ".",
        kube=chart["kubeVersion"].removeprefix(">=").removesuffix("-0") + " or newer",
    )
    general, sections = [], []
    for value in values():
        inner = parts.get(value.path)
        if inner and "." not in value.path:
            sections.append(f"\n## {value.path}\n\n{value.comment}\n\n| value | default | meaning |\n|---|---|---|\n")
            continue
        default = "" if inner else f"`{json.dumps(value.default, ensure_ascii=False)}`"
        row = f"| `{value.path}` | {default} | {value.comment} |\n".replace("|  |", "| |")
        if "." in value.path:
            sections[-1] += row
        else:
            general.append(row)
    return (
        text + "\n## General\n\n| value | default | meaning |\n|---|---|---|\n" + "".join(general) + "".join(sections)
    )
