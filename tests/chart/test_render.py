"""What the chart makes of value sets, by itself."""

import json
import re
import unittest

from tools import (
    CHART,
    HELMS,
    HERE,
    KUBE,
    NAMESPACE,
    documents,
    identity,
    parse,
    pods,
    render,
    run,
    sets,
    template,
    values,
)

# Of a value set to what the chart says to it: each names the fix.
REFUSED = {
    "image.repository is not set: name the repository": {},
    "certManager.enabled and webhook.tls.existingSecret both": {
        "certManager": {"enabled": True},
        "webhook": {"tls": {"existingSecret": "tls"}},
    },
    "set controller.port to another, such as 10260": {"controller": {"hostNetwork": True}},
    "leave broker.namespaces empty, or set broker.clusterWide to false": {
        "broker": {"clusterWide": True, "namespaces": ["research"]}
    },
    "raise controller.shutdownGraceSeconds": {"controller": {"lingerSeconds": 20}},
}
CERTIFICATE_AND_KEY = "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n"
# What the schema refuses, by what it says.
INVALID = {
    "additional properties 'contoller' not allowed": {"contoller": {"replicas": 3}},
    "/broker': additional properties 'replica' not allowed": {"broker": {"replica": 3}},
    "/controller/replicas": {"controller": {"replicas": 0}},
    "/image/digest": {"image": {"digest": "sha256:1234"}},
    "/injection/configMapSearch": {"injection": {"configMapSearch": False}},
    "/injection/allowed/hostPaths/0": {"injection": {"allowed": {"hostPaths": ["/a'] + ['/"]}}},
    "/injection/allowed/captures/0": {"injection": {"allowed": {"captures": ["none"]}}},
    "/injection/allowed/captures': minItems": {"injection": {"allowed": {"captures": []}}},
    "/injection/allowed/skipCidrs/0": {"injection": {"allowed": {"skipCidrs": ["0.0.0.0/0"]}}},
    "/injection/extraRoots': 'not' failed": {"injection": {"extraRoots": CERTIFICATE_AND_KEY}},
    "/injection/extraRoots': 'text'": {"injection": {"extraRoots": "text"}},
    "/policies/previousImages/0": {"policies": {"previousImages": ["x' , 'y"]}},
    "/webhook/excludedNamespaces/0": {"webhook": {"excludedNamespaces": ["*"]}},
    "invalid propertyName 'app.kubernetes.io/name'": {"commonLabels": {"app.kubernetes.io/name": "other"}},
    "/broker/tls/existingSecret": {"broker": {"tls": {"existingSecret": "No Name"}}},
}
IMAGE = {"image": {"repository": "registry.example/postern"}}


def refused(helm: str, given: dict[str, object]) -> str:
    done = template(helm, "--values=-", stdin=json.dumps(given), check=False)
    return done.stderr if done.returncode != 0 else ""


class Lint(unittest.TestCase):
    def test_both_helms_find_nothing(self) -> None:
        for helm, command in HELMS.items():
            for name in sets():
                with self.subTest(helm=helm, values=name):
                    run(command, "lint", "--strict", KUBE, CHART, *values(name))


class Golden(unittest.TestCase):
    """`tests/chart/run --update` rewrites them; a change of one is read before it is committed."""

    maxDiff = None

    def test_each_value_set_gives_what_stands_there(self) -> None:
        names = sets()
        self.assertGreaterEqual(len(names), 6)
        for name in names:
            with self.subTest(values=name):
                self.assertEqual(render(name), (HERE / "goldens" / f"{name}.yaml").read_text())
        self.assertEqual({path.stem for path in (HERE / "goldens").iterdir()}, set(names), "one golden for each set")

    def test_two_renders_are_the_same_bytes(self) -> None:
        for name in sets():
            with self.subTest(values=name):
                render.cache_clear()
                first = render(name)
                render.cache_clear()
                self.assertEqual(first, render(name))

    def test_both_helms_say_the_same(self) -> None:
        for name in sets():
            with self.subTest(values=name):
                both = [{identity(one): one for one in parse(render(name, helm))} for helm in HELMS.values()]
                self.assertTrue(both[0] == both[1], "they differ in more than white space and order")

    def test_no_template_asks_for_chance_the_cluster_or_the_time(self) -> None:
        """What is the same twice on this machine might still not be so for others."""
        for path in sorted((CHART / "templates").iterdir()):
            code = " ".join(re.findall(r"\{\{.*?\}\}", path.read_text(), re.DOTALL))
            found = re.findall(
                r"\b(lookup|now|rand\w+|gen[A-Z]\w+|uuidv4|derivePassword|htpasswd|getHostByName|Capabilities)\b", code
            )
            self.assertEqual(found, [], path.name)


class Refusal(unittest.TestCase):
    def test_what_does_not_go_together_is_refused_with_its_fix(self) -> None:
        for helm, command in HELMS.items():
            for sentence, given in REFUSED.items():
                with self.subTest(helm=helm, sentence=sentence):
                    said = refused(command, {**IMAGE, **given} if given else {})
                    self.assertIn(sentence, said)

    def test_every_refusal_is_provoked(self) -> None:
        sentences = re.findall(r'fail "(.*?)"', (CHART / "templates/_validate.tpl").read_text())
        self.assertEqual(len(sentences), len(REFUSED))
        for sentence in sentences:
            self.assertTrue(any(known in sentence for known in REFUSED), sentence)

    def test_unknown_and_invalid_values_are_refused(self) -> None:
        for helm, command in HELMS.items():
            for words, given in INVALID.items():
                with self.subTest(helm=helm, words=words):
                    said = refused(command, {**IMAGE, **given, "image": {**IMAGE["image"], **given.get("image", {})}})
                    self.assertIn("values don't meet the specifications", said)
                    self.assertIn(words, said)

    def test_a_cluster_that_is_too_old_is_refused(self) -> None:
        for helm, command in HELMS.items():
            with self.subTest(helm=helm):
                done = template(command, *values("default"), "--kube-version=1.29.9", check=False)
                self.assertIn("chart requires kubeVersion: >=1.30.0-0", done.stderr)

    def test_the_chart_may_be_a_dependency(self) -> None:
        """The chart above it says `enabled`, and shares values of its own."""
        given = {**IMAGE, "enabled": True, "global": {"somebody": {"elses": 1}}}
        self.assertEqual(refused(HELMS["Helm 4"], given), "")


