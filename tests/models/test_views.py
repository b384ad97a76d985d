"""Segments of a model, one after the other, are the model bit for bit; drafts may carry a segment's states."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import Nothing, Spy, ask, plain_tokens, prompts, run, scripts, shared_lm, tiny_lm, tiny_module
from specctl.decode.draft import Draft, Drafter, Row, Scored
from specctl.decode.target import Target
from specctl.models import views
from specctl.models.cache import SlotCache
from specctl.models.lm import LM

KINDS = ["llama", "qwen3", "gemma2", "gemma3_text", "granite"]
CUTS = [(0, 1, 3, None), (0, 2, None), (0, 4, None), (0, None)]


def caches(lm: LM) -> tuple[SlotCache, SlotCache]:
    """Two equal caches of three ragged rows; prompts of 17 are past the sliding window of 8."""
    both = lm.new_cache(), lm.new_cache()
    for cache in both:
        for ids in prompts(3, lengths=(17, 5, 11)):
            lm.prefill(cache, cache.admit(), ids)
    return both


def in_pieces(lm: LM, cache: SlotCache, tokens: list[list[int]], cuts: Sequence[int | None]) -> Tensor:
    states: list[list[int]] | Tensor = tokens
    for start, stop in pairwise(cuts):
        assert start is not None
        states = lm.segment(cache, states, range(len(tokens)), start, stop)
    assert isinstance(states, Tensor)
    return states


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_segments_are_the_whole_model(kind: str, cuts: tuple[int | None, ...]) -> None:
    """Mixed kinds of layers among them: a segment's first layer is not the model's first."""
    lm = shared_lm(kind)
    whole, pieces = caches(lm)
    for tokens in ([[7], [8], [9]], [[7, 8, 9, 10], [3, 4, 5, 6], [11, 12, 13, 14]]):
        expected = lm.forward(whole, tokens, range(3))
        assert torch.equal(in_pieces(lm, pieces, tokens, cuts), expected)
        for row in range(3):
            whole.commit(row, len(tokens[0]))
            pieces.commit(row, len(tokens[0]))
    for one, other in zip(whole.slot_layers, pieces.slot_layers, strict=True):
        for held, wanted in zip(one.tensors(), other.tensors(), strict=True):
            assert torch.equal(held, wanted)


@pytest.mark.parametrize("row_floor", [2, 8])
def test_segments_are_the_whole_model_with_dummy_rows(row_floor: int) -> None:
    lm = LM(shared_lm().module, "floored", row_floor=row_floor)
    whole, pieces = caches(lm)
    tokens = [[7], [8], [9]]
    assert torch.equal(in_pieces(lm, pieces, tokens, (0, 1, 3, None)), lm.forward(whole, tokens, range(3)))


def kinds_of_the_whole_model(base: Any, which: slice) -> None:
    """Planted: a segment's layers look their kind of attention up as if they were the model's first."""
    base._modules["layers"] = base._modules["layers"][which]


def test_planted_kinds_by_place_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_set_layers", kinds_of_the_whole_model)
    lm = tiny_lm("gemma3_text")
    whole, pieces = caches(lm)
    tokens = [[7], [8], [9]]
    assert not torch.equal(
        in_pieces(lm, pieces, tokens, (0, 1, 3, None)), lm.forward(whole, tokens, range(3))
    )


def test_planted_norm_between_segments_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn, "Identity", lambda: shared_lm().module.model.norm)
    lm = tiny_lm()
    whole, pieces = caches(lm)
    tokens = [[7], [8], [9]]
    assert not torch.equal(
        in_pieces(lm, pieces, tokens, (0, 1, 3, None)), lm.forward(whole, tokens, range(3))
    )


def test_views_share_weights_and_leave_the_model_alone() -> None:
    lm = tiny_lm("gemma3_text")
    module: Any = lm.module
    kinds, n_layers, norm = list(module.config.layer_types), len(module.model.layers), module.model.norm
    shallow: Any = views.segment(module, 0, 2)
    deep: Any = views.segment(module, 2, None)
    parts = [*shallow.layers, *deep.model.layers]
    assert all(part is own for part, own in zip(parts, module.model.layers, strict=True))
    assert deep.lm_head is module.lm_head
    assert (list(module.config.layer_types), len(module.model.layers)) == (kinds, n_layers)
    assert module.model.norm is norm
    assert module.config.num_hidden_layers == 4


# Captures -------------------------------------------------------------------------------------------------------


class Listener(Spy):
    """Wants hidden states and checks each of them against transformers' own, without a cache."""

    def __init__(self, drafter: Drafter, native: Any, depths: Sequence[int]) -> None:
        super().__init__(drafter)
        self.needs = frozenset(depths)
        self.native, self.checked = native, 0

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self.check(hidden, 0, row.ids[:-1], 0)
        super().begin(row, hidden)

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        for slot, (row, n) in enumerate(zip(rows, accepted, strict=True)):
            # The forward began at the token before those it added; what is behind the verdict is not compared.
            before = self.log[-1][0][slot]
            kept = row.ids[: len(before) + n]
            self.check(scored.hidden, slot, kept, len(before) - 1)
        super().observe(rows, scored, accepted)

    def check(self, hidden: dict[int, Tensor], slot: int, ids: list[int], start: int) -> None:
        if not ids:
            assert hidden == {}, "a prompt of one token has nothing before its last"
            return
        with torch.no_grad():
            out = self.native(torch.tensor([ids]), use_cache=False, output_hidden_states=True)
        for depth in self.needs:
            expected = out.hidden_states[depth][0, start:]
            # transformers computes its softmax in float32
            assert float((hidden[depth][slot, : len(expected)] - expected).abs().max()) < 1e-4
            self.checked += 1


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_captured_states_are_right_and_change_nothing(
    kind: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At two depths, for prompts in chunks of 4 and in each round; the output is as without."""
    plain = plain_tokens(kind, new=12)
    monkeypatch.setattr("specctl.decode.target.PREFILL_CHUNK", 4)
    listener = Listener(scripts(plain, 3)["coin"], tiny_module(kind, native=True), (1, 3))
    tokens, _, _ = run(shared_lm(kind), listener, ask(5, 12), batch_size=batch_size)
    assert [tuple(row) for row in tokens] == list(plain)
    assert listener.checked > 20


def test_captures_are_bit_equal() -> None:
    lm = shared_lm("gemma3_text")
    row = Row(0, ask(1)[0], list(prompts(1, lengths=[12])[0]))
    logits = []
    for captures in (frozenset[int](), frozenset({1, 2, 3})):
        target = Target(lm, slots=1, capacity=32, captures=captures)
        target.admit(row.ids)
        logits.append(target.score([row], Draft([[5, 6, 7]])).logits)
    assert torch.equal(*logits)


# Drafts that carry states ---------------------------------------------------------------------------------------


class EarlyExit(Nothing):
    """Drafts with the target's first layers, read out by its norm and head; scoring runs the others only."""

    def __init__(self, lm: LM, cache: SlotCache, depth: int, k: int) -> None:
        super().__init__()
        self.lm, self.cache, self.depth, self.k = lm, cache, depth, k

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        most = min(self.k, max(budget))
        columns = [[row.ids[-1]] for row in rows]
        drafted: list[list[int]] = [[] for _ in rows]
        states = []
        for step in range(most + 1):
            states.append(self.lm.segment(self.cache, columns, range(len(rows)), 0, self.depth, offset=step))
            module: Any = self.lm.module
            best = module.lm_head(module.model.norm(states[-1])).argmax(-1)[:, 0].tolist()
            columns = [[token] for token in best]
            if step < most:
                for row, token in enumerate(best):
                    drafted[row].append(token)
        cut = [tokens[:room] for tokens, room in zip(drafted, budget, strict=True)]
        longest = max(map(len, cut))
        return Draft(cut, hidden=torch.cat(states, dim=1)[:, : longest + 1], depth=self.depth)


@pytest.mark.parametrize("row_floor", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_early_exit_drafts_give_the_plain_output(kind: str, batch_size: int, row_floor: int) -> None:
    lm = LM(shared_lm(kind).module, kind, row_floor=row_floor)
    target = Target(lm, slots=batch_size, capacity=48)
    spy = Spy(EarlyExit(lm, target.cache, 3, 4))
    tokens, _, _ = run(lm, spy, ask(5, 16), batch_size=batch_size, target=target)
    assert [tuple(row) for row in tokens] == list(plain_tokens(kind, new=16))
    assert max(draft.longest for _, draft in spy.log) == 4


class OneStateLate(EarlyExit):
    """Planted: the states are those of the tokens before."""

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        draft = super().draft(rows, budget)
        assert draft.hidden is not None
        draft.hidden = draft.hidden.roll(1, dims=1)
        return draft


def test_planted_states_of_other_tokens_are_seen() -> None:
    lm = shared_lm()
    target = Target(lm, slots=1, capacity=48)
    tokens, _, _ = run(lm, OneStateLate(lm, target.cache, 3, 4), ask(5, 16), target=target)
    assert [tuple(row) for row in tokens] != list(plain_tokens(new=16))
