"""Text to learn from that needs no data set: conversations the model writes itself.

A chat model that is shown its template up to the user's turn writes that turn, and then answers it (Xu et al.,
"Magpie", arXiv:2406.08464). Each conversation is a function of (seed, index), so a killed run goes on with the
indices it lacks.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from specctl.errors import RequestError
from specctl.events import Emitted, Finished
from specctl.profile.drafters import NoneParams
from specctl.profile.schema import Sampling
from specctl.session import Request, Session

_BLOCK = 8
"""Batches of prompts written before they are answered: each call ends with rows that finish alone."""

_WRITING = Sampling(temperature=1.0, top_p=0.95)
"""Users are more varied than the likeliest user."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """`prompt` ends where the answer begins, chat template included; `answer` has its end token, if it ended."""

    index: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Most tokens of a user's turn and of an answer."""

    prompt: int = 96
    answer: int = 256


def self_written(
    session: Session,
    indices: Sequence[int],
    *,
    seed: int = 0,
    lengths: Lengths = Lengths(),
    batch_size: int = 8,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Conversation]:
    """Conversations `indices`, in the order they finish; both turns are the session's target's.

    Answers follow the session's profile (sampling, drafter). An index whose prompt came out empty yields
    nothing. Raises RequestError for a model without a chat template.
    """
    step = _BLOCK * batch_size
    for start in range(0, len(indices), step):
        texts = _user_turns(
            session, indices[start : start + step], seed, lengths.prompt, batch_size, cancelled
        )
        prompts = {
            index: session.encode(text, system=None, raw=False)
            for index, text in texts.items()
            if text.strip()
        }
        yield from answered(
            session,
            prompts,
            seed=seed,
            max_new_tokens=lengths.answer,
            batch_size=batch_size,
            cancelled=cancelled,
        )


def answered(
    session: Session,
    prompts: Mapping[int, Sequence[int]],
    *,
    seed: int = 0,
    max_new_tokens: int = 192,
    batch_size: int = 8,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Conversation]:
    """The target's answers to token ids by index, in the order they finish; cut ones are left out."""
    requests = {
        index: Request(tuple(ids), max_new_tokens, _key(seed, index, "answer"))
        for index, ids in prompts.items()
    }
    for index, tokens in _generated(session, requests, batch_size, cancelled):
        yield Conversation(index, requests[index].prompt, tokens)


def _user_turns(
    session: Session,
    indices: Sequence[int],
    seed: int,
    most: int,
    batch_size: int,
    cancelled: Callable[[], bool],
) -> dict[int, str]:
    opening = user_opening(session)
    writing = session.profile.model_copy(
        update={"drafter": NoneParams(method="none"), "sampling": _WRITING, "stop": []}
    )
    info = replace(session.info, accept=writing.accept)
    requests = {index: Request(opening, most, _key(seed, index, "prompt")) for index in indices}
    turns = _generated(replace(session, profile=writing, info=info), requests, batch_size, cancelled)
    return {
        index: session.tokenizer.decode(tokens, skip_special_tokens=True).strip() for index, tokens in turns
    }


def user_opening(session: Session) -> tuple[int, ...]:
    """The chat template up to where the user's text begins. Raises RequestError."""
    marker = f"text{secrets.token_hex(16)}"
    if session.tokenizer.chat_template:
        messages = [{"role": "user", "content": marker}]
        rendered: str = session.tokenizer.apply_chat_template(messages, tokenize=False)
        before, found, _ = rendered.partition(marker)
        if found and before:
            return tuple(session.tokenizer(before, add_special_tokens=False).input_ids)
    raise RequestError(
        f"`{session.info.target}` cannot write prompts of its own: its chat template does not open a user's turn",
        hint="give prompts in a file",
    )


def _generated(
    session: Session, requests: Mapping[int, Request], batch_size: int, cancelled: Callable[[], bool]
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Tokens by index, as rows finish."""
    order = list(requests)
    tokens: list[list[int]] = [[] for _ in order]
    if not order:
        return
    events = session.generate(
        [requests[index] for index in order], batch_size=batch_size, cancelled=cancelled
    )
    for event in events:
        if isinstance(event, Emitted):
            tokens[event.row] += event.tokens
        elif isinstance(event, Finished) and event.reason != "cancelled":
            yield order[event.row], tuple(tokens[event.row])


def _key(seed: int, index: int, what: str) -> int:
    digest = hashlib.blake2b(f"{seed}:{index}:{what}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
