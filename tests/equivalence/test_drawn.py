"""Drawn tokens and their laws: settled round by round, repeated where borderline, with the power stated."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from fakes import ask
from specctl.decode.draft import Draft, Request, Row
from specctl.decode.sampling import Law, Sampler
from specctl.equivalence.drawn import Drawn, judge_law
from specctl.equivalence.power import POWER, power, visible_tv
from specctl.equivalence.report import Verdict
from specctl.equivalence.sampled import ALPHA, SampledLaw, Test, borderline

VOCAB = 6


class Noted(SampledLaw):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[list[int], torch.Tensor, torch.Tensor | None]] = []

    def add(self, tokens: Sequence[int], p: torch.Tensor, q: torch.Tensor | None = None) -> None:
        self.given.append((list(tokens), p, q))


def settled(draft: Draft, committed: list[int], *, coupled: bool = False) -> list[tuple[list[int], object]]:
    """Tokens and their orders for one round of one row; the laws are checked here."""
    noted, sampler = Noted(), Sampler.keyed(Law(1.0), coupled=coupled)
    drawn, row = Drawn(sampler, noted), Row(0, Request((1,), 9), [1])
    scores = torch.arange(4 * VOCAB, dtype=torch.float64).view(4, VOCAB).sin()
    drawn.settle(row)
    assert not noted.given, "nothing was scored yet"
    drawn.scored(row, scores, draft, 0)
    row.ids += committed
    drawn.settle(row)
    drawn.settle(row)
    laws = torch.cat([p for _, p, _ in noted.given])
    assert torch.equal(laws, scores[: len(committed)].softmax(-1))
    return [(tokens, q) for tokens, _, q in noted.given]


def test_drafted_tokens_come_with_the_drafts_laws_and_the_bonus_without() -> None:
    q = torch.rand(1, 3, VOCAB, dtype=torch.float64)
    (drafted, orders), (bonus, none) = settled(Draft([[2, 3]], q), [2, 3, 4])
    assert (drafted, bonus, none) == ([2, 3], [4], None)
    assert torch.equal(torch.as_tensor(orders), q[0, :2])
    ((rejected, order),) = settled(Draft([[2, 3]], q), [5])
    assert rejected == [5]
    assert torch.equal(torch.as_tensor(order), q[0, :1])


def test_a_draft_that_was_not_drawn_is_a_law_of_one_token() -> None:
    ((tokens, order),) = settled(Draft([[2, 3]]), [2, 0])
    assert tokens == [2, 0]
    assert torch.as_tensor(order).argmax(-1).tolist() == [2, 3]
    assert torch.as_tensor(order).sum() == 2
    assert settled(Draft([[2, 3]]), [2, 0], coupled=True) == [([2, 0], None)]


def wrong_once(n: int = 4000) -> SampledLaw:
    """Tokens of another law: rejected at once."""
    measured = SampledLaw()
    law = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).expand(n, -1)
    measured.add([0] * n, law)
    return measured


def right(n: int, seed: int = 0) -> SampledLaw:
    measured = SampledLaw(seed)
    law = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).expand(n, -1)
    tokens = torch.multinomial(law, 1, generator=torch.Generator().manual_seed(seed))[:, 0]
    measured.add(tokens.tolist(), law)
    return measured


class Borderline(SampledLaw):
    def tests(self, alpha: float = ALPHA) -> list[Test]:
        return [Test("pit", 50.0, 19, 1e-4, 500)]


def test_a_borderline_p_is_repeated_with_fresh_seeds_before_a_verdict() -> None:
    requests, asked = ask(3), []

    def again(fresh: Sequence[Request]) -> SampledLaw:
        asked.extend(fresh)
        return right(4000)

    found, problems = judge_law(Borderline(), requests, again)
    assert problems == []
    assert found["before_repeat"][0]["p"] == 1e-4
    assert len(asked) == 4 * len(requests)
    assert not {one.seed for one in asked} & {one.seed for one in requests}
    assert len({one.seed for one in asked}) == len(asked)

    _, problems = judge_law(Borderline(), requests, lambda fresh: wrong_once())
    assert {one.verdict for one in problems} == {Verdict.DISTRIBUTION}


def test_nothing_else_is_repeated() -> None:
    def never(fresh: Sequence[Request]) -> SampledLaw:
        raise AssertionError

    found, problems = judge_law(right(4000), ask(1), never)
    assert (found["before_repeat"], problems) == (None, [])
    found, problems = judge_law(wrong_once(), ask(1), never)
    assert found["before_repeat"] is None
    assert {one.verdict for one in problems} == {Verdict.DISTRIBUTION}
    assert not borderline([Test("x", 0, None, 0.5, 1)])


# Power ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [400, 5_000, 100_000])
def test_the_visible_total_variation_has_the_stated_power(n: int) -> None:
    tv = visible_tv(n, 20, ALPHA)
    assert power(n, 20, tv, ALPHA) >= POWER > power(n, 20, 0.95 * tv, ALPHA)


def test_a_pass_states_what_would_have_been_seen() -> None:
    few, many = ({one.name: one for one in right(n).tests()} for n in (300, 100_000))
    assert few["pit"].visible > many["pit"].visible > 0
    assert few["pit"].tv_upper > many["pit"].tv_upper > 0
    assert few["entropy"].visible is None
    assert many["entropy"].visible == 0.1
    none = {one.name: one for one in right(20).tests()}
    assert (none["pit"].visible, none["pit"].tv_upper) == (None, None)


def test_the_visible_tilt_is_seen() -> None:
    """Planted: 1 / temperature off by the stated share, in both directions, is rejected with every seed."""
    law = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    for sign in (-1, 1):
        tilted = law ** (1 - sign * 0.1)
        for seed in range(4):
            measured, n = SampledLaw(seed), 100_000
            generator = torch.Generator().manual_seed(seed)
            tokens = torch.multinomial(tilted, n, replacement=True, generator=generator)
            measured.add(tokens.tolist(), law.expand(n, -1))
            assert {one.name: one.rejected for one in measured.tests()}["entropy"], (sign, seed)
