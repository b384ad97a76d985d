"""On a terminal: only our own escape sequences get out, and the screen looks as it should."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cli_scenes
import pytest
from cli_harness import Done, Terminal
from hypothesis import given, settings
from hypothesis import strategies as st

from specctl import paths
from specctl.cli import figures, paint, render
from specctl.cli.safe_text import safe_line, safe_text
from specctl.decode.stats import Stats
from specctl.events import Branched, Emitted, Event, Finished

# Everything specctl itself sends: its styles, and the moves of the status line.
OURS = re.compile(r"\x1b\[(?:0|1|2|9|32|31;9|1;31)m|\x1bD|\x1b\[A|\x1b7|\x1b\[B\r|\x1b\[2K|\x1b8|\x1b\[J")
FIGURES = re.compile(r"\x1b\[B\r\x1b\[2K\x1b\[2m[^\x1b]*\x1b\[0m\x1b8")

PAYLOADS = [
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x1b]0;title\x07",
    "\x1bP+q544e\x1b\\",
    "\x1b_apc\x1b\\",
    "\x1b^pm\x1b\\",
    "\x1b[6n",
    "\x1b[2J\x1b[H",
    "\x1b[10A\x1b[31mred",
    "\x1b[?1049h",
    "\x1bc",
    "\x1b]unterminated",
    "\x1b",
    "\x9b2J",
    "\x9d0;title\x9c",
    "\x90q\x9c",
    "\r\x08\x08\x08overwritten",
    "\x0e\x0f\x07",
    "safe\u202eexe.txt",
    "\u2066\u2067\u2068\u2069",
    "[bold red]markup[/] [/nonsense] [unclosed",
    "\ufffd\ufffdé漢字👨‍👩‍👧",
]


def assert_only_ours(written: str) -> None:
    rest = OURS.sub("", written)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", rest), ascii(rest)


def show(chunks: list[str], *, show_draft: bool, monkeypatch: pytest.MonkeyPatch, live: bool = True) -> str:
    """What a terminal gets when an answer comes in these chunks, drafted and rejected ones included."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    rounds: list[cli_scenes.Round] = [((chunk, chunk), 1, chunk) for chunk in chunks]
    look = render.Look(show_draft=show_draft, live=live)
    render.follow(cli_scenes.stream(rounds, tail=chunks[-1]), render.TerminalText(look))
    return screen.getvalue()


@pytest.mark.parametrize("show_draft", [False, True])
@pytest.mark.parametrize("payload", PAYLOADS, ids=ascii)
def test_no_payload_gets_through_wherever_it_is_split(
    payload: str, show_draft: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for cut in range(len(payload) + 1):
        written = show([payload[:cut], payload[cut:]], show_draft=show_draft, monkeypatch=monkeypatch)
        assert_only_ours(written)


def test_the_check_does_see_a_foreign_sequence() -> None:
    with pytest.raises(AssertionError):
        assert_only_ours("a\x1b[2Jb")
    with pytest.raises(AssertionError):
        assert_only_ours("a\x9b2Jb")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=5), st.booleans())
def test_no_text_gets_through(chunks: list[str], show_draft: bool) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TERM", "xterm-256color")
        assert_only_ours(show(chunks, show_draft=show_draft, monkeypatch=monkeypatch))


def test_the_answer_is_all_there_without_the_status_line(monkeypatch: pytest.MonkeyPatch) -> None:
    written = show(["one ", "two\n"], show_draft=False, live=False, monkeypatch=monkeypatch)
    answer, figures = written.rsplit("\n", 2)[0:2]
    assert answer == "one one two\ntwo\ntwo"
    assert figures.startswith("\x1b[2m4 tokens · 20.0 tokens/s · 2 rounds · accepted 2 of 4")


