"""The AsyncAPI 3.0 document: channels, messages and operations, from the worker's point of view."""

from collections.abc import Iterable, Mapping
from typing import Any

from contracts import topology as names
from contracts.envelope import JSON, STRUCTURED, CloudEvent
from contracts.json_schema import INBOUND, OUTBOUND, REQUESTS, Schema, binary_headers, schemas
from contracts.subaccounts import DeadReason, ResultKind
from contracts.topology import BrokerVersion, Exchange, Queue, Topology, topology

CONTRACT_VERSION = "1.0.0"

_AMQP = {"bindingVersion": "0.3.0"}
_BEFORE_4, _FROM_4 = BrokerVersion(3, 10), BrokerVersion(4, 0)
_RECIPIENT = "RECIPIENT"

_STRUCTURED_EVENTS = ("DepartmentCreated", "DepartmentRenamed", "DepartmentRemoved")
_EVENTS = (*_STRUCTURED_EVENTS, *(f"{name}Binary" for name in _STRUCTURED_EVENTS))
_REQUESTS = ("ReissueRequested",)
_ACCEPTED = (*_EVENTS, *_REQUESTS)
_CREDENTIALS = ("CredentialsMessage", "SealedCredentialsMessage")
_ADDRESSES = {
    names.DEPARTMENTS: (
        "{kind}",
        {
            "kind": [
                *("department.created", "department.renamed", "department.removed"),
                "subaccount.credentials.reissue.requested",
            ]
        },
    ),
    names.RESULTS: ("subaccount.{outcome}", {"outcome": [str(kind) for kind in ResultKind]}),
    names.SECRETS: ("subaccount.credentials.{act}", {"act": ["issued", "reissued"]}),
    names.RETRY: ("{delay}", {"delay": [names.delay_label(delay) for delay in names.DEFAULT_RETRY_DELAYS]}),
}
_EXCHANGES = {
    names.DEPARTMENTS: ("Producers publish here. Further words may follow the routing key.", _ACCEPTED),
    names.RESULTS: ("The outcome of each event. Consumers bind their own queues.", ("SubaccountResult",)),
    names.SECRETS: (
        "Credentials. If recipients are configured, the routing key ends in the recipient's name.",
        _CREDENTIALS,
    ),
    names.RETRY: ("Receives events that wait for a retry. The routing key is the delay.", _ACCEPTED),
    names.DEAD_LETTERS: (
        "Receives messages that cannot be carried out, under their own routing keys.",
        ("DeadLetter",),
    ),
    names.REPLAY: (
        "Returns events that have waited, and replayed dead letters, to the work queue.",
        _ACCEPTED,
    ),
    names.UNROUTED: (
        "Receives what is published to departments under a routing key that no queue is bound for.",
        _ACCEPTED,
    ),
    names.UNMAPPED: (
        "Receives what the intake cannot map to events. The routing key is the name of the profile.",
        ("UnmappedPayload",),
    ),
}
_QUEUES = {
    names.WORK_QUEUE: ("The worker consumes this queue.", _ACCEPTED),
    names.SECRETS_QUEUE: ("Credentials, if no recipients are configured.", _CREDENTIALS[:1]),
    names.secrets_queue(_RECIPIENT): (
        "Credentials for one recipient. There is one such queue for each recipient.",
        _CREDENTIALS[1:],
    ),
    names.DEAD_LETTER_QUEUE: ("Dead letters, until an operator replays or discards them.", ("DeadLetter",)),
    names.UNROUTED_QUEUE: (
        "Messages under a wrong routing key, until an operator replays or discards them.",
        _ACCEPTED,
    ),
    names.UNMAPPED_QUEUE: (
        "Authentic payloads that no profile could map, until an operator remaps them.",
        ("UnmappedPayload",),
    ),
}
_RETRY_QUEUE = ("Holds an event for the delay, then returns it to the work queue.", _ACCEPTED)

