"""Settings: valid values, one line for each invalid one, and no secret in any message."""

import json
import re
from datetime import timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.decide import Policy, Removal, UnknownRename
from worker.core.limits import DEFAULT_LIMIT, Window
from worker.core.model.departments import Department
from worker.ports import RateLimit
from worker.settings.ledger_url import SqliteUrl
from worker.settings.load import SettingsError, load, rotating
from worker.settings.model import (
    BrokerSettings,
    DeadLetterSettings,
    LedgerSettings,
    PolicySettings,
    TopologySettings,
    WorkerSettings,
)
from worker.settings.names import KNOWN, unknown_lines, unknown_names
from worker.settings.show import described, written

SECRET = "s3cr3t-0123456789"
NEEDED = {"PLIVO_AUTH_ID": "MA1", "PLIVO_AUTH_TOKEN": SECRET}
CRM = {"kty": "OKP", "crv": "X25519", "x": "AAAA", "use": "enc", "kid": "crm"}
SIGNER = {"kty": "OKP", "crv": "Ed25519", "x": "AAAA", "d": SECRET, "use": "sig", "kid": "provisioner.1"}
EVERY = [name for name, _, _ in described(WorkerSettings)]


def loaded(**environ: str) -> WorkerSettings:
    return load(WorkerSettings, NEEDED | environ)


def mistakes(**environ: str) -> list[str]:
    """The error lines, one for each mistake. Checks that no line contains a secret."""
    with pytest.raises(SettingsError) as refusal:
        loaded(**environ)
    assert refusal.value.exit_code == 2
    assert refusal.value.__cause__ is None
    assert SECRET not in str(refusal.value)
    return str(refusal.value).splitlines()


def test_the_defaults_are_as_documented():
    defaults = {name: default for name, default, _ in described(WorkerSettings)}
    assert defaults == {
        "AMQP_URL": "amqp://guest:guest@127.0.0.1:5672/",
        "PROVISIONER_NAMESPACE": "",
        "PLIVO_AUTH_ID": "required",
        "PLIVO_AUTH_TOKEN": "required",
        "PLIVO_API_URL": "https://api.plivo.com",
        "PLIVO_PROXY_URL": "",
        "LEDGER_URL": "sqlite:///provisioner.db",
        "PROVISIONER_OWNER": "default",
        "PROVISIONER_NAME_TEMPLATE": "{name} [{tag}]",
        "PROVISIONER_NAME_MAX": "60",
        "PROVISIONER_PREFETCH": "1000",
        "PROVISIONER_CONCURRENCY": "50",
        "PROVISIONER_RATE_LIMIT": "300/5s",
        "PROVISIONER_API_TIMEOUT": "20s",
        "PROVISIONER_SETTLE_WINDOW": "2m",
        "PROVISIONER_RETRY_BUDGET": "1m",
        "PROVISIONER_RETRY_DELAYS": "30s,5m,1h",
        "PROVISIONER_MAX_ATTEMPTS": "8",
        "PROVISIONER_MANAGEMENT_URL": "",
        "PROVISIONER_RECIPIENTS": "",
        "PROVISIONER_SIGNING_KEY": "",
        "PROVISIONER_ENABLE": "created",
        "PROVISIONER_UNKNOWN_RENAME": "create",
        "PROVISIONER_REMOVAL": "disable-then-delete",
        "PROVISIONER_REMOVAL_GRACE": "30d",
        "PROVISIONER_REMOVAL_LIMIT": "10%/24h,20/30d",
        "PROVISIONER_PROTECTED": "",
        "PROVISIONER_SWEEP": "24h",
        "PROVISIONER_SWEEP_FIX": "false",
        "PROVISIONER_PLAINTEXT_SECRETS": "false",
        "PROVISIONER_TOPOLOGY": "declare",
        "PROVISIONER_HTTP": "127.0.0.1:8080",
        "PROVISIONER_DRAIN": "25s",
        "PROVISIONER_LOG_FORMAT": "",
        "PROVISIONER_LOG_LEVEL": "info",
    }


def test_every_setting_is_described():
    assert all(meaning for _, _, meaning in described(WorkerSettings))
    assert len(set(EVERY)) == len(EVERY) == len(WorkerSettings.model_fields)


def test_a_default_can_be_written_as_it_is_described():
    defaults = {name: default for name, default, _ in described(WorkerSettings)}
    environ = {name: default for name, default in defaults.items() if default not in {"required", ""}}
    assert loaded(**environ) == loaded()


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("3s", timedelta(seconds=3)),
        ("5m", timedelta(minutes=5)),
        ("1h", timedelta(hours=1)),
        ("30d", timedelta(days=30)),
        (" 90s ", timedelta(seconds=90)),
    ],
)
def test_durations_are_a_number_and_a_unit(text, duration):
    assert loaded(PROVISIONER_DRAIN=text, PROVISIONER_API_TIMEOUT="1ms").drain == duration


@pytest.mark.parametrize("text", ["staging", "hr-2", "eu.prod_1", "x" * 64])
def test_a_namespace_is_a_prefix_of_names(text):
    assert loaded(PROVISIONER_NAMESPACE=text).namespace.of("departments") == f"{text}.departments"


@pytest.mark.parametrize("text", [".", "a.", ".a", "a..b", "a b", "a/b", "é", "a#", "x" * 65, "amq", "amq.x"])
def test_an_invalid_namespace_is_refused(text):
    (line,) = mistakes(PROVISIONER_NAMESPACE=text)
    assert line.startswith("PROVISIONER_NAMESPACE ")


