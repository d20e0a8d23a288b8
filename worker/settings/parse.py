"""Parsers: from the text of an environment variable to a value.

Each raises `ValueError`; the text follows the name of the setting and never quotes a secret.
"""

import re
from collections.abc import Container, Sequence
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr
from yarl import URL

from contracts.topology import Namespace
from worker.ports import RateLimit
from worker.settings.files import check_tls

PREFIX = "PROVISIONER_"
LONGEST_DURATION = timedelta(days=49)
SQLITE = "sqlite:///"

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LARGEST_PORT = 65535


class Address(NamedTuple):
    """Where a server listens; `host` is without the brackets of an IPv6 address."""

    host: str
    port: int


def duration(text: object) -> object:
    """`500ms`, `3s`, `5m`, `1h` or `30d`; above zero and at most `LONGEST_DURATION`."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})(ms|s|m|h|d)", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("is not a duration above zero; write 500ms, 3s, 5m, 1h or 30d")
    parsed = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if parsed > LONGEST_DURATION:
        raise ValueError("is longer than 49d; RabbitMQ holds nothing back for longer")
    return parsed


def durations(text: object) -> object:
    """Durations, separated by commas."""
    return [duration(part.strip()) for part in text.split(",")] if isinstance(text, str) else text


def rate_limit(text: object) -> object:
    """`300/5s`: calls per window."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})/([^/]+)", str(text))
    if match is None:
        raise ValueError("is not a rate; write calls per duration, such as 300/5s")
    return RateLimit(int(match[1]), duration(match[2]))  # type: ignore[arg-type]


def address(text: object) -> object:
    """`host:port`; an IPv6 address is in brackets."""
    host, _, port = str(text).rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LARGEST_PORT:
        raise ValueError("is not an address; write host:port, such as 127.0.0.1:8080")
    return Address(host.strip("[]"), int(port))


def amqp_urls(text: object) -> object:
    """AMQP URLs, separated by commas; the files that their queries name must be readable."""
    otherwise = "is not an AMQP URL; write amqp://user:password@host:5672/vhost"
    urls = tuple(url.strip() for url in str(text).split(","))
    for url in urls:
        check_tls(_url(url, {"amqp", "amqps"}, otherwise).query)
    return urls


def on_loopback(urls: Sequence[str]) -> bool:
    """Whether the host of every URL is this machine."""
    return all(_is_loopback(URL(url).host or "") for url in urls)


def namespace(text: object) -> object:
    """The prefix of the broker's objects, such as `staging`."""
    return Namespace(text) if isinstance(text, str) else text


def sqlite_path(text: object) -> object:
    """The file of a `sqlite:///` URL, as a `Path`."""
    if isinstance(text, str) and text.startswith(SQLITE) and len(text) > len(SQLITE):
        path = text.removeprefix(SQLITE)
        if path == ":memory:":
            raise ValueError(
                "is a ledger in memory, which a restart would lose; write sqlite:////absolute/path.db"
            )
        return Path(path)
    raise ValueError("is not a ledger URL; write sqlite:///relative/path.db or sqlite:////absolute/path.db")


def api_url(text: str) -> str:
    """An http(s) URL without login, query and fragment."""
    otherwise = "is not an http(s) URL without login and query, such as https://api.plivo.com"
    parsed = _url(text, {"http", "https"}, otherwise)
    if "@" in text or parsed.query_string or parsed.fragment:
        raise ValueError(otherwise)
    return text


def main_account(text: str) -> str:
    """The auth id of a main account at Plivo. That of a subaccount is refused: it can make none."""
    if not re.fullmatch(r"[A-Za-z0-9]+", text):
        raise ValueError("is not an auth id: it has letters and digits only, such as MAXXXXXXXXXXXXXXXXXX")
    if text.startswith("SA"):
        raise ValueError("is that of a subaccount; set the main account's, which begins with MA")
    return text


def owner(text: str) -> str:
    """A name that can stand in tags."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", text):
        raise ValueError("is not 1 to 100 letters, digits, dots, dashes and underscores")
    return text


def token(secret: SecretStr) -> SecretStr:
    """Rejects white space and control characters, which a careless copy adds to a token."""
    if re.search(r"[\s\x00-\x1f\x7f]", secret.get_secret_value()):
        raise ValueError("has white space or control characters in it; see how it was copied")
    return secret


def proxy_url(secret: SecretStr) -> SecretStr:
    """The URL of an HTTP proxy, with its login if it wants one."""
    otherwise = "is not the URL of an HTTP proxy; write http://user:password@host:3128"
    parsed = _url(secret.get_secret_value(), {"http", "https"}, otherwise)
    if parsed.path not in {"", "/"} or parsed.query_string or ":" in (parsed.user or ""):
        raise ValueError(otherwise)
    return secret


def management_url(secret: SecretStr) -> SecretStr:
    """The URL of RabbitMQ's management API, with its login."""
    otherwise = "is not an http(s) URL; write http://user:password@host:15672"
    _url(secret.get_secret_value(), {"http", "https"}, otherwise)
    return secret


def _url(text: str, schemes: Container[str], otherwise: str) -> URL:
    """Raises `ValueError(otherwise)`: the parser's own error text may quote the login in the URL."""
    with suppress(ValueError):
        parsed = URL(text)
        # After an unquoted / or # in the password a URL has an @ but no user; errors would show the rest.
        misplaced = "@" in text and parsed.user is None
        if parsed.scheme in schemes and parsed.host and not misplaced and not re.search(r"\s", text):
            return parsed
    raise ValueError(otherwise)


def _is_loopback(host: str) -> bool:
    """Trusts no host name but localhost: a name may mean another address tomorrow."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
