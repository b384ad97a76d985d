"""The loop's one promise: whatever is drafted, the output is plain decoding's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from stream_check import check_stream

from fakes import (
    KINDS,
    SCRIPTS,
    Nothing,
    ask,
    decode_alone,
    plain_tokens,
    prompts,
    run,
    scripts,
    shared_lm,
    tiny_module,
)
from specctl.decode.accept import ACCEPTORS, greedy
from specctl.decode.draft import Draft, Request, Row, Verdict
from specctl.decode.sampling import Sampler
from specctl.events import Timed


@pytest.mark.parametrize("kind", list(KINDS))
def test_plain_decoding_equals_cacheless_transformers(kind: str) -> None:
    """Past sliding windows (8) and in ragged batches, for each supported model type."""
    asked = ask(3, 16)
    native = tiny_module(kind, native=True)
    expected = [decode_alone(native, one.prompt, 16) for one in asked]
    assert len({tuple(answer) for answer in expected}) == len(asked), "the model says the same to everything"
    for batch_size in (1, 3):
        tokens, reasons, _ = run(shared_lm(kind), Nothing(), asked, batch_size=batch_size)
        assert tokens == expected
        assert reasons == ["length"] * 3


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_any_draft_gives_the_plain_output(script: str, kind: str, batch_size: int) -> None:
    """More requests than slots: rows of a batch leave at different rounds and others take their places."""
    asked = ask(3 if batch_size == 1 else 5, 16)
    plain = plain_tokens(kind, seed=1, n=5, new=16)
    for k in (1, 4) if kind == "llama" else (4,):
        drafter = scripts(plain, k)[script]
        tokens, reasons, events = run(shared_lm(kind, 1), drafter, asked, batch_size=batch_size)
        assert [tuple(row) for row in tokens] == list(plain[: len(asked)])
        assert set(reasons) == {"length"}
        check_stream(events, asked, batch_size)


def test_newcomers_take_the_slots_of_those_who_leave() -> None:
    """Nine requests of very different lengths in two slots; nobody waits for the longest."""
    caps = [3, 20, 1, 8, 2, 13, 5, 1, 9]
    asked = [
        Request(prompt, cap, seed=i) for i, (prompt, cap) in enumerate(zip(prompts(9), caps, strict=True))
    ]
    plain, _, _ = run(shared_lm(), None, asked)
    drafter = scripts(plain, 3)["coin"]
    tokens, reasons, events = run(shared_lm(), drafter, asked, batch_size=2)
    assert tokens == plain
    assert reasons == ["length"] * 9
    check_stream(events, asked, 2)
    busy = [event.rows for event in events if isinstance(event, Timed)]
    assert all(rows == 2 for rows in busy[:-10]), "a slot stood empty while requests were waiting"


def test_an_answer_does_not_depend_on_its_neighbours() -> None:
    asked = ask(5)
    plain = plain_tokens()
    for order in ([4, 3, 2, 1, 0], [2, 2, 2, 0, 1]):
        tokens, _, _ = run(shared_lm(), None, [asked[i] for i in order], batch_size=4)
        assert [tuple(row) for row in tokens] == [plain[i] for i in order]


def test_a_prompt_of_one_token() -> None:
    for prompt in ((5,), (44,)):
        asked = [Request(prompt, 8)]
        expected = decode_alone(tiny_module(native=True), prompt, 8)
        for script in ("always-right", "coin"):
            tokens, _, _ = run(shared_lm(), scripts([expected], 3)[script], asked)
            assert tokens == [expected]


# Planted bugs ------------------------------------------------------------------------------------------------


def one_more(scores: torch.Tensor, draft: Draft, rows: Sequence[Row], sampler: Sampler) -> Verdict:
    """Planted: accepts one token more than matched."""
    verdict = greedy(scores, draft, rows, sampler)
    return Verdict((verdict.accepted + 1).minimum(draft.counts(scores.device)), verdict.bonus)


def slot_before(scores: torch.Tensor, draft: Draft, rows: Sequence[Row], sampler: Sampler) -> Verdict:
    """Planted: the bonus comes from the slot before the right one."""
    verdict = greedy(scores, draft, rows, sampler)
    at = (verdict.accepted - 1).clamp(min=0)
    return Verdict(verdict.accepted, scores.argmax(-1).gather(1, at[:, None])[:, 0])


@pytest.mark.parametrize("broken", [one_more, slot_before], ids=["planted-one-more", "planted-slot-before"])
def test_a_broken_acceptor_is_seen(broken: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACCEPTORS, "greedy", broken)  # type: ignore[arg-type]
    plain = plain_tokens(seed=2)
    tokens, _, _ = run(shared_lm(seed=2), scripts(plain, 4)["right-until-2"], ask(5), batch_size=3)
    monkeypatch.undo()
    assert [tuple(row) for row in tokens] != list(plain_tokens(seed=2))
