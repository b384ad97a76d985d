"""Weights laid out anew are the same weights, and rows added for speed change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import ask, ngram, noisy_lm, plain_tokens, run, shared_lm, tiny_lm, tiny_module
from specctl.models import costs, rows, trimmed
from specctl.models.cheap import packed
from specctl.models.lm import LM
from specctl.models.quantize.packed import PackedLinear
from specctl.models.trained import fingerprint

KINDS = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "phi3", "smollm3"]


def logits(lm: LM) -> Tensor:
    cache = lm.new_cache()
    lm.prefill(cache, cache.admit(), [3, 9, 4, 8, 5])
    return lm.forward(cache, [[7, 11, 6]], range(1))[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_it_computes_what_the_model_does(kind: str, dtype: torch.dtype, close: float) -> None:
    whole = LM(tiny_module(kind, dtype=dtype), kind)
    fast = packed(whole)
    assert fast.packed is not None
    assert any(isinstance(one, PackedLinear) for one in fast.packed.modules())
    expected = logits(whole)
    assert float((logits(fast) - expected).abs().max()) < close * float(expected.abs().max())


def test_the_weights_are_still_the_models() -> None:
    """What is cut from it, trained on it or quantised reads `module`, as before."""
    whole = LM(tiny_module(dtype=torch.float32), "tiny")
    fast = packed(whole)
    assert fast.module is whole.module
    assert fingerprint(fast) == fingerprint(whole)


def test_other_types_of_numbers_stay_as_they_are() -> None:
    assert packed(shared_lm()).packed is None


def test_a_trimmed_head_is_packed_too() -> None:
    fast = packed(LM(tiny_module(dtype=torch.float32), "tiny"))
    ids = torch.tensor([2, 5, 30])
    small = trimmed.trimmed(fast, trimmed.cut(fast, ids))
    assert float((logits(small) - logits(fast)[:, ids]).abs().max()) < 1e-5
    assert small.packed is not None
    assert isinstance(small.packed.get_submodule("lm_head"), PackedLinear)


def test_a_planted_swap_of_columns_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    product = PackedLinear.product
    monkeypatch.setattr(PackedLinear, "product", lambda self, x: product(self, x.flip(-1)))
    with pytest.raises(AssertionError):
        test_it_computes_what_the_model_does("llama", torch.float32, 1e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_rows_added_for_speed_change_no_token(batch_size: int) -> None:
    wide = LM(shared_lm().module, "wide", fewest_rows=5)
    tokens, _, _ = run(wide, ngram(), ask(5), batch_size=batch_size)
    assert [tuple(row) for row in tokens] == list(plain_tokens())


@pytest.mark.parametrize(
    ("n", "q", "expected"), [(1, 1, 5), (1, 7, 7), (2, 1, 3), (3, 1, 2), (5, 1, 2), (8, 3, 3)]
)
def test_all_rows_of_a_forward_count(n: int, q: int, expected: int) -> None:
    assert LM(shared_lm().module, "wide", row_floor=2, fewest_rows=5).columns(n, q) == expected


@pytest.mark.parametrize(
    ("times", "best"),
    [
        ({1: 9.0, 2: 9.0, 3: 9.0, 4: 9.0, 5: 6.0, 6: 5.9, 8: 8.0}, 5),
        ({1: 9.0, 2: 9.1, 3: 9.2, 4: 9.3, 5: 9.4, 6: 9.5, 8: 9.6}, 1),
        ({1: 9.0, 2: 8.9, 3: 9.2, 4: 9.3, 5: 9.4, 6: 9.5, 8: 7.0}, 8),
    ],
)
def test_the_fastest_number_of_rows_is_taken_and_remembered(
    times: dict[int, float], best: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPECCTL_CACHE_DIR", str(tmp_path))
    asked: list[int] = []

    def timed(lm: LM, *_: Any) -> float:
        asked.append(lm.fewest_rows)
        slow = 50.0 if len(asked) % 5 == 0 else 0.0  # the machine does something else
        return times[lm.fewest_rows] + slow

    monkeypatch.setattr(costs, "seconds", timed)
    lm = tiny_lm()
    assert rows.fewest_rows(lm) == best
    so_far = len(asked)
    lm.fewest_rows = best
    assert rows.fewest_rows(lm) == best
    assert len(asked) == so_far
    (tmp_path / "rows.json").write_text("[]")
    assert rows.fewest_rows(lm) == best
    assert len(asked) == 2 * so_far
    assert rows.fewest_rows(noisy_lm()) == best, "one of other weights has the same shapes"
