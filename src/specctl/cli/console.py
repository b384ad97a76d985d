"""The only module that writes: data to standard output, everything else to standard error.

What is written to a terminal has passed `safe_text`; what is written to a pipe is the data as it is.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal, TextIO

from specctl.cli.safe_text import safe_line, safe_text
from specctl.errors import MachineError

Style = Literal["plain", "dim", "accepted", "bonus", "rejected", "error", "head"]

_SGR = {"dim": "2", "accepted": "32", "bonus": "1", "rejected": "31;9", "error": "1;31", "head": "1"}
_SGR_NO_COLOUR = {"dim": "2", "bonus": "1", "rejected": "9", "error": "1", "head": "1"}
_SECRET = re.compile(r"hf_[A-Za-z0-9]{8,}")


class PipeClosed(Exception):
    """Nobody reads standard output any more (`| head`): stop quietly."""


def prepare() -> None:
    """Characters the locale cannot encode are written as escapes, instead of failing half-way."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def mask(text: str) -> str:
    """`text` without access tokens."""
    return _SECRET.sub("hf_***", text)


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def is_live(stream: TextIO | None) -> bool:
    """Whether lines can be redrawn: a terminal that is not a dumb one."""
    return is_terminal(stream) and os.environ.get("TERM") not in ("dumb", "unknown")


def has_colour(stream: TextIO | None) -> bool:
    return _has_styles(stream) and not os.environ.get("NO_COLOR")


def _has_styles(stream: TextIO | None) -> bool:
    """FORCE_COLOR is for standard error only: what goes into a pipe on standard output stays plain."""
    return is_live(stream) or (stream is sys.stderr and bool(os.environ.get("FORCE_COLOR")))


def paint(text: str, style: Style, stream: TextIO | None) -> str:
    """`text` (made safe before) in a style, if `stream` shows styles. NO_COLOR keeps bold, dim and strike."""
    table = _SGR if has_colour(stream) else _SGR_NO_COLOUR
    if not text or style not in table or not _has_styles(stream):
        return text
    return f"\x1b[{table[style]}m{text}\x1b[0m"


def out(text: str) -> None:
    """Writes data to standard output as it is. Raises PipeClosed, MachineError."""
    try:
        if sys.stdout is None:
            raise PipeClosed
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        raise PipeClosed from None
    except OSError as error:
        _silence_stdout()
        raise MachineError(f"cannot write to standard output: {error.strerror or error}") from None


def _silence_stdout() -> None:
    """Points standard output at nothing, or Python would complain about the unwritten rest at exit."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def line(text: str) -> None:
    """One line of data; made safe on a terminal."""
    out((safe_line(text) if is_terminal(sys.stdout) else text) + "\n")


def document(data: Any) -> None:
    """One JSON document. ASCII only, so no control character of any kind is left in it."""
    out(json.dumps(data, indent=2, ensure_ascii=True) + "\n")


def json_line(data: Any) -> None:
    out(json.dumps(data, ensure_ascii=True, separators=(",", ":")) + "\n")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns padded to the widest cell, never cut: the same text for eyes and for `awk`."""
    from rich.cells import cell_len

    cells = [[safe_line(cell) for cell in row] for row in (head, *rows)]
    widths = [max(cell_len(row[i]) for row in cells) for i in range(len(head))]
    for number, row in enumerate(cells):
        padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        text = "  ".join(padded).rstrip()
        out((text if number else paint(text, "head", sys.stdout)) + "\n")


def err(text: str) -> None:
    """Writes to standard error as it is, styles included. A closed one is no reason to fail."""
    if sys.stderr is None:
        return
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def note(text: str, style: Style = "dim") -> None:
    """One line of what is going on."""
    err(paint(safe_line(mask(text)), style, sys.stderr) + "\n")


def error(message: str, hint: str | None = None) -> None:
    """The one line every failure ends with: `error: what (what to do)`."""
    tail = f" ({safe_line(mask(hint))})" if hint else ""
    err(paint("error:", "error", sys.stderr) + f" {safe_line(mask(message))}{tail}\n")


def traceback(text: str) -> None:
    err(safe_text(mask(text)))


def confirm(question: str) -> bool:
    """Asks on standard error; only where both it and standard input are terminals."""
    err(safe_line(question) + " [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def can_ask() -> bool:
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)
