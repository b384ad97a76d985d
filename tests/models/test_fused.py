"""The fused decoder has the logits of transformers' module, with ragged rows and moved slots too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import ask, draft_model, noisy_lm, plain_tokens, run, shared_lm, tiny_lm, tiny_module
from specctl.decode.stats import Stats
from specctl.models import fused
from specctl.models.cheap import cheapened
from specctl.models.lm import LM
from specctl.models.quantize import Maker

CLOSE = 1e-4
"""transformers' norms go through float32 whatever the model's dtype; ours do not."""

KINDS = [
    pytest.param("llama", {}, id="llama"),
    pytest.param("llama", {"tie_word_embeddings": True, "attention_bias": True}, id="llama-biased-tied"),
    pytest.param("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, id="llama-stretched"),
    pytest.param("qwen2", {"num_key_value_heads": 4}, id="qwen2-ungrouped"),
    pytest.param("qwen2", {"num_key_value_heads": 1}, id="qwen2-one-key-head"),
    pytest.param("qwen3", {"head_dim": 16}, id="qwen3"),
]


def logits(lm: LM) -> list[Tensor]:
    """A batch of three ragged rows over some rounds: blocks, single steps, rollback, one row leaving."""
    cache = lm.new_cache()
    for length in (5, 2, 7):
        lm.prefill(cache, cache.admit(), list(range(3, 3 + length)))
    seen = []
    for q, offset in ((3, 0), (1, 0), (1, 1), (2, 0)):
        tokens = [[(7 * row + 5 * slot + q) % 40 + 3 for slot in range(q)] for row in range(3)]
        seen.append(lm.forward(cache, tokens, range(3), offset=offset))
        for row in range(3):
            cache.commit(row, min(row, q) if not offset else 0)
    cache.release(0)
    seen.append(lm.forward(cache, [[9], [8]], range(2)))
    cache.release(1)
    seen.append(lm.forward(cache, [[9]], range(1)))
    return seen


def farthest(one: LM, other: LM) -> float:
    pairs = zip(logits(one), logits(other), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


@pytest.mark.parametrize(("kind", "changes"), KINDS)
def test_fused_and_generic_agree(kind: str, changes: dict[str, Any]) -> None:
    generic = tiny_lm(kind, **changes)
    assert fused.fits(generic.module)
    cheap, note = cheapened(generic, None)
    assert isinstance(cheap.module, fused.FusedDecoder)
    assert note is None
    assert farthest(generic, cheap) < CLOSE


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_fused_and_generic_agree_quantised(scheme: Any) -> None:
    """Joined rows are quantised as they are apart: only the order of sums differs."""
    from specctl.models.quantize import replaced

    module = tiny_module(dtype=torch.bfloat16, intermediate_size=64)
    generic = LM(replaced(module, Maker(scheme)), "generic")
    cheap, note = cheapened(LM(module, "tiny"), scheme)
    assert note is None
    assert (cheap.name, cheap.dtype) == (f"tiny {scheme}", torch.bfloat16)
    assert farthest(generic, cheap) < 0.15 * max(float(one.abs().max()) for one in logits(generic))


def test_without_a_cache_it_reads_a_text_as_a_whole() -> None:
    generic = tiny_module(native=True)
    module = fused.FusedDecoder(generic, Maker(None))
    ids = torch.tensor([[5, 9, 4, 7, 11]])
    with torch.no_grad():
        expected = generic(ids, use_cache=False).logits
        assert float((module(ids).logits - expected).abs().max()) < CLOSE
        assert float((module(ids, logits_to_keep=2).logits - expected[:, -2:]).abs().max()) < CLOSE


def wrong_turn(self: Any, x: Tensor, turn: tuple[Tensor, Tensor], *rest: Any) -> Tensor:
    return _attend(self, x, (turn[0], -turn[1]), *rest)


def no_mask(self: Any, *_: Any) -> None:
    return None


_attend = fused._Layer._attend


@pytest.mark.parametrize(
    ("where", "name", "bug"), [(fused._Layer, "_attend", wrong_turn), (fused.FusedDecoder, "_mask", no_mask)]
)
def test_planted_bugs_are_seen(where: Any, name: str, bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generic = tiny_lm()
    cheap, _ = cheapened(generic, None)
    monkeypatch.setattr(where, name, bug)
    assert farthest(generic, cheap) > 100 * CLOSE


@pytest.mark.parametrize(("length", "reader_has_read"), [(31, False), (32, True)])
def test_long_prompts_are_read_by_the_weights_it_was_made_from(length: int, reader_has_read: bool) -> None:
    """To the bit; and a short one by its own, whose keys and values are others."""
    whole = LM(tiny_module(dtype=torch.bfloat16, intermediate_size=64), "tiny")
    draft, _ = cheapened(whole, "int4")
    assert draft.reader is not None
    states = []
    for lm in (whole, draft):
        cache = lm.new_cache()
        lm.prefill(cache, cache.admit(), [(7 * i) % 40 + 3 for i in range(length)])
        states.append([tensor[0, :, :length] for layer in cache.slot_layers for tensor in layer.tensors()])
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True)) is reader_has_read


def test_16_bits_read_their_prompts_themselves() -> None:
    assert cheapened(tiny_lm(), None)[0].reader is None


@pytest.mark.parametrize("kind", ["gemma2", "mistral", "phi3", "smollm3"])
def test_other_kinds_keep_transformers_module(kind: str) -> None:
    generic = tiny_lm(kind)
    assert not fused.fits(generic.module)
    cheap, _ = cheapened(generic, None)
    assert type(cheap.module) is type(generic.module)
    assert farthest(generic, cheap) == 0


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_fused_draft_is_as_good_as_the_model_it_stands_for(batch_size: int) -> None:
    stats = []
    for draft in (noisy_lm(), cheapened(noisy_lm(), None)[0]):
        stats.append(Stats())
        drafter = draft_model(shared_lm(), draft)
        tokens, _, _ = run(shared_lm(), drafter, ask(5), batch_size=batch_size, on_event=stats[-1].add)
        assert [tuple(row) for row in tokens] == list(plain_tokens())
    assert stats[0].accepted == stats[1].accepted > 0
