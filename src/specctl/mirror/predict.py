"""What recorded rounds would have taken on another machine, of whose devices the speeds are known: a model.

The rounds are those of one answer by Mirror. Without their branches they are a draft model's rounds, since a draft
made ahead is the one that would have been made anyway; so all three methods are predicted from one recording.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specctl.errors import RequestError
from specctl.events import Branched, Drafted, Emitted, Event, Mirrored
from specctl.models.costs import Curve


@dataclass(frozen=True, slots=True)
class Devices:
    """Seconds of a target's forward by tokens, of a draft's step by all tokens it reads, and of a meeting; `lower`
    is the share of the target's layers before the exit."""

    target: Curve
    draft: Curve
    meet: float = 0.0
    lower: float = 0.5

    @classmethod
    def from_table(cls, table: Any) -> Devices:
        """`{target: {1: s, 5: s}, draft: {1: s, 8: s}, meet: s, lower: share}`. Raises RequestError."""
        try:
            curves = [_curve(table[name]) for name in ("target", "draft")]
            meet, lower = float(table.get("meet", 0.0)), float(table.get("lower", 0.5))
            if meet < 0 or not 0 < lower <= 1 or set(table) - {"target", "draft", "meet", "lower"}:
                raise ValueError
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RequestError(
                "this is not a table of device speeds",
                hint="give seconds: `target: {1: 0.03, 5: 0.032}`, `draft: {1: 0.004, 8: 0.005}`, `meet: 0.0002`",
            ) from None
        return cls(curves[0], curves[1], meet, lower)


@dataclass(slots=True)
class Round:
    """`drafted` tokens, `ahead` if they were there already; `branches` written meanwhile; `emitted` tokens."""

    drafted: int = 0
    branches: int = 0
    emitted: int = 0
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Predicted:
    """Seconds of decoding; a model, not a measurement."""

    plain: float
    draft_model: float
    mirror: float


def recorded(events: Sequence[Event]) -> list[Round]:
    """The rounds of row 0. Raises RequestError where they are not Mirror's."""
    if not any(isinstance(event, Mirrored) for event in events):
        raise RequestError(
            "no round of this run drafted ahead", hint="record one: `specctl run -p mirror --jsonl`"
        )
    rounds: dict[int, Round] = {}
    hit = False
    for event in events:
        match event:
            case Drafted(row=0):
                rounds[event.round] = Round(drafted=len(event.tokens), ahead=hit)
            case Emitted(row=0):
                rounds[event.round].emitted = len(event.tokens)
            case Branched(row=0):
                rounds[event.round].branches, hit = len(event.keys), bool(event.hit)
    return list(rounds.values())


def predict(rounds: Sequence[Round], devices: Devices) -> Predicted:
    """Critical paths: `lower + max(upper, branches) + meetings`, and the drafting of a miss before it."""
    draft, said = devices.draft, 1 + devices.draft.streams
    longest = max(one.drafted for one in rounds)
    draft_model = mirror = 0.0
    for one in rounds:
        forward = devices.target.seconds(one.drafted + 1)
        drafting = draft.drafting(one.drafted)
        branches = 0.0
        if one.branches:
            # What the draft said last has not been read; then all branches are drafted side by side.
            branches = draft.seconds((one.drafted - 1) % said + 1) + draft.drafting(longest, one.branches)
        upper = (1 - devices.lower) * forward
        draft_model += forward + drafting
        mirror += forward - upper + max(upper, branches) + 2 * devices.meet + (0.0 if one.ahead else drafting)
    tokens = sum(one.emitted for one in rounds)
    return Predicted(tokens * devices.target.seconds(1), draft_model, mirror)


def _curve(points: Mapping[Any, Any]) -> Curve:
    known = {int(n): float(seconds) for n, seconds in points.items()}
    if not known or min(known) < 1 or min(known.values()) <= 0:
        raise ValueError
    return Curve({1: known}, 0.0)
