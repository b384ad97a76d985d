"""Where answers come from: the target answers prompts of a file or its own, or a file has answers already."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specctl.errors import RequestError
from specctl.session import Session
from specctl.training.conversations import Conversation, Lengths, answered, self_written
from specctl.trim.calibration import Sample, digest

_MAX_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a calibration file: a prompt to be answered, an answer, or both."""

    category: str
    prompt: str
    answer: str | None

    @property
    def known_by(self) -> str:
        """How the line is known again: by its prompt, or by its answer if it has no other."""
        return digest(self.prompt or self.answer or "")


def entries(path: Path) -> list[Entry]:
    """A `.jsonl` file with `prompt` (or Spec-Bench's `turns`), `answer` or both, and `category`; any other file is
    text, a prompt a line. Raises RequestError with file and line.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RequestError(f"`{path}` is larger than {_MAX_BYTES // 1_000_000} MB", hint="split it")
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise RequestError(f"cannot read `{path}`: {error.strerror}", hint="check the path") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"`{path}` is not UTF-8 text (offset {error.start})") from None
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if path.suffix == ".jsonl":
        found = [_entry(f"{path}:{number}", line) for number, line in numbered]
    else:
        found = [Entry("file", line, None) for _, line in numbered]
    if not found:
        raise RequestError(f"`{path}` is empty", hint="put a prompt on each line")
    return found


def _entry(where: str, line: str) -> Entry:
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"`{where}` is not JSON: {error}", hint="one JSON object a line") from None
    fields = fields if isinstance(fields, dict) else {}
    turns = fields.get("turns")
    prompt = turns[0] if isinstance(turns, list) and turns else fields.get("prompt", "")
    answer = fields.get("answer")
    if (
        not isinstance(prompt, str)
        or not isinstance(answer, str | None)
        or not (prompt + (answer or "")).strip()
    ):
        raise RequestError(
            f"`{where}` has neither a prompt nor an answer",
            hint='give `{"prompt": "…"}`, `{"answer": "…"}` or both',
        )
    return Entry(str(fields.get("category", "file")), prompt, answer)


def given(tokenizer: Any, found: Iterable[Entry], end: int) -> Iterator[Sample]:
    """The answers a file has, as tokens with the end an answer has; lines without one are left out."""
    for index, entry in enumerate(found):
        if entry.answer is not None:
            ids = tokenizer(entry.answer, add_special_tokens=False, split_special_tokens=True).input_ids
            yield Sample(index, entry.category, (), (*ids, end), entry.known_by)


def as_text(entry: Entry) -> Entry:
    """The line's own text in place of an answer to it."""
    return Entry(entry.category, entry.prompt, f"{entry.prompt}\n{entry.answer or ''}".strip())


def from_prompts(
    session: Session,
    found: Sequence[Entry],
    indices: Sequence[int],
    *,
    max_new_tokens: int,
    batch_size: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Sample]:
    """The session's answers to the entries `indices`, as they finish."""
    prompts = {index: session.encode(found[index].prompt, system=None, raw=False) for index in indices}
    for one in answered(
        session, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, cancelled=cancelled
    ):
        entry = found[one.index]
        yield Sample(one.index, entry.category, one.prompt, one.answer, entry.known_by)


def from_itself(
    session: Session,
    indices: Sequence[int],
    *,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Sample]:
    """Answers to prompts the model writes itself, as they finish."""
    lengths = Lengths(answer=max_new_tokens)
    for one in self_written(
        session, indices, seed=seed, lengths=lengths, batch_size=batch_size, cancelled=cancelled
    ):
        yield Sample(one.index, _kind(session, one), one.prompt, one.answer)


def _kind(session: Session, one: Conversation) -> str:
    """A rough category for prompts nobody sorted."""
    text = session.tokenizer.decode(one.answer, skip_special_tokens=True)
    if "```" in text:
        return "code"
    foreign = sum(character.isalpha() and not character.isascii() for character in text)
    return "other languages" if foreign > len(text) / 20 else "prose"
