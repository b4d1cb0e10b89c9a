"""What a real API server makes of the chart: its schemas, its admission, and an installation from first to last."""

import base64
import json
import os
import re
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

import yaml
from tools import (
    BINDING,
    CHART,
    HELMS,
    MANIFESTS,
    NAMESPACE,
    NO_HOOKS,
    api_server,
    documents,
    is_foreign,
    run,
    sets,
    template,
    values,
)

# Namespaces that value sets name.
OTHERS = ["research", "billing"]
# Value sets that need more than the strictest standard allows.
PRIVILEGED = {"everything"}
IMAGE = "--set=image.repository=registry.example/postern"
# Whatever a container writes into objects that the chart makes.
WRITTEN = {"secret/postern-webhook-cert", "secret/postern-broker-ca", "configmap/postern-broker-ca"}


class Schemas:
    """The API server's own schemas, for kubeconform: closed, so that an unknown field is an error."""

    def __init__(self, openapi: dict[str, Any]) -> None:
        self.definitions = {name: self.closed(value) for name, value in openapi["definitions"].items()}

    def closed(self, schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in schema:
            # What else stands beside it would be ignored.
            return {"$ref": schema["$ref"]}
        if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
            return {"type": ["integer", "string"]}
        schema = dict(schema)
        if "properties" in schema:
            schema["properties"] = {name: self.closed(inner) for name, inner in schema["properties"].items()}
            if not schema.get("x-kubernetes-preserve-unknown-fields"):
                schema.setdefault("additionalProperties", False)
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), dict):
                schema[key] = self.closed(schema[key])
        return schema

    def write(self, folder: Path) -> int:
        """One file for each kind, with all that it refers to."""
        count = 0
        for definition in self.definitions.values():
            for kind in definition.get("x-kubernetes-group-version-kind", []):
                group = kind["group"].split(".")[0]
                name = "-".join(part for part in (kind["kind"].lower(), group, kind["version"]) if part)
                whole = {**definition, "definitions": self.reached(definition)}
                (folder / f"{name}.json").write_text(json.dumps(whole))
                count += 1
        return count

    def reached(self, definition: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        open_ = [definition]
        while open_:
            for name in re.findall(r'"\$ref": "#/definitions/([^"]+)"', json.dumps(open_.pop())):
                if name not in found:
                    found[name] = self.definitions[name]
                    open_.append(found[name])
        return found


class Server(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = cls.enterClassContext(api_server())
        for name in [*OTHERS, NAMESPACE, "privileged"]:
            level = "privileged" if name == "privileged" else "restricted"
            cls.server.kubectl("create", "namespace", name)
            cls.server.kubectl(
                "label",
                "namespace",
                name,
                *[f"pod-security.kubernetes.io/{mode}={level}" for mode in ("enforce", "warn")],
            )
            # A pod is created only where its service account is.
            cls.server.kubectl("create", "serviceaccount", "postern-check", f"--namespace={name}")
        cls.server.kubectl("apply", "--server-side", "--filename", CHART / "files/crd.yaml")
        cls.server.kubectl("wait", "--for=condition=Established", "crd/credentialbindings.postern.dev")

    def test_every_object_is_as_the_servers_schemas_say(self) -> None:
        schemas = Schemas(json.loads(self.server.kubectl("get", "--raw", "/openapi/v2").stdout))
        with tempfile.TemporaryDirectory() as folder:
            self.assertGreater(schemas.write(Path(folder)), 100)
            location = f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
            command = [os.environ["KUBECONFORM"], "-strict", "-output=json", f"-schema-location={location}"]
            for name in sets():
                with self.subTest(values=name):
                    own = [document for document in documents(name) if not is_foreign(document)]
                    done = run(*command, "-summary", "-", stdin=yaml.safe_dump_all(own), check=False)
                    told = json.loads(done.stdout)
                    self.assertEqual([one["msg"] for one in told.get("resources") or []], [])
                    self.assertEqual(told["summary"]["valid"], len(own))
            wrong = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "date": {}}
            self.assertNotEqual(
                run(*command, "-", stdin=json.dumps(wrong), check=False).returncode, 0, "they are closed"
            )

    def test_the_server_takes_every_object(self) -> None:
        """A dry run goes through admission, too: pods that the namespace would refuse are warned of."""
        for name in sets():
            with self.subTest(values=name):
                namespace = "privileged" if name in PRIVILEGED else NAMESPACE
                text = template(HELMS["Helm 4"], *values(name), f"--namespace={namespace}").stdout
                own = [document for document in yaml.safe_load_all(text) if document and not is_foreign(document)]
                done = self.server.kubectl(
                    "apply", "--server-side", "--dry-run=server", "--filename=-", stdin=yaml.safe_dump_all(own)
                )
                self.assertEqual(done.stderr, "")
                self.assertEqual(len(done.stdout.splitlines()), len(own))

    def test_the_dry_run_would_warn_of_a_pod_that_is_too_strong(self) -> None:
        strong = [document for document in documents("everything") if document["kind"] == "Deployment"]
        for document in strong:
            document["metadata"]["namespace"] = NAMESPACE
        done = self.server.kubectl(
            "apply", "--server-side", "--dry-run=server", "--filename=-", stdin=yaml.safe_dump_all(strong)
        )
        self.assertIn("would violate PodSecurity", done.stderr)

    def test_the_server_takes_the_manifests(self) -> None:
        for folder in [MANIFESTS / "base", MANIFESTS / "overlays/default"]:
            self.server.kubectl("apply", "--server-side", "--dry-run=server", "--kustomize", folder)


class Life(unittest.TestCase):
    """Installed, written into as controller and broker do, upgraded, rolled back, uninstalled; by either Helm."""

    def life(self, helm: str) -> None:
        with api_server() as server:

            def with_helm(*arguments: object, check: bool = True) -> str:
                done = run(
                    HELMS[helm],
                    *arguments,
                    f"--kubeconfig={server.kubeconfig}",
                    f"--namespace={NAMESPACE}",
                    check=check,
                )
                return done.stdout + done.stderr

            def in_namespace(*arguments: object) -> Any:
                return server.get(f"--namespace={NAMESPACE}", *arguments)

            with_helm("install", "postern", CHART, "--create-namespace", IMAGE, NO_HOOKS)
            before = self.write(server)
            with_helm("upgrade", "postern", CHART, IMAGE, "--set=image.tag=0.2.0,controller.replicas=3", NO_HOOKS)
            self.assertEqual(self.written(server), before, "an upgrade leaves it alone")
            self.assertEqual(in_namespace("deployment", "postern-controller")["spec"]["replicas"], 3)
            with_helm("rollback", "postern", "1")
            self.assertEqual(self.written(server), before, "a rollback, too")
            self.assertEqual(in_namespace("deployment", "postern-controller")["spec"]["replicas"], 2)
            self.assertTrue(server.get("crd", "credentialbindings.postern.dev"))
            server.kubectl("create", "--filename=-", stdin=json.dumps(BINDING))

            with_helm("uninstall", "postern")
            left = {
                f"{one['kind']}/{one['metadata']['name']}"
                for kind in [
                    "secrets,configmaps,services,deployments,leases,roles,rolebindings,serviceaccounts,poddisruptionbudgets"
                ]
                for one in in_namespace(kind)["items"]
            } - {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}
            self.assertEqual(left, {"Secret/postern-broker-ca", "ConfigMap/postern-broker-ca"})
            clusterwide = server.get(
                "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingadmissionpolicies,"
                "validatingadmissionpolicybindings,crds", "--selector=app.kubernetes.io/part-of=postern",
            )  # fmt: skip
            self.assertEqual([one["kind"] for one in clusterwide["items"]], ["CustomResourceDefinition"])
            self.assertTrue(
                server.get("--namespace=default", "credentialbinding", "github"), "bindings are kept with it"
            )

            with_helm("install", "postern", CHART, IMAGE, NO_HOOKS)
            kept = {key: value for key, value in self.written(server).items() if "broker-ca" in key}
            self.assertEqual(kept, {key: before[key] for key in kept}, "running sidecars trust the next installation")

    def write(self, server: Any) -> dict[str, Any]:
        """As controller and broker do: by server-side apply, each with its own manager."""
        for name in WRITTEN:
            kind, object_ = name.split("/")
            key = "data" if kind == "configmap" else "stringData"
            meta = {"name": object_, "namespace": NAMESPACE}
            document = {"apiVersion": "v1", "kind": "Secret" if kind == "secret" else "ConfigMap", "metadata": meta}
            self.apply(server, "postern", {**document, key: {"ca.crt": "one"}})
        webhook = {
            "name": "label.injector.postern.dev",
            "clientConfig": {"caBundle": base64.b64encode(server.authority).decode()},
        }
        configuration = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "postern-injector"},
            "webhooks": [webhook],
        }
        self.apply(server, "postern-webhook", configuration)
        return self.written(server)

    def apply(self, server: Any, manager: str, document: dict[str, Any]) -> None:
        command = ["apply", "--server-side", f"--field-manager={manager}", "--validate=false", "--filename=-"]
        server.kubectl(*command, stdin=json.dumps(document))

    def written(self, server: Any) -> dict[str, Any]:
        found = {
            name: server.get(f"--namespace={NAMESPACE}", name)["data"] for name in WRITTEN if self.exists(server, name)
        }
        configuration = server.get("mutatingwebhookconfiguration", "postern-injector")
        found["caBundle"] = configuration["webhooks"][0]["clientConfig"].get("caBundle")
        return found

    def exists(self, server: Any, name: str) -> bool:
        found = server.kubectl(f"--namespace={NAMESPACE}", "get", name, "--output=json", check=False)
        return found.returncode == 0 and "data" in json.loads(found.stdout)

    def test_with_helm_4(self) -> None:
        self.life("Helm 4")

    def test_with_helm_3(self) -> None:
        self.life("Helm 3")


