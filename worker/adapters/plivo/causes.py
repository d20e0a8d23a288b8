"""Says in words why a call to Plivo got no response: which host and port, and what went wrong there.

This is the one table from aiohttp's exceptions to words. It quotes no text of an exception, which may hold a
login.
"""

from dataclasses import dataclass
from http import HTTPStatus

import aiohttp
from yarl import URL

from worker.adapters.network import NOT_TLS, cause_of, host_and_port

_TLS_ALERT = "\\x15\\x03"
"""How aiohttp quotes the first bytes of TLS where it expects HTTP."""


@dataclass(frozen=True, slots=True)
class Route:
    """The way to Plivo: its URL, the URL of a proxy without its login, and the timeouts in seconds."""

    api: URL
    proxy: URL | None
    connect_seconds: float
    total_seconds: float

    @property
    def target(self) -> str:
        """`api.plivo.com:443`."""
        return host_and_port(self.api.host, self.api.port)

    @property
    def where(self) -> str:
        """`api.plivo.com:443`, with the proxy if there is one."""
        return f"{self.target} through {_proxy(self)}" if self.proxy else self.target


def proxy_refuses_login(error: BaseException) -> bool:
    """Whether the proxy wants another login than that in its URL."""
    refused = HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
    return isinstance(error, aiohttp.ClientHttpProxyError) and error.status == refused


def refused_by_proxy(route: Route) -> str:
    """The words for a 407 of the proxy in the settings."""
    return f"{_proxy(route)}: it refuses the login in its URL (407); correct PLIVO_PROXY_URL"


def explain(error: BaseException, route: Route) -> str:
    """`api.plivo.com:443: connection refused`: one line without a secret."""
    match error:
        case _ if proxy_refuses_login(error):
            return refused_by_proxy(route)
        case aiohttp.ClientHttpProxyError():
            return f"{_proxy(route)}: it answers {error.status} to CONNECT {route.target}"
        case aiohttp.ClientConnectorDNSError():
            return f"{_host_met(error, route)}: {cause_of(error) or 'name cannot be looked up (DNS)'}"
        case aiohttp.ClientConnectorError():
            return f"{_met(error, route)}: {_failed_connect(error)}"
        case _:
            return f"{route.where}: {_failed_exchange(error, route)}"


def _failed_exchange(error: BaseException, route: Route) -> str:
    match error:
        case aiohttp.ConnectionTimeoutError():
            return f"timeout while connecting, after {route.connect_seconds:g} s"
        case TimeoutError():
            return f"no response within {route.total_seconds:g} s"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed without a response"
        case aiohttp.ClientPayloadError():
            return "the response was cut off"
        case aiohttp.ClientResponseError() if _TLS_ALERT in error.message:
            return "that port speaks TLS; write https:// in the URL"
        case aiohttp.ClientResponseError():
            return "the response is not valid HTTP"
        case _:
            return cause_of(error) or "the connection was lost"


def _failed_connect(error: aiohttp.ClientConnectorError) -> str:
    cause = cause_of(error) or "no connection"
    return f"{cause}; write http:// in the URL, or the port of https" if cause == NOT_TLS else cause


def _proxy(route: Route) -> str:
    return f"the proxy {host_and_port(route.proxy.host, route.proxy.port)}" if route.proxy else "the proxy"


def _met(error: aiohttp.ClientConnectorError, route: Route) -> str:
    """The host and port where the connect failed: those of Plivo or of the proxy."""
    return _proxy(route) if _is_proxy(error, route) else host_and_port(error.host, error.port)


def _host_met(error: aiohttp.ClientConnectorError, route: Route) -> str:
    return f"the proxy {error.host}" if _is_proxy(error, route) else error.host


def _is_proxy(error: aiohttp.ClientConnectorError, route: Route) -> bool:
    return route.proxy is not None and (error.host, error.port) == (route.proxy.host, route.proxy.port)
