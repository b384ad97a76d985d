"""A trimmed head on disk: rows and map in one file, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from specctl.errors import RequestError
from specctl.models.cheap import head_path
from specctl.models.quantize import SCHEMES
from specctl.models.saving import save_whole
from specctl.models.trimmed import FILE, FORMAT, Head, map_digest
from specctl.trim import calibration, expected, export


def write(folder: Path, head: Head, *, tokenizer: str, facts: dict[str, str]) -> Path:
    """`facts` go into the file's metadata beside what loading checks. Raises MachineError if the disk refuses."""
    tensors = {"ids": head.ids, "weight": head.weight}
    if head.bias is not None:
        tensors["bias"] = head.bias
    known = {"format": FORMAT, "tokenizer": tokenizer, "map": map_digest(head.ids, tokenizer)}
    for name in _made_of_it():  # of the rows that were here
        (folder / name).unlink(missing_ok=True)
    return save_whole(folder / FILE, tensors, {**facts, **known})


def require_free(folder: Path, *, force: bool) -> None:
    """Raises RequestError for a folder that holds anything but an unfinished calibration of ours."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RequestError(f"`{folder}` is not a folder", hint="choose another name")
    ours = {FILE, calibration.FILE, expected.FILE, *_made_of_it()}
    others = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - ours
    if others:
        raise RequestError(f"`{folder}` holds other files", hint="choose a new folder")
    if (folder / FILE).exists() and not force:
        raise RequestError(
            f"`{folder}` already holds a trimmed head", hint="--force replaces it, and keeps its calibration"
        )


def _made_of_it() -> list[str]:
    """Files that hold a trimmed head in another form."""
    return [*export.FILES.values(), *(head_path(Path(), scheme).name for scheme in SCHEMES)]
