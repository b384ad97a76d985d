"""An estimate of the speedup without a baseline, and what `run` says of it."""

from __future__ import annotations

import pytest

from specctl.cli import figures
from specctl.decode.stats import Stats
from specctl.events import Emitted, Timed, Verified


def stats(rounds: int, *, accepted: int, draft_s: float, drafted: int = 3, rows: int = 1) -> Stats:
    """Rounds of 0.1 s of verifying each, with `rows` rows in each."""
    found = Stats()
    for number in range(rounds):
        for row in range(rows):
            found.add(Verified(row, number, 0, drafted, accepted, 7))
            found.add(Emitted(row, number, 0, tuple(range(accepted + 1))))
        found.add(Timed(number, 0, rows, draft_s, 0.1, draft_s + 0.1))
    return found


@pytest.mark.parametrize("rows", [1, 4])
def test_tokens_a_round_over_what_it_costs(rows: int) -> None:
    assert stats(10, accepted=1, draft_s=0.1, rows=rows).estimated_speedup == pytest.approx(1.0)
    assert stats(10, accepted=2, draft_s=0.05, rows=rows).estimated_speedup == pytest.approx(2.0)


def test_none_where_nothing_was_drafted() -> None:
    assert stats(10, accepted=0, draft_s=0.0, drafted=0).estimated_speedup is None


def test_slower_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    figures.say(stats(10, accepted=0, draft_s=0.1), exact=True, verbose=False)
    assert "slower than plain decoding: 0.50 x at most (est.)" in capsys.readouterr().err


@pytest.mark.parametrize(("rounds", "accepted"), [(10, 2), (3, 0)])
def test_not_where_it_is_faster_nor_after_a_few_rounds(
    rounds: int, accepted: int, capsys: pytest.CaptureFixture[str]
) -> None:
    figures.say(stats(rounds, accepted=accepted, draft_s=0.1), exact=True, verbose=False)
    assert "slower" not in capsys.readouterr().err
