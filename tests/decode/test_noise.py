"""Noise is a function of row key, position and stream, and nothing else; and it is fair."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from specctl.decode.accept import rejection
from specctl.decode.draft import Draft, Request, Row
from specctl.decode.noise import KeyedDraws, Place, Stream
from specctl.decode.sampling import Law, Sampler

ALARM = 1e-6


def p_value(observed: Tensor, expected: Tensor) -> float:
    """Chi-square test of counts, one degree of freedom less than cells."""
    assert float(expected.min()) >= 10, "too few expected in a cell for the test to mean anything"
    statistic = ((observed - expected) ** 2 / expected).sum().double()
    return float(torch.special.gammaincc(torch.tensor((observed.numel() - 1) / 2).double(), statistic / 2))


def independence(first: Tensor, second: Tensor, marginals: tuple[Tensor, Tensor]) -> float:
    """p-value of two draws, made at the same places, being independent with these laws."""
    rows, columns = (len(marginal) for marginal in marginals)
    observed = torch.bincount(first * columns + second, minlength=rows * columns).double()
    expected = torch.outer(*marginals).flatten() * len(first)
    return p_value(observed, expected)


class OneNumberPerPlace(KeyedDraws):
    """Planted: the stream is left out of the key, so a coin and the draw behind it share a number."""

    def _seeded(self, place: Place, stream: Stream) -> torch.Generator:
        return super()._seeded(place, Stream.TARGET)


class OneNumberPerRow(KeyedDraws):
    """Planted: the position is left out of the key."""

    def _seeded(self, place: Place, stream: Stream) -> torch.Generator:
        return super()._seeded(Place(place.key, 0), stream)


LAW = torch.tensor([0.45, 0.3, 0.15, 0.1], dtype=torch.float64)


def sample(draws: KeyedDraws, places: Sequence[Place], stream: Stream = Stream.TARGET) -> Tensor:
    return draws.sample(LAW.expand(len(places), -1), places, stream)


def test_a_place_always_gives_the_same_number() -> None:
    places = [Place(key, position) for key in range(10) for position in range(10)]
    first = sample(KeyedDraws(), places)
    draws = KeyedDraws()
    draws.accept(torch.full((3,), 0.5), places[:3])
    sample(draws, places[5:9], Stream.RESIDUAL)
    assert torch.equal(sample(draws, places), first), "earlier draws must not matter"
    assert torch.equal(
        draws.accept(LAW[0].expand(100), places), KeyedDraws().accept(LAW[0].expand(100), places)
    )


def test_neighbours_and_order_do_not_matter() -> None:
    places = [Place(key, 3 * key) for key in range(30)]
    together = sample(KeyedDraws(), places).tolist()
    assert together == [int(sample(KeyedDraws(), [place])) for place in places]
    assert together[::-1] == sample(KeyedDraws(), places[::-1]).tolist()


def test_key_position_and_stream_each_change_the_number() -> None:
    n = 200
    same = sample(KeyedDraws(), [Place(5, 5)] * n)
    assert len(same.unique()) == 1
    reference = sample(KeyedDraws(), [Place(key, 5) for key in range(n)])
    others = {
        "key": sample(KeyedDraws(), [Place(key + n, 5) for key in range(n)]),
        "position": sample(KeyedDraws(), [Place(key, 6) for key in range(n)]),
        "stream": sample(KeyedDraws(), [Place(key, 5) for key in range(n)], Stream.RESIDUAL),
    }
    by_chance = float((LAW**2).sum())
    for what, other in others.items():
        assert abs(float((reference == other).double().mean()) - by_chance) < 0.2, what


def test_large_and_near_keys_do_not_collide() -> None:
    """`1:23` and `12:3` are different places, and so are seeds that differ in their highest bit only."""
    pairs = [
        (Place(1, 23), Place(12, 3)),
        (Place(0, 7), Place(2**62, 7)),
        (Place(2**63 - 1, 1), Place(2**63 - 2, 1)),
    ]
    wide = torch.full((1, 50_000), 1 / 50_000, dtype=torch.float64)
    for one, other in pairs:
        assert KeyedDraws().sample(wide, [one], Stream.TARGET) != KeyedDraws().sample(
            wide, [other], Stream.TARGET
        )


def test_sampled_frequencies_are_the_law() -> None:
    n = 6000
    for places in ([Place(key, 9) for key in range(n)], [Place(9, position) for position in range(n)]):
        observed = torch.bincount(sample(KeyedDraws(), places), minlength=4).double()
        assert p_value(observed, LAW * n) > ALARM
        planted = LAW.roll(1) * 0.2 + LAW * 0.8
        assert p_value(observed, planted / planted.sum() * n) < ALARM, "the test has no power"


def test_unnormalised_laws_and_zeros() -> None:
    places = [Place(key, 0) for key in range(300)]
    assert torch.equal(
        KeyedDraws().sample((LAW * 1e-9).expand(300, -1), places, Stream.TARGET), sample(KeyedDraws(), places)
    )
    law = torch.tensor([0.0, 1e-300, 0.0], dtype=torch.float64)
    assert set(KeyedDraws().sample(law.expand(300, -1), places, Stream.TARGET).tolist()) == {1}


@pytest.mark.parametrize("wait", [0.0, 1e-45], ids=["zero", "subnormal"])
def test_a_waiting_time_of_zero_cannot_draw_an_impossible_token(
    wait: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of torch's exponential generators can return 0 in float32, once in 2**24: 0 / 0 must not win."""

    def impatient(self: Tensor, *args: object, **kwargs: object) -> Tensor:
        self[1] = wait
        self[[0, 2]] = 1.0
        return self

    monkeypatch.setattr(Tensor, "exponential_", impatient)
    law = torch.tensor([[0.25, 0.0, 0.75]])
    assert KeyedDraws().sample(law, [Place(0, 0)], Stream.TARGET).tolist() == [2]


