"""npm packages for tests, installed once, outside the source tree."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.nodes import skip_or_fail


def installed(package: str) -> Path:
    """Installs the package (`name@version`) and returns its `node_modules`.

    Without node the test is skipped, in CI it fails. Several test processes may call this at once.
    """
    if not (shutil.which("node") and shutil.which("npm")):
        skip_or_fail(f"node and npm are not installed: {package} cannot be tried")
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
