"""The broker of tests/secrets: TLS, client certificates and the users of deploy/rabbitmq."""

from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import Authority, Issued
from worker.demo.private_node import PrivateNode

DEFINITIONS = Path(__file__).parents[2] / "deploy" / "rabbitmq" / "definitions.json"
PASSWORD = "pa55-of-each-user"


@dataclass(frozen=True)
class Secured:
    """The broker's certificate names only "localhost"; any client of the authority may connect."""

    node: PrivateNode
    authority: Authority
    port: int
    worker: Issued

    def tls_url(
        self,
        client: Issued | None = None,
        *,
        cafile: Path | None = None,
        host: str = "localhost",
        more: str = "&auth=EXTERNAL",
    ) -> str:
        url = f"amqps://{host}:{self.port}/?cafile={cafile or self.authority.certificate}{more}"
        return f"{url}&certfile={client.certificate}&keyfile={client.key}" if client else url

    def url_of(self, user: str) -> str:
        """The URL for a password login without TLS."""
        return self.node.url.replace("guest:guest", f"{user}:{PASSWORD}")
