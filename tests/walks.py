"""Sampled decoding by exact enumeration: every outcome of every draw is walked through the loop with its weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fakes import shared_lm
from specctl.decode.noise import Place, Stream
from specctl.decode.sampling import Law


class Walk:
    """`Draws` whose outcomes are given one by one; behind the given ones the first possible is taken.

    `weight` is the chance of the path, `options` how many outcomes each draw of it had.
    """

    def __init__(self, given: Sequence[int]) -> None:
        self._given = given
        self.taken: list[int] = []
        self.options: list[int] = []
        self.weight = 1.0

    def accept(self, probability: Tensor, at: Sequence[Place]) -> Tensor:
        return torch.tensor([bool(self._one([1 - p, p])) for p in probability.tolist()])

    def sample(self, probs: Tensor, at: Sequence[Place], stream: Stream) -> Tensor:
        return torch.tensor([self._one((law / law.sum()).tolist()) for law in probs])

    def next(self) -> list[int] | None:
        """What to give the next walk; None behind the last."""
        last = max((i for i, n in enumerate(self.options) if self.taken[i] + 1 < n), default=None)
        return None if last is None else [*self.taken[:last], self.taken[last] + 1]

    def _one(self, chances: Sequence[float]) -> int:
        possible = [value for value, chance in enumerate(chances) if chance > 0]
        at = len(self.taken)
        self.taken.append(self._given[at] if at < len(self._given) else 0)
        self.options.append(len(possible))
        value = possible[self.taken[-1]]
        self.weight *= chances[value]
        return value


def plain_law(law: Law, prompt: tuple[int, ...], new: int) -> dict[tuple[int, ...], float]:
    """The joint law of the tokens plain sampling emits."""
    if not new:
        return {(): 1.0}
    lm = shared_lm()
    cache = lm.new_cache()
    cache.admit()
    here = law.probabilities(lm.forward(cache, [list(prompt)], range(1))[0, -1])
    return {
        (token, *rest): float(here[token]) * chance
        for token in here.nonzero()[:, 0].tolist()
        for rest, chance in plain_law(law, (*prompt, token), new - 1).items()
    }
