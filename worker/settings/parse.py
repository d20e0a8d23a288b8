"""Parsers: from the text of an environment variable to a value.

Each raises `ValueError`; the text follows the name of the setting and never quotes a secret.
"""

import re
from collections.abc import Container, Sequence
from contextlib import suppress
from datetime import timedelta
from fractions import Fraction
from ipaddress import ip_address
from typing import NamedTuple

from pydantic import SecretStr
from yarl import URL

from contracts.text import IDENTIFIER_LENGTH, identifier
from contracts.topology import Namespace
from worker.core.limits import Window
from worker.core.protected import WILDCARD, Protected
from worker.core.visible import visible
from worker.ports import RateLimit
from worker.settings.files import check_tls
from worker.settings.ledger_url import parse_ledger_url

PREFIX = "PROVISIONER_"
LONGEST_DURATION = timedelta(days=49)
LONGEST_GRACE = timedelta(days=3650)
LONGEST_WINDOW = timedelta(days=400)
OFF = "off"

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LARGEST_PORT = 65535
_LARGEST_PERCENTAGE = 100
_LONGEST_SHOWN = 40
_NO_LIMIT = "is not a limit of removals; write 10%/24h,20/30d (a share or a number per window), or off"


class Address(NamedTuple):
    """Where a server listens; `host` is without the brackets of an IPv6 address."""

    host: str
    port: int


def duration(text: object) -> object:
    """`500ms`, `3s`, `5m`, `1h` or `30d`; above zero and at most `LONGEST_DURATION`."""
    parsed = _period(text)
    if not parsed:
        raise ValueError("is not a duration above zero; write 500ms, 3s, 5m, 1h or 30d")
    if parsed > LONGEST_DURATION:
        raise ValueError("is longer than 49d; RabbitMQ holds nothing back for longer")
    return parsed


def grace(text: object) -> object:
    """A duration of at most `LONGEST_GRACE`; `0s` is none."""
    parsed = _period(text)
    if parsed is None:
        raise ValueError("is not a duration; write 12h or 30d")
    if parsed > LONGEST_GRACE:
        raise ValueError(f"is longer than {LONGEST_GRACE.days}d; {PREFIX}REMOVAL=disable deletes nothing")
    return parsed


def interval(text: object) -> object:
    """A duration of at most `LONGEST_WINDOW`; None for `off`."""
    if text == OFF:
        return None
    parsed = _period(text)
    if not parsed:
        raise ValueError("is not a duration above zero; write 12h or 7d, or off")
    if parsed > LONGEST_WINDOW:
        raise ValueError(f"is longer than {LONGEST_WINDOW.days}d; write off for never")
    return parsed


def removal_limit(text: object) -> object:
    """`10%/24h,20/30d`: removals per rolling window, as a percentage of the departments or a number.

    Empty for `off`. Of two windows of one length both apply.
    """
    if text == OFF:
        return ()
    return tuple(_window(part.strip()) for part in str(text).split(","))


def _window(text: str) -> Window:
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,4})?)(%?)/([^/]*)", text)
    length = _period(match[3]) if match else None
    if match is None or length is None or ("." in match[1] and not match[2]):
        raise ValueError(_NO_LIMIT)
    most, is_percentage = Fraction(match[1]), bool(match[2])
    if not most:
        raise ValueError(f"allows no removal in {text}; to hold every one, set {PREFIX}PROTECTED={WILDCARD}")
    if is_percentage and most > _LARGEST_PERCENTAGE:
        raise ValueError(f"allows more than 100% in {text}; write a share of at most 100%, or off")
    if not length or length > LONGEST_WINDOW:
        raise ValueError(f"has a window in {text} that is not above zero and at most {LONGEST_WINDOW.days}d")
    return Window(most if is_percentage else int(most), length, is_percentage=is_percentage)


def protected(text: object) -> object:
    """Departments as `department_id` or `tenant/department_id`, separated by commas; `*` may end each."""
    items = [part.strip() for part in str(text).split(",")]
    if "" in items:
        place = items.index("") + 1
        raise ValueError(f"has nothing as item {place} of {len(items)}; write sales,acme/finance,emea-*")
    return Protected(tuple(map(_pattern, items)))


def _pattern(text: str) -> str:
    """The spelling that the ids of events get, so that they match."""
    stem = text.removesuffix(WILDCARD)
    if WILDCARD in stem:
        raise ValueError(f"has {_quoted(text)}, but * may stand at the end only, as in emea-*")
    if text.endswith("/"):
        raise ValueError(f"has {_quoted(text)} without a department; write {_quoted(text)}* for all of them")
    if not stem:
        return text
    try:
        return identifier(stem, 2 * IDENTIFIER_LENGTH + 1) + text[len(stem) :]
    except ValueError as error:
        raise ValueError(f"has {_quoted(text)}, but an id {error}") from None


def _quoted(text: str) -> str:
    shown = visible(text)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."


def _period(text: object) -> timedelta | None:
    """The duration that a text means, zero included; None if it means none."""
    match = re.fullmatch(r"(0|[1-9][0-9]{0,8})(ms|s|m|h|d)", text) if isinstance(text, str) else None
    return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None


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
    return all(is_loopback(URL(url).host or "") for url in urls)


def namespace(text: object) -> object:
    """The prefix of the broker's objects, such as `staging`."""
    return Namespace(text) if isinstance(text, str) else text


def ledger_url(text: object) -> object:
    """The URL of a file of SQLite, or of a database of PostgreSQL."""
    return parse_ledger_url(text) if isinstance(text, str) else text


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


def is_loopback(host: str) -> bool:
    """Whether a host is this machine.

    Trusts no host name but localhost: a name may mean another address tomorrow.
    """
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
