"""A drafter that another one does the work for: what watchers of drafts are made from."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from specctl.decode.draft import Draft, Drafter, Row, Scored, midway, share_cache
from specctl.models.cache import SlotCache


class Through:
    """Passes every call on; the loop sees no difference."""

    def __init__(self, drafter: Drafter) -> None:
        self.needs = drafter.needs
        self.midway = midway(drafter)
        self._drafter = drafter

    def share(self, cache: SlotCache) -> None:
        """The target's own cache, for a drafter that runs layers of the target."""
        share_cache(self._drafter, cache)

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self._drafter.begin(row, hidden)

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        return self._drafter.draft(rows, budget)

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        self._drafter.observe(rows, scored, accepted)

    def swap(self, one: int, other: int) -> None:
        self._drafter.swap(one, other)

    def drop(self, slot: int) -> None:
        self._drafter.drop(slot)
