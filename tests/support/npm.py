"""npm packages for tests, installed once, outside the source tree."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.nodes import skip_or_fail


def installed(*packages: str) -> Path:
    """Installs the packages (`name@version`) and returns their `node_modules`.

    Without node the test is skipped, in CI it fails. Several test processes may call this at once.
    """
    if not (shutil.which("node") and shutil.which("npm")):
        skip_or_fail(f"node and npm are not installed: {', '.join(packages)} cannot be tried")
    cache = Path(tempfile.gettempdir()) / f"sandbox-{'-'.join(packages)}-{os.getuid()}"
    if not cache.exists():
        with tempfile.TemporaryDirectory(dir=cache.parent) as fresh:
            target = Path(fresh) / "installed"
            target.mkdir()
            options = ("--silent", "--no-audit", "--no-fund", "--prefix", str(target))
            subprocess.run(["npm", "install", *options, *packages], check=True, cwd=target, timeout=110)
            if not cache.exists():
                target.rename(cache)
    return cache / "node_modules"
