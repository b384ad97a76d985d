"""From events to the figures we publish. Names and formulas are vLLM's, so that numbers compare.

`docs/metrics.md` explains them to users.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from specctl.events import Emitted, Event, Prefilled, Timed, Verified
from specctl.mirror.tally import Tally

SLOWER = 0.98
"""A speedup below this is called slower than plain decoding; above it, noise decides."""


class Stats:
    """A fold over events; add them all, ask at any time."""

    def __init__(self) -> None:
        self.new_tokens = 0
        self.rounds = 0
        self.drafted = 0
        self.accepted = 0
        self.prefill_s = 0.0
        self.decode_s = 0.0
        self.draft_s = 0.0
        self.verify_s = 0.0
        self.align_s = 0.0
        self.forwards = 0
        self.realigned = 0
        self.mirror = Tally()
        self._accepted_at: Counter[int] = Counter()  # rounds that accepted exactly this many

    def add(self, event: Event) -> None:
        self.mirror.add(event)
        match event:
            case Prefilled():
                self.prefill_s += event.seconds
            case Verified():
                self.rounds += 1
                self.drafted += event.drafted
                self.accepted += event.accepted
                self._accepted_at[event.accepted] += 1
            case Emitted():
                self.new_tokens += len(event.tokens)
            case Timed():
                self.decode_s += event.round_s
                self.draft_s += event.draft_s
                self.verify_s += event.verify_s
                self.align_s += event.align_s
                self.forwards += 1
                self.realigned += event.realigned

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted of drafted tokens; None when nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def mean_acceptance_length(self) -> float | None:
        """Tokens a target forward yields, the target's own included: 1 for plain decoding."""
        return 1 + self.accepted / self.rounds if self.rounds else None

    @property
    def grouping_rate(self) -> float | None:
        """Rounds whose rows had one width already, over all rounds of the batch."""
        return 1 - self.realigned / self.forwards if self.forwards else None

    @property
    def accepted_per_position(self) -> list[int]:
        """How many rounds accepted the first drafted token, the second, …"""
        longest = max(self._accepted_at, default=0)
        return [sum(n for at, n in self._accepted_at.items() if at > slot) for slot in range(longest)]

    @property
    def tokens_per_s(self) -> float | None:
        """Emitted tokens over decoding time, prefill apart."""
        return self.new_tokens / self.decode_s if self.decode_s else None

    @property
    def estimated_speedup(self) -> float | None:
        """At most this over plain decoding: as if a plain step took as long as verifying, which is a little longer.

        None when nothing was drafted.
        """
        if not self.drafted or not self.decode_s or not self.verify_s:
            return None
        return self.new_tokens * self.verify_s / self.rounds / self.decode_s

    def summary(self) -> dict[str, Any]:
        return {
            "new_tokens": self.new_tokens,
            "rounds": self.rounds,
            "drafted": self.drafted,
            "accepted": self.accepted,
            "acceptance_rate": self.acceptance_rate,
            "mean_acceptance_length": self.mean_acceptance_length,
            "accepted_per_position": self.accepted_per_position,
            "prefill_s": self.prefill_s,
            "decode_s": self.decode_s,
            "draft_s": self.draft_s,
            "verify_s": self.verify_s,
            "tokens_per_s": self.tokens_per_s,
            "estimated_speedup": self.estimated_speedup,
            **({"mirror": self.mirror.summary()} if self.mirror.rounds else {}),
        }
