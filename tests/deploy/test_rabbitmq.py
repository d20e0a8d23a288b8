"""The definitions for each version of RabbitMQ. tests/secrets/test_rights.py imports them."""

import json

import pytest

from tests.deploy.rabbitmq_definitions import USERS, VERSIONS, path_of, text_of


@pytest.mark.parametrize("name", VERSIONS)
def test_the_files_are_fresh(name: str):
    assert path_of(name).read_text() == text_of(name), "run `python -m tests.deploy.rabbitmq_definitions`"


@pytest.mark.parametrize("name", VERSIONS)
def test_no_user_has_a_password_yet(name: str):
    users = json.loads(path_of(name).read_text())["users"]
    assert users == json.loads(USERS.read_text())["users"]
    assert {user["password_hash"] for user in users} == {""}


def test_only_4_x_turns_the_delivery_limit_off():
    """3.x takes -1 for a limit that is reached, and loses messages."""
    assert "x-delivery-limit" not in path_of("3.x").read_text()
    queues = json.loads(path_of("4.x").read_text())["queues"]
    assert {queue["arguments"]["x-delivery-limit"] for queue in queues} == {-1}