DURATIONS = ["PROVISIONER_API_TIMEOUT", "PROVISIONER_SETTLE_WINDOW", "PROVISIONER_DRAIN"]


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize(
    "text", ["20", "s", "1.5s", "-1s", "1w", "1 s", "1S", "1s1s", "0s", "0ms", "9" * 20 + "d", "soon"]
)
def test_an_invalid_duration_is_refused(name, text):
    (line,) = mistakes(**{name: text})
    assert line == f"{name} is not a duration above zero; write 500ms, 3s, 5m, 1h or 30d"


def test_rates_are_calls_per_duration():
    assert loaded(PROVISIONER_RATE_LIMIT="10/500ms").rate_limit == RateLimit(10, timedelta(milliseconds=500))


@pytest.mark.parametrize(
    "text", ["300", "0/5s", "-1/5s", "x/5s", "1.5/5s", "/5s", "300/", "300/0s", "300/5", "3/5s/6s"]
)
def test_an_invalid_rate_is_refused(text):
    (line,) = mistakes(PROVISIONER_RATE_LIMIT=text)
    assert line.startswith("PROVISIONER_RATE_LIMIT is not a ")


def test_delays_are_comma_separated_durations():
    delays = loaded(PROVISIONER_RETRY_DELAYS="1s, 2m,3h").retry_delays
    assert delays == (timedelta(seconds=1), timedelta(minutes=2), timedelta(hours=3))
    assert written(TopologySettings.model_fields["retry_delays"], delays) == "1s,2m,3h"


@pytest.mark.parametrize("text", ["30s,", ",", "30s;5m", "0s", "30s,x"])
def test_invalid_delays_are_refused(text):
    (line,) = mistakes(PROVISIONER_RETRY_DELAYS=text)
    assert line.startswith("PROVISIONER_RETRY_DELAYS is not a duration")


@pytest.mark.parametrize(
    ("text", "address"),
    [("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:8080", ("::1", 8080)), ("host:0", ("host", 0))],  # noqa: S104
)
def test_addresses_are_host_and_port(text, address):
    assert loaded(PROVISIONER_HTTP=text).http == address


@pytest.mark.parametrize(
    "text", ["8080", ":8080", "host", "host:", "host:x", "host:65536", "host:-1", "host:²"]
)
def test_an_invalid_address_is_refused(text):
    (line,) = mistakes(PROVISIONER_HTTP=text)
    assert line == "PROVISIONER_HTTP is not an address; write host:port, such as 127.0.0.1:8080"


def test_several_broker_urls_are_accepted():
    urls = loaded(AMQP_URL="amqp://u:p@127.0.0.1:1/v, amqps://localhost").amqp_url
    assert urls == ("amqp://u:p@127.0.0.1:1/v", "amqps://localhost")


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@127.0.0.1/",
        f"amqp://user:{SECRET}@/",
        f"amqp://user:{SECRET}/x@127.0.0.1/",
        f"amqp://user:5/{SECRET}@127.0.0.1/",
        f"amqp://user:5#{SECRET}@127.0.0.1/",
        f"amqp://user:5?{SECRET}@127.0.0.1/",
        f"amqp://user:{SECRET}@127.0.0.1:port/",
        f"amqp://user:{SECRET}@127.0.0.1:99999/",
        f"amqp://user:[{SECRET}@127.0.0.1/",
        f"amqp://user:{SECRET}@ho\u2100st/",
        f"amqp://user:{SECRET}@[::1/",
        f"amqp://127.0.0.1/,user:{SECRET}@127.0.0.1",
        f"user:{SECRET}@127.0.0.1",
        ",",
    ],
)
@pytest.mark.parametrize("model", [BrokerSettings, TopologySettings, WorkerSettings])
def test_an_invalid_broker_url_is_refused_without_showing_it(url, model):
    with pytest.raises(SettingsError) as refusal:
        load(model, NEEDED | {"AMQP_URL": url})
    (line,) = str(refusal.value).splitlines()
    assert line.startswith("AMQP_URL ")
    assert SECRET not in line
    assert SECRET not in repr(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://u:p@rabbit.example/",
        "amqp://127.0.0.1/,amqp://rabbit.example/",
        "amqp://10.0.0.1/",
        "amqp://127.0.0.1.example/",
        "amqp://localhost.example/",
        "amqp://[::2]/",
    ],
)
def test_plaintext_credentials_to_a_remote_broker_need_permission(url):
    (line,) = mistakes(AMQP_URL=url)
    assert line.startswith("PROVISIONER_PLAINTEXT_SECRETS is not true: ")
    assert loaded(AMQP_URL=url, PROVISIONER_PLAINTEXT_SECRETS="true").plaintext_secrets


@pytest.mark.parametrize(
    "url",
    [
        "amqp://localhost/",
        "amqp://LOCALHOST/",
        "amqps://[::1]/",
        "amqp://u:p@127.0.0.1:5672/v",
        "amqp://127.0.0.2/",
        "amqp://127.255.255.254/,amqp://127.0.0.1/",
    ],
)
def test_plaintext_credentials_on_loopback_are_allowed(url):
    assert not loaded(AMQP_URL=url).plaintext_secrets


@pytest.mark.parametrize(
    ("url", "vhost"), [("amqp://h", "/"), ("amqp://h/", "/"), ("amqp://h/a", "a"), ("amqp://h/%2f", "/")]
)
def test_the_virtual_host_is_the_path(url, vhost):
    assert load(TopologySettings, {"AMQP_URL": url}).vhost == vhost


@pytest.mark.parametrize("url", ["http://127.0.0.1:8090", "https://api.plivo.com/", "https://proxy/plivo"])
def test_the_api_url_is_a_web_address(url):
    assert loaded(PLIVO_API_URL=url).plivo_api_url == url