def test_coin_frequencies_are_the_probability() -> None:
    n = 6000
    places = [Place(key % 60, key // 60) for key in range(n)]
    for chance in (0.03, 0.5, 0.9):
        heads = KeyedDraws().accept(torch.full((n,), chance), places).double().sum()
        observed, expected = torch.stack([heads, n - heads]), torch.tensor([chance, 1 - chance]).double() * n
        assert p_value(observed, expected) > ALARM
        assert p_value(observed, torch.tensor([chance + 0.05, 0.95 - chance]).double() * n) < ALARM
    assert not KeyedDraws().accept(torch.zeros(n), places).any()
    assert KeyedDraws().accept(torch.ones(n), places).all()


@pytest.mark.parametrize(
    ("draws", "fair"),
    [(KeyedDraws(), True), (OneNumberPerRow(), False)],
    ids=["keyed", "planted-position-left-out"],
)
def test_draws_at_two_positions_are_independent(draws: KeyedDraws, fair: bool) -> None:
    n = 4000
    first = sample(draws, [Place(key, 10) for key in range(n)])
    second = sample(draws, [Place(key, 11) for key in range(n)])
    assert (independence(first, second, (LAW, LAW)) > ALARM) is fair


@pytest.mark.parametrize(
    ("draws", "fair"),
    [(KeyedDraws(), True), (OneNumberPerPlace(), False)],
    ids=["keyed", "planted-stream-left-out"],
)
def test_coin_and_draw_at_one_place_are_independent(draws: KeyedDraws, fair: bool) -> None:
    n = 4000
    places = [Place(key, 10) for key in range(n)]
    coins = draws.accept(torch.full((n,), 0.4), places).long()
    tokens = sample(draws, places, Stream.RESIDUAL)
    assert (independence(coins, tokens, (torch.tensor([0.6, 0.4]).double(), LAW)) > ALARM) is fair


@pytest.mark.parametrize(
    ("draws", "fair"),
    [(KeyedDraws(), True), (OneNumberPerPlace(), False)],
    ids=["keyed", "planted-stream-left-out"],
)
def test_rejection_with_real_noise_has_the_target_law(draws: KeyedDraws, fair: bool) -> None:
    """Enumeration cannot see two draws that share a number; counting joint outcomes can (vllm-ascend#16370)."""
    n, k = 8000, 1
    p = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    q = torch.tensor([[0.2, 0.5, 0.2, 0.1]], dtype=torch.float64)
    law = Law(temperature=1.0)
    sampler = Sampler(law, draws)
    rows = [Row(key, Request((1,), 4, seed=key), [1]) for key in range(n)]
    drafted, drawn_from = sampler.draft_tokens(q.log().expand(n, -1), [Place(key, 1) for key in range(n)])
    assert drawn_from is not None
    draft = Draft([[token] for token in drafted.tolist()], drawn_from[:, None])
    verdict = rejection(p.log().expand(n, -1, -1), draft, rows, sampler)
    after = draws.sample(p[1].expand(n, -1), [Place(key, 2) for key in range(n)], Stream.TARGET)
    first = torch.where(verdict.accepted == k, drafted, verdict.bonus)
    second = torch.where(verdict.accepted == k, verdict.bonus, after)
    assert (independence(first, second, (p[0], p[1])) > ALARM) is fair


def test_shared_noise_couples_two_laws() -> None:
    """With the target's numbers a draft agrees more often than with its own, and at least as often as 1 - TV
    bounds allow: (1 - TV) / (1 + TV) <= P(agree) <= 1 - TV."""
    n = 4000
    p = LAW.expand(n, -1)
    q = torch.tensor([0.3, 0.4, 0.2, 0.1], dtype=torch.float64).expand(n, -1)
    places = [Place(key, 4) for key in range(n)]
    draws = KeyedDraws()
    target = draws.sample(p, places, Stream.TARGET)
    shared = float((draws.sample(q, places, Stream.TARGET) == target).double().mean())
    apart = float((draws.sample(q, places, Stream.DRAFT) == target).double().mean())
    tv = float((p[0] - q[0]).abs().sum() / 2)
    noise = 4 * (0.25 / n) ** 0.5
    assert (1 - tv) / (1 + tv) - noise < shared < 1 - tv + noise
    assert abs(apart - float(p[0] @ q[0])) < noise
    assert shared > apart + 0.2
