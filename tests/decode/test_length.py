"""`draft_tokens: auto`, played on recorded answers with forwards that cost what they are said to: no clock.

`recorded_drafts.json`: prompts of our own, SmolLM2's plain answers, and where its own weights in 4 bits were right.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fakes import shared_lm
from specctl.decode import length
from specctl.decode.draft import Draft, Parts, Request, Row, Scored
from specctl.decode.length import Company, Lengths, Need
from specctl.decode.sampling import Law, Sampler
from specctl.drafters.ngram import Ngram
from specctl.models.costs import Costs, Curve
from specctl.profile.drafters import NgramParams

SIZES = (1, 2, 4, 8, 16)
GREEDY = Sampler.keyed(Law())
SAMPLED = Sampler.keyed(Law(temperature=1.0))


# Machines -------------------------------------------------------------------------------------------------------


def curve(seconds: Callable[[int], float], prefill: float, floor: int = 1) -> Curve:
    """From seconds by tokens of a forward, which has no fewer than `floor`."""
    grid = {1: (1, 2, 4, 8, 16, 64), **dict.fromkeys((2, 4, 8, 16), (1, 2, 4, 8))}
    return Curve({n: {q: seconds(max(n * q, floor)) for q in tokens} for n, tokens in grid.items()}, prefill)


MACHINES = {
    "small model on two cores": Costs(
        curve(lambda n: 0.037 + 0.00135 * n, 0.0012, floor=2), curve(lambda n: 0.018 + 0.002 * n, 0.002)
    ),
    "larger model on two cores": Costs(
        curve(lambda n: 0.18 + 0.003 * n + 0.00015 * n * n**0.5, 0.01, floor=2),
        curve(lambda n: 0.03 + 0.002 * n, 0.003),
    ),
    "weights are all it waits for": Costs(
        curve(lambda n: 1 + 0.001 * n, 0.001), curve(lambda n: 0.1 + 0.0001 * n, 0.0001)
    ),
    "arithmetic is all it waits for": Costs(
        curve(lambda n: 0.01 + 0.01 * n, 0.01), curve(lambda n: 0.005 + 0.005 * n, 0.005)
    ),
}


# Recorded answers, and drafters that play them ------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    right: tuple[bool, ...]


@cache
def recorded() -> tuple[Recorded, ...]:
    lines = json.loads(Path(__file__).with_name("recorded_drafts.json").read_text(encoding="utf-8"))
    return tuple(
        Recorded(tuple(one["prompt"]), tuple(one["answer"]), tuple(mark == "1" for mark in one["right"]))
        for one in lines
    )


class Traced:
    """A draft model that is right where it was. `seconds`: what it took, with the prompts it had to read."""

    def __init__(self, answers: Sequence[Recorded], costs: Costs, lengths: Lengths | int) -> None:
        self._answers, self._lengths = answers, lengths
        self._costs = costs
        self._read: list[int] = []
        self._drafted: list[int] = []
        self.seconds = 0.0

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self._read.append(0)
        if isinstance(self._lengths, Lengths):
            self._lengths.begin()
        elif self._lengths:
            self.seconds += self._costs.draft.prefill * len(row.ids)
            self._read[-1] = len(row.ids)

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        draft, context = self._costs.draft, max(len(row.ids) for row in rows)
        lags = [len(row.ids) - read for row, read in zip(rows, self._read, strict=False)]
        if isinstance(self._lengths, Lengths):
            needs = [Need(lag, most, len(row.ids)) for lag, most, row in zip(lags, budget, rows, strict=True)]
            asked = self._lengths.choose(needs)
        else:
            asked = [min(self._lengths, most) for most in budget]
        self.seconds += draft.drafting(max(asked), len(rows), context)
        for slot, (lag, n) in enumerate(zip(lags, asked, strict=True)):
            if n:
                self.seconds += max(draft.reading(lag, context) - draft.seconds(1, context=context), 0)
                self._read[slot] = len(rows[slot].ids)
        self._drafted = asked
        return Draft([self._tokens(row, n) for row, n in zip(rows, asked, strict=True)])

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        for slot, n in enumerate(accepted):
            self._read[slot] += min(n, max(self._drafted[slot] - 1, 0))
        if isinstance(self._lengths, Lengths):
            self._lengths.observe(self._drafted, accepted)

    def drop(self, slot: int) -> None:
        self._read[slot] = self._read[-1]
        self._read.pop()
        if isinstance(self._lengths, Lengths):
            self._lengths.drop(slot)

    def _tokens(self, row: Row, n: int) -> list[int]:
        one, at = self._answers[row.index], len(row.generated)
        return [one.answer[i] if one.right[i] else -1 for i in range(at, min(at + n, len(one.answer)))]


def speed(drafter: Any, answers: Sequence[Recorded], size: int, costs: Costs) -> float:
    """Tokens a second of `size` rows at a time; who is done makes room at once."""
    waiting, live, seconds = list(enumerate(answers)), list[Row](), 0.0
    while waiting or live:
        while waiting and len(live) < size:
            index, one = waiting.pop(0)
            live.append(Row(index, Request(one.prompt, len(one.answer)), list(one.prompt)))
            drafter.begin(live[-1], {})
        budget = [row.request.max_new_tokens - len(row.generated) - 1 for row in live]
        draft = drafter.draft(live, budget)
        context = max(len(row.ids) for row in live)
        seconds += costs.target.seconds(1 + draft.longest, len(live), context)
        accepted = []
        for row, tokens in zip(live, draft.tokens, strict=True):
            rest = answers[row.index].answer[len(row.generated) :]
            same = [token == right for token, right in zip(tokens, rest, strict=False)]
            accepted.append((*same, False).index(False))
            row.ids.extend(rest[: accepted[-1] + 1])
        drafter.observe(live, Scored(torch.empty(0)), accepted)
        for slot in reversed(range(len(live))):
            if len(live[slot].generated) == live[slot].request.max_new_tokens:
                drafter.drop(slot)
                live[slot] = live[-1]
                live.pop()
    return sum(len(one.answer) for one in answers) / (seconds + getattr(drafter, "seconds", 0.0))


def by_model(answers: Sequence[Recorded], size: int, costs: Costs, k: int | None, known: Costs) -> float:
    """`k` None: chosen by the costs that are `known`."""
    lengths = k if k is not None else Lengths(12, known, Company(size, together=True))
    return speed(Traced(answers, costs, lengths), answers, size, costs)


def by_lookup(answers: Sequence[Recorded], size: int, costs: Costs, k: int | None, known: Costs) -> float:
    params = NgramParams(method="ngram", draft_tokens="auto" if k is None else max(k, 1))
    if k == 0:
        return speed(Traced(answers, costs, 0), answers, size, costs)
    drafter = Ngram(params, Parts(shared_lm(), None, GREEDY, frozenset(), known, size))
    return speed(drafter, answers, size, costs)


DRAFTERS = {"model": by_model, "lookup": by_lookup}


# Never below plain, and close to the best ------------------------------------------------------------------------


@pytest.mark.parametrize("machine", list(MACHINES))
@pytest.mark.parametrize("name", list(DRAFTERS))
def test_never_below_plain_and_close_to_the_best_fixed_length(name: str, machine: str) -> None:
    play, costs = DRAFTERS[name], MACHINES[machine]
    for size in SIZES:
        plain = play(recorded(), size, costs, 0, costs)
        chosen = play(recorded(), size, costs, None, costs)
        best = max(play(recorded(), size, costs, k, costs) for k in (1, 2, 3, 4, 6, 8))
        assert chosen >= 0.98 * plain, size
        assert chosen >= 0.9 * best, size


@pytest.mark.parametrize("machine", list(MACHINES)[:2])
def test_planted_costs_that_know_nothing_of_rows_lose(machine: str) -> None:
    """As if a batch took as long as a row alone: then too much is drafted."""
    costs = MACHINES[machine]
    alone = costs.target.points[1]
    blind = replace(costs, target=replace(costs.target, points={1: alone, 16: alone}))
    assert by_lookup(recorded(), 16, costs, None, blind) < 0.8 * by_lookup(recorded(), 16, costs, 0, costs)


def test_a_poor_draft_costs_no_more_than_finding_out() -> None:
    """Its first prompts are read in vain, so it takes some answers to be forgotten."""
    luck = random.Random(5)
    poor = [replace(one, right=tuple(luck.random() < 0.3 for _ in one.right)) for one in recorded() * 4]
    for machine in ("small model on two cores", "larger model on two cores"):
        costs = MACHINES[machine]
        for size in (4, 16):
            plain = by_model(poor, size, costs, 0, costs)
            assert by_model(poor, size, costs, None, costs) >= 0.98 * plain
            assert by_model(poor, size, costs, 5, costs) < 0.9 * plain


# The choice -----------------------------------------------------------------------------------------------------


# Streams ---------------------------------------------------------------------------------------------------------


def with_streams(costs: Costs) -> Costs:
    """A draft whose forwards say three tokens, each of them one and a half times as dear."""
    assert costs.draft is not None
    grid = {n: {q: 1.5 * s for q, s in some.items()} for n, some in costs.draft.points.items()}
    return replace(costs, draft=replace(costs.draft, points=grid, streams=2))


@cache
def by_streams() -> tuple[Recorded, ...]:
    """Tokens after the first of each forward are right two times in three, at most."""
    luck = random.Random(3)
    return tuple(
        replace(one, right=tuple(right and luck.random() < 0.67 for right in one.right)) for one in recorded()
    )


@pytest.mark.parametrize("machine", list(MACHINES))
def test_with_streams_too_the_length_is_close_to_the_best(machine: str) -> None:
    costs = with_streams(MACHINES[machine])
    for size in (1, 4, 16):
        plain, chosen, *fixed = (
            by_model(by_streams(), size, costs, k, costs) for k in (0, None, 1, 2, 3, 4, 6, 9)
        )
        assert chosen >= 0.98 * plain, size
        assert chosen >= 0.9 * max(fixed), size


def test_planted_costs_of_a_forward_a_token_draft_too_little() -> None:
    costs = with_streams(MACHINES["larger model on two cores"])
    assert costs.draft is not None
    blind = replace(costs, draft=replace(costs.draft, streams=0))
    right = by_model(by_streams(), 1, costs, None, costs)
    assert by_model(by_streams(), 1, costs, None, blind) < 0.93 * right


def test_drafting_is_a_forward_for_all_that_streams_say() -> None:
    """By hand: one token 1 s, three of them 1.2 s; 7 tokens are 3 forwards."""
    curve = Curve({1: {1: 1.0, 3: 1.2}}, 0.0)
    assert [curve.drafting(n) for n in (0, 1, 3, 7)] == [0.0, 1.0, 3.0, 7.0]
    said = replace(curve, streams=2)
    assert [said.drafting(n) for n in (0, 1, 3)] == [0.0, 1.0, 1.0]
    assert said.drafting(4) == pytest.approx(2.2)
    assert said.drafting(7) == pytest.approx(3.4)
    assert Curve.from_json(json.loads(json.dumps(said.to_json()))) == said


def test_chances_are_those_of_a_tokens_place_in_its_forward() -> None:
    """First tokens always right, the stream's never: two a forward, and it is the forwards that are counted."""
    costs = with_streams(MACHINES["larger model on two cores"])
    chosen = lengths(1, replace(costs, draft=replace(costs.draft, streams=1)))
    for _ in range(60):
        chosen.observe([4], [1])
    first, second = chosen._chances(0)
    assert first > 0.95
    assert second < 0.1
    assert chosen.choose(fresh(1)) == [1]


