"""What a run exercised. A check that never met a rejection has not tested rollback, whatever it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from specctl.decode.draft import Request
from specctl.events import Drafted, Emitted, Event, Finished, Verified

_SCALARS = (
    "rounds",
    "empty_draft",
    "none_accepted",
    "partly_accepted",
    "all_accepted",
    "eos_in_block",
    "stop_in_block",
    "cap_in_block",
    "finished_apart",
    "finished_together",
)


@dataclass(slots=True)
class Coverage:
    """Counters, folded from the events of one `decode` call at a time.

    `rejected_at[i]` counts first rejections at the i-th drafted token, from 1. "In block" means: an answer ended
    at an accepted drafted token, so that tokens behind it had to be dropped.
    """

    counts: Counter[str] = field(default_factory=Counter)
    rejected_at: Counter[int] = field(default_factory=Counter)
    drafted: int = 0
    accepted: int = 0
    longest: int = 0

    def add(self, events: Iterable[Event], requests: Sequence[Request], eos: frozenset[int]) -> None:
        draft_end: dict[int, Verified] = {}
        last: dict[int, Emitted] = {}
        lengths: Counter[int] = Counter()
        ended: Counter[int] = Counter()
        for event in events:
            match event:
                case Drafted():
                    self.longest = max(self.longest, len(event.tokens))
                case Verified():
                    self._round(event)
                    draft_end[event.row] = event
                case Emitted():
                    last[event.row] = event
                    lengths[event.row] += len(event.tokens)
                case Finished(reason="stop" | "length" | "context") if event.row in last:
                    ended[event.round] += 1
                    self._end(event, draft_end[event.row], last[event.row], eos)
        if len(requests) > 1:
            self.counts["finished_together"] += sum(n > 1 for n in ended.values())
            self.counts["finished_apart"] += len(ended) > 1

    def _round(self, event: Verified) -> None:
        self.drafted += event.drafted
        self.accepted += event.accepted
        self.counts["rounds"] += 1
        if not event.drafted:
            self.counts["empty_draft"] += 1
        elif event.accepted == event.drafted:
            self.counts["all_accepted"] += 1
        else:
            self.counts["partly_accepted" if event.accepted else "none_accepted"] += 1
            self.rejected_at[event.accepted + 1] += 1

    def _end(self, event: Finished, verified: Verified, emitted: Emitted, eos: frozenset[int]) -> None:
        if len(emitted.tokens) > verified.accepted:
            # The bonus closed the answer; the block was as long as the cap allowed.
            if event.reason == "length" and verified.accepted:
                self.counts["cap_in_block"] += 1
        elif event.reason == "stop":
            self.counts["eos_in_block" if emitted.tokens[-1] in eos else "stop_in_block"] += 1
        else:
            self.counts["cap_in_block"] += 1

    @property
    def missing(self) -> list[str]:
        """What never happened, by name."""
        names = [name for name in _SCALARS if not self.counts[name]]
        return names + [f"rejected_at_{i}" for i in range(1, self.longest + 1) if not self.rejected_at[i]]

    @property
    def vacuous(self) -> bool:
        """Whether acceptance or rejection was never met at all."""
        return not self.accepted or not self.rejected_at

    def to_json(self) -> dict[str, object]:
        return {
            **{name: self.counts[name] for name in _SCALARS},
            "rejected_at": {str(i): self.rejected_at[i] for i in range(1, self.longest + 1)},
            "drafted": self.drafted,
            "accepted": self.accepted,
            "not_exercised": self.missing,
        }
