"""Conversations in a file: a line of JSON each, `{"index": 7, "prompt": [ids], "answer": [ids]}`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specctl.errors import RequestError
from specctl.training.conversations import Conversation


def holds_ids(path: Path) -> bool:
    """Whether the first line is a conversation in token ids, rather than text."""
    try:
        with path.open(encoding="utf-8") as file:
            return _is_conversation(json.loads(file.readline()))
    except (OSError, ValueError):
        return False


def read(path: Path, vocab_size: int) -> list[Conversation]:
    """All of them, in the file's order; a last line cut short by a killed writer is left out.

    Raises RequestError for a file that cannot be read, a line that is no conversation, or ids beyond the vocabulary.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RequestError(f"cannot read `{path}`: {error}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            one = json.loads(line)
        except ValueError:
            one = None
        if not _is_conversation(one):
            if number == len(lines):
                break
            _refuse(path, number, "is no conversation")
        if not all(0 <= token < vocab_size for token in [*one["prompt"], *one["answer"]]):
            _refuse(path, number, "has a token the model does not have")
        found.append(Conversation(int(one.get("index", number)), tuple(one["prompt"]), tuple(one["answer"])))
    return found


def line(one: Conversation) -> str:
    return json.dumps({"index": one.index, "prompt": list(one.prompt), "answer": list(one.answer)}) + "\n"


def _is_conversation(one: Any) -> bool:
    return isinstance(one, dict) and all(_are_ids(one.get(part)) for part in ("prompt", "answer"))


def _are_ids(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(type(x) is int for x in value)


def _refuse(path: Path, number: int, what: str) -> None:
    raise RequestError(
        f"line {number} of `{path}` {what}", hint='a line is {"prompt": [token ids], "answer": [token ids]}'
    )
