"""A broker that trusts nobody: TLS, client certificates, and the users of deploy/rabbitmq."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from tests.support.certificates import Authority, Issued
from tests.support.secured import DEFINITIONS, Secured
from worker.demo.private_node import NodeUnavailable, Ports, private_node


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A node of our own, whatever AMQP_URL says. Where there is none: a skip, in CI a failure."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    port = Ports.free().amqp
    node = private_node(
        plugins={"rabbitmq_auth_mechanism_ssl"},
        config=_config(authority, port, authority.issue("broker", "localhost")),
    )
    with asyncio.Runner() as runner:
        try:
            running = runner.run(node.__aenter__())
        except NodeUnavailable as error:
            if "CI" in os.environ:
                pytest.fail(str(error))
            pytest.skip(str(error))
        try:
            runner.run(running.rabbitmqctl("import_definitions", str(DEFINITIONS)))
            yield Secured(running, authority, port, authority.issue("provisioner-worker"))
        finally:
            runner.run(node.__aexit__(None, None, None))


def _config(authority: Authority, port: int, broker: Issued) -> dict[str, str]:
    return {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(authority.certificate),
        "ssl_options.certfile": str(broker.certificate),
        "ssl_options.keyfile": str(broker.key),
        "ssl_options.verify": "verify_peer",
        "ssl_options.fail_if_no_peer_cert": "true",
        "auth_mechanisms.1": "EXTERNAL",
        "auth_mechanisms.2": "PLAIN",
        "ssl_cert_login_from": "common_name",
    }
