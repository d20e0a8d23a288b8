"""A broker with TLS, client certificates and the users of deploy/rabbitmq."""

from collections.abc import Iterator

import pytest

from tests.support.certificates import Authority, Issued
from tests.support.nodes import running_node
from tests.support.secured import DEFINITIONS, Secured
from worker.demo.private_node import Ports, private_node


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A private node, independent of AMQP_URL. If it cannot run, the test is skipped, or fails in CI."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    port = Ports.free().amqp
    node = private_node(
        management=True,
        plugins={"rabbitmq_auth_mechanism_ssl"},
        config=_config(authority, port, authority.issue("broker", "localhost")),
    )
    with running_node(node) as (running, runner):
        runner.run(running.rabbitmqctl("import_definitions", str(DEFINITIONS)))
        yield Secured(running, authority, port, authority.issue("provisioner-worker"))


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
