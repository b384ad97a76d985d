"""Runs and chats in files: JSON lines, events as `run --jsonl` writes them, a chat's own lines between them.

A chat's file only grows: one line says what it is, then each system message, prompt, event and undo is a line.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from specctl import paths
from specctl.chat.conversation import Conversation, Exchange
from specctl.errors import MachineError, RequestError
from specctl.events import Drafted, Event, Started, Verified, from_json, to_json

SCHEMA = 1
MAX_BYTES = 500_000_000
_MOST_DRAFTED = 100_000
_JSON = json.JSONEncoder(separators=(",", ":"))


@dataclass(slots=True)
class Recording:
    """What a file holds. A run that was not made in a chat has an empty prompt."""

    path: Path
    profile: dict[str, Any] | None = None
    profile_name: str = ""
    conversation: Conversation = field(default_factory=Conversation)


def sessions_dir() -> Path:
    return paths.data_dir() / "sessions"


def new_path() -> Path:
    """A name for a chat that begins now; made when the first line is written."""
    return sessions_dir() / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 10**6:06}.jsonl"


def list_sessions() -> list[Path]:
    """Saved chats, newest first."""
    return sorted(sessions_dir().glob("*.jsonl"), reverse=True)


def find(name: str) -> Path:
    """A session by its name, the start of it, or a file's path. Raises RequestError."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    for known in list_sessions():
        if name and known.stem.startswith(name):
            return known
    raise RequestError(f"there is no session or file `{name}`", hint="/load lists the saved sessions")


def header(profile: dict[str, Any], name: str) -> dict[str, Any]:
    return {"chat": SCHEMA, "profile": name, "settings": profile}


def exchange_lines(exchange: Exchange) -> Iterator[dict[str, Any]]:
    yield {"user": exchange.user}
    yield from map(to_json, exchange.events)


def append(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Adds lines to a chat's file, for the user's eyes only. Raises MachineError.

    They are not all in memory at once: a long answer's events would take tens of megabytes.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
            file.writelines(_JSON.encode(line).encode() + b"\n" for line in lines)
    except OSError as error:
        raise MachineError(f"cannot write `{path}`: {error.strerror or error}") from None


def read(path: Path) -> Recording:
    """Raises RequestError that names the first line that cannot be used; a torn last line is left out."""
    if not path.exists():
        raise RequestError(f"there is no file `{path}`")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RequestError(f"`{path}` is larger than {MAX_BYTES // 1_000_000} MB")
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RequestError(f"cannot read `{path}`: {error.strerror or error}") from None
    found = Recording(path)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            _take(found, json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if number == len(lines) and found.conversation.exchanges:
                break
            what = error if type(error) is ValueError else "not a line of a recording"
            raise RequestError(
                f"`{path}` line {number}: {what}", hint="a recording is what `specctl run --jsonl` writes"
            ) from None
    if not found.conversation.exchanges and found.profile is None:
        raise RequestError(f"`{path}` has no events", hint="a recording is what `specctl run --jsonl` writes")
    return found


def _take(found: Recording, line: Any) -> None:
    if not isinstance(line, dict):
        raise ValueError("not a line of a recording")
    talk = found.conversation
    match line:
        case {"event": str()}:
            event = checked(from_json(line))
            # A file of runs that were not made in a chat has no prompts: each run opens its own exchange.
            if not talk.exchanges or (isinstance(event, Started) and talk.exchanges[-1].events):
                talk.exchanges.append(Exchange(""))
            talk.exchanges[-1].add(event)
        case {"chat": 1, "profile": str(name), "settings": dict(settings)}:
            found.profile, found.profile_name = settings, name
        case {"user": str(text)}:
            talk.exchanges.append(Exchange(text))
        case {"system": str() | None as text}:
            talk.system = text
        case {"left_out": int(count)} if 0 <= count <= len(talk.exchanges):
            talk.left_out = count
        case {"undo": 1}:
            talk.undo()
        case _:
            raise ValueError("not a line of a recording")


_TYPES: dict[str, Any] = {
    "int": lambda v: type(v) is int and abs(v) < 2**63,
    "float": lambda v: type(v) in (int, float) and math.isfinite(v) and v >= 0,
    "bool": lambda v: type(v) is bool,
    "bool | None": lambda v: v is None or type(v) is bool,
    "float | None": lambda v: v is None or _TYPES["float"](v),
    "str": lambda v: type(v) is str,
    "str | None": lambda v: v is None or type(v) is str,
    "tuple[int, ...]": lambda v: all(type(i) is int for i in v),
    "tuple[str, ...]": lambda v: all(type(i) is str for i in v),
    "tuple[float, ...]": lambda v: all(type(i) in (int, float) and 0 <= i <= 1.001 for i in v),
    "tuple[tuple[int, int], ...]": lambda v: all(len(i) == 2 and type(i[0]) is type(i[1]) is int for i in v),
    "dict[str, Any]": lambda v: type(v) is dict,
}


def checked(event: Event) -> Event:
    """The event, if its values are of the kinds and sizes a run writes. Raises ValueError."""
    for one in fields(event):
        if not _TYPES[str(one.type)](getattr(event, one.name)):
            raise ValueError(f"`{one.name}` of a `{event.kind}` event cannot be used")
    if isinstance(event, Drafted) and len(event.tokens) > _MOST_DRAFTED:
        raise ValueError("a draft of too many tokens")
    if isinstance(event, Drafted) and event.pieces and len(event.pieces) != len(event.tokens):
        raise ValueError("a draft whose tokens and texts do not match")
    if isinstance(event, Drafted) and len(event.q) not in (0, len(event.tokens)):
        raise ValueError("a draft whose tokens and probabilities do not match")
    if isinstance(event, Verified) and len(event.p) not in (0, event.drafted):
        raise ValueError("a verdict whose tokens and probabilities do not match")
    if isinstance(event, Verified) and not 0 <= event.accepted <= event.drafted <= _MOST_DRAFTED:
        raise ValueError("a verdict that accepts more than was drafted")
    return event
