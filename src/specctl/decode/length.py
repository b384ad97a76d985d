"""How many tokens a round drafts, by the rows that share it: `draft_tokens: auto`.

All rows of a round go through the target in one forward, as wide as the longest draft: a token drafted for one row
is paid for by all. The more rows, the sooner arithmetic is what a forward costs, and the fewer drafted tokens are
worth it. The width is chosen that makes most tokens a second; plain decoding is the width of nothing.

Only what is committed and what forwards cost here go in, never a token that was drafted and not kept: so the law of
the output stays as it is. Under `rejection` rows may share random numbers (equal seeds), and what one row did would
tell of those another is yet to draw. There each row decides for itself, as if the others were like it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from operator import mul

from specctl.decode.sampling import Sampler
from specctl.models.costs import Costs

_CLEARLY = 1.02
"""Drafting has to promise this much over plain decoding: costs are measured, chances are guessed."""

_PRIOR = 0.75
_TRIES, _ROW_TRIES = 4.0, 8.0
"""Imagined drafted tokens: of all rows, kept as often as `_PRIOR`; of a row, kept as often as those of all rows."""

_MEMORY, _ROW_MEMORY = 0.99, 0.95
"""Share of what was counted that is left after a round: drafting that was given up is tried again in the end."""


@dataclass(slots=True)
class Kept:
    """How often a drafted token was kept, of those that came to be judged: by its place in the forward that said
    it. A draft without streams has one place."""

    kept: list[float]
    tried: list[float]

    @classmethod
    def nothing(cls, places: int) -> Kept:
        return cls([0.0] * places, [0.0] * places)

    def rates(self, priors: Sequence[float], weight: float) -> list[float]:
        known = zip(self.kept, self.tried, priors, strict=True)
        return [(kept + weight * prior) / (tried + weight) for kept, tried, prior in known]

    def learn(self, kept: int, tried: int) -> None:
        """Of a draft's first `tried` tokens the first `kept` were right."""
        places = len(self.kept)
        for place in range(places):
            self.kept[place] += len(range(place, kept, places))
            self.tried[place] += len(range(place, tried, places))

    def fade(self, memory: float) -> None:
        self.kept = [memory * kept for kept in self.kept]
        self.tried = [memory * tried for tried in self.tried]


@dataclass(frozen=True, slots=True)
class Company:
    """Who decides together. `rows`: the most rows of a round."""

    rows: int
    together: bool

    @classmethod
    def of(cls, sampler: Sampler, rows: int) -> Company:
        return cls(rows, together=sampler.law.greedy or sampler.coupled)

    def choose(self, n: int, best: Callable[[Sequence[int], int], list[int]]) -> list[int]:
        """`best` for all of n rows, or for one after another. It takes slots, and how many rows share the forward;
        it returns a length for each slot."""
        if self.together:
            return best(range(n), n)
        return [length for slot in range(n) for length in best([slot], self.rows)]


def known(
    odds: Sequence[Sequence[float]], contexts: Sequence[int], costs: Costs, company: Company
) -> list[int]:
    """How many tokens of drafts that cost nothing. `odds`: of each token to be kept, given those before it."""

    def best(slots: Sequence[int], rows: int) -> list[int]:
        kept = [list(accumulate(odds[slot], mul)) for slot in slots]
        gains = accumulate(map(sum, zip_longest(*kept, fillvalue=0.0)), initial=0.0)
        context = max(contexts[slot] for slot in slots)
        rates = [
            (len(slots) + gain) / (costs.target.seconds(1 + width, rows, context) + costs.overhead)
            for width, gain in enumerate(gains)
        ]
        rates[0] *= _CLEARLY
        width = rates.index(max(rates))
        return [min(width, len(row)) for row in kept]

    return company.choose(len(odds), best)


@dataclass(frozen=True, slots=True)
class Need:
    """A row before a round: `lag` committed tokens the draft model has not read, at most `budget` to draft."""

    lag: int
    budget: int
    context: int


class Lengths:
    """How many tokens a draft model is asked for, by how often its tokens were kept. Slots as in `Drafter`."""

    def __init__(self, most: int, costs: Costs, company: Company) -> None:
        assert costs.draft is not None
        self._most, self._costs, self._draft, self._company = most, costs, costs.draft, company
        self._places = 1 + costs.draft.streams
        self._everyone = Kept.nothing(self._places)
        self._rows: list[Kept] = []

    def begin(self) -> None:
        self._rows.append(Kept.nothing(self._places))

    def choose(self, needs: Sequence[Need]) -> list[int]:
        """For each of the first rows; 0: it is not worth asking."""
        return self._company.choose(len(needs), lambda slots, rows: self._best(needs, slots, rows))

    def observe(self, drafted: Sequence[int], accepted: Sequence[int]) -> None:
        """Of the first rows: what was drafted and kept. Tokens behind the first wrong one teach nothing."""
        self._everyone.fade(_MEMORY)
        for row, many, kept in zip(self._rows, drafted, accepted, strict=False):
            tried = min(kept + 1, many)
            row.fade(_ROW_MEMORY)
            row.learn(kept, tried)
            self._everyone.learn(kept, tried)

    def swap(self, one: int, other: int) -> None:
        self._rows[one], self._rows[other] = self._rows[other], self._rows[one]

    def drop(self, slot: int) -> None:
        self._rows[slot] = self._rows[-1]
        self._rows.pop()

    def _best(self, needs: Sequence[Need], slots: Sequence[int], rows: int) -> list[int]:
        target, context = self._costs.target, max(needs[slot].context for slot in slots)
        plain = target.seconds(1, rows, context) + self._costs.overhead
        share = rows / len(slots)  # rows that each of these stands for
        chances = [self._chances(slot) for slot in slots]
        reading = [self._reading(needs[slot]) for slot in slots]
        reached, gains = [1.0] * len(slots), [0.0] * len(slots)
        best, best_rate = [0] * len(slots), _CLEARLY * rows / plain
        for width in range(1, min(self._most, max(needs[slot].budget for slot in slots)) + 1):
            lengths, gain = [0] * len(slots), 0.0
            drafting = self._draft.drafting(width, rows, context)
            seconds = target.seconds(1 + width, rows, context) + self._costs.overhead + drafting
            for i, slot in enumerate(slots):
                need = needs[slot]
                reached[i] *= chances[i][(width - 1) % self._places]
                gains[i] += reached[i] if width <= need.budget else 0.0
                # What a row has to read first is shared by the rounds to come; half of what may come is expected.
                late = reading[i] / max(need.budget / 2 / (1 + gains[i]), 1.0)
                if gains[i] * plain / rows > late:
                    lengths[i] = min(width, need.budget)
                    gain += gains[i] * share
                    seconds += late * share
            rate = (rows + gain) / seconds
            if rate > best_rate:
                best, best_rate = lengths, rate
        return best

    def _chances(self, slot: int) -> list[float]:
        """That a drafted token of this row is kept, by its place in its forward."""
        priors = [_PRIOR] * self._places
        if self._company.together:
            priors = self._everyone.rates(priors, _TRIES)
        return self._rows[slot].rates(priors, _ROW_TRIES)

    def _reading(self, need: Need) -> float:
        """Seconds of the first step over those of any other."""
        read, step = self._draft.reading(need.lag, need.context), self._draft.seconds(1, context=need.context)
        return max(read - step, 0.0)
