"""Prompts to verify with: the built-in set, files in Spec-Bench's format, plain text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specctl.batch.prompts import numbered_lines
from specctl.errors import RequestError


@dataclass(frozen=True, slots=True)
class Prompt:
    """`raw` prompts go without the chat template; `max_new_tokens` is an upper limit of its own."""

    id: str
    text: str
    kind: str = "file"
    raw: bool = False
    stop: tuple[str, ...] = ()
    max_new_tokens: int | None = None


def builtin(*, quick: bool) -> list[Prompt]:
    """The prompts written for this, of all kinds; `quick` takes one of each that matters most."""
    path = Path(__file__).with_name("suite.jsonl")
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Prompt(
            entry["id"],
            entry["prompt"],
            entry["kind"],
            entry.get("raw", False),
            tuple(entry.get("stop", ())),
            entry.get("max_new_tokens"),
        )
        for entry in entries
        if entry.get("quick") or not quick
    ]


def read(path: Path) -> list[Prompt]:
    """A `.jsonl` file, one object a line with `prompt` or Spec-Bench's `turns` (the first is taken); any other file
    is plain text, one prompt a line. Raises RequestError with file and line.
    """
    numbered = numbered_lines(path)
    if path.suffix == ".jsonl":
        prompts = [_entry(path, number, line) for number, line in numbered]
    else:
        prompts = [Prompt(f"line-{number}", line) for number, line in numbered]
    if not prompts:
        raise RequestError(f"`{path}` has no prompts", hint="put one on each line")
    return prompts


def _entry(path: Path, number: int, line: str) -> Prompt:
    where = f"{path}:{number}"
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"`{where}` is not JSON: {error}", hint="one JSON object a line") from None
    text = _text(entry) if isinstance(entry, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise RequestError(
            f"`{where}` has no prompt",
            hint='give `{"prompt": "…"}`, or `{"turns": ["…"]}` as Spec-Bench does',
        )
    name = entry.get("id", entry.get("question_id", f"line-{number}"))
    return Prompt(str(name), text, str(entry.get("category", "file")))


def _text(entry: dict[str, Any]) -> Any:
    turns = entry.get("turns")
    return turns[0] if isinstance(turns, list) and turns else entry.get("prompt")
