"""Conversations on disk, so that several trainings learn from one writing.

A JSON object a line: `prompt` and `answer` are lists of token ids, chat template and all; `index` is the
conversation's number (by default its place in the file). A line is written at once and whole, as its conversation
ends; what a kill leaves half-written is cut off by the next run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from specctl.errors import RequestError
from specctl.store import files
from specctl.training.conversations import Conversation

NAME = "conversations.jsonl"
_STRIDE = 256
"""Conversations written in one go: at the end of each, rows finish alone."""

Write = Callable[[Sequence[int]], Iterable[Conversation]]
"""Conversations with these indices, as they finish; some may be missing."""


def holds_ids(path: Path) -> bool:
    """Whether the file's first line is a conversation in token ids, not in text."""
    try:
        with path.open("rb") as file:
            first = json.loads(next((line for line in file if line.strip()), b"null"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and isinstance(first.get("prompt"), list)


def read(path: Path, vocab_size: int) -> dict[int, Conversation]:
    """All conversations of a file, by index. Raises RequestError naming the first bad line."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RequestError(f"cannot read `{path}`: {error.strerror}", hint="check the path") from None
    found: dict[int, Conversation] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        one = _conversation(f"{path}:{number}", line, number - 1, vocab_size)
        if one.index in found:
            raise RequestError(
                f"`{path}:{number}` is conversation {one.index} once more",
                hint="give each conversation an `index` of its own, or none of them",
            )
        found[one.index] = one
    return found


def _conversation(where: str, line: bytes, number: int, vocab_size: int) -> Conversation:
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"`{where}` is not JSON: {error}", hint="one JSON object a line") from None
    fields = fields if isinstance(fields, dict) else {}
    index = fields.get("index", number)
    if type(index) is not int or index < 0:
        raise RequestError(
            f"`{where}`: `index` is not a number from 0", hint="leave `index` out, or number on"
        )
    texts = []
    for name in ("prompt", "answer"):
        ids = fields.get(name)
        if not isinstance(ids, list) or not all(type(one) is int and 0 <= one < vocab_size for one in ids):
            raise RequestError(
                f"`{where}`: `{name}` is not a list of token ids below {vocab_size}",
                hint="conversations in token ids belong to one tokenizer: give text for another target",
            )
        texts.append(tuple(ids))
    return Conversation(index, *texts)


class Kept:
    """Conversations in a file that grows: those it holds are read, the others are written to it first."""

    def __init__(self, path: Path, settings: dict[str, Any], vocab_size: int) -> None:
        """`settings` decide what is written; they lie beside the file. Raises RequestError if its are others."""
        beside = path.with_name(path.name + ".job")
        text = json.dumps(settings, sort_keys=True).encode()
        self._path = path
        with files.disk_errors(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                files.write_atomic(beside, text)
            elif not beside.exists() or beside.read_bytes() != text:
                raise RequestError(
                    f"`{path}` holds conversations of another model or with other settings",
                    hint=f"choose another folder, or learn from them with `--data {path}`",
                )
            with path.open("ab+") as file:
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        self._held = read(path, vocab_size)
        self._tried: set[int] = set()  # strides

    def get(self, indices: Sequence[int], write: Write) -> Iterator[Conversation]:
        """Conversations `indices`, in that order. Whole strides are written, each at most once a run."""
        for stride in sorted({index // _STRIDE for index in indices} - self._tried):
            whole = range(stride * _STRIDE, (stride + 1) * _STRIDE)
            if any(index not in self._held for index in indices if index in whole):
                self._extend(write([index for index in whole if index not in self._held]))
                self._tried.add(stride)
        yield from (self._held[index] for index in indices if index in self._held)

    def _extend(self, written: Iterable[Conversation]) -> None:
        with files.disk_errors(str(self._path)), self._path.open("ab") as file:
            for one in written:
                fields = {"index": one.index, "prompt": one.prompt, "answer": one.answer}
                file.write(json.dumps(fields, separators=(",", ":")).encode() + b"\n")
                file.flush()
                self._held[one.index] = one
