"""How Plivo is reached: token and proxy, which are read again from their files once refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from pydantic import SecretStr
from yarl import URL

from worker.adapters.plivo.causes import Route, proxy_refuses_login
from worker.settings.rotation import Rotating


@dataclass(frozen=True, slots=True)
class Way:
    """The means of one request to reach Plivo. Its headers hold logins."""

    headers: Mapping[str, str]
    proxy: URL | None
    proxy_headers: Mapping[str, str] | None
    route: Route


class Access:
    """Makes the way of each request from the token and the proxy in use."""

    def __init__(
        self,
        *,
        url: str,
        auth_id: str,
        auth_token: Rotating[SecretStr],
        proxy: Rotating[SecretStr | None],
        timeout: aiohttp.ClientTimeout,
    ) -> None:
        self._url = URL(url)
        self._auth_id = auth_id
        self._auth_token = auth_token
        self._proxy = proxy
        self._timeout = timeout
        self._token_refused = self._proxy_refused = False
        self._way = self._made()

    def way(self) -> Way:
        """The way of the next request."""
        if self._token_refused:
            self._auth_token.read_again()
        if self._proxy_refused:
            self._proxy.read_again()
        if self._token_refused or self._proxy_refused:
            self._way = self._made()
        return self._way

    def answered(self, status: int, way: Way) -> None:
        """Takes note of a response. `way` is that of its request."""
        self._proxy_refused = is_proxys_refusal(status, way.route)
        if status == HTTPStatus.UNAUTHORIZED:
            self._token_refused = True
        elif status < HTTPStatus.MULTIPLE_CHOICES:
            self._token_refused = False

    def failed(self, error: BaseException) -> None:
        """Takes note of a request without a response."""
        if proxy_refuses_login(error):
            self._proxy_refused = True

    def _made(self) -> Way:
        token = self._auth_token.value.get_secret_value()
        headers = {"Authorization": aiohttp.encode_basic_auth(self._auth_id, token)}
        proxy = self._proxy.value and URL(self._proxy.value.get_secret_value())
        shown = proxy.with_user(None) if proxy else None
        login = _login(proxy) if proxy else {}
        if self._url.scheme == "http":
            headers |= login  # there is no CONNECT: the proxy reads the request itself
        return Way(headers, shown, login or None, self._route(shown))

    def _route(self, proxy: URL | None) -> Route:
        return Route(self._url, proxy, self._timeout.connect or 0.0, self._timeout.total or 0.0)


def is_proxys_refusal(status: int, route: Route) -> bool:
    """Whether a status comes from the proxy in the settings, which wants another login."""
    return route.proxy is not None and status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED


def _login(proxy: URL) -> dict[str, str]:
    if proxy.user is None:
        return {}
    return {"Proxy-Authorization": aiohttp.encode_basic_auth(proxy.user, proxy.password or "")}