def test_painting_with_colours(terminal: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    cli_scenes.install(monkeypatch, cli_scenes.SCENES["sky"])
    done = terminal("run", "Hello", "--show-draft", "-q")
    expected = "\x1b[32m The sky\x1b[0m\x1b[1m is\x1b[0m\x1b[31;9m red now\x1b[0m"
    assert done.out == expected + "\x1b[1m blue\x1b[0m\x1b[32m!\x1b[0m\x1b[1m\n\x1b[0m"


def test_painting_without_colours(terminal: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    cli_scenes.install(monkeypatch, cli_scenes.SCENES["sky"])
    done = terminal("run", "Hello", "--show-draft", "-q")
    expected = " The sky\x1b[1m is\x1b[0m\x1b[9m[- red now-]\x1b[0m\x1b[1m blue\x1b[0m"
    assert done.out == expected + "!\x1b[1m\n\x1b[0m"


def test_a_dumb_terminal_gets_plain_text(
    terminal: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    cli_scenes.install(monkeypatch, cli_scenes.SCENES["sky"])
    done = terminal("run", "Hello", "--show-draft")
    assert "\x1b" not in done.out
    assert done.out.startswith(" The sky is[- red now-] blue!\n6 tokens")


def test_the_status_line_leaves_no_trace(
    terminal: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli_scenes.install(monkeypatch, cli_scenes.SCENES["sky"])
    done = terminal("run", "Hello")
    drawn = done.out.count("\x1b7")
    assert drawn == done.out.count("\x1b8") >= 1
    assert done.out.count("\x1b[J") >= 1
    last_drawn, last_cleared = done.out.rfind("\x1b8"), done.out.rfind("\x1b[J")
    assert last_cleared > last_drawn


def test_text_from_files_is_safe_in_lists_and_errors(terminal: Callable[..., Done]) -> None:
    folder = paths.user_profiles_dir()
    folder.mkdir(parents=True)
    about = "\\e]0;x\\a\\e[31m[red]\\u202e"
    text = f'schema: 1\nabout: "{about}"\npair: "\\e[2J"\ndrafter: {{method: none}}\n'
    (folder / "evil.yaml").write_text(text)
    for argv in (
        ("profiles",),
        ("profiles", "show", "evil"),
        ("profiles", "check"),
        ("run", "-p", "evil", "x"),
    ):
        done = terminal(*argv)
        assert_only_ours(done.out)
        assert re.search(r"␛|\\x1b|\\e", done.out)


class Screen:
    """`specctl` with a scripted model on a real pseudo-terminal."""

    def __init__(self, *argv: str, **variables: str) -> None:
        ours, theirs = pty.openpty()
        script = Path(__file__).with_name("cli_scenes.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), *argv],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color", **variables},
        )
        os.close(theirs)
        self.output = b"".join(self._read(ours)).decode()
        os.close(ours)
        self.code = self.process.wait(timeout=60)

    def _read(self, handle: int) -> Iterator[bytes]:
        while True:
            try:
                data = os.read(handle, 65536)
            except OSError:
                return
            if not data:
                return
            yield data


def test_on_a_real_terminal_only_our_sequences_arrive(home: Path) -> None:
    screen = Screen("hostile", "run", "Hello")
    assert screen.code == 0
    assert "a␛]52;c;AAAA␇b␛[2J<U+009B>31mc<U+202E>" in OURS.sub("", FIGURES.sub("", screen.output))
    assert_only_ours(screen.output.replace("\r\n", "\n"))


def test_ctrl_c_on_a_real_terminal_keeps_the_answer_and_says_the_figures(home: Path) -> None:
    screen = Screen("interrupted", "run", "Hello", NO_COLOR="1")
    assert screen.code == 130
    lines = OURS.sub("", screen.output).split("\r\n")
    assert " The sky is" in lines[0]
    assert lines[0].endswith(" blue")
    assert lines[1].startswith("4 tokens · ")


def test_a_second_ctrl_c_ends_at_once_with_the_terminal_in_order(home: Path) -> None:
    screen = Screen("killed", "run", "Hello")
    assert screen.code == 130
    assert "Traceback" not in screen.output
    assert "figures" not in screen.output
    assert screen.output.endswith("\r\n")
    assert screen.output.count("\x1b7") == screen.output.count("\x1b8")


@pytest.mark.parametrize("text", PAYLOADS, ids=ascii)
def test_rejected_tokens_are_safe_too(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    written = show([text], show_draft=True, monkeypatch=monkeypatch)
    assert f"\x1b[31;9m{safe_line(text)}\x1b[0m" in written


def test_what_is_shown_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    chunks = ["a\n", "b" * 200, "\t漢" * 60, "\x1b"]
    written = show(chunks, show_draft=False, monkeypatch=monkeypatch)
    text = OURS.sub("", FIGURES.sub("", written))
    whole = "".join(chunk * 2 for chunk in chunks) + chunks[-1]
    assert text.startswith(safe_text(whole) + "\n")


def test_the_painter_follows_events() -> None:
    painter = paint.Painter()
    assert list(painter.take(Emitted(0, 1, 0, (5,), "x"))) == [("x", "bonus")]
    assert list(painter.take(Finished(0, 1, 0, "stop", "tail"))) == [("tail", "plain")]
    assert list(painter.take(Finished(0, 1, 0, "stop"))) == []
    for hit, said in ((True, "hit"), (False, "miss"), (None, "none needed")):
        assert list(painter.take(Branched(0, 1, 0, ((1, 7),), hit))) == [(f"‹1 ahead, {said}›", "dim")]
    assert list(painter.take(Branched(0, 1, 0, (), None))) == []


def test_the_live_line_needs_no_event() -> None:
    stats = Stats()
    assert figures.live_line(stats) == "0 tokens"
    events: list[Event] = list(cli_scenes.stream(cli_scenes.SKY))
    for event in events:
        stats.add(event)
    assert figures.live_line(stats) == (
        "20.0 tokens/s · accepted 3 of 5 · mean acceptance length 2.00 · 6 tokens"
    )
