"""The OAuth provider of an agent that would log in by itself, if something made it."""

from mcp.client.auth import OAuthClientProvider
from mcp.shared.auth import OAuthClientMetadata


class Nothing:
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


def provider(url: str) -> OAuthClientProvider:
    metadata = OAuthClientMetadata.model_validate({"client_name": "agent", "redirect_uris": ["http://127.0.0.1/back"]})
    return OAuthClientProvider(url, metadata, Nothing(), _browser, _browser)
