"""A failing case made small: fewer tokens, rows, drafted tokens and prompt ids that fail in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic

from specctl.equivalence.tape import Tape

Fails = Callable[[Tape], bool]


def shrink(
    tape: Tape, fails: Fails, *, seconds: float = 60.0, clock: Callable[[], float] = monotonic
) -> Tape:
    """The smallest case found that still `fails`; the best so far when time is up."""
    deadline = clock() + seconds
    shrinking = True
    while shrinking:
        shrinking = False
        for smaller in _smaller(tape):
            if clock() >= deadline:
                return tape
            if fails(smaller):
                tape, shrinking = smaller, True
                break
    return tape


def _smaller(tape: Tape) -> Iterator[Tape]:
    """Candidates, the boldest cuts first. Each is smaller, so shrinking ends."""
    yield from _fewer_tokens(tape)
    yield from _fewer_rows(tape)
    yield from _shorter_drafts(tape)
    yield from _shorter_prompts(tape)


def _fewer_tokens(tape: Tape) -> Iterator[Tape]:
    most = max(one.max_new_tokens for one in tape.requests)
    for cap in sorted({1, 2, most // 4, most // 2, most - 1} - {0}):
        if cap < most:
            capped = (replace(one, max_new_tokens=min(cap, one.max_new_tokens)) for one in tape.requests)
            yield replace(tape, requests=tuple(capped), drafts=_within(tape, cap))


def _within(tape: Tape, cap: int) -> dict[tuple[int, int], tuple[int, ...]]:
    return {(row, at): tokens for (row, at), tokens in tape.drafts.items() if at < cap}


def _fewer_rows(tape: Tape) -> Iterator[Tape]:
    rows = range(len(tape.requests))
    if len(rows) > 1:
        yield tape.with_rows([tape.row])
        for other in rows:
            if other != tape.row:
                yield tape.with_rows([row for row in rows if row != other])
    if tape.batch_size > 1:
        yield replace(tape, batch_size=1)


def _shorter_drafts(tape: Tape) -> Iterator[Tape]:
    longest = max(map(len, tape.drafts.values()), default=0)
    for k in range(1, longest):
        yield replace(tape, drafts={key: tokens[:k] for key, tokens in tape.drafts.items()})
    for key, tokens in tape.drafts.items():
        if tokens:
            yield replace(tape, drafts={**tape.drafts, key: ()})


def _shorter_prompts(tape: Tape) -> Iterator[Tape]:
    """Leave out halves, quarters, … down to single ids, of every request."""
    for row, request in enumerate(tape.requests):
        n = len(request.prompt)
        size = n // 2
        while size:
            for start in range(0, n, size):
                prompt = request.prompt[:start] + request.prompt[start + size :]
                if prompt:
                    shorter = (
                        *tape.requests[:row],
                        replace(request, prompt=prompt),
                        *tape.requests[row + 1 :],
                    )
                    yield replace(tape, requests=shorter)
            size //= 2
