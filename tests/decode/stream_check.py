"""What a reader of the event stream may rely on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from specctl.decode.draft import Request
from specctl.events import Drafted, Emitted, Event, Finished, Prefilled, Timed, Verified


def check_stream(events: Sequence[Event], asked: Sequence[Request], batch_size: int) -> None:
    """Everything a reader of the stream may rely on; raises AssertionError."""
    live: list[int] = []
    joined = 0
    rounds = [list(part) for _, part in groupby(events, key=lambda event: event.round)]
    numbers = [part[0].round for part in rounds]
    assert numbers == sorted(set(numbers)), "rounds are out of order"
    pending: list[Event] = []
    for event in events:
        match event:
            case Prefilled():
                assert not pending, "a row joins in the middle of a round"
                assert event.row == joined, "rows join in the order of the requests"
                assert event.prompt == asked[event.row].prompt
                live.append(event.row)
                joined += 1
                assert len(live) <= batch_size
            case Timed():
                check_round(pending, live)
                assert event.rows == len([one for one in pending if isinstance(one, Verified)])
                assert 0 <= event.draft_s + event.verify_s <= event.round_s
                assert {one.round for one in pending} == {event.round}
                live = [row for row in live if row not in finished_rows(pending)]
                pending = []
            case _:
                pending.append(event)
    assert all(isinstance(event, Finished) and event.reason == "cancelled" for event in pending)
    ends = finished_rows(events)
    assert sorted(ends) == list(range(len(asked))), "each row finishes once"
    times = [event.t_ns for event in events]
    assert times == sorted(times)


def finished_rows(events: Sequence[Event]) -> list[int]:
    return [event.row for event in events if isinstance(event, Finished)]


def check_round(events: Sequence[Event], live: Sequence[int]) -> None:
    """Drafts of all live rows first; then each row's verdict, what it emitted of it, and perhaps its end."""
    drafts = {event.row: event.tokens for event in events if isinstance(event, Drafted)}
    assert sorted(drafts) == sorted(live)
    rest = events[len(live) :]
    assert not any(isinstance(event, Drafted) for event in rest)
    for row in drafts:
        verdict, emitted, *end = [
            event for event in rest if not isinstance(event, Timed) and event.row == row
        ]
        assert isinstance(verdict, Verified)
        assert isinstance(emitted, Emitted)
        assert verdict.drafted == len(drafts[row])
        assert 0 <= verdict.accepted <= verdict.drafted
        block = (*drafts[row][: verdict.accepted], verdict.bonus)
        assert emitted.tokens == block[: len(emitted.tokens)]
        assert emitted.tokens
        assert len(end) <= 1
        if len(emitted.tokens) < len(block):
            assert end, "a block is only cut where the row ends"
        assert all(isinstance(event, Finished) for event in end)
