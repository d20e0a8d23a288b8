"""The source profiles in use: those that are shipped, and those in a folder of YAML files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pydantic import SecretStr

from worker.core.intake.parsing import parse_profile
from worker.core.intake.profile import Auth, Profile, ProfileInvalid
from worker.core.intake.proof import BadSecret, require_usable
from worker.core.intake.samples import failures
from worker.ports import UserError
from worker.settings.files import NotText, decoded, why_unreadable
from worker.settings.parse import PREFIX, Address, is_loopback
from worker.settings.yaml_document import NotYaml, document_of

SUFFIXES = (".yaml", ".yml")
LARGEST_BYTES = 1 << 20

OnRead = Callable[[str | None], None]
"""Is told that secrets were read again: None for new ones, else why the old ones are kept."""


class SourcesInvalid(UserError):
    """Profiles cannot be used: a line `file: key: reason` for each mistake."""

    exit_code = 2


class SecretsMissing(UserError):
    """The secrets of a profile cannot be read."""


def _unreported(_why_kept: str | None) -> None:
    return None


class Secrets:
    """The secrets in a file, one in each line. They are read again when the file has changed.

    A changed file that holds no usable secret, because it is half-written, leaves the old ones in force. One
    that is gone or closed leaves none: its profile is refused until it is back.
    """

    def __init__(self, path: Path, auth: Auth, on_read: OnRead = _unreported) -> None:
        self.path = path
        self._auth = auth
        self._on_read = on_read
        self._seen: tuple[int, int, int] | None = None
        self._secrets: Sequence[SecretStr] = ()

    def current(self) -> Sequence[SecretStr]:
        """The secrets now; raises `SecretsMissing`."""
        try:
            state = self.path.stat()
            seen = (state.st_mtime_ns, state.st_size, state.st_ino)
            if seen != self._seen:
                self._read(seen)
        except OSError as error:
            self._seen, self._secrets = None, ()
            raise SecretsMissing(f"cannot be read: {why_unreadable(error, str(self.path))}") from None
        return self._secrets

    def _read(self, seen: tuple[int, int, int]) -> None:
        is_first = self._seen is None
        try:
            found = _secrets_in(self.path.read_bytes(), self._auth)
        except ValueError as error:
            if is_first:
                raise SecretsMissing(f"{self.path} {error}") from None
            self._seen = seen
            self._on_read(f"{self.path} {error}")
            return
        self._seen, self._secrets = seen, found
        if not is_first:
            self._on_read(None)


def _secrets_in(content: bytes, auth: Auth) -> Sequence[SecretStr]:
    """The secrets; raises `ValueError`, whose text follows the file's name and shows none."""
    lines = [(number, line.strip()) for number, line in enumerate(decoded(content).splitlines(), 1)]
    secrets = [(number, SecretStr(line)) for number, line in lines if line]
    if not secrets:
        raise ValueError("is empty; write a secret in each line")
    for number, secret in secrets:
        try:
            require_usable(auth, secret)
        except BadSecret as error:
            raise ValueError(f"line {number}: {error}") from None
    return tuple(secret for _, secret in secrets)


@dataclass(frozen=True, slots=True)
class Source:
    """A profile, the file that it stands in, and the folder of its secrets: None without one."""

    profile: Profile
    file: str
    folder: Path | None
    is_shipped: bool = False

    @property
    def secret_path(self) -> Path | None:
        """The file of the secrets; None if the profile has none, or no folder to look in."""
        name = self.profile.secret_file
        return None if name is None or self.folder is None else self.folder / name

    @property
    def is_enabled(self) -> bool:
        """Whether requests are taken. A shipped profile waits for the file of its secrets."""
        path = self.secret_path
        return not self.is_shipped or (path is not None and path.exists())

    def secrets(self, on_read: OnRead = _unreported) -> Secrets | None:
        """The secrets, to be kept while the profile is in use; None if it has none."""
        path = self.secret_path
        return None if path is None else Secrets(path, self.profile.auth, on_read)


def load_sources(folder: Path | None) -> Mapping[str, Source]:
    """The shipped profiles, and those of the folder, which replace shipped ones of their name.

    Raises `SourcesInvalid` with every mistake.
    """
    mistakes: list[str] = []
    found = dict(_shipped(folder, mistakes))
    own = dict(_own(folder, mistakes)) if folder is not None else {}
    if mistakes:
        raise SourcesInvalid("\n".join(mistakes))
    return dict(sorted((found | own).items()))


def ready_sources(folder: Path | None) -> Mapping[str, Source]:
    """The same for a server: the samples must map, and the secrets must be there.

    Shipped profiles may have no secrets: they are not enabled then. Raises `SourcesInvalid`.
    """
    sources = load_sources(folder)
    mistakes = [line for source in sources.values() for line in _unready(source)]
    if mistakes:
        raise SourcesInvalid("\n".join(mistakes))
    return sources


def open_to_everybody(address: Address, sources: Mapping[str, Source]) -> list[str]:
    """A line for each profile without a proof, where the address is beyond loopback."""
    if is_loopback(address.host):
        return []
    return [
        f"{source.file}: auth: none is for loopback, but {PREFIX}INTAKE is beyond it; use hmac or bearer"
        for source in sources.values()
        if source.profile.needs_loopback
    ]


def _unready(source: Source) -> Iterator[str]:
    if not source.is_shipped:  # a test runs the samples of the others
        yield from (f"{source.file}: {line}" for line in failures(source.profile))
    secrets = source.secrets()
    if secrets is None or not source.is_enabled:
        return
    try:
        secrets.current()
    except SecretsMissing as error:
        yield f"{source.file}: auth.secret_file: {error}"


def _shipped(folder: Path | None, mistakes: list[str]) -> Iterator[tuple[str, Source]]:
    for entry in resources.files("worker").joinpath("sources").iterdir():
        name = entry.name.removesuffix(".yaml")
        profile = _parsed(entry.name, name, entry.read_bytes(), mistakes)
        if profile is not None:
            yield name, Source(profile, entry.name, folder, is_shipped=True)


def _own(folder: Path, mistakes: list[str]) -> Iterator[tuple[str, Source]]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.name[0] != ".")
    except OSError as error:
        mistakes.append(f"PROVISIONER_SOURCES cannot be read: {why_unreadable(error, str(folder))}")
        return
    stems = [path.stem for path in paths]
    for path in paths:
        if stems.count(path.stem) > 1:
            mistakes.append(f"{path.name}: file: there is another file of this name; keep one")
            continue
        try:
            content = path.read_bytes()
        except OSError as error:
            mistakes.append(f"{path.name}: file: cannot be read: {error.strerror}")
            continue
        profile = _parsed(path.name, path.stem, content, mistakes)
        if profile is not None:
            yield path.stem, Source(profile, path.name, folder)


def _parsed(file: str, name: str, content: bytes, mistakes: list[str]) -> Profile | None:
    if len(content) > LARGEST_BYTES:
        mistakes.append(f"{file}: file: more than {LARGEST_BYTES:,} bytes")
        return None
    try:
        return parse_profile(name, document_of(decoded(content)))
    except (NotText, NotYaml) as error:
        mistakes.append(f"{file}: file: {error}")
    except ProfileInvalid as error:
        mistakes += [f"{file}: {line}" for line in error.lines]
    return None
