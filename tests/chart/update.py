"""Writes what is generated from the chart: goldens, its README, manifests/."""

import readme
from tools import CHART, HERE, MANIFESTS, render, run, sets

for name in sets():
    (HERE / "goldens" / f"{name}.yaml").write_text(render(name))
(CHART / "README.md").write_text(readme.page())
run(MANIFESTS / "generate")
