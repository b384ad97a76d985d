"""A half file is never taken for a whole one: space first, temp file, fsync, rename, manifest last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specctl.errors import MachineError

MANIFEST = "specctl.json"
_SCHEMA = 1
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a converted model came from. `path`, `bytes` and `mtime_ns` let a local file be known again."""

    kind: str
    label: str
    sha256: str
    path: str = ""
    bytes: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """`files` maps each file name to its size in bytes and its sha256."""

    name: str
    origin: Origin
    files: dict[str, tuple[int, str]]
    licence: str = "unknown"


def sha256(path: Path, advance: Callable[[int], None] | None = None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            if advance is not None:
                advance(len(chunk))
    return digest.hexdigest()


def human(n_bytes: int) -> str:
    size = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit in ("B", "kB") else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def ensure_space(folder: Path, n_bytes: int, what: str) -> None:
    """Raises MachineError unless `n_bytes` and 5 % more are free where `folder` is, or will be."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    needed = n_bytes + n_bytes // 20
    if free < needed:
        raise MachineError(
            f"not enough free space for `{what}`: {human(needed)} needed, {human(free)} free in `{place}`",
            hint="free some space (`specctl models` lists what is there), or set SPECCTL_DATA_DIR or HF_HOME "
            "to a larger disk",
        )


def write_atomic(path: Path, data: bytes) -> None:
    """Raises MachineError if the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MachineError(f"cannot write `{path}`: {error.strerror or error}") from error


def write_manifest(folder: Path, name: str, origin: Origin, licence: str) -> None:
    """The last file of a model: it lists all others, which are on disk by now."""
    files: dict[str, tuple[int, str]] = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.name] = (path.stat().st_size, sha256(path))
    manifest = {"schema": _SCHEMA, **asdict(Manifest(name, origin, files, licence))}
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a whole model; None if there is none, or a file in it is missing or of another size."""
    try:
        data: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        if data.pop("schema") != _SCHEMA:
            return None
        files = {str(name): (int(size), str(digest)) for name, (size, digest) in data.pop("files").items()}
        manifest = Manifest(files=files, origin=Origin(**data.pop("origin")), **data)
        whole = all(_size_of_file(folder / name) == size for name, (size, _) in files.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return manifest if whole and files else None


def _size_of_file(path: Path) -> int | None:
    status = path.lstat()
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Whatever the operating system refuses becomes a MachineError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).partition("\n")[0][:200]
        place = f" (`{error.filename}`)" if error.filename else ""
        raise MachineError(f"cannot write `{what}`: {reason}{place}") from error


@contextlib.contextmanager
def work_folder(parent: Path, name: str) -> Iterator[Path]:
    """A private folder beside the destination, gone at the end whatever happens.

    Those a killed process left behind go first: their name carries the process id.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(".work-*"):
        if not _is_alive(left.name.split("-")[1]):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".work-{os.getpid()}-{name}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def publish(finished: Path, destination: Path) -> None:
    """Give a finished folder its name in one rename. Who comes second finds a whole model and keeps it."""
    if read_manifest(destination) is not None:
        return
    if destination.is_symlink() or destination.exists():
        # Not whole, so of no use: out of the way first, so that no reader sees it vanish file by file.
        doomed = Path(tempfile.mkdtemp(prefix=f".work-{os.getpid()}-old-", dir=destination.parent))
        destination.rename(doomed / "old")
        shutil.rmtree(doomed, ignore_errors=True)
    try:
        finished.rename(destination)
    except OSError as error:
        if read_manifest(destination) is None:
            raise MachineError(f"cannot create `{destination}`: {error.strerror or error}") from error
    descriptor = os.open(destination.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
