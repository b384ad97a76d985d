"""What is on disk: list it, find it, remove it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class OnDisk:
    """`kind` is `converted` (ours), `partial` (an unfinished download of ours) or `hub` (the hub's cache)."""

    name: str
    path: Path
    bytes: int
    source: str
    kind: str


def models() -> list[OnDisk]:
    raise NotImplementedError


def path(name: str) -> Path:
    """The folder of a model on disk. Raises MissingError, with the command that pulls it."""
    raise NotImplementedError


def remove(name: str) -> int:
    """Remove one model of `models()`; returns the bytes freed. Raises MissingError, RequestError."""
    raise NotImplementedError
