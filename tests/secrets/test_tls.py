"""`amqps://`: trusted and untrusted certificates, and the error messages."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.certificates import Authority, Issued
from tests.support.secured import Secured
from worker.adapters.amqp.connect import connect
from worker.adapters.amqp.errors import BrokerRefuses, BrokerUnavailable
from worker.settings.load import SettingsError, load
from worker.settings.model import BrokerSettings

pytestmark = [pytest.mark.xdist_group("secured"), pytest.mark.timeout(120)]

YESTERDAY = datetime.now(UTC) - timedelta(days=1)


async def refusal(url: str) -> str:
    with pytest.raises(BrokerUnavailable) as refused:
        async with await connect(url, "test"):
            pass
    assert "keyfile=" not in str(refused.value)
    return str(refused.value)


async def test_a_client_certificate_logs_in_as_its_common_name(secured: Secured):
    async with await connect(secured.tls_url(secured.worker), "by certificate") as connection:
        assert connection.server_version
        users = await secured.node.rabbitmqctl("list_connections", "user", "auth_mechanism", "ssl")
    assert ["provisioner-worker", "EXTERNAL", "true"] in [line.split() for line in users.splitlines()]


async def test_a_password_login_works_over_tls(secured: Secured):
    url = secured.tls_url(secured.worker, more="").replace("localhost", "guest:guest@localhost")
    async with await connect(url, "by password") as connection:
        assert connection.server_version


async def test_a_broker_certificate_of_another_authority_is_refused(secured: Secured, tmp_path: Path):
    other = Authority(tmp_path, "Other CA")
    explanation = await refusal(secured.tls_url(secured.worker, cafile=other.certificate))
    assert "its certificate is not trusted (self-signed certificate in certificate chain)" in explanation
    assert "set cafile in AMQP_URL" in explanation


async def test_without_a_cafile_only_system_authorities_are_trusted(secured: Secured):
    url = secured.tls_url(secured.worker).replace(f"cafile={secured.authority.certificate}&", "")
    assert "its certificate is not trusted" in await refusal(url)


async def test_a_broker_certificate_for_another_name_is_refused(secured: Secured):
    explanation = await refusal(secured.tls_url(secured.worker, host="127.0.0.1"))
    assert "its certificate is for another name (IP address mismatch" in explanation


async def test_an_expired_broker_certificate_is_refused(tmp_path: Path):
    authority = Authority(tmp_path)
    expired = authority.issue("late", "localhost", valid_until=YESTERDAY)
    async with tls_listener(expired) as port:
        explanation = await refusal(f"amqps://localhost:{port}/?cafile={authority.certificate}")
    assert "its certificate is not trusted (certificate has expired)" in explanation


@asynccontextmanager
async def tls_listener(certificate: Issued) -> AsyncIterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.certificate, certificate.key)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "localhost", 0, ssl=context)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        yield port


@pytest.mark.parametrize("kind", ["none", "expired", "of another authority"])
async def test_an_untrusted_client_certificate_is_explained(secured: Secured, tmp_path: Path, kind: str):
    clients = {
        "none": None,
        "expired": secured.authority.issue("late", valid_until=YESTERDAY),
        "of another authority": Authority(tmp_path, "Other CA").issue("provisioner-worker"),
    }
    explanation = await refusal(secured.tls_url(clients[kind]))
    assert "certfile" in explanation


async def test_a_renewed_client_certificate_is_used_from_the_next_connection_on(secured: Secured):
    expired = secured.authority.issue("renewed", valid_until=YESTERDAY)
    url = secured.tls_url(expired)
    assert "certfile" in await refusal(url)
    expired.certificate.write_bytes(secured.worker.certificate.read_bytes())
    expired.key.write_bytes(secured.worker.key.read_bytes())
    async with await connect(url, "renewed") as connection:
        assert connection.server_version


async def test_a_certificate_of_an_unknown_user_is_a_refused_login(secured: Secured):
    stranger = secured.authority.issue("stranger")
    with pytest.raises(BrokerRefuses, match="refuses the login"):
        await connect(secured.tls_url(stranger), "test")


async def test_an_unsupported_login_mechanism_is_explained(secured: Secured):
    with pytest.raises(BrokerRefuses, match=r"it offers .*, and not what auth in AMQP_URL asks for"):
        await connect(f"{secured.node.url}?auth=KERBEROS", "test")


async def test_tls_to_a_plaintext_port_is_explained(secured: Secured):
    url = secured.node.url.replace("amqp:", "amqps:")
    assert "that port does not speak TLS" in await refusal(url)


@pytest.mark.parametrize("name", ["cafile", "certfile", "keyfile"])
def test_a_missing_file_is_a_settings_error(tmp_path: Path, name: str):
    query = {"certfile": __file__} | {name: str(tmp_path / "missing")}
    url = "amqps://u:secret@h/?" + "&".join(f"{key}={value}" for key, value in query.items())
    with pytest.raises(SettingsError) as refused:
        load(BrokerSettings, {"AMQP_URL": url})
    assert str(refused.value).startswith(f"AMQP_URL names a {name} that cannot be read: No such file")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("query", ["no_verify_ssl=1", "no_verify_ssl=true", "keyfile=/etc/hosts"])
def test_an_option_that_weakens_tls_is_a_settings_error(query: str):
    with pytest.raises(SettingsError):
        load(BrokerSettings, {"AMQP_URL": f"amqps://u:p@h/?{query}"})
