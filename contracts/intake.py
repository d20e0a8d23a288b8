"""The HTTP interface of the intake, for systems that cannot publish to RabbitMQ: limits and responses.

CloudEvents 1.0.2 over HTTP: https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents
"""

from pydantic import BaseModel, ConfigDict, Field

MAX_BODY_BYTES = 1 << 20
MAX_BATCH = 100
MAX_MISTAKES = 100
"""How many mistakes one response lists."""

EVENTS_PATH = "/v1/events"
PROFILE_PATH = "/in/"


class _Response(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AcceptedEvent(_Response):
    """An event that RabbitMQ has confirmed. Its answer comes on the results exchange, under its id."""

    id: str = Field(description="The event's id.")
    type: str = Field(description="The event's type in its canonical spelling.")
    department_id: str = Field(description="The department's id in its canonical spelling.")


class Accepted(_Response):
    """RabbitMQ has confirmed everything in the request."""

    accepted: list[AcceptedEvent] = Field(description="The events, in the order of the request.")
    ignored: int = Field(ge=0, description="Items that the profile ignores.")
    unmapped: int = Field(ge=0, description="Items that could not be mapped. The payload is kept.")


class EventMistake(_Response):
    """A mistake in an event."""

    index: int = Field(ge=0, description="The event's place in the batch; 0 for a single event.")
    field: str = Field(description="The field, such as data.department_id.")
    error: str = Field(description="The rule that it breaks.")


class Mistakes(_Response):
    """The mistakes of the request. Nothing of it was published."""

    errors: list[EventMistake] = Field(min_length=1, max_length=MAX_MISTAKES)


class Refused(_Response):
    """The reason for which the request was refused. Nothing of it counts as accepted."""

    error: str
