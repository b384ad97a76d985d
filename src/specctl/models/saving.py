"""Tensors on disk as a whole: space first, a partial file, fsync, one rename."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specctl.store import files

_LINE = 64
"""Where the first tensor starts is a multiple of a cache line, for kernels that read a mapped file line by line."""

_NAMES = {
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int64: "I64",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float32: "F32",
    torch.float64: "F64",
}


def save_whole(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> Path:
    """A safetensors file; what was at `path` stays until it is whole. Raises MachineError if the disk refuses."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with files.disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.ensure_space(path.parent, sum(tensor.nbytes for tensor in tensors.values()), str(path))
        try:
            with partial.open("wb") as out:
                out.write(_header(tensors, facts))
                for tensor in tensors.values():
                    out.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
                out.flush()
                os.fsync(out.fileno())
            partial.chmod(0o644)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def _header(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(facts)}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _LINE)
    return len(text).to_bytes(8, "little") + text
