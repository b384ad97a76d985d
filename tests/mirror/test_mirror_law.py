"""The law of what Mirror emits, exactly: every outcome of every draw is walked through the loop with its weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from fakes import noisy_lm, run_rules, shared_lm
from specctl.decode.draft import Parts, Request
from specctl.decode.loop import decode
from specctl.decode.noise import Place, Stream
from specctl.decode.sampling import Law, Sampler
from specctl.decode.target import Target
from specctl.drafters.mirror import Mirror
from specctl.events import Branched, Emitted
from specctl.mirror.writer import Branch, Writer, _Twig
from specctl.profile.drafters import MirrorParams

FEW = Law(temperature=1.0, top_k=3)
PROMPT = (11, 12, 13)
NEW = 3


class Walk:
    """`Draws` whose outcomes are given one by one; behind the given ones the first possible is taken.

    `weight` is the chance of the path, `options` how many outcomes each draw of it had.
    """

    def __init__(self, given: Sequence[int]) -> None:
        self._given = given
        self.taken: list[int] = []
        self.options: list[int] = []
        self.weight = 1.0

    def accept(self, probability: Tensor, at: Sequence[Place]) -> Tensor:
        return torch.tensor([bool(self._one([1 - p, p])) for p in probability.tolist()])

    def sample(self, probs: Tensor, at: Sequence[Place], stream: Stream) -> Tensor:
        return torch.tensor([self._one((law / law.sum()).tolist()) for law in probs])

    def _one(self, chances: Sequence[float]) -> int:
        possible = [value for value, chance in enumerate(chances) if chance > 0]
        at = len(self.taken)
        self.taken.append(self._given[at] if at < len(self._given) else 0)
        self.options.append(len(possible))
        value = possible[self.taken[-1]]
        self.weight *= chances[value]
        return value


def paths() -> Iterator[tuple[list[int], float, list[bool | None]]]:
    """Every path: what was emitted, its weight, and the hits on the way."""
    given: list[int] | None = []
    while given is not None:
        walk = Walk(given)
        sampler = Sampler(FEW, walk)
        parts = Parts(shared_lm(), noisy_lm(), sampler, frozenset())
        drafter = Mirror(
            MirrorParams(method="mirror", draft_tokens=1, exit=4, candidates=1, branches=1), parts
        )
        target = Target(shared_lm(), slots=1, capacity=16)
        events = list(
            decode(target, drafter, [Request(PROMPT, NEW)], run_rules(shared_lm(), "rejection", sampler))
        )
        emitted = [token for event in events if isinstance(event, Emitted) for token in event.tokens]
        yield emitted, walk.weight, [event.hit for event in events if isinstance(event, Branched)]
        last = max((i for i, n in enumerate(walk.options) if walk.taken[i] + 1 < n), default=None)
        given = None if last is None else [*walk.taken[:last], walk.taken[last] + 1]


def plain_law(prefix: tuple[int, ...] = ()) -> dict[tuple[int, ...], float]:
    """The joint law of the tokens plain sampling emits."""
    if len(prefix) == NEW:
        return {prefix: 1.0}
    lm = shared_lm()
    cache = lm.new_cache()
    cache.admit()
    logits = lm.forward(cache, [[*PROMPT, *prefix]], range(1))[0, -1]
    law = FEW.probabilities(logits)
    return {
        whole: float(law[token]) * chance
        for token in law.nonzero()[:, 0].tolist()
        for whole, chance in plain_law((*prefix, token)).items()
    }


def apart() -> float:
    """The largest difference between the emitted law and the target's; hits and misses both happen."""
    found: dict[tuple[int, ...], float] = {}
    hits: set[bool | None] = set()
    for tokens, weight, seen in paths():
        found[tuple(tokens)] = found.get(tuple(tokens), 0.0) + weight
        hits.update(seen)
    assert {True, False} <= hits
    expected = plain_law()
    return max(abs(found.get(key, 0.0) - expected.get(key, 0.0)) for key in {*found, *expected})


def test_the_law_is_the_targets() -> None:
    assert apart() < 1e-12


def law_of_another_branch(patch: pytest.MonkeyPatch) -> None:
    """As a neighbour's would be: the same tokens with other chances."""
    right = Writer._adopt

    def adopt(self: Writer, slot: int, twig: _Twig) -> Branch:
        twig.laws = [law.square() / law.square().sum() for law in twig.laws]
        return right(self, slot, twig)

    patch.setattr(Writer, "_adopt", adopt)


def branches_to_please(patch: pytest.MonkeyPatch) -> None:
    """A branch is thrown away for what it says."""
    right = Writer._adopt

    def adopt(self: Writer, slot: int, twig: _Twig) -> Branch:
        likely = twig.laws[0].argmax() == twig.branch.tokens[0]
        return right(self, slot, twig) if likely else None  # type: ignore[return-value]

    patch.setattr(Writer, "_adopt", adopt)


@pytest.mark.parametrize(
    "plant",
    [law_of_another_branch, branches_to_please],
    ids=lambda plant: f"planted-{plant.__name__}",
)
def test_a_wrong_law_is_seen(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert apart() > 1e-4
