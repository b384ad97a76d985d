"""`chat` and `replay` as commands: where there is no terminal they say so; on one they leave it as it was."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from cli_harness import Cli

from specctl.cli.chat import demo_path


@pytest.mark.parametrize("argv", [("chat",), ("chat", "--demo"), ("replay", "x.jsonl")])
def test_without_a_terminal_it_says_what_to_use(cli: Cli, argv: tuple[str, ...]) -> None:
    done = cli(*argv, stdin=b"hello")
    assert done.code == 2
    assert done.err == f"error: `{argv[0]}` needs a terminal (use `specctl run` in scripts and pipes)\n"


@pytest.mark.parametrize("argv", [("chat", "--demo"), ("replay", str(demo_path()))])
def test_the_terminal_is_left_as_it_was(argv: tuple[str, ...], home: Path) -> None:
    """Ctrl+Q after the first screen: alternate screen left, cursor shown, line discipline restored."""
    main, side = pty.openpty()
    before = termios.tcgetattr(side)
    process = subprocess.Popen(
        [sys.executable, "-m", "specctl", *argv], stdin=side, stdout=side, stderr=side,
        env={**os.environ, "TEXTUAL_ANIMATIONS": "none", "COLUMNS": "100", "LINES": "30"},
    )  # fmt: skip
    written = b""
    asked = False
    while process.poll() is None or select.select([main], [], [], 0)[0]:
        if select.select([main], [], [], 0.2)[0]:
            written += os.read(main, 65536)
        if b"smollm2-135m" in written and not asked:
            os.write(main, b"\x11")
            asked = True
    assert process.returncode == 0
    assert termios.tcgetattr(side) == before
    assert written.rfind(b"\x1b[?1049l") > written.rfind(b"\x1b[?1049h") >= 0
    assert written.rfind(b"\x1b[?25h") > written.rfind(b"\x1b[?25l")
    assert not re.search(rb"\x1b\](8|52);", written), "no link, no clipboard"
    os.close(main)
    os.close(side)