class Examples(unittest.TestCase):
    """manifests/examples on a server with manifests/base."""

    def test_they_are_taken_and_their_pods_pass_the_policies(self) -> None:
        examples = sorted((MANIFESTS / "examples").glob("*.yaml"), key=lambda path: (path.stem != "namespace", path))
        self.assertGreater(len(examples), 5)
        with api_server() as server:
            server.kubectl("apply", "--server-side", "--kustomize", MANIFESTS / "base")
            server.kubectl("wait", "--for=condition=Established", "crd/credentialbindings.postern.dev")
            # Nobody answers for it here.
            server.kubectl("delete", "mutatingwebhookconfiguration", "postern-injector")
            pods = []
            for path in examples:
                done = server.kubectl("apply", "--server-side", "--filename", path)
                self.assertEqual(done.stderr, "", path.name)
                for document in yaml.safe_load_all(path.read_text()):
                    if document["kind"] in ("Deployment", "Job"):
                        pods.append(self.injected(server, path, document["metadata"]["name"]))
            for without, pod in pods:
                if pod == without:
                    continue
                with self.subTest(pod=pod["metadata"]["name"]):
                    create = ["create", "--dry-run=server", "--filename=-"]
                    self.assertEqual(server.kubectl(*create, stdin=json.dumps(pod)).stderr, "")
                    self.until_refused(server, without, "the pod asks for a sidecar and has none")
            self.assertEqual(sum(pod != without for without, pod in pods), 3, "by label, by annotation, a Job")

    def injected(self, server: Any, path: Path, name: str) -> tuple[Any, Any]:
        """The pod of a workload, as it stands and as `postern inject` makes it."""
        with tempfile.NamedTemporaryFile() as authority:
            authority.write(server.authority)
            authority.flush()
            told = {
                "image": "registry.example/postern:0.1.0",
                "broker-ca": authority.name,
                "broker": "https://postern-broker.postern-system.svc.cluster.local:8443",
                "resolvers": "10.96.0.10",
            }
            command = [
                os.environ["POSTERN_BIN"],
                "inject",
                *[f"--{flag}={value}" for flag, value in told.items()],
                path,
            ]
            after = run(*command).stdout

        def pod(text: str) -> Any:
            [found] = [
                one
                for one in yaml.safe_load_all(text)
                if one["kind"] in ("Deployment", "Job") and one["metadata"]["name"] == name
            ]
            template = found["spec"]["template"]
            meta = {**template["metadata"], "name": name, "namespace": found["metadata"]["namespace"]}
            return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}

        return pod(path.read_text()), pod(after)

    def until_refused(self, server: Any, pod: Any, words: str) -> None:
        """A policy is in force a moment after it is installed."""
        end = time.monotonic() + 60
        while True:
            said = server.kubectl(
                "create", "--dry-run=server", "--filename=-", stdin=json.dumps(pod), check=False
            ).stderr
            if words in said:
                return
            self.assertLess(time.monotonic(), end, said)
            time.sleep(0.2)


if __name__ == "__main__":
    unittest.main()
