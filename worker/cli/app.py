"""`provisioner`: thin subcommands. What they do is in `operations.py` and `entrypoints/`.

Imports that a command alone needs stand in it, so that `--help` and a start are quick.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from contracts.departments import Kind
from worker.cli import dead_letters as cli_dead_letters
from worker.cli import terminal as console
from worker.cli.loop import run as _run
from worker.core.model import Department
from worker.ports import ForPeople
from worker.settings import model as settings
from worker.settings.load import load
from worker.settings.show import described
from worker.telemetry.logs import configure_logging

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    help="Gives every department its own Plivo subaccount: events in, credentials and results out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
topology_app = typer.Typer(no_args_is_help=True, help="The broker's exchanges, queues and bindings.")
departments_app = typer.Typer(no_args_is_help=True, help="What the ledger knows of departments.")

keys_app = typer.Typer(no_args_is_help=True, help="The keys that credentials are sealed and signed with.")

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]


def main() -> NoReturn:
    """The whole command line: an error a person can do something about is a line each and an exit code."""
    try:
        configure_logging("console", "error")
        code = app(prog_name="provisioner", standalone_mode=False)
    except ForPeople as error:
        console.complain(str(error).splitlines())
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        console.complain(_misuse(error))
        sys.exit(MISUSED)
    except typer.Abort:
        console.complain(["nothing was done"])
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(code or DONE)


def _misuse(error: typer.TyperException) -> list[str]:
    """One line; none where a command alone has printed its help."""
    context: typer.Context | None = getattr(error, "ctx", None)
    if not (told := error.format_message()):
        return []
    where = context.command_path if context else "provisioner"
    return [f"{told.removeprefix('Invalid value: ')} (see `{where} --help`)"]


def _settings_help() -> str:
    lines = [
        f"[bold]{name}[/] [dim]{default}[/]  {meaning}"
        for name, default, meaning in described(settings.WorkerSettings)
    ]
    return "Settings, from the environment; each NAME may come as NAME_FILE:\n\n" + "\n\n".join(
        line.replace("{name} [{tag}]", r"{name} \[{tag}]") for line in lines
    )


@app.command(epilog=_settings_help())
def run() -> None:
    """Consume department events until SIGTERM, then finish what runs and end."""
    from worker.service.consume import consume

    chosen = load(settings.WorkerSettings, os.environ)
    log_format = chosen.log_format or ("console" if sys.stderr.isatty() else "json")
    configure_logging(log_format, chosen.log_level)
    drained = _run(consume(chosen, dict(os.environ)))
    raise typer.Exit(DONE if drained else FAILED)


@app.command()
def demo(
    *,
    memory: Annotated[
        bool, typer.Option("--memory", help="No RabbitMQ: an imitation in memory. Proves less.")
    ] = False,
) -> None:
    """Tell the whole story on this machine: a broker, a sandbox, the worker, events in, credentials out.

    Uses the broker in AMQP_URL where it is set, else a RabbitMQ node of its own. Leaves nothing behind.
    """
    from worker.demo.story import tell

    _run(tell(os.environ, memory=memory))


@app.command()
def emit(
    kind: Annotated[
        Kind | None,
        typer.Argument(
            parser=cli_dead_letters.one_of(Kind), metavar="KIND", help="created, renamed or removed"
        ),
    ] = None,
    *,
    department_id: Annotated[str | None, typer.Option("--id", help="The department's id.")] = None,
    name: Annotated[str | None, typer.Option(help="The department's name.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose department it is.")] = None,
    cause: Annotated[str | None, typer.Option(help="removed: deleted, merged or deactivated")] = None,
    merged_into: Annotated[
        str | None, typer.Option(help="removed: the id of the department it became part of.")
    ] = None,
    sequence: Annotated[
        int | None, typer.Option(help="Which statement about the department this is.")
    ] = None,
    event_id: Annotated[str | None, typer.Option(help="The event's id; a new one by default.")] = None,
    source: Annotated[str | None, typer.Option(help="Who says so.")] = None,
    time: Annotated[str | None, typer.Option(help="When it was so, RFC 3339; now by default.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Send many: a file of one JSON event a line, - for stdin.", allow_dash=True),
    ] = None,
    binary: Annotated[bool, typer.Option("--binary", help="CloudEvents binary mode.")] = False,
    as_json: Json = False,
) -> None:
    """Publish department events, each checked against the contract first."""
    from worker.cli import commands

    told = {
        "id": event_id,
        "source": source,
        "time": time,
        "tenant": tenant,
        "sequence": sequence,
        "type": f"department.{kind}.v1" if kind else None,
    }
    data = {"department_id": department_id, "name": name, "cause": cause, "merged_into": merged_into}
    if (file is None) == (kind is None):
        raise typer.BadParameter("give either what happened (created, renamed, removed) or --file")
    needed = {"--id": department_id} | ({"--name": name} if kind is not Kind.REMOVED else {})
    if kind and (missing := [option for option, value in needed.items() if value is None]):
        raise typer.BadParameter(f"{kind} needs {' and '.join(missing)}")
    chosen = load(settings.BrokerSettings, os.environ)
    events = commands.events_of(file, _given(told), _given(data))
    _run(commands.emit(chosen, events, binary=binary, as_json=as_json))


@topology_app.command("apply")
def topology_apply(*, as_json: Json = False) -> None:
    """Make every exchange, queue and binding that is not there yet."""
    from worker.cli import commands

    _run(commands.topology_apply(load(settings.TopologySettings, os.environ), as_json=as_json))


@topology_app.command("check")
def topology_check(*, as_json: Json = False) -> None:
    """Read back what is there and compare; exit 1 where something is missing or differs."""
    from worker.cli import commands

    fits = _run(commands.topology_check(load(settings.TopologySettings, os.environ), as_json=as_json))
    raise typer.Exit(DONE if fits else FAILED)


@topology_app.command("export")
def topology_export(
    broker: Annotated[str, typer.Option(help="The version of RabbitMQ to write for.")] = "4.1",
    vhost: Annotated[str, typer.Option(help="The virtual host.")] = "/",
) -> None:
    """Print the topology as RabbitMQ definitions, for rabbitmqctl import_definitions."""
    from worker.cli import commands

    commands.topology_export(load(settings.TopologySettings, os.environ), broker, vhost)


@departments_app.command("list")
def departments_list(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None, *, as_json: Json = False
) -> None:
    """Every department ever heard of, and where it stands."""
    from worker.cli import commands

    _run(commands.departments_list(load(settings.LedgerSettings, os.environ), tenant, as_json=as_json))


@departments_app.command("show")
def departments_show(
    department_id: Annotated[str, typer.Argument(metavar="DEPARTMENT")],
    tenant: Annotated[str, typer.Option(help="Whose department it is.")] = "default",
    *,
    as_json: Json = False,
) -> None:
    """One department: its subaccount, what is owed, and what each of its events was answered."""
    from worker.cli import commands

    chosen = load(settings.LedgerSettings, os.environ)
    _run(commands.departments_show(chosen, Department(tenant, department_id), as_json=as_json))


@app.command()
def reissue(
    department_id: Annotated[str, typer.Argument(metavar="DEPARTMENT")],
    tenant: Annotated[str, typer.Option(help="Whose department it is.")] = "default",
    *,
    recipient: Annotated[str | None, typer.Option(help="For this one alone; for all by default.")] = None,
    by: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Who asks; the OS user by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Have the running worker publish a department's credentials once more; exit 1 where it did not."""
    from worker.cli import commands

    chosen = load(settings.LedgerSettings, os.environ)
    which = Department(tenant, department_id)
    issued = _run(commands.reissue(chosen, which, recipient or None, by, as_json=as_json))
    raise typer.Exit(DONE if issued else FAILED)


