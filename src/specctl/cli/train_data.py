"""What a drafter learns from: `--data` of every `specctl train`, as conversations in token ids by index."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specctl.errors import RequestError
from specctl.models.trained import fingerprint
from specctl.training import conversation_file, conversations
from specctl.training.conversations import Conversation, Lengths
from specctl.trim import gather

if TYPE_CHECKING:
    from specctl.session import Session

_BATCH, _ROOM = 64, 8_000_000_000
"""Answers decoded together by default; a quarter of them where less memory (bytes) is free."""


@dataclass(frozen=True, slots=True)
class Source:
    """`get` gives conversations by index, some may be missing; `count` of them, None: as many as wanted.

    `label` is the same for the same data.
    """

    get: Callable[[Sequence[int]], Iterable[Conversation]]
    count: int | None
    label: str


def find(
    session: Session,
    data: str,
    folder: Path,
    *,
    seed: int,
    batch_size: int | None,
    cancelled: Callable[[], bool],
) -> Source:
    """`data` is `self`, or a file of conversations in token ids, of prompts, or of both as text.

    What the target writes is kept in `folder`, in `conversations.jsonl`, and read from there another time. Raises
    RequestError for a file that is none of these, naming the line.
    """
    how: dict[str, Any] = {"batch_size": batch_size or _fitting(), "cancelled": cancelled}
    path = None if data == "self" else Path(data)
    if path and conversation_file.holds_ids(path):
        ordered = list(conversation_file.read(path, session.target.vocab_size).values())
        return Source(partial(_some, ordered), len(ordered), _digest(path))
    write: conversation_file.Write
    if path is None:
        count, label = None, "self"
        write = partial(conversations.self_written, session, seed=seed, **how)
    else:
        found = gather.entries(path)
        count, label = len(found), _digest(path)
        write = partial(_given, session, found, seed, how)
    settings = {"target": fingerprint(session.target), "data": label, "seed": seed, **asdict(Lengths())}
    kept = conversation_file.Kept(folder / conversation_file.NAME, settings, session.target.vocab_size)
    return Source(partial(kept.get, write=write), count, label)


def _some(ordered: Sequence[Conversation], indices: Sequence[int]) -> list[Conversation]:
    return [ordered[index] for index in indices]


def _given(
    session: Session, found: list[gather.Entry], seed: int, how: dict[str, Any], indices: Sequence[int]
) -> Iterator[Conversation]:
    """Conversations of a text file: with its own answers where it has them, else the target's."""
    asked: dict[int, tuple[int, ...]] = {}
    for index in indices:
        if index >= len(found) or not found[index].prompt:
            continue
        ids = session.encode(found[index].prompt, system=None, raw=not session.tokenizer.chat_template)
        answer = found[index].answer
        if answer is None:
            asked[index] = ids
        else:
            tokens = session.tokenizer(answer, add_special_tokens=False).input_ids
            yield Conversation(index, ids, (*tokens, session.tokenizer.eos_token_id))
    yield from conversations.answered(session, asked, seed=seed, max_new_tokens=Lengths().answer, **how)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RequestError(f"cannot read `{path}`: {error.strerror}", hint="check the path") from None


def _fitting() -> int:
    from specctl.store import memory

    free = memory.available()
    return _BATCH if free is None or free >= _ROOM else _BATCH // 4
