"""Which models were verified: the hashes of what was on disk, so that a report can be held against them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from specctl.store import files

_WEIGHTS = ("*.safetensors", "config.json", "generation_config.json")


def identify(target: tuple[str, Path], draft: tuple[str, Path] | None) -> dict[str, Any]:
    """Name and folder of each. Reads every byte of the weights: a manifest only says what they were once."""
    return {
        "target": _model(*target),
        "draft": None if draft is None else _model(*draft),
        "tokenizer_sha256": files.sha256(target[1] / "tokenizer.json"),
    }


@cache
def _model(name: str, folder: Path) -> dict[str, Any]:
    paths = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))
    manifest = files.read_manifest(folder)
    return {
        "id": name,
        "revision": _revision(folder),
        "origin": None if manifest is None else manifest.origin.label,
        "sha256": {path.name: files.sha256(path) for path in paths},
    }


def _revision(folder: Path) -> str | None:
    """The commit, for a snapshot in the hub client's cache."""
    return folder.name if folder.parent.name == "snapshots" else None
