"""From events to answers: each row's text, tokens and figures, handed out in the order of the requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from specctl.decode.stats import Stats
from specctl.events import Emitted, Event, Finished, Prefilled, Verified


@dataclass(slots=True)
class _Row:
    prompt_tokens: int = 0
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    stats: Stats = field(default_factory=Stats)


def answers(events: Iterable[Event], ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One record a request, as soon as all before it are out. What was cancelled, and all behind it, is left out.

    There is no clock in a record, so a run that was interrupted gives the same bytes as one that was not.
    """
    rows: dict[int, _Row] = {}
    ready: dict[int, dict[str, Any]] = {}
    turn = 0
    for event in events:
        match event:
            case Prefilled():
                rows[event.row] = _Row(len(event.prompt))
            case Verified():
                rows[event.row].stats.add(event)
            case Emitted():
                row = rows[event.row]
                row.stats.add(event)
                row.tokens += event.tokens
                row.text += event.text
            case Finished() if event.reason != "cancelled":
                row = rows.pop(event.row)
                ready[event.row] = _record(ids[event.row], row, row.text + event.text, event.reason)
                while turn in ready:
                    yield ready.pop(turn)
                    turn += 1


def _record(name: str, row: _Row, text: str, reason: str) -> dict[str, Any]:
    stats = row.stats
    return {
        "id": name,
        "text": text,
        "token_ids": row.tokens,
        "finish_reason": reason,
        "stats": {
            "prompt_tokens": row.prompt_tokens,
            "new_tokens": stats.new_tokens,
            "rounds": stats.rounds,
            "drafted": stats.drafted,
            "accepted": stats.accepted,
            "acceptance_rate": stats.acceptance_rate,
            "mean_acceptance_length": stats.mean_acceptance_length,
        },
    }
