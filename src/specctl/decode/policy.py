"""How much to draft, and by whom: the choice that makes most tokens a second out of costs and chances.

No tensors here: numbers go in and numbers come out, so a recorded run can be played again without any model. Whom
to ask is settled before anybody has drawn a token, from what is committed alone: the output's law stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate
from math import inf
from operator import mul

from specctl.models.costs import Costs

_MEMORY = 0.95
"""Share of what was learnt that is left after a round: what is not refreshed fades, and is tried again."""

_HORIZON = 32
"""Rounds over which reading up what the model has missed may pay."""


class Source(Enum):
    NOBODY = 0
    LOOKUP = 1
    MODEL = 2


@dataclass(slots=True)
class Chance:
    """Odds that a token is kept, given that all before it were: the first of a draft, and later ones.

    Counts fade, and lean on a prior.
    """

    prior: tuple[float, float]
    weight: float
    kept: list[float] = field(default_factory=lambda: [0.0, 0.0])
    tried: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def rates(self) -> tuple[float, float]:
        first, later = (
            (kept + prior * self.weight) / (tried + self.weight)
            for kept, tried, prior in zip(self.kept, self.tried, self.prior, strict=True)
        )
        return first, later

    def learn(self, right: int, wrong: bool) -> None:
        """`right` tokens were kept one after the other; the next one was not, if `wrong`."""
        for place in range(right + wrong):
            slot = min(place, 1)
            self.tried[slot] += 1
            self.kept[slot] += place < right

    def fade(self) -> None:
        for counts in (self.kept, self.tried):
            counts[:] = [count * _MEMORY for count in counts]


def expected(rates: tuple[float, float], tokens: int) -> float:
    """How many of so many drafted tokens will be kept, on average."""
    first, later = rates
    if tokens <= 0:
        return 0.0
    return first * ((1 - later**tokens) / (1 - later) if later < 1 else tokens)


@dataclass(frozen=True, slots=True)
class Situation:
    """A row before a round: the odds of each token lookup has found, how far the model is behind and how good it
    has been, and how many tokens may be drafted."""

    lookup: Sequence[float]
    model: tuple[float, float]
    lag: int
    budget: int
    context: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Per row, who drafts and at most how many tokens."""

    sources: list[Source]
    tokens: list[int]


def choose(rows: Sequence[Situation], costs: Costs, most: int) -> Plan:
    """All rows share one forward, as long as the longest draft: so one length is chosen, and each row's best source
    within it.
    """
    best, best_rate = Plan([Source.NOBODY] * len(rows), [0] * len(rows)), 0.0
    context = max(row.context for row in rows)
    for with_model in (False, True) if costs.draft is not None else (False,):
        for length in range(most + 1):
            verify = costs.target.seconds(length + 1, len(rows), context) + costs.overhead
            if with_model and length == 0:
                continue
            picked = [_pick(row, length, with_model) for row in rows]
            gain = sum(kept for _, _, kept in picked)
            asked = [row for row, (source, _, _) in zip(rows, picked, strict=True) if source is Source.MODEL]
            seconds = verify + _drafting(asked, costs, length, 1 + gain / len(rows), len(rows))
            rate = (len(rows) + gain) / seconds
            if rate > best_rate:
                best_rate = rate
                best = Plan([source for source, _, _ in picked], [tokens for _, tokens, _ in picked])
    return best


def _pick(row: Situation, length: int, with_model: bool) -> tuple[Source, int, float]:
    """The source that keeps most tokens in a draft of at most `length`, its tokens, and how many will be kept."""
    choices = [(Source.NOBODY, 0, 0.0)]
    if row.lookup:
        tokens = min(length, len(row.lookup), row.budget)
        choices.append((Source.LOOKUP, tokens, sum(accumulate(row.lookup[:tokens], mul))))
    if with_model:
        tokens = min(length, row.budget)
        choices.append((Source.MODEL, tokens, expected(row.model, tokens)))
    return max(choices, key=lambda choice: choice[2])


def _drafting(asked: Sequence[Situation], costs: Costs, length: int, per_round: float, rows: int) -> float:
    """Seconds of the model's steps. What it has to read first is shared by the rounds that will profit from it."""
    if not asked or costs.draft is None:
        return 0.0 if not asked else inf
    draft = costs.draft
    context = max(row.context for row in asked)
    step = draft.seconds(1, rows, context)
    behind = max(asked, key=lambda row: row.lag)
    reading = max(draft.reading(behind.lag, context) - step, 0.0)
    rounds = min(max(behind.budget / per_round, 1.0), _HORIZON)
    steps = min(length, max(row.budget for row in asked))
    return reading / rounds + step * steps


def least_confidence(costs: Costs, most: int, keep: float = 0.8) -> float:
    """A token less likely than this is not worth another step behind it: that step would take longer than its share
    of a round's tokens does, for a model whose tokens are kept with probability `keep`.
    """
    if costs.draft is None:
        return 0.0
    draft = costs.draft.seconds(1)
    rates = [
        (1 + expected((keep, keep), k)) / (costs.target.seconds(k + 1) + k * draft)
        for k in range(1, most + 1)
    ]
    k = 1 + max(range(len(rates)), key=rates.__getitem__)
    step = draft + costs.target.seconds(k + 1) - costs.target.seconds(k)
    return min(max(max(rates) * step, 0.0), 0.9)
