"""What the injection sets in the agents' containers, by capture (docs/interception.md)."""

from pathlib import Path

CAPTURES = ENDPOINT, PROXY, REDIRECT = "endpoint", "proxy", "redirect"
PROXY_URL = "http://127.0.0.1:15102"
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
NOT_BY_PROXY = ("NO_PROXY", "no_proxy")
BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "AWS_CA_BUNDLE",
           "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
ADDED_ROOTS = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")
# Without these a client does not come to the proxy; without any other it comes and does not trust it.
TO_THE_PROXY = ("HTTPS_PROXY", "NODE_USE_ENV_PROXY")


def injected(capture: str, public: Path) -> dict[str, str]:
    trust = {name: str(public / "ca-bundle.pem") for name in BUNDLES}
    trust |= {name: str(public / "ca.pem") for name in ADDED_ROOTS}
    if capture == REDIRECT:
        return trust
    proxies = dict.fromkeys(PROXIES, PROXY_URL) | dict.fromkeys(NOT_BY_PROXY, "127.0.0.1,localhost,::1")
    return trust | proxies | {"NODE_USE_ENV_PROXY": "1"}


def only(names: list[str], environment: dict[str, str]) -> dict[str, str]:
    """The environment with no others of these variables; `HTTPS_PROXY` is for its whole family."""
    kept = set(names) | (set(PROXIES + NOT_BY_PROXY) if "HTTPS_PROXY" in names else set())
    return {name: value for name, value in environment.items() if name in kept}