def lengths(rows: int, costs: Costs, *, sampler: Sampler = GREEDY, present: int | None = None) -> Lengths:
    chosen = Lengths(12, costs, Company.of(sampler, rows))
    for _ in range(present or rows):
        chosen.begin()
    return chosen


def fresh(n: int, budget: int = 64) -> list[Need]:
    return [Need(2, budget, 100)] * n


def test_more_rows_draft_less() -> None:
    costs = MACHINES["larger model on two cores"]
    widths = []
    for rows in SIZES:
        chosen = lengths(rows, costs)
        for _ in range(20):
            chosen.observe([6] * rows, [5] * rows)
        widths.append(max(chosen.choose(fresh(rows))))
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1] > 0


def test_what_is_never_kept_is_given_up_and_tried_again() -> None:
    chosen = lengths(4, MACHINES["larger model on two cores"])
    asked = [chosen.choose(fresh(4))]
    for _ in range(600):
        chosen.observe(asked[-1], [0] * 4)
        asked.append(chosen.choose(fresh(4)))
    tried = [max(one) > 0 for one in asked]
    assert tried[0]
    assert sum(tried) < 0.05 * len(tried)
    assert any(tried[100:])


def test_a_long_prompt_is_read_only_if_the_answer_is_long_enough() -> None:
    chosen = lengths(2, MACHINES["small model on two cores"])
    for _ in range(20):
        chosen.observe([5, 5], [5, 5])
    assert chosen.choose([Need(2, 20, 900), Need(900, 20, 900)])[1] == 0
    assert min(chosen.choose([Need(2, 900, 900), Need(900, 900, 900)])) > 0


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(MACHINES)),
    st.lists(
        st.builds(Need, st.integers(1, 500), st.integers(0, 9), st.integers(1, 900)), min_size=1, max_size=9
    ),
    st.booleans(),
)
def test_no_length_is_beyond_what_may_be_drafted(machine: str, needs: list[Need], together: bool) -> None:
    sampler = GREEDY if together else SAMPLED
    chosen = lengths(len(needs), MACHINES[machine], sampler=sampler)
    for need, n in zip(needs, chosen.choose(needs), strict=True):
        assert 0 <= n <= min(need.budget, 12)


