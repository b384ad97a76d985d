"""The command line in this process, with folders of its own and nothing of the user's."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_harness import Cli, Done, Terminal

from specctl.cli.main import main


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everything specctl may write goes. Empty; not even the folders exist."""
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"SPECCTL_{name}_DIR", str(tmp_path / "home" / name.lower()))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("NO_COLOR", "FORCE_COLOR", "SPECCTL_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return tmp_path / "home"


@pytest.fixture
def cli(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """`cli("run", "Hello", stdin=b"…")`; without `stdin`, standard input is a terminal."""

    def run(*argv: str, stdin: bytes | None = None) -> Done:
        source = Terminal() if stdin is None else io.TextIOWrapper(io.BytesIO(stdin))
        monkeypatch.setattr(sys, "stdin", source)
        code = main(list(argv))
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def terminal(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """The same with standard output and standard error being one terminal: all is in `out`."""

    def run(*argv: str) -> Done:
        screen = Terminal()
        for name in ("stdin", "stdout", "stderr"):
            monkeypatch.setattr(sys, name, screen)
        code = main(list(argv))
        return Done(code, screen.getvalue(), "")

    return run
