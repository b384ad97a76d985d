"""What an adapter promises on this machine: measured costs of its parts, and held-out acceptance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from specctl.models.cache import SlotCache
from specctl.models.lm import LM

_CONTEXT = 128
_REPEATS = 7


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one forward: the whole target on one token, its first layers on one, the adapter with its head
    on one, and the target's other layers on a few."""

    plain: float
    shallow: float
    adapter: float
    deep: float


def measure(lm: LM, adapter: LM) -> Costs:
    """Medians over a few forwards behind some context."""
    depth = adapter.reads
    cache, small = _filled(lm, 0), _filled(adapter, depth)
    width = int(lm.config.hidden_size)
    one, few = (torch.zeros(1, q, width, dtype=lm.dtype, device=lm.device) for q in (1, 4))
    row = range(1)
    return Costs(
        _timed(lambda: lm.forward(cache, [[1]], row)),
        _timed(lambda: lm.segment(cache, [[1]], row, 0, depth)),
        _timed(lambda: adapter.segment(small, one, row, depth, None)),
        _timed(lambda: lm.segment(cache, few, row, depth, None)),
    )


def speedup(costs: Costs, acceptance: float, draft_tokens: int) -> float:
    """Over plain decoding, if every drafted token is accepted with the same chance."""
    kept = sum(acceptance**i for i in range(draft_tokens + 1))
    spent = (draft_tokens + 1) * costs.shallow + draft_tokens * costs.adapter + costs.deep
    return kept * costs.plain / spent


def best(costs: Costs, acceptance: float, most: int = 8) -> tuple[int, float]:
    """The draft length that promises most, and its speedup."""
    return max(((k, speedup(costs, acceptance, k)) for k in range(1, most + 1)), key=lambda pair: pair[1])


def _filled(lm: LM, reads: int) -> SlotCache:
    cache = lm.new_cache()
    cache.admit()
    if reads:
        states = torch.zeros(1, _CONTEXT, int(lm.config.hidden_size), dtype=lm.dtype, device=lm.device)
        lm.segment(cache, states, range(1), reads, lm.n_layers)
        cache.commit(0, _CONTEXT)
    else:
        lm.prefill(cache, 0, [1] * _CONTEXT)
    return cache


def _timed(call: Callable[[], Tensor]) -> float:
    call()
    seconds = []
    for _ in range(_REPEATS):
        begun = perf_counter()
        call()
        seconds.append(perf_counter() - begun)
    return median(seconds)
