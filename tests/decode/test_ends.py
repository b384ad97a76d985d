"""Answers end where plain ones do: end of sequence, stop strings, caps and the context, inside blocks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from stream_check import check_stream

from fakes import (
    N_NEW,
    SCRIPTS,
    Spy,
    ask,
    plain_tokens,
    render,
    run,
    scripts,
    shared_lm,
    tiny_lm,
)
from specctl.decode import loop
from specctl.decode.draft import Row, Scored
from specctl.decode.finish import Ending, Limits, Render, finish
from specctl.events import Drafted, Emitted, Verified


def cut(answer: Sequence[int], given: Limits) -> tuple[list[int], str]:
    """An answer judged token by token, by a rule written down once more."""
    for n in range(1, len(answer) + 1):
        if answer[n - 1] in given.eos or any(stop in render(answer[:n]) for stop in given.stop):
            return list(answer[:n]), "stop"
        if n in (given.max_new_tokens, given.room):
            return list(answer[:n]), "length" if n == given.max_new_tokens else "context"
    raise AssertionError("the answer is too short for its limits")


def endings_differ(
    script: str, eos: frozenset[int], stop: tuple[str, ...], new: int, batch_size: int
) -> bool:
    plain = plain_tokens()
    asked = ask(5, new, stop=stop)
    expected = [cut(answer, Limits(eos, new, 999, stop)) for answer in plain]
    drafter = scripts(plain, 4, eos=min(eos, default=2))[script]
    tokens, reasons, events = run(shared_lm(), drafter, asked, batch_size=batch_size, eos=eos)
    check_stream(events, asked, batch_size)
    return list(zip(tokens, reasons, strict=True)) != expected


def middle_tokens() -> frozenset[int]:
    """Tokens that come up in the middle of the answers, to serve as ends of sequence."""
    return frozenset({plain_tokens()[0][6], plain_tokens()[2][9]})


def middle_texts() -> tuple[str, ...]:
    """Stop strings: two letters are a token, so three letters cross a border between tokens."""
    return (
        render(plain_tokens()[0])[7:10],
        render(plain_tokens()[1])[12:16],
        render(plain_tokens()[3])[22:24],
    )


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("script", SCRIPTS)
def test_answers_end_inside_blocks_as_plain_ones(script: str, batch_size: int) -> None:
    assert not endings_differ(script, middle_tokens(), (), N_NEW, batch_size)
    assert not endings_differ(script, frozenset(), middle_texts(), N_NEW, batch_size)
    for new in (1, 2, 7):
        assert not endings_differ(script, middle_tokens(), middle_texts(), new, batch_size)


def test_the_ends_are_really_inside_blocks() -> None:
    """The cases above would prove little if all ends fell on a block's last token."""
    plain = plain_tokens()
    _, reasons, events = run(shared_lm(), scripts(plain, 4)["always-right"], ask(5), eos=middle_tokens())
    assert "stop" in reasons
    verdicts = {(e.row, e.round): e for e in events if isinstance(e, Verified)}
    emitted = {(e.row, e.round): e for e in events if isinstance(e, Emitted)}
    assert any(len(emitted[at].tokens) <= verdicts[at].accepted for at in verdicts)


def test_drafters_observe_the_answer_as_it_was_cut() -> None:
    """What a drafter learns from must not hold tokens behind the end."""
    plain = plain_tokens()
    expected = [cut(answer, Limits(middle_tokens(), N_NEW, 999, ())) for answer in plain]
    seen: dict[int, list[int]] = {}

    class Observer(Spy):
        def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
            seen.update({row.index: list(row.generated) for row in rows})

    run(shared_lm(), Observer(scripts(plain, 4)["always-right"]), ask(5), batch_size=3, eos=middle_tokens())
    assert [seen[row] for row in range(5)] == [tokens for tokens, _ in expected]


def late(done: Sequence[int], block: Sequence[int], limits: Limits, show: Render) -> Ending:
    """Planted: only the last token of a block is judged."""
    ending = finish(done, block, limits, show)
    return ending if ending.kept == len(block) else Ending(len(block), None)


def long_blocks(done: Sequence[int], block: Sequence[int], limits: Limits, show: Render) -> Ending:
    """Planted: the token that ends the answer is not the last one kept."""
    ending = finish(done, block, limits, show)
    return Ending(len(block), ending.reason)


@pytest.mark.parametrize("broken", [late, long_blocks], ids=["planted-late", "planted-long-blocks"])
def test_a_broken_end_is_seen(broken: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "finish", broken)
    assert endings_differ("always-right", middle_tokens(), (), N_NEW, 1)


@pytest.mark.parametrize("script", ["always-right", "coin", "over-long", "empty"])
def test_the_context_limit_ends_rows(script: str) -> None:
    """A context of 20 tokens: rows with longer prompts end sooner, none writes past it."""
    lm = tiny_lm(max_position_embeddings=20)
    plain = plain_tokens()
    expected = [
        cut(answer, Limits(frozenset(), N_NEW, 20 - len(one.prompt), ()))
        for answer, one in zip(plain, ask(5), strict=True)
    ]
    tokens, reasons, events = run(lm, scripts(plain, 4)[script], ask(5), batch_size=3)
    assert list(zip(tokens, reasons, strict=True)) == expected
    assert set(reasons) == {"context"}
    check_stream(events, ask(5), 3)


def test_budgets_leave_room_for_the_targets_own_token() -> None:
    """Drafting what can never be kept is waste: a row with one token to go is not drafted for."""
    plain = plain_tokens()
    _, _, events = run(shared_lm(), scripts(plain, 4)["always-right"], ask(5, 7), batch_size=2)
    done = dict.fromkeys(range(5), 0)
    for event in events:
        if isinstance(event, Drafted):
            assert len(event.tokens) == min(4, 7 - done[event.row] - 1)
        elif isinstance(event, Emitted):
            done[event.row] += len(event.tokens)
