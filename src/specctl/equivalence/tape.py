"""A failing case on a file: the requests decoded together and what was proposed to them, round by round.

With the proposals on record a case is replayed without the draft model. Token ids of the prompts are in it, no
text and no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from specctl.decode.draft import Draft, Drafter, Request, Row, Scored
from specctl.decode.schedules import DEFAULT, DEFAULT_WINDOW, SCHEDULES
from specctl.equivalence.greedy import verify_greedy
from specctl.equivalence.noise import Noise
from specctl.equivalence.report import SequenceReport
from specctl.equivalence.subject import Subject
from specctl.equivalence.through import Through
from specctl.errors import RequestError

SCHEMA = 1
Proposals = dict[tuple[int, int], tuple[int, ...]]
"""The draft of a row (its index among the requests) when so many tokens of its answer were there."""


@dataclass(frozen=True, slots=True)
class Tape:
    """One `decode` call. `row` is the request that failed; `profile` are the fields of the profile in force."""

    profile: dict[str, Any]
    verdict: str
    row: int
    batch_size: int
    requests: tuple[Request, ...]
    drafts: Proposals
    schedule: str = DEFAULT
    window: int = DEFAULT_WINDOW

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "profile": self.profile,
            "verdict": self.verdict,
            "row": self.row,
            "batch_size": self.batch_size,
            "schedule": self.schedule,
            "window": self.window,
            "requests": [
                {
                    "prompt": list(one.prompt),
                    "max_new_tokens": one.max_new_tokens,
                    "seed": one.seed,
                    "stop": list(one.stop),
                }
                for one in self.requests
            ],
            "drafts": [[row, at, list(tokens)] for (row, at), tokens in sorted(self.drafts.items())],
        }

    @classmethod
    def from_json(cls, data: Any) -> Tape:
        """Raises RequestError for anything that is not a recorded case."""
        try:
            if data["schema"] != SCHEMA:
                raise ValueError
            requests = tuple(
                Request(
                    tuple(map(int, one["prompt"])),
                    int(one["max_new_tokens"]),
                    int(one["seed"]),
                    tuple(map(str, one["stop"])),
                )
                for one in data["requests"]
            )
            drafts = {(int(row), int(at)): tuple(map(int, tokens)) for row, at, tokens in data["drafts"]}
            tape = cls(
                dict(data["profile"]),
                str(data["verdict"]),
                int(data["row"]),
                int(data["batch_size"]),
                requests,
                drafts,
                str(data["schedule"]),
                int(data["window"]),
            )
        except (KeyError, TypeError, ValueError):
            tape = None
        if (
            tape is None
            or not 0 <= tape.row < len(tape.requests)
            or tape.schedule not in SCHEDULES
            or not all(one.prompt for one in tape.requests)
        ):
            raise RequestError(
                "this is not a case that `verify-equivalence` has recorded",
                hint="give the file it has written for a violation",
            )
        return tape

    def with_rows(self, rows: Sequence[int]) -> Tape:
        """Only these requests; the failing one has to be among them."""
        place = {row: i for i, row in enumerate(rows)}
        drafts = {(place[row], at): tokens for (row, at), tokens in self.drafts.items() if row in place}
        requests = tuple(self.requests[row] for row in rows)
        size = min(self.batch_size, len(rows))
        return replace(self, row=place[self.row], batch_size=size, requests=requests, drafts=drafts)


class Recorder:
    """Notes what drafters propose; one entry of `calls` for each drafter it watches."""

    def __init__(self) -> None:
        self.calls: list[Proposals] = []

    def watch(self, drafter: Drafter) -> Drafter:
        self.calls.append({})
        return _Recorded(drafter, self.calls[-1])


class _Recorded(Through):
    def __init__(self, drafter: Drafter, notes: Proposals) -> None:
        super().__init__(drafter)
        self._notes = notes

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        draft = super().draft(rows, budget)
        for row, tokens in zip(rows, draft.tokens, strict=True):
            self._notes[row.index, len(row.generated)] = tuple(tokens)
        return draft


class Replayed:
    """Proposes what is on the tape, and nothing where the tape is silent."""

    needs: frozenset[int] = frozenset()

    def __init__(self, drafts: Proposals) -> None:
        self._drafts = drafts

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        """Nothing to keep."""

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        return Draft([list(self._drafts.get((row.index, len(row.generated)), ())) for row in rows])

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        """Nothing to learn."""

    def swap(self, one: int, other: int) -> None:
        """Nothing to move."""

    def drop(self, slot: int) -> None:
        """Nothing to move."""


def replay(tape: Tape, subject: Subject, noise: Noise | None) -> SequenceReport:
    """The verdict on the tape's failing row, every round audited. `subject` gives the target and the rules."""
    rules = replace(subject.rules, schedule=tape.schedule, window=tape.window)
    played = replace(subject, rules=rules, make_drafter=lambda sampler: Replayed(tape.drafts), draft=None)
    reports = verify_greedy(
        played, tape.requests, batch_size=tape.batch_size, noise=noise, audit=1.0, in_one_call=True
    )
    return reports[tape.row]
