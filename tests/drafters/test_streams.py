"""Drafting with streams: several tokens a forward, and the output and its law as ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from fakes import ask, draft_model, noisy_lm, plain_tokens, run, run_rules, shared_lm
from specctl.decode.draft import Drafter, Parts, Request
from specctl.decode.loop import decode
from specctl.decode.sampling import Law, Sampler
from specctl.decode.target import Target
from specctl.drafters.draft_model import DraftModel
from specctl.drafters.mirror import Mirror
from specctl.events import Emitted, Verified
from specctl.mirror.branches import Twig
from specctl.models import costs
from specctl.models.lm import LM
from specctl.models.streams import Streams
from specctl.profile.drafters import DraftModelParams, MirrorParams
from streaming import streaming_lm
from walks import Walk, plain_law

WARM = Law(temperature=1.0)


def verdicts(events: Sequence[Any]) -> list[tuple[int, int, int]]:
    """Row by row, in their order: what was drafted and what was kept."""
    found = [event for event in events if isinstance(event, Verified)]
    found.sort(key=lambda one: (one.row, one.round))
    return [(one.row, one.drafted, one.accepted) for one in found]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("trimmed", [False, True], ids=["whole", "trimmed"])
@pytest.mark.parametrize("draft_tokens", [1, 3, 7, "auto"])
def test_greedy_output_is_plain_decodings(draft_tokens: Any, trimmed: bool, batch_size: int) -> None:
    one = draft_model(shared_lm(), streaming_lm(trimmed), draft_tokens=draft_tokens)
    tokens, _, events = run(shared_lm(), one, ask(4), batch_size=batch_size)
    assert [tuple(row) for row in tokens] == list(plain_tokens(n=4))
    assert any(drafted for _, drafted, _ in verdicts(events))


def test_streams_are_right_now_and_then_and_save_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise all else here would say little."""
    forwards: list[int] = []
    right = LM.forward_states

    def counted(self: LM, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        forwards.append(1)
        return right(self, *given, **named)

    monkeypatch.setattr(LM, "forward_states", counted)
    one = draft_model(shared_lm(), streaming_lm(), draft_tokens=6)
    _, _, events = run(shared_lm(), one, ask(4))
    found = verdicts(events)
    assert sum(accepted >= 3 for *_, accepted in found) > 5  # past both streams
    assert len(forwards) <= sum(-(-drafted // 3) for _, drafted, _ in found)


def test_costs_are_those_of_forwards_with_their_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[int] = []
    right = Streams.follow

    def follow(self: Streams, number: int, states: Tensor, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
        followed.append(len(tokens))
        return right(self, number, states, tokens)

    monkeypatch.setattr(Streams, "follow", follow)
    lm = streaming_lm()
    cache = costs.filled(lm, 2, 8, 6)
    assert costs.seconds(lm, cache, 2, 3) > 0
    assert followed == [2, 2]
    assert costs.measure(lm, thorough=False).streams == 2
    without = replace(lm, streams=None)
    assert costs.measure(without, thorough=False).streams == 0
    assert len({costs.fingerprint(one) for one in (lm, without, streaming_lm(trimmed=True))}) == 3


@pytest.mark.parametrize("accept", ["coupled", "rejection"])
def test_a_batch_is_drafted_as_its_rows_alone(accept: str) -> None:
    settings: Any = {"law": WARM, "accept": accept}
    together, alone = (
        run(
            shared_lm(),
            draft_model(shared_lm(), streaming_lm(), **settings),
            ask(4),
            batch_size=n,
            **settings,
        )
        for n in (3, 1)
    )
    assert together[0] == alone[0]
    assert verdicts(together[2]) == verdicts(alone[2])


def test_the_end_of_sequence_ends_a_draft_inside_a_forward() -> None:
    eos = frozenset(row[8] for row in plain_tokens())
    one = draft_model(shared_lm(), streaming_lm(), eos=eos)
    tokens, reasons, _ = run(shared_lm(), one, ask(5), batch_size=2, eos=eos)
    assert tokens == run(shared_lm(), None, ask(5), eos=eos)[0]
    assert set(reasons) == {"stop"}


# The law of what is emitted, exactly -----------------------------------------------------------------------------

FEW = Law(temperature=1.0, top_k=2)
PROMPT = (11, 12, 13)
NEW = 3


def by_draft_model(parts: Parts) -> Drafter:
    return DraftModel(DraftModelParams(method="draft-model", draft_tokens=2), parts)


def by_mirror(parts: Parts) -> Drafter:
    return Mirror(MirrorParams(method="mirror", draft_tokens=2, candidates=0), parts)


def paths(make: Callable[[Parts], Drafter]) -> Iterator[tuple[tuple[int, ...], float]]:
    given: list[int] | None = []
    while given is not None:
        walk = Walk(given)
        sampler = Sampler(FEW, walk)
        drafter = make(Parts(shared_lm(), streaming_lm(), sampler, frozenset()))
        target = Target(shared_lm(), slots=1, capacity=16)
        rules = run_rules(shared_lm(), "rejection", sampler)
        events = decode(target, drafter, [Request(PROMPT, NEW)], rules)
        emitted = tuple(token for event in events if isinstance(event, Emitted) for token in event.tokens)
        yield emitted, walk.weight
        given = walk.next()


def apart(make: Callable[[Parts], Drafter]) -> float:
    """The largest difference between the emitted law and the target's."""
    found: dict[tuple[int, ...], float] = {}
    for tokens, weight in paths(make):
        found[tokens] = found.get(tokens, 0.0) + weight
    expected = plain_law(FEW, PROMPT, NEW)
    return max(abs(found.get(key, 0.0) - expected.get(key, 0.0)) for key in {*found, *expected})


@pytest.mark.parametrize("make", [by_draft_model, by_mirror])
def test_the_law_is_the_targets(make: Callable[[Parts], Drafter]) -> None:
    assert apart(make) < 1e-12


def test_the_law_of_the_head_where_a_stream_drafted_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: what a stream drafted is told with the law the head has there."""
    right = Twig.add
    lm = noisy_lm()

    def add(self: Twig, token: int, best: Any, chance: float, q: Tensor | None, eos: frozenset[int]) -> None:
        cache = lm.new_cache()
        cache.admit()
        told = FEW.probabilities(lm.forward(cache, [self.whole], range(1))[0, -1])
        right(self, token, best, chance, told if self.laws else q, eos)

    monkeypatch.setattr(Twig, "add", add)
    assert apart(by_mirror) > 1e-3
