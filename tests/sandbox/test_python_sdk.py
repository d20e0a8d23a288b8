"""Plivo's own Python SDK, unpatched, drives every imitated operation."""

import plivo
import pytest
import requests
from plivo.exceptions import (
    AuthenticationError,
    ForbiddenError,
    PlivoRestError,
    PlivoServerError,
    ResourceNotFoundError,
    ValidationError,
)
from requests.adapters import HTTPAdapter

from worker.sandbox import Rule, fault
from worker.sandbox.operations import NAMES


class Redirected(HTTPAdapter):
    """Redirects requests for Plivo to the sandbox, by the public interface of `requests`, without patches."""

    def __init__(self, url):
        super().__init__()
        self._url = url

    def send(self, request, **options):  # type: ignore[override]  # all come by keyword
        request.url = request.url.replace("https://api.plivo.com", self._url)
        return super().send(request, **{**options, "proxies": {}})


def _client(running, auth_id=None, auth_token=None):
    sandbox = running.sandbox
    client = plivo.RestClient(auth_id or sandbox.auth_id, auth_token or sandbox.auth_token)
    client.session.mount("https://api.plivo.com/", Redirected(sandbox.url))
    return client


@pytest.fixture
def client(threaded_sandbox):
    with _client(threaded_sandbox) as client:
        yield client


def _subaccounts(running):
    return running.do(lambda sandbox: sandbox.subaccounts())


def test_it_is_the_real_sdk():
    assert plivo.version.__version__ == "4.63.0"


def test_all_five_subaccount_operations(client, threaded_sandbox):
    created = client.subaccounts.create("Rés 部門", enabled=True)
    found = client.subaccounts.get(created.auth_id)
    listed = client.subaccounts.list()
    client.subaccounts.update(created.auth_id, "Renamed", None)
    updated = client.subaccounts.get(created.auth_id)
    gone = client.subaccounts.delete(created.auth_id)

    assert created.message == "created"
    assert (found.id, found.name, found.enabled, found.auth_token) == (
        created.auth_id,
        "Rés 部門",
        True,
        created.auth_token,
    )
    assert [each.auth_id for each in listed] == [created.auth_id]
    assert listed.meta.total_count == 1
    assert (updated.name, updated.enabled) == ("Renamed", True)
    assert gone is None
    assert _subaccounts(threaded_sandbox) == []


def test_a_rename_by_the_sdk_disables_unless_enabled_is_given(client):
    created = client.subaccounts.create("x", enabled=True)

    client.subaccounts.update(created.auth_id, "y")

    assert client.subaccounts.get(created.auth_id).enabled is False


def test_an_object_updates_and_deletes_itself(client, threaded_sandbox):
    found = client.subaccounts.get(client.subaccounts.create("x").auth_id)

    found.update("y", enabled=True)
    renamed = _subaccounts(threaded_sandbox)
    found.delete()

    assert [(each.name, each.enabled) for each in renamed] == [("y", True)]
    assert _subaccounts(threaded_sandbox) == []


def test_paging_reaches_everything_once(client):
    made = [client.subaccounts.create(f"d{number}").auth_id for number in range(45)]

    seen, offset = [], 0
    while page := list(client.subaccounts.list(limit=20, offset=offset)):
        seen += [each.auth_id for each in page]
        offset += 20

    assert seen == made[::-1]


def test_iterating_walks_over_all_pages(client):
    for number in range(25):
        client.subaccounts.create(f"d{number}")

    assert len({each.auth_id for each in client.subaccounts}) == 25


def test_cascade_by_the_sdk(client):
    doomed, spared = client.subaccounts.create("a").auth_id, client.subaccounts.create("b").auth_id
    for owner in (doomed, spared):
        client.applications.create("app", answer_url="http://127.0.0.1/answer", subaccount=owner)

    client.subaccounts.delete(doomed, cascade=True)
    client.subaccounts.delete(spared, cascade=False)

    assert [each.sub_account for each in client.applications.list()] == [None]


def test_the_account(client):
    client.account.update(name="Lucius Fox", city="Gotham")
    account = client.account.get()

    assert (account.name, account.city, account.cash_credits) == ("Lucius Fox", "Gotham", "100.00000")


def test_a_subaccount_uses_its_own_credentials(client, threaded_sandbox):
    sales = client.subaccounts.create("Sales", enabled=True)
    with _client(threaded_sandbox, sales.auth_id, sales.auth_token) as own:
        sent = own.messages.create(src="14155550100", dst="14155550101", text="hello")
        called = own.calls.create("14155550100", "14155550101", "http://127.0.0.1/answer", "GET")
        endpoint = own.endpoints.create("desk", "secret", "Desk")
        with pytest.raises(ForbiddenError):
            own.subaccounts.create("x")

    message = client.messages.get(sent.message_uuid[0])
    listed = client.messages.list(subaccount=sales.auth_id)
    assert (message.message_state, message.units, len(listed)) == ("sent", 1, 1)
    assert called.message == "call fired"
    assert client.endpoints.get(endpoint.endpoint_id).sub_account == sales.auth_id
    assert client.account.get().cash_credits == "99.98600"


def test_a_disabled_subaccount_is_refused(client, threaded_sandbox):
    sales = client.subaccounts.create("Sales")
    with (
        _client(threaded_sandbox, sales.auth_id, sales.auth_token) as own,
        pytest.raises(AuthenticationError),
    ):
        own.messages.create(src="14155550100", dst="14155550101", text="hello")


