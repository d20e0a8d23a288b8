"""JSON Schemas of the request and response bodies, for the OpenAPI document."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

Schema = dict[str, Any]


def _text(**more: Any) -> Schema:
    return {"type": "string", **more}


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _answer(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    return _object({"api_id": API_ID, **required}, optional)


def _page(item: str) -> Schema:
    objects = {"type": "array", "maxItems": 20, "items": reference(item)}
    return _answer({"meta": reference("Meta"), "objects": objects})


def _created(**fields: Schema) -> Schema:
    return _answer({**fields, "message": {"const": "created"}})


def reference(name: str) -> Schema:
    """Return a reference to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


TEXT = _text()
OPTIONAL_TEXT: Schema = {"type": ["string", "null"]}
BOOLEAN: Schema = {"type": "boolean"}
LENIENT_BOOLEAN: Schema = {"enum": [True, False, "true", "false", None]}
COUNT: Schema = {"type": "integer", "minimum": 0}
USD = _text(pattern=r"^-?\d+\.\d{5}$")
DATE = _text(format="date")
API_ID = _text(format="uuid")
SUB_ID = _text(pattern="^SA[A-Z0-9]{18}$")
SUB_URI = _text(pattern="^/v1/Account/MA[A-Z0-9]{18}/Subaccount/SA[A-Z0-9]{18}/$")
OWNER: Schema = {"anyOf": [SUB_ID, SUB_URI, {"type": "null"}]}
AUTH_TOKEN = _text(minLength=40, maxLength=40)
NAME = _text(minLength=1, pattern=r"\S")
PHONE = _text(pattern=r"^\+?[0-9]{3,15}$")
NUMBER_TYPE: Schema = {"enum": ["local", "national", "mobile", "tollfree"]}

_PROFILE = dict.fromkeys(("name", "city", "address", "state", "timezone"), TEXT)
_METHODS = ("answer_method", "hangup_method", "fallback_method", "message_method")
_URLS = ("answer_url", "hangup_url", "fallback_answer_url", "message_url")
_FLAGS = ("default_number_app", "default_endpoint_app", "log_incoming_messages", "public_uri")
_APPLICATION_INPUT = {
    **dict.fromkeys((*_METHODS, *_URLS), OPTIONAL_TEXT),
    **dict.fromkeys(_FLAGS, LENIENT_BOOLEAN),
    "subaccount": OPTIONAL_TEXT,
}
_OFFER = {
    "country": TEXT,
    "mms_enabled": BOOLEAN,
    "mms_rate": USD,
    "monthly_rental_rate": USD,
    "number": PHONE,
    "region": TEXT,
    "resource_uri": TEXT,
    "sms_enabled": BOOLEAN,
    "sms_rate": USD,
    "voice_enabled": BOOLEAN,
    "voice_rate": USD,
}
_SUBACCOUNT = {
    "account": TEXT,
    "auth_id": SUB_ID,
    "auth_token": AUTH_TOKEN,
    "created": DATE,
    "enabled": BOOLEAN,
    "modified": {"anyOf": [DATE, {"type": "null"}]},
    "name": TEXT,
    "resource_uri": TEXT,
}

