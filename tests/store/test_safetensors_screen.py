from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_fakes import GOOD_DATA, GOOD_HEADER, safetensors_bytes, tensor

from specctl.errors import ModelFileError
from specctl.store import safetensors_screen

GOOD = safetensors_bytes(GOOD_HEADER, GOOD_DATA)


def read(tmp_path: Path, content: bytes) -> dict[str, safetensors_screen.TensorInfo]:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return safetensors_screen.read_header(path)


def test_good_file(tmp_path: Path) -> None:
    tensors = read(tmp_path, GOOD)
    assert tensors["a"].elements == 6
    assert (tensors["b"].dtype, tensors["b"].begin, tensors["b"].end) == ("F32", 12, 28)


def test_what_the_library_writes_passes(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file(
        {"x": torch.zeros(3, 5), "scalar": torch.zeros(()), "empty": torch.zeros(0, 4)}, tmp_path / "m.st"
    )
    assert read(tmp_path, (tmp_path / "m.st").read_bytes())["x"].shape == (3, 5)


def changed(**entries: Any) -> dict[str, Any]:
    return {**GOOD_HEADER, **entries}


A = tensor([2, 3], 0, 12)
LYING: dict[str, bytes] = {
    "empty file": b"",
    "seven bytes": GOOD[:7],
    "header cut off": GOOD[:40],
    "data cut off": GOOD[:-1],
    "data too long": GOOD + b"\0",
    "length zero": struct.pack("<Q", 0) + GOOD[8:],
    "length huge": struct.pack("<Q", 1 << 62) + GOOD[8:],
    "length negative": struct.pack("<q", -1) + GOOD[8:],
    "length past the end": struct.pack("<Q", len(GOOD)) + GOOD[8:],
    "not an object": safetensors_bytes([1], GOOD_DATA),
    "leading space": safetensors_bytes(b" " + json.dumps(GOOD_HEADER).encode(), GOOD_DATA),
    "broken JSON": safetensors_bytes(b'{"a": ', GOOD_DATA),
    "key twice": safetensors_bytes(
        b'{"a":' + json.dumps(A).encode() + b',"a":' + json.dumps(A).encode() + b"}", bytes(12)
    ),
    "overlap": safetensors_bytes(changed(b=tensor([4], 8, 24, "F32")), bytes(24)),
    "same place": safetensors_bytes({"a": A, "b": A}, bytes(12)),
    "hole": safetensors_bytes(changed(b=tensor([4], 16, 32, "F32")), bytes(32)),
    "does not start at zero": safetensors_bytes({"a": tensor([2, 3], 4, 16)}, bytes(16)),
    "shape too large": safetensors_bytes(changed(a=tensor([2, 4], 0, 12)), GOOD_DATA),
    "shape overflows 64 bits": safetensors_bytes(changed(a=tensor([1 << 61, 8, 8], 0, 12)), GOOD_DATA),
    "negative size": safetensors_bytes(changed(a=tensor([-2, -3], 0, 12)), GOOD_DATA),
    "size is a float": safetensors_bytes(changed(a={**A, "shape": [2.0, 3]}), GOOD_DATA),
    "size is a bool": safetensors_bytes(changed(a={**A, "shape": [True, 6]}), GOOD_DATA),
    "begin after end": safetensors_bytes(changed(a=tensor([2, 3], 12, 0)), GOOD_DATA),
    "one offset": safetensors_bytes(changed(a={**A, "data_offsets": [0]}), GOOD_DATA),
    "unknown type": safetensors_bytes(changed(a=tensor([2, 3], 0, 12, "F128")), GOOD_DATA),
    "type is a list": safetensors_bytes(changed(a={**A, "dtype": ["BF16"]}), GOOD_DATA),
    "extra key": safetensors_bytes(changed(a={**A, "code": "x"}), GOOD_DATA),
    "no shape": safetensors_bytes(changed(a={"dtype": "BF16", "data_offsets": [0, 12]}), GOOD_DATA),
    "entry is a number": safetensors_bytes(changed(a=3), GOOD_DATA),
    "name with an escape": safetensors_bytes({"a\x1b[31m": A}, bytes(12)),
    "header over the limit": safetensors_bytes(b'{"x": "' + b"y" * (9 << 20) + b'"}', b""),
}


@pytest.mark.parametrize("case", LYING)
def test_lying_file(tmp_path: Path, case: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        read(tmp_path, LYING[case])
    assert caught.value.message.isprintable()


@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_mutated_file_passes_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, patch: bytes
) -> None:
    folder = tmp_path_factory.mktemp("mutant")
    with contextlib.suppress(ModelFileError):
        read(folder, GOOD[:at] + patch + GOOD[at + len(patch) :])


def shards(tmp_path: Path, weight_map: Any) -> dict[str, safetensors_screen.TensorInfo]:
    (tmp_path / "one.safetensors").write_bytes(safetensors_bytes({"a": A}, bytes(12)))
    (tmp_path / "two.safetensors").write_bytes(safetensors_bytes({"b": A}, bytes(12)))
    return safetensors_screen.index_files(tmp_path, {"weight_map": weight_map})


def test_shards(tmp_path: Path) -> None:
    assert shards(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"}).keys() == {"a", "b"}


@pytest.mark.parametrize(
    "weight_map",
    [
        None,
        {},
        {"a": "one.safetensors", "b": "three.safetensors"},
        {"a": "one.safetensors", "b": "one.safetensors"},
        {"a": "../store/one.safetensors"},
        {"a": "/etc/passwd"},
        {"a": "one.safetensors\\..\\x"},
        {"a": 3},
    ],
)
def test_lying_index(tmp_path: Path, weight_map: Any) -> None:
    with pytest.raises(ModelFileError):
        shards(tmp_path, weight_map)
