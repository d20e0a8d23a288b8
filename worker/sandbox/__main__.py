"""Run the sandbox: `python -m worker.sandbox`."""

import typer

from worker.sandbox.command import sandbox

if __name__ == "__main__":
    typer.run(sandbox)