@keys_app.command("new")
def keys_new(
    recipient: Annotated[str | None, typer.Argument(help="Whom the pair is for.")] = None,
    *,
    signing: Annotated[bool, typer.Option("--signing", help="A key for the worker to sign with.")] = False,
    kind: Annotated[
        str | None, typer.Option("--type", help="x25519, p-256 or rsa; to sign: ed25519 or p-256.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file for the private key.")] = None,
    add_to: Annotated[Path | None, typer.Option(help="A JWKS to add the public key to.")] = None,
) -> None:
    """Make a recipient's pair, or the worker's signing key. What is private goes to a file alone."""
    from worker.adapters.jose.key_files import KeyType
    from worker.cli import keys

    if (recipient is None) is not signing:
        raise typer.BadParameter("give either a recipient or --signing")
    try:
        chosen = KeyType(kind) if kind else None
    except ValueError:
        raise typer.BadParameter(f"--type is one of {', '.join(KeyType)}") from None
    if recipient is not None:
        keys.new_recipient_key(recipient, chosen or KeyType.X25519, out, add_to)
        return
    path = out or load(settings.SealingSettings, os.environ).signing_key_path
    keys.new_signing_key(path, chosen or KeyType.ED25519)


@keys_app.command("public")
def keys_public() -> None:
    """Print the worker's public keys (JWKS), for recipients to check its signature with."""
    from worker.cli import keys

    keys.show_public(load(settings.SealingSettings, os.environ))


@keys_app.command("check")
def keys_check(*, as_json: Json = False) -> None:
    """Tell which key is used for whom; exit 1 where one is missing or unusable."""
    from worker.cli import keys

    good = keys.check(load(settings.SealingSettings, os.environ), as_json=as_json)
    raise typer.Exit(DONE if good else FAILED)


@app.command("open")
def open_(
    key: Annotated[Path, typer.Option(help="The recipient's private key (JWK or JWKS).")],
    worker_keys: Annotated[Path, typer.Option(help="The worker's public keys: `provisioner keys public`.")],
    *,
    queue: Annotated[
        bool, typer.Option("--queue", help="What waits in the recipient's queue, instead of stdin.")
    ] = False,
    take: Annotated[
        bool, typer.Option("--take", help="With --queue: take off the queue what was printed as JSON.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the credentials, tokens included: a JSON object a line.")
    ] = False,
) -> None:
    """Open sealed credentials, as their recipient; check that they are the worker's and meant for us."""
    from worker.cli import open as opening

    if take and not (queue and as_json):
        raise typer.BadParameter("--take goes with --queue and --json: what is taken must be printed")
    keys = opening.Keys.read(key, worker_keys)
    if not queue:
        opening.open_stdin(keys, as_json=as_json)
        return
    broker = load(settings.BrokerSettings, os.environ)
    opened = _run(opening.open_queue(broker, keys, take=take, as_json=as_json))
    raise typer.Exit(DONE if opened else FAILED)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _register_sandbox() -> None:
    from worker.sandbox.command import sandbox

    app.command()(sandbox)


_register_sandbox()
app.add_typer(topology_app, name="topology")
app.add_typer(departments_app, name="departments")
app.add_typer(keys_app, name="keys")
app.add_typer(cli_dead_letters.app, name="dead-letters")
