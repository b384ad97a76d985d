"""Layers in one call of our own: what torch computes, whoever is beside a row, and nothing where it cannot be."""

from __future__ import annotations

import copy
import ctypes
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import tiny_module
from specctl.models.cheap import cheapened
from specctl.models.fused import FusedDecoder
from specctl.models.kernels import build, stack
from specctl.models.lm import LM, Tree
from specctl.models.quantize import int4_dot
from specctl.models.quantize.int4 import Int4Linear
from specctl.models.quantize.int4_dot import Int4Dot

needs_kernels = pytest.mark.skipif(build.built() is None, reason=f"no kernels here: {build.lacking()}")

KINDS = [
    pytest.param("llama", {}, id="llama"),
    pytest.param("llama", {"attention_bias": True, "num_key_value_heads": 1}, id="llama-biased-one-key-head"),
    pytest.param("qwen2", {"num_key_value_heads": 4}, id="qwen2-ungrouped"),
    pytest.param("qwen3", {"head_dim": 16}, id="qwen3"),
]
CLOSE = 0.06
"""Activations are rounded to 8 bits in one and to bfloat16 in the other."""


def draft(kind: str = "llama", **changes: Any) -> LM:
    module = tiny_module(kind, dtype=torch.bfloat16, intermediate_size=64, **changes)
    lm, note = cheapened(LM(module, "tiny"), "int4")
    assert note is None
    return lm


def forwards(lm: LM) -> Iterator[Tensor]:
    """Ragged rows, blocks, single tokens, a rollback, a row moved behind padding, and a tree."""
    cache = lm.new_cache()
    for length in (5, 2, 40):
        lm.prefill(cache, cache.admit(), [(5 * i + length) % 40 + 3 for i in range(length)])
    for q, offset in ((3, 0), (1, 0), (1, 1), (2, 0)):
        tokens = [[(7 * row + 5 * slot + q) % 40 + 3 for slot in range(q)] for row in range(3)]
        yield lm.forward(cache, tokens, range(3), offset=offset)
        for row in range(3):
            cache.commit(row, min(row, q) if not offset else 0)
    yield lm.forward(cache, [[9]], range(2, 3))
    cache.align(3)
    yield lm.forward(cache, [[9, 8], [7, 6], [5, 4]], range(3))
    cache.release(0)
    cache.release(0)
    start = cache.widths[0]
    places = torch.arange(start + 3)[None].clone()
    places[0, -1] = start
    sight = (torch.arange(start + 3) <= torch.arange(start, start + 3)[:, None])[None].clone()
    sight[0, 2, start] = False
    yield lm.forward(cache, [[9, 8, 7]], range(1), tree=Tree(places, sight))


def apart(one: Iterable[Tensor], other: Iterable[Tensor]) -> float:
    """The largest distance between two forwards' logits, over the length of them."""
    return max(
        float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(one, other, strict=True)
    )


def in_torch(lm: LM, monkeypatch: pytest.MonkeyPatch) -> LM:
    """The same weights, whose layers are never one call."""
    other = copy.copy(lm)
    other.module = copy.copy(lm.module)
    monkeypatch.setattr(other.module, "_in_one_call", lambda: None)
    other._views = {(0, lm.n_layers): other.module.part(0, lm.n_layers)}
    monkeypatch.setattr(other._views[0, lm.n_layers], "_in_one_call", lambda: None)
    return other


