"""What is alike in the Python SDKs 1.x and 2.x: their transports, watched, and a login they would begin if made to."""

from pathlib import PurePosixPath
from urllib.parse import urlsplit

from mcp.client.auth import OAuthClientProvider
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.auth import OAuthClientMetadata


class Watch:
    """Sees every response that an HTTP client gets, also those that its auth provider handles itself."""

    def __init__(self) -> None:
        self._challenges = 0
        self._login: list[str] = []

    async def __call__(self, response) -> None:
        path = urlsplit(str(response.request.url)).path
        self._challenges += "www-authenticate" in response.headers
        if path.startswith("/.well-known/") or PurePosixPath(path).name in ("register", "authorize", "token"):
            self._login.append(path)

    def take(self) -> dict:
        seen = {"challenges": self._challenges, "login": self._login}
        self._challenges, self._login = 0, []
        return seen


def transport(job: dict, watch: Watch):
    def client(**options):
        made = create_mcp_http_client(**options)
        made.event_hooks = {"response": [watch]}
        return made

    auth = _login(job["url"]) if job["oauth"] else None
    if job["transport"] == "sse":
        return sse_client(job["url"], auth=auth, httpx_client_factory=client)
    return streamable_http_client(job["url"], http_client=client(auth=auth))


class _Nothing:
    """Keeps no tokens."""

    async def get_tokens(self):
        return None

    async def get_client_info(self):
        return None

    async def set_tokens(self, _tokens) -> None:
        pass

    async def set_client_info(self, _info) -> None:
        pass


async def _browser(*_: object):
    raise RuntimeError("a login was begun")


def _login(url: str) -> OAuthClientProvider:
    metadata = OAuthClientMetadata.model_validate({"client_name": "agent", "redirect_uris": ["http://127.0.0.1/back"]})
    return OAuthClientProvider(url, metadata, _Nothing(), _browser, _browser)
