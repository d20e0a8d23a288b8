"""The operations on messages and calls, as far as they spend credit."""

import re
from dataclasses import replace
from typing import Any

from worker.sandbox import billing, prices, requests
from worker.sandbox.ownership import find, owned_listing
from worker.sandbox.records import Account, Message, Subaccount
from worker.sandbox.requests import Call, Refusal, Response
from worker.sandbox.state import State, account_uri

_PHONE_NUMBER = re.compile(r"\+?[0-9]{3,15}")
_BASIC = re.compile(r"[\x0a\x0d\x20-\x7e]*")
_SINGLE, _PART = 160, 153
_SINGLE_UNICODE, _PART_UNICODE = 70, 67


def send_message(state: State, call: Call) -> Response:
    """Accept a message for each receiver and charge its parts."""
    sender = requests.required_text(call.body, "src")
    receivers = requests.required_text(call.body, "dst").split("<")
    text = requests.required_text(call.body, "text")
    if not all(_PHONE_NUMBER.fullmatch(each) for each in receivers):
        raise Refusal(400, "dst parameter is invalid: phone numbers separated by < are expected")
    _check_sender(state, call, sender)
    billing.require_credit(state)
    sent = [_send(state, call, sender, receiver, text) for receiver in receivers]
    return Response(202, {"message": "message(s) queued", "message_uuid": sent})


def get_message(state: State, call: Call) -> Response:
    """Return one message."""
    return Response(200, _render(state, find(state.messages, call)))


def list_messages(state: State, call: Call) -> Response:
    """Return a page of the caller's messages."""
    return owned_listing(state, call, "Message", state.messages, _render)


def make_call(state: State, call: Call) -> Response:
    """Accept a call and charge one minute. No call is made."""
    for name in ("from", "to", "answer_url"):
        requests.required_text(call.body, name)
    billing.require_credit(state)
    billing.charge(state, call.sub_account, "call", prices.CALL)
    return Response(201, {"message": "call fired", "request_uuid": state.identifiers.uuid()})


def allow_sender(state: State, auth_id: str, sender: str) -> None:
    """Whitelist a text sender ID for an account; raises ValueError if the account does not exist."""
    owner: Account | Subaccount | None = state.accounts.get(auth_id) or state.subaccounts.get(auth_id)
    if owner is None:
        raise ValueError(f"there is no account {auth_id}")
    if sender not in owner.senders:
        state.put(replace(owner, senders=(*owner.senders, sender)))


def units(text: str) -> int:
    """Return the number of parts in which a text is sent and charged."""
    single, part = (_SINGLE, _PART) if _BASIC.fullmatch(text) else (_SINGLE_UNICODE, _PART_UNICODE)
    return 1 if len(text) <= single else -(-len(text) // part)


def _send(state: State, call: Call, sender: str, receiver: str, text: str) -> str:
    parts = units(text)
    amount = prices.MESSAGE * parts
    sent_at = state.clock.now().isoformat(" ", "seconds")
    message = Message(state.identifiers.uuid(), call.sub_account, sender, receiver, parts, amount, sent_at)
    state.put(message)
    billing.charge(state, call.sub_account, "message", amount, parts)
    return message.message_uuid


def _check_sender(state: State, call: Call, sender: str) -> None:
    if _PHONE_NUMBER.fullmatch(sender) or state.assumptions.unlisted_sender == "accepted":
        return
    owner = state.subaccounts.get(call.sub_account) if call.sub_account else state.account
    if owner is None or sender not in owner.senders:
        raise Refusal(400, "src parameter is invalid: this sender ID is not whitelisted")


def _render(state: State, message: Message) -> dict[str, Any]:
    amount = prices.usd(message.total_amount)
    return {
        "error_code": None,
        "from_number": message.from_number,
        "message_direction": "outbound",
        "message_state": "sent",
        "message_time": message.message_time,
        "message_type": "sms",
        "message_uuid": message.message_uuid,
        "resource_uri": f"{account_uri(state.account.auth_id)}Message/{message.message_uuid}/",
        "to_number": message.to_number,
        "total_amount": amount,
        "total_rate": prices.usd(prices.MESSAGE),
        "units": message.units,
    }
