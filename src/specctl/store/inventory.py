"""What is on disk: list it, find it, remove it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from specctl import paths
from specctl.errors import MachineError, MissingError, RequestError
from specctl.store import convert, fetch, files, hub, quantized, watch

_PARTIAL = re.compile(r"\.partial-(?P<name>.+)-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class OnDisk:
    """`kind` is `converted` or `quantized` (ours), `partial` (our unfinished download) or `hub` (its cache)."""

    name: str
    path: Path
    bytes: int
    source: str
    kind: str


def models() -> list[OnDisk]:
    """Ours first, then the hub's; by name."""
    converted = [
        OnDisk(path.name, path, watch.folder_bytes(path), manifest.origin.label, "converted")
        for path, manifest in convert.conversions()
    ]
    return converted + _quantized() + _partial() + _in_hub_cache()


def path(name: str) -> Path:
    """The folder of a model on disk. Raises MissingError, with the command that pulls it."""
    for model in models():
        if model.name == name and model.kind in ("converted", "quantized"):
            return model.path
    folder = fetch.find(name)
    if folder is None:
        raise MissingError(f"`{name}` is not on disk", hint=f"run `specctl pull {name}`")
    return folder


def remove(name: str) -> int:
    """Remove what `models()` lists under this name; returns the bytes freed.

    Raises MissingError, RequestError, MachineError. Local folders and files are the user's and stay.
    """
    doomed = [model for model in models() if model.name == name]
    if not doomed:
        raise MissingError(
            f"`{name}` is not on disk",
            hint="`specctl models` lists what is; folders of your own are left alone",
        )
    for model in doomed:
        if model.kind == "hub":
            _remove_from_hub_cache(model)
        elif model.kind == "quantized":
            with files.disk_errors(str(model.path)):
                model.path.unlink(missing_ok=True)
        else:
            _remove_ours(model)
    return sum(model.bytes for model in doomed)


def _quantized() -> list[OnDisk]:
    return [
        OnDisk(one.name, one.path, one.path.stat().st_size, f"made here of {one.model}", "quantized")
        for one in quantized.listing()
    ]


def _partial() -> list[OnDisk]:
    folder = paths.models_dir()
    found = []
    for path in sorted(folder.glob(".partial-*")):
        match = _PARTIAL.fullmatch(path.name)
        if match is not None and path.is_dir() and not path.is_symlink():
            size = watch.folder_bytes(path)
            found.append(OnDisk(match["name"], path, size, "package index, unfinished", "partial"))
    return found


def _in_hub_cache() -> list[OnDisk]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(hub.cache_folder())
    except (CacheNotFound, ValueError):
        return []
    return [
        OnDisk(repo.repo_id, repo.repo_path, repo.size_on_disk, f"hub {repo.repo_id}", "hub")
        for repo in sorted(cache.repos, key=lambda repo: repo.repo_id)
        if repo.repo_type == "model"
    ]


def _remove_from_hub_cache(model: OnDisk) -> None:
    from huggingface_hub import scan_cache_dir

    cache = scan_cache_dir(hub.cache_folder())
    commits = [
        revision.commit_hash
        for repo in cache.repos
        if repo.repo_type == "model" and repo.repo_id == model.name
        for revision in repo.revisions
    ]
    cache.delete_revisions(*commits).execute()


def _remove_ours(model: OnDisk) -> None:
    root = paths.models_dir().resolve()
    if model.path.is_symlink() or model.path.resolve().parent != root:
        raise RequestError(f"`{model.name}` is a link out of `{root}` and is left alone")
    # One rename makes it vanish as a whole; what follows cannot leave half a model. rmtree follows no links.
    try:
        bin_folder = Path(tempfile.mkdtemp(prefix=f".work-{os.getpid()}-removed-", dir=root))
        model.path.rename(bin_folder / "model")
        shutil.rmtree(bin_folder)
    except OSError as error:
        raise MachineError(f"cannot remove `{model.path}`: {error.strerror or error}") from error
