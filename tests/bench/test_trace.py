"""A draft model that reads a known answer says what it says when it is asked token by token."""

from __future__ import annotations

import pytest

from fakes import VOCAB, draft_model, noisy_lm, prompts, run, shared_lm, tiny_lm
from specctl.bench import trace
from specctl.bench.trace import Recorder
from specctl.decode.draft import Request
from specctl.decode.sampling import Law

NEW = 30


def test_reading_in_pieces_is_asking_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a repetition penalty, so that what stands before each position matters twice."""
    monkeypatch.setattr(trace, "_CHUNK", 7)
    law = Law(repetition_penalty=1.3)
    for prompt in prompts(2):
        asked = Recorder(draft_model(shared_lm(), noisy_lm(), law=law, draft_tokens=1, min_confidence=0.0))
        answer = tuple(run(shared_lm(), asked, [Request(prompt, NEW)], law=law)[0][0])
        proposed, confidence = trace.proposals(noisy_lm(), law, prompt, answer, VOCAB)
        # At the last position there is no room to draft, so nobody was asked there.
        assert list(proposed[:-1]) == asked.proposed[:-1]
        assert list(confidence[:-1]) == pytest.approx(asked.confidence[:-1])
        assert proposed != trace.proposals(noisy_lm(), Law(), prompt, answer, VOCAB)[0]


def test_past_its_context_a_model_proposes_nothing() -> None:
    short = tiny_lm(max_position_embeddings=20)
    prompt, answer = tuple(range(3, 17)), tuple(range(3, 15))
    proposed, confidence = trace.proposals(short, Law(), prompt, answer, VOCAB)
    assert [token is None for token in proposed] == [False] * 7 + [True] * 5
    assert len(confidence) == len(answer)
    assert trace.proposals(short, Law(), tuple(range(3, 30)), answer, VOCAB)[0] == (None,) * 12
