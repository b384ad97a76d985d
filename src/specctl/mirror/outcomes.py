"""Which verdicts on a draft are worth preparing for.

A verdict is a key: how many tokens were accepted, and the token the target adds behind them. What is likely is read
off the target's early exit and the draft's own laws. Whatever is chosen, the output stays the same, and only the
rate of hits changes. Source: Mirror Speculative Decoding, and the keys of `ssd` (docs/methods/mirror.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specctl.decode.draft import Key
from specctl.decode.noise import Place, Stream
from specctl.decode.sampling import Sampler

Ranked = list[tuple[int, float]]
"""Tokens with their chances, likeliest first."""


@dataclass(frozen=True, slots=True)
class Guess:
    """What one observer says of a row's verdict: for each slot, and the one behind the draft, the likeliest tokens,
    and the chance of each drafted token.

    `slots` has one entry more than `drafted`, or none at all from an observer that was not asked.
    """

    slots: list[Ranked]
    drafted: list[float]


def ranked(scores: Tensor, at: Sequence[Place], sampler: Sampler, n: int) -> tuple[list[Ranked], Tensor]:
    """The n likeliest tokens of each row of scores `[m, vocab]`, and the chances `[m, vocab]` they come from.

    Where draft and target share their noise it is part of what is known: the order is that of the draws, and
    chances halve from one to the next.
    """
    chances = scores.softmax(dim=-1) if sampler.law.greedy else sampler.law.probabilities(scores)
    n = min(n, scores.shape[-1])
    if not sampler.coupled or sampler.law.greedy:
        best = chances.topk(n, dim=-1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [list(zip(ids, values, strict=True)) for ids, values in pairs], chances
    left, noisy = chances.clone(), torch.zeros_like(chances)
    lists: list[Ranked] = [[] for _ in range(len(scores))]
    for rank in range(n):
        tokens = sampler.draws.sample(left, at, Stream.TARGET)
        left.scatter_(1, tokens[:, None], 0)
        noisy.scatter_(1, tokens[:, None], 0.5 ** (rank + 1))
        for own, token in zip(lists, tokens.tolist(), strict=True):
            own.append((token, 0.5 ** (rank + 1)))
    return lists, noisy


def choose(
    draft: Sequence[int], guesses: Sequence[tuple[Guess, float]], candidates: int, branches: int
) -> list[Key]:
    """At most so many keys, `candidates` a slot and `branches` in all: the likeliest verdicts.

    `guesses` are weighted; the weightiest one's own favourite is taken in any case, so an exit at the top, which
    knows the verdict, always hits. The drafted token itself is no outcome of its slot: it would have been accepted.
    """
    chances: dict[Key, float] = {}
    reached = 1.0
    for slot in range(len(draft) + 1):
        heard = [(guess, weight) for guess, weight in guesses if len(guess.slots) > slot]
        total = sum(weight for _, weight in heard)
        if not total:
            break
        drafted = draft[slot] if slot < len(draft) else None
        tokens: dict[int, float] = {}
        for guess, weight in heard:
            for token, chance in guess.slots[slot]:
                if token != drafted:
                    tokens[token] = tokens.get(token, 0.0) + weight / total * chance
        for token in sorted(tokens, key=lambda one: -tokens[one])[:candidates]:
            chances[slot, token] = reached * tokens[token]
        if drafted is not None:
            reached *= sum(weight / total * guess.drafted[slot] for guess, weight in heard)
    order = sorted(chances, key=lambda key: -chances[key])
    weightiest = max(guesses, key=lambda heard: heard[1])[0]
    first = favourite(draft, weightiest) if candidates else None
    if first is not None:
        order = [first, *(key for key in order if key != first)]
    return order[:branches]


def favourite(draft: Sequence[int], guess: Guess) -> Key | None:
    """The verdict if each of the guess's likeliest tokens were the target's."""
    for slot, best in enumerate(guess.slots):
        if slot == len(draft) or best[0][0] != draft[slot]:
            return slot, best[0][0]
    return None
