"""The law of what Mirror emits, exactly: every outcome of every draw is walked through the loop with its weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fakes import noisy_lm, run_rules, shared_lm
from specctl.decode.draft import Parts, Request
from specctl.decode.loop import decode
from specctl.decode.sampling import Law, Sampler
from specctl.decode.target import Target
from specctl.drafters.mirror import Mirror
from specctl.events import Branched, Emitted
from specctl.mirror.branches import Branch, Twig
from specctl.mirror.writer import Writer
from specctl.profile.drafters import MirrorParams
from walks import Walk, plain_law

FEW = Law(temperature=1.0, top_k=3)
PROMPT = (11, 12, 13)
NEW = 3


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
        given = walk.next()


def apart() -> float:
    """The largest difference between the emitted law and the target's; hits and misses both happen."""
    found: dict[tuple[int, ...], float] = {}
    hits: set[bool | None] = set()
    for tokens, weight, seen in paths():
        found[tuple(tokens)] = found.get(tuple(tokens), 0.0) + weight
        hits.update(seen)
    assert {True, False} <= hits
    expected = plain_law(FEW, PROMPT, NEW)
    return max(abs(found.get(key, 0.0) - expected.get(key, 0.0)) for key in {*found, *expected})


def test_the_law_is_the_targets() -> None:
    assert apart() < 1e-12


def law_of_another_branch(patch: pytest.MonkeyPatch) -> None:
    """As a neighbour's would be: the same tokens with other chances."""
    right = Writer._adopt

    def adopt(self: Writer, slot: int, twig: Twig) -> Branch:
        twig.laws = [law.square() / law.square().sum() for law in twig.laws]
        return right(self, slot, twig)

    patch.setattr(Writer, "_adopt", adopt)


def branches_to_please(patch: pytest.MonkeyPatch) -> None:
    """A branch is thrown away for what it says."""
    right = Writer._adopt

    def adopt(self: Writer, slot: int, twig: Twig) -> Branch:
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
