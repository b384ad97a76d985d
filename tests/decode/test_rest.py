"""When a drafter is left alone, and that it is asked again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import flat_costs
from specctl.decode.rest import Rest
from specctl.models.costs import Costs, Curve


def asked(kept: list[int], worth: float = 0.15) -> list[bool]:
    """Whether each round's drafter was asked, if it would have had so many tokens kept."""
    rest, found = Rest(worth), []
    for n in kept:
        found.append(rest.over())
        rest.learn(n)
    return found


def test_one_that_is_never_right_is_asked_ever_less_but_never_given_up() -> None:
    rounds = asked([0] * 400)
    assert sum(rounds[:64]) <= 12
    assert sum(rounds[64:]) <= 14
    last = max(place for place, one in enumerate(rounds) if one)
    assert last >= 400 - 33


def test_one_that_is_right_half_of_the_time_is_always_asked() -> None:
    assert all(asked([1, 0] * 50))


def test_what_costs_less_than_it_brings_is_asked_for() -> None:
    seldom = [1, 0, 0, 0, 0] * 40
    assert all(asked(seldom, worth=0.05))
    assert sum(asked(seldom, worth=0.4)) < 100
    assert all(asked([0] * 40, worth=0.0))


def test_what_a_drafted_token_takes() -> None:
    """Its draft step and its place in the target's forward, beside a plain round."""
    assert flat_costs(0.1).drafted() == pytest.approx(0.11)
    assert replace(flat_costs(0.1), overhead=1.0).drafted() == pytest.approx(0.055)
    rows = Costs(Curve({1: {1: 1.0}, 2: {1: 2.0, 5: 4.0}}, 0.1), Curve({1: {1: 0.1}, 2: {1: 0.3}}, 0.1))
    assert rows.drafted(2) == pytest.approx((0.3 + 0.5) / 2)


def test_one_that_becomes_right_is_asked_again() -> None:
    rounds = asked([0] * 60 + [2] * 100)
    assert all(rounds[-60:])


@given(st.lists(st.integers(0, 3), max_size=80), st.lists(st.integers(0, 3), max_size=8))
def test_what_it_was_not_asked_for_teaches_nothing(kept: list[int], others: list[int]) -> None:
    """Rounds it rests in may have had any number of tokens kept: of another drafter's, or none."""
    rest, same = Rest(), Rest()
    for number, n in enumerate(kept):
        over = rest.over()
        assert over == same.over()
        rest.learn(n)
        same.learn(n if over else (others[number % len(others)] if others else 0))