@pytest.mark.parametrize(
    "url",
    [
        "api.plivo.com",
        "ftp://x",
        "https://",
        "https:///v1",
        "https://a b",
        "https://a/b c",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "http://[::1",
        "https://api.plivo.com?x=1",
        "https://api.plivo.com/#x",
        f"https://u:{SECRET}@x",
        f"https://u:{SECRET}@ho\u2100st",
        f"https://u:5/{SECRET}@x",
        f"https://x/?token={SECRET}",
    ],
)
def test_an_invalid_api_url_is_refused(url):
    (line,) = mistakes(PLIVO_API_URL=url)
    assert line.startswith("PLIVO_API_URL is not an http(s) URL")


@pytest.mark.parametrize("url", ["http://localhost:15672", f"https://u:{SECRET}@rabbit.example/api-of/"])
def test_the_management_url_may_contain_a_login(url):
    chosen = loaded(PROVISIONER_MANAGEMENT_URL=url).management_url
    assert chosen is not None
    assert chosen.get_secret_value() == url


@pytest.mark.parametrize(
    "url",
    [
        f"guest:{SECRET}@localhost",
        f"amqp://guest:{SECRET}@localhost/",
        f"http://guest:{SECRET}@localhost:99999/",
        f"http://guest:{SECRET}@ho\u2100st/",
        f"http://guest:{SECRET}@[::1/",
        f"http://guest:5/{SECRET}@localhost/",
    ],
)
def test_an_invalid_management_url_is_refused_without_showing_it(url):
    (line,) = mistakes(PROVISIONER_MANAGEMENT_URL=url)
    assert line == "PROVISIONER_MANAGEMENT_URL is not an http(s) URL; write http://user:password@host:15672"


REFUSED = {
    "PLIVO_AUTH_ID": ["../MA1", "MA 1"],
    "PROVISIONER_OWNER": ["a b", "x" * 101, "a/b"],
    "PROVISIONER_NAME_TEMPLATE": [
        "{name}",
        "{name} {tag} {tag}",
        "{name} {tag} {other}",
        "x" * 60 + "{name}{tag}",
    ],
    "PROVISIONER_NAME_MAX": ["ten", "1.5"],
    "PROVISIONER_PREFETCH": ["0", "2001", "many"],
    "PROVISIONER_CONCURRENCY": ["0", "1001"],
    "PROVISIONER_UNKNOWN_RENAME": ["ignore", "CREATE"],
    "PROVISIONER_REMOVAL": ["purge", "disable_then_delete"],
    "PROVISIONER_SWEEP": ["0s", "401d", "OFF", "daily"],
    "PROVISIONER_SWEEP_FIX": ["maybe", "2"],
    "PROVISIONER_PLAINTEXT_SECRETS": ["maybe", "2"],
    "PROVISIONER_TOPOLOGY": ["check"],
    "PROVISIONER_LOG_FORMAT": ["xml"],
    "PROVISIONER_LOG_LEVEL": ["trace", "INFO"],
}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in REFUSED.items() for text in texts]
)
def test_an_invalid_value_is_refused_with_the_name_of_its_setting(name, text):
    (line,) = mistakes(**{name: text})
    assert line.startswith(f"{name} ")


@pytest.mark.parametrize("longest", ["13", "0", "-60"])
def test_a_name_template_must_leave_room_for_the_name(longest):
    (line,) = mistakes(PROVISIONER_NAME_MAX=longest)
    assert line == f"PROVISIONER_NAME_TEMPLATE leaves no room for a name within {longest} characters"


def test_words_are_converted_to_their_values():
    chosen = loaded(
        PROVISIONER_REMOVAL="delete",
        PROVISIONER_UNKNOWN_RENAME="reject",
        PROVISIONER_TOPOLOGY="assume",
        PROVISIONER_LOG_FORMAT="console",
        PROVISIONER_LOG_LEVEL="debug",
        PROVISIONER_NAME_TEMPLATE="[{tag}] {name}",
        PROVISIONER_NAME_MAX="80",
        PROVISIONER_OWNER="eu-west.1",
    )
    assert (chosen.removal, chosen.unknown_rename) == (Removal.DELETE, UnknownRename.REJECT)
    assert (chosen.topology, chosen.log_format, chosen.log_level) == ("assume", "console", "debug")
    assert chosen.names.render("Sales", "0123456789") == "[0123456789] Sales"
    assert (chosen.names.longest, chosen.owner) == (80, "eu-west.1")


def test_contradicting_settings_are_refused():
    (line,) = mistakes(PROVISIONER_SETTLE_WINDOW="19s")
    assert line.startswith("PROVISIONER_SETTLE_WINDOW must not be below PROVISIONER_API_TIMEOUT: ")
    (line,) = mistakes(PROVISIONER_DRAIN="20s")
    assert line.startswith("PROVISIONER_API_TIMEOUT must be below PROVISIONER_DRAIN: ")
    fitting = loaded(PROVISIONER_SETTLE_WINDOW="20s", PROVISIONER_DRAIN="20001ms")
    assert fitting.settle_window == fitting.api_timeout


def test_all_mistakes_are_reported_together():
    wrong = {
        "AMQP_URL": f"http://u:{SECRET}@h",
        "PLIVO_AUTH_ID": "",
        "PLIVO_AUTH_TOKEN": "",
        "PROVISIONER_HTTP": "x",
        "PROVISIONER_DRAIN": "x",
        "PROVISIONER_RECIPIENTS": "no such file",
        "PROVISIONER_SIGNING_KEY": "nor this",
        "PROVISIONER_ENABLE": "later",
    }
    named = [re.split(r"[^A-Z_]", line, maxsplit=1)[0] for line in mistakes(**wrong)]
    assert sorted(named) == sorted(wrong)


