"""The events tell truly what happened, also when a run is cut short."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from stream_check import check_stream

from fakes import (
    Spy,
    ask,
    plain_tokens,
    prompts,
    render,
    run,
    scripts,
    shared_lm,
)
from specctl.decode.accept import greedy
from specctl.decode.draft import Request
from specctl.decode.loop import Rules, decode
from specctl.decode.sampling import Law, Sampler
from specctl.decode.stats import Stats
from specctl.decode.target import Target
from specctl.events import Emitted, Event, Timed, Verified


def tampered(events: Sequence[Event], how: str) -> list[Event]:
    changed = list(events)

    def first(kind: type) -> int:
        return next(i for i, event in enumerate(events) if isinstance(event, kind))

    match how:
        case "emitted-lost":
            del changed[first(Emitted)]
        case "finished-twice":
            changed.append(changed[-2])
        case "round-out-of-order":
            changed = changed[first(Timed) + 1 :] + changed[: first(Timed) + 1]
        case "rejected-token-emitted":
            at = next(i for i, e in enumerate(events) if isinstance(e, Verified) and e.accepted < e.drafted)
            verdict = changed[at]
            assert isinstance(verdict, Verified)
            changed[at] = Verified(
                verdict.row, verdict.round, verdict.t_ns, verdict.drafted, verdict.accepted + 1, verdict.bonus
            )
        case "verdict-behind-the-text":
            at = first(Verified)
            changed[at], changed[at + 1] = changed[at + 1], changed[at]
    return changed


@pytest.mark.parametrize(
    "how",
    [
        "emitted-lost",
        "finished-twice",
        "round-out-of-order",
        "rejected-token-emitted",
        "verdict-behind-the-text",
    ],
)
def test_planted_lies_in_the_stream_are_seen(how: str) -> None:
    drafter = scripts(plain_tokens(), 3)["coin"]
    _, _, events = run(shared_lm(), drafter, ask(3), batch_size=2)
    check_stream(events, ask(3), 2)
    with pytest.raises((AssertionError, ValueError)):
        check_stream(tampered(events, how), ask(3), 2)


@pytest.mark.parametrize(
    ("script", "rate", "length"), [("always-right", 1.0, 5.0), ("never-right", 0.0, 1.0)]
)
def test_counters_of_the_ends_of_the_ladder(script: str, rate: float, length: float) -> None:
    """The oracle's every token counts, the anti-oracle's none; 25 tokens are 5 rounds of 4 + 1."""
    plain = plain_tokens(new=25)
    stats = Stats()
    tokens, _, _ = run(shared_lm(), scripts(plain, 4)[script], ask(5, 25), batch_size=2, on_event=stats.add)
    assert stats.new_tokens == sum(map(len, tokens)) == 125
    assert stats.acceptance_rate == rate
    assert stats.mean_acceptance_length == length
    assert stats.rounds == 125 / length
    assert stats.accepted_per_position == ([25] * 4 if rate else [])


def test_counters_of_a_coin() -> None:
    """Drafts of different lengths: the rate is over what was drafted, not over rounds times k."""
    stats = Stats()
    _, _, events = run(shared_lm(), scripts(plain_tokens(), 4)["uneven"], ask(5), on_event=stats.add)
    verdicts = [event for event in events if isinstance(event, Verified)]
    assert len({verdict.drafted for verdict in verdicts}) > 2
    accepted, drafted = (sum(getattr(one, name) for one in verdicts) for name in ("accepted", "drafted"))
    assert stats.acceptance_rate == accepted / drafted
    assert sum(stats.accepted_per_position) == accepted
    assert stats.mean_acceptance_length == 1 + accepted / len(verdicts)


def test_cancelling_between_rounds() -> None:
    """Asked once a round; whoever is not done is told so, waiting requests too; what was said stays said."""
    plain = plain_tokens()
    for rounds in (0, 1, 3):
        asked_for: list[int] = []

        def cancelled(rounds: int = rounds, asked_for: list[int] = asked_for) -> bool:
            asked_for.append(1)
            return len(asked_for) > rounds

        drafter = scripts(plain, 3)["coin"]
        tokens, reasons, events = run(shared_lm(), drafter, ask(5), batch_size=3, cancelled=cancelled)
        assert reasons == ["cancelled"] * 5
        assert len(asked_for) == rounds + 1
        assert all(tuple(row) == answer[: len(row)] for row, answer in zip(tokens, plain, strict=True))
        assert [len(row) > 0 for row in tokens] == [rounds > 0 and i < 3 for i in range(5)]
        check_stream(events, ask(5), 3)


def test_rows_that_finished_stay_finished_when_the_rest_is_cancelled() -> None:
    asked = [Request(prompts(2)[0], 2), Request(prompts(2)[1], 20)]
    rounds = iter([False, False, False, True])
    _, reasons, events = run(shared_lm(), None, asked, batch_size=2, cancelled=lambda: next(rounds))
    assert reasons == ["length", "cancelled"]
    check_stream(events, asked, 2)


def test_closing_the_stream_at_any_event_leaves_caches_as_committed() -> None:
    """At each event a consumer may stop at: a row's cache is one short of its tokens, and none is half done."""
    lm, plain, asked = shared_lm(), plain_tokens(new=8), ask(4, 8)
    n_events = len(run(lm, scripts(plain, 3)["coin"], asked, batch_size=2)[2])
    for stop_at in range(1, n_events, 3):
        target = Target(lm, slots=2, capacity=40)
        spy = Spy(scripts(plain, 3)["coin"])
        rules = Rules(greedy, Sampler.keyed(Law()), frozenset(), lm.context_length, render, batch_size=2)
        stream = decode(target, spy, asked, rules)
        for _ in zip(range(stop_at), stream, strict=False):
            pass
        stream.close()
        if spy.rows:
            assert target.cache.lengths == [len(row.ids) - 1 for row in spy.rows]
        assert all(tuple(row.generated) == plain[row.index][: len(row.generated)] for row in spy.rows)
