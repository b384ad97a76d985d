"""Every command shown in the documents and in the help is one specctl takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from cli_harness import Cli

from specctl.cli import answer, app, batch, chat, pull, replay, run
from specctl.errors import ExitCode
from specctl.store import fetch, inventory
from specctl.store.fetch import Fetched, Plan

ROOT = Path(__file__).parents[2]


def _commands() -> Iterator[str]:
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line, after in pairwise([*lines, ""]):
            if re.match(r"\$ (.*\| *)?specctl\b", line) and not after.startswith("error:"):
                yield line.removeprefix("$ ")
    for text in (run.EXAMPLES, batch.EXAMPLES, chat.EXAMPLES, replay.EXAMPLES, pull.EXAMPLES, app.START):
        yield from (line for line in text.splitlines() if re.match(r"(.*\| *)?specctl\b", line))


def _words(command: str) -> list[str]:
    words = shlex.split(command, comments=True)
    words = words[words.index("specctl") + 1 :]
    for end in ("|", ">", "&&", "2>"):
        if end in words:
            words = words[: words.index(end)]
    return words


@pytest.mark.parametrize("command", sorted(set(_commands())))
def test_a_shown_command_is_taken(cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "answer", lambda *_: "stop")
    monkeypatch.setattr(fetch, "plan", lambda spec, offline: Plan(()))
    monkeypatch.setattr(fetch, "fetch_pair", lambda spec, offline, progress: Fetched(Path("x"), None))
    monkeypatch.setattr(pull, "_quantized", lambda *_: {})
    monkeypatch.setattr(inventory, "path", lambda name: Path("x"))
    monkeypatch.setattr(inventory, "remove", lambda name: 0)
    for name in ("require_terminal", "_run", "show_recording"):
        monkeypatch.setattr(chat, name, lambda *_, **__: None)
    cli("profiles", "copy", "ngram", "mine")
    done = cli(*_words(command))
    if done.code == ExitCode.REQUEST:
        # What the command speaks of need not be here; that it is taken is the point.
        missing = r"error: (cannot read `|there is no (file|chat)|`[^`]*` exists|no such file)"
        assert re.match(missing, done.err), done.err


def test_a_wrong_command_would_be_seen(cli: Cli) -> None:
    assert cli(*_words("cat x | specctl rnu 'a b' | head")).err.startswith("error: no such command `rnu`")


def test_there_are_commands_to_check() -> None:
    assert len(set(_commands())) >= 12
