"""Files of prompts: JSONL with `prompt` or chat `messages`, Spec-Bench's questions, or plain lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from specctl.errors import RequestError

_MAX_BYTES = 256_000_000
_JSON_SUFFIXES = (".jsonl", ".ndjson")


class Message(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


Id = Annotated[str | int, Field()]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class Entry(BaseModel):
    """One line of JSON. Keys nobody asked for are left alone: data sets have their own."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    prompt: str | None = None
    messages: list[Message] | None = Field(default=None, min_length=1)
    turns: list[str] | None = Field(default=None, min_length=1)
    id: Id | None = None
    question_id: Id | None = None
    max_new_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: list[Stop] | None = Field(default=None, max_length=16)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a file, a text or a conversation; `line` counts from 1, None leaves it to the profile."""

    line: int
    id: str
    text: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    max_new_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be used, and what is wrong with it."""

    line: int
    what: str


def read(path: Path) -> tuple[list[Prompt], list[BadLine]]:
    """A `.jsonl` file, one object a line, of Spec-Bench's `turns` the first; any other file has a prompt a line.

    Raises RequestError for a file that cannot be read or has no prompts at all.
    """
    prompts: list[Prompt] = []
    bad: list[BadLine] = []
    for number, line in numbered_lines(path):
        found = (
            _entry(number, line) if path.suffix in _JSON_SUFFIXES else Prompt(number, f"line-{number}", line)
        )
        if isinstance(found, BadLine):
            bad.append(found)
        else:
            prompts.append(found)
    if not prompts and not bad:
        raise RequestError(f"`{path}` has no prompts", hint="put one on each line")
    return prompts, bad


def refuse(path: Path, bad: list[BadLine]) -> None:
    """Raises RequestError that names the first of the bad lines, if there are any."""
    if bad:
        first = min(bad, key=lambda one: one.line)
        more = f"; {len(bad) - 1} more of its lines are bad" if len(bad) > 1 else ""
        raise RequestError(
            f"`{path}:{first.line}`: {first.what}{more}",
            hint="mend it, or leave bad lines out with --skip-bad",
        )


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, counted from 1. Raises RequestError if the file is no readable UTF-8 text."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RequestError(f"`{path}` is larger than {_MAX_BYTES // 1_000_000} MB", hint="split it")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RequestError(f"cannot read `{path}`: {error.strerror}", hint="check the path") from None
    except UnicodeDecodeError as error:
        raise RequestError(
            f"`{path}` is not UTF-8 text (offset {error.start})", hint="convert it first"
        ) from None
    # Not splitlines(): JSON strings may hold U+2028, U+0085 and others it splits at.
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _entry(number: int, line: str) -> Prompt | BadLine:
    try:
        entry = Entry.model_validate_json(line)
    except ValidationError as error:
        return BadLine(number, _explained(error))
    if sum(one is not None for one in (entry.prompt, entry.messages, entry.turns)) != 1:
        return BadLine(number, "needs exactly one of `prompt`, `messages` and `turns`")
    text = entry.turns[0] if entry.turns else entry.prompt or ""
    messages = tuple((one.role, one.content) for one in entry.messages or ())
    if not (messages[-1][1] if messages else text).strip():
        return BadLine(number, "the prompt is empty")
    if messages and messages[-1][0] != "user":
        return BadLine(number, "the last of the `messages` must be the user's")
    own = next((one for one in (entry.id, entry.question_id) if one is not None), f"line-{number}")
    stop = None if entry.stop is None else tuple(entry.stop)
    return Prompt(number, str(own), text, messages, entry.max_new_tokens, entry.seed, stop)


def _explained(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"])
    said = first["msg"][:1].lower() + first["msg"][1:]
    return f"`{where}`: {said}" if where else said
