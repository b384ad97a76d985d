"""What drafting ahead came to in a run: hits by slot, time hidden, and the modelled critical path."""

from __future__ import annotations

from collections import Counter
from typing import Any

from specctl.events import Branched, Event, Mirrored, Verified


class Tally:
    """A fold over events. A round's hit is counted at the slot its verdict fell on: tokens accepted."""

    def __init__(self) -> None:
        self.rounds = 0
        self.branches = 0
        self.in_place = 0
        self.why: str | None = None
        self._tried: Counter[int] = Counter()
        self._hits: Counter[int] = Counter()
        self._accepted: dict[int, int] = {}
        self._lower = self._upper = self._ahead = self._waited = self._hidden = 0.0
        self._modelled: float | None = 0.0

    def add(self, event: Event) -> None:
        match event:
            case Verified():
                self._accepted[event.row] = event.accepted
            case Branched():
                self.branches += len(event.keys)
                if event.hit is not None:
                    slot = self._accepted.get(event.row, 0)
                    self._tried[slot] += 1
                    self._hits[slot] += event.hit
            case Mirrored():
                self._mirrored(event)

    def _mirrored(self, event: Mirrored) -> None:
        self.rounds += 1
        self._lower += event.lower_s
        self._upper += event.upper_s
        self._ahead += event.ahead_s
        self._waited += event.waited_s
        if event.failed is not None:
            self.in_place += 1
            self.why = event.failed
        if event.modelled_s is None:
            self._modelled = None
            self._hidden += event.ahead_s - event.waited_s
        else:
            self._hidden += min(event.upper_s, event.ahead_s)
            if self._modelled is not None:
                self._modelled += event.modelled_s

    @property
    def tried(self) -> int:
        """Verdicts behind which another draft was needed."""
        return self._tried.total()

    @property
    def hits(self) -> int:
        return self._hits.total()

    @property
    def modelled_s(self) -> float | None:
        """Decoding on two devices as fast as this one: a model. None where drafting really overlapped."""
        return self._modelled if self.rounds else None

    @property
    def hidden(self) -> float | None:
        """Share of the branches' time behind the target's: measured if it overlapped, else modelled."""
        return self._hidden / self._ahead if self._ahead else None

    def summary(self) -> dict[str, Any]:
        return {
            "verdicts": self.tried,
            "hits": self.hits,
            "hit_rate": self.hits / self.tried if self.tried else None,
            "hits_by_slot": {str(slot): [self._hits[slot], n] for slot, n in sorted(self._tried.items())},
            "branches": self.branches,
            "lower_s": self._lower,
            "upper_s": self._upper,
            "ahead_s": self._ahead,
            "waited_s": self._waited,
            "hidden": self.hidden,
            "hidden_is": "measured" if self._modelled is None else "modelled",
            "modelled_decode_s": self.modelled_s,
            "in_place": self.in_place,
            "in_place_why": self.why,
        }
