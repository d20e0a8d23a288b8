"""Packages of npm for tests that need one: installed once, outside the tree."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def installed(package: str) -> Path:
    """The `node_modules` with this package (`name@version`) in it. A skip without node, in CI a failure.

    Several test processes may ask at once.
    """
    if not (shutil.which("node") and shutil.which("npm")):
        reason = f"node and npm are not installed: {package} cannot be tried"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    cache = Path(tempfile.gettempdir()) / f"sandbox-{package}-{os.getuid()}"
    if not cache.exists():
        with tempfile.TemporaryDirectory(dir=cache.parent) as fresh:
            target = Path(fresh) / "installed"
            target.mkdir()
            options = ("--silent", "--no-audit", "--no-fund", "--prefix", str(target))
            subprocess.run(["npm", "install", *options, package], check=True, cwd=target, timeout=110)
            if not cache.exists():
                target.rename(cache)
    return cache / "node_modules"
