"""Read a safetensors header without believing it: size, keys, overlap, offsets, end of file."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from specctl.errors import ModelFileError
from specctl.store import strict_json

# The format allows 100 MB; a dense model's header is far below 2 MB.
_MAX_HEADER = 8 << 20
_WIDTH = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one file. Raises ModelFileError for anything that does not add up."""
    where = f"{path.parent.name}/{path.name}"
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 2 <= length <= _MAX_HEADER or 8 + length > size:
                _broken(where, "its header is cut off or of an impossible length")
            text = file.read(length)
    except OSError as error:
        raise ModelFileError(f"cannot read `{where}`: {error.strerror}") from error
    if text[:1] != b"{":
        _broken(where, "its header does not start with `{`")
    header = strict_json.loads(text, where, max_bytes=_MAX_HEADER)
    header.pop("__metadata__", None)
    tensors = {name: _tensor(name, entry, where) for name, entry in header.items()}
    _check_layout(tensors, size - 8 - length, where)
    return tensors


def index_files(folder: Path, index: dict[str, Any]) -> dict[str, TensorInfo]:
    """The tensors of all shards, which must be exactly those the index names."""
    where = f"{folder.name}/model.safetensors.index.json"
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        _broken(where, "it has no `weight_map`")
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted({str(name) for name in weight_map.values()}):
        if Path(shard).name != shard or "\\" in shard or not shard.endswith(".safetensors"):
            _broken(where, "it names a file outside the folder")
        if not (folder / shard).is_file():
            raise ModelFileError(f"`{folder.name}` lacks `{shard}`", hint="pull the model again")
        found = read_header(folder / shard)
        named = {name for name, home in weight_map.items() if home == shard}
        if named != found.keys():
            _broken(where, f"it does not list what `{shard}` holds")
        tensors.update(found)
    return tensors


def _tensor(name: str, entry: Any, where: str) -> TensorInfo:
    if not name.isprintable() or len(name) > 512:
        _broken(where, "a tensor has an unprintable name")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _broken(where, f"the entry of `{name}` is malformed")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _WIDTH:
        _broken(where, f"`{name}` has the type {str(dtype)[:20]!r}, which is not supported")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        _broken(where, f"the shape or place of `{name}` is not made of sizes")
    info = TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])
    if info.end - info.begin != info.elements * _WIDTH[dtype]:
        _broken(where, f"the place of `{name}` does not match its shape")
    return info


def _are_sizes(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= 8
        and all(type(value) is int and 0 <= value < 1 << 62 for value in values)
    )


def _check_layout(tensors: dict[str, TensorInfo], n_bytes: int, where: str) -> None:
    position = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != position:
            _broken(where, f"`{name}` overlaps another tensor or leaves a hole")
        position = info.end
    if position != n_bytes:
        _broken(
            where, f"it ends {abs(n_bytes - position)} bytes too {'late' if n_bytes > position else 'early'}"
        )


def _broken(where: str, reason: str) -> NoReturn:
    raise ModelFileError(f"`{where}` is broken: {reason}", hint="pull the model again, or take another copy")
