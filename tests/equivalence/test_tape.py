"""Failing cases: recorded, replayed without the draft model, shrunk."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from planted import PLANTS
from scenes import K, prepare, subject

from fakes import ask
from specctl.decode.draft import Request
from specctl.equivalence.greedy import Watchers, verify_greedy
from specctl.equivalence.report import Verdict
from specctl.equivalence.shrink import shrink
from specctl.equivalence.tape import Recorder, Tape, replay
from specctl.errors import RequestError

CASES = [plant for plant in PLANTS if plant.number in {"3", "10", "39"}]


def record(batch_size: int = 3) -> Tape:
    """A run of a draft model, and the tape of the first row that fails."""
    one, recorder = subject(), Recorder()
    requests = [replace(asked, max_new_tokens=new) for asked, new in zip(ask(4), (5, 13, 8, 10), strict=True)]
    reports = verify_greedy(
        one, requests, batch_size=batch_size, noise=None, audit=1.0, watchers=Watchers(drafter=recorder.watch)
    )
    row = next((i for i, report in enumerate(reports) if report.verdict.violation), 0)
    return Tape({}, reports[row].verdict.value, row, batch_size, tuple(requests), recorder.calls[0])


def test_a_tape_survives_its_file_and_says_what_was_said() -> None:
    tape = record()
    again = Tape.from_json(json.loads(json.dumps(tape.to_json())))
    assert again == tape
    assert replay(again, subject(), None).verdict is Verdict.EXACT
    assert max(map(len, tape.drafts.values())) == K


@pytest.mark.parametrize("plant", CASES, ids=str)
def test_a_failing_case_replays_and_shrinks(plant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare()
    plant.apply(monkeypatch)  # type: ignore[attr-defined]
    tape = record()
    assert replay(tape, subject(), None).verdict == tape.verdict

    def fails(smaller: Tape) -> bool:
        return replay(smaller, subject(), None).verdict == tape.verdict

    small = shrink(tape, fails, seconds=20)
    assert fails(small)
    assert sum(len(one.prompt) for one in small.requests) <= 8
    assert max(one.max_new_tokens for one in small.requests) <= 4
    monkeypatch.undo()
    assert not fails(small), "the case is green once the bug is gone"


def test_time_is_up_at_once() -> None:
    tape = Tape({}, "DIVERGED", 0, 1, (Request((3, 4, 5), 8),), {(0, 0): (3, 4)})
    assert shrink(tape, lambda smaller: True, seconds=0) == tape


def test_the_smallest_case_of_a_condition_is_found() -> None:
    """Fails whenever request 2 has a 7 in its prompt and two tokens to say."""
    requests = (Request((3, 4), 9), Request((5,), 9), Request((9, 9, 7, 9, 9, 9, 9), 9))
    drafts = {(row, at): (3, 4, 5) for row in range(3) for at in (0, 4)}
    tape = Tape({}, "DIVERGED", 2, 2, requests, drafts)

    def fails(smaller: Tape) -> bool:
        one = smaller.requests[smaller.row]
        return 7 in one.prompt and one.max_new_tokens >= 2

    small = shrink(tape, fails)
    assert small.requests == (Request((7,), 2),)
    assert small.batch_size == 1
    assert not any(small.drafts.values())


@pytest.mark.parametrize(
    "change",
    [{"schema": 2}, {"requests": []}, {"row": 4}, {"drafts": [[1]]}, {"requests": [{"prompt": []}]}],
)
def test_what_is_no_case_is_refused(change: dict[str, object]) -> None:
    data = Tape({}, "STATE", 0, 1, (Request((3,), 2),), {}).to_json()
    with pytest.raises(RequestError, match="not a case"):
        Tape.from_json({**data, **change})
    with pytest.raises(RequestError, match="not a case"):
        Tape.from_json([])
