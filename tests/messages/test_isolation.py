"""The folder works with only pydantic and the standard library."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import contracts

FOLDER = Path(contracts.__file__).parent

SCRIPT = """
import importlib, json, pkgutil, sys
from importlib.abc import MetaPathFinder

sys.path.insert(0, sys.argv[1])
PYDANTIC = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
ALLOWED = {"contracts", *PYDANTIC, *sys.stdlib_module_names}


class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
        return None


sys.meta_path.insert(0, Blocked())

import contracts

modules = [module.name for module in pkgutil.walk_packages(contracts.__path__, "contracts.")]
for name in modules:
    importlib.import_module(name)

from contracts import export
from contracts.departments import department_event
from contracts.envelope import STRUCTURED, Message, read

example = (export.FOLDER / "examples" / "renamed.json").read_bytes()
blocked = []
for name in ("worker", "aio_pika", "yaml"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        blocked.append(name)
print(json.dumps({
    "modules": modules,
    "folder": str(export.FOLDER),
    "name": department_event(read(Message(example, STRUCTURED))).data.name,
    "stale": list(export.stale(export.generated())),
    "blocked": blocked,
}))
"""


def test_a_copy_works_with_pydantic_and_the_standard_library_alone(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "contracts", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-B", "-c", SCRIPT, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["folder"] == str(tmp_path / "contracts")
    assert set(found["modules"]) == {f"contracts.{path.stem}" for path in FOLDER.glob("*.py")} - {
        "contracts.__init__"
    }
    assert found["name"] == "Product Engineering"
    assert found["stale"] == []
    assert found["blocked"] == ["worker", "aio_pika", "yaml"]
