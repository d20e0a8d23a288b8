"""Explains to the person who set AMQP_URL why the broker cannot be used, and what to do."""

import re
from typing import NamedTuple

from yarl import URL

from worker.adapters.network import NOT_TLS, RESET, cause_of, certificate_problem, is_other_name
from worker.ports import UserError

# The texts of RabbitMQ. Sources: rabbit_reader.erl, rabbit_direct.erl and rabbit_access_control.erl.
_DENIED = re.compile(
    r"(?:(configure|write|read) )?access to (queue|exchange) '(.*)' in vhost '(.*)' refused for user '(.*)'"
)
_TOPIC_DENIED = re.compile(r"access to topic '(.*)' in exchange '(.*)' in vhost '.*' refused for user '(.*)'")
_NO_VHOST = re.compile(r"vhost (.*) not found")
_VHOST_DENIED = re.compile(r"access to vhost '(.*)' refused for user '(.*)'$")
_VHOST_DOWN = re.compile(r": vhost '(.*)' is down")
_LIMIT = re.compile(r"(?:(user|node) )?connection limit \((\d+)\) is reached")
_CHANNEL_LIMIT = re.compile(r"number of channels opened.*limit of \(?(\d+)")
_OURS_REFUSED = re.compile(r"alert (?:certificate (\w+)|(unknown ca)|(bad certificate))", re.IGNORECASE)
_LEAST_RIGHT = {"queue": "read", "exchange": "write"}
"""The right that a delivery or a publish needs: a broker before 4.0 does not say which one is missing."""


class Denied(NamedTuple):
    """An operation that RabbitMQ refused for lack of a right (configure, write or read) on one object."""

    user: str
    right: str
    kind: str
    name: str
    vhost: str


class BrokerUnavailable(UserError):
    """There is no connection at the moment. The text holds no password."""


class BrokerSilent(BrokerUnavailable):
    """The broker does not answer a call in time: so a cluster does while a node of it is frozen."""


class BrokerRefuses(BrokerUnavailable):
    """The broker refuses a login, an operation, or an object that differs. Retrying does not help."""


class BrokerAbsent(BrokerUnavailable):
    """The connect was refused, or closed silently, as by a proxy whose broker is down."""


def explain(error: BaseException) -> str:
    """An error of the broker, the client library or the network in one line."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = " ".join(str(error).split())
    return _refusal(text) or cause_of(error) or text or type(error).__name__


def denied(text: str) -> Denied | None:
    """The right that is missing, by the text of an error; None for any other error."""
    if (found := _DENIED.search(text)) is None:
        return None
    right, kind, name, vhost, user = found.groups()
    return Denied(user, right or _LEAST_RIGHT[kind], kind, name, vhost)


def _refusal(text: str) -> str | None:
    """The refused operation, and the command that allows it; None if the text is no such refusal."""
    if one := denied(text):
        return (
            f"user {one.user} has no {one.right} right on {one.kind} {one.name} in virtual host {one.vhost}:"
            " grant it with `rabbitmqctl set_permissions`"
        )
    if found := _TOPIC_DENIED.search(text):
        key, exchange, user = found.groups()
        return (
            f"user {user} may not use routing key {key} on exchange {exchange}:"
            " allow it with `rabbitmqctl set_topic_permissions`"
        )
    if found := _CHANNEL_LIMIT.search(text):
        return f"the limit of channels is reached ({found[1]}): raise it with `rabbitmqctl set_user_limits`"
    return _refused_open(text)


def _refused_open(text: str) -> str | None:
    if found := _LIMIT.search(text):
        whose, most = found.groups()
        where = {"user": "this user", "node": "this node", None: "this virtual host"}[whose]
        return f"the limit of connections of {where} is reached ({most}): raise it, or end other connections"
    if found := _VHOST_DOWN.search(text):
        return f"virtual host {found[1]} is down: `rabbitmqctl restart_vhost` starts it"
    if found := _NO_VHOST.search(text):
        return (
            f"there is no virtual host {found[1]}: correct the path of AMQP_URL, or make it with"
            " `rabbitmqctl add_vhost`"
        )
    if found := _VHOST_DENIED.search(text):
        vhost, user = found.groups()
        return (
            f"user {user} has no right to virtual host {vhost}: grant it with"
            f" `rabbitmqctl set_permissions -p {vhost} {user} ...`"
        )
    return None


def explain_login(url: str, text: str) -> str:
    """Why a login was refused. `text` is the broker's, which does not tell a wrong user from a password."""
    parsed = URL(url)
    if parsed.user == "guest" and parsed.host not in {"localhost", "127.0.0.1", "::1"}:
        return "RabbitMQ lets its user guest in from its own machine only; make another user"
    if "Login was refused" in text:
        return "wrong user or password"
    return text


def explain_tls(error: BaseException) -> str | None:
    """Why the two sides do not trust each other, and what to do; None for any other failure."""
    if problem := certificate_problem(error):
        why = problem.verify_message.rstrip(".")
        if is_other_name(problem):
            return f"its certificate is for another name ({why}); write that name in AMQP_URL"
        return f"its certificate is not trusted ({why}); set cafile in AMQP_URL to its authority's"
    if found := _OURS_REFUSED.search(str(error)):
        why = next(part for part in found.groups() if part)
        return f"it refuses the certificate in certfile of AMQP_URL ({why})"
    if cause_of(error) == NOT_TLS:
        return "that port does not speak TLS; write amqp:// or the port of amqps"
    return None


def hint(url: str, error: BaseException) -> str:
    """A suffix for a reset connection: a broker that misses a client certificate often sends no reason."""
    if url.startswith("amqps:") and (cause_of(error) == RESET or "reset" in str(error)):
        return "; does it want another client certificate (certfile and keyfile in AMQP_URL)?"
    return ""
