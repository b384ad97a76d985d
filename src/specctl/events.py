"""What a run says about itself: one stream of small frozen values.

Every front end (plain text, JSON, live panes, benchmarks, verification) is a fold over this stream, and a
recorded stream replays without a model. The decode loop leaves the text fields empty; `decode/text.py` fills
them in. `row` is the request's index in the call, `round` counts from 1, `t_ns` is a monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, get_args

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Started:
    """First event of every run: enough to know what was run, and how to run it again."""

    kind: ClassVar[str] = "started"
    t_ns: int
    tool: str
    profile: str
    target: str
    draft: str | None
    device: str
    dtype: str
    numerics: str
    accept: str
    exact: bool
    seed: int
    rows: int
    settings: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prompt is in the caches, all but its last token, which opens the first round."""

    kind: ClassVar[str] = "prefilled"
    row: int
    round: int
    t_ns: int
    prompt: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Drafted:
    """A row's draft. `q`: how likely the drafter found each token, if it was asked and knows."""

    kind: ClassVar[str] = "drafted"
    row: int
    round: int
    t_ns: int
    tokens: tuple[int, ...]
    pieces: tuple[str, ...] = ()
    q: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Verified:
    """The verdict on a draft. Acceptance is computed from this event only.

    `accepted` of `drafted` tokens were kept; `bonus` is the token the target added itself. `p`: the target's
    probability of each drafted token, if it was asked for (`decode/chances.py`).
    """

    kind: ClassVar[str] = "verified"
    row: int
    round: int
    t_ns: int
    drafted: int
    accepted: int
    bonus: int
    bonus_piece: str = ""
    p: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Emitted:
    """Tokens that became part of the answer: the verdict cut at end-of-sequence, stop strings and limits.

    Throughput is computed from this event only.
    """

    kind: ClassVar[str] = "emitted"
    row: int
    round: int
    t_ns: int
    tokens: tuple[int, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Branched:
    """Continuations drafted for a row while its draft was being verified (Mirror-SD).

    `keys` are the verdicts that were prepared for: how many tokens are accepted, and the target's own token behind
    them; the likeliest is the first, `pieces` are those tokens as text. `hit`: the verdict was one of them, so the
    next draft is there already; None: there will be no next draft.
    """

    kind: ClassVar[str] = "branched"
    row: int
    round: int
    t_ns: int
    keys: tuple[tuple[int, int], ...]
    hit: bool | None
    pieces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mirrored:
    """Times of a round whose drafter drafts ahead, for the whole batch: the target's two halves, and the branches.

    `waited_s`: the part of `ahead_s` the target waited for. `modelled_s` is the round's critical path if the
    branches had been drafted on another device beside the upper layers: a model, not a measurement, and None where
    they really were. `failed`: why the drafting was done in place.
    """

    kind: ClassVar[str] = "mirrored"
    round: int
    t_ns: int
    lower_s: float
    upper_s: float
    ahead_s: float
    waited_s: float
    modelled_s: float | None = None
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class Timed:
    """Closes a round for the whole batch. Time the consumer of the stream takes is in none of these.

    `rows` took part. `align_s` went into bringing them together, `realigned` if caches had to move for one width.
    """

    kind: ClassVar[str] = "timed"
    round: int
    t_ns: int
    rows: int
    draft_s: float
    verify_s: float
    round_s: float
    align_s: float = 0.0
    realigned: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """Always sent, once a row. `reason` is `stop`, `length`, `context` or `cancelled`.

    `text` is what the detokenizer still held back, once no more tokens can complete it.
    """

    kind: ClassVar[str] = "finished"
    row: int
    round: int
    t_ns: int
    reason: str
    text: str = ""


Event = Started | Prefilled | Drafted | Verified | Emitted | Branched | Mirrored | Timed | Finished
_BY_KIND: dict[str, type] = {cls.kind: cls for cls in get_args(Event)}
_FIELDS: dict[type, list[str]] = {cls: [one.name for one in fields(cls)] for cls in get_args(Event)}


def to_json(event: Event) -> dict[str, Any]:
    """Its values by name; none of them is a copy."""
    return {"event": event.kind, **{name: getattr(event, name) for name in _FIELDS[type(event)]}}


def from_json(data: dict[str, Any]) -> Event:
    """The inverse of `to_json`. Raises ValueError for anything that is not a recorded event."""
    values = dict(data)
    cls = _BY_KIND.get(values.pop("event", ""))
    if cls is None:
        raise ValueError(f"not an event: {data.get('event')!r}")
    for name in ("tokens", "prompt", "pieces", "p", "q"):
        if name in values:
            values[name] = tuple(values[name])
    if "keys" in values:
        values["keys"] = tuple(tuple(key) for key in values["keys"])
    try:
        event: Event = cls(**values)
    except TypeError as error:
        raise ValueError(f"malformed `{data['event']}` event: {error}") from None
    return event