COMPONENTS: Mapping[str, Schema] = MappingProxyType(
    {
        "Error": _object({"error": TEXT}, {"api_id": API_ID}),
        "Changed": _answer({"message": {"const": "changed"}}),
        "Meta": _object(
            {
                "limit": {"type": "integer", "minimum": 1, "maximum": 20},
                "next": OPTIONAL_TEXT,
                "offset": COUNT,
                "previous": OPTIONAL_TEXT,
                "total_count": COUNT,
            }
        ),
        "Account": _object(
            {
                "account_type": {"enum": ["standard", "developer"]},
                "auth_id": _text(pattern="^MA[A-Z0-9]{18}$"),
                "auto_recharge": BOOLEAN,
                "billing_mode": {"enum": ["prepaid", "postpaid"]},
                "cash_credits": USD,
                "resource_uri": TEXT,
                **_PROFILE,
            },
            {"api_id": API_ID},
        ),
        "Subaccount": _object(_SUBACCOUNT, {"new_auth_token": AUTH_TOKEN, "api_id": API_ID}),
        "Application": _object(
            {
                "app_id": TEXT,
                "app_name": TEXT,
                "enabled": BOOLEAN,
                "default_app": BOOLEAN,
                **dict.fromkeys((*_METHODS, *_URLS), TEXT),
                **{name: BOOLEAN for name in _FLAGS if name != "default_number_app"},
                "resource_uri": TEXT,
                "sip_uri": TEXT,
                "sub_account": OWNER,
            },
            {"api_id": API_ID},
        ),
        "Endpoint": _object(
            {
                "alias": TEXT,
                "application": OPTIONAL_TEXT,
                "endpoint_id": TEXT,
                "resource_uri": TEXT,
                "sip_registered": {"enum": ["true", "false"]},
                "sip_uri": TEXT,
                "sub_account": OWNER,
                "username": TEXT,
            },
            {"api_id": API_ID},
        ),
        "NumberOffer": _object(
            {
                **_OFFER,
                "prefix": TEXT,
                "restriction": OPTIONAL_TEXT,
                "restriction_text": OPTIONAL_TEXT,
                "setup_rate": USD,
                "sub_type": NUMBER_TYPE,
                "type": {"enum": ["fixed", "mobile", "tollfree"]},
            }
        ),
        "Number": _object(
            {
                **_OFFER,
                "active": BOOLEAN,
                "added_on": DATE,
                "alias": OPTIONAL_TEXT,
                "application": OPTIONAL_TEXT,
                "carrier": TEXT,
                "number_type": NUMBER_TYPE,
                "renewal_date": DATE,
                "sub_account": OWNER,
                "sub_account_name": OPTIONAL_TEXT,
            },
            {"api_id": API_ID},
        ),
        "Message": _object(
            {
                "error_code": OPTIONAL_TEXT,
                "from_number": TEXT,
                "message_direction": {"const": "outbound"},
                "message_state": TEXT,
                "message_time": TEXT,
                "message_type": {"const": "sms"},
                "message_uuid": API_ID,
                "resource_uri": TEXT,
                "to_number": PHONE,
                "total_amount": USD,
                "total_rate": USD,
                "units": {"type": "integer", "minimum": 1},
            },
            {"api_id": API_ID},
        ),
        **{
            f"{item}List": _page(item)
            for item in ("Subaccount", "Application", "Endpoint", "NumberOffer", "Number", "Message")
        },
        "SubaccountCreated": _created(auth_id=SUB_ID, auth_token=AUTH_TOKEN),
        "ApplicationCreated": _created(app_id=TEXT),
        "EndpointCreated": _created(username=TEXT, alias=TEXT, endpoint_id=TEXT),
        "NumberBought": _created(
            numbers={"type": "array", "items": _object({"number": PHONE, "status": TEXT})}, status=TEXT
        ),
        "MessageQueued": _answer(
            {"message": TEXT, "message_uuid": {"type": "array", "minItems": 1, "items": API_ID}}
        ),
        "CallFired": _answer({"message": TEXT, "request_uuid": API_ID}),
    }
)

BODIES: Mapping[str, Schema] = MappingProxyType(
    {
        "update_account": _object({}, dict.fromkeys(_PROFILE, OPTIONAL_TEXT)),
        "create_subaccount": _object({"name": NAME}, {"enabled": LENIENT_BOOLEAN}),
        "update_subaccount": _object({}, {"name": NAME, "enabled": LENIENT_BOOLEAN}),
        "delete_subaccount": _object({}, {"cascade": LENIENT_BOOLEAN}),
        "create_application": _object(
            {"app_name": _text(pattern="^[A-Za-z0-9_-]+$"), "answer_url": TEXT},
            {name: each for name, each in _APPLICATION_INPUT.items() if name != "answer_url"},
        ),
        "update_application": _object({}, _APPLICATION_INPUT),
        "delete_application": _object(
            {}, {"cascade": LENIENT_BOOLEAN, "new_endpoint_application": OPTIONAL_TEXT}
        ),
        "create_endpoint": _object(
            {
                "username": _text(pattern="^[A-Za-z][A-Za-z0-9]{0,24}$"),
                "password": _text(minLength=5),
                "alias": TEXT,
            },
            {"app_id": OPTIONAL_TEXT},
        ),
        "update_endpoint": _object(
            {}, {"password": _text(minLength=5), "alias": OPTIONAL_TEXT, "app_id": OPTIONAL_TEXT}
        ),
        "delete_endpoint": _object({}),
        "buy_number": _object({}, {"app_id": OPTIONAL_TEXT}),
        "update_number": _object(
            {}, {"subaccount": OPTIONAL_TEXT, "app_id": OPTIONAL_TEXT, "alias": OPTIONAL_TEXT}
        ),
        "unrent_number": _object({}),
        "send_message": _object(
            {
                "src": _text(minLength=1),
                "dst": _text(pattern=r"^\+?[0-9]{3,15}(<\+?[0-9]{3,15})*$"),
                "text": TEXT,
            }
        ),
        "make_call": _object({"from": TEXT, "to": TEXT, "answer_url": TEXT}),
    }
)
