"""How much to draft, and by whom: the choice that makes most tokens a second out of costs and chances.

No tensors here: numbers go in and numbers come out, so a recorded run can be played again without any model. Whom
to ask is settled before anybody has drawn a token, from what is committed alone: the output's law stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from operator import mul

from specctl.models.costs import Costs

_MEMORY = 0.95
"""Share of what was learnt that is left after a round: what is not refreshed fades, and is tried again."""

_HORIZON = 16
"""Rounds over which reading up what the model has missed may pay."""


_PRIOR_ROUNDS, _PRIOR_KEPT, _PRIOR_DRAFTED = 3.0, 2.5, 3.5


class Source(Enum):
    NOBODY = 0
    LOOKUP = 1
    MODEL = 2


@dataclass(slots=True)
class Yield:
    """What a round of the model's has brought in a row, on average: tokens kept, tokens drafted. Counts fade, and
    lean on a prior of some rounds of an average model."""

    kept: float = 0.0
    drafted: float = 0.0
    rounds: float = 0.0

    def averages(self) -> tuple[float, float]:
        """Tokens kept and drafted a round."""
        rounds = self.rounds + _PRIOR_ROUNDS
        return (
            (self.kept + _PRIOR_ROUNDS * _PRIOR_KEPT) / rounds,
            (self.drafted + _PRIOR_ROUNDS * _PRIOR_DRAFTED) / rounds,
        )

    def learn(self, kept: int, drafted: int) -> None:
        self.kept += kept
        self.drafted += drafted
        self.rounds += 1

    def fade(self) -> None:
        self.kept, self.drafted, self.rounds = (
            _MEMORY * value for value in (self.kept, self.drafted, self.rounds)
        )


@dataclass(frozen=True, slots=True)
class Situation:
    """A row before a round: the odds of each token lookup has found, what the model kept and drafted on average,
    how many committed tokens it has not read yet, and how many tokens may be drafted."""

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


@dataclass(frozen=True, slots=True)
class _Pick:
    """A row's best source: at most how many tokens, how many to expect, and how many of them to be kept."""

    source: Source
    most: int
    drafted: float
    kept: float


_PLAIN = _Pick(Source.NOBODY, 0, 0.0, 0.0)


def choose(rows: Sequence[Situation], costs: Costs, most: int) -> Plan:
    """Most tokens a second, over all rows: they share one forward, which is as long as the longest draft."""
    best, best_rate = [_PLAIN] * len(rows), 0.0
    longest_found = max(len(row.lookup) for row in rows)
    for with_model in (False, True) if costs.draft is not None else (False,):
        for length in range(min(most, longest_found) + 1):
            picked = [_pick(row, length, most, with_model) for row in rows]
            rate = _rate(rows, picked, costs)
            if rate > best_rate:
                best, best_rate = picked, rate
    return Plan([one.source for one in best], [one.most for one in best])


def _pick(row: Situation, length: int, most: int, with_model: bool) -> _Pick:
    """The source that has most tokens kept, with at most `length` from lookup."""
    choices = [_PLAIN]
    found = min(length, len(row.lookup), row.budget)
    if found:
        kept = sum(accumulate(row.lookup[:found], mul))
        choices.append(_Pick(Source.LOOKUP, found, found, kept))
    if with_model and row.budget:
        allowed = min(most, row.budget)
        kept, drafted = (min(value, allowed) for value in row.model)
        choices.append(_Pick(Source.MODEL, allowed, drafted, kept))
    return max(choices, key=lambda choice: choice.kept)


def _rate(rows: Sequence[Situation], picked: Sequence[_Pick], costs: Costs) -> float:
    """Tokens a second to be expected."""
    context = max(row.context for row in rows)
    longest = max(one.drafted for one in picked)
    gain = sum(one.kept for one in picked)
    seconds = costs.target.seconds(1 + longest, len(rows), context) + costs.overhead
    asked = [row for row, one in zip(rows, picked, strict=True) if one.source is Source.MODEL]
    if asked and costs.draft is not None:
        step = costs.draft.seconds(1, len(rows), context)
        steps = max(one.drafted for one in picked if one.source is Source.MODEL)
        # What it has to read first is shared by the rounds that profit from it.
        behind = max(asked, key=lambda row: row.lag)
        reading = max(costs.draft.reading(behind.lag, context) - step, 0.0)
        rounds = min(max(behind.budget / (1 + gain / len(rows)), 1.0), _HORIZON)
        seconds += reading / rounds + step * steps
    return (len(rows) + gain) / seconds


def least_confidence(costs: Costs, keep: float = 0.8) -> float:
    """A draft that is less likely than this to be right so far is not worth another step behind it: that step would
    take longer than its share of a round's tokens does, for a model whose tokens are kept with probability `keep`.

    At least 1/4: models in few bits are surer than they should be.
    """
    if costs.draft is None:
        return 0.0
    draft, target = costs.draft.seconds(1), costs.target
    kept = list(accumulate(keep**k for k in range(1, 13)))
    rates = [(1 + more) / (target.seconds(k + 1) + k * draft) for k, more in enumerate(kept, start=1)]
    k = 1 + max(range(len(rates)), key=rates.__getitem__)
    step = draft + target.seconds(k + 1) - target.seconds(k)
    return min(max(max(rates) * step, 0.25), 0.9)