def test_all_contradictions_are_reported_together():
    lines = mistakes(PROVISIONER_API_TIMEOUT="3m", PROVISIONER_NAME_MAX="1", AMQP_URL="amqp://u:p@far/")
    assert len(lines) == 4


@pytest.mark.parametrize(
    "wrong",
    [{"PLIVO_AUTH_ID": ""}, {"PROVISIONER_PREFETCH": "x"}, {"PROVISIONER_OWNER_FILE": "no such file"}],
)
def test_contradictions_are_reported_beside_invalid_values(wrong):
    lines = mistakes(**wrong, PROVISIONER_API_TIMEOUT="30s", AMQP_URL="amqp://u:p@far/")
    assert [line.split()[0] for line in lines] == [
        next(iter(wrong)),
        "PROVISIONER_API_TIMEOUT",
        "PROVISIONER_PLAINTEXT_SECRETS",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"PROVISIONER_DRAIN": "x"},
        {"PROVISIONER_DRAIN_FILE": "no such file"},
        {"PROVISIONER_RECIPIENTS": "no such file", "AMQP_URL": "amqp://u:p@far/"},
        {"AMQP_URL": "x", "PROVISIONER_API_TIMEOUT": "20s"},
        {"PROVISIONER_NAME_TEMPLATE": "", "PROVISIONER_NAME_MAX": "x"},
    ],
)
def test_an_invalid_value_is_not_reported_as_a_contradiction_too(wrong):
    assert len(mistakes(**wrong)) == 1


def test_a_missing_setting_is_reported_with_a_hint():
    with pytest.raises(SettingsError) as refusal:
        load(WorkerSettings, {})
    assert str(refusal.value).splitlines() == [
        "PLIVO_AUTH_ID is not set; `provisioner run --help` describes it",
        "PLIVO_AUTH_TOKEN is not set; `provisioner run --help` describes it",
    ]


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_a_blank_setting_counts_as_unset(blank):
    assert loaded(PROVISIONER_OWNER=blank).owner == "default"


OTHER_VALUES = {
    "AMQP_URL": "amqp://u:p@localhost/",
    "PLIVO_API_URL": "http://127.0.0.1:1",
    "PROVISIONER_MANAGEMENT_URL": "http://127.0.0.1:1",
    "LEDGER_URL": "sqlite:///other.db",
    "PROVISIONER_NAME_TEMPLATE": "{tag} {name}",
    "PROVISIONER_RATE_LIMIT": "1/1s",
    "PROVISIONER_API_TIMEOUT": "19s",
    "PROVISIONER_SETTLE_WINDOW": "3m",
    "PROVISIONER_DRAIN": "40s",
    "PROVISIONER_RETRY_DELAYS": "7s",
    "PROVISIONER_RETRY_BUDGET": "45s",
    "PLIVO_PROXY_URL": "http://u:p@127.0.0.1:3128",
    "PROVISIONER_UNKNOWN_RENAME": "reject",
    "PROVISIONER_REMOVAL": "ignore",
    "PROVISIONER_REMOVAL_GRACE": "7d",
    "PROVISIONER_REMOVAL_LIMIT": "off",
    "PROVISIONER_SWEEP": "off",
    "PROVISIONER_SWEEP_FIX": "true",
    "PROVISIONER_ENABLE": "published",
    "PROVISIONER_PLAINTEXT_SECRETS": "true",
    "PROVISIONER_TOPOLOGY": "assume",
    "PROVISIONER_HTTP": "127.0.0.1:1",
    "PROVISIONER_LOG_FORMAT": "console",
    "PROVISIONER_LOG_LEVEL": "error",
}


@pytest.mark.parametrize("name", EVERY)
def test_every_secret_may_come_from_a_file(name, tmp_path):
    keys = {"PROVISIONER_RECIPIENTS": CRM, "PROVISIONER_SIGNING_KEY": SIGNER}
    value = keys_file(tmp_path, keys[name]) if name in keys else OTHER_VALUES.get(name, "77")
    file = tmp_path / "value"
    file.write_text(f"{value}\n")
    environ = {**NEEDED, f"{name}_FILE": str(file)}
    environ.pop(name, None)
    assert dict(load(WorkerSettings, environ)) == dict(loaded(**{name: value}))
    assert dict(load(WorkerSettings, environ)) != dict(loaded())


def test_a_value_and_a_file_together_are_refused_unless_one_is_blank(tmp_path):
    file = tmp_path / "token"
    file.write_text(SECRET)
    (line,) = mistakes(PLIVO_AUTH_TOKEN_FILE=str(file))
    assert line == "PLIVO_AUTH_TOKEN and PLIVO_AUTH_TOKEN_FILE are both set; keep one"
    chosen = loaded(PLIVO_AUTH_TOKEN="", PLIVO_AUTH_TOKEN_FILE=str(file))
    assert chosen.plivo_auth_token.get_secret_value() == SECRET


def test_an_unreadable_secret_file_is_reported(tmp_path):
    unreadable = tmp_path / "bytes"
    unreadable.write_bytes(b"\xff" + SECRET.encode())
    for path in (tmp_path / "missing", tmp_path, unreadable):
        for name in ("PROVISIONER_OWNER", "PLIVO_AUTH_ID"):  # nor reported as missing
            (line,) = mistakes(**{name: "", f"{name}_FILE": str(path)})
            assert line.startswith(f"{name}_FILE cannot be read: ")


