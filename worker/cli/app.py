"""`provisioner`: registers the commands and turns errors into stderr lines and exit codes.

The modules of `cli` are light to import. A command imports its own dependencies when it runs, so that
`--help` and the start are quick.
"""

import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from worker.cli import (
    dead_letters,
    departments,
    events,
    holds,
    intake,
    keys,
    ledger,
    snapshot,
    streams,
    terminal,
    topology,
)
from worker.cli.adopt import adopt
from worker.cli.arguments import command_of
from worker.cli.doctor import doctor
from worker.cli.emit import emit
from worker.cli.environment import use_env_file
from worker.cli.loop import DONE, FAILED, INTERRUPTED, MISUSED, run_to_exit
from worker.cli.loop import run as run_coroutine
from worker.cli.manual import add_manual
from worker.cli.open import open_
from worker.cli.plan import plan
from worker.cli.results import results
from worker.cli.status import status
from worker.cli.sweep import sweep
from worker.ports import UserError
from worker.settings.load import load
from worker.settings.model import WorkerSettings
from worker.settings.names import unknown_lines
from worker.telemetry.logs import configure_logging


def _print_version(asked: bool) -> None:  # noqa: FBT001 - as typer calls it
    if asked:
        from importlib.metadata import version

        terminal.write(f"provisioner {version('subaccount-provisioner')}\n")
        raise typer.Exit


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def provisioner(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Gives every department its own Plivo subaccount: events in, credentials and results out."""


def main() -> NoReturn:
    """Runs the command line and exits. A mistake becomes its lines on stderr, and its exit code."""
    code = _exit_code()
    _warn_of_unknown_settings(code)
    well = streams.finish(lambda line: terminal.complain([line]))
    sys.exit(code if well else code or FAILED)


def _warn_of_unknown_settings(code: int) -> None:
    """Names each, except where the command did, and beside help."""
    told = code != MISUSED and command_of(sys.argv[1:]) in {"run", "doctor"}
    if not told and {"--help", "--version"}.isdisjoint(sys.argv):
        terminal.advise(*unknown_lines(os.environ))


def _exit_code() -> int:
    configure_logging("console", "error")
    try:
        return command_line(sys.argv[1:])(prog_name="provisioner", standalone_mode=False) or DONE
    except UserError as error:
        terminal.complain(str(error).splitlines())
        return error.exit_code
    except OSError as error:
        terminal.complain([_failure(error)])
        return FAILED
    except typer.TyperException as error:
        terminal.complain(_misuse(error))
        return MISUSED
    except typer.Abort:
        terminal.complain(["nothing was done"])
        return FAILED
    except streams.ReaderGone:
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED


def command_line(arguments: Sequence[str] = ()) -> Any:
    """All commands, each with the options of `_common` and the end of its help.

    The sandbox is left out where the arguments name another command: its import takes a quarter of a start.
    """
    if command_of(arguments) not in get_command(app).commands:  # type: ignore[attr-defined]
        _register_sandbox()
    bare = typer.Typer(add_completion=False)
    bare.command()(_common)
    commands = _with_options(get_command(app), get_command(bare).params)
    return add_manual(commands)


def _read_env_file(path: Path | None) -> None:
    if path is not None:
        use_env_file(path)


def _common(
    _env_file: Annotated[
        Path | None,
        typer.Option(
            "--env-file",
            metavar="FILE",
            help="Read settings from a file of NAME=VALUE lines; the environment wins.",
            callback=_read_env_file,
            readable=False,  # `use_env_file` says more
            is_eager=True,  # before an option that has a variable of the environment
            expose_value=False,
        ),
    ] = None,
) -> None:
    """A command without work of its own: its options are those of every command."""


def _with_options(command: Any, options: Sequence[Any]) -> Any:
    """The command after it, and all below it, got the options."""
    command.params += options
    for below in getattr(command, "commands", {}).values():
        _with_options(below, options)
    return command


def _failure(error: OSError) -> str:
    """One line for an error of the system that no command expects."""
    why = error.strerror or type(error).__name__
    return f"{error.filename}: {why}" if error.filename else why


def _misuse(error: typer.TyperException) -> list[str]:
    """One line; none for a command without arguments, which has printed its help."""
    context: typer.Context | None = getattr(error, "ctx", None)
    if not (message := error.format_message()):
        return []
    where = context.command_path if context else "provisioner"
    return [f"{message.removeprefix('Invalid value: ')} (see `{where} --help`)"]


@app.command()
def run() -> None:
    """Consume department events until SIGTERM, then finish the work in flight and exit."""
    from worker.service.consume import consume

    settings = load(WorkerSettings, os.environ)
    log_format = settings.log_format or ("console" if sys.stderr.isatty() else "json")
    configure_logging(log_format, settings.log_level)
    run_to_exit(consume(settings, dict(os.environ)))


@app.command()
def demo(
    *,
    memory: Annotated[
        bool, typer.Option("--memory", help="Use an imitation in memory instead of RabbitMQ. Proves less.")
    ] = False,
    stay: Annotated[
        bool,
        typer.Option("--stay", help="Then keep all of it running until Ctrl-C, to try things by hand."),
    ] = False,
) -> None:
    """Run everything on this machine: a broker, a sandbox, the worker, events in, credentials out.

    Uses the broker in AMQP_URL if it is set, else its own RabbitMQ node. Leaves nothing behind.
    """
    from worker.demo.story import tell

    if memory and stay:
        raise typer.BadParameter("--stay needs RabbitMQ, which other terminals can reach; leave out --memory")
    run_coroutine(tell(os.environ, memory=memory, stay=stay))


@cache
def _register_sandbox() -> None:
    from worker.sandbox.command import sandbox

    app.command()(sandbox)


app.command()(emit)
app.command()(results)
app.command()(plan)
app.command()(departments.reissue)
app.command("open")(open_)
app.command()(adopt)
app.command()(sweep)
app.command()(status)
app.command()(doctor)
app.add_typer(topology.app, name="topology")
app.add_typer(departments.app, name="departments")
app.add_typer(holds.app, name="holds")
app.add_typer(events.app, name="events")
app.add_typer(keys.app, name="keys")
app.add_typer(ledger.app, name="ledger")
app.add_typer(snapshot.app, name="snapshot")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(intake.app, name="intake")
