"""One answer, or one batch of answers, timed; and what a contestant has to offer to be timed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from specctl.decode.draft import Request


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a contestant did with a group. `seconds` is the wall clock around all of it, prefill included.

    The fields of rounds are empty for programs that do not tell. `offered[i]` counts the rounds that drafted more
    than i tokens, `accepted[i]` those that accepted more than i.
    """

    answers: tuple[tuple[int, ...], ...]
    seconds: float
    first_token_s: float | None = None
    prefill_s: float | None = None
    draft_s: float | None = None
    verify_s: float | None = None
    rounds: int | None = None
    offered: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.answers))


class Contestant(Protocol):
    """Something that answers prompts: a profile of ours, or another program's decoding."""

    name: str

    def run(self, requests: Sequence[Request], batch_size: int, cancelled: Callable[[], bool]) -> Outcome:
        """Answer all requests, at most `batch_size` at once."""


@dataclass(frozen=True, slots=True)
class Trial:
    """An outcome with where it belongs. `equal`: the very tokens the baseline gave in the same turn."""

    contestant: str
    category: str
    group: str
    batch_size: int
    repeat: int
    tokens: int
    seconds: float
    digest: str
    equal: bool
    growth_bytes: int | None = None
    first_token_s: float | None = None
    prefill_s: float | None = None
    draft_s: float | None = None
    verify_s: float | None = None
    rounds: int | None = None
    offered: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def decoding_tokens_per_s(self) -> float | None:
        """Prefill apart; None where it is not known."""
        return None if self.prefill_s is None else self.tokens / (self.seconds - self.prefill_s)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trial:
        """Raises TypeError for fields that are not a trial's."""
        tuples = {name: tuple(data[name]) for name in ("offered", "accepted") if name in data}
        fields: dict[str, Any] = data | tuples
        return cls(**fields)


def digest(answers: Sequence[Sequence[int]]) -> str:
    """SHA-256 of the answers' token ids."""
    return hashlib.sha256(json.dumps([list(answer) for answer in answers]).encode()).hexdigest()
