"""N-gram drafting: the text so far often says what comes next (prompt lookup, and the answer itself).

The last few tokens are sought in what stands before them; what followed there is the draft. No model, next to
no cost. Source: Saxena, "Prompt Lookup Decoding" (2023); the same idea is in arXiv:2304.04487.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from specctl.decode.draft import Draft, Parts, Row, Scored
from specctl.profile.drafters import NgramParams


class Ngram:
    """Drafts what followed the last few tokens before.

    A wrong draft still costs the target its rows, and text that repeats comes in stretches: a row's longest draft
    grows fourfold when all of it was accepted and halves when not.
    """

    needs: frozenset[int] = frozenset()

    def __init__(self, params: NgramParams, parts: Parts) -> None:
        self._params = params
        self._eos = parts.eos
        self._seen: list[Lookup] = []
        self._longest: list[int] = []
        self._drafted: list[int] = []

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self._seen.append(Lookup(self._params.min_ngram, self._params.max_ngram))
        self._longest.append(self._params.draft_tokens)

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        drafts = []
        for slot, row in enumerate(rows):
            self._seen[slot].extend(row.ids)
            limit = min(budget[slot], self._longest[slot])
            drafts.append(self._seen[slot].continuation(row.ids, limit, self._eos))
        self._drafted = [len(draft) for draft in drafts]
        return Draft(drafts)

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        for slot, (n, drafted) in enumerate(zip(accepted, self._drafted, strict=True)):
            if drafted:
                longest = self._longest[slot] * 4 if n == drafted else self._longest[slot] // 2
                self._longest[slot] = min(max(longest, 2), self._params.draft_tokens)

    def swap(self, one: int, other: int) -> None:
        self._seen[one], self._seen[other] = self._seen[other], self._seen[one]
        self._longest[one], self._longest[other] = self._longest[other], self._longest[one]

    def drop(self, slot: int) -> None:
        self._seen[slot] = self._seen[-1]
        self._longest[slot] = self._longest[-1]
        self._seen.pop()
        self._longest.pop()


class Lookup:
    """Where each n-gram of a growing sequence was last followed by something.

    >>> seen = Lookup(1, 2)
    >>> ids = [5, 6, 7, 8, 5, 6]
    >>> seen.extend(ids)
    >>> seen.continuation(ids, 3, frozenset())
    [7, 8, 5]
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

    def continuation(self, ids: Sequence[int], limit: int, eos: frozenset[int]) -> list[int]:
        """What followed the longest known n-gram that `ids` ends in, at most `limit` tokens.

        A copy that runs into the end of `ids` goes on with what it has copied, so a repeating text is continued
        past its last period. Nothing is drafted behind an end of sequence.
        """
        start = next(
            (self._after[key] for size in self._sizes if (key := tuple(ids[-size:])) in self._after), None
        )
        drafted: list[int] = []
        while start is not None and len(drafted) < limit and not (drafted and drafted[-1] in eos):
            at = start + len(drafted)
            drafted.append(ids[at] if at < len(ids) else drafted[at - len(ids)])
        return drafted