def test_an_empty_secret_file_is_refused(tmp_path):
    (tmp_path / "token").touch()
    with pytest.raises(SettingsError, match=r"^PLIVO_AUTH_TOKEN "):
        load(WorkerSettings, {"PLIVO_AUTH_ID": "MA1", "PLIVO_AUTH_TOKEN_FILE": str(tmp_path / "token")})


# Removal


def test_the_default_policy_is_that_of_the_core_with_the_default_limit():
    assert load(PolicySettings, {}).policy == Policy(limit=DEFAULT_LIMIT)


def test_the_policy_has_grace_limit_and_protected_departments():
    policy = loaded(
        PROVISIONER_REMOVAL_GRACE="12h",
        PROVISIONER_REMOVAL_LIMIT=" 12.5%/24h, 3/5m",
        PROVISIONER_PROTECTED="sales",
    ).policy
    assert policy.grace == timedelta(hours=12)
    assert policy.limit == (
        Window(Fraction(25, 2), timedelta(hours=24), is_percentage=True),
        Window(3, timedelta(minutes=5), is_percentage=False),
    )
    assert policy.protected.includes(Department("acme", "sales"))
    assert loaded(PROVISIONER_REMOVAL_LIMIT="off").policy.limit == ()


PERIODS = st.builds(
    lambda number, unit: timedelta(**{unit: number}),
    st.integers(1, 400),
    st.sampled_from(["milliseconds", "seconds", "minutes", "hours", "days"]),
)
PERCENTAGES = st.integers(1, 1_000_000).map(lambda one: Fraction(one, 10_000))
WINDOWS = st.one_of(
    st.builds(Window, PERCENTAGES, PERIODS, is_percentage=st.just(value=True)),
    st.builds(Window, st.integers(1, 999_999_999), PERIODS, is_percentage=st.just(value=False)),
)


@given(st.lists(WINDOWS, max_size=4).map(tuple))
def test_a_removal_limit_is_printed_as_it_may_be_written(limit):
    text = written(PolicySettings.model_fields["removal_limit"], limit)
    assert loaded(PROVISIONER_REMOVAL_LIMIT=text).removal_limit == limit


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("REMOVAL_GRACE", "24h", "24h"),
        ("REMOVAL_GRACE", "72h", "3d"),
        ("REMOVAL_GRACE", "3650d", "3650d"),
        ("REMOVAL_LIMIT", "10%/1d,20/720h", "10%/24h,20/30d"),
        ("REMOVAL_LIMIT", "0.5%/400d, 5/24h ,5/24h", "0.5%/400d,5/24h,5/24h"),
        ("REMOVAL_LIMIT", "off", "off"),
        ("PROTECTED", " sales,acme/* ", "sales,acme/*"),
        ("SWEEP", "off", "off"),
        ("SWEEP", "1d", "24h"),
        ("SWEEP_FIX", "TRUE", "true"),
    ],
)
def test_the_settings_of_removal_are_printed_as_they_are_written(name, value, text):
    chosen = loaded(**{f"PROVISIONER_{name}": value})
    assert written(WorkerSettings.model_fields[name.lower()], getattr(chosen, name.lower())) == text


@pytest.mark.parametrize("model", [PolicySettings, DeadLetterSettings, WorkerSettings])
@pytest.mark.parametrize("removal", [{}, {"PROVISIONER_REMOVAL": "disable-then-delete"}])
def test_no_grace_means_to_delete_at_once(model, removal):
    with pytest.raises(SettingsError) as refusal:
        load(model, NEEDED | removal | {"PROVISIONER_REMOVAL_GRACE": "0s"})
    assert str(refusal.value) == (
        "PROVISIONER_REMOVAL_GRACE is none although PROVISIONER_REMOVAL is disable-then-delete:"
        " set a grace such as 30d, or PROVISIONER_REMOVAL=delete to delete at once"
    )


@pytest.mark.parametrize("removal", ["delete", "disable", "ignore"])
def test_no_grace_is_fine_where_nothing_waits_for_it(removal):
    chosen = loaded(PROVISIONER_REMOVAL_GRACE="0s", PROVISIONER_REMOVAL=removal)
    assert chosen.removal_grace == timedelta(0)
    assert written(WorkerSettings.model_fields["removal_grace"], chosen.removal_grace) == "0s"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("sales", ["acme/sales", "default/sales"]),
        ("acme/sales", ["acme/sales"]),
        ("emea-*", ["acme/emea-north", "default/emea-"]),
        ("acme/*", ["acme/sales", "acme/emea-north"]),
        ("  sales\t,\u00a0acme/hr ", ["default/sales", "acme/hr"]),
        ("cafe\u0301", ["default/caf\u00e9"]),
        ("*", ["acme/sales", "default/x"]),
    ],
)
def test_protected_departments_match_the_ids_of_events(text, named):
    protected = loaded(PROVISIONER_PROTECTED=text).protected
    assert all(protected.includes(Department(*one.split("/"))) for one in named)
    assert text == "*" or not protected.includes(Department("other", "finance"))


# The proxy


PROXY = f"http://user:{SECRET}@proxy.example:3128"


