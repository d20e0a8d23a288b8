"""Makes deploy/rabbitmq/definitions-*.json: `python -m tests.deploy.rabbitmq_definitions`.

Each is definitions.json, the users and their permissions, with every exchange, queue and binding for one
major version of RabbitMQ. The recipient is `crm`, as among the users.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from contracts.topology import BrokerVersion, definitions, topology

RABBITMQ = Path(__file__).parents[2] / "deploy/rabbitmq"
USERS = RABBITMQ / "definitions.json"
VERSIONS: Mapping[str, BrokerVersion] = {"3.x": BrokerVersion(3, 10), "4.x": BrokerVersion(4, 0)}
RECIPIENTS = ("crm",)


def path_of(name: str) -> Path:
    """The file of a major version, such as "4.x"."""
    return RABBITMQ / f"definitions-{name}.json"


def text_of(name: str) -> str:
    """The content of the file."""
    version = VERSIONS[name]
    objects = definitions(topology(version, recipients=RECIPIENTS), version)
    del objects["rabbit_version"]  # the file is for more than one
    return json.dumps(json.loads(USERS.read_text()) | objects, indent=2) + "\n"


if __name__ == "__main__":
    for each in VERSIONS:
        path_of(each).write_text(text_of(each))