def test_applications_and_endpoints(client):
    sales = client.subaccounts.create("Sales").auth_id
    app_id = client.applications.create("app", answer_url="http://127.0.0.1/answer").app_id
    client.applications.update(app_id, answer_url="http://127.0.0.1/other", subaccount=sales)
    application = client.applications.get(app_id)
    made = client.endpoints.create("desk", "secret", "Desk", app_id=app_id)
    client.endpoints.update(made.endpoint_id, alias="Front")
    endpoint = client.endpoints.get(made.endpoint_id)

    assert (application.sub_account, application.answer_url) == (sales, "http://127.0.0.1/other")
    assert [each.app_id for each in client.applications.list(subaccount=sales)] == [app_id]
    assert (endpoint.alias, endpoint.application) == ("Front", application.resource_uri)
    assert len(list(client.endpoints.list())) == 1
    client.endpoints.delete(made.endpoint_id)
    client.applications.delete(app_id)
    assert list(client.applications.list()) == list(client.endpoints.list()) == []


def test_numbers(client):
    sales = client.subaccounts.create("Sales").auth_id
    number = client.numbers.search("US", type="tollfree").objects[0].number

    bought = client.numbers.buy(number)
    client.numbers.update(number, subaccount=sales, alias="Hotline")
    found = client.numbers.get(number)
    listed = client.numbers.list(subaccount=sales)
    client.numbers.delete(number)

    assert bought.status == "fulfilled"
    assert (found.sub_account, found.sub_account_name, found.alias) == (sales, "Sales", "Hotline")
    assert [each.number for each in listed] == [number]
    assert list(client.numbers.list()) == []


@pytest.mark.parametrize(
    ("name", "status", "raised"),
    [
        ("error", 400, ValidationError),
        ("unauthorized", 401, AuthenticationError),
        ("forbidden", 403, ForbiddenError),
        ("error", 404, ResourceNotFoundError),
        ("error", 500, PlivoServerError),
        ("no-credit", 402, PlivoRestError),
        ("too-many-requests", 429, PlivoRestError),
        ("error", 503, PlivoRestError),
        ("html", 502, PlivoRestError),
    ],
)
def test_errors_become_the_exceptions_of_the_sdk(client, threaded_sandbox, name, status, raised):
    rule = Rule("create_subaccount", fault(name, status=status))
    threaded_sandbox.do(lambda sandbox: sandbox.set_rules(rule))

    with pytest.raises(raised) as caught:
        client.subaccounts.create("x")

    assert type(caught.value) is raised
    assert len(threaded_sandbox.do(lambda sandbox: sandbox.calls("create_subaccount"))) == 1


def test_a_missing_object_is_the_error_of_the_sdk(client):
    with pytest.raises(ResourceNotFoundError, match="not found"):
        client.subaccounts.get("SA000000000000000000")


def test_a_lost_response_is_a_connection_error_without_retry(client, threaded_sandbox):
    threaded_sandbox.do(lambda sandbox: sandbox.set_rules(Rule("create_subaccount", fault("lost-answer"))))

    with pytest.raises(requests.ConnectionError):
        client.subaccounts.create("x")

    assert [each.name for each in _subaccounts(threaded_sandbox)] == ["x"]


def test_voice_resources_are_sent_again_after_5xx(client, threaded_sandbox, capsys):
    """The SDK does this for applications, but not for subaccounts."""
    threaded_sandbox.do(lambda sandbox: sandbox.set_rules(Rule("*", fault("error", status=503))))

    with pytest.raises(PlivoRestError):
        client.applications.create("app", answer_url="http://127.0.0.1/answer")

    assert len(threaded_sandbox.do(lambda sandbox: sandbox.calls("create_application"))) == 3
    assert "Retry" in capsys.readouterr().out


def test_the_sdk_survives_a_body_after_204(client, threaded_sandbox):
    threaded_sandbox.do(lambda sandbox: sandbox.set_rules(Rule("delete_subaccount", fault("body-after-204"))))
    created = client.subaccounts.create("x")

    client.subaccounts.delete(created.auth_id)

    assert _subaccounts(threaded_sandbox) == []


def test_the_sdk_reaches_every_operation(client, threaded_sandbox):
    sales = client.subaccounts.create("Sales").auth_id
    app_id = client.applications.create("app", answer_url="http://127.0.0.1/answer").app_id
    desk = client.endpoints.create("desk", "secret", "Desk").endpoint_id
    number = client.numbers.search("GB").objects[0].number
    client.numbers.buy(number)
    sent = client.messages.create(src="14155550100", dst="14155550101", text="hello").message_uuid[0]
    client.calls.create("14155550100", "14155550101", "http://127.0.0.1/answer", "GET")
    client.account.update(name="Lucius Fox")
    client.subaccounts.update(sales, "Renamed")
    client.applications.update(app_id, answer_url="http://127.0.0.1/other")
    client.endpoints.update(desk, alias="Front")
    client.numbers.update(number, subaccount=sales)
    client.account.get()
    client.messages.get(sent)
    resources = {
        client.subaccounts: sales,
        client.applications: app_id,
        client.endpoints: desk,
        client.numbers: number,
    }
    for resource, identifier in resources.items():
        resource.get(identifier)
        assert len(list(resource.list())) == 1
        resource.delete(identifier)
    client.messages.list()

    log = threaded_sandbox.do(lambda sandbox: sandbox.requests)
    assert {entry.operation for entry in log} == set(NAMES)
    assert all(200 <= entry.status < 300 for entry in log)
