"""The event that the producers send, made from the command line: KIND DEPARTMENT_ID [NAME]."""

import json
import sys
import uuid
from datetime import UTC, datetime


def from_command_line() -> tuple[str, bytes]:
    """The routing key and the body of an event.

    Store the event before you send it. If sending fails, send the same event again, under the same id.
    """
    kind, department_id, *name = sys.argv[1:]
    event = {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": "https://hr.example.com/departments",
        "type": f"department.{kind}.v1",
        "time": datetime.now(UTC).isoformat(),
        "data": {"department_id": department_id, **({"name": name[0]} if name else {})},
    }
    return f"department.{kind}", json.dumps(event).encode()
