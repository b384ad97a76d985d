"""Progress of downloads and conversions, taken in one thread and read in another."""

from __future__ import annotations


class Fetching:
    """What is going on in one line; empty when nothing is."""

    def __init__(self) -> None:
        self._what = ""
        self._total: int | None = None
        self._done = 0

    def start(self, what: str, total_bytes: int | None) -> None:
        self._what, self._total, self._done = what, total_bytes, 0

    def advance(self, n_bytes: int) -> None:
        self._done += n_bytes

    def note(self, text: str) -> None:
        self._what = text

    def done(self) -> None:
        self._what = ""

    def line(self) -> str:
        if not self._what:
            return ""
        if self._total:
            share = self._done / self._total
            return f"{self._what}: {self._done / 1e6:.0f} of {self._total / 1e6:.0f} MB ({share:.0%})"
        return f"{self._what}: {self._done / 1e6:.0f} MB" if self._done else self._what
