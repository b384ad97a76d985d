"""The arithmetic of drafting ahead: what is counted, what is modelled, what is predicted for other devices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from mirrors import hits, mirror, rounds

from fakes import ask, run, shared_lm
from specctl.decode.stats import Stats
from specctl.errors import RequestError
from specctl.events import Branched, Event, Mirrored, Verified, from_json, to_json
from specctl.mirror.predict import Devices, Predicted, Round, predict, recorded
from specctl.mirror.tally import Tally


def told(*events: Event) -> Tally:
    tally = Tally()
    for event in events:
        tally.add(event)
    return tally


def test_hits_are_counted_at_the_slot_of_the_verdict() -> None:
    tally = told(
        Verified(0, 1, 0, 3, 1, 7),
        Branched(0, 1, 0, ((1, 7), (0, 2)), True),
        Verified(0, 2, 0, 3, 3, 5),
        Branched(0, 2, 0, ((1, 7),), False),
        Verified(0, 3, 0, 3, 0, 5),
        Branched(0, 3, 0, (), None),
        Mirrored(3, 0, 1.0, 1.0, 2.0, 2.0, 5.0),
    )
    summary = tally.summary()
    assert summary["hits_by_slot"] == {"1": [1, 1], "3": [0, 1]}
    assert (summary["hits"], summary["verdicts"], summary["branches"]) == (1, 2, 3)


def test_hidden_time_is_modelled_in_turn_and_measured_beside() -> None:
    in_turn = told(Mirrored(1, 0, 1.0, 3.0, 2.0, 2.0, 6.0), Mirrored(2, 0, 1.0, 1.0, 2.0, 2.0, 6.0))
    assert (in_turn.hidden, in_turn.modelled_s) == (0.75, 12.0)
    assert in_turn.summary()["hidden_is"] == "modelled"
    beside = told(Mirrored(1, 0, 1.0, 3.0, 2.0, 0.5), Mirrored(2, 0, 1.0, 1.0, 0.0, 0.0, None, "it died"))
    assert (beside.hidden, beside.modelled_s, beside.in_place, beside.why) == (0.75, None, 1, "it died")
    assert beside.summary()["hidden_is"] == "measured"


def test_the_modelled_round_hides_the_shorter_of_branches_and_upper_layers() -> None:
    stats = Stats()
    _, _, events = run(shared_lm(), mirror(), ask(1), on_event=stats.add)
    mirrored = [event for event in events if isinstance(event, Mirrored)]
    saved = sum(min(event.upper_s, event.ahead_s) for event in mirrored)
    assert stats.mirror.modelled_s == pytest.approx(stats.decode_s - saved)
    assert "mirror" in stats.summary()
    assert "mirror" not in Stats().summary()


def test_events_come_back_from_a_recording() -> None:
    for event in (
        Branched(0, 1, 2, ((1, 7), (0, 2)), True, (" a", " b")),
        Mirrored(1, 2, 0.1, 0.2, 0.3, 0.0, None, "late"),
    ):
        data = to_json(event)
        assert (
            from_json({**data, "keys": [list(key) for key in data["keys"]]} if "keys" in data else data)
            == event
        )


DEVICES = {"target": {1: 1.0, 5: 1.4}, "draft": {1: 0.1, 8: 0.17}, "meet": 0.01, "lower": 0.5}


def test_predicted_seconds() -> None:
    """By hand: a forward of 4 takes 1.3, its upper half 0.65; branches 0.1 + 3 x 0.17, hidden behind that."""
    played = [Round(3, 8, 4, False), Round(3, 8, 2, True)]
    predicted = predict(played, Devices.from_table(DEVICES))
    assert predicted.plain == pytest.approx(6.0)
    assert predicted.draft_model == pytest.approx(2 * 1.3 + 2 * 0.3)
    assert predicted.mirror == pytest.approx(2 * (1.3 + 0.02) + 0.3)


def test_predicted_seconds_of_a_draft_with_streams() -> None:
    """By hand, two tokens a forward. Drafting three: 0.1, then a forward that reads two, 0.11. Branches: the third
    token is read, 0.1; then 8 rows, 0.17, and 16 tokens, 0.25. A forward a token would be taken for slower."""
    devices = Devices.from_table(DEVICES)
    said = replace(devices, draft=replace(devices.draft, streams=1))
    played = [Round(3, 8, 4, False), Round(3, 8, 2, True)]
    predicted = predict(played, said)
    assert predicted.draft_model == pytest.approx(2 * 1.3 + 2 * 0.21)
    assert predicted.mirror == pytest.approx(2 * (1.3 + 0.02) + 0.21)
    narrow = replace(said, lower=0.8)
    assert predict(played, narrow).mirror == pytest.approx(2 * (0.8 * 1.3 + 0.52 + 0.02) + 0.21)
    assert predict(played, narrow).mirror < predict(played, replace(devices, lower=0.8)).mirror


def test_branches_that_take_longer_than_the_upper_layers_are_paid_for() -> None:
    slow = Devices.from_table({**DEVICES, "draft": {1: 0.5}})
    predicted = predict([Round(3, 8, 4, True)], slow)
    assert predicted.mirror == pytest.approx(0.65 + (0.5 + 3 * 0.5) + 0.02)


def test_a_recording_without_branches_is_a_draft_models() -> None:
    free = Devices.from_table({"target": {1: 1.0}, "draft": {1: 1e-9}})
    _, _, events = run(shared_lm(), mirror(), ask(1))
    played = recorded(events)
    assert [(one.drafted) for one in played] == [drafted for _, _, drafted, _ in rounds(events)]
    assert sum(one.emitted for one in played) == 24
    assert sum(one.ahead for one in played) == sum(hits(events))
    predicted = predict(played, free)
    assert predicted.mirror == pytest.approx(predicted.draft_model)
    assert isinstance(predicted, Predicted)


@pytest.mark.parametrize(
    "table",
    [{}, None, [], {**DEVICES, "target": {}}, {**DEVICES, "draft": {0: 1.0}}, {**DEVICES, "draft": {1: 0}},
     {**DEVICES, "meet": -1}, {**DEVICES, "lower": 2}, {**DEVICES, "speed": 1}],
    ids=str,
)  # fmt: skip
def test_tables_that_are_none_are_refused(table: Any) -> None:
    with pytest.raises(RequestError, match="device speeds"):
        Devices.from_table(table)


def test_runs_that_did_not_draft_ahead_are_refused() -> None:
    _, _, events = run(shared_lm(), None, ask(1, 4))
    with pytest.raises(RequestError, match="drafted ahead"):
        recorded(events)
