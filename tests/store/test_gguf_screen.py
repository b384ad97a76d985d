from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_fakes import GgufFile, gguf_tensor, key_value, string

from specctl.errors import ModelFileError
from specctl.store import gguf_screen

GOOD = GgufFile().bytes()


def read(folder: Path, content: bytes) -> gguf_screen.GgufHeader:
    path = folder / "model.gguf"
    path.write_bytes(content)
    return gguf_screen.read(path)


def test_good_file(tmp_path: Path) -> None:
    header = read(tmp_path, GOOD)
    assert header.architecture == "llama"
    assert [(t.name, t.shape, t.n_bytes) for t in header.tensors] == [("a", (4,), 16), ("b", (8, 2), 64)]
    assert header.tensors[1].offset + 64 == len(GOOD)


def lying(change: Callable[[GgufFile], None]) -> bytes:
    file = GgufFile()
    change(file)
    return file.bytes()


def with_tensors(*tensors: bytes) -> bytes:
    return lying(lambda file: file.__setattr__("tensors", list(tensors)))


def with_value(value: bytes) -> bytes:
    return lying(lambda file: file.metadata.append(string("x") + value))


A, B = gguf_tensor("a", [4], 0, 0), gguf_tensor("b", [2, 8], 0, 32)
LYING: dict[str, bytes] = {
    "empty": b"",
    "short": GOOD[:20],
    "metadata cut off": GOOD[:50],
    "data cut off": GOOD[:-1],
    "magic": lying(lambda file: file.__setattr__("magic", b"GGML")),
    "version 1": lying(lambda file: file.__setattr__("version", 1)),
    "big endian": lying(lambda file: file.__setattr__("version", 3 << 24)),
    "no tensors": with_tensors(),
    "too many tensors": lying(lambda file: file.__setattr__("n_tensors", 1 << 40)),
    "more tensors than there are": lying(lambda file: file.__setattr__("n_tensors", 5)),
    "too many keys": lying(lambda file: file.__setattr__("n_keys", 1 << 63)),
    "key twice": lying(lambda file: file.metadata.append(key_value("general.architecture", "llama"))),
    "empty key": lying(lambda file: file.metadata.append(key_value("", 1))),
    "key with an escape": lying(lambda file: file.metadata.append(key_value("\x1b]0;x", 1))),
    "string past the end": with_value(struct.pack("<IQ", 8, 1 << 30)),
    "string longer than any": with_value(struct.pack("<IQ", 8, (1 << 64) - 1)),
    "unknown value type": with_value(struct.pack("<I", 99)),
    "list past the end": with_value(struct.pack("<IIQ", 9, 4, 900_000)),
    "list longer than any": with_value(struct.pack("<IIQ", 9, 0, 1 << 62)),
    "list of lists": with_value(struct.pack("<IIQ", 9, 9, 1)),
    "tensor twice": with_tensors(A, A),
    "name with an escape": with_tensors(gguf_tensor("a\x1b[2J", [4], 0, 0)),
    "no dimensions": with_tensors(gguf_tensor("a", [], 0, 0)),
    "five dimensions": with_tensors(gguf_tensor("a", [1, 1, 1, 1, 1], 0, 0)),
    "dimension zero": with_tensors(gguf_tensor("a", [0], 0, 0)),
    "product overflows 64 bits": with_tensors(gguf_tensor("a", [1 << 32, 1 << 32, 4], 0, 0)),
    "bytes overflow 64 bits": with_tensors(gguf_tensor("a", [1 << 62], 0, 0)),
    "offset past the end": with_tensors(gguf_tensor("a", [4], 0, 1 << 32)),
    "offset wraps around": with_tensors(gguf_tensor("a", [4], 0, (1 << 64) - 32)),
    "offset not aligned": with_tensors(gguf_tensor("a", [4], 0, 8)),
    "overlap": with_tensors(A, gguf_tensor("b", [2, 8], 0, 0)),
    "unknown tensor type": with_tensors(gguf_tensor("a", [4], 200, 0)),
    "row not whole blocks": with_tensors(gguf_tensor("a", [33], 8, 0)),
    "alignment not a power of two": lying(lambda file: file.metadata.append(key_value("general.alignment", 48))),
    "alignment zero": lying(lambda file: file.metadata.append(key_value("general.alignment", 0))),
    "alignment is a text": lying(lambda file: file.metadata.append(key_value("general.alignment", "32"))),
}  # fmt: skip


@pytest.mark.parametrize("case", LYING)
def test_lying_file(tmp_path: Path, case: str) -> None:
    with pytest.raises(ModelFileError, match="is broken") as caught:
        read(tmp_path, LYING[case])
    assert caught.value.message.isprintable()


def of_kind(architecture: str, *metadata: bytes, tensors: tuple[bytes, ...] = (A, B)) -> bytes:
    file = GgufFile()
    file.metadata = [key_value("general.architecture", architecture), *metadata]
    file.tensors = list(tensors)
    return file.bytes()


UNSUPPORTED = {
    "cannot be rolled back": of_kind("mamba2"),
    "mixture-of-experts": of_kind("llama", key_value("llama.expert_count", 8)),
    "`bert` models are not supported": of_kind("bert"),
    r"`\\x1b\[2J` models": of_kind("\x1b[2J"),
    "one part of a split file": of_kind("llama", key_value("split.count", 3)),
    "scales its rotary positions": of_kind("llama", key_value("llama.rope.scaling.type", "yarn")),
    "rotary positions": of_kind("llama", tensors=(A, gguf_tensor("rope_freqs.weight", [4], 0, 32))),
}


@pytest.mark.parametrize("reason", UNSUPPORTED)
def test_unsupported_file(tmp_path: Path, reason: str) -> None:
    with pytest.raises(ModelFileError, match=reason) as caught:
        read(tmp_path, UNSUPPORTED[reason])
    assert caught.value.hint


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8))
@settings(max_examples=500, deadline=None)
def test_mutated_file_passes_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, patch: bytes
) -> None:
    folder = tmp_path_factory.mktemp("mutant")
    with contextlib.suppress(ModelFileError):
        read(folder, GOOD[:at] + patch + GOOD[at + len(patch) :])