class Notes(unittest.TestCase):
    """What Helm prints after it has installed."""

    def notes(self, name: str) -> str:
        command = ["install", "postern", CHART, f"--namespace={NAMESPACE}", "--dry-run=client", *values(name)]
        return run(HELMS["Helm 4"], *command).stdout.split("\nNOTES:\n")[1]

    def test_they_name_the_next_three_commands(self) -> None:
        for name in sets():
            commands = [line.strip() for line in self.notes(name).splitlines() if line.startswith("   kubectl ")]
            wanted = (
                ["wait", "label secret", "annotate secret"] if name == "everything" else ["wait", "create rolebinding"]
            )
            with self.subTest(values=name):
                self.assertEqual(len(commands), len(wanted) + 1)
                for command, words in zip(commands, [*wanted, "label namespace"], strict=True):
                    self.assertIn(f" {words} ", command)

    def test_they_warn_of_what_weakens_the_promise_and_of_nothing_else(self) -> None:
        warnings = {name: re.findall(r"^WARNING: (\S+?):? ", self.notes(name), re.MULTILINE) for name in sets()}
        weak = {
            "captures": ["injection.allowed"],
            "everything": ["broker.clusterWide", "injection.allowed"],
            "least": ["policies.enabled"],
        }
        self.assertEqual({name: found for name, found in warnings.items() if found}, weak)

    def test_they_tell_what_redirect_needs_where_pods_may_ask_for_it(self) -> None:
        words = "pod-security.kubernetes.io/enforce: privileged"
        self.assertIn(words, self.notes("captures"))
        self.assertNotIn(words, self.notes("least"))

    def test_they_tell_how_to_scrape_where_nothing_else_does(self) -> None:
        self.assertIn("   - job_name: postern-sidecars\n", self.notes("default"))
        self.assertNotIn("job_name", self.notes("monitoring"))


class Promise(unittest.TestCase):
    """What holds for whatever values."""

    def test_every_object_has_the_labels_and_its_place(self) -> None:
        clusterwide = {
            "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration",
            "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
        }  # fmt: skip
        for name in sets():
            seen = set()
            for document in documents(name):
                with self.subTest(values=name, object=identity(document)):
                    self.assertNotIn(identity(document), seen, "twice")
                    seen.add(identity(document))
                    self.assertEqual("namespace" in document["metadata"], document["kind"] not in clusterwide)
                    if name == "everything" and document["metadata"]["name"] in ("postern-map", "text"):
                        continue
                    labels = document["metadata"]["labels"]
                    self.assertEqual(labels["app.kubernetes.io/part-of"], "postern")
                    self.assertEqual(labels.get("team"), "platform" if name == "everything" else None)
                    selector = document.get("spec", {}).get("selector", {}).get("matchLabels", {})
                    self.assertNotIn("app.kubernetes.io/version", selector)

    def test_nothing_holds_a_value_or_a_ca_bundle(self) -> None:
        for name in sets():
            for document in documents(name):
                if document["kind"] == "Secret":
                    self.assertEqual(document.keys(), {"apiVersion", "kind", "metadata"}, name)
                for webhook in document.get("webhooks", []):
                    self.assertEqual(webhook["clientConfig"].keys(), {"service"}, name)

    def test_every_pod_is_as_hard_as_the_strictest_standard(self) -> None:
        for name in sets():
            found = dict(pods(documents(name)))
            self.assertGreaterEqual(len(found), 2)
            for pod, spec in found.items():
                with self.subTest(values=name, pod=pod):
                    self.assertFalse(spec["automountServiceAccountToken"])
                    self.assertFalse(spec["enableServiceLinks"])
                    self.assertTrue(spec["securityContext"]["runAsNonRoot"])
                    self.assertEqual(spec["securityContext"].get("runAsUser"), None if name == "openshift" else 64321)
                    self.assertEqual(spec["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
                    for container in spec["containers"]:
                        context = container["securityContext"]
                        self.assertTrue(context["readOnlyRootFilesystem"])
                        self.assertFalse(context["allowPrivilegeEscalation"])
                        self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
                        self.assertLessEqual({"cpu", "memory"}, container["resources"]["requests"].keys())
                        self.assertIn("memory", container["resources"]["limits"])

    def test_every_pod_has_the_time_to_end(self) -> None:
        for name in sets():
            for document in documents(name):
                if document["kind"] != "Deployment":
                    continue
                spec = document["spec"]["template"]["spec"]
                [grace] = [arg for arg in spec["containers"][0]["args"] if arg.startswith("--shutdown-grace=")]
                own = int(grace.removeprefix("--shutdown-grace=").removesuffix("s"))
                self.assertGreater(spec["terminationGracePeriodSeconds"], own, (name, document["metadata"]["name"]))
                self.assertEqual(document["spec"]["strategy"]["rollingUpdate"], {"maxUnavailable": 0, "maxSurge": 1})


if __name__ == "__main__":
    unittest.main()
