"""Any requests, drafts, schedule, arrivals and cancels: what comes out is decoding one token at a time.

`SPECCTL_FUZZ_CASES=20000 python -m pytest tests/decode/test_schedule_fuzz.py` tries more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from symbolic import CONTEXT, VOCAB, Guesser, SymbolicLM, SymbolicTarget, oracle

from specctl.decode import newcomers
from specctl.decode import target as target_module
from specctl.decode.accept import greedy
from specctl.decode.draft import Request
from specctl.decode.loop import Rules, decode
from specctl.decode.sampling import Law, Sampler
from specctl.decode.schedules import SCHEDULES
from specctl.decode.target import Target
from specctl.events import Emitted, Finished, Timed
from specctl.models import lm as lm_module
from specctl.models.cache import SlotCache, SlotLayer


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """Prompts of several chunks, so that some are read while others decode."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (newcomers, target_module):
            patch.setattr(module, "PREFILL_CHUNK", 16)
        yield


CASES = int(os.environ.get("SPECCTL_FUZZ_CASES", "2000"))


@dataclass(frozen=True)
class Case:
    requests: tuple[Request, ...]
    batch_size: int
    window: int
    schedule: str
    lengths: tuple[int, ...]
    right: float
    eos: frozenset[int]
    row_floor: int
    rounds: int | None


@st.composite
def cases(draw: st.DrawFn) -> Case:
    tokens = st.integers(0, VOCAB - 1)
    prompts = draw(st.lists(st.lists(tokens, min_size=1, max_size=64), min_size=1, max_size=12))
    caps = draw(st.lists(st.integers(1, 24), min_size=len(prompts), max_size=len(prompts)))
    return Case(
        tuple(Request(tuple(prompt), cap) for prompt, cap in zip(prompts, caps, strict=True)),
        batch_size=draw(st.integers(1, 16)),
        window=draw(st.integers(1, 8)),
        schedule=draw(st.sampled_from(sorted(SCHEDULES))),
        lengths=tuple(draw(st.lists(st.integers(0, 8), min_size=1, max_size=4))),
        right=draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])),
        eos=frozenset(draw(st.sets(tokens, max_size=2))),
        row_floor=draw(st.sampled_from([1, 1, 2])),
        rounds=draw(st.none() | st.integers(0, 12)),
    )


def play(case: Case) -> tuple[list[list[int]], list[str], list[Timed], SymbolicLM]:
    lm = SymbolicLM(case.row_floor)
    target = SymbolicTarget(lm, slots=1, capacity=8)
    rules = Rules(
        greedy, Sampler.keyed(Law()), case.eos, CONTEXT, str, case.batch_size, case.schedule, case.window
    )
    left = iter(range(case.rounds)) if case.rounds is not None else None
    tokens: list[list[int]] = [[] for _ in case.requests]
    reasons = [""] * len(case.requests)
    rounds: list[Timed] = []
    stream = decode(
        target,
        Guesser(case.lengths, case.right),
        case.requests,
        rules,
        cancelled=lambda: left is not None and next(left, None) is None,
    )
    for event in stream:
        if isinstance(event, Emitted):
            tokens[event.row] += event.tokens
        elif isinstance(event, Finished):
            assert not reasons[event.row], "finished twice"
            reasons[event.row] = event.reason
        elif isinstance(event, Timed):
            rounds.append(event)
            assert event.rows <= case.batch_size
    assert target.cache.lengths == [] or case.rounds is not None
    return tokens, reasons, rounds, lm


def check(case: Case) -> None:
    tokens, reasons, _, _ = play(case)
    for request, got, reason in zip(case.requests, tokens, reasons, strict=True):
        wanted, why = oracle(request, case.eos)
        if reason == "cancelled":
            assert case.rounds is not None
            assert got == wanted[: len(got)]
        else:
            assert (got, reason) == (wanted, why)


@settings(
    max_examples=CASES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(cases())
def test_any_batch_is_decoding_one_token_at_a_time(case: Case) -> None:
    check(case)


# What the fuzz would see ----------------------------------------------------------------------------------------


def busy(schedule: str) -> Case:
    """Rows of all lengths, half of the drafts wrong: most rounds are ragged."""
    requests = tuple(
        Request(tuple((i * 5 + j * 3) % VOCAB for j in range(length)), 18)
        for i, length in enumerate([1, 7, 30, 27, 2, 12])
    )
    return Case(requests, 3, 5, schedule, (3, 1, 4), 0.6, frozenset(), 1, None)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_the_right_engine_passes_and_works_for_it(schedule: str) -> None:
    check(busy(schedule))
    _, _, rounds, lm = play(busy(schedule))
    realigned = sum(one.realigned for one in rounds)
    assert (realigned > len(rounds) // 4) == (schedule != "ragged")
    assert (lm.padded_reads > 0) == (schedule != "ragged")


def without_positions(*arguments: Any) -> tuple[torch.Tensor, Any]:
    """Planted: positions are columns, as where none are passed."""
    positions, mask = geometry(*arguments)
    pads = torch.tensor(arguments[1].pads)[:, None]
    return positions + pads, mask


def mask_of_ones(*arguments: Any) -> tuple[torch.Tensor, Any]:
    """Planted: padding is visible."""
    positions, mask = geometry(*arguments)
    pads = torch.tensor(arguments[1].pads)[:, None, None, None]
    return positions, mask.masked_fill(torch.arange(mask.shape[-1]) < pads, 0)


def not_shifted(layer: SlotLayer, old: Sequence[int], new: Sequence[int], width: int) -> None:
    """Planted: the rectangle is restored on paper only."""


def values_left_behind(layer: SlotLayer, old: Sequence[int], new: Sequence[int], width: int) -> None:
    values = None if layer.values is None else layer.values.clone()
    shift(layer, old, new, width)
    layer.values = values


def pads_left_behind(cache: SlotCache, one: int, other: int) -> None:
    """Planted: rows change places, their padding does not."""
    pads = list(cache.pads)
    swap(cache, one, other)
    cache.pads = pads


def one_slot_short(cache: SlotCache, other: SlotCache) -> int:
    """Planted: a prompt that was read apart loses its last token on the way."""
    other.lengths[0] -= 1
    row = adopt(cache, other)
    cache.lengths[row] += 1
    return row


geometry, shift, swap, adopt = lm_module.geometry, SlotLayer.shift, SlotCache.swap, SlotCache.adopt


@pytest.mark.parametrize(
    ("place", "broken", "schedule"),
    [
        ((lm_module, "geometry"), without_positions, "eqspec"),
        ((lm_module, "geometry"), without_positions, "exspec"),
        ((lm_module, "geometry"), mask_of_ones, "eqspec"),
        ((lm_module, "geometry"), mask_of_ones, "exspec"),
        ((SlotLayer, "shift"), not_shifted, "eqspec"),
        ((SlotLayer, "shift"), not_shifted, "exspec"),
        ((SlotLayer, "shift"), values_left_behind, "eqspec"),
        ((SlotCache, "swap"), pads_left_behind, "exspec"),
        ((SlotCache, "swap"), lambda *_: None, "exspec"),
        ((Target, "commit"), lambda target, slot, n: target.cache.commit(slot, 1), "ragged"),
        ((SlotCache, "adopt"), one_slot_short, "ragged"),
    ],
    ids=lambda value: f"planted-{value.__name__}" if callable(value) else None,
)
def test_broken_variants_are_seen(
    place: tuple[Any, str], broken: Any, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*place, broken)
    with pytest.raises(AssertionError):
        check(busy(schedule))