def proxy_of(**environ: str) -> str | None:
    found = loaded(**environ).plivo_proxy_url
    return found.get_secret_value() if found else None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"PLIVO_PROXY_URL": PROXY}, PROXY),
        ({"PLIVO_PROXY_URL": PROXY, "HTTPS_PROXY": "http://other:1", "NO_PROXY": "*"}, PROXY),
        ({"HTTPS_PROXY": PROXY}, PROXY),
        ({"https_proxy": PROXY}, PROXY),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, PROXY),
        ({"HTTPS_PROXY": "proxy.example:3128"}, "http://proxy.example:3128"),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "api.plivo.com"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "localhost, .plivo.com"}, None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "plivo.com"}, None),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "*"}, None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "notplivo.com,com.example"}, PROXY),
        ({"HTTP_PROXY": PROXY}, None),
        ({"HTTP_PROXY": PROXY, "PLIVO_API_URL": "http://plivo.internal"}, PROXY),
        ({"HTTPS_PROXY": PROXY, "PLIVO_API_URL": "http://plivo.internal"}, None),
        ({"HTTP_PROXY": PROXY, "PLIVO_API_URL": "http://127.0.0.1:8090"}, None),
        ({"HTTP_PROXY": PROXY, "PLIVO_API_URL": "http://localhost:8090"}, None),
        ({"HTTPS_PROXY": "socks5://127.0.0.1:1080", "NO_PROXY": "*"}, None),
        ({"HTTP_PROXY": "socks5://127.0.0.1:1080"}, None),
        ({"HTTPS_PROXY": " "}, None),
    ],
)
def test_the_proxy_is_the_settings_or_that_of_the_environment(environ, expected):
    assert proxy_of(**environ) == expected


@pytest.mark.parametrize(
    "url",
    [f"socks5://u:{SECRET}@h:1", f"h:{SECRET}", f"http://u:{SECRET}@h/path", f"http://u:{SECRET}@", ","],
)
def test_an_unusable_proxy_is_refused_without_showing_it(url):
    (line,) = mistakes(PLIVO_PROXY_URL=url)
    assert line == ("PLIVO_PROXY_URL is not the URL of an HTTP proxy; write http://user:password@host:3128")
    assert SECRET not in repr(loaded(PLIVO_PROXY_URL=PROXY))


def test_an_unusable_proxy_of_the_environment_is_named():
    (line,) = mistakes(HTTPS_PROXY=f"socks5://u:{SECRET}@h:1")
    assert line == (
        "HTTPS_PROXY is not the URL of an HTTP proxy; write http://user:password@host:3128;"
        " or set PLIVO_PROXY_URL, or NO_PROXY for a direct connection"
    )


# Rotation


class Reports(list[tuple[str, str | None]]):
    def __call__(self, name: str, why_kept: str | None) -> None:
        assert SECRET not in f"{why_kept}"
        self.append((name, why_kept))


def test_a_value_from_a_file_is_read_again(tmp_path):
    (tmp_path / "token").write_text("old")
    reports = Reports()
    settings = load(
        WorkerSettings, {"PLIVO_AUTH_ID": "MA1", "PLIVO_AUTH_TOKEN_FILE": str(tmp_path / "token")}
    )
    token = rotating(settings, "plivo_auth_token", reports)
    assert token.read_again().get_secret_value() == "old"
    (tmp_path / "token").write_text(f"{SECRET}\n")
    assert token.read_again().get_secret_value() == SECRET
    assert token.value.get_secret_value() == SECRET
    assert reports == [("PLIVO_AUTH_TOKEN", None)]


def test_a_value_without_a_file_stays():
    reports = Reports()
    assert rotating(loaded(), "plivo_auth_token", reports).read_again().get_secret_value() == SECRET
    assert rotating(loaded(), "plivo_proxy_url", reports).read_again() is None
    assert reports == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "AMQP_URL_FILE is empty"),
        (b" \n", "AMQP_URL_FILE is empty"),
        (f"amqp://user:{SECRET}".encode(), "AMQP_URL is not an AMQP URL; write amqp://user:password@host"),
        (b"\xff", "AMQP_URL_FILE cannot be read: it is not UTF-8"),
        (None, "AMQP_URL_FILE cannot be read: No such file or directory"),
        (f"amqp://u:{SECRET}@broker.example/".encode(), "PROVISIONER_PLAINTEXT_SECRETS is not true: "),
    ],
)
def test_an_unusable_file_keeps_the_old_value_and_is_reported_once(tmp_path, content, why):
    file, reports = tmp_path / "url", Reports()
    file.write_text("amqp://u:old@127.0.0.1/")
    urls = rotating(loaded(AMQP_URL_FILE=str(file)), "amqp_url", reports)
    file.unlink() if content is None else file.write_bytes(content)
    for _ in range(3):
        assert urls.read_again() == ("amqp://u:old@127.0.0.1/",)
    ((name, reported),) = reports
    assert name == "AMQP_URL"
    assert reported is not None
    assert reported.startswith(why)
    file.write_text("amqp://u:new@127.0.0.1/")
    assert urls.read_again() == ("amqp://u:new@127.0.0.1/",)
    assert reports[1:] == [("AMQP_URL", None)]


def test_a_token_of_another_account_is_not_taken(tmp_path):
    files = {name: tmp_path / name for name in ("PLIVO_AUTH_ID", "PLIVO_AUTH_TOKEN")}
    for file in files.values():
        file.write_text("MA1")
    settings = load(WorkerSettings, {f"{name}_FILE": str(file) for name, file in files.items()})
    reports = Reports()
    token = rotating(settings, "plivo_auth_token", reports)
    files["PLIVO_AUTH_ID"].write_text("MA2")
    files["PLIVO_AUTH_TOKEN"].write_text("MA2")
    assert token.read_again().get_secret_value() == "MA1"
    ((_, why),) = reports
    assert why is not None
    assert why.startswith("PLIVO_AUTH_ID_FILE names another main account, but the ledger is that of the one")


# Sealing


def keys_file(folder, *keys):
    path = folder / "keys.json"
    path.write_text(json.dumps({"keys": keys}))
    return str(path)