# The example of each message: the name of a file in examples/.
EXAMPLES = {
    "DepartmentCreated": "created-full",
    "DepartmentCreatedBinary": "created-binary",
    "DepartmentRenamed": "renamed",
    "DepartmentRenamedBinary": "renamed-binary",
    "DepartmentRemoved": "removed-merged",
    "DepartmentRemovedBinary": "removed-binary",
    "ReissueRequested": "reissue-requested",
    "SubaccountResult": "result-created",
    "CredentialsMessage": "credentials-issued",
    "SealedCredentialsMessage": "credentials-sealed",
}


def document(examples: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the AsyncAPI document.

    `examples` has an AsyncAPI message example for each message in `EXAMPLES`.
    """
    payloads = schemas((*INBOUND, *REQUESTS, *OUTBOUND), "#/components/schemas/{model}")
    payloads["BinaryModeHeaders"] = _headers_of_any(payloads)
    payloads["DeadLetterHeaders"] = _dead_letter_headers()
    payloads["UnmappedPayloadHeaders"] = _unmapped_payload_headers()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Subaccount Provisioner",
            "version": CONTRACT_VERSION,
            "description": "Department events in, credentials and results out. README.md beside this file"
            " states the rules that a schema cannot express.",
            "license": {"name": "MIT"},
        },
        "servers": {
            "rabbitmq": {"host": "127.0.0.1:5672", "protocol": "amqp", "protocolVersion": "0-9-1"},
        },
        "channels": _channels(),
        "operations": _operations(),
        "components": {"messages": _messages(examples), "schemas": payloads},
    }


def _channels() -> dict[str, Any]:
    common = topology(_BEFORE_4), topology(_FROM_4)
    for_one = topology(_BEFORE_4, recipients=[_RECIPIENT]), topology(_FROM_4, recipients=[_RECIPIENT])
    channels = {f"exchange.{exchange.name}": _exchange(exchange) for exchange in common[0].exchanges}
    for before_4, from_4 in (common, for_one):
        for old, new in zip(before_4.queues, from_4.queues, strict=True):
            channels.setdefault(f"queue.{old.name}", _queue(old, new, before_4))
    return channels


def _exchange(exchange: Exchange) -> dict[str, Any]:
    description, messages = _EXCHANGES[exchange.name]
    address, words = _ADDRESSES.get(exchange.name, (None, {}))
    parameters = {"parameters": {name: {"enum": enum} for name, enum in words.items()}} if words else {}
    place = {"name": exchange.name, "type": exchange.type, "durable": True, "autoDelete": False}
    return {
        "address": address,
        "title": f"Exchange {exchange.name}",
        "description": description,
        "messages": _message_refs(messages),
        **parameters,
        "bindings": {"amqp": {"is": "routingKey", "exchange": place} | _AMQP},
        **({"x-exchange-arguments": exchange.arguments} if exchange.arguments else {}),
    }


def _queue(before_4: Queue, from_4: Queue, whole: Topology) -> dict[str, Any]:
    description, messages = _QUEUES.get(before_4.name, _RETRY_QUEUE)
    place = {"name": before_4.name, "durable": True, "exclusive": False, "autoDelete": False}
    return {
        "address": before_4.name,
        "title": f"Queue {before_4.name}",
        "description": description,
        "messages": _message_refs(messages),
        "bindings": {"amqp": {"is": "queue", "queue": place} | _AMQP},
        "x-queue-arguments": {"before-4.0": before_4.arguments, "from-4.0": from_4.arguments},
        "x-queue-bindings": [
            {"exchange": binding.exchange, "routingKey": binding.routing_key}
            for binding in whole.bindings
            if binding.queue == before_4.name
        ],
    }


def _message_refs(messages: Iterable[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in messages}


def _operations() -> dict[str, Any]:
    work_queue = f"queue.{names.WORK_QUEUE}"
    return {
        "receiveDepartmentEvent": _operation(
            "receive", work_queue, _EVENTS, "Acked once its result is published."
        ),
        "receiveReissueRequest": _operation(
            "receive",
            work_queue,
            _REQUESTS,
            "Acked once its result is published. Both modes are accepted, as for events.",
        ),
        "sendResult": _send(names.RESULTS, "Publishes the outcome of an event."),
        "sendCredentials": _send(names.SECRETS, "Publishes a department's credentials."),
        "parkEvent": _send(names.RETRY, "Parks an event that fails for the moment."),
        "buryEvent": _send(
            names.DEAD_LETTERS, "Dead-letters a message: the original bytes, with the reason in headers."
        ),
        "replayEvent": _send(
            names.REPLAY, "Returns a dead letter to the work queue, at an operator's request."
        ),
    }


def _send(exchange: str, summary: str) -> dict[str, Any]:
    return _operation("send", f"exchange.{exchange}", _EXCHANGES[exchange][1], summary)


def _operation(action: str, channel: str, messages: Iterable[str], summary: str) -> dict[str, Any]:
    settings = {"ack": True} if action == "receive" else {"deliveryMode": 2, "mandatory": True}
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
        "bindings": {"amqp": settings | _AMQP},
    }


def _messages(examples: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    messages = {model.__name__: _structured(model) for model in (*INBOUND, *REQUESTS, *OUTBOUND)}
    messages |= {f"{model.__name__}Binary": _binary(model) for model in INBOUND}
    shown = {name: message | {"examples": [examples[name]]} for name, message in messages.items()}
    return shown | {
        "DeadLetter": {
            "summary": "The original message with its own content type. Headers give the reason.",
            "headers": _schema_ref("DeadLetterHeaders"),
        },
        "UnmappedPayload": {
            "summary": "The body of a request as the intake received it. Headers give the reason.",
            "headers": _schema_ref("UnmappedPayloadHeaders"),
        },
    }


def _structured(model: type[CloudEvent]) -> dict[str, Any]:
    return {
        "contentType": STRUCTURED,
        "summary": " ".join((model.__doc__ or "").split()),
        "payload": _schema_ref(model.__name__),
    }


def _binary(model: type[CloudEvent]) -> dict[str, Any]:
    data = model.model_fields["data"].annotation
    return {
        "contentType": JSON,
        "summary": f"{model.__name__} in binary mode: attributes in headers, data in the body.",
        "headers": _schema_ref("BinaryModeHeaders"),
        "payload": _schema_ref(getattr(data, "__name__", "")),
    }


def _schema_ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _headers_of_any(payloads: Mapping[str, Schema]) -> Schema:
    """Returns one schema for the three events: their headers differ only in the type."""
    events = [payloads[model.__name__] for model in INBOUND]
    headers = binary_headers(events[0])
    types = [event["properties"]["type"] for event in events]
    headers["properties"]["cloudEvents_type"] = {
        "type": "string",
        "anyOf": [{"pattern": type_["pattern"]} for type_ in types],
        "examples": [example for type_ in types for example in type_["examples"]],
        "description": types[0]["description"].partition(". ")[2],
    }
    return headers


def _dead_letter_headers() -> Schema:
    return {
        "title": "Headers of a dead letter, beside its own",
        "type": "object",
        "properties": {
            "x-dead-reason": {"enum": [str(reason) for reason in DeadReason]},
            "x-dead-detail": {"type": "string", "description": "The error and the field; no payload."},
            "x-dead-at": {"type": "string", "format": "date-time"},
            "x-attempts": {"type": "integer", "minimum": 1, "description": "The number of attempts."},
            "x-event-id": {"type": "string", "description": "Present if it could be read."},
            "x-department-id": {"type": "string", "description": "Present if it could be read."},
            "x-left-out": {
                "type": "string",
                "description": "Names of headers that did not fit or cannot be sent.",
            },
        },
        "required": ["x-dead-reason", "x-dead-detail", "x-dead-at", "x-attempts"],
    }


def _unmapped_payload_headers() -> Schema:
    return {
        "title": "Headers of a payload that could not be mapped",
        "type": "object",
        "properties": {
            "x-profile": {"type": "string", "description": "The name of the profile."},
            "x-unmapped-reason": {"type": "string", "description": "Keys of the profile; no payload."},
            "x-received-at": {"type": "string", "format": "date-time"},
        },
        "patternProperties": {
            "^x-header-": {"type": "string", "description": "A header of the request that the profile reads."}
        },
        "required": ["x-profile", "x-unmapped-reason", "x-received-at"],
    }
