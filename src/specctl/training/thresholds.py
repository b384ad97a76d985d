"""When a sorted draft should climb, for one target: the thresholds that promise most tokens a second.

From what each depth said on the target's own answers, and what each depth costs. A round is taken to begin at any
position of an answer; as long as its tokens are right, the recorded context is the one it would have met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specctl.models.lm import LM
from specctl.training.conversations import Conversation

GRID = (0.0, *(step / 20 for step in range(2, 20)), 0.97, 1.01)


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer, by depth and position, `[depths, positions]` each: how sure a depth was, whether it was right."""

    sure: Tensor
    right: Tensor


@dataclass(frozen=True, slots=True)
class Prices:
    """Seconds: each segment over a token, one read-out; the target's forward over a draft, and over one token."""

    segments: tuple[float, ...]
    read_out: float
    verify: float
    plain: float


@dataclass(frozen=True, slots=True)
class Fit:
    """`speedup` over plain decoding, promised on other answers than those fitted on; `static`: that of each depth
    alone; `exits`: the share of tokens each depth answers."""

    thresholds: tuple[float, ...]
    speedup: float
    static: tuple[float, ...]
    exits: tuple[float, ...]


@torch.no_grad()
def listen(draft: LM, one: Conversation) -> Heard:
    """Every depth's opinion on each token of a greedy answer, given what stands before it."""
    cache = draft.new_cache()
    cache.admit()
    states: Any = [[*one.prompt, *one.answer[:-1]]]
    answer = torch.tensor(one.answer, device=draft.device)
    below = 0
    sure, right = [], []
    for depth, _ in draft.exits:
        states = draft.segment(cache, states, range(1), below, depth)
        best = draft.read_out(states[:, len(one.prompt) - 1 :])[0].float().softmax(-1).max(-1)
        said = best.indices if draft.kept is None else draft.kept[best.indices]
        sure.append(best.values)
        right.append(said == answer)
        below = depth
    return Heard(torch.stack(sure), torch.stack(right))


def fit(heard: Sequence[Heard], prices: Prices, k: int) -> Fit:
    """The best thresholds of the grid for drafts of `k` tokens, one depth after the other until none changes.

    Every second answer is left for the promise.
    """
    learnt, told = heard[::2], heard[1::2]
    depths = len(prices.segments)
    chosen = [0.5] * (depths - 1) + [0.0]
    before: list[float] = []
    while chosen != before:
        before = chosen
        for j in range(depths - 1):
            tried = [[*chosen[:j], value, *chosen[j + 1 :]] for value in GRID]
            chosen = max(tried, key=lambda one: promised(learnt, prices, k, one))
    static = tuple(promised_at(told, prices, k, j) for j in range(depths))
    counts = torch.cat([answering(one, chosen) for one in told]).bincount(minlength=depths).double()
    return Fit(
        tuple(chosen), promised(told, prices, k, chosen), static, tuple((counts / counts.sum()).tolist())
    )


def answering(one: Heard, thresholds: Sequence[float]) -> Tensor:
    """The depth that answers each position, int64 `[positions]`: the first one that is sure."""
    climbs = one.sure[:-1] <= torch.tensor(thresholds[:-1], device=one.sure.device)[:, None]
    return climbs.long().cumprod(0).sum(0)


def promised(heard: Sequence[Heard], prices: Prices, k: int, thresholds: Sequence[float]) -> float:
    """The speedup with these thresholds: each depth on the way is read out."""
    spent = torch.tensor(prices.segments, dtype=torch.float64).cumsum(0)
    spent += prices.read_out * torch.arange(1, len(spent) + 1)
    return _speedup(heard, [answering(one, thresholds) for one in heard], spent, prices, k)


def promised_at(heard: Sequence[Heard], prices: Prices, k: int, depth: int) -> float:
    """The speedup of one depth alone."""
    spent = torch.tensor(prices.segments, dtype=torch.float64).cumsum(0) + prices.read_out
    alone = [torch.full(one.sure.shape[1:], depth) for one in heard]
    return _speedup(heard, alone, spent, prices, k)


def _speedup(
    heard: Sequence[Heard], depths: Sequence[Tensor], spent: Tensor, prices: Prices, k: int
) -> float:
    """Tokens a second over those of plain decoding, with rounds from every position that has `k` more behind it."""
    gained = seconds = 0.0
    for one, depth in zip(heard, depths, strict=True):
        if len(depth) < k:
            continue
        right = one.right.gather(0, depth[None].to(one.right.device))[0].unfold(0, k, 1).long()
        gained += float((1 + right.cumprod(1).sum(1)).sum())
        seconds += float(spent[depth].unfold(0, k, 1).sum()) + len(right) * prices.verify
    return gained * prices.plain / seconds if seconds else 0.0