def test_the_recipients_are_those_with_keys_in_the_file(tmp_path):
    path = keys_file(tmp_path, CRM, CRM | {"kid": "crm.2"}, CRM | {"kid": "billing"})
    assert loaded(PROVISIONER_RECIPIENTS=path).recipient_names == ("billing", "crm")
    assert loaded().recipient_names == ()


def test_an_unusable_key_does_not_disable_the_other_keys(tmp_path):
    path = keys_file(tmp_path, CRM | {"use": "sig"}, CRM | {"kid": "billing"})
    assert loaded(PROVISIONER_RECIPIENTS=path).recipient_names == ("billing", "crm")


@pytest.mark.parametrize(
    "keys", [[], [CRM | {"d": SECRET}], [CRM, CRM], [CRM | {"kid": "*"}], [{"kid": None, "d": SECRET}], [7]]
)
def test_an_invalid_recipients_file_is_one_line(tmp_path, keys):
    path = keys_file(tmp_path, *keys)
    (line,) = mistakes(PROVISIONER_RECIPIENTS=path)
    assert line.startswith(f"PROVISIONER_RECIPIENTS {path} holds ") or "is neither" in line


@pytest.mark.parametrize("keys", [[], [SIGNER | {"d": None}], [CRM | {"d": SECRET}], [SIGNER | {"kid": ""}]])
def test_an_invalid_signing_key_is_one_line(tmp_path, keys):
    keys = [{name: value for name, value in key.items() if value is not None} for key in keys]
    path = keys_file(tmp_path, *keys)
    (line,) = mistakes(PROVISIONER_SIGNING_KEY=path)
    assert line.startswith(f"PROVISIONER_SIGNING_KEY {path} holds ")


@pytest.mark.parametrize("name", ["PROVISIONER_RECIPIENTS", "PROVISIONER_SIGNING_KEY"])
def test_a_key_instead_of_its_path_is_refused_without_showing_it(tmp_path, name):
    (line,) = mistakes(**{name: json.dumps(SIGNER | {"d": SECRET})})
    assert line == f"{name} is the path of a file, not the key itself"
    (line,) = mistakes(**{name: str(tmp_path / "missing")})
    assert line == f"{name} cannot be read: No such file or directory: {tmp_path / 'missing'}"
    (line,) = mistakes(**{name: SIGNER["d"]})
    assert line == f"{name} cannot be read: No such file or directory"
    (line,) = mistakes(**{name: f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----"})
    assert line.startswith(f"{name} cannot be read: ")


def test_a_token_instead_of_its_path_is_refused_without_showing_it():
    (line,) = mistakes(PLIVO_AUTH_TOKEN="", PLIVO_AUTH_TOKEN_FILE=SECRET)
    assert line == "PLIVO_AUTH_TOKEN_FILE cannot be read: No such file or directory"


def test_with_recipients_a_remote_broker_is_allowed(tmp_path):
    path = keys_file(tmp_path, CRM)
    assert loaded(AMQP_URL="amqps://u:p@rabbit.example/", PROVISIONER_RECIPIENTS=path).recipients
    assert load(TopologySettings, {"PROVISIONER_RECIPIENTS": path}).recipient_names == ("crm",)


def test_known_names_and_those_of_others_are_not_reported():
    environ = {f"{name}{suffix}": "x" for name in KNOWN for suffix in ("", "_FILE")}
    others = ("PATH", "PLIVO_OTHER", "AMQP_URL_OLD", "DATABASE_URL", "PROVISIONER_SERVICE_HOST")
    assert unknown_names(environ | dict.fromkeys((*others, "PROVISIONER_PORT_8080_TCP_ADDR"), "x")) == {}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("PROVISIONER_PREFTECH", "PROVISIONER_PREFETCH"),
        ("PROVISIONER_PREFTECH_FILE", "PROVISIONER_PREFETCH_FILE"),
        ("PROVISIONER_RECIPIENT", "PROVISIONER_RECIPIENTS"),
        ("PROVISIONER_RECIPIENT_FILE", "PROVISIONER_RECIPIENTS_FILE"),
        ("PROVISIONER_LOGLEVEL", "PROVISIONER_LOG_LEVEL"),
        ("PROVISIONER_REMOVALLIMIT", "PROVISIONER_REMOVAL_LIMIT"),
        ("PROVISIONER_TIMEOUT", "PROVISIONER_API_TIMEOUT"),
        ("PROVISIONER_QUUX", None),
        ("PROVISIONER_", None),
        ("PROVISONER_PREFETCH", "PROVISIONER_PREFETCH"),
        ("provisioner_owner", "PROVISIONER_OWNER"),
        ("PLIVO_AUTH_TOKN", "PLIVO_AUTH_TOKEN"),
        ("PLIVO_AUTHID", "PLIVO_AUTH_ID"),
        ("AMQP_URI", "AMQP_URL"),
        ("AMPQ_URL_FILE", "AMQP_URL_FILE"),
        ("LEDGERURL", "LEDGER_URL"),
    ],
)
def test_an_unknown_name_is_reported_with_the_nearest_known_one(name, near):
    assert unknown_names({name: SECRET}) == {name: near}
    (line,) = unknown_lines({name: SECRET})
    assert line.startswith(f"{name} is no setting of this version")
    assert line.endswith(f": did you mean {near}?") is (near is not None)


