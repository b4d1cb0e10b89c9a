"""The clients: what each is, and how it is started."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from captured.environment import PROXY, REDIRECT
from clients.agents import Sdk, Tools, Variant
from clients.agents import VARIANTS as SDKS

HERE = Path(__file__).resolve().parent
STORE_PASSWORD = "changeit"  # that of the JDK's roots
_GO = Sdk("Go SDK", (HERE.parent / "go" / "go.mod", "go-sdk v"), "go")
_CURL = ("curl", "--silent", "--show-error", "--no-buffer", "--include", "--suppress-connect-headers", "--data-binary",
         "@-")


@dataclass(frozen=True)
class Client:
    """`reads` are the variables of the webhook that may matter to it, most important last."""

    title: str
    variant: Variant
    command: list[str]
    reads: tuple[str, ...] = ("SSL_CERT_FILE", "HTTPS_PROXY")
    java_options: bool = False  # its user sets JAVA_TOOL_OPTIONS
    not_by: tuple[str, ...] = ()  # captures that it has no variable for

    @property
    def name(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower())


def clients(tools: Tools, nodes: dict[str, Path], go: Path, fetch: Path, directory: Path) -> list[Client]:
    of = {each.sdk.command: each for each in SDKS}
    found = [_sdk(of[key], tools.command(key, directory)) for key in ("python 1", "python 2")]
    for key in ("node 1", "node 2"):
        for version, node in nodes.items():
            script = tools.command(key, directory)[1:]
            found.append(Client(f"{_title(of[key])}, Node {version}", of[key], [str(node), *script], (
                "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "NODE_USE_ENV_PROXY", "HTTPS_PROXY"),
                not_by=(PROXY,) if version == "20" else ()))
    found += [_sdk(of["rmcp"], tools.command("rmcp", directory)), _sdk(Variant(_GO, "auto"), [str(go)])]
    curl = _words("curl", "--version").split()[1]
    java = re.search(r'"(\d+)', _words("java", "-version"))[1]
    by_hand = [sys.executable, str(HERE / "by_hand.py")]
    found.append(Client(f"curl {curl}", Variant(_GO, "legacy"), [*by_hand, *_CURL], (
        "SSL_CERT_FILE", "CURL_CA_BUNDLE", "HTTPS_PROXY")))
    for more in (False, True):
        title = f"Java {java} HttpClient" + (", JAVA_TOOL_OPTIONS set" if more else "")
        found.append(Client(title, Variant(_GO, "legacy"), [*by_hand, "java", "-cp", str(fetch), "Fetch"],
                            java_options=more, not_by=() if more else (PROXY, REDIRECT)))
    return found


def _sdk(variant: Variant, command: list[str]) -> Client:
    return Client(_title(variant), variant, command)


def _title(variant: Variant) -> str:
    return f"{variant.sdk.name} {variant.sdk.version}"


def _words(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def java_options(capture: str, public: Path, store: Path) -> dict[str, str]:
    """What docs/interception.md tells users of Java to do: a copy of the JDK's roots, with the pod's CA."""
    home = re.search(r"java\.home = (.*)", _words("java", "-XshowSettings:properties", "-version"))[1]
    shutil.copyfile(Path(home) / "lib" / "security" / "cacerts", store)
    _words("keytool", "-importcert", "-noprompt", "-alias", "postern", "-file", str(public / "ca.pem"), "-keystore",
           str(store), "-storepass", STORE_PASSWORD)
    options = {"javax.net.ssl.trustStore": store, "javax.net.ssl.trustStorePassword": STORE_PASSWORD}
    if capture == PROXY:
        options |= {"https.proxyHost": "127.0.0.1", "https.proxyPort": "15102"}
    return {"JAVA_TOOL_OPTIONS": " ".join(f"-D{name}={value}" for name, value in options.items())}
