"""What the chart tells controller and broker, and lets them do, is what they take and need: the real ones get ready."""

import contextlib
import json
import os
import re
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from tools import BINDING, CHART, HELMS, NAMESPACE, NO_HOOKS, ROOT, ApiServer, api_server, documents, pods, run, sets, values

BIN = os.environ["POSTERN_BIN"]
WITHIN = 60  # seconds


def arguments(name: str) -> Iterator[tuple[str, list[str]]]:
    """What each Deployment of a value set runs."""
    for document in documents(name):
        if document["kind"] == "Deployment":
            [container] = document["spec"]["template"]["spec"]["containers"]
            yield container["name"], container["args"]


def mounted(name: str, component: str, args: list[str], folder: Path) -> list[str]:
    """The same, with the files of the chart's ConfigMaps that it mounts below a folder of ours."""
    rendered = documents(name)
    maps = {one["metadata"]["name"]: one.get("data") for one in rendered if one["kind"] == "ConfigMap"}
    [spec] = [spec for pod, spec in pods(rendered) if pod == f"postern-{component}"]
    volumes = {volume["name"]: volume.get("configMap", {}).get("name") for volume in spec["volumes"]}
    for mount in spec["containers"][0]["volumeMounts"]:
        if (data := maps.get(volumes[mount["name"]])) is None:
            continue
        here = folder / mount["mountPath"].lstrip("/")
        here.mkdir(parents=True)
        for key, text in data.items():
            (here / key).write_text(text)
        args = [arg.replace(f"={mount['mountPath']}/", f"={here}/") for arg in args]
    return args


def local(args: list[str]) -> list[str]:
    """Without what is only so in a pod."""
    return [arg for arg in args if not re.match(r"--(admin-)?address=", arg)]


def kubeconfig(server: ApiServer, account: str) -> Path:
    """With the rights of a service account and no others."""
    config = json.loads(Path(server.kubeconfig).read_text())
    token = server.kubectl("create", "token", account, f"--namespace={NAMESPACE}").stdout.strip()
    config["users"][0]["user"] = {"token": token}
    path = Path(server.kubeconfig).with_name(f"{account}.kubeconfig")
    path.write_text(json.dumps(config))
    return path


@contextlib.contextmanager
def running(server: ApiServer, args: list[str]) -> Iterator[str]:
    """A process, by where its probes are."""
    account = f"postern-{args[0]}"
    here = ["--address=127.0.0.1:0", "--admin-address=127.0.0.1:0", f"--kubeconfig={kubeconfig(server, account)}"]
    more = ["--resolvers=10.96.0.10"] if args[0] == "controller" else []
    with subprocess.Popen(
        [BIN, *local(args), *here, *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield listening(process)
        finally:
            process.terminate()
            # It would wait to be read.
            process.communicate(timeout=60)


def listening(process: subprocess.Popen[str]) -> str:
    said = ""
    for line in process.stderr or []:
        said += line
        if (told := json.loads(line)).get("message") == "listening":
            return told["admin"]
    raise AssertionError(said)


def is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/ready", timeout=5) as answer:
            return answer.status == 200
    except urllib.error.HTTPError:
        return False


def until(what: str, holds: Callable[[], object]) -> None:
    end = time.monotonic() + WITHIN
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"after {WITHIN} s still not so: {what}")
        time.sleep(0.1)


class Running(unittest.TestCase):
    def test_they_get_ready_with_what_the_chart_gives_them(self) -> None:
        given = dict(arguments("default"))
        self.assertEqual(given.keys(), {"controller", "broker"})
        with api_server() as server, contextlib.ExitStack() as stack:
            install = [
                "install",
                "postern",
                CHART,
                f"--namespace={NAMESPACE}",
                "--create-namespace",
                NO_HOOKS,
                *values("default"),
            ]
            run(HELMS["Helm 4"], *install, f"--kubeconfig={server.kubeconfig}")
            for component in ("broker", "controller"):
                address = stack.enter_context(running(server, given[component]))
                until(f"{component} is ready", lambda address=address: is_ready(address))
            certificates = server.get(f"--namespace={NAMESPACE}", "configmap", "postern-broker-ca")["data"]
            self.assertIn("BEGIN CERTIFICATE", certificates["ca.crt"])
            configuration = server.get("mutatingwebhookconfiguration", "postern-injector")
            for webhook in configuration["webhooks"]:
                self.assertTrue(webhook["clientConfig"]["caBundle"])
            self.check(server)
            # A binding gets its status, by the one that holds the Lease.
            server.kubectl("create", "--filename=-", stdin=json.dumps(BINDING))

            def status() -> object:
                return server.get("credentialbinding", "github", "--namespace=default").get("status")

            until("a binding has a status", status)

    def check(self, server: ApiServer) -> None:
        """What `helm test` runs, with the rights that it has there: all is well, and nothing is out of its sight."""
        of_pod, of_job = [spec for name, spec in pods(documents("default")) if name == "postern-check"]
        self.assertEqual(of_pod, of_job, "the Job runs the same")
        args = of_pod["containers"][0]["args"]
        done = run(BIN, *args, f"--kubeconfig={kubeconfig(server, 'postern-check')}", check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("0 wrong, 0 not checked", done.stdout)

    def test_every_argument_is_one_that_they_take(self) -> None:
        """docs/cli.md is held against the binary."""
        page = (ROOT / "docs/cli.md").read_text()
        for name in sets():
            for component, args in arguments(name):
                section = page.split(f"\n## postern {component}\n")[1].split("\n## ")[0]
                known = set(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", section, re.MULTILINE))
                self.assertEqual(args[0], component)
                for arg in args[1:]:
                    with self.subTest(values=name, argument=arg):
                        self.assertIn(arg.split("=")[0], known)

    def test_every_value_is_one_that_they_read(self) -> None:
        """With a kubeconfig that is not there they get as far as reading all the others."""
        for name in sets():
            for component, args in arguments(name):
                with self.subTest(values=name, component=component), tempfile.TemporaryDirectory() as folder:
                    args = mounted(name, component, args, Path(folder))
                    more = (
                        ["--resolvers=10.96.0.10"]
                        if component == "controller" and "--resolvers" not in str(args)
                        else []
                    )
                    done = run(BIN, *args, "--kubeconfig=/none", *more, check=False)
                    self.assertIn("/none", done.stderr)


if __name__ == "__main__":
    unittest.main()
