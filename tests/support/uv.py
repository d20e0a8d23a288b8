"""Where uv is, for tests of what it installs."""

import os
import shutil
from pathlib import Path


def find_uv() -> str | None:
    """The path of uv: on the PATH, or where deploy/setup.sh puts it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return shutil.which("uv") or shutil.which(cache / "subaccount-provisioner/uv")
