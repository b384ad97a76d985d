"""Prompts of earlier chats, one JSON line each with its time, for the user's eyes only."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from specctl import paths
from specctl.errors import MachineError

MOST = 500


def path() -> Path:
    return paths.data_dir() / "history.jsonl"


def load() -> list[str]:
    """The last prompts, oldest first; lines that are none are passed over."""
    found = []
    with contextlib.suppress(OSError, MachineError):
        for line in path().read_text(encoding="utf-8", errors="replace").splitlines()[-MOST:]:
            with contextlib.suppress(ValueError, RecursionError):
                entry = json.loads(line)
                if isinstance(entry, dict) and isinstance(entry.get("prompt"), str):
                    found.append(entry["prompt"])
    return found


def add(prompt: str) -> None:
    """Where it cannot be written, the chat goes on without."""
    line = json.dumps({"t": int(time.time()), "prompt": prompt}) + "\n"
    with contextlib.suppress(OSError, MachineError):
        path().parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
            file.write(line.encode())
