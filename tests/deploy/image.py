"""Builds the image of deploy/Dockerfile without a container engine, and runs it.

Each stage is an overlay over this machine's own root, which stands in for the base image. RUN happens in a
chroot there. A container is a chroot into the last stage, mounted read-only, as the image's user, with a
tmpfs for each volume. It takes root and the right to mount. Not shown so: the real base image, and the limits
that an engine sets (capabilities, seccomp, cgroups).
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OF_THE_INDEX = re.compile(r"(PIP|UV|SSL|HTTPS?|NO)_|REQUESTS_CA_BUNDLE|https?_proxy|no_proxy")
"""The variables by which this machine reaches its package index, as a builder is given build arguments."""


class Unbuildable(Exception):
    """The image cannot be built here: no root, or no right to mount."""


@dataclass
class Stage:
    """One stage of a Dockerfile, and what its instructions have come to so far."""

    folder: Path
    user: str = "0:0"
    workdir: str = "/"
    environ: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("files", "root"):
            (self.folder / name).mkdir(parents=True)

    @property
    def files(self) -> Path:
        """The files of the stage that this machine lacks."""
        return self.folder / "files"

    def process(
        self, command: Sequence[str], environ: Mapping[str, str], *, read_only: bool
    ) -> "subprocess.Popen[str]":
        """Starts a command in the stage. If it is read-only, root and user are those of a container."""
        root = self.folder / "root"
        work = tempfile.mkdtemp(dir=self.folder)  # one per mount: the previous mount may not be torn down yet
        layers = f"lowerdir=/,upperdir={self.files},workdir={work}"
        mounts = [f"mount -t overlay overlay -o {layers} {root}"]
        mounts += [f"mount --rbind /{name} {root}/{name}" for name in ("proc", "dev")]
        enter = ["chroot", str(root)]
        if read_only:
            uid, gid = self.user.split(":")
            options = f"mode=0700,uid={uid},gid={gid}"
            mounts += [f"mount -t tmpfs -o {options} tmpfs {root}{volume}" for volume in self.volumes]
            mounts.append(f"mount -o remount,ro {root}")
            enter = ["chroot", f"--userspec={self.user}", "--groups=", str(root)]
        inside = f'cd {self.workdir} && exec "$@"'
        mounts.append("exec " + shlex.join([*enter, "/bin/sh", "-c", inside, "sh", *command]))
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", " && ".join(mounts)],
            env={**environ, **self.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def require_mounts(folder: Path) -> None:
    """Raises `Unbuildable` where overlays cannot be mounted."""
    if os.geteuid() != 0:
        raise Unbuildable("to build the image without a container engine takes root")
    tried = Stage(folder / "tried").process(["true"], os.environ, read_only=False)
    out, _ = tried.communicate()
    if tried.returncode:
        raise Unbuildable(f"to build the image without a container engine takes overlays: {out.strip()}")


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """The instructions and their arguments, without comments and continued lines."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        yield name, rest.strip()


def build(folder: Path) -> Stage:
    """Carries the Dockerfile out, and returns its last stage. An unknown instruction is an error."""
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for name, rest in instructions(DOCKERFILE.read_text()):
        if name == "FROM":
            base, _, alias = rest.partition(" AS ")
            assert base == "${BASE}", "every stage has the same base, which this machine stands in for"
            stage = stages[alias or str(len(stages))] = Stage(folder / f"stage-{len(stages)}")
        elif stage is None:
            assert name == "ARG"  # the base
        else:
            _carry_out(stage, name, rest, stages)
    assert stage is not None
    return stage


def _carry_out(stage: Stage, name: str, rest: str, stages: Mapping[str, Stage]) -> None:  # noqa: C901 - a table
    match name:
        case "ARG":
            key, _, default = rest.partition("=")
            stage.arguments[key] = default
        case "ENV":
            pairs = dict(one.split("=", 1) for one in shlex.split(rest))
            stage.environ |= {
                key: value.replace("$PATH", stage.environ["PATH"]) for key, value in pairs.items()
            }
        case "WORKDIR":
            stage.workdir = rest
            (stage.files / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        case "COPY":
            _copy(stage, rest.split(), stages)
        case "RUN":
            _run(stage, rest)
        case "USER":
            stage.user = rest
        case "VOLUME":
            stage.volumes.append(rest)
        case "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        case "CMD":
            stage.command = json.loads(rest)
        case "HEALTHCHECK":
            stage.health = json.loads(rest.partition(" CMD ")[2])
        case "LABEL" | "EXPOSE":
            pass
        case _:
            raise AssertionError(f"{name} is not known here: teach {__name__} what it does")


def _copy(stage: Stage, words: Sequence[str], stages: Mapping[str, Stage]) -> None:
    *sources, target = words
    origin = ROOT
    if sources[0].startswith("--from="):
        origin = stages[sources.pop(0).removeprefix("--from=")].files
    into = stage.files / (target if target.startswith("/") else f"{stage.workdir}/{target}").lstrip("/")
    for source in sources:
        path = origin / source.lstrip("/")
        if path.is_dir():
            shutil.copytree(path, into, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, into)


def _run(stage: Stage, script: str) -> None:
    index = {name: value for name, value in os.environ.items() if OF_THE_INDEX.match(name)}
    environ = {"HOME": "/root", **index, **stage.arguments}
    process = stage.process(["/bin/sh", "-c", script], environ, read_only=False)
    out, _ = process.communicate()
    assert process.returncode == 0, f"RUN {script}\n{out}"
