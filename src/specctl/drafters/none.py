"""Plain decoding: the drafter that proposes nothing. Every speedup is measured against it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from specctl.decode.draft import Draft, Parts, Row, Scored
from specctl.profile.drafters import NoneParams


class NoDrafter:
    needs: frozenset[int] = frozenset()

    def __init__(self, params: NoneParams, parts: Parts) -> None:
        """Nothing to set."""

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        """Nothing to keep."""

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        return Draft([[] for _ in rows])

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        """Nothing to learn."""

    def swap(self, one: int, other: int) -> None:
        """Nothing to move."""

    def drop(self, slot: int) -> None:
        """Nothing to move."""
