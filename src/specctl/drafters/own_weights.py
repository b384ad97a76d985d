"""Self-drafting: the target's own weights in fewer bits write, in the target's own cache; no second model.

The draft has the target's layers and heads, so what the target has computed for the committed tokens is context the
draft can read as it is: better than its own, and nothing is read twice, neither the prompt nor a round.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from specctl.decode.draft import Row, Scored
from specctl.drafters.draft_model import DraftModel
from specctl.models.cache import SlotCache


class OwnWeights(DraftModel):
    """Feeds the last committed token and what it drafts, above the committed slots of the target's cache.

    Nothing of it stays: scoring writes the target's own states into the same slots before any is committed.
    """

    def share(self, cache: SlotCache) -> None:
        self._cache = cache

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        """The target has read the prompt."""

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        """The target has written its states over the draft's."""

    def swap(self, one: int, other: int) -> None:
        """The cache is the target's to move."""

    def drop(self, slot: int) -> None:
        """The cache is the target's to move."""

    def _catch_up(self, rows: Sequence[Row], active: Sequence[bool]) -> Tensor:
        """The cache holds all but each row's last token. Logits `[n, vocab]` behind that."""
        return self._feed([row.ids[-1] for row in rows])
