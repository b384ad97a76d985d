"""What a run exercised is counted from its events."""

from __future__ import annotations

import pytest
from toys import toy_lm

from fakes import ask, run, scripts
from specctl.decode.draft import Request
from specctl.equivalence.coverage import Coverage

ASKED = ask(4)
PLAIN, _, _ = run(toy_lm(), None, ASKED)


def covered(script: str, eos: int = -1, stop: tuple[str, ...] = (), batch_size: int = 1) -> Coverage:
    asked = [Request(one.prompt, one.max_new_tokens, one.seed, stop) for one in ASKED]
    ends = frozenset({eos})
    _, _, events = run(toy_lm(), scripts(PLAIN, 4)[script], asked, eos=ends, batch_size=batch_size)
    coverage = Coverage()
    coverage.add(events, asked, ends)
    return coverage


def test_each_way_of_accepting_is_counted() -> None:
    right, wrong, coin = covered("always-right"), covered("never-right"), covered("coin")
    assert right.counts["all_accepted"]
    assert set(wrong.rejected_at) == {1}
    assert wrong.counts["none_accepted"] == wrong.counts["rounds"] - wrong.counts["empty_draft"]
    assert coin.counts["partly_accepted"]
    assert {1, 2} <= set(coin.rejected_at)
    assert coin.accepted < coin.drafted


@pytest.mark.parametrize(("script", "vacuous"), [("empty", True), ("never-right", True), ("coin", False)])
def test_a_run_without_acceptance_or_rejection_is_vacuous(script: str, vacuous: bool) -> None:
    assert covered(script).vacuous is vacuous


def test_ends_inside_blocks_are_counted() -> None:
    assert covered("always-right", eos=PLAIN[1][1]).counts["eos_in_block"]
    assert not covered("empty", eos=PLAIN[1][1]).counts["eos_in_block"], "a bonus is no block"
    from fakes import render

    assert covered("always-right", stop=(render(PLAIN[1][:2])[1:3],)).counts["stop_in_block"]
    assert covered("always-right").counts["cap_in_block"]


def test_rows_finishing_together_and_apart() -> None:
    assert not covered("coin").counts["finished_together"]
    assert covered("empty", batch_size=4).counts["finished_together"]
    assert covered("coin", batch_size=2).counts["finished_apart"]


def test_what_is_missing_is_named() -> None:
    missing = covered("never-right").missing
    assert "all_accepted" in missing
    assert "rejected_at_3" in missing
    assert "none_accepted" not in missing
