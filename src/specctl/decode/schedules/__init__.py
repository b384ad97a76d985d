"""Schedules: which rows of a batch take part in a round, and whether their caches are a rectangle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from specctl.decode.draft import Row
from specctl.decode.schedules.eqspec import Eqspec
from specctl.decode.schedules.exspec import Exspec
from specctl.decode.schedules.ragged import Ragged

DEFAULT = "ragged"
DEFAULT_WINDOW = 32


class Schedule(Protocol):
    """Decides by lengths and ages alone; the loop moves rows and caches.

    `slots` is the most rows that are live at once. `rectangular`: the rows of a round get one width.
    """

    slots: int
    rectangular: bool

    def room(self, live: int) -> int:
        """How many waiting rows may join `live` ones now."""

    def pick(self, rows: Sequence[Row], widths: Sequence[int]) -> Sequence[int]:
        """The slots of those that take part in the next round; `widths` are the columns each has in the cache."""


SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {
    "ragged": lambda batch_size, window: Ragged(batch_size),
    "eqspec": lambda batch_size, window: Eqspec(batch_size),
    "exspec": Exspec,
}
"""Made from batch size and window, which only `exspec` has."""
