"""values.yaml, its schema and the README are of one mind."""

import re
import unittest

import readme
import yaml
from tools import CHART, HERE, ROOT

# The chart above a dependency says it; the chart itself has no use for it.
ONLY_IN_SCHEMA = {"enabled"}


class Values(unittest.TestCase):
    maxDiff = None

    def test_the_schema_knows_exactly_the_values(self) -> None:
        known = readme.properties(readme.schema(), readme.schema()).keys()
        self.assertEqual(known - ONLY_IN_SCHEMA, {value.path for value in readme.values()})

    def test_the_schema_is_closed(self) -> None:
        """Whatever has parts refuses others; only `global` is everybody's."""
        whole = readme.schema()

        def walk(part: dict, path: str) -> None:
            part = readme.resolved(part, whole)
            if "properties" in part and path != "global":
                self.assertIs(part.get("additionalProperties"), False, path)
            for key, inner in part.get("properties", {}).items():
                walk(inner, f"{path}.{key}".strip("."))

        self.assertEqual(whole["$schema"], "http://json-schema.org/draft-07/schema#")
        walk(whole, "")

    def test_every_value_is_explained(self) -> None:
        for value in readme.values():
            with self.subTest(value=value.path):
                self.assertRegex(value.comment, r"^[A-Z].*\.$")

    def test_the_readme_is_generated_from_them(self) -> None:
        self.assertEqual((CHART / "README.md").read_text(), readme.page(), "tests/chart/run --update rewrites it")

    def test_every_value_that_renders_is_in_a_value_set(self) -> None:
        """One that nobody sets has never been seen to work."""
        given: set[str] = set()

        def walk(node: object, path: str) -> None:
            given.add(path)
            if isinstance(node, dict):
                for key, inner in node.items():
                    walk(inner, f"{path}.{key}".strip("."))

        for file in (HERE / "values").glob("*.yaml"):
            walk(yaml.safe_load(file.read_text()), "")
        self.assertEqual({value.path for value in readme.values()} - given, set())

    def test_the_versions_are_the_crates(self) -> None:
        crate = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((chart["version"], chart["appVersion"]), (crate[1], crate[1]))


if __name__ == "__main__":
    unittest.main()
