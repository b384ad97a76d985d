"""A trimmed head on disk: rows and map in one file, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save_file

from specctl.errors import RequestError
from specctl.models.trimmed import FILE, FORMAT, Head, map_digest
from specctl.store import files
from specctl.trim import calibration, export


def write(folder: Path, head: Head, *, tokenizer: str, facts: dict[str, str]) -> Path:
    """`facts` go into the file's metadata beside what loading checks. Raises MachineError if the disk refuses."""
    tensors = {"ids": head.ids, "weight": head.weight}
    if head.bias is not None:
        tensors["bias"] = head.bias
    known = {"format": FORMAT, "tokenizer": tokenizer, "map": map_digest(head.ids, tokenizer)}
    n_bytes = sum(tensor.nbytes for tensor in tensors.values())
    path = folder / FILE
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with files.disk_errors(str(path)):
        folder.mkdir(parents=True, exist_ok=True)
        files.ensure_space(folder, n_bytes, str(path))
        try:
            save_file(tensors, partial, metadata={**facts, **known})
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.chmod(0o644)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def require_free(folder: Path, *, force: bool) -> None:
    """Raises RequestError for a folder that holds anything but an unfinished calibration of ours."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RequestError(f"`{folder}` is not a folder", hint="choose another name")
    ours = {FILE, calibration.FILE, *export.FILES.values()}
    others = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - ours
    if others:
        raise RequestError(f"`{folder}` holds other files", hint="choose a new folder")
    if (folder / FILE).exists() and not force:
        raise RequestError(
            f"`{folder}` already holds a trimmed head", hint="--force replaces it, and keeps its calibration"
        )
