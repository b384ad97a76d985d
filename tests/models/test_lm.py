"""One forward over slots gives transformers' own logits: masks, windows, softcaps, scalings, positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import KINDS, prompts, shared_lm, tiny_lm, tiny_module
from specctl.models import attention
from specctl.models import lm as lm_module
from specctl.models.lm import LM, geometry

CLOSE = 1e-4
"""transformers computes its softmax and norms in float32."""


def whole(native: Any, ids: list[int]) -> Tensor:
    """Logits `[len(ids), vocab]` of transformers' own forward, with its own masks and without a cache."""
    with torch.no_grad():
        logits: Tensor = native(torch.tensor([ids]), use_cache=False).logits[0]
    return logits


def difference(kind: str, lm: LM, **changes: Any) -> float:
    """Three ragged rows, fed in three forwards of 4, 1 and 5 columns; all logits against whole forwards."""
    native = tiny_module(kind, native=True, **changes)
    rows = [list(ids) for ids in prompts(3, lengths=(27, 11, 18))]
    cache = lm.new_cache()
    done = [len(ids) - 10 for ids in rows]
    for ids, n in zip(rows, done, strict=True):
        lm.prefill(cache, cache.admit(), ids[:n])
    expected = [whole(native, ids) for ids in rows]
    worst = 0.0
    for q in (4, 1, 5):
        logits = lm.forward(cache, [ids[n : n + q] for ids, n in zip(rows, done, strict=True)], range(3))
        for row, n in enumerate(done):
            worst = max(worst, float((logits[row] - expected[row][n : n + q]).abs().max()))
            cache.commit(row, q)
        done = [n + q for n in done]
    return worst


@pytest.mark.parametrize("kind", list(KINDS))
def test_logits_are_transformers(kind: str) -> None:
    assert difference(kind, shared_lm(kind)) < CLOSE


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "smollm3"])
def test_logits_are_transformers_with_other_settings(kind: str) -> None:
    """One head of keys for all, as many as queries, and biases where the kind has them."""
    for heads in (1, 4):
        lm = tiny_lm(kind, num_key_value_heads=heads)
        assert difference(kind, lm, num_key_value_heads=heads) < CLOSE


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "gemma3_text", "phi3"])
def test_planted_masks_without_a_window_are_seen(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(config: Any, *arguments: Any) -> Any:
        positions, mask = geometry(config, *arguments)
        if isinstance(mask, dict):
            return positions, dict.fromkeys(mask, mask["full_attention"])
        window, dtype, device, _ = arguments
        slots = torch.arange(window.width, device=device)
        return positions, lm_module._additive(positions[:, None, :, None] - slots >= 0, dtype)

    monkeypatch.setattr(lm_module, "geometry", blind)
    assert difference(kind, shared_lm(kind)) > 100 * CLOSE


@pytest.mark.parametrize(
    ("kind", "option"),
    [("gemma2", "softcap"), ("gemma3_text", "scaling"), ("granite", "scaling")],
    ids=["planted-no-softcap", "planted-no-scaling", "planted-no-multiplier"],
)
def test_planted_attention_without_its_options_is_seen(
    kind: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = attention.plain_attention

    def careless(*arguments: Any, **options: Any) -> Any:
        options[option] = None if option == "softcap" else 1.0
        return plain(*arguments, **options)

    monkeypatch.setattr(attention, "plain_attention", careless)
    try:
        assert difference(kind, tiny_lm(kind)) > 100 * CLOSE
    finally:
        monkeypatch.undo()
        attention.register()
    assert difference(kind, tiny_lm(kind)) < CLOSE
