"""The proxy that the environment names for calls to Plivo, where `PLIVO_PROXY_URL` does not."""

from collections.abc import Mapping
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # not in typeshed

from yarl import URL

from worker.settings.parse import on_loopback


def proxy_in_environment(environ: Mapping[str, str], api_url: str) -> tuple[str, str] | None:
    """The name and the value of the variable with the proxy for this URL; None for a direct connection.

    As curl and Python have it: `HTTPS_PROXY` for https, `HTTP_PROXY` for http, lower case before upper case,
    `NO_PROXY` with names, suffixes or `*`. An `http` URL on loopback is a sandbox and needs no proxy.
    """
    api = URL(api_url)
    if api.host is None or (api.scheme == "http" and on_loopback([api_url])):
        return None
    excepted = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if proxy_bypass_environment(f"{api.host}:{api.port}", {"no": excepted}):
        return None
    name = f"{api.scheme}_proxy"
    for spelling in (name, name.upper()):
        if value := environ.get(spelling, "").strip():
            return spelling, value if "://" in value else f"http://{value}"
    return None
