"""N-gram drafting: the text so far often says what comes next (prompt lookup, and the answer itself).

The last few tokens are sought in what stands before them; what followed there is the draft. No model, next to
no cost. Source: Saxena, "Prompt Lookup Decoding" (2023); the same idea is in arXiv:2304.04487.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from specctl.decode import length
from specctl.decode.draft import Draft, Parts, Row, Scored
from specctl.models import costs
from specctl.profile.drafters import NgramParams

_WORTH = 0.06
"""A drafted token is worth its place while it is kept at least this often. A row costs a small model's forward some
3 % on a CPU (`specctl doctor` shows it); twice that did best in replays of plain answers to prompts of our own."""


class Ngram:
    """Drafts what followed the last few tokens before, for as long as that is likely to be kept.

    The longer the run that matched, the likelier the next token. How likely is counted for each row and length.
    With `draft_tokens: auto` all rows together decide how much of it is worth its place (`decode/length.py`).
    """

    needs: frozenset[int] = frozenset()

    def __init__(self, params: NgramParams, parts: Parts) -> None:
        self._params = params
        self._costs = None
        if params.draft_tokens == "auto":
            self._costs = parts.costs or costs.of(parts.target, None, rows=parts.rows)
        self._company = length.Company.of(parts.sampler, parts.rows)
        self._eos = parts.eos
        self._seen: list[Lookup] = []
        self._odds: list[Odds] = []
        self._matched: list[Match] = []

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self._seen.append(Lookup(self._params.min_ngram, self._params.max_ngram))
        self._odds.append(Odds(self._params.max_ngram))

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        drafts = []
        self._matched = []
        for slot, (row, most) in enumerate(zip(rows, budget, strict=True)):
            seen = self._seen[slot]
            seen.extend(row.ids)
            size, start = seen.match(row.ids)
            limit = self._odds[slot].worthwhile(size, min(most, self._params.most))
            drafts.append(continuation(row.ids, start, limit, self._eos))
            self._matched.append(Match(size, drafts[-1], len(row.ids)))
        chances = [
            [odds.chance(match.size, n) for n in range(len(match.tokens))]
            for odds, match in zip(self._odds, self._matched, strict=False)
        ]
        if self._costs is not None:
            contexts = [len(row.ids) for row in rows]
            lengths = length.known(chances, contexts, self._costs, self._company)
            drafts = [tokens[:most] for tokens, most in zip(drafts, lengths, strict=True)]
            chances = [odds[:most] for odds, most in zip(chances, lengths, strict=True)]
        return Draft(drafts, confidence=chances)

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        """Learns from what was committed, so it does not matter whether its draft was the one that was scored."""
        for row, odds, match in zip(rows, self._odds, self._matched, strict=False):
            odds.count(match.size, match.tokens, row.ids[match.at :])

    def swap(self, one: int, other: int) -> None:
        self._seen[one], self._seen[other] = self._seen[other], self._seen[one]
        self._odds[one], self._odds[other] = self._odds[other], self._odds[one]

    def drop(self, slot: int) -> None:
        self._seen[slot] = self._seen[-1]
        self._odds[slot] = self._odds[-1]
        self._seen.pop()
        self._odds.pop()


@dataclass(frozen=True, slots=True)
class Match:
    """Tokens drafted from a match of `size`, for the places from `at` on."""

    size: int
    tokens: list[int]
    at: int


class Odds:
    """How often the token after a match of each length was right, in one row.

    >>> odds = Odds(4)
    >>> odds.worthwhile(1, 9), odds.worthwhile(4, 9)
    (4, 9)
    >>> for _ in range(20):
    ...     odds.count(1, drafted=[7, 8, 9, 9], committed=[5])
    >>> odds.worthwhile(1, 9)
    1
    """

    def __init__(self, longest: int) -> None:
        # Eight imagined tries each, until the row's own outweigh them.
        self._tries = [8.0] * (longest + 1)
        self._right = [8 * (1 - 0.7**size) for size in range(longest + 1)]

    def worthwhile(self, size: int, limit: int) -> int:
        """How many tokens to draft from a match of `size`: while the chance that all are right is worth a row."""
        chance = 1.0
        for n in range(limit):
            chance *= self.chance(size, n)
            if chance < _WORTH:
                return n
        return limit

    def chance(self, size: int, n: int) -> float:
        """Odds that drafted token n is right, given that those before it are."""
        at = self._grown(size, n)
        return self._right[at] / self._tries[at]

    def count(self, size: int, drafted: Sequence[int], committed: Sequence[int]) -> None:
        """A draft's outcome: what was committed judges its tokens up to the first wrong one."""
        for n, (token, right) in enumerate(zip(drafted, committed, strict=False)):
            at = self._grown(size, n)
            self._tries[at] += 1
            self._right[at] += token == right
            if token != right:
                return

    def _grown(self, size: int, n: int) -> int:
        """The match's length once n drafted tokens were right."""
        return min(size + n, len(self._tries) - 1)


class Lookup:
    """Where each n-gram of a growing sequence was last followed by something.

    >>> seen = Lookup(1, 2)
    >>> ids = [5, 6, 7, 8, 5, 6]
    >>> seen.extend(ids)
    >>> size, start = seen.match(ids)
    >>> size, continuation(ids, start, 3, frozenset())
    (2, [7, 8, 5])
    """

    def __init__(self, shortest: int, longest: int) -> None:
        self._sizes = range(longest, shortest - 1, -1)
        self._after: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def extend(self, ids: Sequence[int]) -> None:
        """Index all n-grams of `ids` that something follows; the earlier part is known already."""
        for end in range(max(self._indexed, 1), len(ids)):
            for size in self._sizes:
                if size <= end:
                    self._after[tuple(ids[end - size : end])] = end
        self._indexed = len(ids)

    def match(self, ids: Sequence[int]) -> tuple[int, int | None]:
        """The longest known n-gram that `ids` ends in: its size and the place behind its last occurrence."""
        for size in self._sizes:
            if (key := tuple(ids[-size:])) in self._after:
                return size, self._after[key]
        return 0, None


def continuation(ids: Sequence[int], start: int | None, limit: int, eos: frozenset[int]) -> list[int]:
    """At most `limit` tokens copied from `start` on; none if `start` is None.

    A copy that runs into the end of `ids` goes on with what it has copied, so a repeating text is continued
    past its last period. Nothing is drafted behind an end of sequence.
    """
    drafted: list[int] = []
    while start is not None and len(drafted) < limit and not (drafted and drafted[-1] in eos):
        at = start + len(drafted)
        drafted.append(ids[at] if at < len(ids) else drafted[at - len(ids)])
    return drafted
