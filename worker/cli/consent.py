"""Asks a person at a terminal before something is changed."""

import sys

import typer


def is_interactive() -> bool:
    """Whether stdin is a terminal; scripts are not asked."""
    return sys.stdin.isatty()


def ask(question: str) -> None:
    """Returns after a yes; raises `typer.Abort` otherwise."""
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:  # by Ctrl-C or Ctrl-D, which end no line
        typer.echo(err=True)
        raise
    if not agreed:
        raise typer.Abort
