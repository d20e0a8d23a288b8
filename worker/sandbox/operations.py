"""The table of operations, and the routing of paths to them."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote

from worker.sandbox import accounts, numbers, resources, usage
from worker.sandbox.requests import Call, Refusal, Response
from worker.sandbox.state import State

Handler = Callable[[State, Call], Response]


class Scope(Enum):
    """Which credentials an operation accepts."""

    MAIN_ACCOUNT = "main account"
    ANY_ACCOUNT = "any account"


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API. `path` follows the account's, with the name of the identifier in braces."""

    name: str
    method: str
    path: str
    handler: Handler
    scope: Scope = Scope.ANY_ACCOUNT


@dataclass(frozen=True, slots=True)
class Route:
    """A parsed path. `operation` is None if the path exists only for other methods."""

    account_id: str
    identifier: str
    operation: Operation | None


OPERATIONS = (
    Operation("get_account", "GET", "", accounts.get_account, Scope.MAIN_ACCOUNT),
    Operation("update_account", "POST", "", accounts.update_account, Scope.MAIN_ACCOUNT),
    Operation("create_subaccount", "POST", "Subaccount/", accounts.create_subaccount, Scope.MAIN_ACCOUNT),
    Operation("list_subaccounts", "GET", "Subaccount/", accounts.list_subaccounts, Scope.MAIN_ACCOUNT),
    Operation("get_subaccount", "GET", "Subaccount/{auth_id}/", accounts.get_subaccount, Scope.MAIN_ACCOUNT),
    Operation(
        "update_subaccount", "POST", "Subaccount/{auth_id}/", accounts.update_subaccount, Scope.MAIN_ACCOUNT
    ),
    Operation(
        "delete_subaccount", "DELETE", "Subaccount/{auth_id}/", accounts.delete_subaccount, Scope.MAIN_ACCOUNT
    ),
    Operation("create_application", "POST", "Application/", resources.create_application),
    Operation("list_applications", "GET", "Application/", resources.list_applications),
    Operation("get_application", "GET", "Application/{app_id}/", resources.get_application),
    Operation("update_application", "POST", "Application/{app_id}/", resources.update_application),
    Operation("delete_application", "DELETE", "Application/{app_id}/", resources.delete_application),
    Operation("create_endpoint", "POST", "Endpoint/", resources.create_endpoint),
    Operation("list_endpoints", "GET", "Endpoint/", resources.list_endpoints),
    Operation("get_endpoint", "GET", "Endpoint/{endpoint_id}/", resources.get_endpoint),
    Operation("update_endpoint", "POST", "Endpoint/{endpoint_id}/", resources.update_endpoint),
    Operation("delete_endpoint", "DELETE", "Endpoint/{endpoint_id}/", resources.delete_endpoint),
    Operation("search_numbers", "GET", "PhoneNumber/", numbers.search_numbers, Scope.MAIN_ACCOUNT),
    Operation("buy_number", "POST", "PhoneNumber/{number}/", numbers.buy_number, Scope.MAIN_ACCOUNT),
    Operation("list_numbers", "GET", "Number/", numbers.list_numbers),
    Operation("get_number", "GET", "Number/{number}/", numbers.get_number),
    Operation("update_number", "POST", "Number/{number}/", numbers.update_number),
    Operation("unrent_number", "DELETE", "Number/{number}/", numbers.unrent_number, Scope.MAIN_ACCOUNT),
    Operation("send_message", "POST", "Message/", usage.send_message),
    Operation("list_messages", "GET", "Message/", usage.list_messages),
    Operation("get_message", "GET", "Message/{message_uuid}/", usage.get_message),
    Operation("make_call", "POST", "Call/", usage.make_call),
)
NAMES = tuple(operation.name for operation in OPERATIONS)
_BY_PATH: dict[tuple[str, bool], dict[str, Operation]] = {}
for _operation in OPERATIONS:
    _resource, _, _identifier = _operation.path.partition("/")
    _BY_PATH.setdefault((_resource, bool(_identifier)), {})[_operation.method] = _operation


def find_route(method: str, path: str) -> Route:
    """Parse `/v1/Account/{id}/[{resource}/[{identifier}/]]`; raises Refusal. Repeated slashes count once."""
    match [segment for segment in path.split("/") if segment]:
        case ["v1", "Account", account_id]:
            resource, identifier = "", ""
        case ["v1", "Account", account_id, resource]:
            identifier = ""
        case ["v1", "Account", account_id, resource, identifier]:
            pass
        case _:
            raise Refusal(404, "not found")
    methods = _BY_PATH.get((resource, bool(identifier)))
    if methods is None:
        raise Refusal(404, "not found")
    return Route(unquote(account_id), unquote(identifier), methods.get(method))
