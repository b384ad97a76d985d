"""Maps as other engines read them. Inside, kept ids are ascending and plain; these are the border.

`d2t`: EAGLE-3, speculators, SpecForge, vLLM: `d2t[j] = id - j`, an offset, and `t2d` a mask over the target's ids.
`token-map`: FR-Spec, SGLang: the kept ids, the most frequent first.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from specctl.errors import ModelFileError
from specctl.store import files

FILES = {"d2t": "d2t.safetensors", "token-map": "token-map.pt"}


def to_d2t(ids: Tensor, vocab_size: int) -> dict[str, Tensor]:
    """`d2t` int64 `[k]` and `t2d` bool `[vocab_size]`."""
    t2d = torch.zeros(vocab_size, dtype=torch.bool)
    t2d[ids] = True
    return {"d2t": ids - torch.arange(len(ids)), "t2d": t2d}


def from_d2t(tensors: dict[str, Tensor]) -> Tensor:
    """Kept ids, ascending. Raises ModelFileError if the two tensors contradict each other.

    A map of zeros alone means that draft j is target j: what engines fall back to when a map is lost.
    """
    ids = tensors["d2t"] + torch.arange(len(tensors["d2t"]))
    if not torch.equal(tensors["t2d"].nonzero()[:, 0], ids):
        raise ModelFileError("`d2t` and `t2d` contradict each other", hint="export them again")
    return ids


def to_token_map(ids: Tensor, counts: Tensor) -> Tensor:
    """Kept ids, the most frequent first; of equals the lower."""
    return ids[counts[ids].sort(descending=True, stable=True).indices]


def from_token_map(listed: Tensor) -> Tensor:
    """Kept ids, ascending. Raises ModelFileError for ids that are there twice."""
    ids = listed.sort().values
    if bool((ids[1:] == ids[:-1]).any()):
        raise ModelFileError("the token map lists an id twice")
    return ids


def write(folder: Path, form: str, ids: Tensor, counts: Tensor) -> Path:
    """`d2t` as safetensors, `token-map` as the torch file SGLang reads, beside the head. `counts` is over the
    target's vocabulary. Raises MachineError.
    """
    path = folder / FILES[form]
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with files.disk_errors(str(path)):
        try:
            if form == "d2t":
                save_file(to_d2t(ids, len(counts)), partial)
            else:
                torch.save(to_token_map(ids, counts), partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path
