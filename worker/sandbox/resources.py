"""The operations on applications and endpoints, as far as removing a subaccount needs them."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from worker.sandbox import requests
from worker.sandbox.ownership import (
    find,
    named_subaccount,
    owned_listing,
    owner_as_shown,
    owner_of_new,
)
from worker.sandbox.records import Application, Endpoint
from worker.sandbox.requests import CHANGED, DELETED, Call, Refusal, Response
from worker.sandbox.state import State, account_uri

_TEXTS = {
    "answer_url": "",
    "answer_method": "POST",
    "hangup_url": "",
    "hangup_method": "POST",
    "fallback_answer_url": "",
    "fallback_method": "POST",
    "message_url": "",
    "message_method": "POST",
}
_BOOLEANS = {
    "default_number_app": False,
    "default_endpoint_app": False,
    "log_incoming_messages": True,
    "public_uri": False,
}
_APP_NAME = re.compile(r"[A-Za-z0-9_-]+")
_USERNAME = re.compile(r"[A-Za-z][A-Za-z0-9]{0,24}")
_MIN_PASSWORD_LENGTH = 5


def create_application(state: State, call: Call) -> Response:
    """Create an application of the caller or of `subaccount`."""
    name = requests.required_text(call.body, "app_name")
    if not _APP_NAME.fullmatch(name):
        raise Refusal(400, "app_name parameter is invalid: letters, digits, - and _ are allowed")
    requests.required_text(call.body, "answer_url")
    application = add_application(state, name, owner_of_new(state, call), _settings(state, call))
    return Response(201, {"app_id": application.app_id, "message": "created"})


def get_application(state: State, call: Call) -> Response:
    """Return one application."""
    return Response(200, _render_application(state, find(state.applications, call)))


def list_applications(state: State, call: Call) -> Response:
    """Return a page of the caller's applications."""
    return owned_listing(state, call, "Application", state.applications, _render_application)


def update_application(state: State, call: Call) -> Response:
    """Change an application, or move it to `subaccount`."""
    application = find(state.applications, call)
    settings = {**dict(application.settings), **_settings(state, call)}
    owner = named_subaccount(state, call, application.sub_account)
    state.put(replace(application, settings=tuple(settings.items()), sub_account=owner))
    return CHANGED


def delete_application(state: State, call: Call) -> Response:
    """Delete an application and its endpoints; with `cascade` false, keep the endpoints."""
    application = find(state.applications, call)
    cascade = requests.boolean(call.body, "cascade", state.assumptions)
    if cascade is None:
        cascade = requests.boolean(call.query, "cascade", state.assumptions, is_query=True)
    successor = requests.text(call.body, "new_endpoint_application")
    if successor is not None:
        find(state.applications, call, successor)
    for endpoint in [each for each in state.endpoints if each.app_id == application.app_id]:
        if cascade is False:
            state.put(replace(endpoint, app_id=successor))
        else:
            state.remove(endpoint)
    for number in [each for each in state.numbers if each.app_id == application.app_id]:
        state.put(replace(number, app_id=None))
    state.remove(application)
    return DELETED


def create_endpoint(state: State, call: Call) -> Response:
    """Create an endpoint of the caller. As at Plivo, twelve digits are appended to its user name."""
    username = requests.required_text(call.body, "username")
    if not _USERNAME.fullmatch(username):
        raise Refusal(400, "username parameter is invalid: a letter, then up to 24 letters or digits")
    _check_password(requests.required_text(call.body, "password"))
    alias = requests.required_text(call.body, "alias")
    endpoint = add_endpoint(state, username, alias, call.sub_account, linked_application(state, call))
    body = {"username": endpoint.username, "alias": alias, "endpoint_id": endpoint.endpoint_id}
    return Response(201, {**body, "message": "created"})


def get_endpoint(state: State, call: Call) -> Response:
    """Return one endpoint."""
    return Response(200, _render_endpoint(state, find(state.endpoints, call)))


