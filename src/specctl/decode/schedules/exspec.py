"""EXSPEC: rows of one width are batched together; only where there are too few are some realigned.

Source: arXiv:2510.22876 and its code. Three things are ours: groups are served by age, newcomers are
prefilled before they are picked, and drafters keep their caches.
"""

from __future__ import annotations

from collections.abc import Sequence

from specctl.decode.draft import Row

_PATIENCE = 8
"""Rounds a row waits for company, in turns of the whole window, before it is served without."""


class Exspec:
    """A window of live rows, of which `batch_size` take part in a round."""

    rectangular = True

    def __init__(self, batch_size: int, window: int) -> None:
        self.slots = max(batch_size, window)
        self._batch_size = batch_size
        self._round = 0
        self._served: dict[int, int] = {}  # by the row's index: the round it last took part in
        self._longest_wait = _PATIENCE * -(-self.slots // batch_size)

    def room(self, live: int) -> int:
        return self.slots - live

    def pick(self, rows: Sequence[Row], widths: Sequence[int]) -> Sequence[int]:
        """The full group with the longest waiting row; else those that have waited longest, of any width."""
        self._round += 1
        served = {row.index: self._served.get(row.index, self._round - 1) for row in rows}
        by_age = sorted(range(len(rows)), key=lambda slot: (served[rows[slot].index], rows[slot].index))
        chosen = by_age[: self._batch_size]
        if self._round - served[rows[by_age[0]].index] <= self._longest_wait:
            chosen = self._full_group(by_age, widths) or chosen
        self._served = served | {rows[slot].index: self._round for slot in chosen}
        return chosen

    def _full_group(self, by_age: Sequence[int], widths: Sequence[int]) -> list[int]:
        groups: dict[int, list[int]] = {}
        for slot in by_age:
            groups.setdefault(widths[slot], []).append(slot)
        full = (group[: self._batch_size] for group in groups.values() if len(group) >= self._batch_size)
        return next(full, [])
