"""manifests/ is what the chart says, as kustomize puts it together."""

import os
import re
import tempfile
import unittest
from pathlib import Path

from tools import CHART, HELMS, MANIFESTS, Document, identity, parse, run, template

# As manifests/generate renders the base.
FIXED = [
    "--set=image.repository=registry.example/postern",
    "--set=crds.keep=false,broker.authority.keep=false,check.enabled=false",
]
# What a component stands for.
COMPONENTS = {
    "ha": [f"--values={CHART / 'values-ha.yaml'}"],
    "openshift": ["--set=openshift.enabled=true"],
    "networkpolicy": ["--set=networkPolicy.enabled=true"],
    "monitoring": [
        f"--set=monitoring.{kind}.enabled=true"
        for kind in ("podMonitor", "serviceMonitor", "prometheusRule", "dashboard")
    ],
    "cert-manager": ["--set=certManager.enabled=true"],
}
HELM_ONLY = ("helm.sh/chart", "app.kubernetes.io/managed-by")


def kustomize(folder: Path) -> dict[tuple[str, str, str], Document]:
    return by_identity(parse(run(os.environ["KUBECTL"], "kustomize", folder).stdout))


def by_identity(documents: list[Document]) -> dict[tuple[str, str, str], Document]:
    return {identity(document): document for document in documents}


def helm(*arguments: str) -> dict[tuple[str, str, str], Document]:
    documents = parse(template(HELMS["Helm 4"], *FIXED, *arguments).stdout)

    def drop(node: object) -> None:
        if isinstance(node, dict):
            for key in HELM_ONLY:
                node.pop(key, None)
            for inner in node.values():
                drop(inner)
        elif isinstance(node, list):
            for inner in node:
                drop(inner)

    drop(documents)
    return by_identity(documents)


class Manifests(unittest.TestCase):
    maxDiff = None

    def test_the_files_are_generated(self) -> None:
        run(MANIFESTS / "generate", "--check")

    def assert_same(
        self, found: dict[tuple[str, str, str], Document], wanted: dict[tuple[str, str, str], Document]
    ) -> None:
        namespace = found.pop(("Namespace", "", "postern-system"))
        self.assertEqual(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted")
        self.assertEqual(found.keys(), wanted.keys())
        for name, document in wanted.items():
            with self.subTest(object=name):
                self.assertEqual(found[name], document)

    def test_the_base_is_the_chart(self) -> None:
        self.assert_same(kustomize(MANIFESTS / "base"), helm())

    def test_each_component_does_what_its_values_do(self) -> None:
        self.assertEqual({path.name for path in (MANIFESTS / "components").iterdir()}, COMPONENTS.keys())
        for component, arguments in COMPONENTS.items():
            with self.subTest(component=component), tempfile.TemporaryDirectory(dir=MANIFESTS) as folder:
                text = f"resources: [../base]\ncomponents: [../components/{component}]\n"
                (Path(folder) / "kustomization.yaml").write_text(text)
                self.assert_same(kustomize(Path(folder)), helm(*arguments))

    def test_the_overlay_is_the_chart_and_sets_the_image_everywhere(self) -> None:
        overlay = MANIFESTS / "overlays/default"
        self.assert_same(kustomize(overlay), helm())
        other = "mirror.example:5000/postern"
        text = (overlay / "kustomization.yaml").read_text()
        text = text.replace("newName: registry.example/postern, newTag: 0.1.0", f"newName: {other}, newTag: 0.2.0")
        with tempfile.TemporaryDirectory(dir=overlay.parent) as folder:
            (Path(folder) / "kustomization.yaml").write_text(text)
            found = run(os.environ["KUBECTL"], "kustomize", folder).stdout
        self.assertNotIn("registry.example", found)
        # Two containers, one argument, two policies.
        self.assertEqual(len(re.findall(re.escape(f"{other}:0.2.0"), found)), 5)

    def test_no_object_holds_a_value(self) -> None:
        """They would be written over what controller and broker keep there. The overlay is all that is installed."""
        for name, document in kustomize(MANIFESTS / "overlays/default").items():
            with self.subTest(object=name):
                self.assertFalse(document.keys() & {"data", "stringData"})
                self.assertFalse([one for one in document.get("webhooks", []) if "caBundle" in one["clientConfig"]])


if __name__ == "__main__":
    unittest.main()
