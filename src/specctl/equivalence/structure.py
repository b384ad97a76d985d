"""Checks of the event stream alone: whether it tells one consistent story, and ends where it has to.

Where an answer ends is decided here token by token over the whole answer, without the loop's own function.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from specctl.decode.draft import Request
from specctl.decode.loop import Rules
from specctl.decode.stats import Stats
from specctl.events import Drafted, Emitted, Event, Finished, Prefilled, Verified

_ROUNDING = 1e-5
"""A float32 softmax over rows together or apart differs by less."""


def check_row(events: Sequence[Event], request: Request, rules: Rules, vocab_size: int) -> Iterator[str]:
    """What is wrong with the events of one row, `Timed` left out; nothing if all is well."""
    if not events or not isinstance(events[0], Prefilled) or events[0].prompt != request.prompt:
        yield "the row does not begin with its prompt"
    if not events or not isinstance(events[-1], Finished):
        yield "the row was never finished"
    if sum(isinstance(event, Finished) for event in events) > 1:
        yield "the row was finished twice"
    yield from _check_rounds(events, rules)
    tokens = [token for event in events if isinstance(event, Emitted) for token in event.tokens]
    if any(not 0 <= token < vocab_size for token in tokens):
        yield "a token outside the vocabulary was emitted"
    reason = events[-1].reason if events and isinstance(events[-1], Finished) else None
    yield from _check_ending(tokens, reason, request, rules)
    yield from _check_counters(events, len(tokens))


def _check_rounds(events: Sequence[Event], rules: Rules) -> Iterator[str]:
    """Each round: drafted, verified, emitted; a block is the accepted draft and the bonus, cut at the end."""
    rounds = [event for event in events if isinstance(event, Drafted | Verified | Emitted)]
    if len(rounds) % 3 or not rounds:
        yield "a round lacks one of its events"
        return
    numbers = []
    for drafted, verified, emitted in zip(rounds[::3], rounds[1::3], rounds[2::3], strict=True):
        if not (
            isinstance(drafted, Drafted) and isinstance(verified, Verified) and isinstance(emitted, Emitted)
        ):
            yield "the events of a round are out of order"
            return
        numbers.append(drafted.round)
        last = emitted is rounds[-1]
        yield from (
            f"round {drafted.round}: {what}" for what in _check_round(drafted, verified, emitted, last)
        )
        if _rejected_rightly(drafted, verified, rules):
            yield f"round {drafted.round}: the token the target chose was drafted there and yet rejected"
    steps = {after - before for before, after in pairwise(numbers)}
    # Rows of `exspec` wait for their like; all others take part in every round.
    if min(steps, default=1) < 1 or (rules.schedule != "exspec" and steps - {1}):
        yield "a round is missing"


def _check_round(drafted: Drafted, verified: Verified, emitted: Emitted, last: bool) -> Iterator[str]:
    if len({drafted.round, verified.round, emitted.round}) > 1:
        yield "its events carry different numbers"
    if verified.drafted != len(drafted.tokens):
        yield f"{len(drafted.tokens)} tokens were drafted, {verified.drafted} counted"
    if not 0 <= verified.accepted <= len(drafted.tokens):
        yield f"{verified.accepted} of {len(drafted.tokens)} drafted tokens accepted"
    block = (*drafted.tokens[: verified.accepted], verified.bonus)
    if emitted.tokens != block[: len(emitted.tokens)] or not emitted.tokens:
        yield "what was emitted is not the accepted draft and the target's token"
    elif not last and len(emitted.tokens) < len(block):
        yield "a token of the block was lost"


def _rejected_rightly(drafted: Drafted, verified: Verified, rules: Rules) -> bool:
    """Only where acceptance is equality does a rejected token have to differ from the target's."""
    equality = rules.sampler.law.greedy or rules.sampler.coupled
    n = verified.accepted
    return equality and 0 <= n < len(drafted.tokens) and drafted.tokens[n] == verified.bonus


def _check_ending(tokens: Sequence[int], reason: str | None, request: Request, rules: Rules) -> Iterator[str]:
    length, expected = ending(tokens, request, rules)
    if expected is None:
        yield f"the answer ended by `{reason}` after {len(tokens)} tokens without a reason"
    elif len(tokens) > length:
        yield f"{len(tokens) - length} tokens follow the end of the answer (`{expected}` after {length})"
    elif reason != expected:
        yield f"the answer ended by `{expected}`, but the finish reason is `{reason}`"


def ending(tokens: Sequence[int], request: Request, rules: Rules) -> tuple[int, str | None]:
    """After how many tokens the answer had to end, and why; None if nothing ends it."""
    room = rules.context_length - len(request.prompt)
    for n, token in enumerate(tokens, start=1):
        if token in rules.eos:
            return n, "stop"
        if request.stop and any(text in rules.render(tokens[:n]) for text in request.stop):
            return n, "stop"
        if n == request.max_new_tokens:
            return n, "length"
        if n == room:
            return n, "context"
    return len(tokens), None


def _check_counters(events: Iterable[Event], emitted: int) -> Iterator[str]:
    """The published figures, against a count of our own."""
    stats = Stats()
    drafted = accepted = rounds = 0
    for event in events:
        stats.add(event)
        if isinstance(event, Drafted):
            drafted += len(event.tokens)
        elif isinstance(event, Verified):
            accepted += event.accepted
            rounds += 1
    expected = {
        "new_tokens": emitted,
        "rounds": rounds,
        "drafted": drafted,
        "accepted": accepted,
        "acceptance_rate": accepted / drafted if drafted else None,
        "mean_acceptance_length": 1 + accepted / rounds if rounds else None,
    }
    summary = stats.summary()
    for name, value in expected.items():
        if summary[name] != value:
            yield f"the figure `{name}` is {summary[name]} instead of {value}"


def check_text(
    events: Sequence[Event], tokens: Sequence[int], request: Request, rules: Rules
) -> Iterator[str]:
    """Whether the text that was streamed is the answer's, cut before its first stop string."""
    whole = rules.render(tokens)
    end = min((at for stop in request.stop if (at := whole.find(stop)) >= 0), default=len(whole))
    streamed = "".join(event.text for event in events if isinstance(event, Emitted | Finished))
    if streamed != whole[:end]:
        yield "the streamed text is not the text of the answer"


def check_chances(events: Sequence[Event], expected: Sequence[Sequence[float]]) -> Iterator[str]:
    """Whether the probabilities reported are the target's, `expected` a round; the first round that lies."""
    verified = [event for event in events if isinstance(event, Verified)]
    for event, own in zip(verified, expected, strict=False):
        if len(event.p) != len(own) or any(abs(p - q) > _ROUNDING for p, q in zip(event.p, own, strict=True)):
            yield f"round {event.round}: the probabilities of the draft are not the target's"
            return


def by_row(events: Iterable[Event], n: int) -> list[list[Event]]:
    """Each row's own events; `Timed` and `Started` belong to none."""
    rows: list[list[Event]] = [[] for _ in range(n)]
    for event in events:
        if isinstance(event, Prefilled | Drafted | Verified | Emitted | Finished) and 0 <= event.row < n:
            rows[event.row].append(event)
    return rows
