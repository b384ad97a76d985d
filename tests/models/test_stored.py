"""Stored drafts: the same bits as made ones, mapped, and refused where they are not this model's or machine's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fakes import tiny_module
from specctl import paths
from specctl.errors import MachineError, MissingError, ModelFileError
from specctl.models import cheap, saving, trimmed
from specctl.models.lm import LM
from specctl.models.quantize import SCHEMES, Scheme, stored
from specctl.models.quantize.forms import form_of
from specctl.store import inventory, quantized
from specctl.store.safetensors_screen import read_header

KEPT = torch.arange(0, 48, 3)


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SPECCTL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def model(kind: str = "llama", seed: int = 0, **changes: Any) -> LM:
    return LM(tiny_module(kind, seed, torch.bfloat16, intermediate_size=64, **changes), "a/Tiny.Model")


def said(lm: LM) -> torch.Tensor:
    cache = lm.new_cache()
    cache.admit()
    return lm.forward(cache, [[5, 9, 4, 7]], range(1))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("llama", {}), ("qwen2", {"tie_word_embeddings": True}), ("olmo2", {})],
    ids=["fused", "fused-biased-tied", "generic"],
)
def test_a_stored_draft_has_the_bits_of_one_made_now(kind: str, changes: Any, scheme: Scheme) -> None:
    lm = model(kind, **changes)
    path = cheap.stored_path(lm, scheme)
    found, note = cheap.find(lm, scheme, lm, None)
    assert note is None
    assert found is not None
    mapped, _ = cheap.cheapened(lm, scheme, found)
    made, _ = cheap.cheapened(lm, scheme)
    assert torch.equal(said(mapped), said(made))
    assert (mapped.name, mapped.dtype) == (made.name, made.dtype)
    assert not any(parameter.is_meta for parameter in mapped.module.parameters())
    written = path.stat().st_mtime_ns
    assert cheap.stored_path(lm, scheme) == path
    assert path.stat().st_mtime_ns == written, "what is there and fits is left alone"


def test_nothing_is_quantised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model()
    cheap.stored_path(lm, "int4")
    found, _ = cheap.find(lm, "int4", lm, None)

    def refuse(*_: Any) -> None:
        raise AssertionError("it was made")

    monkeypatch.setattr(form_of("int4", torch.device("cpu")), "__init__", refuse)
    cheap.cheapened(lm, "int4", found)


@pytest.mark.parametrize("with_head", [True, False])
def test_a_trimmed_head_goes_with_it(with_head: bool, data: Path) -> None:
    whole = model()
    lm = trimmed.trimmed(whole, trimmed.cut(whole, KEPT))
    cheap.stored_path(whole, "int4")
    if with_head:
        cheap.store_head(lm, "int4", data)
    found, note = cheap.find(lm, "int4", whole, data)
    assert found is not None
    assert (found.head is not None, note) == (with_head, None)
    mapped, _ = cheap.cheapened(lm, "int4", found)
    made, _ = cheap.cheapened(lm, "int4")
    assert torch.equal(said(mapped), said(made))
    assert said(mapped).shape[-1] == len(KEPT)


def test_a_head_of_other_rows_is_refused(data: Path) -> None:
    whole = model()
    cheap.stored_path(whole, "int4")
    cheap.store_head(trimmed.trimmed(whole, trimmed.cut(whole, KEPT)), "int4", data)
    other = trimmed.trimmed(whole, trimmed.cut(whole, KEPT + 1))
    found, note = cheap.find(other, "int4", whole, data)
    assert found is not None
    assert found.head is None
    assert note is not None
    assert "was made from other weights" in note


def other_weights(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model(seed=1)
    os.replace(cheap.stored_path(lm, "int4"), path)


def other_torch(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "9.9.9")


def other_cpu(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that wants its blocks the other way round."""
    from specctl.models.quantize import int4, int4_dot

    pack, packed = int4._pack, int4_dot._packed
    monkeypatch.setattr(int4, "_pack", lambda levels: pack(levels).flip(0))
    monkeypatch.setattr(int4_dot, "_packed", lambda *given: packed(*given).flip(0))


def other_version(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "FORMAT", "specctl-quantized-2")


def cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(path.read_bytes()[:-7])


SPOILT: list[tuple[Callable[..., None], str]] = [
    (other_weights, "made from other weights"),
    (other_torch, "another version of torch"),
    (other_cpu, "packed for another kind of CPU"),
    (other_version, "not a stored draft of this version"),
    (cut_off, "is broken"),
]


@pytest.mark.parametrize(("spoil", "why"), SPOILT, ids=[spoil.__name__ for spoil, _ in SPOILT])
def test_what_is_foreign_or_stale_is_made_anew_and_said(
    spoil: Callable[..., None], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = model()
    path = cheap.stored_path(lm, "int4")
    spoil(path, monkeypatch)
    found, note = cheap.find(lm, "int4", lm, None)
    assert found is None
    assert note is not None
    assert why in note
    assert cheap.stored_path(lm, "int4") == path
    assert cheap.find(lm, "int4", lm, None)[0] is not None, "the same command mends it"


def test_a_file_with_other_layers_is_refused() -> None:
    """Its name and facts may fit, a shape that a kernel would read past its end must not."""
    lm = model()
    path = cheap.stored_path(lm, "int4")
    with pytest.raises(ModelFileError, match="does not hold `lm_head`"):
        stored.read(path, "int4", cheap.fingerprint(lm)).layer("lm_head", (64, 32), None)


def test_only_what_it_is_for_is_looked_up() -> None:
    lm = model()
    cheap.stored_path(lm, "int4")
    wide = LM(tiny_module(dtype=torch.float32, intermediate_size=64), "wide")
    for one, scheme in ((lm, "int8"), (lm, None), (wide, "int4"), (model(seed=1), "int4")):
        assert cheap.find(one, scheme, one, None) == (None, None)  # type: ignore[arg-type]


def test_a_model_without_such_products_is_not_stored() -> None:
    with pytest.raises(ModelFileError, match="no product in `int4`"):
        cheap.stored_path(LM(tiny_module(dtype=torch.float32), "wide"), "int4")
    assert inventory.models() == []


def test_it_is_listed_and_removed() -> None:
    path = cheap.stored_path(model(), "int4")
    listed = inventory.models()
    assert [(one.name, one.kind, one.bytes) for one in listed] == [
        ("tiny.model.int4", "quantized", path.stat().st_size)
    ]
    assert inventory.path("tiny.model.int4") == path
    assert inventory.remove("tiny.model.int4") == listed[0].bytes
    assert not path.exists()
    with pytest.raises(MissingError):
        inventory.remove("tiny.model.int4")


def test_other_files_are_nobodys(data: Path) -> None:
    cheap.stored_path(model(), "int4")
    (paths.quantized_dir() / "notes.safetensors").write_bytes(b"")
    assert len(quantized.listing()) == 1


def test_a_write_that_fails_leaves_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="No space left"):
        cheap.stored_path(model(), "int4")
    assert list(paths.quantized_dir().iterdir()) == []


def test_a_saved_file_is_safetensors_and_starts_on_a_cache_line(data: Path) -> None:
    tensors = {
        "a": torch.arange(7, dtype=torch.int64),
        "b": torch.randn(3, 5).bfloat16().T,
        "c": torch.arange(9, dtype=torch.uint8).view(3, 3),
    }
    path = saving.save_whole(data / "x.safetensors", tensors, {"format": "1"})
    loaded = load_file(path)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert read_header(path).keys() == tensors.keys()
    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 64 == 0
