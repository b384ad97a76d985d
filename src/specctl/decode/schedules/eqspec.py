"""EQSPEC: the rectangle is restored every round. Source: arXiv:2510.22876 and its code.

A batch stays together until its last row is done, as published; what differs is that rows that are done leave, that
each row has its own limit, and that a fully accepted draft earns its bonus token.
"""

from __future__ import annotations

from collections.abc import Sequence

from specctl.decode.draft import Row


class Eqspec:
    rectangular = True

    def __init__(self, batch_size: int) -> None:
        self.slots = batch_size

    def room(self, live: int) -> int:
        return 0 if live else self.slots

    def pick(self, rows: Sequence[Row], widths: Sequence[int]) -> Sequence[int]:
        return range(len(rows))
