"""Ragged rows: nothing is realigned, and a slot that falls free is taken at once (continuous batching)."""

from __future__ import annotations

from collections.abc import Sequence

from specctl.decode.draft import Row


class Ragged:
    rectangular = False

    def __init__(self, batch_size: int) -> None:
        self.slots = batch_size

    def room(self, live: int) -> int:
        return self.slots - live

    def pick(self, rows: Sequence[Row], widths: Sequence[int]) -> Sequence[int]:
        return range(len(rows))
