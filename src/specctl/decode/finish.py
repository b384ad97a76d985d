"""When an answer ends: one pure function, for every method and for plain decoding.

Rules kept per generator come back as bugs with the next generator (transformers#31301, #47912), so there is
only this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Render = Callable[[Sequence[int]], str]
"""Token ids to the text a reader sees."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends a row. `room` is how many tokens the context still had when generation began."""

    eos: frozenset[int]
    max_new_tokens: int
    room: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """How much of a block is kept, and why the row ends with it; `reason` None: it goes on."""

    kept: int
    reason: str | None


def finish(generated: Sequence[int], block: Sequence[int], limits: Limits, render: Render) -> Ending:
    """Judge a round's tokens in order, as if they had come one at a time.

    The token that ends the answer is kept: an end-of-sequence id, or the token that completes a stop string (the
    text is cut before the string, see `decode/text.py`). An end beats a limit that falls on the same token.
    """
    for n, token in enumerate(block, start=1):
        length = len(generated) + n
        if token in limits.eos or _completes_stop([*generated, *block[:n]], limits.stop, render):
            return Ending(n, "stop")
        if length >= limits.max_new_tokens:
            return Ending(n, "length")
        if length >= limits.room:
            return Ending(n, "context")
    return Ending(len(block), None)


def _completes_stop(tokens: Sequence[int], stop: tuple[str, ...], render: Render) -> bool:
    if not stop:
        return False
    # Every token carries a byte or more, bar special ones: a tail this long holds any stop string whole.
    tail = 2 * max(len(text.encode()) for text in stop) + 16
    text = render(tokens[-tail:])
    return any(one in text for one in stop)