def list_endpoints(state: State, call: Call) -> Response:
    """Return a page of the caller's endpoints."""
    return owned_listing(state, call, "Endpoint", state.endpoints, _render_endpoint)


def update_endpoint(state: State, call: Call) -> Response:
    """Change alias, password or application of an endpoint."""
    endpoint = find(state.endpoints, call)
    password = requests.text(call.body, "password")
    if password is not None:
        _check_password(password)
    alias = requests.text(call.body, "alias")
    app_id = linked_application(state, call)
    state.put(
        replace(
            endpoint,
            alias=endpoint.alias if alias is None else alias,
            app_id=endpoint.app_id if app_id is None else app_id,
        )
    )
    return CHANGED


def delete_endpoint(state: State, call: Call) -> Response:
    """Delete an endpoint."""
    state.remove(find(state.endpoints, call))
    return DELETED


def add_application(
    state: State, name: str, owner: str | None, settings: Mapping[str, str | bool]
) -> Application:
    """Add an application of an account, with these settings and the defaults of the others."""
    complete = {**_TEXTS, **_BOOLEANS, **settings}
    application = Application(state.identifiers.serial(), name, owner, tuple(complete.items()))
    state.put(application)
    return application


def add_endpoint(state: State, username: str, alias: str, owner: str | None, app_id: str | None) -> Endpoint:
    """Add an endpoint of an account; twelve digits are appended to its user name."""
    serial = state.identifiers.serial()
    endpoint = Endpoint(
        endpoint_id=serial[:14],
        username=f"{username}{serial[-12:]}",
        alias=alias,
        sub_account=owner,
        app_id=app_id,
    )
    state.put(endpoint)
    return endpoint


def linked_application(state: State, call: Call) -> str | None:
    """Return the id of the application in `app_id`, if given; raises Refusal if it does not exist."""
    app_id = requests.text(call.body, "app_id")
    if app_id is not None and app_id not in state.applications:
        raise Refusal(400, "app_id parameter is invalid: there is no such application")
    return app_id


def application_uri(state: State, app_id: str | None) -> str | None:
    """Return the path of an application."""
    return None if app_id is None else f"{account_uri(state.account.auth_id)}Application/{app_id}/"


def _settings(state: State, call: Call) -> dict[str, str | bool]:
    texts = {name: requests.text(call.body, name) for name in _TEXTS}
    booleans = {name: requests.boolean(call.body, name, state.assumptions) for name in _BOOLEANS}
    return {name: value for name, value in {**texts, **booleans}.items() if value is not None}


def _check_password(password: str) -> None:
    if len(password) < _MIN_PASSWORD_LENGTH:
        raise Refusal(400, f"password parameter is invalid: {_MIN_PASSWORD_LENGTH} characters are the least")


def _render_application(state: State, application: Application) -> dict[str, Any]:
    settings = dict(application.settings)
    settings["default_app"] = settings.pop("default_number_app")
    return {
        **settings,
        "app_id": application.app_id,
        "app_name": application.app_name,
        "enabled": True,
        "resource_uri": application_uri(state, application.app_id),
        "sip_uri": f"sip:{application.app_id}@app.plivo.com",
        "sub_account": owner_as_shown(state, application.sub_account),
    }


def _render_endpoint(state: State, endpoint: Endpoint) -> dict[str, Any]:
    return {
        "alias": endpoint.alias,
        "application": application_uri(state, endpoint.app_id),
        "endpoint_id": endpoint.endpoint_id,
        "resource_uri": f"{account_uri(state.account.auth_id)}Endpoint/{endpoint.endpoint_id}/",
        "sip_registered": "false",
        "sip_uri": f"sip:{endpoint.username}@phone.plivo.com",
        "sub_account": owner_as_shown(state, endpoint.sub_account),
        "username": endpoint.username,
    }
