"""p and q of drafted tokens: what one forward over everything says; nothing changes by looking."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from fakes import ask, draft_model, ngram, noisy_lm, run, shared_lm
from specctl.decode import chances
from specctl.decode.draft import Draft
from specctl.decode.sampling import Law
from specctl.events import Drafted, Emitted, Event, Verified
from specctl.models.lm import LM

HOT = Law(temperature=1.5, top_k=20)


def expected(lm: LM, law: Law, prompt: Sequence[int], events: Sequence[Event]) -> list[list[float]]:
    """The probability of every drafted token by a forward over all that stands before, a list a round."""
    ids, found = list(prompt), []
    for event in events:
        if isinstance(event, Drafted):
            cache = lm.new_cache()
            cache.reserve(cache.admit() + 1, len(ids) + len(event.tokens) + lm.row_floor)
            logits = lm.forward(cache, [[*ids, *event.tokens]], range(1))[0]
            scores = logits[len(ids) - 1 :].double()
            laws = scores.softmax(dim=-1) if law.greedy else law.probabilities(scores)
            found.append([float(laws[i, token]) for i, token in enumerate(event.tokens)])
        elif isinstance(event, Emitted):
            ids += event.tokens
    return found


@pytest.mark.parametrize("law", [Law(), HOT], ids=["greedy", "sampled"])
def test_p_and_q_are_what_the_models_say(law: Law) -> None:
    request = ask(1)
    drafter = draft_model(
        shared_lm(), noisy_lm(), law=law, accept="rejection", draft_tokens=3, min_confidence=0.0
    )
    how = {"law": law, "accept": "greedy" if law.greedy else "rejection"}
    _, _, events = run(shared_lm(), drafter, request, probabilities=True, **how)  # type: ignore[arg-type]
    p = [list(event.p) for event in events if isinstance(event, Verified)]
    q = [list(event.q) for event in events if isinstance(event, Drafted)]
    for said, model in ((p, shared_lm()), (q, noisy_lm())):
        honest = expected(model, law, request[0].prompt, events)
        assert len(said) == len(honest) > 5
        for ours, theirs in zip(said, honest, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)
    assert any(
        abs(a - b) > 0.01 for one, other in zip(p, q, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_looking_changes_nothing_and_nobody_looks_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = run(shared_lm(), ngram(), ask(3), batch_size=3, probabilities=True)
    assert any(event.p for event in looked[2] if isinstance(event, Verified))

    def unasked(*_: object) -> chances.Chances:
        raise AssertionError("nobody asked")

    for name in ("of_target", "of_drafter"):
        monkeypatch.setattr(chances, name, unasked)
    plain = run(shared_lm(), ngram(), ask(3), batch_size=3)
    assert plain[:2] == looked[:2]
    assert not any(event.p for event in plain[2] if isinstance(event, Verified))
    with pytest.raises(AssertionError, match="nobody asked"):
        run(shared_lm(), ngram(), ask(1), probabilities=True)


def test_a_drafter_without_a_law_says_nothing() -> None:
    assert chances.of_drafter(Draft([[3, 4], []])) == [(), ()]
    assert chances.of_drafter(Draft([[3], []], confidence=[[0.5], []])) == [(0.5,), ()]
    law = torch.full((2, 1, 4), 0.25)
    assert chances.of_drafter(Draft([[3], []], q=law)) == [(0.25,), ()]