def test_tokens_behind_the_first_wrong_one_teach_nothing() -> None:
    costs = MACHINES["larger model on two cores"]
    short, long = lengths(2, costs), lengths(2, costs)
    for kept in (0, 1, 3, 0, 2):
        short.observe([kept + 1, 4], [kept, 4])
        long.observe([12, 4], [kept, 4])
    assert short._rows == long._rows
    assert short.choose(fresh(2)) == long.choose(fresh(2))


def test_rows_that_may_share_random_numbers_decide_alone() -> None:
    """Under `rejection` neither the neighbours' luck nor their number matters."""
    costs, seen = MACHINES["larger model on two cores"], []
    for present, luck in ((4, 0), (4, 5), (1, 0)):
        chosen = lengths(4, costs, sampler=SAMPLED, present=present)
        for _ in range(10):
            chosen.observe([5] * present, [3, *[luck] * (present - 1)])
        seen.append(chosen.choose(fresh(present))[0])
    assert len(set(seen)) == 1
    odds = [[0.9, 0.8, 0.8], [0.1, 0.1], []]
    alone = Company.of(SAMPLED, 4)
    together = length.known(odds, [50, 60, 70], costs, alone)
    assert together == [
        length.known([one], [at], costs, alone)[0] for one, at in zip(odds, [50, 60, 70], strict=True)
    ]


def test_drafts_found_are_cut_at_one_width() -> None:
    costs = MACHINES["larger model on two cores"]
    odds = [[0.95] * 24, [0.95] * 2, [0.01] * 24, []]
    cut = length.known(odds, [100] * 4, costs, Company.of(GREEDY, 4))
    assert cut[0] == cut[2] > 2
    assert cut[1] == 2
    assert cut[3] == 0
    assert length.known(
        [[0.01] * 9], [100], MACHINES["arithmetic is all it waits for"], Company.of(GREEDY, 1)
    ) == [0]
