"""Questions that Plivo's documentation leaves open, each as a named switch.

The defaults are guesses, argued in README.md; none is known to be true of Plivo. A client that works only
with one value of a switch relies on undocumented behaviour.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args, get_origin
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

NONE_VALUES = ("none", "")


def _number(value: Any) -> Any:
    """Convert the text of a command line."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    return value


def _optional_number(value: Any) -> Any:
    return None if value in NONE_VALUES else _number(value)


def _zone(value: str) -> str:
    if value not in available_timezones():
        raise ValueError("there is no such zone in the tz database")
    return value


TimeZone = Annotated[str, AfterValidator(_zone)]
ErrorStatus = Annotated[Literal[400, 401, 402, 403, 404], BeforeValidator(_number)]
OptionalNumber = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_optional_number)]


class Assumptions(BaseModel):
    """One value for each open question; `Assumptions()` has the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cascade_in: Literal["either", "query", "body"] = Field(
        "either", description="where DELETE reads `cascade`: the reference says query, the SDKs send a body"
    )
    subaccount_filter: Literal["applied", "ignored", "page"] = Field(
        "applied",
        description="`subaccount` in lists of resources; page: applied to each page of the whole list",
    )
    unknown_filter: Literal["empty", "400", "error"] = Field(
        "empty", description="a list of the resources of an unknown subaccount; error: 200 without a list"
    )
    sub_account_form: Literal["id", "uri"] = Field(
        "id", description="`sub_account` of a resource: the Auth ID, or the URI of the subaccount"
    )
    subaccount_endpoints: Literal["listed", "hidden"] = Field(
        "listed", description="endpoints of subaccounts in lists that the main account reads"
    )
    resources_lag_seconds: float = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="how long after DELETE the resources stay as they were, before they move or are deleted",
    )
    deleted_lag_seconds: float = Field(
        0, ge=0, allow_inf_nan=False, description="how long a deleted subaccount is still read and listed"
    )
    duplicate_names: Literal["allowed", "refused"] = Field(
        "allowed", description="two live subaccounts with the same name"
    )
    empty_name: Literal["refused", "allowed"] = Field(
        "refused", description="a name that is empty or only white space"
    )
    name_max: OptionalNumber = Field(None, description="longest name in characters; longer ones get 400")
    update_without_name: Literal["accepted", "refused"] = Field(
        "accepted", description="an update that sends only `enabled`"
    )
    empty_update: Literal["accepted", "refused"] = Field(
        "accepted", description="an update that sends nothing; if accepted, `modified` does not change"
    )
    list_limit: Literal["clamp", "refuse"] = Field(
        "clamp", description="a `limit` of 0 or above 20: use 20, or answer 400 (below 0 is always 400)"
    )
    string_booleans: Literal["accepted", "refused"] = Field(
        "accepted", description='"true" and "false" as text, as the Node SDK sends them'
    )
    other_booleans: Literal["refused", "ignored"] = Field(
        "refused", description="a boolean that cannot be read, such as 1 or `yes`"
    )
    content_type: Literal["required", "ignored"] = Field(
        "required", description="POST bodies with a type other than application/json get 400"
    )
    missing_slash: Literal["refused", "accepted"] = Field(
        "refused", description="a path without its trailing slash; refused is 404"
    )
    api_id_on_401: Literal["yes", "no"] = Field("yes", description="whether a 401 carries `api_id`")
    www_authenticate: Literal["yes", "no"] = Field(
        "yes", description="whether a 401 carries WWW-Authenticate"
    )
    disabled_status: ErrorStatus = Field(401, description="valid credentials of a disabled subaccount")
    management_status: ErrorStatus = Field(
        403, description="subaccount credentials on Account, Subaccount, or number rental and moves"
    )
    foreign_path_status: ErrorStatus = Field(
        401, description="valid credentials on the path of another account"
    )
    repeated_delete: Literal["404", "204"] = Field(
        "404", description="DELETE of a subaccount that does not exist"
    )
    delete_body: Literal["none", "json"] = Field("none", description="the body sent after a 204")
    retry_after: OptionalNumber = Field(
        None, description="seconds in Retry-After of a 429; none omits the header"
    )
    rate_limit_scope: Literal["account", "credentials"] = Field(
        "account", description="whether the main account and its subaccounts share one window"
    )
    max_subaccounts: OptionalNumber = Field(None, description="live subaccounts per account")
    max_subaccounts_status: ErrorStatus = Field(
        403, description="create when there are already `max_subaccounts`"
    )
    time_zone: TimeZone = Field("UTC", description="the time zone of the dates `created` and `modified`")
    list_lag_seconds: float = Field(
        0, ge=0, allow_inf_nan=False, description="how long a new subaccount is missing from the list"
    )
    new_auth_token: Literal["absent", "present"] = Field(
        "absent", description="an extra field of older responses, equal to `auth_token`"
    )
    no_credit_status: ErrorStatus = Field(402, description="calls and messages at zero balance")
    management_without_credit: Literal["allowed", "refused"] = Field(
        "allowed", description="subaccount changes at zero balance"
    )
    management_on_trial: Literal["allowed", "refused"] = Field(
        "allowed", description="subaccount changes on a trial account; refused is 403"
    )
    first_rent: Literal["next-month", "at-purchase"] = Field(
        "next-month", description="when the rent of a new number is first charged"
    )
    unlisted_sender: Literal["refused", "accepted"] = Field(
        "refused", description="a text sender ID not whitelisted for the sending account; refused is 400"
    )
    idempotency_keys: Literal["ignored", "honoured"] = Field(
        "ignored",
        description="Idempotency-Key: Plivo does not document it; honoured repeats the first response",
    )

    @classmethod
    def from_switches(cls, switches: list[str]) -> Self:
        """Parse `name=value` texts; raises ValueError with one line that names the wrong switch."""
        values: dict[str, str] = {}
        for switch in switches:
            name, found, value = switch.partition("=")
            if not found or name not in cls.model_fields:
                raise ValueError(f"{switch!r} is not NAME=VALUE with a known name; --help lists them")
            values[name] = value
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from None


@dataclass(frozen=True, slots=True)
class Switch:
    """An assumption as text for people; `values` are the values other than the default."""

    name: str
    default: str
    values: str
    meaning: str


def switches() -> list[Switch]:
    """Return every assumption, in the order of its definition."""
    return [
        Switch(name, _as_text(field.default), _other_values(field), field.description or "")
        for name, field in Assumptions.model_fields.items()
    ]


def _other_values(field: FieldInfo) -> str:
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if choices:
        return " or ".join(_as_text(each) for each in choices if each != field.default)
    return "a zone of the tz database" if field.annotation is str else "a number"


def _as_text(value: object) -> str:
    return "none" if value is None else str(value)
