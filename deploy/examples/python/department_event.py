"""The event that the producers send, made from the command line: KIND DEPARTMENT_ID [NAME]."""

import json
import sys
import uuid
from datetime import UTC, datetime


def from_command_line() -> tuple[str, str, bytes]:
    """The id of an event, its routing key and its body.

    Store the event before you send it. If sending fails, send the same event again, under the same id.
    """
    if len(sys.argv) < 3:  # noqa: PLR2004
        sys.exit(f"usage: {sys.argv[0]} created|renamed|removed DEPARTMENT_ID [NAME]; AMQP_URL is the broker")
    kind, department_id, *name = sys.argv[1:]
    event_id = str(uuid.uuid4())
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": "https://hr.example.com/departments",
        "type": f"department.{kind}.v1",
        "time": datetime.now(UTC).isoformat(),
        "data": {"department_id": department_id, **({"name": name[0]} if name else {})},
    }
    return event_id, f"department.{kind}", json.dumps(event).encode()