NO_LIMIT = "is not a limit of removals; write 10%/24h,20/30d (a share or a number per window), or off"
NO_LIMITS = [
    "10%",
    "10%/24h,",
    "1.5/24h",
    "10%/24",
    "-1/24h",
    "10 %/24h",
    "OFF",
    "off,1/24h",
    "x/24h",
    "none",
]


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("PROVISIONER_PREFETCH", "many", "is not a whole number"),
        ("PROVISIONER_PREFETCH", "1.5", "is not a whole number"),
        ("PROVISIONER_PREFETCH", "9" * 5000, "is not a whole number"),
        ("PROVISIONER_PREFETCH", "0", "must be at least 1"),
        ("PROVISIONER_CONCURRENCY", "1001", "must be at most 1000"),
        ("PROVISIONER_NAME_MAX", "sixty", "is not a whole number"),
        ("PROVISIONER_PLAINTEXT_SECRETS", "maybe", "is not true or false"),
        ("PROVISIONER_ENABLE", "later", "is not created or published"),
        ("PROVISIONER_REMOVAL", "purge", "is not disable-then-delete, delete, disable or ignore"),
        ("PROVISIONER_TOPOLOGY", "check", "is not declare or assume"),
        ("PROVISIONER_LOG_LEVEL", "TRACE", "is not debug, info, warning or error"),
        ("PROVISIONER_LOG_FORMAT", "xml", "is not json or console"),
        ("PROVISIONER_RATE_LIMIT", "300", "is not a rate; write calls per duration, such as 300/5s"),
        ("PROVISIONER_RATE_LIMIT", "300/", "is not a rate; write calls per duration, such as 300/5s"),
        ("PROVISIONER_OWNER", "a/b", "is not 1 to 100 letters, digits, dots, dashes and underscores"),
        ("PROVISIONER_REMOVAL_GRACE", "30", "is not a duration; write 12h or 30d"),
        (
            "PROVISIONER_REMOVAL_GRACE",
            "3651d",
            "is longer than 3650d; PROVISIONER_REMOVAL=disable deletes nothing",
        ),
        *(("PROVISIONER_REMOVAL_LIMIT", text, NO_LIMIT) for text in NO_LIMITS),
        (
            "PROVISIONER_REMOVAL_LIMIT",
            "20/30d,0/24h",
            "allows no removal in 0/24h; to hold every one, set PROVISIONER_PROTECTED=*",
        ),
        (
            "PROVISIONER_REMOVAL_LIMIT",
            "100.1%/24h",
            "allows more than 100% in 100.1%/24h; write a share of at most 100%, or off",
        ),
        *(
            (
                "PROVISIONER_REMOVAL_LIMIT",
                window,
                f"has a window in {window} that is not above zero and at most 400d",
            )
            for window in ("5/401d", "5%/0s")
        ),
        (
            "PROVISIONER_PROTECTED",
            "sales,,hr",
            "has nothing as item 2 of 3; write sales,acme/finance,emea-*",
        ),
        (
            "PROVISIONER_PROTECTED",
            "sales,e*a",
            "has e*a, but * may stand at the end only, as in emea-*",
        ),
        (
            "PROVISIONER_PROTECTED",
            "acme/",
            "has acme/ without a department; write acme/* for all of them",
        ),
        (
            "PROVISIONER_PROTECTED",
            "sa\u200bles",
            r"has sa\u200bles, but an id must not contain control, format or surrogate characters",
        ),
        ("PROVISIONER_SWEEP", "no", "is not a duration above zero; write 12h or 7d, or off"),
        ("PROVISIONER_SWEEP", "500d", "is longer than 400d; write off for never"),
        (
            "PLIVO_AUTH_ID",
            "SAZIRLXQI854BQK9M0XA",
            "is that of a subaccount; set the main account's, which begins with MA",
        ),
        (
            "PLIVO_AUTH_ID",
            "MA-1",
            "is not an auth id: it has letters and digits only, such as MAXXXXXXXXXXXXXXXXXX",
        ),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(name, value, line):
    assert mistakes(**{name: value}) == [f"{name} {line}"]


@pytest.mark.parametrize("value", ["", "x", "-1", "1e400", "\u202e", "a b", "[]", "{}", "null", "9" * 400])
def test_no_setting_answers_in_the_words_of_a_library(value):
    for name in EVERY:
        try:
            loaded(**{name: value})
        except SettingsError as error:
            said = str(error)
            assert not re.search(r"[Ii]nput|[Ss]tring should|[Vv]alue error|valid (integer|boolean)", said), (
                said
            )


def test_a_repr_shows_no_secret():
    url = f"amqp://u:{SECRET}@localhost/"
    chosen = loaded(AMQP_URL=url, PROVISIONER_MANAGEMENT_URL=f"http://u:{SECRET}@localhost/")
    assert SECRET not in f"{chosen!r} {chosen}"
    assert chosen.amqp_url == (url,)


def test_a_command_needs_only_its_own_settings():
    assert load(BrokerSettings, {}).amqp_url == ("amqp://guest:guest@127.0.0.1:5672/",)
    assert load(LedgerSettings, {"AMQP_URL": "nonsense"}).ledger_url == SqliteUrl(Path("provisioner.db"))
    assert load(BrokerSettings, {"AMQP_URL": "amqp://u:p@rabbit.example/"}).amqp_url


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("PROVISIONER_RETRY_DELAYS", "5s,50d", "is longer than 49d; RabbitMQ holds nothing back for longer"),
        (
            "PROVISIONER_SETTLE_WINDOW",
            "999999999d",
            "is longer than 49d; RabbitMQ holds nothing back for longer",
        ),
        (
            "PLIVO_AUTH_TOKEN",
            "one\ntwo",
            "has white space or control characters in it; see how it was copied",
        ),
        ("PROVISIONER_NAME_TEMPLATE", "{name}\n[{tag}]", "must consist of printable characters"),
    ],
)
def test_settings_that_can_never_work_are_refused(name, value, line):
    assert mistakes(**{name: value}) == [f"{name} {line}"]
