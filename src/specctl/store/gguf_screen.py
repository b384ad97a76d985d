"""Read a GGUF file's header without believing it, before any library maps the file.

llama.cpp and Ollama had size arithmetic that overflowed and tensors that lay beyond the end of the file
(CVE-2026-27940, CVE-2026-33298, CVE-2026-7482). Here every count is bounded, every product is a Python int.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from specctl.errors import ModelFileError

_MAX_COUNT = 1_000_000
_MAX_STRING = 1 << 20
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"
}  # fmt: skip
_KEPT_ARRAYS = frozenset({"tokenizer.ggml.token_type", "tokenizer.ggml.tokens"})
_RECURRENT = ("mamba", "rwkv", "jamba", "falcon-h1", "lfm2", "plamo2", "qwen3next", "qwen35", "granitehybrid",
              "nemotron_h", "recurrentgemma")  # fmt: skip
# What transformers can name the tensors of, among the models specctl loads.
ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3"})


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`shape` is in row-major order, as torch has it; `offset` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int
    n_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Scalars and strings of the metadata, the token list and its types, and where each tensor lies."""

    architecture: str
    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]

    @property
    def elements(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)


def read(path: Path) -> GgufHeader:
    """Raises ModelFileError for a file that lies, and for models specctl cannot turn into safetensors."""
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) < 24:
                _broken(path.name, "it is too short")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                header = _Reader(data, path.name).header()
    except OSError as error:
        raise ModelFileError(f"cannot read `{path}`: {error.strerror or error}") from error
    _check_supported(header, path.name)
    return header


class _Reader:
    """A cursor over the mapped file; every step is checked against its end."""

    def __init__(self, data: mmap.mmap, where: str) -> None:
        self._data = data
        self._where = where
        self._at = 0

    def header(self) -> GgufHeader:
        magic, version, n_tensors, n_keys = self._unpack("4sIQQ")
        if magic != b"GGUF":
            _broken(self._where, "it does not start with `GGUF`")
        if version not in (2, 3):
            _broken(self._where, f"its version is {version}, not 2 or 3 (or its byte order is not ours)")
        if not 0 < n_tensors <= _MAX_COUNT or n_keys > _MAX_COUNT:
            _broken(self._where, "it claims an impossible number of entries")
        metadata: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self._name()
            if key in metadata:
                _broken(self._where, f"the key `{key}` is there twice")
            metadata[key] = self._value(self._unpack("I")[0], key in _KEPT_ARRAYS)
        entries = [self._entry() for _ in range(n_tensors)]
        if len({entry[0] for entry in entries}) != n_tensors:
            _broken(self._where, "a tensor is there twice")
        tensors = self._place(entries, metadata.get("general.alignment", 32))
        return GgufHeader(str(metadata.get("general.architecture", "")), metadata, tensors)

    def _unpack(self, form: str) -> tuple[Any, ...]:
        form = "<" + form
        end = self._at + struct.calcsize(form)
        if end > len(self._data):
            _broken(self._where, "it is cut off")
        values = struct.unpack_from(form, self._data, self._at)
        self._at = end
        return values

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        if length > _MAX_STRING or self._at + length > len(self._data):
            _broken(self._where, "a text in it is too long or cut off")
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8", errors="replace")

    def _name(self) -> str:
        name = self._string()
        # Names reach the terminal: no escape sequences (llama.cpp#28969).
        if not name or len(name) > 256 or not name.isprintable():
            _broken(self._where, "a name in it is empty, too long or unprintable")
        return name

    def _value(self, kind: int, keep: bool) -> Any:
        if kind == _STRING:
            return self._string()
        if kind in _SCALARS:
            return self._unpack(_SCALARS[kind])[0]
        if kind != _ARRAY:
            _broken(self._where, f"a value has the unknown type {kind}")
        item, count = self._unpack("IQ")
        if count > _MAX_COUNT:
            _broken(self._where, "a list in it is too long")
        if item == _STRING:
            strings = [self._string() for _ in range(count)]
            return strings if keep else None
        if item not in _SCALARS:
            _broken(self._where, "a list in it is of an unknown or nested type")
        values = self._unpack(f"{count}{_SCALARS[item]}")
        return list(values) if keep or count <= 64 else None

    def _entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._name()
        (n_dims,) = self._unpack("I")
        if not 1 <= n_dims <= 4:
            _broken(self._where, f"`{name}` has {n_dims} dimensions")
        dims = self._unpack(f"{n_dims}Q")
        ggml_type, offset = self._unpack("IQ")
        return name, tuple(reversed(dims)), ggml_type, offset

    def _place(
        self, entries: list[tuple[str, tuple[int, ...], int, int]], alignment: Any
    ) -> tuple[GgufTensor, ...]:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        if type(alignment) is not int or not 8 <= alignment <= 1 << 16 or alignment & (alignment - 1):
            _broken(self._where, "its alignment is not a power of two")
        start = -(-self._at // alignment) * alignment
        tensors = []
        for name, shape, ggml_type, offset in entries:
            if ggml_type not in {kind.value for kind in GGMLQuantizationType}:
                _broken(self._where, f"`{name}` has the unknown type {ggml_type}")
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(ggml_type)]
            elements = math.prod(shape)
            if elements == 0 or shape[-1] % block:
                _broken(self._where, f"the shape of `{name}` is impossible")
            n_bytes = elements // block * block_bytes
            if offset % alignment or start + offset + n_bytes > len(self._data):
                _broken(self._where, f"`{name}` lies beyond the end of the file or is not aligned")
            tensors.append(GgufTensor(name, shape, ggml_type, start + offset, n_bytes))
        end = 0
        for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
            if tensor.offset < end:
                _broken(self._where, f"`{tensor.name}` overlaps another tensor")
            end = tensor.offset + tensor.n_bytes
        return tuple(tensors)


def _check_supported(header: GgufHeader, where: str) -> None:
    name = header.architecture[:40].encode("unicode_escape").decode()
    hint = f"supported in GGUF files: {', '.join(sorted(ARCHITECTURES))}"
    if name.startswith(_RECURRENT):
        raise ModelFileError(
            f"`{where}` is a recurrent or hybrid model (`{name}`): its state cannot be rolled back when a "
            "draft is rejected",
            hint=hint,
        )
    if "moe" in name or header.metadata.get(f"{header.architecture}.expert_count", 0):
        raise ModelFileError(f"`{where}`: mixture-of-experts models are not supported yet", hint=hint)
    if header.architecture not in ARCHITECTURES:
        raise ModelFileError(f"`{where}`: `{name}` models are not supported yet", hint=hint)
    if header.metadata.get("split.count", 0) not in (0, 1):
        raise ModelFileError(
            f"`{where}` is one part of a split file", hint="join the parts first (llama-gguf-split --merge)"
        )
    # The conversion would drop these and the model would drift on long texts.
    scaling = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    if scaling != "none" or any(tensor.name.startswith("rope_") for tensor in header.tensors):
        raise ModelFileError(
            f"`{where}` scales its rotary positions, which is not kept when a GGUF file is converted",
            hint="take the same model as safetensors",
        )


def _broken(where: str, reason: str) -> NoReturn:
    raise ModelFileError(f"`{where}` is broken: {reason}", hint="take another copy of the file")