@needs_kernels
@pytest.mark.parametrize(("kind", "changes"), KINDS)
def test_one_call_and_torch_agree(
    kind: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = draft(kind, **changes)
    assert isinstance(lm.module, FusedDecoder)
    assert lm.module._in_one_call() is not None
    assert apart(forwards(lm), forwards(in_torch(lm, monkeypatch))) < CLOSE


BUGS = {
    "turns the other way": ("low * cos[i] - high * sin[i]", "low * cos[i] + high * sin[i]"),
    "forgets the offsets": (
        "total[r] = _mm512_fmadd_ps(offsets",
        "if (0) total[r] = _mm512_fmadd_ps(offsets",
    ),
    "reads halves in the wrong order": (
        "_mm512_set1_epi32(fours[2 * j])",
        "_mm512_set1_epi32(fours[2 * j + 1])",
    ),
    "sees what is hidden": ("mask ? widened(mask[i]) : 0", "0"),
    "writes to the slot beside": (
        "slot = w->starts[b] + row % w->q;",
        "slot = (w->starts[b] + row % w->q) ^ 1;",
    ),
    "takes another row's slots": ("((w->first + b) * s->kv_heads", "((w->first) * s->kv_heads"),
    "shares key heads badly": ("of = head / (s->heads / s->kv_heads)", "of = head % s->kv_heads"),
    "drops what was there": ("(add ? to[i] : 0)", "0"),
    "gates by what should pass": ("gate[r][i] / (1 + expf(-gate[r][i])) * up[r][i]", "gate[r][i] * up[r][i]"),
}


@needs_kernels
@pytest.mark.parametrize("bug", list(BUGS))
def test_planted_bugs_are_seen(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = BUGS[bug]
    source = files(build.__package__).joinpath("layers.c").read_text(encoding="utf-8")
    assert source.count(right) == 1
    broken = ctypes.CDLL(str(build.compiled(source.replace(right, wrong).encode())))
    lm = draft("llama")
    sound = [one.clone() for one in forwards(lm)]
    monkeypatch.setattr(stack, "built", lambda: broken)
    monkeypatch.setattr(int4_dot, "built", lambda: broken)
    assert not apart(forwards(lm), sound) < 2 * CLOSE


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_has_the_same_bits_whoever_is_beside_it(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = torch.randn(19, 64, generator=torch.Generator().manual_seed(1)).bfloat16()
    layer = Int4Dot(weight, None)
    whole = layer(x)
    assert all(
        torch.equal(layer(x[first:last]), whole[first:last]) for first in (0, 3) for last in range(4, 20)
    )
    lm = draft()
    cache = lm.new_cache()
    for length in (37, 5):
        lm.prefill(cache, cache.admit(), [(5 * i + length) % 40 + 3 for i in range(length)])
    together = lm.forward(cache, [[9, 8, 7, 6], [5, 4, 3, 2]], range(2))
    for row, tokens in enumerate(([9, 8, 7, 6], [5, 4, 3, 2])):
        alone = [
            lm.forward(cache, [[token]], range(row, row + 1), offset=i) for i, token in enumerate(tokens)
        ]
        assert torch.equal(torch.cat(alone, dim=1), together[row : row + 1])


@needs_kernels
def test_what_is_hidden_may_be_anything() -> None:
    lm, seen = draft(), []
    for junk in (0.0, float("nan")):
        cache = lm.new_cache()
        for length in (20, 3):
            lm.prefill(cache, cache.admit(), [(5 * i + length) % 40 + 3 for i in range(length)])
        lm.forward(cache, [[9], [8]], range(2))
        for layer in cache.slot_layers:
            for tensor in layer.tensors():
                tensor[1, :, 4:] = junk
        seen.append(lm.forward(cache, [[9], [8]], range(2)))
    assert torch.equal(*seen)


@needs_kernels
def test_numbers_are_those_of_the_dense_weight() -> None:
    weight = torch.randn(32, 96, generator=torch.Generator().manual_seed(0)).bfloat16()
    layer = Int4Dot(weight, None)
    unit = torch.eye(96, dtype=torch.bfloat16)
    assert torch.allclose(layer(unit).T.float(), layer.dense(), rtol=2**-8, atol=1e-5)


def squared_error(layer: Int4Dot | Int4Linear, weight: Tensor) -> float:
    return float((layer.dense() - weight.float()).square().sum())


@needs_kernels
def test_weights_that_once_had_4_bits_are_found_again() -> None:
    """Plain rounding finds the range's ends only; here the lowest level is not used."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(1, 16, (32, 96), generator=generator).float()
    levels[:, ::32], levels[:, 1::32] = 1, 15
    scale = torch.rand(32, 3, generator=generator).add(0.5).repeat_interleave(32, dim=1)
    weight = ((levels - 8) * scale).bfloat16()
    found, plain = Int4Dot(weight, None), Int4Linear(weight, None)
    assert squared_error(found, weight) < 1e-4 * float(weight.float().square().sum())
    assert squared_error(plain, weight) > 10 * squared_error(found, weight)


@needs_kernels
def test_the_search_for_scales_is_no_worse_than_plain_rounding() -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert squared_error(Int4Dot(weight, None), weight) < 0.85 * squared_error(
        Int4Linear(weight, None), weight
    )


@pytest.fixture
def fresh() -> Iterator[None]:
    """As in a process that has not looked yet; and after the test again."""
    build.built.cache_clear()
    yield
    build.built.cache_clear()


def asked_for_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECCTL_KERNELS", "torch")


def another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_processor_flags", lambda: "flags : sse2 avx2")


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda _: None)


def another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.sys, "platform", "darwin")


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("lack", [asked_for_torch, another_processor, no_compiler, another_system])
def test_without_them_torch_does_it(
    lack: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lack(monkeypatch)
    assert build.built() is None
    assert build.lacking() is not None
    lm = draft()
    assert isinstance(lm.module, FusedDecoder)
    assert lm.module._in_one_call() is None
    assert all(bool(one.isfinite().all()) for one in forwards(lm))


@needs_kernels
@pytest.mark.usefixtures("fresh")
def test_source_that_does_not_compile_is_no_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPECCTL_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(build, "_COMPILE", ("-no-such-option",))
    assert build.built() is None
    assert not list((tmp_path / "kernels").iterdir()), "nothing half-written"


@needs_kernels
def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECCTL_CACHE_DIR", str(tmp_path))
    path = build.compiled(b"int one(void) { return 1; }")
    monkeypatch.setattr(build, "_call", lambda *_: pytest.fail("compiled again"))
    assert build.compiled(b"int one(void) { return 1; }") == path
    assert re.fullmatch(r"layers-[0-9a-f]{16}\.so", path.name)


@needs_kernels
def test_linking_leaves_the_floats_of_the_process_alone() -> None:
    """`-ffast-math` when linking would set tiny numbers to zero in all of it."""
    assert build.built() is not None
    assert float(torch.tensor(1e-40) * 0.5) > 0
    assert "-ffast-math" not in build._LINK
