"""`chat` and `replay` as commands: where there is no terminal they say so; on one they leave it as it was."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_harness import Cli

from specctl.cli.chat import demo_path


@pytest.mark.parametrize("argv", [("chat",), ("chat", "--demo"), ("replay", "x.jsonl")])
def test_without_a_terminal_it_says_what_to_use(cli: Cli, argv: tuple[str, ...]) -> None:
    done = cli(*argv, stdin=b"hello")
    assert done.code == 2
    assert done.err == f"error: `{argv[0]}` needs a terminal (use `specctl run` in scripts and pipes)\n"


class Screen:
    """The demo on a pseudo-terminal of 100 by 30, at which `meanwhile` is called once it is drawn."""

    def __init__(self, *argv: str, meanwhile: Callable[[Screen], None]) -> None:
        self.main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        before = termios.tcgetattr(side)
        self.process = subprocess.Popen(
            [sys.executable, *argv], stdin=side, stdout=side, stderr=side,
            env={**os.environ, "TERM": "xterm-256color", "TEXTUAL_ANIMATIONS": "none"},
        )  # fmt: skip
        self.written = b""
        self.read_until(b"smollm2-135m")
        meanwhile(self)
        self.read_until(None)
        self.code = self.process.wait()
        assert termios.tcgetattr(side) == before
        assert self.written.rfind(b"\x1b[?1049l") > self.written.rfind(b"\x1b[?1049h") >= 0
        assert self.written.rfind(b"\x1b[?25h") > self.written.rfind(b"\x1b[?25l")
        for mode in (b"1000", b"1003", b"2004", b"1004"):
            assert self.written.rfind(b"\x1b[?" + mode + b"l") > self.written.rfind(
                b"\x1b[?" + mode + b"h"
            ), mode
        assert not re.search(rb"\x1b\](8|52);", self.written), "no link, no clipboard"
        self.after = self.written[self.written.rfind(b"\x1b[?1049l") :].decode()
        os.close(self.main)
        os.close(side)

    def read_until(self, mark: bytes | None) -> None:
        """Until `mark` was written, or the process is done and all was read."""
        seen = len(self.written)
        while mark is None or mark not in self.written[seen:]:
            if select.select([self.main], [], [], 0.1)[0]:
                self.written += os.read(self.main, 65536)
            elif self.process.poll() is not None:
                return

    def press(self, keys: bytes) -> None:
        os.write(self.main, keys)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


@pytest.mark.parametrize("argv", [("chat", "--demo"), ("replay", str(demo_path()))])
def test_the_terminal_is_left_as_it_was(argv: tuple[str, ...], home: Path) -> None:
    screen = Screen("-m", "specctl", *argv, meanwhile=lambda screen: screen.press(b"\x11"))
    assert screen.code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_in_order(number: int, home: Path) -> None:
    screen = Screen("-m", "specctl", "chat", "--demo", meanwhile=lambda screen: screen.signal(number))
    assert screen.code == 128 + number


def test_keys_still_arrive_after_a_stop_nobody_was_told_of(home: Path) -> None:
    """SIGSTOP cannot be caught. Each key must then be read, and by one reader: none is lost to another."""

    def stop_and_go_on(screen: Screen) -> None:
        screen.signal(signal.SIGSTOP)
        os.waitpid(screen.process.pid, os.WUNTRACED)
        screen.signal(signal.SIGCONT)
        screen.read_until(b"\x1b[?1049h")
        screen.press(b" ")  # from playing to paused
        screen.read_until("■".encode())
        screen.press(b"\x1b[F")
        screen.read_until(b"round 26")
        screen.press(b"\x11")

    assert Screen("-m", "specctl", "chat", "--demo", meanwhile=stop_and_go_on).code == 0


CRASH = """
import sys
from specctl.cli.main import main
from specctl.tui.replay import ReplayScreen
def action_play(self):
    secret = "in a variable"
    raise ZeroDivisionError("planted")
ReplayScreen.action_play = action_play
sys.exit(main(["chat", "--demo"]))
"""


def test_a_crash_leaves_the_terminal_and_one_line(home: Path) -> None:
    screen = Screen("-c", CRASH, meanwhile=lambda screen: screen.press(b" "))
    assert screen.code == 70
    assert "this is a bug in specctl: ZeroDivisionError: planted" in screen.after
    assert "in a variable" not in screen.after
    assert "Traceback" not in screen.after


STUCK = """
import os, sys
from specctl.cli.main import main
from specctl.tui.replay import ReplayScreen
async def action_play(self):
    writer = self.app._driver._writer_thread
    writer._file, writer.run = None, None  # it dies, as it does of a terminal that is gone
    os.write(2, b"stuck")
    while True:
        writer.write("x")
ReplayScreen.action_play = action_play
sys.exit(main(["chat", "--demo"]))
"""


def test_it_ends_with_its_terminal_even_while_it_waits_to_write_there(home: Path) -> None:
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdin=side, stdout=side, stderr=side, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env={**os.environ, "TERM": "xterm-256color", "TEXTUAL_ANIMATIONS": "none"},
    )  # fmt: skip
    os.close(side)
    written = b""
    while b"smollm2-135m" not in written:
        written += os.read(main, 65536)
    os.write(main, b" ")
    while b"stuck" not in written:
        written += os.read(main, 65536)
    os.close(main)
    try:
        assert process.wait(timeout=60) == 128 + signal.SIGHUP
    finally:
        process.kill()
